"""The verbs about people: change those of the running stack, load any server, search for how many can be served."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import msgspec

from console.verb import UsageError, count, positive, send
from loadgen.arrivals import Arrivals, Gamma, parse_arrivals
from loadgen.behaviours import Manners, RetryKind, apportion
from loadgen.capacity import Progress, Question
from loadgen.profile import Profile
from loadgen.prompts import TRACE_FITS, Mix, Sampling
from loadgen.records import RESIDENTS, Behaviour
from loadgen.slo import PRESETS
from loadgen.target import API_KEY
from server import commands
from server.client import StackClient, StackError
from server.config import LoadSettings, default_paths

VerbMaker = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
EXTRAS: dict[str, tuple[Behaviour, str]] = {
    "slow": ("slow", "slow readers"),
    "abandon": ("abandoner", "people who leave when it takes too long"),
    "retry": ("retrier", "people who ask again and again"),
    "long": ("long", "authors of long prompts"),
}
STACK_PRESETS = ("one-chat", "ten-friends", "lunch-rush", "long-context", "flash-crowd", "code-completion", "replay")
FOLLOW_S = 0.5
WAIT_S = 30.0


def weights(text: str) -> dict[Behaviour, float]:
    """`patient=8,abandoner=1`: an argument type."""
    found: dict[Behaviour, float] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        known = next((behaviour for behaviour in RESIDENTS if behaviour == name), None)
        if known is None or not 0 <= float(number) < 1e6:
            raise ValueError
        found[known] = float(number)
    return found


weights.__name__ = f"mix like patient=8,abandoner=1 (of {', '.join(RESIDENTS)})"


def arrivals(text: str) -> Arrivals:
    """An argument type."""
    try:
        return parse_arrivals(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add(verb: VerbMaker) -> None:
    """Add the verbs to the parser."""
    _add_changes(verb)
    load = verb("load", _load, "Load any OpenAI-compatible server and report what people felt.")
    load.add_argument("--url", help="the server's base URL, e.g. http://127.0.0.1:8000")
    load.add_argument("--selftest", action="store_true", help="measure our own error against a server of known timing")
    load.add_argument("--people", type=count, default=None, help="closed loop (default 4)")
    load.add_argument("--rate", type=positive, help="open loop: requests per second (Poisson) instead of people")
    load.add_argument("--arrivals", type=arrivals, metavar="KIND:..", help="open loop: gamma:2:0.25, ramp:1:8:60 ..")
    load.add_argument("--mix", type=weights, default={}, metavar="B=W,..", help="behaviours by weight")
    load.add_argument("--slow", type=count, default=0, help="slow readers besides")
    load.add_argument("--burst", type=count, default=0, metavar="N", help="requests at once at the start")
    load.add_argument("--duration", type=positive, default=30.0, metavar="S", help="seconds (default 30)")
    load.add_argument("--workers", type=count, default=1, metavar="N", help="processes (default 1)")
    load.add_argument(
        "--metrics-url", metavar="URL", help="the engine behind --url, whose own counters to compare with"
    )
    load.add_argument("--out", type=Path, metavar="FILE", help="write one JSON line a request")
    load.add_argument("--summary", type=Path, metavar="FILE", help="write the summary as JSON")
    load.add_argument("--json", action="store_true", help="print the summary as JSON")
    _asking(load)

    capacity = verb("capacity", _capacity, "Search for how many people this setup serves before the experience bends.")
    capacity.add_argument("--careful", action="store_true", help="to +-10 %% instead of +-15 %%")
    capacity.add_argument(
        "--cap", type=positive, default=360.0, metavar="S", help="give up after S seconds (default 360)"
    )
    capacity.add_argument("--stop", action="store_true", help="stop the search that runs")
    capacity.add_argument("--list", action="store_true", help="earlier searches of this machine")
    capacity.add_argument("--compare", nargs=2, type=Path, metavar="FILE", help="two saved searches side by side")
    capacity.add_argument("--url", help="search on this server instead of the running stack")
    capacity.add_argument("--out", type=Path, metavar="FILE", help="with --url: write the search as JSON")
    capacity.add_argument("--workers", type=count, default=1, metavar="N", help="with --url: processes")
    capacity.add_argument("--json", action="store_true", help="print the search as JSON at its end")
    _asking(capacity, slo_default=None)


def _asking(parser: argparse.ArgumentParser, slo_default: str | None = "chat") -> None:
    """Options of what people ask, for runs against a URL."""
    parser.add_argument("--model", help="default: the first the server lists")
    parser.add_argument("--think", type=positive, default=8.0, metavar="S", help="mean think time (default 8 s)")
    parser.add_argument(
        "--turns", type=positive, default=3.0, metavar="N", help="mean turns a conversation (default 3)"
    )
    parser.add_argument("--lengths", choices=sorted(TRACE_FITS), help="a published trace's lengths")
    parser.add_argument("--prompt-tokens", type=count, default=200, metavar="N", help="median prompt length")
    parser.add_argument("--output-tokens", type=count, default=100, metavar="N", help="median reply length")
    parser.add_argument("--context", type=count, default=2048, metavar="N", help="the model's context (default 2048)")
    parser.add_argument("--retry", choices=get_args(RetryKind), default="naive", help="how retriers come back")
    parser.add_argument("--honour-retry-after", action="store_true", help="retriers wait as long as they are told")
    parser.add_argument(
        "--vllm", action="store_true", help="the server is a vLLM: full-length replies, fresh cache salt"
    )
    parser.add_argument("--seed", type=count, default=1)
    parser.add_argument("--slo", choices=sorted(PRESETS), default=slo_default)


def add_people(parser: argparse.ArgumentParser) -> None:
    """Options of the people a stack starts with."""
    load = parser.add_argument_group("people")
    load.add_argument("--people", type=count, default=10, help="default 10")
    load.add_argument("--slow", type=count, default=0)
    load.add_argument("--mix", type=weights, default={}, metavar="B=W,..", help="behaviours by weight")
    load.add_argument("--preset", choices=STACK_PRESETS, metavar="NAME", help=f"a load: {', '.join(STACK_PRESETS)}")
    load.add_argument("--trace", type=Path, metavar="FILE", help="a trace to replay (--preset replay)")
    load.add_argument("--think", type=positive, default=8.0, metavar="S", help="mean think time (default 8 s)")
    load.add_argument("--turns", type=positive, default=3.0, metavar="N", help="mean turns a conversation (default 3)")
    load.add_argument("--rate", type=positive, metavar="R", help="open loop instead, requests per second")
    load.add_argument("--workers", type=count, default=1, metavar="N", help="load generator processes (default 1)")
    load.add_argument("--seed", type=count, default=1)
    load.add_argument("--prompt-tokens", type=count, metavar="N", help="median; default suits the device")
    load.add_argument("--output-tokens", type=count, metavar="N", help="median; default suits the device")
    load.add_argument("--slo", choices=sorted(PRESETS), default="chat", help="what good means (default chat)")


def load_settings(options: argparse.Namespace) -> LoadSettings:
    """What `add_people` read. Somebody else's engine gets no people unless it may be driven."""
    if options.preset == "replay" and options.trace is None:
        raise UsageError("--preset replay needs --trace FILE.")
    if options.turns < 1:
        raise UsageError("A conversation has at least one turn.")
    quiet = options.attach and not options.drive
    return LoadSettings(
        people=0 if quiet else options.people,
        slow=0 if quiet else options.slow,
        rate=None if quiet else options.rate,
        think_s=options.think,
        turns=options.turns,
        weights=options.mix,
        preset=None if quiet else options.preset,
        trace=str(options.trace.resolve()) if options.trace else None,
        workers=options.workers,
        seed=options.seed,
        prompt_tokens=options.prompt_tokens,
        output_tokens=options.output_tokens,
    )


