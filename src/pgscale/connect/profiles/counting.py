"""Watch what runs through a block's connection: rows inserted one by one, and a transaction that is ended inside."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from pgscale.core.model import shorten
from pgscale.errors import RunFailedError

Connection: TypeAlias = "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]"

# So many rows one by one take longer than a COPY of them, by far, and are no accident.
MANY_ROWS = 100
_OURS = (str(Path(__file__).parent), str(Path(psycopg.__file__).parent))
_ONE_ROW = re.compile(r"INSERT \d+ [01]")
# Atomic: a comment ends where it ends, however many there are.
_COMMENTS = r"(?>\s+|--[^\n]*\n|/\*.*?\*/)*+"
_INSERT = re.compile(rf"{_COMMENTS}INSERT\s+INTO\s+(?P<table>[^\s(]+)", re.IGNORECASE | re.DOTALL)
_OF_THE_TRANSACTION = re.compile(rf"{_COMMENTS}SET\s+(LOCAL|TRANSACTION|CONSTRAINTS)\b", re.IGNORECASE | re.DOTALL)
_CHAIN = re.compile(r"\bAND\s+CHAIN\s*;?\s*$", re.IGNORECASE)


class RowByRowWarning(UserWarning):
    """A block inserts many rows, each with a statement of its own."""


class Counter:
    """What the statements of one block add up to.

    Args:
        profile: its name, for messages.
        outlived: the session goes on after the block, and with it what a plain SET has set.
    """

    def __init__(self, profile: str, *, outlived: bool) -> None:
        self._profile = profile
        self._outlived = outlived
        self._statements = 0
        self._inserts = 0
        self._has_warned = False

    def note(self, cursor: Any, query: object, count: int = 1) -> None:
        """Count statements that have run.

        Args:
            count: how often the statement ran.

        Raises:
            RunFailedError: it ended the block's transaction, and the profile's settings with it; or it set something
                that would outlive the block.
        """
        info = cursor.connection.info
        self._statements += count
        if info.pipeline_status == PipelineStatus.OFF:
            tag: str = cursor.statusmessage or ""
            is_insert = _ONE_ROW.fullmatch(tag) is not None
            if (
                info.transaction_status == TransactionStatus.IDLE
                or tag in {"COMMIT", "PREPARE TRANSACTION"}
                or (tag == "ROLLBACK" and _CHAIN.search(_text_of(cursor, query)))
            ):
                raise RunFailedError(
                    f"A statement ended the transaction of a block of profile {self._profile}: {tag or 'it is over'}.",
                    consequence="What ran before is committed or rolled back already; the profile's settings are gone.",
                    hint="Leave the block to commit; raise psycopg.Rollback in it to roll back.",
                )
            if self._outlived and tag in {"SET", "RESET"} and not _OF_THE_TRANSACTION.match(_text_of(cursor, query)):
                raise RunFailedError(
                    f"A statement set something for the session in a block of profile {self._profile}:"
                    f" {shorten(_text_of(cursor, query))}.",
                    consequence="It would outlive the block, whose work is rolled back.",
                    hint="Use SET LOCAL, or SET before the block.",
                )
        else:
            # What the server answers is not there yet.
            is_insert = _INSERT.match(_text_of(cursor, query)) is not None
        if is_insert:
            self._inserts += count
            if not self._has_warned and self._inserts >= MANY_ROWS and self._inserts * 2 >= self._statements:
                self._has_warned = True
                self._warn(_text_of(cursor, query))

    def _warn(self, text: str) -> None:
        found = _INSERT.match(text)
        table = found["table"] if found else "a table"
        warnings.warn(
            f"{self._inserts} rows of {table} were inserted one by one in a block of profile {self._profile}, each with"
            f" a round trip or a plan of its own. pgscale.write.copy(connection, {table!r}, rows) sends them in one"
            " COPY; upsert() and insert() merge them.",
            RowByRowWarning,
            stacklevel=_level_of_caller(),
        )


def _text_of(cursor: Any, query: object) -> str:
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    if isinstance(query, str):
        return query
    as_string = getattr(query, "as_string", None)
    return as_string(cursor) if as_string is not None else str(query)


def _level_of_caller() -> int:
    """Return the stacklevel, as seen from who warns, of the first frame that is neither ours nor psycopg's."""
    # `skip_file_prefixes` comes with Python 3.12.
    level, frame = 1, inspect.currentframe()
    frame = None if frame is None else frame.f_back
    while frame is not None and frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS):
        level, frame = level + 1, frame.f_back
    return level


@contextmanager
def counted(connection: Connection, profile: str, *, outlived: bool) -> Generator[None]:
    """Make every cursor of a connection count, as long as the block lasts; the arguments are those of Counter."""
    before = cast("Any", connection).cursor_factory
    made: Any = _async_counting(before) if isinstance(connection, psycopg.AsyncConnection) else _counting(before)
    counter = Counter(profile, outlived=outlived)

    def make(*args: Any, **kwargs: Any) -> Any:
        cursor = made(*args, **kwargs)
        cursor.pgscale_counter = counter
        return cursor

    cast("Any", connection).cursor_factory = make
    try:
        yield
    finally:
        cast("Any", connection).cursor_factory = before


@cache
def _counting(base: type[psycopg.Cursor[Any]]) -> type[psycopg.Cursor[Any]]:
    class CountingCursor(base):
        pgscale_counter: Counter

        def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            done = super().execute(query, *args, **kwargs)
            self.pgscale_counter.note(self, query)
            return done

        def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
            super().executemany(query, *args, **kwargs)
            self.pgscale_counter.note(self, query, max(1, self.rowcount))

    return CountingCursor


@cache
def _async_counting(base: type[psycopg.AsyncCursor[Any]]) -> type[psycopg.AsyncCursor[Any]]:
    class AsyncCountingCursor(base):
        pgscale_counter: Counter

        async def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
            done = await super().execute(query, *args, **kwargs)
            self.pgscale_counter.note(self, query)
            return done

        async def executemany(self, query: Any, *args: Any, **kwargs: Any) -> None:
            await super().executemany(query, *args, **kwargs)
            self.pgscale_counter.note(self, query, max(1, self.rowcount))

    return AsyncCountingCursor
