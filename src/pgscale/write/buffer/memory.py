"""A log in memory: an event is lost when its process ends. It evens out bursts, and no more."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping

from pgscale.core.units import format_bytes
from pgscale.write.buffer.model import Backlog, Batch, BufferFullError, Durability, Level, Target
from pgscale.write.buffer.records import HEAD, parse

MOST_BYTES = 256 << 20
# Of the id: no other has 32 zeros before them.
BITS = 96


class MemoryLog:
    """A log that this process's drainers read.

    Args:
        max_bytes: when so much waits, a put waits.
    """

    level: Level = "memory"
    durability: Durability = "process"

    def __init__(self, target: Target, max_bytes: int = MOST_BYTES) -> None:
        self.target = target
        # Of a kind of its own, so that its rows in the database are known when it is gone.
        self.buffer = uuid.UUID(int=secrets.randbits(BITS))
        self._max_bytes = max_bytes
        self._room = threading.Condition()
        # (position, seconds since 1970, lane, shape, values)
        self._events: deque[tuple[int, float, int, bytes, bytes]] = deque()
        self._next = 0
        self._bytes = 0

    def append(self, records: list[bytes], deadline: float) -> None:
        """As Log.append."""
        size = sum(map(len, records))
        now = time.time()
        with self._room:
            while self._events and self._bytes + size > self._max_bytes:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise BufferFullError(
                        f"The buffer in memory holds {format_bytes(self._bytes)}, and more would pass its max_bytes of"
                        f" {format_bytes(self._max_bytes)}.",
                        consequence="Nothing of the call was stored.",
                        hint="Drain it faster.",
                    )
                self._room.wait(left)
            for lane, shape, values in parse(b"".join(records), check=False):
                self._events.append((self._next, now, lane, shape, values))
                self._next += 1
            self._bytes += size

    @property
    def notes_of_reading(self) -> tuple[str, ...]:
        return ()

    def skip_damaged(self, skips: bool) -> None:
        """Memory is not read back from anywhere."""

    def first_position(self, *, is_oldest: bool = False) -> int:
        del is_oldest
        return 0

    def has_events(self, positions: Mapping[int, int]) -> bool:
        """As Log.has_events."""
        return len(self.read(positions, 1)) > 0

    def read(self, positions: Mapping[int, int], most: int) -> Batch:
        """As Log.read."""
        batch = Batch(lanes=[], shapes=[], values=[], at=[], positions=dict(positions))
        oldest: float | None = None
        with self._room:
            stop = self._next
            for at, put_at, lane, shape, values in self._events:
                if lane not in positions or at < positions[lane]:
                    continue
                if len(batch) >= most:
                    stop = at
                    break
                oldest = put_at if oldest is None else oldest
                batch.lanes.append(lane)
                batch.shapes.append(shape)
                batch.values.append(values)
                batch.at.append(at)
        return Batch(
            lanes=batch.lanes,
            shapes=batch.shapes,
            values=batch.values,
            at=batch.at,
            positions={lane: max(at, stop) for lane, at in positions.items()},
            oldest_at=oldest,
        )

    def forget(self, batch: Batch, positions: Mapping[int, int]) -> None:
        """As Log.forget."""
        del batch
        least = min(positions.values())
        with self._room:
            while self._events and self._events[0][0] < least:
                _, _, _, shape, values = self._events.popleft()
                self._bytes -= HEAD.size + len(shape) + len(values)
            self._room.notify_all()

    def backlog(self, positions: Mapping[int, int]) -> Backlog:
        """As Log.backlog."""
        with self._room:
            waiting = [put_at for at, put_at, lane, _, _ in self._events if at >= positions.get(lane, 0)]
            return Backlog(events=len(waiting), bytes=self._bytes, oldest_at=waiting[0] if waiting else None)

    def close(self) -> None:
        """Lose what has not been landed."""
