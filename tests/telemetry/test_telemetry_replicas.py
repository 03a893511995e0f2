"""Several engines as rows and as one sum: endpoints that come and go, data-parallel ranks on one page, and who is the limit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from server.gateway.records import ReplicaState
from server.telemetry.collector import Facts
from server.telemetry.dialects.vllm import VllmDialect
from server.telemetry.exposition import scan
from server.telemetry.limit import limit_of
from server.telemetry.replicas import Engines, by_rank, notable, short_names
from server.telemetry.snapshot import Engine, Replica, Replicas, Snapshot, Value
from server.telemetry.windows import Buckets
from tests.telemetry.test_telemetry_collector import collecting, moved, serving

PAGE = (Path(__file__).parent.parent / "data" / "vllm-0.24-h100-c64.prom").read_text()
FACTS = Facts(engine=Engine(phase="ready", attached=True), balance="least", slots=[64, 64])
DIALECT = VllmDialect()


def ranks(*running: int, factor: float = 1.0) -> str:
    """The real page as one of that many data-parallel ranks."""
    lines = []
    for line in moved(PAGE, factor).splitlines():
        if 'engine="0"' not in line:
            lines.append(line)
            continue
        for rank, count in enumerate(running):
            one = line.replace('engine="0"', f'engine="{rank}"')
            if one.startswith("vllm:num_requests_running{"):
                one = f"{one.rpartition(' ')[0]} {count}"
            lines.append(one)
    return "\n".join(lines) + "\n"


def counters(tokens: float, running: float = 1, **more: float) -> str:
    label = '{engine="0",model_name="m"}'
    figures = {"num_requests_running": running, "num_requests_waiting": 0, "generation_tokens_total": tokens, **more}
    return "".join(f"vllm:{name}{label} {value}\n" for name, value in figures.items())


def histogram(name: str, counts: dict[str, int], total: float) -> str:
    buckets = "".join(f'vllm:{name}_bucket{{engine="0",le="{edge}"}} {n}\n' for edge, n in counts.items())
    n = counts["+Inf"]
    return f'{buckets}vllm:{name}_sum{{engine="0"}} {total}\nvllm:{name}_count{{engine="0"}} {n}\n'


def fed(*pages: list[str], every_s: float = 1.0) -> tuple[Engines, float]:
    """Engines that have read each endpoint's pages, one a second; an empty page is one that did not come."""
    engines = Engines()
    engines.name([f"http://127.0.0.1:800{place}" for place in range(len(pages))])
    at = 0.0
    for tick in range(max(map(len, pages))):
        at = tick * every_s
        for place, texts in enumerate(pages):
            log = engines.endpoints[place].metrics
            if tick < len(texts) and texts[tick]:
                assert engines.add(place, at, scan(texts[tick], DIALECT.wanted).trusted, DIALECT)
                log.good(at)
            else:
                log.bad("nothing listens there")
    return engines, at


def test_rates_are_summed_and_a_restart_of_one_spoils_nothing() -> None:
    engines, now = fed(
        [counters(100 * tick) for tick in range(6)],
        [counters(300 * tick) for tick in (5, 6, 7, 0, 1, 2)],
    )
    total = engines.series(now).fill(Engine(), now)
    assert total.generation_tokens_per_s.v == pytest.approx(100 + 300)
    assert total.running.v == 2
    assert total.running.why == ""


def test_quantiles_are_read_off_the_merged_histogram_and_not_summed() -> None:
    fast = [histogram("time_to_first_token_seconds", {"0.1": n, "1.0": n, "+Inf": n}, 0.05 * n) for n in (0, 300)]
    slow = [histogram("time_to_first_token_seconds", {"0.1": 0, "1.0": n, "+Inf": n}, 0.8 * n) for n in (0, 100)]
    engines, now = fed(fast, slow)
    found = engines.series(now).fill(Engine(), now).ttft_s
    assert found.n == 400
    assert found.mean == pytest.approx((0.05 * 300 + 0.8 * 100) / 400)
    assert found.p50 is None  # in the first bucket, as three of four are
    assert found.p95 == pytest.approx(0.1 + 0.9 * (380 - 300) / 100)


def test_edges_that_only_one_has_are_left_out() -> None:
    merged = Buckets((0.1, 1.0, math.inf), (1, 2, 3), 4.0).plus(Buckets((0.5, 1.0, math.inf), (5, 6, 7), 8.0))
    assert merged == Buckets((1.0, math.inf), (8, 10), 12.0)


