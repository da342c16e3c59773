"""Events, tables and settings that would stop a drainer for ever, kill it, or have it land garbage."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgscale import write
from pgscale.errors import UsageError
from pgscale.write import RowError, upserting
from pgscale.write.buffer import Buffer, BufferFailedError, Drainer, Merge, SpoolLog, draining, records
from pgscale.write.buffer.records import RecordEncoder, parse
from pgscale.write.buffer.status import status
from pgscale.write.failures import WriteFailedError


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def conn(database) -> Iterator[psycopg.Connection[Any]]:
    with database.connect() as connection:
        connection.execute("CREATE TABLE event (n bigint, k integer, doc jsonb, seq bigserial)")
        yield connection


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "FIRST_RETRY_S", 0.01)


def _drain(dsn: str, spool: Path, **options: Any) -> Any:
    with SpoolLog(spool) as log:
        return Drainer(log, **options).run(dsn, until_empty=True)


def _landed(conn: psycopg.Connection[Any]) -> list[int]:
    return [n for (n,) in conn.execute("SELECT n FROM event ORDER BY seq")]


def _letters(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute("SELECT reason, row FROM pgscale.dead_letter ORDER BY id").fetchall()


def _wait(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until, "it never became so"
        time.sleep(0.01)


class Foreign:
    """No value that could be stored."""


def test_what_would_not_come_back_is_not_acknowledged(spool) -> None:
    with Buffer("public.event", path=spool) as buffer:
        for value in (Foreign(), [Foreign()], {"a": (1, Foreign())}):
            with pytest.raises(RowError, match="would not come back"):
                buffer.put({"n": value})
        assert buffer.log.backlog({}).events == 0


def test_what_cannot_be_read_is_a_dead_letter(database, conn, spool, monkeypatch) -> None:
    """As another version may have written it, or JSON that is nested deeper than here it can be read."""
    deep: Any = []
    for _ in range(930):
        deep = [deep]
    with Buffer("public.event", path=spool) as buffer:
        buffer.put({"n": 1})
        with monkeypatch.context() as patch:
            patch.setattr(records, "_tagged", records.to_json)
            buffer.put({"n": 2, "doc": Foreign()})
            patch.setitem(records._PIECES, dt.date, ("z", '"{{{v}.isoformat()}}"'))
            buffer.put({"n": 3, "doc": dt.date(2026, 1, 1)})
        buffer.put({"n": 4, "doc": deep})
        buffer.put({"n": 5, "doc": Jsonb({"a": 1})})
    drained = _drain(database.dsn, spool)
    assert (drained.events + drained.dead, drained.retries) == (5, 0)
    assert {1, 5} <= set(_landed(conn)) <= {1, 4, 5}
    reasons = [reason for reason, _ in _letters(conn)]
    assert len(reasons) == drained.dead >= 2
    assert "NotRestorableError" in reasons[0]
    assert "KeyError" in reasons[1]
    # What a letter cannot hold is in it as it stands in the log.
    kept = json.dumps([row for _, row in _letters(conn)])
    assert 4 in _landed(conn) or "[" * 900 in kept


def test_thousands_of_bad_events_in_a_batch(database, conn, spool) -> None:
    """As after a column was given another type: found at once, and not each by another attempt."""
    with Buffer("public.event", path=spool, key="k") as buffer:
        buffer.put_many({"n": n if n % 100 == 0 else f"n{n}", "k": 1} for n in range(2_500))
    drained = _drain(database.dsn, spool)
    assert (drained.events, drained.dead) == (25, 2_475)
    assert _landed(conn) == [*range(0, 2_500, 100)]


def test_a_batch_that_takes_too_long_becomes_smaller(database, conn, spool, monkeypatch) -> None:
    conn.execute(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;"
        "CREATE TRIGGER slow BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    monkeypatch.setattr(draining, "_SETTINGS", b"SET statement_timeout = '150ms'")
    with Buffer("public.event", path=spool, key="k") as buffer:
        buffer.put_many({"n": n, "k": 1} for n in range(20))
    drained = _drain(database.dsn, spool)
    assert drained.events == 20
    assert drained.retries >= 2
    assert _landed(conn) == [*range(20)]


RAISE = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN IF {} THEN RAISE 'not you' USING ERRCODE = 'MY001'; END IF; RETURN NEW; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON event FOR EACH ROW EXECUTE FUNCTION refuse()"""


