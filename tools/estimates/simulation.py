"""A simulated run on a volume that bursts and falls, watched by the ETA that a real run would show.

The volume is integrated in small steps of its own, not by the code that predicts it: what is compared is not itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from estimates.paper import TRAP_STORAGE, markdown
from pgscale.core.units import format_duration
from pgscale.livecopy.rate import Outlook, Rate, Traffic
from pgscale.partition.volumes import parse_storage

IO_BYTES = 8192
STEP_S = 5.0
# As gp2 of 500 GB has it, and what the application takes of it.
BASELINE_IOPS, BURST_IOPS, CREDIT, USED_IOPS = 1_500, 3_000, 5_400_000, 1_160
NAIVE_S = 32 * 3600
UNITS = 10_000_000
NOISE = 0.05
SHOWN_S = (60, 600, 1_800, 3_300, 4_500, 7_200, 14_400, 43_200, 172_800, 432_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What could be said at a moment; seconds since the run began, and the seconds it would take in all."""

    at_s: float
    naive_s: float
    windows: tuple[float, float] | None
    model: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """The looks through one run, and how long it took in truth."""

    looks: tuple[Look, ...]
    took_s: float


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(seed: int = 1) -> Simulated:
    """Run one long phase of 8 kB operations that would take 32 hours if the burst lasted."""
    noise, clock = random.Random(seed), _Clock()
    storage = parse_storage(TRAP_STORAGE)
    assert storage is not None
    total_bytes = float((BURST_IOPS - USED_IOPS) * IO_BYTES * NAIVE_S)
    # What must be read and written is known only between bounds; the truth is the upper.
    outlook = Outlook(storage, {"copy": Traffic(least_bytes=total_bytes * 0.6, most_bytes=total_bytes)}, clock)
    rate, credit, moved = Rate(clock), float(CREDIT), 0.0
    looks: list[Look] = []
    while moved < total_bytes:
        limit = BURST_IOPS if credit > 0 else BASELINE_IOPS
        # The run takes all that the application leaves, so the volume gives all it can.
        iops = limit - USED_IOPS * noise.uniform(1 - NOISE, 1 + NOISE)
        credit = max(0.0, credit - (limit - BASELINE_IOPS) * STEP_S)
        moved += iops * IO_BYTES * STEP_S
        clock.now += STEP_S
        done = min(UNITS, round(moved / total_bytes * UNITS))
        rate.add(done)
        outlook.note("copy", done / UNITS)
        if done < UNITS and (clock.now <= 7_200 or clock.now % 600 == 0):
            looks.append(_look(clock.now, done, rate, outlook))
    return Simulated(looks=tuple(looks), took_s=clock.now)


def _look(at_s: float, done: int, rate: Rate, outlook: Outlook) -> Look:
    left, spread = UNITS - done, rate.spread()
    naive = rate.eta_s(left)
    windows = model = None
    if spread is not None and spread[0] > 0:
        windows = (at_s + left / spread[1], at_s + left / spread[0])
        found = outlook.left_s("copy", left / UNITS, spread[0] / UNITS, spread[1] / UNITS)
        model = (at_s + found[0], at_s + found[1]) if found is not None else None
    return Look(at_s=at_s, naive_s=at_s + (naive or 0.0), windows=windows, model=model)


def looks_table(found: Simulated) -> str:
    """Return what was said at some moments of the run."""
    rows: list[list[str]] = []
    for shown_s in SHOWN_S:
        look = next((x for x in found.looks if x.at_s >= shown_s), None)
        if look is not None:
            rows.append(
                [format_duration(look.at_s), format_duration(look.naive_s), _span(look.windows), _span(look.model)]
            )
    return (
        markdown(["after", "the present rate says", "trailing windows say", "windows and the storage say"], rows)
        + f"\n\nIn truth it takes {format_duration(found.took_s)}."
    )


def _span(seconds: tuple[float, float] | None) -> str:
    return "nothing yet" if seconds is None else f"{format_duration(seconds[0])} to {format_duration(seconds[1])}"
