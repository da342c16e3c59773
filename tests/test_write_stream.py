"""Endless sources in committed batches: their size follows the time, the source waits, conflicts are tried again."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgscale import write
from pgscale.errors import RefusedError, UsageError
from pgscale.write.pacing import FIRST_ROWS, Pacer
from support.servers import Database


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """The limit is generous: it is met only where the condition never comes."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute("CREATE TABLE t (id integer PRIMARY KEY, n bigint CHECK (n >= 0), x text)")
    return connection


def _count(conn: psycopg.Connection[Any]) -> int:
    found = conn.execute("SELECT count(*) FROM t").fetchone()
    assert found is not None
    return found[0]


# How many rows a batch has


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(1e-7, 1e-1), st.floats(0.01, 10))
def test_the_pace_is_found_and_kept(most: int, least: int, row_s: float, target_s: float) -> None:
    pacer = Pacer(target_s, most)
    for _ in range(60):
        pacer.note(pacer.rows, pacer.rows * row_s)
        assert 1 <= pacer.rows <= most
    wanted = min(max(1, target_s / row_s), most)
    assert wanted / 2 - 1 <= pacer.rows <= wanted * 2 + 1


def test_a_small_batch_says_nothing_about_a_large_one() -> None:
    pacer = Pacer(1.0, 100_000)
    pacer.note(3, 0.001)
    assert pacer.rows == FIRST_ROWS
    pacer.note(3, 30.0)
    assert pacer.rows == 1


def test_batches_grow_and_shrink(conn: psycopg.Connection[Any]) -> None:
    """A trigger that makes rows slow from a moment on makes batches smaller."""
    conn.execute(
        "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.id > 30000 THEN PERFORM pg_sleep(0.001); END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER nap BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION nap()"
    )
    seen: list[write.Committed] = []
    # So long that a slow machine's batches grow, too.
    rows = ((n, 0, "x") for n in range(31_000))
    result = write.stream(conn, "t", rows, target_commit_s=0.4, on_commit=seen.append)
    assert (result.rows, result.inserted, result.batches) == (31_000, 31_000, len(seen))
    assert [one.rows for one in seen] == list(itertools.accumulate(one.batch_rows for one in seen))
    assert max(one.batch_rows for one in seen) >= 4 * FIRST_ROWS
    assert seen[-1].next_rows <= max(one.batch_rows for one in seen) / 2


# The source waits


def test_the_source_is_no_further_ahead_than_the_queue(conn: psycopg.Connection[Any]) -> None:
    ahead: list[int] = []
    pulled = committed = 0

    def rows() -> Iterator[tuple[Any, ...]]:
        nonlocal pulled
        for n in range(5_000):
            pulled += 1
            yield (n, 0, "x")

    def on_commit(done: write.Committed) -> None:
        nonlocal committed
        wait_until(lambda: pulled >= min(5_000, done.rows + 100), "the source reads ahead")
        ahead.append(pulled - committed)
        committed = done.rows

    result = write.stream(conn, "t", rows(), queue_rows=100, on_commit=on_commit)
    assert result.rows == _count(conn) == 5_000
    assert max(one for one in ahead) <= 100 + 100 + 1


def test_what_came_is_committed_though_the_source_pauses(conn: psycopg.Connection[Any], database: Database) -> None:
    other = database.connect()

    def rows() -> Iterator[tuple[Any, ...]]:
        for n in range(10):
            yield (n, 0, "x")
        wait_until(lambda: _count(other) == 10, "the rows before the pause are committed")
        yield (10, 0, "x")

    async def arows() -> AsyncIterator[tuple[Any, ...]]:
        for n in range(20, 30):
            yield (n, 0, "x")
        deadline = time.monotonic() + 60
        while _count(other) != 21:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        yield (30, 0, "x")

    async def run() -> write.StreamResult:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            return await write.astream(connection, "t", arows(), target_commit_s=0.05)

    assert write.stream(conn, "t", rows(), target_commit_s=0.05).batches >= 2
    assert asyncio.run(run()).batches >= 2
    assert _count(conn) == 22


# Conflicts


