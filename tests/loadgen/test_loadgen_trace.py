"""Trace files: what is read, and one sentence for what cannot be."""

import contextlib

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from loadgen.records import OUTCOMES, IntervalRecord, RequestRecord
from loadgen.trace import TraceError, TraceRow, read_trace

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def rows(tmp_path, text):
    path = tmp_path / "trace"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_trace(str(path)))


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_azure_format(tmp_path, bom, end):
    text = HEADER + (
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:50.9951690,396,109\n"
        "\n"
        "2023-11-16 18:15:50,879,0\n"  # before the one above it: not sooner than that one
        "2024-05-10 00:00:00.009930+00:00,0,7\n"
    )
    found = rows(tmp_path, bom + text.replace("\n", end))
    assert [(row.prompt_tokens, row.output_tokens) for row in found] == [(374, 44), (396, 109), (879, 1), (1, 7)]
    assert [row.at_s for row in found[:3]] == pytest.approx([0.0, 4.314579, 4.314579])
    assert found[3].at_s > 86_400 * 175


def record(number, **changes):
    fields = {
        "request_id": str(number), "person": "p", "behaviour": "patient", "scheduled": 100.0 + number,
        "done": 200.0, "outcome": "ok", "prompt_tokens": 10 * number, "completion_tokens": number,
    }  # fmt: skip
    return RequestRecord(**(fields | changes))


def test_our_own_records_in_order_of_time(tmp_path):
    interval = IntervalRecord(
        worker=0, at=1.0, mode="closed", in_flight=0, scheduled_total=0, outcomes=dict.fromkeys(OUTCOMES, 0)
    )
    records = [
        record(3),
        interval,
        record(1),
        record(2, outcome="abandoned", completion_tokens=None, max_tokens=64),
        record(4, outcome="error", completion_tokens=None),  # of unknown length
        record(5, attempt=2),  # a replay makes its own retries
        record(6, prompt_tokens=None),
    ]
    lines = b"\n".join(map(msgspec.json.encode, records)) + b"\n\n"
    assert rows(tmp_path, lines) == [
        TraceRow(0.0, 10, 1),
        TraceRow(1.0, 20, 64),
        TraceRow(2.0, 30, 3),
        TraceRow(5.0, 1, 6),
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "has no requests"),
        (HEADER, "has no requests"),
        (HEADER + "2023-11-16 18:15:46,1\n", "Line 2 .* is not `TIMESTAMP,"),
        (HEADER + "2023-11-16 18:15:46,1,2\nyesterday,1,2\n", "Line 3 "),
        (HEADER + "2023-11-16 18:15:46,1,many\n", "Line 2 "),
        (HEADER + "2023-11-16 18:15:46,1,2\n" + "x" * 200_000, "not a text file"),
        ("a,b\n1,2\n", "Line 1 .* neither a request record nor the header"),
        ("{}\n", "Line 1 "),
        ('{"type":"request"}\n[1]\n', "Line 2 "),
        ('{"type":"request","scheduled":null}\n', "Line 1 "),
        ('{"type":"interval"}\n', "no requests whose lengths are known"),
        (b"\xff\xfe\x00\x01", "not a text file"),
        (HEADER.encode() + b"\xff\xff\xff", "not a text file"),
    ],
)
def test_files_that_are_no_trace(tmp_path, text, part):
    with pytest.raises(TraceError, match=part) as refused:
        rows(tmp_path, text)
    assert str(refused.value).count("\n") == 0
    assert str(refused.value).endswith(".")


def test_files_that_cannot_be_read(tmp_path):
    for path, why in ((tmp_path / "none", "No such file"), (tmp_path, "is not a file")):
        with pytest.raises(TraceError, match=why):
            list(read_trace(str(path)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.booleans(), st.one_of(st.text(max_size=60).map(str.encode), st.binary(max_size=60)))
@example(headed=True, rest=b"2023-11-16 18:15:46,1,2\n\x00,1,2\n")
@example(headed=True, rest=b'"')
@example(headed=True, rest=b"9999-12-31 23:59:59,1,2\n0001-01-01 00:00:00,1,2\n")
def test_anything_is_either_rows_or_a_sentence(tmp_path, headed, rest):
    with contextlib.suppress(TraceError):
        found = rows(tmp_path, (HEADER.encode() if headed else b"") + rest)
        assert [row.at_s for row in found] == sorted(row.at_s for row in found)
        assert found[0].at_s == 0
