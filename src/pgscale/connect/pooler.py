"""Tell a transaction-pooling proxy from a server or a session-pooling one."""

from __future__ import annotations

import psycopg
from psycopg.rows import TupleRow

from pgscale.connect.dsn import redact, resolve_dsn
from pgscale.errors import ConnectError, RefusedError

_ROUNDS = 3
# Poolers that were found to hand out their connections by session: one look a process is enough.
_BY_SESSION: set[str] = set()


def check_pooling(session: psycopg.Connection[TupleRow], conninfo: str) -> None:
    """Refuse a session that a pooler hands out by transaction; to be asked before anything is SET on it.

    What is set there stays on a server connection that another client is given next: its search_path would be ours,
    and it could not write. A pooler gives its clients a process id of its own; what has the server's is no pooler's.

    Raises:
        RefusedError, ConnectError: as `refuse_transaction_pooling`.
    """
    if session.info.backend_pid == _backend(session) or conninfo in _BY_SESSION:
        return
    refuse_transaction_pooling(conninfo)
    _BY_SESSION.add(conninfo)


def _backend(session: psycopg.Connection[TupleRow]) -> int:
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
        raise ConnectError(
            f"Cannot connect: {redact(' '.join(str(error).split()), conninfo)}.",
            hint="Check host, port, database, user and password (--dsn), and that there is room for a few connections.",
        ) from None
