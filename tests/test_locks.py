"""`pgscale locks`: who waits for whom, on real servers; the tree's rules on looks made up at random."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgscale.commands.lock_text import draw, plain
from pgscale.connect.session import open_session
from pgscale.doctor.locks.model import Backend, Doing, LockRow, Look, Tag
from pgscale.doctor.locks.modes import is_conflict, mode_name
from pgscale.doctor.locks.objects import describe
from pgscale.doctor.locks.reader import LOOK, LocksNotReadableError, read_look
from pgscale.doctor.locks.tree import behind, build_tree, freed_by
from support.cli import pgscale
from support.servers import Database
from support.waiting_sessions import send, until_waiting

TABLES = """
CREATE TABLE acct (id int PRIMARY KEY, n int);
INSERT INTO acct VALUES (1, 0), (2, 0);
CREATE TABLE "Odd" (id int); CREATE TABLE far (id int); CREATE TABLE near (id int);
INSERT INTO near VALUES (1);
CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS
  $$ BEGIN PERFORM 1 FROM "Odd"; PERFORM 1 FROM far; RETURN 1; END $$;
CREATE FUNCTION gone() RETURNS int LANGUAGE sql AS 'SELECT 1';
"""


def _look(dsn: str) -> dict[str, Any]:
    ran = pgscale("locks", "--json", "--dsn", dsn)
    assert ran.exit_code == 0, ran.err
    return json.loads(ran.out)


def _begin(database: Database, *statements: str, name: str = "") -> psycopg.Connection[Any]:
    connection = database.connect(application_name=name)
    for statement in ("BEGIN", *statements):
        connection.execute(statement.encode())
    return connection


def _wait(database: Database, statement: str, *before: str) -> int:
    connection = database.connect()
    for each in before:
        connection.execute(each.encode())
    pid = send(connection, statement)
    with database.connect() as observer:
        until_waiting(observer, pid)
    return pid


def _blocked(session: dict[str, Any]) -> dict[Any, tuple[str, list[str]]]:
    return {b.get("pid", b.get("gid")): (b["kind"], b["modes"]) for w in session["waits"] for b in w["blockers"]}


@pytest.mark.versions("all")
def test_the_tree(database: Database, pg_version: int) -> None:
    database.connect().execute(TABLES.encode())
    # Other tests share the server; what they wait for is not ours.
    root = _begin(database, "UPDATE acct SET n = 1 WHERE id = 1", name="root's").info.backend_pid
    first = _wait(database, "UPDATE acct SET n = 2 WHERE id = 1")
    second = _wait(database, "UPDATE acct SET n = 3 WHERE id = 1")
    heavy = _wait(database, "LOCK TABLE acct IN ACCESS EXCLUSIVE MODE", "BEGIN")
    reader = _wait(database, "SELECT '\x1b[2J',\n  * FROM acct -- " + "long " * 50)
    gid = f"it's {database.name}"
    quoted = f"'it''s {database.name}'"
    _begin(database, "INSERT INTO far VALUES (1)", "LOCK TABLE far", f"PREPARE TRANSACTION {quoted}")
    parallel = "force_parallel_mode" if pg_version < 16 else "debug_parallel_query"
    leader = _wait(database, "SELECT slow(id) FROM near", f"SET {parallel} = on")
    odd = _wait(database, 'LOCK TABLE "Odd"', "BEGIN")
    keys = database.connect()
    keys.execute("SELECT pg_advisory_lock(-5), pg_advisory_lock(-1, 7)")
    keeper = keys.info.backend_pid
    one_key = _wait(database, "SELECT pg_advisory_lock(-5)")
    two_keys = _wait(database, "SELECT pg_advisory_xact_lock_shared(-1, 7)")
    dropping = _begin(database, "DROP FUNCTION gone()").info.backend_pid
    dropper = _wait(database, "DROP FUNCTION gone()")
    writer = _begin(database, "INSERT INTO near VALUES (2)").info.backend_pid
    indexer = _wait(database, "CREATE INDEX CONCURRENTLY ON near (id)")

    look = _look(database.dsn)
    all_sessions = {s.get("pid", s.get("gid")): s for s in look["sessions"]}
    sessions = {key: s for key, s in all_sessions.items() if s["database"] == database.name}
    assert set(sessions) == {
        *(root, first, second, heavy, reader, gid, leader, odd, keeper),
        *(one_key, two_keys, dropping, dropper, writer, indexer),
    }
    roots = [r.get("pid", r.get("gid")) for r in look["roots"]]
    weights = [all_sessions[r]["behind"] for r in roots]
    assert weights == sorted(weights, reverse=True)
    assert next(r for r in roots if r in sessions) == root
    assert {r for r in roots if r in sessions} == {root, gid, keeper, dropping, writer}
    under = {key: s["shown_under"] and next(iter(s["shown_under"].values())) for key, s in sessions.items()}
    assert under == {
        **dict.fromkeys((root, gid, keeper, dropping, writer)),
        **{first: root, second: first, heavy: root, reader: heavy, leader: gid, odd: leader},  # noqa: PIE800 because names are no keywords
        **{one_key: keeper, two_keys: keeper, dropper: dropping, indexer: writer},  # noqa: PIE800 because names are no keywords
    }
    # Both that update hold ROW EXCLUSIVE on the table, so they are in the way of `heavy`, and `heavy` of the reader.
    assert {key: (s["behind"], s["frees"]) for key, s in sessions.items() if s["behind"]} == {
        **{root: (4, 4), first: (3, 1), second: (2, 0), heavy: (1, 1), gid: (2, 2)},  # noqa: PIE800 because names are no keywords
        **dict.fromkeys((leader, dropping, writer), (1, 1)),
        keeper: (2, 2),
    }
    assert _blocked(sessions[heavy]) == {pid: ("holds", ["ROW EXCLUSIVE"]) for pid in (root, first, second)}
    assert _blocked(sessions[reader]) == {heavy: ("queue", ["ACCESS EXCLUSIVE"])}
    assert _blocked(sessions[leader]) == {gid: ("holds", ["ROW EXCLUSIVE", "ACCESS EXCLUSIVE"])}
    assert _blocked(sessions[odd]) == {leader: ("holds", ["ACCESS SHARE"])}
    waits = {key: (s["waits"][0]["mode"], s["waits"][0]["object"]) for key, s in sessions.items() if s["waits"]}
    number = r"\d+"
    assert re.fullmatch(
        rf"the end of transaction {number}, which holds row \(0,1\) of public\.acct", waits.pop(first)[1]
    )
    assert re.fullmatch(rf"the end of virtual transaction {number}/{number}", waits.pop(indexer)[1])
    assert waits == {
        second: ("EXCLUSIVE", "row (0,1) of public.acct"),
        heavy: ("ACCESS EXCLUSIVE", "public.acct"),
        reader: ("ACCESS SHARE", "public.acct"),
        leader: ("ACCESS SHARE", "public.far"),
        odd: ("ACCESS EXCLUSIVE", 'public."Odd"'),
        one_key: ("EXCLUSIVE", "advisory lock -5"),
        two_keys: ("SHARE", "advisory lock (-1, 7)"),
        dropper: ("ACCESS EXCLUSIVE", "function public.gone()"),
    }
    assert sessions[leader]["waits"][0]["pid"] != leader, "it is its worker that waits"
    assert (sessions[root]["state"], sessions[root]["application"]) == ("idle in transaction", "root's")
    assert 0 < sessions[first]["waits"][0]["waited_s"] < sessions[root]["transaction_s"] < 60
    assert sessions[keeper]["transaction_s"] is None
    assert sessions[reader]["query"].startswith("SELECT '\x1b[2J',\n"), "in JSON as it is"

    text = pgscale("locks", "--dsn", database.dsn).out
    for part in (
        rf"^{root}  {database.owner}@{database.name}  root's  idle in transaction for [\d.]+ m?s, transaction .* old"
        r"  its end frees 4\n│  UPDATE acct SET n = 1 WHERE id = 1\n├─ ",
        rf"\n│  └─ {second}  .*  its end frees 0 of 2 behind it\n│        waits for .*: EXCLUSIVE on row \(0,1\) of"
        rf" public\.acct; held by {first} \(EXCLUSIVE\)\n",
        rf"\n└─ {heavy}  .*\n   │  waits for .*: ACCESS EXCLUSIVE on public\.acct; held by {root} \(ROW EXCLUSIVE\), ",
        rf"\n   └─ {reader}  .*\n +waits for .*: ACCESS SHARE on public\.acct; in the queue behind {heavy} \(ACCESS EX",
        r"\n +SELECT ' \[2J', \* FROM acct -- long [long ]*…\n",
        rf"\nprepared transaction {quoted} of {database.owner} in {database.name}, prepared .* ago  its end frees 2\n",
        rf"its parallel worker \d+ waits for .*; held by prepared transaction {quoted} \(ROW EXCLUSIVE, ACCESS EXCL",
    ):
        assert re.search(part, text, re.MULTILINE), f"{part}\n{text}"
    assert "\x1b" not in text
    assert not any("hidden" in s for s in sessions.values())

    role = database.create_role()
    hidden = {s.get("pid", s.get("gid")): s for s in _look(database.dsn_as(role))["sessions"]}
    assert hidden[root]["hidden"] == "needs pg_read_all_stats"
    assert (hidden[root]["application"], "query" in hidden[root], hidden[gid]["user"]) == (
        "root's",
        False,
        database.owner,
    )
    assert _blocked(hidden[reader]) == {heavy: ("queue", ["ACCESS EXCLUSIVE"])}
    text = pgscale("locks", "--dsn", database.dsn_as(role)).out
    assert re.search(rf"\n{root}  {database.owner}@{database.name}  root's  hidden: needs pg_read_all_stats", text)
    assert f"of other roles are hidden: GRANT pg_read_all_stats (or pg_monitor) TO {role}." in text
    database.connect_superuser().execute(f"GRANT pg_monitor TO {role}")
    assert "hidden" not in pgscale("locks", "--dsn", database.dsn_as(role)).out


def test_another_database_and_a_locked_catalog(private_server: Any, database_factory: Any) -> None:
    """Names of another database's relations cannot be read; a catalog that is locked is told, and not waited for."""
    here = database_factory(private_server())
    there = database_factory(here.server)
    assert pgscale("locks", "--dsn", here.dsn).out == "Nobody waits for a lock.\n"
    assert _look(here.dsn)["sessions"] == []
    _begin(there, "CREATE TABLE t ()").execute("COMMIT")
    _begin(there, "LOCK TABLE t")
    waiter = _wait(there, "TABLE t")
    text = pgscale("locks", "--dsn", here.dsn_as("postgres")).out
    assert re.search(r"^1 session waits for a lock for .*; \d+ holds it up\.$", text, re.MULTILINE)
    assert re.search(rf"└─ {waiter}  .*\n +waits .*: ACCESS SHARE on relation \d+ of database {there.name};", text)
    assert re.search(r"\n`pgscale locks resolve \d+` would free 1 session\.\n$", text)
    # With a catalog locked nobody can connect; who is connected goes on looking, without names.
    with here.connect_superuser(autocommit=False) as catalog, open_session(here.dsn, LOOK) as session:
        read_look(session)
        stuck = here.connect()
        catalog.execute("LOCK TABLE pg_catalog.pg_class")
        stuck_pid = send(stuck, "SELECT FROM pg_catalog.pg_class WHERE relname = 'none'")
        until = time.monotonic() + 60
        while stuck_pid not in (tree := build_tree(read_look(session))).nodes:
            assert time.monotonic() < until
        assert tree.nodes[stuck_pid].waits[0].what == "relation 1259"
        (note,) = tree.look.notes
        assert note.startswith("Names of relations could not be read: canceling statement due to lock timeout")
        catalog.rollback()
        catalog.execute("LOCK TABLE pg_catalog.pg_authid")
        with pytest.raises(LocksNotReadableError, match="holds a system catalog"):
            read_look(session)


