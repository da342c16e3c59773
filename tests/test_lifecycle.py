"""The life of range partitions: made ahead, moved out of DEFAULT, retired, archived; killed anywhere, continued."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgscale import partition
from pgscale.commands.config import read_config
from pgscale.errors import UsageError
from pgscale.ledger import store
from pgscale.partition import Limits, MaintainResult, PartitionSet
from pgscale.partition.lifecycle.model import (
    Child,
    Create,
    Detach,
    Drop,
    Highest,
    Obstacles,
    Parent,
    SetFacts,
    kind_of,
)
from pgscale.partition.lifecycle.plan import plan_set
from support.crash import pgscale
from support.servers import Database

QUICK = Limits(give_up_after_s=1.0, detach_wait_s=1.0)


def _bounds(conn: psycopg.Connection[Any], table: str = "events") -> dict[str, str]:
    rows = conn.execute(
        "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = %s::regclass ORDER BY 1",
        (table,),
    )
    return {str(r[0]): str(r[1]) for r in rows}


def _make(database: Database, type_name: str = "date") -> psycopg.Connection[Any]:
    conn = database.connect(options="-c timezone=UTC")
    conn.execute(
        f"CREATE TABLE events (at {type_name} NOT NULL, id bigint NOT NULL, v text, PRIMARY KEY (at, id))"
        " PARTITION BY RANGE (at)"
    )
    return conn


@pytest.mark.versions(14, 15, 16, 18)
def test_partitions_are_made_ahead(database: Database) -> None:
    conn = _make(database)
    wanted = PartitionSet(table="events", period="month", ahead=2)
    result = partition.maintain(database.dsn, [wanted], now=datetime(2023, 12, 31, 23, tzinfo=UTC))
    assert not result.findings
    assert _bounds(conn) == {
        "events_p2023_12": "FOR VALUES FROM ('2023-12-01') TO ('2024-01-01')",
        "events_p2024_01": "FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')",
        "events_p2024_02": "FOR VALUES FROM ('2024-02-01') TO ('2024-03-01')",
    }
    again = partition.maintain(database.dsn, [wanted], now=datetime(2023, 12, 31, 23, tzinfo=UTC))
    assert [s.actions for s in again.sets] == [()]


def test_the_command_line_makes_them(database: Database, tmp_path: Any) -> None:
    conn = _make(database)
    config = tmp_path / "pgscale.toml"
    config.write_text('[[partitions]]\ntable = "public.events"\nperiod = "year"\nahead = 1\n')
    dry = pgscale(database.dsn, "maintain", "--config", str(config), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "ATTACH PARTITION" in dry.stdout
    assert _bounds(conn) == {}
    done = pgscale(database.dsn, "maintain", "events", "--config", str(config), "--json")
    assert done.returncode == 0, done.stderr
    assert len(_bounds(conn)) == 2


# -- the pure plan, over a simulated decade --------------------------------------------------------------


def _facts(type_name: str, children: dict[str, tuple[str, str]], highest: str | None = None) -> SetFacts:
    parent = Parent(
        oid=1,
        schema="public",
        name="events",
        kind="p",
        owner="o",
        is_owner=True,
        strategy="r",
        key_count=1,
        column="at",
        type_name=type_name,
        tablespace=None,
        access_method=None,
    )
    made = tuple(
        Child(
            oid=100 + n,
            schema="public",
            name=name,
            kind="r",
            bound=f"FOR VALUES FROM ('{low}') TO ('{high}')",
            is_pending=False,
            bytes=0,
        )
        for n, (name, (low, high)) in enumerate(children.items())
    )
    return SetFacts(parent=parent, children=made, highest=Highest(regular=highest), taken_names=frozenset(children))


def _live(type_name: str, wanted: PartitionSet, moments: list[datetime | int]) -> list[dict[str, tuple[str, str]]]:
    """Apply the plan of every moment to a pretended table; return its partitions after each."""
    there: dict[str, tuple[str, str]] = {}
    history: list[dict[str, tuple[str, str]]] = []
    for moment in moments:
        is_time = isinstance(moment, datetime)
        facts = _facts(type_name, there, None if is_time else str(moment))
        now = moment if is_time else datetime(2024, 1, 1, tzinfo=UTC)
        made = plan_set(facts, wanted, now, Obstacles())
        assert not made.findings, (moment, made.findings)
        for action in made.actions:
            if isinstance(action, Create):
                assert action.leaf.name not in there
                there[action.leaf.name] = (action.low, action.high)
            elif isinstance(action, Detach):
                del there[action.leaf.name]
            else:
                assert isinstance(action, Drop)
        bounds = (
            sorted(there.values(), key=lambda b: Decimal(b[0]) if not is_time else Decimal(0))
            if not is_time
            else sorted(there.values())
        )
        assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds)), (moment, bounds)
        # Whatever happens, this moment's row has a home, and so has one in each period ahead.
        at = str(moment) if not is_time else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
        if is_time:
            assert any(low[:19] <= at < high[:19] or low[:10] <= at[:10] < high[:10] for low, high in bounds), at
        else:
            assert any(int(low) <= int(at) < int(high) for low, high in bounds)
        history.append(dict(there))
    return history


def _days(first: datetime, count: int, hours: int = 24) -> list[datetime | int]:
    return [first + timedelta(hours=hours * n) for n in range(count)]


def test_a_decade_of_months() -> None:
    wanted = PartitionSet(table="events", period="month", ahead=3, retention="12 months", on_retention="drop")
    history = _live("date", wanted, _days(datetime(2015, 1, 31, 12, tzinfo=UTC), 3_653))
    last = history[-1]
    assert sorted(last) == [
        *(f"events_p2024_{m:02d}" for m in range(1, 13)),
        *(f"events_p2025_{m:02d}" for m in range(1, 5)),
    ]
    assert last["events_p2024_02"] == ("2024-02-01", "2024-03-01")
    # On the last day of February 2016 (a leap year) January 2015 is not yet twelve months old at its end.
    day = dict(zip(_days(datetime(2015, 1, 31, 12, tzinfo=UTC), 3_653), history, strict=True))
    assert "events_p2015_01" in day[datetime(2016, 1, 31, 12, tzinfo=UTC)]
    assert "events_p2015_01" not in day[datetime(2016, 2, 1, 12, tzinfo=UTC)]
    assert "events_p2015_02" in day[datetime(2016, 2, 29, 12, tzinfo=UTC)]
    assert "events_p2015_02" not in day[datetime(2016, 3, 1, 12, tzinfo=UTC)]


def test_a_decade_of_days_in_berlin() -> None:
    wanted = PartitionSet(table="events", period="day", time_zone="Europe/Berlin", ahead=2, retention="7 days")
    history = _live("timestamp with time zone", wanted, _days(datetime(2015, 1, 1, 22, 30, tzinfo=UTC), 3_653))
    made = {name: bounds for there in history for name, bounds in there.items()}
    assert made["events_p2024_03_31"] == ("2024-03-30 23:00:00+00", "2024-03-31 22:00:00+00")  # 23 hours
    assert made["events_p2024_10_27"] == ("2024-10-26 22:00:00+00", "2024-10-27 23:00:00+00")  # 25 hours
    assert made["events_p2024_02_29"] == ("2024-02-28 23:00:00+00", "2024-02-29 23:00:00+00")
    assert len(made) == 3_653 + 2
    assert max(len(there) for there in history) <= 7 + 1 + 1 + 2


def test_a_decade_of_weeks() -> None:
    wanted = PartitionSet(table="events", period="week", ahead=4, retention="8 weeks")
    history = _live("timestamp without time zone", wanted, _days(datetime(2015, 1, 1, tzinfo=UTC), 3_653))
    made = {name: bounds for there in history for name, bounds in there.items()}
    assert made["events_p2015_w53"] == ("2015-12-28 00:00:00", "2016-01-04 00:00:00")
    assert made["events_p2020_w53"] == ("2020-12-28 00:00:00", "2021-01-04 00:00:00")
    assert all((datetime.fromisoformat(b) - datetime.fromisoformat(a)).days == 7 for a, b in made.values())


def test_numbers_that_grow_for_a_decade() -> None:
    wanted = PartitionSet(table="events", period="1000", ahead=2, retention="5000")
    history = _live("bigint", wanted, [n * 137 for n in range(1, 1_500)])
    assert sorted(int(low) for low, _ in history[-1].values())[0] == (1_499 * 137 - 5_000) // 1000 * 1000


def test_the_end_of_an_integer_is_open() -> None:
    facts = _facts("integer", {}, str(2**31 - 5))
    made = plan_set(facts, PartitionSet(table="t", period="1000000", ahead=9), datetime.now(UTC), Obstacles())
    assert [(a.low, a.high) for a in made.actions if isinstance(a, Create)] == [("2147000000", "MAXVALUE")]


def test_only_the_uncovered_part_of_a_period_is_made() -> None:
    facts = _facts("date", {"events_p2024_01": ("2024-01-05", "2024-01-20"), "odd": ("2024-02-01", "2024-03-11")})
    wanted = PartitionSet(table="events", period="month", ahead=2)
    made = plan_set(facts, wanted, datetime(2024, 1, 10, tzinfo=UTC), Obstacles())
    assert [(a.leaf.name, a.low, a.high) for a in made.actions if isinstance(a, Create)] == [
        ("events_p2024_01_1", "2024-01-01", "2024-01-05"),
        ("events_p2024_01_2", "2024-01-20", "2024-02-01"),
        ("events_p2024_03", "2024-03-11", "2024-04-01"),
    ]
    assert [f.id for f in made.findings] == ["misaligned-partition"]


def test_names_fit_and_do_not_collide() -> None:
    parent = _facts("date", {}).parent
    long = "ä" * 31
    facts = SetFacts(
        parent=Parent(**{f: getattr(parent, f) for f in parent.__slots__} | {"name": long}), taken_names=frozenset()
    )
    wanted = PartitionSet(table="t", period="month", ahead=3)
    made = plan_set(facts, wanted, datetime(2024, 1, 1, tzinfo=UTC), Obstacles())
    names = [a.leaf.name for a in made.actions]
    assert len(set(names)) == 4
    assert all(len(n.encode()) <= 63 and n.endswith(f"_p2024_{m:02d}") for m, n in enumerate(names, start=1))


def test_a_gap_in_the_past_is_found_and_not_filled() -> None:
    facts = _facts("date", {"a": ("2023-01-01", "2023-02-01"), "b": ("2023-03-01", "2023-04-01")})
    wanted = PartitionSet(table="events", period="month", ahead=0)
    made = plan_set(facts, wanted, datetime(2023, 6, 10, tzinfo=UTC), Obstacles())
    assert [(f.id, f.evidence["low"], f.evidence["high"]) for f in made.findings] == [
        ("gap-in-the-past", "2023-02-01", "2023-03-01"),
        ("gap-in-the-past", "2023-04-01", "2023-06-01"),
    ]
    assert [kind_of(a) for a in made.actions] == ["create"]


def test_one_wild_id_in_default_retires_nothing() -> None:
    base = _facts("bigint", {f"p{n}": (str(n * 1000), str(n * 1000 + 1000)) for n in range(3)}, "2500")
    default = Child(oid=9, schema="public", name="d", kind="r", bound="DEFAULT", is_pending=False, bytes=8192)
    facts = SetFacts(
        parent=base.parent,
        children=(*base.children, default),
        highest=Highest(regular="2500", default="9000000000"),
    )
    wanted = PartitionSet(table="events", period="1000", ahead=1, retention="1600", on_retention="drop")
    made = plan_set(facts, wanted, datetime.now(UTC), Obstacles())
    assert [f.id for f in made.findings] == ["default-outlier"]
    assert [(a.low, a.high) for a in made.actions if isinstance(a, Create)] == [("3000", "4000")]
    assert [a.leaf.name for a in made.actions if isinstance(a, Detach)] == []


# -- a shorter life on real servers ----------------------------------------------------------------------


def _maintain(database: Database, wanted: PartitionSet, now: datetime, **more: Any) -> MaintainResult:
    return partition.maintain(database.dsn, [wanted], now=now, **more)


def _ids(result: MaintainResult) -> list[str]:
    return [f.id for f in result.findings]


def _done(result: MaintainResult) -> list[tuple[str, str, str]]:
    return [(kind_of(d.action), d.action.leaf.name, d.state) for s in result.sets for d in s.actions]


@pytest.mark.versions(15, 16, 18)
@pytest.mark.parametrize("default", [True, None], ids=["default", "plain"])
def test_thirty_six_months(database: Database, default: bool | None) -> None:
    conn = _make(database, "timestamptz")
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
        result = _maintain(database, wanted, now)
        assert not result.findings, (now, result.findings)
        conn.execute("INSERT INTO events SELECT %s, g, 'x' FROM generate_series(1, 5) g", (now,))
        if default:
            assert conn.execute("SELECT count(*) FROM events_default").fetchone() == (0,)
    ranged = sorted(n for n in _bounds(conn) if n != "events_default")
    assert (ranged[0], ranged[-1]) == ("events_p2023_12", "events_p2025_02")
    assert conn.execute("SELECT count(*), min(at) FROM events").fetchone() == (
        65,
        datetime(2023, 12, 28, 12, tzinfo=UTC),
    )
    assert (
        _bounds(conn)["events_p2024_04"] == "FOR VALUES FROM ('2024-03-31 22:00:00+00') TO ('2024-04-30 22:00:00+00')"
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
        result = _maintain(database, wanted, now)
        assert not result.findings, result.findings
        conn.execute(
            "INSERT INTO events SELECT g, 'x' FROM generate_series(%s::bigint, %s::bigint) g",
            (step * 900, step * 900 + 899),
        )
    assert "FOR VALUES FROM ('5000') TO ('6000')" in _bounds(conn).values()
    assert "FOR VALUES FROM ('0') TO ('1000')" not in _bounds(conn).values()
    assert conn.execute("SELECT count(*) FROM events_p0").fetchone() == (1000,)  # detached, and kept


def test_a_number_key_without_an_index_is_named(database: Database) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE events (id bigint, v text) PARTITION BY RANGE (id)")
    conn.execute("CREATE TABLE p PARTITION OF events FOR VALUES FROM (0) TO (1000)")
    conn.execute("INSERT INTO events VALUES (1, 'x')")
    result = _maintain(database, PartitionSet(table="events", period="1000"), datetime.now(UTC))
    assert _ids(result) == ["number-key-unknown"]
    assert len(_bounds(conn)) == 1
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
    result = _maintain(database, PartitionSet(table="events", period="month"), datetime.now(UTC))
    assert _ids(result) == [finding]
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
    result = _maintain(
        database, PartitionSet(table="events", period="month", ahead=1), datetime(2024, 1, 5, tzinfo=UTC)
    )
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


# -- DEFAULT ---------------------------------------------------------------------------------------------


@pytest.mark.versions(14, 16, 18)
def test_rows_in_default_move_to_their_partition(database: Database) -> None:
    conn = _make(database)
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
    result = _maintain(
        database, PartitionSet(table="events", period="month", ahead=1), datetime(2024, 1, 1, tzinfo=UTC)
    )
    assert not result.findings, result.findings
    assert _done(result) == [
        ("move-from-default", "events_p2024_01", "done"),
        ("create", "events_p2024_02", "done"),
    ]
    assert conn.execute("SELECT *, (SELECT count(*) FROM fired) FROM events ORDER BY id").fetchall() == before
    assert conn.execute("SELECT id, doubled FROM events_p2024_01").fetchall() == [(1, 2)]
    assert conn.execute(
        "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'd'::regclass ORDER BY 1"
    ).fetchall() == [("off", "D"), ("t", "O")]


def test_rows_in_default_stay_where_a_foreign_key_would_fire(database: Database) -> None:
    conn = _make(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    conn.execute("CREATE TABLE child (at date, id bigint, FOREIGN KEY (at, id) REFERENCES events ON DELETE CASCADE)")
    conn.execute("INSERT INTO events VALUES ('2024-01-15', 1, 'in')")
    conn.execute("INSERT INTO child VALUES ('2024-01-15', 1)")
    result = _maintain(
        database, PartitionSet(table="events", period="month", ahead=1), datetime(2024, 1, 1, tzinfo=UTC)
    )
    assert _ids(result) == ["default-rows-referenced"]
    assert "child" in result.findings[0].message
    assert _done(result) == [("create", "events_p2024_02", "done")]
    assert conn.execute("SELECT count(*) FROM child").fetchone() == (1,)


def test_rows_in_default_stay_where_a_subscriber_would_lose_them(database: Database) -> None:
    conn = _make(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    conn.execute("INSERT INTO events VALUES ('2024-01-15', 1, 'in')")
    conn.execute("CREATE PUBLICATION p FOR TABLE events WITH (publish_via_partition_root)")
    result = _maintain(
        database, PartitionSet(table="events", period="month", ahead=0), datetime(2024, 1, 1, tzinfo=UTC)
    )
    assert _ids(result) == ["default-rows-published"]
    assert list(_bounds(conn)) == ["d"]


def test_a_default_too_big_and_too_many_rows(database: Database) -> None:
    conn = _make(database)
    conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    conn.execute("INSERT INTO events SELECT '2024-01-15', g, 'x' FROM generate_series(1, 500) g")
    wanted, now = PartitionSet(table="events", period="month", ahead=0), datetime(2024, 1, 1, tzinfo=UTC)
    assert _ids(_maintain(database, wanted, now, limits=Limits(default_scan_bytes=8192))) == ["default-too-big"]
    assert _ids(_maintain(database, wanted, now, limits=Limits(move_rows=499))) == ["default-rows-too-many"]
    assert list(_bounds(conn)) == ["d"]
    assert _ids(_maintain(database, wanted, now, limits=Limits(move_rows=500))) == []
    assert conn.execute("SELECT count(*) FROM events_p2024_01").fetchone() == (500,)


def test_default_is_made_and_removed_as_wished(database: Database) -> None:
    conn = _make(database)
    now = datetime(2024, 1, 1, tzinfo=UTC)
    _maintain(database, PartitionSet(table="events", period="month", ahead=0, default=True), now)
    assert _bounds(conn)["events_default"] == "DEFAULT"
    conn.execute("INSERT INTO events VALUES ('1999-01-01', 1, 'x')")
    without = PartitionSet(table="events", period="month", ahead=0, default=False)
    assert _ids(_maintain(database, without, now)) == ["default-not-empty"]
    assert "events_default" in _bounds(conn)
    conn.execute("DELETE FROM events")
    assert _ids(_maintain(database, without, now)) == []
    assert list(_bounds(conn)) == ["events_p2024_01"]


# -- retiring --------------------------------------------------------------------------------------------

NOW = datetime(2024, 6, 10, tzinfo=UTC)


def _aged(database: Database, *, default: bool = False, rows: int = 3) -> psycopg.Connection[Any]:
    """A table with partitions from January to June 2024; with a retention of 4 months January is due in June."""
    conn = _make(database)
    for month in range(1, 7):
        conn.execute(
            f"CREATE TABLE events_p2024_{month:02d} PARTITION OF events"
            f" FOR VALUES FROM ('2024-{month:02d}-01') TO ('2024-{month + 1:02d}-01')"
        )
        conn.execute(
            "INSERT INTO events SELECT make_date(2024, %s, 1), g, E'a,\"b\"\\n' || g FROM generate_series(1, %s) g",
            (month, rows),
        )
    if default:
        conn.execute("CREATE TABLE d PARTITION OF events DEFAULT")
    return conn


def _retiring(tmp_path: Path, what: str = "archive", form: str = "csv") -> PartitionSet:
    given: dict[str, Any] = {"on_retention": what, "archive_format": form}
    return PartitionSet(
        table="events", period="month", ahead=0, retention="4 months", archive_dir=str(tmp_path / "old"), **given
    )


@pytest.mark.versions(14, 16, 18)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_an_archive_holds_the_rows(database: Database, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    conn = _aged(database)
    result = _maintain(database, _retiring(tmp_path, form=form), NOW)
    assert not result.findings, result.findings
    assert [k for k, _, _ in _done(result)] == ["detach", "archive", "drop"]
    assert "events_p2024_01" not in _bounds(conn)
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
    result = _maintain(database, _retiring(tmp_path, form=form), NOW)
    assert _ids(result) == ["gap-in-the-past"], result.findings
    assert conn.execute("SELECT to_regclass('old')").fetchone() == (None,)
    about = json.loads(next((tmp_path / "old").glob("*.json")).read_text())
    stored = {c["name"]: c["stored_as"] for c in about["columns"]}
    if form == "csv":
        conn.execute("CREATE TABLE back (LIKE events)")
        with conn.cursor() as cursor, cursor.copy("COPY back FROM STDIN (FORMAT csv, HEADER)") as copy:
            copy.write(gzip.decompress((tmp_path / "old" / "public.old.csv.gz").read_bytes()))
        assert _scalar(conn, "SELECT count(*) FROM back") == 2
        assert _scalar(conn, "SELECT count(*) FROM (TABLE kept EXCEPT ALL TABLE back) t") == 0
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
    _aged(database, default=default)
    (tmp_path / "old").mkdir()
    precious = tmp_path / "old" / "public.events_p2024_01.csv.gz"
    precious.write_bytes(b"precious")
    assert not _maintain(database, _retiring(tmp_path), NOW).findings
    assert precious.read_bytes() == b"precious"
    assert len(list((tmp_path / "old").glob("public.events_p2024_01-*.csv.gz"))) == 1


def test_a_foreign_key_in_the_way_is_found(database: Database, tmp_path: Path) -> None:
    conn = _aged(database)
    conn.execute("CREATE TABLE child (at date, id bigint, FOREIGN KEY (at, id) REFERENCES events)")
    conn.execute("INSERT INTO child VALUES ('2024-01-01', 2)")
    result = _maintain(database, _retiring(tmp_path, "drop"), NOW)
    assert _ids(result) == ["foreign-key-in-the-way"]
    assert "child" in result.findings[0].message
    assert "events_p2024_01" in _bounds(conn)
    conn.execute("DELETE FROM child")
    assert _ids(_maintain(database, _retiring(tmp_path, "drop"), NOW)) == []
    assert "events_p2024_01" not in _bounds(conn)


def _pending(database: Database, conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Leave a DETACH CONCURRENTLY half done, as a cancel does; return the old transaction it waited for."""
    old = database.connect(autocommit=False)
    old.execute("SELECT count(*) FROM events")
    worker = database.connect()
    thread_error: list[BaseException] = []

    def detach() -> None:
        try:
            worker.execute("ALTER TABLE events DETACH PARTITION events_p2024_01 CONCURRENTLY")
        except psycopg.errors.QueryCanceled as error:
            thread_error.append(error)

    thread = threading.Thread(target=detach)
    thread.start()
    _wait(lambda: bool(_scalar(conn, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending")))
    worker.cancel()
    thread.join(10)
    assert thread_error
    return old


def _scalar(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query).fetchone()  # pyright: ignore[reportArgumentType, reportCallIssue] because the texts vary
    assert row is not None
    return row[0]


def _wait(holds: Callable[[], bool], timeout_s: float = 20) -> None:
    until = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.versions(14, 15, 16, 18)
def test_an_interrupted_detach_is_finished(database: Database, tmp_path: Path) -> None:
    conn = _aged(database)
    old = _pending(database, conn)
    result = _maintain(database, _retiring(tmp_path, "drop"), NOW, limits=QUICK)
    # The old transaction still sees the partition, so nobody may finish yet.
    assert _ids(result) == ["detach-waits"], result.findings
    assert not result.has_errors
    old.rollback()
    result = _maintain(database, _retiring(tmp_path, "drop"), NOW, limits=QUICK)
    assert _done(result) == [("finalize", "events_p2024_01", "done")]
    assert _scalar(conn, "SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 0
    # Who detached it promised nothing: it stays.
    assert _scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3


def test_a_detach_that_waits_is_finished_by_the_next_call(database: Database, tmp_path: Path) -> None:
    conn = _aged(database)
    old = database.connect(autocommit=False)
    old.execute("SELECT count(*) FROM events")
    first = _maintain(database, _retiring(tmp_path), NOW, limits=QUICK)
    assert _ids(first) == ["detach-waits"]
    assert _scalar(conn, "SELECT count(*) FROM pgscale.retired") == 1
    old.rollback()
    second = _maintain(database, _retiring(tmp_path), NOW, limits=QUICK)
    assert [k for k, _, _ in _done(second)] == ["finalize", "archive", "drop"]
    assert conn.execute("SELECT to_regclass('events_p2024_01')").fetchone() == (None,)


def test_the_second_of_two_changes_nothing(database: Database, tmp_path: Path) -> None:
    conn = _aged(database)
    first = database.connect()
    assert store.try_look_after(first, int(_scalar(conn, "SELECT 'events'::regclass::oid::int8")))
    result = _maintain(database, _retiring(tmp_path), NOW)
    assert (_ids(result), _done(result), result.has_errors) == (["already-maintained"], [], False)
    assert "events_p2024_01" in _bounds(conn)
    first.close()
    _wait(lambda: bool(_done(_maintain(database, _retiring(tmp_path), NOW))))


def test_an_open_run_is_left_alone(database: Database) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE events (at date NOT NULL, id int, PRIMARY KEY (at, id))")
    conn.execute("INSERT INTO events VALUES ('2024-01-01', 1)")
    partition.run(database.dsn, "events", partition.Options(by="range:at:month", pace="fast"))
    before = _bounds(conn)
    result = _maintain(database, PartitionSet(table="events", period="month"), NOW)
    assert _ids(result) == ["run-not-finished"]
    assert _bounds(conn) == before
    partition.finish(database.dsn, "events")
    assert "run-not-finished" not in _ids(_maintain(database, PartitionSet(table="events", period="month"), NOW))


# -- what is never dropped -------------------------------------------------------------------------------


def _archived_not_dropped(database: Database, tmp_path: Path) -> psycopg.Connection[Any]:
    conn = _aged(database)
    assert _child(database.dsn, tmp_path, "maintain:archived").returncode == -9
    assert _scalar(conn, "SELECT state FROM pgscale.retired") == "archived"
    return conn


def test_a_table_changed_after_its_archive_is_archived_again(database: Database, tmp_path: Path) -> None:
    conn = _archived_not_dropped(database, tmp_path)
    conn.execute("UPDATE events_p2024_01 SET v = 'changed' WHERE id = 2")
    result = _maintain(database, _retiring(tmp_path), NOW)
    assert _ids(result) == ["refused"]
    assert _scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3
    assert not _maintain(database, _retiring(tmp_path), NOW).findings
    assert b"changed" in gzip.decompress((tmp_path / "old" / "public.events_p2024_01.csv.gz").read_bytes())
    assert conn.execute("SELECT to_regclass('events_p2024_01')").fetchone() == (None,)


def test_a_table_whose_archive_was_damaged_is_archived_again(database: Database, tmp_path: Path) -> None:
    conn = _archived_not_dropped(database, tmp_path)
    file = tmp_path / "old" / "public.events_p2024_01.csv.gz"
    file.write_bytes(file.read_bytes()[:-1])
    assert _ids(_maintain(database, _retiring(tmp_path), NOW)) == ["refused"]
    assert _scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3
    assert not _maintain(database, _retiring(tmp_path), NOW).findings


def test_another_table_of_the_same_name_is_not_dropped(database: Database, tmp_path: Path) -> None:
    conn = _archived_not_dropped(database, tmp_path)
    conn.execute("DROP TABLE events_p2024_01")
    conn.execute("CREATE TABLE events_p2024_01 (precious int)")
    result = _maintain(database, _retiring(tmp_path), NOW)
    assert [k for k, _, _ in _done(result)] == ["forget"]
    assert conn.execute("SELECT count(*) FROM events_p2024_01").fetchone() == (0,)


def test_a_renamed_table_is_not_dropped(database: Database, tmp_path: Path) -> None:
    conn = _archived_not_dropped(database, tmp_path)
    conn.execute("ALTER TABLE events_p2024_01 RENAME TO keep_me")
    assert _ids(_maintain(database, _retiring(tmp_path), NOW)) == ["retired-renamed"]
    assert _scalar(conn, "SELECT count(*) FROM keep_me") == 3


def test_a_table_attached_again_is_not_dropped(database: Database, tmp_path: Path) -> None:
    conn = _archived_not_dropped(database, tmp_path)
    conn.execute("ALTER TABLE events ATTACH PARTITION events_p2024_01 FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')")
    longer = PartitionSet(table="events", period="month", ahead=0, retention="5 years", on_retention="drop")
    assert [k for k, _, _ in _done(_maintain(database, longer, NOW))] == ["forget"]
    assert "events_p2024_01" in _bounds(conn)


def test_a_promise_to_drop_is_not_kept_when_the_configuration_keeps(database: Database, tmp_path: Path) -> None:
    conn = _archived_not_dropped(database, tmp_path)
    kept = PartitionSet(table="events", period="month", ahead=0)
    assert [k for k, _, _ in _done(_maintain(database, kept, NOW))] == ["forget"]
    assert _scalar(conn, "SELECT count(*) FROM events_p2024_01") == 3


# -- killed anywhere -------------------------------------------------------------------------------------

POINTS = (
    "maintain:before-create",
    "maintain:in-create",
    "maintain:after-create",
    "maintain:before-note",
    "maintain:noted",
    "maintain:detached",
    "maintain:archive-scratch",
    "maintain:archive-described",
    "maintain:archive-written",
    "maintain:archived",
    "maintain:in-drop",
    "maintain:dropped",
)
CHILD = """
import sys
from datetime import datetime, UTC
from pgscale import partition
partition.maintain(sys.argv[1], [partition.PartitionSet(table="events", period="month", ahead=2, retention="4 months",
    on_retention="archive", archive_dir=sys.argv[2], archive_format="csv")], now=datetime(2024, 6, 10, tzinfo=UTC))
"""


def _child(dsn: str, tmp_path: Path, point: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, dsn, str(tmp_path / "old")],
        env={**os.environ, "PGSCALE_KILL_AT": point},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("default", [False, True], ids=["plain", "default"])
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_continued(database: Database, tmp_path: Path, point: str, default: bool) -> None:
    conn = _aged(database, default=default)
    conn.execute("INSERT INTO events SELECT '2024-07-02', 99, 'late' WHERE %s", (default,))
    rows = _scalar(conn, "SELECT count(*) FROM events")
    killed = _child(database.dsn, tmp_path, point)
    assert killed.returncode == -9, killed.stderr
    done = _child(database.dsn, tmp_path, "")
    for _ in range(50):
        # The killed one's session may live on for a moment, with its lock.
        if "events_p2024_01" not in _bounds(conn) and _scalar(conn, "SELECT to_regclass('events_p2024_01') IS NULL"):
            break
        time.sleep(0.2)
        done = _child(database.dsn, tmp_path, "")
    assert done.returncode == 0, done.stderr
    ranged = sorted(n for n in _bounds(conn) if n != "d")
    assert ranged == [f"events_p2024_{m:02d}" for m in range(2, 9)]
    assert _scalar(conn, "SELECT count(*) FROM events") == rows - 3
    if default:
        assert _scalar(conn, "SELECT count(*) FROM events_p2024_07") == 1
    old = tmp_path / "old"
    about = json.loads((old / "public.events_p2024_01.csv.gz.json").read_text())
    assert about["row_count"] == 3
    assert gzip.decompress((old / "public.events_p2024_01.csv.gz").read_bytes()).count(b"2024-01-01") == 3
    assert sorted(p.name for p in old.iterdir()) == [
        "public.events_p2024_01.csv.gz",
        "public.events_p2024_01.csv.gz.json",
    ]
    again = partition.maintain(database.dsn, [_retiring(tmp_path)], now=NOW)
    assert [s.actions for s in again.sets] == [()]
    assert conn.execute("SELECT to_regnamespace('pgscale')").fetchone() == (None,)


# -- the configuration -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[[partitions]]\ntable = "t"\nperiod = "month"\nretain = "1 day"', "retain"),
        ('[[partitions]]\nperiod = "month"', "table"),
        ('[[partitions]]\ntable = "t"', "period"),
        ('[[partitions]]\ntable = "t"\nperiod = "fortnight"', "period"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\nahead = "3"', "ahead"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\nahead = true', "ahead"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\nahead = -1', "ahead"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\ntime_zone = "Mars"', "time_zone"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\nretention = "soon"', "retention"),
        ('[[partitions]]\ntable = "t"\nperiod = 100\nretention = "1 month"', "retention"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\non_retention = "shred"', "on_retention"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\non_retention = "archive"', "archive_dir"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\narchive_format = "zip"', "archive_format"),
        ('[[partitions]]\ntable = "t"\nperiod = "month"\ndefault = "yes"', "default"),
        ('[[partitions]]\ntable = "t"\nperiod = "day"\n[[partitions]]\ntable = "t"\nperiod = "day"', "table"),
        ('[partition]\ntable = "t"', "partition"),
        ("partitions = 3", "partitions"),
        ("partitions = [3]", "partitions"),
        ("partitions = [", "TOML"),
    ],
)
def test_a_wrong_configuration_names_the_key(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "pgscale.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=rf"pgscale.toml.*\b{named}\b"):
        read_config(file)


def test_a_whole_configuration_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pgscale.toml"
    file.write_text(
        '[[partitions]]\ntable = "a"\nperiod = 1000\nretention = 5000\n'
        '[[partitions]]\ntable = "b"\nperiod = "6 hours"\ntime_zone = "Europe/Berlin"\nahead = 8\n'
        'retention = "13 months"\non_retention = "archive"\narchive_dir = "/x"\n'
        'archive_format = "csv"\ndefault = false\n'
    )
    first, second = read_config(file).partitions
    assert (first.period, first.retention, first.default, first.ahead) == ("1000", "5000", None, 3)
    assert (second.on_retention, second.archive_format, second.default) == ("archive", "csv", False)


def test_wrong_calls_exit_with_2(database: Database, tmp_path: Path) -> None:
    missing = pgscale(database.dsn, "maintain", "--config", str(tmp_path / "none.toml"))
    assert (missing.returncode, "none.toml" in missing.stderr) == (2, True)
    file = tmp_path / "pgscale.toml"
    file.write_text('[[partitions]]\ntable = "events"\nperiod = "month"\nahaed = 1\n')
    wrong = pgscale(database.dsn, "maintain", "--config", str(file))
    assert (wrong.returncode, "`ahaed`" in wrong.stderr) == (2, True)
    file.write_text('[[partitions]]\ntable = "events"\nperiod = "month"\n')
    unknown = pgscale(database.dsn, "maintain", "other", "--config", str(file))
    assert (unknown.returncode, "other" in unknown.stderr) == (2, True)
    found = pgscale(database.dsn, "maintain", "--config", str(file), "--json")
    assert found.returncode == 1
    assert json.loads(found.stdout)["sets"][0]["findings"][0]["id"] == "refused"


def test_a_period_that_does_not_fit_the_column_is_a_usage_error(database: Database) -> None:
    conn = _make(database)
    conn.execute("CREATE TABLE other (at date) PARTITION BY RANGE (at)")
    sets = [PartitionSet(table="other", period="month"), PartitionSet(table="events", period="1000")]
    with pytest.raises(UsageError, match="period"):
        partition.maintain(database.dsn, sets, now=NOW)
    # A wrong file is wrong as a whole: the sets before the wrong one are not touched either.
    assert _bounds(conn, "other") == {}


def test_now_must_know_its_time_zone(database: Database) -> None:
    with pytest.raises(UsageError, match="time zone"):
        _maintain(database, PartitionSet(table="events", period="month"), datetime(2024, 1, 1))


# -- schedules -------------------------------------------------------------------------------------------


def _schedule(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pgscale", "partition", "schedule", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_schedules_are_ready() -> None:
    done = _schedule("--every", "6h", "--config", "/etc/50% off/pgscale.toml", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert list(made) == ["systemd", "cron", "kubernetes", "pg_cron"]
    assert "OnUnitActiveSec=21600s" in made["systemd"]["/etc/systemd/system/pgscale-maintain.timer"]
    assert '"/etc/50%% off/pgscale.toml"' in made["systemd"]["/etc/systemd/system/pgscale-maintain.service"]
    assert made["cron"]["crontab"].startswith("0 */6 * * * ")
    assert "'/etc/50\\% off/pgscale.toml'" in made["cron"]["crontab"]
    assert 'schedule: "0 */6 * * *"' in made["kubernetes"]["pgscale-maintain.yaml"]
    assert "cannot run this" in made["pg_cron"]["pg_cron"]


@pytest.mark.parametrize(("every", "times"), [("15min", "*/15 * * * *"), ("1h", "0 * * * *"), ("1d", "0 0 * * *")])
def test_cron_times(every: str, times: str) -> None:
    assert _schedule("--every", every, "--kind", "cron").stdout.splitlines()[1].startswith(f"{times} ")


def test_what_cron_cannot_say_systemd_can() -> None:
    assert _schedule("--every", "7min", "--kind", "cron").returncode == 2
    assert _schedule("--every", "5s").returncode == 2
    assert _schedule("--every", "7min", "--kind", "systemd").returncode == 0


def test_a_loop_goes_on_after_bad_news(database: Database, tmp_path: Path) -> None:
    file = tmp_path / "pgscale.toml"
    file.write_text('[[partitions]]\ntable = "events"\nperiod = "month"\n')
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pgscale",
            "partition",
            "maintain",
            "--config",
            str(file),
            "--loop",
            "200ms",
            "--json",
            "--dsn",
            database.dsn,
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["ok"] is False
        conn = _make(database)
        _wait(lambda: len(_bounds(conn)) == 4)
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
