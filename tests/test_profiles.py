"""Blocks with profiles: one transaction, its settings gone with it, whatever ends it; sync and async."""

# ruff: noqa: PT012, PT031 because what raises or warns is the body of a block, and the block is a part of it

from __future__ import annotations

import asyncio
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from pgscale import write
from pgscale.connect import AsyncDatabase, Database, Entry, Profiles, RowByRowWarning, Section
from pgscale.errors import ConnectError, RefusedError, RunFailedError
from support.lifecycle import wait_until

NAMES = ("work_mem", "statement_timeout", "lock_timeout", "transaction_read_only", "transaction_isolation")
GIVEN = {
    "work_mem": "8MB",
    "statement_timeout": "77s",
    "lock_timeout": "0",
    "app.tenant": "seven",
    "transaction_isolation": "repeatable read",
}
INSIDE = ["8MB", "77s", "0", "off", "repeatable read", "seven"]


def _profiles(settings: dict[str, str], name: str = "p") -> Profiles:
    entries = {each: Entry(value=value) for each, value in settings.items()}
    return Profiles(profiles={name: Section(settings=entries)})


def _settings(connection: psycopg.Connection[Any]) -> list[str]:
    query = "SELECT coalesce(current_setting(n, true), '') FROM unnest(%s::text[]) n"
    return [row[0] for row in connection.execute(query, [[*NAMES, "app.tenant"]]).fetchall()]


def _all_settings(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Every setting but the custom one, which stays as an empty text where it was none: PostgreSQL's way."""
    found = dict(connection.execute("SELECT name, setting FROM pg_settings").fetchall())
    return {name: value for name, value in found.items() if name != "app.tenant"}


def _rows(connection: psycopg.Connection[Any]) -> list[int]:
    return [row[0] for row in connection.execute("SELECT n FROM t ORDER BY n").fetchall()]


@pytest.mark.versions(14, 18)
@pytest.mark.parametrize("autocommit", [True, False])
def test_a_block_is_one_transaction_and_its_settings_go_with_it(database, autocommit):
    connection = database.connect(autocommit=True)
    connection.execute("CREATE TABLE t (n int)")
    connection.autocommit = autocommit
    connection.execute("SET work_mem = '5MB'")
    before, factory = _all_settings(connection), connection.cursor_factory
    connection.commit()
    db = Database(connection, config=_profiles(GIVEN))

    def is_as_before() -> None:
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert _all_settings(connection) == before
        assert connection.cursor_factory is factory
        connection.commit()

    with db.profile("p") as inside:
        assert inside is connection
        assert _settings(inside) == INSIDE
        inside.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(psycopg.errors.DivisionByZero), inside.transaction():
            inside.execute("SET LOCAL work_mem = '9MB'")
            inside.execute("SELECT 1/0")
        assert _settings(inside) == INSIDE
    is_as_before()
    with pytest.raises(KeyError, match="mine"), db.profile("p") as inside:
        inside.execute("INSERT INTO t VALUES (2)")
        raise KeyError("mine")
    is_as_before()
    with pytest.raises(psycopg.errors.DivisionByZero), db.profile("p") as inside:
        inside.execute("INSERT INTO t VALUES (3)")
        inside.execute("SELECT 1/0")
    is_as_before()
    with db.profile("p") as inside:
        inside.execute("INSERT INTO t VALUES (4)")
        raise psycopg.Rollback
    is_as_before()
    assert _rows(connection) == [1]


def test_the_same_when_async(database):
    with database.connect() as connection:
        connection.execute("CREATE TABLE t (n int)")

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:

            async def settings() -> list[str]:
                query = "SELECT coalesce(current_setting(n, true), '') FROM unnest(%s::text[]) n"
                return [row[0] for row in await (await connection.execute(query, [[*NAMES, "app.tenant"]])).fetchall()]

            before = await settings()
            db = AsyncDatabase(connection, config=_profiles(GIVEN))
            async with db.profile("p") as inside:
                assert inside is connection
                assert await settings() == INSIDE
                await inside.execute("INSERT INTO t VALUES (1)")
            assert await settings() == before
            with pytest.raises(KeyError):
                async with db.profile("p") as inside:
                    await inside.execute("INSERT INTO t VALUES (2)")
                    raise KeyError
            task = asyncio.create_task(sleeping(db))
            await asyncio.sleep(0)
            while connection.info.transaction_status != psycopg.pq.TransactionStatus.ACTIVE:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await settings() == before
            with pytest.raises(RefusedError, match="open transaction"):
                async with connection.transaction(), db.profile("p"):
                    raise AssertionError
            with pytest.raises(RunFailedError, match="COMMIT"):
                async with db.profile("p") as inside:
                    await inside.execute("COMMIT")
            with pytest.warns(RowByRowWarning, match="100 rows of t "):
                async with db.profile("p") as inside:
                    for _ in range(100):
                        await inside.execute("INSERT INTO t VALUES (5)")
        own = AsyncDatabase(database.dsn, config=_profiles({"work_mem": "8MB"}))
        assert (await own.tuned("p").execute("SHOW work_mem")).rows == [("8MB",)]
        assert (await own.check("p")).settings[0].value == "8MB"

    async def sleeping(db: AsyncDatabase) -> None:
        async with db.profile("p") as inside:
            await inside.execute("INSERT INTO t VALUES (3)")
            await inside.execute("SELECT pg_sleep(60)")

    asyncio.run(run())
    with database.connect() as connection:
        assert _rows(connection) == [1] + [5] * 100


def test_ctrl_c_rolls_back_and_goes_through(database):
    connection, other = database.connect(), database.connect()
    connection.execute("CREATE TABLE t (n int)")
    before = _settings(connection)
    pid = connection.info.backend_pid

    def press() -> None:
        asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active' AND query LIKE '%%sleep%%'"
        wait_until(lambda: other.execute(asleep, [pid]).fetchone() == (1,))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt), Database(connection, config=_profiles(GIVEN)).profile("p") as inside:
        inside.execute("INSERT INTO t VALUES (1)")
        inside.execute("SELECT pg_sleep(60)")
    thread.join()
    assert _rows(connection) == []
    assert _settings(connection) == before