# changes on the running stack


def _add_changes(verb: VerbMaker) -> None:
    burst = verb(
        "burst", lambda o: send(commands.Burst(o.count)), "Send N requests at once (default 3 x max-num-seqs)."
    )
    burst.add_argument("count", metavar="N", type=count, nargs="?")
    flash = verb(
        "flash", lambda o: send(commands.Flash(o.count, o.over, o.asks)), "A flash crowd comes, asks and goes."
    )
    flash.add_argument("count", metavar="N", type=count, nargs="?")
    flash.add_argument("--over", type=positive, default=5.0, metavar="S", help="seconds in which they come (default 5)")
    flash.add_argument("--asks", type=count, default=3, metavar="N", help="requests of each (default 3)")
    people = verb("people", lambda o: send(commands.People(count=o.count)), "Have N people.")
    people.add_argument("count", metavar="N", type=count)
    for name, (behaviour, who) in EXTRAS.items():
        extra = verb(name, partial(_send_extra, behaviour), f"Have N {who} besides (default: toggle).")
        extra.add_argument("count", metavar="N", type=count, nargs="?")
    mix = verb("mix", lambda o: send(commands.Mix(o.weights)), "Split the people by weights; nothing: all patient.")
    mix.add_argument("weights", type=weights, nargs="?", default={}, metavar="B=W,..")
    rate = verb("rate", _send_rate, "Open loop at R requests per second (Poisson); `off` goes back to people.")
    rate.add_argument("rate", metavar="R|off")
    opened = verb("arrivals", _send_arrivals, "Open loop by a process, e.g. gamma:2:0.25; `off` goes back to people.")
    opened.add_argument("arrivals", metavar="KIND:..|off")
    preset = verb("preset", lambda o: send(commands.Preset(o.name)), "Pick a load by name.")
    preset.add_argument("name", choices=STACK_PRESETS, metavar="NAME", help=", ".join(STACK_PRESETS))
    ask = verb("ask", _send_ask, "Change what people ask, and how retriers come back.")
    ask.add_argument("--think", type=positive, metavar="S")
    ask.add_argument("--turns", type=positive, metavar="N")
    ask.add_argument(
        "--lengths", choices=["even", *sorted(TRACE_FITS)], help="even: the medians below or the stack's own"
    )
    ask.add_argument("--prompt-tokens", type=count, metavar="N")
    ask.add_argument("--output-tokens", type=count, metavar="N")
    ask.add_argument("--retry", choices=get_args(RetryKind))
    ask.add_argument("--honour-retry-after", action=argparse.BooleanOptionalAction, default=None)
    ask.add_argument("--patience", type=positive, metavar="S", help="abandoners' median wait for a token")


