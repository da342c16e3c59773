"""`partitions.*`: tables that want partitions, DEFAULT partitions with rows, and what was detached half-way."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.embedded import Server
from support.cli import pgscale
from support.clients import psql
from support.doctor import Doctor, plain_role_of
from support.servers import Database

READY, DEFAULT, DETACHING = "partitions.ready", "partitions.default", "partitions.detaching"
ANY: dict[str, float] = {"least_table_bytes": 50_000, "large_table_bytes": 50_000}


def _run(database: Database, finding: dict[str, Any]) -> str:
    """Run the commands of the first remedy; what they said."""
    (remedy,) = finding["remedies"]
    assert remedy["kind"] == "shell"
    said: list[str] = []
    for line in remedy["text"].splitlines():
        program, *arguments = shlex.split(line)
        assert program == "pgscale"
        ran = pgscale(*arguments, env={"PGSCALE_DSN": database.dsn})
        assert ran.exit_code == 0, ran.err
        said.append(ran.out)
    return "".join(said)


def _until(doctor: Doctor, check: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Counters come when the session that counted is gone, on 14 later."""
    until = time.monotonic() + 30
    while not wanted(answer := doctor.answer(check)):
        assert time.monotonic() < until, answer
    return answer


@pytest.mark.versions(14, 18)
def test_ready(database: Database, tmp_path: Path) -> None:
    doctor = Doctor(database, tmp_path)
    psql(
        database.dsn,
        """
        CREATE TABLE small (at date);
        CREATE TABLE "Log" (id bigint PRIMARY KEY, at timestamptz NOT NULL, late date, v text);
        INSERT INTO "Log" SELECT g, to_timestamp(g), now(), repeat('x', 100) FROM generate_series(1, 1000) g;
        ANALYZE;
        """,
    )
    assert doctor.answer(READY)["text"] == "No table of 10 GB or more is without partitions."
    doctor.limits(partitions=ANY)
    answer = _until(doctor, READY, lambda a: "rows only come in" in a.get("text", ""))
    (finding,) = answer["findings"]
    assert (finding["severity"], finding["subject"]) == ("warning", 'public."Log"')
    assert finding["evidence"]["time_columns"] == "at, late"
    assert "takes all of it in one piece" in finding["fact"]
    assert "does not fit into memory" not in finding["fact"]
    psql(database.dsn, 'DELETE FROM "Log" WHERE id <= 500')
    answer = _until(doctor, READY, lambda a: "500 rows were deleted while 1,000 came" in a["text"])
    assert "500 dead rows make VACUUM walk" in answer["text"]
    assert "rows only come in" not in answer["text"]
    # What would fit into memory is not reported for its size before it is very large.
    doctor.limits(partitions={**ANY, "large_table_bytes": 10**12})
    assert doctor.is_well(READY)
    psql(database.superuser_dsn, f"ALTER DATABASE {database.name} SET effective_cache_size = '8kB'")
    (finding,) = doctor.answer(READY)["findings"]
    assert (finding["severity"], "does not fit into memory" in finding["fact"]) == ("info", True)

    said = _run(database, finding)
    assert 'public."Log"' in said
    psql(
        database.dsn,
        """
        BEGIN; ALTER TABLE "Log" RENAME TO first; ALTER TABLE first DROP CONSTRAINT "Log_pkey";
        CREATE TABLE "Log" (LIKE first) PARTITION BY RANGE (at);
        ALTER TABLE "Log" ATTACH PARTITION first FOR VALUES FROM (MINVALUE) TO (MAXVALUE); COMMIT;
        """,
    )
    assert doctor.is_well(READY)


