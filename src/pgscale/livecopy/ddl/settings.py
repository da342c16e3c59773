"""Compose the settings of a session or a transaction."""

from __future__ import annotations

from typing import LiteralString

from psycopg import sql

# What a transaction that probes by key must not do: read whole tables because statistics are missing.
PROBE_BY_KEY = (
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL enable_hashjoin = off",
    "SET LOCAL enable_mergejoin = off",
)


def disable(method: LiteralString) -> sql.Composed:
    """Return the statement that makes the planner avoid a method in this session: `seqscan`, `hashjoin` …"""
    return sql.SQL("SET {} = off").format(sql.Identifier("enable_" + method))


def statement_timeout(seconds: float) -> sql.Composed:
    return sql.SQL("SET statement_timeout = {}").format(sql.Literal(max(1, round(seconds * 1000))))
