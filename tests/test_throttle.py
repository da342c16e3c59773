"""What a run holds back for, each cause made on a real server; and how its pace follows what commits cost."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.embedded import Server
from pgscale.livecopy.sampler import HoldLimits, ReplayClock, Sampler
from pgscale.livecopy.throttle import PACES, Pressure, Throttle
from pgscale.livecopy.work import Telling, Work
from pgscale.partition import Options, RunResult, copying, running
from support.servers import Database, current_root
from support.standby import standby_of, wal_receiver_of

ROWS = 6000
FAST = Options(by="hash:id", partitions=2, pace="fast", workers=1)
MB = 1024**2
# What cannot be meant when only one cause is under test.
NEVER = HoldLimits(replica_lag_s=1e9, slot_retained_bytes=1e18, oldest_xmin_age=2**31, free_disk_bytes=0)
UNTIL_S = 20.0

PrivateServer = Callable[..., Server]
DatabaseFactory = Callable[..., Database]


def _wait(what: str, holds: Callable[[], bool], timeout_s: float = UNTIL_S) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def _slow_table(database: Database) -> psycopg.Connection[Any]:
    """A table whose every row costs the copying some milliseconds, for as long as `slowly` has a row."""
    conn = database.connect()
    conn.execute("CREATE TABLE slowly AS SELECT 1 AS i")
    conn.execute("""
        CREATE FUNCTION slow(i int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
          IF current_setting('application_name') = 'pgscale/worker' AND EXISTS (SELECT FROM public.slowly) THEN
            PERFORM pg_sleep(0.001);
          END IF;
          RETURN true;
        END $$""")
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, v text CHECK (public.slow(id))) WITH (fillfactor = 10)")
    conn.execute(f"INSERT INTO t SELECT g, 'x' FROM generate_series(1, {ROWS}) g")
    conn.execute("CREATE TABLE t_twin AS TABLE t")
    return conn


class WatchedRun:
    """A run in a thread, and every moment it told; the slow table's run is in the middle of copying."""

    def __init__(self, dsn: str, options: Options) -> None:
        self.dsn = dsn
        self.moments: list[Progress] = []
        self.result: RunResult | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(options,), daemon=True)
        self._thread.start()
        _wait("the copy is under way", self._copies)

    def _run(self, options: Options) -> None:
        try:
            self.result = partition.run(self.dsn, "t", options, watch=self.moments.append)
        except BaseException as error:  # noqa: BLE001 because it is handed to the test
            self.error = error

    def _copies(self) -> bool:
        assert self._thread.is_alive(), self.error
        return any(m.phase == "copy" and m.done for m in list(self.moments))

    def reasons(self) -> list[str]:
        return [m.throttled for m in list(self.moments) if m.throttled]

    def until_throttled(self, reason: str) -> None:
        """Return when the reason is told; it must be while rows are left to copy."""
        _wait(f"told: {reason}; {self.error}", lambda: any(reason in said for said in self.reasons()))
        assert self.moments[-1].phase == "copy"

    def _copied(self) -> tuple[int, int]:
        """Pages by the ledger, and rows that are in the copy."""
        status = partition.status(self.dsn, "t")[0]
        with psycopg.connect(self.dsn) as conn:
            found = conn.execute(
                "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE c.relkind = 'p' AND n.nspname LIKE 'pgscale%'"
            ).fetchone()
            assert found is not None
            row = conn.execute(f"SELECT count(*) FROM {found[0]}".encode()).fetchone()
            assert row is not None
            return status.pages_copied, int(row[0])

    def _is_idle(self) -> bool:
        with psycopg.connect(self.dsn) as conn:
            working = "SELECT FROM pg_stat_activity WHERE application_name = 'pgscale/worker' AND state <> 'idle'"
            return conn.execute(working).rowcount == 0

    def assert_still(self, reason: str) -> None:
        """Nothing is copied while the run is held, and everybody is told why."""
        time.sleep(0.2)
        _wait("the chunk that was under way has ended", self._is_idle)
        before, told = self._copied(), len(self.moments)
        assert 0 < before[1] < ROWS
        time.sleep(1.3)
        assert self._copied() == before
        while_held = self.moments[told:]
        assert while_held, "nothing is told while it is held"
        assert all(reason in moment.throttled and not moment.rate for moment in while_held)
        assert reason in partition.status(self.dsn, "t")[0].note

    def finish(self, conn: psycopg.Connection[Any]) -> None:
        """With the cause gone it goes on by itself, to a whole table."""
        conn.execute("DELETE FROM slowly")
        self._thread.join(UNTIL_S)
        assert not self._thread.is_alive(), self.reasons()[-1:]
        assert self.error is None, self.error
        assert self.result is not None
        assert self.result.state == "cut-over"
        differ = conn.execute(
            "SELECT count(*) FROM ((TABLE t EXCEPT ALL TABLE t_twin) UNION ALL (TABLE t_twin EXCEPT ALL TABLE t)) d"
        ).fetchone()
        assert differ == (0,)
        assert conn.execute("SELECT relkind::text FROM pg_class WHERE oid = 't'::regclass").fetchone() == ("p",)


