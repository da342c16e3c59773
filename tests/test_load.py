"""`pgscale load`: every format and compression, lines that do not fit, and what is asked wrongly."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import gzip
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgscale.cli import load, main
from pgscale.connect.session import CONTROL, open_session
from pgscale.core.model import Progress
from pgscale.demo.flights import FLIGHTS_ROWS, find_flights
from pgscale.errors import PgscaleError, RefusedError, UsageError
from pgscale.ledger import store as ledger
from pgscale.write import loading
from pgscale.write.loading import LoadedRowError, LoadOptions, LoadResult
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


# -- what is asked wrongly -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrong:
    """A command line that must be declined."""

    name: str
    arguments: tuple[str, ...]
    exit_code: int
    says: str
    data: bytes | None = b"id,label\n1,x\n"


WRONG = [
    Wrong("no such file", ("t", "nowhere.csv"), 2, "no file nowhere.csv", None),
    Wrong("a directory", ("t", "."), 2, "is a directory", None),
    Wrong("empty", ("t", "FILE"), 4, "is empty: there is not even a header", b""),
    Wrong("an empty header", ("t", "FILE"), 4, "first line .* is empty", b"\n1,x\n"),
    Wrong("no such table", ("nothing", "FILE"), 4, "no table nothing"),
    Wrong("a sequence", ("s", "FILE"), 4, "takes no rows"),
    Wrong("unknown column", ("t", "FILE"), 4, r"no column 'lable' \(there is label\)", b"id,lable\n1,x\n"),
    Wrong("a column twice", ("t", "FILE"), 4, "id comes twice", b"id,id\n1,1\n"),
    Wrong("a generated column", ("t", "FILE"), 4, "made is generated", b"id,made\n1,1\n"),
    Wrong("no header after all", ("t", "FILE"), 4, "--no-header", b"1,x\n2,y\n"),
    Wrong("another encoding in the header", ("t", "FILE"), 4, "--encoding", b"id,lab\xe9l\n1,x\n"),
    Wrong("utf-16", ("t", "FILE"), 4, "--encoding utf-16", "id,label\n1,x\n".encode("utf-16")),
    Wrong("an unknown encoding", ("t", "FILE", "--encoding", "klingon"), 2, "klingon"),
    Wrong("an unknown format", ("t", "FILE", "--format", "xls"), 2, "xls"),
    Wrong("a delimiter of two", ("t", "FILE", "--delimiter", ";;"), 2, "delimiter"),
    Wrong("one character for all", ("t", "FILE", "--delimiter", '"'), 2, "same"),
    Wrong("too few columns named", ("t", "FILE", "--columns", "id"), 4, "2 columns"),
    Wrong("no workers", ("t", "FILE", "--workers", "0"), 2, "workers"),
    Wrong("a rule without a key", ("t", "FILE", "--rule", "label=keep"), 2, "--upsert"),
    Wrong("no such rule", ("t", "FILE", "--upsert", "id", "--rule", "label=double"), 2, "double"),
    Wrong("no such key", ("t", "FILE", "--upsert", "label"), 4, "no unique key of label"),
    Wrong("the key is not in the file", ("t", "FILE", "--upsert", "id"), 2, "no column id", b"label\nx\n"),
    Wrong("nothing to go on with", ("t", "FILE", "--resume"), 4, "no load of .* to go on with"),
    Wrong("both", ("t", "FILE", "--resume", "--restart"), 2, "exclude"),
    Wrong("no parquet", ("t", "FILE", "--format", "parquet"), 4, "cannot be read as parquet"),
    Wrong("no arrow", ("t", "FILE", "--format", "arrow"), 4, "cannot be read as arrow"),
    Wrong("no objects", ("t", "FILE", "--format", "ndjson"), 4, "names no columns"),
    Wrong("rejects into a directory that is not", ("t", "FILE", "--rejects", "no/such/file"), 2, "no/such/file"),
    Wrong(
        "a dead server",
        ("t", "FILE", "--dsn", "host=127.0.0.1 port=1 dbname=x"),
        3,
        r"Cannot connect: (?s:.*)Check host",
    ),
    Wrong("a name that is SQL", ("t; DROP TABLE t", "FILE"), 4, "t; DROP TABLE t"),
    Wrong("a zip of two", ("t", "FILE"), 4, "holds 2 files", None),
]


@pytest.fixture
def prepared(
    database: Database, conn: psycopg.Connection[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn.execute("ALTER TABLE t ADD made integer GENERATED ALWAYS AS (1) STORED; CREATE SEQUENCE s")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGSCALE_DSN", database.dsn)


def _main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    try:
        main(["load", *arguments])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.usefixtures("prepared")
def test_what_is_asked_wrongly_is_declined(
    conn: psycopg.Connection[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in WRONG:
        if wrong.data is not None:
            (tmp_path / "FILE").write_bytes(wrong.data)
        elif "FILE" in wrong.arguments:
            with zipfile.ZipFile(tmp_path / "FILE", "w") as archive:
                archive.writestr("a.csv", "id\n1\n")
                archive.writestr("b.csv", "id\n2\n")
        code, out, err = _main(capsys, *wrong.arguments)
        assert code == wrong.exit_code, (wrong.name, err)
        assert re.search(wrong.says, err), (wrong.name, err)
        assert "Traceback" not in err
        assert len(err.split("\n\n")) <= 2
        assert len(err) < 1_000
        assert not out
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (0,), wrong.name
        row = conn.execute("SELECT to_regclass('pgscale.load') IS NULL").fetchone()
        assert row == (True,) or conn.execute("SELECT count(*) FROM pgscale.load").fetchone() == (0,), wrong.name
    code, out, _ = _main(capsys, "t", "FILE", "--resume", "--json")
    assert (code, json.loads(out)["exit_code"]) == (4, 4)


def test_a_role_without_rights(database: Database, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id\n1\n")
    role = database.create_role("reader")
    conn.execute(sql.SQL("GRANT SELECT ON t TO {}").format(sql.Identifier(role)))
    with pytest.raises(PgscaleError, match="may not insert") as raised:
        loading.load(database.dsn_as(role), "t", str(path))
    assert raised.value.exit_code == 3
    conn.execute(sql.SQL("GRANT INSERT ON t TO {}").format(sql.Identifier(role)))
    with pytest.raises(PgscaleError, match="GRANT CREATE ON DATABASE") as raised:
        loading.load(database.dsn_as(role), "t", str(path))
    assert raised.value.exit_code == 3
    # The tables are there and granted: it needs no more than INSERT on the table.
    loading.load(database.dsn, "t", str(path))
    conn.execute(sql.SQL("GRANT USAGE ON SCHEMA pgscale TO {}").format(sql.Identifier(role)))
    conn.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA pgscale TO {}").format(sql.Identifier(role)))
    path.write_text("id\n2\n")
    assert loading.load(database.dsn_as(role), "t", str(path)).counts.rows == 1


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


def test_the_command_line_offers_every_format() -> None:
    assert set(load.FORMATS) == set(loading.FORMATS)


def test_options_of_the_library_are_checked(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id\n1\n")
    with pytest.raises(UsageError, match="exclude"):
        loading.load(database.dsn, "t", str(path), LoadOptions(resume=True, restart=True))
