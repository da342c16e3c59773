"""What the benchmark of writing measures, in the shape in which it is kept as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NotRequired, TypedDict

from partition_bench.model import Ground

Say = Callable[[str], None]


class Way(TypedDict):
    """A way of writing: rows a second, a round each; `reason` where it could not be measured."""

    name: str
    rows: int
    rates: list[float]
    reason: str


class Part(TypedDict):
    """Ways that were measured in turn, in one run; `base` is what the ratios are to."""

    title: str
    rows: int
    base: str
    ways: list[Way]


class Size(TypedDict):
    """A copy of so many rows in a process of its own."""

    rows: int
    us_per_row: float
    peak_rss_bytes: int


class Results(TypedDict):
    ground: NotRequired[Ground]
    copy: NotRequired[Part]
    arrow: NotRequired[Part]
    upsert: NotRequired[Part]
    load: NotRequired[Part]
    bad: NotRequired[list[Part]]
    sizes: NotRequired[list[Size]]


class AbsentError(Exception):
    """A library that is compared with is not installed, or cannot do it; the message says which and why."""


# What makes a way ready, and is not measured; it returns what is.
Ready = Callable[[], Callable[[], object]]


def in_turn(
    title: str,
    ways: Mapping[str, tuple[Ready, int]],
    *,
    rows: int,
    base: str,
    rounds: int,
    before: Callable[[], None],
    say: Say,
) -> Part:
    """Measure every way once a round, in turn and then back again, so that what changes meanwhile hits all alike.

    Args:
        ways: by name: what makes it ready, and how many rows it writes.
        before: makes the ground equal: the table empty, a checkpoint just done.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    reasons: dict[str, str] = {}
    for number in range(rounds):
        names = list(ways) if number % 2 == 0 else list(ways)[::-1]
        for name in names:
            if name in reasons:
                continue
            ready, count = ways[name]
            before()
            try:
                act = ready()
                began = time.perf_counter()
                act()
                rates[name].append(count / (time.perf_counter() - began))
            except Exception as error:  # noqa: BLE001 because what another library cannot do is part of the answer
                reasons[name] = " ".join(f"{type(error).__name__}: {error}".split())[:160]
                if isinstance(error, AbsentError):
                    reasons[name] = str(error)
                say(f"  {name}: {reasons[name]}")
                continue
            say(f"  round {number + 1}: {name} {rates[name][-1]:,.0f} rows/s")
    return {
        "title": title,
        "rows": rows,
        "base": base,
        "ways": [
            {"name": n, "rows": ways[n][1], "rates": [] if n in reasons else rates[n], "reason": reasons.get(n, "")}
            for n in ways
        ],
    }


def rate_of(part: Part, name: str) -> float | None:
    """Return the median of a way's rounds."""
    rates = next((w["rates"] for w in part["ways"] if w["name"] == name), list[float]())
    return median(rates) if rates else None