def _limit(monkeypatch: pytest.MonkeyPatch, **limits: float) -> None:
    """Give the runs of this test other limits than the built-in ones."""
    monkeypatch.setattr(copying, "HoldLimits", functools.partial(HoldLimits, **limits))


@contextmanager
def _sampling(
    database: Database, limits: HoldLimits, dsn: str | None = None, throttle: Throttle | None = None
) -> Iterator[tuple[Throttle, list[Progress]]]:
    """A sampler of the owner's table `t` without a run: the throttle it steers, and what it tells."""
    with psycopg.connect(database.dsn) as conn:
        row = conn.execute("SELECT 't'::regclass::oid::int8").fetchone()
    assert row is not None
    moments: list[Progress] = []
    work = Work(
        dsn=dsn or database.dsn,
        role=database.owner,
        oid=row[0],
        run_id=0,
        stop=threading.Event(),
        throttle=throttle or Throttle("fast", 0.25),
        tell=Telling(moments.append, "public.t"),
        table="public.t",
    )
    with Sampler(work, limits):
        yield work.throttle, moments


def _on_private_server(
    private_server: PrivateServer, database_factory: DatabaseFactory, *grants: str
) -> tuple[Server, Database]:
    server = private_server()
    database = database_factory(server)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        for grant in grants:
            admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(grant), sql.Identifier(database.owner)))
    return server, database


# -- standbys -------------------------------------------------------------------------------------------


def test_a_paused_standby_holds_the_run(private_server: PrivateServer, database_factory: DatabaseFactory) -> None:
    primary, database = _on_private_server(private_server, database_factory, "pg_read_all_stats")
    conn = _slow_table(database)
    with standby_of(primary) as standby, psycopg.connect(standby.dsn(), autocommit=True) as replica:
        run = WatchedRun(database.dsn, replace(FAST, max_replica_lag_s=1.0))
        replica.execute("SELECT pg_wal_replay_pause()")
        run.until_throttled("behind (--max-replica-lag 1 s)")
        assert "standby 'walreceiver'" in run.reasons()[-1]
        run.assert_still("behind (--max-replica-lag 1 s)")
        replica.execute("SELECT pg_wal_replay_resume()")
        run.finish(conn)


def test_a_standby_that_no_longer_answers_holds_the_run(
    private_server: PrivateServer, database_factory: DatabaseFactory
) -> None:
    """The server's own replay_lag keeps its last small value then."""
    primary, database = _on_private_server(private_server, database_factory, "pg_read_all_stats")
    conn = _slow_table(database)
    with standby_of(primary) as standby, psycopg.connect(standby.dsn(), autocommit=True) as replica:
        row = replica.execute("SELECT pid FROM pg_stat_wal_receiver").fetchone()
        assert row is not None
        run = WatchedRun(database.dsn, replace(FAST, max_replica_lag_s=1.0))
        os.kill(row[0], signal.SIGSTOP)
        try:
            run.until_throttled("behind (--max-replica-lag 1 s)")
            run.assert_still("behind (--max-replica-lag 1 s)")
            with psycopg.connect(primary.dsn()) as admin:
                lag = admin.execute("SELECT COALESCE(replay_lag, '0') < '1 s' FROM pg_stat_replication").fetchone()
            assert lag == (True,), "the server saw it by itself; the test shows nothing"
        finally:
            os.kill(row[0], signal.SIGCONT)
        run.finish(conn)


