"""Toxics decide as they should, without a socket: chunks in, pieces and their times out."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.faults.toxics import (
    Bandwidth,
    End,
    Latency,
    LimitData,
    Link,
    Passing,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
    in_words,
    toxic_error,
)

toxicities = st.sampled_from([0.0, 0.5, 1.0])
keeping = st.one_of(
    st.builds(
        Latency,
        latency=st.floats(0, 5000),
        jitter=st.floats(0, 9000),
        toxicity=toxicities,
    ),
    st.builds(Bandwidth, rate=st.floats(0.01, 1e5), toxicity=toxicities),
    st.builds(SlowClose, delay=st.floats(0, 5000), toxicity=toxicities),
    st.builds(
        lambda size, share, delay, toxicity: Slicer(
            average_size=size, size_variation=int((size - 1) * share), delay=delay, toxicity=toxicity
        ),
        st.integers(1, 500),
        st.floats(0, 1),
        st.floats(0, 1e5),
        toxicities,
    ),
)
chunks = st.lists(st.tuples(st.binary(min_size=1, max_size=3000), st.floats(0, 2)), max_size=12)
"""Bytes, and the seconds after which they come."""


def run(link: Link, sent: Sequence[tuple[bytes, float]]) -> tuple[list[tuple[float, bytes]], End | None]:
    """What comes out when, and the end: each chunk is decided once the pieces of the one before are gone."""
    out: list[tuple[float, bytes]] = []
    arrived = now = 0.0
    for data, after_s in sent:
        arrived += after_s
        now = max(now, arrived)
        passing = link.decide(data, arrived, now)
        for piece in passing.pieces:
            now = max(now, piece.due)
            link.passed += len(piece.data)
            out.append((now, piece.data))
        if passing.end is not None:
            return out, passing.end
    return out, None


def linked(*toxics: Toxic, seed: int = 1) -> Link:
    link = Link("down", random.Random(seed))
    assert link.change(toxics, 0.0) is None
    return link


@given(st.lists(keeping, max_size=4), chunks, st.integers(0, 9))
def test_bytes_are_kept_and_in_order_and_never_early(
    toxics: list[Toxic], sent: list[tuple[bytes, float]], seed: int
) -> None:
    link = linked(*toxics, seed=seed)
    out, end = run(link, sent)
    assert end is None
    assert b"".join(data for _, data in out) == b"".join(data for data, _ in sent)
    assert all(data for _, data in out)
    assert [at for at, _ in out] == sorted(at for at, _ in out)
    came = list(itertools.accumulate(after_s for _, after_s in sent))
    ends = list(itertools.accumulate(len(data) for data, _ in sent))
    gone = 0
    for at, data in out:
        gone += len(data)
        last = next(index for index, size in enumerate(ends) if gone <= size)
        assert at >= came[last], "nothing goes on before it came"


@given(st.lists(keeping, max_size=3), st.integers(0, 5000), chunks)
def test_a_limit_lets_through_exactly_so_many_bytes_and_ends_it(
    toxics: list[Toxic], most: int, sent: list[tuple[bytes, float]]
) -> None:
    out, end = run(linked(*toxics, LimitData(bytes=most)), sent)
    everything = b"".join(data for data, _ in sent)
    assert b"".join(data for _, data in out) == everything[:most]
    assert (end is not None) == (bool(sent) and len(everything) >= most)


@given(st.floats(0.05, 1e4), st.lists(st.binary(min_size=1, max_size=20_000), min_size=1, max_size=8))
def test_a_bandwidth_holds_in_the_long_run(rate: float, sent: list[bytes]) -> None:
    out, _ = run(linked(Bandwidth(rate=rate)), [(data, 0.0) for data in sent])
    total = sum(map(len, sent))
    assert out[-1][0] == pytest.approx(total / (rate * 1e3), rel=1e-6)
    gone = 0
    for at, data in out:
        gone += len(data)
        assert gone <= rate * 1e3 * at * (1 + 1e-6)


def test_a_bandwidth_that_was_idle_has_saved_nothing() -> None:
    out, _ = run(linked(Bandwidth(rate=1)), [(b"x" * 100, 0.0), (b"x" * 100, 10.0)])
    assert out[-1][0] == pytest.approx(10.1)


def test_a_latency_delays_but_does_not_narrow() -> None:
    out, _ = run(linked(Latency(latency=200)), [(b"x", 0.01)] * 50)
    assert [at for at, _ in out] == pytest.approx([0.01 * (number + 1) + 0.2 for number in range(50)])


def test_pieces_are_of_about_the_size_and_apart() -> None:
    out, _ = run(linked(Slicer(average_size=10, size_variation=3, delay=1000)), [(bytes(1000), 0.0)])
    sizes = [len(data) for _, data in out]
    assert all(7 <= size <= 13 for size in sizes[:-1])
    assert len(set(sizes)) > 3
    assert [at for at, _ in out] == pytest.approx([0.001 * number for number in range(len(out))])


@pytest.mark.parametrize("toxic", [Timeout(timeout=300), Timeout(), ResetPeer(timeout=300), ResetPeer()])
def test_nothing_goes_through_and_the_end_comes_without_data(toxic: Timeout | ResetPeer) -> None:
    link = linked(toxic)
    assert run(link, [(b"x" * 100, 0.1)]) == ([], None)
    if toxic == Timeout():
        assert link.end is None
    else:
        assert link.end == End(toxic.timeout / 1e3, isinstance(toxic, ResetPeer))


def test_what_is_taken_away_ends_what_it_had_swallowed() -> None:
    link = linked(Timeout())
    assert link.change([], 5.0) == End(5.0)
    assert link.decide(b"x", 6.0, 6.0) == Passing(link.decide(b"x", 6.0, 6.0).pieces)
    assert linked(Latency(latency=5)).change([], 5.0) is None
    assert linked(Timeout(toxicity=0.0)).change([], 5.0) is None
    assert linked(Timeout()).change([Timeout(timeout=100)], 5.0) is None  # it is still closed, a little later


def test_one_that_stays_goes_on_where_it_was() -> None:
    limit = LimitData(bytes=10)
    link = linked(limit)
    assert run(link, [(b"x" * 6, 0.0)])[1] is None
    link.change([Latency(latency=0), limit], 1.0)
    out, end = run(link, [(b"x" * 6, 1.0)])
    assert (b"".join(data for _, data in out), end) == (b"xxxx", End(1.0))
    waits = linked(Timeout(timeout=300))
    waits.change([Latency(latency=1), Timeout(timeout=300)], 0.2)
    assert waits.end == End(0.3)


def test_toxicity_is_a_share_of_the_connections_and_each_keeps_its_lot() -> None:
    rng = random.Random(7)
    links = []
    for _ in range(1000):
        link = Link("down", rng)
        link.change([ResetPeer(toxicity=0.3)], 0.0)
        links.append(link)
    hit = [link.swallows for link in links]
    assert 250 < sum(hit) < 350
    for link in links:
        link.change([Latency(latency=1), ResetPeer(toxicity=0.3)], 1.0)
    assert [link.swallows for link in links] == hit


def test_each_direction_has_its_own() -> None:
    up = Link("up", random.Random(1))
    up.change([Timeout(), SlowClose(delay=500, stream="up")], 0.0)
    assert not up.swallows
    assert up.eof_due(2.0) == 2.5
    assert linked(SlowClose(delay=500, stream="up")).eof_due(2.0) == 2.0


def test_the_end_of_the_stream_comes_after_its_bytes() -> None:
    link = linked(Latency(latency=1000), SlowClose(delay=250))
    run(link, [(b"x", 0.0)])
    assert link.eof_due(0.1) == 1.25


@pytest.mark.parametrize(
    ("toxic", "wrong"),
    [
        (Latency(latency=-1), "The latency of a toxic must be 0 or more, not -1."),
        (Latency(latency=float("nan")), "The latency of a toxic must be 0 or more, not nan."),
        (Timeout(toxicity=1.5), "The toxicity is a share of the connections, 0 to 1, not 1.5."),
        (Bandwidth(rate=0), "The rate must be over 0 KB/s; `timeout` lets nothing through."),
        (
            Slicer(average_size=5, size_variation=5),
            "The average size must be larger than its variation: no piece has less than 1 byte.",
        ),
        (Timeout(), ""),
        (LimitData(bytes=0), ""),
    ],
)
def test_what_cannot_be_carried_out_is_said(toxic: Toxic, wrong: str) -> None:
    assert toxic_error(toxic) == wrong


@pytest.mark.parametrize(
    ("toxic", "words"),
    [
        (Latency(latency=200, jitter=50), "latency 200 ms ± 50, down"),
        (Bandwidth(rate=1.5, stream="up"), "bandwidth 1.5 KB/s, up"),
        (SlowClose(delay=500), "slow close 500 ms, down"),
        (Timeout(), "silence, down"),
        (Timeout(timeout=300), "timeout 300 ms, down"),
        (ResetPeer(toxicity=0.25), "reset, down, 25% of connections"),
        (ResetPeer(timeout=100), "reset after 100 ms, down"),
        (Slicer(average_size=50, size_variation=20), "sliced to 50 ± 20 bytes, down"),
        (LimitData(bytes=20_000), "cut after 20,000 bytes, down"),
    ],
)
def test_it_is_said_in_words_and_travels_as_json(toxic: Toxic, words: str) -> None:
    assert in_words(toxic) == words
    assert msgspec.json.decode(msgspec.json.encode(toxic), type=Toxic) == toxic


def test_it_is_written_as_toxiproxy_has_it() -> None:
    text = b'{"type":"latency","latency":1000,"jitter":50,"toxicity":0.5,"stream":"up"}'
    assert msgspec.json.decode(text, type=Toxic) == Latency(latency=1000, jitter=50, toxicity=0.5, stream="up")
