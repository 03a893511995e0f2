"""GPU readings, absent with their reason wherever a device or a driver lacks one."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pynvml
import pytest

from server.telemetry.gpu import RETRY_S, GpuReader, GpuReading
from server.telemetry.gpu_processes import EVERY_S, HIDDEN, NOBODYS, UNSEEN
from server.telemetry.gpu_series import NOT_ITS, SEVERAL, SLICED, GpuSeries
from server.telemetry.peaks import _PEAKS, peak_of
from server.telemetry.snapshot import Engine, Gpu, Value
from tests.fakes.fake_nvml import FakeDevice, FakeNvml, a100, gb10, h100, mig_parent

GIB = 2**30


def one(gpus: list[Gpu]) -> Gpu:
    assert len(gpus) == 1
    return gpus[0]


def test_h100_has_everything_from_the_second_reading() -> None:
    nvml = FakeNvml(h100())
    reader = GpuReader(nvml)
    first = one(reader.read(0.0).gpus)
    assert first.sm_active.v is None
    assert first.sm_active.why == "needs two samples"
    gpu = one(reader.read(0.5).gpus)
    assert gpu.name == "NVIDIA H100 80GB HBM3"
    assert (gpu.busy.v, gpu.power_w.v, gpu.power_limit_w.v) == (1.0, 685.0, 700.0)
    assert (gpu.sm_clock_mhz.v, gpu.temp_c.v) == (1980.0, 55.0)
    assert gpu.sm_active.v == pytest.approx(0.901)
    assert gpu.sm_occupancy.v == pytest.approx(0.181)
    assert gpu.tensor.v == pytest.approx(0.623)
    assert gpu.dram.v == pytest.approx(0.4)
    assert (gpu.dram.src, gpu.dram.window_s, gpu.busy.src) == ("gpm", 0.5, "nvml")
    assert gpu.mem_used_bytes.v == 75 * GIB
    assert not gpu.unified
    assert nvml.inits == 1
    reader.close()
    assert (nvml.allocated, nvml.freed, nvml.shutdowns) == (2, 2, 1)


def test_gpm_is_not_sampled_twice_within_100_ms() -> None:
    nvml = FakeNvml(h100())
    reader = GpuReader(nvml)
    reader.read(0.0)
    reader.read(0.5)
    before = nvml.samples
    assert one(reader.read(0.55).gpus).tensor.v == pytest.approx(0.623)
    assert nvml.samples == before


def test_a_single_gpm_metric_can_be_missing() -> None:
    device = h100()
    device.metric_errors[5] = pynvml.NVML_ERROR_NOT_SUPPORTED
    device.metrics[10] = float("nan")
    reader = GpuReader(FakeNvml(device))
    reader.read(0.0)
    gpu = one(reader.read(1.0).gpus)
    assert (gpu.tensor.v, gpu.tensor.why) == (None, "not supported by this device")
    assert (gpu.dram.v, gpu.dram.why) == (None, "the device gave no number")
    assert gpu.sm_active.v is not None


def test_a100_says_what_it_lacks() -> None:
    reader = GpuReader(FakeNvml(a100()))
    reader.read(0.0)
    gpu = one(reader.read(1.0).gpus)
    assert gpu.busy.v == 1.0
    for value in (gpu.sm_active, gpu.sm_occupancy, gpu.tensor, gpu.dram):
        assert value.v is None
        assert value.why == "needs GPM: Hopper or newer"
    assert gpu.gpm_note == "needs GPM: Hopper or newer"
    assert gpu.nvlink_in_bytes_per_s.why == "needs GPM: Hopper or newer"
    assert (gpu.pcie_to_bytes_per_s.v, gpu.pcie_to_bytes_per_s.src) == (1e6, "nvml")
    assert gpu.mig is False


def test_gb10_shares_the_hosts_memory() -> None:
    memory = SimpleNamespace(total=128 * GIB, available=28 * GIB)
    gpu = one(GpuReader(FakeNvml(gb10()), memory=lambda: memory).read(0.0).gpus)
    assert gpu.unified
    assert (gpu.mem_used_bytes.v, gpu.mem_total_bytes.v) == (100 * GIB, 128 * GIB)
    assert gpu.mem_used_bytes.src == "host"
    assert (gpu.power_limit_w.v, gpu.power_limit_w.why) == (None, "not supported by this device")
    assert gpu.power_w.v == 58.0
    assert gpu.mem_clock_mhz.why == gpu.pcie_from_bytes_per_s.why == "not supported by this device"
    assert gpu.sm_active.why == "needs GPM: Hopper or newer"
    assert gpu.busy.v == 1.0


COMPUTED = {"mfu", "mbu", "energy_per_token_j"}
"""By GpuSeries, from these readings and the engine's."""


