"""GPU: busy is not work. What the hardware truly does, or the honest substitute where it cannot be read."""

from __future__ import annotations

from console import format as fmt
from console import raster
from console.ink import Line, Span, fit, frame, line, pick, wrap
from console.panels.batch import course
from console.view import View, figure
from server.telemetry.snapshot import Gpu, Host, Snapshot, Value


def gpu(view: View, cells: int, rows: int) -> list[Line]:
    """The first device in full, others in a line each, the host below."""
    snapshot = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0)
    inner, body_rows = cells - 4, rows - 2
    if not snapshot.gpus:
        note = fmt.sanitize(snapshot.gpu_note) or "no GPU reading yet"
        body = wrap(note, inner, "label")[:2]
        if body_rows >= 8:
            body.append(())
        body += _host(snapshot.host, inner)
        title = pick(
            cells - 8, line(Span("no GPU here: the CPU instead", "title")), line(Span("no GPU: the CPU", "title"))
        )
        return frame(title, body[:body_rows], cells, rows)
    device = snapshot.gpus[0]
    body = _device(device, inner, body_rows)
    for other in snapshot.gpus[1:]:
        if len(body) < body_rows:
            body.append(_other(other, inner))
    if body_rows >= len(body) + 7:
        body += [(), *_host(snapshot.host, inner)]
    body += course(view, "hbm", "HBM", 1.0, inner, body_rows - len(body))
    title = pick(
        cells - 8,
        line(
            Span("GPU: busy is not work", "title"),
            Span(f"  1 of {len(snapshot.gpus)}" if len(snapshot.gpus) > 1 else "", "label"),
        ),
        line(Span("GPU", "title")),
    )
    return frame(title, body[:body_rows], cells, rows)


def _device(device: Gpu, room: int, rows: int) -> list[Line]:
    roomy = rows >= 12
    power = fmt.known(device.power_w.v)
    limit = fmt.known(device.power_limit_w.v)
    used, total = fmt.known(device.mem_used_bytes.v), fmt.known(device.mem_total_bytes.v)
    meters: tuple[tuple[str, Value, str, str, int], ...] = (
        # label, value, style, explanation, how many rows there must be for it
        ("tensor", device.tensor, "work", "share of time tensor cores worked", 1),
        ("DRAM" if device.unified else "HBM", device.dram, "work", "share of memory bandwidth in use", 2),
        ("SM active", device.sm_active, "work", "share of time an SM had a warp on it", 4),
        ("occupancy", device.sm_occupancy, "work", "share of an SM's warps in use", 7),
        ("MFU", device.mfu, "work", "floating point work against the peak", 5 if device.mfu.v is not None else 12),
        ("MBU", device.mbu, "work", "bytes moved against the peak", 6 if device.mbu.v is not None else 12),
        ("NVML busy", device.busy, "over", "a kernel ran at all: busy is not work", 3),
    )
    lines = [
        _meter(label, value, room, style, note)
        for label, value, style, note, needs in meters
        if rows >= (needs if value.v is not None else max(needs, 8))
    ]
    reasons = dict.fromkeys(
        fmt.sanitize(value.why) for _, value, _, _, needs in meters if value.v is None and value.why and needs < 12
    )
    for reason in list(reasons)[:1]:
        lines += wrap(reason, room, "faint")[:2]
    if roomy:
        lines.append(())
    memory = "host memory" if device.unified else "memory"
    held = fmt.size(used)
    of_total = f"{held} of {fmt.size(total)}" if total is not None else held
    lines.append(_amount(memory, device.mem_used_bytes, room, of_total, held))
    watts = f"{fmt.count(power)} W"
    of_limit = f"{fmt.count(power)} of {fmt.count(limit)} W" if limit is not None else watts
    lines.append(_amount("power", device.power_w, room, of_limit, watts))
    clock = fmt.known(device.sm_clock_mhz.v)
    heat = fmt.known(device.temp_c.v)
    if clock is not None or heat is not None:
        mhz = f"{fmt.count(clock)} MHz"
        lines.append(_amount("clock", device.sm_clock_mhz, room, f"{mhz}, {fmt.count(heat)} °C", mhz))
    return lines


def _other(device: Gpu, room: int) -> Line:
    parts = line(Span(f"GPU {device.index}  ", "label"))
    for label, value in (("tensor ", device.tensor), ("HBM ", device.dram), ("busy ", device.busy)):
        parts += line(Span(label, "faint")) + figure(value, fmt.share(value.v)) + line("  ")
    return fit(parts, room)


def _meter(label: str, value: Value, room: int, style: str, note: str) -> Line:
    amount = fmt.known(value.v)
    shown = figure(value, f"{fmt.share(amount):>6}", note=note)
    if amount is None:
        return fit(line(Span(f"{label:<10}", "label", note)) + line(Span("     ")) + shown, room)
    stale = fmt.age(value.age_s)
    filled, rest = raster.bar(amount, max(2, room - 18 - len(stale)))
    return (
        line(Span(f"{label:<10}", "label", note))
        + shown
        + line("  ", Span(filled, "stale" if stale else style), Span(rest, "frame"))
    )


def _amount(label: str, value: Value, room: int, *texts: str) -> Line:
    """The first of the texts that fits."""
    return pick(room, *(line(Span(f"{label:<12}", "label")) + figure(value, text) for text in texts))


def _host(host: Host, room: int) -> list[Line]:
    """CPU of our processes in cores, and the machine's memory."""
    cores = max(1, host.cores)
    lines = []
    for label, value in (
        ("engine", host.engine_cpu_cores),
        ("gateway", host.gateway_cpu_cores),
        ("load", host.load_cpu_cores),
        ("stack", host.stack_cpu_cores),
    ):
        amount = fmt.known(value.v)
        filled, rest = raster.bar(None if amount is None else amount / cores, max(2, room - 18))
        shown = figure(value, f"{'—' if amount is None else f'{amount:.2f}':>6}", note="in cores")
        lines.append(
            line(Span(f"{label:<10}", "label")) + shown + line("  ", Span(filled, "work"), Span(rest, "frame"))
        )
    everything = figure(host.cpu_share, fmt.share(host.cpu_share.v))
    lines.append(fit(line(Span(f"cores of {host.cores}: all busy ", "label")) + everything, room))
    free, total = host.mem_available_bytes, fmt.known(host.mem_total_bytes.v)
    memory = line(Span("memory ", "label")) + figure(free, fmt.size(free.v)) + line(Span(" free", "label"))
    lines.append(pick(room, memory + line(Span(f" of {fmt.size(total)}", "label")), memory))
    return lines
