"""Compose the statements of the ladder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString, cast

from psycopg import sql

from pgscale.core.model import QName
from pgscale.write.model import ColumnFact


def _name(table: QName) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


def _list(columns: Sequence[ColumnFact]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(c.name) for c in columns)


def create_scratch(scratch: QName, table: QName) -> sql.Composed:
    return sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(_name(scratch), _name(table))


def drop(scratch: QName) -> sql.Composed:
    return sql.SQL("DROP TABLE IF EXISTS {}").format(_name(scratch))


def truncate(scratch: QName) -> sql.Composed:
    return sql.SQL("TRUNCATE {}").format(_name(scratch))


def sample(table: QName, columns: Sequence[ColumnFact], rows: int) -> sql.Composed:
    return sql.SQL("SELECT {} FROM {} LIMIT {}").format(_list(columns), _name(table), sql.Literal(rows))


def insert(scratch: QName, columns: Sequence[ColumnFact]) -> sql.Composed:
    """Return an INSERT of one row; a value is of the type of its column, whatever Python made of it."""
    values = sql.SQL(", ").join(sql.SQL("%s") for _ in columns)
    return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
        _name(scratch), _list(columns), values
    )


def insert_unnested(scratch: QName, columns: Sequence[ColumnFact]) -> sql.Composed:
    # The server's own format_type made the names of types and quoted what needs it: SQL, as no user input ever is.
    arrays = sql.SQL(", ").join(
        sql.SQL("pg_catalog.unnest(%s::{}[])").format(sql.SQL(cast(LiteralString, column.type_name)))
        for column in columns
    )
    return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT * FROM ROWS FROM ({}) rows").format(
        _name(scratch), _list(columns), arrays
    )


def copy_text(scratch: QName, columns: Sequence[ColumnFact]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN").format(_name(scratch), _list(columns))


def copy_binary(scratch: QName, columns: Sequence[ColumnFact]) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(_name(scratch), _list(columns))