def test_what_a_trigger_raises_is_the_events_fault_whatever_it_raises(database, conn, spool) -> None:
    conn.execute(RAISE.format("NEW.n = 3"))
    with Buffer("public.event", path=spool, key="k") as buffer:
        buffer.put_many({"n": n, "k": 1} for n in range(6))
    drained = _drain(database.dsn, spool, deliveries=2)
    assert (drained.events, drained.dead, drained.retries) == (5, 1, 1)
    assert _landed(conn) == [0, 1, 2, 4, 5]


def test_an_event_that_fits_at_first_and_then_not(conn, spool) -> None:
    """What is held is held by what is written last: here an earlier event is refused at its third attempt."""
    conn.execute("CREATE SEQUENCE met")
    conn.execute(RAISE.format("NEW.n = 5 OR (NEW.n = 2 AND nextval('met') > 2)"))
    with Buffer("public.event", path=spool, key="k") as buffer:
        buffer.put_many({"n": n, "k": 1} for n in range(8))
    with SpoolLog(spool) as log:
        landed = Drainer(log).drain_once(conn)
    assert (landed.events, landed.held) == (2, True)
    assert _landed(conn) == [0, 1]


def test_an_error_that_the_database_cannot_keep(database, conn, spool) -> None:
    with Buffer("public.event", path=spool) as buffer:
        buffer.put_many([{"n": 1}, {"n": 2, "a\0b\u00e9": 1}, {"n": 3}])
    drained = _drain(database.dsn, spool, deliveries=2)
    assert (drained.events, drained.dead) == (2, 1)
    ((_, row),) = _letters(conn)
    assert r"a\\x00b\\xe9" in json.dumps(row), "its name is kept"


def test_merging_events_that_lack_columns(database, conn, spool) -> None:
    conn.execute("CREATE TABLE page (url text PRIMARY KEY, views bigint, title text)")
    merge = Merge(key=("url",), rules={"views": "add", "title": "coalesce"})
    with Buffer("public.page", path=spool, key="url", merge=merge) as buffer:
        buffer.put_many([{"url": "/a", "views": 1}, {"url": "/a", "title": "A"}, {"url": "/a", "views": 2}])
        with pytest.raises(RowError, match="column url: the key"):
            buffer.put({"views": 1})
    with Buffer("public.page", path=spool.with_name("other"), merge=merge) as buffer:
        with pytest.raises(RowError, match="Row 1, column url: the key to merge by"):
            buffer.put_many([{"url": "/b", "views": 1}, {"views": 1}])
        # As an earlier version took it.
        buffer._encoder = RecordEncoder((), 8)
        buffer.put_many([{"url": "/b", "views": 1}, {"views": 1}])
    assert _drain(database.dsn, spool).events == 3
    drained = _drain(database.dsn, spool.with_name("other"))
    assert (drained.events, drained.dead) == (1, 1)
    assert conn.execute("TABLE page ORDER BY url").fetchall() == [("/a", 3, "A"), ("/b", 1, None)]