def test_lag_that_the_login_may_not_see_is_said_and_not_pretended(
    private_server: PrivateServer, database_factory: DatabaseFactory
) -> None:
    primary, database = _on_private_server(private_server, database_factory)
    conn = _slow_table(database)
    with standby_of(primary) as standby, psycopg.connect(standby.dsn(), autocommit=True) as replica:
        replica.execute("SELECT pg_wal_replay_pause()")
        run = WatchedRun(database.dsn, replace(FAST, max_replica_lag_s=0.001))
        time.sleep(1.5)
        run.finish(conn)
        assert not run.reasons()
        told = [m.note for m in run.moments if "not checked" in m.note]
        assert len(told) == 1
        assert "replica lag" in told[0]
        assert "pg_read_all_stats" in told[0]


def test_the_plan_says_that_lag_cannot_be_seen(database: Database) -> None:
    database.connect().execute("CREATE TABLE t (id int PRIMARY KEY)")
    for dsn, is_said in ((database.dsn, True), (database.superuser_dsn, False)):
        warnings = partition.plan(dsn, "t", FAST).to_json()["warnings"]
        assert isinstance(warnings, list)
        assert any("replica lag" in str(warning) for warning in warnings) is is_said


def test_an_administrator_sees_the_lag_that_the_owner_may_not(
    private_server: PrivateServer, database_factory: DatabaseFactory
) -> None:
    primary, database = _on_private_server(private_server, database_factory)
    database.connect().execute("CREATE TABLE t (id int PRIMARY KEY)")
    limits = replace(NEVER, replica_lag_s=1.5)
    admin = database.connect_superuser()
    with standby_of(primary) as standby, psycopg.connect(standby.dsn(), autocommit=True) as replica:
        replica.execute("SELECT pg_wal_replay_pause()")
        for _ in range(22):
            _write_wal(admin, 1)
            time.sleep(0.1)
        with _sampling(database, limits, database.superuser_dsn) as (throttle, moments):
            # Sooner than by watching the standby from now on: the server knows what was before.
            _wait("the lag is seen", lambda: "behind" in throttle.holding, 1.2)
            replica.execute("SELECT pg_wal_replay_resume()")
            _wait("the end of it is seen", lambda: not throttle.holding)
        assert not any("not checked" in moment.note for moment in moments)


def test_who_receives_wal_without_replaying_it_holds_nothing(
    private_server: PrivateServer, database_factory: DatabaseFactory
) -> None:
    """The server reports a replay_lag for pg_receivewal that only grows; a run beside an archive would never end."""
    primary, database = _on_private_server(private_server, database_factory, "pg_read_all_stats")
    database.connect().execute("CREATE TABLE t (id int PRIMARY KEY)")
    query = "SELECT count(*) FROM pg_stat_replication WHERE replay_lag > '1.5 s' AND state = 'streaming'"
    with (
        wal_receiver_of(primary),
        psycopg.connect(primary.dsn(), autocommit=True) as admin,
        _sampling(database, replace(NEVER, replica_lag_s=0.5)) as (throttle, moments),
    ):
        _wait("the server reports a lag", lambda: admin.execute(query).fetchone() == (1,))
        time.sleep(1.0)
        assert not throttle.holding
        assert moments == []


def test_the_clock_of_a_standby() -> None:
    clock = ReplayClock()
    assert clock.lag_s(0.0, 100, 100) == 0.0
    assert clock.lag_s(1.0, 200, 100) == 0.0, "how old it is cannot be known at the first look"
    assert clock.lag_s(3.0, 300, 100) == 2.0
    assert clock.lag_s(4.0, 300, 200) == 1.0, "what was written by the second look is replayed"
    assert clock.lag_s(5.0, 400, 400) == 0.0
    for second in range(10, 10 + 2 * ReplayClock.MOST_MARKS):
        lag_s = clock.lag_s(float(second), second * 1000, 400)
    assert lag_s == 2 * ReplayClock.MOST_MARKS - 1


# -- slots, snapshots, locks, disk ----------------------------------------------------------------------


def _write_wal(conn: psycopg.Connection[Any], size_mb: int) -> None:
    for _ in range(size_mb):
        conn.execute("SELECT pg_logical_emit_message(false, 'test', repeat('x', 1024 * 1024))")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["physical", "logical"])
