"""GPU: busy is not work. What the hardware truly does, or the honest substitute where it cannot be read."""

from __future__ import annotations

from console import format as fmt
from console import raster
from console.ink import Line, Span, fit, frame, line, pick, width, wrap
from console.panels.batch import course
from console.view import View, figure
from console.words import say
from server.telemetry.snapshot import Engine, Gpu, Host, Snapshot, Value

MFU_NOTE = "the engine's estimate of its floating point work, against the device's peak"
MBU_NOTE = "the engine's estimate of the bytes it moves, against the device's peak"
BOUND = 0.5
NOTABLE_BYTES = 256 * 2**20
"""A desktop or a monitor holds less."""


def gpu(view: View, cells: int, rows: int) -> list[Line]:
    """The engine's device in full (the first, where nobody knows which it is), others in a line each, the host below."""
    snapshot = view.snapshot or Snapshot(seq=0, at=0.0, wall=0.0)
    inner, body_rows = cells - 4, rows - 2
    device = snapshot.device
    if device is None:
        note = fmt.sanitize(snapshot.gpu_note) or "no GPU reading yet"
        body = wrap(say(note), inner, "label")[:2]
        if body_rows >= 8:
            body.append(())
        body += _host(snapshot.host, inner)
        title = pick(
            cells - 8,
            line(Span(say("no GPU here: the CPU instead"), "title")),
            line(Span(say("no GPU: the CPU"), "title")),
        )
        return frame(title, body[:body_rows], cells, rows)
    body = _device(device, snapshot.engine, inner, body_rows)
    for other in snapshot.gpus:
        if other is not device and len(body) < body_rows:
            body.append(_other(other, inner))
    if body_rows >= len(body) + 7:
        body += [(), *_host(snapshot.host, inner)]
    body += course(view, "memory", _bandwidth(device), 1.0, inner, body_rows - len(body))
    title = pick(
        cells - 8,
        line(
            Span(say("GPU: busy is not work"), "title"),
            Span(say(f"  {device.index + 1} of {len(snapshot.gpus)}" if len(snapshot.gpus) > 1 else ""), "label"),
        ),
        line(Span(say("GPU"), "title")),
    )
    return frame(title, body[:body_rows], cells, rows)


