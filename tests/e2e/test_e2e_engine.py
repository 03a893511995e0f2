"""The whole loop on the real vLLM CPU engine with SmolLM2: one stack, disturbed step by step, in this order.

Needs `spark-serve engine install`. Conditions are waited for; nothing here asserts a speed.
"""

from __future__ import annotations

import json
import os
import pty
import socket
import sys
import time

import pytest

from server.client import StackError
from server.telemetry.join import STAGES
from tests.e2e.conftest import Stack

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

SEQS = 8


def test_up_brings_first_tokens(stack: Stack) -> None:
    stack.up(
        *("--model", "smollm2", "--max-num-seqs", str(SEQS), "--people", "3", "--think", "2", "--turns", "1"),
        *("--prompt-tokens", "24", "--output-tokens", "12"),
    )
    first = stack.until("tokens flow", lambda s: s.feel.ttft_s.n >= 3)
    assert first.engine.phase == "ready"
    assert first.engine.model_kind == "embedded"
    assert first.engine.max_num_seqs.v == SEQS
    assert first.feel.ttft_s.p50 is not None
    assert first.engine.start.finished
    names = [stage.name for stage in first.engine.start.stages]
    assert "weights" in names
    assert all(stage.end_s is not None for stage in first.engine.start.stages)


def test_a_burst_waits_in_the_queue_and_fills_the_batch(stack: Stack) -> None:
    assert stack.verb("burst", "64").returncode == 0
    stack.until("the queue waits", lambda s: (s.queue.depth.v or 0) >= 4)
    # A slot that was just left is on its way to the next request when the engine is asked: one may look free.
    full = stack.until(
        "the batch is full", lambda s: s.queue.in_flight.v == SEQS and (s.engine.running.v or 0) >= SEQS - 1
    )
    assert any(event.kind == "burst" for event in full.events)
    after = stack.until("the burst is through", lambda s: s.queue.depth.v == 0 and s.queue.in_flight.v == 0, 180)
    waited = [r for r in stack.client.requests(200) if r.behaviour == "burst" and r.outcome == "ok"]
    assert len(waited) == 64
    assert max(r.stages["queue"] for r in waited) > 10 * max(0.001, min(r.stages["queue"] for r in waited))
    assert after.people.outcomes.get("ok", 0) >= 64


def test_stages_add_up_to_what_the_client_felt(stack: Stack) -> None:
    joined = [r for r in stack.client.requests(400) if r.outcome == "ok" and r.exact and r.e2e_s]
    assert len(joined) >= 20
    assert set(joined[0].stages) == set(STAGES)
    total = sum(r.e2e_s or 0.0 for r in joined)
    named = sum(value for r in joined for name, value in r.stages.items() if name != "unattributed")
    assert named == pytest.approx(total, rel=0.02)
    for request in joined:
        assert sum(request.stages.values()) == pytest.approx(request.e2e_s, abs=1e-6)


def test_once_json_on_a_loaded_stack_holds_every_stage(stack: Stack) -> None:
    # Short replies: a p95 needs 100 requests in its window, and a slow machine must make them too.
    assert stack.verb("ask", "--output-tokens", "3", "--think", "1").returncode == 0
    assert stack.verb("people", "24").returncode == 0
    stack.until("enough for a p95, and some more", lambda s: s.feel.ttft_s.n >= 115, 240)
    once = stack.verb("console", "--once", "--json")
    frame = json.loads(once.stdout)
    assert once.returncode == 0, once.stderr
    assert frame["feel"]["ttft_s"]["p50"] > 0
    assert frame["feel"]["ttft_s"]["p95"] > 0
    assert frame["feel"]["ttft_s"]["n"] >= 100
    assert frame["queue"]["wait_s"]["mean"] is not None
    for stage in ("queue_s", "prefill_s", "decode_s"):
        assert frame["engine"][stage]["mean"] is not None
    for value in ("running", "max_num_seqs", "kv_usage", "generation_tokens_per_s"):
        assert frame["engine"][value]["v"] is not None
    plain = stack.verb("console", "--once")
    assert plain.returncode == 0
    assert "SmolLM2" in plain.stdout
    assert stack.verb("people", "3").returncode == 0
    assert stack.verb("ask", "--output-tokens", "12", "--think", "2").returncode == 0


