"""The collector against real sockets: an engine's page, a gateway's page, records, and a clock of the test's own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pynvml
import pytest

from loadgen.histogram import Histogram
from loadgen.profile import Profile
from loadgen.records import Behaviour, IntervalRecord, RequestRecord
from loadgen.slo import INTERACTIVE
from server.gateway.records import GapRecord, GatewayRecord
from server.telemetry.collector import Collector, Facts
from server.telemetry.gpu import GpuReader
from server.telemetry.join import STAGES, EngineTimes
from server.telemetry.snapshot import (
    Engine,
    People,
    Quantiles,
    Snapshot,
    SourceState,
    StageTime,
    Value,
    snapshot_decoder,
    snapshot_encoder,
)
from tests.fakes.fake_nvml import FakeNvml, h100

ENGINE_PAGE = (Path(__file__).parent.parent / "data" / "vllm-0.24-h100-c64.prom").read_text()
GATEWAY_PAGE = """\
spark_gateway_queue_depth 3.0
spark_gateway_in_flight 64.0
spark_gateway_held 1.0
spark_gateway_buffered_bytes 4096.0
spark_gateway_connections 68.0
spark_gateway_oldest_wait_seconds 1.25
spark_gateway_max_in_flight 64.0
spark_gateway_max_queue 256.0
spark_gateway_requests_total {arrived}
spark_gateway_requests_finished_total{{outcome="completed",reason=""}} {completed}
spark_gateway_requests_finished_total{{outcome="rejected",reason="queue_full"}} {rejected}
spark_gateway_rejected_total{{reason="queue_full"}} {rejected}
"""
FACTS = Facts(engine=Engine(phase="ready", model="m", max_num_seqs=Value(v=64.0, src="config")), gateway_url="http://g")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pages:
    """A server of fixed texts by path; None closes the connection without an answer."""

    def __init__(self) -> None:
        self.by_path: dict[str, tuple[int, str] | None] = {}
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        found = self.by_path.get(head.split(b" ")[1].decode(), (404, ""))
        if found is not None:
            status, text = found
            body = text.encode()
            writer.write(
                b"HTTP/1.1 %d x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(body)) + body
            )
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def serving() -> AsyncIterator[Pages]:
    pages = Pages()
    server = await asyncio.start_server(pages.answer, "127.0.0.1", 0)
    async with server:
        pages.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield pages


@asynccontextmanager
async def collecting(nvml: FakeNvml | None = None) -> AsyncIterator[tuple[Collector, Clock]]:
    clock = Clock()
    collector = Collector(gpu=GpuReader(nvml or FakeNvml(init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)), clock=clock)
    try:
        yield collector, clock
    finally:
        await collector.aclose()


def moved(text: str, factor: float) -> str:
    """An engine page on which everything that grows has grown by `factor`."""
    lines = []
    for line in text.splitlines():
        grows = any(word in line for word in ("_total", "_bucket", "_sum", "_count")) and not line.startswith("#")
        if grows:
            name, _, value = line.rpartition(" ")
            lines.append(f"{name} {float(value) * factor!r}")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def gateway_page(arrived: int, completed: int, rejected: int) -> str:
    return GATEWAY_PAGE.format(arrived=arrived, completed=completed, rejected=rejected)


def request(i: int, at: float) -> tuple[GatewayRecord, RequestRecord, EngineTimes]:
    """A request that was scheduled at `at` and took 2.97 s."""
    trace = f"{i:032x}"
    gateway = GatewayRecord(
        request_id=f"r{i}",
        trace_id=trace,
        route="/v1/chat/completions",
        stream=True,
        accepted=at + 0.030,
        queued=at + 0.032,
        admitted=at + 0.432,
        upstream_sent=at + 0.433,
        first_token=at + 0.6,
        last_token=at + 2.9,
        upstream_done=at + 2.962,
        done=at + 2.963,
        outcome="completed",
        status=200,
        completion_tokens=101,
    )
    load = RequestRecord(
        request_id=f"r{i}",
        person="p1",
        behaviour="patient",
        scheduled=at,
        sent=at + 0.025,
        first_token=at + 0.61,
        last_token=at + 2.91,
        done=at + 2.970,
        outcome="ok",
        status=200,
        completion_tokens=101,
    )
    return gateway, load, EngineTimes(trace_id=trace, queue_s=0.01, prefill_s=0.1, decode_s=2.39)


def gaps(count: int) -> Histogram:
    """So many gaps of 20 ms."""
    made = Histogram()
    for _ in range(count):
        made.add(0.02)
    return made


def interval(at: float, worker: int = 0, **changes: Any) -> IntervalRecord:
    record = IntervalRecord(
        worker=worker,
        at=at,
        mode="closed",
        crowds={"patient": 10},
        thinking=4,
        in_flight=6,
        scheduled_total=100,
        outcomes={"ok": 94},
        gaps=gaps(200),
        loop_lag_ms=1.0 + worker,
        cpu_share=0.1,
    )
    return msgspec.structs.replace(record, **changes)


async def loaded(collector: Collector, clock: Clock, engine: Pages, gateway: Pages) -> Snapshot:
    """Thirty busy seconds; the last snapshot."""
    snapshot = None
    for second in range(31):
        grown = 1 + second / 30
        engine.by_path = {"/metrics": (200, moved(ENGINE_PAGE, grown)), "/health": (200, "")}
        gateway.by_path = {"/metrics": (200, gateway_page(100 + 10 * second, 90 + 9 * second, second))}
        await collector.scrape(engine.url, gateway.url, {})
        for i in range(5):
            record, load, times = request(second * 5 + i, clock.now - 2.97)
            collector.on_gateway(record)
            collector.on_load(load)
            collector.on_engine_times(times)
        for worker in (0, 1):
            collector.on_load(interval(clock.now, worker, scheduled_total=100 + 5 * second))
        snapshot = collector.snapshot(FACTS, clock.now, 1e9)
        clock.now += 1.0
    assert snapshot is not None
    clock.now -= 1.0
    return snapshot


async def test_a_loaded_stack_has_every_figure() -> None:
    async with serving() as engine, serving() as gateway, collecting(FakeNvml(h100())) as (collector, clock):
        found = await loaded(collector, clock, engine, gateway)
    assert found.engine.phase == "ready"
    assert found.engine.model == "m"
    assert found.engine.max_num_seqs.v == 64
    assert found.engine.healthy is True
    assert (found.engine.running.v, found.engine.waiting.v) == (64, 0)
    assert found.engine.kv_usage.v == pytest.approx(0.0847297)
    assert found.engine.kv_tokens.v == 423_008
    assert found.engine.generation_tokens_per_s.v == pytest.approx(30_451 / 30, rel=1e-4)
    assert found.engine.generation_tokens_per_s.window_s == 10.0
    assert found.engine.preemptions_per_min.v == 0
    assert found.engine.tokens_per_step.v == pytest.approx(175_859 / 3141, rel=1e-4)
    assert found.engine.steps_per_s.v == pytest.approx(3141 / 30, rel=1e-4)
    assert found.engine.prefill_s.mean is not None
    assert not found.engine.prefill_s.exact
    assert found.engine.front_end_s.v == pytest.approx(0.039, abs=0.002)
    assert found.engine.flops_per_s.v == pytest.approx(2.505294e15 / 30, rel=1e-4)
    assert found.engine.heartbeat_age_s == 0.0
    assert found.engine.stage_times == "otlp"
    assert found.queue.depth.v == 3
    assert found.queue.oldest_s.v == 1.25
    assert found.queue.wait_s.p50 == pytest.approx(0.4)
    assert found.queue.wait_s.p95 == pytest.approx(0.4)
    assert found.queue.wait_s.p99 is None
    assert found.queue.arrivals_per_s.v == pytest.approx(10)
    assert found.queue.refused_share.v == pytest.approx(0.1)
    assert found.queue.failed_share.v == 0
    assert found.queue.outcomes == {"completed": 360, "rejected": 30}
    assert found.queue.arrived_total == 400
    assert (found.people.people.v, found.people.in_flight.v, found.people.mode) == (20, 12, "closed")
    assert found.people.sent_per_s.v == pytest.approx(10)
    assert found.people.sent_total == 500
    assert found.people.loop_lag_ms.v == 2.0
    assert found.feel.ttft_s.p50 == pytest.approx(0.61)
    assert found.feel.ttft_s.n == 155
    assert found.feel.ttft_s.src == "load"
    assert found.feel.tpot_s.p50 == pytest.approx(0.023)
    assert found.feel.gap_s.n == 400 * 31
    assert found.feel.gap_s.p99 == pytest.approx(0.02, rel=0.01)
    assert found.feel.goodput_per_s.v == pytest.approx(155 / 30, rel=1e-4)
    assert found.verdict.word == "GOOD"
    assert found.verdict.attainment.v == 1.0
    assert found.feel.attainment.n == 155
    assert [stage.name for stage in found.breakdown.stages] == list(STAGES)
    assert math.fsum(stage.mean_s or 0 for stage in found.breakdown.stages) == pytest.approx(found.breakdown.e2e_s)
    assert found.breakdown.n == 155
    gpu = found.gpus[0]
    assert gpu.tensor.v == pytest.approx(0.623)
    assert gpu.mfu.v == pytest.approx(2.505294e15 / 30 / 989.4e12, rel=1e-3)
    assert gpu.mbu.v is not None
    assert found.host.mem_total_bytes.v
    assert all(state.ok for state in found.sources.values()), found.sources
    assert found.little.counted is None, "the window of 60 s is not full"


async def test_a_snapshot_survives_json() -> None:
    async with serving() as engine, serving() as gateway, collecting(FakeNvml(h100())) as (collector, clock):
        found = await loaded(collector, clock, engine, gateway)
    encoded = snapshot_encoder.encode(found)
    assert snapshot_encoder.encode(snapshot_decoder.decode(encoded)) == encoded


def readings(struct: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every Value, Quantiles and StageTime under a struct, with its path."""
    if isinstance(struct, Value | Quantiles | StageTime | SourceState):
        yield path, struct
    elif isinstance(struct, msgspec.Struct):
        for name in struct.__struct_fields__:
            yield from readings(getattr(struct, name), f"{path}.{name}")
    elif isinstance(struct, list):
        for index, item in enumerate(struct):
            yield from readings(item, f"{path}[{index}]")


