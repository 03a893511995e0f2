"""`spark-serve` and its verbs. Only `console` imports textual, so that the others start at once.

Exit codes: 0 done, 1 it could not be done (one sentence on stderr says why), 2 the command line was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, get_args

import msgspec
import psutil

from console import compare_verb, fault_verb, load_verbs, request_verb, watch_verb
from console.output import WIPE, printable
from console.sources.base import Source
from console.verb import UsageError, count, port, positive, seconds_or_off, send
from server import commands
from server.client import StackClient, StackError
from server.config import SettingError, StackSettings, be_private, default_paths
from server.engine.errors import EngineError
from server.gateway.policy import Balance, LimitKind, Order, Overload, PolicyChange

ORDERS, LIMITS, OVERLOADS, BALANCES = get_args(Order), get_args(LimitKind), get_args(Overload), get_args(Balance)
SMALLEST_TERMINAL = (60, 16)
DOWN_TIMEOUT_S = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code. Nothing from data is printed that a terminal would obey."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a `?` beats a traceback where a locale lacks a sign
    be_private()
    with printable():
        return _written(argv)


def _written(argv: Sequence[str] | None) -> int:
    """The verb, and the end of what it wrote."""
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where what goes wrong can be said
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _cannot_write(error)


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    try:
        options = parser.parse_args(argv)
        if options.version:
            return _print_version()
        if options.verb is None:
            parser.print_help()
            return 2
        return int(options.run(options))
    except UsageError as error:
        print(f"spark-serve: {error}", file=sys.stderr)
        return 2
    except (StackError, SettingError, EngineError) as error:
        print(f"spark-serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _cannot_write(error: OSError) -> int:
    """A file, or what stdout leads to."""
    where = f" ({error.filename})" if error.filename else ""
    with contextlib.suppress(OSError):
        print(f"spark-serve: {error.strerror or error}{where}.", file=sys.stderr, flush=True)
    _write_nowhere()
    return 1


def _write_nowhere() -> None:
    """What stdout and stderr (Textual's way to the terminal) still hold would fail again at the end of the process."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


def _print_version() -> int:
    from importlib import metadata

    try:
        print(f"spark-serve {metadata.version('spark-serve')}")
    except metadata.PackageNotFoundError:
        print("spark-serve (from a checkout that is not installed)")
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is behind --help."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="spark-serve",
        description="The operator's cockpit for an LLM serving stack. Start with: spark-serve console",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    console = verb("console", _console, "Open the cockpit on the running stack, or bring one up first.")
    _stack_options(console)
    console.add_argument("--once", action="store_true", help="print one frame of the running stack and exit")
    console.add_argument("--json", action="store_true", help="with --once: the whole snapshot as JSON")
    console.add_argument("--replay", metavar="FILE", type=Path, help="play a recording instead")
    console.add_argument(
        "--watch",
        nargs="?",
        const="",
        metavar="SOCKET|USER",
        help="watch somebody's stack, read-only, where they allow it",
    )
    console.add_argument("--ephemeral", action="store_true", help="stop the stack when the console is left")

    up = verb("up", _up, "Bring the stack up in the background.")
    _stack_options(up)
    up.add_argument("--wait", action="store_true", help="return when the engine serves, or has failed")

    verb("down", _down, "Stop everything the stack started, and the stack.")
    status = verb("status", _status, "Say how the stack is; exit code 0 when it serves.")
    status.add_argument("--json", action="store_true", help="the whole snapshot as JSON")

    limits = verb("limits", _send_limits, "Change the gateway's admission limits on the running stack.")
    limits.add_argument("--max-in-flight", type=count, metavar="N")
    limits.add_argument("--max-queue", type=count, metavar="N")
    policy = verb("policy", _send_policy, "Change the gateway's admission policy on the running stack, or print it.")
    policy.add_argument("order", nargs="?", choices=ORDERS, help="who of those who wait goes next")
    policy.add_argument("--max-in-flight", type=count, metavar="N")
    policy.add_argument("--max-queue", type=count, metavar="N")
    _policy_options(policy)
    knobs = verb("knobs", _send_knobs, "Change the engine's own scheduling; the engine restarts for it.")
    knobs.add_argument("--scheduling-policy", choices=["fcfs", "priority"])
    knobs.add_argument("--max-num-batched-tokens", type=count, metavar="N", help="tokens a step at most")
    knobs.add_argument("--chunked-prefill", choices=["on", "off"])
    knobs.add_argument("--max-num-queued-reqs", type=count, metavar="N", help="503 beyond it (vLLM 0.32 and newer)")
    restart = verb("restart", _send_restart, "Cold-restart the engine: new processes, and what else --kind makes cold.")
    restart.add_argument(
        "--kind",
        choices=["process", "compile", "disk"],
        default="process",
        help="process: caches stay warm (default); compile: no compiled graphs; disk: weights not in memory",
    )
    marker = verb("marker", _send_marker, "Note an event on the charts.")
    marker.add_argument("note", nargs="*")
    record = verb("record", _send_record, "Record the running stack into FILE (default: a dated one), or stop.")
    record.add_argument("file", metavar="FILE", type=Path, nargs="?")
    record.add_argument("--stop", action="store_true")
    logs = verb("logs", _logs, "Print the end of a log: engine, gateway, load, stack or console.")
    logs.add_argument("child", nargs="?", default="engine", choices=["engine", "gateway", "load", "stack", "console"])
    logs.add_argument("-n", "--lines", type=count, default=40)

    load_verbs.add(verb)
    compare_verb.add(verb)
    fault_verb.add(verb)
    request_verb.add(verb)
    watch_verb.add(verb)

    engine = verb("engine", _engine_help, "Install vLLM in an environment of its own, or look at what is there.")
    actions = engine.add_subparsers(dest="action", metavar="ACTION")
    install = actions.add_parser("install", help="make an environment for vLLM")
    install.set_defaults(run=_engine_install)
    kind = install.add_mutually_exclusive_group()
    kind.add_argument("--cuda", action="store_const", const="cuda", dest="device", help="the CUDA build")
    kind.add_argument("--cpu", action="store_const", const="cpu", dest="device", help="the CPU build")
    install.add_argument("--python", metavar="PATH", help="the interpreter to make it with")
    install.add_argument("--index-url", metavar="URL", help="passed on to pip")
    install.add_argument("--if-missing", action="store_true", help="do nothing when it is there")
    doctor = actions.add_parser("doctor", help="say what is there, what is not and what to do")
    doctor.set_defaults(run=_engine_doctor)
    doctor.add_argument("--engine-python", metavar="PATH")
    engine.set_defaults(engine_parser=engine)
    return parser


def _policy_options(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--ageing", type=seconds_or_off, metavar="S|off", help="after it anybody goes first; default 30"
    )
    parser.add_argument("--limit", choices=LIMITS, help="what admits; default in-flight")
    parser.add_argument(
        "--token-budget", type=count, metavar="N", help="for --limit tokens; default: the KV cache's size"
    )
    parser.add_argument(
        "--ttft-target", type=positive, metavar="S", help="for --limit adaptive, from dispatch; default 1"
    )
    parser.add_argument("--tpot-target", type=positive, metavar="S", help="for --limit adaptive; default 0.2")
    parser.add_argument("--overload", choices=OVERLOADS, help="what becomes of those for whom there is no place")
    parser.add_argument("--max-wait", type=positive, metavar="S", help="for --overload estimate; default 30")
    parser.add_argument("--queue-timeout", type=seconds_or_off, metavar="S|off", help="429 after it; default off")
    parser.add_argument("--deadline", type=seconds_or_off, metavar="S|off", help="504 after it; default off")
    parser.add_argument(
        "--silence",
        type=seconds_or_off,
        metavar="S|off",
        help="give an engine up that sends nothing for S; default 600",
    )
    parser.add_argument("--during-restart", choices=["hold", "reject"], help="default hold")
    parser.add_argument(
        "--keep-alive", type=seconds_or_off, metavar="S|off", help="SSE comments while queued; default off"
    )


def _policy_change(options: argparse.Namespace, order: str | None, **bounds: int | None) -> dict[str, object]:
    """The fields of a PolicyChange that the options of `_policy_options` name."""
    hold = None if options.during_restart is None else options.during_restart == "hold"
    return {
        **bounds,
        "order": order,
        "ageing_s": options.ageing,
        "limit": options.limit,
        "token_budget": options.token_budget,
        "ttft_target_s": options.ttft_target,
        "tpot_target_s": options.tpot_target,
        "overload": options.overload,
        "max_wait_s": options.max_wait,
        "queue_timeout_s": options.queue_timeout,
        "deadline_s": options.deadline,
        "silence_s": options.silence,
        "hold": hold,
        "keep_alive_s": options.keep_alive,
    }


def _stack_options(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--model", default="auto", help="hub name, folder, smollm2, or shape:NAME (random weights); default auto"
    )
    engine.add_argument("--revision", metavar="REV", help="branch, tag or commit of a hub model")
    engine.add_argument("--trust-remote-code", action="store_true", help="run the code that comes with the model")
    engine.add_argument(
        "--attach",
        action="append",
        metavar="URL",
        help="watch an engine that already runs there; again for each replica",
    )
    engine.add_argument(
        "--balance",
        choices=BALANCES,
        default="least",
        help="which replica gets the next request: the one with the fewest (default), or each in turn",
    )
    engine.add_argument("--drive", action="store_true", help="allow load on an attached engine (asks once)")
    engine.add_argument("--no-discover", action="store_true", help="do not look for an engine that already runs")
    engine.add_argument("--engine-python", metavar="PATH", help="interpreter of an environment that has vLLM")
    engine.add_argument(
        "--engine-arg", action="append", default=[], metavar="ARG", help="passed on to vLLM, e.g. --engine-arg=--seed=1"
    )
    engine.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    engine.add_argument("--engine-port", type=port, default=8100, metavar="PORT")
    engine.add_argument("--max-num-seqs", type=count, metavar="N", help="default 64 on a GPU, 8 on a CPU")
    engine.add_argument("--max-model-len", type=count, metavar="N")
    engine.add_argument("--no-restart", action="store_true", help="leave an engine that ended by itself as it is")
    gateway = parser.add_argument_group("gateway")
    gateway.add_argument(
        "--host", default="127.0.0.1", help="where to listen; beyond this machine it needs SPARK_SERVE_API_KEY"
    )
    gateway.add_argument("--port", type=port, default=8101, help="default 8101")
    gateway.add_argument("--max-in-flight", type=count, metavar="N", help="default: max-num-seqs")
    gateway.add_argument("--max-queue", type=count, metavar="N", help="429 beyond it; default 256")
    gateway.add_argument("--order", choices=ORDERS, help="who of those who wait goes next; default fifo")
    _policy_options(gateway)
    load_verbs.add_people(parser)
    parser.add_argument("--record", metavar="FILE", type=Path, help="record from the start")
    parser.add_argument("--watchers", default="", metavar="GROUP", help="let the members of this group watch")


def _settings(options: argparse.Namespace) -> StackSettings:
    """The stack's settings. Paths are made absolute: the daemon works elsewhere."""
    if options.max_num_seqs == 0 or options.workers == 0:
        raise UsageError("--max-num-seqs and --workers must be at least 1.")
    if options.engine_port == options.port:
        raise UsageError("--engine-port and --port must differ: the gateway stands in front of the engine.")
    model = options.model
    if Path(model).is_dir():
        model = str(Path(model).resolve())
    return StackSettings(
        model=model,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code,
        attach=options.attach[0] if options.attach else None,
        replicas=options.attach[1:] if options.attach else [],
        balance=options.balance,
        watchers=options.watchers,
        drive=options.drive,
        engine_python=os.path.abspath(options.engine_python) if options.engine_python else None,
        engine_args=options.engine_arg,
        engine_port=options.engine_port,
        gateway_host=options.host,
        gateway_port=options.port,
        device=options.device,
        max_num_seqs=options.max_num_seqs,
        max_model_len=options.max_model_len,
        max_in_flight=options.max_in_flight,
        max_queue=options.max_queue,
        load=load_verbs.load_settings(options),
        slo=options.slo,
        record=str(options.record.resolve()) if options.record else None,
        restart=not options.no_restart,
        policy=msgspec.convert(_policy_change(options, options.order), PolicyChange),
    )


def _bring_up(client: StackClient, options: argparse.Namespace) -> None:
    """Check what can be checked, then start the daemon."""
    from server.preflight import check

    settings = _settings(options)
    _offer_clearing(client)
    if settings.attach is None and not options.no_discover:
        settings = _offer_attach(settings)
    if settings.attach and settings.drive:
        _confirm(f"Send load to {', '.join([settings.attach, *settings.replicas])}, which somebody else started?")
    check(settings, client.paths)
    client.start(settings)


def _offer_clearing(client: StackClient) -> None:
    """Of what a crashed stack left. Raises StackError where nobody can be asked, or says no."""
    from server.leftovers import end_leftovers, find_leftovers, said

    left = said(find_leftovers(client.paths))
    if not left:
        return
    what = f"A stack that crashed has left processes behind: {', '.join(left)}"
    if not sys.stdin.isatty():
        raise StackError(f"{what}; `spark-serve down` ends them.")
    if input(f"{what}.\nEnd them? [Y/n] ").strip().lower() not in {"", "y", "yes"}:
        raise StackError("Nothing was started; `spark-serve down` ends what was left.")
    end_leftovers(client.paths)


def _offer_attach(settings: StackSettings) -> StackSettings:
    from server.engine.discover import discover

    found = discover()
    if not found:
        return settings
    first = found[0]
    what = f"A vLLM server already runs at {first.url} ({first.model or 'model unknown'})."
    if not _interactive():
        print(f"{what} Attach to it with --attach {first.url}; going on with an engine of our own.", file=sys.stderr)
        return settings
    reply = _asked(f"{what}\nAttach to it, read-only? [Y/n] ")
    if reply in {"", "y", "yes"}:
        quiet = msgspec.structs.replace(settings.load, people=0, slow=0, rate=None)
        return msgspec.structs.replace(settings, attach=first.url, load=quiet)
    return settings


def _confirm(question: str) -> None:
    if not _interactive():
        return
    if _asked(f"{question} [y/N] ") not in {"y", "yes"}:
        raise StackError("Nothing was started.")


def _asked(question: str) -> str:
    """A person's answer in small letters; the end of the input is a no."""
    try:
        return input(question).strip().lower()
    except EOFError:
        print()
        return "no"


def _console(options: argparse.Namespace) -> int:
    if options.json and not options.once:
        raise UsageError("--json goes with --once.")
    client = StackClient(default_paths())
    watched = None if options.watch is None else watch_verb.place(options.watch)
    if options.once:
        return _print_snapshot(client if watched is None else watch_verb.client_of(watched), options.json)
    _check_terminal()
    if watched is not None:
        from console.sources.live import LiveSource

        source = LiveSource(watched.socket, can_send=False)
        return _open(source, client, ephemeral=False, title_note=f"watching {watched.owner}'s stack")
    if options.replay is not None:
        from console.sources.replay import ReplaySource
        from server.telemetry.recording import RecordingError, read

        try:
            next(iter(read(options.replay)), None)
        except RecordingError as error:
            raise StackError(str(error)) from None
        return _open(ReplaySource(options.replay), client, ephemeral=False)
    if client.running():
        if options.attach or options.model != "auto":
            print("spark-serve: a stack is running; opening it as it is (spark-serve down ends it).", file=sys.stderr)
    else:
        _bring_up(client, options)
    from console.sources.live import LiveSource

    return _open(LiveSource(client.paths.socket), client, ephemeral=options.ephemeral)


def _open(source: Source, client: StackClient, *, ephemeral: bool, title_note: str = "") -> int:
    """Run the cockpit until it is left; its last words go to the restored terminal."""
    gc.disable()  # what is imported lives for ever: looking through it again and again is a sixth of the start
    from console.app import CockpitApp
    from console.trouble import Trouble

    gc.freeze()
    gc.enable()
    app = CockpitApp(source, title_note=title_note, trouble=Trouble(client.paths.logs / "console.log"))
    daemon = client.daemon()
    left = app.run()
    if left is None:
        if app.failure is not None:
            lives = " The stack lives on." if source.kind == "live" else ""
            raise StackError(f"{app.trouble.note('The console failed', app.failure)}.{lives}")
        return app.return_code or 1
    if left.how == "detached" and ephemeral:
        return _down(argparse.Namespace())
    if left.how == "stopped":
        return _wait_down(client, daemon)
    if left.message:
        try:
            print(left.message, flush=True)
        except OSError:  # the terminal may be what was lost
            _write_nowhere()
    return app.return_code or 0


def _interactive() -> bool:
    """Can a person be asked?"""
    return sys.stdin is not None and sys.stdin.isatty()


def _in_background() -> bool:
    """Does another job of the shell have the terminal? A terminal that is no shell's has no jobs."""
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()
    except OSError:
        return False


def _check_terminal() -> None:
    if not _interactive() or sys.stdout is None or not sys.stdout.isatty():
        raise UsageError("The console needs a terminal; --once prints one frame without one.")
    if os.environ.get("TERM", "") in {"", "dumb"}:
        raise UsageError("This terminal cannot draw (TERM is dumb or unset); --once prints one frame.")
    if _in_background():
        signal.raise_signal(signal.SIGTTIN)  # stops here, as job control has it, until somebody brings it forward
        if _in_background():
            raise StackError("The console was started in the background; start it in the foreground.")
    if all(os.get_terminal_size(sys.stdout.fileno())):
        for name in ("COLUMNS", "LINES"):  # exported ones would hold against every later size
            os.environ.pop(name, None)
    width, height = shutil.get_terminal_size()
    if width < SMALLEST_TERMINAL[0] or height < SMALLEST_TERMINAL[1]:
        least = "x".join(map(str, SMALLEST_TERMINAL))
        raise StackError(f"The terminal is {width}x{height}; the console needs at least {least}. Make it larger.")


def _print_snapshot(client: StackClient, as_json: bool) -> int:
    from console.once import healthy, render_once

    snapshot = client.snapshot()
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(snapshot)).decode())
    else:
        print(render_once(snapshot))
    return 0 if healthy(snapshot) else 1