def _send_extra(behaviour: Behaviour, options: argparse.Namespace) -> int:
    return send(commands.Extra(behaviour, options.count))


def _send_rate(options: argparse.Namespace) -> int:
    if options.rate == "off":
        return send(commands.Open(None))
    try:
        return send(commands.Open(Gamma(positive(options.rate))))
    except ValueError:
        raise UsageError("The rate is a positive number of requests per second, or `off`.") from None


def _send_arrivals(options: argparse.Namespace) -> int:
    if options.arrivals == "off":
        return send(commands.Open(None))
    try:
        process = parse_arrivals(options.arrivals)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if path := getattr(process, "path", None):
        process = msgspec.structs.replace(process, path=str(Path(path).resolve()))
    return send(commands.Open(process))


def _send_ask(options: argparse.Namespace) -> int:
    profile = StackClient(default_paths()).snapshot().people.profile
    if profile is None:
        raise StackError("There are no people yet: the engine has not been ready so far.")
    changes: dict[str, object] = {}
    if options.think is not None:
        changes["think_s"] = options.think
    if options.turns is not None:
        changes["turns"] = options.turns
    if options.lengths or options.prompt_tokens or options.output_tokens:
        changes["mix"] = _mix(options, profile.mix)
    manners = profile.manners
    retry = manners.retry
    if options.retry is not None:
        retry = msgspec.structs.replace(retry, kind=options.retry)
    if options.honour_retry_after is not None:
        retry = msgspec.structs.replace(retry, honours_retry_after=options.honour_retry_after)
    manners = msgspec.structs.replace(manners, retry=retry)
    if options.patience is not None:
        patience = msgspec.structs.replace(manners.patience, ttft_s=options.patience, stall_s=options.patience)
        manners = msgspec.structs.replace(manners, patience=patience)
    if manners == profile.manners and not changes:
        raise UsageError("Say what to change; see spark-serve ask --help.")
    return send(commands.Ask(msgspec.structs.replace(profile, manners=manners, **changes)))


