"""The people of a stack: what is wanted of them, and the workers who carry it out."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from loadgen import commands as told
from loadgen import records as load
from loadgen.arrivals import Arrivals, Gamma, Replay, Script, check, in_words
from loadgen.behaviours import Leaving, apportion
from loadgen.crew import START_S
from loadgen.presets import Preset, presets
from loadgen.profile import Profile, profile_error
from loadgen.prompts import Mix, Sampling
from loadgen.runner import WorkerSettings
from loadgen.slo import PRESETS
from loadgen.trace import TraceError, read_trace
from server import commands
from server.child import KeptChild
from server.config import Paths, StackSettings
from server.engine.lifecycle import Lifecycle
from server.telemetry.snapshot import People

GUESSED_SEQUENCES = 64
LATER_SEED = 1_000_003
FEW = 16
"""Clients that leave or stall at once when nobody says how many."""
MOST_AT_ONCE = 1000
STALL_MOST_S = 600.0

LoadChange = (
    commands.People
    | commands.Extra
    | commands.Mix
    | commands.Ask
    | commands.Open
    | commands.Preset
    | commands.Flash
    | commands.Burst
    | commands.Leave
    | commands.Stall
)
EXTRA_NAMES: dict[load.Behaviour, str] = {
    "slow": "slow readers",
    "abandoner": "abandoners",
    "retrier": "retriers",
    "long": "long-prompt authors",
    "patient": "more patient people",
}


@dataclass(frozen=True)
class Change:
    """What became of a command: an event of `kind` for the charts, or a refusal or remark without one."""

    text: str
    kind: str = ""
    ok: bool = True


def refused(text: str) -> Change:
    return Change(text, ok=False)


@dataclass(frozen=True)
class Held:
    """What is wanted at one moment, to come back to it."""

    people: int
    extras: dict[load.Behaviour, int]
    profile: Profile
    preset: str
    arrivals: Arrivals | None = None
    weights: dict[load.Behaviour, float] = field(default_factory=dict)


class Population:
    """What is wanted, told to every worker as a whole: each takes its own part."""

    def __init__(
        self,
        settings: StackSettings,
        paths: Paths,
        engine: Lifecycle,
        *,
        url: Callable[[], str],
        on_line: Callable[[bytes], None],
        on_ended: Callable[[int, str], None],
    ) -> None:
        """`on_ended` gets the index of a worker that ended by itself, and a clause."""
        self._settings = settings
        self._log = paths.logs / "load.log"
        self._engine = engine
        self._url = url
        self._on_line = on_line
        self._on_ended = on_ended
        self.workers: list[KeptChild] = []
        self._starts = [0] * settings.load.workers
        self._people = settings.load.people
        self._weights = settings.load.weights
        self._extras: dict[load.Behaviour, int] = {"slow": settings.load.slow} if settings.load.slow else {}
        self._arrivals: Arrivals | None = None if settings.load.rate is None else Gamma(settings.load.rate)
        self._origin = 0.0
        self._base = Profile()
        """What people ask here when nobody says otherwise; known once the engine is."""
        self._profile = Profile()
        self._preset = ""
        self._detour: str | None = None

    async def start(self) -> None:
        """Start the workers, once the engine's model, context and speed are known."""
        self._base = self._profile = self._everyday()
        flash = 0
        if self._settings.load.preset is not None:
            preset = self._preset_named(self._settings.load.preset)
            flash = preset.flash
            self._pick(preset)
        self._origin = time.monotonic() + START_S
        for index in range(self._settings.load.workers):
            worker = KeptChild(
                f"load {index}",
                partial(self._argv, index),
                log=self._log,
                on_line=self._on_line,
                on_ended=partial(self._on_ended, index),
            )
            self.workers.append(worker)
            await worker.start()
        if flash:
            self._tell(told.Flash(flash))

    async def stop(self, timeout_s: float) -> None:
        """Everybody leaves at once, and the workers end."""
        self._tell(told.Stop())
        await asyncio.gather(*(worker.stop(timeout_s) for worker in self.workers), return_exceptions=True)

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self.workers if worker.pid]

    @property
    def why_not(self) -> str:
        """Why nothing can be asked of the people now; empty when it can."""
        if not self.workers:
            return "There are no people yet: the engine has not been ready so far."
        if len(self.pids) < len(self.workers):
            return "The load generator does not run; see `spark-serve logs load`."
        return ""

    @property
    def wanted(self) -> People:
        """As a snapshot shows it."""
        return People(
            wanted=self._people,
            weights=dict(self._weights.items()),
            extras={behaviour: count for behaviour, count in self._extras.items() if count},
            preset=self._preset,
            arrivals="" if self._arrivals is None else in_words(self._arrivals),
            profile=self._profile,
        )

    @property
    def profile(self) -> Profile:
        return self._profile

    @property
    def weights(self) -> dict[load.Behaviour, float]:
        return self._weights

    @property
    def is_open(self) -> bool:
        """An open loop: strangers come by a process, and there are no people to count."""
        return self._arrivals is not None

    def _everyday(self) -> Profile:
        """What people ask here: lengths that suit the device and the model's context."""
        settings = self._settings.load
        prompt, output = self._engine.default_lengths
        return Profile(
            seed=settings.seed,
            think_s=settings.think_s,
            turns=settings.turns,
            mix=Mix.of(settings.prompt_tokens or prompt, settings.output_tokens or output, self._engine.context_tokens),
            sampling=Sampling(ignore_eos=self._engine.ignores_eos),
        )

    def _argv(self, index: int) -> list[str]:
        """A worker that comes back after a failure takes its part of what is wanted now, with new people: their
        requests must not be taken for those of the people it lost."""
        again = self._starts[index]
        self._starts[index] += 1
        profile = msgspec.structs.replace(self._profile, seed=self._profile.seed + LATER_SEED * again)
        settings = WorkerSettings(
            model=self._engine.served_name,
            worker=index,
            workers=self._settings.load.workers,
            crowds=self._crowds(),
            arrivals=None
            if self._arrivals is None
            else told.SetArrivals(self._arrivals, origin=self._origin, weights=self._weights),
            profile=profile,
            slo=PRESETS[self._settings.slo],
        )
        return [
            *(sys.executable, "-m", "loadgen.worker", "--url", self._detour or self._url()),
            *("--settings", msgspec.json.encode(settings).decode()),
        ]

    def _crowds(self) -> dict[load.Behaviour, int]:
        """Everybody who is wanted, by behaviour."""
        counts = apportion(self._people, self._weights)
        for behaviour, count in self._extras.items():
            counts[behaviour] = counts.get(behaviour, 0) + count
        return counts

    def retarget(self, url: str | None) -> None:
        """Send what is asked from now on there (None: to the gateway itself again); what is under way ends where it began."""
        self._detour = url
        self._tell(told.SetTarget(url or self._url()))

    def change(self, command: LoadChange) -> Change:
        """Carry out one command, or say why not."""
        match command:
            case commands.Burst(count=int(count)) | commands.Flash(count=int(count)) if count < 1:
                return refused("A burst or a crowd is at least one person.")
            case commands.Leave(count=int(count)) | commands.Stall(count=int(count)) if not 1 <= count <= MOST_AT_ONCE:
                return refused(f"Between 1 and {MOST_AT_ONCE:,} clients can do that at once.")
            case commands.Leave():
                leave = told.Leave(command.count or FEW, command.at, command.how)
                self._tell(leave)
                return _event("leaver", f"{leave.count} leave {Leaving(leave.at, leave.how).in_words()}")
            case commands.Stall(for_s=for_s) if not 0 < for_s <= STALL_MOST_S:
                return refused(f"They stall for up to {STALL_MOST_S:g} s.")
            case commands.Stall():
                stall = told.Stall(command.count or FEW, command.for_s)
                self._tell(stall)
                return _event("staller", f"{stall.count} stop reading, for {stall.for_s:g} s at most")
            case commands.Burst():
                count = command.count or 3 * (self._engine.max_num_seqs or GUESSED_SEQUENCES)
                self._tell(told.Burst(count))
                return _event("burst", f"burst +{count}")
            case commands.Flash():
                count = command.count or max(self._people, 3 * (self._engine.max_num_seqs or GUESSED_SEQUENCES))
                self._tell(told.Flash(count, max(0.0, command.over_s), max(1, command.asks)))
                return _event("flash", f"flash crowd of {count}")
            case commands.People():
                return self._change_people(command)
            case commands.Extra():
                return self._change_extra(command)
            case commands.Mix():
                return self._change_weights(command.weights)
            case commands.Open():
                return self._change_arrivals(command.arrivals)
            case commands.Ask():
                return self._change_profile(command.profile)
            case commands.Preset():
                try:
                    preset = self._preset_named(command.name)
                except KeyError:
                    names = ", ".join(known.name for known in self._presets())
                    return refused(f"There is no preset {command.name!r}; there are {names}.")
                self._pick(preset)
                self._tell_all()
                if preset.flash:
                    self._tell(told.Flash(preset.flash))
                return _event("load", preset.title)

    def _change_people(self, command: commands.People) -> Change:
        if (command.count is None) == (command.delta is None):
            return refused("Give either a count or a delta of people.")
        self._people = max(0, command.count if command.count is not None else self._people + (command.delta or 0))
        self._preset = ""
        self._tell(told.SetCrowds(self._crowds()))
        return _event("people", f"{self._people} people")

    def _change_extra(self, command: commands.Extra) -> Change:
        if command.behaviour not in load.RESIDENTS:
            return refused(f"Nobody can be kept as {command.behaviour!r}.")
        before = self._extras.get(command.behaviour, 0)
        default = 0 if before else max(1, self._people // 4)
        count = default if command.count is None else max(0, command.count)
        self._extras[command.behaviour] = count
        self._preset = ""
        self._tell(told.SetCrowds(self._crowds()))
        name = EXTRA_NAMES[command.behaviour]
        return _event(command.behaviour, f"{count} {name}" if count else f"no {name}")

    def _change_weights(self, weights: dict[load.Behaviour, float]) -> Change:
        wrong = [name for name, weight in weights.items() if name not in load.RESIDENTS or not 0 <= weight < 1e6]
        if wrong:
            return refused(f"A weight of {wrong[0]!r} cannot be carried out.")
        self._weights = {name: weight for name, weight in weights.items() if weight}
        self._preset = ""
        self._tell_all()
        shown = ", ".join(f"{name} {weight:g}" for name, weight in self._weights.items())
        return _event("load", f"mix {shown}" if shown else "all patient")

    def _change_arrivals(self, arrivals: Arrivals | None) -> Change:
        if arrivals is not None and (wrong := check(arrivals)):
            return refused(wrong)
        if isinstance(arrivals, Replay):
            try:
                next(read_trace(arrivals.path), None)
            except TraceError as error:
                return refused(str(error))
        self._arrivals, self._origin, self._preset = arrivals, time.monotonic(), ""
        self._tell_arrivals()
        return _event("load", "people again" if arrivals is None else f"open loop, {in_words(arrivals)}")

    def _change_profile(self, profile: Profile) -> Change:
        if wrong := profile_error(profile):
            return refused(wrong)
        context = self._engine.context_tokens
        mix = msgspec.structs.replace(profile.mix, context=min(profile.mix.context, context))
        self._profile, self._preset = msgspec.structs.replace(profile, mix=mix), ""
        self._tell(told.SetProfile(self._profile))
        return _event("load", f"{self._profile.label}, think {self._profile.think_s:g} s")

    def _presets(self) -> list[Preset]:
        return presets(self._base, self._settings.load.trace)

    def _preset_named(self, name: str) -> Preset:
        """Raises KeyError."""
        return {preset.name: preset for preset in self._presets()}[name]

    def _pick(self, preset: Preset) -> None:
        self._people, self._weights, self._extras = preset.people, dict(preset.weights), {}
        self._arrivals, self._origin = preset.arrivals, time.monotonic()
        self._profile, self._preset = preset.profile, preset.name

    def _tell_all(self) -> None:
        """Everything that is wanted of the people."""
        self._tell(told.SetProfile(self._profile))
        self._tell(told.SetCrowds(self._crowds()))
        self._tell_arrivals()

    def _tell_arrivals(self) -> None:
        self._tell(told.SetArrivals(self._arrivals, origin=self._origin, weights=self._weights))

    def _tell(self, command: told.LoadCommand) -> None:
        for worker in self.workers:
            worker.send(command)

    # for a capacity search and a comparison

    def hold(self) -> Held:
        """What is wanted now."""
        return Held(self._people, dict(self._extras), self._profile, self._preset, self._arrivals, dict(self._weights))

    def freeze(self, profile: Profile) -> None:
        """Only the people themselves, asking by this profile."""
        self._profile, self._extras = profile, {}
        self._tell(told.SetProfile(profile))

    def release(self, held: Held) -> None:
        """As it was."""
        self._people, self._extras, self._profile, self._preset = held.people, held.extras, held.profile, held.preset
        self._arrivals, self._origin = held.arrivals, time.monotonic()
        self._weights = dict(held.weights)
        self._tell_all()

    def set_aside(self) -> None:
        """Nobody asks anything any more; what is under way goes on."""
        self._people, self._extras, self._preset, self._arrivals = 0, {}, "", None
        self._tell_all()

    def play(self, script: Script, profile: Profile, origin: float) -> None:
        """Nobody but this script, from `origin` (monotonic seconds) on."""
        self._profile, self._arrivals, self._origin = profile, script, origin
        self._tell(told.SetProfile(profile))
        self._tell_arrivals()

    def set_people(self, count: int) -> None:
        self._people = count
        self._tell(told.SetCrowds(self._crowds()))

    def renew(self, seed: int) -> None:
        """Those who come from now on are other people."""
        self._profile = msgspec.structs.replace(self._profile, seed=seed)
        self._tell(told.SetProfile(self._profile))


def _event(kind: str, text: str) -> Change:
    return Change(text, kind)
