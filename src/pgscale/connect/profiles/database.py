"""Blocks of statements with a profile: one transaction, its settings SET LOCAL, gone with it. Sync and async."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, TypeAlias

import psycopg
from psycopg.sql import SQL, Composed

from pgscale.connect.profiles import resolving
from pgscale.connect.profiles.configuring import read_profiles
from pgscale.connect.profiles.counting import counted
from pgscale.connect.profiles.entering import Steps, drive, drive_async, enter, enter_again
from pgscale.connect.profiles.model import DEFAULT_ENVIRONMENT, Checked, Profiles, ResolvedProfile
from pgscale.connect.profiles.opening import (
    AsyncSource,
    Place,
    Source,
    async_connection_of,
    connection_of,
    is_opened,
    refuse_unfit,
)
from pgscale.errors import UsageError

VARIABLE = "PGSCALE_ENVIRONMENT"
Query: TypeAlias = "LiteralString | bytes | SQL | Composed"
Params: TypeAlias = "Sequence[Any] | Mapping[str, Any] | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What one statement gave.

    Args:
        rows: as the connection's row factory makes them; none where the statement returns none.
        columns: their names.
        rowcount: rows it returned or changed.
    """

    rows: list[Any]
    columns: tuple[str, ...]
    rowcount: int


def _rows(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any], rows: list[Any]) -> Rows:
    columns = tuple(column.name for column in cursor.description or ())
    return Rows(rows=rows, columns=columns, rowcount=cursor.rowcount)


class _Settled:
    """What sync and async databases share: which profiles there are, and which of them a server has taken."""

    def __init__(self, environment: str | None, config: Profiles | Path | str | None, ram_bytes: int | None) -> None:
        self.config = (
            config if isinstance(config, Profiles) else read_profiles(None if config is None else Path(config))
        )
        self.environment = environment or os.environ.get(VARIABLE) or DEFAULT_ENVIRONMENT
        resolving.resolve_environment(self.config, self.environment)
        self._ram_bytes = ram_bytes
        self._taken: dict[tuple[str, ...], Checked] = {}

    def profiles(self) -> tuple[ResolvedProfile, ...]:
        """Return every profile of the environment, each setting with where it comes from; asks no server."""
        return tuple(self.resolve(name) for name in resolving.profile_names(self.config, self.environment))

    def resolve(self, name: str) -> ResolvedProfile:
        """Return a profile as it is in the environment; asks no server.

        Raises:
            UsageError: there is no such profile; close names are said.
        """
        found = resolving.resolve(self.config, name, self.environment)
        return found if found.ram_bytes is not None else replace(found, ram_bytes=self._ram_bytes)

    def forget(self) -> None:
        """Judge every profile again: the server or the role has changed."""
        self._taken.clear()

    def enter(self, profile: ResolvedProfile, info: psycopg.ConnectionInfo) -> Steps[Checked]:
        """Judge a profile where it has not been yet: a server does not change its mind from one block to the next."""
        version = info.server_version
        server = (profile.name, info.host, str(info.port), info.dbname, info.user, str(version))
        taken = self._taken.get(server)
        if taken is None:
            taken = self._taken[server] = yield from enter(profile, version)
        else:
            yield from enter_again(profile, version)
        return taken


class Database(_Settled):
    """A database whose transactions have profiles.

    >>> from pgscale.connect import Database                                   # doctest: +SKIP
    >>> with Database("postgresql://app@db/shop").profile("report") as conn:   # doctest: +SKIP
    ...     conn.execute("SELECT count(*) FROM orders")

    Args:
        source: a DSN, and each block opens a connection; None takes PGSCALE_DSN, DATABASE_URL or libpq's own
            variables. Or a connection, which must be in no transaction. Or what gives one for the time of a `with`:
            `pool.connection`.
        environment: `production` …; by default PGSCALE_ENVIRONMENT, else `development`.
        config: the file with profiles, or profiles; by default pgscale.toml of the working directory, if there is one.
        ram_bytes: memory of the server, where the file does not say.

    Raises:
        UsageError: the file is wrong, or there is no such environment.
    """

    def __init__(
        self,
        source: Source = None,
        *,
        environment: str | None = None,
        config: Profiles | Path | str | None = None,
        ram_bytes: int | None = None,
    ) -> None:
        super().__init__(environment, config, ram_bytes)
        self._source = source

    def profile(self, name: str) -> Block:
        """Return a block: `with db.profile("bulk_import") as connection:`.

        It is one transaction with the profile's settings, each set for it alone. Leaving the block commits, an
        exception (KeyboardInterrupt too) rolls back and goes through; either way the session is as it was.
        """
        return Block(self, name, self._source)

    def tuned(self, name: str) -> Tuned:
        """Return what runs single statements with a profile: `db.tuned("report").execute(query, params)`."""
        return Tuned(self, name)

    def check(self, name: str) -> Checked:
        """Return what a profile comes to on this server, by setting it in a transaction that is rolled back.

        Raises:
            as `with self.profile(name)`.
        """
        self.forget()
        block = self.profile(name)
        with block:
            raise psycopg.Rollback
        return block.checked


