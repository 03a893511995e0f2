"""The strip: people -> gateway -> queue -> model server -> GPU -> tokens, and where requests wait most."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from console import format as fmt
from console import raster
from console.baseline import change, stage_mean
from console.history import CELL_S
from console.ink import Line, Span, beside, fit, line, pick, text_width, width
from console.panels.gpu import MBU_NOTE, MFU_NOTE, has_gpm, memory_name
from console.panels.queue import blocked, limit_note, limit_words
from console.view import View, figure, quantile_note
from console.words import plainly, say
from server.telemetry.snapshot import Engine, People, Queue, Snapshot, Value

Column = tuple[Line, Line, Line]

GLOW_AT_LEAST_S = 0.05
GLOW_AT_LEAST_SHARE = 0.05
"""A stage glows only when its wait could be felt: seconds, and share of the whole request."""

_WAITS = {"queue": 2, "front end": 1, "engine queue": 3, "prefill": 3}
"""Stage of the breakdown -> column of the strip."""


LEADS_TO = (
    "show_screen('load')",
    "show_screen('requests')",
    "policy",
    "show_screen('engine')",
    "show_screen('engine')",
    "show_screen('requests')",
)
"""Where a click on a column goes: to what can be seen of it, or done about it."""


def glowing(snapshot: Snapshot) -> tuple[int, str, float] | None:
    """The column where requests wait most, the stage's name and its mean seconds; None when no wait can be felt."""
    means = {stage.name: stage.mean_s for stage in snapshot.breakdown.stages}
    whole = fmt.known(snapshot.breakdown.e2e_s)
    if not means:
        engine = snapshot.engine
        means = {
            "queue": snapshot.queue.wait_s.mean,
            "front end": engine.front_end_s.v,
            "engine queue": engine.queue_s.mean,
            "prefill": engine.prefill_s.mean,
        }
        whole = fmt.known(snapshot.feel.e2e_s.mean)
    waits = {name: mean for name in _WAITS if (mean := fmt.known(means.get(name))) is not None}
    if not waits:
        return None
    name = max(waits, key=waits.__getitem__)
    if waits[name] < GLOW_AT_LEAST_S or (whole and waits[name] < whole * GLOW_AT_LEAST_SHARE):
        return None
    return _WAITS[name], name, waits[name]


def stages(view: View, cells: int, rows: int) -> list[Line]:
    """Titles with arrows, three figure lines, and a sparkline in the rows that are left."""
    snapshot = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0)
    edges = _edges(cells)
    glow = glowing(snapshot)
    spark_rows = max(0, rows - 4)
    blocks: list[tuple[list[Line], int]] = [([], 1)]
    for index, (title, draw, series) in enumerate(_COLUMNS):
        room = edges[index + 1] - edges[index]
        inner = room - (2 if room >= 16 else 1)
        hot = glow is not None and glow[0] == index
        block = [
            _title(
                say(title(snapshot, room), room - 2 * hot),
                room,
                hot=hot,
                note=glow[1] if hot and glow else "",
                last=index == 5,
            )
        ]
        block += [fit(_changed_first(one, inner), inner) for one in draw(snapshot, inner)]
        if spark_rows:
            values = view.history.cells(series, inner)
            top = _top(series, snapshot, values)
            style = "spark-wait" if hot else "spark"
            note = f"the last {inner * CELL_S} s, up to {fmt.share(top) if series == 'work' else fmt.count(top)}"
            block += [line(Span(row, style, note)) for row in raster.spark(values, top, spark_rows)]
        blocks.append((block, room))
    return [fit(row, cells) for row in beside(blocks)][:rows]


