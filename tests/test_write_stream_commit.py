"""A stream that loses its connection at COMMIT: what became of the batch is looked up, and it is written once."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pgscale import write
from pgscale.embedded import Server
from pgscale.write import flowing
from pgscale.write.outcomes import Checkpoint, Incarnation, judge
from support.cutting import Cutter, How
from support.servers import Database, create_database

# Each key is there twice, and a batch that is written twice is counted twice; those with a text are bad.
ROWS: list[tuple[int, Any]] = [(n // 2, "x" if n % 400 == 7 else 1) for n in range(1_200)]
BAD = 3
TABLE = "CREATE TABLE t (id integer PRIMARY KEY, n bigint CHECK (n > 0))"
INTO: dict[str, Any] = {
    "key": ["id"], "rules": {"n": "add"}, "columns": ["id", "n"], "queue_rows": 500, "target_commit_s": 30,
    "dead_letters": write.DeadLetters(),
}  # fmt: skip


def _written(conn: psycopg.Connection[Any]) -> tuple[int, int]:
    """How many rows of the source are in the table, and how many are letters."""
    found = conn.execute(
        "SELECT COALESCE(sum(n), 0)::int, (SELECT count(*) FROM pgscale.dead_letter)::int FROM t"
    ).fetchone()
    assert found is not None
    return found[0], found[1]


def _expected(rows: int) -> tuple[int, int]:
    bad = sum(n == "x" for _, n in ROWS[:rows])
    return rows - bad, bad


def _stream(dsn: str, rows: list[Any], *, goes_on: bool, is_async: bool, **more: Any) -> write.StreamResult:
    async def run() -> write.StreamResult:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as mine:
            again = (lambda: psycopg.AsyncConnection.connect(dsn, autocommit=True)) if goes_on else None
            return await write.astream(mine, "t", rows, reconnect=again, **{**INTO, **more})

    if is_async:
        return asyncio.run(run())
    with psycopg.connect(dsn, autocommit=True) as mine:
        again = (lambda: psycopg.connect(dsn, autocommit=True)) if goes_on else None
        return write.stream(mine, "t", rows, reconnect=again, **{**INTO, **more})


@pytest.mark.parametrize(("how", "is_async"), [("before", False), ("after", False), ("after", True), ("held", False)])
def test_a_commit_that_nobody_heard_of(
    database: Database, monkeypatch: pytest.MonkeyPatch, how: How, is_async: bool
) -> None:
    monkeypatch.setattr(flowing, "NOTICES_S", 0.05)
    conn = database.connect()
    conn.execute(TABLE)
    told: list[write.Committed] = []
    with Cutter(database.dsn, how, 2) as cutter:
        result = _stream(cutter.dsn, ROWS, goes_on=True, is_async=is_async, on_commit=told.append)
        assert cutter.was_cut
    assert (result.rows, result.dead_letters, result.batches, result.reconnects) == (1_200, BAD, 3, 1)
    assert result.inserted == 600
    assert [one.rows for one in told] == [500, 1_000, 1_200]
    assert _written(conn) == _expected(1_200)

    # Without another connection to go on on it ends, and says exactly where.
    conn.execute("TRUNCATE t, pgscale.dead_letter")
    told.clear()
    with Cutter(database.dsn, how, 2) as cutter, pytest.raises(write.StreamFailedError) as raised:
        _stream(cutter.dsn, ROWS, goes_on=False, is_async=is_async, on_commit=told.append)
    committed = 1_000 if how == "after" else 500
    assert (raised.value.committed_rows, raised.value.unknown_rows) == (committed, 0)
    assert told[-1].rows == committed
    assert _written(conn) == _expected(committed)
    _stream(database.dsn, ROWS[committed:], goes_on=False, is_async=is_async)
    assert _written(conn) == _expected(1_200)


def _wait_for(conn: psycopg.Connection[Any], waits: str) -> None:
    deadline = time.monotonic() + 60
    query = "SELECT FROM pg_stat_activity WHERE wait_event_type || wait_event = %s AND application_name = 'streaming'"
    while not conn.execute(query, [waits]).fetchall():
        assert time.monotonic() < deadline, waits
        time.sleep(0.01)


def test_a_server_that_dies_in_a_commit(private_server: Callable[..., Server]) -> None:
    """Once before it is durable, so that its id is given out again, and once when it is."""
    # Nobody else writes WAL, with which that of the transaction would be durable.
    server = private_server({"fsync": "on", "wal_writer_delay": "10s", "bgwriter_delay": "10s", "autovacuum": "off"})
    database = create_database(server)
    dsn = f"{database.dsn} application_name=streaming"
    with database.connect() as conn:
        conn.execute(TABLE)
        conn.execute(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END $$;"
            "CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW WHEN (NEW.id = 300) EXECUTE FUNCTION hold()"
        )
    results: list[write.StreamResult] = []
    may_look = threading.Event()

    def again() -> psycopg.Connection[Any]:
        assert may_look.wait(60)
        return psycopg.connect(dsn, autocommit=True)

    def run() -> None:
        # Without letters: to find them, what is deferred is checked before COMMIT.
        good = [row for row in ROWS if row[1] == 1]
        with psycopg.connect(dsn, autocommit=True) as mine:
            results.append(write.stream(mine, "t", good, reconnect=again, **{**INTO, "dead_letters": None}))

    thread = threading.Thread(target=run)
    with database.connect_superuser() as admin:
        admin.execute("SELECT pg_advisory_lock(7)")
        thread.start()
        _wait_for(admin, "Lockadvisory")
        xid = admin.execute("SELECT max(backend_xid::text::int) FROM pg_stat_activity").fetchone()
        assert xid is not None
        # Every COMMIT after the restart waits for a standby that there is not, when it is durable.
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        server.stop("immediate")
    server.start()
    with database.connect_superuser(options="-c synchronous_commit=local") as admin:
        while admin.execute("SELECT pg_current_xact_id()::text::int <= %s", xid).fetchone() == (True,):
            pass
        may_look.set()
        _wait_for(admin, "IPCSyncRep")
        admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.stop("immediate")
    server.start()
    thread.join(60)
    (result,) = results
    assert (result.rows, result.inserted, result.reconnects) == (1_200 - BAD, 600, 2)
    with database.connect() as conn:
        assert conn.execute("SELECT count(*), sum(n) FROM t").fetchone() == (600, 1_200 - BAD)
    database.drop()


def test_a_server_that_stays_away(private_server: Callable[..., Server]) -> None:
    server = private_server()
    database = create_database(server)
    conn = database.connect()
    conn.execute(TABLE)

    def on_commit(done: write.Committed) -> None:
        server.stop("fast")

    with pytest.raises(write.StreamFailedError, match=r"The first 500 rows .* and none after them") as raised:
        _stream(database.dsn, ROWS, goes_on=True, is_async=False, on_commit=on_commit, retry_for_s=0.1)
    assert "57P01" in str(raised.value.__cause__)

    server.start()
    # A COMMIT after which nobody can be asked, for one reason or another.
    cases: list[tuple[Callable[[], psycopg.Connection[Any]] | None, str]] = [
        (_no_route, "t could not be written"),
        (lambda: psycopg.connect(database.dsn), "its connection is in autocommit"),
        (lambda: 1 / 0, r"no connection to go on on: ZeroDivisionError"),
    ]
    for reconnect, said in cases:
        with (
            Cutter(database.dsn, "after", 1) as cutter,
            psycopg.connect(cutter.dsn, autocommit=True) as mine,
            pytest.raises(write.StreamFailedError, match=rf"{said}.*The first 0 .* of the 500 after them") as raised,
        ):
            write.stream(mine, "t", ROWS, reconnect=reconnect, retry_for_s=0.1, **INTO)
        assert raised.value.unknown_rows == 500
    database.drop()


def _no_route() -> psycopg.Connection[Any]:
    raise psycopg.OperationalError("no route to host")


# What is made of the answers

AT = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
LATER = AT + dt.timedelta(hours=1)
BEFORE = Incarnation(system="1", timeline="00000001", started_at=AT, counting_since=AT, found_at=AT)
RESTARTED = replace(BEFORE, started_at=LATER)
# Somebody reset the statistics, or a backend crashed.
RESET = replace(BEFORE, counting_since=LATER)
PROMOTED = replace(RESTARTED, timeline="00000002")
OTHER = replace(BEFORE, system="2")


def _checkpoint(next_xid: int, *, is_last_word: bool = True, made_at: dt.datetime = LATER) -> Checkpoint:
    return Checkpoint(made_at=made_at, is_last_word=is_last_word, next_xid=next_xid)


@pytest.mark.parametrize(
    ("status", "now", "checkpoint", "verdict"),
    [
        ("committed", BEFORE, None, "committed"),
        ("aborted", BEFORE, None, "aborted"),
        ("in progress", BEFORE, None, "in progress"),
        (None, BEFORE, None, "unknown"),
        ("committed", OTHER, _checkpoint(8), "unknown"),
        ("aborted", OTHER, _checkpoint(8), "unknown"),
        ("committed", RESTARTED, _checkpoint(8), "committed"),
        # The id was given out again.
        ("committed", RESTARTED, _checkpoint(7), "aborted"),
        ("in progress", RESTARTED, _checkpoint(7), "aborted"),
        ("in the future", RESTARTED, _checkpoint(7), "aborted"),
        ("committed", RESTARTED, _checkpoint(9, is_last_word=False), "unknown"),
        ("committed", RESET, _checkpoint(8), "committed"),
        ("committed", RESET, _checkpoint(7), "aborted"),
        # The checkpoint is of before: it says nothing of a crash, and there was none, perhaps.
        ("committed", RESET, _checkpoint(7, made_at=AT), "unknown"),
        ("in progress", RESET, _checkpoint(7, made_at=AT), "in progress"),
        ("aborted", RESET, _checkpoint(7, made_at=AT), "aborted"),
        # What the standby had not heard of yet is lost, and of what it says then another one may be meant.
        ("committed", PROMOTED, _checkpoint(9), "unknown"),
        ("aborted", PROMOTED, _checkpoint(9), "aborted"),
    ],
)
def test_what_is_made_of_the_answers(
    status: str | None, now: Incarnation, checkpoint: Checkpoint | None, verdict: str
) -> None:
    assert judge(7, status, BEFORE, now, checkpoint) == verdict
