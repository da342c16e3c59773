"""The rows that are written, the table they go to, and connections of every library."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, LiteralString

import psycopg

from pgscale.embedded import Server
from write_bench.model import AbsentError

COLUMNS = ("user_id", "type", "payload", "at")
TABLE: LiteralString = (
    "CREATE TABLE events (id bigserial PRIMARY KEY, user_id bigint NOT NULL, type text NOT NULL,"
    " payload jsonb NOT NULL, at timestamptz NOT NULL)"
)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
Row = tuple[int, str, str, datetime]


def make_rows(count: int) -> list[Row]:
    """Return rows of an application's events; the same at each call."""
    rng = random.Random(20)
    kinds = ("click", "view", "purchase", "login")
    return [
        (
            rng.randrange(1_000_000),
            kinds[rng.randrange(4)],
            json.dumps({"page": f"/p/{rng.randrange(5_000)}", "n": number, "ref": "mail"}),
            BEGIN + timedelta(milliseconds=17 * number),
        )
        for number in range(count)
    ]


def connect(server: Server) -> psycopg.Connection[Any]:
    return psycopg.connect(server.dsn(), autocommit=True)


def needed(name: str, package: str) -> Any:
    """Import what is compared with.

    Raises:
        AbsentError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise AbsentError(f"{package} is not installed (pip install 'pgscale[bench]')") from None


class Asyncpg:
    """A connection of asyncpg, with its own event loop: what is measured is asyncpg, not a thread beside it."""

    def __init__(self, server: Server) -> None:
        self._port = server.port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection: Any = None

    def ready(self, act: Callable[[Any], Coroutine[Any, Any, Any]]) -> Callable[[], object]:
        """Return what does `act` with the connection."""
        asyncpg = needed("asyncpg", "asyncpg")
        if self._loop is None:
            loop = asyncio.new_event_loop()
            opening = asyncpg.connect(host="127.0.0.1", port=self._port, user="postgres", database="postgres")
            self._connection = loop.run_until_complete(opening)
            self._loop = loop
        loop, connection = self._loop, self._connection
        return lambda: loop.run_until_complete(act(connection))

    def close(self) -> None:
        if self._loop is not None:
            self._loop.run_until_complete(self._connection.close())
            self._loop.close()
