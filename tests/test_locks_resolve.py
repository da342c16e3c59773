"""`pgscale locks resolve`: ends what holds others up, and nothing else."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from pgscale.connect.session import open_session
from pgscale.doctor.locks import runner
from pgscale.doctor.locks.reader import QUERIES
from pgscale.doctor.locks.runner import RESOLVE
from support.cli import Ran, pgscale
from support.servers import Database
from support.standby import wal_receiver_of
from support.waiting_sessions import outcome, send, until_true, until_waiting

BOTH = pytest.mark.versions(14, 18)


def _resolve(dsn: str, line: str) -> Ran:
    return pgscale("locks", "resolve", *shlex.split(line), "--dsn", dsn)


class Scene:
    """A table, one who holds it, and those who wait for it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.observer = database.connect()
        self.observer.execute("CREATE TABLE t (id int); CREATE TABLE u (id int)")

    def hold(self, *statements: str, user: str | None = None) -> psycopg.Connection[Any]:
        connection = self.database.connect(**({"user": user} if user else {}))
        for statement in statements or ("BEGIN", "LOCK TABLE t"):
            connection.execute(statement.encode())
        return connection

    def wait(self, statement: str = "INSERT INTO t VALUES (1)") -> psycopg.Connection[Any]:
        connection = self.database.connect()
        until_waiting(self.observer, send(connection, statement))
        return connection

    def is_alive(self, connection: psycopg.Connection[Any]) -> bool:
        row = self.observer.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [connection.info.backend_pid]
        ).fetchone()
        return bool(row and row[0])


@pytest.fixture
def scene(database: Database) -> Scene:
    return Scene(database)


def _pid(connection: psycopg.Connection[Any]) -> int:
    return connection.info.backend_pid


@BOTH
def test_idle_in_transaction_is_terminated_at_once(scene: Scene, pg_version: int) -> None:
    dsn = scene.database.dsn
    root, waiter = scene.hold(), scene.wait()
    for line in ("", "--json", "--force"):
        ran = _resolve(dsn, f"{_pid(root)} {line}")
        assert ran.exit_code == 4
        assert f"1. terminate {_pid(root)}: it is idle in transaction: there is no statement to cancel" in ran.err
        assert f"That frees 1 session.\n   {_pid(waiter)}  waits for " in ran.err
        assert "There is no terminal to ask on. Nothing was signalled. --yes" in ran.err
    ran = _resolve(dsn, f"{_pid(root)} --dry-run --json")
    data = json.loads(ran.out)
    assert (ran.exit_code, data["dry_run"], data["done"], data["ended"]) == (0, True, [], False)
    assert (data["would_free"], [s["id"] for s in data["steps"]]) == ([{"pid": _pid(waiter)}], ["terminate"])
    assert scene.is_alive(root)
    ran = _resolve(dsn, f"{_pid(root)} --yes")
    assert (ran.exit_code, ran.out) == (0, f"{_pid(root)} was terminated.\n1 session no longer waits.\n")
    assert outcome(waiter) == "ok"
    assert not scene.is_alive(root)
    ran = _resolve(dsn, f"{_pid(root)} --yes")
    assert (ran.exit_code, f"No backend has the pid {_pid(root)}" in ran.err) == (4, True)


@BOTH
def test_a_cancel_is_enough_where_it_helps(scene: Scene, pg_version: int) -> None:
    """Its connection stays; those who wait for two are freed by one only as far as the other lets them."""
    root = scene.hold("BEGIN", "LOCK TABLE t IN ROW EXCLUSIVE MODE")
    other = scene.hold("BEGIN", "LOCK TABLE t IN ROW EXCLUSIVE MODE")
    send(root, "SELECT pg_sleep(600)")
    until_true(scene.observer, "SELECT state = 'active' FROM pg_stat_activity WHERE pid = %s", [_pid(root)])
    heavy = scene.wait("BEGIN; LOCK TABLE t; COMMIT")
    reader = scene.wait("TABLE t")
    ran = _resolve(scene.database.dsn, f"{_pid(root)} --yes --wait 30s --json")
    data = json.loads(ran.out)
    assert ([s["id"] for s in data["steps"]], data["done"], data["ended"]) == (
        ["cancel", "terminate"],
        ["cancel"],
        True,
    )
    assert (ran.exit_code, data["would_free"], data["freed"]) == (0, [], [])
    assert [s["pid"] for s in data["still_waiting"]] == sorted([_pid(heavy), _pid(reader)])
    assert outcome(root) == "57014"
    root.execute("ROLLBACK")

    # One in the middle of the queue: whoever waits behind it goes on, the root stays.
    ran = _resolve(scene.database.dsn, f"{_pid(heavy)} --dry-run")
    assert f"{_pid(heavy)} is not the root: it waits for {_pid(other)} itself." in ran.out
    assert "That frees 1 session." in ran.out
    ran = _resolve(scene.database.dsn, f"{_pid(heavy)} --yes --wait 30s")
    assert (ran.exit_code, ran.out) == (0, f"{_pid(heavy)} was cancelled.\n1 session no longer waits.\n")
    assert (outcome(heavy), outcome(reader)) == ("57014", "ok")
    other.execute("COMMIT")


