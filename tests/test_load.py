"""`pgscale load`: every format and compression, from files and standard input, into all kinds of tables."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.connect.session import CONTROL, open_session
from pgscale.core.model import Progress
from pgscale.demo.flights import FLIGHTS_ROWS, find_flights
from pgscale.errors import PgscaleError
from pgscale.ledger import store as ledger
from pgscale.write import loading
from pgscale.write.loading import LoadOptions, LoadResult, lines, reading
from pgscale.write.loading import store as notes
from support.servers import Database

TABLE = "CREATE TABLE t (id bigint PRIMARY KEY, label text, score numeric, at timestamptz)"
AT = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
ROWS: list[tuple[Any, ...]] = [
    (
        n,
        None if n % 7 == 0 else ["plain", "two\nlines", 'he said "no, é"', "", "a,b\r\n", "\\N", "\\."][n % 7 - 1],
        n / 4,
        AT,
    )
    for n in range(2_000)
]


def _csv(rows: list[tuple[Any, ...]] = ROWS, *, header: bool = True, null: str = "", **dialect: Any) -> str:
    """As COPY TO writes: NULL is bare, an empty text is quoted."""
    out = io.StringIO()
    quote, delimiter = dialect.get("quotechar", '"'), dialect.get("delimiter", ",")
    end = dialect.get("lineterminator", "\n")

    def field(value: Any) -> str:
        if value is None:
            return null
        text = str(value)
        if isinstance(value, str):
            return quote + text.replace(quote, quote * 2) + quote
        return text

    if header:
        out.write(delimiter.join(("id", "label", "score", "at")) + end)
    for row in rows:
        out.write(delimiter.join(map(field, row)) + end)
    return out.getvalue()


def _flat(label: str | None) -> str | None:
    return label and label.replace("\r\n", "")


def _ndjson() -> bytes:
    lines = (json.dumps({"id": i, "label": a, "score": s, "at": str(at)}) for i, a, s, at in ROWS)
    return ("\n".join(lines) + "\n\n").encode()


def _zip(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", data)
    return out.getvalue()


def _zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    half = len(data) // 2
    return b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:half], data[half:]))


def _columnar(kind: str) -> Callable[[], bytes]:
    def make() -> bytes:
        pa = pytest.importorskip("pyarrow")
        table = pa.table(
            {
                "id": pa.array([r[0] for r in ROWS], pa.int32()),
                "label": [r[1] for r in ROWS],
                "score": [r[2] for r in ROWS],
                "at": pa.array([r[3] for r in ROWS], pa.timestamp("us", "UTC")),
            }
        )
        out = io.BytesIO()
        if kind == "parquet":
            from pyarrow import parquet  # noqa: PLC0415 because pyarrow may not be there

            parquet.write_table(table, out, row_group_size=300)
        else:
            new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
            with new(out, table.schema) as writer:
                writer.write_table(table, max_chunksize=300)
        return out.getvalue()

    return make


PLAIN = LoadOptions()


@dataclass(frozen=True)
class Case:
    """A file, how it is loaded, and how many rows it has."""

    name: str
    data: Callable[[], bytes]
    options: LoadOptions = PLAIN
    normal: Callable[[Any], Any] = lambda label: label


CASES = [
    Case("x.csv", lambda: _csv().encode()),
    Case("crlf.csv", lambda: _csv(lineterminator="\r\n").encode()),
    Case("cr.csv", lambda: _csv([(i, _flat(t), s, a) for i, t, s, a in ROWS], lineterminator="\r").encode(),
         normal=_flat),
    Case("bom.csv", lambda: b"\xef\xbb\xbf" + _csv().encode()),
    Case("noend.csv", lambda: _csv().encode().rstrip(b"\n")),
    Case("tab.csv", lambda: _csv(delimiter="\t", quotechar="'", null="NA").encode(),
         LoadOptions(delimiter="\t", quote="'", null="NA")),
    Case("bare.csv", lambda: _csv(header=False).encode(), LoadOptions(header=False)),
    Case("named.csv", lambda: _csv([(s, i, t, a) for i, t, s, a in ROWS], header=False).encode(),
         LoadOptions(header=False, columns=("score", "id", "label", "at"))),
    Case("renamed.csv", lambda: _csv().replace("label", "Label x", 1).encode(),
         LoadOptions(columns=("id", "label", "score", "at"))),
    Case("latin.csv", lambda: _csv().encode("latin-1"), LoadOptions(encoding="latin-1")),
    Case("utf16.csv", lambda: _csv().encode("utf-16"), LoadOptions(encoding="utf-16")),
    Case("x.csv.gz", lambda: gzip.compress(_csv().encode())),
    Case("two.gz", lambda: gzip.compress(_csv().encode()[:5000]) + gzip.compress(_csv().encode()[5000:])),
    Case("x.csv.zst", lambda: _zstd(_csv().encode())),
    Case("x.csv.zip", lambda: _zip(_csv().encode())),
    Case("x.ndjson", _ndjson),
    Case("x.jsonl.gz", lambda: gzip.compress(_ndjson())),
    Case("unnamed", _ndjson),
    Case("x.parquet", _columnar("parquet")),
    Case("x.arrow", _columnar("file")),
    Case("x.arrows", _columnar("stream")),
]  # fmt: skip


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute(TABLE)
    connection.execute("SET timezone TO 'UTC'")
    return connection


def _load(database: Database, path: Path, **options: Any) -> LoadResult:
    options = {"workers": 2, "part_bytes": 4_000, **options}
    return loading.load(database.dsn, "t", str(path), LoadOptions(**options))


def _all(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    return conn.execute("SELECT id, label, score::float8, at FROM t ORDER BY id").fetchall()


@pytest.mark.sampled(2)
@pytest.mark.versions(15, 18)
def test_every_format_and_compression(database: Database, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    """On 15 a line of a backslash and a point alone would end a CSV; in quotes on a line with more it is a value."""
    for case in CASES:
        path = tmp_path / case.name
        path.write_bytes(case.data())
        conn.execute("TRUNCATE t")
        options = {f: getattr(case.options, f) for f in ("delimiter", "quote", "null", "header", "columns", "encoding")}
        result = _load(database, path, **options)
        assert result.counts.rows == len(ROWS), case.name
        assert result.parts > 5, case.name
        assert _all(conn) == [(i, case.normal(label), s, a) for i, label, s, a in ROWS], case.name
        assert conn.execute("SELECT count(*) FROM pgscale.load_part").fetchone() == (0,)


def _cli(*arguments: str, stdin: bytes | None = None, **env: str) -> subprocess.CompletedProcess[bytes]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k != "DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "pgscale", "load", *arguments],
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
        env={**clean, **env},
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz", "x.ndjson", "x.arrows"])
def test_standard_input(database: Database, conn: psycopg.Connection[Any], name: str) -> None:
    data = next(c for c in CASES if c.name == name).data()
    kind = ["--format", "arrow"] if name == "x.arrows" else []
    done = _cli("t", "-", "--json", "--dsn", database.dsn, *kind, stdin=data)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["rows"], found["source"], found["rejected"]) == (2_000, "standard input", 0)
    assert _all(conn) == ROWS


def test_a_table_of_every_kind_of_value_from_ndjson(database: Database, tmp_path: Path) -> None:
    """Typed by the table: numbers keep their digits, objects and lists are JSON or arrays, types have no limits."""
    conn = database.connect()
    conn.execute(
        "CREATE DOMAIN few AS integer CHECK (VALUE < 9); CREATE TYPE mood AS ENUM ('ok');"
        "CREATE TABLE v (n numeric, j jsonb, js json, a integer[], ta text[], ja jsonb[], t text, b boolean, d date,"
        " u uuid, m mood, f few, p point, r int4range, by bytea, i interval, missing text DEFAULT 'x')"
    )
    lines = [
        '{"n": 1.10000000000000000000001, "j": {"x": [1.50, null, "é\\n\\t\\\\", true], "big": 12345678901234567890.5},'
        ' "js": "text", "a": [[1, 2], [3, null]], "ta": ["a\\"b", "c\\\\d", null, "NULL", "{x}", ""],'
        ' "ja": [{"k": "v\\"w"}, [1], 2.50], "t": "tab\\tline\\nback\\\\slash", "b": true, "d": "2026-03-01",'
        ' "u": "00000000-0000-0000-0000-000000000007", "m": "ok", "f": 3, "p": "(1,2)", "r": "[1,5)",'
        ' "by": "\\\\x6162", "i": "1 day 02:00"}',
        '{"n": null, "t": {"k": [1, 2]}, "j": null, "b": false, "a": "{7}"}',
        '{"t": 1.50, "j": "s", "f": 8}',
        '{"t": "", "j": 5}',
    ]
    path = tmp_path / "v.ndjson"
    path.write_text("\n".join(lines))
    assert loading.load(database.dsn, "v", str(path)).counts.rows == 4
    found = conn.execute(
        "SELECT n::text, j, js::text, a, ta, ja::text, t, b, d::text, u::text, m::text, f, p::text, r::text, by,"
        " i::text, missing FROM v"
    ).fetchall()
    assert found[0] == (
        "1.10000000000000000000001", {"x": [1.5, None, "é\n\t\\", True], "big": 12345678901234567890.5}, '"text"',
        [[1, 2], [3, None]], ['a"b', "c\\d", None, "NULL", "{x}", ""], r'{"{\"k\": \"v\\\"w\"}",[1],2.50}',
        "tab\tline\nback\\slash", True, "2026-03-01", "00000000-0000-0000-0000-000000000007", "ok", 3, "(1,2)", "[1,5)",
        b"ab", "1 day 02:00:00", "x",
    )  # fmt: skip
    assert conn.execute(
        "SELECT j::text LIKE '%12345678901234567890.5%' AND j::text LIKE '%1.50%' FROM v"
    ).fetchone() == (True,)
    assert [(row[0], row[1], row[3], row[6], row[7]) for row in found[1:]] == [
        (None, None, [7], '{"k":[1,2]}', False),
        (None, "s", None, "1.50", None),
        (None, 5, None, "", None),
    ]


def test_merging_by_a_key(database: Database, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    conn.execute("CREATE TABLE page (url text, day date, views bigint, title text, PRIMARY KEY (url, day))")
    conn.execute("INSERT INTO page VALUES ('/3', '2026-03-01', 1000, 'old')")
    path = tmp_path / "p.csv"
    with path.open("w") as out:
        writer = csv.writer(out)
        writer.writerow(["day", "views", "url", "title"])
        writer.writerows(("2026-03-01", 1, f"/{n % 50}", f"t{n}") for n in range(5_000))
    options = LoadOptions(key=("url", "day"), rules={"views": "add"}, part_bytes=3_000)
    result = loading.load(database.dsn, "page", str(path), options)
    assert result.workers == 1, "`set` depends on the order of the file"
    assert result.counts.rows == 5_000
    assert conn.execute("SELECT count(*), sum(views) FROM page").fetchone() == (50, 6_000)
    assert conn.execute("SELECT views, title FROM page WHERE url = '/3'").fetchone() == (1_100, "t4953")
    conn.execute(
        "CREATE TABLE many (url text PRIMARY KEY, views bigint NOT NULL CHECK (views < 90)) PARTITION BY HASH (url)"
    )
    conn.execute("CREATE TABLE many_0 PARTITION OF many FOR VALUES WITH (MODULUS 1, REMAINDER 0)")
    with path.open("w") as out:
        writer = csv.writer(out)
        writer.writerow(["url", "views"])
        writer.writerows((f"/{n % 50}", 99 if n == 2_001 else 1) for n in range(3_000))
    options = LoadOptions(
        key=("url",), rules={"views": "add"}, part_bytes=2_000, workers=3, rejects=tmp_path / "rejects"
    )
    result = loading.load(database.dsn, "many", str(path), options)
    assert (result.counts.rows, result.counts.rejected, result.warnings) == (2_999, 1, ())
    assert result.counts.inserted == 50
    assert conn.execute("SELECT count(*), sum(views) FROM many").fetchone() == (50, 2_999)
    told = sorted(
        (json.loads(line) for line in (tmp_path / "rejects").read_text().splitlines()), key=lambda r: r["line"]
    )
    assert [(r["line"], r["sqlstate"]) for r in told] == [(2_003, "23514")]


def test_flights_load_as_the_readme_says(database: Database) -> None:
    """The commands of the README, on the file of the demo."""
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    shown = re.search(r"^\$ (pgscale load flights .*)$", readme, re.MULTILINE)
    assert shown is not None, "the README shows the flights being loaded"
    conn = database.connect()
    conn.execute(
        "CREATE TABLE flights (year smallint, month smallint, day smallint, dep_time smallint, sched_dep_time smallint,"
        " dep_delay smallint, arr_time smallint, sched_arr_time smallint, arr_delay smallint, carrier text,"
        " flight integer, tailnum text, origin text, dest text, air_time smallint, distance smallint, hour smallint,"
        " minute smallint, time_hour timestamptz)"
    )
    words = shown[1].split()[2:]
    words[words.index("flights.csv.zip")] = str(find_flights())
    done = _cli(*words, "--dsn", database.dsn)
    assert done.returncode == 0, done.stderr
    found = conn.execute(
        "SELECT count(*), count(DISTINCT month), count(*) FILTER (WHERE dep_time IS NULL) FROM flights"
    ).fetchone()
    assert found == (FLIGHTS_ROWS, 12, 8_255)


def test_damaged_files_keep_what_came_before(database: Database, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    for name in ("x.csv.gz", "x.csv.zst"):
        conn.execute("TRUNCATE t")
        whole = next(c for c in CASES if c.name == name).data()
        path = tmp_path / name
        path.write_bytes(whole[: len(whole) - 40])
        with pytest.raises(PgscaleError, match="damaged or cut short") as raised:
            _load(database, path)
        assert "--resume" not in str(raised.value), "it would end there again"
        if raised.value.exit_code == 5:
            assert "rows are in the table and stay" in str(raised.value)
        else:
            # What is there is so little that it was all unpacked to look at the header.
            assert (raised.value.exit_code, name) == (4, "x.csv.zst")
            assert conn.execute("SELECT count(*) FROM t").fetchone() == (0,)
        path.write_bytes(b"\x1f\x8b" + b"nonsense" * 100)
        with pytest.raises(PgscaleError, match="damaged or cut short"):
            _load(database, path, restart=True)


def test_the_login_s_own_settings_hold(database: Database, tmp_path: Path) -> None:
    """What text means, and where triggers find names, is as in the same COPY by psql."""
    conn = database.connect()
    conn.execute(
        "CREATE SCHEMA app; CREATE TABLE app.t (id int, at timestamptz); CREATE TABLE app.seen (n int);"
        "CREATE FUNCTION app.see() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO seen VALUES (NEW.id); RETURN NEW; END $$;"
        "CREATE TRIGGER see BEFORE INSERT ON app.t FOR EACH ROW EXECUTE FUNCTION app.see()"
    )
    for setting in ("search_path = app", "timezone = 'Asia/Kolkata'", "datestyle = 'ISO, DMY'"):
        conn.execute(f"ALTER ROLE {database.owner} IN DATABASE {database.name} SET {setting}".encode())
    path = tmp_path / "x.csv"
    path.write_text("id,at\n1,13/02/2026 05:30\n")
    assert loading.load(database.dsn, "t", str(path)).counts.rows == 1
    assert conn.execute("SELECT at FROM app.t").fetchone() == (dt.datetime(2026, 2, 13, tzinfo=dt.UTC),)
    assert conn.execute("SELECT n FROM app.seen").fetchone() == (1,)


def test_progress_tells_rows_and_bytes(database: Database, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(_csv())
    seen: list[Progress] = []
    result = loading.load(database.dsn, "t", str(path), LoadOptions(part_bytes=9_000), seen.append)
    assert result.counts.rows == 2_000
    assert seen[0].phase == "load"
    assert 0 < seen[0].done < path.stat().st_size == seen[0].total
    assert seen[0].unit == "rows"
    assert seen[-1].phase == "done"


def test_the_notes_of_loads_outlive_the_ledger_of_runs(database: Database, conn: psycopg.Connection[Any]) -> None:
    with open_session(database.dsn, CONTROL) as session, session.transaction():
        ledger.create(session)
        notes.create(session)
    with open_session(database.dsn, CONTROL) as session:
        ledger.drop_if_empty(session)
    found = conn.execute("SELECT to_regclass('pgscale.run'), to_regclass('pgscale.load')::text").fetchone()
    assert found == (None, "pgscale.load")


def test_the_reader_is_ahead_by_a_part(
    database: Database, conn: psycopg.Connection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the server is: what is read lies in memory."""
    path = tmp_path / "x.csv"
    path.write_text(_csv())
    cut, pieces = reading.cut, list[int]()

    def counted(*arguments: Any, **options: Any) -> Iterator[lines.Piece]:
        for piece in cut(*arguments, **options):
            pieces.append(piece.first)
            yield piece

    monkeypatch.setattr(reading, "cut", counted)
    with conn.transaction():
        conn.execute("LOCK TABLE t IN SHARE MODE")
        loader = threading.Thread(target=_load, args=(database, path), kwargs={"workers": 1})
        loader.start()
        waits = "SELECT count(*) FROM pg_locks WHERE relation = 't'::regclass AND NOT granted"
        until = time.monotonic() + 60
        while conn.execute(waits).fetchone() != (1,):
            assert time.monotonic() < until
            time.sleep(0.02)
        assert len(pieces) <= 2
    loader.join()
    assert len(pieces) > 10
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (2_000,)
