"""An NVML whose devices and failures a test chooses. It raises pynvml's own errors and fills pynvml's own structs."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml


@dataclass
class FakeDevice:
    name: str
    gpm: bool = False
    failing: dict[str, int] = field(default_factory=dict)
    """Function name without its `nvmlDevice` or `nvml` prefix -> NVML_ERROR_*."""
    metric_errors: dict[int, int] = field(default_factory=dict)
    """GPM metric id -> NVML_ERROR_*."""
    metrics: dict[int, float] = field(
        default_factory=lambda: {2: 90.1, 3: 18.1, 5: 62.3, 10: 40.0, 20: 512.0, 21: 256.0, 60: 0.0, 61: 0.0}
    )
    processes: list[tuple[int, int | None]] = field(default_factory=list)
    """(process id, bytes) as the driver lists them."""
    mig: bool | None = None
    """None: the device cannot be cut."""
    event_reasons: int = 0
    power_mw: int = 685_000
    energy_mj: int = 0
    used_bytes: int = 75 * 2**30


UNSUPPORTED = pynvml.NVML_ERROR_NOT_SUPPORTED


def h100() -> FakeDevice:
    return FakeDevice("NVIDIA H100 80GB HBM3", gpm=True, mig=False)


def a100() -> FakeDevice:
    """No GPM before Hopper."""
    return FakeDevice("NVIDIA A100-SXM4-80GB", mig=False)


def gb10() -> FakeDevice:
    """Unified memory: no memory of its own, no power limit, no memory clock, no GPM, no energy counter."""
    lacking = (
        *("GetMemoryInfo", "GetEnforcedPowerLimit", "GetMemoryClock", "GetTotalEnergyConsumption"),
        *("GetPcieThroughput",),
    )
    return FakeDevice("NVIDIA GB10", failing=dict.fromkeys(lacking, UNSUPPORTED), power_mw=58_000)


def mig_parent() -> FakeDevice:
    """An H100 cut into instances: the whole card's utilization and GPM are not to be had."""
    device = h100()
    device.mig = True
    device.failing = dict.fromkeys(("GetUtilizationRates", "GpmSampleGet"), UNSUPPORTED)
    return device


def _address(sample: Any) -> int | None:
    return ctypes.cast(sample, ctypes.c_void_p).value


class FakeNvml:
    """Stands where the pynvml module stands. `gone` is the error that every call raises from then on."""

    def __init__(self, *devices: FakeDevice, init_error: int | None = None) -> None:
        self.devices = devices
        self.init_error = init_error
        self.gone: int | None = None
        self.inits = 0
        self.shutdowns = 0
        self.allocated = 0
        self.freed = 0
        self.samples = 0
        self.calls: Counter[str] = Counter()
        """By name, as in `FakeDevice.failing`."""
        self._sampled: dict[int | None, FakeDevice] = {}
        self._buffers: list[Any] = []

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        self.inits += 1
        error = self.init_error or self.gone
        if error is not None:
            raise pynvml.NVMLError(error)

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shutdowns += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeDevice:  # noqa: N802
        return self.devices[index]

    def nvmlGpmSampleAlloc(self) -> Any:  # noqa: N802
        self.allocated += 1
        self._buffers.append(ctypes.create_string_buffer(8))
        return ctypes.cast(self._buffers[-1], pynvml.c_nvmlGpmSample_t)

    def nvmlGpmSampleFree(self, _: Any) -> None:  # noqa: N802
        self.freed += 1

    def nvmlGpmSampleGet(self, device: FakeDevice, sample: Any) -> Any:  # noqa: N802
        self._raise(device, "GpmSampleGet")
        self.samples += 1
        self._sampled[_address(sample)] = device
        return sample

    def nvmlGpmQueryDeviceSupport(self, device: FakeDevice) -> Any:  # noqa: N802
        self._raise(device, "GpmQueryDeviceSupport")
        return SimpleNamespace(isSupportedDevice=int(device.gpm))

    def nvmlGpmMetricsGet(self, wanted: Any) -> Any:  # noqa: N802
        device = self._sampled[_address(wanted.sample2)]
        self._raise(device, "GpmMetricsGet")
        for slot in range(wanted.numMetrics):
            metric = wanted.metrics[slot]
            metric.nvmlReturn = device.metric_errors.get(metric.metricId, pynvml.NVML_SUCCESS)
            metric.value = device.metrics[metric.metricId]
        return wanted

    def __getattr__(self, name: str) -> Callable[..., Any]:
        answers = {
            "GetName": lambda device: device.name,
            "GetUtilizationRates": lambda _: SimpleNamespace(gpu=100),
            "GetPowerUsage": lambda device: device.power_mw,
            "GetEnforcedPowerLimit": lambda _: 700_000,
            "GetClockInfo": lambda _: 1980,
            "GetMemoryClock": lambda _: 2619,
            "GetMaxClockInfo": lambda _: 1980,
            "GetTemperature": lambda _: 55,
            "GetMemoryInfo": lambda device: SimpleNamespace(used=device.used_bytes, total=80 * 2**30),
            "GetPcieThroughput": lambda _: 1000,
            "GetTotalEnergyConsumption": lambda device: device.energy_mj,
            "GetCurrentClocksEventReasons": lambda device: device.event_reasons,
            "GetMigMode": lambda device: [int(device.mig), int(device.mig)],
            "GetComputeRunningProcesses": lambda device: [
                SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in device.processes
            ],
            "GetGraphicsRunningProcesses": lambda _: [],
        }
        short = name.removeprefix("nvmlDevice")
        if short not in answers:
            raise AttributeError(name)

        def call(device: FakeDevice, *what: Any) -> Any:
            asked = "GetMemoryClock" if (short, *what) == ("GetClockInfo", pynvml.NVML_CLOCK_MEM) else short
            self.calls[asked] += 1
            self._raise(device, asked)
            if asked == "GetMigMode" and device.mig is None:
                raise pynvml.NVMLError(UNSUPPORTED)
            return answers[asked](device)

        return call

    def _raise(self, device: FakeDevice, short: str) -> None:
        error = self.gone if self.gone is not None else device.failing.get(short)
        if error is not None:
            raise pynvml.NVMLError(error)