def _mix(options: argparse.Namespace, now: Mix) -> Mix:
    if options.lengths in TRACE_FITS:
        return Mix.named(options.lengths, now.context)
    return Mix.of(options.prompt_tokens or now.prompt.median, options.output_tokens or now.output.median, now.context)


# runs of our own


def _profile(options: argparse.Namespace) -> Profile:
    if min(options.prompt_tokens, options.output_tokens, options.context) < 1 or options.turns < 1:
        raise UsageError("Prompts, replies and the context are at least one token long, conversations one turn.")
    mix = (
        Mix.named(options.lengths, options.context)
        if options.lengths
        else Mix.of(options.prompt_tokens, options.output_tokens, options.context)
    )
    salt = f"run-{time.time_ns():x}" if options.vllm else ""
    manners = Manners()
    retry = msgspec.structs.replace(manners.retry, kind=options.retry, honours_retry_after=options.honour_retry_after)
    return Profile(
        seed=options.seed,
        think_s=options.think,
        turns=options.turns,
        mix=mix,
        sampling=Sampling(ignore_eos=options.vllm, cache_salt=salt),
        manners=msgspec.structs.replace(manners, retry=retry),
    )


def _load(options: argparse.Namespace) -> int:
    import uvloop

    from loadgen.run import LoadOptions, run_load
    from loadgen.summary import table
    from loadgen.target import LoadError

    if options.selftest:
        return _selftest(options)
    if options.url is None:
        raise UsageError("Give --url, or --selftest.")
    process = Gamma(options.rate) if options.rate is not None else options.arrivals
    if sum(given is not None for given in (options.people, options.rate, options.arrivals)) > 1:
        raise UsageError("Give --people (closed loop), --rate or --arrivals (open loop), one of them.")
    people = apportion(4 if options.people is None else options.people, options.mix)
    if options.slow:
        people["slow"] = people.get("slow", 0) + options.slow
    wanted = LoadOptions(
        url=options.url,
        model=options.model,
        crowds=people,
        arrivals=process,
        weights=options.mix,
        burst=options.burst,
        profile=_profile(options),
        duration_s=options.duration,
        slo=PRESETS[options.slo],
        out=str(options.out) if options.out else None,
        workers=options.workers,
        metrics_url=options.metrics_url,
        api_key=os.environ.get(API_KEY) or None,
    )
    try:
        summary = uvloop.run(run_load(wanted))
    except LoadError as error:
        raise StackError(str(error)) from None
    encoded = msgspec.json.format(msgspec.json.encode(summary))
    if options.summary is not None:
        _write(options.summary, encoded)
    print(encoded.decode() if options.json else table(summary))
    return 1 if summary.void else 0


def _selftest(options: argparse.Namespace) -> int:
    import uvloop

    from loadgen.selftest import selftest, table

    found = uvloop.run(selftest())
    print(msgspec.json.format(msgspec.json.encode(found)).decode() if options.json else table(found))
    return 0


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data + b"\n")
    except OSError as error:
        raise StackError(f"Cannot write {path}: {error.strerror}.") from None


# capacity


