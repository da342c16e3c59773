"""`wraparound.*`: ages of databases and tables, how long the ids last, and what keeps VACUUM from freezing."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from support.clients import psql
from support.doctor import Doctor, burn_xids
from support.servers import Database

DATABASES, TABLES = "wraparound.databases", "wraparound.tables"


@pytest.fixture
def doctor(quiet_database: Database, tmp_path: Path) -> Doctor:
    return Doctor(quiet_database, tmp_path)


@pytest.mark.versions("all")
def test_a_database(doctor: Doctor, quiet_database: Database) -> None:
    database = quiet_database
    assert doctor.answer(DATABASES)["text"].startswith("The oldest database, ")
    doctor.hours_pass(1)
    # 200 transactions, 400 multixacts.
    doctor.limits(wraparound={"warning_limit_share": 1e-6})
    holder = database.connect(application_name="billing")
    holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
    burn_xids(database, 300)

    finding = doctor.finding(DATABASES)
    assert finding["severity"] == "warning"
    evidence = finding["evidence"]
    assert evidence["ids_per_second"] == pytest.approx(301 / 3600, rel=0.05)
    assert evidence["left_s"] == pytest.approx(2**31 / evidence["ids_per_second"], rel=0.01)
    assert (evidence["autovacuum_freezes_at"], evidence["failsafe_at"]) == (200_000_000, 1_600_000_000)
    doctor.limits(wraparound={"warning_limit_share": 1e-6, "critical_left_s": 1e12})
    assert doctor.finding(DATABASES)["severity"] == "critical"
    doctor.limits(wraparound={"warning_limit_share": 1e-6, "critical_failsafe_share": 1e-7})
    assert doctor.finding(DATABASES)["severity"] == "critical"

    # VACUUM is of no use until the transaction has gone.
    doctor.limits(wraparound={"warning_limit_share": 1e-6})
    psql(database.superuser_dsn, "VACUUM (FREEZE)")
    finding = doctor.finding(TABLES)
    assert finding["evidence"]["freezing_is_held_by"] == f"session {holder.info.backend_pid} " + (
        f"({database.owner}, billing, idle in transaction)"
    )
    assert finding["remedies"][0]["why"].startswith(f"First: Session {holder.info.backend_pid} ")
    assert finding["remedies"][1]["text"] == "VACUUM (FREEZE);"
    doctor.apply(finding)
    with pytest.raises(psycopg.OperationalError):
        holder.execute("SELECT 1")
    doctor.apply(finding, 1)
    assert doctor.is_well(TABLES)
    others = doctor.finding(DATABASES)
    assert database.name not in [each["database"] for each in others["evidence"]["databases"]]
    # Where nobody may connect autovacuum alone can help.
    assert "vacuumdb --freeze --dbname=postgres" in others["remedies"][0]["text"]
    assert "template0" not in others["remedies"][0]["text"]


@pytest.mark.versions("all")
def test_tables(doctor: Doctor, quiet_database: Database) -> None:
    database = quiet_database
    # Tables of the least settings are judged from 100 transactions and 10 multixacts on, all others far later.
    doctor.limits(wraparound={"warning_limit_share": 0.001})
    with database.connect() as writer, database.connect() as temporary:
        writer.execute(
            'CREATE TABLE "Old" (t text) WITH (autovacuum_freeze_max_age = 100000);'
            "CREATE TABLE often (id integer PRIMARY KEY, n integer) WITH (autovacuum_multixact_freeze_max_age = 10000);"
            "INSERT INTO often SELECT g, 0 FROM generate_series(1, 20) g"
        )
        assert doctor.answer(TABLES)["text"].startswith("The oldest table, ")
        burn_xids(database, 120)
        finding = doctor.finding(TABLES)
        assert finding["subject"] == 'public."Old"'
        (row,) = finding["evidence"]["tables"]
        assert (120 <= row["age_xids"] < 200, row["autovacuum_at"]) == (True, 100_000)
        assert finding["remedies"][0]["text"] == 'VACUUM (FREEZE) public."Old";'
        doctor.apply(finding)
        assert doctor.is_well(TABLES)

        temporary.execute("CREATE TEMP TABLE scratch () WITH (autovacuum_freeze_max_age = 100000)")
        burn_xids(database, 90)
        psql(database.superuser_dsn, 'VACUUM (FREEZE) "Old"')
        burn_xids(database, 30)
        finding = doctor.finding(TABLES)
        assert finding["evidence"]["tables"][0]["temporary"]
        doctor.apply(finding)
        assert doctor.is_well(TABLES)

        # A row that a transaction and its subtransaction have locked takes a multixact id.
        writer.execute(
            "DO $$ BEGIN FOR i IN 1..20 LOOP PERFORM 1 FROM often WHERE id = i FOR KEY SHARE;"
            " BEGIN UPDATE often SET n = 1 WHERE id = i; EXCEPTION WHEN division_by_zero THEN NULL; END;"
            " END LOOP; END $$"
        )
        finding = doctor.finding(TABLES)
        assert finding["subject"] == "public.often"
        assert finding["fact"].startswith("public.often is 20 multixact ids old")
        doctor.apply(finding)
        assert doctor.is_well(TABLES)
