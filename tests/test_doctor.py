"""`pgscale doctor` as a whole: silent when all is well, honest without rights, waiting for nobody; and its options."""

from __future__ import annotations

import json
import re
import time
from dataclasses import fields
from pathlib import Path

import psycopg
import pytest

from pgscale.doctor.limits import Limits
from pgscale.doctor.registry import CHECKS
from support.cli import pgscale
from support.clients import pgbench, psql
from support.doctor import Doctor, plain_role_of
from support.servers import Database

# Good reasons for a check to have been impossible on a healthy database, a pattern each.
REASONS = (
    "there is no earlier sample to compare with",
    r"the values of \d+ columns? of \d+ are hidden from role monitor",
    "the extension pg_stat_statements is not installed in this database",
)


@pytest.mark.versions("all")
def test_nothing_is_found_on_a_healthy_database(quiet_database: Database, tmp_path: Path) -> None:
    database = quiet_database
    psql(database.superuser_dsn, f"ALTER DATABASE {database.name} SET idle_in_transaction_session_timeout = '10min'")
    doctor = Doctor(database, tmp_path)
    pgbench(database.dsn, "-i", "-q", "-s", "1")
    with database.connect(), database.connect() as busy:
        pgbench(database.dsn, "-c", "4", "-t", "50", "-n")
        busy.execute("BEGIN; SELECT count(*) FROM pgbench_accounts")
        wrong = {
            check: answer
            # The quiet server is quiet because autovacuum is off.
            for check, answer in doctor.answers("--ignore", "autovacuum.enabled").items()
            if answer["answer"] != "well"
            and not (answer["answer"] == "not checked" and any(re.search(r, answer["because"]) for r in REASONS))
        }
    assert not wrong, json.dumps(wrong, indent=1)


@pytest.mark.versions("all")
def test_without_rights_nothing_is_said_that_is_not_known(quiet_database: Database, tmp_path: Path) -> None:
    """A role that may only connect gets the same answers as one with pg_monitor, or the reason why not."""
    database = quiet_database
    psql(database.superuser_dsn, f"ALTER DATABASE {database.name} SET idle_in_transaction_session_timeout = '10min'")
    monitor, plain = Doctor(database, tmp_path), Doctor(database, tmp_path, plain_role_of(database))
    with database.connect() as other:
        other.execute("BEGIN; CREATE TABLE t (id integer PRIMARY KEY)")
        known, told = monitor.answers(), plain.answers()
        assert known.keys() == told.keys() == {check.id for check in CHECKS}
    for check, answer in told.items():
        if answer["answer"] == "not checked":
            assert answer["because"], check
        else:
            assert answer["answer"] == known[check]["answer"], (answer, known[check])
    hidden = {check for check, answer in told.items() if answer.get("hint") == f"GRANT pg_monitor TO {plain.role};"}
    assert {"horizon.held", "sessions.idle_in_transaction", "sessions.connections"} <= hidden


SCHEMA = """
CREATE TABLE plain (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t text DEFAULT 'a' || 1 CHECK (t <> ''));
CREATE INDEX partial ON plain ((t || 'x')) WHERE id > 5;
CREATE TABLE child (id integer REFERENCES plain, at date) PARTITION BY RANGE (at);
CREATE TABLE child_1 PARTITION OF child FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE INDEX ON child (at);
CREATE SEQUENCE loose;
CREATE VIEW shown AS SELECT * FROM plain;
CREATE MATERIALIZED VIEW kept AS SELECT id FROM plain;
CREATE STATISTICS both_of (dependencies) ON id, t FROM plain;
INSERT INTO plain (t) SELECT g FROM generate_series(1, 1000) g;
SELECT nextval('loose');
"""


@pytest.mark.versions("all")
def test_it_waits_for_no_lock(quiet_database: Database, tmp_path: Path) -> None:
    """ACCESS EXCLUSIVE is held on everything there is, and queued for once more."""
    database = quiet_database
    psql(database.superuser_dsn, f"ALTER DATABASE {database.name} SET idle_in_transaction_session_timeout = '10min'")
    psql(database.dsn, f"CREATE SCHEMA app; SET search_path TO app; {SCHEMA} ANALYZE;")
    doctor = Doctor(database, tmp_path)
    doctor.limits(sessions={"critical_connections_share": 1, "warning_connections_share": 1})
    before = doctor.answers()
    with database.connect() as holder, database.connect_superuser() as superuser:
        # It would drop all of it, was it committed: every table, index, sequence and view is locked.
        holder.execute("BEGIN; DROP SCHEMA app CASCADE")
        queued = [database.connect(), database.connect()]
        for connection, table in zip(queued, ("plain", "child"), strict=True):
            connection.pgconn.send_query(f"BEGIN; LOCK TABLE app.{table} IN ACCESS EXCLUSIVE MODE".encode())
        deadline = time.monotonic() + 30
        while superuser.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone() != (2,):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            superuser.execute("SET lock_timeout = '10ms'; SELECT pg_relation_size('app.partial')")
        during = doctor.answers()
        holder.execute("ROLLBACK")
        for connection in queued:
            connection.close()
    assert {check: answer["answer"] for check, answer in during.items()} == {
        check: answer["answer"] for check, answer in before.items()
    }
    assert not [answer for answer in during.values() if "lock" in answer.get("because", "")]


