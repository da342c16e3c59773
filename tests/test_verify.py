"""Verification finds every row that differs, on either side, at either end, whether done at once or in bursts."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.errors import MismatchError
from pgscale.livecopy import applier, throttle, verifier
from pgscale.livecopy.throttle import Pace
from pgscale.partition import Options, RunResult
from support.servers import Database

ROWS = 5_000
TABLE = """
CREATE TABLE t (id int PRIMARY KEY, amount numeric NOT NULL, note text);
INSERT INTO t SELECT g, 1.0, repeat('x', g % 50) FROM generate_series(1, {rows}) g;
"""
# A key whose values must be quoted, in parts that sort by different rules.
WORDS = """
CREATE TABLE t (word text COLLATE "C", n int, note text, PRIMARY KEY (word, n));
INSERT INTO t SELECT w || to_char(g, 'FM0000') COLLATE "C", g, 'n' FROM generate_series(1, {rows} / 4) g,
  (VALUES (E'it''s'), (E'back\\\\slash'), ('100 %s $1'), ('"ä", (b)')) w (w) ORDER BY 1, 2;
"""
CHANGES = (
    ("the first is missing", "DELETE FROM {t} WHERE id = 1", (1,)),
    ("the last is missing", f"DELETE FROM {{t}} WHERE id = {ROWS}", (ROWS,)),
    ("one before all others", "INSERT INTO {t} VALUES (-7, 1.0)", (-7,)),
    ("one after all others", "INSERT INTO {t} VALUES (99999, 1.0)", (99999,)),
    ("one that is equal, not alike", "UPDATE {t} SET amount = 1.00 WHERE id = 2500", (2500,)),
    ("NULL for an empty text", "UPDATE {t} SET note = NULL WHERE id = 50", (50,)),
    ("two far apart", "UPDATE {t} SET note = 'y' WHERE id IN (3, 4998)", (3, 4998)),
)  # fmt: skip
Paces = pytest.mark.parametrize("pace", ["fast", "normal"])


@pytest.fixture(autouse=True)
def ranges(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing to listen to; many ranges and bursts although the table is small; and how they were compared."""
    compared: list[str] = []
    for kind in (verifier._AtOnce, verifier._InBursts):

        def compare(self: Any, *given: Any, by: Any = kind.compare) -> int:
            compared.append(type(self).__name__)
            return by(self, *given)

        monkeypatch.setattr(kind, "compare", compare)
    monkeypatch.setitem(throttle.PACES, "normal", replace(throttle.PACES["normal"], listen_s=0.0, least_duty=0.3))
    monkeypatch.setattr(verifier, "LEAST_ROWS", 100)
    monkeypatch.setattr(verifier._InBursts, "LEAST_RANGE", 100)
    monkeypatch.setattr(verifier._InBursts, "MOST_RANGE", 700)
    monkeypatch.setattr(verifier._InBursts, "LEAST_BURST", 30)
    monkeypatch.setattr(applier.InBackground, "PERIOD_S", 0.01)
    return compared


def _run(database: Database, pace: Pace, change: str = "", *, by: str = "hash:id") -> RunResult:
    """Change the copy behind the log's back when it is about to be verified."""
    changed = not change

    def watch(progress: Progress) -> None:
        nonlocal changed
        if progress.phase == "verify" and not changed:
            changed = True
            with database.connect_superuser() as root:
                found = root.execute(
                    "SELECT oid::regclass::text FROM pg_class WHERE relname = 't' AND relkind = 'p'"
                ).fetchone()
                assert found is not None
                assert root.execute(change.format(t=found[0]).encode()).rowcount > 0

    return partition.run(database.dsn, "public.t", Options(by=by, partitions=3, pace=pace, workers=2), watch=watch)


def _make(database: Database, ddl: str, rows: int = ROWS) -> psycopg.Connection[Any]:
    conn = database.connect()
    conn.execute(ddl.format(rows=rows).encode())
    conn.execute("ANALYZE t")
    return conn