@pytest.mark.versions(17)
def test_rows_deleted_by_time_are_seen_in_the_statements(
    private_server: Callable[..., Server], database_factory: Callable[..., Database], tmp_path: Path
) -> None:
    database = database_factory(private_server({"shared_preload_libraries": "pg_stat_statements"}))
    doctor = Doctor(database, tmp_path)
    doctor.limits(partitions={**ANY, "large_table_bytes": 10**12})
    psql(
        database.superuser_dsn,
        f"CREATE EXTENSION pg_stat_statements; ALTER DATABASE {database.name} SET effective_cache_size = '8kB'",
    )
    psql(
        database.dsn,
        """
        CREATE TABLE log (id bigint, at timestamptz NOT NULL, v text); CREATE TABLE logs (at timestamptz);
        INSERT INTO log SELECT g, to_timestamp(g), repeat('x', 100) FROM generate_series(1, 1000) g;
        ANALYZE;
        DELETE FROM logs WHERE at < now(); DELETE FROM log WHERE id < 0;
        """,
    )
    assert doctor.finding(READY)["severity"] == "info"
    psql(database.dsn, "DELETE FROM public.log l WHERE id > 0 AND l.at < to_timestamp(5)")
    finding = doctor.finding(READY)
    assert (finding["severity"], "deleted by time (1 call)" in finding["fact"]) == ("warning", True)
    assert finding["evidence"]["deleting_statement"].startswith("DELETE FROM public.log l")


def test_default(database: Database, tmp_path: Path) -> None:
    doctor = Doctor(database, tmp_path)
    psql(
        database.dsn,
        """
        CREATE TABLE q (id bigint, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE q_01 PARTITION OF q FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        CREATE TABLE q_02 PARTITION OF q FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
        CREATE TABLE "q_Else" PARTITION OF q DEFAULT;
        INSERT INTO q VALUES (1, '2026-01-02'), (2, '2026-02-02');
        """,
    )
    assert doctor.answer(DEFAULT)["text"] == "No DEFAULT partition holds rows."
    psql(database.dsn, "INSERT INTO q SELECT g, '2026-03-05' FROM generate_series(1, 10) g")
    answer = _until(doctor, DEFAULT, lambda a: a["answer"] == "finding")
    (finding,) = answer["findings"]
    assert (finding["severity"], finding["fact"]) == (
        "warning", 'DEFAULT partition public."q_Else" of public.q holds 10 rows.',
    )  # fmt: skip
    _run(database, finding)
    assert doctor.is_well(DEFAULT)
    assert psql(database.dsn, "SELECT count(*) FROM q").strip() == "12"

    psql(
        database.dsn,
        """
        CREATE TABLE two (a integer, b integer) PARTITION BY RANGE (a, b);
        CREATE TABLE two_else PARTITION OF two DEFAULT; INSERT INTO two VALUES (1, 2);
        """,
    )
    answer = _until(doctor, DEFAULT, lambda a: a["answer"] == "finding")
    assert psql(database.dsn, answer["findings"][0]["remedies"][0]["text"]).strip() == "1|2"


@pytest.mark.versions(14, 18)
def test_detaching(database: Database, tmp_path: Path) -> None:
    doctor = Doctor(database, tmp_path)
    psql(
        database.dsn,
        """
        CREATE TABLE q (id integer) PARTITION BY RANGE (id);
        CREATE TABLE q_1 PARTITION OF q FOR VALUES FROM (1) TO (2);
        """,
    )
    assert doctor.answer(DETACHING)["text"] == "No partition is detached half-way."
    detacher = database.connect()
    with database.connect() as reader:
        reader.execute("BEGIN; SELECT * FROM q")
        detacher.pgconn.send_query(b"ALTER TABLE q DETACH PARTITION q_1 CONCURRENTLY")
        _until(doctor, DETACHING, lambda a: "being detached just now" in a.get("text", ""))
        plain = Doctor(database, tmp_path, plain_role_of(database))
        assert plain.answer(DETACHING)["hint"] == f"GRANT pg_monitor TO {plain.role};"
        detacher.cancel_safe()
        answer = _until(doctor, DETACHING, lambda a: a["answer"] == "finding")
    (finding,) = answer["findings"]
    assert finding["subject"] == "public.q_1"
    doctor.apply(finding)
    assert doctor.is_well(DETACHING)
    with pytest.raises(psycopg.errors.CheckViolation):
        database.connect().execute("INSERT INTO q VALUES (1)")
