"""Small questions over the picture: yes or no, one of a few, a note; and the help."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.widgets import Input, Static

from console.deeds import DEEDS, Deed
from console.screens.overlay import Overlay


class AskKey(Overlay[str | None]):
    """A question with a letter for each answer; escape and every other answer than those is None."""

    def __init__(self, question: str, answers: dict[str, str]) -> None:
        super().__init__()
        self._question = question
        self._answers = answers

    def compose(self) -> ComposeResult:
        """The question and its answers."""
        text = Text()
        text.append(self._question + "\n", style="bold")
        for key, meaning in (*self._answers.items(), ("esc", "leave it")):
            text.append(f"\n  {key:<4}", style="bold")
            text.append(f" {meaning}")
        with Vertical(classes="ask"):
            yield Static(text, markup=False)

    def on_click(self, event: events.Click) -> None:
        """So does a click on its line."""
        if isinstance(event.widget, Static) and (at := event.get_content_offset(event.widget)) is not None:
            shown = event.widget.render_line(at.y).text.split()
            if shown and shown[0] in {*self._answers, "esc"}:
                self.leave(None if shown[0] == "esc" else shown[0])

    def on_key(self, event: events.Key) -> None:
        """A letter answers; escape leaves it."""
        event.stop()
        if event.key == "escape":
            self.leave()
        elif event.character in self._answers:
            self.leave(event.character)


class AskNote(Overlay[str | None]):
    """One line of text; escape gives None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", show=False)]

    def compose(self) -> ComposeResult:
        """The question and the line."""
        with Vertical(classes="ask"):
            yield Static(Text("What do you mark?", style="bold"), markup=False)
            yield Input(max_length=60, placeholder="a note, or nothing", select_on_focus=False)

    def on_mount(self) -> None:
        """A still cursor: blinking writes to the terminal twice a second."""
        self.query_one(Input).cursor_blink = False

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter takes it."""
        event.stop()
        self.leave(event.value)

    def action_leave(self) -> None:
        """Escape leaves it."""
        self.leave()


_READING = """\
The word on top judges the last 30 s: a request is good if its first token comes within 1 s and
its tokens within 200 ms each. GOOD: 95 % are. BENDING: 80 %. BROKEN: fewer. STALLED: no steps.

Read the strip from left to right, as a request goes. The stage that glows is where requests wait
most. Its three figures say what waits, what fails and what is measured there.

The bar below is one mean request: ▒ waiting, ▓ reading the prompt, █ writing tokens, ░ overhead,
· what nobody could account for. The parts add up to the whole.

—  not known; rest the pointer on it and it says why.     ·8s  the figure is eight seconds old.
~  estimated from histogram buckets or a windowed mean.    n    the samples it stands on.
p95 needs 100 of them, p99 needs 500. Charts move every 2 s; letters below them are events.

VOID: the load generator could not keep up, so what it measured is about itself.
Little's law: arrivals a second x seconds inside = people inside. If the two disagree, some
figure on this screen is wrong, and it says so."""


class HelpScreen(Overlay[None]):
    """Keys, and how to read the screen. Any key closes it."""

    def __init__(self, where: str = "") -> None:
        """`where`: what else has keys of its own now, e.g. a replay."""
        super().__init__()
        self._where = where

    def compose(self) -> ComposeResult:
        """Two parts of text."""
        deeds: tuple[Deed, ...] = getattr(self.app, "deeds", DEEDS)
        text = Text()
        text.append("keys", style="bold")
        for deed in deeds:
            if deed.rank and not deed.where and not deed.action.startswith("show_screen"):
                text.append(f"\n  {deed.shown:<7}", style="bold")
                text.append(deed.explained)
        screens = [deed for deed in deeds if deed.action.startswith("show_screen")]
        text.append("\n  1-6    ", style="bold")
        text.append(f"The screens: {', '.join(deed.label for deed in screens)}")
        for screen, name in (("requests", "2"), ("load", "4"), ("capacity", "5"), ("lesson", "6")):
            text.append(f"\n  on {name}   ", style="bold")
            text.append(", ".join(f"{d.shown} {d.label}" for d in deeds if d.rank and d.where == screen))
        paired = {part for deed in deeds for part in deed.shown.split()[1:]}
        more = [d for d in deeds if d.keys and not (d.rank or d.where) and d.shown not in paired]
        text.append("\n  more   ", style="bold")
        text.append(", ".join(f"{deed.shown} {deed.label}" for deed in more))
        if self._where:
            text.append(f"\n  {self._where:<7}", style="bold")
            text.append(
                ", ".join(f"{deed.shown} {deed.label}" for deed in deeds if deed.rank and deed.where == self._where)
            )
        text.append("\n  ctrl+p ", style="bold")
        text.append("All of these by name")
        text.append("\n\nhow to read it\n", style="bold")
        text.append(_READING)
        with VerticalScroll(classes="ask help"):
            yield Static(text, markup=False)

    def on_click(self) -> None:
        """Closes it too."""
        self.leave()

    def on_key(self, event: events.Key) -> None:
        """Arrows scroll, anything else closes."""
        if event.key not in {"up", "down", "pageup", "pagedown", "home", "end"}:
            event.stop()
            self.leave()