async def test_nothing_measured_is_nothing_shown() -> None:
    async with collecting() as (collector, clock):
        await collector.scrape(None, None)
        found = collector.snapshot(Facts(engine=Engine(phase="down")), clock.now, 1e9)
    for path, reading in readings(found):
        if path.startswith(".host."):
            continue
        if isinstance(reading, Value):
            assert reading.v is None, path
        elif isinstance(reading, Quantiles):
            assert (reading.mean, reading.p50, reading.p95, reading.p99, reading.max) == (None,) * 5, path
            assert reading.why, path
    assert found.breakdown.e2e_s is None
    assert found.little.expected is None
    assert found.gpus == []
    assert found.gpu_note == "no NVIDIA driver on this machine"
    assert found.verdict.word == "DOWN"
    assert found.engine.healthy is None
    assert found.engine.heartbeat_age_s is None
    assert not found.sources["engine"].ok


async def test_values_age_then_are_stale_then_absent() -> None:
    async with serving() as engine, serving() as gateway, collecting() as (collector, clock):
        engine.by_path = {"/metrics": (200, ENGINE_PAGE + "\n"), "/health": (200, "")}
        gateway.by_path = {"/metrics": (200, gateway_page(1, 1, 0))}
        await collector.scrape(engine.url, gateway.url)
        engine.by_path = {"/metrics": None, "/health": None}
        gateway.by_path = {"/metrics": None}
        start = clock.now
        seen: list[tuple[float | None, str]] = []
        for after in (0.0, 5.0, 5.5, 10.0, 10.5):
            clock.now = start + after
            await collector.scrape(engine.url, gateway.url)
            found = collector.snapshot(FACTS, clock.now, 0.0)
            seen.append((found.engine.running.v, found.engine.running.why))
            assert found.engine.running.age_s == after
            assert (found.queue.depth.v is None) == (after > 10)
            assert not found.sources["engine"].ok
            assert found.sources["engine"].age_s == after
            assert found.engine.healthy is False
        assert seen == [(64, ""), (64, ""), (64, "stale"), (64, "stale"), (None, "no answer for 10 s")]


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        ((200, "<html><body>Welcome</body></html>\n"), "another service?"),
        ((200, "other_metric 1\n"), "another service?"),
        ((200, ""), "/metrics is empty"),
        ((404, "no"), "HTTP 404"),
        (None, "not a valid answer"),
    ],
)
async def test_a_wrong_service_is_named(answer: tuple[int, str] | None, detail: str) -> None:
    async with serving() as pages, collecting() as (collector, clock):
        pages.by_path = {"/metrics": answer}
        await collector.scrape(pages.url, pages.url)
        found = collector.snapshot(FACTS, clock.now, 0.0)
    for source in ("engine", "gateway"):
        assert not found.sources[source].ok
        assert detail in found.sources[source].detail
        assert found.sources[source].age_s is None
    assert found.engine.running.v is None


