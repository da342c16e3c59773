"""`pgscale load`: lines that do not fit are put aside, each with its reason; all others are loaded."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.errors import RefusedError
from pgscale.write import loading
from pgscale.write.loading import LoadedRowError, LoadOptions, LoadResult
from support.servers import Database


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, label text, score numeric, at timestamptz)")
    connection.execute("SET timezone TO 'UTC'")
    return connection


def _load(database: Database, path: Path, **options: Any) -> LoadResult:
    options = {"workers": 2, "part_bytes": 4_000, **options}
    return loading.load(database.dsn, "t", str(path), LoadOptions(**options))


@pytest.mark.versions(15, 18)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["newline", "crlf"])
def test_lines_that_do_not_fit_are_put_aside(
    database: Database, conn: psycopg.Connection[Any], tmp_path: Path, end: bytes
) -> None:
    conn.execute("CREATE TABLE parent (id bigint PRIMARY KEY); INSERT INTO parent SELECT generate_series(0, 2999)")
    conn.execute(
        "ALTER TABLE t ADD CHECK (score < 10000), ALTER label TYPE varchar(20),"
        " ADD FOREIGN KEY (id) REFERENCES parent DEFERRABLE INITIALLY DEFERRED, ADD UNIQUE (label, id)"
    )
    breaks = ("\n", "\r\n", "\r", "", "\n\n\r")
    lines = [f'{n},"x{breaks[n % 5]}{n}",1.5,2026-03-01'.encode() for n in range(2_000)]
    bad: dict[int, tuple[bytes, str, str]] = {
        0: (b"zero,x,1,2026-03-01", "22P02", "id"),
        300: (b"300,x", "22P04", ""),
        301: (b"301,x,1,2026-03-01,more", "22P04", ""),
        500: (b"500,\xff\xfe,1,2026-03-01", "22021", ""),
        501: (b"501,a\x00b,1,2026-03-01", "22021", ""),
        700: (b'700,"' + b"long " * 9 + b'",1,2026-03-01', "22001", "label"),
        900: (b"900,x,99999,2026-03-01", "23514", ""),
        901: (b",x,9,2026-03-01", "23502", "id"),
        1200: (b"1199,x,1,2026-03-01", "23505", ""),
        1500: (b"5000,orphan,1,2026-03-01", "23503", ""),
        1999: (b"1999,x,1,2026-02-30", "22008", "at"),
    }
    for number, (line, _, _) in bad.items():
        lines[number] = line
    path, rejects = tmp_path / "bad.csv", tmp_path / "rejects"
    path.write_bytes(b"id,label,score,at" + end + end.join(lines) + end)
    result = _load(database, path, rejects=rejects, part_bytes=9_000)
    assert (result.counts.rows, result.counts.rejected) == (2_000 - len(bad), len(bad))
    assert conn.execute("SELECT count(*), count(DISTINCT id) FROM t").fetchone() == (1_989, 1_989)
    text = path.read_bytes().split(b"\n")
    told = sorted((json.loads(line) for line in rejects.read_text().splitlines()), key=lambda r: r["line"])
    for reject, (line, state, column) in zip(told, bad.values(), strict=True):
        found = base64.b64decode(reject["base64"]) if "base64" in reject else reject["text"].encode()
        assert found == line
        assert reject["sqlstate"] == state, reject
        assert reject["reason"]
        assert reject["column"] == column or not column
        assert text[reject["line"] - 1].rstrip(b"\r") == line.split(b"\n")[0]
    # The rejects file is the user's: it is not written over.
    with pytest.raises(RefusedError, match="is there already"):
        _load(database, path, rejects=rejects)


def test_without_a_file_for_rejects_the_line_is_named(
    database: Database, conn: psycopg.Connection[Any], tmp_path: Path
) -> None:
    lines = [f"{n},x,1,2026-03-01" for n in range(3_000)]
    lines[2_500] = "2500,x,many,2026-03-01"
    path = tmp_path / "bad.csv"
    path.write_text("id,label,score,at\n" + "\n".join(lines))
    with pytest.raises(LoadedRowError) as raised:
        _load(database, path, workers=1, part_bytes=8_000)
    assert (raised.value.line, raised.value.column, raised.value.sqlstate) == (2_502, "score", "22P02")
    kept = conn.execute("SELECT count(*) FROM t").fetchone()
    assert kept is not None
    assert 1_000 < kept[0] < 2_500
    assert f"{kept[0]:,} rows are in the table and stay" in str(raised.value)
    assert "--resume --rejects" in str(raised.value)
    with pytest.raises(RefusedError, match="was not finished"):
        _load(database, path)
    assert _load(database, path, resume=True, rejects=tmp_path / "r").counts.rows == 2_999
    assert conn.execute("SELECT count(*), count(DISTINCT id) FROM t").fetchone() == (2_999, 2_999)
    # A foreign key names no line: it is found by halving. Nothing was committed, so nothing is to be resumed.
    conn.execute("CREATE TABLE child (id bigint REFERENCES t)")
    path.write_text("id\n" + "".join(f"{n if n != 77 else 9999}\n" for n in range(200)))
    for _ in range(2):
        with pytest.raises(LoadedRowError) as raised:
            loading.load(database.dsn, "child", str(path))
        assert (raised.value.line, raised.value.sqlstate) == (79, "23503")
        assert "resume" not in str(raised.value)


BAD_NDJSON = [
    (b"{oops", "not JSON: Expecting property name"),
    (b"[1]", "a JSON array, where an object is wanted"),
    (b"7", "a JSON number"),
    (b'{"id": 1, "lable": 2}', "lable is not among the columns"),
    (b'{"id": "\xff"}', "not UTF-8"),
    (b'{"id": 1.5}', "invalid input syntax for type bigint"),
    (b'{"id": [1]}', "invalid input syntax for type bigint"),
    (b'{"id": 1, "label": "a\\u0000b"}', "invalid byte sequence"),
    (b'{"id": 1, "label": "\\ud800"}', "invalid byte sequence"),
]


def test_ndjson_that_does_not_fit(database: Database, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    path, rejects = tmp_path / "bad.ndjson", tmp_path / "rejects"
    lines = [b'{"id": %d, "label": "x"}' % n for n in range(1_000)]
    for number, (line, _) in enumerate(BAD_NDJSON):
        lines[100 + 90 * number] = line
    lines[50] = b""
    path.write_bytes(b"\n".join(lines))
    result = _load(database, path, rejects=rejects)
    assert (result.counts.rows, result.counts.rejected) == (999 - len(BAD_NDJSON), len(BAD_NDJSON))
    told = sorted((json.loads(line) for line in rejects.read_text().splitlines()), key=lambda r: r["line"])
    for number, (reject, (_, reason)) in enumerate(zip(told, BAD_NDJSON, strict=True)):
        assert reject["line"] == 101 + 90 * number
        assert reason in reject["reason"], reject
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (999 - len(BAD_NDJSON),)


def test_parquet_that_does_not_fit(database: Database, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet  # noqa: PLC0415 because pyarrow may not be there

    conn.execute("ALTER TABLE t ALTER id TYPE smallint")
    ids = list(range(1_000))
    ids[700], ids[950] = 70_000, 5
    path, rejects = tmp_path / "bad.parquet", tmp_path / "rejects"
    parquet.write_table(pa.table({"id": ids, "label": ["x"] * 1_000}), path, row_group_size=100)
    with pytest.raises(LoadedRowError, match="Row 700, column id: 70000 is out of range for smallint"):
        _load(database, path, workers=1)
    result = _load(database, path, resume=True, rejects=rejects)
    assert (result.counts.rows, result.counts.rejected, result.resumed) == (998, 2, 7)
    told = sorted((json.loads(line) for line in rejects.read_text().splitlines()), key=lambda r: r["line"])
    assert [(r["line"], r["sqlstate"], json.loads(r["text"])["id"]) for r in told] == [
        (700, None, 70_000),
        (950, "23505", 5),
    ]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet"])
def test_a_foreign_key_names_the_line(database: Database, tmp_path: Path, kind: str) -> None:
    """By its values; they are looked for in the file, and few COPYs are needed: by halves it would be hundreds."""
    conn = database.connect()
    conn.execute(
        "CREATE TABLE parent (a text, b integer, PRIMARY KEY (a, b)); INSERT INTO parent VALUES ('so \"long\"', 1);"
        "CREATE TABLE child (id integer, a text, b integer, FOREIGN KEY (a, b) REFERENCES parent);"
        "CREATE SEQUENCE tries; CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM nextval('tries'); RETURN NULL; END $$;"
        "CREATE TRIGGER t BEFORE INSERT ON child EXECUTE FUNCTION count_it()"
    )
    bad = {900 * n: (f"a {n}", 7) for n in range(1, 11)}
    rows = [(n, *bad.get(n, ('so "long"', 1))) for n in range(10_000)]
    path, rejects = tmp_path / f"x.{kind}", tmp_path / "rejects"
    if kind == "csv":
        path.write_text("id,a,b\n" + "".join('{},"{}",{}\n'.format(n, a.replace('"', '\\"'), b) for n, a, b in rows))
    elif kind == "ndjson":
        path.write_text("\n".join(json.dumps({"id": n, "a": a, "b": b}) for n, a, b in rows))
    else:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet  # noqa: PLC0415 because pyarrow may not be there

        parquet.write_table(pa.table(dict(zip(("id", "a", "b"), zip(*rows, strict=True), strict=True))), path)
    options = LoadOptions(workers=1, rejects=rejects, escape="\\" if kind == "csv" else None)
    result = loading.load(database.dsn, "child", str(path), options)
    assert (result.counts.rows, result.counts.rejected) == (9_990, 10)
    first = {"csv": 2, "ndjson": 1, "parquet": 0}[kind]
    told = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(one["line"], one["sqlstate"]) for one in told] == [(n + first, "23503") for n in bad]
    assert all(f"a {n}" in one["text"] for n, one in enumerate(told, start=1))
    assert conn.execute("SELECT count(*), count(DISTINCT id) FROM child").fetchone() == (9_990, 9_990)
    tries = conn.execute("SELECT last_value FROM tries").fetchone()
    assert tries is not None
    # A COPY that fails, one of the rows before, the row by itself; and those without a bad row.
    assert tries[0] <= 3 * 10 + 20


def test_lines_may_come_before_those_they_need(database: Database, tmp_path: Path) -> None:
    """All would do as one COPY; that one of them is bad puts only those aside that need it."""
    conn = database.connect()
    conn.execute("CREATE TABLE tree (id integer PRIMARY KEY, up integer REFERENCES tree, n integer CHECK (n > 0))")
    chain = [f"{n},{n + 1 if n < 50 else ''},1" for n in range(1, 51)]
    lines = ["id,up,n", *chain[:20], "100,,0", "101,999,1", *chain[20:], "102,100,1"]
    path, rejects = tmp_path / "x.csv", tmp_path / "rejects"
    path.write_text("\n".join(lines))
    result = loading.load(database.dsn, "tree", str(path), LoadOptions(workers=1, rejects=rejects))
    assert (result.counts.rows, result.counts.rejected) == (50, 3)
    assert [json.loads(line)["line"] for line in rejects.read_text().splitlines()] == [22, 23, 54]
    assert conn.execute("SELECT count(*), max(id) FROM tree").fetchone() == (50, 50)


@pytest.mark.versions(15, 18)
def test_the_end_marker_of_old_servers_loses_nothing(database: Database, pg_version: int, tmp_path: Path) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE one (v text)")
    path, rejects = tmp_path / "x.csv", tmp_path / "rejects"
    path.write_text("v\n" + "a\n" * 500 + "\\.\n" + "b\n" * 500)
    result = loading.load(database.dsn, "one", str(path), LoadOptions(rejects=rejects))
    if pg_version >= 18:
        assert (result.counts.rows, result.counts.rejected) == (1_001, 0)
    else:
        assert (result.counts.rows, result.counts.rejected) == (1_000, 1)
        assert json.loads(rejects.read_text())["line"] == 502
    assert conn.execute("SELECT count(*) FROM one").fetchone() == (result.counts.rows,)
