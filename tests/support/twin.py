"""A load that writes everything twice: to a table under conversion and to a twin that nobody touches.

Every statement runs on `t_twin` first and then, word for word, on `t`, in one transaction. Both must
report the same rows; at the end both must hold the same rows. Locks are always taken in the same order, and
whoever waits waits for the twin.

Who may write what:

- every client has identifiers of its own, fresh ones and ones it used before;
- contended identifiers are written under a session-level advisory lock that is taken before BEGIN, so that
  the snapshot of a REPEATABLE READ transaction is younger than the lock;
- hot rows are incremented by everyone, without any lock but the row's own.

A serialization failure or a deadlock is retried. Any other error, and any difference between the two in a
transaction that committed, is a failure.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Literal

import psycopg
from psycopg import sql

from pgscale.partition.model import StrategyName

Isolation = Literal["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
RETRIED = ("40001", "40P01")

HOT = range(1, 9)
CONTENDED = range(100, 130)
OWN = 1_000_000_000
LIST_KEYS = ("a", "b", "C c", "d'd")
COLUMNS = ("id", "k", "slot", "tag", "v", "n", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """A way to partition, and the values of the partition key that its partitions cover.

    `later_keys` are used too, once the table is partitioned.
    """

    name: str
    by: str
    key_type: str
    keys: tuple[Any, ...]
    nullable: bool = False
    partitions: int | None = None
    values: tuple[str, ...] = ()
    strategy: StrategyName = "mirror"
    later_keys: tuple[Any, ...] = ()

    def create(self, table: str) -> str:
        """DDL of the table; the twin's is the same."""
        # Where the partition key may be NULL the identity is `id` alone, and grows with --accept-key-change.
        # Two more unique constraints hold the partition key, so that rows can swap what is unique.
        key = "UNIQUE (id), UNIQUE (id, k)" if self.nullable else "PRIMARY KEY (id, k)"
        return (
            f"CREATE TABLE {table} (id bigint NOT NULL, k {self.key_type}, slot bigint NOT NULL,"
            f" tag text NOT NULL, v int, n bigint NOT NULL DEFAULT 0, note text, {key},"
            " UNIQUE (k, slot), CONSTRAINT " + table + "_tags UNIQUE (tag, k));"
            f"CREATE INDEX ON {table} (v) WHERE v IS NOT NULL"
        )