def test_kv_is_the_fullest_ones_and_figures_of_one_gpu_are_averaged() -> None:
    usage = "vllm:kv_cache_usage_perc 0.{}\nvllm:estimated_flops_per_gpu_total {}\n"
    engines, now = fed(
        [usage.format(2, 10 * n) for n in range(1, 4)],
        [usage.format(9, 30 * n) for n in range(1, 4)],
    )
    total = engines.series(now).fill(Engine(), now)
    assert total.kv_usage.v == 0.9
    assert total.flops_per_s.v == pytest.approx(20)


def test_who_is_gone_leaves_the_sum_at_once_and_it_says_of_how_many() -> None:
    engines, now = fed([counters(0, 5)] * 6, [counters(0, 7)] * 3)
    assert now == 5
    total = engines.series(now).fill(Engine(), now)
    assert (total.running.v, total.running.why) == (5, "1 of 2 replicas")
    found = engines.replicas(now, [64, None], [ReplicaState("a", 3), ReplicaState("b", 0, True)], "least")
    assert found is not None
    first, second = found.members
    assert (found.answering, first.answers, second.answers) == (1, True, False)
    assert (first.name, second.name, second.why, second.out) == (":8000", ":8001", "nothing listens there", True)
    assert (first.sent.v, first.max_num_seqs.v, second.running.v, second.max_num_seqs.v) == (3, 64, None, None)
    log = engines.log("engine")
    assert (log.ok, log.detail) == (True, "1 of 2 replicas: :8001 nothing listens there")


def test_one_late_page_changes_no_sum() -> None:
    engines, now = fed([counters(0, 5)] * 4, [counters(0, 7)] * 3)
    assert engines.series(now).fill(Engine(), now).running.v == 12


def test_data_parallel_ranks_are_rows() -> None:
    engines, now = fed([ranks(30, 10, 20, factor=1 + tick) for tick in range(4)])
    found = engines.replicas(now, [64], [], "")
    assert found is not None
    assert [(member.name, member.running.v) for member in found.members] == [
        ("rank 0", 30),
        ("rank 1", 10),
        ("rank 2", 20),
    ]
    total = engines.series(now).fill(Engine(), now)
    assert total.running.v == 60
    assert total.kv_tokens.v == pytest.approx(3 * 423_008, rel=1e-5)  # six digits are kept
    assert total.generation_tokens_per_s.v == pytest.approx(3 * 30_451, rel=1e-5)
    alone, _ = fed([ranks(30, factor=1 + tick) for tick in range(4)])
    one = alone.series(now).fill(Engine(), now)
    assert total.ttft_s.n == 3 * one.ttft_s.n
    assert total.ttft_s.p95 == pytest.approx(one.ttft_s.p95)
    assert alone.replicas(now, [64], [], "") is None


def test_ranks_of_several_endpoints_and_a_rank_that_is_scaled_away() -> None:
    engines, now = fed([ranks(*range(11))] * 3 + [ranks(1, 2)] * 4, [ranks(5)] * 7)
    found = engines.replicas(now, [8, 8], [], "least")
    assert found is not None
    names = [member.name for member in found.members]
    assert names[:3] == [":8000/0", ":8000/1", ":8000/2"]
    assert names[-2:] == [":8000/10", ":8001"]  # by number, not by letter
    assert [member.name for member in found.members if member.answers] == [":8000/0", ":8000/1", ":8001"]
    assert found.members[2].why == "no longer on its endpoint's page"


def test_labels_without_end_are_one_engine() -> None:
    text = "".join(f'vllm:num_requests_running{{engine="{rank}"}} 1\n' for rank in range(500))
    assert list(by_rank(scan(text, DIALECT.wanted).samples)) == [""]
    mixed = 'vllm:num_requests_running{engine="1"} 1\nvllm:num_requests_running{engine="2"} 1\nvllm:num_requests_waiting 3\n'
    assert {rank: len(found) for rank, found in by_rank(scan(mixed, DIALECT.wanted).samples).items()} == {
        "1": 2,
        "2": 1,
    }


def test_names_are_as_short_as_they_can_be() -> None:
    assert short_names(["http://a:8001", "http://a:8002", "http://a"]) == [":8001", ":8002", ":80"]
    assert short_names(["http://a:8001", "http://b:8001"]) == ["a:8001", "b:8001"]


def test_what_is_notable() -> None:
    assert notable({"a": 9, "b": 1}) == "a"
    assert notable({"a": 2, "b": 0}) == ""  # of two requests one engine may well have both
    assert notable({"a": 60, "b": 50, "c": 40}) == ""
    assert notable({"a": 60}) == notable({}) == ""


def test_the_imbalance_is_of_means_with_n_and_window() -> None:
    engines, now = fed([counters(0, 9)] * 2, [counters(0, 3)] * 2)
    for tick in range(5):
        found = engines.replicas(now + tick / 2, [64, 64], [], "least")
    assert found is not None
    assert (found.imbalance.v, found.imbalance.n, found.imbalance.window_s, found.busiest) == (1.5, 5, 2.0, ":8000")


