"""GPU readings, absent with their reason wherever a device or a driver lacks one."""

from __future__ import annotations

from types import SimpleNamespace

import pynvml
import pytest

from server.telemetry.gpu import RETRY_S, GpuReader
from server.telemetry.peaks import peak_of
from server.telemetry.snapshot import Gpu
from tests.fakes.fake_nvml import FakeNvml, a100, gb10, h100

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


def test_gb10_shares_the_hosts_memory() -> None:
    memory = SimpleNamespace(total=128 * GIB, available=28 * GIB)
    gpu = one(GpuReader(FakeNvml(gb10()), memory=lambda: memory).read(0.0).gpus)
    assert gpu.unified
    assert (gpu.mem_used_bytes.v, gpu.mem_total_bytes.v) == (100 * GIB, 128 * GIB)
    assert gpu.mem_used_bytes.src == "host"
    assert (gpu.power_limit_w.v, gpu.power_limit_w.why) == (None, "not supported by this device")
    assert gpu.power_w.v == 685.0


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
    assert peak_of(name) == (flops, bandwidth)


@pytest.mark.parametrize(
    "name", ["", "Tesla T4", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU"]
)
def test_an_unknown_device_has_no_peak(name: str) -> None:
    assert peak_of(name) is None
