"""Dividing a partition under load and under kills: the table ends as its untouched twin, and so it does after undo."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import psycopg
import pytest

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.partition import SplitOptions
from support import parity
from support.clients import pg_dump_schema
from support.crash import pgscale
from support.servers import Database
from support.twin import COLUMNS, SCHEMES, Isolation, Load, Scheme

# How the table of each scheme is partitioned before: a big first partition, others beside it, a DEFAULT.
LEAVES = {
    "range": (
        "PARTITION BY RANGE (k)",
        "FOR VALUES FROM (MINVALUE) TO ('2013-05-01')",
        "FOR VALUES FROM ('2013-05-01') TO ('2013-06-01')",
    ),
    "list": ("PARTITION BY LIST (k)", "FOR VALUES IN ('a', 'b', 'C c')", "FOR VALUES IN ('d''d')"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionedScheme(Scheme):
    """The twin is an ordinary table; the table is partitioned, and most keys lie in its first partition."""

    def create(self, table: str) -> str:
        text = Scheme.create(self, table)
        if table != "t":
            return text
        by, first, second = LEAVES[self.name]
        return (
            text.replace(";", f" {by};", 1)
            + f";CREATE TABLE t_first PARTITION OF t {first};CREATE TABLE t_second PARTITION OF t {second};"
            "CREATE TABLE t_rest PARTITION OF t DEFAULT"
        )


def _scheme(name: str) -> PartitionedScheme:
    plain = SCHEMES[name]
    return PartitionedScheme(name=name, by=plain.by, key_type=plain.key_type, keys=plain.keys, values=plain.values)


@dataclass
class DirectWriters:
    """Writes to the partition by its own name, every change also to the twin, until the partition is not there."""

    load: Load
    committed: int = 0
    kinds: set[int] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        rng = random.Random(self.load.seed)
        key = self.load.scheme.keys[0]
        with psycopg.connect(self.load.dsn, autocommit=True) as conn:
            for number in range(10**6):
                if self.load._stop.is_set():
                    return
                try:
                    self._transaction(conn, rng, 90_000_000 + number, key)
                    self.committed += 1
                except psycopg.errors.UndefinedTable:
                    return
                except psycopg.Error as error:
                    if error.sqlstate not in ("40001", "40P01"):
                        self.failures.append(f"{error.sqlstate} {error}")
                        return

    def _transaction(self, conn: psycopg.Connection, rng: random.Random, new: int, key: object) -> None:
        # A TRUNCATE takes what it likes with it: an own row may be gone.
        kind, old = rng.randrange(4), new - rng.randrange(1, 30)
        with conn.transaction():
            answers = []
            for table in ("t_twin", "t_first"):
                if kind == 0:
                    with conn.cursor().copy(f"COPY {table} ({', '.join(COLUMNS)}) FROM STDIN") as copy:
                        copy.write_row((new, key, -new, f"direct {new}", 1, 0, None))
                    answers.append(1)
                    continue
                if kind == 1:
                    text = f"UPDATE {table} SET n = n + 1 WHERE id = %(old)s AND k = %(k)s"
                elif kind == 2:
                    text = f"DELETE FROM {table} WHERE id = %(old)s AND k = %(k)s"
                else:
                    text = (
                        f"INSERT INTO {table} (id, k, slot, tag) VALUES (%(new)s, %(k)s, -%(new)s, 'd' || %(new)s)"
                        f" ON CONFLICT (id, k) DO UPDATE SET n = {table}.n + 1"
                    )
                values = {"old": old, "new": new, "k": key}
                answers.append(conn.execute(text, values).rowcount)  # type: ignore[arg-type]
            if answers[0] != answers[1]:
                self.failures.append(f"kind {kind}: the twin {answers[0]} rows, the partition {answers[1]}")
        self.kinds.add(kind)


def _assert_same(load: Load, when: str) -> None:
    shown = "\n".join(f"client {f.client}, {f.kind}: {f.what}\n    {f.statement}" for f in load.failures[:8])
    assert not load.failures, f"{len(load.failures)} failures {when} (seed {load.seed}):\n{shown}"
    assert not load.differences(), f"the twins differ {when} (seed {load.seed}): {load.differences()}"


def _history(database: Database, name: str, isolation: Isolation, seed: int, rows: int = 4_000) -> None:
    load = Load(dsn=database.dsn, scheme=_scheme(name), isolation=isolation, seed=seed)
    load.create(rows)
    patience_s = 4.0

    def watch(progress: Progress) -> None:
        # Hold the run where it holds nothing itself, until the load has done everything in its sight.
        nonlocal patience_s
        if progress.phase in ("copy", "apply") and patience_s > 0 and load.missing():
            began = time.monotonic()
            load.wait_for_every_kind(min(0.5, patience_s))
            patience_s -= time.monotonic() - began

    options = SplitOptions(
        every="month" if name == "range" else None, partition="t_first", workers=2, pace="fast", time_zone="UTC"
    )
    direct = DirectWriters(load)
    load.enter("before")
    load.start()
    thread = direct.start()
    try:
        load.wait_for_every_kind(3)
        load.enter("during")
        result = partition.split(database.dsn, "public.t", options, watch=watch)
        load.enter("after")
        load.wait_for_every_kind(4)
    finally:
        load.stop()
        thread.join(30)
    _assert_same(load, "after the split")
    assert not direct.failures
    assert direct.kinds == {0, 1, 2, 3}
    assert result.mismatches == 0
    for phase in ("before", "during", "after"):
        missed = sorted(kind for kind in load.kinds() if not load.done[phase, kind])
        assert not missed, f"never happened {phase} the split: {missed}"
    with database.connect() as conn:
        names = {x.name for x in parity.leaves_of(conn, parity.TableName("public", "t"))}
        assert "t_first" not in names
        assert len(names) > 4

    back = Load(dsn=database.dsn, scheme=load.scheme, isolation=isolation, seed=seed + 1, phase="undo")
    back.enter("undo")
    back.continue_from(load)
    back.start()
    try:
        back.wait_for_every_kind(2)
        partition.undo(database.dsn, "public.t")
        back.enter("undone")
        back.wait_for_every_kind(1)
    finally:
        back.stop()
    _assert_same(back, "after undo")
    with database.connect() as conn:
        names = {x.name for x in parity.leaves_of(conn, parity.TableName("public", "t"))}
        assert names == {"t_first", "t_second", "t_rest"}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("name", "isolation"), [("range", "SERIALIZABLE"), ("list", "REPEATABLE READ")])
def test_the_table_ends_as_its_untouched_twin(database: Database, name: str, isolation: Isolation) -> None:
    _history(database, name, isolation, seed=2013)


@pytest.mark.versions(14)
def test_the_table_ends_as_its_untouched_twin_on_the_oldest_version(database: Database) -> None:
    _history(database, "range", "READ COMMITTED", seed=14)


# --- kills --------------------------------------------------------------------------------------------------

DDL = """
CREATE TABLE owner_of (id int PRIMARY KEY);
INSERT INTO owner_of SELECT g FROM generate_series(0, 9) g;
CREATE TABLE t (id bigint PRIMARY KEY, owner int NOT NULL REFERENCES owner_of, v bigint NOT NULL DEFAULT 0)
  PARTITION BY RANGE (id);
