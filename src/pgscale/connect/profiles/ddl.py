"""The SQL of profiles that takes no parameters."""

from __future__ import annotations

from psycopg import sql

from pgscale.connect.profiles.model import Setting

# Their values may be set before the first query of a transaction only, and `SELECT set_config(…)` is one.
BEFORE_QUERIES = frozenset({"transaction_isolation", "transaction_deferrable"})


def set_first(setting: Setting) -> sql.Composed:
    """Return the SET LOCAL of one of BEFORE_QUERIES."""
    assert setting.name in BEFORE_QUERIES, setting.name
    return sql.SQL("SET LOCAL {} TO {}").format(sql.Identifier(setting.name), sql.Literal(setting.value))