def _up(options: argparse.Namespace) -> int:
    import time

    client = StackClient(default_paths())
    if client.running():
        raise StackError("A stack is already running; `spark-serve console` opens it, `spark-serve down` ends it.")
    _bring_up(client, options)
    if not options.wait:
        print("The stack is coming up; `spark-serve console` shows it.")
        return 0
    said = ""
    while True:
        try:
            snapshot = client.snapshot()
        except StackError:
            if not client.running():
                raise StackError("The stack ended while it came up; see `spark-serve logs stack`.") from None
            time.sleep(0.2)
            continue
        engine = snapshot.engine
        running = next((stage.name for stage in reversed(engine.start.stages) if stage.end_s is None), "")
        words = f"{engine.phase} {engine.error if engine.phase == 'down' else running}".strip()
        if words != said:
            print(f"{snapshot.uptime_s:6.1f} s  {words}", flush=True)
            said = words
        if engine.phase == "ready":
            return 0
        if engine.phase in {"failed", "no_engine"} or (engine.phase == "down" and engine.again_in_s is None):
            daemon = client.daemon()
            client.send(commands.Down())
            client.stopped(daemon, DOWN_TIMEOUT_S)
            raise StackError(engine.error or "The engine did not come up.")
        time.sleep(0.3)


def _down(_: argparse.Namespace) -> int:
    from server.leftovers import end_leftovers

    client = StackClient(default_paths())
    if client.running():
        daemon = client.daemon()
        answer = client.send(commands.Down())
        if not answer.ok:
            raise StackError(answer.message)
        return _wait_down(client, daemon)
    ended = end_leftovers(client.paths)
    if ended:
        print(f"No stack was running; ended {len(ended)} process(es) it had left behind: {', '.join(ended)}.")
    else:
        print("No stack is running.")
    return 0


