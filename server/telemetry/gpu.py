"""GPUs through NVML: what the device says, and why not where it does not. Every call may fail, alone and at any time.

`busy` is the share of time in which any kernel ran. Real work (SM, tensor cores, DRAM) comes from GPM, which Hopper and
newer devices have.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import psutil
import pynvml

from server.telemetry.snapshot import Gpu, Value

GPM_METRICS = {"sm_active": 2, "sm_occupancy": 3, "tensor": 5, "dram": 10}
"""Field -> NVML_GPM_METRIC_* id; all in percent."""
GPM_SPACING_S = 0.1
"""Two GPM samples closer than this give no figures."""
RETRY_S = 30.0
"""A driver that went away is asked again after this."""

_NO_DRIVER = {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
_GONE = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class GpuReading:
    """All devices at one moment, or why there are none."""

    at: float
    gpus: list[Gpu]
    note: str = ""


@dataclass(slots=True)
class _Gpm:
    """Two samples that take turns."""

    previous: Any
    current: Any
    taken_at: float
    shares: dict[str, Value] = field(default_factory=dict)


@dataclass(slots=True)
class _Device:
    index: int
    handle: Any
    name: str
    gpm: _Gpm | None
    no_gpm: str
    gone: int = 0
    answered: int = 0


class GpuReader:
    """Reads every device when asked. The calls block for milliseconds, so they belong in a thread, one at a time."""

    def __init__(self, nvml: Any = pynvml, memory: Callable[[], Any] = psutil.virtual_memory) -> None:
        """`memory` gives the host's (for devices that share it) and has `total` and `available` in bytes."""
        self._nvml = nvml
        self._memory = memory
        self._devices: list[_Device] | None = None
        self._note = ""
        self._retry_at = -math.inf
        """When to try to open the driver; infinity: there is none, so never."""

    def read(self, now: float) -> GpuReading:
        if self._devices is None:
            if now < self._retry_at:
                return GpuReading(now, [], self._note)
            self._open(now)
        gpus = [self._gpu(device, now) for device in self._devices or []]
        devices = self._devices or []
        if devices and all(device.gone and not device.answered for device in devices):
            self.close()
            self._note, self._retry_at = "the NVIDIA driver stopped answering", now + RETRY_S
            return GpuReading(now, [], self._note)
        return GpuReading(now, gpus, self._note)

    def close(self) -> None:
        for device in self._devices or []:
            if device.gpm is not None:
                for sample in (device.gpm.previous, device.gpm.current):
                    with contextlib.suppress(pynvml.NVMLError):
                        self._nvml.nvmlGpmSampleFree(sample)
        if self._devices is not None:
            with contextlib.suppress(pynvml.NVMLError):
                self._nvml.nvmlShutdown()
        self._devices = None

    def _open(self, now: float) -> None:
        """Find the devices and what each can do."""
        first = math.isinf(self._retry_at)
        try:
            self._nvml.nvmlInit()
            handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            if error.value in _NO_DRIVER:
                self._note = "no NVIDIA driver on this machine"
            else:
                self._note = f"the NVIDIA driver refuses: {_why(error)}"
            self._retry_at = math.inf if first else now + RETRY_S
            return
        self._devices = [self._probe(index, handle, now) for index, handle in enumerate(handles)]
        self._note = "" if handles else "the NVIDIA driver reports no GPU"

    def _probe(self, index: int, handle: Any, now: float) -> _Device:
        nvml, gpm, no_gpm = self._nvml, None, ""
        try:
            name = nvml.nvmlDeviceGetName(handle)
        except pynvml.NVMLError:
            name = ""
        try:
            if nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                gpm = _Gpm(nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc(), now)
                nvml.nvmlGpmSampleGet(handle, gpm.previous)
            else:
                no_gpm = "needs GPM: Hopper or newer"
        except pynvml.NVMLError as error:
            gpm, no_gpm = None, f"GPM: {_why(error)}"
        return _Device(index, handle, name if isinstance(name, str) else name.decode(errors="replace"), gpm, no_gpm)

    def _gpu(self, device: _Device, now: float) -> Gpu:
        nvml, handle = self._nvml, device.handle
        device.gone = device.answered = 0
        used, total, unified = self._device_memory(device)
        shares = self._shares(device, now)
        return Gpu(
            index=device.index,
            name=device.name,
            busy=self._ask(device, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            sm_active=shares["sm_active"],
            sm_occupancy=shares["sm_occupancy"],
            tensor=shares["tensor"],
            dram=shares["dram"],
            power_w=self._ask(device, lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            power_limit_w=self._ask(device, lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            sm_clock_mhz=self._ask(device, lambda: nvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            temp_c=self._ask(device, lambda: nvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
            mem_used_bytes=used,
            mem_total_bytes=total,
            unified=unified,
        )

    def _ask(self, device: _Device, call: Callable[[], float]) -> Value:
        try:
            v = float(call())
        except pynvml.NVMLError as error:
            device.gone += error.value in _GONE
            return Value(src="nvml", why=_why(error))
        device.answered += 1
        return Value(v=v, src="nvml")

    def _device_memory(self, device: _Device) -> tuple[Value, Value, bool]:
        """Used, total, and whether they are the host's."""
        try:
            info = self._nvml.nvmlDeviceGetMemoryInfo(device.handle)
        except pynvml.NVMLError as error:
            device.gone += error.value in _GONE
            if error.value != pynvml.NVML_ERROR_NOT_SUPPORTED:
                lacking = Value(src="nvml", why=_why(error))
                return lacking, lacking, False
            host, why = self._memory(), "host memory: the device shares it"
            used = Value(v=float(host.total - host.available), src="host", why=why)
            return used, Value(v=float(host.total), src="host", why=why), True
        device.answered += 1
        return Value(v=float(info.used), src="nvml"), Value(v=float(info.total), src="nvml"), False

    def _shares(self, device: _Device, now: float) -> dict[str, Value]:
        """GPM's figures since the sample before; asked again too soon, the same figures."""
        gpm = device.gpm
        if gpm is None:
            return dict.fromkeys(GPM_METRICS, Value(src="gpm", why=device.no_gpm))
        elapsed_s = now - gpm.taken_at
        if elapsed_s <= GPM_SPACING_S:
            return gpm.shares or dict.fromkeys(GPM_METRICS, Value(src="gpm", why="needs two samples"))
        try:
            self._nvml.nvmlGpmSampleGet(device.handle, gpm.current)
            wanted = pynvml.c_nvmlGpmMetricsGet_t()
            wanted.version = pynvml.NVML_GPM_METRICS_GET_VERSION
            wanted.numMetrics = len(GPM_METRICS)
            wanted.sample1, wanted.sample2 = gpm.previous, gpm.current
            for slot, metric in enumerate(GPM_METRICS.values()):
                wanted.metrics[slot].metricId = metric
            self._nvml.nvmlGpmMetricsGet(wanted)
        except pynvml.NVMLError as error:
            device.gone += error.value in _GONE
            gpm.shares = dict.fromkeys(GPM_METRICS, Value(src="gpm", why=_why(error)))
            return gpm.shares
        gpm.previous, gpm.current, gpm.taken_at = gpm.current, gpm.previous, now
        gpm.shares = {
            name: _share(wanted.metrics[slot].nvmlReturn, wanted.metrics[slot].value, elapsed_s)
            for slot, name in enumerate(GPM_METRICS)
        }
        return gpm.shares


def _share(code: int, percent: float, window_s: float) -> Value:
    if code != pynvml.NVML_SUCCESS:
        return Value(src="gpm", why=_why(pynvml.NVMLError(code)))
    if not math.isfinite(percent):
        return Value(src="gpm", why="the device gave no number")
    return Value(v=percent / 100, src="gpm", window_s=window_s)


def _why(error: Any) -> str:
    """An NVML error in a few words."""
    if error.value == pynvml.NVML_ERROR_NOT_SUPPORTED:
        return "not supported by this device"
    if error.value == pynvml.NVML_ERROR_NO_PERMISSION:
        return "no permission"
    return str(error).rstrip(".")
