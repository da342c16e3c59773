"""Tables taken over from the real pg_partman: what it would do next is what `maintain` does next."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from pgscale import partition
from pgscale.commands.config import read_config
from pgscale.errors import RefusedError
from pgscale.partition import PartitionSet
from pgscale.partition.lifecycle.model import Create, Detach
from support.crash import pgscale
from support.lifecycle import bounds_of, maintain, scalar
from support.servers import Database

pytestmark = pytest.mark.versions(15)


def _managed(
    database: Database,
    interval: str = "monthly",
    type_name: str = "date",
    *,
    zone: str = "UTC",
    more: str = "",
) -> psycopg.Connection[Any]:
    """A table that pg_partman looks after, with four periods before and after now."""
    with database.connect() as setting:
        setting.execute(f"ALTER DATABASE {database.name} SET timezone = '{zone}'")
    conn = database.connect()
    conn.execute(f"CREATE TABLE events (at {type_name} NOT NULL, id bigint NOT NULL) PARTITION BY RANGE (at)")
    conn.execute("CREATE INDEX ON events (at)")
    conn.execute(f"SELECT partman.create_parent('public.events', 'at', 'native', '{interval}' {more})")
    conn.execute("SET timezone = 'UTC'")
    return conn


def _bound(text: str) -> tuple[str, str]:
    match = re.match(r"FOR VALUES FROM \('?(.+?)'?\) TO \('?(.+?)'?\)$", text)
    assert match is not None, text
    return match[1], match[2]


def _ranges(conn: psycopg.Connection[Any]) -> set[tuple[str, str]]:
    return {_bound(b) for b in bounds_of(conn).values() if b != "DEFAULT"}


def _forget_newest(conn: psycopg.Connection[Any], count: int) -> None:
    ranges = {n: _bound(b)[0] for n, b in bounds_of(conn).items() if b != "DEFAULT"}
    key = (lambda n: int(ranges[n])) if all(r.isdigit() for r in ranges.values()) else (lambda n: ranges[n])
    for name in sorted(ranges, key=key)[-count:]:
        conn.execute(f'DROP TABLE "{name}"')


def _planned(database: Database, wanted: PartitionSet, now: datetime) -> tuple[list[tuple[str, str]], set[str]]:
    result = maintain(database, wanted, now, dry_run=True)
    assert not [f for f in result.findings if f.severity == "error"], result.findings
    actions = [d.action for s in result.sets for d in s.actions]
    creates = [(a.low, a.high) for a in actions if isinstance(a, Create)]
    assert all(isinstance(a, Create | Detach) or a.leaf.name in {d.leaf.name for d in actions} for a in actions)
    return creates, {a.leaf.name for a in actions if isinstance(a, Detach)}


# -- the same next partitions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "type_name", "zone", "period"),
    [
        ("yearly", "date", "UTC", "year"),
        ("quarterly", "timestamp", "Europe/Berlin", "quarter"),
        ("monthly", "timestamptz", "Europe/Berlin", "month"),
        ("monthly", "date", "UTC", "month"),
        ("weekly", "timestamptz", "America/New_York", "week"),
        ("daily", "timestamptz", "Pacific/Auckland", "day"),
        ("hourly", "timestamptz", "Europe/Berlin", "1 hour"),
        ("half-hour", "timestamptz", "UTC", "30 minutes"),
        ("quarter-hour", "timestamp", "UTC", "15 minutes"),
    ],
)
def test_what_maintain_plans_is_what_pg_partman_makes(
    partman_database: Database, interval: str, type_name: str, zone: str, period: str
) -> None:
    conn = _managed(partman_database, interval, type_name, zone=zone)
    now = datetime.now(UTC)
    _forget_newest(conn, 3)
    conn.execute(f"SET timezone = '{zone}'")
    conn.execute("INSERT INTO events VALUES (%s, 1)", (now,))
    conn.execute("SET timezone = 'UTC'")
    adoption = partition.read_adoption(partman_database.dsn, "events")
    assert (adoption.wanted.period, adoption.wanted.ahead) == (period, 4)
    if type_name == "timestamptz" and period in ("month", "week", "day"):
        assert adoption.wanted.time_zone == zone
    creates, retired = _planned(partman_database, adoption.wanted, now)
    before = _ranges(conn)
    conn.execute(f"SET timezone = '{zone}'")
    conn.execute("SELECT partman.run_maintenance('public.events')")
    conn.execute("SET timezone = 'UTC'")
    assert set(creates) == _ranges(conn) - before
    assert len(creates) == 3
    assert retired == set()


def test_a_number_key_goes_on_as_it_did(partman_database: Database) -> None:
    conn = partman_database.connect()
    conn.execute("CREATE TABLE events (at bigint PRIMARY KEY) PARTITION BY RANGE (at)")
    conn.execute("SELECT partman.create_parent('public.events', 'at', 'native', '1000', p_premake := 5)")
    conn.execute("INSERT INTO events SELECT generate_series(1, 4321)")
    conn.execute("UPDATE partman.part_config SET retention = '2000', retention_keep_table = false")
    adoption = partition.read_adoption(partman_database.dsn, "events")
    assert (adoption.wanted.period, adoption.wanted.retention, adoption.wanted.on_retention) == ("1000", "2000", "drop")
    creates, retired = _planned(partman_database, adoption.wanted, datetime.now(UTC))
    before, names = _ranges(conn), set(bounds_of(conn))
    conn.execute("SELECT partman.run_maintenance('public.events')")
    assert set(creates) == _ranges(conn) - before
    assert len(creates) == 4
    assert retired == names - set(bounds_of(conn)) == {"events_p0", "events_p1000"}


def test_pg_partman_that_runs_on_for_ever_is_at_most_one_period_further(partman_database: Database) -> None:
    conn = _managed(partman_database, more=", p_premake := 2")
    conn.execute("UPDATE partman.part_config SET infinite_time_partitions = true")
    _forget_newest(conn, 2)
    adoption = partition.read_adoption(partman_database.dsn, "events")
    assert "rounds" in {f.id for f in adoption.findings}
    creates, _ = _planned(partman_database, adoption.wanted, datetime.now(UTC))
    before = _ranges(conn)
    conn.execute("SELECT partman.run_maintenance('public.events')")
    theirs = sorted(_ranges(conn) - before)
    assert theirs[: len(creates)] == sorted(creates)
    assert len(theirs) - len(creates) in (0, 1)


@pytest.mark.parametrize(
    ("retention", "said"),
    [("2 months", "2 months"), ("45 days", "45 days"), ("1 year", "1 year"), ("72:00", "72 hours")],
)
def test_the_same_partitions_retire(partman_database: Database, retention: str, said: str) -> None:
    conn = _managed(partman_database, "monthly", "timestamptz", more=", p_premake := 20")
    conn.execute("INSERT INTO events SELECT now(), 1")
    conn.execute(
        "UPDATE partman.part_config SET retention = %s, retention_keep_table = false, retention_keep_index = false",
        (retention,),
    )
    adoption = partition.read_adoption(partman_database.dsn, "events")
    assert (adoption.wanted.retention, adoption.wanted.on_retention) == (said, "drop")
    _, retired = _planned(partman_database, adoption.wanted, datetime.now(UTC))
    names = set(bounds_of(conn))
    conn.execute("SELECT partman.run_maintenance('public.events')")
    assert retired == names - set(bounds_of(conn))
    assert retired


# -- taking over -----------------------------------------------------------------------------------------


def _is_on(conn: psycopg.Connection[Any]) -> bool:
    return scalar(conn, "SELECT automatic_maintenance FROM partman.part_config") == "on"


def test_two_tools_do_not_do_the_same(partman_database: Database, tmp_path: Path) -> None:
    conn = _managed(partman_database)
    file = tmp_path / "pgscale.toml"
    file.write_text('# mine\n[[partitions]]\ntable = "public.other"\nperiod = "day"  # kept')
    dry = pgscale(partman_database.dsn, "adopt", "events", "--config", str(file), "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert 'period = "month"' in dry.stdout
    assert (_is_on(conn), "public.events" in file.read_text()) == (True, False)
    done = pgscale(partman_database.dsn, "adopt", "events", "--config", str(file), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["switched_off"], said["appended"], said["maintain"]["ok"]) == (True, True, True)
    assert file.read_text().startswith('# mine\n[[partitions]]\ntable = "public.other"\nperiod = "day"  # kept\n')
    assert [s.table for s in read_config(file).partitions] == ["public.other", "public.events"]
    assert not _is_on(conn)
    # From now on it is ours: pg_partman's own round makes nothing, ours does.
    _forget_newest(conn, 2)
    conn.execute("INSERT INTO events VALUES (now(), 1)")
    before = bounds_of(conn)
    conn.execute("SELECT partman.run_maintenance()")
    assert bounds_of(conn) == before
    ours = pgscale(partman_database.dsn, "maintain", "events", "--config", str(file))
    assert ours.returncode == 0, ours.stdout
    assert len(bounds_of(conn)) == len(before) + 2
    again = pgscale(partman_database.dsn, "adopt", "events", "--config", str(file))
    assert again.returncode == 0, again.stderr
    assert "has it already" in again.stdout
    assert "was off already" in again.stdout
    assert len(read_config(file).partitions) == 2
    conn.execute(said["way_back"])
    assert _is_on(conn)
    conn.execute("SELECT partman.run_maintenance()")


def test_a_set_of_another_kind_in_the_file_is_left_alone(partman_database: Database, tmp_path: Path) -> None:
    conn = _managed(partman_database)
    file = tmp_path / "pgscale.toml"
    for text, fact in (
        ('[[partitions]]\ntable = "public.events"\nperiod = "day"\n', "another set"),
        ('[[partitions]]\ntable = "events"\nperiod = "day"\n', "another set"),
        ('partitions = [{table = "public.other", period = "day"}]\n', "another way"),
    ):
        file.write_text(text)
        refused = pgscale(partman_database.dsn, "adopt", "events", "--config", str(file))
        assert (refused.returncode, fact in refused.stderr) == (4, True), refused.stderr
        assert (file.read_text(), _is_on(conn)) == (text, True)


def test_killed_while_switching_it_is_adopted_again(partman_database: Database, tmp_path: Path) -> None:
    conn = _managed(partman_database)
    file = tmp_path / "pgscale.toml"
    arguments = ("adopt", "events", "--config", str(file))
    assert pgscale(partman_database.dsn, *arguments, kill_at="adopt:switched").returncode == -9
    # Somebody looks after the table at every moment: rather both than nobody.
    assert _is_on(conn)
    assert len(read_config(file).partitions) == 1
    assert pgscale(partman_database.dsn, *arguments).returncode == 0
    assert not _is_on(conn)
    assert len(read_config(file).partitions) == 1


def test_pg_partman_at_work_is_not_interrupted(partman_database: Database) -> None:
    conn = _managed(partman_database)
    adoption = partition.read_adoption(partman_database.dsn, "events")
    worker = partman_database.connect(autocommit=False)
    worker.execute("SELECT partman.run_maintenance()")
    with pytest.raises(RefusedError, match="at this moment"):
        partition.take_over(partman_database.dsn, adoption)
    assert _is_on(conn)
    worker.rollback()
    assert partition.take_over(partman_database.dsn, adoption)
    assert not _is_on(conn)


def test_what_changed_meanwhile_is_not_switched_off(partman_database: Database) -> None:
    conn = _managed(partman_database)
    adoption = partition.read_adoption(partman_database.dsn, "events")
    conn.execute("UPDATE partman.part_config SET premake = 9")
    with pytest.raises(RefusedError, match="a moment ago"):
        partition.take_over(partman_database.dsn, adoption)
    assert _is_on(conn)


def test_no_superuser_and_no_more_rights_than_needed(partman_database: Database, tmp_path: Path) -> None:
    conn = _managed(partman_database)
    login = partman_database.create_role("login")
    superuser = partman_database.connect_superuser()
    superuser.execute(f"GRANT {partman_database.owner} TO {login}")
    superuser.execute(f"ALTER ROLE {login} NOINHERIT")
    dsn, file = partman_database.dsn_as(login), tmp_path / "pgscale.toml"
    arguments = ("adopt", "public.events", "--config", str(file))
    superuser.execute(f"ALTER ROLE {login} INHERIT")
    superuser.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA partman FROM {partman_database.owner}")
    unread = pgscale(dsn, *arguments, "--dry-run")
    assert (unread.returncode, "GRANT SELECT ON partman.part_config" in unread.stderr) == (3, True), unread.stderr
    superuser.execute(f"GRANT USAGE ON SCHEMA partman TO {login}")
    superuser.execute(f"GRANT SELECT ON partman.part_config, partman.part_config_sub TO {login}")
    shown = pgscale(dsn, *arguments, "--dry-run")
    assert (shown.returncode, "GRANT UPDATE (automatic_maintenance)" in shown.stdout) == (0, True), shown.stderr
    unswitched = pgscale(dsn, *arguments)
    assert (unswitched.returncode, "GRANT UPDATE (automatic_maintenance)" in unswitched.stderr) == (3, True)
    assert not file.exists()
    superuser.execute(f"GRANT UPDATE (automatic_maintenance) ON partman.part_config TO {login}")
    done = pgscale(dsn, *arguments)
    assert done.returncode == 0, done.stderr
    assert scalar(superuser, "SELECT automatic_maintenance FROM partman.part_config") == "off"
    conn.close()


def test_new_partitions_have_what_the_template_gave(partman_database: Database) -> None:
    conn = partman_database.connect()
    conn.execute("CREATE TABLE events (at date NOT NULL, id bigint NOT NULL) PARTITION BY RANGE (at)")
    conn.execute("CREATE TABLE template (LIKE events) WITH (fillfactor = 60)")
    conn.execute("ALTER TABLE template ADD PRIMARY KEY (id)")
    conn.execute(
        "SELECT partman.create_parent('public.events', 'at', 'native', 'monthly',"
        " p_template_table := 'public.template')"
    )
    _forget_newest(conn, 1)
    adoption = partition.read_adoption(partman_database.dsn, "events")
    assert not [f for f in adoption.findings if f.severity == "warning"]
    before = set(bounds_of(conn))
    assert not maintain(partman_database, adoption.wanted, datetime.now(UTC)).has_errors
    (made,) = set(bounds_of(conn)) - before
    row = conn.execute(
        "SELECT reloptions, (SELECT array_agg(pg_get_constraintdef(oid)) FROM pg_constraint"
        " WHERE conrelid = c.oid AND contype = 'p') FROM pg_class c WHERE relname = %s",
        (made,),
    ).fetchone()
    assert row == (["fillfactor=60"], ["PRIMARY KEY (id)"])
    conn.execute("CREATE UNIQUE INDEX late ON template (at, id)")
    late = partition.read_adoption(partman_database.dsn, "events")
    assert [(f.id, "late" in f.message) for f in late.findings if f.severity == "warning"] == [
        ("template-indexes", True)
    ]


def test_the_zone_of_whoever_maintains_is_found(partman_database: Database) -> None:
    """This login has UTC; the bounds are those of a role that maintains in Berlin."""
    conn = _managed(partman_database, "daily", "timestamptz", zone="Europe/Berlin")
    conn.execute(f"ALTER DATABASE {partman_database.name} RESET timezone")
    with pytest.raises(RefusedError, match="not-on-the-grid"):
        partition.read_adoption(partman_database.dsn, "events")
    role = partman_database.create_role("partman")
    superuser = partman_database.connect_superuser()
    superuser.execute(f"ALTER ROLE {role} IN DATABASE {partman_database.name} SET timezone = 'Europe/Berlin'")
    assert partition.read_adoption(partman_database.dsn, "events").wanted.time_zone == "Europe/Berlin"


# -- what is refused by name -----------------------------------------------------------------------------

_SET = "UPDATE partman.part_config SET "


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_SET + "retention = '1 month 3 days'", "retention-mixed"),
        (_SET + "retention = '3 months', retention_schema = 'old'", "retention-schema"),
        (_SET + "publications = '{p}'", "publications"),
        (_SET + "subscription_refresh = 's'", "subscription-refresh"),
        (_SET + "undo_in_progress = true", "undo-in-progress"),
        (_SET + "control = 'id'", "control-differs"),
        (_SET + "partition_interval = '2 months'", "interval-not-a-period"),
        (_SET + "partition_interval = '1 mon 1 day'", "interval-not-a-period"),
        (_SET + "partition_interval = '7 days'", "not-on-the-grid"),
        (_SET + "premake = 5000", "not-expressible"),
        (_SET + "partition_type = 'partman'", "trigger-based"),
        (
            "INSERT INTO partman.part_config_sub (sub_parent, sub_partition_type, sub_control, sub_partition_interval)"
            " VALUES ('public.events', 'native', 'id', '1000')",
            "sub-partitioned",
        ),
        ("DELETE FROM partman.part_config", "does not look after"),
        ("ALTER TABLE events RENAME TO elsewhere", "no table"),
    ],
)
def test_what_cannot_be_said_here_is_refused(partman_database: Database, change: str, finding: str) -> None:
    conn = _managed(partman_database)
    conn.execute(change)
    refused = pgscale(partman_database.dsn, "adopt", "public.events", "--json")
    assert refused.returncode == 4, refused.stdout
    assert finding in refused.stderr
    assert json.loads(refused.stdout)["exit_code"] == 4
    if finding not in ("does not look after", "no table"):
        assert _is_on(conn)


def test_weeks_that_begin_on_another_day_are_refused(partman_database: Database) -> None:
    # A Wednesday: pg_partman steps from there for ever.
    conn = partman_database.connect()
    conn.execute("CREATE TABLE events (at date NOT NULL) PARTITION BY RANGE (at)")
    conn.execute(
        "SELECT partman.create_parent('public.events', 'at', 'native', '1 week', p_start_partition := '2026-09-02')"
    )
    with pytest.raises(RefusedError, match="Weeks begin on Monday"):
        partition.read_adoption(partman_database.dsn, "events")


def test_steps_that_leave_the_grid_when_the_clocks_change_are_refused(partman_database: Database) -> None:
    """Two days at a time: on the grid while the place has UTC, an hour beside it for the other half of the year."""
    now = datetime.now(UTC)
    zone = next(z for z in ("Europe/London", "Atlantic/Azores") if not now.astimezone(ZoneInfo(z)).utcoffset())
    start = date(1970, 1, 1) + timedelta(days=(now.date() - date(1970, 1, 1)).days // 2 * 2 - 8)
    more = f", p_start_partition := '{start}'"
    _managed(partman_database, "2 days", "timestamptz", zone=zone, more=more)
    with pytest.raises(RefusedError, match="not-on-the-grid"):
        partition.read_adoption(partman_database.dsn, "events")


def test_two_days_at_a_time_are_a_period_where_clocks_do_not_change(partman_database: Database) -> None:
    start = date(1970, 1, 1) + timedelta(days=(datetime.now(UTC).date() - date(1970, 1, 1)).days // 2 * 2 - 8)
    more = f", p_start_partition := '{start}'"
    _managed(partman_database, "2 days", "timestamptz", more=more)
    assert partition.read_adoption(partman_database.dsn, "events").wanted.period == "2 days"


def test_hours_that_begin_at_a_quarter_to_those_of_utc_are_refused(partman_database: Database) -> None:
    _managed(partman_database, "hourly", "timestamptz", zone="Asia/Kathmandu")
    with pytest.raises(RefusedError, match="not-on-the-grid"):
        partition.read_adoption(partman_database.dsn, "events")


def test_an_epoch_key_is_refused(partman_database: Database) -> None:
    conn = partman_database.connect()
    conn.execute("CREATE TABLE events (at bigint NOT NULL) PARTITION BY RANGE (at)")
    conn.execute("SELECT partman.create_parent('public.events', 'at', 'native', 'monthly', p_epoch := 'seconds')")
    with pytest.raises(RefusedError, match="epoch-key"):
        partition.read_adoption(partman_database.dsn, "events")


def test_the_old_trigger_based_kind_is_refused(partman_database: Database) -> None:
    conn = partman_database.connect()
    conn.execute("CREATE TABLE events (at timestamptz NOT NULL)")
    conn.execute("SELECT partman.create_parent('public.events', 'at', 'partman', 'monthly')")
    with pytest.raises(RefusedError, match="trigger-based"):
        partition.read_adoption(partman_database.dsn, "events")


def test_without_pg_partman_there_is_nothing_to_adopt(database: Database) -> None:
    database.connect().execute("CREATE TABLE events (at date) PARTITION BY RANGE (at)")
    with pytest.raises(RefusedError, match="not installed"):
        partition.read_adoption(database.dsn, "events")


def test_what_maintain_cannot_look_after_stays_with_pg_partman(partman_database: Database) -> None:
    conn = partman_database.connect()
    conn.execute("CREATE TABLE events (at bigint NOT NULL) PARTITION BY RANGE (at)")
    conn.execute("SELECT partman.create_parent('public.events', 'at', 'native', '1000')")
    conn.execute("INSERT INTO events VALUES (1)")
    refused = pgscale(partman_database.dsn, "adopt", "events")
    assert (refused.returncode, "number-key-unknown" in refused.stderr) == (4, True)
    assert _is_on(conn)
