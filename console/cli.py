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
from typing import TYPE_CHECKING, Any, NoReturn, get_args

import msgspec
import psutil

from console import (
    compare_verb,
    engine_verb,
    fault_verb,
    help_verb,
    lesson_verb,
    load_verbs,
    manual,
    notes_verbs,
    policy_verbs,
    replay_verb,
    report_verb,
    request_verb,
    settings_verb,
    watch_verb,
    web_verb,
)
from console.output import printable
from console.sources.base import Source
from console.themes import NO_COLOUR, THEME_CHOICES, theme_of
from console.verb import UsageError, count, port
from server import commands
from server.client import NO_STACK, StackClient, StackError
from server.config import SettingError, StackSettings, be_private, default_paths
from server.engine.errors import EngineError
from server.gateway.policy import Balance, PolicyChange

if TYPE_CHECKING:
    from console.lessons.lesson import Lesson

BALANCES = get_args(Balance)
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
        options.argv = sys.argv[1:] if argv is None else argv
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

    def format_help(self) -> str:
        """Of all of it: the verbs by purpose."""
        return manual.overview(self) if self.prog == "spark-serve" else super().format_help()

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
    replay_verb.add_console(console)
    console.add_argument(
        "--watch",
        nargs="?",
        const="",
        metavar="SOCKET|USER",
        help="watch somebody's stack, read-only, where they allow it",
    )
    console.add_argument(
        "--homework", metavar="FILE", type=Path, help="what key e also fills in; written blank where there is none"
    )
    console.add_argument(
        "--baseline",
        metavar="FILE",
        type=Path,
        help="show every change against a recording's last stable minute (key z)",
    )
    _look_options(console)
    console.add_argument("--ephemeral", action="store_true", help="stop the stack when the console is left")
    web_verb.add_options(console)

    _look_options(replay_verb.add_demo(verb, _demo))

    up = verb("up", _up, "Bring the stack up in the background.")
    _stack_options(up)
    up.add_argument("--wait", action="store_true", help="return when the engine serves, or has failed")

    verb("down", _down, "Stop everything the stack started, and the stack.")
    status = verb("status", _status, "Say how the stack is; exit code 0 when it serves.")
    status.add_argument("--json", action="store_true", help="the whole snapshot as JSON")

    policy_verbs.add(verb)
    notes_verbs.add(verb)
    load_verbs.add(verb)
    report_verb.add(verb)
    compare_verb.add(verb)
    fault_verb.add(verb)
    request_verb.add(verb)
    lesson_verb.add(verb, _lesson)
    settings_verb.add(verb)
    watch_verb.add(verb)
    engine_verb.add(verb)
    help_verb.add(verb, parser)

    manual.dress(parser)
    return parser


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
    gateway.add_argument("--order", choices=policy_verbs.ORDERS, help="who of those who wait goes next; default fifo")
    policy_verbs.add_options(gateway)
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
        policy=msgspec.convert(policy_verbs.change(options, options.order), PolicyChange),
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
    web_verb.check(options)
    replay_verb.check(options)
    client = StackClient(default_paths())
    watched = None if options.watch is None else watch_verb.place(options.watch)
    if options.once:
        return _print_snapshot(
            client if watched is None else watch_verb.client_of(watched), options.json, plain=options.plain
        )
    if options.baseline is not None:
        _check_recording(options.baseline)
    if options.homework is not None and options.replay is not None:
        raise UsageError(
            f"A replay fills in nothing: spark-serve report {options.replay} --homework {options.homework}"
        )
    if options.web:
        return _console_in_browsers(client, options)
    _check_terminal()
    homework = None if options.homework is None else report_verb.named_homework(options.homework)
    liked = _liked(options)
    if watched is not None:
        from console.sources.live import LiveSource

        source = LiveSource(watched.socket, can_send=False)
        return _open(source, client, liked, ephemeral=False, title_note=f"watching {watched.owner}'s stack")
    if options.replay is not None:
        return _open(replay_verb.source(options.replay, options), client, liked, ephemeral=False)
    if client.running():
        if options.attach or options.model != "auto":
            print("spark-serve: a stack is running; opening it as it is (spark-serve down ends it).", file=sys.stderr)
    else:
        _bring_up(client, options)
    if homework is not None:
        client.send(homework)
    from console.sources.live import LiveSource

    return _open(LiveSource(client.paths.socket), client, liked, ephemeral=options.ephemeral)


