"""Insert rows or merge them into those that are there, by a rule a column."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgscale.core.model import QName
from pgscale.errors import PermissionDeniedError, RefusedError, UsageError
from pgscale.write import ddl
from pgscale.write.copying import send
from pgscale.write.dead_letters.sink import DeadLetters, OpenSink, opening
from pgscale.write.destination import encoder_for, is_in_a_transaction, read_destination, read_unique_keys
from pgscale.write.effects import Atomic, Begin, Done, End, Fetch, Pull, Steps, drive, drive_async
from pgscale.write.encoding import Encoder
from pgscale.write.failures import translated
from pgscale.write.isolating import read_guards
from pgscale.write.merging import Merge, unnest, upsert_surviving
from pgscale.write.model import Destination, UniqueKey
from pgscale.write.rows import Chunk, Shape, shape_of
from pgscale.write.rules import ColumnRule, Rule, choose_rules, find_overwritten_counters
from pgscale.write.sources import ArrowStream, AsyncRows, Rows
from pgscale.write.staging import choose_shape, make_task

# Up to so many rows go as one parameter; more are staged by COPY. See docs/writing.md for the measurement.
MOST_UNNESTED_ROWS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UpsertResult:
    """What an upsert did.

    Args:
        rows: as given; inserted, updated: rows of the table. Rows that share a key count once there, and those that
            every rule leaves alone count nowhere.
        warnings: what looks like a mistake in the rules.
        dead_letters: rows that were not written, and are dead letters now.
    """

    rows: int
    inserted: int
    updated: int
    warnings: tuple[str, ...] = ()
    dead_letters: int = 0


def upsert(
    connection: psycopg.Connection[Any],
    table: str,
    rows: Iterable[Any] | ArrowStream,
    key: Sequence[str],
    rules: Mapping[str, Rule] | None = None,
    columns: Sequence[str] | None = None,
    dead_letters: DeadLetters | None = None,
) -> UpsertResult:
    """Insert rows, or merge them into the rows that are there: all of them or none.

    The result is that of one row at a time, in the order given; also where rows share a key. Any number of writers
    may upsert the same keys: they wait for one another, and never in a circle.

    Args:
        connection, table, rows, columns, dead_letters: as for `copy`.
        key: columns of a unique key of the table, in any order.
        rules: what becomes of a column where the row is there: `set` to the new value (where no rule is given),
            `add` the new value, `least`, `greatest` of both, `keep` the old one unless it is NULL, `coalesce`: the
            new one unless it is NULL, `nothing`: never touch it. NULL is no value to add, least and greatest.

    Raises:
        RowError: a value does not fit; RefusedError: no such table, column or unique key; UsageError: a wrong rule.
        In each case nothing of the call was written.

    Locks: ROW EXCLUSIVE on the table, and the rows it writes, in the order of the key.
    """
    source = Rows(rows)
    with translated(table, source):
        steps = upsert_steps(
            connection.info, table, tuple(key), dict(rules or {}), columns, source.names, opening(dead_letters)
        )
        return drive(steps, connection, source)


async def aupsert(
    connection: psycopg.AsyncConnection[Any],
    table: str,
    rows: AsyncIterable[Any] | Iterable[Any] | ArrowStream,
    key: Sequence[str],
    rules: Mapping[str, Rule] | None = None,
    columns: Sequence[str] | None = None,
    dead_letters: DeadLetters | None = None,
) -> UpsertResult:
    """As upsert, on an async connection; the rows may be async too."""
    source = AsyncRows(rows)
    with translated(table, source):
        steps = upsert_steps(
            connection.info, table, tuple(key), dict(rules or {}), columns, source.names, opening(dead_letters)
        )
        return await drive_async(steps, connection, source)


def upsert_steps(
    info: psycopg.ConnectionInfo,
    table: str,
    key: tuple[str, ...],
    rules: dict[str, Rule],
    columns: Sequence[str] | None,
    names: tuple[str, ...],
    open_sink: OpenSink | None,
) -> Steps[UpsertResult]:
    """Ask what an upsert needs; its arguments are those of `upsert`, names and open_sink as of `copy_steps`."""
    is_inside = is_in_a_transaction(info)
    destination = yield from read_destination(info, table)
    known = yield from read_unique_keys(info, destination.oid)
    arbiter = arbiter_of(destination, known, key)
    key = in_the_order_of(destination, key)
    chunk: Chunk = yield Pull(MOST_UNNESTED_ROWS + 1)
    if not chunk:
        return UpsertResult(rows=0, inserted=0, updated=0)
    if open_sink is None:
        shape = shape_of(chunk[0])
        encoder = encoder_for(destination, columns or names or shape.names or None)
    else:
        shape, encoder = choose_shape(chunk, destination, columns, names)
    if missing := [name for name in key if name not in encoder.names]:
        raise UsageError(f"The rows have no value for {', '.join(missing)}, which is of the key.")
    chosen = choose_rules(encoder.columns, key, rules, destination.types)

    merge = _merger(destination, encoder, key, chosen, nulls_are_equal=arbiter.nulls_are_equal)
    most_unnested = MOST_UNNESTED_ROWS if _can_be_unnested(destination, encoder) else -1
    dead = 0
    if open_sink is not None:
        guards = yield from read_guards(info, destination.oid)
        sink = open_sink(str(destination.table), {"key": list(key), "rules": rules})
        task = make_task(destination, encoder, shape, guards, sink, purpose="upsert", is_in_a_transaction=is_inside)
        yield Atomic()
        given, inserted, updated = yield from upsert_surviving(task, key, chunk, merge, most_unnested)
        yield from sink.close()
        yield Done()
        dead = sink.count
    elif len(chunk) <= most_unnested:
        yield Atomic()
        forms = (encoder.judge(row, shape, number) for number, row in enumerate(chunk))
        inserted, updated = yield from merge(*unnest(destination, encoder.names, forms))
        given = len(chunk)
        yield Done()
    else:
        yield Atomic()
        staging = ddl.staging_name(destination.oid, encoder.columns)
        given = yield from _stage(destination, staging, encoder, shape, chunk)
        inserted, updated = yield from merge(ddl.staged(staging), None)
        yield Done()
    warnings = find_overwritten_counters(chosen, destination.types)
    return UpsertResult(rows=given, inserted=inserted, updated=updated, warnings=warnings, dead_letters=dead)


def _merger(
    destination: Destination,
    encoder: Encoder,
    key: tuple[str, ...],
    rules: Sequence[ColumnRule],
    *,
    nulls_are_equal: bool,
) -> Merge:
    """Return what merges the rows of a source into the table, and tells how many were inserted and updated."""
    is_partitioned = destination.kind == "p"
    columns = [c for name in key for c in encoder.columns if c.name == name]

    # Where bad rows are sought, the same source comes many times.
    made: list[tuple[ddl.Source, sql.Composed]] = []

    def merge(source: ddl.Source, params: list[Any] | None) -> Steps[tuple[int, int]]:
        if is_partitioned:
            yield Fetch(ddl.count_from_zero())
        if not made or made[0][0] is not source:
            statement = ddl.upsert(
                destination.table,
                source,
                columns,
                rules,
                destination.types,
                nulls_are_equal=nulls_are_equal,
                counts_updates=is_partitioned,
            )
            made[:] = [(source, statement)]
        statement = made[0][1]
        inserted, updated = (yield Fetch(statement, params))[0]
        if is_partitioned:
            updated = (yield Fetch(ddl.counted()))[0][0]
            inserted -= updated
        return inserted, updated

    return merge


def _stage(destination: Destination, staging: QName, encoder: Encoder, shape: Shape, chunk: Chunk) -> Steps[int]:
    if not destination.may_stage:
        raise PermissionDeniedError(
            "Staging rows needs the right to make temporary tables.",
            consequence="Nothing was written.",
            hint="GRANT TEMPORARY ON DATABASE … TO this role.",
        )
    yield Fetch(ddl.create_staging(staging, encoder.columns))
    # In a transaction of the caller's, rows of an earlier call may still be there; a COMMIT empties it by itself.
    yield Fetch(ddl.empty(staging))
    yield Begin(ddl.copy_statement(staging, encoder.names))
    yield from send(encoder, shape, chunk)
    given: int = yield End()
    return given


def in_the_order_of(destination: Destination, key: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a key in the order of the table's: keys are locked in it, and all writers need the same."""
    return tuple(column.name for column in destination.columns if column.name in key)


