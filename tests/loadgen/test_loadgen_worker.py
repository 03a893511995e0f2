"""The worker as a process: commands in, records out, and how it ends."""

import asyncio
import contextlib
import os
import signal
import sys

import msgspec
import pytest

from loadgen import lines
from loadgen.arrivals import Gamma
from loadgen.behaviours import Manners, Reading
from loadgen.commands import Burst, LoadCommand, SetArrivals, SetCrowds, Stop
from loadgen.lines import LineWriter
from loadgen.profile import Profile
from loadgen.prompts import Mix
from loadgen.records import OUTCOMES, IntervalRecord, LoadRecord, RequestRecord
from loadgen.runner import WorkerSettings
from loadgen.slo import STOPPED
from loadgen.worker import parse
from tests.fakes.known_server import Behaviour, KnownServer
from tests.fakes.waiting import until


def encoded(server, **settings):
    return msgspec.json.encode(WorkerSettings(model=server.model, **settings)).decode()


class Worker:
    """A worker process and what it said."""

    def __init__(self, process):
        self.process = process
        self.records = []
        self.complaints = b""
        self.readers = [asyncio.create_task(self.read()), asyncio.create_task(self.listen())]

    async def read(self):
        async for line in self.process.stdout:
            self.records.append(msgspec.json.decode(line, type=LoadRecord))

    async def listen(self):
        self.complaints = await self.process.stderr.read()

    def tell(self, command: LoadCommand | bytes):
        line = command if isinstance(command, bytes) else msgspec.json.encode(command)
        self.process.stdin.write(line + b"\n")

    async def ended(self):
        code = await asyncio.wait_for(self.process.wait(), 20)
        await asyncio.gather(*self.readers)
        return code

    @property
    def requests(self):
        return [record for record in self.records if isinstance(record, RequestRecord)]


@contextlib.asynccontextmanager
async def worker(server, **settings):
    command = [sys.executable, "-m", "loadgen.worker", "--url", server.url, "--settings", encoded(server, **settings)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    made = Worker(process)
    try:
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        process.stdin.close()
        await made.ended()


async def test_commands_in_records_out():
    settings = {"worker": 3, "workers": 4, "crowds": {"patient": 8}, "profile": Profile(think_s=0.05)}
    async with KnownServer() as server, worker(server, **settings) as made:
        await until(lambda: len(made.requests) >= 4)
        made.tell(b"not json")
        made.tell(b'{"op":"fly"}')
        made.tell(Burst(20))
        made.tell(SetCrowds({}))
        await until(lambda: sum(record.behaviour == "burst" for record in made.requests) == 5)
        made.tell(Stop())
        assert await made.ended() == 0
    last = made.records[-1]
    assert isinstance(last, IntervalRecord)
    assert last.worker == 3
    assert {record.person for record in made.requests} == {
        *("patient-4", "patient-8"),
        *("burst-4", "burst-8", "burst-12", "burst-16", "burst-20"),
    }
    assert last.scheduled_total == sum(last.outcomes.values()) == len(made.requests) == len(server.served)
    assert made.complaints.count(b"not a command") == 2


@pytest.mark.parametrize("how", ["end of stdin", "SIGTERM"])
async def test_it_leaves_when_it_is_alone_or_told_to(how):
    async with KnownServer(Behaviour(fault="hang")) as server, worker(server) as made:
        made.tell(Burst(3))
        await until(lambda: server.in_flight == 3)
        if how == "SIGTERM":
            made.process.send_signal(signal.SIGTERM)
        else:
            made.process.stdin.close()
        assert await made.ended() == 0
        await until(lambda: server.open_connections == 0)
    assert {(r.outcome, r.reason) for r in made.requests} == {("abandoned", STOPPED)}
    assert len(made.requests) == 3
    assert made.complaints == b""


async def test_it_leaves_when_nobody_can_read_its_records():
    async with KnownServer(Behaviour(fault="hang")) as server:
        command = [sys.executable, "-m", "loadgen.worker", "--url", server.url, "--settings", encoded(server)]
        read_end, write_end = os.pipe()
        os.close(read_end)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=write_end, stderr=pipe)
        os.close(write_end)
        code = await asyncio.wait_for(process.wait(), 20)
        complaint = await process.stderr.read()
        process.stdin.close()
    assert code == 0
    assert b"Traceback" not in complaint


@pytest.mark.parametrize(
    ("url", "settings", "part"),
    [
        ("https://x", {}, "https is not supported"),
        ("http://x", {"profile": Profile(think_s=-1.0)}, "Think time"),
        ("http://x", {"profile": Profile(mix=Mix(context=0))}, "at least one token"),
        ("http://x", {"profile": Profile(manners=Manners(slow=Reading(bytes_per_s=0.0)))}, "bytes per second above 0"),
        ("http://x", {"arrivals": SetArrivals(Gamma(-1.0))}, "cannot be sent"),
        ("http://x", {"crowds": {"patient": -1}}, "fewer than 0 people"),
        ("http://x", {"worker": 2, "workers": 2}, "no worker 2 among 2"),
        ("http://x", None, "settings"),
        ("http://x", "{", "truncated"),
        ("http://x", '{"model":5}', "Expected `str`"),
        ("http://x", '{"model":"m","crowds":{"sleeper":1}}', "sleeper"),
    ],
)
def test_a_command_line_that_cannot_work(url, settings, part, capsys):
    if isinstance(settings, dict):
        settings = msgspec.json.encode(WorkerSettings(model="m", **settings)).decode()
    with pytest.raises(SystemExit) as left:
        parse(["--url", url, *([] if settings is None else ["--settings", settings])])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "error:" in said
    assert part in said


def interval(number):
    return IntervalRecord(
        worker=0, at=float(number), mode="closed", in_flight=0, scheduled_total=0, outcomes=dict.fromkeys(OUTCOMES, 0),
    )  # fmt: skip


def request(number):
    return RequestRecord(
        request_id=str(number), person="p", behaviour="patient", scheduled=0.0, done=1.0, outcome="ok",
        reason="x" * 2000,
    )  # fmt: skip


def test_a_full_pipe_blocks_nobody_and_nothing_is_lost_silently(monkeypatch):
    monkeypatch.setattr(lines, "INTERVALS_KEPT", 10)
    monkeypatch.setattr(lines, "REQUESTS_KEPT", 200)
    complaints = []
    read_end, write_end = os.pipe()
    writer = LineWriter(write_end, complaints.append, on_broken=lambda: complaints.append("broken"))
    for number in range(400):
        writer.put(request(number))  # nobody reads: the pipe takes some 30, and then the queue fills
    for number in range(7):
        writer.put(interval(number))
    assert writer.dropped_intervals == 7
    assert writer.dropped_requests > 0
    assert complaints == ["nobody reads the records: request records are being dropped"]
    writer.close(0.05)
    assert f"{writer.dropped_requests} requests, 7 intervals" in complaints[-1]
    kept = 400 - writer.dropped_requests
    with os.fdopen(read_end, "rb") as pipe:
        got = [msgspec.json.decode(pipe.readline(), type=LoadRecord).request_id for _ in range(kept)]
    os.close(write_end)
    assert got == [str(number) for number in range(kept)]