@pytest.mark.parametrize("device", [h100, a100, gb10, mig_parent])
def test_whatever_a_device_lacks_has_its_reason(device: Callable[[], FakeDevice]) -> None:
    reader = GpuReader(FakeNvml(device()))
    reader.read(0.0)
    gpu = one(reader.read(1.0).gpus)
    for name in gpu.__struct_fields__:
        value = getattr(gpu, name)
        if isinstance(value, Value) and name not in COMPUTED:
            assert value.v is not None or value.why, name


def test_what_a_device_lacks_is_asked_once() -> None:
    nvml = FakeNvml(gb10())
    reader = GpuReader(nvml)
    for at in range(5):
        reader.read(float(at))
    assert nvml.calls["GetEnforcedPowerLimit"] == nvml.calls["GetMemoryInfo"] == nvml.calls["GetMemoryClock"] == 1
    assert nvml.calls["GetPowerUsage"] == 5


def test_no_permission_is_asked_again() -> None:
    device = h100()
    device.failing = {"GetPowerUsage": pynvml.NVML_ERROR_NO_PERMISSION}
    reader = GpuReader(FakeNvml(device))
    assert one(reader.read(0.0).gpus).power_w.why == "no permission"
    device.failing.clear()
    assert one(reader.read(1.0).gpus).power_w.v == 685.0


def test_clocks_links_and_what_slows_them() -> None:
    device = h100()
    device.event_reasons = 0x4 | 0x20
    nvml = FakeNvml(device)
    reader = GpuReader(nvml)
    reader.read(0.0)
    gpu = one(reader.read(1.0).gpus)
    assert (gpu.mem_clock_mhz.v, gpu.sm_clock_max_mhz.v) == (2619.0, 1980.0)
    assert gpu.slowed_by == ["the power cap", "heat"]
    assert (gpu.pcie_from_bytes_per_s.v, gpu.pcie_to_bytes_per_s.v) == (512 * 2**20, 256 * 2**20)
    assert (gpu.nvlink_in_bytes_per_s.v, gpu.nvlink_in_bytes_per_s.src) == (0.0, "gpm")
    assert nvml.calls["GetPcieThroughput"] == 0
    device.event_reasons = 0x1
    assert one(reader.read(2.0).gpus).slowed_by == []
    device.failing = {"GetCurrentClocksEventReasons": pynvml.NVML_ERROR_NO_PERMISSION}
    assert one(reader.read(3.0).gpus).slowed_by is None


def test_mig_is_noted() -> None:
    gpu = one(GpuReader(FakeNvml(mig_parent())).read(0.0).gpus)
    assert gpu.mig is True
    assert gpu.busy.why == "not supported by this device"
    assert gpu.gpm_note == "GPM: not supported by this device"


def test_gpm_that_may_not_be_read_leaves_no_sample_behind() -> None:
    device = h100()
    device.failing = {"GpmSampleGet": pynvml.NVML_ERROR_NO_PERMISSION}
    nvml = FakeNvml(device)
    GpuReader(nvml).read(0.0)
    assert nvml.allocated == nvml.freed == 2


def test_each_device_has_its_own_counters() -> None:
    second = h100()
    second.metrics = {**second.metrics, 5: 11.0}
    reader = GpuReader(FakeNvml(h100(), second))
    reader.read(0.0)
    assert [gpu.tensor.v for gpu in reader.read(1.0).gpus] == [pytest.approx(0.623), pytest.approx(0.11)]


# who holds memory


NAMES = {10: "VLLM::EngineCore", 20: "python3"}


def watched(device: FakeDevice, ours: set[int] | None = None) -> Gpu:
    return one(GpuReader(FakeNvml(device), name_of=lambda pid: NAMES.get(pid, "")).read(0.0, ours).gpus)


