"""Sync and async from one source: the logic is a generator that asks, a driver answers with or without await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.rows import tuple_row

from pgscale.write.sources import AsyncRows, AsyncSource, Rows, Source

T = TypeVar("T")


class Parameter(bytes):
    """A parameter in its binary form already; its type is the one the statement casts it to."""

    __slots__ = ()


class _ParameterDumper(Dumper):
    format = Format.BINARY
    oid = 0

    def dump(self, obj: Parameter) -> bytes:
        return obj


@dataclass(frozen=True, slots=True)
class Fetch:
    """Run a statement; the answer is its rows, none when it returns none.

    Args:
        params: by name, for `%(name)s`; or in their order, for `$1`, `$2`: then a per cent sign in a name of a table or
            a column is nothing but that.
    """

    query: bytes | sql.Composed
    params: dict[str, Any] | list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Run a statement; the answer is the number of rows it changed."""

    query: bytes | sql.Composed
    params: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Pull:
    """Take the next rows of the source; the answer is a chunk, empty at the end."""

    most: int


@dataclass(frozen=True, slots=True)
class Atomic:
    """Begin a transaction, or a savepoint in one; everything up to Done is in it.

    An error in it rolls it back first, and is then raised in the generator at the effect that failed. So a `try`
    around the whole of a block, from Atomic to Done, can go on after it; one inside of a block can only translate.
    """


@dataclass(frozen=True, slots=True)
class Done:
    """End the transaction of the last Atomic."""


@dataclass(frozen=True, slots=True)
class Begin:
    """Begin a COPY."""

    statement: sql.Composed


@dataclass(frozen=True, slots=True)
class Write:
    """Send bytes of the COPY under way."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """End the COPY; the answer is the number of rows the server counted."""


@dataclass(frozen=True, slots=True)
class Call:
    """Call a function that may block on a disk or a network for a moment; the answer is what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """Run steps of their own in a savepoint; the answer is what they return and what they raised, one of them None.

    What a failure leaves is rolled back, and the steps that asked go on, inside whatever block they are in.

    Args:
        rows: what the steps pull.
    """

    steps: Steps[Any]
    rows: Sequence[Any] = ()


Effect: TypeAlias = Fetch | Change | Pull | Atomic | Done | Begin | Write | End | Call | Attempt
Steps: TypeAlias = Generator[Effect, Any, T]


def drive(steps: Steps[T], connection: psycopg.Connection[Any], rows: Source) -> T:
    """Answer everything the steps ask on a sync connection; return what they return."""
    try:
        effect = steps.send(None)
        while True:
            effect = _go_on(steps, *_settle(steps, effect, connection, rows))
    except StopIteration as ended:
        return ended.value


def _go_on(steps: Steps[Any], answer: Any, error: Exception | None) -> Effect:
    return steps.send(answer) if error is None else steps.throw(error)


def _settle(
    steps: Steps[Any], effect: Effect, connection: psycopg.Connection[Any], rows: Source
) -> tuple[Any, Exception | None]:
    """Answer an effect that stands in no block but those that are to survive its failure."""
    try:
        return _answer(steps, effect, connection, rows), None
    except Exception as error:  # noqa: BLE001 because the steps judge it; what they do not catch comes out again
        return None, error


def _answer(  # noqa: PLR0911 because each effect has its answer
    steps: Steps[Any], effect: Effect, connection: psycopg.Connection[Any], rows: Source
) -> Any:
    match effect:
        case Fetch():
            kind = psycopg.RawCursor if isinstance(effect.params, list) else psycopg.Cursor
            with kind(connection, row_factory=tuple_row) as cursor:
                cursor.adapters.register_dumper(Parameter, _ParameterDumper)
                cursor.execute(effect.query, effect.params)
                return cursor.fetchall() if cursor.description is not None else []
        case Change():
            return connection.execute(effect.query, effect.params).rowcount
        case Pull():
            return rows.pull(effect.most)
        case Call():
            return effect.function()
        case Attempt():
            try:
                with connection.transaction():
                    return drive(effect.steps, connection, Rows(effect.rows)), None
            except Exception as error:  # noqa: BLE001 because whoever asked judges it
                return None, error
        case Atomic():
            with connection.transaction():
                inner = steps.send(None)
                while not isinstance(inner, Done):
                    if isinstance(inner, Atomic):
                        inner = _go_on(steps, *_settle(steps, inner, connection, rows))
                    else:
                        inner = steps.send(_answer(steps, inner, connection, rows))
            return None
        case Begin():
            return _copy(steps, effect, connection, rows)
        case _:
            raise AssertionError(f"{effect} is asked outside its block")


