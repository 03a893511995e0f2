"""What a person can do here: one table for keys, footer, palette and help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from console.kept import ONLY_EXPLAINED
from console.lessons.shelf import SHIPPED
from console.themes import THEMES
from loadgen.presets import presets
from loadgen.profile import Profile
from server.faults.catalogue import CATALOGUE, FaultKind
from server.telemetry.snapshot import Snapshot

if TYPE_CHECKING:
    from textual.binding import BindingType

Touches = Literal["nothing", "stack", "load"]
"""What a deed changes: only this display, the stack's own notes and life, or what the engine is made to do."""


@dataclass(frozen=True)
class Deed:
    """One thing that a key does."""

    action: str
    keys: str
    """As Textual names them, separated by commas; empty: it has none, and is found in the palette."""
    shown: str
    """As the footer shows it."""
    label: str
    explained: str
    touches: Touches = "nothing"
    title: str = ""
    """Its name in the palette, where the footer's label does not stand for itself."""
    rank: int = 2
    """0: not in the footer; else the lower, the earlier it is left out where room is short."""
    where: str = ""
    """The screen on which its key works; empty: on every one."""

    @property
    def id(self) -> str:
        """Of its binding, as Textual's keymaps know it; one action can be on two screens."""
        return f"cockpit.{self.where}.{self.action}" if self.where else f"cockpit.{self.action}"

    @property
    def named(self) -> str:
        """As the palette lists it, with the first of its keys if it has one."""
        key = f" ({self.shown.split()[0]})" if self.shown else ""
        name = self.title or self.label
        return f"{name[:1].upper()}{name[1:]}{key}"


PRESETS = presets(Profile(), trace="the trace given with --trace")
"""As they are listed here; the stack fits them to its model."""
_LETTERS = "ABCDEFGHIJKLMNOP"
PRESET_KEYS = {preset.name: letter for preset, letter in zip(PRESETS, _LETTERS, strict=False)}

_ORDERS = (
    ("fifo", "", "first come first served", "Who came first goes first"),
    ("shortest", "", "shortest first", "The shortest prompt goes first, with ageing so that nobody waits for ever"),
    ("priority", "", "by priority", "The lowest priority number goes first, with ageing so that nobody waits for ever"),
    ("fair", "", "fair share", "Who has had the fewest tokens goes next"),
    ("shortest", ",True", "plain shortest", "Without ageing: see long prompts wait for ever"),
    ("priority", ",True", "plain priority", "Without ageing: see low priorities wait for ever"),
)


def _variants(kind: FaultKind) -> list[tuple[str, str]]:
    """As the palette lists a fault: one entry, or one for each value of its main parameter where those are few and apart."""
    main = kind.parameters[0] if kind.parameters else None
    if main is None or not (main.closed or kind.name == "burst"):
        return [("", "")]
    return [(f",'{value}'", f" {value}") for value in main.steps]


def _rows(where: str, up_down: str, sides: str, row: str, touches: Touches) -> tuple[Deed, ...]:
    """Going through the rows of a screen or sheet, and changing the chosen one."""
    rank = 5 if up_down else 0
    down, left = up_down[-1:], sides[:1]
    return (
        Deed("screen.choose(-1)", "up", up_down, "choose", f"Choose {row}", title="row up", rank=rank, where=where),
        Deed("screen.choose(1)", "down", down, "choose", "Choose the next row", title="row down", rank=0, where=where),
        Deed(
            "screen.change(1)",
            "right",
            sides,
            "change",
            "Change what is chosen",
            touches,
            title="change up",
            rank=rank,
            where=where,
        ),
        Deed(
            "screen.change(-1)",
            "left",
            left,
            "change",
            "Change what is chosen",
            touches,
            title="change down",
            rank=0,
            where=where,
        ),
    )


REPLAY = "replay"
"""Where the keys of a recording that is played work: on every screen of it."""

