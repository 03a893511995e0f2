"""The comparison of policies in a stack: started, stopped, and all put back that was found there, people and policy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import msgspec

from loadgen.records import LoadRecord
from server import commands
from server.compare.arm import Arm, distinct, parse_arms
from server.compare.figures import figures
from server.compare.measuring import EndedError, Hands, Measuring
from server.compare.mixture import Lengths, Mixture
from server.compare.plan import Question
from server.compare.progress import CompareProgress
from server.compare.result import Comparison, save
from server.compare.verdict import verdicts
from server.config import Paths
from server.engine.lifecycle import Lifecycle
from server.gateway.policy import Policy
from server.gateway.records import GatewayRecord
from server.population import Change, Held, Population, refused
from server.results import About
from server.saved import SavedError
from server.telemetry.snapshot import Snapshot

FEW = 16
"""In flight, where nobody said how many: runs of less than a minute hardly fill hundreds of slots, and nobody would wait at the
gateway, where the policies differ (an H100 with 256: 31 microseconds)."""
_log = logging.getLogger(__name__)


class Comparer:
    """At most one comparison at a time; `progress` is the running one's, or the latest one's."""

    def __init__(
        self,
        population: Population,
        engine: Lifecycle,
        hands: Hands,
        paths: Paths,
        *,
        seen: Callable[[], Snapshot | None],
    ) -> None:
        self._population = population
        self._engine = engine
        self._hands = hands
        self._paths = paths
        self._seen = seen
        self._measuring: Measuring | None = None
        self._latest: CompareProgress | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        return self._measuring is not None

    @property
    def progress(self) -> CompareProgress | None:
        return self._latest if self._measuring is None else self._measuring.progress

    def on_load(self, record: LoadRecord) -> None:
        if self._measuring is not None:
            self._measuring.on_load(record)

    def on_gateway(self, record: GatewayRecord) -> None:
        if self._measuring is not None:
            self._measuring.on_gateway(record)

    def change(self, command: commands.Compare) -> Change:
        """Start a comparison or stop it."""
        if not command.on:
            if self._measuring is None:
                return refused("No comparison runs.")
            self._measuring.stop("stopped by hand")
            return Change("The comparison ends.")
        if self._measuring is not None:
            return refused("A comparison runs already.")
        if self._engine.phase != "ready":
            return refused(f"The engine is {self._engine.phase}; there is nothing to measure.")
        try:
            draft = self._draft(command)
            policies = [arm.policy(self._hands.policy_in_force(), draft.max_in_flight) for arm in draft.arms]
            distinct(draft.arms, policies)
        except ValueError as error:
            sentence = str(error)
            return refused(f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}.")
        held = self._population.hold()
        self._measuring = Measuring(draft, policies, command, self._population, self._engine, self._hands, self._seen)
        self.task = asyncio.create_task(self._run(self._measuring, held), name="compare")
        return Change(f"comparing {', '.join(arm.name for arm in draft.arms)}", "compare")

    def _draft(self, command: commands.Compare) -> Question:
        """The question, its rate and seconds still open (0) where nobody gave them. Raises ValueError."""
        arms = parse_arms(command.arms)
        if not 1 <= command.rounds <= 20:
            raise ValueError("there are 1 to 20 rounds")
        if command.seconds is not None and not 1 <= command.seconds <= 3600:
            raise ValueError("a run takes 1 s to an hour")
        if command.rate is not None and not 0 < command.rate < 1e4:
            raise ValueError("the rate is a number of requests per second above 0")
        places, why = self._places(command.max_in_flight)
        context = self._engine.context_tokens
        mixed = Mixture.suited(self._engine.default_lengths, context)
        if command.long_share is not None:
            mixed = msgspec.structs.replace(mixed, long_share=command.long_share)
        for name in ("short", "long"):
            if (lengths := getattr(command, name)) is not None:
                if len(lengths) != 2:
                    raise ValueError("lengths are two numbers of tokens, prompt and reply")
                mixed = msgspec.structs.replace(mixed, **{name: Lengths(*lengths)})
        mixed.check(context)
        return Question(
            arms=arms,
            mixture=mixed,
            rate_per_s=command.rate or 0.0,
            seconds=command.seconds or 0.0,
            rounds=command.rounds,
            seed=command.seed,
            max_in_flight=places,
            why_in_flight=why,
            base=_in_common(arms, self._hands.policy_in_force()),
        )

    def _places(self, wanted: int | None) -> tuple[int, str]:
        """How many may be in flight, and where the number comes from. Raises ValueError."""
        if wanted is not None:
            if wanted < 1:
                raise ValueError("max-in-flight must be at least 1")
            return wanted, "as told"
        slots = self._engine.max_num_seqs
        if slots and slots <= FEW:
            return slots, "the engine's max-num-seqs"
        return FEW, "fewer than the engine has slots" if slots else "the engine's max-num-seqs is not known"

    async def _run(self, measuring: Measuring, held: Held) -> None:
        stopped = ""
        try:
            await measuring.run()
        except EndedError as ended:
            stopped = str(ended)
        except asyncio.CancelledError:
            stopped = "The stack went down."
            raise
        except Exception as error:  # whatever it was, what was found here is put back and a person is told
            _log.exception("the comparison failed")
            stopped = f"It failed ({error!r}); see `spark-serve logs stack`."
        finally:
            with contextlib.ExitStack() as back:  # from the last to the first, whatever fails on the way
                back.callback(self._end, measuring, stopped)
                back.callback(self._population.release, held)
                back.callback(self._hands.impose, None, "policy as it was before the comparison")

    def _end(self, measuring: Measuring, stopped: str) -> None:
        self._measuring = None
        self._latest = self._finish(measuring, stopped)
        self._hands.note(self._latest.message or "the comparison is done")

    def _finish(self, measuring: Measuring, stopped: str) -> CompareProgress:
        saved, message = "", stopped
        latest = self._seen()
        if measuring.runs and latest is not None:
            comparison = Comparison(
                about=msgspec.structs.replace(About.of(latest), policy="", max_in_flight=None, max_queue=None),
                question=measuring.question,
                runs=measuring.runs,
                elapsed_s=round(measuring.elapsed_s, 1),
                ended=stopped,
            )
            try:
                saved = str(save(self._paths.comparisons, comparison))
                message = stopped or " ".join(verdicts(figures(comparison)))
            except SavedError as error:
                message = f"{stopped} {error}".strip()
        measuring.say("The people and the policy are as they were.")
        return msgspec.structs.replace(
            measuring.progress, phase="stopped" if stopped else "done", message=message, saved=saved
        )


def _in_common(arms: list[Arm], base: Policy) -> str:
    """What all arms have from the policy in force, where it is not the usual and no arm names it."""
    named = {"order", "ageing_s", "max_in_flight", "max_queue"}.union(*(arm.change.said() for arm in arms))
    usual, change = Policy().whole().said(), base.whole().said()
    return commands.Policy(
        **{name: value for name, value in change.items() if name not in named and value != usual[name]}  # type: ignore[arg-type]
    ).in_words()