def test_blocks_do_not_nest(database):
    connection = database.connect(autocommit=False)
    db = Database(connection)
    connection.execute("SELECT 1")
    ran = False
    with pytest.raises(RefusedError, match=r"open transaction.*past the block"), db.profile("oltp"):
        ran = True
    connection.rollback()
    with pytest.raises(RefusedError), db.profile("oltp"), db.profile("report"):
        ran = True
    # A DSN gives the inner block another connection, which would wait for the outer one's locks for ever.
    own = Database(database.dsn)
    inside = "report cannot begin inside one of profile oltp"
    with pytest.raises(RefusedError, match=inside), own.profile("oltp"), own.profile("report"):
        ran = True
    assert not ran
    # Elsewhere there is no block open: one after the other, in other threads and in tasks that a block starts.
    seen: list[int] = []

    def elsewhere() -> None:
        with own.profile("oltp"):
            seen.append(1)

    with own.profile("oltp"):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()

    async def tasks() -> None:
        tasks_db = AsyncDatabase(database.dsn)

        async def one() -> None:
            async with tasks_db.profile("oltp"):
                seen.append(1)

        async with tasks_db.profile("oltp"):
            await asyncio.gather(one(), one())
            with pytest.raises(RefusedError, match="cannot begin inside one"):
                await one()

    asyncio.run(tasks())
    elsewhere()
    assert seen == [1] * 4
    connection.close()
    with pytest.raises(ConnectError, match="closed"), db.profile("oltp"):
        pass
    with pytest.raises(ConnectError, match="Cannot connect"), Database("host=/nowhere dbname=x").profile("oltp"):
        pass


