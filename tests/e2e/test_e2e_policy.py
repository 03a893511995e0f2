"""The queue's policy and the engine's knobs changed on a live stack with the real vLLM CPU engine, in this order.

Needs `spark-serve engine install`. Conditions are waited for; nothing here asserts a speed.
"""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from server.telemetry.snapshot import JoinedRequest, Snapshot
from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

SEQS = 2
BURST = 30


def marks(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [(event.mark, event.text) for event in snapshot.events if event.kind == "policy"]


def asked(stack: Stack, words: int, tokens: int, user: str, priority: int = 0) -> int:
    """Send one request of our own through the gateway; the tokens that came back."""
    body = {"model": stack.client.snapshot().engine.model, "prompt": "word " * words, "max_tokens": tokens}
    body |= {"user": user, "priority": priority, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{stack.gateway_port}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    stack.foreign += 1
    with urllib.request.urlopen(request, timeout=240) as response:
        return int(json.load(response)["usage"]["completion_tokens"])


def joined(stack: Stack, *users: str) -> dict[str, JoinedRequest]:
    """Finished requests of these users, by user; a stranger's waits some seconds for a client's record that never comes."""
    found: dict[str, JoinedRequest] = {}

    def told(_: Snapshot) -> bool:
        found.update({request.user: request for request in stack.client.requests(100)})
        return set(users) <= set(found)

    stack.until(f"the requests of {users} are told", told)
    return found


def test_a_policy_changed_under_load_loses_nobody(stack: Stack) -> None:
    stack.up(
        *("--model", "smollm2", "--max-num-seqs", str(SEQS), "--people", "0"),
        *("--prompt-tokens", "24", "--output-tokens", "8"),
    )
    stack.until("the load generator is there", lambda s: s.people.mode == "closed")
    assert stack.verb("burst", str(BURST)).returncode == 0
    stack.until("people wait", lambda s: (s.queue.depth.v or 0) >= BURST // 2 and s.queue.why == "slots")
    for arguments, order, limit in (
        (["shortest", "--ageing", "off"], "shortest", "in-flight"),
        (["priority", "--ageing", "20"], "priority", "in-flight"),
        (["fair", "--limit", "tokens"], "fair", "tokens"),
        (["--limit", "adaptive", "--overload", "shed"], "fair", "adaptive"),
        (["fifo", "--limit", "in-flight", "--overload", "queue"], "fifo", "in-flight"),
    ):
        assert stack.verb("policy", *arguments).returncode == 0
        stack.until(
            f"the gateway says {arguments}",
            lambda s: s.queue.rules is not None and (s.queue.rules.order, s.queue.rules.limit) == (order, limit),  # noqa: B023
        )
    after = stack.until("the burst is through", lambda s: sum(s.people.outcomes.values()) == BURST, 240)
    assert after.people.outcomes["ok"] == BURST
    settled = stack.until("the gateway has told all", lambda s: sum(s.queue.outcomes.values()) == s.queue.arrived_total)
    assert settled.queue.outcomes.get("completed") == settled.queue.arrived_total == BURST
    assert [mark for mark, _ in marks(settled)] == ["p"] * 5
    assert marks(settled)[0][1] == "policy shortest first, no ageing"
    assert {request.order for request in stack.client.requests(100)} >= {"fifo"}


def test_an_order_changed_while_people_wait_turns_the_line(stack: Stack) -> None:
    assert stack.verb("policy", "fifo", "--max-in-flight", "1").returncode == 0
    with ThreadPoolExecutor(3) as pool:
        sent: list[Future[int]] = [pool.submit(asked, stack, 8, 900, "first")]
        stack.until("one is at the engine", lambda s: s.queue.in_flight.v == 1)
        sent.append(pool.submit(asked, stack, 600, 8, "long"))
        stack.until("the long one waits", lambda s: [r.user for r in s.queue.first] == ["long"])
        sent.append(pool.submit(asked, stack, 8, 8, "short"))
        stack.until("the short one is behind it", lambda s: [r.user for r in s.queue.first] == ["long", "short"])
        # an ageing that nobody reaches: else the long one may be due before the first is through
        assert stack.verb("policy", "shortest", "--ageing", "600").returncode == 0
        stack.until("the line is turned", lambda s: [r.user for r in s.queue.first] == ["short", "long"])
        assert [future.result(timeout=240) for future in sent] == [900, 8, 8]
    told = joined(stack, "short", "long")
    assert told["short"].stages["queue"] < told["long"].stages["queue"]


def test_a_token_budget_that_blocks_at_the_head_says_so(stack: Stack) -> None:
    assert (
        stack.verb("policy", "fifo", "--limit", "tokens", "--token-budget", "500", "--max-in-flight", "2").returncode
        == 0
    )
    with ThreadPoolExecutor(3) as pool:
        sent = [pool.submit(asked, stack, 8, 300, "first")]
        stack.until("one is at the engine", lambda s: s.queue.in_flight.v == 1)
        sent.append(pool.submit(asked, stack, 600, 8, "long"))
        stack.until("the head is too long", lambda s: s.queue.why == "tokens" and s.queue.depth.v == 1)
        sent.append(pool.submit(asked, stack, 8, 8, "behind"))
        blocked = stack.until("one is behind it", lambda s: s.queue.why == "tokens" and s.queue.depth.v == 2)
        assert blocked.queue.in_flight.v == 1, "a place is free"
        assert sorted(future.result(timeout=240) for future in sent) == [8, 8, 300]
    assert stack.verb("policy", "--limit", "in-flight").returncode == 0


def test_the_engines_knobs_restart_it_and_people_are_held(stack: Stack) -> None:
    before = stack.client.snapshot()
    done = stack.verb("knobs", "--scheduling-policy", "priority", "--max-num-batched-tokens", "1024")
    assert done.returncode == 0, done.stderr
    assert "Cold restart" in done.stdout
    assert stack.verb("knobs", "--scheduling-policy", "fcfs").returncode != 0, "one restart at a time"
    stack.until("it starts", lambda s: s.engine.phase == "starting", 120)
    assert stack.verb("burst", "5").returncode == 0
    held = stack.until("they are held", lambda s: s.queue.depth.v == 5 and s.queue.why == "engine")
    assert ("p", "engine --scheduling-policy priority --max-num-batched-tokens 1024") in marks(held)
    ready = stack.until("it is back", lambda s: s.engine.phase == "ready", 300)
    assert ready.engine.pid != before.engine.pid
    assert ready.engine.knobs.scheduling_policy == "priority"
    assert ready.engine.max_num_batched_tokens.v == 1024
    after = stack.until("all of them are served", lambda s: s.people.outcomes.get("ok", 0) == BURST + 5, 120)
    assert sum(after.people.outcomes.values()) == BURST + 5


def test_priorities_reach_the_engine(stack: Stack) -> None:
    assert stack.verb("policy", "fifo", "--max-in-flight", "8").returncode == 0
    stack.until("its own queue is used", lambda s: s.queue.max_in_flight.v == 8)
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(asked, stack, 8, 120, "running", -9) for _ in range(SEQS)]
        stack.until("its slots are full", lambda s: s.engine.running.v == SEQS)
        sent.append(pool.submit(asked, stack, 8, 40, "worse", 5))
        stack.until("one waits in it", lambda s: s.engine.waiting.v == 1)
        sent.append(pool.submit(asked, stack, 8, 40, "better", 1))
        stack.until("two wait in it", lambda s: s.engine.waiting.v == 2)
        assert sorted(future.result(timeout=240) for future in sent) == [40, 40, 120, 120]
    told = joined(stack, "better", "worse")
    assert told["better"].at > told["worse"].at
    assert told["better"].stages["engine queue"] < told["worse"].stages["engine queue"]


def test_every_request_is_accounted_for(stack: Stack) -> None:
    settled = stack.until("the gateway has told all", lambda s: sum(s.queue.outcomes.values()) == s.queue.arrived_total)
    assert settled.queue.arrived_total == settled.people.sent_total + stack.foreign
    assert settled.queue.outcomes.get("completed", 0) == settled.queue.arrived_total