def test_where_a_cancel_does_not_help(scene: Scene) -> None:
    """Within a savepoint the transaction keeps its locks: terminated when the time is over."""
    root = scene.hold("BEGIN", "LOCK TABLE t", "SAVEPOINT s")
    send(root, "SELECT pg_sleep(600)")
    until_true(scene.observer, "SELECT state = 'active' FROM pg_stat_activity WHERE pid = %s", [_pid(root)])
    waiter = scene.wait()
    ran = _resolve(scene.database.dsn, f"{_pid(root)} --yes --wait 0.2s")
    assert (ran.exit_code, ran.out.splitlines()[0]) == (0, f"{_pid(root)} was cancelled and then terminated.")
    assert outcome(waiter) == "ok"
    assert not scene.is_alive(root)


def test_a_process_that_does_not_react(scene: Scene) -> None:
    root, waiter = scene.hold(), scene.wait()
    os.kill(_pid(root), signal.SIGSTOP)
    try:
        ran = _resolve(scene.database.dsn, f"{_pid(root)} --yes --wait 0.2s")
    finally:
        os.kill(_pid(root), signal.SIGCONT)
    assert ran.exit_code == 5
    assert ran.out.startswith(f"{_pid(root)} was terminated, and still holds others up.\n")
    assert f"Still waiting: 1 session.\n   {_pid(waiter)}  waits for " in ran.out
    assert outcome(waiter) == "ok"


def test_only_the_very_session_is_signalled(scene: Scene) -> None:
    """A pid that somebody else has got, and the session's next transaction, are left alone, in one statement."""
    root = scene.hold()
    with open_session(scene.database.dsn, RESOLVE) as session:
        row = scene.observer.execute(
            "SELECT pid, backend_start, xact_start FROM pg_stat_activity WHERE pid = %s", [_pid(root)]
        ).fetchone()
        assert row is not None
        same = dict(zip(("pid", "started", "transaction_started"), row, strict=True))
        # As if one microsecond later another had got the pid.
        moved = scene.observer.execute("SELECT %s + interval '1 us', %s + interval '1 us'", row[1:]).fetchone()
        assert moved is not None
        for name in ("cancel", "terminate"):
            query = QUERIES.get(name, session.info.server_version)
            for params in ({**same, "started": moved[0]}, {**same, "transaction_started": moved[1]},
                           {**same, "transaction_started": None}):  # fmt: skip
                assert session.execute(query, params).fetchall() == [], name
        assert session.execute(QUERIES.get("cancel", 0), same).fetchall() == [], "idle: nothing to cancel"
        assert scene.is_alive(root)
        assert session.execute(QUERIES.get("terminate", 0), same).fetchall() == [(True,)]


def test_what_changes_while_the_question_is_asked(scene: Scene) -> None:
    root, waiter = scene.hold(), scene.wait()

    def commit(plan: object, tree: object) -> None:
        root.execute("COMMIT")
        root.execute("BEGIN")
        root.execute("LOCK TABLE u")
        assert outcome(waiter) == "ok"

    done = runner.resolve(scene.database.dsn, str(_pid(root)), commit)
    assert (done.done, done.ended, done.freed, done.still) == ((), True, (_pid(waiter),), ())
    assert scene.is_alive(root), "its next transaction holds nobody up of those who were shown"

    # And its next transaction that holds up somebody else.
    root.execute("ROLLBACK")
    root.execute("BEGIN")
    root.execute("LOCK TABLE t")
    send(waiter, "INSERT INTO t VALUES (1)")
    until_waiting(scene.observer, _pid(waiter))

    def go_on(plan: object, tree: object) -> None:
        commit(plan, tree)
        send(waiter, "TABLE u")
        until_waiting(scene.observer, _pid(waiter))

    done = runner.resolve(scene.database.dsn, str(_pid(root)), go_on)
    assert (done.done, done.ended, done.still) == ((), True, (_pid(waiter),))
    assert scene.is_alive(root)


def test_a_session_that_holds_an_advisory_lock_is_idle(scene: Scene) -> None:
    root = scene.hold("SELECT pg_advisory_lock(7)")
    waiter = scene.wait("SELECT pg_advisory_lock(7)")
    ran = _resolve(scene.database.dsn, f"{_pid(root)} --yes --json")
    data = json.loads(ran.out)
    assert (ran.exit_code, data["done"], data["freed"]) == (0, ["terminate"], [{"pid": _pid(waiter)}])
    assert outcome(waiter) == "ok"