def _can_be_unnested(destination: Destination, encoder: Encoder) -> bool:
    """Tell whether a row may be sent as a whole: a domain that is not written might not allow NULL."""
    return all(
        column.name in encoder.names or destination.types[column.type_oid].kind != "d" for column in destination.columns
    )


def arbiter_of(destination: Destination, known: tuple[UniqueKey, ...], key: tuple[str, ...]) -> UniqueKey:
    """Return the unique index that ON CONFLICT rests on.

    Raises:
        RefusedError: there is none for these columns.
    """
    if not key:
        raise UsageError("An upsert needs the columns of a unique key.")
    same = [one for one in known if set(one.columns) == set(key) and len(one.columns) == len(key)]
    fit = [one for one in same if one.is_valid and one.is_immediate and not one.is_partial]
    if fit:
        return fit[0]
    reasons = tuple(
        f"{one.name} is "
        + ("DEFERRABLE" if not one.is_immediate else "partial" if one.is_partial else "not valid")
        + ", on which ON CONFLICT cannot rest."
        for one in same
    )
    usable = [
        ", ".join(map(str, one.columns))
        for one in known
        if one.is_valid and one.is_immediate and not one.is_partial and None not in one.columns
    ]
    raise RefusedError(
        f"{destination.table} has no unique key of {', '.join(key)} to upsert by.",
        reasons=reasons,
        consequence="Nothing was written.",
        hint=f"Its unique keys: {'; '.join(usable)}." if usable else "It has none: make a unique index first.",
    )
