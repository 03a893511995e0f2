"""GPUs through NVML: what the device says, and why not where it does not. Every call may fail, alone and at any time.

`busy` is the share of time in which any kernel ran. Real work (SM, tensor cores, DRAM) comes from GPM (`gpm`). What a
device or its driver does not have is asked for once; everything else is asked again each time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil
import pynvml

from server.telemetry.gpm import GpmSampler, absent, reason
from server.telemetry.gpu_processes import EVERY_S, Holders, holders, process_name
from server.telemetry.snapshot import Gpu, Value

RETRY_S = 30.0
"""A driver that went away is asked again after this."""

_NO_DRIVER = {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
_GONE = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_UNKNOWN,
}
_LACKING = {pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}

SLOWED_BY = {
    0x0002: "a clock setting",
    0x0004: "the power cap",
    0x0008: "the hardware",
    0x0010: "another GPU (sync boost)",
    0x0020: "heat",
    0x0040: "heat (hardware)",
    0x0080: "the power brake",
}
"""Bits of nvmlClocksEventReasons that slow work down. An idle GPU (0x1) and a display (0x100) do not."""

KB = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class GpuReading:
    """All devices at one moment, or why there are none."""

    at: float
    gpus: list[Gpu]
    note: str = ""
    energy_j: dict[int, float] = field(default_factory=dict)
    """Device index -> joules since the driver was loaded, of devices that count them."""


@dataclass(slots=True)
class _Device:
    index: int
    handle: Any
    name: str = ""
    gpm: GpmSampler | None = None
    no_gpm: str = ""
    mig: bool | None = None
    lacks: dict[str, str] = field(default_factory=dict)
    """What this device will never say -> the reason."""
    gone: int = 0
    answered: int = 0
    asked_holders_at: float = -math.inf
    holders: Holders = field(default_factory=Holders)


class GpuReader:
    """Reads every device when asked. The calls block for milliseconds, so they belong in a thread, one at a time."""

    def __init__(
        self,
        nvml: Any = pynvml,
        memory: Callable[[], Any] = psutil.virtual_memory,
        name_of: Callable[[int], str] = process_name,
    ) -> None:
        """`memory` gives the host's (for devices that share it) and has `total` and `available` in bytes."""
        self._nvml = nvml
        self._memory = memory
        self._name_of = name_of
        self._devices: list[_Device] | None = None
        self._note = ""
        self._retry_at = -math.inf
        """When to try to open the driver; infinity: there is none, so never."""

    def read(self, now: float, ours: Collection[int] | None = None) -> GpuReading:
        """`ours`: the engine's process ids; None when nobody knows them."""
        if self._devices is None:
            if now < self._retry_at:
                return GpuReading(now, [], self._note)
            self._open(now)
        devices = self._devices or []
        gpus = [self._gpu(device, now, ours) for device in devices]
        if devices and all(device.gone and not device.answered for device in devices):
            self.close()
            self._note, self._retry_at = "the NVIDIA driver stopped answering", now + RETRY_S
            return GpuReading(now, [], self._note)
        energy_j = {device.index: j for device in devices if (j := self._energy_j(device)) is not None}
        return GpuReading(now, gpus, self._note, energy_j)

    def close(self) -> None:
        for device in self._devices or []:
            if device.gpm is not None:
                device.gpm.close()
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
                self._note = f"the NVIDIA driver refuses: {reason(error)}"
            self._retry_at = math.inf if first else now + RETRY_S
            return
        self._devices = [self._probe(index, handle, now) for index, handle in enumerate(handles)]
        self._note = "" if handles else "the NVIDIA driver reports no GPU"

    def _probe(self, index: int, handle: Any, now: float) -> _Device:
        nvml, device = self._nvml, _Device(index, handle)
        with contextlib.suppress(pynvml.NVMLError):
            name = nvml.nvmlDeviceGetName(handle)
            device.name = name if isinstance(name, str) else name.decode(errors="replace")
        try:
            device.mig = nvml.nvmlDeviceGetMigMode(handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        except pynvml.NVMLError as error:
            device.mig = False if error.value in _LACKING else None
        try:
            if nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
                device.gpm = GpmSampler(nvml, handle, now)
            else:
                device.no_gpm = "needs GPM: Hopper or newer"
        except pynvml.NVMLError as error:
            device.no_gpm = f"GPM: {reason(error)}"
        return device

    def _gpu(self, device: _Device, now: float, ours: Collection[int] | None) -> Gpu:
        nvml, handle = self._nvml, device.handle
        device.gone = device.answered = 0
        used, total, unified = self._device_memory(device)
        gpm = self._gpm(device, now)
        if now - device.asked_holders_at >= EVERY_S:
            device.asked_holders_at = now
            device.holders = holders(nvml, handle, ours, used.v if not unified else None, self._name_of)

        def ask(what: str, call: Callable[[], float]) -> Value:
            return self._ask(device, what, call)

        def link(name: str, counter: int) -> Value:
            if device.gpm is not None:
                return gpm[name]
            return ask(name, lambda: nvml.nvmlDeviceGetPcieThroughput(handle, counter) * KB)

        return Gpu(
            index=device.index,
            name=device.name,
            busy=ask("busy", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            sm_active=gpm["sm_active"],
            sm_occupancy=gpm["sm_occupancy"],
            tensor=gpm["tensor"],
            dram=gpm["dram"],
            gpm_note=device.no_gpm,
            power_w=ask("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
            power_limit_w=ask("power limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            sm_clock_mhz=ask("SM clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            sm_clock_max_mhz=ask("SM clock max", lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            mem_clock_mhz=ask("memory clock", lambda: nvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
            temp_c=ask("heat", lambda: nvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
            slowed_by=self._slowed_by(device),
            mem_used_bytes=used,
            mem_total_bytes=total,
            unified=unified,
            pcie_from_bytes_per_s=link("pcie_from_bytes_per_s", pynvml.NVML_PCIE_UTIL_TX_BYTES),
            pcie_to_bytes_per_s=link("pcie_to_bytes_per_s", pynvml.NVML_PCIE_UTIL_RX_BYTES),
            nvlink_in_bytes_per_s=gpm["nvlink_in_bytes_per_s"],
            nvlink_out_bytes_per_s=gpm["nvlink_out_bytes_per_s"],
            processes=device.holders.processes,
            others_bytes=device.holders.others_bytes,
            engines=device.holders.engines,
            mig=device.mig,
        )

    def _ask(self, device: _Device, what: str, call: Callable[[], float]) -> Value:
        answer, why = self._call(device, what, call)
        return Value(src="nvml", why=why) if answer is None else Value(v=float(answer), src="nvml")

    def _call(self, device: _Device, what: str, call: Callable[[], T]) -> tuple[T | None, str]:
        """The answer, or None and why not."""
        if what in device.lacks:
            return None, device.lacks[what]
        try:
            answer = call()
        except pynvml.NVMLError as error:
            device.gone += error.value in _GONE
            if error.value in _LACKING:
                device.lacks[what] = reason(error)
            return None, reason(error)
        device.answered += 1
        return answer, ""

    def _slowed_by(self, device: _Device) -> list[str] | None:
        nvml, handle = self._nvml, device.handle
        bits, _ = self._call(device, "slowed by", lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
        return None if bits is None else [name for bit, name in SLOWED_BY.items() if bits & bit]

    def _energy_j(self, device: _Device) -> float | None:
        nvml, handle = self._nvml, device.handle
        energy_j, _ = self._call(device, "energy", lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000)
        return energy_j

    def _device_memory(self, device: _Device) -> tuple[Value, Value, bool]:
        """Used, total, and whether they are the host's."""
        info, why = self._call(device, "memory", lambda: self._nvml.nvmlDeviceGetMemoryInfo(device.handle))
        if info is not None:
            return Value(v=float(info.used), src="nvml"), Value(v=float(info.total), src="nvml"), False
        if "memory" not in device.lacks:
            lacking = Value(src="nvml", why=why)
            return lacking, lacking, False
        host, why = self._memory(), "host memory: the device shares it"
        used = Value(v=float(host.total - host.available), src="host", why=why)
        return used, Value(v=float(host.total), src="host", why=why), True

    def _gpm(self, device: _Device, now: float) -> dict[str, Value]:
        """GPM's figures since the reading before."""
        if device.gpm is None:
            return absent(device.no_gpm)
        try:
            return device.gpm.read(now)
        except pynvml.NVMLError as error:
            device.gone += error.value in _GONE
            return absent(reason(error))