def test_nobody_waits(scene: Scene) -> None:
    """Refused, as the pid may be an old one; --force ends it, and not what it does next."""
    dsn = scene.database.dsn
    root = scene.hold()
    ran = _resolve(dsn, f"{_pid(root)} --yes")
    assert (ran.exit_code, f"Nobody waits for {_pid(root)}." in ran.err) == (4, True)
    assert runner.resolve(dsn, str(_pid(root)), lambda plan, tree: root.rollback(), force=True).done == ()
    assert scene.is_alive(root)
    root = scene.hold()
    ran = _resolve(dsn, f"{_pid(root)} --yes --force")
    assert (ran.exit_code, ran.out) == (0, f"{_pid(root)} was terminated.\n")
    ran = _resolve(dsn, "99999999999 --yes")
    assert (ran.exit_code, "is no pid" in ran.err) == (2, True)


@BOTH
def test_prepared_transactions(scene: Scene, database_factory: Any, pg_version: int) -> None:
    """A gid that looks like a pid needs --prepared; it takes the owner or a superuser, in its database."""
    database = scene.database
    gid = f"1{_pid(scene.observer)}{database.name.translate({ord(c): str(ord(c) % 10) for c in 'db_acef'})}"
    scene.hold("BEGIN", "LOCK TABLE t", f"PREPARE TRANSACTION '{gid}'")
    waiter = scene.wait()
    elsewhere, role = database_factory(), database.create_role()
    target = f"{gid} --prepared --yes"
    for dsn, code, said in (
        (database.dsn, 2, "is no pid. A GID that is a number needs --prepared."),
        (elsewhere.dsn_as(database.owner), 4, f"belongs to database {database.name}, this session to {elsewhere.name}"),
        (database.dsn_as(role), 3, f"belongs to role {database.owner}: only it or a superuser may roll it back."),
    ):
        ran = _resolve(dsn, target if code != 2 else f"{gid} --yes")
        assert (ran.exit_code, said in ran.err) == (code, True), ran
    ran = _resolve(database.dsn, f"{gid}0 --prepared --yes")
    assert (ran.exit_code, "There is no prepared transaction" in ran.err) == (4, True)
    ran = _resolve(database.dsn, f"{gid} --prepared --dry-run")
    assert f"1. roll back prepared transaction '{gid}': nobody is connected" in ran.out
    assert "look in its log first; COMMIT PREPARED frees the others" in ran.out
    ran = _resolve(database.dsn, target)
    assert (ran.exit_code, ran.out) == (
        0,
        f"prepared transaction '{gid}' was rolled back.\n1 session no longer waits.\n",
    )
    assert outcome(waiter) == "ok"

    # A gid that is used anew while the question is asked is another transaction.
    scene.hold("BEGIN", "LOCK TABLE t", "PREPARE TRANSACTION 'it''s'")
    waiter = scene.wait()

    def anew(plan: object, tree: object) -> None:
        scene.observer.execute("ROLLBACK PREPARED 'it''s'")
        assert outcome(waiter) == "ok"
        scene.hold("BEGIN", "LOCK TABLE t", "PREPARE TRANSACTION 'it''s'")
        send(waiter, "TABLE t")
        until_waiting(scene.observer, _pid(waiter))

    assert runner.resolve(database.dsn, "it's", anew).done == ()

    def alone(plan: object, tree: object) -> None:
        scene.observer.execute("ROLLBACK PREPARED 'alone'")
        scene.hold("BEGIN", "LOCK TABLE u", "PREPARE TRANSACTION 'alone'")

    scene.hold("BEGIN", "LOCK TABLE u", "PREPARE TRANSACTION 'alone'")
    assert runner.resolve(database.dsn, "alone", alone, force=True).done == ()
    assert runner.resolve(database.superuser_dsn, "it's", lambda plan, tree: None).done == ("rollback",)
    assert outcome(waiter) == "ok"


@BOTH
def test_rights(scene: Scene, pg_version: int) -> None:
    database = scene.database
    role = database.create_role()
    root = scene.hold()
    waiter = scene.wait()
    dsn, admin = database.dsn_as(role), database.connect_superuser()
    for grant, target, code, said in (
        ("", root, 3, f"may not see when backend {_pid(root)} began"),
        (f"GRANT pg_monitor TO {role}", root, 3, f"GRANT pg_signal_backend TO {role}, or connect as {database.owner}."),
        (f"GRANT pg_signal_backend TO {role}", root, 0, "was terminated"),
    ):
        admin.execute(grant.encode())
        ran = _resolve(dsn, f"{_pid(target)} --yes")
        assert (ran.exit_code, said in ran.err + ran.out) == (code, True), ran
    assert outcome(waiter) == "ok"
    # A superuser's is a superuser's, whatever was granted.
    root = scene.hold(user="postgres")
    waiter = scene.wait()
    ran = _resolve(dsn, f"{_pid(root)} --yes --force")
    assert (ran.exit_code, "belongs to a superuser: only a superuser may signal it." in ran.err) == (3, True), ran
    assert _resolve(database.superuser_dsn, f"{_pid(root)} --yes").exit_code == 0
    assert outcome(waiter) == "ok"


