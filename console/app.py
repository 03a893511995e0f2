"""The cockpit's application: one worker collects, screens draw, keys become commands."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from textual import on, work
from textual.actions import SkipAction
from textual.app import SystemCommand
from textual.binding import BindingType
from textual.drivers.linux_driver import LinuxDriver
from textual.events import Resize
from textual.geometry import Size
from textual.markup import escape
from textual.screen import Screen
from textual.worker import Worker, WorkerState

from console import format as fmt
from console.deeds import POLICY_CHANGE, REPLAY, Deed, bindings, deed_of, people_step, why_not
from console.editing import more_people
from console.history import History
from console.kept import KEEP, Kept, Only
from console.leaving import leaving
from console.lens import Lens
from console.looks import Dressed
from console.messages import (
    Answered,
    PanelFailed,
    RequestsCame,
    RequestsWanted,
    Sampled,
    SourceEnded,
    SourceLost,
    Wanted,
)
from console.provoking import FaultDraft, kill_question
from console.rules import ordered
from console.screens.base import MIN_CELLS, MIN_ROWS, CockpitScreen
from console.screens.flow import FlowScreen
from console.screens.late import late
from console.screens.overlay import Sheet
from console.settings import Settings
from console.sources.base import Source, SourceGoneError
from console.teaching import Teaching
from console.themes import Theme
from console.trouble import Trouble
from console.view import KeyHint, Link, View
from console.words import Wording
from loadgen.records import Behaviour
from server import commands
from server.commands import Command
from server.engine.cold import KINDS
from server.faults.catalogue import NAMES
from server.gateway.policy import Order
from server.telemetry.snapshot import People, Snapshot

ASK_KEY = late("ask", "AskKey")
STATUS_S = 8.0
"""Seconds that an answer stays in the status line."""


@dataclass(frozen=True)
class Left:
    """How the cockpit was left; `message` is what to print once the terminal is back."""

    how: Literal["detached", "stopped", "signal"]
    message: str


class CockpitApp(Teaching[Left], Lens[Left], Dressed[Left]):
    """Draws snapshots of `source` and sends it commands; owns nothing."""

    TITLE = "spark-serve"
    CSS_PATH = "console.tcss"
    ENABLE_COMMAND_PALETTE = True
    MODES: ClassVar[dict[str, str | Callable[[], Screen[Any]]]] = {
        "flow": FlowScreen,
        "requests": late("requests", "RequestsScreen"),
        "engine": late("engine", "EngineScreen"),
        "load": late("load", "LoadScreen"),
        "capacity": late("capacity", "CapacityScreen"),
        "presenter": late("presenter", "PresenterScreen"),
        "lesson": late("lesson", "LessonScreen"),
    }
    DEFAULT_MODE = "flow"
    BINDINGS: ClassVar[list[BindingType]] = bindings("")

    def __init__(
        self,
        source: Source,
        *,
        title_note: str = "",
        clock: Callable[[], float] = time.monotonic,
        trouble: Trouble | None = None,
        settings: Settings | None = None,
        look: Theme | None = None,
        remember_in: Path | None = None,
        words: Wording = "standard",
        baseline: Path | None = None,
    ) -> None:
        super().__init__(settings or Settings(), look, remember_in)
        self.words = words
        self._baseline_file = baseline
        self.source = source
        self.history = History()
        self.snapshot: Snapshot | None = None
        """The latest, whatever the display shows."""
        self.kept = Kept()
        """Single requests, asked for while a screen shows them."""
        self._asking = False
        self._owed = False
        """A snapshot came while the terminal lagged, and is not drawn yet."""
        self.trouble = trouble or Trouble(None)
        """Where failures of the console itself are written down."""
        self.failure: Exception | None = None
        """What ended it, if it did not leave in good order."""
        self._clock = clock
        self._title_note = title_note
        self._link: Link = "connecting"
        self._lost: tuple[str, float] | None = None
        self._frozen: tuple[Snapshot, History] | None = None
        self._status: tuple[str, str, float] | None = None
        self._mode_before = "flow"
        self._drawn_at = -self.settings.refresh_s

    # Collecting

    async def run_async(self, *arguments: Any, **options: Any) -> Left | None:
        """Textual's own, in which a signal leaves in good order."""
        loop = asyncio.get_running_loop()

        def leave(number: signal.Signals) -> None:
            loop.call_soon_threadsafe(self._leave_on_signal, number)

        with leaving(leave):
            return await super().run_async(*arguments, **options)

    def on_mount(self) -> None:
        """Begin to collect."""
        if isinstance(self._driver, LinuxDriver):
            self.app_resume_signal.subscribe(self, lambda _: self._repaint())
            signal.signal(signal.SIGCONT, self._continued)
        self.set_interval(1.0, self._tick)
        if self._baseline_file is not None:
            self.hold_recording(self._baseline_file)
        self.collect()

    def _continued(self, *_: object) -> None:
        """After ctrl+z the terminal's modes are set anew; after a SIGSTOP they were never given back, and kitty's keys must
        not be pushed twice. (Textual does the first in both cases.)"""
        assert self._driver is not None
        if getattr(self._driver, "_must_signal_resume", True):
            self._driver.resume_application_mode()
        else:  # at once: nothing else may come that wakes the loop
            asyncio.get_running_loop().call_soon_threadsafe(self.call_later, self._repaint)

    def _repaint(self) -> None:
        """Every cell: somebody else may have written over them."""
        self.screen.refresh(layout=True)

    @work(exclusive=True, exit_on_error=False)
    async def collect(self) -> None:
        """The one worker that reads: history first, then the message; a lost source is asked again."""
        try:
            while True:
                try:
                    async for snapshot in self.source.snapshots():
                        if self.history.append(snapshot) and not self.source.behind:
                            self.post_message(Sampled(snapshot))
                    self.post_message(SourceEnded())
                    return
                except SourceGoneError as gone:
                    again = "; trying again" if self.source.kind == "live" else ""
                    self.post_message(SourceLost(f"{gone}{again}"))
                except Exception as error:
                    # A broken source must be said on the screen, not end the application.
                    self.post_message(SourceLost(self.trouble.note("the source failed", error)))
                await asyncio.sleep(self.source.retry_s)
        finally:
            await self.source.close()

    @on(Sampled)
    def _show_sample(self, message: Sampled) -> None:
        early = self._link == self.source.kind and self._clock() - self._drawn_at < self.settings.refresh_s
        self.snapshot = message.snapshot
        self._link = self.source.kind
        self._lost = None
        self.teach(message.snapshot)
        self._owed = self._terminal_lags()
        if not (early or self._owed):
            self._drawn_at = self._clock()
            self.redraw()

    def _terminal_lags(self) -> bool:
        """It has not taken yet what was drawn: on a slow line figures wait for it, so that keys are answered."""
        writer = self._driver._writer_thread if isinstance(self._driver, LinuxDriver) else None
        return writer is not None and writer._queue.qsize() > 0

    @on(SourceLost)
    def _show_loss(self, message: SourceLost) -> None:
        begun = self._lost[1] if self._lost else self._clock()
        self._lost = (message.reason, begun)
        self._link = "lost"
        self.redraw()

    @on(RequestsWanted)
    def _want_requests(self, message: RequestsWanted) -> None:
        """One question at a time: what is not answered yet is not asked again."""
        if not self._asking:
            self._asking = True
            self._ask_requests(message.until)

    @work(exit_on_error=False)
    async def _ask_requests(self, until: float) -> None:
        kept = self.kept
        try:
            self.post_message(RequestsCame(await self.source.requests(kept.since, until, KEEP), "", kept))
        except SourceGoneError as gone:
            self.post_message(RequestsCame([], str(gone), kept))
        finally:
            self._asking = False

    @on(RequestsCame)
    def _show_requests(self, message: RequestsCame) -> None:
        if message.kept is not self.kept:  # of another place in a recording
            if self.snapshot is not None:
                self._want_requests(RequestsWanted(self.snapshot.at))
        elif self.kept.take(message.found, message.why) and isinstance(self.screen, CockpitScreen):
            self.screen.renew()

    @on(SourceEnded)
    def _show_end(self) -> None:
        self._link = "ended"
        self.redraw()

    @on(Answered)
    def _show_answer(self, message: Answered) -> None:
        self.flash(message.answer.message, "good" if message.answer.ok else "warn")

    @on(PanelFailed)
    def _show_failed_panel(self, message: PanelFailed) -> None:
        self._failed(f"the panel {message.panel}", message.error)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        """A worker that failed is said; the rest of the console lives on."""
        if event.state is WorkerState.ERROR and isinstance(event.worker.error, Exception):
            self._failed(event.worker.name.strip("_"), event.worker.error)

    def _failed(self, what: str, error: Exception) -> None:
        """Something of the console's own broke: one line on the screen, the details in the log."""
        self.flash(self.trouble.note(f"{what} failed", error), "bad")

    def _fatal_error(self) -> None:
        """What nobody here could catch: leave; whoever runs this says why in one sentence (instead of Textual's pages)."""
        self.failure = self._exception
        self._close_messages_no_wait()

    def _tick(self) -> None:
        """Dates that grow without a snapshot: of a lost source, and of an answer in the status line."""
        self._look_at_size()
        expired = self._status is not None and self._clock() - self._status[2] >= STATUS_S
        if expired:
            self._status = None
        owed = self._owed and not self._terminal_lags()
        if expired or owed or self._lost is not None:
            self._owed = False
            self.redraw()

    def _look_at_size(self) -> None:
        """In a storm of sizes Textual's signal handlers interrupt and overtake each other, and an old size can come last."""
        if isinstance(self._driver, LinuxDriver):
            size = Size(*self._driver._get_terminal_size())
            if size != self.size:
                self.post_message(Resize(size, size))

    # Drawing

    def view(self) -> View:
        """What the screen shows now."""
        snapshot, history = self._frozen or (self.snapshot, self.history)
        frozen_s = None
        if self._frozen is not None and self.snapshot is not None:
            frozen_s = self.snapshot.at - self._frozen[0].at
        reason, begun = self._lost or ("", self._clock())
        text, style, _ = self._status or ("", "text", 0.0)
        return View(
            snapshot=snapshot,
            history=history,
            link=self._link,
            lost_reason=reason,
            lost_s=self._clock() - begun,
            frozen_s=frozen_s,
            status=text,
            status_style=style,
            title_note=self._title_note or ("" if self.current_mode == "lesson" else self.classroom.note),
            classroom=self.classroom,
            words=self.words,
            baseline=self.baseline,
            compared=self.compared(snapshot),
            kept=self.kept,
            greyed=self.why_not(POLICY_CHANGE),
            keys=tuple(
                KeyHint(deed.shown, deed.label, deed.action, self.why_not(deed), deed.rank)
                for deed in self.deeds
                if deed.rank
                and deed.where in ("", self.current_mode)
                and deed.action != f"show_screen('{self.current_mode}')"
            ),
        )

    def redraw(self) -> None:
        """Draw the view on the screen below any question, and on the panel above it."""
        view = self.view()
        for screen in reversed(self.screen_stack):
            if isinstance(screen, CockpitScreen | Sheet):
                screen.show(view)
            if isinstance(screen, CockpitScreen):
                return

    def action_redraw(self) -> None:
        """Draw again, for a screen that comes to the front."""
        self.redraw()

    def flash(self, text: str, style: str = "text") -> None:
        """One sentence in the status line for some seconds; no figure is covered."""
        self._status = (fmt.sanitize(text), style, self._clock())
        self.redraw()

    def on_resize(self, event: Resize) -> None:
        """A terminal that is too small gets a sentence."""
        self.set_class(event.size.width < MIN_CELLS or event.size.height < MIN_ROWS, "-small")

    # Acting

    def why_not(self, deed: Deed) -> str:
        """Why a deed does nothing now; empty when it works."""
        return why_not(deed, self.snapshot, self.source.can_send)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey what cannot be done."""
        del parameters
        deed = deed_of(action)
        return None if deed is not None and self.why_not(deed) else True

    async def run_action(self, action: Any, default_namespace: Any = None, namespaces: Any = None) -> bool:
        """Run an action, or say why it is greyed."""
        deed = deed_of(action) if isinstance(action, str) else None
        if deed is not None and (reason := self.why_not(deed)):
            self.flash(f"{deed.label}: {reason}", "warn")
            return True
        try:
            return await super().run_action(action, default_namespace, namespaces)
        except SkipAction:
            raise
        except Exception as error:
            self._failed(deed.label if deed is not None else str(action), error)
            return True

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Every deed by name, but for moves on a screen."""
        del screen
        yield from self.zooms()
        for deed in self.deeds:
            if deed.action.startswith("screen.") or deed.where == REPLAY:
                continue
            reason = self.why_not(deed)
            yield SystemCommand(
                deed.named,
                escape(f"not now: {fmt.sanitize(reason)}" if reason else deed.explained),
                lambda action=deed.action: self.call_later(self.run_action, action),
            )

    @work(exit_on_error=False)
    async def _send(self, command: Command) -> None:
        self.post_message(Answered(await self.source.send(command)))

    def action_burst(self) -> None:
        """Many requests at once."""
        self._send(commands.Burst())

    def action_extra(self, behaviour: Behaviour) -> None:
        """People of one behaviour besides the others, or none."""
        self._send(commands.Extra(behaviour))

    def action_flash_crowd(self) -> None:
        """Many who come, ask and go."""
        self._send(commands.Flash())

    def action_preset(self, name: str) -> None:
        """A load with a name."""
        self._send(commands.Preset(name))

    def action_people(self, sign: int) -> None:
        """More or fewer people, about a tenth; in open loop a higher or lower rate."""
        people = self.snapshot.people if self.snapshot else People()
        self._do(more_people(people, sign, people_step(people.people.v)))

    @on(Wanted)
    def _carry_out(self, message: Wanted) -> None:
        self._do(message.command)

    def _do(self, wanted: Command | str) -> None:
        """Send a command; what is no command says why."""
        if isinstance(wanted, str):
            self.flash(wanted, "warn")
        else:
            self._send(wanted)

    def action_capacity(self) -> None:
        """Ask, then search for how many people can be served; a search that runs is stopped."""
        capacity = self.snapshot.capacity if self.snapshot else None
        from console.panels.capacity import searching  # noqa: PLC0415

        if searching(capacity):
            self._send(commands.Capacity(on=False))
            return

        def answered(key: str | None) -> None:
            if key is not None:
                self._send(commands.Capacity(careful=key == "c"))

        question = "A search changes the number of people for up to 6 minutes, then puts it back."
        answers = {"y": "search, until the 90 % interval is within 15 %", "c": "be careful: until it is within 10 %"}
        self.push_screen(ASK_KEY(question, answers), answered)

    def action_policy(self) -> None:
        """The panel with the queue's policy and the engine's knobs."""
        if isinstance(self.screen, CockpitScreen):
            self.push_screen(late("policy", "PolicyScreen")())

    def action_faults(self) -> None:
        """The sheet with the faults."""
        if isinstance(self.screen, CockpitScreen):
            self.push_screen(late("faults", "FaultScreen")())

    def action_audience(self) -> None:
        """The sheet with who watches and who acts."""
        if isinstance(self.screen, CockpitScreen):
            self.push_screen(late("audience", "AudienceScreen")())

    def action_fault(self, name: str, value: str | None = None) -> None:
        """Provoke one, as it is by default or with this main setting; ask where it asks."""
        kind = NAMES[name]
        given = {} if value is None else {name: {kind.parameters[0].name: kind.parameters[0].taken(value)}}
        command = FaultDraft(given).command(kind)
        if not kind.asks:
            self._send(command)
            return

        def answered(key: str | None) -> None:
            if key == "y":
                self._send(command)

        self.push_screen(ASK_KEY(kill_question(command), {"y": "yes, kill it"}), answered)

    def action_unfault(self) -> None:
        """Undo every fault that lasts."""
        self._send(commands.Unfault())

    def action_order(self, order: Order, plain: bool = False) -> None:
        """Who of those who wait goes next, from now on."""
        self._send(ordered(self.snapshot.queue.rules if self.snapshot else None, order, plain=plain))

    def action_compare(self) -> None:
        """Ask, then compare two orders on the same load; a comparison that runs is stopped."""
        comparison = self.snapshot.comparison if self.snapshot else None
        if comparison is not None and comparison.phase == "running":
            self._send(commands.Compare(on=False))
            return

        def answered(key: str | None) -> None:
            if key is not None:
                self._send(commands.Compare(arms=["fifo", "shortest"]))

        question = "A comparison sets the people aside for 2 to 6 minutes, then puts them and the policy back."
        self.push_screen(ASK_KEY(question, {"y": "compare fifo and shortest on the same load"}), answered)

    def action_report(self) -> None:
        """What was seen, as a file."""
        self._send(commands.Report())

    def action_restart(self) -> None:
        """Ask which kind of cold, then restart."""

        kinds = {kind.name[0]: kind for kind in KINDS.values()}

        def answered(key: str | None) -> None:
            if key is not None:
                self._send(commands.Restart(kinds[key].name))

        question = "Cold restart: everybody waits until the engine is back."
        meanings = {
            "p": "process-cold: new processes, caches stay warm",
            "c": "compile-cold: and nothing is compiled yet",
            "d": "disk-cold: and the weights come from the disk",
        }
        self.push_screen(ASK_KEY(question, {key: meanings[key] for key in kinds}), answered)

    def action_marker(self) -> None:
        """Ask for a note, then mark."""

        def answered(note: str | None) -> None:
            if note is not None:
                self._send(commands.Marker(note))

        self.push_screen(late("ask", "AskNote")(), answered)

    def action_record(self) -> None:
        """Start or stop a recording."""
        recording = self.snapshot is not None and self.snapshot.recording_s is not None
        self._send(commands.Record(on=not recording))

    def action_freeze(self) -> None:
        """Let the display stand still, or go on."""
        if self._frozen is not None:
            self._frozen = None
        elif self.snapshot is not None:
            self._frozen = (self.snapshot, self.history.copy())
        self.source.hold(self._frozen is not None)
        self.redraw()

    def action_show_screen(self, mode: str) -> None:
        """Go to a numbered screen."""
        if mode != self.current_mode:
            self._mode_before = self.current_mode
            self.switch_mode(mode)

    def action_presenter(self) -> None:
        """Big figures, or back to where they were called from."""
        self.action_show_screen(self._mode_before if self.current_mode == "presenter" else "presenter")

    def action_only(self, only: Only) -> None:
        """Go to the Requests screen and show these only."""
        self.action_show_screen("requests")
        if (filtered := getattr(self.screen, "action_filter", None)) is not None:
            filtered(only)

    def action_help(self) -> None:
        """Keys, and how to read the screen."""
        if isinstance(self.screen, CockpitScreen):
            self.push_screen(late("ask", "HelpScreen")())

    async def action_quit(self) -> None:
        """Textual's own way out is ours."""
        self.action_detach()

    def action_detach(self) -> None:
        """Leave; the stack lives on."""
        if self.source.kind == "live" and not self.source.can_send:
            text = "You watch no longer; the stack lives on."
        elif self.source.kind == "live":
            text = "Detached. The stack lives on: `spark-serve console` comes back to it, `spark-serve down` stops it."
        else:
            text = ""
        self.exit(Left("detached", text))

    def action_stop(self) -> None:
        """Ask, then take the stack down and leave."""

        def answered(key: str | None) -> None:
            if key == "y":
                self.flash("Stopping the stack ...")
                self._stop()

        self.push_screen(ASK_KEY("Stop the stack: engine, gateway and people?", {"y": "yes, stop all of it"}), answered)

    @work(exit_on_error=False)
    async def _stop(self) -> None:
        answer = await self.source.send(commands.Down())
        if answer.ok:
            self.exit(Left("stopped", fmt.sanitize(answer.message) or "The stack is stopped."))
        else:
            self.post_message(Answered(answer))

    def _leave_on_signal(self, number: signal.Signals) -> None:
        """128 + n, with the terminal as it was."""
        lives = "; the stack lives on" if self.source.kind == "live" else ""
        self.exit(Left("signal", f"Detached by {number.name}{lives}."), return_code=128 + number)


def cockpit(source: Source, **options: Any) -> CockpitApp:
    """The application for a source."""
    if source.kind != "replay":
        return CockpitApp(source, **options)
    from console.replaying import replay_app  # noqa: PLC0415 - what is live needs nothing of it

    return replay_app(source, **options)