def test_an_event_has_all_its_deliveries(conn, spool) -> None:
    """Those of an event of another lane are not its own."""
    conn.execute(
        "CREATE TABLE parent (id integer PRIMARY KEY); ALTER TABLE event ADD FOREIGN KEY (k) REFERENCES parent"
    )
    lane = {RecordEncoder(("k",), 2)._lane({"k": k}, 0): k for k in range(10)}
    with Buffer("public.event", path=spool, key="k", lanes=2) as buffer:
        buffer.put_many([{"n": 0, "k": lane[0]}, {"n": 1, "k": lane[1]}])
    with SpoolLog(spool) as log, psycopg.connect(conn.info.dsn, password=conn.info.password) as other:
        drainer = Drainer(log, deliveries=3)
        for _ in range(2):
            assert drainer.drain_once(conn).held
        # Somebody else works on the first lane.
        other.execute("SELECT FROM pgscale.buffer_lane WHERE lane = 0 FOR UPDATE")
        results = [drainer.drain_once(conn) for _ in range(3)]
        assert [(r.lanes, r.dead, r.held) for r in results] == [(1, 0, True), (1, 0, True), (1, 1, False)]
        other.rollback()
        assert drainer.drain_once(conn).dead == 1
    assert [row["n"] for _, row in _letters(conn)] == [1, 0]


def test_keys_that_are_equal_are_in_one_lane() -> None:
    encoder = RecordEncoder(("k",), 1_000)
    zone = dt.timezone(dt.timedelta(hours=2))
    for same in (
        (1, 1.0, Decimal("1.00"), True),
        (0, -0.0, Decimal("0E+5")),
        (10**20, 1e20, Decimal(10) ** 20),
        (dt.datetime(2026, 1, 1, 2, tzinfo=zone), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
        (b"a", bytearray(b"a")),
        (float("nan"), Decimal("NaN")),
    ):
        lanes = {parse(encoder.encode({"k": value}), check=True)[0][0] for value in same}
        assert len(lanes) == 1, same
    assert len({encoder._lane({"k": k}, 0) for k in range(200)}) > 100


def test_a_commit_waits_for_the_disk_whatever_the_login_says(database, conn, spool) -> None:
    """What is landed is removed from the buffer: a crash of the server must not take it back."""
    conn.execute("ALTER TABLE event ADD mode text DEFAULT current_setting('synchronous_commit')")
    conn.execute(f"ALTER DATABASE {database.name} SET synchronous_commit = off".encode())
    with Buffer("public.event", path=spool) as buffer:
        buffer.put({"n": 1})
        assert _drain(database.dsn, spool).events == 1
        conn.execute("SET synchronous_commit = local")
        buffer.put({"n": 2})
        with SpoolLog(spool) as log:
            Drainer(log).drain_once(conn)
    assert conn.execute("SELECT n, mode FROM event ORDER BY n").fetchall() == [(1, "on"), (2, "local")]


def test_a_drainer_wants_to_commit_itself(database, spool) -> None:
    """In a transaction of the caller's the log would be emptied before anybody commits."""
    with Buffer("public.event", path=spool) as buffer:
        buffer.put({"n": 1})
    with SpoolLog(spool) as log, database.connect(autocommit=False) as lazy:
        with pytest.raises(UsageError, match="in autocommit"):
            Drainer(log).drain_once(lazy)

        async def work() -> None:
            async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
                await Drainer(log).adrain_once(connection)

        with pytest.raises(UsageError, match="in autocommit"):
            asyncio.run(work())


def _altered_meanwhile(database: Any, write_rows: Callable[[], object]) -> None:
    """Write while somebody alters the table: the COPY waits for a COMMIT that gives n another type, of equal size."""
    told: list[BaseException] = []

    def work() -> None:
        try:
            write_rows()
        except WriteFailedError as error:
            told.append(error)

    with database.connect(autocommit=False) as other, database.connect() as watch:
        other.execute("ALTER TABLE event ALTER n TYPE double precision")
        thread = threading.Thread(target=work)
        thread.start()
        blocked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pg_blocking_pids(pid) = ARRAY[%s::int])"
        _wait(lambda: watch.execute(blocked, [other.info.backend_pid]).fetchone() == (True,))
        other.commit()
        thread.join(60)
    assert "was given another type" in str(told[0])