class _Block:
    def __init__(self, database: _Settled, name: str) -> None:
        self._database = database
        self._name = name
        self._checked: Checked | None = None

    @property
    def checked(self) -> Checked:
        """What the profile came to; known once the block has been entered."""
        assert self._checked is not None, "the block has been entered"
        return self._checked

    def _begin(self) -> ResolvedProfile:
        if self._checked is not None:
            raise UsageError("A block can be entered once.", hint="Call profile() for each.")
        return self._database.resolve(self._name)


class Block(_Block):
    """One transaction with a profile; made by Database.profile.

    Raises:
        UsageError: there is no such profile; the server does not know a setting, or does not take it or its value.
        PermissionDeniedError: the role may not set something.
        RefusedError: the connection is in a transaction already, this thread or task is in another block, or the
            profile is dangerous: its memory against the server's, or no timeout in production for no stated reason.
        ConnectError: no connection.
    """

    def __init__(self, database: Database, name: str, source: Source) -> None:
        super().__init__(database, name)
        self._source = source
        self._stack = ExitStack()

    def __enter__(self) -> psycopg.Connection[Any]:
        profile = self._begin()
        with ExitStack() as stack:
            stack.enter_context(Place(self._database, self._name))
            connection = stack.enter_context(connection_of(self._source, self._name))
            refuse_unfit(connection.info, self._name)
            stack.enter_context(connection.transaction())
            self._checked = drive(self._database.enter(profile, connection.info), connection)
            stack.enter_context(counted(connection, self._name, outlived=not is_opened(self._source)))
            self._stack = stack.pop_all()
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)


@dataclass(frozen=True, slots=True)
class Tuned:
    """Runs statements, each in a transaction of its own with a profile."""

    database: Database
    name: str

    def execute(self, query: Query, params: Params = None) -> Rows:
        """Run one statement and return all its rows.

        Raises:
            as Block; psycopg.Error: the server refuses the statement.
        """
        done: Rows | None = None
        with self.database.profile(self.name) as connection, connection.execute(query, params) as cursor:
            done = _rows(cursor, cursor.fetchall() if cursor.description is not None else [])
        assert done is not None, "nothing here rolls back on purpose"
        return done


class AsyncDatabase(_Settled):
    """As Database, for async connections and pools."""

    def __init__(
        self,
        source: AsyncSource = None,
        *,
        environment: str | None = None,
        config: Profiles | Path | str | None = None,
        ram_bytes: int | None = None,
    ) -> None:
        super().__init__(environment, config, ram_bytes)
        self._source = source

    def profile(self, name: str) -> AsyncBlock:
        """As Database.profile: `async with db.profile("bulk_import") as connection:`."""
        return AsyncBlock(self, name, self._source)

    def tuned(self, name: str) -> AsyncTuned:
        """As Database.tuned: `await db.tuned("report").execute(query, params)`."""
        return AsyncTuned(self, name)

    async def check(self, name: str) -> Checked:
        """As Database.check."""
        self.forget()
        block = self.profile(name)
        async with block:
            raise psycopg.Rollback
        return block.checked


class AsyncBlock(_Block):
    """As Block; made by AsyncDatabase.profile."""

    def __init__(self, database: AsyncDatabase, name: str, source: AsyncSource) -> None:
        super().__init__(database, name)
        self._source = source
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> psycopg.AsyncConnection[Any]:
        profile = self._begin()
        async with AsyncExitStack() as stack:
            stack.enter_context(Place(self._database, self._name))
            connection = await stack.enter_async_context(await async_connection_of(self._source, self._name))
            refuse_unfit(connection.info, self._name)
            await stack.enter_async_context(connection.transaction())
            self._checked = await drive_async(self._database.enter(profile, connection.info), connection)
            stack.enter_context(counted(connection, self._name, outlived=not is_opened(self._source)))
            self._stack = stack.pop_all()
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)


@dataclass(frozen=True, slots=True)
class AsyncTuned:
    """As Tuned."""

    database: AsyncDatabase
    name: str

    async def execute(self, query: Query, params: Params = None) -> Rows:
        """As Tuned.execute."""
        done: Rows | None = None
        async with self.database.profile(self.name) as connection, await connection.execute(query, params) as cursor:
            done = _rows(cursor, await cursor.fetchall() if cursor.description is not None else [])
        assert done is not None, "nothing here rolls back on purpose"
        return done
