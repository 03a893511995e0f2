"""What a million tokens cost, and the energy they took, while the engine worked and at the capacity that was found.

    cost of a million tokens = price of a GPU-hour * GPUs * hours / (tokens / 1e6)

Over the run, hours are those in which the engine had requests in its batch: an idle hour costs as much, but says nothing of
the setup. Tokens made are the engine's own count; good tokens are the completion tokens of requests that were good, and known
only where the single requests were kept. At the capacity that was found, hours per token are 1 / tokens_per_s of the block
with as many people (its confirmation where there is one), and its good tokens are taken for good / due of those made: the
good requests there are assumed to be as long as the others.

    energy of a token = joules of the GPUs the engine uses, over those hours / tokens;  1 kWh = 3.6e6 J
"""

from __future__ import annotations

import math
import re

import msgspec

from loadgen.capacity import Block, Progress
from server.report.rows import Run
from server.report.text import ABSENT, digits, md, plural, seconds, table, whole

MILLION = 1e6
J_PER_KWH = 3.6e6
TOLD = 0.95
"""Energy is said when the devices told their power for this part of the time."""
_PRICE = re.compile(r"\s*([^\d\s.,+-]{0,4})\s*(\d+(?:\.\d+)?|\.\d+)\s*([^\d\s.,+-]{0,8})\s*")


class Price(msgspec.Struct, frozen=True):
    """Of one GPU for one hour; on a machine without one, of the machine."""

    per_hour: float
    currency: str = ""
    """As it was written: `$`, `EUR`; empty when it was not."""


def price(text: str) -> Price:
    """`2.5`, `2.50 EUR`, `$2.5`: an argument type. Raises ValueError for anything else."""
    found = _PRICE.fullmatch(text)
    if found is None or (found[1] and found[3]):
        raise ValueError
    per_hour = float(found[2])
    if not 0 < per_hour < 1e6:
        raise ValueError
    return Price(per_hour, found[1] or found[3])


price.__name__ = "price like 2.5, 2.5EUR or $2.5"


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """Cost and energy of one kind of tokens; what is None is unknown, and `why` says why."""

    tokens: float | None = None
    cost_per_million: float | None = None
    kwh_per_million: float | None = None
    why: str = ""
    why_no_energy: str = ""
    about: bool = False
    """It rests on an assumption that the module's head names."""


class AtCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """The same at the people a search found."""

    people: int
    made: Share
    good: Share


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What the run's tokens cost and took."""

    price: Price | None
    devices: int
    """GPUs that the engine used; with 0 the price is the machine's."""
    loaded_s: float
    """In which the engine had requests in its batch."""
    made: Share
    good: Share
    capacity: AtCapacity | None = None


def per_million(price: Price, devices: int, tokens_per_s: float) -> float:
    """The formula, for a rate of tokens above 0."""
    return price.per_hour * max(1, devices) / 3600.0 / tokens_per_s * MILLION


def cost(run: Run, price: Price | None) -> Cost:
    """Of the whole run; without a price the energy only."""
    tally, requests = run.tally, run.requests
    devices = tally.devices
    loaded_s = tally.work_s
    power_known = tally.energy_s >= TOLD * loaded_s > 0
    energy_j = tally.energy_j / tally.energy_s * loaded_s if power_known else None
    no_energy = "" if power_known else "no power reading of the GPU"

    def share(tokens: float | None, why: str) -> Share:
        if why or not tokens or not loaded_s:
            return Share(tokens=None if why else tokens, why=why or "there were none", why_no_energy=why or no_energy)
        return Share(
            tokens=tokens,
            cost_per_million=None if price is None else per_million(price, devices, tokens / loaded_s),
            kwh_per_million=None if energy_j is None else energy_j / tokens * MILLION / J_PER_KWH,
            why_no_energy=no_energy,
        )

    why_good = ""
    if requests is None:
        why_good = "the single requests were not kept: record the run"
    elif requests.good_untold:
        why_good = f"the server told no tokens of {plural(requests.good_untold, 'good request')}"
    answered = next((s.progress for s in reversed(tally.searches) if s.progress.answer is not None), None)
    return Cost(
        price=price,
        devices=devices,
        loaded_s=loaded_s,
        made=share(tally.tokens or None, "" if tally.tokens else "the engine told no tokens"),
        good=share(None if requests is None else float(requests.good_tokens), why_good),
        capacity=None if answered is None or price is None else _at_capacity(answered, price, devices),
    )


