"""How a reading ages: fresh, then stale and marked, then absent."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from server.telemetry.snapshot import Gpu, Host, Quantiles, Source, Value

STALE_S = 5.0
GONE_S = 10.0

S = TypeVar("S", Gpu, Host)


def rounded(v: float) -> float:
    """Six significant digits: no instrument here is better, and a stream and a recording shrink by a third."""
    return float(f"{v:.6g}")


def age(at: float, now: float) -> float:
    """Seconds between, to the millisecond, never negative."""
    return round(max(0.0, now - at), 3)


def absent(src: Source, why: str) -> Value:
    return Value(src=src, why=why)


def aged(
    v: float | None,
    src: Source,
    *,
    at: float,
    now: float,
    n: int | None = None,
    window_s: float | None = None,
    why: str = "",
) -> Value:
    """`v` as read at `at`: marked stale after 5 s, absent after 10 s."""
    age_s = age(at, now)
    if v is None:
        return absent(src, why)
    if age_s > GONE_S:
        return Value(src=src, age_s=age_s, why=_gone(age_s))
    if age_s > STALE_S:
        why = "stale"
    window_s = None if window_s is None else round(window_s, 3)
    return Value(v=rounded(v), src=src, age_s=age_s, n=n, window_s=window_s, why=why)


def aged_quantiles(found: Quantiles) -> Quantiles:
    """A scraped distribution by the same rule (its own age counts), and rounded."""
    if found.age_s > GONE_S:
        return Quantiles(
            src=found.src,
            window_s=round(found.window_s, 3),
            age_s=age(0.0, found.age_s),
            exact=found.exact,
            why=_gone(found.age_s),
        )
    return rounded_quantiles(
        msgspec.structs.replace(found, why="stale") if found.age_s > STALE_S and found.n else found
    )


def rounded_quantiles(found: Quantiles, watched_age_s: float | None = None) -> Quantiles:
    """`watched_age_s`: seconds since whoever fills the window last looked. A window that is watched is fresh, however long
    ago its latest sample came."""
    figures = {name: getattr(found, name) for name in ("mean", "p50", "p95", "p99", "max")}
    return msgspec.structs.replace(
        found,
        age_s=round(found.age_s if watched_age_s is None else watched_age_s, 3),
        window_s=round(found.window_s, 3),
        **{name: None if v is None else rounded(v) for name, v in figures.items()},
    )


def aged_readings(struct: S, *, at: float, now: float) -> S:
    """A struct of readings that were all taken at `at`."""
    changed: dict[str, Value] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if isinstance(value, Value) and value.v is not None:
            changed[name] = aged(value.v, value.src, at=at, now=now, n=value.n, window_s=value.window_s, why=value.why)
    return msgspec.structs.replace(struct, **changed)


def _gone(age_s: float) -> str:
    return f"no answer for {age_s:.0f} s"
