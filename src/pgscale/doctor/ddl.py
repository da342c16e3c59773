"""SQL that findings give to paste: composed with psycopg.sql, so every name and value is quoted. Nothing runs here."""

from __future__ import annotations

from datetime import datetime
from typing import LiteralString

from psycopg import sql


def _say(statement: LiteralString, **parts: sql.Composable) -> str:
    return sql.SQL(statement).format(**parts).as_string(None)


def _process(pid: int, started_at: datetime | None) -> sql.Composable:
    """The conditions that choose one session and, where its start is known, nobody who got its process id since."""
    if started_at is None:
        return sql.SQL("pid = {}").format(sql.Literal(pid))
    return sql.SQL("pid = {} AND backend_start = {}").format(sql.Literal(pid), sql.Literal(started_at.isoformat(" ")))


def terminate(pid: int, started_at: datetime | None) -> str:
    """End one session."""
    return _say("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {who};", who=_process(pid, started_at))


def cancel(pid: int, started_at: datetime | None) -> str:
    """Cancel the statement of one session."""
    return _say("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {who};", who=_process(pid, started_at))


def rollback_prepared(gid: str) -> str:
    return _say("ROLLBACK PREPARED {gid};", gid=sql.Literal(gid))


def drop_slot(name: str) -> str:
    return _say("SELECT pg_drop_replication_slot({name});", name=sql.Literal(name))
