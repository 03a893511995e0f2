"""The six arrows one by one: what waited, what failed, what was measured."""

from __future__ import annotations

from server.report.rows import Run, failed, gauges, waited, windows
from server.report.tally import Tally
from server.report.text import ABSENT, count, digits, md, plural, seconds, share, size, table, whole

MOST_REASONS = 5
MOST_STARTS = 4
MISSES = {
    "ttft": "first token too late",
    "tpot": "too slow after it",
    "refused": "refused",
    "error": "failed",
    "left": "the person left",
}
"""Why requests were not good, in words."""


def people(run: Run) -> list[str]:
    tally, requests = run.tally, run.requests
    ended = {name: n for name, n in run.ended.items() if n}
    left = requests.left if requests is not None else ended.get("abandoned", 0)
    amplification = requests.amplification if requests is not None else _median(tally, "amplification")
    lines = [waited(run, ["connect"]), ""]
    lines += [
        failed(
            [
                f"{plural(left, 'request')} given up by people who left" if left else "",
                f"{requests.wasted_tokens} tokens had reached them"
                if requests is not None and requests.wasted_tokens
                else "",
                f"retries made {digits(amplification)} requests of each one meant"
                if amplification is not None and amplification > 1.0005
                else "",
            ],
            known=bool(run.ended),
        ),
        "",
    ]
    said = ", ".join(f"{count(n)} {name}" for name, n in ended.items())
    lines += [f"**Measured:** {said or ABSENT} (by our own clients)", ""]
    return lines + gauges(
        run,
        [("people", "people", whole), ("requests under way", "in flight", whole), ("sent /s", "sent", digits)],
        [
            ("asked for /s", "asked", digits),
            ("slow readers", "slow", whole),
            ("flash crowd", "flash", whole),
            ("late to send, ms", "send lag", digits),
            ("late to begin, ms", "start lag", digits),
            ("load generator's CPU", "load cpu", share),
        ],
    )


def gateway(run: Run) -> list[str]:
    grown = run.tally.gateway.grown
    stages = ["accept", "front end"] if "front end" in run.tally.stages.means else ["accept", "upstream"]
    reasons = ""
    if run.requests is not None and run.requests.reasons:
        reasons = "clients were told: " + ", ".join(
            f"{md(reason)} ({count(n)})" for reason, n in run.requests.reasons.most_common(MOST_REASONS)
        )
    told = [
        f"{count(grown[name])} {word}"
        for name, word in (("failed", "failed upstream"), ("cancelled", "left by their client"), ("expired", "expired"))
        if grown.get(name)
    ]
    lines = [waited(run, stages), "", failed([", ".join(told), reasons], known=bool(grown)), ""]
    lines += [f"**Measured:** {count(run.tally.arrived.total) if grown else ABSENT} arrived", ""]
    return lines + gauges(
        run,
        [("arrivals /s", "arrivals", digits), ("in flight", "gateway in flight", whole)],
        [
            ("connections", "connections", whole),
            ("held for slow clients", "buffered", size),
            ("CPU, cores", "gateway cpu", _two),
        ],
    )


def queue(run: Run) -> list[str]:
    tally = run.tally
    refused = tally.gateway.grown.get("rejected", 0)
    total = tally.arrived.total
    lines = [waited(run, ["queue"]), ""]
    lines += [
        failed(
            [f"{count(refused)} refused ({share(refused / total) if total else ABSENT})" if refused else ""],
            known=bool(tally.gateway.grown),
        ),
        "",
    ]
    policy = ", ".join(
        _settings(tally, name) for name in ("policy", "max in-flight", "max queue") if _known(tally, name)
    )
    lines += [f"**Measured:** under policy {policy or ABSENT}", ""]
    lines += windows(run, [("wait", "wait")])
    return lines + gauges(run, [("waiting", "depth", whole)], [("the oldest has waited", "oldest", seconds)])


def model_server(run: Run) -> list[str]:
    tally = run.tally
    lines = [waited(run, ["engine queue", "prefill", "decode"]), ""]
    words = tally.words.seconds
    troubles = [
        f"{word} for {seconds(round(words[word]))}" for word in ("STARTING", "DOWN", "STALLED") if words.get(word)
    ]
    died = [md(event.text) for event in (*tally.events_first, *tally.events_last) if event.kind == "died"]
    lines += [
        failed(
            [
                f"not serving: {', '.join(troubles)}" if troubles else "",
                "; ".join(died[:MOST_REASONS]),
                f"about {plural(round(tally.preemptions), 'preemption')}" if round(tally.preemptions) else "",
            ],
            known=True,
        ),
        "",
        f"**Measured:** while it had requests in its batch ({seconds(round(tally.work_s))} of the run); "
        f"about {digits(tally.prompt_tokens or None)} prompt tokens and {digits(tally.tokens or None)} generated",
        "",
    ]
    lines += gauges(
        run,
        [
            ("requests in its batch", "running", whole),
            ("KV cache in use", "kv", share),
            ("generated tokens /s", "tokens", digits),
        ],
        [
            ("prompt tokens /s", "prompt tokens", digits),
            ("waiting inside it", "waiting", whole),
            ("tokens a step", "tokens per step", digits),
            ("steps /s", "steps", digits),
            ("prefix cache hits", "prefix hits", share),
            ("front end", "front end", seconds),
            ("CPU, cores", "engine cpu", _two),
        ],
    )
    lines += windows(run, [("TTFT, its own", "server ttft"), ("prefill", "prefill"), ("decode", "decode")])
    return lines + _starts(run)