def _copy(steps: Steps[Any], begin: Begin, connection: psycopg.Connection[Any], rows: Source) -> int:
    with connection.cursor() as cursor:
        with cursor.copy(begin.statement) as copy:
            effect = steps.send(None)
            while not isinstance(effect, End):
                if isinstance(effect, Write):
                    copy.write(effect.data)
                    effect = steps.send(None)
                else:
                    effect = steps.send(_answer(steps, effect, connection, rows))
        return cursor.rowcount


async def drive_async(steps: Steps[T], connection: psycopg.AsyncConnection[Any], rows: AsyncSource) -> T:
    """As drive, on an async connection."""
    try:
        effect = steps.send(None)
        while True:
            effect = _go_on(steps, *(await _settle_async(steps, effect, connection, rows)))
    except StopIteration as ended:
        return ended.value


async def _settle_async(
    steps: Steps[Any], effect: Effect, connection: psycopg.AsyncConnection[Any], rows: AsyncSource
) -> tuple[Any, Exception | None]:
    try:
        return await _answer_async(steps, effect, connection, rows), None
    except Exception as error:  # noqa: BLE001 because the steps judge it; what they do not catch comes out again
        return None, error


async def _answer_async(  # noqa: PLR0911 because each effect has its answer
    steps: Steps[Any], effect: Effect, connection: psycopg.AsyncConnection[Any], rows: AsyncSource
) -> Any:
    match effect:
        case Fetch():
            kind = psycopg.AsyncRawCursor if isinstance(effect.params, list) else psycopg.AsyncCursor
            async with kind(connection, row_factory=tuple_row) as cursor:
                cursor.adapters.register_dumper(Parameter, _ParameterDumper)
                await cursor.execute(effect.query, effect.params)
                return await cursor.fetchall() if cursor.description is not None else []
        case Change():
            return (await connection.execute(effect.query, effect.params)).rowcount
        case Pull():
            return await rows.pull(effect.most)
        case Call():
            return await asyncio.to_thread(effect.function)
        case Attempt():
            try:
                async with connection.transaction():
                    return await drive_async(effect.steps, connection, AsyncRows(effect.rows)), None
            except Exception as error:  # noqa: BLE001 because whoever asked judges it
                return None, error
        case Atomic():
            async with connection.transaction():
                inner = steps.send(None)
                while not isinstance(inner, Done):
                    if isinstance(inner, Atomic):
                        inner = _go_on(steps, *(await _settle_async(steps, inner, connection, rows)))
                    else:
                        inner = steps.send(await _answer_async(steps, inner, connection, rows))
            return None
        case Begin():
            return await _copy_async(steps, effect, connection, rows)
        case _:
            raise AssertionError(f"{effect} is asked outside its block")


async def _copy_async(
    steps: Steps[Any], begin: Begin, connection: psycopg.AsyncConnection[Any], rows: AsyncSource
) -> int:
    async with connection.cursor() as cursor:
        async with cursor.copy(begin.statement) as copy:
            effect = steps.send(None)
            while not isinstance(effect, End):
                if isinstance(effect, Write):
                    await copy.write(effect.data)
                    effect = steps.send(None)
                else:
                    effect = steps.send(await _answer_async(steps, effect, connection, rows))
        return cursor.rowcount