_MOVES = (
    # action, key, as shown, label, explained, title, rank
    ("freeze", "", "space", "pause", "Stand still, or play on; at the end, play it again", "pause", 5),
    ("skip(-10)", "comma", ", .", "10s", "Ten seconds back, on with .", "10 s back", 5),
    ("skip(10)", "full_stop", ".", "10s", "Ten seconds on", "10 s on", 0),
    ("skip(-60)", "less_than_sign", "< >", "60s", "A minute back, on with >", "a minute back", 2),
    ("skip(60)", "greater_than_sign", ">", "60s", "A minute on", "a minute on", 0),
    (
        "to_event(-1)",
        "left_square_bracket",
        "[ ]",
        "event",
        "The event before, the one after with ]",
        "event before",
        5,
    ),
    ("to_event(1)", "right_square_bracket", "]", "event", "The event after", "event after", 0),
    ("faster(-1)", "left_parenthesis", "( )", "speed", "Slower, faster with ): 0.1x to 60x", "slower", 5),
    ("faster(1)", "right_parenthesis", ")", "speed", "Faster, 60x at most", "faster", 0),
    ("to_start", "home", "home", "start", "Back to where the recording begins", "to the start", 3),
)

POLICY_CHANGE = Deed("screen.change(1)", "", "", "policy", "Change the queue's policy", "load")
"""What the panel does, apart from being looked at."""

