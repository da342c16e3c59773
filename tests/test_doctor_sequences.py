"""`sequences.keys`: integer keys near their end, by the type of the column and of the sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.clients import psql
from support.doctor import Doctor, monitor_of, plain_role_of
from support.servers import Database

CHECK = "sequences.keys"
# Serial and identity; an int4 column fed by a bigint sequence; a bigint column whose sequence has four bytes; and more.
SCHEMA = """
CREATE SCHEMA app; SET search_path TO app;
CREATE TABLE orders (id serial PRIMARY KEY, n integer, t text);
CREATE TABLE "Line" ("Id" integer PRIMARY KEY, order_id integer REFERENCES orders);
CREATE TABLE small (id smallint GENERATED ALWAYS AS IDENTITY UNIQUE);
CREATE SEQUENCE shared;
CREATE TABLE fed (id integer NOT NULL DEFAULT nextval('app.shared'));
CREATE TABLE grown (id serial);
ALTER TABLE grown ALTER COLUMN id TYPE bigint;
CREATE TABLE parted (id integer GENERATED ALWAYS AS IDENTITY, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE part (junk integer, at date NOT NULL, id integer NOT NULL);
ALTER TABLE part DROP COLUMN junk;
ALTER TABLE parted ATTACH PARTITION part FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE SEQUENCE down INCREMENT -1 MINVALUE -100000 MAXVALUE -1;
CREATE TABLE falling (id bigint DEFAULT nextval('app.down'));
CREATE TABLE wide (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);
CREATE TABLE narrow (wide_id integer REFERENCES wide);
-- None of these runs out: random keys, a sequence that begins anew, eight bytes.
CREATE TABLE random (id integer PRIMARY KEY);
CREATE SEQUENCE round AS integer CYCLE;
CREATE TABLE rounds (id bigint DEFAULT nextval('app.round'));
"""
FILL = """
SELECT setval('app.orders_id_seq', {n}), setval('app.small_id_seq', {s}), setval('app.shared', {n}),
  setval('app.grown_id_seq', {n}), setval('app.parted_id_seq', {n}), setval('app.down', -{d}),
  setval('app.round', {n}), setval('app.wide_id_seq', {n});
INSERT INTO app.orders (n) SELECT g FROM generate_series(1, 100) g;
INSERT INTO app."Line" SELECT id, id FROM app.orders ON CONFLICT DO NOTHING;
INSERT INTO app.small SELECT FROM generate_series(1, 100) g;
INSERT INTO app.fed SELECT FROM generate_series(1, 100) g;
INSERT INTO app.grown SELECT FROM generate_series(1, 100) g;
INSERT INTO app.parted (at) SELECT '2026-01-07' FROM generate_series(1, 100) g;
INSERT INTO app.falling SELECT FROM generate_series(1, 100) g;
INSERT INTO app.wide SELECT FROM generate_series(1, 100) g;
INSERT INTO app.narrow SELECT id FROM app.wide;
INSERT INTO app.rounds SELECT FROM generate_series(1, 100) g;
INSERT INTO app.random SELECT (random() * 2147483600)::integer FROM generate_series(1, 100) g ON CONFLICT DO NOTHING;
ANALYZE app.orders, app."Line", app.small, app.fed, app.grown, app.falling, app.wide, app.narrow, app.random;
-- As autovacuum does: the partition, not what it is a partition of.
ANALYZE app.part;
"""


@pytest.fixture
def doctor(database: Database, tmp_path: Path) -> Doctor:
    role = database.create_role("monitor", "LOGIN IN ROLE pg_monitor, pg_read_all_data")
    return Doctor(database, tmp_path, role)


def _fill(database: Database, n: int, s: int, d: int) -> None:
    psql(database.dsn, FILL.format(n=n, s=s, d=d))


def _found(doctor: Doctor) -> dict[str, dict[str, Any]]:
    answer = doctor.answer(CHECK)
    return {each["subject"]: each for each in answer.get("findings", ())}


@pytest.mark.versions("all")
def test_keys_near_their_end(doctor: Doctor, database: Database) -> None:
    assert doctor.answer(CHECK)["text"] == "No key can run out of values."
    psql(database.dsn, SCHEMA)
    assert doctor.answer(CHECK)["text"].startswith("No key of 9 that could run out is near its end.")
    _fill(database, n=1_200_000_000, s=20_000, d=60_000)
    assert _found(doctor) == {}
    doctor.hours_pass(24)
    _fill(database, n=1_600_000_000, s=30_000, d=80_000)
    found = _found(doctor)
    assert set(found) == {
        "app.orders.id", "app.small.id", "app.fed.id", "app.grown.id", "app.parted.id", "app.falling.id",
    }  # fmt: skip
    fed = found["app.fed.id"]
    assert fed["evidence"]["sequence_type"] == "bigint"
    assert fed["evidence"]["end"] == 2_147_483_647
    assert "has used 75% of its type, integer: 547,483,547 values are left, which last 32 h " in fed["fact"]
    assert fed["severity"] == "critical"
    assert found["app.grown.id"]["remedies"][0]["text"] == "ALTER SEQUENCE app.grown_id_seq AS bigint NO MAXVALUE;"
    assert found["app.falling.id"]["remedies"][0]["text"] == "ALTER SEQUENCE app.down AS bigint NO MINVALUE;"
    assert found["app.orders.id"]["remedies"][0]["text"].splitlines()[2:5] == [
        "ALTER TABLE app.orders ALTER COLUMN id TYPE bigint;",
        'ALTER TABLE app."Line" ALTER COLUMN order_id TYPE bigint;',
        "ALTER SEQUENCE app.orders_id_seq AS bigint;",
    ]
    for finding in found.values():
        doctor.apply(finding)
    psql(database.dsn, "ANALYZE")
    assert doctor.is_well(CHECK)
    psql(database.dsn, "SELECT setval('app.orders_id_seq', 3000000000); INSERT INTO app.orders (n) VALUES (1)")

    # Dense keys that no sequence feeds; a foreign key narrower than what it points to.
    psql(
        database.dsn,
        'TRUNCATE app."Line", app.narrow;'
        'INSERT INTO app."Line" SELECT g FROM generate_series(2147483001, 2147483600) g;'
        "INSERT INTO app.wide OVERRIDING SYSTEM VALUE SELECT g FROM generate_series(2147483001, 2147483600) g;"
        "INSERT INTO app.narrow SELECT id FROM app.wide WHERE id > 2147483000; ANALYZE",
    )
    found = _found(doctor)
    assert set(found) == {'app."Line"."Id"', "app.narrow.wide_id"}
    for finding in found.values():
        assert finding["severity"] == "critical"
        doctor.apply(finding)
    assert doctor.is_well(CHECK)


@pytest.mark.versions(14, 18)
def test_what_is_not_known_is_said(database: Database, tmp_path: Path) -> None:
    psql(
        database.dsn,
        "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t SELECT FROM generate_series(1, 100); ANALYZE t",
    )
    for role in (monitor_of(database), plain_role_of(database)):
        answer = Doctor(database, tmp_path, role).answer(CHECK)
        assert answer["because"] == f"the values of 1 column of 1 are hidden from role {role}"
        assert answer["hint"] == f"GRANT pg_read_all_data TO {role};"
    psql(database.superuser_dsn, answer["hint"])
    assert Doctor(database, tmp_path, role).answer(CHECK)["text"].endswith("is near its end.")
    psql(database.dsn, "CREATE SEQUENCE loose AS integer; SELECT setval('loose', 2147483647)")
    text = Doctor(database, tmp_path, role).answer(CHECK)["text"]
    assert text.endswith("; 1 sequence that feeds no column is not judged: reading it would lock.")
