"""The policy with real clients: what each order, bound and limit of time does, and that it changes under those who wait."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from gateway_fakes import (
    ROLE,
    STREAM,
    USAGE,
    Asked,
    FakeEngine,
    Gate,
    Running,
    ask,
    chat,
    chunk,
    open_raw,
    running,
    slow_reader,
    token,
    until,
)

from server.gateway.policy import Policy, PolicyChange, order_in_words
from server.gateway.records import SetEngine, SetPolicy

PLAIN = b"".join(each for each in STREAM if each is not USAGE)


async def send(run: Running, name: str, body: bytes, **headers: str) -> asyncio.Task[httpx.Response]:
    """Send it, and return once the admission knows it."""
    before = run.gateway.admission.counts().arrived
    task = asyncio.create_task(chat(run, name, body, **headers))
    await until(lambda: run.gateway.admission.counts().arrived == before + 1)
    return task


def words(count: int, **fields: Any) -> bytes:
    return ask(messages=[{"role": "user", "content": "word " * count}], **fields)


CROWDS: dict[str, list[tuple[str, bytes, dict[str, str]]]] = {
    "fifo": [("r1", words(9), {}), ("r2", words(5), {}), ("r3", words(1), {})],
    "shortest": [("r3", words(900), {}), ("r1", words(5), {}), ("r2", words(90), {})],
    "priority": [
        ("r3", ask(), {}),
        ("r2", ask(priority=-1), {}),
        ("r1", ask(priority=9), {"x-vllm-priority": "-2"}),
    ],
    "fair": [
        ("r2", ask(user="ann"), {}),
        ("r3", ask(user="ann"), {}),
        ("r1", ask(), {"x-gateway-inference-fairness-id": "ben"}),
    ],
}


@pytest.mark.parametrize("order", CROWDS)
async def test_who_waits_goes_by_the_order_set_while_they_waited(order: str) -> None:
    """They come one by one under another order; what is expected is their order by name."""
    gate = Gate()
    other = "fair" if order == "fifo" else "fifo"
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1, order=other, ageing_s=None) as run:
        first = ask(user="ann")
        tasks = [await send(run, "r0", first)]
        for name, body, headers in CROWDS[order]:
            tasks.append(await send(run, name, body, **headers))
        run.gateway.command(SetPolicy(order=order))  # type: ignore[arg-type]
        if order == "fair":  # the one who is served while the shares are counted
            tasks.append(await send(run, "r9", ask(user="ann", max_tokens=9999)))
        assert [waiter.request_id for waiter in run.gateway.queue().first][:3] == (
            ["r2", "r1", "r3"] if order == "fair" else ["r1", "r2", "r3"]
        )
        for name in ["r0", *[waiter.request_id for waiter in run.gateway.queue().first]]:
            await until(lambda name=name: name in gate.waiting)  # type: ignore[misc]
            gate.open(name)
            record = await run.record(name)
        await asyncio.gather(*tasks)
        assert record.order == order
        assert await run.metric(
            f'spark_gateway_policy_info{{ageing="none",limit="in-flight",order="{order}",overload="queue"}}'
        )


async def test_a_burst_fills_the_slots_and_the_queue_and_the_rest_is_told_when_to_come_back() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=2, max_queue=4) as run:
        names = [f"r{number}" for number in range(200)]
        tasks = [asyncio.create_task(chat(run, name)) for name in names]
        await until(lambda: len(run.records) == 194)
        counts = run.gateway.admission.counts()
        assert (counts.in_flight, counts.queued, counts.rejected) == (2, 4, 194)
        await until(lambda: len(gate.waiting) == 2)
        refused = [task.result() for task in tasks if task.done()]
        for reply in refused:
            assert reply.status_code == 429
            assert reply.headers["x-spark-reason"] == "queue_full"
            assert int(reply.headers["retry-after"]) >= 1
        gate.open_all()
        replies = await asyncio.gather(*tasks)
        assert sorted(reply.status_code for reply in replies) == [200] * 6 + [429] * 194
        assert len(engine.asked) == 6
        assert run.gateway.admission.counts().in_flight == 0


async def test_those_in_flight_are_told_of_who_came_first_first() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=2) as run:
        tasks = [await send(run, name, ask(user=f"user of {name}")) for name in ("r0", "r1", "r2")]
        flying = run.gateway.queue().flying
        assert [(one.request_id, one.user) for one in flying] == [("r0", "user of r0"), ("r1", "user of r1")]
        assert all(one.admitted > 0 and one.first_token is None and one.upstream_done is None for one in flying)
        assert run.gateway.queue().flying == flying, "nothing of it changes while nothing happens"
        gate.open_all()
        await asyncio.gather(*tasks)
        assert run.gateway.queue().flying == []


async def test_a_token_budget_keeps_requests_waiting_and_says_that_it_does() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, limit="tokens", token_budget=150) as run:
        first = await send(run, "r0", words(1, max_tokens=100))
        second = await send(run, "r1", words(1, max_tokens=100))
        assert (run.gateway.queue().why, run.gateway.queue().waiting) == ("tokens", 1)
        assert await run.metric('spark_gateway_waiting{why="tokens"}') == 1
        assert await run.metric("spark_gateway_token_budget") == 150
        assert 100 < await run.metric("spark_gateway_tokens_in_flight") < 150
        run.gateway.command(SetPolicy(token_budget=300))
        await until(lambda: len(gate.came) == 2)
        gate.open_all()
        await asyncio.gather(first, second)
        record = await run.record("r1")
        assert (record.why, record.behind) == ("tokens", 0)
        assert run.sample("tokens_in_flight") == 0


async def test_a_deadline_ends_a_wait_with_504() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1) as run:
        first = await send(run, "r0", ask())
        patient = await send(run, "r2", ask(), **{"x-request-timeout": "30"})
        reply = await chat(run, "r1", **{"x-request-timeout": "0.01"})
        assert (reply.status_code, reply.headers["x-spark-reason"]) == (504, "deadline")
        record = await run.record("r1")
        assert (record.outcome, record.reason, record.admitted) == ("expired", "deadline", None)
        assert run.gateway.admission.counts().expired == 1
        gate.open_all()
        await asyncio.gather(first, patient)
        assert gate.came == ["r0", "r2"]


async def test_the_policys_deadline_ends_a_request_at_the_engine_too() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1, deadline_s=0.05) as run:
        reply = await chat(run, "r0")
        assert (reply.status_code, reply.headers["x-spark-reason"]) == (504, "deadline")
        await asyncio.wait_for(engine.asked[0].left.wait(), 5)
        record = await run.record("r0")
        assert (record.outcome, record.status) == ("expired", 504)
        assert record.admitted is not None
        counts = run.gateway.admission.counts()
        assert (counts.expired, counts.in_flight) == (1, 0)


async def test_a_deadline_in_a_stream_ends_it_with_an_error_event() -> None:
    async def endless(asked: Asked) -> None:
        await asked.begin_stream()
        await asked.send(chunk(ROLE + token("a")))
        await asyncio.Event().wait()

    async with FakeEngine(endless) as engine, running(engine.url) as run:
        reply = await chat(run, "r0", **{"x-request-timeout": "0.2"})
        assert reply.status_code == 200
        assert reply.content.startswith(ROLE + token("a"))
        assert last_event(reply)["error"]["code"] == "deadline"
        await asyncio.wait_for(engine.asked[0].left.wait(), 5)
        assert (await run.record("r0")).outcome == "expired"


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf"])
async def test_a_timeout_that_is_no_time_is_a_bad_request(value: str) -> None:
    async with FakeEngine() as engine, running(engine.url) as run:
        assert (await chat(run, "r0", **{"x-request-timeout": value})).status_code == 400
        assert engine.asked == []


async def test_a_queue_timeout_ends_a_wait_with_429() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1) as run:
        first = await send(run, "r0", ask())
        second = await send(run, "r1", ask())
        run.gateway.command(SetPolicy(queue_timeout_s=0.01))  # of one who waits already
        reply = await second
        assert (reply.status_code, reply.headers["x-spark-reason"]) == (429, "queue_timeout")
        assert int(reply.headers["retry-after"]) >= 1
        assert (await run.record("r1")).outcome == "rejected"
        gate.open_all()
        await first


async def test_a_stream_that_waits_is_kept_alive_and_then_relayed() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1, keep_alive_s=0.005) as run:
        first = await send(run, "r0", ask())
        reader, writer = await open_raw(run.port, "r1")
        head = await reader.readuntil(b": queued\n\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream")
        assert b"x-request-id: r1\r\n" in head
        gate.open_all()
        await first
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert token("Par") in answer
        assert b"[DONE]" in answer
        writer.close()
        assert (await run.record("r1")).outcome == "completed"


async def test_one_that_was_kept_alive_is_refused_inside_its_stream() -> None:
    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1, keep_alive_s=0.005) as run:
        first = await send(run, "r0", ask())
        second = await send(run, "r1", ask(), **{"x-request-timeout": "0.3"})
        whole = await send(run, "r2", ask(stream=False), **{"x-request-timeout": "0.3"})
        reply = await second
        assert reply.status_code == 200
        assert reply.content.startswith(b": queued\n\n")
        assert last_event(reply)["error"]["code"] == "deadline"
        assert (await whole).status_code == 504  # nobody keeps alive what is no stream
        gate.open_all()
        await first


async def test_an_engines_refusal_reaches_one_that_was_kept_alive() -> None:
    async def refuses(asked: Asked) -> None:
        await asked.json(b'{"error": {"message": "too long", "code": 400}}', 400)

    gate = Gate()
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1, keep_alive_s=0.005) as run:
        first = await send(run, "r0", ask())
        reader, writer = await open_raw(run.port, "r1")
        await reader.readuntil(b": queued\n\n")
        engine.script = refuses
        gate.open_all()
        await first
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert b'data: {"error": {"message": "too long", "code": 400}}\n\n' in answer
        writer.close()
        record = await run.record("r1")
        assert (record.outcome, record.status) == ("failed", 200)


async def test_a_policy_may_reject_while_the_engine_restarts() -> None:
    async with FakeEngine() as engine, running(engine.url, hold=False) as run:
        run.gateway.command(SetEngine(state="starting"))
        reply = await chat(run, "r0")
        assert (reply.status_code, reply.headers["x-spark-reason"]) == (503, "engine_starting")
        run.gateway.command(SetEngine(state="asleep"))
        assert (await chat(run, "r1")).headers["x-spark-reason"] == "engine_asleep"
        run.gateway.command(SetEngine(state="ready"))
        assert (await chat(run, "r2")).content == PLAIN


async def test_a_client_that_reads_nothing_more_is_cut_off() -> None:
    sent = 0

    async def pours(asked: Asked) -> None:
        nonlocal sent
        await asked.begin_stream()
        for _ in range(1200):  # 9 MiB: more than any kernel takes
            await asked.send(chunk(token("x" * 8000)))
            sent += 1

    async with FakeEngine(pours) as engine, running(engine.url, stall_s=0.2) as run:
        _, writer = await slow_reader(run.port, "slow")
        record = await run.record("slow")
        assert (record.outcome, record.reason, record.upstream_done) == ("cancelled", "client_stalled", None)
        await until(lambda: engine.open == 0)
        assert sent < 1200
        assert run.gateway.admission.counts().in_flight == 0
        assert (run.sample("held"), run.sample("buffered_bytes")) == (0, 0)
        writer.transport.abort()


@pytest.mark.parametrize("stage", ["body", "queue", "head", "stream", "held"])
async def test_whoever_leaves_at_any_stage_frees_exactly_one_slot(stage: str) -> None:
    gate = Gate()

    async def begins(asked: Asked) -> None:
        await asked.begin_stream()
        await asked.send(chunk(ROLE + token("a")))
        while stage == "held":
            await asked.send(chunk(token("x" * 8000)))
        await gate(asked)

    async def leaver(run: Running) -> asyncio.StreamWriter:
        if stage == "held":
            engine.script = begins
            _, writer = await slow_reader(run.port, "leaver")
            await until(lambda: run.sample("held") == 1)
        elif stage == "body":
            _, writer = await asyncio.open_connection("127.0.0.1", run.port)
            head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-request-id: leaver\r\ncontent-length: 9\r\n\r\n{"
            writer.write(head)
            await until(lambda: run.sample("requests_total") == 1)
        else:
            engine.script = begins if stage == "stream" else gate
            before = [await send(run, "r0", ask())] if stage == "queue" else []
            reader, writer = await open_raw(run.port, "leaver")
            if before:
                await until(lambda: run.gateway.admission.counts().queued == 1)
                waiting.extend(before)
            elif stage == "stream":
                await reader.readuntil(token("a"))
            else:
                await until(lambda: gate.came == ["leaver"])
        return writer

    waiting: list[asyncio.Task[httpx.Response]] = []
    async with FakeEngine(gate) as engine, running(engine.url, max_in_flight=1) as run:
        writer = await leaver(run)
        engine.script = gate
        for name in ("r1", "r2"):
            waiting.append(await send(run, name, ask()))
        served = {"queue": "r0", "body": "r1"}.get(stage, "leaver")
        writer.transport.abort()
        assert (await run.record("leaver")).outcome == "cancelled"
        following = served if stage in {"queue", "body"} else "r1"
        await until(lambda: gate.came[-1:] == [following])
        counts = run.gateway.admission.counts()
        assert (counts.in_flight, counts.queued) == (1, {"queue": 2, "body": 1}.get(stage, 1))
        gate.open_all()
        await asyncio.gather(*waiting)
        assert run.gateway.admission.counts().in_flight == 0
        assert len({record.request_id for record in run.records}) == len(run.records) == len(waiting) + 1


async def test_the_line_says_who_waits_and_why() -> None:
    gate = Gate()
    async with (
        FakeEngine(gate) as engine,
        running(engine.url, max_in_flight=1, order="priority", ageing_s=0.001) as run,
    ):
        tasks = [await send(run, "r0", ask(user="ann"))]
        tasks.append(await send(run, "r1", words(100, user="ben", priority=3, max_tokens=7)))
        await until(lambda: run.gateway.queue().first[0].aged)
        line = run.gateway.queue()
        assert (line.waiting, line.why, line.policy.order) == (1, "slots", "priority")
        (first,) = line.first
        assert (first.request_id, first.user, first.priority, first.output_tokens) == ("r1", "ben", 3, 7)
        assert 100 < first.prompt_tokens < 200
        assert await run.metric("spark_gateway_waiting_users") == 1
        gate.open_all()
        await asyncio.gather(*tasks)
        line = run.gateway.queue()
        assert (line.waiting, line.why, line.first) == (0, "", [])
        record = await run.record("r1")
        assert (record.user, record.priority, record.why, record.behind) == ("ben", 3, "slots", 0)


def test_a_change_leaves_what_it_does_not_name() -> None:
    policy = Policy(order="shortest", max_queue=7).changed(PolicyChange(ageing_s=0, max_in_flight=3))
    assert policy == Policy(order="shortest", max_queue=7, ageing_s=None, max_in_flight=3)
    assert order_in_words(policy) == "plain shortest"
    assert order_in_words(policy.changed(PolicyChange(ageing_s=5))) == "shortest"


def test_a_later_change_goes_over_an_earlier_one() -> None:
    earlier = PolicyChange(order="fair", max_queue=5, hold=True)
    assert PolicyChange(max_queue=0, hold=False).over(earlier) == PolicyChange(order="fair", max_queue=0, hold=False)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (PolicyChange(max_in_flight=0), "at least 1"),
        (PolicyChange(max_queue=-1), "at least 0"),
        (PolicyChange(limit="tokens"), "needs a token budget"),
        (PolicyChange(token_budget=-5), "token budget must be at least 1"),
        (PolicyChange(max_wait_s=0), "max wait must be over 0"),
        (PolicyChange(deadline_s=-1), "deadline must be over 0"),
        (PolicyChange(ageing_s=float("inf")), "ageing must be over 0"),
    ],
)
def test_a_change_that_cannot_work_is_said(change: PolicyChange, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        Policy().changed(change)


def test_a_change_in_words() -> None:
    change = PolicyChange(order="shortest", ageing_s=0, max_in_flight=8, deadline_s=2.5, overload="shed", hold=False)
    assert change.in_words() == (
        "shortest first, no ageing, max in-flight 8, shed worst priority, deadline 2.5 s, reject while it restarts"
    )
    assert PolicyChange().in_words() == ""


def last_event(reply: httpx.Response) -> Any:
    return json.loads(reply.content.rstrip(b"\n").rpartition(b"data: ")[2])