def test_a_terminal_is_asked(scene: Scene) -> None:
    root, waiter = scene.hold(), scene.wait()
    command = [sys.executable, "-m", "pgscale", "locks", "resolve", str(_pid(root)), "--dsn", scene.database.dsn]
    for answer, code, said in (("n\n", 4, "You said no. Nothing was signalled."), ("y\n", 0, "was terminated")):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        os.close(theirs)
        os.write(ours, answer.encode())
        out, err = process.communicate(timeout=60)
        os.close(ours)
        assert (process.returncode, said in out + err, "Do it? [y/N]" in err) == (code, True, True), (out, err)
        assert scene.is_alive(root) == (code == 4)
    assert outcome(waiter) == "ok"


def test_servers_own_processes(private_server: Any, database_factory: Any) -> None:
    """An autovacuum against wraparound, a walsender and the checkpointer; a transaction prepared before a restart."""
    server = private_server({"autovacuum_naptime": "1s", "autovacuum_freeze_max_age": "100000", "fsync": "off"})
    scene = Scene(database_factory(server))
    scene.hold("BEGIN", "LOCK TABLE u", "PREPARE TRANSACTION '12'")
    server.stop("fast")
    server.start()
    scene.observer = observer = scene.database.connect_superuser()
    dsn, superuser = scene.database.dsn, scene.database.superuser_dsn
    waiter = scene.wait("BEGIN; LOCK TABLE u; COMMIT")
    assert "`pgscale locks resolve --prepared 12` would free 1 session.\n" in pgscale("locks", "--dsn", dsn).out
    assert runner.resolve(dsn, "12", lambda plan, tree: None, prepared=True).freed == (_pid(waiter),)
    assert outcome(waiter) == "ok"

    # Not enabled, it is still vacuumed against wraparound, and only so.
    observer.execute(
        "ALTER TABLE t SET (autovacuum_enabled = off, autovacuum_vacuum_cost_delay = 100,"
        " autovacuum_vacuum_cost_limit = 1);"
        "INSERT INTO t SELECT generate_series(1, 200000)"
    )
    observer.execute("DO $$ BEGIN FOR i IN 1..100500 LOOP PERFORM pg_catalog.txid_current(); COMMIT; END LOOP; END $$")
    vacuum = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'autovacuum: VACUUM %public.t (to prevent wraparound)'"
    until_true(observer, f"SELECT EXISTS ({vacuum})")
    waiter = scene.wait("BEGIN; LOCK TABLE t; COMMIT")
    row = observer.execute(vacuum.encode()).fetchone()
    assert row is not None
    worker = row[0]
    text = pgscale("locks", "--dsn", superuser).out
    assert f"{worker}  autovacuum worker  {scene.database.name}  active" in text
    ran = _resolve(superuser, f"{worker} --yes")
    assert (ran.exit_code, "prevents transaction id wraparound. Nothing was signalled. Leave it" in ran.err) == (
        4,
        True,
    )
    ran = _resolve(dsn, f"{worker} --yes --force")
    assert ran.exit_code == 3
    observer.execute(f"GRANT pg_monitor, pg_signal_backend TO {scene.database.owner}".encode())
    ran = _resolve(dsn, f"{worker} --yes --force")
    assert (ran.exit_code, "pg_signal_autovacuum_worker serves" in ran.err) == (3, True), ran
    observer.execute(f"GRANT pg_signal_autovacuum_worker TO {scene.database.owner}".encode())
    ran = _resolve(dsn, f"{worker} --yes --force --wait 30s")
    assert (ran.exit_code, ran.out.splitlines()[0]) == (0, f"{worker} was cancelled.")
    assert outcome(waiter) == "ok"

    with wal_receiver_of(server):
        until_true(observer, "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')")
        for kind, line, code, said in (
            ("walsender", "--yes", 4, "is a walsender: a standby, a subscriber or a backup lives on it."),
            ("logical replication launcher", "--yes", 4, "is no client's but a logical replication launcher."),
            ("checkpointer", "--yes --force", 4, "is the server's checkpointer: no signal ends it."),
            ("walsender", "--yes --force", 0, "was "),
        ):
            found = observer.execute("SELECT pid FROM pg_stat_activity WHERE backend_type = %s", [kind]).fetchone()
            assert found is not None
            ran = _resolve(superuser, f"{found[0]} {line}")
            assert (ran.exit_code, said in ran.err + ran.out) == (code, True), ran
