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

ORDINAL, PLACE = "_pgscale_n", "_pgscale_p"
# A setting of the transaction that nobody else knows: it counts.
COUNTED = "pgscale.updated_rows"
# Types whose equal values are the same: not so numeric (1.0 and 1.00), interval (1 day and 24 hours), citext.
_SAME_IF_EQUAL = frozenset(
    {
        *("bool", "int2", "int4", "int8", "oid", "uuid", "bytea"),
        *("date", "timestamp", "timestamptz", "time", "text", "varchar"),
    }
)
# Types whose min and max are aggregates on every supported server, and cheaper than sorting. Of equal values they give
# the last one, where one row at a time keeps the first; only of floats that is not told apart (0 and -0).
_HAVE_MIN = frozenset(
    {"int2", "int4", "int8", "float4", "float8", "date", "timestamp", "timestamptz", "time", "text"},
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


def check_constraints_now() -> sql.Composed:
    """Return what checks every deferred constraint now, for the rest of the transaction, too."""
    return sql.SQL("SET CONSTRAINTS ALL IMMEDIATE").format()


def staging_name(oid: int, columns: Sequence[ColumnFact]) -> QName:
    """Return the session's own staging table for these columns of a table, as they are now."""
    shape = repr([(c.name, c.type_name, c.collation) for c in columns])
    return QName(schema="pg_temp", name=f"_pgscale_upsert_{oid}_{zlib.crc32(shape.encode()):08x}")


def create_staging(staging: QName, columns: Sequence[ColumnFact]) -> sql.Composed:
    """Return what makes the session's staging table; it is emptied by every COMMIT and stays.

    One a session, not one a batch: dropping it at every commit would bloat the catalogs. Made of the types that rows
    are encoded for and not from the table, whose own may be others by now.
    """
    return sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} ({}) ON COMMIT DELETE ROWS").format(
        sql.Identifier(staging.name), sql.SQL(", ").join(_declared(c) for c in columns)
    )


def _declared(column: ColumnFact) -> sql.Composed:
    collate = sql.SQL(" COLLATE {}").format(_server_made(column.collation)) if column.collation else sql.SQL("")
    return sql.SQL("{} {}{}").format(sql.Identifier(column.name), _server_made(column.type_name), collate)


def empty(staging: QName) -> sql.Composed:
    return sql.SQL("TRUNCATE {}").format(_name(staging))


def isolation_name(table: QName, oid: int, columns: Sequence[ColumnFact], guards: object) -> QName:
    """Return the session's own table for isolating rows with these columns, as they are now."""
    shape = repr(([(c.name, c.type_name, c.collation, c.is_not_null) for c in columns], guards))
    return QName(schema="pg_temp", name=f"_pgscale_isolate_{oid}_{zlib.crc32(f'{table}{shape}'.encode()):08x}")


def create_isolation(
    name: QName, columns: Sequence[ColumnFact], checks: Sequence[tuple[str, str]], *, refuses_nulls: bool
) -> sql.Composed:
    """Return what makes a staging table whose rows have a number (ORDINAL) and, once they are ranked, a place.

    Made of the columns' types and not from the table: that would need the right to read it.

    Args:
        checks: name and definition of CHECKs to make there, too.
        refuses_nulls: columns are NOT NULL there where they are in the table.
    """
    parts: list[sql.Composable] = [
        sql.SQL("{}{}").format(_declared(c), sql.SQL(" NOT NULL" if refuses_nulls and c.is_not_null else ""))
        for c in columns
    ]
    parts += [sql.SQL("{} pg_catalog.int8").format(sql.Identifier(n)) for n in (ORDINAL, PLACE)]
    parts += [
        sql.SQL("CONSTRAINT {} {}").format(sql.Identifier(check), _server_made(definition))
        for check, definition in checks
    ]
    return sql.SQL("CREATE TEMPORARY TABLE IF NOT EXISTS {} ({}) ON COMMIT DELETE ROWS").format(
        sql.Identifier(name.name), sql.SQL(", ").join(parts)
    )


def insert_isolated(table: QName, isolation: QName, names: Sequence[str], first: int, last: int) -> sql.Composed:
    """Return what inserts the staged rows numbered from `first` to `last`; identity columns as COPY does."""
    # Numbers in the text, here and below: with parameters a per cent sign in a name would be read as one.
    return sql.SQL(
        "INSERT INTO {table} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {isolation}"
        " WHERE {n} BETWEEN {first} AND {last} ORDER BY {n}"
    ).format(
        table=_name(table),
        names=_list(names),
        isolation=_name(isolation),
        n=sql.Identifier(ORDINAL),
        first=sql.Literal(first),
        last=sql.Literal(last),
    )


def forget_isolated(isolation: QName, numbers: Sequence[int]) -> sql.Composed:
    """Return what deletes the staged rows with these numbers."""
    return sql.SQL("DELETE FROM {} WHERE {} = ANY ({})").format(
        _name(isolation), sql.Identifier(ORDINAL), sql.Literal(list(numbers))
    )