def test_every_check_explains_itself():
    assert len({check.id for check in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        assert re.fullmatch(r"[a-z]+\.[a-z_]+", check.id)
        ran = pgscale("doctor", "--explain", check.id, "--json")
        assert ran.exit_code == 0, ran.err
        told = json.loads(ran.out)
        assert told["question"].endswith("?")
        assert told["about"].endswith(".")
        assert told["source"].endswith(".")
        assert told["queries"]
        assert all(variants for variants in told["queries"].values())
    ran = pgscale("doctor", "--explain", "horizon.held")
    assert "warning_age_xids = 10_000_000" in ran.out
    assert "-- horizon.slots (PostgreSQL from 17)\n" in ran.out
    assert "-- horizon.slots (PostgreSQL before 17)\n" in ran.out
    areas = {field.name for field in fields(Limits)} - {"ignore"}
    assert areas <= {check.area for check in CHECKS}


def test_options(database: Database, tmp_path: Path) -> None:
    dsn = ("--dsn", database.dsn, "--samples", "none")
    for arguments, said in (
        (("--only", "horizont"), "Did you mean horizon"),
        (("--explain", "horizon"), "There is no check 'horizon'"),
        (("--ignore", "x"), "There is no check 'x'"),
        (("--only", "horizon", "--ignore", "horizon.held"), "No check is left"),
        (("--fail-on", "info"), "'info'"),
        (("--config", str(tmp_path / "none.toml")), "There is no"),
    ):
        ran = pgscale("doctor", *arguments, *dsn)
        assert (ran.exit_code, said in ran.err) == (2, True), ran.err
    ran = pgscale("doctor", "--only", "sessions", "--ignore", "sessions.connections", *dsn, "--json")
    assert [each["check"] for each in json.loads(ran.out)["checks"]] == [
        "sessions.idle_in_transaction", "sessions.timeouts",
    ]  # fmt: skip
    assert pgscale("doctor", "--dsn", "host=127.0.0.1 port=1").exit_code == 3

    # By default the samples are the user's own.
    assert pgscale("doctor", "--dsn", database.dsn, env={"XDG_STATE_HOME": str(tmp_path)}).exit_code in (0, 1)
    (file,) = (tmp_path / "pgscale" / "doctor").iterdir()
    assert re.fullmatch(r"\d+-\d+\.json", file.name)


def test_the_configuration(database: Database, tmp_path: Path) -> None:
    toml = tmp_path / "pgscale.toml"
    for text, said in (
        ("[doctor.horizon]\nwarnin_age_s = 1", "unknown key `warnin_age_s`"),
        ("[doctor.horizont]\nwarning_age_s = 1", "unknown key `horizont`"),
        ("[doctor.horizon]\nwarning_age_s = '1 h'", "is no number"),
        ("[doctor.horizon]\nwarning_age_s = -1", "`warning_age_s` = -1.0 is below zero"),
        ("[doctor.horizon]\nwarning_age_s = 90000", "is above `critical_age_s`"),
        ("[doctor]\nignore = ['nothing']", "There is no check 'nothing'"),
    ):
        toml.write_text(text)
        ran = pgscale("doctor", "--dsn", database.dsn, "--samples", "none", "--config", str(toml))
        assert (ran.exit_code, said in ran.err) == (2, True), (text, ran.err)
    toml.write_text("[doctor]\nignore = ['sessions']\n[doctor.horizon]\nwarning_age_s = 7")
    ran = pgscale("doctor", "--dsn", database.dsn, "--samples", "none", "--config", str(toml), "--json")
    assert [each["check"].split(".")[0] for each in json.loads(ran.out)["checks"]].count("sessions") == 0
    told = json.loads(pgscale("doctor", "--explain", "horizon.held", "--config", str(toml), "--json").out)
    assert told["thresholds"]["warning_age_s"] == 7


def test_the_page(quiet_database: Database, tmp_path: Path) -> None:
    """What a person reads: a line a check, a section a finding, SQL that can be copied, and the exit code."""
    database = quiet_database
    toml = tmp_path / "pgscale.toml"
    toml.write_text('[doctor]\nignore = ["autovacuum"]\n[doctor.sessions]\nwarning_idle_in_transaction_s = 0\n')
    plain = plain_role_of(database)
    page = ("doctor", "--samples", "none", "--config", str(toml), "--dsn")
    with database.connect(application_name="shop") as forgotten:
        forgotten.execute("BEGIN; SELECT 1")
        pid = forgotten.info.backend_pid
        ran = pgscale(*page, database.superuser_dsn)
        assert ran.exit_code == 1
        assert pgscale(*page, database.superuser_dsn, "--fail-on", "critical").exit_code == 0
        refused = pgscale(*page, database.dsn_as(plain)).out
    lines = ran.out.splitlines()
    assert lines[0].startswith("PostgreSQL 18")
    assert f"database {database.name}, up for" in lines[0]
    assert lines[2].split()[:3] == ["✓", "horizon.held", "No"]
    assert lines[3].startswith("! sessions.idle_in_transaction  1 session is idle in a transaction for more than 0 ms")
    assert "\x1b" not in ran.out
    section = ran.out.partition("\n! sessions.idle_in_transaction: ")[2]
    assert re.search(rf"\n +pid +database .*\n +{pid} +{database.name} .* shop ", section)
    assert "\n    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = " in section
    assert re.search(
        rf"\n– sessions.idle_in_transaction +not checked, because [^→]+→\s+GRANT pg_monitor TO\s+{plain};", refused
    )
