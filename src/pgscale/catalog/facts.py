"""What the catalog has, as values: tables, columns, indexes, constraints, functions, partitions, freshness.

Each reader sends one query, whatever the size of the database, needs no rights on the tables and locks none of them,
unless it is asked for `definitions`. Names are unquoted.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, TypeVar

import psycopg
from psycopg.rows import class_row

from pgscale import sql as named

T = TypeVar("T")
QUERIES = named.load("pgscale.catalog", "facts.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table, partitioned or foreign table, view or materialized view.

    Args:
        kind: `table`, `partitioned table`, `foreign table`, `view`, `materialized view`.
        persistence: `permanent`, `unlogged`, `temporary`.
        partition_strategy, partition_columns: of a partitioned table; a column is None where the key has an expression.
        estimated_rows: as of the last VACUUM or ANALYZE; None when there was none yet.
        heap_bytes, toast_bytes, index_bytes: likewise; of TOAST without its index.
        extension: the one it belongs to.
    """

    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    owner: str
    tablespace: str | None
    is_partition: bool
    partition_strategy: str | None
    partition_columns: list[str | None] | None
    estimated_rows: int | None
    heap_bytes: int
    toast_bytes: int
    index_bytes: int
    row_security: bool
    options: list[str] | None
    extension: str | None
    comment: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column.

    Args:
        type: as the connection's search_path shows it.
        default_sql: its default; of a generated column the expression, with `definitions` only.
        generated: `stored` or `virtual`; identity: `always` or `by default`.
        collation: None where it is the type's.
    """

    table_oid: int
    schema: str
    table_name: str
    number: int
    name: str
    type: str
    type_oid: int
    not_null: bool
    default_sql: str | None
    generated: str | None
    identity: str | None
    collation: str | None
    storage: str
    compression: str | None
    comment: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index, of a partitioned table too.

    Args:
        columns: its key; None for an expression. operator_classes and is_descending go with it.
        included: columns of INCLUDE.
        estimated_rows, bytes: as of the last VACUUM or ANALYZE.
        definition: with `definitions` only.
    """

    oid: int
    schema: str
    table_oid: int
    table_name: str
    name: str
    method: str
    is_unique: bool
    is_primary: bool
    is_exclusion: bool
    is_valid: bool
    is_ready: bool
    nulls_not_distinct: bool
    is_partial: bool
    columns: list[str | None]
    included: list[str]
    operator_classes: list[str]
    is_descending: list[bool]
    estimated_rows: int | None
    bytes: int
    options: list[str] | None
    comment: str | None
    definition: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A constraint of a table.

    Args:
        kind: `primary key`, `unique`, `foreign key`, `check`, `exclusion`; `not null` from PostgreSQL 18 on.
        columns: in the order of the key.
        index_oid: of the index that it rests on; of a foreign key, at the other end.
        parent_oid: of the partitioned table's constraint that it comes from.
        on_update, on_delete: of foreign keys: `no action`, `restrict`, `cascade`, `set null`, `set default`.
        definition: of CHECK and EXCLUDE with `definitions` only.
    """

    oid: int
    schema: str
    table_oid: int
    table_name: str
    name: str
    kind: str
    columns: list[str]
    is_validated: bool
    is_enforced: bool
    is_deferrable: bool
    is_deferred: bool
    index_oid: int | None
    parent_oid: int | None
    references_oid: int | None
    references_schema: str | None
    references_table: str | None
    references_columns: list[str] | None
    on_update: str | None
    on_delete: str | None
    comment: str | None
    definition: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function, procedure, aggregate or window function.

    Args:
        input_types: those that tell it from others of its name: `integer, text`.
        arguments: with names, modes and defaults; result: None for procedures.
        settings: of its SET clauses: `work_mem=64MB`.
        body: None where it is SQL-standard (RETURN, BEGIN ATOMIC).
        definition: CREATE OR REPLACE …; none of aggregates; of SQL-standard bodies with `definitions` only.
    """

    oid: int
    schema: str
    name: str
    kind: str
    input_types: str
    arguments: str
    result: str | None
    language: str
    owner: str
    volatility: str
    parallel: str
    is_strict: bool
    is_security_definer: bool
    is_leakproof: bool
    returns_set: bool
    cost: float
    rows: float
    settings: list[str] | None
    body: str | None
    extension: str | None
    comment: str | None
    definition: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition of a partitioned table.

    Args:
        bound: `FOR VALUES …` or `DEFAULT`.
        is_partitioned: it has partitions of its own.
        is_detach_pending: a DETACH CONCURRENTLY was interrupted.
        estimated_rows, heap_bytes: as of the last VACUUM or ANALYZE.
    """

    oid: int
    schema: str
    name: str
    parent_oid: int
    parent_schema: str
    parent_name: str
    bound: str
    is_default: bool
    is_partitioned: bool
    is_detach_pending: bool
    estimated_rows: int | None
    heap_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How fresh a table and what the planner knows of it are, as the statistics collected since their last reset say.

    Args:
        live_rows, dead_rows: as counted since, and corrected by VACUUM and ANALYZE.
        changed_since_analyze, inserted_since_vacuum: rows.
    """

    table_oid: int
    schema: str
    name: str
    live_rows: int
    dead_rows: int
    changed_since_analyze: int
    inserted_since_vacuum: int
    last_vacuum: datetime | None
    last_autovacuum: datetime | None
    last_analyze: datetime | None
    last_autoanalyze: datetime | None

    @property
    def vacuumed_at(self) -> datetime | None:
        """When it was last vacuumed, by whomever."""
        return _later(self.last_vacuum, self.last_autovacuum)

    @property
    def analyzed_at(self) -> datetime | None:
        """When it was last analyzed, by whomever."""
        return _later(self.last_analyze, self.last_autoanalyze)


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max((each for each in (one, other) if each is not None), default=None)