def test_slow_clients_show_as_drain_and_held_and_not_as_decode(stack: Stack) -> None:
    assert stack.verb("slow", "2").returncode == 0
    stack.until("connections are held", lambda s: (s.people.held.v or 0) > 0 and (s.people.slow.v or 0) == 2)
    end = time.monotonic() + 120
    slow: list[float] = []
    while len(slow) < 3:
        assert time.monotonic() < end, "no slow reader finished"
        done = [
            r for r in stack.client.requests(400) if r.outcome == "ok" and r.exact and (r.completion_tokens or 0) > 4
        ]
        slow = [r.stages["drain"] for r in done if r.behaviour == "slow"]
        time.sleep(0.5)
    patient = [r for r in done if r.behaviour == "patient"]

    def per_token(requests: list) -> float:  # type: ignore[type-arg]
        return sum(r.stages["decode"] for r in requests) / sum(r.completion_tokens for r in requests)

    assert min(slow) > 5 * (sum(r.stages["drain"] for r in patient) / len(patient))
    assert per_token([r for r in done if r.behaviour == "slow"]) < 2 * per_token(patient)
    assert stack.verb("slow", "0").returncode == 0


def test_a_lost_terminal_changes_nothing(stack: Stack) -> None:
    before = stack.client.snapshot()
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS="160", LINES="48", SPARK_SERVE_HOME=str(stack.home))
        os.execv(sys.executable, [sys.executable, "-m", "console.cli", "console"])
    end = time.monotonic() + 20
    seen = b""
    while b"\x1b[?1049h" not in seen and time.monotonic() < end:
        seen += os.read(terminal, 65536)
    assert b"\x1b[?1049h" in seen, "the console never opened its screen"
    os.close(terminal)  # the line is cut: the console gets SIGHUP
    end = time.monotonic() + 20
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        assert time.monotonic() < end, "the console outlived its terminal"
        time.sleep(0.05)
    after = stack.until("the stack goes on", lambda s: s.seq > before.seq + 4)
    assert after.engine.pid == before.engine.pid
    assert after.people.outcomes.get("error", 0) == before.people.outcomes.get("error", 0)


def test_a_cold_restart_goes_through_its_stages_and_comes_back(stack: Stack) -> None:
    before = stack.client.snapshot()
    assert stack.verb("restart").returncode == 0
    starting = stack.until("it starts", lambda s: s.engine.phase == "starting" and len(s.engine.start.stages) >= 2, 120)
    assert starting.verdict.word == "STARTING"
    ready = stack.until("it is back", lambda s: s.engine.phase == "ready", 300)
    assert ready.engine.pid != before.engine.pid
    assert ready.engine.start.previous, "the start before is kept for comparison"
    stack.until("tokens flow again", lambda s: s.feel.ttft_s.n >= 1 and s.feel.tokens_per_s.v is not None)


