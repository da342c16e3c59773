"""`indexes.*`: what could go, what is broken and what is missing, and that what is printed mends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.embedded import Server
from support.cli import pgscale
from support.clients import psql
from support.doctor import Doctor
from support.servers import Database
from support.standby import standby_of

UNUSED, REDUNDANT, INVALID = "indexes.unused", "indexes.redundant", "indexes.invalid"
FOREIGN_KEYS, BRIN = "indexes.foreign_keys", "indexes.brin"
AT_ONCE: dict[str, float] = {
    "least_unused_bytes": 0, "least_redundant_bytes": 0, "least_referencing_bytes": 0, "least_brin_table_bytes": 0,
}  # fmt: skip


@pytest.fixture
def doctor(database: Database, tmp_path: Path) -> Doctor:
    doctor = Doctor(database, tmp_path)
    doctor.limits(indexes=AT_ONCE)
    return doctor


def _named(finding: dict[str, Any], column: str = "index") -> set[str]:
    return {row[column].removeprefix("public.") for row in finding["evidence"]["which"]}


def _indexes(database: Database) -> dict[str, bool]:
    """Every index with whether it is valid."""
    with database.connect() as connection:
        rows = connection.execute(
            "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indexrelid >= 16384"
        ).fetchall()
    return dict(rows)


@pytest.mark.versions("all")
def test_unused(quiet_database: Database, tmp_path: Path, pg_version: int) -> None:
    database = quiet_database
    doctor = Doctor(database, tmp_path)
    psql(
        database.dsn,
        """
        CREATE TABLE p (id integer PRIMARY KEY);
        CREATE TABLE t (
          id integer PRIMARY KEY, a integer, "B c" integer, u integer UNIQUE, p_id integer REFERENCES p, o integer,
          n integer NOT NULL);
        CREATE INDEX t_a ON t (a);
        CREATE INDEX "t 'B" ON t ("B c", (a + 1)) WHERE id > 0;
        CREATE INDEX t_p ON t (p_id);
        CREATE UNIQUE INDEX t_n ON t (n); ALTER TABLE t REPLICA IDENTITY USING INDEX t_n;
        CREATE TABLE q (x integer) PARTITION BY RANGE (x);
        CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (100);
        CREATE TABLE q2 PARTITION OF q FOR VALUES FROM (100) TO (200);
        CREATE INDEX q_x ON q (x);
        INSERT INTO t SELECT g, g, g, g, NULL, g, g FROM generate_series(1, 100) g;
        INSERT INTO q SELECT g FROM generate_series(1, 150) g;
        VACUUM ANALYZE;
        SET enable_seqscan = off; SET enable_bitmapscan = off;
        SELECT * FROM t WHERE a = 5;
        """,
    )
    with database.connect_superuser() as superuser:
        until = time.monotonic() + 30  # 14's collector tells later
        while superuser.execute("SELECT pg_stat_get_numscans('t_a'::regclass)").fetchone() != (1,):
            assert time.monotonic() < until
            time.sleep(0.01)
    assert "10 MB or more" in doctor.answer(UNUSED)["text"]
    doctor.limits(indexes={"least_unused_bytes": 0})
    answer = doctor.answer(UNUSED)
    assert answer["because"].startswith("scans are counted for"), answer

    # Whether they are older than that nobody knows, before earlier runs do.
    for sample in doctor.samples.glob("*"):
        sample.unlink()
    doctor.limits(indexes={"least_unused_bytes": 0, "unused_s": 0.001})
    finding = doctor.finding(UNUSED)
    assert (finding["severity"], "when an index was made" in finding["cost"]) == ("info", True)
    doctor.hours_pass(1)
    finding = doctor.finding(UNUSED)
    assert (finding["severity"], "when an index was made" in finding["cost"]) == ("warning", False)
    rows = {row["index"]: row for row in finding["evidence"]["which"]}
    t_b = 'public."t \'B"'
    assert rows.keys() == {t_b, "public.q_x", *["public.t_a"] * (pg_version >= 16)}
    assert (rows[t_b]["columns"], rows[t_b]["partial"], rows[t_b]["rows_written"]) == ("B c, (expression)", True, 100)
    assert (rows["public.q_x"]["table"], rows["public.q_x"]["size_bytes"]) == ("public.q", 32768)
    if pg_version >= 16:
        assert rows["public.t_a"]["scans"] == 1
        assert rows["public.t_a"]["last_used_s"] > 0

    # An index younger than an earlier run, a time it could have been used in, is too young.
    doctor.limits(indexes={"least_unused_bytes": 0, "unused_s": 0})
    psql(database.dsn, "CREATE INDEX t_o ON t (o)")
    assert "public.t_o" in {row["index"] for row in doctor.finding(UNUSED)["evidence"]["which"]}
    psql(database.dsn, "DROP INDEX t_o; CREATE INDEX t_o ON t (o)")
    doctor.hours_pass(-1)
    finding = doctor.finding(UNUSED)
    assert "public.t_o" not in {row["index"] for row in finding["evidence"]["which"]}
    psql(database.dsn, "DROP INDEX t_o")
    doctor.apply(finding)
    left = _indexes(database)
    assert left.keys() - {"t_a"} == {"p_pkey", "t_pkey", "t_u_key", "t_p", "t_n"}
    assert doctor.is_well(UNUSED) or pg_version < 16


def _counted_s(server: Server) -> float:
    with psycopg.connect(server.dsn()) as connection:
        query = "SELECT EXTRACT(EPOCH FROM clock_timestamp() - stats_reset)::float8 FROM pg_stat_bgwriter"
        return connection.execute(query).fetchall()[0][0]


# 14 and 17 come without pg_basebackup here; 18 tells when an index was last used.
@pytest.mark.versions(15, 18)
def test_unused_on_replicas_too(
    private_server: Callable[..., Server],
    database_factory: Callable[..., Database],
    tmp_path: Path,
    pg_version: int,
) -> None:
    primary = private_server({"autovacuum": "off", "wal_retrieve_retry_interval": "100ms"})
    database = database_factory(primary)
    other = database_factory(primary)
    doctor = Doctor(database, tmp_path)
    psql(
        database.dsn,
        """
        CREATE TABLE t (id integer PRIMARY KEY, a integer, b integer);
        CREATE INDEX t_a ON t (a); CREATE INDEX t_b ON t (b);
        INSERT INTO t SELECT g, g, g FROM generate_series(1, 1000) g; VACUUM ANALYZE t;
        """,
    )
    doctor.limits(indexes={"least_unused_bytes": 0, "unused_s": 0.2})
    doctor.answer(UNUSED)
    doctor.hours_pass(1)
    with standby_of(primary) as standby:
        replica = Database(standby, database.name, database.owner)
        finding = doctor.finding(UNUSED)
        assert (finding["severity"], _named(finding)) == ("info", {"t_a", "t_b"})
        assert "1 standby is connected: name them with --replica" in finding["cost"]
        named = ("--replica", replica.dsn_as(doctor.role))
        until = time.monotonic() + 60
        while True:
            psql(replica.dsn, "SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT * FROM t WHERE a = 5")
            doctor.limits(indexes={"least_unused_bytes": 0, "unused_s": 0.8 * _counted_s(standby)})
            if _named(finding := doctor.finding(UNUSED, *named)) == {"t_b"}:
                break
            assert time.monotonic() < until, finding
        assert (finding["severity"], "nor on 1 replica." in finding["fact"]) == ("warning", True)
        # Where it is known when it was used, that can be long ago.
        doctor.limits(indexes={"least_unused_bytes": 0, "unused_s": 1e-6})
        assert _named(doctor.finding(UNUSED, *named)) == ({"t_a", "t_b"} if pg_version >= 16 else {"t_b"})
        while "counts scans for" not in finding["cost"]:
            assert time.monotonic() < until, finding
            psql(standby.dsn(database.name), "SELECT pg_stat_reset()")
            doctor.limits(indexes={"least_unused_bytes": 0, "unused_s": 0.9 * _counted_s(primary)})
            finding = doctor.finding(UNUSED, *named)
        assert finding["severity"] == "info"
        doctor.limits(indexes={"least_unused_bytes": 0, "unused_s": 0})

        # Who does not answer is named.
        finding = doctor.finding(UNUSED, *named, "--replica", "host=127.0.0.1 port=1")
        assert "Replica 127.0.0.1:1 could not be asked, and may use them: Cannot connect" in finding["cost"]
        assert [bool(each["not_asked_because"]) for each in finding["evidence"]["replicas"]] == [False, True]
        told = pgscale("doctor", "--only", UNUSED, "--dsn", database.dsn, "--replica", "host=127.0.0.1 port=1")
        assert "Note: Replica 127.0.0.1:1 could not be asked: Cannot connect" in told.out

        # Only what is a standby of this database counts.
        stranger = private_server({})
        stranger.stop("fast")
        (stranger.data_dir / "standby.signal").touch()
        stranger.start()
        for dsn, said in (
            (database.dsn, "is no standby"),
            (standby.dsn(other.name), f"leads to database {other.name}, not to {database.name}"),
            (stranger.dsn(), "is a standby of another server: its system identifier"),
        ):
            ran = pgscale("doctor", "--dsn", database.dsn, "--samples", "none", "--replica", dsn)
            assert (ran.exit_code, said in ran.err) == (2, True), ran.err
        ran = pgscale("doctor", "--dsn", replica.dsn, "--replica", replica.dsn)
        assert (ran.exit_code, "The database examined is on a standby" in ran.err) == (2, True), ran.err
        ran = pgscale("doctor", "--dsn", database.dsn, "--only", "horizon", "--replica", replica.dsn)
        assert (ran.exit_code, "is not among the chosen checks" in ran.err) == (2, True), ran.err

        # Where the identifier is hidden, it is known by its tables.
        psql(database.superuser_dsn, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        doctor.finding(UNUSED, *named)
        psql(standby.dsn(), "SELECT pg_wal_replay_pause()")
        psql(database.dsn, "DROP TABLE t; CREATE TABLE t1 (id integer); CREATE TABLE t2 (id integer)")
        ran = pgscale("doctor", "--dsn", database.dsn_as(doctor.role), *named)
        assert (ran.exit_code, "has other tables than the database examined" in ran.err) == (2, True), ran.err


def _repeats(finding: dict[str, Any]) -> dict[str, str]:
    rows = finding["evidence"]["which"]
    return {row["index"].removeprefix("public."): row["repeats"].removeprefix("public.") for row in rows}


@pytest.mark.versions("all")
def test_redundant(doctor: Doctor, database: Database, pg_version: int) -> None:
    psql(
        database.dsn,
        """
        CREATE TABLE t (id integer PRIMARY KEY, a integer, b integer, c text, d text, e integer, f integer);
        CREATE INDEX b1 ON t (b); CREATE INDEX b2 ON t (b);
        CREATE INDEX ab ON t (a, b); CREATE INDEX a ON t (a); CREATE INDEX a_desc ON t (a DESC);
        CREATE INDEX c ON t (c); CREATE INDEX c_ops ON t (c text_pattern_ops); CREATE INDEX c_coll ON t (c COLLATE "C");
        CREATE INDEX c_hash ON t USING hash (c); CREATE INDEX ec ON t (e, c);
        CREATE INDEX ec_ops ON t (e, c text_pattern_ops);
        CREATE INDEX d5 ON t (d) WHERE a > 5; CREATE INDEX d6 ON t (d) WHERE a > 6;
        CREATE INDEX d5_again ON t   (d)  WHERE   ((a > 5));
        CREATE INDEX low ON t (lower(d)); CREATE INDEX up ON t (upper(d)); CREATE INDEX low_e ON t (lower(d), e);
        CREATE INDEX ea ON t (e) INCLUDE (a); CREATE INDEX eb ON t (e) INCLUDE (b);
        ALTER TABLE t ADD CONSTRAINT one UNIQUE (a, b, c); CREATE INDEX one_plain ON t (a, b, c);
        ALTER TABLE t ADD CONSTRAINT first UNIQUE (f); ALTER TABLE t ADD CONSTRAINT second UNIQUE (f);
        CREATE UNIQUE INDEX third ON t (f);
        CREATE INDEX f_plain ON t (f);
        CREATE TABLE p (id integer NOT NULL);
        ALTER TABLE p ADD CONSTRAINT referred UNIQUE (id);
        CREATE TABLE r (p_id integer REFERENCES p (id));
        ALTER TABLE p ADD PRIMARY KEY (id);
        CREATE TABLE q (x integer, y integer) PARTITION BY RANGE (x);
        CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (100);
        CREATE INDEX q_x ON q (x); CREATE INDEX q_y ON q (y); CREATE INDEX q_yx ON q (y, x);
        CREATE INDEX q1_own ON q1 (x);
        """
        + ("CREATE UNIQUE INDEX f_nulls ON t (f) NULLS NOT DISTINCT;" if pg_version >= 15 else ""),
    )
    finding = doctor.finding(REDUNDANT)
    assert finding["severity"] == "warning"
    assert finding["fact"].endswith("The 10 largest are shown.")
    before, repeats = _indexes(database), _repeats(finding)
    doctor.apply(finding)
    finding = doctor.finding(REDUNDANT)
    repeats |= _repeats(finding)
    doctor.apply(finding)
    assert doctor.is_well(REDUNDANT)
    assert repeats == {
        "b2": "b1", "a": "one", "ab": "one", "d5_again": "d5", "low": "low_e", "one_plain": "one", "second": "first",
        "third": "first", "f_plain": "first", "q_y": "q_yx", "q1_own": "q1_x_idx",
    }  # fmt: skip
    assert before.keys() - _indexes(database).keys() == repeats.keys() | {"q1_y_idx"}


@pytest.mark.versions(14, 18)
def test_invalid(doctor: Doctor, database: Database) -> None:
    psql(
        database.dsn,
        """
        CREATE TABLE t (id integer PRIMARY KEY, a integer, long text);
        INSERT INTO t VALUES (1, 1), (2, 1);
        CREATE TABLE q (x integer, y text) PARTITION BY RANGE (x);
        CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (100);
        CREATE TABLE q2 PARTITION OF q FOR VALUES FROM (100) TO (200) PARTITION BY LIST (x);
        CREATE TABLE q21 PARTITION OF q2 FOR VALUES IN (100);
        CREATE TABLE q3 PARTITION OF q FOR VALUES FROM (200) TO (300);
        CREATE INDEX q1_y_idx ON q1 (y); CREATE INDEX q3_had ON q3 (y);
        """,
    )
    assert doctor.answer(INVALID)["text"] == "Every index is valid."
    builder = database.connect()
    with pytest.raises(psycopg.errors.UniqueViolation):
        builder.execute("CREATE UNIQUE INDEX CONCURRENTLY t_a ON t (a)")
    finding = doctor.finding(INVALID)
    assert finding["fact"] == ("Index public.t_a is invalid: a CREATE or DROP INDEX CONCURRENTLY that failed.")
    psql(database.dsn, "DELETE FROM t WHERE id = 2")
    doctor.apply(finding)
    assert doctor.is_well(INVALID)
    assert _indexes(database)["t_a"]

    # What REINDEX leaves goes, of the TOAST table too; meanwhile it is left alone.
    with database.connect() as other:
        other.execute("BEGIN; UPDATE t SET a = 2")
        builder.pgconn.send_query(b"REINDEX TABLE CONCURRENTLY t")
        until = time.monotonic() + 30
        while all(_indexes(database).values()):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert "being worked on" in doctor.answer(INVALID)["text"]
        builder.cancel_safe()
        other.execute("ROLLBACK")
    builder.close()
    until = time.monotonic() + 30
    while doctor.is_well(INVALID):
        assert time.monotonic() < until
    finding = doctor.finding(INVALID)
    assert {name.partition(".")[0] for name in _named(finding)} == {"t_pkey_ccnew", "t_a_ccnew", "pg_toast"}
    doctor.apply(finding)
    assert doctor.is_well(INVALID)
    assert {"t_a", "t_pkey"} <= _indexes(database).keys()

    # Of a partitioned table what is missing is made and attached, at every level.
    psql(database.dsn, 'CREATE INDEX qi ON ONLY q (y, x); ALTER TABLE q3 RENAME TO "Q 3"')
    psql(database.dsn, "CREATE INDEX mine ON q1 (y, x); ALTER INDEX qi ATTACH PARTITION mine")
    finding = doctor.finding(INVALID)
    assert finding["evidence"]["which"][0]["what"] == "not attached on every partition"
    doctor.apply(finding)
    assert doctor.is_well(INVALID)
    assert {"qi", "mine", "q2_y_x_idx", "q21_y_x_idx", '"Q 3_y_x_idx"'} <= _indexes(database).keys()
    psql(database.dsn, "CREATE INDEX qe ON ONLY q (lower(y))")
    remedy = doctor.finding(INVALID)["remedies"][0]
    assert psql(database.superuser_dsn, remedy["text"]).strip() == (
        "CREATE INDEX qe ON ONLY public.q USING btree (lower(y))"
    )


@pytest.mark.versions(14, 18)
def test_foreign_keys(doctor: Doctor, database: Database) -> None:
    psql(
        database.dsn,
        """
        CREATE TABLE p (id integer PRIMARY KEY, a integer, b text, UNIQUE (a, b));
        INSERT INTO p SELECT g, g, g FROM generate_series(1, 10) g;
        CREATE TABLE covered (p_id integer REFERENCES p, a integer, b text, c integer,
          FOREIGN KEY (a, b) REFERENCES p (a, b));
        CREATE INDEX ON covered (b, a, c); CREATE INDEX ON covered (p_id) WHERE p_id IS NOT NULL;
        CREATE TABLE hashed (p_id integer REFERENCES p); CREATE INDEX ON hashed USING hash (p_id);
        CREATE TABLE bare (p_id integer CONSTRAINT bare_p REFERENCES p);
        CREATE TABLE other_part (p_id integer REFERENCES p, c integer);
        CREATE INDEX ON other_part (p_id) WHERE c IS NOT NULL;
        CREATE INDEX ON other_part (c, p_id);
        CREATE TABLE two (c integer, "A" integer, b text, FOREIGN KEY ("A", b) REFERENCES p (a, b));
        CREATE INDEX ON two ("A", c, b);
        CREATE TABLE q (x integer, p_id integer REFERENCES p) PARTITION BY RANGE (x);
        CREATE TABLE q1 PARTITION OF q FOR VALUES FROM (0) TO (100);
        CREATE TABLE q2 PARTITION OF q FOR VALUES FROM (100) TO (200);
        INSERT INTO bare SELECT 1 + g % 9 FROM generate_series(1, 5000) g;
        ANALYZE;
        """,
    )
    finding = doctor.finding(FOREIGN_KEYS)
    assert finding["severity"] == "info"
    assert _named(finding, "table") == {"bare", "other_part", "two", "q"}
    bare = next(row for row in finding["evidence"]["which"] if row["foreign_key"] == "bare_p")
    assert bare["index_at_most_bytes"] == pytest.approx(5000 * 20 / 0.9, rel=0.01)
    psql(database.dsn, "DELETE FROM p WHERE id = 10")
    until = time.monotonic() + 30
    while (finding := doctor.finding(FOREIGN_KEYS))["severity"] != "warning":
        assert time.monotonic() < until
    assert "1 row so far" in finding["cost"]
    doctor.apply(finding)
    assert doctor.is_well(FOREIGN_KEYS)
    assert all(_indexes(database).values())
    assert {"bare_p_id_idx", "q_p_id_idx", "q1_p_id_idx", "q2_p_id_idx"} <= _indexes(database).keys()


@pytest.mark.versions(14, 18)
def test_brin(doctor: Doctor, database: Database) -> None:
    psql(
        database.dsn,
        """
        CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz, same date, n integer);
        INSERT INTO log (at, same, n) SELECT to_timestamp(g), '2026-01-01', hashint4(g) FROM generate_series(1, 3000) g;
        CREATE INDEX log_at ON log (at); CREATE INDEX log_n ON log (n); CREATE INDEX log_same ON log (same);
        CREATE TABLE raw (at timestamp, v integer);
        INSERT INTO raw SELECT to_timestamp(g), g FROM generate_series(1, 3000) g;
        CREATE TABLE changed (LIKE log); INSERT INTO changed SELECT * FROM log; CREATE INDEX ON changed (at);
        SELECT count(*) FROM raw WHERE at = now();
        DELETE FROM changed WHERE id <= 100;
        ANALYZE;
        """,
    )
    answer = doctor.answer(BRIN)
    assert "are hidden from this login" in answer["because"]
    psql(database.superuser_dsn, answer["hint"])
    until = time.monotonic() + 30
    while "changed" in (which := _named(finding := doctor.finding(BRIN), "table")) or "raw" not in which:
        assert time.monotonic() < until
    assert {(row["table"], row["column"], row["b_tree"]) for row in finding["evidence"]["which"]} == {
        ("public.log", "at", "log_at"), ("public.raw", "at", None),
    }  # fmt: skip
    doctor.apply(finding)
    assert doctor.is_well(BRIN)
    doctor.apply(finding, 1)
    assert "log_at" not in _indexes(database)
