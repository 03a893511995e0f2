"""GPM, the performance counters that Hopper and newer GPUs keep: what the silicon did between two samples.

Metric ids and units: NVML's reference, nvmlGpmMetricId_t. They need no root, but a machine's owner can close them.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import pynvml

from server.telemetry.snapshot import Value

SHARES: Mapping[str, int] = {"sm_active": 2, "sm_occupancy": 3, "tensor": 5, "dram": 10}
"""Field of `Gpu` -> metric id; in percent."""
RATES: Mapping[str, int] = {
    "pcie_from_bytes_per_s": 20,
    "pcie_to_bytes_per_s": 21,
    "nvlink_in_bytes_per_s": 60,
    "nvlink_out_bytes_per_s": 61,
}
"""In MiB/s."""
METRICS: Mapping[str, int] = {**SHARES, **RATES}
SPACING_S = 0.1
"""Two samples closer than this give no figures."""
MIB = 2**20


class GpmSampler:
    """One device's counters: two samples that take turns. Its methods raise NVMLError."""

    def __init__(self, nvml: Any, handle: Any, now: float) -> None:
        self._nvml = nvml
        self._handle = handle
        self._taken_at = now
        self._figures: dict[str, Value] = absent("needs two samples")
        self._samples: list[Any] = []
        try:
            self._samples = [nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()]
            nvml.nvmlGpmSampleGet(handle, self._samples[0])
        except pynvml.NVMLError:
            self.close()
            raise

    def read(self, now: float) -> dict[str, Value]:
        """Every metric since the sample before; asked again too soon, the same figures."""
        elapsed_s = now - self._taken_at
        if elapsed_s <= SPACING_S:
            return self._figures
        previous, current = self._samples
        self._nvml.nvmlGpmSampleGet(self._handle, current)
        wanted = pynvml.c_nvmlGpmMetricsGet_t()
        wanted.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        wanted.numMetrics = len(METRICS)
        wanted.sample1, wanted.sample2 = previous, current
        for slot, metric in enumerate(METRICS.values()):
            wanted.metrics[slot].metricId = metric
        self._nvml.nvmlGpmMetricsGet(wanted)
        self._samples, self._taken_at = [current, previous], now
        self._figures = {
            name: _value(wanted.metrics[slot].nvmlReturn, wanted.metrics[slot].value, name, elapsed_s)
            for slot, name in enumerate(METRICS)
        }
        return self._figures

    def close(self) -> None:
        for sample in self._samples:
            with contextlib.suppress(pynvml.NVMLError):
                self._nvml.nvmlGpmSampleFree(sample)
        self._samples = []


def absent(why: str) -> dict[str, Value]:
    """Every metric with the reason why it is not there."""
    return dict.fromkeys(METRICS, Value(src="gpm", why=why))


def reason(error: Any) -> str:
    """An NVML error in a few words."""
    known = {
        pynvml.NVML_ERROR_NOT_SUPPORTED: "not supported by this device",
        pynvml.NVML_ERROR_NO_PERMISSION: "no permission",
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "not in this driver",
    }
    return known.get(error.value, str(error).rstrip("."))


def _value(code: int, figure: float, name: str, window_s: float) -> Value:
    if code != pynvml.NVML_SUCCESS:
        return Value(src="gpm", why=reason(pynvml.NVMLError(code)))
    if not math.isfinite(figure):
        return Value(src="gpm", why="the device gave no number")
    return Value(v=figure / 100 if name in SHARES else figure * MIB, src="gpm", window_s=window_s)
