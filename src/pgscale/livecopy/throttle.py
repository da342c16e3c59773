"""The pace: how much of the time a worker works, steered by what the application feels.

A worker works for one short chunk, then rests. Chunks are short because the application competes with them for
processors and waits behind their WAL: what a statement of it can be delayed by is about one chunk, or the kernel's
scheduling tick (1 to 10 ms), whichever is shorter. So the length of a chunk decides about the application's p99,
the duty about its median: on two cores halving the duty of 3 ms chunks left pgbench's p99 where it was, while chunks
of 1 ms lowered it. The share of time a worker works (the duty) rises by steps while nobody suffers and is cut at
once when somebody does: additive increase, multiplicative decrease.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Literal

Pace = Literal["gentle", "normal", "fast"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceLimits:
    """What a pace means.

    Args:
        chunk_s: longest chunk, seconds.
        first_duty, least_duty, most_duty: share of the time a worker works, 0 to 1; the least keeps every run going.
        workers: workers when the caller names no number.
        listen_s: how long the quiet latency is listened to before work begins, seconds.
        slower_by: how many times its quiet latency a commit may take before the duty is cut.
    """

    chunk_s: float
    first_duty: float
    least_duty: float
    most_duty: float
    workers: int
    listen_s: float
    slower_by: float


PACES: dict[Pace, PaceLimits] = {
    "gentle": PaceLimits(
        chunk_s=0.001, first_duty=0.08, least_duty=0.05, most_duty=0.12, workers=1, listen_s=2.0, slower_by=1.2
    ),
    "normal": PaceLimits(
        chunk_s=0.001, first_duty=0.15, least_duty=0.10, most_duty=0.25, workers=1, listen_s=2.0, slower_by=1.3
    ),
    "fast": PaceLimits(
        chunk_s=0.250, first_duty=1.0, least_duty=1.0, most_duty=1.0, workers=2, listen_s=0.0, slower_by=1e9
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """One look at the server.

    Args:
        latency_ms: how long a small commit of our own took.
        round_trip_s: how long a question took that asks nothing: the way to the server and back.
        waiting_lock: sessions waiting for a lock on the table.
        held: a reason to stop altogether (lag, disk, slot), empty when there is none.
    """

    latency_ms: float
    waiting_lock: int
    held: str
    round_trip_s: float = 0.0


class Throttle:
    """Asked by every worker before a chunk, told after it; steered by `observe`.

    Args:
        pace: what the operator chose.
        chunk_target_s: the operator's own limit for a chunk and for a snapshot; the pace's chunk is kept when it is
            smaller.
        workers: pieces of work that may be under way at once; None: the pace's number of workers.
    """

    WINDOW = 12
    # Of so many round trips, some 12 s of them, the one that a quarter are shorter than: what made the others longer
    # may have been our own work.
    ROUND_TRIPS = 60
    # Of the time a piece of work took, at least so much was work.
    LEAST_WORK = 0.05
    # A burst is over long before.
    TURN_S = 0.02
    GROW, SHRINK, SETTLE = 0.02, 0.7, 3

    def __init__(self, pace: Pace, chunk_target_s: float, workers: int | None = None) -> None:
        self.limits = PACES[pace]
        self.pace = pace
        self._turns = threading.BoundedSemaphore(workers or self.limits.workers)
        self.chunk_s = min(chunk_target_s, self.limits.chunk_s)
        self.snapshot_s = chunk_target_s
        self.duty = self.limits.first_duty
        self._lock = threading.Lock()
        self._held = ""
        self._paused = ""
        self._felt = ""
        self._began = time.monotonic()
        self._quiet: list[float] = []
        self._recent: deque[float] = deque(maxlen=self.WINDOW)
        self._round_trips: deque[float] = deque(maxlen=self.ROUND_TRIPS)
        self._since_cut = 0

    @property
    def reason(self) -> str:
        """Why the pace is reduced or work is held now; empty when it is not."""
        with self._lock:
            return self._paused or self._held or self._felt

    @property
    def holding(self) -> str:
        """Why no work is done now; empty while some is."""
        with self._lock:
            return self._paused or self._held

    def pause(self, reason: str) -> None:
        """Hold all work until `pause('')`."""
        with self._lock:
            self._paused = reason

    def observe(self, pressure: Pressure) -> None:
        """Learn from one look at the server."""
        with self._lock:
            self._held = pressure.held
            if pressure.round_trip_s > 0.0:
                self._round_trips.append(pressure.round_trip_s)
            if self.pace == "fast":
                return
            if self._listening:
                self._quiet.append(pressure.latency_ms)
                return
            self._recent.append(pressure.latency_ms)
            self._since_cut += 1
            felt = self._suffering(pressure)
            if felt and self._since_cut >= self.SETTLE:
                self.duty = max(self.limits.least_duty, self.duty * self.SHRINK)
                self._felt, self._since_cut = felt, 0
            elif not felt:
                self.duty = min(self.limits.most_duty, self.duty + self.GROW)
                if self._since_cut > 2 * self.WINDOW:
                    self._felt = ""

    @property
    def _listening(self) -> bool:
        return time.monotonic() - self._began < self.limits.listen_s

    def _suffering(self, pressure: Pressure) -> str:
        if pressure.waiting_lock:
            one = pressure.waiting_lock == 1
            return f"{pressure.waiting_lock} {'session waits' if one else 'sessions wait'} for a lock on the table"
        if len(self._recent) < self.WINDOW // 2 or not self._quiet:
            return ""
        # Both are medians: one slow commit is nobody's fault, and the quiet one was measured under the load.
        quiet, now = median(self._quiet), median(self._recent)
        if now > quiet * self.limits.slower_by + 0.2:
            return f"commits take {now:.1f} ms instead of {quiet:.1f}"
        return ""

    def listen(self, stop: threading.Event) -> None:
        """Wait until the quiet latency is known, so that what the work adds can be told from what was there."""
        while self._listening and not stop.is_set():
            stop.wait(0.05)

    @property
    def in_bursts(self) -> bool:
        """Whether work is done in bursts with rests between them."""
        return self.pace != "fast"

    @contextmanager
    def turn(self) -> Generator[None]:
        """Do one piece of work as one of the workers: the applier takes turns with those that copy or compare.

        Were it to work beside them, the application would now and then find one processor more taken: moments that
        are rare enough not to show in its median, and make its p99. It is a courtesy: whoever has the turn may be
        waiting for a lock that whoever wants it holds, so nobody waits for long.
        """
        has_turn = self.in_bursts and self._turns.acquire(timeout=self.TURN_S)
        try:
            yield
        finally:
            if has_turn:
                self._turns.release()

    def wait(self, stop: threading.Event) -> None:
        """Return when work may go on, at once when nothing holds it."""
        while not stop.is_set():
            with self._lock:
                if not (self._paused or self._held):
                    return
            stop.wait(0.1)

    def rest(self, worked_s: float, stop: threading.Event) -> None:
        """Rest after a piece of work so that the duty is kept; never longer than two seconds."""
        with self._lock:
            duty = self.duty
        if duty < 1.0:
            stop.wait(min(worked_s * (1.0 - duty) / duty, 2.0))

    def worked(self, started: float, stop: threading.Event) -> None:
        """Rest for what the server has worked since `started` (time.monotonic)."""
        self.rest(self.took(started), stop)

    def took(self, started: float) -> float:
        """Return how long the server has worked since `started` (time.monotonic) for one round trip, seconds.

        The way there and back is no burden to anyone: were it counted, a run across a network would do the smallest
        chunks and rest longest, and one beside the server would rest for its own process's time.
        """
        elapsed = time.monotonic() - started
        with self._lock:
            way = sorted(self._round_trips)[len(self._round_trips) // 4] if self._round_trips else 0.0
        return max(elapsed - way, elapsed * self.LEAST_WORK)
