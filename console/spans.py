"""Writes to the terminal what changed, and only that.

Textual 8.2 redraws a changed span from its widget's left edge; at two frames a second over a slow line that is most
of the traffic. This compositor starts at the span.
"""

from __future__ import annotations

from rich.console import Console
from rich.control import Control
from textual._compositor import ChopsUpdate, Compositor


class ExactUpdate(ChopsUpdate):
    """An update that writes exactly its spans."""

    def render_segments(self, console: Console) -> str:
        """Terminal sequences: for each span a cursor move and the cells in it."""
        sequences: list[str] = []
        for y, x1, x2 in self.spans:
            for end, (x, strip) in zip(self.chop_ends[y], self.chops[y].items(), strict=True):
                if strip is None or x >= x2 or end <= x1:
                    continue
                begin = max(x, x1)
                sequences.append(Control.move_to(begin, y).segment.text)
                sequences.append(strip.crop(begin - x, min(end, x2) - x).render(console))
        return "".join(sequences)


class ExactCompositor(Compositor):
    """Textual's compositor with exact partial updates."""

    def render_partial_update(self) -> ChopsUpdate | None:
        """The update with its spans kept as they are."""
        update = super().render_partial_update()
        return None if update is None else ExactUpdate(update.chops, update.spans, update.chop_ends)
