"""Compose the statements of writing."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import LiteralString, cast

from psycopg import sql

from pgscale.core.model import QName
from pgscale.write.model import ColumnFact, TypeFact
from pgscale.write.rules import ColumnRule, base_type

ORDINAL = "_pgscale_n"
# A setting of the transaction that nobody else knows: it counts.
COUNTED = "pgscale.updated_rows"
# Types whose min and max are aggregates on every supported server, and cheaper than sorting.
_HAVE_MIN = frozenset(
    {
        "int2",
        "int4",
        "int8",
        "numeric",
        "float4",
        "float8",
        "date",
        "timestamp",
        "timestamptz",
        "time",
        "interval",
        "text",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the rows of an upsert are: a FROM item called s, and what tells the order in which they came."""

    item: sql.Composed
    ordinal: sql.Composable


def _name(table: QName) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


def _list(names: Sequence[str], prefix: str = "") -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(prefix, n) if prefix else sql.Identifier(n) for n in names)


def copy_statement(table: QName, names: Sequence[str]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(_name(table), _list(names))


def staging_name(oid: int, names: Sequence[str]) -> QName:
    """Return the session's own staging table for these columns of a table."""
    return QName(schema="pg_temp", name=f"_pgscale_upsert_{oid}_{zlib.crc32(repr(tuple(names)).encode()):08x}")


def create_staging(staging: QName, table: QName, names: Sequence[str]) -> sql.Composed:
    """Return what makes the session's staging table; it is emptied by every COMMIT and stays.

    One a session, not one a batch: dropping it at every commit would bloat the catalogs.
    """
    return sql.SQL(
        "CREATE TEMPORARY TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS AS SELECT {} FROM {} WITH NO DATA"
    ).format(sql.Identifier(staging.name), _list(names), _name(table))


def empty(staging: QName) -> sql.Composed:
    return sql.SQL("TRUNCATE {}").format(_name(staging))


def staged(staging: QName) -> Source:
    """Rows of the staging table; they lie in the order in which they came, for it was empty before."""
    return Source(item=sql.SQL("{} s").format(_name(staging)), ordinal=sql.SQL("s.ctid"))


def unnested(table: QName, names: Sequence[str]) -> Source:
    """Rows of one parameter, an array of the table's row type."""
    return Source(
        item=sql.SQL("pg_catalog.unnest(%(rows)s::{}[]) WITH ORDINALITY s ({}, {})").format(
            _name(table), _list(names), sql.Identifier(ORDINAL)
        ),
        ordinal=sql.SQL("s.{}").format(sql.Identifier(ORDINAL)),
    )


def upsert(
    table: QName,
    source: Source,
    key: Sequence[ColumnFact],
    rules: Sequence[ColumnRule],
    types: Mapping[int, TypeFact],
    *,
    nulls_are_equal: bool,
    counts_updates: bool,
) -> sql.Composed:
    """Return the statement that folds the rows of `source` by key and writes them, in the order of the key.

    One order for all writers, so that they wait for one another and never in a circle. It returns how many rows
    were inserted and how many were updated.

    Args:
        counts_updates: count updates in the setting COUNTED, for a partitioned table: it tells no xmax of the row it
            wrote, by which an update is known elsewhere. All rows count as inserted then.

    """
    keys, values = [c.name for c in key], [r.column.name for r in rules]
    groups: list[sql.Composable] = [sql.Identifier("s", name) for name in keys]
    if not nulls_are_equal and not all(c.is_not_null for c in key):
        # NULLs are distinct: such rows meet no other, neither in the table nor in the batch.
        nulls = sql.SQL(" OR ").join(sql.SQL("{} IS NULL").format(sql.Identifier("s", name)) for name in keys)
        groups.append(sql.SQL("CASE WHEN {} THEN {} END").format(nulls, source.ordinal))
    folded = [sql.SQL("{} AS {}").format(_fold(r, types, source.ordinal), sql.Identifier(r.column.name)) for r in rules]
    updates = [
        sql.SQL("{} = {}").format(sql.Identifier(r.column.name), _merge(r)) for r in rules if r.rule != "nothing"
    ]
    counting = sql.SQL(
        " WHERE pg_catalog.set_config({0},"
        " (pg_catalog.current_setting({0})::pg_catalog.int8 + 1)::pg_catalog.text, true) IS NOT NULL"
    ).format(sql.Literal(COUNTED))
    action = (
        sql.SQL("DO UPDATE SET {}{}").format(sql.SQL(", ").join(updates), counting if counts_updates else sql.SQL(""))
        if updates
        else sql.SQL("DO NOTHING")
    )
    return sql.SQL(
        "WITH written AS (INSERT INTO {table} AS t ({columns})"
        " SELECT {columns} FROM (SELECT {chosen} FROM {source} GROUP BY {groups}) f ORDER BY {order}"
        " ON CONFLICT ({arbiter}) {action} RETURNING {is_new} AS is_new)"
        " SELECT pg_catalog.count(*) FILTER (WHERE is_new), pg_catalog.count(*) FILTER (WHERE NOT is_new) FROM written"
    ).format(
        table=_name(table),
        columns=_list([*keys, *values]),
        chosen=sql.SQL(", ").join([_list(keys, "s"), *folded]),
        source=source.item,
        groups=sql.SQL(", ").join(groups),
        order=_list(keys, "f"),
        arbiter=_list(keys),
        action=action,
        is_new=sql.SQL("true" if counts_updates else "(t.xmax = 0)"),
    )


def count_from_zero() -> sql.Composed:
    return sql.SQL("SELECT pg_catalog.set_config({}, '0', true)").format(sql.Literal(COUNTED))


def counted() -> sql.Composed:
    return sql.SQL("SELECT pg_catalog.current_setting({})::pg_catalog.int8").format(sql.Literal(COUNTED))


def _typed(expression: sql.Composable, column: ColumnFact) -> sql.Composed:
    # The server's own format_type made the name and quoted what needs it: it is SQL, as no user input ever is.
    return sql.SQL("({})::{}").format(expression, sql.SQL(cast(LiteralString, column.type_name)))


def _fold(one: ColumnRule, types: Mapping[int, TypeFact], ordinal: sql.Composable) -> sql.Composed:
    """Return the aggregate that makes the values of one key one."""
    value = sql.Identifier("s", one.column.name)
    fact = base_type(one.column.type_oid, types)
    if one.rule == "add":
        return _typed(sql.SQL("pg_catalog.sum({})").format(value), one.column)
    if one.rule in ("least", "greatest"):
        if fact.schema == "pg_catalog" and fact.name in _HAVE_MIN:
            aggregate = sql.SQL("pg_catalog.min" if one.rule == "least" else "pg_catalog.max")
            return _typed(sql.SQL("{}({})").format(aggregate, value), one.column)
        order = sql.SQL("{} {}").format(value, sql.SQL("ASC" if one.rule == "least" else "DESC"))
        return _first(value, fact, order, one.column, ignores_nulls=True)
    direction = sql.SQL("DESC" if one.rule in ("set", "coalesce") else "ASC")
    order = sql.SQL("{} {}").format(ordinal, direction)
    return _first(value, fact, order, one.column, ignores_nulls=one.rule in ("keep", "coalesce"))


def _first(
    value: sql.Identifier, fact: TypeFact, order: sql.Composed, column: ColumnFact, *, ignores_nulls: bool
) -> sql.Composed:
    # array_agg of arrays would be one array of more dimensions; as text they stay whole.
    item = sql.SQL("{}::pg_catalog.text").format(value) if fact.kind == "a" else value
    only = sql.SQL(" FILTER (WHERE {} IS NOT NULL)").format(value) if ignores_nulls else sql.SQL("")
    return _typed(sql.SQL("(pg_catalog.array_agg({} ORDER BY {}){})[1]").format(item, order, only), column)


def _merge(one: ColumnRule) -> sql.Composed:
    """Return what becomes of the column where the row is there."""
    old, new = sql.Identifier("t", one.column.name), sql.Identifier("excluded", one.column.name)
    match one.rule:
        case "set":
            return sql.SQL("{}").format(new)
        case "add":
            return sql.SQL("COALESCE({} OPERATOR(pg_catalog.+) {}, {}, {})").format(old, new, old, new)
        case "least":
            return sql.SQL("LEAST({}, {})").format(old, new)
        case "greatest":
            return sql.SQL("GREATEST({}, {})").format(old, new)
        case "keep":
            return sql.SQL("COALESCE({}, {})").format(old, new)
        case "coalesce":
            return sql.SQL("COALESCE({}, {})").format(new, old)
        case _:
            raise AssertionError(f"{one.rule} changes nothing")
