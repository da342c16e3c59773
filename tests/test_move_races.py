"""The strategy `move` under many clients: no increment is lost, no key is there twice, nobody sees a row twice."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.partition import Options
from support.crash import pgscale
from support.servers import Database

ISOLATIONS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
RETRIED = ("40001", "40P01")
RUN = ("run", "t", "--strategy", "move", "--by", "hash:id", "--partitions", "4", "--pace", "fast")
OPTIONS = Options(by="hash:id", partitions=4, pace="fast", workers=2, strategy="move")


class Clients:
    """Threads that repeat one transaction each until told to stop; 40001 and deadlocks are tried again."""

    def __init__(
        self,
        database: Database,
        count: int,
        isolation: str,
        act: Callable[[psycopg.Cursor[Any], random.Random], str | None],
    ) -> None:
        self.database, self.isolation, self.act = database, isolation, act
        self.done: Counter[str] = Counter()
        self.retries = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,), daemon=True) for n in range(count)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, more: int) -> None:
        target, until = self.done.total() + more, time.monotonic() + 20
        while self.done.total() < target and not self.failures and time.monotonic() < until:
            time.sleep(0.01)

    def _run(self, number: int) -> None:
        rng = random.Random(number)
        try:
            with psycopg.connect(self.database.dsn, autocommit=True) as conn:
                while not self._stop.is_set():
                    self._once(conn, rng)
        except Exception as error:  # noqa: BLE001 because a thread must not die unheard
            self.failures.append(f"{type(error).__name__}: {error}")

    def _once(self, conn: psycopg.Connection[Any], rng: random.Random) -> None:
        cursor = conn.cursor()
        state = rng.getstate()
        for _ in range(2000):
            rng.setstate(state)
            cursor.execute(f"BEGIN ISOLATION LEVEL {self.isolation}")
            try:
                what = self.act(cursor, rng)
                cursor.execute("COMMIT")
            except psycopg.Error as error:
                cursor.execute("ROLLBACK")
                if error.sqlstate == "23505":
                    with self._guard:
                        self.done["duplicate"] += 1
                    return
                if error.sqlstate not in RETRIED:
                    raise
                with self._guard:
                    self.retries += 1
                time.sleep(random.uniform(0, 0.003))
            else:
                if what is not None:
                    with self._guard:
                        self.done[what] += 1
                return
        raise AssertionError("2000 retries were not enough")


def _create(database: Database, rows: int = 40_000) -> psycopg.Connection[Any]:
    conn = database.connect()
    conn.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, code text, pad text,"
        " CONSTRAINT t_code UNIQUE (code, id));"
    )
    conn.execute("INSERT INTO t SELECT g, 0, 'c' || g, repeat('x', 60) FROM generate_series(1, %s) g", [rows])
    conn.execute("VACUUM ANALYZE t")
    return conn


def _run_slowly(database: Database, clients: Clients, options: Options = OPTIONS) -> partition.RunResult:
    """Run while the clients work: again and again the run waits until they have done some more."""
    waits = 0

    def watch(progress: Progress) -> None:
        nonlocal waits
        if progress.phase == "move" and waits < 30 and progress.total and progress.done * 30 > waits * progress.total:
            waits += 1
            clients.wait_for(12)

    result = partition.run(database.dsn, "t", options, watch=watch)
    assert waits > 10
    return result


@pytest.mark.sampled(3)
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_no_increment_is_lost(database: Database, isolation: str) -> None:
    conn = _create(database)
    hot = [1, 2, 3, 20_000, 20_001, 39_999, 40_000]

    def act(cursor: psycopg.Cursor[Any], rng: random.Random) -> str:
        # Hot rows are everywhere in the table; the others make sure that rows of every page are met before they move.
        number = rng.choice(hot) if rng.random() < 0.7 else rng.randrange(1, 40_000)
        cursor.execute("UPDATE t SET n = n + 1 WHERE id = %s", [number])
        assert cursor.rowcount == 1
        return "increment"

    with Clients(database, 6, isolation, act) as clients:
        clients.wait_for(50)
        _run_slowly(database, clients)
        clients.wait_for(50)
    assert not clients.failures, clients.failures
    assert clients.done["increment"] > 400
    assert conn.execute("SELECT sum(n), count(*), count(DISTINCT id) FROM t").fetchone() == (
        clients.done["increment"],
        40_000,
        40_000,
    )


@pytest.mark.sampled(3)
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_every_reader_sees_every_row_once(database: Database, isolation: str) -> None:
    _create(database)

    def act(cursor: psycopg.Cursor[Any], rng: random.Random) -> str:
        if rng.random() < 0.5:
            cursor.execute("SELECT count(*), sum(n) FROM t")
            assert cursor.fetchone() == (40_000, 0), "a row was seen twice, or not"
            return "read"
        one, other = rng.sample(range(1, 40_000), 2)
        for number, by in sorted(((one, 1), (other, -1))):
            cursor.execute("UPDATE t SET n = n + %s WHERE id = %s", [by, number])
        return "transfer"

    with Clients(database, 3, isolation, act) as clients:
        _run_slowly(database, clients)
    assert not clients.failures, clients.failures
    assert min(clients.done["read"], clients.done["transfer"]) > 20


@pytest.mark.sampled(3)
@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_a_key_is_there_once(database: Database, isolation: str) -> None:
    """Clients insert and delete the same keys: what they were told adds up to what is there."""
    conn = _create(database, 20_000)
    keys = [*range(1, 6), *range(10_000, 10_006), *range(19_995, 20_006)]
    balance: Counter[int] = Counter({k: 1 for k in keys if k <= 20_000})
    guard = threading.Lock()
    clients: Clients

    def act(cursor: psycopg.Cursor[Any], rng: random.Random) -> str | None:
        number = rng.choice(keys)
        what = rng.randrange(4)
        if what == 0:
            cursor.execute("INSERT INTO t (id, code) VALUES (%s, %s)", [number, f"c{number}"])
            change = {number: 1}
        elif what == 1:
            cursor.execute("DELETE FROM t WHERE id = %s", [number])
            change = {number: -cursor.rowcount}
        else:
            other = rng.choice(keys)
            cursor.execute("UPDATE t SET id = %s WHERE id = %s", [other, number])
            change = Counter({other: cursor.rowcount}) if cursor.rowcount and other != number else Counter[int]()
            change[number] = change[number] - (cursor.rowcount if other != number else 0)
        cursor.execute("COMMIT")
        with guard:
            for key, by in change.items():
                balance[key] += by
        cursor.execute("BEGIN")
        return ("insert", "delete", "key", "key")[what]

    with Clients(database, 6, isolation, act) as clients:
        _run_slowly(database, clients)
    assert not clients.failures, clients.failures
    assert clients.done["duplicate"] > 20
    found = dict(conn.execute("SELECT id, count(*) FROM t WHERE id = ANY(%s) GROUP BY id", [keys]).fetchall())
    assert found == {key: count for key, count in balance.items() if count}


def test_two_inserts_of_a_key_that_is_moving(database: Database) -> None:
    """While its row is on the way a key is neither free nor taken: who inserts it waits for the end of that."""
    conn = _create(database, 200)
    assert pgscale(database.dsn, *RUN, kill_at="after:view").returncode == -9
    old = conn.execute(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relname = 't' AND n.nspname LIKE 'pgscale\\_old%'"
    ).fetchone()
    assert old is not None
    for committed in (True, False):
        mover = database.connect(autocommit=False)
        new = old[0].replace("pgscale_old", "pgscale_new")
        mover.execute(
            f"WITH gone AS (DELETE FROM {old[0]} WHERE id = 7 RETURNING *) INSERT INTO {new} SELECT * FROM gone"
        )
        answers: list[str | None] = []

        def insert(answers: list[str | None] = answers) -> None:
            with psycopg.connect(database.dsn, autocommit=True) as client:
                try:
                    client.execute("INSERT INTO t (id, code) VALUES (7, 'other')")
                    answers.append(None)
                except psycopg.Error as error:
                    answers.append(error.diag.constraint_name)

        thread = threading.Thread(target=insert)
        thread.start()
        thread.join(0.4)
        assert thread.is_alive(), "it did not wait"
        if committed:
            mover.rollback()
        else:
            mover.commit()
        thread.join(10)
        assert answers == ["t_pkey"]
        mover.close()
    assert conn.execute("SELECT count(*) FROM t WHERE id = 7").fetchone() == (1,)
    partition.abort(database.dsn, "t")
    assert conn.execute("SELECT count(*), count(DISTINCT id) FROM t").fetchone() == (200, 200)


def test_serializable_transactions_stay_so_while_rows_move(database: Database) -> None:
    """Write skew across the move of one row: each of two transactions reads both rows and changes one."""
    conn = _create(database, 20_000)
    # A change beside the row touches no index: nothing but the move itself tells the two of each other.
    conn.execute("ALTER TABLE t SET (fillfactor = 50)")
    assert pgscale(database.dsn, *RUN, kill_at="after:view").returncode == -9
    conn.execute("UPDATE t SET n = 0 WHERE id BETWEEN 9000 AND 9100")  # so that no index of a partition is empty
    one, other = (database.connect(autocommit=False) for _ in range(2))
    for session in (one, other):
        session.execute("SET enable_seqscan = off")
        session.commit()
        session.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    both = "SELECT sum(n) FROM t WHERE id IN (1, 20000)"
    assert one.execute(both).fetchone() == (0,)
    # The last row moves after one of them has read it, and before the other does.
    assert pgscale(database.dsn, "resume", "t", kill_at="inside:move").returncode == -9
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (20_000,)

    def skew() -> None:
        assert other.execute(both).fetchone() == (0,)
        other.execute("UPDATE t SET n = 1 WHERE id = 20000")
        other.commit()
        one.execute("UPDATE t SET n = 1 WHERE id = 1")
        one.commit()

    with pytest.raises(psycopg.errors.SerializationFailure):
        skew()
    one.rollback()
    other.rollback()
    one.close()
    other.close()
    assert conn.execute(both).fetchone() in ((0,), (1,))
    assert partition.resume(database.dsn, "t").state == "cut-over"


def test_a_table_that_is_never_free_gives_its_tail_back(database: Database) -> None:
    """VACUUM does not queue for the lock that cuts the tail off; with somebody there all the time it never gets it."""
    conn = _create(database, 20_000)

    def act(cursor: psycopg.Cursor[Any], rng: random.Random) -> str:
        cursor.execute("SELECT n FROM t WHERE id = 1")
        time.sleep(0.12 + rng.random() / 50)
        return "read"

    done: list[str] = []
    with Clients(database, 4, "READ COMMITTED", act) as clients:
        clients.wait_for(8)
        # It would never end; a thread can be left alone.
        run = threading.Thread(target=lambda: done.append(partition.run(database.dsn, "t", OPTIONS).state), daemon=True)
        run.start()
        run.join(60)
    assert not clients.failures, clients.failures
    assert done == ["cut-over"]
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (20_000,)
