"""Put events where they are safe, now; PostgreSQL gets them from a drainer, later, exactly once."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from pgscale.errors import UsageError
from pgscale.write.buffer.committing import MOST_GROUP_BYTES, GroupCommit
from pgscale.write.buffer.memory import MemoryLog
from pgscale.write.buffer.model import (
    LEVELS,
    BufferFailedError,
    BufferFullError,
    Level,
    Log,
    Merge,
    Receipt,
    Target,
)
from pgscale.write.buffer.records import RecordEncoder
from pgscale.write.buffer.spool.log import SpoolLog
from pgscale.write.buffer.spool.meta import SpoolOptions

TIMEOUT_S = 30.0
# All that this process has, for a child that it forks.
_OPEN: weakref.WeakSet[BufferBase] = weakref.WeakSet()


def _begin_anew() -> None:
    for buffer in list(_OPEN):
        buffer.begin_anew()


# Whoever led or waited in the parent is not in the child; and only here no thread of the child can come in between.
os.register_at_fork(after_in_child=_begin_anew)


class BufferBase:
    """What Buffer and AsyncBuffer share.

    Args:
        table: where the events go, as in SQL, with its schema.
        level: `memory` (lost when the process ends), `spool` (durable on the local disk when put returns) or
            `redis` (as durable as the Redis server: the receipt says).
        path: of the spool's directory; made when it is not there.
        url: of the Redis server, with the buffer's name: redis://host:6379/0?buffer=events.
        key: columns whose values name what is ordered; without any no order is promised.
        lanes: how many drainers may work side by side.
        merge: how rows that are there already are merged; without it, events are inserted.
        timeout_s: how long a put waits for room.
        options: of the spool.
    """

    def __init__(
        self,
        table: str,
        *,
        level: Level = "spool",
        path: str | Path | None = None,
        url: str | None = None,
        key: str | Sequence[str] = (),
        lanes: int = 8,
        merge: Merge | None = None,
        timeout_s: float = TIMEOUT_S,
        options: SpoolOptions | None = None,
    ) -> None:
        columns = (key,) if isinstance(key, str) else tuple(key)
        if not 1 <= lanes <= 1024:
            raise UsageError(f"lanes is {lanes}; it is between 1 and 1024.")
        target = Target(table=table, key=columns, lanes=lanes, merge=merge)
        self.log = _open(level, target, path, url, options)
        self.timeout_s = timeout_s
        self._encoder = RecordEncoder(columns, lanes, () if merge is None else merge.key)
        # What the spool was made with counts, not what is said now.
        most = self.log.options.segment_bytes // 4 if isinstance(self.log, SpoolLog) else MOST_GROUP_BYTES
        self._most_bytes = min(MOST_GROUP_BYTES, most)
        self._commit = GroupCommit(self.log.append, self._most_bytes)
        self._single = Receipt(events=1, level=self.log.level, durability=self.log.durability)
        _OPEN.add(self)

    def begin_anew(self) -> None:
        """In a child just forked: nobody writes, and nobody waits."""
        self._commit = GroupCommit(self.log.append, self._most_bytes)

    def _receipt(self, events: int) -> Receipt:
        # Most puts are of one event, and most receipts the same as the last.
        if events == 1 and self._single.durability == self.log.durability:
            return self._single
        return Receipt(events=events, level=self.log.level, durability=self.log.durability)

    def _parts(self, rows: Iterable[object]) -> Iterator[list[bytes]]:
        """Yield records of rows in parts of a group's size; all are encoded before the first one is given out."""
        encode = self._encoder.encode
        records = [encode(row, index) for index, row in enumerate(rows)]
        part: list[bytes] = []
        size = 0
        for record in records:
            if part and size + len(record) > self._most_bytes:
                yield part
                part, size = [], 0
            part.append(record)
            size += len(record)
        if part:
            yield part


class Buffer(BufferBase):
    """A buffer for threads. Any number of threads and processes may put into the same one.

    >>> with Buffer("public.events", path="/var/lib/shop/events", key="user_id") as buffer:  # doctest: +SKIP
    ...     buffer.put({"user_id": 1, "type": "click"}).survives
    'it survives kill -9 and a loss of power'
    """

    def put(self, row: object) -> Receipt:
        """Return when the event is durable at the buffer's level.

        Args:
            row: a dict, dataclass or named tuple: values by the columns' names.

        Raises:
            RowError: a value cannot be stored, or the key has none; UsageError: it is no row.
            BufferFullError: there was no room in time; it is not stored.
            BufferFailedError: the disk or the server failed; whether it is stored is not known.
        """
        self._commit.commit([self._encoder.encode(row)], self.timeout_s)
        return self._receipt(1)

    def put_many(self, rows: Iterable[object]) -> Receipt:
        """As put, for many events in their order; more than a megabyte goes in parts.

        Raises:
            as put; `error.stored` says how many, from the first on, are stored for certain.
        """
        stored = 0
        for part in self._parts(rows):
            try:
                self._commit.commit(part, self.timeout_s)
            except (BufferFullError, BufferFailedError) as error:
                raise _with_stored(error, stored) from error
            stored += len(part)
        return self._receipt(stored)

    def close(self) -> None:
        """Let go of the buffer; what is durable in it stays. No put may be under way."""
        self._commit.close()
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncBuffer(BufferBase):
    """A buffer for coroutines: as Buffer, with puts that are awaited."""

    async def put(self, row: object) -> Receipt:
        """As Buffer.put."""
        await self._commit.acommit([self._encoder.encode(row)], self.timeout_s)
        return self._receipt(1)

    async def put_many(self, rows: Iterable[object]) -> Receipt:
        """As Buffer.put_many."""
        stored = 0
        for part in self._parts(rows):
            try:
                await self._commit.acommit(part, self.timeout_s)
            except (BufferFullError, BufferFailedError) as error:
                raise _with_stored(error, stored) from error
            stored += len(part)
        return self._receipt(stored)

    async def close(self) -> None:
        """As Buffer.close."""
        self._commit.close()
        self.log.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _with_stored(error: BufferFullError | BufferFailedError, stored: int) -> BufferFullError | BufferFailedError:
    consequence = error.consequence
    if stored:
        consequence = f"Of this call, the first {stored} events are stored; of the others: {consequence}"
    return type(error)(error.fact, consequence=consequence, hint=error.hint, stored=stored)


def _open(level: Level, target: Target, path: str | Path | None, url: str | None, options: SpoolOptions | None) -> Log:
    if level == "memory":
        return MemoryLog(target)
    if level == "spool":
        if path is None:
            raise UsageError("A spool needs a directory.", hint="path='/var/lib/…', on a local disk.")
        return SpoolLog(Path(path), target, options)
    if level == "redis":
        if url is None:
            raise UsageError("Level redis needs a URL.", hint="url='redis://host:6379/0?buffer=events'")
        from pgscale.write.buffer.streams.log import StreamLog  # noqa: PLC0415 because it needs the extra `redis`

        return StreamLog(url, target)
    raise UsageError(f"There is no level {level!r}.", hint=f"Levels are {', '.join(LEVELS)}.")