async def test_two_endpoints_one_snapshot() -> None:
    async with serving() as one, serving() as two, collecting() as (collector, clock):

        async def tick(factor: float) -> Snapshot:
            clock.now += 1.0
            one.by_path = {"/metrics": (200, moved(PAGE, factor)), "/health": (200, "")}
            two.by_path = {"/metrics": (200, moved(PAGE, 2 * factor)), "/health": (200, "")}
            await collector.scrape(one.url, None, others=[two.url])
            return collector.snapshot(FACTS, clock.now, 0.0)

        await tick(1.0)
        found = await tick(1.1)
        assert found.replicas is not None
        assert found.engine.running.v == 128
        assert found.engine.max_num_seqs.v == 128
        assert found.engine.healthy is True
        assert found.engine.generation_tokens_per_s.v == pytest.approx(30_451 * 0.3, rel=1e-4)
        each = [member.generation_tokens_per_s.v or 0.0 for member in found.replicas.members]
        assert sum(each) == pytest.approx(found.engine.generation_tokens_per_s.v)
        assert "engine 1" not in found.sources

        two.by_path = {"/metrics": None, "/health": (503, "")}
        for _ in range(4):
            clock.now += 1.0
            one.by_path = {"/metrics": (200, PAGE), "/health": (200, "")}
            await collector.scrape(one.url, None, others=[two.url])
        half = collector.snapshot(FACTS, clock.now, 0.0)
        assert half.replicas is not None
        assert half.replicas.answering == 1
        assert (half.engine.running.v, half.engine.max_num_seqs.v) == (64, 64)
        assert half.sources["engine"].ok
        assert half.sources["engine"].detail.startswith("1 of 2 replicas: :")
        assert half.engine.healthy is True
        assert half.verdict.word != "DOWN"


# the limit


def seconds(*members: Replica, **engine: Any) -> list[Snapshot]:
    """Four seconds in which these replicas stand so."""
    running = sum(member.running.v or 0 for member in members)
    waiting = sum(member.waiting.v or 0 for member in members)
    kv = max(member.kv_usage.v or 0 for member in members)
    shown = Engine(
        phase="ready",
        running=Value(running),
        waiting=Value(waiting),
        max_num_seqs=Value(8.0 * len(members)),
        kv_usage=Value(kv),
        preemptions_per_min=Value(sum(member.preemptions_per_min.v or 0 for member in members)),
        **engine,
    )
    found = Replicas(list(members), len(members))
    return [Snapshot(seq=n, at=float(n), wall=0.0, engine=shown, replicas=found) for n in range(4)]


def replica(name: str, running: float, waiting: float = 0, *, kv: float = 0.2, **more: Any) -> Replica:
    figures = {"max_num_seqs": Value(8.0), "kv_usage": Value(kv), "preemptions_per_min": Value(0.0), **more}
    return Replica(name, "http://x", running=Value(running), waiting=Value(waiting), **figures)


def test_a_full_one_beside_one_with_room_is_named() -> None:
    found = limit_of(seconds(replica(":1", 8, 5), replica(":2", 2)))
    assert found.name == "uneven replicas"
    assert found.because == ":1 has 8 of 8 slots and 5 waiting, :2 2 of 8 slots"
    assert limit_of(seconds(replica(":1", 8, 5), replica(":2", 8, 5))).name == "sequence cap"


def test_the_limit_of_the_sum_names_the_one_it_is_about() -> None:
    pressed = replica(":2", 6, kv=0.97, preemptions_per_min=Value(4.0))
    found = limit_of(seconds(replica(":1", 6), pressed))
    assert found.name == "KV pressure"
    assert found.because.endswith("most of it at :2")
    both = limit_of(seconds(replica(":1", 8, 4), replica(":2", 8, 5)))
    assert (both.name, "most of it" in both.because) == ("sequence cap", False)


def test_one_that_stands_still_is_named() -> None:
    stuck = replica(":2", 3, heartbeat_age_s=70.0)
    found = limit_of(seconds(replica(":1", 3, heartbeat_age_s=0.1), stuck, heartbeat_age_s=0.1))
    assert (found.name, found.because) == ("stalled", ":2: 3 running, no step for 70 s")


def test_one_engine_is_asked_the_rules_it_ever_was() -> None:
    one = [msgspec.structs.replace(snapshot, replicas=None) for snapshot in seconds(replica("", 8, 5))]
    assert "uneven replicas" not in {rule.name for rule in limit_of(one).rules}
