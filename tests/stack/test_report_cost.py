"""What tokens cost and the energy they take, on runs whose figures are known."""

from __future__ import annotations

from typing import Any

import pytest
from report_recordings import CPU
from test_report_page import searched

from loadgen.records import RequestRecord
from server.report import gather, gathered
from server.report.cost import Price, capacity_block, cost, money, per_million, price, section
from server.telemetry.snapshot import Engine, Gpu, Snapshot, Value

BEGIN = 1000.0


def request(at: float, *, tokens: int | None = 100, ttft_s: float = 0.2) -> RequestRecord:
    return RequestRecord(
        request_id=f"r{at}",
        person="p",
        behaviour="patient",
        scheduled=BEGIN + at,
        sent=BEGIN + at,
        first_token=BEGIN + at + ttft_s,
        last_token=BEGIN + at + ttft_s + 1.0,
        done=BEGIN + at + ttft_s + 1.0,
        outcome="ok",
        completion_tokens=tokens,
    )


def snapshots(gpus: int = 1, watts: float | None = 720.0, **more: Any) -> list[Snapshot]:
    """100 s at 1 000 tokens a second, then 100 s in which nobody asks."""
    made = []
    for second in range(201):
        works = second <= 100
        devices = [Gpu(index=n, engines=True, power_w=Value(v=watts if works else 70.0)) for n in range(gpus)]
        engine = Engine(
            phase="ready",
            running=Value(v=8.0 if works else 0.0),
            generation_tokens_per_s=Value(v=1000.0 if works else 0.0),
        )
        made.append(Snapshot(seq=second, at=BEGIN + second, wall=1e9 + second, engine=engine, gpus=devices, **more))
    return made


def test_a_million_tokens_cost_the_hours_they_took() -> None:
    records = [request(n, ttft_s=0.2 if n % 4 else 2.0) for n in range(100)]
    found = cost(gather(snapshots(), records), Price(3.6, "EUR"))
    assert found.loaded_s == pytest.approx(100.0)
    assert found.devices == 1
    assert found.made.tokens == pytest.approx(100_000)
    # $3.6 an hour is 0.1 cent a second; 100 s are 0.1, for 100 000 tokens made and 7 500 good ones
    assert found.made.cost_per_million == pytest.approx(1.0)
    assert found.good.tokens == 75 * 100
    assert found.good.cost_per_million == pytest.approx(0.1 / 0.0075)
    # 720 W over 100 s are 0.02 kWh
    assert found.made.kwh_per_million == pytest.approx(0.2)
    assert found.good.kwh_per_million == pytest.approx(0.02 / 0.0075)
    lines = "\n".join(section(found))
    assert "| made | 100 000 | 1.00 EUR | 0.200 | 0.720 |" in lines
    assert "At the capacity: — (no search answered in this run)." in lines


def test_every_gpu_is_paid_for_and_heard() -> None:
    found = cost(gather(snapshots(gpus=4)), Price(3.6))
    assert found.devices == 4
    assert found.made.cost_per_million == pytest.approx(4.0)
    assert found.made.kwh_per_million == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (None, "not kept"),
        ([request(1, tokens=None), request(2)], "told no tokens of 1 good request"),
        ([request(1, ttft_s=5.0)], "there were none"),
    ],
    ids=["no requests", "no usage", "none good"],
)
def test_what_is_not_known_is_absent_and_says_why(records: list[RequestRecord] | None, why: str) -> None:
    found = cost(gather(snapshots(), records), Price(3.6))
    assert found.good.cost_per_million is None
    assert why in found.good.why
    assert f"Good tokens: — ({found.good.why})." in "\n".join(section(found))
    assert found.made.cost_per_million == pytest.approx(1.0)


def test_power_that_is_not_told_is_no_energy() -> None:
    found = cost(gather(snapshots(watts=None)), Price(3.6))
    assert found.made.kwh_per_million is None
    assert "Energy: — (no power reading of the GPU)." in "\n".join(section(found))
    assert section(cost(gather(snapshots(watts=None)), None)) == []
    assert section(cost(gather([Snapshot(seq=0, at=1.0, wall=1e9)]), None)) == []


def test_at_the_capacity_it_is_the_confirmations_rate() -> None:
    block = capacity_block(searched())
    assert block is not None
    assert (block.people, block.phase) == (70, "confirm")
    found = cost(gather(snapshots(capacity=searched())), Price(3.6, "$"))
    assert found.capacity is not None
    assert found.capacity.people == 70
    assert found.capacity.made.cost_per_million == pytest.approx(1.0)
    assert found.capacity.good.cost_per_million == pytest.approx(1.0 / 0.96)
    assert "a million tokens made cost $1.00, a million good ones about $1.04" in "\n".join(section(found))


def test_on_a_machine_without_a_gpu_the_price_is_the_machines() -> None:
    found = cost(gathered(CPU), Price(1.0))
    lines = "\n".join(section(found))
    assert found.devices == 0
    assert "on a machine without a GPU at 1.00 an hour." in lines
    assert "Good tokens: — (there were none)." in lines
    assert found.made.cost_per_million == pytest.approx(
        per_million(Price(1.0), 1, (found.made.tokens or 0) / found.loaded_s)
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2.5", (2.5, "")),
        ("2.50 EUR", (2.5, "EUR")),
        ("$3", (3.0, "$")),
        ("€ .8", (0.8, "€")),
        ("99999", (99999.0, "")),
    ],
)
def test_a_price_as_people_write_it(text: str, wanted: tuple[float, str]) -> None:
    assert price(text) == Price(*wanted)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "2,5", "$2 EUR", "1e9", "nan", "inf", "2.5 \x1b[31m", "1000000"])
def test_what_is_no_price(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  argparse says the rest
        price(text)


def test_money_has_its_sign_where_it_belongs() -> None:
    assert money(0.4237, Price(1.0)) == "0.424"
    assert money(12.0, Price(1.0, "EUR")) == "12.0 EUR"
    assert money(12.0, Price(1.0, "$")) == "$12.0"
    assert money(None, Price(1.0, "$")) == "—"
