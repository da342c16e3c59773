"""Read a source ahead of whoever writes its rows, and no further than a bounded queue: then the source waits."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from typing import Any

from pgscale.write.rows import Chunk
from pgscale.write.sources import AsyncRows, Rows


class Feed:
    """The rows of a sync source, read by a thread.

    Args:
        most: rows in the queue.
    """

    def __init__(self, source: Rows, most: int) -> None:
        self._source, self._most = source, most
        self._rows: deque[Any] = deque()
        self._changed = threading.Condition()
        self._wanted = most + 1
        self._is_over = self._is_stopped = False
        self._error: Exception | None = None
        # A daemon: a source that never gives another row must not keep the process alive.
        self._thread = threading.Thread(target=self._read, name="pgscale-stream", daemon=True)

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def take(self, most: int, wait_s: float) -> Chunk:
        """Return the next rows: so many, or what has come within this time of the first; none at the end.

        Raises:
            Exception: what the source raised, when all rows before that have been taken.
        """
        most = min(most, self._most)
        self._wait_for(1, None)
        self._wait_for(most, time.monotonic() + wait_s)
        if not self._rows and self._error is not None:
            raise self._error
        rows = [self._rows.popleft() for _ in range(min(most, len(self._rows)))]
        with self._changed:
            self._changed.notify_all()
        return rows

    # A row costs no lock: appending to a deque and looking at its length are atomic. Whoever is about to wait says
    # what for, or sees that the queue is full, under the lock and before it looks a last time; the other one looks
    # after it has changed the queue, and takes the lock to wake it.

    def _wait_for(self, rows: int, until: float | None) -> None:
        with self._changed:
            self._wanted = rows
            while len(self._rows) < rows and not self._is_over:
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    break
                self._changed.wait(left)
            self._wanted = self._most + 1

    def _read(self) -> None:
        rows, most = self._rows, self._most
        try:
            for row in self._source:
                if len(rows) >= most or self._is_stopped:
                    with self._changed:
                        while len(rows) >= most and not self._is_stopped:
                            self._changed.wait()
                    if self._is_stopped:
                        return
                rows.append(row)
                if len(rows) >= self._wanted:
                    with self._changed:
                        self._changed.notify_all()
        except Exception as error:  # noqa: BLE001 because whatever it is, the writer raises it
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify_all()


class AsyncFeed:
    """The rows of an async source, read by a task; or those of a sync one, which may not block."""

    def __init__(self, source: AsyncRows, most: int) -> None:
        self._source, self._most = source, most
        self._rows: deque[Any] = deque()
        self._has_rows, self._has_room = asyncio.Event(), asyncio.Event()
        self._wanted = most
        self._is_over = False
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncFeed:
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None, "entered before"
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def take(self, most: int, wait_s: float) -> Chunk:
        """As Feed.take."""
        most = min(most, self._most)
        await self._wait_for(1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wait_for(most)
        if not self._rows and self._error is not None:
            raise self._error
        rows = [self._rows.popleft() for _ in range(min(most, len(self._rows)))]
        self._has_room.set()
        return rows

    async def _wait_for(self, rows: int) -> None:
        self._wanted = rows
        while len(self._rows) < rows and not self._is_over:
            self._has_rows.clear()
            await self._has_rows.wait()

    async def _read(self) -> None:
        try:
            async for row in self._source:
                while len(self._rows) >= self._most:
                    self._has_room.clear()
                    await self._has_room.wait()
                self._rows.append(row)
                if len(self._rows) >= self._wanted:
                    self._has_rows.set()
        except Exception as error:  # noqa: BLE001 because whatever it is, the writer raises it
            self._error = error
        finally:
            self._is_over = True
            self._has_rows.set()
