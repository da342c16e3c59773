"""Dividing a partition under load: the table ends as its untouched twin, and so it does after undo."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

import psycopg
import pytest

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.errors import RefusedError
from pgscale.partition import Options, SplitOptions
from support import parity
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


def _scheme(name: str) -> Scheme:
    """The scheme of this name; `attach_…` is an ordinary table, which attach partitions before it is divided."""
    plain = SCHEMES[name]
    if name == "attach_range":
        # Of this year: from the oldest key to the present there are as many partitions as months.
        return replace(plain, keys=tuple(f"{date.today() - timedelta(days=9 * n)}" for n in range(18)))
    if plain.strategy == "attach":
        return plain
    return PartitionedScheme(name=name, by=plain.by, key_type=plain.key_type, keys=plain.keys, values=plain.values)


@dataclass
class DirectWriters:
    """Writes to the partition by its own name, every change also to the twin, until the partition is not there."""

    load: Load
    partition: str
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
            for table in ("t_twin", self.partition):
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
                answers.append(conn.execute(text, values).rowcount)
            if answers[0] != answers[1]:
                self.failures.append(f"kind {kind}: the twin {answers[0]} rows, the partition {answers[1]}")
        self.kinds.add(kind)


def _assert_same(load: Load, when: str) -> None:
    shown = "\n".join(f"client {f.client}, {f.kind}: {f.what}\n    {f.statement}" for f in load.failures[:8])
    assert not load.failures, f"{len(load.failures)} failures {when} (seed {load.seed}):\n{shown}"
    assert not load.differences(), f"the twins differ {when} (seed {load.seed}): {load.differences()}"


def _attach(database: Database, scheme: Scheme) -> str:
    """Let attach partition the table, and return the first partition, which has all rows."""
    options = Options(by=scheme.by, strategy="attach", pace="fast", accept_key_change=scheme.nullable)
    assert partition.run(database.dsn, "public.t", options).state == "cut-over"
    assert partition.finish(database.dsn, "public.t").state == "finished"
    return "t_p_first"


def _history(database: Database, name: str, isolation: Isolation, seed: int, rows: int = 4_000) -> None:
    load = Load(dsn=database.dsn, scheme=_scheme(name), isolation=isolation, seed=seed)
    load.create(rows)
    first = _attach(database, load.scheme) if load.scheme.strategy == "attach" else "t_first"
    with database.connect() as conn:
        old_leaves = {x.name for x in parity.leaves_of(conn, parity.TableName("public", "t"))}
    patience_s = 4.0

    def watch(progress: Progress) -> None:
        # Hold the run where it holds nothing itself, until the load has done everything in its sight.
        nonlocal patience_s
        if progress.phase in ("copy", "apply") and patience_s > 0 and load.missing():
            began = time.monotonic()
            load.wait_for_every_kind(min(0.5, patience_s))
            patience_s -= time.monotonic() - began

    options = SplitOptions(
        every="month" if "range" in name else None, partition=first, workers=2, pace="fast", time_zone="UTC"
    )
    direct = DirectWriters(load, first)
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
        assert first not in names
        assert len(names) > len(old_leaves) + 1

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
        assert names == old_leaves


CASES: list[tuple[str, Isolation]] = [
    ("attach_range", "READ COMMITTED"),
    ("range", "SERIALIZABLE"),
    ("attach_list", "SERIALIZABLE"),
    ("list", "REPEATABLE READ"),
]
MORE_CASES: list[tuple[str, Isolation]] = [
    *CASES,
    ("attach_range", "REPEATABLE READ"),
    ("attach_range", "SERIALIZABLE"),
    ("attach_list", "READ COMMITTED"),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("name", "isolation"), CASES)
def test_the_table_ends_as_its_untouched_twin(database: Database, name: str, isolation: Isolation) -> None:
    _history(database, name, isolation, seed=2013)


@pytest.mark.versions(14)
def test_the_table_ends_as_its_untouched_twin_on_the_oldest_version(database: Database) -> None:
    _history(database, "range", "READ COMMITTED", seed=14)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("name", "isolation"), MORE_CASES)
def test_many_histories(database_factory, name: str, isolation: Isolation) -> None:
    """`SOAK_ROUNDS` rounds, seeds drawn from `SOAK_SEED`; printed, so that a failure can be repeated."""
    rounds = int(os.environ.get("SOAK_ROUNDS", "10"))
    first = int(os.environ.get("SOAK_SEED", str(random.randrange(10**9))))
    seeds = random.Random(first)
    for number in range(rounds):
        seed, rows = seeds.randrange(10**9), seeds.choice((100, 4000, 40000))
        print(f"split {name} {isolation}: round {number + 1}/{rounds}, SOAK_SEED={first}, seed={seed}, rows={rows}")
        _history(database_factory(), name, isolation, seed, rows)


def test_a_partition_whose_key_names_no_row_is_refused(database: Database) -> None:
    """Attach needs no key that names a row; where the partition key may be NULL none is left once it has grown."""
    load = Load(dsn=database.dsn, scheme=_scheme("attach_null"), isolation="READ COMMITTED", seed=1)
    load.create(100)
    first = _attach(database, load.scheme)
    before = parity.dump_schema(database.superuser_dsn)
    with pytest.raises(RefusedError) as refused:
        partition.split(database.dsn, "public.t", SplitOptions(partition=first, pace="fast"))
    assert any("no key that names a row" in reason for reason in refused.value.reasons)
    parity.assert_identical(before, parity.dump_schema(database.superuser_dsn))
    assert not load.differences()
