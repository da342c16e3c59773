"""Write names, columns and the operators between them as SQL; everything else here is composed of these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import LiteralString, cast

from psycopg import sql

from pgscale.core.model import QName
from pgscale.livecopy.model import KeyColumn, Pair


def text(composed: sql.Composable) -> str:
    """Return the statement as text. Parameters are written $1, $2: `%` in a name stays a plain character."""
    return composed.as_string(None)


def ident(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def qualified(name: QName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)


def trusted(definition: str) -> sql.SQL:
    """Take a definition the server itself deparsed (pg_get_…def) as SQL; never use it for user input."""
    return sql.SQL(cast(LiteralString, definition))


def names(columns: Iterable[str], prefix: str = "") -> sql.Composed:
    """Return a comma-separated list of quoted column names, each behind `prefix.`."""
    return sql.SQL(", ").join(sql.Identifier(prefix, c) if prefix else sql.Identifier(c) for c in columns)


def keys_of(pair: Pair) -> tuple[str, ...]:
    """Return the columns that are captured: they name the row, and the partition it lies in."""
    return tuple(k.name for k in (*pair.identity, *pair.placement))


def identity_of(pair: Pair) -> tuple[str, ...]:
    """Return the columns that name one row."""
    return tuple(k.name for k in pair.identity)


def equal(columns: Sequence[KeyColumn], left: str, right: str) -> sql.Composed:
    """Return `left.c = right.c AND …` with each column's own operator, NULL-safe where NULL can occur."""

    def one(column: KeyColumn) -> sql.Composed:
        a, b = sql.Identifier(left, column.name), sql.Identifier(right, column.name)
        plain = sql.SQL("{} {} {}").format(a, trusted(column.equals), b)
        if not column.nullable:
            return plain
        return sql.SQL("({} OR ({} IS NULL AND {} IS NULL))").format(plain, a, b)

    return sql.SQL(" AND ").join(one(c) for c in columns)