def _conflict(kind: str, database: Database, meanwhile: Any) -> None:
    """Hold row 2 until a batch that has row 1 waits for it; then get in its way."""
    with database.connect_superuser(autocommit=False) as other:
        # The other one must not be the victim: it looks for a deadlock when the batch has long done so.
        other.execute("SET deadlock_timeout TO '60s'; UPDATE t SET n = n + 100 WHERE id = 2")
        thread = threading.Thread(target=meanwhile)
        thread.start()
        blocked = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        with database.connect_superuser() as looking:
            wait_until(lambda: looking.execute(blocked).fetchone() == (1,), "the batch waits")
        if kind == "deadlock":
            other.execute("UPDATE t SET n = n + 100 WHERE id = 1")
        other.commit()
        thread.join()


@pytest.mark.sampled(2)
@pytest.mark.versions(15, 16, 18)
@pytest.mark.parametrize("kind", ["deadlock", "serialization"])
def test_a_batch_that_meets_another_transaction_is_tried_again(
    conn: psycopg.Connection[Any], database: Database, kind: str
) -> None:
    conn.execute("INSERT INTO t VALUES (1, 0, ''), (2, 0, '')")
    database.connect_superuser().execute(f"ALTER ROLE {database.owner} SET deadlock_timeout TO '2s'".encode())
    rows = [(1, 1, "a"), (2, 1, "b"), (3, 1, "c"), (4, -1, "d")]
    results: list[write.StreamResult] = []

    def run_sync() -> None:
        with psycopg.connect(database.dsn, autocommit=True) as mine:
            if kind == "serialization":
                mine.execute("SET default_transaction_isolation TO 'repeatable read'")
            results.append(
                write.stream(mine, "t", rows, key=["id"], rules={"n": "add"}, dead_letters=write.DeadLetters())
            )

    async def run_async() -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as mine:
            if kind == "serialization":
                await mine.execute("SET default_transaction_isolation TO 'repeatable read'")
            results.append(
                await write.astream(mine, "t", rows, key=["id"], rules={"n": "add"}, dead_letters=write.DeadLetters())
            )

    for meanwhile in (run_sync, lambda: asyncio.run(run_async())):
        _conflict(kind, database, meanwhile)
    for result, (inserted, updated) in zip(results, [(1, 2), (0, 3)], strict=True):
        assert (result.rows, result.inserted, result.updated, result.dead_letters) == (4, inserted, updated, 1)
        assert result.retries >= 1
    first = 202 if kind == "deadlock" else 2
    assert conn.execute("SELECT id, n FROM t ORDER BY id").fetchall() == [(1, first), (2, 202), (3, 2)]
    assert conn.execute("SELECT row_index FROM pgscale.dead_letter").fetchall() == [(3,), (3,)]


def test_it_gives_up_in_the_end(conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.id >= 600 THEN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER never BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION never()"
    )
    with pytest.raises(write.StreamFailedError, match=r"40001|again") as raised:
        write.stream(conn, "t", ((n, 0, "") for n in range(1_000)), retry_for_s=0.2, queue_rows=500)
    assert (raised.value.committed_rows, raised.value.unknown_rows, _count(conn)) == (500, 0, 500)


# What fails


