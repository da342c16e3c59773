"""Compose the one statement that needs a name in it."""

from __future__ import annotations

from psycopg import sql


def rollback_prepared(gid: str) -> sql.Composed:
    """Return ROLLBACK PREPARED; it runs in the database that the transaction belongs to, outside a transaction."""
    return sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid))
