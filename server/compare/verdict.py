"""One sentence for each arm against the first: does the long prompt block the short one, and who pays for it? Pure."""

from __future__ import annotations

from server.compare.figures import ArmFigures, Difference, difference
from server.report.text import count, seconds


def verdicts(arms: list[ArmFigures]) -> list[str]:
    """One sentence for each arm but the first."""
    return [verdict(arms[0], later) for later in arms[1:]]


def verdict(first: ArmFigures, later: ArmFigures) -> str:
    """Means of the time to first token; a difference counts where the runs of an arm do not differ as much."""
    short = difference(first.short.ttft_s.runs, later.short.ttft_s.runs)
    if short is None:
        missing = first if not any(mean is not None for mean in first.short.ttft_s.runs) else later
        return f"Unknown: no run of {missing.name} counts."
    a, b = seconds(first.short.ttft_s.mean), seconds(later.short.ttft_s.mean)
    if short.low is None:
        said = (
            f"Not known: under {first.name} a short prompt waits {a} for its first token and under {later.name} {b}, "
            "but one run each says nothing of the noise between runs."
        )
    elif not short.beyond_noise:
        said = (
            f"No difference beyond the noise between runs: a short prompt waits {a} for its first token under "
            f"{first.name} and {b} under {later.name} ({_interval(short)}); {_long(first, later)}."
        )
    elif short.by < 0:
        said = (
            f"Yes: under {first.name} a short prompt waits {a} for its first token behind long ones, under {later.name} "
            f"{b} ({_interval(short)}); {_long(first, later)}."
        )
    else:
        said = (
            f"The other way round: under {later.name} a short prompt waits {b} for its first token, under {first.name} "
            f"only {a} ({_interval(short)}); {_long(first, later)}."
        )
    return said + _turned_away(first, later)


def _long(first: ArmFigures, later: ArmFigures) -> str:
    long = difference(first.long.ttft_s.runs, later.long.ttft_s.runs)
    if long is None:
        return "of long ones nothing is known"
    a, b = seconds(first.long.ttft_s.mean), seconds(later.long.ttft_s.mean)
    if not long.beyond_noise:
        return f"for long ones no difference beyond the noise ({a} and {b})"
    return f"long ones pay: {a} -> {b}" if long.by > 0 else f"long ones gain too: {a} -> {b}"


def _interval(of: Difference) -> str:
    """The 95 % interval of what a short one gains or loses."""
    assert of.low is not None
    assert of.high is not None
    return f"95 % interval of the difference {_signed(of.low)} to {_signed(of.high)}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{seconds(abs(value))}"


def _turned_away(first: ArmFigures, later: ArmFigures) -> str:
    """Whoever was turned away waits no more, and would make an arm look quick."""
    parts = [
        f"{arm.name} turned away {count(kind.turned_away)} of {count(kind.planned)} {name} ones"
        for arm in (first, later)
        for name, kind in (("short", arm.short), ("long", arm.long))
        if kind.turned_away
    ]
    return f" But {' and '.join(parts)}, who are in no waiting time." if parts else ""
