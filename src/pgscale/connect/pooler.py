"""Tell a transaction-pooling proxy from a server or a session-pooling one."""

from __future__ import annotations

import psycopg

from pgscale.connect.dsn import redact, resolve_dsn
from pgscale.connect.session import Session
from pgscale.errors import ConnectError, RefusedError

_ROUNDS = 3


def _backend(session: Session) -> int:
    row = session.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def refuse_transaction_pooling(dsn: str | None) -> None:
    """Refuse a pooler that hands out server connections per transaction.

    Two client connections can never share one server process unless a pooler multiplexes them; nor can one
    connection change its process. Session advisory locks, SET and temporary tables would silently go to
    another process there.

    Raises:
        RefusedError: with the way around.
    """
    conninfo = resolve_dsn(dsn)
    try:
        with (
            psycopg.connect(conninfo, autocommit=True, prepare_threshold=None, connect_timeout=10) as first,
            psycopg.connect(conninfo, autocommit=True, prepare_threshold=None, connect_timeout=10) as second,
        ):
            known = _backend(first)
            for _ in range(_ROUNDS):
                with second.transaction():
                    held = _backend(second)
                    if held == known or _backend(first) != known:
                        raise RefusedError(
                            "The connection goes through a pooler in transaction mode: session locks, SET and "
                            "temporary tables do not hold there.",
                            consequence="Nothing was changed.",
                            hint="Connect to PostgreSQL itself, or to a pool with pool_mode = session.",
                        )
    except psycopg.OperationalError as error:
        raise ConnectError(f"Cannot connect twice: {redact(' '.join(str(error).split()), conninfo)}.") from None
