"""Sessions that wait: a statement is sent and not waited for, so that no test needs threads to be stuck in."""

from __future__ import annotations

import time
from typing import Any

import psycopg

LIMIT_S = 60.0


def send(connection: psycopg.Connection[Any], statement: str) -> int:
    """Send a statement and return at once, with the pid of who is going to wait."""
    connection.pgconn.send_query(statement.encode())
    return connection.info.backend_pid


def outcome(connection: psycopg.Connection[Any]) -> str:
    """Wait for what was sent: `ok`, the SQLSTATE of its error, or `lost` when the connection is."""
    found = "ok"
    until = time.monotonic() + LIMIT_S
    pgconn = connection.pgconn
    while True:
        while True:
            try:
                pgconn.consume_input()
            except psycopg.OperationalError:
                return "lost"
            if not pgconn.is_busy():
                break
            assert time.monotonic() < until, "the statement does not end"
            time.sleep(0.005)
        result = pgconn.get_result()
        if result is None:
            return found if pgconn.status == psycopg.pq.ConnStatus.OK else "lost"
        if state := result.error_field(psycopg.pq.DiagnosticField.SQLSTATE):
            found = state.decode()


def until_waiting(observer: psycopg.Connection[Any], *pids: int) -> None:
    """Return when each of them waits for a lock, or a parallel worker of its does."""
    until_true(
        observer,
        "SELECT count(DISTINCT COALESCE(a.leader_pid, a.pid)) = cardinality(%s::int[]) FROM pg_locks l"
        " JOIN pg_stat_activity a ON a.pid = l.pid WHERE NOT l.granted AND l.waitstart IS NOT NULL"
        " AND COALESCE(a.leader_pid, a.pid) = ANY (%s)",
        [list(pids), list(pids)],
    )


def until_true(observer: psycopg.Connection[Any], question: str, params: list[Any] | None = None) -> None:
    """Return when a query answers true."""
    until = time.monotonic() + LIMIT_S
    while True:
        row = observer.execute(question.encode(), params).fetchone()
        if row is not None and row[0]:
            return
        assert time.monotonic() < until, question
        time.sleep(0.01)
