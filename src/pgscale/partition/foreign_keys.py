"""Compose foreign keys that are dropped for a swap, enforced again from it on, and proved afterwards. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psycopg import sql

from pgscale.catalog.model import Constraint, IncomingForeignKey
from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, trusted
from pgscale.partition.ddl import alter, constraint_comment


def table_of(foreign: IncomingForeignKey) -> QName:
    return QName(schema=foreign.schema, name=foreign.table_name)


def add_foreign_key(table: QName, name: str, definition: str, *, only: bool = True) -> str:
    """Return what makes the foreign key without proving it: new rows are checked from then on."""
    body = definition.removesuffix(" NOT VALID")
    return alter(table, sql.SQL("ADD CONSTRAINT {} {} NOT VALID").format(ident(name), trusted(body)), only=only)


def add_parent_foreign_key(table: QName, constraint: Constraint) -> str:
    """Return what makes a partitioned table's foreign key; where every partition has it proved, no row is read."""
    action = sql.SQL("ADD CONSTRAINT {} {}").format(ident(constraint.name), trusted(constraint.definition))
    return alter(table, action)


def validate(table: QName, name: str, *, only: bool = True) -> str:
    return alter(table, sql.SQL("VALIDATE CONSTRAINT {}").format(ident(name)), only=only)


def drop_foreign_key(table: QName, name: str) -> str:
    """Return what drops the foreign key of a table and of its partitions, where it exists."""
    return alter(table, sql.SQL("DROP CONSTRAINT IF EXISTS {}").format(ident(name)))


def drop_incoming(incoming: Sequence[IncomingForeignKey]) -> Iterator[str]:
    for foreign in incoming:
        yield alter(table_of(foreign), sql.SQL("DROP CONSTRAINT {}").format(ident(foreign.name)), only=True)


def add_unproved(
    table: QName,
    leaves: Sequence[QName],
    outgoing: Sequence[Constraint],
    incoming: Sequence[IncomingForeignKey],
    *,
    parent_first: bool,
) -> Iterator[str]:
    """Yield what makes the foreign keys of a partitioned table, and those that reference it, unproved.

    Args:
        parent_first: a partitioned table can have an unproved foreign key (PostgreSQL 18).
    """
    for constraint in outgoing:
        # One of the parent is one for each leaf; one of each leaf is one for each pair of a leaf and a partition
        # of what it references, which for a self-reference grows with the square of the leaves.
        for each in (table,) if parent_first else leaves:
            yield add_foreign_key(each, constraint.name, constraint.definition, only=not parent_first)
    for foreign in incoming:
        yield add_foreign_key(table_of(foreign), foreign.name, foreign.definition)


def prove_outgoing(
    table: QName, leaves: Sequence[QName], outgoing: Sequence[Constraint], *, parent_first: bool
) -> Iterator[tuple[str, ...]]:
    """Yield transactions that prove the foreign keys of a partitioned table without holding anything up."""
    for constraint in outgoing:
        if constraint.is_validated:
            for leaf in leaves:
                yield (validate(leaf, constraint.name),)
        # With valid constraints on every leaf this is a matter of the catalog: no row is read.
        statements: list[str] = []
        if not parent_first:
            statements.append(add_parent_foreign_key(table, constraint))
        elif constraint.is_validated:
            statements.append(validate(table, constraint.name, only=False))
        if constraint.comment is not None:
            statements.append(constraint_comment(constraint.name, table, constraint.comment))
        if statements:
            yield tuple(statements)


def prove_incoming(incoming: Sequence[IncomingForeignKey]) -> Iterator[tuple[str, ...]]:
    for foreign in incoming:
        if foreign.is_validated:
            yield (validate(table_of(foreign), foreign.name),)
        if foreign.comment is not None:
            yield (constraint_comment(foreign.name, table_of(foreign), foreign.comment),)
