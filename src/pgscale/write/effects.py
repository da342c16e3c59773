"""Sync and async from one source: the logic is a generator that asks, a driver answers with or without await."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.rows import tuple_row

from pgscale.write.sources import AsyncRows, Rows

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
    """Run a statement; the answer is its rows, none when it returns none."""

    query: bytes | sql.Composed
    params: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Pull:
    """Take the next rows of the source; the answer is a chunk, empty at the end."""

    most: int


@dataclass(frozen=True, slots=True)
class Atomic:
    """Begin a transaction, or a savepoint in one; everything up to Done is in it."""


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


Effect: TypeAlias = Fetch | Pull | Atomic | Done | Begin | Write | End
Steps: TypeAlias = Generator[Effect, Any, T]


def drive(steps: Steps[T], connection: psycopg.Connection[Any], rows: Rows) -> T:
    """Answer everything the steps ask on a sync connection; return what they return."""
    answer: Any = None
    try:
        while True:
            answer = _answer(steps, steps.send(answer), connection, rows)
    except StopIteration as ended:
        return ended.value


def _answer(steps: Steps[Any], effect: Effect, connection: psycopg.Connection[Any], rows: Rows) -> Any:
    match effect:
        case Fetch():
            with connection.cursor(row_factory=tuple_row) as cursor:
                cursor.adapters.register_dumper(Parameter, _ParameterDumper)
                cursor.execute(effect.query, effect.params)
                return cursor.fetchall() if cursor.description is not None else []
        case Pull():
            return rows.pull(effect.most)
        case Atomic():
            with connection.transaction():
                inner = steps.send(None)
                while not isinstance(inner, Done):
                    inner = steps.send(_answer(steps, inner, connection, rows))
            return None
        case Begin():
            return _copy(steps, effect, connection, rows)
        case _:
            raise AssertionError(f"{effect} is asked outside its block")


def _copy(steps: Steps[Any], begin: Begin, connection: psycopg.Connection[Any], rows: Rows) -> int:
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


async def drive_async(steps: Steps[T], connection: psycopg.AsyncConnection[Any], rows: AsyncRows) -> T:
    """As drive, on an async connection."""
    answer: Any = None
    try:
        while True:
            answer = await _answer_async(steps, steps.send(answer), connection, rows)
    except StopIteration as ended:
        return ended.value


async def _answer_async(
    steps: Steps[Any], effect: Effect, connection: psycopg.AsyncConnection[Any], rows: AsyncRows
) -> Any:
    match effect:
        case Fetch():
            async with connection.cursor(row_factory=tuple_row) as cursor:
                cursor.adapters.register_dumper(Parameter, _ParameterDumper)
                await cursor.execute(effect.query, effect.params)
                return await cursor.fetchall() if cursor.description is not None else []
        case Pull():
            return await rows.pull(effect.most)
        case Atomic():
            async with connection.transaction():
                inner = steps.send(None)
                while not isinstance(inner, Done):
                    inner = steps.send(await _answer_async(steps, inner, connection, rows))
            return None
        case Begin():
            return await _copy_async(steps, effect, connection, rows)
        case _:
            raise AssertionError(f"{effect} is asked outside its block")


async def _copy_async(
    steps: Steps[Any], begin: Begin, connection: psycopg.AsyncConnection[Any], rows: AsyncRows
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