def test_watch_redraws_until_ctrl_c(database: Database) -> None:
    database.connect().execute("CREATE TABLE acct (id int)")
    holder = _begin(database, "LOCK TABLE acct")
    waiter = _wait(database, "SELECT FROM acct")
    command = [sys.executable, "-m", "pgscale", "locks", "--watch", "0.05", "--dsn", database.dsn]
    for on_terminal in (True, False):
        if on_terminal:
            ours, theirs = pty.openpty()
        else:
            ours, theirs = os.pipe()
        process = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, env={**os.environ, "TERM": "xterm"})
        os.close(theirs)
        try:
            seen = _read_until(ours, rf"\n\S*{holder.info.backend_pid}[\s\S]*?─ .*{waiter}")
            assert ("\x1b[1;31m" in seen) == on_terminal, "colours only on a terminal"
            if not on_terminal:
                holder.execute("ROLLBACK")
                _read_until(ours, rf"\d\d:\d\d:\d\d  (?!.*{holder.info.backend_pid}).*(Nobody waits|wait)")
            process.send_signal(signal.SIGINT)
            _read_until(ours, None)
            assert process.wait(60) == 0
            assert process.stderr is not None
            assert process.stderr.read() == b""
        finally:
            process.kill()
            process.communicate()
            os.close(ours)


