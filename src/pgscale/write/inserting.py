"""Insert rows of several tables in one transaction, parents and children in any order."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import psycopg

from pgscale import sql as named
from pgscale.core.model import QName
from pgscale.errors import UsageError
from pgscale.write.circles import Member, land_circle, stage_member
from pgscale.write.copying import copy_steps
from pgscale.write.dead_letters.sink import DeadLetters, Letters, LetterSink
from pgscale.write.destination import read_destination
from pgscale.write.effects import Atomic, Done, Fetch, Steps, drive, drive_async
from pgscale.write.failures import translated
from pgscale.write.merging import Spill
from pgscale.write.model import RowError
from pgscale.write.ordering import ForeignKey, group_tables, keys_between, order_tables, refuse_circle
from pgscale.write.sources import ArrowStream, AsyncRows, InTurn, Rows
from pgscale.write.staging import set_constraints

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
        dead_letters: rows that were not written, and are dead letters now, by table as it was named; every table is
            there.
    """

    rows: Mapping[str, int]
    order: tuple[str, ...]
    not_deferrable: tuple[ForeignKey, ...] = ()
    dead_letters: Mapping[str, int] = field(default_factory=dict[str, int])


def insert(
    connection: psycopg.Connection[Any],
    tables: Tables,
    *,
    defer_constraints: bool = False,
    dead_letters: DeadLetters | None = None,
) -> InsertResult:
    """Write rows of several tables: all of them or none.

    Args:
        connection: in autocommit the call is a transaction; in a transaction it is a savepoint of it.
        tables: rows by table, or pairs of a table and its rows; rows as for `copy`. Each source is read when it is
            its table's turn.
        defer_constraints: foreign keys between these tables wait until all rows are there, so that the order does not
            matter, and are checked before the call ends. Where one is not deferrable, its parent is written first.
            Without it, tables are written as given.
        dead_letters: where bad rows go, so that all others are written, as for `copy`. A row whose parent is bad or
            missing is bad, too, for the reason that its foreign key gives. With `defer_constraints` parents are
            written before their children then, whether keys can wait or not; where they go round in a circle, rows
            are staged first.

    Raises:
        RowError: a value does not fit: it names table, row, column and reason.
        WriteFailedError: a foreign key has no parent.
        RefusedError: no such table or column; or foreign keys that are not deferrable go round in a circle.
        TooManyDeadLettersError: more rows are bad, in all tables, than `dead_letters` allows.
        In each case nothing of the call was written.

    Lock: ROW EXCLUSIVE on the tables.
    """
    pairs = _pairs(tables)
    if not pairs:
        return InsertResult(rows={}, order=())
    source = InTurn([Rows(rows) for _, rows in pairs])
    steps = _insert(connection.info, [table for table, _ in pairs], source, dead_letters, defers=defer_constraints)
    with translated(", ".join(table for table, _ in pairs), source):
        return drive(steps, connection, source)


async def ainsert(
    connection: psycopg.AsyncConnection[Any],
    tables: AsyncTables,
    *,
    defer_constraints: bool = False,
    dead_letters: DeadLetters | None = None,
) -> InsertResult:
    """As insert, on an async connection; the rows may be async too."""
    pairs = _pairs(tables)
    if not pairs:
        return InsertResult(rows={}, order=())
    source = InTurn([AsyncRows(rows) for _, rows in pairs])
    steps = _insert(connection.info, [table for table, _ in pairs], source, dead_letters, defers=defer_constraints)
    with translated(", ".join(table for table, _ in pairs), source):
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
    info: psycopg.ConnectionInfo,
    names: Sequence[str],
    source: InTurn[Any],
    dead_letters: DeadLetters | None,
    *,
    defers: bool,
) -> Steps[InsertResult]:
    oids: list[int] = []
    for name in names:
        destination = yield from read_destination(info, name)
        oids.append(destination.oid)
    keys = (yield from _read_foreign_keys(info, oids)) if defers else ()
    waiting = tuple(k for k in keys if k.is_deferrable)
    strict = tuple(k for k in keys if not k.is_deferrable)
    order = order_tables(oids, strict) if defers else tuple(range(len(names)))
    groups = tuple((place,) for place in order)
    if defers and dead_letters is not None:
        groups = group_tables(oids, keys)
        for group in groups:
            refuse_circle(keys_between([oids[place] for place in group], strict))
        order = tuple(place for group in groups for place in group)
    rows: dict[str, int] = dict.fromkeys(names, 0)
    dead: dict[str, int] = dict.fromkeys(names, 0)
    yield Atomic()
    if dead_letters is None:
        yield from _set(waiting, immediate=False)
        for place in order:
            name = names[place]
            try:
                with translated(name, source):
                    result = yield from copy_steps(info, name, None, source.turn(place), None)
            except RowError as error:
                if error is source.failure:
                    raise
                raise RowError(error.row, error.column, error.reason, name) from error.__cause__
            rows[name] += result.rows
        # Now and not at COMMIT, so that it is an error of this call.
        yield from _set(waiting, immediate=True)
    else:
        letters = Letters(dead_letters)
        yield from _set(waiting, immediate=True)
        for group in groups:
            between = keys_between([oids[place] for place in group], keys)
            if between:
                written = yield from _insert_circle(info, names, group, source, letters, between)
            else:
                written = yield from _insert_surviving(info, names, group, source, letters)
            for place, landed, bad in written:
                rows[names[place]] += landed
                dead[names[place]] += bad
        yield from letters.close()
    yield from _set([k for k in waiting if k.is_deferred], immediate=False)
    yield Done()
    return InsertResult(
        rows=rows, order=tuple(names[place] for place in order), not_deferrable=_unique(strict), dead_letters=dead
    )


# Of a place: rows that landed, and rows that are letters.
_Written: TypeAlias = "list[tuple[int, int, int]]"


def _insert_surviving(
    info: psycopg.ConnectionInfo, names: Sequence[str], places: Sequence[int], source: InTurn[Any], letters: Letters
) -> Steps[_Written]:
    """Write the rows of one table; its parents are there already."""
    written: _Written = []
    for place in places:
        with translated(names[place], source):
            result = yield from copy_steps(
                info,
                names[place],
                None,
                source.turn(place),
                lambda table, merge: LetterSink(letters, table, merge, closes=False),
            )
        written.append((place, result.rows, result.dead_letters))
    return written


def _insert_circle(
    info: psycopg.ConnectionInfo,
    names: Sequence[str],
    places: Sequence[int],
    source: InTurn[Any],
    letters: Letters,
    keys: Sequence[ForeignKey],
) -> Steps[_Written]:
    """Write the rows of tables that refer to one another."""
    members: dict[int, Member] = {}
    with ExitStack() as spills:
        for place in places:
            spill = spills.enter_context(closing(Spill()))
            with translated(names[place], source):
                member = yield from stage_member(info, names[place], place, source.turn(place), letters, spill, keys)
            if member is not None:
                members[place] = member
        landed = yield from land_circle(list(members.values()), keys)
    return [
        (place, count, member.task.sink.count) for (place, member), count in zip(members.items(), landed, strict=True)
    ]


def _set(keys: Sequence[ForeignKey], *, immediate: bool) -> Steps[None]:
    names = list(dict.fromkeys(QName(schema=k.schema, name=k.name) for k in keys))
    yield from set_constraints(names, immediate=immediate)


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
