"""Page ranges that are still to do, handed out to workers. No I/O."""

from __future__ import annotations

import threading
from collections.abc import Iterable


class PageQueue:
    """The pages [0, total) of a table less those already done, given out in ascending chunks.

    Args:
        total: number of pages.
        done: finished ranges (first page, page after the last), in any order, overlapping or not.
    """

    def __init__(self, total: int, done: Iterable[tuple[int, int]] = ()) -> None:
        self.total = total
        self._lock = threading.Lock()
        self._gaps = _gaps(total, done)
        self._finished = total - sum(last - first for first, last in self._gaps)

    def take(self, pages: int) -> tuple[int, int] | None:
        """Return the next range of at most `pages` pages, None when nothing is left."""
        with self._lock:
            if not self._gaps:
                return None
            first, last = self._gaps[0]
            end = min(last, first + max(1, pages))
            if end == last:
                self._gaps.pop(0)
            else:
                self._gaps[0] = (end, last)
            return first, end

    def finish(self, pages: int) -> None:
        with self._lock:
            self._finished += pages

    @property
    def finished(self) -> int:
        """Pages done so far."""
        with self._lock:
            return self._finished


def _gaps(total: int, done: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    gaps: list[tuple[int, int]] = []
    at = 0
    for first, last in sorted(done):
        if first > at:
            gaps.append((at, min(first, total)))
        at = max(at, last)
        if at >= total:
            return gaps
    if at < total:
        gaps.append((at, total))
    return gaps


class ChunkSize:
    """Pages (or rows) per chunk so that a chunk takes its target time; it at most doubles from one to the next.

    Args:
        target_s: the time one chunk should take, seconds.
        least: a smaller chunk would be mostly round trips: without it a busy server starves the run.
        most: the largest chunk.
    """

    MOST = 131_072

    def __init__(self, target_s: float, least: int, most: int = MOST) -> None:
        self.target_s = target_s
        self.least, self.most = least, most
        self.pages = least * 2

    def learn(self, pages: int, took_s: float) -> None:
        wanted = pages * self.target_s / max(took_s, 1e-4)
        self.pages = int(min(max(wanted, self.pages / 4, self.least), self.pages * 2, self.most))