def _wait_down(client: StackClient, daemon: psutil.Process | None) -> int:
    if not client.stopped(daemon, DOWN_TIMEOUT_S):
        raise StackError(f"The stack did not end within {DOWN_TIMEOUT_S:.0f} s; see `spark-serve logs stack`.")
    print("The stack is down; no process of it is left.")
    return 0


def _status(options: argparse.Namespace) -> int:
    return _print_snapshot(StackClient(default_paths()), options.json)


def _send_limits(options: argparse.Namespace) -> int:
    if options.max_in_flight is None and options.max_queue is None:
        raise UsageError("Give --max-in-flight, --max-queue or both.")
    return send(commands.Limits(options.max_in_flight, options.max_queue))


def _send_policy(options: argparse.Namespace) -> int:
    bounds = {"max_in_flight": options.max_in_flight, "max_queue": options.max_queue}
    change = msgspec.convert(_policy_change(options, options.order, **bounds), commands.Policy)
    if change.said():
        return send(change)
    rules = StackClient(default_paths()).snapshot().queue.rules
    if rules is None:
        raise StackError("The gateway has not told its policy yet.")
    for name, value in msgspec.structs.asdict(rules).items():
        print(f"{name.removesuffix('_s').replace('_', '-'):16} {_shown(value)}")
    return 0


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "off" if value is None else f"{value:g} s" if isinstance(value, float) else str(value)