DEEDS: tuple[Deed, ...] = (
    Deed(
        "screen.move(-1)",
        "up,k",
        "↑ ↓",
        "choose",
        "Choose a request; beyond the newest it is followed",
        title="newer request",
        rank=5,
        where="requests",
    ),
    Deed(
        "screen.move(1)",
        "down,j",
        "↓",
        "choose",
        "Choose an older request",
        title="older request",
        rank=0,
        where="requests",
    ),
    Deed(
        "screen.only(1)",
        "right,o",
        "← →",
        "filter",
        "Show all, slow, failed or abandoned requests",
        title="next filter",
        rank=5,
        where="requests",
    ),
    Deed(
        "screen.only(-1)",
        "left,O",
        "←",
        "filter",
        "Show the filter before",
        title="filter before",
        rank=0,
        where="requests",
    ),
    Deed(
        "screen.zoom",
        "enter",
        "enter",
        "facts",
        "The chosen request alone, with all that is known of it",
        rank=5,
        where="requests",
    ),
    Deed("screen.list", "escape", "esc", "list", "The list again", rank=0, where="requests"),
    Deed("screen.newest", "home", "home", "newest", "Follow the newest request", rank=4, where="requests"),
    Deed("screen.oldest", "end", "end", "oldest", "Choose the oldest request", rank=0, where="requests"),
    Deed("screen.page(-1)", "pageup", "pgup", "page up", "A page of newer requests", rank=0, where="requests"),
    Deed("screen.page(1)", "pagedown", "pgdn", "page down", "A page of older requests", rank=0, where="requests"),
    *(
        Deed(f"only('{only}')", "", "2", f"{only} requests", explained, title=f"requests: {only}", rank=0)
        for only, explained in ONLY_EXPLAINED.items()
    ),
    *_rows("load", "↑ ↓", "← →", "a row of the Load screen", "load"),
    Deed(
        "screen.take",
        "enter",
        "enter",
        "take",
        "Take the chosen preset, or switch the row",
        "load",
        rank=5,
        where="load",
    ),
    Deed(
        "capacity",
        "g,enter",
        "g",
        "search or stop",
        "Search for how many people can be served, after asking; again stops it",
        "load",
        title="capacity search",
        rank=5,
        where="capacity",
    ),
    Deed(
        "compare",
        "",
        "",
        "compare policies",
        "Does the long prompt block the short one? fifo and shortest on the same load; again stops it",
        "load",
        rank=0,
    ),
    Deed(
        "lesson_answer(-1)",
        "up,left",
        "↑ ↓",
        "choose",
        "Choose a lesson, or an answer to its question",
        title="lesson: answer before",
        rank=5,
        where="lesson",
    ),
    Deed(
        "lesson_answer(1)",
        "down,right",
        "↓",
        "choose",
        "Choose the next lesson, or the next answer",
        title="lesson: next answer",
        rank=0,
        where="lesson",
    ),
    Deed(
        "lesson_go",
        "enter",
        "enter",
        "next",
        "Open the lesson, take the answer and do what the step says, or go to the next step",
        title="lesson: go on",
        rank=5,
        where="lesson",
    ),
    Deed(
        "lesson_leave",
        "escape",
        "esc",
        "leave",
        "Back to the list of lessons; people and policy as they were before",
        title="lesson: leave it",
        rank=5,
        where="lesson",
    ),
    Deed(
        "lesson_scroll(6)", "pagedown", "", "page", "Down the text", title="lesson: page down", rank=0, where="lesson"
    ),
    Deed("lesson_scroll(-6)", "pageup", "", "page", "Up the text", title="lesson: page up", rank=0, where="lesson"),
    *(
        Deed(f"lesson('{name}')", "", "6", title, "A lesson: predict, do, see", title=f"lesson: {title}", rank=0)
        for name, title in SHIPPED.items()
    ),
    *_rows("policy", "", "", "a row of the policy", "load"),
    Deed("screen.take", "enter", "", "take", "Take what was changed", "load", rank=0, where="policy"),
    *_rows("faults", "", "", "a fault", "nothing"),
    Deed("screen.turn", "tab", "", "next setting", "The next setting of the fault", rank=0, where="faults"),
    Deed(
        "screen.take", "enter", "", "provoke or undo", "Provoke the fault, or undo it", "load", rank=0, where="faults"
    ),
    Deed("burst", "b", "b", "burst", "Send 3 x max-num-seqs requests at once and watch the queue", "load", rank=4),
    Deed(
        "extra('slow')",
        "s",
        "s",
        "slow readers",
        "Slow readers come, a quarter of the people, or go home",
        "load",
        rank=4,
    ),
    Deed(
        "extra('abandoner')",
        "a",
        "a",
        "abandon",
        "People who leave when it takes too long come, or go home",
        "load",
        title="abandoners",
        rank=3,
    ),
    Deed(
        "extra('retrier')",
        "t",
        "t",
        "retry storm",
        "People who ask again and again come, or go home",
        "load",
        rank=3,
    ),
    Deed(
        "extra('long')",
        "l",
        "l",
        "long prompts",
        "People with prompts several times as long come, or go home",
        "load",
        rank=3,
    ),
    Deed(
        "flash_crowd",
        "f",
        "f",
        "flash crowd",
        "Many come within five seconds, ask three times and go",
        "load",
        rank=3,
    ),
    Deed("faults", "x", "x", "faults", "Provoke a fault, timed and undone: a paused process, a bad line, ..", rank=4),
    Deed("restart", "c", "c", "cold restart", "Restart the engine, in the kind of cold you choose", "load", rank=4),
    Deed(
        "people(1)",
        "plus,equals_sign",
        "+ -",
        "people",
        "More people, or fewer with -; in open loop the rate",
        "load",
        title="more people",
        rank=4,
    ),
    Deed("people(-1)", "minus,underscore", "-", "fewer people", "Fewer people, or a lower rate", "load", rank=0),
    Deed("policy", "p", "p", "policy", "The queue's policy and the engine's own knobs, changed live", rank=4),
    Deed("words", "n", "n", "plain words", "The same screen in plain words, or in the field's terms again"),
    Deed("baseline", "z", "z", "baseline", "Hold these figures and see every change against them, or let go", rank=1),
    # the keys of these are the screen's and the panel's own (`console.screens.zooming`)
    Deed("panel(1)", "", "tab", "panels", "Go through the panels; enter zooms one with its explanation", rank=1),
    Deed("zoom", "", "enter", "zoom", "A panel by itself, with what it is and what good looks like", rank=0),
    Deed("unzoom", "", "esc", "all panels", "All panels again", rank=0),
    Deed("markers", "", "", "markers", "Every marker with its note, the latest first", rank=0),
    Deed("freeze", "space", "space", "freeze", "Let the display stand still; collecting goes on"),
    Deed("marker", "m", "m", "mark", "Drop a marker with a note on the charts", "stack", rank=1),
    Deed("record", "r", "r", "record", "Start or stop a recording", "stack", rank=1),
    Deed("report", "e", "e", "report", "Write the report: request_log.md and a page with charts", "stack", rank=1),
    Deed("show_screen('flow')", "1", "1", "flow", "The picture of the course, alive", rank=5),
    Deed(
        "show_screen('requests')",
        "2",
        "2",
        "requests",
        "Single requests: a live list, and where each one's time went",
        rank=3,
    ),
    Deed("show_screen('engine')", "3", "3", "engine", "Cold start, versions, limits, arguments", rank=3),
    Deed("show_screen('load')", "4", "4", "load", "Who is out there and what they ask, edited live", rank=4),
    Deed("show_screen('capacity')", "5", "5", "capacity", "How many people this setup serves", rank=4),
    Deed("show_screen('lesson')", "6", "6", "lesson", "The course's day: predict, do, see, understand", rank=3),
    Deed("presenter", "v", "v", "presenter", "Big figures for a projector; v or a screen's key leaves them", rank=0),
    Deed("next_theme", "T", "T", "next theme", "The next theme, from now on", rank=0),
    *(
        Deed(f"theme('{one.name}')", "", "", "theme", one.says, title=f"theme: {one.name}", rank=0)
        for one in THEMES.values()
    ),
    Deed(
        "audience",
        "w",
        "w",
        "who is here",
        "Who watches this stack since when, and who acted last",
        title="watchers: who is here",
        rank=0,
    ),
    Deed("detach", "q,ctrl+c", "q", "detach", "Leave; the stack lives on", rank=3),
    Deed("stop", "Q", "Q", "stop", "Stop the stack, after asking", "stack"),
    Deed(
        "suspend_process",
        "ctrl+z",
        "ctrl+z",
        "suspend",
        "Give the terminal back to the shell for a while; its `fg` comes back here",
        rank=0,
    ),
    *(
        Deed(action, key, shown, label, explained, title=f"replay: {title}", rank=rank, where=REPLAY)
        for action, key, shown, label, explained, title, rank in _MOVES
    ),
    Deed("help", "question_mark", "?", "help", "Keys, and how to read the screen", rank=5),
    *(
        Deed(f"order('{order}'{plain})", "", "", "policy", explained, "load", title=f"policy: {title}", rank=0)
        for order, plain, title, explained in _ORDERS
    ),
    *(
        Deed(
            f"fault('{kind.name}'{value})",
            "",
            "",
            "fault",
            kind.says,
            "load",
            title=f"fault: {kind.name.replace('-', ' ')}{named}",
            rank=0,
        )
        for kind in CATALOGUE
        for value, named in _variants(kind)
    ),
    Deed("unfault", "", "", "fault", "Undo every fault that lasts", "load", title="faults: undo all", rank=0),
    *(
        Deed(
            f"preset('{preset.name}')",
            PRESET_KEYS[preset.name],
            PRESET_KEYS[preset.name],
            preset.title,
            preset.says[0].upper() + preset.says[1:],
            "load",
            title=f"preset: {preset.title}",
            rank=0,
            where="load",
        )
        for preset in PRESETS
    ),
)


