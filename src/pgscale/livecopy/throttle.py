"""The pace: how much of the time a worker works, steered by what the application feels.

A worker works for one short chunk, then rests. The share of time it works (the duty) rises by steps while
nobody suffers and is halved at once when somebody does: additive increase, multiplicative decrease.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Literal

Pace = Literal["gentle", "normal", "fast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceLimits:
    """What a pace means.

    Args:
        chunk_s: longest chunk, seconds; the application waits behind at most this much of work and WAL.
        first_duty, least_duty, most_duty: share of the time a worker works, 0 to 1.
        workers: workers when the caller names no number.
        slower_by: how many times its quiet latency the probe may take before the duty is halved.
    """

    chunk_s: float
    first_duty: float
    least_duty: float
    most_duty: float
    workers: int
    slower_by: float


PACES: dict[Pace, PaceLimits] = {
    "gentle": PaceLimits(chunk_s=0.010, first_duty=0.1, least_duty=0.02, most_duty=0.25, workers=1, slower_by=1.5),
    "normal": PaceLimits(chunk_s=0.025, first_duty=0.25, least_duty=0.05, most_duty=1.0, workers=1, slower_by=2.0),
    "fast": PaceLimits(chunk_s=0.250, first_duty=1.0, least_duty=1.0, most_duty=1.0, workers=2, slower_by=1e9),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """One look at the server.

    Args:
        latency_ms: how long a small commit of our own took.
        active: sessions of others that are working now.
        waiting_lock: sessions waiting for a lock on the table.
        waiting_io: sessions waiting for I/O or for WAL to be written.
        replica_lag_s: the worst standby's replay lag, 0 when there is none.
        held: a reason to stop altogether (lag, disk, slot), empty when there is none.
    """

    latency_ms: float
    active: int
    waiting_lock: int
    waiting_io: int
    replica_lag_s: float
    held: str


class Throttle:
    """Asked by every worker before a chunk, told after it; steered by `observe`.

    Args:
        pace: what the operator chose.
        chunk_target_s: the operator's own limit for a chunk; the pace's is kept when it is smaller.
    """

    QUIET_SAMPLES = 20

    def __init__(self, pace: Pace, chunk_target_s: float) -> None:
        self.limits = PACES[pace]
        self.pace = pace
        self.chunk_s = min(chunk_target_s, self.limits.chunk_s)
        self.duty = self.limits.first_duty
        self._lock = threading.Lock()
        self._held = ""
        self._paused = ""
        self._felt = ""
        self._quiet_ms: list[float] = []

    @property
    def reason(self) -> str:
        """Why the pace is reduced or work is held now; empty when it is not."""
        with self._lock:
            return self._paused or self._held or self._felt

    def pause(self, reason: str) -> None:
        """Hold all work until `pause('')`."""
        with self._lock:
            self._paused = reason

    def observe(self, pressure: Pressure) -> None:
        """Learn from one look at the server."""
        with self._lock:
            self._held = pressure.held
            if self.pace == "fast":
                return
            self._quiet_ms = sorted([*self._quiet_ms, pressure.latency_ms])[: self.QUIET_SAMPLES]
            quiet = self._quiet_ms[len(self._quiet_ms) // 2]
            felt = ""
            if pressure.latency_ms > quiet * self.limits.slower_by + 1.0:
                felt = f"commits take {pressure.latency_ms:.0f} ms instead of {quiet:.1f}"
            elif pressure.waiting_lock:
                felt = f"{pressure.waiting_lock} sessions wait for locks on the table"
            if felt:
                self.duty = max(self.limits.least_duty, self.duty / 2)
                self._felt = felt
            else:
                self.duty = min(self.limits.most_duty, self.duty + 0.02)
                self._felt = "" if self.duty >= self.limits.most_duty else self._felt

    def wait(self, stop: threading.Event) -> None:
        """Return when work may go on, at once when nothing holds it."""
        while not stop.is_set():
            with self._lock:
                if not (self._paused or self._held):
                    return
            stop.wait(0.1)

    def rest(self, worked_s: float, stop: threading.Event) -> None:
        """Rest after a piece of work so that the duty is kept."""
        with self._lock:
            duty = self.duty
        if duty < 1.0:
            stop.wait(min(worked_s * (1.0 - duty) / duty, 2.0))

    def worked(self, started: float, stop: threading.Event) -> float:
        """Return the seconds since `started` (time.monotonic) and rest for them."""
        took = time.monotonic() - started
        self.rest(took, stop)
        return took