def _device(device: Gpu, engine: Engine, room: int, rows: int) -> list[Line]:
    """As many rows as there is room for: the blocks of highest rank, in the order of the panel."""
    blocks: list[tuple[int, tuple[Line, ...]]] = []

    def add(rank: int, *lines: Line) -> None:
        blocks.append((rank, lines))

    if has_gpm(device):
        add(1, _meter("tensor", device.tensor, room, "work", "share of time tensor cores worked"))
        add(2, _meter(_bandwidth(device), device.dram, room, "work", "share of memory bandwidth in use"))
        add(4, _meter("SM active", device.sm_active, room, "work", "share of time an SM had a warp on it"))
        add(12, _meter("occupancy", device.sm_occupancy, room, "work", "share of an SM's warps in use"))
        add(5, _meter("MFU", device.mfu, room, "work", MFU_NOTE))
        add(6, _meter("MBU", device.mbu, room, "work", MBU_NOTE))
    else:
        add(1, _meter("MFU", device.mfu, room, "work", MFU_NOTE))
        add(2, _meter("MBU", device.mbu, room, "work", MBU_NOTE))
        unread = figure(device.tensor, "")
        why = fmt.sanitize(device.tensor.why or device.gpm_note)
        add(
            11,
            fit(line(Span(say(f"tensor, {memory_name(device)}, SM active "), "label")) + unread, room),
            *wrap(say(why), room, "faint")[:2],
        )
    add(3, _meter("NVML busy", device.busy, room, "over", "a kernel ran at all: busy is not work"))
    short, rest = meaning(device, engine)
    if short:
        add(8, *(wrap(say(short + rest), room, "text")[:2] if rows >= 12 else [fit(line(say(short)), room)]))
    if device.mig:
        add(4, *wrap(say("cut into MIG instances: the figures are the whole card's"), room, "warn")[:2])
    add(15, ())
    add(7, _memory(device, room))
    others = fmt.known(device.others_bytes.v)
    if others is not None and others >= NOTABLE_BYTES:
        add(4, _others(device, others, room))
    add(8, _power(device, room))
    if fmt.known(device.sm_clock_mhz.v) is not None or fmt.known(device.temp_c.v) is not None:
        add(9, _clock(device, room))
    if device.slowed_by:
        add(9, fit(line(Span(say(f"held down by {fmt.sanitize(' and '.join(device.slowed_by))}"), "warn")), room))
    energy = fmt.known(device.energy_per_token_j.v)
    if energy is not None:
        add(10, _amount("energy", device.energy_per_token_j, room, *_energy(energy)))
    pcie = (device.pcie_to_bytes_per_s, device.pcie_from_bytes_per_s)
    nvlink = (device.nvlink_in_bytes_per_s, device.nvlink_out_bytes_per_s)
    for rank, label, (into, out) in ((14, "PCIe", pcie), (14, "NVLink", nvlink)):
        if fmt.known(into.v) is not None and (into.v or out.v or label == "PCIe"):
            text = f"{fmt.size(into.v)}/s in, {fmt.size(out.v)}/s out"
            add(rank, _amount(label, into, room, text, f"{fmt.size(into.v)}/s"))
    kept: set[int] = set()
    for i in sorted(range(len(blocks)), key=lambda i: blocks[i][0]):
        if len(blocks[i][1]) <= rows:
            kept.add(i)
            rows -= len(blocks[i][1])
    return [one for i, (_, lines) in enumerate(blocks) if i in kept for one in lines]


def _bandwidth(device: Gpu) -> str:
    """What the share of memory bandwidth is called: without counters it is an estimate."""
    return memory_name(device) if has_gpm(device) else "MBU"


def memory_name(device: Gpu) -> str:
    """GB10's memory is no HBM."""
    return "DRAM" if device.unified else "HBM"


def has_gpm(device: Gpu) -> bool:
    """Whether the silicon's own counters are read."""
    return device.tensor.v is not None or device.dram.v is not None or device.sm_active.v is not None


def meaning(device: Gpu, engine: Engine) -> tuple[str, str]:
    """What the meters say together: a clause and why; empty where they say nothing plain."""
    running = fmt.known(engine.running.v)
    compute = fmt.known(device.tensor.v) if has_gpm(device) else fmt.known(device.mfu.v)
    memory = fmt.known(device.dram.v) if has_gpm(device) else fmt.known(device.mbu.v)
    if not running or compute is None or memory is None:
        return "", ""
    if memory >= BOUND and memory > compute:
        if running < 1.5:
            return "bound by memory bandwidth", ": all weights are read again for one person"
        return "bound by memory bandwidth", f": {fmt.count(running)} people share each read of the weights"
    if compute >= BOUND:
        return "bound by arithmetic", ": tensor cores are the busiest part"
    return "", ""


def _memory(device: Gpu, room: int) -> Line:
    used, total = fmt.known(device.mem_used_bytes.v), fmt.known(device.mem_total_bytes.v)
    held = fmt.size(used)
    of_total = f"{held} of {fmt.size(total)}" if total is not None else held
    return _amount("host memory" if device.unified else "memory", device.mem_used_bytes, room, of_total, held)


def _others(device: Gpu, others: float, room: int) -> Line:
    """Somebody else is on this GPU."""
    names = dict.fromkeys(fmt.sanitize(p.name, 20) or f"process {p.pid}" for p in device.processes if not p.engines)
    whose = f": {', '.join(names)}" if names else ""
    texts = (f"others hold {fmt.size(others)}{whose}", f"others {fmt.size(others)}")
    return pick(
        room, *(line(Span(say(text), "warn", "memory of processes that are not the engine's")) for text in texts)
    )


