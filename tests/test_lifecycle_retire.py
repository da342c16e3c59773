"""Range partitions retired: detached, archived, dropped, and what is never dropped."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from dataclasses import replace
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.ledger import store
from pgscale.partition import Limits, MaintainResult, PartitionSet
from support.lifecycle import (
    NOW,
    QUICK,
    aged_events,
    archived_not_dropped,
    bounds_of,
    continued,
    done_in,
    ids_of,
    leave_pending,
    maintain,
    maintain_child,
    make_events,
    retiring,
    scalar,
    wait_until,
)
from support.servers import Database


@pytest.mark.versions(14, 16, 18)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_archive_holds_the_rows(database: Database, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    conn = aged_events(database)
    result = maintain(database, retiring(tmp_path, form=form), NOW)
    assert not result.findings, result.findings
    assert [k for k, _, _ in done_in(result)] == ["detach", "archive", "drop"]
    assert "events_p2024_01" not in bounds_of(conn)
    assert conn.execute("SELECT to_regclass('events_p2024_01')").fetchone() == (None,)
    suffix = ".csv.gz" if form == "csv" else ".parquet"
    file = tmp_path / "old" / f"public.events_p2024_01{suffix}"
    about = json.loads(file.with_name(file.name + ".json").read_text())
    assert about["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (about["row_count"], about["low"], about["high"]) == (3, "2024-01-01", "2024-02-01")
    assert [p.name for p in sorted((tmp_path / "old").iterdir())] == [file.name, file.name + ".json"]
    if form == "csv":
        conn.execute("CREATE TABLE back (LIKE events)")
        with conn.cursor() as cursor, cursor.copy("COPY back FROM STDIN (FORMAT csv, HEADER)") as copy:
            copy.write(gzip.decompress(file.read_bytes()))
        rows = conn.execute("SELECT at::text, id, v FROM back ORDER BY id").fetchall()
    else:
        parquet = pytest.importorskip("pyarrow.parquet")

        rows = [(r["at"].isoformat(), r["id"], r["v"]) for r in parquet.read_table(file).to_pylist()]
    assert sorted(rows) == [("2024-01-01", g, f'a,"b"\n{g}') for g in (1, 2, 3)]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_archive_keeps_every_type(database: Database, tmp_path: Path, form: str) -> None:
    pytest.importorskip("pyarrow")
    conn = database.connect()
    conn.execute("CREATE DOMAIN positive AS int CHECK (VALUE > 0)")
    conn.execute("CREATE TYPE mood AS ENUM ('ok', 'sad')")
    conn.execute(
        "CREATE TABLE events (at date NOT NULL, b bool, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric,"
        " n2 numeric(10,2), n3 numeric(6,2), t text, c char(5), v varchar(9), y bytea, ts timestamp, tz timestamptz,"
        " tz2 timestamptz, u uuid, j jsonb, a int[], iv interval, p positive, m mood, r int4range)"
        " PARTITION BY RANGE (at)"
    )
    conn.execute("CREATE TABLE old PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')")
    conn.execute(
        "INSERT INTO events VALUES ('2024-01-02', true, 1, 2, 3, 0.1, 'NaN', 1e100, 1.5, 'NaN',"
        " E'\\r\\n\"\\t', 'ab', '', '\\x00ff',"
        " '2024-01-01 00:00:00.000001', '2024-01-01 12:00+05', 'infinity',"
        " gen_random_uuid(), '{\"a\": [1]}', '{1,NULL}',"
        " '1 mon 2 days', 4, 'sad', '[1,5)'); INSERT INTO events (at) VALUES ('2024-01-03')"
    )
    conn.execute("CREATE TABLE kept AS TABLE old")
    expected = conn.execute("SELECT t, y, n2, i8, f4::float8 FROM events ORDER BY at").fetchall()
    result = maintain(database, retiring(tmp_path, form=form), NOW)
    assert ids_of(result) == ["gap-in-the-past"], result.findings
    assert conn.execute("SELECT to_regclass('old')").fetchone() == (None,)
    about = json.loads(next((tmp_path / "old").glob("*.json")).read_text())
    stored = {c["name"]: c["stored_as"] for c in about["columns"]}
    if form == "csv":
        conn.execute("CREATE TABLE back (LIKE events)")
        with conn.cursor() as cursor, cursor.copy("COPY back FROM STDIN (FORMAT csv, HEADER)") as copy:
            copy.write(gzip.decompress((tmp_path / "old" / "public.old.csv.gz").read_bytes()))
        assert scalar(conn, "SELECT count(*) FROM back") == 2
        assert scalar(conn, "SELECT count(*) FROM (TABLE kept EXCEPT ALL TABLE back) t") == 0
    if form == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")

        assert (stored["n2"], stored["n3"], stored["tz"], stored["tz2"]) == (
            "decimal(10,2)",
            "text",
            "timestamptz",
            "text",
        )
        assert stored["p"] == "int4" or stored["p"] == "int32"
        rows = parquet.read_table(tmp_path / "old" / "public.old.parquet").to_pylist()
        assert [(r["t"], r["y"], r["n2"], r["i8"], r["f4"]) for r in sorted(rows, key=lambda r: r["at"])] == expected
        assert rows[0]["c"] == "ab   " or rows[1]["c"] == "ab   "


@pytest.mark.parametrize("default", [True, False])
def test_the_archive_of_another_table_is_never_overwritten(database: Database, tmp_path: Path, default: bool) -> None:
    aged_events(database, default=default)
    (tmp_path / "old").mkdir()
    precious = tmp_path / "old" / "public.events_p2024_01.csv.gz"
    precious.write_bytes(b"precious")
    assert not maintain(database, retiring(tmp_path), NOW).findings
    assert precious.read_bytes() == b"precious"
    assert len(list((tmp_path / "old").glob("public.events_p2024_01-*.csv.gz"))) == 1


def test_a_foreign_key_in_the_way_is_found(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    conn.execute("CREATE TABLE child (at date, id bigint, FOREIGN KEY (at, id) REFERENCES events)")
    conn.execute("INSERT INTO child VALUES ('2024-01-01', 2)")
    result = maintain(database, retiring(tmp_path, "drop"), NOW)
    assert ids_of(result) == ["foreign-key-in-the-way"]
    assert "child" in result.findings[0].message
    # Known before anything is tried or promised.
    assert done_in(result) == []
    assert "events_p2024_01" in bounds_of(conn)
    conn.execute("DELETE FROM child")
    assert ids_of(maintain(database, retiring(tmp_path, "drop"), NOW)) == []
    assert "events_p2024_01" not in bounds_of(conn)


@pytest.mark.versions(14, 15, 16, 18)
def test_an_interrupted_detach_is_finished(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    old = leave_pending(database, conn)
    result = maintain(database, retiring(tmp_path, "drop"), NOW, limits=QUICK)
    # The old transaction still sees the partition, so nobody may finish yet.
    assert ids_of(result) == ["detach-waits"], result.findings
    assert not result.has_errors
    old.rollback()
    result = maintain(database, retiring(tmp_path, "drop"), NOW, limits=QUICK)
    assert done_in(result) == [("finalize", "events_p2024_01", "done")]
    assert scalar(conn, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 0
    # Who detached it promised nothing: it stays.
    assert scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3


def test_a_detach_that_waits_is_finished_by_the_next_call(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    old = database.connect(autocommit=False)
    old.execute("SELECT count(*) FROM events")
    first = maintain(database, retiring(tmp_path), NOW, limits=QUICK)
    assert ids_of(first) == ["detach-waits"]
    assert scalar(conn, "SELECT count(*) FROM pgscale.retired") == 1
    old.rollback()
    second = maintain(database, retiring(tmp_path), NOW, limits=QUICK)
    assert [k for k, _, _ in done_in(second)] == ["finalize", "archive", "drop"]
    assert conn.execute("SELECT to_regclass('events_p2024_01')").fetchone() == (None,)


def test_the_second_of_two_changes_nothing(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    first = database.connect()
    assert store.try_look_after(first, int(scalar(conn, "SELECT 'events'::regclass::oid::int8")))
    result = maintain(database, retiring(tmp_path), NOW)
    assert (ids_of(result), done_in(result), result.has_errors) == (["already-maintained"], [], False)
    assert "events_p2024_01" in bounds_of(conn)
    first.close()
    wait_until(lambda: bool(done_in(maintain(database, retiring(tmp_path), NOW))))


def test_an_open_run_is_left_alone(database: Database) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE events (at date NOT NULL, id int, PRIMARY KEY (at, id))")
    conn.execute("INSERT INTO events VALUES ('2024-01-01', 1)")
    partition.run(database.dsn, "events", partition.Options(by="range:at:month", pace="fast"))
    before = bounds_of(conn)
    result = maintain(database, PartitionSet(table="events", period="month"), NOW)
    assert ids_of(result) == ["run-not-finished"]
    assert bounds_of(conn) == before
    partition.finish(database.dsn, "events")
    assert "run-not-finished" not in ids_of(maintain(database, PartitionSet(table="events", period="month"), NOW))


# -- what is never dropped -------------------------------------------------------------------------------


def test_a_table_changed_after_its_archive_is_archived_again(database: Database, tmp_path: Path) -> None:
    conn = archived_not_dropped(database, tmp_path)
    conn.execute("UPDATE events_p2024_01 SET v = 'changed' WHERE id = 2")
    result = maintain(database, retiring(tmp_path), NOW)
    assert ids_of(result) == ["refused"]
    assert scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3
    assert not maintain(database, retiring(tmp_path), NOW).findings
    assert b"changed" in gzip.decompress((tmp_path / "old" / "public.events_p2024_01.csv.gz").read_bytes())
    assert conn.execute("SELECT to_regclass('events_p2024_01')").fetchone() == (None,)


def test_a_table_whose_archive_was_damaged_is_archived_again(database: Database, tmp_path: Path) -> None:
    conn = archived_not_dropped(database, tmp_path)
    file = tmp_path / "old" / "public.events_p2024_01.csv.gz"
    file.write_bytes(file.read_bytes()[:-1])
    assert ids_of(maintain(database, retiring(tmp_path), NOW)) == ["refused"]
    assert scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3
    assert not maintain(database, retiring(tmp_path), NOW).findings


def test_another_table_of_the_same_name_is_not_dropped(database: Database, tmp_path: Path) -> None:
    conn = archived_not_dropped(database, tmp_path)
    conn.execute("DROP TABLE events_p2024_01")
    conn.execute("CREATE TABLE events_p2024_01 (precious int)")
    result = maintain(database, retiring(tmp_path), NOW)
    assert [k for k, _, _ in done_in(result)] == ["forget"]
    assert conn.execute("SELECT count(*) FROM events_p2024_01").fetchone() == (0,)


def test_a_renamed_table_is_not_dropped(database: Database, tmp_path: Path) -> None:
    conn = archived_not_dropped(database, tmp_path)
    conn.execute("ALTER TABLE events_p2024_01 RENAME TO keep_me")
    assert ids_of(maintain(database, retiring(tmp_path), NOW)) == ["retired-renamed"]
    assert scalar(conn, "SELECT count(*) FROM keep_me") == 3


def test_a_table_attached_again_is_not_dropped(database: Database, tmp_path: Path) -> None:
    conn = archived_not_dropped(database, tmp_path)
    conn.execute("ALTER TABLE events ATTACH PARTITION events_p2024_01 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')")
    longer = PartitionSet(table="events", period="month", ahead=0, retention="5 years", on_retention="drop")
    assert [k for k, _, _ in done_in(maintain(database, longer, NOW))] == ["forget"]
    assert "events_p2024_01" in bounds_of(conn)


def test_a_promise_to_drop_is_not_kept_when_the_configuration_keeps(database: Database, tmp_path: Path) -> None:
    conn = archived_not_dropped(database, tmp_path)
    kept = PartitionSet(table="events", period="month", ahead=0)
    assert [k for k, _, _ in done_in(maintain(database, kept, NOW))] == ["forget"]
    assert scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3


def test_a_promise_is_not_kept_while_the_configuration_keeps_for_longer(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    assert maintain_child(database.dsn, tmp_path, "maintain:detached").returncode == -9
    longer = PartitionSet(table="events", period="month", ahead=0, retention="5 years", on_retention="drop")
    result = continued(database, longer)
    assert [k for k, _, _ in done_in(result)] == ["forget"]
    assert scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3


def test_what_was_to_be_archived_is_archived_though_the_configuration_only_drops(
    database: Database, tmp_path: Path
) -> None:
    aged_events(database)
    assert maintain_child(database.dsn, tmp_path, "maintain:detached").returncode == -9
    result = continued(database, replace(retiring(tmp_path, "drop"), archive_dir=None))
    assert [k for k, _, _ in done_in(result)] == ["archive", "drop"]
    assert (tmp_path / "old" / "public.events_p2024_01.csv.gz").exists()


def test_what_was_to_be_dropped_is_archived_as_the_configuration_says(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    old = database.connect(autocommit=False)
    old.execute("SELECT count(*) FROM events")
    assert ids_of(maintain(database, retiring(tmp_path, "drop"), NOW, limits=QUICK)) == ["detach-waits"]
    old.rollback()
    assert scalar(conn, "SELECT promise FROM pgscale.retired") == "drop"
    result = maintain(database, retiring(tmp_path), NOW)
    assert [k for k, _, _ in done_in(result)] == ["finalize", "archive", "drop"]
    assert (tmp_path / "old" / "public.events_p2024_01.csv.gz").exists()


# -- others at the same time -----------------------------------------------------------------------------


@pytest.mark.versions(14, 16, 18)
@pytest.mark.parametrize("default", [True, False], ids=["default", "plain"])
def test_a_row_that_comes_to_refer_meanwhile_keeps_its_partition(
    database: Database, tmp_path: Path, default: bool
) -> None:
    conn = aged_events(database, default=default)
    conn.execute("CREATE TABLE child (at date, id bigint, FOREIGN KEY (at, id) REFERENCES events)")

    def refer(progress: Progress) -> None:
        if progress.phase == "detach":
            conn.execute("INSERT INTO child VALUES ('2024-01-01', 2)")

    result = maintain(database, retiring(tmp_path, "drop"), NOW, watch=refer)
    assert [(f.id, f.evidence["sqlstate"], f.severity) for f in result.findings] == [
        ("foreign-key-in-the-way", "23503", "error")
    ]
    assert done_in(result) == [("detach", "events_p2024_01", "failed")]
    assert scalar(conn, "SELECT count(*) FROM events WHERE at = '2024-01-01'") == 3
    conn.execute("DELETE FROM child")
    assert not maintain(database, retiring(tmp_path, "drop"), NOW).findings
    assert "events_p2024_01" not in bounds_of(conn)


@pytest.mark.sampled(2)
@pytest.mark.versions(14, 18)
def test_nobody_queues_behind_a_detach_that_waits_for_a_referring_table(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    conn.execute("CREATE TABLE child (at date, id bigint, FOREIGN KEY (at, id) REFERENCES events)")
    old = database.connect(autocommit=False)
    old.execute("INSERT INTO child VALUES ('2024-06-01', 1)")
    writer = database.connect(options="-c lock_timeout=1500ms")
    results: list[MaintainResult] = []
    wait = Limits(give_up_after_s=4.0, detach_wait_s=4.0)
    thread = threading.Thread(
        target=lambda: results.append(maintain(database, retiring(tmp_path, "drop"), NOW, limits=wait))
    )
    thread.start()
    while thread.is_alive():
        writer.execute("INSERT INTO child VALUES ('2024-06-01', 2)")
    assert ids_of(results[0]) == ["detach-waits"]
    old.rollback()
    assert not maintain(database, retiring(tmp_path, "drop"), NOW).findings
    assert "events_p2024_01" not in bounds_of(conn)


def test_a_wait_that_holds_nobody_up_is_long_enough_for_an_autovacuum_to_give_way(
    database: Database, tmp_path: Path
) -> None:
    conn = aged_events(database)
    vacuum = database.connect(autocommit=False)
    vacuum.execute("LOCK TABLE events_p2024_01 IN SHARE UPDATE EXCLUSIVE MODE")
    results: list[MaintainResult] = []
    thread = threading.Thread(target=lambda: results.append(maintain(database, retiring(tmp_path, "drop"), NOW)))
    thread.start()
    long = "SELECT count(*) FROM pg_locks WHERE NOT granted AND waitstart < clock_timestamp() - interval '1200 ms'"
    wait_until(lambda: bool(scalar(conn, long)))
    vacuum.rollback()
    thread.join(60)
    assert not results[0].findings
    assert "events_p2024_01" not in bounds_of(conn)


def test_a_detach_with_foreign_keys_goes_on_where_it_was_left(database: Database, tmp_path: Path) -> None:
    """Its first half is done and its second has to wait for an old reader: that one is repeated, in short attempts."""
    conn = aged_events(database)
    conn.execute("CREATE TABLE child (at date, id bigint, FOREIGN KEY (at, id) REFERENCES events)")
    old = database.connect(autocommit=False)
    old.execute("SELECT count(*) FROM events")
    results: list[MaintainResult] = []
    thread = threading.Thread(target=lambda: results.append(maintain(database, retiring(tmp_path, "drop"), NOW)))
    thread.start()
    wait_until(lambda: bool(scalar(conn, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending")))
    old.rollback()
    thread.join(60)
    assert not results[0].findings
    assert "events_p2024_01" not in bounds_of(conn)


def test_a_ledger_that_another_call_drops_meanwhile_is_no_trouble(database: Database, tmp_path: Path) -> None:
    conn = aged_events(database)
    with conn.transaction():
        store.create(conn)
    dropping = database.connect(autocommit=False)
    dropping.execute("DROP SCHEMA pgscale CASCADE")
    results: list[MaintainResult] = []
    thread = threading.Thread(target=lambda: results.append(maintain(database, retiring(tmp_path, "drop"), NOW)))
    thread.start()
    wait_until(lambda: bool(scalar(conn, "SELECT count(*) FROM pg_locks WHERE NOT granted")))
    dropping.commit()
    thread.join(60)
    assert not results[0].findings
    assert [k for k, _, _ in done_in(results[0])] == ["detach", "drop"]


def test_two_that_tidy_the_ledger_do_not_meet(database: Database) -> None:
    first, second = database.connect(autocommit=False), database.connect()
    store.create(first)
    first.commit()
    store.lock_ledger(first)
    first.execute("DROP SCHEMA pgscale CASCADE")
    errors: list[BaseException] = []

    def tidy() -> None:
        try:
            store.drop_if_empty(second)
        except BaseException as error:  # noqa: BLE001 because it is handed to the test
            errors.append(error)

    thread = threading.Thread(target=tidy)
    thread.start()
    wait_until(lambda: bool(scalar(database.connect(), "SELECT count(*) FROM pg_locks WHERE NOT granted")))
    first.commit()
    thread.join(30)
    assert errors == []


def test_a_wrong_clock_of_this_machine_retires_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Wrong:
            return cls(2200, 1, 1, tzinfo=tz)

    conn = make_events(database)
    conn.execute("CREATE TABLE p PARTITION OF events FOR VALUES FROM ('2000-01-01') TO ('2100-01-01')")
    monkeypatch.setattr("pgscale.partition.lifecycle.runner.datetime", Wrong)
    partition.maintain(database.dsn, [retiring(tmp_path, "drop")])
    assert list(bounds_of(conn)) == ["p"]


# -- archives --------------------------------------------------------------------------------------------


def test_a_new_directory_below_a_new_directory(database: Database, tmp_path: Path) -> None:
    aged_events(database)
    assert not maintain(database, retiring(tmp_path / "a" / "b"), NOW).findings
    assert (tmp_path / "a" / "b" / "old" / "public.events_p2024_01.csv.gz").exists()