def _capacity(options: argparse.Namespace) -> int:
    if options.list:
        return _list_searches()
    if options.compare:
        return _compare_searches(*options.compare)
    if options.url is not None:
        return _capacity_of_url(options)
    client = StackClient(default_paths())
    if options.stop:
        return send(commands.Capacity(on=False))
    answer = client.send(commands.Capacity(careful=options.careful, cap_s=options.cap, slo=options.slo))
    if not answer.ok:
        raise StackError(answer.message)
    print(answer.message, file=sys.stderr)
    shown = _Shown()
    begun = time.monotonic()
    while True:
        time.sleep(FOLLOW_S)
        progress = client.snapshot().capacity
        if progress is None:
            if time.monotonic() - begun > WAIT_S:
                raise StackError("The stack tells nothing of a search; see `spark-serve logs stack`.")
            continue
        shown.show(progress)
        if progress.phase in {"done", "stopped"}:
            return _ended(progress, options.json)


def _capacity_of_url(options: argparse.Namespace) -> int:
    import uvloop

    from loadgen.explorer import explore
    from loadgen.runner import WorkerSettings
    from loadgen.target import LoadError, Target, ask_models

    profile = _profile(options)
    slo = PRESETS[options.slo or "chat"]
    question = Question(
        slo=slo,
        think_s=profile.think_s,
        mix=profile.label,
        cache="fresh salt" if options.vllm else "as the server keeps it",
        seed=profile.seed,
        careful=options.careful,
        cap_s=options.cap,
    )

    async def search() -> Progress:
        target = Target.parse(options.url, os.environ.get(API_KEY) or None)
        served = await ask_models(target)
        if options.model is not None and options.model not in served:
            raise LoadError(f"{target.url} does not serve {options.model}; it serves {', '.join(served[:5])}.")
        settings = WorkerSettings(
            model=options.model or served[0], workers=max(1, options.workers), profile=profile, slo=slo
        )
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop.set)
        return await explore(target, settings, question, _Shown().show, stop)

    try:
        progress = uvloop.run(search())
    except LoadError as error:
        raise StackError(str(error)) from None
    if options.out is not None:
        _write(options.out, msgspec.json.format(msgspec.json.encode(progress)))
    return _ended(progress, options.json)


class _Shown:
    """Prints what is new of a search: its blocks, a line each."""

    def __init__(self) -> None:
        self._blocks = 0
        self._message = ""

    def show(self, progress: Progress) -> None:
        for block in progress.blocks[self._blocks :]:
            share = "—" if block.share is None else f"{block.share:.1%}"
            ttft = "—" if block.ttft_p95_s is None else f"{block.ttft_p95_s:.2f} s"
            evidence = f"   {block.evidence}" if block.evidence else ""
            estimate = ""
            if progress.best is not None and progress.low is not None and progress.high is not None:
                estimate = f"   so far {progress.best:.0f} ({progress.low:.0f} to {progress.high:.0f})"
            print(
                f"{progress.elapsed_s:6.0f} s  {block.phase:<8}{block.people:>6} people  {share:>6} of {block.due} good  "
                f"TTFT p95 {ttft}{estimate}{evidence}",
                file=sys.stderr,
                flush=True,
            )
        self._blocks = len(progress.blocks)


def _ended(progress: Progress, as_json: bool) -> int:
    answer = progress.answer
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(progress)).decode())
    elif answer is not None:
        print(answer.sentence)
    if progress.message and not (answer and answer.resolved):
        print(f"spark-serve: {progress.message}", file=sys.stderr)
    return 0 if answer is not None and answer.resolved else 1


def _list_searches() -> int:
    from server import results

    print("\n".join(results.listing_lines(results.listed(default_paths().capacities))))
    return 0


def _compare_searches(one: Path, other: Path) -> int:
    from server import results

    try:
        print("\n".join(results.compare(results.load(one), results.load(other))))
    except results.ResultError as error:
        raise StackError(str(error)) from None
    return 0
