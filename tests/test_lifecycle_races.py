"""What changes between the plan of `maintain` and its action: nothing is lost, and what is in the way is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from pgscale import partition
from pgscale.connect.session import Session
from pgscale.core.model import Progress, Watch
from pgscale.partition import Limits, MaintainResult, PartitionSet
from pgscale.partition.lifecycle import archive, reader
from support.lifecycle import (
    NOW,
    aged_events,
    archived_not_dropped,
    bounds_of,
    done_in,
    ids_of,
    maintain,
    make_events,
    retiring,
    scalar,
)
from support.servers import Database

JANUARY = datetime(2024, 1, 1, tzinfo=UTC)
MONTH = PartitionSet(table="events", period="month", ahead=0)


def _when(phase: str, conn: psycopg.Connection[Any], *statements: str) -> Watch:
    """Run statements when `maintain` is about to do something, once."""
    left = list(statements)

    def watch(progress: Progress) -> None:
        if progress.phase == phase:
            while left:
                conn.execute(left.pop(0))  # pyright: ignore[reportArgumentType, reportCallIssue] because texts vary

    return watch


def _said(result: MaintainResult) -> str:
    return " ".join(f.message for f in result.findings)


# -- rows that come to DEFAULT ---------------------------------------------------------------------------


def test_a_row_that_comes_to_default_meanwhile_is_moved(database: Database) -> None:
    conn = make_events(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    came = _when("create", conn, "INSERT INTO events VALUES ('2024-01-15', 1, 'late')")
    result = maintain(database, MONTH, JANUARY, watch=came)
    assert not result.findings, result.findings
    assert done_in(result) == [("move-from-default", "events_p2024_01", "done")]
    assert scalar(conn, "SELECT v FROM events_p2024_01") == "late"


def test_a_foreign_key_that_comes_meanwhile_keeps_rows_in_default(database: Database) -> None:
    conn = make_events(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    conn.execute("INSERT INTO events VALUES ('2024-01-15', 1, 'x')")
    conn.execute("CREATE TABLE child (at date, id bigint)")
    conn.execute("INSERT INTO child VALUES ('2024-01-15', 1)")
    came = _when(
        "move-from-default", conn, "ALTER TABLE child ADD FOREIGN KEY (at, id) REFERENCES events ON DELETE CASCADE"
    )
    result = maintain(database, MONTH, JANUARY, watch=came)
    assert (ids_of(result), "child" in _said(result)) == (["refused"], True)
    assert scalar(conn, "SELECT count(*) FROM child") == 1
    assert list(bounds_of(conn)) == ["d"]


def test_more_rows_than_may_move_stay_in_default(database: Database) -> None:
    conn = make_events(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    conn.execute("INSERT INTO events VALUES ('2024-01-15', 1, 'x')")
    came = _when(
        "move-from-default", conn, "INSERT INTO events SELECT '2024-01-16', g, 'x' FROM generate_series(1, 20) g"
    )
    result = maintain(database, MONTH, JANUARY, watch=came, limits=Limits(move_rows=20))
    assert (ids_of(result), "21 rows" in _said(result)) == (["refused"], True)
    assert scalar(conn, "SELECT count(*) FROM d") == 21
    assert list(bounds_of(conn)) == ["d"]


def test_a_default_that_gets_a_row_meanwhile_is_not_removed(database: Database) -> None:
    conn = make_events(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    came = _when("remove-default", conn, "INSERT INTO events VALUES ('1999-01-01', 1, 'x')")
    without = PartitionSet(table="events", period="month", ahead=0, default=False)
    result = maintain(database, without, JANUARY, watch=came)
    assert (ids_of(result), "got rows" in _said(result)) == (["refused"], True)
    assert bounds_of(conn)["d"] == "DEFAULT"
    assert scalar(conn, "SELECT count(*) FROM events") == 1


def test_nobody_writes_to_default_while_its_rows_move(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    conn = make_events(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    conn.execute("INSERT INTO events VALUES ('2024-01-15', 1, 'x')")
    writer = database.connect(options="-c lock_timeout=50ms")
    wrote: list[bool] = []
    look = reader.read_movers

    def looked(session: Session, oid: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        found = look(session, oid)
        wrote.append(_could(writer, "INSERT INTO events VALUES ('1999-01-15', 1, 'x') ON CONFLICT DO NOTHING"))
        return found

    monkeypatch.setattr(reader, "read_movers", looked)
    assert not maintain(database, MONTH, JANUARY).findings
    # Before the plan, and under the lock.
    assert wrote == [True, False]


def _could(conn: psycopg.Connection[Any], statement: LiteralString) -> bool:
    try:
        conn.execute(statement)
    except psycopg.errors.LockNotAvailable:
        return False
    return True


# -- what was to be dropped ------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["drop", "archive"])
def test_another_table_that_takes_the_name_meanwhile_is_not_dropped(
    database: Database, tmp_path: Path, what: str
) -> None:
    conn = aged_events(database)
    came = _when(
        "drop",
        conn,
        "ALTER TABLE events_p2024_01 RENAME TO elsewhere",
        "CREATE TABLE events_p2024_01 (precious int)",
    )
    result = maintain(database, retiring(tmp_path, what), NOW, watch=came)
    assert (ids_of(result), "is not the table" in _said(result)) == (["refused"], True)
    assert scalar(conn, "SELECT count(*) FROM events_p2024_01") == 0
    assert scalar(conn, "SELECT count(*) FROM elsewhere") == 3


def test_a_table_that_is_attached_meanwhile_is_not_dropped(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    again = "ALTER TABLE events ATTACH PARTITION events_p2024_01 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')"
    result = maintain(database, retiring(tmp_path, "drop"), NOW, watch=_when("drop", conn, again))
    assert (ids_of(result), "is a partition" in _said(result)) == (["refused"], True)
    assert scalar(conn, "SELECT count(*) FROM events WHERE at < '2024-02-01'") == 3


def test_nobody_writes_to_a_table_while_it_is_archived(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged_events(database)
    writer = database.connect(options="-c lock_timeout=50ms")
    wrote: list[bool] = []

    def stop(point: str) -> None:
        if point == "maintain:archive-scratch":
            wrote.append(_could(writer, "DELETE FROM events_p2024_01"))

    monkeypatch.setattr(archive, "kill_point", stop)
    assert not maintain(database, retiring(tmp_path), NOW).findings
    assert wrote == [False]


def test_an_archive_without_its_description_is_written_again(database: Database, tmp_path: Path) -> None:
    conn = archived_not_dropped(database, tmp_path)
    (tmp_path / "old" / "public.events_p2024_01.csv.gz.json").unlink()
    assert ids_of(maintain(database, retiring(tmp_path), NOW)) == ["refused"]
    assert scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3
    assert not maintain(database, retiring(tmp_path), NOW).findings
    # What lies there without a description may be anybody's: the new one gets another name.
    assert len(list((tmp_path / "old").glob("public.events_p2024_01-*.csv.gz.json"))) == 1
    assert (tmp_path / "old" / "public.events_p2024_01.csv.gz").exists()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_archive_that_reads_back_otherwise_keeps_its_table(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    pytest.importorskip("pyarrow")
    conn = aged_events(database)
    name = f"_sum_{form}"
    read: Callable[[Path], archive._Sum] = getattr(archive, name)

    def other(scratch: Path) -> archive._Sum:
        # As many rows, one of which a failing disk changed.
        found = read(scratch)
        found.total += 1
        return found

    monkeypatch.setattr(archive, name, other)
    result = maintain(database, retiring(tmp_path, form=form), NOW)
    assert (ids_of(result), "does not hold what was written" in _said(result)) == (["refused"], True)
    assert scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3
    assert not [p for p in (tmp_path / "old").iterdir() if not p.name.startswith(".")]
    monkeypatch.undo()
    assert not maintain(database, retiring(tmp_path, form=form), NOW).findings
    assert [p.name for p in (tmp_path / "old").iterdir() if p.name.startswith(".")] == []


def test_the_archive_of_another_database_is_never_overwritten(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    (tmp_path / "old").mkdir()
    about = tmp_path / "old" / "public.events_p2024_01.csv.gz.json"
    theirs = {"oid": scalar(conn, "SELECT 'events_p2024_01'::regclass::oid::int8"), "database": "another"}
    about.write_text(json.dumps(theirs))
    assert not maintain(database, retiring(tmp_path), NOW).findings
    assert json.loads(about.read_text()) == theirs
    assert len(list((tmp_path / "old").glob("public.events_p2024_01-*.csv.gz"))) == 1


# -- partitions of other kinds and owners ----------------------------------------------------------------


def test_a_foreign_partition_is_detached_and_no_more(database: Database, tmp_path: Path) -> None:
    superuser = database.connect_superuser()
    superuser.execute("CREATE FOREIGN DATA WRAPPER nothing")
    superuser.execute("CREATE SERVER far FOREIGN DATA WRAPPER nothing")
    superuser.execute(f"GRANT USAGE ON FOREIGN SERVER far TO {database.owner}")
    conn = database.connect()
    conn.execute("CREATE TABLE events (at date) PARTITION BY RANGE (at)")
    conn.execute(
        "CREATE FOREIGN TABLE f PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01') SERVER far"
    )
    result = maintain(database, retiring(tmp_path), NOW)
    assert [f for f in ids_of(result) if f != "gap-in-the-past"] == ["foreign-table"]
    assert done_in(result)[-1] == ("detach", "f", "done")
    assert scalar(conn, "SELECT relkind FROM pg_class WHERE relname = 'f'") == "f"


def test_a_referring_table_that_cannot_be_read_is_in_the_way(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    other = database.create_role("other")
    conn.execute(f"GRANT REFERENCES, SELECT ON events TO {other}")
    superuser = database.connect_superuser()
    superuser.execute(f"GRANT CREATE ON SCHEMA public TO {other}")
    with psycopg.connect(database.dsn_as(other), autocommit=True) as theirs:
        theirs.execute("CREATE TABLE child (at date, id bigint, FOREIGN KEY (at, id) REFERENCES events)")
    result = maintain(database, retiring(tmp_path, "drop"), NOW)
    assert (ids_of(result), "not known" in _said(result)) == (["foreign-key-in-the-way"], True)
    assert "events_p2024_01" in bounds_of(conn)
    superuser.execute("DROP TABLE child")
    superuser.execute(f"REVOKE CREATE ON SCHEMA public FROM {other}")


def test_a_new_partition_gives_nobody_more_than_its_sibling(database: Database) -> None:
    conn = make_events(database)
    role = database.create_role("reader", "NOLOGIN")
    conn.execute("CREATE TABLE p PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')")
    conn.execute("ALTER TABLE p ENABLE ROW LEVEL SECURITY")
    conn.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {role}")
    result = maintain(database, PartitionSet(table="events", period="month", ahead=1), JANUARY)
    assert not result.findings
    row = conn.execute(
        "SELECT relrowsecurity, has_table_privilege(%s, oid, 'SELECT') FROM pg_class WHERE relname = 'events_p2024_02'",
        (role,),
    ).fetchone()
    assert row == (True, False)


def test_the_moment_is_one_for_all_sets(database: Database) -> None:
    """Without `now` the server's clock decides, and the present period exists afterwards."""
    conn = make_events(database)
    assert not partition.maintain(database.dsn, [MONTH]).findings
    conn.execute("INSERT INTO events VALUES (now() AT TIME ZONE 'UTC', 1, 'now')")