def _at_capacity(progress: Progress, price: Price, devices: int) -> AtCapacity | None:
    block = capacity_block(progress)
    if block is None:
        return None
    made_per_s = block.tokens_per_s or 0.0
    good_per_s = made_per_s * (block.share or 0.0)
    why = "the server told no tokens"

    def share(rate: float, *, about: bool) -> Share:
        if rate <= 0 or not math.isfinite(rate):
            return Share(why=why if not made_per_s else "none was good")
        return Share(cost_per_million=per_million(price, devices, rate), about=about)

    return AtCapacity(people=block.people, made=share(made_per_s, about=False), good=share(good_per_s, about=True))


def capacity_block(progress: Progress) -> Block | None:
    """What was measured at the safe number of people, or as near to it as anything was; None without an answer."""
    answer = progress.answer
    target = None if answer is None else answer.safe if answer.safe is not None else answer.best
    blocks = [block for block in progress.blocks if block.due and block.phase != "recover"]
    if target is None or target <= 0 or not blocks:
        return None
    return min(blocks, key=lambda block: (abs(math.log(block.people / target)), block.phase != "confirm"))


def money(v: float | None, price: Price) -> str:
    """`0.42`, `$0.42`, `0.42 EUR`."""
    if v is None:
        return ABSENT
    sign = md(price.currency)
    if not sign:
        return digits(v)
    return f"{digits(v)} {sign}" if price.currency.isalpha() else f"{sign}{digits(v)}"


def section(found: Cost) -> list[str]:
    """Lines of Markdown without a heading; nothing when neither cost nor energy is known and no price was given."""
    price = found.price
    if price is None and found.made.kwh_per_million is None:
        return []
    heads = ["", "tokens"]
    heads += [] if price is None else ["cost of a million"]
    heads += ["kWh a million", "J a token"]
    rows = []
    for name, share in (("made", found.made), ("good", found.good)):
        kwh = share.kwh_per_million
        row = [name, digits(share.tokens, 4)]
        row += [] if price is None else [money(share.cost_per_million, price)]
        rows.append([*row, digits(kwh), ABSENT if kwh is None else digits(kwh * J_PER_KWH / MILLION)])
    lines = table(heads, rows)
    notes = [
        f"Over the {seconds(round(found.loaded_s))} in which the engine had requests in its batch, "
        f"on {plural(found.devices, 'GPU') if found.devices else 'a machine without a GPU'}"
        + ("" if price is None else f" at {money(price.per_hour, price)} an hour{' each' if found.devices > 1 else ''}")
        + ". Good tokens are those of requests that kept the promise."
    ]
    if found.good.why:
        notes.append(f"Good tokens: {ABSENT} ({md(found.good.why)}).")
    if found.made.why:
        notes.append(f"Tokens made: {ABSENT} ({md(found.made.why)}).")
    if found.made.why_no_energy:
        notes.append(f"Energy: {ABSENT} ({md(found.made.why_no_energy)}).")
    lines += [" ".join(notes), ""]
    if price is not None:
        lines += [_capacity_sentence(found.capacity, price), ""]
    return lines


def _capacity_sentence(found: AtCapacity | None, price: Price) -> str:
    if found is None:
        return f"At the capacity: {ABSENT} (no search answered in this run)."
    made = money(found.made.cost_per_million, price)
    good = money(found.good.cost_per_million, price)
    why = f" ({md(found.good.why)})" if found.good.why else " if the good requests were as long as the others"
    return (
        f"At the capacity that was found ({whole(found.people)} people): a million tokens made cost {made}, "
        f"a million good ones {'about ' if found.good.about else ''}{good}{why}."
    )
