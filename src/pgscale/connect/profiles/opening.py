"""The connection of a block: opened for it, borrowed from a pool, or the caller's own. Never one with a transaction."""

from __future__ import annotations

import threading
from asyncio import current_task
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeAlias, cast

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from pgscale.connect.dsn import redact, resolve_dsn
from pgscale.connect.session import OLDEST_VERSION
from pgscale.errors import ConnectError, RefusedError

Borrowed: TypeAlias = "Callable[[], AbstractContextManager[psycopg.Connection[Any]]]"
AsyncBorrowed: TypeAlias = "Callable[[], AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]]"
Source: TypeAlias = "str | psycopg.Connection[Any] | Borrowed | None"
AsyncSource: TypeAlias = "str | psycopg.AsyncConnection[Any] | AsyncBorrowed | None"
CONNECT_TIMEOUT_S = 10
# The blocks of this thread or task that are open, as they were begun in it or in one that it comes from.
_OPEN: ContextVar[tuple[Place, ...]] = ContextVar("pgscale_blocks", default=())


def connection_of(source: Source, profile: str) -> AbstractContextManager[psycopg.Connection[Any]]:
    """Return what gives a block its connection, and takes it back.

    Raises:
        ConnectError: the server cannot be reached.
    """
    if isinstance(source, psycopg.Connection):
        return nullcontext(cast("psycopg.Connection[Any]", source))
    if callable(source):
        return source()
    conninfo = resolve_dsn(source)
    try:
        return psycopg.connect(**_parameters(conninfo, profile), autocommit=True, prepare_threshold=None)
    except psycopg.Error as error:
        raise _not_connected(error, conninfo) from None


async def async_connection_of(
    source: AsyncSource, profile: str
) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]:
    """As connection_of."""
    if isinstance(source, psycopg.AsyncConnection):
        return nullcontext(cast("psycopg.AsyncConnection[Any]", source))
    if callable(source):
        return source()
    conninfo = resolve_dsn(source)
    try:
        return await psycopg.AsyncConnection.connect(
            **_parameters(conninfo, profile), autocommit=True, prepare_threshold=None
        )
    except psycopg.Error as error:
        raise _not_connected(error, conninfo) from None


def is_opened(source: Source | AsyncSource) -> bool:
    """Tell whether the connection is opened for the block, and closed after it."""
    return source is None or isinstance(source, str)


def _parameters(conninfo: str, profile: str) -> Mapping[str, Any]:
    # Statements are not prepared: behind a pooler the next one would meet the names on another's connection.
    defaults = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "fallback_application_name": f"pgscale/{profile}",
        "client_encoding": "UTF8",
    }
    return {**defaults, **conninfo_to_dict(conninfo)}


def _not_connected(error: psycopg.Error, conninfo: str) -> ConnectError:
    return ConnectError(
        f"Cannot connect: {redact(' '.join(str(error).split()), conninfo)}.",
        hint="Check host, port, database, user and password.",
    )


def refuse_unfit(info: psycopg.ConnectionInfo, profile: str) -> None:
    """Refuse a connection with a transaction of its own: SET LOCAL would last as long as that, past the block.

    Raises:
        RefusedError: or the server is older than PostgreSQL 14; ConnectError: it is closed.
    """
    status = info.transaction_status
    if status == TransactionStatus.UNKNOWN:
        raise ConnectError(
            f"The connection for a block of profile {profile} is closed.", hint="Give it one that is open."
        )
    if status != TransactionStatus.IDLE:
        raise RefusedError(
            f"A block of profile {profile} cannot begin in an open transaction.",
            consequence="Its settings would last as long as that transaction, past the block. Nothing of it was run.",
            hint="Commit or roll back first, or give the block a connection of its own.",
        )
    if info.server_version < OLDEST_VERSION:
        raise RefusedError(f"The server is PostgreSQL {info.server_version // 10_000}; pgscale needs 14 or later.")


class Place:
    """Where a block is open: a thread or a task, and a database.

    Enters itself into the context; what has come from a context with an open block but runs elsewhere is no part of it.
    """

    def __init__(self, database: object, profile: str) -> None:
        self._database, self._profile = database, profile
        self._runner = _runner()
        self._is_open = False

    def __enter__(self) -> None:
        others = tuple(place for place in _OPEN.get() if place._is_open)
        for place in others:
            if place._database is self._database and place._runner == self._runner:
                raise RefusedError(
                    f"A block of profile {self._profile} cannot begin inside one of profile {place._profile}.",
                    consequence="It would be another transaction, which does not see what this one wrote and may wait"
                    " for its locks for ever. Nothing of it was run.",
                    hint="Leave the outer block first, or do both with one profile.",
                )
        self._is_open = True
        _OPEN.set((*others, self))

    def __exit__(self, *_: object) -> None:
        # Not by the token: a generator's end may run in another context than its beginning.
        self._is_open = False


def _runner() -> tuple[int, int]:
    """Return what runs us: threads share no task, and tasks of one thread no block."""
    try:
        task = current_task()
    except RuntimeError:
        task = None
    return threading.get_ident(), id(task) if task is not None else 0