def test_a_block_that_is_ended_inside_says_so(database):
    connection = database.connect()
    connection.execute("CREATE TABLE t (n int)")
    db = Database(connection)
    for ends in ("COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "END; BEGIN; COMMIT"):
        with pytest.raises(RunFailedError, match="ended the transaction"), db.profile("oltp") as inside:
            inside.execute(ends.encode())
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE, ends
    with db.profile("oltp") as inside:
        inside.execute("SAVEPOINT s; INSERT INTO t VALUES (1); ROLLBACK TO s; RELEASE s")
        inside.execute("SAVEPOINT s")
        inside.execute("ROLLBACK TO s")
    # What SET sets outlives a transaction; a connection that is closed after the block takes it along.
    for sets in ("SET work_mem = '7MB'", "RESET work_mem", "/* x */ SET SESSION work_mem = '7MB'", "SET ROLE NONE"):
        with pytest.raises(RunFailedError, match="would outlive the block"), db.profile("oltp") as inside:
            inside.execute(sets.encode())
        assert connection.execute("SHOW work_mem").fetchone() == ("4MB",)
    for sets in ("SET LOCAL work_mem = '7MB'", "-- x\nSET CONSTRAINTS ALL DEFERRED", "SET TRANSACTION READ ONLY"):
        with db.profile("oltp") as inside:
            inside.execute(sets.encode())
    Database(database.dsn).tuned("oltp").execute("SET work_mem = '7MB'")
    block = db.profile("oltp")
    with block:
        pass
    with pytest.raises(Exception, match="entered once"), block:
        pass


def test_rows_one_by_one_are_warned_of_once(database):
    connection = database.connect()
    connection.execute("CREATE TABLE t (n int, u int UNIQUE)")
    db = Database(connection)

    def warned(body: Callable[[psycopg.Connection[Any]], object]) -> list[warnings.WarningMessage]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with db.profile("bulk_import") as inside:
                body(inside)
        return caught

    insert = sql.SQL("/* one */ INSERT INTO t (n) VALUES (%s)")

    def singly(rows: int) -> Callable[[psycopg.Connection[Any]], object]:
        return lambda inside: [inside.execute(insert, [n]) for n in range(rows)]

    def with_pipeline(inside: psycopg.Connection[Any]) -> None:
        with inside.pipeline():
            singly(150)(inside)

    def with_much_else(inside: psycopg.Connection[Any]) -> None:
        for n in range(120):
            inside.execute("SELECT 1")
            inside.execute("SELECT 2")
            inside.execute(insert, [n])

    many = "INSERT INTO t (u) VALUES (%s) ON CONFLICT DO NOTHING"
    (caught,) = warned(singly(300))
    assert caught.category is RowByRowWarning
    assert caught.filename == __file__
    assert str(caught.message).startswith("100 rows of t were inserted one by one in a block of profile bulk_import")
    assert "pgscale.write.copy(connection, 't', rows)" in str(caught.message)
    assert len(warned(with_pipeline)) == 1
    assert len(warned(lambda c: c.cursor().executemany(many, [[n] for n in range(200)]))) == 1
    assert len(warned(lambda c: [c.cursor(row_factory=dict_row).execute(many, [1]) for _ in range(100)])) == 1
    assert warned(singly(99)) == []
    assert warned(with_much_else) == []
    assert warned(lambda c: [c.execute("INSERT INTO t VALUES (1), (2)") for _ in range(200)]) == []
    assert warned(lambda c: write.copy(c, "t", [{"n": n} for n in range(1000)])) == []
    assert warned(singly(60)) == warned(singly(60)) == []


def test_single_statements_have_a_profile_too(database):
    connection = database.connect(row_factory=dict_row)
    connection.execute("CREATE TABLE t (n int)")
    db = Database(database.dsn, config=_profiles({"work_mem": "8MB"}))
    found = db.tuned("p").execute("SELECT current_setting('work_mem') AS mem, %s::int AS n", [3])
    assert (found.rows, found.columns, found.rowcount) == ([("8MB", 3)], ("mem", "n"), 1)
    done = db.tuned("p").execute("INSERT INTO t VALUES (1), (2)")
    assert (done.rows, done.columns, done.rowcount) == ([], (), 2)
    assert Database(connection).tuned("report").execute("SELECT n FROM t").rows == [{"n": 1}, {"n": 2}]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        db.tuned("report").execute("DELETE FROM t")
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.tuned("p").execute("SELECT 1/0")
    named = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgscale/p' AND datname = current_database()"
    )
    wait_until(lambda: connection.execute(named).fetchone() == {"count": 0})


def test_a_pool_lends_its_connections(database):
    connection = database.connect(cursor_factory=psycopg.ClientCursor)
    lent: list[int] = []

    @contextmanager
    def lend() -> Iterator[psycopg.Connection[Any]]:
        lent.append(1)
        yield connection
        lent.append(2)

    db = Database(lend, config=_profiles({"work_mem": "8MB"}))
    assert db.tuned("p").execute("SHOW work_mem").rows == [("8MB",)]
    with db.profile("p") as inside:
        assert isinstance(inside.execute("SELECT %s", [1]), psycopg.ClientCursor)
    assert lent == [1, 2, 1, 2]
    assert not connection.closed


def test_a_pooler_by_transaction_takes_blocks(database, bouncer):
    pooled = bouncer(database.dsn, "transaction", {"default_pool_size": "1"}).dsn
    db = Database(pooled, config=_profiles({"work_mem": "8MB"}))
    for _ in range(2):
        with db.profile("p") as inside:
            assert inside.execute("SHOW work_mem").fetchone() == ("8MB",)
        with psycopg.connect(pooled, autocommit=True, prepare_threshold=None) as other:
            assert other.execute("SHOW work_mem").fetchone() == ("4MB",)