async def test_nothing_listening_is_named() -> None:
    async with serving() as pages:
        url = pages.url
    async with collecting() as (collector, clock):
        await collector.scrape(url, "http://[bad")
        found = collector.snapshot(FACTS, clock.now, 0.0)
    assert found.sources["engine"].detail == "nothing listens there"
    assert not found.sources["gateway"].ok


async def test_a_restart_begins_the_engines_windows_anew() -> None:
    async with serving() as engine, collecting() as (collector, clock):

        async def page(factor: float) -> Snapshot:
            engine.by_path = {"/metrics": (200, moved(ENGINE_PAGE, factor)), "/health": (200, "")}
            await collector.scrape(engine.url, None)
            found = collector.snapshot(FACTS, clock.now, 0.0)
            clock.now += 1.0
            return found

        await page(10.0)
        assert (await page(11.0)).engine.generation_tokens_per_s.v is not None
        restarted = await page(0.0)
        assert restarted.engine.generation_tokens_per_s.v is None
        assert restarted.engine.ttft_s.mean is None
        assert (await page(1.0)).engine.generation_tokens_per_s.v == pytest.approx(30_451)
        collector.reset_engine()
        after = collector.snapshot(FACTS, clock.now, 0.0).engine
        assert (after.running.v, after.running.why) == (None, "no answer yet")