def _edges(cells: int) -> list[int]:
    return [1 + (cells - 2) * i // 6 for i in range(7)]


def leads_to(x: int, cells: int) -> str:
    """The action behind a click at this cell of the strip."""
    return LEADS_TO[min(5, max(0, bisect_right(_edges(cells), x) - 1))]


def _changed_first(spans: Line, room: int) -> Line:
    """A single figure without its unit where that leaves no room for its change: the column's title says as much."""
    units = [x for x, span in enumerate(spans) if x and span.style == "label"]
    single = sum(span.text.strip()[:1].isdigit() and not span.spare for span in spans) == 1
    if width(spans) <= room or not units or not single or not any(span.spare for span in spans):
        return spans
    brief = spans[: units[-1]] + spans[units[-1] + 1 :]
    return brief if width(brief) <= room else spans


def _title(name: str, room: int, *, hot: bool, note: str, last: bool) -> Line:
    shown = f" {name} " if hot else name
    head = line(Span(shown, "glow" if hot else "title", f"requests wait most here: {note}" if hot else ""))
    if last:
        return head
    rule = room - text_width(shown) - 3
    return head + line(Span(f" {'─' * rule}▶" if rule > 0 else "", "frame"))


def _top(series: str, snapshot: Snapshot, values: list[float | None]) -> float:
    seen = max((value for value in values if value is not None), default=0.0)
    if series == "work":
        return 1.0
    if series == "running" and (cap := fmt.known(snapshot.engine.max_num_seqs.v)):
        return cap
    return max(raster.nice_top(seen), 4.0) if series in {"in_flight", "waiting", "running"} else raster.nice_top(seen)


def _figures(number: Value, text: str, unit: str, note: str = "") -> Line:
    return figure(number, text, unit=unit, note=note)


def _people(snapshot: Snapshot, room: int) -> Column:
    people = snapshot.people
    if people.mode == "none" and people.people.v is None:
        inside = snapshot.queue.in_flight
        return (
            line(Span(say("nobody of ours"), "label")),
            _figures(inside, fmt.count(inside.v), "requests inside"),
            (),
        )
    if people.mode == "open":
        first = _figures(people.sent_per_s, fmt.rate(people.sent_per_s.v), "sent/s")
        second = line(Span(say("of "), "label")) + _figures(
            people.rate_asked_per_s, fmt.rate(people.rate_asked_per_s.v), "asked"
        )
    else:
        first = _figures(people.people, fmt.count(people.people.v), "chatting")
        second = _figures(people.thinking, fmt.count(people.thinking.v), "thinking", "between two requests")
    if flash := fmt.known(people.flash.v):
        crowd = line(Span(f" +{fmt.count(flash)}", "warn", "people of a flash crowd who are still there"))
        first = pick(room, first + crowd + line(Span(say(" crowd"), "label")), first + crowd)
    third = _figures(people.in_flight, fmt.count(people.in_flight.v), "inside", "requests that are on their way")
    slow, left, again = _slow(people), _left(people, room), _again(people, room)
    odd = slow + line(" ") + left if slow and left else slow or left
    if again:
        return first, pick(room, odd, left or slow) if odd else second, again
    if not odd:
        return first, second, third
    return first, second, pick(room, third + line(" ") + odd, third + line(" ") + (slow or left), odd, slow or left)


def _slow(people: People) -> Line:
    if not (slow := fmt.known(people.slow.v)):
        return ()
    return line(
        Span(fmt.count(slow), "figure"), Span(say(" slow"), "label", "people who read slower than the stream comes")
    )


def _left(people: People, room: int) -> Line:
    """Those who had enough: a minute while there are some, else all so far."""
    left, gone = fmt.known(people.left_per_min.v), people.outcomes.get("abandoned", 0)
    if left:
        unit, note = "gone/min" if room >= 20 else "gone/m", "people who had enough and left, a minute"
        return figure(people.left_per_min, fmt.rate(left), unit=unit, style="warn", note=note)
    if gone:
        return line(
            Span(fmt.count(gone), "figure"), Span(say(" gone"), "label", "left before the end, since the start")
        )
    return ()


def _again(people: People, room: int) -> Line:
    """What retriers make of the load, and what was generated for people who had left."""
    times, wasted = fmt.known(people.amplification.v), fmt.known(people.wasted_share.v)
    spans: Line = ()
    if times is not None and (times >= 1.005 or people.crowds.get("retrier")):
        spans = line(Span(say("retry "), "label")) + figure(
            people.amplification,
            f"x{times:.2f}",
            style="warn" if times >= 1.1 else "figure",
            note="requests sent per request that somebody meant to make",
        )
    if not wasted or wasted < 0.0005:
        return spans
    part = figure(
        people.wasted_share, fmt.share(wasted), unit="wasted", style="warn", note="tokens for people who then left"
    )
    return pick(room, spans + line("  ") + part, spans) if spans else part


def _gateway(snapshot: Snapshot, room: int) -> Column:
    queue = snapshot.queue
    first = _figures(queue.arrivals_per_s, fmt.rate(queue.arrivals_per_s.v), say("req/s", room - 6))
    refused = _lost(queue.refused_share, "refused", room)
    if fmt.known(queue.failed_share.v):
        failed = _lost(queue.failed_share, "failed", room)
        worse = failed if (queue.failed_share.v or 0.0) >= (queue.refused_share.v or 0.0) else refused
        refused = pick(room, refused + line(" ") + failed, worse)
    end = snapshot.engine.front_end_s
    joined = next((stage for stage in snapshot.breakdown.stages if stage.name == "front end"), None)
    if joined is not None and fmt.known(joined.mean_s) is not None:
        approx = "" if joined.exact else "~"
        value = line(
            Span(
                approx + fmt.seconds(joined.mean_s),
                "figure",
                f"mean of {joined.n} requests: dispatch, template, tokenise, IPC",
            ),
            *change(joined, fmt.seconds(joined.mean_s), stage_mean),
        )
    else:
        value = figure(end, "~" + fmt.seconds(end.v), note="a windowed mean")
    return first, refused, line(Span(say("front end " if room >= 16 else "front "), "label")) + value


def _lost(lost: Value, unit: str, room: int) -> Line:
    """A share of requests that got no answer: loud from 5 % on."""
    share = fmt.known(lost.v) or 0.0
    text = fmt.share(lost.v)
    return figure(
        lost,
        text if room >= 16 else text.replace(" ", ""),
        unit=say(unit, None if room >= 16 else 7),
        style="bad" if share >= 0.05 else "warn" if share else "figure",
    )


def queue_style(queue: Queue) -> str:
    """Of the number that wait: none, some, or all that may."""
    waiting, limit = fmt.known(queue.depth.v), fmt.known(queue.max_queue.v)
    full = waiting is not None and limit is not None and limit > 0 and waiting >= limit
    return "bad" if full else "warn" if waiting else "figure"


def _queue(snapshot: Snapshot, room: int) -> Column:
    queue = snapshot.queue
    waiting = fmt.known(queue.depth.v)
    limit = fmt.known(queue.max_queue.v)
    full = queue_style(queue) == "bad"
    first = figure(queue.depth, fmt.count(waiting), unit="waiting", style=queue_style(queue))
    if full:
        first = pick(
            room,
            first + line(Span(say(" FULL"), "bad")),
            figure(queue.depth, fmt.count(waiting), unit="FULL", style="bad", unit_style="bad"),
        )
    elif limit is not None and queue.rules is not None and waiting:
        first = pick(room, first + line(Span(say(f" of {fmt.count(limit)}"), "label", "the most that may wait")), first)
    oldest: Line = line(Span(say("oldest " if room >= 16 else "old "), "label")) + figure(
        queue.oldest_s, fmt.seconds(queue.oldest_s.v)
    )
    words = blocked(queue)
    if queue.why in {"tokens", "engine"} and words:
        oldest = pick(room, *(line(Span(say(one), "warn", words[0])) for one in words))
    return first, oldest, _admits(queue, room)


def _admits(queue: Queue, room: int) -> Line:
    """The order, and the limit with what is taken of it; where the gateway tells none, the most that may wait."""
    order = fmt.sanitize(queue.policy, 20)
    kind, taken = limit_words(queue)
    most = fmt.known(queue.max_queue.v)
    told = [kind, taken] if kind else [f"max {fmt.count(most)}"] if most is not None else []
    note = "; ".join((limit_note(queue), *blocked(queue)[:1]))
    label = Span(say(order), "label", "who of those who wait goes next")
    return pick(room, *(line(label, Span(say(f", {one}"), "label", note)) for one in told), line(label))


def batch_style(engine: Engine) -> str:
    """Of the number that run: amber where every slot is taken."""
    cap, running = engine.max_num_seqs.v, engine.running.v
    return "warn" if cap and running is not None and running >= cap else "figure"


def _server(snapshot: Snapshot, room: int) -> Column:
    engine = snapshot.engine
    cap = engine.max_num_seqs.v
    running = engine.running
    of = f"/{fmt.count(cap)}" if cap is not None else "/?"
    if fmt.age(running.age_s):
        batch = figure(running, fmt.count(running.v) + of)
    else:
        batch = figure(running, fmt.count(running.v), style=batch_style(engine))
        told = Span(of if running.v is not None else "", "label", fmt.sanitize(engine.max_num_seqs.why))
        batch = batch[:1] + line(told) + batch[1:]
    first = pick(room, line(Span(say("batch "), "label")) + batch, batch)
    usage = fmt.known(engine.kv_usage.v)
    hot = "bad" if usage is not None and usage >= 0.95 else "figure"
    second: Line = line(Span(say("KV "), "label")) + figure(engine.kv_usage, fmt.share(usage), style=hot)
    if usage is not None and room >= 16:
        stale = fmt.age(engine.kv_usage.age_s)
        filled, rest = raster.bar(usage, min(10, room - 10 - len(stale)))
        second += line(" ", Span(filled, "stale" if stale else "bad" if hot == "bad" else "work"), Span(rest, "frame"))
    inside = fmt.known(engine.waiting.v)
    joined = next((stage for stage in snapshot.breakdown.stages if stage.name == "prefill"), None)
    mean = joined.mean_s if joined else engine.prefill_s.mean
    exact = joined.exact if joined else engine.prefill_s.exact
    if inside and room < 20:
        count = Span(fmt.count(inside), "warn")
        third = pick(room, line(count, Span(say(" wait in it"), "label")), line(count, Span(say(" wait"), "label")))
    else:
        text = ("" if exact else "~") + fmt.seconds(mean) if fmt.known(mean) is not None else fmt.ABSENT_TEXT
        third = line(
            Span(say("prefill " if room >= 16 else "pref. ", 10), "label"),
            Span(text, "figure" if mean is not None else "absent", quantile_note(engine.prefill_s)),
            *(change(joined, text, stage_mean) if joined else change(engine.prefill_s, text, lambda found: found.mean)),
        )
        if inside:
            third += line(
                "  ", Span(fmt.count(inside), "warn"), Span(say(" wait"), "label", "in the engine's own queue")
            )
    return first, second, third


def _gpu(snapshot: Snapshot, room: int) -> Column:
    gpu = snapshot.device
    if gpu is None:
        host = snapshot.host
        note = fmt.sanitize(snapshot.gpu_note) or "no GPU reading"
        cpu = host.engine_cpu_cores
        of = f"of {host.cores} cores" if host.cores else "cores"
        return (
            line(Span(say("engine "), "label")) + figure(cpu, fmt.rate(cpu.v), note=note),
            line(Span(say(of), "label", note)),
            line(Span(say("all CPU " if room >= 16 else "CPU "), "label"))
            + figure(host.cpu_share, fmt.share(host.cpu_share.v)),
        )
    power = figure(gpu.power_w, fmt.count(gpu.power_w.v), unit="W")
    if not has_gpm(gpu):
        busy: Line = line(Span(say("busy "), "faint", "NVML: a kernel ran, nothing more")) + figure(
            gpu.busy, fmt.share(gpu.busy.v), style="label"
        )
        return (
            line(Span(say("MFU "), "label", MFU_NOTE)) + figure(gpu.mfu, fmt.share(gpu.mfu.v)),
            line(Span(say("MBU "), "label", MBU_NOTE)) + figure(gpu.mbu, fmt.share(gpu.mbu.v)),
            pick(room, power + line(" ") + busy, busy if fmt.known(gpu.power_w.v) is None else power),
        )
    sm: Line = line(Span(say("SM "), "label", "share of time an SM had work")) + figure(
        gpu.sm_active, fmt.share(gpu.sm_active.v)
    )
    return (
        line(Span(say("tensor "), "label", "share of time tensor cores worked"))
        + figure(gpu.tensor, fmt.share(gpu.tensor.v)),
        line(Span(say(f"{memory_name(gpu)} "), "label", "share of memory bandwidth in use"))
        + figure(gpu.dram, fmt.share(gpu.dram.v)),
        pick(room, sm + line(" ") + power, sm),
    )


def tokens_out(snapshot: Snapshot) -> Value:
    """Tokens a second by the engine's own count, else by ours."""
    engine = snapshot.engine.generation_tokens_per_s
    return engine if engine.v is not None else snapshot.feel.tokens_per_s


def _tokens(snapshot: Snapshot, room: int) -> Column:
    feel = snapshot.feel
    out = tokens_out(snapshot)
    tpot = feel.tpot_s
    name, value = ("p95", tpot.p95) if tpot.p95 is not None else ("p50", tpot.p50)
    label = f"{say('TPOT', room - 12)} {say(name, 3)} " if room >= 17 else say("TPOT ", 6)
    style = "figure" if value is not None else "absent"
    second: Line = line(Span(label, "label"), Span(fmt.seconds(value), style, quantile_note(tpot) + f"; {name}"))
    second += change(tpot, fmt.seconds(value), lambda found: getattr(found, name))
    if room >= 22:
        second = pick(room - 2, second + line(Span(f"  {say('n=')}{fmt.short_count(tpot.n)}", "faint")), second)
    held = snapshot.people.held if snapshot.people.held.v is not None else snapshot.queue.held
    unit = "held by slow readers" if room >= 24 else "held slow" if room >= 13 else "held"
    third = figure(
        held,
        fmt.count(held.v),
        unit=unit,
        note="replies under way to readers slower than they come",
        style="warn" if held.v else "figure",
    )
    return _figures(out, fmt.count(out.v), say("tok/s", room - 7)), second, third


def _gpu_title(snapshot: Snapshot, room: int) -> str:
    del room
    if plainly():
        return "chef"
    return "GPU" if snapshot.gpus or snapshot.engine.device.upper() not in {"", "CPU"} else "CPU"


_COLUMNS: tuple[tuple[Callable[[Snapshot, int], str], Callable[[Snapshot, int], Column], str], ...] = (
    (lambda _, __: "people", _people, "in_flight"),
    (lambda _, __: "gateway", _gateway, "arrivals"),
    (lambda _, __: "queue", _queue, "waiting"),
    (lambda _, room: "model server" if room >= 18 else "server", _server, "running"),
    (_gpu_title, _gpu, "work"),
    (lambda _, __: "tokens", _tokens, "tokens"),
)