@pytest.mark.sampled(2)
@Paces
@pytest.mark.parametrize(("change", "keys"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_row_that_differs_is_named(database: Database, pace: Pace, change: str, keys: tuple[int, ...]) -> None:
    conn = _make(database, TABLE)
    with pytest.raises(MismatchError) as raised:
        _run(database, pace, change)
    # Of several ranges the first to be compared is told.
    assert any(f"(id) = ({key})" in str(raised.value) for key in keys), str(raised.value)
    assert partition.abort(database.dsn, "public.t").state == "aborted"
    assert conn.execute("SELECT count(*), sum(id) FROM t").fetchone() == (ROWS, ROWS * (ROWS + 1) // 2)


@pytest.mark.sampled(3)
@Paces
@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101, ROWS])
def test_every_row_is_counted_once(database: Database, pace: Pace, rows: int, ranges: list[str]) -> None:
    _make(database, TABLE, rows)
    result = _run(database, pace)
    assert (result.rows_checked, result.mismatches) == (rows, 0)
    if rows == ROWS:
        assert ranges[5:] == [{"fast": "_AtOnce", "normal": "_InBursts"}[pace]] * (len(ranges) - 5)


@Paces
def test_keys_are_quoted(database: Database, pace: Pace, ranges: list[str]) -> None:
    _make(database, WORDS)
    with pytest.raises(MismatchError, match="100 %s"):
        _run(database, pace, "UPDATE {t} SET note = 'm' WHERE n = 500 AND word LIKE '100%'", by="hash:n")
    partition.abort(database.dsn, "public.t")
    assert _run(database, pace, by="hash:n").rows_checked == ROWS
    assert len(ranges) > 5


@Paces
def test_a_row_that_waits_in_the_log_is_compared_later(database: Database, pace: Pace) -> None:
    """It differs, and is no mismatch: its change is still to be applied."""
    conn = _make(database, TABLE)
    before, told = 0, 0

    def watch(progress: Progress) -> None:
        nonlocal told, before
        if progress.phase == "verify" and not told:
            told = 1
            before = conn.execute("UPDATE t SET note = 'later' WHERE id % 7 = 0").rowcount

    options = Options(by="hash:id", partitions=3, pace=pace, workers=2)
    result = partition.run(database.dsn, "public.t", options, watch=watch)
    assert before == ROWS // 7
    assert result.mismatches == 0
    assert result.rows_checked >= ROWS
    found = conn.execute("SELECT count(*) FROM t WHERE note = 'later'").fetchone()
    assert found == (ROWS // 7,)


@pytest.mark.sampled(2)
@Paces
@pytest.mark.parametrize("statement", ["TRUNCATE t", "LOCK TABLE t IN ACCESS EXCLUSIVE MODE"])
def test_nobody_waits_for_ever_for_a_lock(database: Database, pace: Pace, statement: str) -> None:
    """The application asks for an exclusive lock while a range is open, and writes go on."""
    _make(database, TABLE)
    done: list[int] = []
    failures: list[psycopg.Error] = []

    def ask() -> None:
        try:
            with database.connect() as other, other.transaction():
                other.execute("SET LOCAL lock_timeout = '8s'")
                other.execute("UPDATE t SET note = 'w' WHERE id % 3 = 0")
                other.execute(statement.encode())
        except psycopg.Error as error:
            failures.append(error)

    def watch(progress: Progress) -> None:
        if progress.phase == "verify" and progress.done > 0 and len(done) < 3:
            done.append(progress.done)
            thread = threading.Thread(target=ask)
            thread.start()
            waiting.append(thread)

    waiting: list[threading.Thread] = []
    options = Options(by="hash:id", partitions=3, pace=pace, workers=1)
    result = partition.run(database.dsn, "public.t", options, watch=watch)
    for thread in waiting:
        thread.join(20)
        assert not thread.is_alive()
    assert waiting
    assert not [e for e in failures if e.sqlstate != "40P01"]
    assert result.mismatches == 0
    assert result.state == "cut-over"


@Paces
def test_a_bulk_change_is_judged_by_the_range(database: Database, pace: Pace, ranges: list[str]) -> None:
    """Every key of every range differs and waits; then the source is nearly empty and the target is not."""
    conn = _make(database, TABLE)
    told = 0

    def watch(progress: Progress) -> None:
        nonlocal told
        if progress.phase == "verify" and told < 2:
            told += 1
            conn.execute(("UPDATE t SET note = 'n'", "DELETE FROM t WHERE id > 10")[told - 1].encode())

    options = Options(by="hash:id", partitions=3, pace=pace, workers=2)
    result = partition.run(database.dsn, "public.t", options, watch=watch)
    assert result.mismatches == 0
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (10,)
    assert ranges


def test_the_log_is_not_truncated_under_a_snapshot(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that waits in the log as the open range sees it still waits there when the range is judged."""
    monkeypatch.setattr(applier.Applier, "VACUUM_PAGES", 1)
    monkeypatch.setattr(applier.Applier, "SHRINK_PAGES", 1)
    monkeypatch.setattr(verifier._InBursts, "MOST_DIFFERING", 10_000)
    conn = _make(database, TABLE)
    slept = 0

    def worked(self: throttle.Throttle, started: float, stop: threading.Event) -> None:
        # Between the bursts of the first ranges: time to apply everything and to give the log's space back.
        nonlocal slept
        if threading.current_thread().name == "comparing" and slept < 3:
            slept += 1
            time.sleep(0.5)

    def compare(self: Any, *given: Any, by: Any = verifier._InBursts.compare) -> int:
        threading.current_thread().name = "comparing"
        if slept < 3:
            conn.execute("UPDATE t SET amount = amount + 1 WHERE id % 2 = 0")
        return by(self, *given)

    monkeypatch.setattr(throttle.Throttle, "worked", worked)
    monkeypatch.setattr(verifier._InBursts, "compare", compare)
    result = partition.run(database.dsn, "public.t", Options(by="hash:id", partitions=3, workers=1))
    assert slept == 3
    assert result.mismatches == 0
