"""Insert rows of several tables in one transaction, parents and children in any order."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import psycopg

from pgscale import sql as named
from pgscale.core.model import QName
from pgscale.errors import UsageError
from pgscale.write import ddl
from pgscale.write.copying import copy_steps
from pgscale.write.destination import read_destination
from pgscale.write.effects import Atomic, Done, Fetch, Steps, drive, drive_async
from pgscale.write.failures import translated
from pgscale.write.model import RowError
from pgscale.write.ordering import ForeignKey, order_tables
from pgscale.write.sources import ArrowStream, AsyncRows, InTurn, Rows

QUERIES = named.load("pgscale.write")

Tables: TypeAlias = "Mapping[str, Iterable[Any] | ArrowStream] | Iterable[tuple[str, Iterable[Any] | ArrowStream]]"
AnyRows: TypeAlias = "AsyncIterable[Any] | Iterable[Any] | ArrowStream"
AsyncTables: TypeAlias = "Mapping[str, AnyRows] | Iterable[tuple[str, AnyRows]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertResult:
    """What an insert did.

    Args:
        rows: written, by table as it was named.
        order: the tables as they were written.
        not_deferrable: foreign keys between these tables that cannot wait; `remedy` is the ALTER that lets one.
    """

    rows: Mapping[str, int]
    order: tuple[str, ...]
    not_deferrable: tuple[ForeignKey, ...] = ()


def insert(connection: psycopg.Connection[Any], tables: Tables, *, defer_constraints: bool = False) -> InsertResult:
    """Write rows of several tables: all of them or none.

    Args:
        connection: in autocommit the call is a transaction; in a transaction it is a savepoint of it.
        tables: rows by table, or pairs of a table and its rows; rows as for `copy`. Each source is read when it is
            its table's turn.
        defer_constraints: foreign keys between these tables wait until all rows are there, so that the order does not
            matter, and are checked before the call ends. Where one is not deferrable, its parent is written first.
            Without it, tables are written as given.

    Raises:
        RowError: a value does not fit: it names table, row, column and reason.
        WriteFailedError: a foreign key has no parent.
        RefusedError: no such table or column; or foreign keys that are not deferrable go round in a circle.
        In each case nothing of the call was written.

    Lock: ROW EXCLUSIVE on the tables.
    """
    pairs = _pairs(tables)
    if not pairs:
        return InsertResult(rows={}, order=())
    source = InTurn([Rows(rows) for _, rows in pairs])
    steps = _insert(connection.info, [table for table, _ in pairs], source, defers=defer_constraints)
    with translated(", ".join(table for table, _ in pairs)):
        return drive(steps, connection, source)


async def ainsert(
    connection: psycopg.AsyncConnection[Any], tables: AsyncTables, *, defer_constraints: bool = False
) -> InsertResult:
    """As insert, on an async connection; the rows may be async too."""
    pairs = _pairs(tables)
    if not pairs:
        return InsertResult(rows={}, order=())
    source = InTurn([AsyncRows(rows) for _, rows in pairs])
    steps = _insert(connection.info, [table for table, _ in pairs], source, defers=defer_constraints)
    with translated(", ".join(table for table, _ in pairs)):
        return await drive_async(steps, connection, source)


def _pairs(tables: Any) -> list[tuple[str, Any]]:
    given = cast("Iterable[Any]", tables.items() if isinstance(tables, Mapping) else tables)
    pairs: list[tuple[str, Any]] = []
    for pair in given:
        if not isinstance(pair, tuple) or len(cast("tuple[Any, ...]", pair)) != 2 or not isinstance(pair[0], str):
            raise UsageError("Rows of several tables are a mapping, or pairs, of a table's name and its rows.")
        pairs.append(cast("tuple[str, Any]", pair))
    return pairs


def _insert(
    info: psycopg.ConnectionInfo, names: Sequence[str], source: InTurn[Any], *, defers: bool
) -> Steps[InsertResult]:
    oids: list[int] = []
    for name in names:
        destination = yield from read_destination(info, name)
        oids.append(destination.oid)
    keys = (yield from _read_foreign_keys(info, oids)) if defers else ()
    waiting = tuple(k for k in keys if k.is_deferrable)
    strict = tuple(k for k in keys if not k.is_deferrable)
    places = order_tables(oids, strict) if defers else range(len(names))
    rows: dict[str, int] = dict.fromkeys(names, 0)
    yield Atomic()
    yield from _set(waiting, immediate=False)
    for place in places:
        name = names[place]
        try:
            with translated(name):
                result = yield from copy_steps(info, name, None, source.turn(place), None)
        except RowError as error:
            raise RowError(error.row, error.column, error.reason, name) from error.__cause__
        rows[name] += result.rows
    # Now and not at COMMIT, so that it is an error of this call.
    yield from _set(waiting, immediate=True)
    yield from _set([k for k in waiting if k.is_deferred], immediate=False)
    yield Done()
    return InsertResult(rows=rows, order=tuple(names[place] for place in places), not_deferrable=_unique(strict))


def _set(keys: Sequence[ForeignKey], *, immediate: bool) -> Steps[None]:
    if keys:
        wanted = list(dict.fromkeys(QName(schema=k.schema, name=k.name) for k in keys))
        yield Fetch(ddl.set_constraints(wanted, immediate=immediate))


def _unique(keys: Sequence[ForeignKey]) -> tuple[ForeignKey, ...]:
    """Of a key between several partitions of one table, one is enough to tell."""
    return tuple({(k.table, k.name): k for k in keys}.values())


def _read_foreign_keys(info: psycopg.ConnectionInfo, oids: Sequence[int]) -> Steps[tuple[ForeignKey, ...]]:
    found = yield Fetch(QUERIES.get("read_foreign_keys", info.server_version), {"oids": list(oids)})
    return tuple(
        ForeignKey(
            name=row[0],
            schema=row[1],
            child_oid=row[2],
            parent_oid=row[3],
            table=QName(schema=row[4], name=row[5]),
            parent=QName(schema=row[6], name=row[7]),
            is_deferrable=row[8],
            is_deferred=row[9],
        )
        for row in found
    )