def test_a_failure_says_what_is_committed(conn: psycopg.Connection[Any], database: Database) -> None:
    def rows(bad: Any) -> Iterator[Any]:
        yield from ((n, 0, "x") for n in range(1_200))
        if isinstance(bad, Exception):
            raise bad
        yield bad

    cases: list[tuple[Any, int, int | None, str]] = [
        ((1_200, "x", "y"), 1_000, 1_200, "Row 1200, column n: str where an integer is wanted"),
        ((1_200, -1, "y"), 1_000, 1_200, "Row 1200: new row for relation"),
        (RuntimeError("it broke"), 1_200, None, "The source failed: RuntimeError: it broke."),
    ]
    for bad, committed, row, said in cases:
        conn.execute("TRUNCATE t")
        with pytest.raises(write.StreamFailedError) as raised:
            write.stream(conn, "t", rows(bad), queue_rows=500)
        assert said in str(raised.value)
        assert f"The first {committed:,} rows of the source are committed, and none after them." in str(raised.value)
        assert (raised.value.committed_rows, raised.value.row, _count(conn)) == (committed, row, committed)

    # A batch that begins with other names is as wrong as a row that has them.
    conn.execute("TRUNCATE t")
    named = [{"id": n, "n": 0, "x": ""} if n < 500 else {"id": n, "n": 0} for n in range(600)]
    with pytest.raises(write.StreamFailedError, match="Row 500: no value for x") as raised:
        write.stream(conn, "t", named, queue_rows=500)
    assert (raised.value.committed_rows, _count(conn)) == (500, 500)

    def dropping() -> Iterator[Any]:
        yield from ((n, 0, "x") for n in range(500))
        wait_until(lambda: _count(other) == 500, "the first batch is committed")
        other.execute("DROP TABLE t")
        yield (500, 0, "x")

    other = database.connect()
    conn.execute("TRUNCATE t")
    with pytest.raises(write.StreamFailedError, match="There is no table t") as raised:
        write.stream(conn, "t", dropping(), queue_rows=500)
    assert raised.value.committed_rows == 500


def test_a_connection_that_is_lost(conn: psycopg.Connection[Any], database: Database) -> None:
    def rows() -> Iterator[Any]:
        yield from ((n, 0, "x") for n in range(700))
        wait_until(lambda: _count(conn) == 500, "the first batch is committed")
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'mine'")
        yield (700, 0, "x")

    with (
        psycopg.connect(database.dsn, autocommit=True, application_name="mine") as mine,
        pytest.raises(
            write.StreamFailedError, match=r"The first 500 rows .* are committed, and none after them"
        ) as raised,
    ):
        write.stream(mine, "t", rows(), queue_rows=500, target_commit_s=30)
    # It was not lost at a COMMIT.
    assert (raised.value.committed_rows, raised.value.unknown_rows, _count(conn)) == (500, 0, 500)


def test_what_is_refused(conn: psycopg.Connection[Any], database: Database) -> None:
    inside = database.connect(autocommit=False)
    with pytest.raises(UsageError, match="in autocommit and in no transaction"):
        write.stream(inside, "t", [(1, 1, "")])
    with conn.transaction(), pytest.raises(UsageError, match="in autocommit"):
        write.stream(conn, "t", [(1, 1, "")])
    for options, said in (({"target_commit_s": 0}, "above 0"), ({"queue_rows": 0}, "at least 1"),
                          ({"rules": {"n": "add"}}, "takes a key")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            write.stream(conn, "t", [(1, 1, "")], **options)
    with pytest.raises(RefusedError, match="no table nothing"):
        write.stream(conn, "nothing", [(1,)])
    assert write.stream(conn, "t", []) == write.StreamResult(
        rows=0, inserted=0, updated=0, dead_letters=0, batches=0, retries=0
    )
    assert _count(conn) == 0


def test_letters_have_their_index_in_the_stream(conn: psycopg.Connection[Any], database: Database) -> None:
    """And the columns are those of the first rows, whatever a later batch begins with."""
    bad = {3: {"n": -1}, 700: {"x": 5}, 1_000: {"more": 1}}
    rows = [{"id": n, "n": 0, "x": ""} | bad.get(n, {}) for n in range(1_500)]

    async def run() -> write.StreamResult:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            return await write.astream(connection, "t", rows, dead_letters=write.DeadLetters(), queue_rows=500)

    result = write.stream(conn, "t", rows, dead_letters=write.DeadLetters(), queue_rows=500)
    assert (result.rows, result.inserted, result.dead_letters, result.batches) == (1_500, 1_497, 3, 3)
    conn.execute("TRUNCATE t")
    assert asyncio.run(run()) == result
    assert (
        conn.execute("SELECT row_index FROM pgscale.dead_letter ORDER BY id").fetchall() == [(3,), (700,), (1_000,)] * 2
    )
    ids = {row[0] for row in conn.execute("SELECT id FROM t")}
    assert ids == set(range(1_500)) - set(bad)