def _send_knobs(options: argparse.Namespace) -> int:
    chunked = None if options.chunked_prefill is None else options.chunked_prefill == "on"
    knobs = commands.Knobs(
        scheduling_policy=options.scheduling_policy,
        max_num_batched_tokens=options.max_num_batched_tokens,
        chunked_prefill=chunked,
        max_num_queued_reqs=options.max_num_queued_reqs,
    )
    if knobs == commands.Knobs():
        raise UsageError("Name at least one of the engine's knobs (see spark-serve knobs --help).")
    return send(knobs)


def _send_restart(options: argparse.Namespace) -> int:
    return send(commands.Restart(options.kind))


def _send_marker(options: argparse.Namespace) -> int:
    return send(commands.Marker(" ".join(options.note)))


def _send_record(options: argparse.Namespace) -> int:
    path = str(options.file.resolve()) if options.file else None
    return send(commands.Record(on=not options.stop, path=path))


def _logs(options: argparse.Namespace) -> int:
    client = StackClient(default_paths())
    if client.running():
        lines = client.logs(options.child, options.lines)
    else:
        from server.engine.logfile import tail

        path = client.paths.logs / f"{options.child}.log"
        if not path.exists():
            raise StackError(f"There is no log of {options.child} yet.")
        lines = tail(path, options.lines)
    print("\n".join(lines))
    return 0


