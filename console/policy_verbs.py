"""The verbs about the queue and the engine's scheduling: limits, policy, knobs, restart."""

from __future__ import annotations

import argparse
from typing import get_args

import msgspec

from console.load_verbs import VerbMaker
from console.verb import UsageError, count, positive, seconds_or_off, send
from server import commands
from server.client import StackClient, StackError
from server.config import default_paths
from server.gateway.policy import LimitKind, Order, Overload

ORDERS, LIMITS, OVERLOADS = get_args(Order), get_args(LimitKind), get_args(Overload)


def add(verb: VerbMaker) -> None:
    """Add the verbs to the parser."""
    limits = verb("limits", _send_limits, "Change the gateway's admission limits on the running stack.")
    limits.add_argument("--max-in-flight", type=count, metavar="N")
    limits.add_argument("--max-queue", type=count, metavar="N")
    policy = verb("policy", _send_policy, "Change the gateway's admission policy on the running stack, or print it.")
    policy.add_argument("order", nargs="?", choices=ORDERS, help="who of those who wait goes next")
    policy.add_argument("--max-in-flight", type=count, metavar="N")
    policy.add_argument("--max-queue", type=count, metavar="N")
    add_options(policy)
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


def add_options(parser: argparse._ActionsContainer) -> None:
    """Those of a policy, for the verb and for a stack that starts."""
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


def change(options: argparse.Namespace, order: str | None, **bounds: int | None) -> dict[str, object]:
    """The fields of a PolicyChange that the options of `add_options` name."""
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


def _send_limits(options: argparse.Namespace) -> int:
    if options.max_in_flight is None and options.max_queue is None:
        raise UsageError("Give --max-in-flight, --max-queue or both.")
    return send(commands.Limits(options.max_in_flight, options.max_queue))


def _send_policy(options: argparse.Namespace) -> int:
    bounds = {"max_in_flight": options.max_in_flight, "max_queue": options.max_queue}
    wanted = msgspec.convert(change(options, options.order, **bounds), commands.Policy)
    if wanted.said():
        return send(wanted)
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