SCHEMES = {
    s.name: s
    for s in (
        Scheme(name="hash", by="hash:k", key_type="int", keys=tuple(range(12)), partitions=5),
        Scheme(
            name="range",
            by="range:k:month",
            key_type="timestamp",
            keys=tuple(f"2013-0{m}-{d} {h}:00" for m in range(1, 7) for d in (1, 15, 28) for h in (0, 23)),
        ),
        Scheme(name="list", by="list:k", key_type="text", keys=LIST_KEYS, values=LIST_KEYS),
        Scheme(
            name="hash_null", by="hash:k", key_type="int", keys=tuple(range(9)), nullable=True, partitions=4
        ),
        Scheme(name="list_null", by="list:k", key_type="text", keys=("a", "b", "c"), nullable=True),
        Scheme(
            name="attach_range", by="range:k:month", key_type="timestamp", strategy="attach",
            keys=tuple(f"2013-0{m}-{d}" for m in range(1, 7) for d in (1, 15, 28)),
            later_keys=(f"{date.today() + timedelta(days=100)}", "9999-12-31"),
        ),
        Scheme(
            name="attach_list", by="list:k", key_type="text", keys=LIST_KEYS, values=LIST_KEYS, strategy="attach",
            later_keys=("new", "newer"),
        ),
        Scheme(
            name="attach_null", by="list:k", key_type="text", keys=("a", "b", "c"), nullable=True, strategy="attach",
            later_keys=("new",),
        ),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, with the statement."""

    client: int
    kind: str
    statement: str
    what: str


@dataclass
class Load:
    """Clients that run until told to stop.

    Args:
        dsn: of the database that holds both tables.
        scheme: how the table is going to be partitioned.
        isolation: of every transaction.
        seed: of every choice; each client derives its own.
        clients: how many.
        through_view: leave out what a view cannot serve: ON CONFLICT, FOR UPDATE, TRUNCATE.
    """

    dsn: str
    scheme: Scheme
    isolation: Isolation
    seed: int
    clients: int = 4
    # `make soak` lets them write as fast as they can; otherwise they leave the processors to what is tested.
    breath_s: float = 0.0 if os.environ.get("TEST_ALL") else 0.002
    failures: list[Failure] = field(default_factory=list)
    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    retries: int = 0
    committed: int = 0
    phase: str = "before"
    through_view: bool = False

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._guard = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._phase_began = time.monotonic()
        self._truncate_after = 0.0
        self._truncating = False
        self._start_at = 0

    # --- the twin tables

    def create(self, rows: int) -> None:
        """Create both tables with the same cold rows."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for table in ("t_twin", "t"):
                conn.execute(self.scheme.create(table))
            keys = list(self.scheme.keys) + ([None] if self.scheme.nullable else [])
            with conn.cursor().copy(f"COPY t_twin ({', '.join(COLUMNS)}) FROM STDIN") as copy:
                for number in range(rows):
                    client = number % self.clients
                    copy.write_row(
                        (
                            (client + 1) * OWN + number,
                            keys[number % len(keys)],
                            -number,
                            f"cold {number}",
                            number % 100,
                            0,
                            "x" * (number % 60),
                        )
                    )
                for number in HOT:
                    copy.write_row((number, keys[number % 3], number, f"hot {number}", 0, 0, None))
            conn.execute("INSERT INTO t SELECT * FROM t_twin")
            conn.execute("VACUUM ANALYZE t")

    def differences(self) -> list[tuple[Any, ...]]:
        """Rows that only one of the two holds: up to five of each."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("SET max_parallel_workers_per_gather = 0")
            return conn.execute(
                "(SELECT 'only in t', x.* FROM (TABLE t EXCEPT ALL TABLE t_twin) x LIMIT 5) UNION ALL"
                " (SELECT 'only in the twin', x.* FROM (TABLE t_twin EXCEPT ALL TABLE t) x LIMIT 5)"
            ).fetchall()

    # --- the clients

    def kinds(self) -> set[str]:
        """Every kind of operation that this load performs."""
        left_out = NOT_THROUGH_A_VIEW if self.through_view else set[str]()
        return {*OPERATIONS, "truncate"} - left_out - (set() if self.scheme.nullable else {"update_to_null"})

    def missing(self) -> set[str]:
        """Kinds that have not happened yet in this phase."""
        with self._guard:
            return {kind for kind in self.kinds() if not self.done[self.phase, kind]}

    def enter(self, phase: str) -> None:
        """Begin a phase; what is done from now on counts for it."""
        with self._guard:
            self.phase = phase
            self._phase_began = time.monotonic()
            self._truncate_after = random.Random(f"{self.seed} {phase}").uniform(0.1, 0.8)

    def wait_for_every_kind(self, timeout_s: float) -> None:
        """Let the load run until every kind has happened in this phase, or the time is over."""
        until = time.monotonic() + timeout_s
        while self.missing() and not self.failures and time.monotonic() < until:
            time.sleep(0.02)

    def continue_from(self, other: Load) -> None:
        """Carry on where another load on the same tables stopped: no identifier is taken for fresh twice."""
        self._start_at = other._start_at + 10_000_000

    def start(self) -> None:
        for number in range(self.clients):
            thread = threading.Thread(target=self._client, args=(number,), name=f"twin {number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop every client and wait for it."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)
        stuck = [t.name for t in self._threads if t.is_alive()]
        if stuck:
            self._fail(Failure(-1, "stop", "", f"clients that do not stop: {stuck}"))
        self._threads.clear()

    def _fail(self, failure: Failure) -> None:
        with self._guard:
            self.failures.append(failure)

    def _client(self, number: int) -> None:
        client = _Client(self, number)
        try:
            with psycopg.connect(self.dsn, autocommit=True) as conn:
                client.connect(conn)
                while not self._stop.is_set() and len(self.failures) < 20:
                    client.transaction()
                    self._stop.wait(self.breath_s)
        except Exception as error:  # noqa: BLE001 because a thread must not die unheard
            self._fail(Failure(number, client.kind, client.statement, f"{type(error).__name__}: {error}"))

    def may_truncate(self) -> bool:
        """Once a phase, at a moment that the seed chooses."""
        with self._guard:
            due = time.monotonic() - self._phase_began > self._truncate_after
            if self.through_view or not due or self._truncating or self.done[self.phase, "truncate"]:
                return False
            self._truncating = True
            return True

    def count(self, kinds: Sequence[str]) -> None:
        with self._guard:
            self.committed += 1
            self.done.update((self.phase, kind) for kind in kinds)
            if "truncate" in kinds:
                self._truncating = False

    def retried(self) -> None:
        with self._guard:
            self.retries += 1


@dataclass
class _Client:
    load: Load
    number: int
    kind: str = ""
    statement: str = ""

    def __post_init__(self) -> None:
        self.random = random.Random(f"{self.load.seed} client {self.number}")
        self.base = (self.number + 1) * OWN
        self.next_id = self.base + 500_000_000 + self.load._start_at
        self.next_slot = self.base + self.load._start_at
        self.ids = [self.base + i for i in range(self.number, 400, self.load.clients)]
        self.differs: list[Failure] = []
        self.wrote: list[str] = []
        self.advisory: list[int] = []

    def connect(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        self.cur = conn.cursor()

    # --- values

    def fresh_id(self) -> int:
        self.next_id += 1
        self.ids.append(self.next_id)
        if len(self.ids) > 300:
            self.ids = self.random.sample(self.ids, 200)
        return self.next_id

    def fresh_slot(self) -> int:
        self.next_slot += 1
        return self.next_slot

    def key(self) -> Any:
        scheme = self.load.scheme
        # Before the swap the first partition's bound may refuse them.
        is_later = self.load.phase in ("after", "undo") and self.random.random() < 0.3
        return self.random.choice((is_later and scheme.later_keys) or scheme.keys)

    def row(self, number: int | None = None, key: Any = None) -> tuple[Any, ...]:
        slot = self.fresh_slot()
        return (
            self.fresh_id() if number is None else number,
            self.key() if key is None else key,
            slot,
            f"tag {slot}",
            self.random.choice((None, self.random.randrange(1000))),
            0,
            self.random.choice((None, "", "note", "ü\t\\\n")),
        )

    def existing(self, want: int = 1) -> list[tuple[Any, ...]]:
        """Own rows that are there now: (id, k, slot, tag)."""
        sample = self.random.sample(self.ids, min(12, len(self.ids)))
        rows = self.cur.execute(
            "SELECT id, k, slot, tag FROM t_twin WHERE id = ANY(%s) ORDER BY id", [sample]
        ).fetchall()
        return self.random.sample(rows, min(want, len(rows)))

    def absent(self) -> int | None:
        """An own identifier that was used and is gone."""
        sample = self.random.sample(self.ids, min(12, len(self.ids)))
        there = {r[0] for r in self.cur.execute("SELECT id FROM t_twin WHERE id = ANY(%s)", [sample]).fetchall()}
        gone = [i for i in sample if i not in there]
        return gone[0] if gone else None

    # --- statements

    def both(self, text: str, params: Sequence[Any] = (), *, prepare: bool | None = None) -> None:
        """Run a statement on the twin and on the table; note a difference of the rows reported."""
        answers: list[tuple[int, Any]] = []
        for table in ("t_twin", "t"):
            self.statement = text.replace("{t}", table)
            self.cur.execute(self.statement, params, prepare=prepare)
            rows = sorted(self.cur.fetchall(), key=repr) if self.cur.description else None
            answers.append((self.cur.rowcount, rows))
        if answers[0] != answers[1]:
            twin, table_ = (f"{answer!r:.300}" for answer in answers)
            what = f"the twin answered {twin}, the table {table_}; parameters {params!r:.200}"
            self.differs.append(Failure(self.number, self.kind, self.statement, what))

    def copy(self, rows: Sequence[Sequence[Any]]) -> None:
        for table in ("t_twin", "t"):
            self.statement = f"COPY {table} ({', '.join(COLUMNS)}) FROM STDIN"
            with self.cur.copy(self.statement) as copy:
                for row in rows:
                    copy.write_row(row)

    # --- transactions

    def transaction(self) -> None:
        """One transaction of one to four operations, retried until committed or rolled back on purpose."""
        if self.load.may_truncate():
            plan = ["truncate"]
        else:
            missing = sorted(self.load.missing() - {"truncate"})
            choices = sorted(self.load.kinds() - {"truncate"})
            plan = [
                self.random.choice(missing if missing and self.random.random() < 0.5 else choices)
                for _ in range(self.random.randint(1, 4))
            ]
        contended = sorted(set(self.random.sample(CONTENDED, 2))) if "contended" in plan else []
        hot = self.random.choice(HOT)
        for number in contended:
            self.cur.execute("SELECT pg_advisory_lock(77, %s)", [number])
        try:
            self._until_committed(plan, contended, hot)
        finally:
            if contended and not self.conn.closed:
                self.cur.execute("SELECT pg_advisory_unlock_all()")

    def _until_committed(self, plan: list[str], contended: list[int], hot: int) -> None:
        for attempt in range(200):
            try:
                self._attempt(plan, contended, hot)
            except psycopg.Error as error:
                if self.conn.closed:
                    raise
                self.cur.execute("ROLLBACK")
                if error.sqlstate not in RETRIED:
                    what = f"{error.sqlstate} {error}"
                    self.load._fail(Failure(self.number, self.kind, self.statement, what))
                    return
                self.load.retried()
                if self.load._stop.is_set() and attempt > 20:
                    return
                time.sleep(self.random.uniform(0, 0.002 * min(attempt + 1, 20)))
            else:
                return
        self.load._fail(Failure(self.number, str(plan), self.statement, "200 retries were not enough"))

    def _attempt(self, plan: list[str], contended: list[int], hot: int) -> None:
        self.differs, self.wrote = [], []
        self.kind, self.statement = "begin", "BEGIN"
        self.cur.execute(f"BEGIN ISOLATION LEVEL {self.load.isolation}")
        roll_back = False
        for kind in plan:
            self.kind = kind
            if kind == "truncate":
                if self.random.random() < 0.5:
                    self.cur.execute("TRUNCATE t_twin, t")
                else:
                    self.cur.execute("TRUNCATE t_twin")
                    self.cur.execute("TRUNCATE t")
                for number in HOT:
                    self.both(
                        INSERT,
                        (number, self.load.scheme.keys[number % 3], number, f"hot {number}", 0, 0, None),
                    )
                happened = True
            elif kind == "contended":
                for number in contended:
                    _contended(self, number)
                happened = True
            elif kind == "increment":
                self.both("UPDATE {t} SET n = n + 1 WHERE id = %s RETURNING n", [hot], prepare=True)
                happened = True
            else:
                happened = OPERATIONS[kind](self)
            if happened:
                self.wrote.append(kind)
            roll_back = roll_back or kind == "roll_back"
        self.kind, self.statement = "+".join(plan), "ROLLBACK" if roll_back else "COMMIT"
        self.cur.execute(self.statement)
        for failure in self.differs:
            self.load._fail(failure)
        # What was undone on purpose counts as the undoing only.
        self.load.count(["roll_back"] if roll_back else self.wrote)


# --- the operations; each returns whether there was something to do ---------------------------------------

_NAMES = ", ".join(COLUMNS)
_VALUES = "(" + ", ".join(["%s"] * len(COLUMNS)) + ")"
INSERT = f"INSERT INTO {{t}} ({_NAMES}) VALUES {_VALUES}"


def _insert(c: _Client) -> bool:
    c.both(INSERT + " RETURNING *", c.row())
    return True


def _insert_many(c: _Client) -> bool:
    rows = [c.row() for _ in range(c.random.randint(2, 6))]
    c.both(
        f"INSERT INTO {{t}} ({_NAMES}) VALUES " + ", ".join([_VALUES] * len(rows)),
        [v for r in rows for v in r],
    )
    return True


def _upsert_update(c: _Client) -> bool:
    found = [r for r in c.existing() if r[1] is not None]
    row = c.row(*found[0][:2]) if found and c.random.random() < 0.7 else c.row()
    c.both(
        INSERT + " ON CONFLICT (id, k) DO UPDATE SET v = coalesce({t}.v, 0) + 1, slot = EXCLUDED.slot,"
        " tag = EXCLUDED.tag WHERE {t}.v IS DISTINCT FROM 13 RETURNING v",
        row,
    )
    return True


def _upsert_nothing(c: _Client) -> bool:
    found = [r for r in c.existing(3) if r[1] is not None]
    rows = [c.row(*r[:2]) for r in found] + [c.row()]
    c.both(
        f"INSERT INTO {{t}} ({_NAMES}) VALUES "
        + ", ".join([_VALUES] * len(rows))
        + " ON CONFLICT DO NOTHING RETURNING id",
        [v for r in rows for v in r],
    )
    return True


def _update_plain(c: _Client) -> bool:
    found = c.existing()
    for row in found:
        c.both("UPDATE {t} SET v = %s, note = note || '+' WHERE id = %s", [c.random.randrange(1000), row[0]])
    return bool(found)


def _update_many(c: _Client) -> bool:
    numbers = sorted(c.random.sample(c.ids, min(30, len(c.ids))))
    c.both("UPDATE {t} SET v = coalesce(v, 0) + 1 WHERE id = ANY(%s)", [numbers])
    return True


def _update_key(c: _Client) -> bool:
    found = c.existing()
    for row in found:
        to = c.absent() if c.random.random() < 0.5 else None
        c.both("UPDATE {t} SET id = %s WHERE id = %s", [c.fresh_id() if to is None else to, row[0]])
    return bool(found)


def _update_partition_key(c: _Client) -> bool:
    found = c.existing()
    for row in found:
        c.both("UPDATE {t} SET k = %s WHERE id = %s RETURNING id, k, v", [c.key(), row[0]])
    return bool(found)


def _update_to_null(c: _Client) -> bool:
    found = c.existing(2)
    for row in found:
        c.both("UPDATE {t} SET k = NULL WHERE id = %s", [row[0]])
    return bool(found)


def _delete(c: _Client) -> bool:
    found = c.existing(c.random.randint(1, 3))
    c.both("DELETE FROM {t} WHERE id = ANY(%s) RETURNING id, v", [sorted(r[0] for r in found)])
    return bool(found)


def _insert_again(c: _Client) -> bool:
    gone = c.absent()
    if gone is None or c.random.random() < 0.4:
        found = c.existing()
        if not found:
            return False
        gone = found[0][0]
        c.both("DELETE FROM {t} WHERE id = %s", [gone])
    c.both(INSERT, c.row(gone))
    return True


def _copy(c: _Client) -> bool:
    c.copy([c.row() for _ in range(c.random.randint(1, 40))])
    return True


def _lock_and_update(c: _Client) -> bool:
    found = c.existing(2)
    numbers = sorted(r[0] for r in found)
    c.both("SELECT * FROM {t} WHERE id = ANY(%s) ORDER BY id FOR UPDATE", [numbers])
    c.both("UPDATE {t} SET n = n + 10 WHERE id = ANY(%s)", [numbers])
    return bool(found)


def _prepared(c: _Client) -> bool:
    found = c.existing()
    for row in found:
        c.both("UPDATE {t} SET v = v - 1 WHERE id = %s AND k = %s RETURNING *", row[:2], prepare=True)
    c.both("SELECT * FROM {t} WHERE id = %s", [c.random.choice(c.ids)], prepare=True)
    c.both(INSERT, c.row(), prepare=True)
    return bool(found)


def _savepoint_rolled_back(c: _Client) -> bool:
    c.cur.execute("SAVEPOINT s")
    _delete(c)
    _insert(c)
    _update_partition_key(c)
    c.cur.execute("ROLLBACK TO s")
    if c.random.random() < 0.5:
        c.cur.execute("RELEASE s")
    return _update_plain(c)


def _roll_back(c: _Client) -> bool:
    _insert(c)
    _delete(c)
    return True


def _swap_unique(c: _Client) -> bool:
    """Two rows of one key exchange what is unique, by way of a third value."""
    found = c.existing(2)
    if len(found) < 2 or found[0][1] is None:
        return False
    (a, k, slot_a, tag_a), (b, _, slot_b, tag_b) = found
    c.both("UPDATE {t} SET k = %s WHERE id = %s", [k, b])
    c.both("UPDATE {t} SET slot = %s, tag = %s WHERE id = %s", [-slot_a - 10**12, f"~{tag_a}", a])
    c.both("UPDATE {t} SET slot = %s, tag = %s WHERE id = %s", [slot_a, tag_a, b])
    c.both("UPDATE {t} SET slot = %s, tag = %s WHERE id = %s", [slot_b, tag_b, a])
    return True


def _hand_over_unique(c: _Client) -> bool:
    """A row goes and a new one takes over what was unique about it."""
    found = c.existing()
    for number, key, slot, tag in found:
        c.both("DELETE FROM {t} WHERE id = %s", [number])
        c.both(INSERT, (c.fresh_id(), key, slot, tag, 1, 0, "heir"))
    return bool(found)


def _read(c: _Client) -> bool:
    c.both(
        "SELECT count(*), sum(v), sum(n) FROM {t} WHERE id BETWEEN %s AND %s",
        [c.base, c.base + OWN - 1],
        prepare=True,
    )
    return True


def _contended(c: _Client, number: int) -> bool:
    """Whatever suits the contended row; its advisory lock is held since before BEGIN."""
    there = c.cur.execute("SELECT k FROM t_twin WHERE id = %s", [number]).fetchall()
    what = c.random.random()
    if not there or there[0][0] is None:
        c.both("DELETE FROM {t} WHERE id = %s", [number])
        c.both(INSERT, c.row(number))
    elif what < 0.3:
        c.both("DELETE FROM {t} WHERE id = %s", [number])
    elif what < 0.6 and not c.load.through_view:
        c.both(INSERT + " ON CONFLICT (id, k) DO UPDATE SET n = {t}.n + 1", c.row(number, there[0][0]))
    else:
        c.both("UPDATE {t} SET k = %s, n = n + 1 WHERE id = %s", [c.key(), number])
    return True


def _never(_: _Client) -> bool:  # performed by the transaction itself
    raise AssertionError


OPERATIONS: dict[str, Callable[[_Client], bool]] = {
    "insert": _insert,
    "insert_many": _insert_many,
    "upsert_update": _upsert_update,
    "upsert_nothing": _upsert_nothing,
    "update_plain": _update_plain,
    "update_many": _update_many,
    "update_key": _update_key,
    "update_partition_key": _update_partition_key,
    "update_to_null": _update_to_null,
    "delete": _delete,
    "insert_again": _insert_again,
    "copy": _copy,
    "lock_and_update": _lock_and_update,
    "prepared": _prepared,
    "savepoint_rolled_back": _savepoint_rolled_back,
    "roll_back": _roll_back,
    "swap_unique": _swap_unique,
    "hand_over_unique": _hand_over_unique,
    "read": _read,
    "contended": _never,
    "increment": _never,
}

NOT_THROUGH_A_VIEW = {"upsert_update", "upsert_nothing", "lock_and_update", "truncate"}


def is_partitioned(dsn: str, table: str) -> bool:
    """Whether a table of the search path is partitioned."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            sql.SQL("SELECT relkind = 'p' FROM pg_class WHERE oid = {}::regclass").format(sql.Literal(table))
        ).fetchone()
        return bool(row and row[0])