def test_an_attached_console_is_read_only_and_names_the_stage_that_waits(
    stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        guest = Stack(tmp_path_factory.mktemp("g"), monkeypatch)
        done = guest.verb(
            "up", "--wait", "--attach", f"http://127.0.0.1:{stack.engine_port}", "--port", str(guest.gateway_port)
        )
        assert done.returncode == 0, done.stderr
        try:
            stack.verb("limits", "--max-in-flight", "64")  # now the waiting happens inside the engine
            stack.verb("burst", "48")
            seen = guest.until("the engine's own queue waits", lambda s: (s.engine.waiting.v or 0) > 0)
            assert seen.engine.attached
            assert seen.read_only
            assert seen.people.people.v is None
            for verb in (["burst", "5"], ["restart"], ["people", "3"]):
                refused = guest.verb(*verb)
                assert refused.returncode == 1
                assert "Somebody else started" in refused.stderr
            waits = guest.until("its queue time is known", lambda s: s.engine.queue_s.mean is not None, 120)
            assert waits.engine.queue_s.n > 0
            assert "engine queue" in guest.verb("status").stdout
        finally:
            assert guest.verb("down").returncode == 0
            stack.verb("limits", "--max-in-flight", str(SEQS))
    assert guest.processes() == []
    stack.until("the engine lives on", lambda s: s.engine.healthy is True)


def test_behaviours_leave_their_marks(stack: Stack) -> None:
    assert stack.verb("people", "0").returncode == 0
    assert stack.verb("limits", "--max-queue", "2").returncode == 0
    assert stack.verb("ask", "--think", "0.5", "--patience", "0.2", "--retry", "naive").returncode == 0
    assert stack.verb("retry", "16").returncode == 0
    storm = stack.until("retries multiply the load", lambda s: (s.people.amplification.v or 0) > 1.2, 120)
    assert storm.people.crowds == {"retrier": 16}
    assert (storm.queue.refused_share.v or 0) > 0
    assert stack.verb("retry", "0").returncode == 0
    assert stack.verb("limits", "--max-queue", "256").returncode == 0
    assert stack.verb("abandon", "16").returncode == 0
    left = stack.until(
        "people leave", lambda s: (s.people.left_per_min.v or 0) > 0 and s.feel.misses.get("left", 0) > 0
    )
    assert left.people.outcomes["abandoned"] > 0
    assert stack.verb("abandon", "0").returncode == 0
    assert stack.verb("ask", "--think", "2").returncode == 0
    stack.until("nobody is left", lambda s: s.people.in_flight.v == 0 and s.engine.running.v == 0, 180)


def test_the_engine_counts_what_we_count(stack: Stack) -> None:
    url, engine = f"http://127.0.0.1:{stack.gateway_port}", f"http://127.0.0.1:{stack.engine_port}"
    run = ["load", "--url", url, "--metrics-url", engine, "--vllm", "--json", "--think", "0.2", "--duration", "6"]
    lengths = ["--prompt-tokens", "24", "--output-tokens", "12"]
    done = stack.verb(*run, *lengths, "--people", "3", timeout=120)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["server"]["finished"] == summary["outcomes"]["ok"] == summary["requests"]
    assert summary["server"]["generation_tokens"] == summary["completion_tokens"]
    assert summary["server"]["agrees"]
    stack.foreign += summary["requests"]
    assert summary["server"]["front_end_s"] > 0


def test_a_capacity_search_says_what_it_found(stack: Stack) -> None:
    assert stack.verb("people", "2").returncode == 0
    assert stack.verb("ask", "--think", "1", "--turns", "1").returncode == 0
    done = stack.verb("capacity", "--cap", "75", "--json", timeout=150)
    assert done.returncode in {0, 1}, done.stderr
    found = json.loads(done.stdout)
    assert found["phase"] == "done"
    assert found["answer"]["sentence"]
    assert len(found["blocks"]) >= 2
    assert all(block["due"] == block["good"] + sum(block["misses"].values()) for block in found["blocks"])
    assert found["question"]["think_s"] == 1.0
    after = stack.until("people are as they were", lambda s: s.people.crowds == {"patient": 2}, 120)
    assert after.capacity is not None
    assert any(event.kind == "capacity" for event in after.events)
    assert list(stack.paths.capacities.glob("*.json")), "the search was saved"


def test_every_request_sent_is_accounted_for(stack: Stack) -> None:
    assert stack.verb("people", "0").returncode == 0
    empty = stack.until("nothing is in flight", lambda s: s.people.in_flight.v == 0 and s.queue.in_flight.v == 0, 180)
    assert empty.people.sent_total == sum(empty.people.outcomes.values())
    settled = stack.until(
        "the gateway has told all", lambda s: s.queue.arrived_total == sum(s.queue.outcomes.values()), 30
    )
    assert settled.queue.arrived_total == settled.people.sent_total + stack.foreign
    assert settled.queue.outcomes.get("completed", 0) == settled.people.outcomes.get("ok", 0) + stack.foreign


def test_down_leaves_nothing_behind(stack: Stack) -> None:
    processes = stack.processes()
    assert len(processes) >= 4  # stack, gateway, load, engine's processes
    down = stack.verb("down", timeout=120)
    assert down.returncode == 0, down.stderr
    assert stack.processes() == []
    assert not stack.paths.socket.exists()
    assert not stack.paths.pidfile.exists()
    for port in (stack.engine_port, stack.gateway_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    with pytest.raises(StackError):
        stack.client.snapshot()
