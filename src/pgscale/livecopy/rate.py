"""How fast a phase goes, how long it will still take, and how sure that is. No I/O."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pgscale.core.storage import Credits, Storage, total_s

# A range is told when this many windows have passed; it reaches from the tenth to the ninetieth of their hundredths.
WINDOWS, LEAST_WINDOWS = 20, 4
LOW, HIGH = 0.1, 0.9
LEAST_WINDOW_S = 1.0
# The windows together are the younger half of a phase: a run that has aged is judged by more than its last minute.
TRAILING_SHARE = 0.5
MOST_MARKS = 8 * WINDOWS
# A prediction that is longer than the windows alone say by more than rounding is the storage's.
STORAGE_LIMITS = 1.001


class Rate:
    """Units per second over a trailing window, and the time left. Its methods may be called by several threads.

    Args:
        clock: seconds, as time.monotonic.
        done: what was finished before, by a process that this one goes on for.
    """

    WINDOW_S = 10.0
    # The first batch counts as soon as it is done: over less time than this it would seem many times as fast.
    LEAST_S = 1.0

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, done: int = 0) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque([(clock(), done)])
        # One mark every so often since the beginning; when there are too many, every other one goes.
        self._marks: list[tuple[float, int]] = [self._samples[0]]
        self._every_s = LEAST_WINDOW_S / 4
        self._lock = threading.Lock()

    def add(self, total_done: int) -> None:
        with self._lock:
            now = self._clock()
            self._samples.append((now, total_done))
            while len(self._samples) > 2 and now - self._samples[0][0] > self.WINDOW_S:
                self._samples.popleft()
            if now - self._marks[-1][0] >= self._every_s:
                self._marks.append((now, total_done))
                if len(self._marks) > MOST_MARKS:
                    self._marks = self._marks[::2]
                    self._every_s *= 2

    @property
    def per_second(self) -> float:
        """Return the rate, 0 until it spans enough time to be one."""
        with self._lock:
            (t0, n0), (t1, n1) = self._samples[0], self._samples[-1]
            return (n1 - n0) / (t1 - t0) if t1 - t0 >= self.LEAST_S else 0.0

    def eta_s(self, left: int) -> float | None:
        rate = self.per_second
        return left / rate if rate > 0 else None

    def spread(self) -> tuple[float, float] | None:
        """Return the tenth and the ninetieth hundredth of the windows' rates; None while there are too few.

        Windows grow with the age of the phase, to a fortieth of it: what swings from second to second evens out.
        """
        with self._lock:
            marks = [*self._marks, self._samples[-1]]
        now, age_s = marks[-1][0], marks[-1][0] - marks[0][0]
        width_s = max(LEAST_WINDOW_S, age_s * TRAILING_SHARE / WINDOWS)
        times = [at for at, _ in marks]
        rates: list[float] = []
        end_at, end_done = marks[-1]
        for number in range(1, WINDOWS + 1):
            first = bisect_left(times, now - number * width_s - width_s / 2)
            at, done = marks[first]
            if at >= end_at:
                continue
            rates.append((done * 1.0 - end_done) / (at - end_at))
            end_at, end_done = at, done
            if first == 0:
                break
        if len(rates) < LEAST_WINDOWS:
            return None
        rates.sort()
        return _at_share(rates, LOW), _at_share(rates, HIGH)


def _at_share(ordered: list[float], share: float) -> float:
    """Return the value below which this share of the values lies, between neighbours in proportion."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What a whole phase reads and writes, WAL included, at least and at most."""

    least_bytes: float
    most_bytes: float


class Outlook:
    """What is known of the storage while a run goes on: the credit it still has, by the least and the most I/O.

    Args:
        storage: as described by the operator; its buckets are taken as full when the run begins.
        traffic: by phase; a phase that is not named is judged by its windows alone.
    """

    def __init__(
        self, storage: Storage, traffic: Mapping[str, Traffic], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.storage, self._traffic, self._clock = storage, traffic, clock
        self._least: Credits = storage.full()
        self._most: Credits = storage.full()
        self._phase, self._share, self._at = "", 0.0, clock()
        self._lock = threading.Lock()

    def note(self, phase: str, share_done: float) -> None:
        """Learn how far a phase is, 0 to 1, and take the credit that this has cost."""
        with self._lock:
            now = self._clock()
            seconds = now - self._at
            if phase == self._phase and seconds < LEAST_WINDOW_S / 2:
                return
            traffic = self._traffic.get(phase)
            if phase != self._phase:
                # What a dead process did before costs no credit now.
                self._phase, self._share = phase, share_done
            moved = max(0.0, share_done - self._share) if traffic is not None else 0.0
            self._share, self._at = max(share_done, self._share), now
            least, most = (traffic.least_bytes, traffic.most_bytes) if traffic is not None else (0.0, 0.0)
            storage = self.storage
            self._least = storage.spend(self._least, moved * most, seconds, storage.least_io_bytes)
            self._most = storage.spend(self._most, moved * least, seconds, storage.most_io_bytes)

    def left_s(self, phase: str, share_left: float, slow: float, fast: float) -> tuple[float, float] | None:
        """Return the seconds left at best and at worst; None for a phase of unknown traffic.

        Args:
            share_left: of the phase, 0 to 1.
            slow, fast: shares of the phase a second, as its windows went.
        """
        traffic = self._traffic.get(phase)
        if traffic is None or slow <= 0 or traffic.least_bytes <= 0:
            return None
        with self._lock:
            least_credit, most_credit = self._least, self._most
        storage = self.storage
        best, _ = storage.move(
            share_left * traffic.least_bytes,
            io_bytes=storage.most_io_bytes,
            credits=most_credit,
            demand_bytes_per_s=fast * traffic.least_bytes,
        )
        demand = slow * traffic.most_bytes
        worst, _ = storage.move(
            share_left * traffic.most_bytes,
            io_bytes=self._surely_io_bytes(demand, least_credit),
            credits=least_credit,
            demand_bytes_per_s=demand,
        )
        # What others take of the storage swings, and what it gives us swings with it, after its fall too.
        middle = (slow + fast) / 2
        best_s, worst_s = total_s(best), total_s(worst)
        if best_s > share_left / fast * STORAGE_LIMITS:
            best_s *= middle / fast
        if worst_s > share_left / slow * STORAGE_LIMITS:
            worst_s *= middle / slow
        return best_s, worst_s

    def _surely_io_bytes(self, bytes_per_s: float, credits: Credits) -> float:
        """Return the least size of an operation with which the rate that was seen can be: it was seen."""
        storage = self.storage
        limits = [b.bytes_per_s(c, 1.0) for b, c in zip(storage.buckets, credits, strict=True) if b.unit == "io"]
        needed = bytes_per_s / min(limits) if limits else 0.0
        return min(max(storage.least_io_bytes, needed), storage.most_io_bytes)