def test_somebody_else_on_the_gpu_is_seen() -> None:
    device = h100()
    device.processes = [(20, 9 * GIB), (10, 60 * GIB)]
    gpu = watched(device, {10, 11})
    assert [(p.pid, p.name, p.engines) for p in gpu.processes] == [(10, NAMES[10], True), (20, NAMES[20], False)]
    assert (gpu.others_bytes.v, gpu.others_bytes.n) == (9 * GIB, 1)
    assert gpu.engines is True


def test_the_engine_alone_leaves_nothing_to_others() -> None:
    device = h100()
    device.processes = [(10, 60 * GIB)]
    assert watched(device, {10}).others_bytes.v == 0.0


@pytest.mark.parametrize(
    ("processes", "ours", "why"),
    [
        ([(4_000_001, 60 * GIB)], {10}, HIDDEN),
        ([], {10}, UNSEEN),
        ([(10, 60 * GIB)], None, NOBODYS),
        ([(10, 60 * GIB), (20, None)], {10}, "one more, whose memory the driver does not tell"),
    ],
)
def test_others_are_not_guessed(processes: list[tuple[int, int | None]], ours: set[int] | None, why: str) -> None:
    device = h100()
    device.processes = processes
    gpu = watched(device, ours)
    assert (gpu.others_bytes.v, gpu.others_bytes.why) == (None, why)


def test_an_empty_device_has_no_others() -> None:
    device = h100()
    device.used_bytes = 400 * 2**20
    assert watched(device).others_bytes.v == 0.0


def test_holders_are_asked_for_now_and_then() -> None:
    nvml = FakeNvml(h100())
    reader = GpuReader(nvml)
    for tick in range(9):
        reader.read(tick * 0.5)
    assert nvml.calls["GetComputeRunningProcesses"] == 1 + int(4.0 / EVERY_S)


# figures joined with the engine's


ENGINE = Engine(
    phase="ready",
    generation_tokens_per_s=Value(v=4000.0, src="engine"),
    flops_per_s=Value(v=0.31 * 989.4e12, src="engine"),
    bytes_per_s=Value(v=0.5 * 3.35e12, src="engine"),
)


def series(reader: GpuReader, *ats: float, ours: set[int] | None = None) -> GpuSeries:
    made = GpuSeries()
    for at in ats:
        made.add(reader.read(at, ours))
    return made


def test_mfu_mbu_and_energy_a_token() -> None:
    device = h100()
    reader, made = GpuReader(FakeNvml(device)), GpuSeries()
    for second in range(5):
        device.energy_mj = second * 600_000
        made.add(reader.read(float(second)))
    gpu = one(made.gpus(ENGINE, 4.0))
    assert (gpu.mfu.v, gpu.mbu.v) == (pytest.approx(0.31), pytest.approx(0.5))
    assert gpu.energy_per_token_j.v == pytest.approx(600 / 4000)
    idle = Engine(phase="ready", generation_tokens_per_s=Value(v=0.0, src="engine"))
    assert one(made.gpus(idle, 4.0)).energy_per_token_j.why == "no token in the window"


def test_power_is_summed_up_where_energy_is_not_counted() -> None:
    device = gb10()
    reader, made = GpuReader(FakeNvml(device)), GpuSeries()
    for at, device.power_mw in ((0.0, 40_000), (1.0, 60_000), (3.0, 60_000)):
        made.add(reader.read(at))
    gpu = one(made.gpus(ENGINE, 3.0))
    joules = (40 + 60) / 2 + 2 * 60
    assert gpu.energy_per_token_j.v == pytest.approx(joules / 3 / 4000, rel=1e-4)


def test_a_mig_slice_has_no_peak() -> None:
    gpu = one(series(GpuReader(FakeNvml(mig_parent())), 0.0).gpus(ENGINE, 0.0))
    assert (gpu.mfu.why, gpu.mbu.why) == (SLICED, SLICED)


