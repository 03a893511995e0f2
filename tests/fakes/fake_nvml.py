"""An NVML whose devices and failures a test chooses. It raises pynvml's own errors and fills pynvml's own structs."""

from __future__ import annotations

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
    metrics: dict[int, float] = field(default_factory=lambda: {2: 90.1, 3: 18.1, 5: 62.3, 10: 40.0})


def h100() -> FakeDevice:
    return FakeDevice("NVIDIA H100 80GB HBM3", gpm=True)


def a100() -> FakeDevice:
    return FakeDevice("NVIDIA A100-SXM4-80GB")


def gb10() -> FakeDevice:
    unsupported = pynvml.NVML_ERROR_NOT_SUPPORTED
    return FakeDevice("NVIDIA GB10", failing={"GetMemoryInfo": unsupported, "GetEnforcedPowerLimit": unsupported})


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
        return pynvml.c_nvmlGpmSample_t()

    def nvmlGpmSampleFree(self, _: Any) -> None:  # noqa: N802
        self.freed += 1

    def nvmlGpmSampleGet(self, device: FakeDevice, sample: Any) -> Any:  # noqa: N802
        self._raise(device, "GpmSampleGet")
        self.samples += 1
        return sample

    def nvmlGpmQueryDeviceSupport(self, device: FakeDevice) -> Any:  # noqa: N802
        self._raise(device, "GpmQueryDeviceSupport")
        return SimpleNamespace(isSupportedDevice=int(device.gpm))

    def nvmlGpmMetricsGet(self, wanted: Any) -> Any:  # noqa: N802
        device = next(device for device in self.devices if device.gpm)
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
            "GetPowerUsage": lambda _: 685_000,
            "GetEnforcedPowerLimit": lambda _: 700_000,
            "GetClockInfo": lambda _: 1980,
            "GetTemperature": lambda _: 55,
            "GetMemoryInfo": lambda _: SimpleNamespace(used=75 * 2**30, total=80 * 2**30),
        }
        short = name.removeprefix("nvmlDevice")
        if short not in answers:
            raise AttributeError(name)

        def call(device: FakeDevice, *_: Any) -> Any:
            self._raise(device, short)
            return answers[short](device)

        return call

    def _raise(self, device: FakeDevice, short: str) -> None:
        error = self.gone if self.gone is not None else device.failing.get(short)
        if error is not None:
            raise pynvml.NVMLError(error)