def _starts(run: Run) -> list[str]:
    """The cold starts that ended within the run, stage by stage."""
    seen = [(at, start) for at, start in run.tally.starts.values() if at > run.tally.begin][-MOST_STARTS:]
    if not seen:
        return []
    names = list(dict.fromkeys(stage.name for _, start in seen for stage in start.stages))
    rows = []
    for name in names:
        cells = [md(name)]
        for _, start in seen:
            took = [s.end_s - s.begin_s for s in start.stages if s.name == name and s.end_s is not None]
            cells.append(seconds(sum(took)) if took else ABSENT)
        rows.append(cells)
    rows.append(["**until it was ready**", *(f"**{seconds(start.elapsed_s)}**" for _, start in seen)])
    heads = [f"ready at {run.at(at)} ({md(start.kind)})" for at, start in seen]
    return ["Cold starts:", "", *table(("stage", *heads), rows)]


def gpu(run: Run) -> list[str]:
    tally, stages = run.tally, run.tally.stages.means
    if {"prefill", "decode"} <= stages.keys():
        waits = f"a mean request was {seconds(stages['prefill'] + stages['decode'])} in prefill and decode"
    else:
        waits = ABSENT
    nvml = tally.sources.get("nvml")
    lost = nvml is not None and nvml.answered and nvml.seconds > 0
    lines = [
        f"**Waited:** {waits}",
        "",
        failed(
            [f"no reading for {seconds(nvml.seconds)}" if lost and nvml else ""],
            known=nvml is not None and nvml.answered,
        ),
        "",
    ]
    gpus = run.facts.gpus
    if not gpus:
        return [*lines, f"**Measured:** {ABSENT} ({md(run.facts.gpu_note) or 'no GPU'})", ""]
    lines += [
        "**Measured:** while the engine had requests in its batch. `NVML busy` says that some kernel ran, "
        "the others what the silicon did.",
        "",
    ]
    for device in gpus:
        name = f"gpu{device.index}"
        if len(gpus) > 1:
            lines += [f"GPU {device.index}, {md(device.name)}:", ""]
        lines += gauges(
            run,
            [
                ("SM active", f"{name} sm_active", share),
                ("tensor cores active", f"{name} tensor", share),
                ("HBM bandwidth", f"{name} dram", share),
                ("NVML busy", f"{name} busy", share),
            ],
            [
                ("SM occupancy", f"{name} sm_occupancy", share),
                ("MFU, by the engine's estimate", f"{name} mfu", share),
                ("MBU, by the engine's estimate", f"{name} mbu", share),
                ("power, W", f"{name} power_w", digits),
                ("temperature, °C", f"{name} temp_c", whole),
                ("SM clock, MHz", f"{name} sm_clock_mhz", whole),
                ("memory used", f"{name} memory", size),
            ],
        )
        absent = sorted(
            {value.why for value in (device.sm_active, device.tensor, device.dram) if value.v is None and value.why}
        )
        if absent:
            lines += [f"Absent because: {md('; '.join(absent))}.", ""]
    return lines


def tokens(run: Run) -> list[str]:
    tally, requests = run.tally, run.requests
    misses = requests.misses if requests is not None else tally.judged.misses
    missed = run.due - run.good
    why = ", ".join(f"{MISSES.get(name, md(name))} {count(n)}" for name, n in misses.most_common() if n)
    lines = [waited(run, ["drain"]), ""]
    lines += [
        failed(
            [f"{count(missed)} of {count(run.due)} were not good{f': {why}' if why else ''}" if missed else ""],
            known=run.due > 0,
        ),
        "",
    ]
    fluid = requests.fluidity if requests is not None else _median(tally, "fluidity")
    said = [f"{digits(requests.tokens_per_s)} tokens/s over the whole run"] if requests is not None else []
    said += [f"{share(fluid)} of the token deadlines were met"] if fluid is not None else []
    lines += [f"**Measured:** {'; '.join(said) or _pace(tally)}", ""]
    lines += windows(run, [("TTFT", "ttft"), ("TPOT", "tpot"), ("gap between events", "gap"), ("end to end", "e2e")])
    client, server = tally.windows["ttft"], tally.windows["server ttft"]
    if client.mean is not None and server.mean is not None:
        lines += [
            f"TTFT mean: people {seconds(client.mean)}, the engine itself {seconds(server.mean)}; "
            f"the {seconds(client.mean - server.mean)} between them is connecting, queue and front end.",
            "",
        ]
    return lines + gauges(
        run, [], [("held by slow readers", "held", whole), ("read by people who then left", "wasted", share)]
    )


def _median(tally: Tally, name: str) -> float | None:
    gauge = tally.gauges.get(name)
    return None if gauge is None else gauge.median


def _two(v: float | None) -> str:
    return digits(v, 2)


def _pace(tally: Tally) -> str:
    made = digits(tally.tokens or None)
    return f"about {made} tokens made, at a median of {digits(_median(tally, 'tokens'))} a second"


def _known(tally: Tally, name: str) -> bool:
    return bool(tally.settings.get(name))


def _settings(tally: Tally, name: str) -> str:
    values = " then ".join(md(v) for v in tally.settings.get(name, []))
    return values if name == "policy" else f"{name} {values}"