def _read(
    connection: psycopg.Connection[Any],
    kind: type[T],
    name: str,
    schemas: Collection[str] | None,
    **more: bool,
) -> list[T]:
    query = QUERIES.get(name, connection.info.server_version)
    with psycopg.Cursor(connection, row_factory=class_row(kind)) as cursor:
        cursor.execute(query, {"schemas": None if schemas is None else list(schemas), **more})
        return cursor.fetchall()


def read_tables(connection: psycopg.Connection[Any], *, schemas: Collection[str] | None = None) -> tuple[Table, ...]:
    """Return the tables, views and materialized views of a database.

    Args:
        schemas: of these; by default of all but PostgreSQL's own.
    """
    found = _read(connection, Table, "tables", schemas)
    return tuple(sorted(found, key=attrgetter("schema", "name")))


def read_columns(
    connection: psycopg.Connection[Any], *, schemas: Collection[str] | None = None, definitions: bool = False
) -> tuple[Column, ...]:
    """Return the columns of tables and views of a database.

    Args:
        schemas: of these; by default of all but PostgreSQL's own.
        definitions: also what the server writes out with ACCESS SHARE on a table, for which it may have to wait.
    """
    found = _read(connection, Column, "columns", schemas, definitions=definitions)
    return tuple(sorted(found, key=attrgetter("schema", "table_name", "number")))


def read_indexes(
    connection: psycopg.Connection[Any], *, schemas: Collection[str] | None = None, definitions: bool = False
) -> tuple[Index, ...]:
    """Return the indexes of a database.

    Args:
        schemas: of these; by default of all but PostgreSQL's own.
        definitions: also what the server writes out with ACCESS SHARE on a table, for which it may have to wait.
    """
    found = _read(connection, Index, "indexes", schemas, definitions=definitions)
    return tuple(sorted(found, key=attrgetter("schema", "table_name", "name")))


def read_constraints(
    connection: psycopg.Connection[Any], *, schemas: Collection[str] | None = None, definitions: bool = False
) -> tuple[Constraint, ...]:
    """Return the constraints of a database.

    Args:
        schemas: of these; by default of all but PostgreSQL's own.
        definitions: also what the server writes out with ACCESS SHARE on a table, for which it may have to wait.
    """
    found = _read(connection, Constraint, "constraints", schemas, definitions=definitions)
    return tuple(sorted(found, key=attrgetter("schema", "table_name", "name")))


def read_functions(
    connection: psycopg.Connection[Any], *, schemas: Collection[str] | None = None, definitions: bool = False
) -> tuple[Function, ...]:
    """Return the functions of a database.

    Args:
        schemas: of these; by default of all but PostgreSQL's own.
        definitions: also what the server writes out with ACCESS SHARE on a table, for which it may have to wait.
    """
    found = _read(connection, Function, "functions", schemas, definitions=definitions)
    return tuple(sorted(found, key=attrgetter("schema", "name", "input_types")))


def read_partitions(
    connection: psycopg.Connection[Any], *, schemas: Collection[str] | None = None
) -> tuple[Partition, ...]:
    """Return the partitions of a database.

    Args:
        schemas: of these; by default of all but PostgreSQL's own.
    """
    found = _read(connection, Partition, "partitions", schemas)
    return tuple(sorted(found, key=attrgetter("parent_schema", "parent_name", "schema", "name")))


def read_freshness(
    connection: psycopg.Connection[Any], *, schemas: Collection[str] | None = None
) -> tuple[Freshness, ...]:
    """Return the freshness of tables and materialized views of a database.

    Args:
        schemas: of these; by default of all but PostgreSQL's own.
    """
    found = _read(connection, Freshness, "freshness", schemas)
    return tuple(sorted(found, key=attrgetter("schema", "name")))
