"""What stands around a run, for each strategy beside mirror: poolers in front of the server, standbys behind it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgscale import partition
from pgscale.core.model import Progress, Watch, ignore_progress
from pgscale.embedded import Server
from pgscale.errors import RefusedError
from pgscale.partition import Options, RunResult, SplitOptions
from support import parity
from support.bouncer import Bouncer
from support.cage import run_until, split_until
from support.clients import pg_dump_schema
from support.servers import Database
from support.standby import standby_of

WAYS = ("attach", "split", "move")
ROWS = 3000

# While `slowly` has a row, each row costs whoever writes it into a new partition a millisecond.
DDL = """
CREATE TABLE slowly (i int);
CREATE FUNCTION slow(i int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
  IF current_setting('application_name') = 'pgscale/worker' AND EXISTS (SELECT FROM public.slowly) THEN
    PERFORM pg_sleep(0.001);
  END IF;
  RETURN true;
END $$;
"""
PLAIN = "CREATE TABLE t (id int PRIMARY KEY, v text CHECK (public.slow(id))) WITH (fillfactor = 10);"
PARENT = """
CREATE TABLE t (id int PRIMARY KEY, v text CHECK (public.slow(id))) PARTITION BY RANGE (id);
CREATE TABLE t_first PARTITION OF t FOR VALUES FROM (MINVALUE) TO (100000) WITH (fillfactor = 10);
CREATE TABLE t_default PARTITION OF t DEFAULT;
"""


def _make(database: Database, way: str) -> psycopg.Connection[Any]:
    conn = database.connect()
    conn.execute(DDL + (PARENT if way == "split" else PLAIN))
    conn.execute(f"INSERT INTO t SELECT g, repeat('x', 20) FROM generate_series(1, {ROWS}) g")
    return conn


def _options(way: str, **more: Any) -> Options:
    if way == "attach":
        return Options(by="range:id:100000", pace="fast", workers=1, strategy="attach", **more)
    return Options(by="hash:id", partitions=2, pace="fast", workers=1, strategy="move", **more)


def _asked(**more: Any) -> SplitOptions:
    return SplitOptions(partition="t_first", every="1000", pace="fast", workers=1, **more)


def _start(way: str, dsn: str, watch: Watch = ignore_progress, **more: Any) -> RunResult:
    if way == "split":
        return partition.split(dsn, "t", _asked(**more), watch=watch)
    return partition.run(dsn, "t", _options(way, **more), watch=watch)


def _start_until(phase: str, way: str, dsn: str) -> None:
    if way == "split":
        split_until(phase, dsn, "t", _asked())
    else:
        run_until(phase, dsn, "t", _options(way))


# --- poolers ------------------------------------------------------------------------------------------------

NEXT_PHASE = {"attach": "check", "split": "copy", "move": "move"}


def _assert_refused(pool: Bouncer, act: Callable[[], object]) -> None:
    """Refused with the way around; and whoever uses the pool next finds its sessions as they were."""
    with pytest.raises(RefusedError, match="pooler in transaction mode") as refused:
        act()
    assert "pool_mode = session" in str(refused.value)
    with psycopg.connect(pool.dsn, autocommit=True) as first, psycopg.connect(pool.dsn, autocommit=True) as second:
        for client in (first, second):
            found = client.execute(
                "SELECT current_setting('default_transaction_read_only'), current_setting('search_path'),"
                " current_user = session_user"
            ).fetchone()
            assert found == ("off", '"$user", public', True)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", WAYS)
def test_a_pooler_serves_by_session_and_is_refused_by_transaction(
    way: str, database: Database, bouncer: Callable[..., Bouncer]
) -> None:
    conn = _make(database, way)
    before = pg_dump_schema(database.dsn)
    by_session, by_transaction = bouncer(database.dsn, "session"), bouncer(database.dsn, "transaction")
    _assert_refused(by_transaction, lambda: _start(way, by_transaction.dsn))
    assert pg_dump_schema(database.dsn) == before

    _start_until(NEXT_PHASE[way], way, by_session.dsn)
    for verb in (partition.resume, partition.abort, partition.cutover):
        _assert_refused(by_transaction, lambda verb=verb: verb(by_transaction.dsn, "t"))
    assert partition.abort(by_session.dsn, "t").state == "aborted"
    assert pg_dump_schema(database.dsn) == before

    assert _start(way, by_session.dsn).state == "cut-over"
    for verb in (partition.undo, partition.finish):
        _assert_refused(by_transaction, lambda verb=verb: verb(by_transaction.dsn, "t"))
    (shown,) = partition.status(by_session.dsn, "t")
    assert shown.result.state == "cut-over"
    assert partition.undo(by_session.dsn, "t").state == "undone"
    assert pg_dump_schema(database.dsn) == before

    assert _start(way, by_session.dsn).state == "cut-over"
    assert partition.finish(by_session.dsn, "t").state == "finished"
    with database.connect_superuser() as root:
        assert parity.traces(root) == []
    assert conn.execute("SELECT count(*), count(DISTINCT id) FROM t").fetchone() == (ROWS, ROWS)


# --- standbys -----------------------------------------------------------------------------------------------


class Reader:
    """Counts the rows again and again on a standby; whatever is done to the table there are as many."""

    def __init__(self, dsn: str) -> None:
        self.counted = 0
        self.failures: list[str] = []
        self._dsn, self._end = dsn, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(30)

    def _run(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            while not self._end.is_set():
                try:
                    found = conn.execute("SELECT count(*), count(DISTINCT id) FROM t").fetchone()
                except psycopg.errors.SerializationFailure:
                    # A conflict with recovery, which whoever reads on a standby knows.
                    continue
                except psycopg.Error as error:
                    self.failures.append(f"{error.sqlstate} {error}")
                    return
                if found != (ROWS, ROWS):
                    self.failures.append(f"counted {found}")
                self.counted += 1


class Watched:
    """A run in a thread, with all that it tells."""

    def __init__(self, act: Callable[[Watch], RunResult]) -> None:
        self.moments: list[Progress] = []
        self.result: RunResult | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(act,), daemon=True)
        self._thread.start()

    def _run(self, act: Callable[[Watch], RunResult]) -> None:
        try:
            self.result = act(self.moments.append)
        except BaseException as error:  # noqa: BLE001 because it is handed to the test
            self.error = error

    def wait(self, what: str, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        until = time.monotonic() + timeout_s
        while not holds():
            assert self._thread.is_alive(), f"it ended before this: {what}: {self.error!r}"
            assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
            time.sleep(0.02)

    def is_told(self, reason: str) -> bool:
        return any(reason in moment.throttled for moment in list(self.moments))

    def end(self) -> RunResult:
        self._thread.join(90)
        assert not self._thread.is_alive(), "it does not end"
        assert self.error is None, self.error
        assert self.result is not None
        return self.result


BEHIND = "behind (--max-replica-lag 1 s)"


def _extent(conn: psycopg.Connection[Any]) -> tuple[Any, ...]:
    """How far a run is: rows in the new partitions, and what stands on the table."""
    stage = conn.execute(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'p' AND n.nspname LIKE 'pgscale\\_new\\_%'"
    ).fetchone()
    assert stage is not None
    return (
        *conn.execute(f"SELECT count(*) FROM {stage[0]}".encode()).fetchall(),
        *conn.execute("SELECT relkind FROM pg_class WHERE oid = 't'::regclass").fetchall(),
        *conn.execute("SELECT conname FROM pg_constraint WHERE conrelid = 't'::regclass ORDER BY 1").fetchall(),
    )


def _is_idle(conn: psycopg.Connection[Any]) -> bool:
    working = "SELECT FROM pg_stat_activity WHERE application_name = 'pgscale/worker' AND state <> 'idle'"
    return conn.execute(working).rowcount == 0


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", WAYS)
def test_a_standby_that_falls_behind_holds_the_work(
    way: str, private_server: Callable[..., Server], database_factory: Callable[..., Database]
) -> None:
    primary = private_server()
    database = database_factory(primary)
    with psycopg.connect(primary.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("GRANT pg_read_all_stats TO {}").format(sql.Identifier(database.owner)))
    conn = _make(database, way)
    conn.execute("INSERT INTO slowly VALUES (1)")
    with standby_of(primary) as standby, psycopg.connect(standby.dsn(), autocommit=True) as replica:
        reader = Reader(standby.dsn(database.name))
        with reader:
            # Attach has one thing to do that takes long, the proof of its CHECK: it is held before that.
            more = {"max_replica_lag_s": 1.0, "cutover": way != "attach"}
            run = Watched(lambda watch: _start(way, database.dsn, watch, **more))
            if way == "attach":
                run.wait("ready", lambda: any(m.phase == "ready" for m in list(run.moments)))
            else:
                phase = NEXT_PHASE[way]
                run.wait("rows move", lambda: any(m.phase == phase and m.done for m in list(run.moments)))
            replica.execute("SELECT pg_wal_replay_pause()")
            run.wait("held", lambda: run.is_told(BEHIND))
            ordered = Watched(lambda _: partition.cutover(database.dsn, "t")) if way == "attach" else None
            time.sleep(0.3)
            run.wait("what was under way has ended", lambda: _is_idle(conn))
            before = _extent(conn)
            assert way == "attach" or 0 < before[0][0] < ROWS
            time.sleep(1.5)
            assert _extent(conn) == before
            assert BEHIND in partition.status(database.dsn, "t")[0].note
            replica.execute("SELECT pg_wal_replay_resume()")
            conn.execute("DELETE FROM slowly")
            assert run.end().state == "cut-over"
            assert ordered is None or ordered.end().state == "cut-over"
            done = reader.counted
            run_out = time.monotonic() + 30
            while reader.counted < done + 3 and not reader.failures and time.monotonic() < run_out:
                time.sleep(0.02)
        assert not reader.failures, reader.failures[:3]
        assert reader.counted > 5
        _assert_same_on_the_standby(conn, standby, database)


def _assert_same_on_the_standby(conn: psycopg.Connection[Any], standby: Server, database: Database) -> None:
    """The standby has the table as the primary has it, in the same partitions."""
    row = conn.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert row is not None
    query = "SELECT tableoid::regclass::text, count(*), sum(id) FROM t GROUP BY 1 ORDER BY 1"
    with psycopg.connect(standby.dsn(database.name), autocommit=True) as there:
        until = time.monotonic() + 30
        while there.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [row[0]]).fetchone() != (True,):
            assert time.monotonic() < until, "the standby does not catch up"
            time.sleep(0.02)
        assert there.execute(query).fetchall() == conn.execute(query).fetchall()
