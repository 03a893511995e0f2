"""The GPU panel and the limit's line, on what the reader makes of each kind of device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import samples
from console_waiting import until

from console.app import CockpitApp
from console.ink import Line, plain, width
from console.panels.foot import limit, limit_note
from console.panels.gpu import gpu
from console.sources.scripted import ScriptedSource
from console.view import View
from server.telemetry.gpu import GpuReader
from server.telemetry.gpu_series import GpuSeries
from server.telemetry.snapshot import Limit, LimitRule, Snapshot, Value
from tests.fakes.fake_nvml import FakeDevice, FakeNvml, a100, gb10, h100, mig_parent

GIB = 2**30
NAMES = {10: "VLLM::EngineCore", 20: "python3"}


def shown(*devices: FakeDevice, running: float = 9, ours: set[int] | None = None) -> Snapshot:
    """A loaded stack on these devices, read as the stack reads them."""
    memory = SimpleNamespace(total=128 * GIB, available=28 * GIB)
    reader = GpuReader(FakeNvml(*devices), memory=lambda: memory, name_of=lambda pid: NAMES.get(pid, ""))
    read = GpuSeries()
    for at in (0.0, 1.0, 2.0):
        read.add(reader.read(at, ours))
    engine = msgspec.structs.replace(samples.LOADED.engine, running=Value(v=running, src="engine"))
    return msgspec.structs.replace(samples.LOADED, engine=engine, gpus=read.gpus(engine, 2.0))


def panel(snapshot: Snapshot, cells: int = 44, rows: int = 22) -> list[Line]:
    lines = gpu(View(snapshot=snapshot, link="live"), cells, rows)
    assert all(width(one) <= cells for one in lines)
    assert len(lines) <= rows
    return lines


def text_of(snapshot: Snapshot, cells: int = 44, rows: int = 22) -> str:
    return "\n".join(plain(one) for one in panel(snapshot, cells, rows))


def order(text: str, *words: str) -> list[str]:
    """Those of the words that the text has, in its order."""
    return sorted((word for word in words if word in text), key=text.index)


METERS = ("tensor ", "HBM", "SM active", "occupancy", "MFU", "MBU", "NVML busy")


def test_silicon_first_and_busy_last() -> None:
    assert order(text_of(shown(h100())), *METERS) == list(METERS)


@pytest.mark.parametrize("device", [a100, gb10])
def test_without_gpm_the_estimates_come_first_and_busy_last(device: Any) -> None:
    for cells, rows in ((26, 8), (36, 12), (44, 22)):
        text = text_of(shown(device()), cells, rows)
        assert order(text, "MFU", "MBU", "NVML busy", "memory") == ["MFU", "MBU", "NVML busy", "memory"]
    meters = [row for row in text_of(shown(device()), 44, 14).splitlines() if "%" in row]
    assert len(meters) == 3
    assert "needs GPM: Hopper or newer" in text_of(shown(device()))


def test_busy_is_never_called_sm() -> None:
    for device in (a100(), gb10(), mig_parent()):
        rows = [row for row in text_of(shown(device)).splitlines() if "SM" in row]
        assert all("%" not in row for row in rows)


def test_one_chat_is_bound_not_idle() -> None:
    device = h100()
    device.metrics |= {5: 2.4, 10: 63.4, 2: 68.9}
    text = " ".join(text_of(shown(device, running=1)).replace("│", " ").split())
    assert "bound by memory bandwidth: all weights are read again for one person" in text
    assert "bound by memory bandwidth" in text_of(shown(device, running=1), 30, 12)
    assert "bound by arithmetic" in text_of(shown(h100(), running=60))
    device.metrics |= {10: 5.0}
    assert "bound" not in text_of(shown(device, running=1))


def test_gb10_shares_the_hosts_memory_and_explains_what_it_lacks() -> None:
    snapshot = shown(gb10())
    text = text_of(snapshot)
    assert "host memory 100 GiB of 128 GiB" in text
    assert "58 W" in text
    assert "of 700 W" not in text
    notes = {span.note for one in panel(snapshot) for span in one if span.note}
    assert any("no limit to compare with: not supported by this device" in note for note in notes)
    assert any("GPM" in note for note in notes)


async def test_the_cockpit_opens_on_a_gb10() -> None:
    snapshot = shown(gb10())
    app = CockpitApp(ScriptedSource([snapshot], kind="live"), clock=lambda: 0.0)
    async with app.run_test(size=(160, 48)) as pilot:
        await until(pilot, lambda: app.snapshot is snapshot)
        await pilot.press("3")
        await pilot.pause()
        await pilot.press("1")
        await pilot.pause()
    assert app.return_code in {None, 0}


def test_somebody_else_on_the_gpu_is_named() -> None:
    device = h100()
    device.processes = [(10, 60 * GIB), (20, 9 * GIB)]
    assert "others hold 9.0 GiB: python3" in text_of(shown(device, ours={10}))
    device.processes = [(10, 60 * GIB), (20, 40 * 2**20)]
    assert "others" not in text_of(shown(device, ours={10}))


def test_what_slows_the_clocks_and_what_a_token_costs() -> None:
    device = h100()
    device.event_reasons = 0x4
    device.failing = {"GetTotalEnergyConsumption": 3}
    text = text_of(shown(device))
    assert "held down by the power cap" in text
    assert "0.18 J/token, 5.5 tokens/J" in text


def test_mig_is_said() -> None:
    text = " ".join(text_of(shown(mig_parent())).replace("│", " ").split())
    assert "cut into MIG instances: the figures are the whole card's" in text


def test_other_devices_have_a_line_each() -> None:
    text = text_of(shown(h100(), h100(), a100()), 60, 24)
    assert "1 of 3" in text
    assert "GPU 1  tensor 62 %  HBM 40 %  busy 100 %" in text
    assert "GPU 2  MFU —  MBU —  busy 100 %" in text


def test_the_engines_device_stands_in_full() -> None:
    mine, other = h100(), h100()
    mine.processes, other.processes = [(10, 60 * GIB)], [(20, 9 * GIB)]
    text = text_of(shown(other, mine, ours={10}), 60, 24)
    assert "2 of 2" in text
    assert "GPU 0  tensor" in text


FOUND = Limit(
    name="sequence cap",
    phrase="SEQUENCE CAP  62 of 64 slots, 10 wait: raise --max-num-seqs: KV is at 29 %",
    because="62 of 64 slots, 10 wait",
    next_step="raise --max-num-seqs: KV is at 29 %",
    rules=[LimitRule("sequence cap", True, "62 of 64 slots, 10 wait"), LimitRule("token budget", None, "not known")],
    window_s=5.0,
    since_s=42.0,
)


def test_the_limit_gives_way_from_its_end() -> None:
    snapshot = msgspec.structs.replace(samples.LOADED, limit=FOUND.phrase, limit_detail=FOUND)

    def first(cells: int) -> str:
        return plain(limit(View(snapshot=snapshot, link="live"), cells, 2)[0])

    assert "SEQUENCE CAP  62 of 64 slots, 10 wait: raise --max-num-seqs: KV is at 29 %" in first(160)
    assert "SEQUENCE CAP  62 of 64 slots, 10 wait " in first(80)
    assert "raise" not in first(80)
    assert "SEQUENCE CAP " in first(60)
    assert "…" not in first(60)


def test_the_limits_note_has_every_rule() -> None:
    note = limit_note(FOUND)
    assert note.splitlines() == [
        "over 5 s, so for 42 s; next: raise --max-num-seqs: KV is at 29 %",
        "sequence cap: holds, 62 of 64 slots, 10 wait",
        "token budget: not evaluated, not known",
    ]
    assert limit_note(Limit()) == ""


def test_an_old_recordings_phrase_is_shown_as_it_is() -> None:
    snapshot = msgspec.structs.replace(samples.LOADED, limit="not evaluated")
    assert "limit  not evaluated" in plain(limit(View(snapshot=snapshot, link="live"), 110, 2)[0])