def bindings(where: str) -> list[BindingType]:
    """The keys of one screen, or with an empty name those that work on all."""
    from textual.binding import Binding  # noqa: PLC0415 - the table alone serves verbs too, which must start at once

    return [
        Binding(
            deed.keys,
            f"app.{deed.action}" if where and not deed.action.startswith("screen.") else deed.action,
            deed.label,
            id=deed.id,
            key_display=deed.shown,
            tooltip=deed.explained,
        )
        for deed in DEEDS
        if deed.where == where and deed.keys
    ]


def deed_of(action: str) -> Deed | None:
    """The deed of an action, with or without its arguments."""
    action = action.removeprefix("app.")
    name = action.split("(")[0]
    alike = [deed for deed in DEEDS if deed.action.split("(")[0] == name]
    return next((deed for deed in alike if deed.action == action), alike[0] if alike else None)


def why_not(deed: Deed, snapshot: Snapshot | None, can_send: bool) -> str:
    """Why a deed does nothing now, in one clause; empty when it works.

    Somebody else's engine is not to be loaded or restarted, our stack around it may still be marked, recorded and
    stopped. A watcher or a replay may touch nothing.
    """
    if deed.touches == "nothing":
        return ""
    if not can_send:
        return (
            snapshot.read_only if snapshot and snapshot.read_only else "there is nothing behind this picture to act on"
        )
    if snapshot is None:
        return "no stack has answered yet"
    if snapshot.read_only and (deed.touches == "load" or not snapshot.engine.attached):
        return snapshot.read_only
    return ""


def people_step(count: float | None) -> int:
    """How many people one key press adds: about a tenth, in round numbers."""
    for limit, step in ((10, 1), (50, 5), (200, 10), (500, 25)):
        if count is None or count < limit:
            return step
    return 50