def test_with_several_gpus_the_process_list_says_which_is_the_engines() -> None:
    mine, other = h100(), h100()
    mine.processes, other.processes = [(10, 60 * GIB)], [(20, 9 * GIB)]
    reader = GpuReader(FakeNvml(mine, other), name_of=lambda pid: NAMES.get(pid, ""))
    gpus = series(reader, 0.0, ours={10}).gpus(ENGINE, 0.0)
    assert gpus[0].mfu.v == pytest.approx(0.31)
    assert gpus[1].mfu.why == NOT_ITS
    unknown = series(GpuReader(FakeNvml(h100(), h100())), 0.0).gpus(ENGINE, 0.0)
    assert [gpu.mbu.why for gpu in unknown] == [SEVERAL, SEVERAL]


def test_nothing_read_is_no_gpu() -> None:
    made = GpuSeries()
    assert (made.gpus(ENGINE, 0.0), made.note) == ([], "not asked yet")
    made.add(GpuReading(0.0, [], "no NVIDIA driver on this machine"))
    assert made.note == "no NVIDIA driver on this machine"


def test_no_permission_is_a_state() -> None:
    device = h100()
    device.failing = dict.fromkeys(("GpmSampleGet", "GetMemoryInfo", "GetPowerUsage"), pynvml.NVML_ERROR_NO_PERMISSION)
    gpu = one(GpuReader(FakeNvml(device)).read(0.0).gpus)
    assert gpu.sm_active.why == "GPM: no permission"
    assert gpu.power_w.why == gpu.mem_used_bytes.why == "no permission"
    assert not gpu.unified
    assert gpu.busy.v == 1.0


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_no_driver_is_a_sentence_and_asked_once(error: int) -> None:
    nvml = FakeNvml(init_error=error)
    reader = GpuReader(nvml)
    for at in (0.0, 100.0, 1000.0):
        reading = reader.read(at)
        assert reading.gpus == []
        assert reading.note == "no NVIDIA driver on this machine"
    assert nvml.inits == 1


def test_a_driver_without_devices_says_so() -> None:
    assert GpuReader(FakeNvml()).read(0.0).note == "the NVIDIA driver reports no GPU"


def test_the_driver_goes_mid_run_and_comes_back() -> None:
    nvml = FakeNvml(h100())
    reader = GpuReader(nvml)
    reader.read(0.0)
    nvml.gone = pynvml.NVML_ERROR_GPU_IS_LOST
    for at in (1.0, 2.0, 3.0):
        reading = reader.read(at)
        assert reading.gpus == []
        assert reading.note == "the NVIDIA driver stopped answering"
    assert nvml.inits == 1
    reading = reader.read(1.0 + RETRY_S)
    assert reading.gpus == []
    assert nvml.inits == 2
    nvml.gone = None
    assert one(reader.read(2.0 + 2 * RETRY_S).gpus).busy.v == 1.0


def test_one_lost_device_leaves_the_other() -> None:
    lost = a100()
    calls = ("GetUtilizationRates", "GetPowerUsage", "GetEnforcedPowerLimit", "GetClockInfo", "GetTemperature")
    lost.failing = dict.fromkeys((*calls, "GetMemoryInfo"), pynvml.NVML_ERROR_GPU_IS_LOST)
    gpus = GpuReader(FakeNvml(a100(), lost)).read(0.0).gpus
    assert [gpu.busy.v for gpu in gpus] == [1.0, None]
    assert gpus[1].busy.why == "GPU is lost"


@pytest.mark.parametrize(
    ("name", "flops", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12, 3.35e12),
        ("NVIDIA H100 PCIe", 756e12, 2.0e12),
        ("NVIDIA H200", 989.4e12, 4.8e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 2.039e12),
        ("NVIDIA A100-PCIE-40GB", 312e12, 1.555e12),
        ("NVIDIA GB10", 125e12, 0.273e12),
        ("NVIDIA L40S", 362.05e12, 0.864e12),
        ("NVIDIA L4", 121e12, 0.3e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 1.008e12),
    ],
)
def test_peaks_by_device_name(name: str, flops: float, bandwidth: float) -> None:
    peak = peak_of(name)
    assert peak is not None
    assert peak[:2] == (flops, bandwidth)


def test_every_peak_has_its_source() -> None:
    assert all("NVIDIA" in peak.source for _, peak in _PEAKS)


@pytest.mark.parametrize(
    "name", ["", "Tesla T4", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU"]
)
def test_an_unknown_device_has_no_peak(name: str) -> None:
    assert peak_of(name) is None