async def test_the_heartbeat_stops_and_the_word_is_stalled() -> None:
    async with serving() as engine, collecting() as (collector, clock):
        engine.by_path = {"/metrics": (200, ENGINE_PAGE + "\n"), "/health": (200, "")}
        ages = []
        for _ in range(8):
            await collector.scrape(engine.url, None)
            found = collector.snapshot(FACTS, clock.now, 0.0)
            ages.append(found.engine.heartbeat_age_s)
            clock.now += 9.0
        assert ages == [0, 9, 18, 27, 36, 45, 54, 63]
        assert found.verdict.word == "STALLED"
        assert found.engine.healthy is True


async def test_clients_that_are_not_ours_are_seen_from_the_gateway() -> None:
    async with collecting() as (collector, clock):
        for i in range(30):
            record, _, times = request(i, clock.now - 2.97)
            collector.on_engine_times(times)
            collector.on_gateway(record)
            gaps = Histogram()
            gaps.add(0.02)
            collector.on_gaps(GapRecord(at=clock.now, gaps=gaps))
            found = collector.snapshot(FACTS, clock.now, 0.0)
            clock.now += 0.5
    assert found.people.mode == "none"
    assert (found.feel.gap_s.src, found.feel.gap_s.n) == ("gateway", 30)
    assert found.feel.gap_s.p50 == pytest.approx(0.02, rel=0.01)
    assert found.people.in_flight.v is None
    assert found.feel.ttft_s.src == "gateway"
    assert found.feel.ttft_s.n == 30
    assert found.feel.ttft_s.p50 == pytest.approx(0.57)
    assert found.verdict.word == "GOOD"
    assert found.breakdown.stages[0].mean_s is None, "nobody saw their connect"
    assert len(collector.requests()) == 30


