"""What frames the arrows: the head, the run from event to event, its events and its configuration."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from server.compare.progress import CompareProgress
from server.report.rows import Run
from server.report.stretches import Stretch
from server.report.sums import WINDOW_S
from server.report.text import ABSENT, count, digits, fenced, md, plural, seconds, share, table, wall, whole
from server.telemetry.limit import NOTHING
from server.telemetry.snapshot import Event

MOST_STRETCHES = 40
MOST_LIMITS = 5
MIN_DUE = 20
"""Requests that a judgement needs."""
GOOD_SHARE = 0.95
"""What the verdict calls GOOD."""
_SECRET = re.compile(r"^--?[\w-]*(api[-_]key|token|secret|password)$", re.IGNORECASE)
HIDDEN = "(hidden)"


def head(run: Run, source: str) -> list[str]:
    """Title, what was looked at, and the run in three sentences."""
    tally, engine = run.tally, run.facts.engine
    model = md(engine.model) or "no model"
    weights = " (random weights)" if engine.model_kind == "shape" else ""
    title = f"# Request log: {model}{weights} on {md(engine.device) or 'an unknown device'}"
    when = f"{wall(run.first.wall, '%Y-%m-%d %H:%M:%S')} to {wall(run.last.wall, '%H:%M:%S %Z')}"
    about = f"{source}: {plural(tally.count, 'snapshot')} over {seconds(tally.seconds)}, {when}"
    if engine.version:
        about += f"; {md(engine.name)} {md(engine.version)}"
    return [title, "", f"From {about}.", "", *_summary(run), ""]


def _summary(run: Run) -> list[str]:
    tally, slo = run.tally, run.slo
    lines = []
    ended = run.ended or tally.gateway.grown
    total = sum(ended.values())
    fine = ended.get("ok", 0) + ended.get("completed", 0)
    gauge = tally.gauges.get("people")
    crowd = "" if gauge is None or not gauge.most else f", with {whole(gauge.most)} people at most"
    if total:
        lines.append(f"- {count(fine)} of {plural(total, 'request')} finished{crowd}.")
    else:
        lines.append("- No request ended.")
    if run.due:
        limits = f"{md(slo.name)}: first token within {seconds(slo.ttft_s)}, then at most {seconds(slo.tpot_s)} a token"
        over = (
            ""
            if run.requests is not None
            else f" in {plural(tally.judged.windows, 'whole window')} of {WINDOW_S:.0f} s"
        )
        judged = f"{count(run.good)} of {count(run.due)} judged{over} were good"
        lines.append(f"- {judged}: {share(run.good / run.due)} ({limits}).")
    if (worst_stretch := _worst(run)) is not None:
        lines.append(worst_stretch)
    if tally.stages.e2e_s:
        stages = {name: mean_s for name, mean_s in tally.stages.means.items() if name not in {"decode", "unattributed"}}
        worst = max(stages, key=lambda name: stages[name], default="")
        if worst:
            part = share(stages[worst] / tally.stages.e2e_s)
            lines.append(
                f"- Apart from decoding, a mean request spent most in `{md(worst)}`: {seconds(stages[worst])}, {part}."
            )
    words = ", ".join(f"{word} {seconds(round(s))}" for word, s in tally.words.longest() if round(s))
    if words:
        lines.append(f"- The verdict was {words}.")
    held = [
        (word, s) for word, s in tally.limits.longest() if word and word not in {"not evaluated", NOTHING} and round(s)
    ]
    if held:
        said = ", ".join(f"{md(word)} {seconds(round(s))}" for word, s in held[:MOST_LIMITS])
        lines.append(f"- What held it back: {said}.")
    return lines


def _worst(run: Run) -> str | None:
    """The stretch in which the fewest were good, if it fell short of the promise and the run had another one."""
    judged = []
    for index, stretch in enumerate(run.stretches):
        good, due, p50 = stretch.good, stretch.due, stretch.ttft_p50_s
        if run.requests is not None:
            good, due, ttft_s = run.requests.stretch(index)
            p50 = ttft_s.p50
        if due >= MIN_DUE:
            judged.append((good / due, due, p50, stretch))
    if len(judged) < 2 or min(judged, key=lambda item: item[0])[0] >= GOOD_SHARE:
        return None
    reached, due, p50, stretch = min(judged, key=lambda item: item[0])
    began = md("; ".join(stretch.began_with)) or "the beginning"
    when = f"from {run.at(stretch.begin)} ({began}) for {seconds(round(stretch.seconds))}"
    return f"- It was worst {when}: {share(reached)} of {count(due)} good, TTFT p50 {seconds(p50)}."


def comparison(progress: CompareProgress) -> list[str]:
    """What came of comparing policies, and what was said on the way."""
    state = {"running": "It was still going on.", "stopped": "It ended early."}.get(progress.phase, "")
    sentences = re.split(r"(?<=\.) ", progress.message)
    said = " ".join(md(part) for part in (*sentences, state) if part)
    lines = [said, ""] if said else []
    if progress.lines:
        lines += [*fenced(progress.lines), ""]
    if progress.saved:
        lines += [f"`spark-serve compare --show {md(PurePath(progress.saved).name)}` prints its table and chart.", ""]
    return lines


def stretches(run: Run) -> list[str]:
    """One row from each event to the next."""
    kept = run.stretches
    note: list[str] = []
    if len(kept) > MOST_STRETCHES:
        longest = sorted(kept, key=lambda stretch: -stretch.seconds)[:MOST_STRETCHES]
        kept = sorted(longest, key=lambda stretch: stretch.begin)
        left_out = len(run.stretches) - MOST_STRETCHES
        note = [f"The {MOST_STRETCHES} longest; {plural(left_out, 'shorter one')} left out.", ""]
    rows = [_stretch(run, stretch, run.stretches.index(stretch)) for stretch in kept]
    columns = (
        "from",
        "began with",
        "lasted",
        "people",
        "finished",
        "not",
        "good",
        "TTFT p50",
        "TTFT p95",
        "tokens/s",
        "queue, most",
        "batch",
        "tensor",
        "HBM",
    )
    return [*note, *table(columns, rows, left=2)]


def _stretch(run: Run, stretch: Stretch, which: int) -> Sequence[str]:
    good, due, p50, p95 = stretch.good, stretch.due, stretch.ttft_p50_s, stretch.ttft_p95_s
    if run.requests is not None:
        good, due, ttft_s = run.requests.stretch(which)
        p50, p95 = ttft_s.p50, ttft_s.p95
    fine = stretch.ended.get("ok", 0) + stretch.ended.get("completed", 0)
    return (
        run.at(stretch.begin),
        md("; ".join(stretch.began_with)) or "the beginning",
        seconds(round(stretch.seconds)),
        whole(stretch.people),
        count(fine),
        count(sum(stretch.ended.values()) - fine),
        f"{share(good / due)} of {count(due)}" if due else ABSENT,
        seconds(p50),
        seconds(p95),
        digits(stretch.tokens_per_s),
        whole(stretch.depth_most),
        whole(stretch.running),
        share(stretch.tensor),
        share(stretch.dram),
    )


def events(run: Run) -> list[str]:
    tally = run.tally
    left_out = tally.events - len(tally.events_first) - len(tally.events_last)
    if not tally.events:
        return ["Nothing happened that is noted as an event.", ""]

    def rows(kept: Iterable[Event]) -> list[tuple[str, ...]]:
        return [(run.at(event.at), wall(event.wall), md(event.kind), md(event.text)) for event in kept]

    lines = table(("at", "time", "kind", "what"), [*rows(tally.events_first), *rows(tally.events_last)], words=True)
    return [*lines, f"{plural(left_out, 'event')} between them left out.", ""] if left_out else lines


def configuration(run: Run) -> list[str]:
    tally, slo = run.tally, run.slo
    engine = run.facts.engine
    rows = [(name, " then ".join(md(v) for v in values)) for name, values in tally.settings.items() if values]
    rows.append(("SLO", f"{md(slo.name)}: TTFT {seconds(slo.ttft_s)}, TPOT {seconds(slo.tpot_s)}"))
    profile = run.facts.people.profile
    if profile is not None:
        rows.append(("think time, mean", seconds(profile.think_s)))
        rows.append(("seed", str(profile.seed)))
    weights = run.facts.people.weights
    if weights:
        rows.append(("people split by", ", ".join(f"{md(name)} {weight:g}" for name, weight in weights.items())))
    host = run.facts.host
    if host.cores:
        rows.append(("host", f"{plural(host.cores, 'core')}"))
    how = {"in-band": "with each response", "otlp": "from its spans", "windowed": "means of 30 s only"}
    if engine.stage_times:
        rows.append(("engine's times of a request", how[engine.stage_times]))
    if engine.attached:
        rows.append(("engine", "started by somebody else"))
    lines = table(("", "setting"), rows, words=True)
    argv = engine.argv or run.last.engine.argv
    return [*lines, "The engine's command:", "", *fenced([arguments(argv)]), ""] if argv else lines


def arguments(argv: Sequence[str]) -> str:
    """A command line for a person, without its secrets."""
    shown: list[str] = []
    hide = False
    for word in argv:
        name, equals, _ = word.partition("=")
        if hide and not word.startswith("-"):
            shown.append(HIDDEN)
            hide = False
            continue
        hide = bool(_SECRET.match(name)) and not equals
        shown.append(f"{name}={HIDDEN}" if equals and _SECRET.match(name) else word)
    return " ".join(shown)


def legend(run: Run) -> list[str]:
    lines = [
        f"`{ABSENT}` is absent, never zero. Moments count from the first snapshot. A p95 needs 100 requests, a p99 500."
    ]
    if run.requests is not None:
        lines.append(
            f"TTFT, TPOT, end to end, outcomes and judgements are exact, from all {count(run.requests.n)} requests that "
            "ended within the run; in the table from event to event a request counts where it was meant to begin."
        )
    else:
        lines.append(
            f"The single requests were not kept, so quantiles are those of windows of {WINDOW_S:.0f} s side by side: the "
            "median over the windows (`12 w`: 12 of them had enough requests), and the worst one. n, mean and largest are "
            "of all windows together. From event to event only windows that lie whole in between count, so there are none "
            f"in less than {WINDOW_S:.0f} s."
        )
    lines.append(
        "`~` is interpolated from a histogram's buckets. Readings are medians and means over all that were taken. Totals are "
        "differences of counters over the run, never lifetime figures."
    )
    return [" ".join(lines), ""]