def test_a_slot_that_nobody_reads_holds_the_run(
    kind: str, private_server: PrivateServer, database_factory: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, database = _on_private_server(private_server, database_factory)
    _limit(monkeypatch, slot_retained_bytes=16 * MB)
    conn = _slow_table(database)
    admin = database.connect_superuser()
    admin.execute("SELECT pg_create_physical_replication_slot('before', true)")
    _write_wal(admin, 40)
    run = WatchedRun(database.dsn, FAST)
    if kind == "physical":
        admin.execute("SELECT pg_create_physical_replication_slot('forgotten', true)")
    else:
        admin.execute("SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')")
    time.sleep(0.7)
    assert run.reasons() == [], "what a slot kept before the run is not the run's doing"
    # Its going must not make room for another.
    admin.execute("SELECT pg_drop_replication_slot('before')")
    _write_wal(admin, 20)
    run.until_throttled("replication slot forgotten keeps")
    run.assert_still("replication slot forgotten keeps")
    admin.execute("SELECT pg_drop_replication_slot('forgotten')")
    run.finish(conn)


def test_a_hold_ends_although_the_session_that_watches_was_lost(
    private_server: PrivateServer, database_factory: DatabaseFactory
) -> None:
    _, database = _on_private_server(private_server, database_factory)
    database.connect().execute("CREATE TABLE t (id int PRIMARY KEY)")
    admin = database.connect_superuser()
    admin.execute("SELECT pg_create_physical_replication_slot('forgotten', true)")
    with _sampling(database, replace(NEVER, slot_retained_bytes=4 * MB)) as (throttle, _):
        # It looks for the first time: what the slot keeps already does not count.
        time.sleep(1.0)
        _write_wal(admin, 6)
        _wait("it is held", lambda: "slot" in throttle.holding)
        ended = admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'pgscale/probe'"
        ).fetchall()
        assert ended == [(True,)]
        time.sleep(1.0)
        assert "slot" in throttle.holding, "a lost session is no reason to go on"
        admin.execute("SELECT pg_drop_replication_slot('forgotten')")
        _wait("it goes on", lambda: not throttle.holding)


