"""Range partitions made ahead of time on real servers, and rows moved out of DEFAULT."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from psycopg import sql

from pgscale import partition
from pgscale.partition import Limits, PartitionSet
from support.crash import pgscale
from support.lifecycle import bounds_of, done_in, ids_of, maintain, make_events
from support.servers import Database


@pytest.mark.versions(14, 15, 16, 18)
def test_partitions_are_made_ahead(database: Database) -> None:
    conn = make_events(database)
    wanted = PartitionSet(table="events", period="month", ahead=2)
    result = partition.maintain(database.dsn, [wanted], now=datetime(2023, 12, 31, 23, tzinfo=UTC))
    assert not result.findings
    assert bounds_of(conn) == {
        "events_p2023_12": "FOR VALUES FROM ('2023-12-01') TO ('2024-01-01')",
        "events_p2024_01": "FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')",
        "events_p2024_02": "FOR VALUES FROM ('2024-02-01') TO ('2024-03-01')",
    }
    again = partition.maintain(database.dsn, [wanted], now=datetime(2023, 12, 31, 23, tzinfo=UTC))
    assert [s.actions for s in again.sets] == [()]


def test_the_command_line_makes_them(database: Database, tmp_path: Any) -> None:
    conn = make_events(database)
    config = tmp_path / "pgscale.toml"
    config.write_text('[[partitions]]\ntable = "public.events"\nperiod = "year"\nahead = 1\n')
    dry = pgscale(database.dsn, "maintain", "--config", str(config), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "ATTACH PARTITION" in dry.stdout
    assert bounds_of(conn) == {}
    done = pgscale(database.dsn, "maintain", "events", "--config", str(config), "--json")
    assert done.returncode == 0, done.stderr
    assert len(bounds_of(conn)) == 2


@pytest.mark.sampled(5)
@pytest.mark.versions(15, 16, 18)
@pytest.mark.parametrize("default", [True, None], ids=["default", "plain"])
def test_thirty_six_months(database: Database, default: bool | None) -> None:
    conn = make_events(database, "timestamptz")
    wanted = PartitionSet(
        table="events",
        period="month",
        time_zone="Europe/Berlin",
        ahead=2,
        retention="12 months",
        on_retention="drop",
        default=default,
    )
    for month in range(36):
        now = datetime(2022 + month // 12, month % 12 + 1, 28, 12, tzinfo=UTC)
        result = maintain(database, wanted, now)
        assert not result.findings, (now, result.findings)
        conn.execute("INSERT INTO events SELECT %s, g, 'x' FROM generate_series(1, 5) g", (now,))
        if default:
            assert conn.execute("SELECT count(*) FROM events_default").fetchone() == (0,)
    ranged = sorted(n for n in bounds_of(conn) if n != "events_default")
    assert (ranged[0], ranged[-1]) == ("events_p2023_12", "events_p2025_02")
    assert conn.execute("SELECT count(*), min(at) FROM events").fetchone() == (
        65,
        datetime(2023, 12, 28, 12, tzinfo=UTC),
    )
    assert (
        bounds_of(conn)["events_p2024_04"] == "FOR VALUES FROM ('2024-03-31 22:00:00+00') TO ('2024-04-30 22:00:00+00')"
    )
    # Nothing is left of the retired ones, nor of the ledger.
    assert conn.execute(
        "SELECT count(*) FROM pg_class WHERE relname LIKE 'events\\_p2022%' AND relkind = 'r'"
    ).fetchone() == (0,)
    assert conn.execute("SELECT to_regnamespace('pgscale')").fetchone() == (None,)


@pytest.mark.versions(16, 18)
def test_a_number_key_follows_its_largest_value(database: Database) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE events (id bigint PRIMARY KEY, v text) PARTITION BY RANGE (id)")
    wanted = PartitionSet(table="events", period="1000", ahead=1, retention="2000", default=True)
    now = datetime(2024, 1, 1, tzinfo=UTC)
    for step in range(6):
        result = maintain(database, wanted, now)
        assert not result.findings, result.findings
        conn.execute(
            "INSERT INTO events SELECT g, 'x' FROM generate_series(%s::bigint, %s::bigint) g",
            (step * 900, step * 900 + 899),
        )
    assert "FOR VALUES FROM ('5000') TO ('6000')" in bounds_of(conn).values()
    assert "FOR VALUES FROM ('0') TO ('1000')" not in bounds_of(conn).values()
    assert conn.execute("SELECT count(*) FROM events_p0").fetchone() == (1000,)  # detached, and kept


def test_a_number_key_without_an_index_is_named(database: Database) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE events (id bigint, v text) PARTITION BY RANGE (id)")
    conn.execute("CREATE TABLE p PARTITION OF events FOR VALUES FROM (0) TO (1000)")
    conn.execute("INSERT INTO events VALUES (1, 'x')")
    result = maintain(database, PartitionSet(table="events", period="1000"), datetime.now(UTC))
    assert ids_of(result) == ["number-key-unknown"]
    assert len(bounds_of(conn)) == 1
    assert result.has_errors


@pytest.mark.parametrize(
    ("ddl", "finding"),
    [
        ("CREATE TABLE events (at date)", "not-partitioned"),
        ("CREATE TABLE events (at date, id int) PARTITION BY RANGE (at, id)", "multi-column-key"),
        ("CREATE TABLE events (at date) PARTITION BY LIST (at)", "not-by-range"),
        ("CREATE TABLE events (at date) PARTITION BY HASH (at)", "not-by-range"),
        ("CREATE TABLE events (at date) PARTITION BY RANGE ((at + 1))", "expression-key"),
        ("CREATE TABLE other (at date)", "refused"),
    ],
)
def test_what_has_no_periods_is_refused_by_name(database: Database, ddl: str, finding: str) -> None:
    database.connect().execute(ddl)
    result = maintain(database, PartitionSet(table="events", period="month"), datetime.now(UTC))
    assert ids_of(result) == [finding]
    assert "events" in result.findings[0].message
    assert result.has_errors


def test_a_new_partition_is_like_its_sibling(database: Database) -> None:
    conn = database.connect()
    role = database.create_role("reader", "NOLOGIN")
    conn.execute(
        "CREATE TABLE events (at date NOT NULL, id bigint NOT NULL DEFAULT 7, v text COLLATE \"C\" CHECK (v <> ''),"
        " w int GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (at, id)) PARTITION BY RANGE (at)"
    )
    conn.execute("ALTER TABLE events ALTER v SET STORAGE EXTERNAL")
    conn.execute("CREATE INDEX ON events (id)")
    conn.execute(
        "CREATE TABLE p PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01') WITH (fillfactor = 70)"
    )
    conn.execute(sql.SQL("GRANT SELECT ON p TO {}").format(sql.Identifier(role)))
    conn.execute("ALTER TABLE p REPLICA IDENTITY USING INDEX p_pkey")
    result = maintain(database, PartitionSet(table="events", period="month", ahead=1), datetime(2024, 1, 5, tzinfo=UTC))
    assert not result.findings, result.findings
    row = conn.execute(
        "SELECT reloptions, relreplident, has_table_privilege(%s, oid, 'SELECT'), relispartition,"
        " (SELECT count(*) FROM pg_index WHERE indrelid = c.oid),"
        " (SELECT attstorage FROM pg_attribute WHERE attrelid = c.oid AND attname = 'v')"
        " FROM pg_class c WHERE relname = 'events_p2024_02'",
        (role,),
    ).fetchone()
    assert row == (["fillfactor=70"], "i", True, True, 2, "e")
    conn.execute("INSERT INTO events (at, v) VALUES ('2024-02-03', 'x')")
    assert conn.execute("SELECT id, w FROM events_p2024_02").fetchone() == (7, 14)


@pytest.mark.versions(14, 18)
def test_a_new_partition_has_its_siblings_own_indexes(database: Database) -> None:
    conn = make_events(database, "date")
    conn.execute("ALTER TABLE events DROP CONSTRAINT events_pkey")
    conn.execute("CREATE INDEX ON events (v)")
    conn.execute("CREATE TABLE p PARTITION OF events FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')")
    conn.execute("ALTER TABLE p ADD PRIMARY KEY (id)")
    conn.execute("ALTER TABLE p REPLICA IDENTITY USING INDEX p_pkey")
    conn.execute("CREATE UNIQUE INDEX odd ON p (lower(v)) WHERE id > 5")
    conn.execute("ALTER TABLE p ADD EXCLUDE USING btree (v WITH =) DEFERRABLE")
    result = maintain(database, PartitionSet(table="events", period="month", ahead=2), datetime(2024, 1, 5, tzinfo=UTC))
    assert not result.findings, result.findings
    listed = """
        SELECT ARRAY(SELECT regexp_replace(pg_get_indexdef(i.indexrelid), '^(.*)INDEX .* USING', '\\1')
                     FROM pg_index i WHERE i.indrelid = c.oid ORDER BY 1),
               ARRAY(SELECT pg_get_constraintdef(k.oid) FROM pg_constraint k
                     WHERE k.conrelid = c.oid AND k.contype IN ('p', 'x') ORDER BY 1), c.relreplident
        FROM pg_class c WHERE c.oid = %s::regclass"""
    expected = conn.execute(listed, ("p",)).fetchone()
    assert expected is not None
    assert (len(expected[0]), len(expected[1]), expected[2]) == (4, 2, "i")
    for name in ("events_p2024_02", "events_p2024_03"):
        assert conn.execute(listed, (name,)).fetchone() == expected


# -- DEFAULT ---------------------------------------------------------------------------------------------


@pytest.mark.versions(14, 16, 18)
def test_rows_in_default_move_to_their_partition(database: Database) -> None:
    conn = make_events(database)
    conn.execute("ALTER TABLE events ADD doubled bigint GENERATED ALWAYS AS (id * 2) STORED")
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    conn.execute("CREATE TABLE fired (n int)")
    conn.execute(
        "CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN INSERT INTO public.fired VALUES (1); RETURN NULL; END$$"
    )
    conn.execute("CREATE TRIGGER t AFTER INSERT OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION fire()")
    conn.execute("CREATE TRIGGER off AFTER DELETE ON d FOR EACH ROW EXECUTE FUNCTION fire()")
    conn.execute("ALTER TABLE d DISABLE TRIGGER off")
    conn.execute(
        "INSERT INTO events VALUES ('2024-01-15', 1, 'in'), ('2024-03-01', 2, 'after'), ('2020-01-01', 3, 'old')"
    )
    before = conn.execute("SELECT *, (SELECT count(*) FROM fired) FROM events ORDER BY id").fetchall()
    result = maintain(database, PartitionSet(table="events", period="month", ahead=1), datetime(2024, 1, 1, tzinfo=UTC))
    assert not result.findings, result.findings
    assert done_in(result) == [
        ("move-from-default", "events_p2024_01", "done"),
        ("create", "events_p2024_02", "done"),
    ]
    assert conn.execute("SELECT *, (SELECT count(*) FROM fired) FROM events ORDER BY id").fetchall() == before
    assert conn.execute("SELECT id, doubled FROM events_p2024_01").fetchall() == [(1, 2)]
    assert conn.execute(
        "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'd'::regclass ORDER BY 1"
    ).fetchall() == [("off", "D"), ("t", "O")]


def test_rows_in_default_stay_where_a_foreign_key_would_fire(database: Database) -> None:
    conn = make_events(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    conn.execute("CREATE TABLE child (at date, id bigint, FOREIGN KEY (at, id) REFERENCES events ON DELETE CASCADE)")
    conn.execute("INSERT INTO events VALUES ('2024-01-15', 1, 'in')")
    conn.execute("INSERT INTO child VALUES ('2024-01-15', 1)")
    result = maintain(database, PartitionSet(table="events", period="month", ahead=1), datetime(2024, 1, 1, tzinfo=UTC))
    assert ids_of(result) == ["default-rows-referenced"]
    assert "child" in result.findings[0].message
    assert done_in(result) == [("create", "events_p2024_02", "done")]
    assert conn.execute("SELECT count(*) FROM child").fetchone() == (1,)


def test_rows_in_default_stay_where_a_subscriber_would_lose_them(database: Database) -> None:
    conn = make_events(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    conn.execute("INSERT INTO events VALUES ('2024-01-15', 1, 'in')")
    conn.execute("CREATE PUBLICATION p FOR TABLE events WITH (publish_via_partition_root)")
    result = maintain(database, PartitionSet(table="events", period="month", ahead=0), datetime(2024, 1, 1, tzinfo=UTC))
    assert ids_of(result) == ["default-rows-published"]
    assert list(bounds_of(conn)) == ["d"]


def test_a_default_too_big_and_too_many_rows(database: Database) -> None:
    conn = make_events(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    conn.execute("INSERT INTO events SELECT '2024-01-15', g, 'x' FROM generate_series(1, 500) g")
    wanted, now = PartitionSet(table="events", period="month", ahead=0), datetime(2024, 1, 1, tzinfo=UTC)
    assert ids_of(maintain(database, wanted, now, limits=Limits(default_scan_bytes=8192))) == ["default-too-big"]
    assert ids_of(maintain(database, wanted, now, limits=Limits(move_rows=499))) == ["default-rows-too-many"]
    assert list(bounds_of(conn)) == ["d"]
    assert ids_of(maintain(database, wanted, now, limits=Limits(move_rows=500))) == []
    assert conn.execute("SELECT count(*) FROM events_p2024_01").fetchone() == (500,)


def test_default_is_made_and_removed_as_wished(database: Database) -> None:
    conn = make_events(database)
    now = datetime(2024, 1, 1, tzinfo=UTC)
    maintain(database, PartitionSet(table="events", period="month", ahead=0, default=True), now)
    assert bounds_of(conn)["events_default"] == "DEFAULT"
    conn.execute("INSERT INTO events VALUES ('1999-01-01', 1, 'x')")
    without = PartitionSet(table="events", period="month", ahead=0, default=False)
    assert ids_of(maintain(database, without, now)) == ["default-not-empty"]
    assert "events_default" in bounds_of(conn)
    conn.execute("DELETE FROM events")
    assert ids_of(maintain(database, without, now)) == []
    assert list(bounds_of(conn)) == ["events_p2024_01"]
