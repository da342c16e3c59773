"""The facts of pgscale.catalog as SQLAlchemy models, to be selected and joined. Read-only.

    from pgscale.catalog.models import Index, Table

    select(Table.name, Index.name).join(Table.indexes).where(Table.schema == "shop", ~Index.is_valid)

Each model is mapped to the query of its fact, as a subquery: nothing is made in the database. What the server writes
out with ACCESS SHARE on a table (`definition`; `default_sql`, for generated columns) is deferred: it is asked for when
it is read, or with `undefer()`. Needs `pip install 'pgscale[sqlalchemy]'` and an engine of `postgresql+psycopg`.
"""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Boolean, DateTime, Float, Subquery, Text, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, deferred, relationship
from sqlalchemy.types import TypeEngine

from pgscale.catalog import facts
from pgscale.errors import UsageError

_PLACEHOLDERS = {"%(schemas)s": "NULL", "%(definitions)s": "true", "%%": "%"}
_TYPES: dict[str, TypeEngine[Any]] = {
    "int": BigInteger(),
    "str": Text(),
    "bool": Boolean(),
    "float": Float(),
    "datetime": DateTime(timezone=True),
    "list[str]": ARRAY(Text),
    "list[str | None]": ARRAY(Text),
    "list[bool]": ARRAY(Boolean),
}


def _query(query: str, kind: type[Any]) -> Subquery:
    """Return the query of a fact, of every schema, with definitions: the server leaves out what is not selected."""
    given = facts.QUERIES.get(query, 0).decode()
    written = re.sub(r"%\(\w+\)s|%%", lambda found: _PLACEHOLDERS[found[0]], given)
    columns = {field.name: _TYPES[str(field.type).removesuffix(" | None")] for field in fields(kind)}
    return text(written).columns(**columns).subquery(f"catalog_{query}")


class Base(DeclarativeBase):
    """Of the models of the catalog."""


def _refuse(*_: object) -> None:
    raise UsageError(
        "The models of the catalog are read-only.",
        consequence="Nothing of this flush was written.",
        hint="Change tables with DDL.",
    )


for _change in ("before_insert", "before_update", "before_delete"):
    event.listen(Base, _change, _refuse, propagate=True)
_tables = _query("tables", facts.Table)
_columns = _query("columns", facts.Column)
_indexes = _query("indexes", facts.Index)
_constraints = _query("constraints", facts.Constraint)
_functions = _query("functions", facts.Function)
_partitions = _query("partitions", facts.Partition)
_freshness = _query("freshness", facts.Freshness)


class Table(Base):
    """As pgscale.catalog.Table."""

    __table__ = _tables
    __mapper_args__ = {"primary_key": [_tables.c.oid]}  # noqa: RUF012 because it is what SQLAlchemy looks for

    oid: Mapped[int]
    schema: Mapped[str]
    name: Mapped[str]
    kind: Mapped[str]
    persistence: Mapped[str]
    owner: Mapped[str]
    tablespace: Mapped[str | None]
    is_partition: Mapped[bool]
    partition_strategy: Mapped[str | None]
    partition_columns: Mapped[list[str | None] | None]
    estimated_rows: Mapped[int | None]
    heap_bytes: Mapped[int]
    toast_bytes: Mapped[int]
    index_bytes: Mapped[int]
    row_security: Mapped[bool]
    options: Mapped[list[str] | None]
    extension: Mapped[str | None]
    comment: Mapped[str | None]

    columns: Mapped[list[Column]] = relationship(
        primaryjoin="Table.oid == remote(foreign(Column.table_oid))", order_by="Column.number", viewonly=True
    )
    indexes: Mapped[list[Index]] = relationship(
        primaryjoin="Table.oid == remote(foreign(Index.table_oid))", order_by="Index.name", viewonly=True
    )
    constraints: Mapped[list[Constraint]] = relationship(
        primaryjoin="Table.oid == remote(foreign(Constraint.table_oid))", order_by="Constraint.name", viewonly=True
    )
    partitions: Mapped[list[Partition]] = relationship(
        primaryjoin="Table.oid == remote(foreign(Partition.parent_oid))", order_by="Partition.name", viewonly=True
    )
    freshness: Mapped[Freshness | None] = relationship(
        primaryjoin="Table.oid == remote(foreign(Freshness.table_oid))", uselist=False, viewonly=True
    )


class Column(Base):
    """As pgscale.catalog.Column."""

    __table__ = _columns
    __mapper_args__ = {"primary_key": [_columns.c.table_oid, _columns.c.number]}  # noqa: RUF012 because it is what SQLAlchemy looks for

    table_oid: Mapped[int]
    schema: Mapped[str]
    table_name: Mapped[str]
    number: Mapped[int]
    name: Mapped[str]
    type: Mapped[str]
    type_oid: Mapped[int]
    not_null: Mapped[bool]
    default_sql: Mapped[str | None] = deferred(_columns.c.default_sql)
    generated: Mapped[str | None]
    identity: Mapped[str | None]
    collation: Mapped[str | None]
    storage: Mapped[str]
    compression: Mapped[str | None]
    comment: Mapped[str | None]

    table: Mapped[Table] = relationship(primaryjoin="foreign(Column.table_oid) == remote(Table.oid)", viewonly=True)


