"""Every way in which the /metrics of somebody else's engine can be wrong: named, dated, never a wrong number."""

from __future__ import annotations

import re
import resource

import pytest

from server.telemetry.collector import Collector, Facts
from server.telemetry.gpu import GpuReader
from server.telemetry.snapshot import Engine, Snapshot, snapshot_decoder, snapshot_encoder
from tests.fakes.fake_nvml import FakeNvml
from tests.faults.ledger import Row, enter
from tests.faults.pages import ODDITIES, Pages, answer, pages

FACTS = Facts(engine=Engine(phase="ready", attached=True))
STEP_S = 0.5


class Watch:
    """A collector whose clock the test turns."""

    def __init__(self, server: Pages) -> None:
        self.now = 1000.0
        self.server = server
        self.collector = Collector(gpu=GpuReader(FakeNvml()), clock=lambda: self.now)

    async def look(self, times: int = 1, wall: float = 0.0) -> Snapshot:
        for _ in range(times):
            self.now += STEP_S
            await self.collector.scrape(self.server.url, None)
        made = self.collector.snapshot(FACTS, self.now, wall)
        return snapshot_decoder.decode(snapshot_encoder.encode(made))


@pytest.mark.parametrize("what", ODDITIES)
async def test_an_odd_page_is_named_and_its_figures_grow_old(what: str) -> None:
    odd, word = ODDITIES[what]
    with pages() as server:
        watch = Watch(server)
        good = await watch.look(2)
        assert (good.engine.running.v, good.sources["engine"].detail) == (3, "")
        server.odd = odd
        seen = await watch.look()
        await watch.collector.aclose()
    state = seen.sources["engine"]
    assert re.search(word, state.detail), state.detail
    partly = state.ok  # some of its metrics can be believed
    assert partly == (what in {"NaN, Inf and negative", "beyond all numbers"})
    running, kv = seen.engine.running, seen.engine.kv_usage
    assert (running.v, running.age_s) == (3, STEP_S), "the last that was read, dated"
    assert kv.v == 0.25
    assert kv.age_s in {0.0, STEP_S}
    enter(Row(fault=f"/metrics: {what}", said=state.detail, left=0))


async def test_figures_that_do_not_come_any_more_are_absent() -> None:
    with pages() as server:
        watch = Watch(server)
        await watch.look(2)
        server.odd = ODDITIES["500"][0]
        watch.now += 20
        seen = await watch.look()
        await watch.collector.aclose()
    assert seen.engine.running.v is None
    assert seen.engine.running.why == "no answer for 20 s"


async def test_counters_that_begin_anew_give_no_rate_until_there_are_two() -> None:
    with pages() as server:
        watch = Watch(server)
        before = await watch.look(4)
        server.base = 3_600_000.0
        after = await watch.look()
        again = await watch.look()
        await watch.collector.aclose()
    assert before.engine.generation_tokens_per_s.v is not None
    assert (after.engine.generation_tokens_per_s.v, after.engine.steps_per_s.v) == (None, None)
    assert (again.engine.generation_tokens_per_s.v or 0.0) >= 0
    enter(Row(fault="counters begin anew behind the same port", said=after.engine.steps_per_s.why, left=0))


async def test_a_step_of_the_clock_on_the_wall_changes_no_figure() -> None:
    """An hour forth and two back: ages, windows and rates are of the monotonic clock."""
    with pages() as server:
        watch = Watch(server)
        before = await watch.look(4, wall=1_795_000_000.0)
        forth = await watch.look(wall=1_795_003_600.0)
        back = await watch.look(wall=1_794_996_400.0)
        await watch.collector.aclose()
    for seen in (forth, back):
        assert seen.engine.running.age_s == before.engine.running.age_s
        assert seen.engine.generation_tokens_per_s.window_s is not None
        assert seen.engine.generation_tokens_per_s.window_s < 5
    said = f"running {back.engine.running.v:g}, {back.engine.running.age_s:g} s old"
    enter(Row(fault="the wall clock steps an hour forth and two back", said=said, left=0))


async def test_a_slow_page_is_not_waited_for_and_not_asked_again_meanwhile() -> None:
    with pages() as server:
        server.odd = ODDITIES["10 s late"][0]
        collector = Collector(gpu=GpuReader(FakeNvml()), patience_s=0.01)
        for _ in range(5):
            await collector.scrape(server.url, None)
        assert server.asked.count("/metrics") <= 1
        await collector.aclose()


async def test_a_label_as_long_as_the_page_stops_no_reading() -> None:
    size = "9" * 6000
    with pages() as server:
        info = f'vllm:cache_config_info{{kv_cache_size_tokens="{size}",num_gpu_blocks="{size}",block_size="16"}} 1\n'
        server.odd = lambda page, write: write(answer((page + info).encode()))
        watch = Watch(server)
        seen = await watch.look()
        await watch.collector.aclose()
    assert (seen.engine.running.v, seen.engine.kv_tokens.v) == (3, None)


async def test_sums_that_overflow_are_no_figures() -> None:
    with pages() as server:
        more = "".join(f'vllm:num_requests_running{{engine="{n}"}} 1e308\n' for n in range(9))
        server.odd = lambda page, write: write(answer((page + more).encode()))
        watch = Watch(server)
        seen = await watch.look()
        await watch.collector.aclose()
    assert seen.engine.running.v is None
    assert seen.engine.kv_usage.v == 0.25


async def test_what_the_other_side_likes_to_have_kept_is_not_kept() -> None:
    """Cookies, and labels that are new each time: memory stays where it is."""
    with pages() as server:
        count = 0

        def fresh(page: str, write: object) -> None:
            nonlocal count
            count += 1
            labels = f'vllm:num_requests_running{{x="{count}{"y" * 8_000}"}} 3\n'
            write(answer(labels.encode() * 20, more=f"set-cookie: c{count}={'z' * 4000}\r\n"))  # type: ignore[operator]

        server.odd = fresh
        watch = Watch(server)
        await watch.look(5)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await watch.look(20)
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert len(watch.collector._client.cookies) == 0
        await watch.collector.aclose()
    assert grown_kib < 40_000


async def test_a_page_elsewhere_is_not_followed() -> None:
    with pages() as server, pages() as elsewhere:
        moved = answer(b"", "302 Found", f"location: {elsewhere.url}/metrics\r\n")
        server.odd = lambda _, write: write(moved)
        server.paths["/health"] = moved
        watch = Watch(server)
        seen = await watch.look()
        await watch.collector.aclose()
        assert elsewhere.asked == []
    said = f"{seen.sources['engine'].detail}; {seen.sources['health'].detail}"
    assert said == "/metrics answers HTTP 302; /health answers HTTP 302"
    enter(Row(fault="/metrics and /health send us elsewhere", said=said, left=0))