def _power(device: Gpu, room: int) -> Line:
    power, limit = fmt.known(device.power_w.v), fmt.known(device.power_limit_w.v)
    watts = f"{fmt.count(power)} W"
    of_limit = f"{fmt.count(power)} of {fmt.count(limit)} W" if limit is not None else watts
    lacking = "" if limit is not None else f"no limit to compare with: {fmt.sanitize(device.power_limit_w.why)}"
    return _amount("power", device.power_w, room, of_limit, watts, note=lacking)


def _clock(device: Gpu, room: int) -> Line:
    clock, most = fmt.known(device.sm_clock_mhz.v), fmt.known(device.sm_clock_max_mhz.v)
    mhz = f"{fmt.count(clock)} MHz"
    heat = f"{fmt.count(fmt.known(device.temp_c.v))} °C"
    of_most = f"{fmt.count(clock)} of {fmt.count(most)} MHz" if most is not None else mhz
    memory = fmt.known(device.mem_clock_mhz.v)
    note = f"memory at {fmt.count(memory)} MHz" if memory is not None else fmt.sanitize(device.mem_clock_mhz.why)
    return _amount("clock", device.sm_clock_mhz, room, f"{of_most}, {heat}", f"{mhz}, {heat}", mhz, note=note)


def _energy(joules: float) -> tuple[str, ...]:
    each = f"{joules:.2f} J/token" if joules >= 0.095 else f"{1000 * joules:.0f} mJ/token"
    return (f"{each}, {fmt.rate(1 / joules)} tokens/J", each) if joules > 0 else (each,)


def _other(device: Gpu, room: int) -> Line:
    parts = line(Span(say(f"GPU {device.index}  "), "label"))
    work = (("tensor ", device.tensor), ("HBM ", device.dram))
    for label, value in (
        *(work if has_gpm(device) else (("MFU ", device.mfu), ("MBU ", device.mbu))),
        ("busy ", device.busy),
    ):
        parts += line(Span(say(label), "faint")) + figure(value, fmt.share(value.v)) + line("  ")
    return fit(parts, room)


def _meter(label: str, value: Value, room: int, style: str, note: str) -> Line:
    amount = fmt.known(value.v)
    shown = figure(value, f"{fmt.share(amount):>6}", note=note)
    if amount is None:
        return fit(line(Span(f"{say(label, 9):<10}", "label", note)) + line(Span("     ")) + shown, room)
    stale = fmt.age(value.age_s)
    filled, rest = raster.bar(amount, max(2, room - 12 - width(shown)))
    return (
        line(Span(f"{say(label, 9):<10}", "label", note))
        + shown
        + line("  ", Span(filled, "stale" if stale else style), Span(rest, "frame"))
    )


def _amount(label: str, value: Value, room: int, *texts: str, note: str = "") -> Line:
    """The first of the texts that fits."""
    return pick(
        room, *(line(Span(f"{say(label, 11):<12}", "label")) + figure(value, say(text), note=note) for text in texts)
    )


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
        shown = figure(value, f"{'—' if amount is None else f'{amount:.2f}':>6}", note="in cores")
        filled, rest = raster.bar(None if amount is None else amount / cores, max(2, room - 12 - max(6, width(shown))))
        lines.append(
            line(Span(f"{say(label, 9):<10}", "label")) + shown + line("  ", Span(filled, "work"), Span(rest, "frame"))
        )
    everything = figure(host.cpu_share, fmt.share(host.cpu_share.v))
    lines.append(fit(line(Span(say(f"cores of {host.cores}: all busy "), "label")) + everything, room))
    free, total = host.mem_available_bytes, fmt.known(host.mem_total_bytes.v)
    memory = line(Span(say("memory "), "label")) + figure(free, fmt.size(free.v)) + line(Span(say(" free"), "label"))
    lines.append(pick(room, memory + line(Span(say(f" of {fmt.size(total)}"), "label")), memory))
    return lines