async def test_without_exact_times_the_engines_means_stand_in() -> None:
    async with serving() as engine, collecting() as (collector, clock):
        for second in range(3):
            engine.by_path = {"/metrics": (200, moved(ENGINE_PAGE, 1 + second)), "/health": (200, "")}
            await collector.scrape(engine.url, None)
            record, load, _ = request(second, clock.now - 2.97)
            collector.on_gateway(record)
            collector.on_load(load)
            collector.on_load(interval(clock.now))
            found = collector.snapshot(FACTS, clock.now, 0.0)
            clock.now += 1.0
    assert found.engine.stage_times == "windowed"
    by_name = {stage.name: stage for stage in found.breakdown.stages}
    assert by_name["decode"].mean_s == found.engine.decode_s.mean or by_name["decode"].mean_s is not None
    assert not by_name["decode"].exact
    assert by_name["queue"].exact


async def test_people_who_wait_past_the_limit_are_misses_already() -> None:
    async with collecting() as (collector, clock):
        for i in range(20):
            collector.on_load(request(i, clock.now - 3.0)[1])
        waiting = [(clock.now - 0.1, None)] * 5 + [(clock.now - 3.0, None)] * 7
        waiting += [(clock.now - 9.0, clock.now - 6.0)] * 3  # it reads on, but the first token came too late
        waiting += [(clock.now - 9.0, clock.now - 8.5)] * 4
        collector.on_load(interval(clock.now, waiting=waiting))
        found = collector.snapshot(FACTS, clock.now, 0.0)
    assert found.verdict.attainment.n == 30
    assert found.verdict.word == "BROKEN"


async def test_a_silent_worker_is_gone_after_ten_seconds() -> None:
    async with collecting() as (collector, clock):
        collector.on_load(interval(clock.now, 0))
        clock.now += 6.0
        collector.on_load(interval(clock.now, 1))
        assert collector.snapshot(FACTS, clock.now, 0.0).people.people.v == 20
        clock.now += 6.0
        assert collector.snapshot(FACTS, clock.now, 0.0).people.people.v == 10
        clock.now += 6.0
        found = collector.snapshot(FACTS, clock.now, 0.0)
    assert (found.people.mode, found.people.people.v, found.people.people.why) == ("none", None, "no load generator")


async def test_littles_law_holds_in_steady_load() -> None:
    """Two requests a second for 3 s each: six people inside."""
    async with collecting() as (collector, clock):
        for tick in range(200):
            _, load, _ = request(tick, clock.now - 2.97)
            collector.on_load(load)
            collector.on_load(interval(clock.now, gaps=Histogram()))
            found = collector.snapshot(FACTS, clock.now, 0.0)
            clock.now += 0.5
    assert found.little.n == 120
    assert found.little.counted == pytest.approx(6)
    assert found.little.error == pytest.approx(0.0, abs=0.02)


async def test_littles_law_for_clients_that_are_not_ours_counts_at_the_gateway() -> None:
    """Two requests a second for 2.96 s each; the gauges would count those held for slow clients twice."""
    async with serving() as gateway, collecting() as (collector, clock):
        for tick in range(160):
            gateway.by_path = {"/metrics": (200, gateway_page(tick + 6, tick, 0))}
            await collector.scrape(None, gateway.url)
            collector.on_gateway(request(tick, clock.now - 2.963)[0])
            found = collector.snapshot(FACTS, clock.now, 0.0)
            clock.now += 0.5
    assert found.little.counted == pytest.approx(6)
    assert found.little.error == pytest.approx(0.0, abs=0.03)


