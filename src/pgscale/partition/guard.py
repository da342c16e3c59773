"""Compose the guard that stands on a table after a swap. Pure.

A transaction whose snapshot is older than a swap can see neither its mark nor every row of what came in: its writes
would miss rows in silence. 40001 is what it must expect and retry anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import LiteralString

from psycopg import sql

from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, qualified, text

GUARD: LiteralString = "_pgscale_guard"
MARK: LiteralString = "_pgscale_cutover"
UNDO_GUARD: LiteralString = "_pgscale_undo_guard"
UNDO_MARK: LiteralString = "_pgscale_undone"


BOTH: tuple[tuple[LiteralString, LiteralString], ...] = ((GUARD, MARK), (UNDO_GUARD, UNDO_MARK))


def guard_objects(schema: str, pairs: tuple[tuple[LiteralString, LiteralString], ...] = BOTH) -> Iterator[str]:
    """Yield what makes the marks and the functions of guards; of both directions' by default."""
    for guard, mark in pairs:
        yield text(sql.SQL("CREATE TABLE {} (at timestamptz NOT NULL)").format(sql.Identifier(schema, mark)))
        yield text(
            sql.SQL(
                "CREATE FUNCTION {} () RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp AS $pgscale$BEGIN"
                " IF NOT EXISTS (SELECT FROM {}) THEN RAISE EXCEPTION USING ERRCODE = 'serialization_failure',"
                " MESSAGE = 'could not serialize access: the table was exchanged after this transaction took its"
                " snapshot'; END IF; RETURN NULL; END$pgscale$"
            ).format(sql.Identifier(schema, guard), sql.Identifier(schema, mark))
        )


def set_guard(table: QName, schema: str, guard: LiteralString, mark: LiteralString) -> Iterator[str]:
    """Yield what marks the swap and puts the guard on the table; in the swap's own transaction."""
    yield text(sql.SQL("INSERT INTO {} VALUES (pg_catalog.clock_timestamp())").format(sql.Identifier(schema, mark)))
    yield text(
        sql.SQL(
            "CREATE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE ON {} FOR EACH STATEMENT EXECUTE FUNCTION {} ()"
        ).format(ident(guard), qualified(table), sql.Identifier(schema, guard))
    )


def drop_guard(table: QName, guard: LiteralString) -> str:
    return text(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(ident(guard), qualified(table)))


def drop_guard_objects(schema: str) -> Iterator[str]:
    """Yield what drops the marks and the functions of both guards, where they exist."""
    for guard, mark in BOTH:
        yield text(sql.SQL("DROP FUNCTION IF EXISTS {} ()").format(sql.Identifier(schema, guard)))
        yield text(sql.SQL("DROP TABLE IF EXISTS {}").format(sql.Identifier(schema, mark)))
