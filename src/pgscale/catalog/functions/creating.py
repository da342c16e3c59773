"""Have the server read what it keeps as trees, defaults and SQL-standard bodies: made for a moment, and rolled back."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import psycopg

from pgscale.catalog.functions.model import Compared, Pair

_BEGINNING = re.compile(r"CREATE\s+(?:OR\s+REPLACE\s+)?", re.IGNORECASE)


def settle_by_creating(connection: psycopg.Connection[Any], compared: Compared) -> Compared:
    """Return what is left of the drift when the server has read the files.

    A function that differs in nothing but defaults or an SQL-standard body is made as its file has it, in a transaction
    or savepoint that is rolled back; when the catalog then has what it had, the file says the same in other words.
    What cannot be made has drifted.

    Args:
        connection: may write, as the functions' owner; its search_path is that of the files.

    Lock: of the functions' rows in pg_proc, for which other DDL of theirs waits; ACCESS SHARE on what bodies name.
    """
    with connection.transaction(force_rollback=True):
        connection.execute("SELECT pg_catalog.set_config('lock_timeout', '5s', true)")
        settled = {id(pair) for pair in compared.drifted if _is_in_doubt(pair) and _is_same(connection, pair)}
    pairs = (replace(pair, changes=()) if id(pair) in settled else pair for pair in compared.pairs)
    return replace(compared, pairs=tuple(pairs))


def _is_in_doubt(pair: Pair) -> bool:
    return pair.written is not None and all(
        change.what.startswith("default ") or (change.what == "body" and pair.written.sql_body is not None)
        for change in pair.changes
    )


def _is_same(connection: psycopg.Connection[Any], pair: Pair) -> bool:
    assert pair.written is not None, "what has drifted was read"
    statement = _BEGINNING.sub("CREATE OR REPLACE ", pair.written.text, count=1)
    try:
        with connection.transaction(force_rollback=True), psycopg.RawCursor(connection) as cursor:
            cursor.execute(statement.encode())
            cursor.execute("SELECT pg_catalog.set_config('search_path', 'pg_catalog', true)")
            cursor.execute("SELECT pg_catalog.pg_get_functiondef($1::int8::oid)", (pair.stored.oid,))
            return cursor.fetchone() == (pair.stored.definition,)
    except psycopg.Error:
        if connection.closed:
            raise
        return False