async def test_a_driver_that_hangs_is_not_asked_again() -> None:
    class Hanging(GpuReader):
        def __init__(self, wait: Callable[[], bool]) -> None:
            super().__init__(FakeNvml())
            self.calls = 0
            self._wait = wait

        def read(self, now: float, ours: Any = None) -> Any:
            self.calls += 1
            self._wait()
            return super().read(now, ours)

    from threading import Event  # noqa: PLC0415 - used by this test alone

    released = Event()
    reader = Hanging(lambda: released.wait(20))
    collector = Collector(gpu=reader)
    try:
        await collector.scrape(None, None)
        await collector.scrape(None, None)
        assert reader.calls == 1
        found = collector.snapshot(FACTS, 0.0, 0.0)
        assert found.sources["nvml"].detail == "no answer in 1 s"
        assert found.sources["host"].ok
    finally:
        released.set()
        await collector.aclose()


async def test_requests_that_pass_no_gateway_show_the_engines_own_account() -> None:
    async with serving() as engine, collecting() as (collector, clock):
        for second in range(3):
            engine.by_path = {"/metrics": (200, moved(ENGINE_PAGE, 1 + second)), "/health": (200, "")}
            await collector.scrape(engine.url, None)
            found = collector.snapshot(FACTS, clock.now, 0.0)
            clock.now += 1.0
    assert found.breakdown.n > 0
    assert not any(stage.exact for stage in found.breakdown.stages)
    assert "do not pass our gateway" in found.breakdown.why
    assert sum(stage.mean_s or 0.0 for stage in found.breakdown.stages) == pytest.approx(found.breakdown.e2e_s)
    assert found.feel.ttft_s.src == "engine"
    assert found.feel.ttft_s.n > 0
    assert found.verdict.word == "UNKNOWN"


async def test_the_people_are_shown_as_measured_and_as_asked_for() -> None:
    profile = Profile(seed=5)
    asked = People(
        wanted=12, weights={"patient": 2.0}, extras={"slow": 3}, preset="ten-friends", arrivals="", profile=profile
    )
    facts = msgspec.structs.replace(FACTS, people=asked)
    async with collecting() as (collector, clock):
        assert collector.snapshot(facts, clock.now, 0.0).people.wanted == 0, "nobody is there to be asked"
        crowds: dict[Behaviour, int] = {"patient": 8, "slow": 2}
        collector.on_load(interval(clock.now, crowds=crowds, flash=4, held=2))
        collector.on_load(interval(clock.now, 1, crowds={"patient": 1}, flash=1))
        people = collector.snapshot(facts, clock.now, 0.0).people
    assert people.crowds == {"patient": 9, "slow": 2}
    assert (people.people.v, people.slow.v, people.flash.v, people.held.v, people.workers) == (11, 2, 5, 2, 2)
    assert (people.wanted, people.weights, people.extras) == (12, {"patient": 2.0}, {"slow": 3})
    assert (people.preset, people.profile) == ("ten-friends", profile)


async def test_the_engines_ttft_stands_beside_the_clients() -> None:
    async with serving() as engine, serving() as gateway, collecting() as (collector, clock):
        found = await loaded(collector, clock, engine, gateway)
        feel = found.feel
        assert feel.server_ttft_s.v == pytest.approx(found.engine.ttft_s.mean)
        assert feel.server_ttft_s.src == "engine"
        assert feel.ttft_s.mean is not None
        assert found.engine.ttft_s.mean is not None
        assert feel.ttft_gap_s.v == pytest.approx(feel.ttft_s.mean - found.engine.ttft_s.mean, rel=1e-4)
        collector.reset_engine()
        feel = collector.snapshot(FACTS, clock.now, 0.0).feel
    assert (feel.server_ttft_s.v, feel.ttft_gap_s.v) == (None, None)
    assert feel.server_ttft_s.why


async def test_another_promise_is_judged_and_shown() -> None:
    clock = Clock()
    collector = Collector(slo=INTERACTIVE, gpu=GpuReader(FakeNvml()), clock=clock)
    try:
        for i in range(20):
            collector.on_load(request(i, clock.now - 3.0)[1])
        found = collector.snapshot(FACTS, clock.now, 0.0)
    finally:
        await collector.aclose()
    assert found.feel.slo == INTERACTIVE
    assert found.feel.misses == {"ttft": 20}
    assert found.verdict.attainment.v == 0.0
