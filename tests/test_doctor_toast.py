"""`toast.*`: long values outside their rows: how they are compressed, what else would serve, how much is read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from support.cli import pgscale
from support.clients import psql
from support.doctor import Doctor, monitor_of
from support.servers import Database

COMPRESSION, READS = "toast.compression", "toast.reads"
# Of the servers there are only 15 was built with lz4.
WITH_LZ4, WITHOUT = 15, 18
SCHEMA = """
CREATE TABLE "Doc" (id integer PRIMARY KEY, note varchar(80), body text, "Meta" jsonb, photo bytea, n integer);
INSERT INTO "Doc" SELECT g, 'x',
    (SELECT string_agg(md5((g * 400 + i % 60)::text) || ' said ', '') FROM generate_series(1, 400) i),
    jsonb_build_object('k', (SELECT string_agg(md5((g + i % 99)::text), ' ') FROM generate_series(1, 300) i)),
    (SELECT decode(string_agg(md5(random()::text), ''), 'hex') FROM generate_series(1, 300) i)
  FROM generate_series(1, 60) g;
VACUUM (ANALYZE) "Doc";
"""
SELECT_ALL = 'SELECT * FROM "Doc";' * 10
LIMITS: dict[str, dict[str, float]] = {"toast": {"least_bytes": 8192, "most_larger_share": 9, "faster_times": 0.1}}


@pytest.mark.versions(WITH_LZ4)
def test_compression(database: Database, tmp_path: Path) -> None:
    psql(database.dsn, SCHEMA)
    doctor = Doctor(database, tmp_path)
    assert doctor.answer(COMPRESSION)["text"] == "No table has 256 MB or more outside its rows."
    doctor.limits(**LIMITS)
    finding = doctor.finding(COMPRESSION)
    assert (finding["severity"], finding["subject"]) == ("info", 'public."Doc"')
    shown = {each["column"]: each for each in finding["evidence"]["columns"]}
    assert shown.keys() == {'public."Doc".body', 'public."Doc".Meta', 'public."Doc".photo'}
    assert {each["mean_in_row_bytes"] for each in shown.values()} == {None}, "hidden from who may not SELECT"
    assert finding["remedies"][0]["text"] == "pgscale doctor --only toast.compression --sample"

    # Without SELECT nothing is sampled; the hint cures it.
    answer = doctor.answers("--only", COMPRESSION, "--sample")[COMPRESSION]
    assert (answer["answer"], answer["because"]) == ("not checked", f'role {doctor.role} may not read public."Doc"')
    psql(database.superuser_dsn, answer["hint"])
    psql(database.superuser_dsn, f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC")
    told = doctor.answers("--only", COMPRESSION, "--sample")[COMPRESSION]
    assert told["because"].endswith(
        f"could not be stored in other ways: role {doctor.role} may not make temporary tables"
    )
    psql(database.superuser_dsn, told["hint"])

    sampled = _sampled(doctor)
    assert sampled.keys() == {'public."Doc".body', 'public."Doc".Meta', 'public."Doc".photo'}
    for column in ("body", "Meta"):
        found = sampled[f'public."Doc".{column}']
        evidence = found["evidence"]
        assert [each["stored"] for each in evidence["compared"]] == ["as stored", "pglz", "lz4", "external"]
        sizes = {each["stored"]: each["size_bytes"] for each in evidence["compared"]}
        assert sizes["as stored"] == sizes["pglz"] < sizes["external"]
        assert all(each["read_s"] > 0 for each in evidence["compared"])
        assert (evidence["pglz_share"], evidence["lz4_share"], evidence["long_values"]) == (1, 0, 60)
        with database.connect() as connection:
            row = connection.execute(
                f'SELECT sum(pg_column_size("{column}"))::int8, sum(pg_column_size("{column}"::text || \'\'))::int8'
                ' FROM "Doc"'.encode()
            ).fetchone()
        assert row is not None
        assert evidence["stored_bytes"] == row[0] == sizes["as stored"]
        # First what is set, which changes nothing that is there; then the rest.
        doctor.apply(found, 0)
        assert f'public."Doc".{column}' in _sampled(doctor)
        doctor.apply(found, 1)
    photo = sampled['public."Doc".photo']
    assert photo["fact"].startswith("Compression saves 0%")
    doctor.apply(photo)
    assert doctor.answers("--only", COMPRESSION, "--sample")[COMPRESSION]["text"].startswith(
        'By a sample no other way to store them is better: public."Doc"'
    )
    assert doctor.is_well(COMPRESSION)
    with database.connect() as connection:
        stored = 'SELECT DISTINCT pg_column_compression(body) || pg_column_compression("Meta") FROM "Doc"'
        assert connection.execute(stored).fetchall() == [("lz4lz4",)]
        # What an UPDATE must not have changed.
        assert connection.execute('SELECT count(DISTINCT md5(body)), sum(length(body)) FROM "Doc"').fetchone() == (
            60, 60 * 400 * 38,
        )  # fmt: skip

    # A view is computed anew.
    psql(
        database.dsn,
        "CREATE MATERIALIZED VIEW seen AS SELECT id, body || '!' AS said FROM \"Doc\"; VACUUM seen;"
        f"GRANT SELECT ON seen TO {doctor.role}",
    )
    (found,) = _sampled(doctor).values()
    assert found["subject"] == "public.seen.said"
    doctor.apply(found, 0)
    assert _sampled(doctor).keys() == {"public.seen.said"}
    doctor.apply(found, 1)
    assert doctor.answers("--only", COMPRESSION, "--sample")[COMPRESSION]["answer"] == "well"


def _sampled(doctor: Doctor) -> dict[str, dict[str, Any]]:
    answer = doctor.answers("--only", COMPRESSION, "--sample")[COMPRESSION]
    assert answer["answer"] == "finding", answer
    return {finding["subject"]: finding for finding in answer["findings"]}


@pytest.mark.versions(14, WITHOUT)
def test_without_lz4(database: Database, tmp_path: Path) -> None:
    psql(database.dsn, SCHEMA)
    doctor = Doctor(database, tmp_path, database.owner)
    doctor.limits(**LIMITS)
    assert doctor.answer(COMPRESSION)["text"].endswith("this build of the server has nothing else.")
    psql(database.dsn, 'ALTER TABLE "Doc" ALTER body SET STORAGE EXTERNAL; UPDATE "Doc" SET body = body || \'\'')
    sampled = _sampled(doctor)
    assert sampled.keys() == {'public."Doc".body', 'public."Doc".photo'}
    body = sampled['public."Doc".body']
    assert body["fact"].startswith('public."Doc".body is stored uncompressed, and compression would save')
    outside = body["evidence"]["outside_share"]
    assert outside == (1 if database.connect().info.server_version >= 170000 else None)
    doctor.apply(body, 0)
    doctor.apply(body, 1)
    assert _sampled(doctor).keys() == {'public."Doc".photo'}

    # Nothing waits for a lock, and nothing is left.
    with database.connect() as holder:
        holder.execute('BEGIN; LOCK TABLE "Doc"')
        answer = doctor.answers("--only", COMPRESSION, "--sample")[COMPRESSION]
        assert answer["because"] == 'somebody holds a lock on public."Doc"'
        holder.execute("ROLLBACK")
        left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'pgscale%'"
        assert holder.execute(left).fetchone() == (0,)


@pytest.mark.versions("all")
def test_reads(quiet_database: Database, tmp_path: Path) -> None:
    database = quiet_database
    psql(database.dsn, SCHEMA)
    doctor = Doctor(database, tmp_path, monitor_of(database))
    doctor.limits(toast={"least_pages_per_s": 0.5, "warning_disk_pages_per_s": 1e6})
    assert doctor.answer(READS)["answer"] == "not checked"
    # What is not selected is not read.
    _until(doctor, "well", 'SELECT id, n FROM "Doc"')
    finding = _until(doctor, "finding", SELECT_ALL)["findings"][0]
    assert (finding["severity"], finding["subject"]) == ("info", 'public."Doc"')
    (table,) = finding["evidence"]["tables"]
    assert table["toast_share"] > 0.9
    doctor.limits(toast={"least_pages_per_s": 0.5, "warning_disk_pages_per_s": 0})
    assert doctor.finding(READS)["severity"] == "warning"
    for name, value in (("least_read_share", 1), ("least_pages_per_s", 1e6)):
        doctor.limits(toast={"least_pages_per_s": 0.5, name: value})
        assert doctor.is_well(READS)
    doctor.limits(toast={"least_pages_per_s": 0.5})

    # The last remedy takes it out of what is selected.
    side = finding["remedies"][-1]
    assert 'CREATE TABLE public."Doc_body" AS' in side["text"].replace('"public"', "public")
    doctor.apply(finding, len(finding["remedies"]) - 1)
    psql(database.dsn, 'ALTER TABLE "Doc" DROP "Meta", DROP photo; VACUUM FULL "Doc"')
    _until(doctor, "well", SELECT_ALL)


def _until(doctor: Doctor, wanted: str, statement: str) -> dict[str, Any]:
    """Run a statement between two runs of the doctor until those tell what is wanted: 14's collector tells late."""
    until = time.monotonic() + 60
    while True:
        doctor.hours_pass(0.02)
        psql(doctor.database.dsn, statement)
        answer = doctor.answer(READS)
        if answer["answer"] == wanted:
            return answer
        assert time.monotonic() < until, answer


def test_the_page_shows_a_sample(database: Database, tmp_path: Path) -> None:
    psql(database.dsn, SCHEMA)
    (tmp_path / "pgscale.toml").write_text("[doctor.toast]\nleast_bytes = 8192")
    ran = pgscale(
        "doctor", "--only", "toast.compression", "--sample", "--samples", "none", "--dsn", database.dsn,
        "--config", str(tmp_path / "pgscale.toml"),
    )  # fmt: skip
    assert ran.exit_code == 0, ran.err
    assert "as stored" in ran.out
    assert "SET STORAGE EXTERNAL;" in ran.out
    told = json.loads(pgscale("doctor", "--explain", "toast.compression", "--json").out)
    assert told["thresholds"]["sample_rows"] == 1000
