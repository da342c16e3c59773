"""Where rows come from: iterables, async iterables and Arrow streams, given out in chunks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from pgscale.errors import UsageError
from pgscale.write.arrow import ArrowRows, ArrowStream, read_arrow
from pgscale.write.rows import Chunk

# Rows of an Arrow stream that are tuples at a time, where somebody wants them one by one.
ARROW_ROWS = 8_192
# After so many rows of a sync source others may have their turn.
ASYNC_ROWS = 256


class Source(Protocol):
    """Gives out rows in chunks."""

    def pull(self, most: int) -> ArrowRows | Chunk: ...


class AsyncSource(Protocol):
    """Gives out rows in chunks, in its time."""

    async def pull(self, most: int) -> ArrowRows | Chunk: ...


class Rows:
    """Chunks of a sync source.

    Args:
        rows: an iterable of rows, or anything with `__arrow_c_stream__`.
        failure: what it raised when it was asked for them.
    """

    def __init__(self, rows: Iterable[Any] | ArrowStream) -> None:
        self.names: tuple[str, ...] = ()
        self.failure: Exception | None = None
        self._batches: Callable[[int], ArrowRows | Chunk] | None = None
        self._rows: Iterator[Any] = iter(())
        if isinstance(rows, ArrowStream):
            self.names, self._batches = read_arrow(rows)
        else:
            if isinstance(rows, (str, bytes)) or not hasattr(rows, "__iter__"):
                raise UsageError(f"{type(rows).__name__} is no iterable of rows.")
            self._rows = iter(rows)

    def pull(self, most: int) -> ArrowRows | Chunk:
        """Return the next rows, at most so many; none when there are no more."""
        try:
            if self._batches is not None:
                return self._batches(most)
            return list(islice(self._rows, most))
        except Exception as error:
            self.failure = error
            raise

    def __iter__(self) -> Iterator[Any]:
        if self._batches is None:
            return self._rows
        return (row for batch in iter(lambda: self.pull(ARROW_ROWS), []) for row in batch)


class AsyncRows:
    """Chunks of an async source, or of a sync one in async code."""

    def __init__(self, rows: AsyncIterable[Any] | Iterable[Any] | ArrowStream) -> None:
        self._failure: Exception | None = None
        self._async: AsyncIterator[Any] | None = None
        self._sync: Rows | None = None
        if isinstance(rows, AsyncIterable):
            self._async = aiter(rows)
        else:
            self._sync = Rows(rows)

    @property
    def names(self) -> tuple[str, ...]:
        return self._sync.names if self._sync is not None else ()

    @property
    def failure(self) -> Exception | None:
        return self._sync.failure if self._sync is not None else self._failure

    async def __aiter__(self) -> AsyncIterator[Any]:
        if self._async is not None:
            async for row in self._async:
                yield row
        elif self._sync is not None:
            for number, row in enumerate(self._sync):
                if number % ASYNC_ROWS == 0:
                    await asyncio.sleep(0)
                yield row

    async def pull(self, most: int) -> ArrowRows | Chunk:
        """As Rows.pull."""
        if self._sync is not None:
            return self._sync.pull(most)
        assert self._async is not None, "one of the two is there"
        chunk: Chunk = []
        try:
            async for row in self._async:
                chunk.append(row)
                if len(chunk) >= most:
                    break
        except Exception as error:
            self._failure = error
            raise
        return chunk


S = TypeVar("S", Rows, AsyncRows)


class InTurn(Generic[S]):
    """Several sources, of which one at a time gives out its rows."""

    def __init__(self, sources: Sequence[S]) -> None:
        self._sources = sources
        self._current = sources[0]

    def turn(self, number: int) -> tuple[str, ...]:
        """Let this source give out rows from now on; return what it says its columns are."""
        self._current = self._sources[number]
        return self._current.names

    @property
    def failure(self) -> Exception | None:
        return self._current.failure

    def pull(self, most: int) -> Any:
        """As the source does whose turn it is."""
        return self._current.pull(most)