def rank_isolated(isolation: QName, key: Sequence[str]) -> sql.Composed:
    """Return what gives the staged rows their places from 0: by key, and rows of one key as they came."""
    return sql.SQL(
        "UPDATE {isolation} s SET {place} = r.place FROM (SELECT {n} AS n,"
        " pg_catalog.row_number() OVER (ORDER BY {key}, {n}) - 1 AS place FROM {isolation}) r WHERE s.{n} = r.n"
    ).format(isolation=_name(isolation), place=sql.Identifier(PLACE), n=sql.Identifier(ORDINAL), key=_list(key))


def index_isolated(isolation: QName) -> sql.Composed:
    """Return what indexes the places; partial, so that rows without one cost nothing."""
    return sql.SQL("CREATE INDEX IF NOT EXISTS {} ON {} ({place}) WHERE {place} IS NOT NULL").format(
        sql.Identifier(f"{isolation.name}_p"), _name(isolation), place=sql.Identifier(PLACE)
    )


def isolated(isolation: QName, *, by_place: bool = False) -> Source:
    """Return the rows of the isolation table as a source: all, or from place $1 to before $2."""
    where: sql.Composable = sql.SQL("")
    if by_place:
        where = sql.SQL(" WHERE {0} >= $1 AND {0} < $2").format(sql.Identifier(PLACE))
    return Source(
        item=sql.SQL("(SELECT * FROM {}{}) s").format(_name(isolation), where),
        ordinal=sql.SQL("s.{}").format(sql.Identifier(ORDINAL)),
    )


def number_at(isolation: QName, place: int) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} WHERE {} = {}").format(
        sql.Identifier(ORDINAL), _name(isolation), sql.Identifier(PLACE), sql.Literal(place)
    )


def set_constraints(names: Sequence[QName], *, immediate: bool) -> sql.Composed:
    return sql.SQL("SET CONSTRAINTS {} {}").format(
        sql.SQL(", ").join(_name(n) for n in names), sql.SQL("IMMEDIATE" if immediate else "DEFERRED")
    )


def staged(staging: QName) -> Source:
    """Rows of the staging table; they lie in the order in which they came, for it was empty before."""
    return Source(item=sql.SQL("{} s").format(_name(staging)), ordinal=sql.SQL("s.ctid"))


def unnested(table: QName, names: Sequence[str]) -> Source:
    """Rows of one parameter, `$1`, an array of the table's row type."""
    return Source(
        item=sql.SQL("pg_catalog.unnest($1::{}[]) WITH ORDINALITY s ({}, {})").format(
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
        chosen=sql.SQL(", ").join([*(_keep_first(c, types, source.ordinal) for c in key), *folded]),
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


def _server_made(text: str) -> sql.SQL:
    # By its own format_type or pg_get_constraintdef, which quote what needs it: it is SQL, as no user input ever is.
    return sql.SQL(cast(LiteralString, text))


def _typed(expression: sql.Composable, column: ColumnFact) -> sql.Composed:
    return sql.SQL("({})::{}").format(expression, _server_made(column.type_name))


def _fold(one: ColumnRule, types: Mapping[int, TypeFact], ordinal: sql.Composable) -> sql.Composed:
    """Return the aggregate that makes the values of one key one."""
    value = sql.Identifier("s", one.column.name)
    fact = base_type(one.column.type_oid, types)
    if one.rule == "add":
        return _typed(sql.SQL("pg_catalog.sum({})").format(value), one.column)
    if one.rule in ("least", "greatest"):
        if fact.schema == "pg_catalog" and fact.name in _HAVE_MIN and one.column.is_deterministic:
            aggregate = sql.SQL("pg_catalog.min" if one.rule == "least" else "pg_catalog.max")
            return _typed(sql.SQL("{}({})").format(aggregate, value), one.column)
        order = sql.SQL("{} {}, {}").format(value, sql.SQL("ASC" if one.rule == "least" else "DESC"), ordinal)
        return _first(value, fact, order, one.column, ignores_nulls=True)
    direction = sql.SQL("DESC" if one.rule in ("set", "coalesce") else "ASC")
    order = sql.SQL("{} {}").format(ordinal, direction)
    return _first(value, fact, order, one.column, ignores_nulls=one.rule in ("keep", "coalesce"))


def _keep_first(column: ColumnFact, types: Mapping[int, TypeFact], ordinal: sql.Composable) -> sql.Composed:
    """Return a column of the key as the first row of a group has it, which is the one that would be inserted."""
    value, fact = sql.Identifier("s", column.name), base_type(column.type_oid, types)
    is_same = fact.kind == "e" or (fact.schema == "pg_catalog" and fact.name in _SAME_IF_EQUAL)
    if is_same and column.is_deterministic:
        return sql.SQL("{}").format(value)
    first = _first(value, fact, sql.SQL("{}").format(ordinal), column, ignores_nulls=False)
    return sql.SQL("{} AS {}").format(first, sql.Identifier(column.name))


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
