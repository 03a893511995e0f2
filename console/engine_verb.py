"""The verb `engine`: vLLM in an environment of its own."""

from __future__ import annotations

import argparse
import shutil
import sys

from console.load_verbs import VerbMaker
from console.output import WIPE
from server.config import StackSettings, default_paths


def add(verb: VerbMaker) -> None:
    """Add the verb with its actions."""
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