def test_an_old_snapshot_holds_the_run(
    private_server: PrivateServer, database_factory: DatabaseFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, database = _on_private_server(private_server, database_factory)
    _limit(monkeypatch, oldest_xmin_age=500)
    conn = _slow_table(database)
    run = WatchedRun(database.dsn, FAST)
    with psycopg.connect(database.superuser_dsn) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT 1")
        for _ in range(600):
            conn.execute("SELECT pg_current_xact_id()")
        run.until_throttled("the oldest snapshot is")
        run.assert_still("transactions old")
    run.finish(conn)


@contextmanager
def _one_waits_for_a_lock(dsn: str) -> Iterator[None]:
    """One session waits for `t` behind another; neither is in the way of reading and copying."""
    lock = b"LOCK TABLE t IN SHARE UPDATE EXCLUSIVE MODE"
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn) as waiter:
        holder.execute(lock)
        thread = threading.Thread(target=waiter.execute, args=(lock,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            holder.rollback()
            thread.join(10)
            waiter.rollback()


def test_a_session_that_waits_for_the_table_slows_the_run(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    conn = _slow_table(database)
    made: list[Throttle] = []

    def make(*arguments: Any) -> Throttle:
        made.append(Throttle(*arguments))
        return made[-1]

    monkeypatch.setattr(running, "Throttle", make)
    least = PACES["normal"].least_duty
    run = WatchedRun(database.dsn, replace(FAST, pace="normal"))
    with _one_waits_for_a_lock(database.dsn):
        _wait("the duty is cut", lambda: made[0].duty == least)
        run.until_throttled("1 session waits for a lock on the table")
        before = run.moments[-1].done
        _wait("it is slowed, not held", lambda: run.moments[-1].done > before)
        assert not made[0].holding
    _wait("the duty rises again", lambda: made[0].duty > 1.5 * least)
    run.finish(conn)


def test_a_wait_for_the_same_oid_of_another_database_is_nobodys_business(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACES, "normal", replace(PACES["normal"], listen_s=0.0))
    with psycopg.connect(database.dsn) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY)")
    clone = f"{database.name}_clone"
    with psycopg.connect(database.server.dsn(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {clone} TEMPLATE {database.name}")
        try:
            with (
                _one_waits_for_a_lock(database.server.dsn(clone)),
                _sampling(database, NEVER, throttle=Throttle("normal", 0.25)) as (throttle, _),
            ):
                waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'relation' AND NOT granted AND database ="
                waiting += f" (SELECT oid FROM pg_database WHERE datname = '{clone}')"
                _wait("it waits", lambda: admin.execute(waiting).fetchone() == (1,))
                time.sleep(1.5)
                assert "lock" not in throttle.reason
        finally:
            admin.execute(f"DROP DATABASE {clone} WITH (FORCE)")


def _free_bytes() -> int:
    usage = os.statvfs(current_root())
    return usage.f_bavail * usage.f_frsize


def test_a_full_disk_holds_the_run(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    free_bytes = _free_bytes()
    if free_bytes < 4096 * MB:
        pytest.skip("it would fill this machine's disk")
    with psycopg.connect(database.server.dsn(), autocommit=True) as admin:
        admin.execute(f"GRANT pg_read_all_settings TO {database.owner}")
    _limit(monkeypatch, free_disk_bytes=free_bytes - 512 * MB)
    conn = _slow_table(database)
    run = WatchedRun(database.dsn, FAST)
    assert run.reasons() == []
    ballast = current_root() / f"ballast-{database.name}"
    try:
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 1024 * MB)
        run.until_throttled("of disk are free")
        run.assert_still("of disk are free")
    finally:
        ballast.unlink(missing_ok=True)
    run.finish(conn)


def test_free_disk_is_checked_only_where_it_can_be_known(database: Database) -> None:
    """An owner is not told where the data directory is; the administrator of the same machine is."""
    database.connect().execute("CREATE TABLE t (id int PRIMARY KEY)")
    limits = replace(NEVER, free_disk_bytes=1e18)
    with _sampling(database, limits, database.superuser_dsn) as (throttle, _):
        _wait("it is held", lambda: "of disk are free" in throttle.holding)
    with _sampling(database, limits) as (throttle, _):
        time.sleep(1.0)
        assert not throttle.holding


# -- the pace, without a server -------------------------------------------------------------------------


def _quiet_throttle(monkeypatch: pytest.MonkeyPatch, quiet_ms: float = 1.0) -> Throttle:
    """A throttle at the normal pace that has learnt how long a commit takes when nothing is copied."""
    monkeypatch.setitem(PACES, "normal", replace(PACES["normal"], listen_s=0.05))
    throttle = Throttle("normal", 0.25)
    for _ in range(5):
        _observe(throttle, quiet_ms)
    assert throttle.duty == PACES["normal"].first_duty, "nothing is changed while it listens"
    throttle.listen(threading.Event())
    return throttle


def _observe(throttle: Throttle, latency_ms: float = 1.0, waiting_lock: int = 0, held: str = "") -> float:
    throttle.observe(Pressure(latency_ms=latency_ms, waiting_lock=waiting_lock, held=held))
    return throttle.duty


def test_the_duty_rises_by_equal_steps_up_to_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    throttle, limits = _quiet_throttle(monkeypatch), PACES["normal"]
    duties = [_observe(throttle) for _ in range(20)]
    assert duties[:3] == pytest.approx([limits.first_duty + step * Throttle.GROW for step in (1, 2, 3)])
    assert duties[-1] == limits.most_duty
    assert throttle.reason == ""


def test_the_duty_is_cut_by_a_share_when_commits_get_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    throttle, limits = _quiet_throttle(monkeypatch), PACES["normal"]
    for _ in range(Throttle.WINDOW):
        _observe(throttle)
    # A median of the window: so many slow ones are needed, and no more.
    duties = [_observe(throttle, 10.0) for _ in range(Throttle.WINDOW // 2 + 1)]
    assert duties[: Throttle.WINDOW // 2 - 1] == [limits.most_duty] * (Throttle.WINDOW // 2 - 1)
    assert limits.most_duty * Throttle.SHRINK == pytest.approx(duties[-1])
    assert "commits take" in throttle.reason
    assert "instead of 1.0" in throttle.reason


def test_one_slow_commit_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    throttle = _quiet_throttle(monkeypatch)
    duties = [_observe(throttle, 500.0 if number == 8 else 1.0) for number in range(20)]
    assert duties == sorted(duties)
    assert throttle.reason == ""


def test_cuts_wait_for_the_last_one_to_be_felt_and_never_pass_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    # Far enough down that many cuts fit in.
    monkeypatch.setitem(PACES, "normal", replace(PACES["normal"], least_duty=0.01))
    throttle, least = _quiet_throttle(monkeypatch), 0.01
    duties = [_observe(throttle, 10.0, waiting_lock=2) for _ in range(60)]
    cuts = [number for number in range(1, 60) if duties[number] < duties[number - 1]]
    assert len(cuts) > 5
    assert all(later - earlier >= Throttle.SETTLE for earlier, later in itertools.pairwise(cuts))
    assert duties == sorted(duties, reverse=True)
    assert duties[-1] == min(duties) == least
    assert throttle.reason == "2 sessions wait for a lock on the table"


def test_the_reason_goes_when_nobody_has_suffered_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    throttle = _quiet_throttle(monkeypatch)
    for _ in range(Throttle.SETTLE):
        _observe(throttle, waiting_lock=1)
    assert throttle.reason == "1 session waits for a lock on the table"
    cut = throttle.duty
    assert _observe(throttle) > cut
    assert throttle.reason, "it is still why the duty is low"
    for _ in range(2 * Throttle.WINDOW):
        _observe(throttle)
    assert throttle.reason == ""


def test_the_fast_pace_cares_for_nothing_but_what_holds_it() -> None:
    throttle = Throttle("fast", 0.25)
    for _ in range(30):
        assert _observe(throttle, 1000.0, waiting_lock=9) == 1.0
    assert throttle.reason == throttle.holding == ""
    _observe(throttle, held="the disk is full")
    assert throttle.reason == throttle.holding == "the disk is full"


def test_work_waits_until_it_is_neither_held_nor_paused() -> None:
    throttle, stop, went_on = Throttle("fast", 0.25), threading.Event(), threading.Event()

    def work() -> None:
        throttle.wait(stop)
        went_on.set()

    _observe(throttle, held="the disk is full")
    throttle.pause("paused by the operator")
    assert throttle.reason == "paused by the operator"
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert not went_on.wait(0.3)
    _observe(throttle)
    assert not went_on.wait(0.3), "the pause is the operator's to end"
    _observe(throttle, held="the disk is full")
    throttle.pause("")
    assert throttle.reason == "the disk is full"
    assert not went_on.wait(0.3)
    _observe(throttle)
    assert went_on.wait(2)
    thread.join(2)


@pytest.mark.timeout(10)
def test_a_run_that_is_stopped_waits_for_nothing() -> None:
    throttle, stop = Throttle("fast", 0.25), threading.Event()
    throttle.pause("paused by the operator")
    stop.set()
    began = time.monotonic()
    throttle.wait(stop)
    assert time.monotonic() - began < 0.5


def test_the_way_to_the_server_and_back_is_no_work() -> None:
    throttle = Throttle("normal", 0.25)
    ago = time.monotonic() - 0.100
    assert throttle.took(ago) >= 0.1, "nothing is known of the way yet"
    for round_trip_s in (0.060, 0.500, 0.050, 0.080, 0.010):
        throttle.observe(Pressure(latency_ms=1.0, waiting_lock=0, held="", round_trip_s=round_trip_s))
    # A short one counts, not the shortest; and what took less than the way to the server was work for a part.
    assert 0.05 <= throttle.took(time.monotonic() - 0.100) < 0.06
    assert 0 < throttle.took(time.monotonic() - 0.040) < 0.01
    for _ in range(Throttle.ROUND_TRIPS):
        throttle.observe(Pressure(latency_ms=1.0, waiting_lock=0, held="", round_trip_s=0.002))
    for _ in range(Throttle.ROUND_TRIPS):
        throttle.observe(Pressure(latency_ms=1.0, waiting_lock=0, held="", round_trip_s=0.070))
    assert throttle.took(time.monotonic() - 0.100) < 0.05, "a way that has become longer is learnt"


def test_a_rest_keeps_the_duty_and_is_never_long() -> None:
    throttle, stop = Throttle("normal", 0.25), threading.Event()
    throttle.duty = 0.2
    began = time.monotonic()
    throttle.rest(0.05, stop)
    assert 0.2 <= time.monotonic() - began < 0.4
    began = time.monotonic()
    throttle.rest(60.0, stop)
    assert 2.0 <= time.monotonic() - began < 2.4
