"""What did not add up in a run, and what was checked and held."""

from __future__ import annotations

from typing import Literal

from server.report.rows import Run
from server.report.sums import DISAGREES, LITTLE_S
from server.report.text import ABSENT, count, md, plural, seconds, share

UNATTRIBUTED = 0.01
DIFFER = 0.01
MOST = 5

State = Literal["off", "unknown", "held"]
Found = tuple[State, str]


def found(run: Run) -> list[Found]:
    """Every check, whether it held, and a sentence."""
    checks = (_little, _unattributed, _arrivals, _tokens, _void, _sources, _holes, _left_out)
    return [one for check in checks for one in check(run)]


def section(run: Run) -> list[str]:
    """Three lists as lines of Markdown."""
    by_state: dict[State, list[str]] = {"off": [], "unknown": [], "held": []}
    for state, text in found(run):
        by_state[state].append(f"- {text}")
    lines = by_state["off"] or ["Nothing that was checked."]
    if by_state["unknown"]:
        lines += ["", "Could not be checked:", "", *by_state["unknown"]]
    if by_state["held"]:
        lines += ["", "Checked, and it held:", "", *by_state["held"]]
    return [*lines, ""]


def _little(run: Run) -> list[Found]:
    check = run.tally.little
    what = "Little's law (rate x time = people inside)"
    if check is None or check.worst is None:
        return [
            (
                "unknown",
                f"{what}: {ABSENT} (no {LITTLE_S:.0f} s with 20 requests, a steady number of them and no event)",
            )
        ]
    error, expected, counted, at = check.worst
    worst = f"the worst, up to {run.at(at)}: {expected:.1f} expected, {counted:.1f} counted ({error * 100:+.1f} %)"
    windows = f"{plural(check.checked, 'steady window')} of {LITTLE_S:.0f} s"
    if check.disagreed:
        return [
            ("off", f"{what} was off by more than {DISAGREES * 100:.0f} % in {check.disagreed} of {windows}; {worst}")
        ]
    return [("held", f"{what} held within {DISAGREES * 100:.0f} % in {windows}; {worst}")]


def _unattributed(run: Run) -> list[Found]:
    stages, e2e_s = run.tally.stages.means, run.tally.stages.e2e_s
    if "unattributed" not in stages or not e2e_s:
        return [("unknown", "where the time of requests went: no stage of them is known")]
    part = abs(stages["unattributed"]) / e2e_s
    text = f"{seconds(stages['unattributed'])} ({share(part)}) of a mean request's {seconds(e2e_s)} lies in no stage"
    return [("off" if part > UNATTRIBUTED else "held", text)]


def _arrivals(run: Run) -> list[Found]:
    sent, arrived = run.tally.sent.total, run.tally.arrived.total
    if not sent or not run.tally.arrived.grown:
        return []
    text = f"our clients sent {count(sent)} requests, the gateway saw {count(arrived)}"
    off = abs(sent - arrived)
    if off > max(5.0, DIFFER * sent):
        why = "some are somebody else's" if arrived > sent else "some never came there"
        return [("off", f"{text}: {why}")]
    return [("held", text)]


def _tokens(run: Run) -> list[Found]:
    requests = run.requests
    if requests is None or not requests.completion_tokens or not run.tally.tokens:
        return []
    made, got = run.tally.tokens, requests.completion_tokens
    off = (made - got) / got
    text = f"tokens: the engine's rate comes to about {count(made)}, our clients' usage to {count(got)} ({off * 100:+.1f} %)"
    return [("off" if abs(off) > DISAGREES else "held", text)]


def _void(run: Run) -> list[Found]:
    voids = run.tally.voids
    if not voids.seconds:
        return []
    why = "; ".join(md(what) for what, _ in voids.longest()[:MOST]) or "for a moment"
    return [
        ("off", f"the load generator was the limit for {seconds(voids.total)}, do not trust the figures of then: {why}")
    ]


def _sources(run: Run) -> list[Found]:
    found: list[Found] = []
    fine: list[str] = []
    for name, outage in run.tally.sources.items():
        if not outage.seconds:
            fine.append(md(name))
            continue
        why = "; ".join(md(detail) for detail, _ in outage.details.longest()[:2] if detail)
        if not outage.answered:
            found.append(("off", f"source {md(name)} never answered{f': {why}' if why else ''}"))
        else:
            times = plural(outage.times, "time")
            text = (
                f"source {md(name)} did not answer {times}, {seconds(outage.seconds)} in all{f': {why}' if why else ''}"
            )
            found.append(("off", text))
    if fine:
        found.append(("held", f"always answered: {', '.join(fine)}"))
    return found


def _holes(run: Run) -> list[Found]:
    holes = run.tally.holes
    if not holes:
        return []
    at, longest = max(holes, key=lambda hole: hole[1])
    text = f"nothing was written down for {seconds(run.tally.hole_s)} in {plural(len(holes), 'hole')}"
    return [("off", f"{text}, the longest {seconds(longest)} at {run.at(at)}")]


def _left_out(run: Run) -> list[Found]:
    found: list[Found] = []
    if left_out := run.tally.stages.left_out:
        found.append(
            ("off", f"of {plural(left_out, 'request')} other stages are known; the stage means leave them out")
        )
    return found