class Index(Base):
    """As pgscale.catalog.Index."""

    __table__ = _indexes
    __mapper_args__ = {"primary_key": [_indexes.c.oid]}  # noqa: RUF012 because it is what SQLAlchemy looks for

    oid: Mapped[int]
    schema: Mapped[str]
    table_oid: Mapped[int]
    table_name: Mapped[str]
    name: Mapped[str]
    method: Mapped[str]
    is_unique: Mapped[bool]
    is_primary: Mapped[bool]
    is_exclusion: Mapped[bool]
    is_valid: Mapped[bool]
    is_ready: Mapped[bool]
    nulls_not_distinct: Mapped[bool]
    is_partial: Mapped[bool]
    columns: Mapped[list[str | None]]
    included: Mapped[list[str]]
    operator_classes: Mapped[list[str]]
    is_descending: Mapped[list[bool]]
    estimated_rows: Mapped[int | None]
    bytes: Mapped[int]
    options: Mapped[list[str] | None]
    comment: Mapped[str | None]
    definition: Mapped[str | None] = deferred(_indexes.c.definition)

    table: Mapped[Table] = relationship(primaryjoin="foreign(Index.table_oid) == remote(Table.oid)", viewonly=True)


class Constraint(Base):
    """As pgscale.catalog.Constraint."""

    __table__ = _constraints
    __mapper_args__ = {"primary_key": [_constraints.c.oid]}  # noqa: RUF012 because it is what SQLAlchemy looks for

    oid: Mapped[int]
    schema: Mapped[str]
    table_oid: Mapped[int]
    table_name: Mapped[str]
    name: Mapped[str]
    kind: Mapped[str]
    columns: Mapped[list[str]]
    is_validated: Mapped[bool]
    is_enforced: Mapped[bool]
    is_deferrable: Mapped[bool]
    is_deferred: Mapped[bool]
    index_oid: Mapped[int | None]
    parent_oid: Mapped[int | None]
    references_oid: Mapped[int | None]
    references_schema: Mapped[str | None]
    references_table: Mapped[str | None]
    references_columns: Mapped[list[str] | None]
    on_update: Mapped[str | None]
    on_delete: Mapped[str | None]
    comment: Mapped[str | None]
    definition: Mapped[str | None] = deferred(_constraints.c.definition)

    table: Mapped[Table] = relationship(primaryjoin="foreign(Constraint.table_oid) == remote(Table.oid)", viewonly=True)
    references: Mapped[Table | None] = relationship(
        primaryjoin="foreign(Constraint.references_oid) == remote(Table.oid)", viewonly=True
    )


class Function(Base):
    """As pgscale.catalog.Function."""

    __table__ = _functions
    __mapper_args__ = {"primary_key": [_functions.c.oid]}  # noqa: RUF012 because it is what SQLAlchemy looks for

    oid: Mapped[int]
    schema: Mapped[str]
    name: Mapped[str]
    kind: Mapped[str]
    input_types: Mapped[str]
    arguments: Mapped[str]
    result: Mapped[str | None]
    language: Mapped[str]
    owner: Mapped[str]
    volatility: Mapped[str]
    parallel: Mapped[str]
    is_strict: Mapped[bool]
    is_security_definer: Mapped[bool]
    is_leakproof: Mapped[bool]
    returns_set: Mapped[bool]
    cost: Mapped[float]
    rows: Mapped[float]
    settings: Mapped[list[str] | None]
    body: Mapped[str | None]
    extension: Mapped[str | None]
    comment: Mapped[str | None]
    definition: Mapped[str | None] = deferred(_functions.c.definition)


class Partition(Base):
    """As pgscale.catalog.Partition."""

    __table__ = _partitions
    __mapper_args__ = {"primary_key": [_partitions.c.oid]}  # noqa: RUF012 because it is what SQLAlchemy looks for

    oid: Mapped[int]
    schema: Mapped[str]
    name: Mapped[str]
    parent_oid: Mapped[int]
    parent_schema: Mapped[str]
    parent_name: Mapped[str]
    bound: Mapped[str]
    is_default: Mapped[bool]
    is_partitioned: Mapped[bool]
    is_detach_pending: Mapped[bool]
    estimated_rows: Mapped[int | None]
    heap_bytes: Mapped[int]

    parent: Mapped[Table] = relationship(
        primaryjoin="foreign(Partition.parent_oid) == remote(Table.oid)", viewonly=True
    )
    table: Mapped[Table] = relationship(primaryjoin="foreign(Partition.oid) == remote(Table.oid)", viewonly=True)


class Freshness(Base):
    """As pgscale.catalog.Freshness."""

    __table__ = _freshness
    __mapper_args__ = {"primary_key": [_freshness.c.table_oid]}  # noqa: RUF012 because it is what SQLAlchemy looks for

    table_oid: Mapped[int]
    schema: Mapped[str]
    name: Mapped[str]
    live_rows: Mapped[int]
    dead_rows: Mapped[int]
    changed_since_analyze: Mapped[int]
    inserted_since_vacuum: Mapped[int]
    last_vacuum: Mapped[datetime | None]
    last_autovacuum: Mapped[datetime | None]
    last_analyze: Mapped[datetime | None]
    last_autoanalyze: Mapped[datetime | None]

    table: Mapped[Table] = relationship(primaryjoin="foreign(Freshness.table_oid) == remote(Table.oid)", viewonly=True)