CREATE TABLE t_first PARTITION OF t FOR VALUES FROM (MINVALUE) TO (8000);
CREATE TABLE t_default PARTITION OF t DEFAULT;
CREATE INDEX ON t (owner);
CREATE TABLE t_twin (LIKE t INCLUDING ALL);
INSERT INTO t SELECT g, g % 10, 0 FROM generate_series(1, 9000) g;
INSERT INTO t_twin SELECT * FROM t;
"""
SPLIT = ("split", "t", "--every", "2000", "--pace", "fast", "--workers", "2")
BEFORE_CUTOVER = (
    "after:prepare",
    "after:capture",
    "before:scrub",
    "after:apart",
    "before:verify",
    "before:cutover",
)


@dataclass
class Writer:
    """One thread that writes the same to both tables in one transaction."""

    dsn: str
    failures: list[str] = field(default_factory=list)
    committed: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Writer:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        rng = random.Random(7)
        with psycopg.connect(self.dsn) as conn:
            while not self._stop.is_set():
                a, b, kind = rng.randrange(1, 8500), rng.randrange(1, 8500), rng.randrange(3)
                try:
                    with conn.transaction():
                        for table in ("t_twin", "t"):
                            conn.execute(f"DELETE FROM {table} WHERE id = {b}")  # type: ignore[arg-type]
                            if kind:
                                conn.execute(
                                    f"INSERT INTO {table} VALUES ({a}, {a % 10}, 1)"  # type: ignore[arg-type]
                                    f" ON CONFLICT (id) DO UPDATE SET v = {table}.v + 1"
                                )
                            else:
                                conn.execute(f"UPDATE {table} SET id = {b} WHERE id = {a}")  # type: ignore[arg-type]
                    self.committed += 1
                except psycopg.errors.SerializationFailure:
                    continue
                except psycopg.Error as error:
                    self.failures.append(f"{error.sqlstate} {error}")
                    return


def _differences(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT (SELECT count(*) FROM (TABLE t EXCEPT ALL TABLE t_twin) a)"
            " + (SELECT count(*) FROM (TABLE t_twin EXCEPT ALL TABLE t) b)"
        ).fetchone()
        assert row is not None
        return int(row[0])


def _leaves(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        return [leaf.name for leaf in parity.leaves_of(conn, parity.TableName("public", "t"))]


def _make(dsn: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(DDL)
    return pg_dump_schema(dsn)


def _kill(dsn: str, point: str) -> None:
    killed = pgscale(dsn, *SPLIT, kill_at=point)
    assert killed.returncode == -9, killed.stderr


DIVIDED = ["t_before_0", "t_default", "t_p0", "t_p2000", "t_p4000", "t_p6000"]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("point", [*BEFORE_CUTOVER, "after:cutover"])
def test_resume_finishes_a_split_killed_at(database: Database, point: str) -> None:
    _make(database.dsn)
    with Writer(database.dsn) as writer:
        _kill(database.dsn, point)
        result = partition.resume(database.dsn, "t")
        assert (result.state, result.mismatches) == ("cut-over", 0)
        assert result.rows_checked > 5_000
    assert not writer.failures
    assert writer.committed > 10
    assert _differences(database.dsn) == 0
    assert _leaves(database.dsn) == DIVIDED
    partition.finish(database.dsn, "t")
    assert _differences(database.dsn) == 0
    with database.connect_superuser() as root:
        assert parity.traces(root) == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize("point", BEFORE_CUTOVER[::2])
def test_abort_restores_a_table_whose_split_was_killed_at(database: Database, point: str) -> None:
    before = _make(database.dsn)
    with Writer(database.dsn) as writer:
        _kill(database.dsn, point)
        assert partition.abort(database.dsn, "t_first").state == "aborted"
    assert not writer.failures
    assert _differences(database.dsn) == 0
    assert pg_dump_schema(database.dsn) == before
    with database.connect_superuser() as root:
        assert parity.traces(root) == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize("point", ["after:cutover", "before:settle:0"])
def test_undo_restores_a_table_whose_split_was_killed_at(database: Database, point: str) -> None:
    before = _make(database.dsn)
    with Writer(database.dsn) as writer:
        _kill(database.dsn, point)
        killed = pgscale(database.dsn, "undo", "t", kill_at="after:undo_before:1")
        assert killed.returncode == -9, killed.stderr
        assert partition.undo(database.dsn, "t").state == "undone"
    assert not writer.failures
    assert _differences(database.dsn) == 0
    parity.assert_identical(before, pg_dump_schema(database.dsn))
    with database.connect_superuser() as root:
        assert parity.traces(root) == []