def _engine_help(options: argparse.Namespace) -> int:
    options.engine_parser.print_help()
    return 2


def _engine_install(options: argparse.Namespace) -> int:
    from server.engine.install import Progress, install

    live = sys.stdout.isatty()

    def report(progress: Progress) -> None:
        """Steps stay; what pip says in between shares one line, and only on a terminal."""
        if progress.step:
            print(f"{WIPE if live else ''}{progress.elapsed_s:6.1f} s  {progress.text}", flush=True)
        elif live:
            text = f"{progress.elapsed_s:6.1f} s    {progress.text.strip()}"
            print(f"{WIPE}{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif progress.text.startswith("still"):
            print(f"{progress.elapsed_s:6.1f} s    {progress.text[:100]}", flush=True)

    try:
        environment = install(
            default_paths(),
            report,
            device=options.device,
            python=options.python,
            index_url=options.index_url,
            if_missing=options.if_missing,
        )
    finally:
        if live:
            print(WIPE, end="", flush=True)
    if not options.if_missing:
        print(f"vLLM {environment.vllm_version} ({environment.device}) is ready.")
    return 0


def _engine_doctor(options: argparse.Namespace) -> int:
    from server.engine.doctor import diagnose, render

    findings = diagnose(default_paths(), StackSettings(engine_python=options.engine_python))
    print(render(findings))
    return 1 if any(finding.level == "bad" for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