def _read_until(descriptor: int, pattern: str | None) -> str:
    """What comes until it matches, or to its end."""
    seen = ""
    until = time.monotonic() + 60
    while pattern is None or not re.search(pattern, seen.replace("\r", "")):
        assert time.monotonic() < until, seen
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # how a terminal says that nobody writes to it any more
            part = b""
        if not part:
            assert pattern is None, seen
            break
        seen += part.decode(errors="replace")
    return seen


def test_watch_waits_for_a_server_that_is_away(private_server: Any) -> None:
    server = private_server()
    command = [sys.executable, "-m", "pgscale", "locks", "--watch", "0.05", "--dsn", server.dsn()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        try:
            _read_until(descriptor, "Nobody waits")
            server.stop("immediate")
            _read_until(descriptor, r"Trying again\.")
            server.start()
            _read_until(descriptor, "Nobody waits")
        finally:
            process.kill()


def test_bad_calls() -> None:
    for arguments, said in (
        (("--watch", "--json"), "exactly one document"),
        (("--watch", "1s", "resolve", "1"), "no meaning with a verb"),
        (("--watch", "soon"), "is not a duration"),
        (("resolve", "0", "--dsn", "host=127.0.0.1 port=1 dbname=x"), "Cannot connect"),
        (("--dsn", "host=127.0.0.1 port=1 dbname=x", "--json"), "Cannot connect"),
    ):
        ran = pgscale("locks", *arguments)
        assert (ran.exit_code, said in ran.err) == (3 if "connect" in said else 2, True), ran


# The rules, without a server: looks that no server would give are worth a look, too.


def test_every_object_has_words() -> None:
    at = datetime.now(UTC)
    look = Look(
        at=at, database="shop", role="me", backends={}, relations={7: "s.t"}, objects={(1255, 5): "function f()"}
    )
    assert {
        describe(Tag(**of), look): None  # pyright: ignore[reportArgumentType] because the values are of several types
        for of in (
            {"kind": "extend", "database": "shop", "relation": 7},
            {"kind": "page", "database": "shop", "relation": 7, "page": 3},
            {"kind": "relation", "database": "other", "relation": 7},
            {"kind": "relation", "database": "shop", "relation": 8},
            {"kind": "spectoken", "transaction": 9, "object_id": 1},
            {"kind": "frozenid", "database": "shop"},
            {"kind": "applytransaction", "database": "shop", "transaction": 9},
            {"kind": "advisory", "database": "other", "class_id": 1, "object_id": 0, "object_sub_id": 1},
            {"kind": "object", "database": "shop", "class_id": 1255, "object_id": 5},
            {"kind": "object", "database": "other", "class_id": 1255, "object_id": 5},
            {"kind": "new in 20", "class_id": 1, "object_id": 2},
        )
    } == dict.fromkeys(
        (
            "the extension of s.t by new pages",
            "page 3 of s.t",
            "relation 7 of database other",
            "relation 8",
            "the speculative insertion of transaction 9",
            "the freezing of database shop",
            "the application of transaction 9",
            "advisory lock 4294967296 in database other",
            "function f()",
            "object 5 of class 1255 in database other",
            "new in 20 2 of class 1",
        )
    )


@pytest.mark.versions(14, 18)
def test_modes_conflict_as_the_server_has_them(database: Database, pg_version: int) -> None:
    one, other = database.connect(), database.connect()
    one.execute("CREATE TABLE t ()")
    names = ("AccessShare", "RowShare", "RowExclusive", "ShareUpdateExclusive", "Share", "ShareRowExclusive")
    modes = [f"{name}Lock" for name in (*names, "Exclusive", "AccessExclusive")]
    for held in modes:
        with one.transaction():
            one.execute(f"LOCK TABLE t IN {mode_name(held)} MODE".encode())
            for asked in modes:
                try:
                    with other.transaction():
                        other.execute(f"LOCK TABLE t IN {mode_name(asked)} MODE NOWAIT".encode())
                    refused = False
                except psycopg.errors.LockNotAvailable:
                    refused = True
                assert is_conflict(held, asked) == refused, (held, asked)
    assert not is_conflict("SIReadLock", "AccessExclusiveLock")


def _made_up(edges: dict[int, set[int]]) -> Look:
    """A look where each waits for a table of its own, which its blockers hold."""
    at = datetime.now(UTC)
    locks: list[LockRow] = []
    for waiter, blockers in edges.items():
        tag = Tag(kind="relation", database="d", relation=waiter)
        locks += [LockRow(tag=tag, mode="AccessShareLock", granted=True, pid=pid) for pid in blockers]
        mode = "AccessExclusiveLock"
        locks.append(
            LockRow(tag=tag, mode=mode, granted=False, pid=waiter, waited_s=1.0, blockers=tuple(sorted(blockers)))
        )
    pids = {*edges, *(pid for some in edges.values() for pid in some)}
    backends = {
        pid: Backend(pid=pid, user="u", database="d", application="", doing=Doing(kind="client backend", started=at))
        for pid in pids
    }
    return Look(at=at, database="d", role="u", locks=tuple(locks), backends=backends, relations={}, objects={})


PIDS = st.integers(1, 12)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(PIDS, st.sets(PIDS, min_size=1, max_size=4), max_size=10))
def test_counts_agree_with_walks(edges: dict[int, set[int]]) -> None:
    """Whoever waits is shown once, below a root; the fast counts are those that a walk from each session gives."""
    edges = {waiter: blockers - {waiter} for waiter, blockers in edges.items() if blockers - {waiter}}
    tree = build_tree(_made_up(edges))
    assert {node.key for node in tree.waiting} == set(edges)
    shown = list(tree.roots)
    for key in shown:
        shown += tree.children.get(key, ())
    assert sorted(shown) == sorted(tree.nodes), "each once"
    circles = any(node.deadlocked for node in tree.nodes.values())
    for key, node in tree.nodes.items():
        if not circles or node.deadlocked:
            assert (node.behind, node.frees) == (len(behind(tree, key)), len(freed_by(tree, key)))
        assert key in tree.roots or node.waits
    if not circles:
        assert all(not tree.nodes[key].waits for key in tree.roots)
    assert sum(plain(draw(tree)).count(f"\n{key}  ") for key in tree.roots) == len(tree.roots)


def test_long_queues_and_chains_take_no_time() -> None:
    for edges in (
        {waiter: set(range(1, waiter)) for waiter in range(2, 200)},
        {waiter: {waiter - 1} for waiter in range(2, 1100)},
        {waiter: {waiter - 1} for waiter in range(2, 40)} | {1: {39}},
    ):
        begun = time.process_time()
        tree = build_tree(_made_up(edges))
        text = plain(draw(tree))
        assert time.process_time() - begun < 5, "about half a second; no recursion"
        assert len(tree.nodes) == max(edges)
        assert ("in a deadlock" in text) == (1 in edges)
