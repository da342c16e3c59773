"""Compose the statements of maintenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

from psycopg import sql

from pgscale.core.model import QName


def vacuum(table: QName, *, freeze: bool = False, analyze: bool = False, only_toast: bool = False) -> sql.Composed:
    """Return VACUUM of a table with what belongs to it; only_toast: of its TOAST table alone, from 16 on."""
    wanted: tuple[tuple[LiteralString, bool], ...] = (
        ("FREEZE", freeze),
        ("ANALYZE", analyze),
        ("PROCESS_MAIN false", only_toast),
    )
    words = [sql.SQL(word) for word, is_wanted in wanted if is_wanted]
    how = sql.SQL("({}) ").format(sql.SQL(", ").join(words)) if words else sql.SQL("")
    return sql.SQL("VACUUM {}{}").format(how, _name(table))


def analyze(table: QName) -> sql.Composed:
    return sql.SQL("ANALYZE {}").format(_name(table))


def reindex(index: QName) -> sql.Composed:
    return sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(_name(index))


def drop(index: QName) -> sql.Composed:
    return sql.SQL("DROP INDEX CONCURRENTLY {}").format(_name(index))


def settings(values: Sequence[tuple[str, str]]) -> sql.Composed:
    """Return the SETs of a session, in one round trip."""
    return sql.SQL("; ").join(
        sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in values
    )


def _name(name: QName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)
