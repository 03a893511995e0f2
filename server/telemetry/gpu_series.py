"""GPU readings over time, joined with the engine's figures: energy a token, MFU and MBU."""

from __future__ import annotations

import math

import msgspec

from server.telemetry.aging import aged, aged_readings
from server.telemetry.gpu import GpuReading
from server.telemetry.peaks import Peak, peak_of
from server.telemetry.snapshot import Engine, Gpu, Value
from server.telemetry.windows import GrowthWindow, counter_window

ENERGY_S = 10.0
"""As long as the window of the engine's generated tokens."""
SEVERAL = "several GPUs: which of them the engine uses is not known"
NOT_ITS = "the engine does not use this GPU"
SLICED = "MIG: the peak of a slice is not in the table"


class GpuSeries:
    """Readings in, `Gpu` figures out."""

    def __init__(self) -> None:
        self._latest: GpuReading | None = None
        self._energy_j: dict[int, GrowthWindow[float]] = {}
        self._drawn: dict[int, tuple[float, float, float]] = {}
        """Device -> when, joules so far and watts then: for devices that do not count their energy."""

    @property
    def note(self) -> str:
        """Why there is no GPU."""
        return "not asked yet" if self._latest is None else self._latest.note

    def add(self, reading: GpuReading) -> None:
        self._latest = reading
        for gpu in reading.gpus:
            energy_j = reading.energy_j.get(gpu.index)
            if energy_j is None:
                energy_j = self._summed_j(gpu, reading.at)
            if energy_j is not None:
                self._energy_j.setdefault(gpu.index, counter_window(ENERGY_S)).add(reading.at, energy_j)

    def gpus(self, engine: Engine, now: float) -> list[Gpu]:
        """Every device at this moment. MFU, MBU and energy are given where the device is known to be the engine's."""
        if self._latest is None:
            return []
        gpus = [aged_readings(gpu, at=self._latest.at, now=now) for gpu in self._latest.gpus]
        whose = {gpu.index: whose_why(gpu, gpus) for gpu in gpus}
        energy = self._per_token([gpu.index for gpu in gpus if not whose[gpu.index]], engine, now)
        joined = []
        for gpu in gpus:
            why = whose[gpu.index]
            peak = peak_of(gpu.name) if not gpu.mig else None
            lacking = SLICED if gpu.mig else f"the peak of {gpu.name or 'this device'} is not in the table"
            joined.append(
                msgspec.structs.replace(
                    gpu,
                    mfu=Value(src="engine", why=why) if why else _utilization(engine.flops_per_s, peak, 0, lacking),
                    mbu=Value(src="engine", why=why) if why else _utilization(engine.bytes_per_s, peak, 1, lacking),
                    energy_per_token_j=Value(src="nvml", why=why) if why else energy,
                )
            )
        return joined

    def _summed_j(self, gpu: Gpu, at: float) -> float | None:
        """Power summed up over time by the trapezoid rule."""
        if gpu.power_w.v is None:
            self._drawn.pop(gpu.index, None)
            return None
        then, so_far_j, watts = self._drawn.get(gpu.index, (at, 0.0, gpu.power_w.v))
        energy_j = so_far_j + max(0.0, at - then) * (watts + gpu.power_w.v) / 2
        self._drawn[gpu.index] = (at, energy_j, gpu.power_w.v)
        return energy_j

    def _per_token(self, devices: list[int], engine: Engine, now: float) -> Value:
        """Joules of these devices together over the tokens of the same seconds."""
        gains = [window.over(ENERGY_S) for i in devices if (window := self._energy_j.get(i)) is not None]
        known = [gain for gain in gains if gain is not None]
        if not known or len(known) < len(devices):
            return Value(
                src="nvml", why="the device tells neither energy nor power" if not gains else "needs two readings"
            )
        rate = engine.generation_tokens_per_s
        if not rate.v:
            return Value(src="nvml", why=rate.why or "no token in the window")
        watts = math.fsum(gain.amount / gain.seconds for gain in known)
        at, seconds = min(gain.at for gain in known), max(gain.seconds for gain in known)
        return aged(watts / rate.v, "nvml", at=at, now=now, window_s=seconds)


def whose_why(gpu: Gpu, gpus: list[Gpu]) -> str:
    """Why the engine's figures do not belong to this device; empty when they do.

    The driver's process list decides; where it does not tell, a single GPU is taken to be the engine's.
    """
    if gpu.engines or (len(gpus) == 1 and gpu.engines is None):
        return ""
    if len(gpus) > 1 and gpu.engines is None and not any(other.engines for other in gpus):
        return SEVERAL
    return NOT_ITS if len(gpus) > 1 else ""


def _utilization(rate: Value, peak: Peak | None, which: int, lacking: str) -> Value:
    """A rate as a share of the device's peak; `which` is 0 for FLOPs and 1 for bytes."""
    if rate.v is None:
        return rate
    if peak is None:
        return Value(src="engine", why=lacking)
    share = rate.v / (peak.flops_per_s if which == 0 else peak.bytes_per_s)
    return aged(share, "engine", at=-rate.age_s, now=0.0, window_s=rate.window_s, why="the engine's own estimate")
