"""`pgscale bench write`: every way is measured in a copy that is gone afterwards; the table is only read."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from pgscale.cli import main
from pgscale.errors import PermissionDeniedError, PgscaleError, RefusedError
from pgscale.write import ladder
from support.servers import Database

TABLE = (
    "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE \"T x\" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " twice bigint GENERATED ALWAYS AS (id * 2) STORED, label varchar(20) UNIQUE, tags text[], doc jsonb, m mood,"
    " at timestamptz, ip inet, n numeric(9, 2), place point);"
    "INSERT INTO \"T x\" (label, tags, doc, m, at, ip, n, place) SELECT g, ARRAY['a', 'b'], '{\"a\": 1}', 'ok', now(),"
    " '10.0.0.1', 1.5, '(1,2)' FROM generate_series(1, 3000) g"
)


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute(TABLE)
    return connection


def _tables(conn: psycopg.Connection[Any]) -> list[str]:
    return [r[0] for r in conn.execute("SELECT relname FROM pg_class WHERE relname ~ 'bench' AND relkind = 'r'")]


@pytest.mark.sampled(2)
@pytest.mark.versions(14, 18)
def test_the_ladder(database: Database, conn: psycopg.Connection[Any], capsys: pytest.CaptureFixture[str]) -> None:
    seen = 'SELECT md5(string_agg(t::text, \',\' ORDER BY id)), (SELECT last_value FROM "T x_id_seq") FROM "T x" t'
    before = conn.execute(seen).fetchone()
    main(["bench", "write", '"T x"', "--rows", "2000", "--rounds", "2", "--json", "--dsn", database.dsn])
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    rungs = {rung["name"]: rung for rung in found["rungs"]}
    assert (found["rows"], found["rounds"], len(rungs)) == (2_000, 2, 7)
    # A point has no binary form here, an enum none that psycopg knows, arrays of arrays cannot be unnested: those ways
    # say so, the others go.
    assert {name for name, rung in rungs.items() if rung["rows_per_s"] is None} == {
        "unnest, 1,000 rows each",
        "COPY, binary",
        "pgscale.write.copy",
        "pgscale.write.copy, 2 connections",
    }
    assert "place has type point" in rungs["pgscale.write.copy"]["reason"]
    conn.execute('ALTER TABLE "T x" DROP place, DROP tags, DROP m')
    before_drop = conn.execute(seen).fetchone()
    result = ladder.measure(database.dsn, '"T x"', rows=2_500, rounds=1)
    assert [rung.reason for rung in result.rungs] == [""] * 7
    assert all(rung.rate and rung.rate > 1 for rung in result.rungs)
    assert [rung.rows for rung in result.rungs] == [1_000] + [2_500] * 6
    assert conn.execute(seen).fetchone() == before_drop
    assert before is not None
    assert before_drop is not None
    assert before[1] == before_drop[1], "no value of the table's sequence was taken"
    assert _tables(conn) == []
    main(["bench", "write", '"T x"', "--rows", "100", "--rounds", "1", "--dsn", database.dsn])
    assert "rows/s" in capsys.readouterr().out


def test_the_copy_is_dropped_whatever_happens(database: Database, conn: psycopg.Connection[Any]) -> None:
    def stop(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ladder.measure(database.dsn, '"T x"', rows=10, watch=stop)
    assert _tables(conn) == []


def test_declined(database: Database, conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE TABLE empty (id int)")
    for table, error, said in (("nothing", RefusedError, "no table nothing"), ("empty", RefusedError, "no rows")):
        with pytest.raises(error, match=said):
            ladder.measure(database.dsn, table)
    role = database.create_role("reader")
    conn.execute(f'GRANT SELECT ON "T x" TO {role}'.encode())
    with pytest.raises(PermissionDeniedError, match="CREATE ON SCHEMA"):
        ladder.measure(database.dsn_as(role), '"T x"')
    with pytest.raises(PgscaleError, match="at least one row"):
        ladder.measure(database.dsn, '"T x"', rows=0)