def _console_in_browsers(client: StackClient, options: argparse.Namespace) -> int:
    """What has to be asked is asked here; the console that is shown finds a stack that runs."""
    if options.replay is None and options.watch is None and not client.running():
        _bring_up(client, options)
    code = web_verb.serve(options, options.argv)
    return _down(options) if options.ephemeral and client.running() else code


def _liked(options: argparse.Namespace) -> dict[str, Any]:
    """What the command line, the environment and the settings file say of looks and keys, for the application.

    NO_COLOR is stronger than the file (a key wrote that) and weaker than `--theme`.
    """
    from console.settings import read_settings, settings_file

    settings = read_settings()
    if options.theme is not None:
        os.environ.pop("NO_COLOR", None)
    look = NO_COLOUR if options.no_color else theme_of(options.theme or settings.theme, os.environ)
    return {
        "settings": settings,
        "look": look,
        "remember_in": settings_file(),
        "words": "plain" if options.plain else settings.words,
        "baseline": getattr(options, "baseline", None),
    }


def _lesson(lesson: Lesson) -> int:
    """In the cockpit, on the running stack."""
    _check_terminal()
    client = StackClient(default_paths())
    if not client.running():
        raise StackError(NO_STACK)
    from console.sources.live import LiveSource

    liked = _liked(argparse.Namespace(theme=None, no_color=False, plain=False))
    return _open(LiveSource(client.paths.socket), client, liked, ephemeral=False, lesson=lesson)


def _open(
    source: Source,
    client: StackClient,
    liked: dict[str, Any],
    *,
    ephemeral: bool,
    lesson: Lesson | None = None,
    title_note: str = "",
) -> int:
    """Run the cockpit until it is left; its last words go to the restored terminal."""
    gc.disable()  # what is imported lives for ever: looking through it again and again is a sixth of the start
    from console.app import cockpit
    from console.trouble import Trouble

    gc.freeze()
    gc.enable()
    app = cockpit(source, title_note=title_note, trouble=Trouble(client.paths.logs / "console.log"), **liked)
    app.first_lesson = lesson
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


def _check_recording(path: Path) -> None:
    """Raises UsageError where there is none that can be read."""
    from server.telemetry.recording import RecordingError, read

    try:
        next(iter(read(path)), None)
    except RecordingError as error:
        raise UsageError(f"--baseline: {error}") from None


def _interactive() -> bool:
    """Can a person be asked?"""
    return sys.stdin is not None and sys.stdin.isatty()


def _look_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plain", action="store_true", help="in plain words: guests, waiting list, kitchen (key n)")
    listed = f"{', '.join(THEME_CHOICES)}; default: the settings', else the terminal's"
    parser.add_argument("--theme", choices=THEME_CHOICES, metavar="NAME", help=listed)
    parser.add_argument("--no-color", "--no-colour", action="store_true", help="no colours; so does NO_COLOR")


def _demo(options: argparse.Namespace) -> int:
    source = replay_verb.demo_source(options)
    _check_terminal()
    return _open(source, StackClient(default_paths()), _liked(options), ephemeral=False)


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


def _print_snapshot(client: StackClient, as_json: bool, *, plain: bool = False) -> int:
    from console.once import healthy, render_once

    snapshot = client.snapshot()
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(snapshot)).decode())
    else:
        print(render_once(snapshot, "plain" if plain else "standard"))
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


if __name__ == "__main__":
    sys.exit(main())
