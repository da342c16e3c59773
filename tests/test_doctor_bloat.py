"""`bloat.*`: tables and btree indexes that take far more room than their rows need; an estimate that locks nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.clients import psql
from support.doctor import Doctor, monitor_of
from support.servers import Database

TABLES, INDEXES = "bloat.tables", "bloat.indexes"
SCHEMA = """
CREATE TABLE "Mixed" (id bigint PRIMARY KEY, flag boolean, small smallint, t text, at timestamptz, n numeric,
  gone integer);
CREATE TABLE loose (id integer, t text) WITH (fillfactor = 40);
CREATE INDEX expression ON "Mixed" (lower(t), n);
CREATE INDEX partial ON "Mixed" (at) WHERE id % 2 = 0;
CREATE INDEX random ON "Mixed" (md5(id::text));
INSERT INTO "Mixed" SELECT g, g % 3 = 0, g % 99, 'x' || repeat(chr(97 + g % 26), g % 60),
  CASE WHEN g % 4 > 0 THEN timestamptz '2026-01-01' + g * interval '1 s' END, g * 1.7, g
  FROM generate_series(1, 6000) g;
INSERT INTO loose SELECT g, repeat('x', g % 300) FROM generate_series(1, 3000) g;
VACUUM (ANALYZE) "Mixed", loose;
"""


@pytest.mark.versions("all")
def test_bloat(quiet_database: Database, tmp_path: Path) -> None:
    database = quiet_database
    doctor = Doctor(database, tmp_path, database.create_role("monitor", "LOGIN IN ROLE pg_monitor, pg_read_all_data"))
    psql(database.dsn, SCHEMA)
    # Pages of every kind of row are full.
    doctor.limits(bloat={"least_bytes": 8192, "warning_share": 0.02})
    assert doctor.is_well(TABLES), doctor.answer(TABLES)
    doctor.limits(bloat={"least_bytes": 8192, "warning_share": 0.35})
    assert doctor.is_well(INDEXES), doctor.answer(INDEXES)

    psql(
        database.dsn,
        'DELETE FROM "Mixed" WHERE id % 10 > 0; DELETE FROM loose WHERE id % 10 > 0;'
        'ALTER TABLE "Mixed" DROP gone; VACUUM (ANALYZE) "Mixed", loose',
    )
    doctor.limits(bloat={"least_bytes": 8192, "warning_bytes": 8192})
    finding = doctor.finding(TABLES)
    assert {each["name"] for each in finding["evidence"]["tables"]} == {'public."Mixed"', "public.loose"}
    assert finding["severity"] == "warning"
    for each in finding["evidence"]["tables"]:
        # A tenth of the rows is left.
        assert each["needs_least_bytes"] <= each["size_bytes"] * 0.12
        assert 0.85 < each["bloat_share"] < 0.92
    assert "--table='public.\"Mixed\"'" in finding["remedies"][0]["text"]
    assert len(finding["remedies"]) == 2
    with database.connect_superuser() as superuser:
        # Not every build of PostgreSQL brings it.
        has_exact = superuser.execute("SELECT FROM pg_available_extensions WHERE name = 'pgstattuple'").fetchone()
        if has_exact is not None:
            superuser.execute("CREATE SCHEMA ext; CREATE EXTENSION pgstattuple SCHEMA ext")
    finding = doctor.finding(TABLES)
    indexes = doctor.finding(INDEXES)
    assert {"public.expression", "public.random"} <= {each["name"] for each in indexes["evidence"]["indexes"]}
    if has_exact is not None:
        assert finding["remedies"][2]["text"].startswith('SELECT * FROM "ext".pgstattuple_approx(')
        doctor.apply(finding, 2)
    doctor.apply(finding, 1)
    assert doctor.is_well(TABLES)
    doctor.apply(indexes)
    assert doctor.is_well(INDEXES)


@pytest.mark.versions("all")
def test_indexes_by_themselves(quiet_database: Database, tmp_path: Path) -> None:
    database = quiet_database
    psql(
        database.dsn,
        "CREATE TABLE t (id integer PRIMARY KEY, t text); INSERT INTO t SELECT g FROM generate_series(1, 9000) g;"
        "DELETE FROM t WHERE id % 10 > 0; VACUUM (ANALYZE) t",
    )
    doctor = Doctor(database, tmp_path, monitor_of(database))
    doctor.limits(bloat={"least_bytes": 8192})
    answer = doctor.answer(INDEXES)
    assert answer["because"] == f"the values of 1 column of 1 are hidden from role {doctor.role}"
    assert doctor.answer(TABLES)["because"].startswith("the values of 2 columns of 2 are hidden")
    psql(database.superuser_dsn, answer["hint"])
    finding = doctor.finding(INDEXES)
    assert (finding["subject"], finding["severity"]) == ("public.t_pkey", "info")
    assert finding["remedies"][0]["text"] == "REINDEX INDEX CONCURRENTLY public.t_pkey;"
    doctor.apply(finding)
    assert doctor.is_well(INDEXES)
    psql(
        database.dsn,
        "CREATE TABLE unknown (t text); INSERT INTO unknown SELECT repeat('x', 99) FROM generate_series(1, 900)",
    )
    psql(database.dsn, "DELETE FROM unknown; VACUUM (TRUNCATE off) unknown; VACUUM (FULL) t")
    assert doctor.answer(TABLES)["text"].endswith("; 1 never analyzed is not known.")
