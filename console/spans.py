"""Writes to the terminal what changed, and only that.

Textual 8.2 redraws a changed span from its widget's left edge, and names all colours again for every segment; at two
frames a second over a slow line that is most of the traffic. This compositor starts at the span and names what differs.
"""

from __future__ import annotations

from functools import lru_cache

from rich.color import ColorSystem
from rich.console import Console
from rich.control import Control
from rich.style import Style
from textual._compositor import ChopsUpdate, Compositor

_PLAIN = Style()


class ExactUpdate(ChopsUpdate):
    """An update that writes exactly its spans."""

    def render_segments(self, console: Console) -> str:
        """Terminal sequences: for each span a cursor move and the cells in it, with one reset at the end."""
        system = console._color_system or ColorSystem.TRUECOLOR
        sequences: list[str] = []
        pen = _PLAIN
        for y, x1, x2 in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=True):
                if strip is None or x >= x2 or end <= x1:
                    continue
                begin = max(x, x1)
                sequences.append(Control.move_to(begin, y).segment.text)
                for text, style, _ in strip.crop(begin - x, min(end, x2) - x):
                    wanted = style or _PLAIN
                    if wanted is not pen:
                        sequences.append(turn(pen, wanted, system))
                        pen = wanted
                    sequences.append(text)
        if pen is not _PLAIN:
            sequences.append("\x1b[0m")
        return "".join(sequences)


class ExactCompositor(Compositor):
    """Textual's compositor with exact partial updates."""

    def render_partial_update(self) -> ChopsUpdate | None:
        """The update with its spans kept as they are."""
        update = super().render_partial_update()
        return None if update is None else ExactUpdate(update.chops, update.spans, update.chop_ends)


@lru_cache(maxsize=4096)
def turn(pen: Style, wanted: Style, system: ColorSystem) -> str:
    """The shortest SGR sequence that makes one style the other: a full one where an attribute ends, else what differs."""
    if (
        _attributes(pen) - _attributes(wanted)
        or (pen.color and not wanted.color)
        or (pen.bgcolor and not wanted.bgcolor)
    ):
        return f"\x1b[0;{codes}m" if (codes := _codes(_PLAIN, wanted, system)) else "\x1b[0m"
    codes = _codes(pen, wanted, system)
    return f"\x1b[{codes}m" if codes else ""


_SGR = {"bold": "1", "dim": "2", "italic": "3", "underline": "4", "blink": "5", "reverse": "7", "strike": "9"}


def _attributes(style: Style) -> frozenset[str]:
    return frozenset(name for name in _SGR if getattr(style, name))


def _codes(pen: Style, wanted: Style, system: ColorSystem) -> str:
    codes = [_SGR[name] for name in sorted(_attributes(wanted) - _attributes(pen))]
    if wanted.color is not None and wanted.color != pen.color:
        codes += wanted.color.downgrade(system).get_ansi_codes()
    if wanted.bgcolor is not None and wanted.bgcolor != pen.bgcolor:
        codes += wanted.bgcolor.downgrade(system).get_ansi_codes(foreground=False)
    return ";".join(codes)