def test_a_table_that_is_altered_meanwhile_gets_no_garbage(database, conn, spool) -> None:
    with Buffer("public.event", path=spool) as buffer:
        buffer.put_many({"n": n} for n in range(1, 4))
    with SpoolLog(spool) as log, database.connect() as mine:
        drainer = Drainer(log)
        _altered_meanwhile(database, lambda: drainer.drain_once(mine))
        assert drainer.drain_once(mine).events == 3
    assert _landed(conn) == [1.0, 2.0, 3.0]
    conn.execute("ALTER TABLE event ALTER n TYPE bigint")
    with database.connect() as mine:
        _altered_meanwhile(database, lambda: write.copy(mine, "event", [(n,) for n in range(3)], ["n"]))
    conn.execute("ALTER TABLE event ALTER n TYPE bigint")
    with database.connect() as mine:
        letters = write.DeadLetters()
        _altered_meanwhile(database, lambda: write.copy(mine, "event", [(n,) for n in range(3)], ["n"], letters))
    assert conn.execute("SELECT count(*) FROM event").fetchone() == (3,)


def test_staging_follows_the_table(conn, monkeypatch) -> None:
    monkeypatch.setattr(upserting, "MOST_UNNESTED_ROWS", 0)
    conn.execute("CREATE TABLE p (k integer PRIMARY KEY, v bigint)")
    write.upsert(conn, "p", [(1, 7)], ["k"])
    conn.execute("ALTER TABLE p ALTER v TYPE double precision")
    write.upsert(conn, "p", [(1, 0.5), (2, 1.5)], ["k"])
    assert conn.execute("TABLE p ORDER BY k").fetchall() == [(1, 0.5), (2, 1.5)]


def test_a_database_that_forgets_is_asked_again(database, conn, spool, monkeypatch) -> None:
    """Restored or made anew under a drainer that has nothing to do: it lands what that one does not know."""
    monkeypatch.setattr(draining, "LOOK_AGAIN_S", 0.01)
    with Buffer("public.event", path=spool) as buffer:
        buffer.put_many({"n": n} for n in range(10))
    stop = threading.Event()
    with SpoolLog(spool) as log:
        thread = threading.Thread(target=Drainer(log).run, args=(database.dsn, stop))
        thread.start()
        try:
            for forget in (
                "UPDATE pgscale.buffer_lane SET position = (SELECT min(position) FROM before)",
                "DELETE FROM pgscale.buffer_lane",
                "DROP SCHEMA pgscale CASCADE",
            ):
                _wait(lambda: len(_landed(conn)) == 10)
                conn.execute("CREATE TABLE IF NOT EXISTS before AS SELECT 18446744073709551616 AS position")
                conn.execute(f"TRUNCATE event; {forget}".encode())
            _wait(lambda: len(_landed(conn)) == 10)
        finally:
            stop.set()
            thread.join(30)


def test_trouble_that_is_over_is_not_told_for_ever(database, conn, spool, monkeypatch) -> None:
    with Buffer("public.event", path=spool) as buffer:
        buffer.put({"n": 1})
    _drain(database.dsn, spool)
    stop = threading.Event()
    with SpoolLog(spool) as log:
        real, told = log.has_events, []

        def failing(positions: Any) -> bool:
            if not told:
                told.append(1)
                raise BufferFailedError("the disk is gone")
            if status(log, conn).last_error:
                told.append(2)
            return real(positions)

        monkeypatch.setattr(log, "has_events", failing)
        thread = threading.Thread(target=Drainer(log).run, args=(database.dsn, stop))
        thread.start()
        try:
            _wait(lambda: 2 in told and not status(log, conn).last_error)
        finally:
            stop.set()
            thread.join(30)


def test_a_server_that_vanishes_is_missed_soon(database) -> None:
    found = draining._options(database.dsn)
    assert (found["keepalives_idle"], found["tcp_user_timeout"]) == (10, 30_000)
    assert "keepalives_idle" not in draining._options("host=x keepalives_idle=99")
