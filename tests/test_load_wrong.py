"""`pgscale load` asked wrongly: it is declined, in a few words, before anything is written."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgscale.cli import load, main
from pgscale.errors import PgscaleError, RefusedError, UsageError
from pgscale.write import loading
from pgscale.write.loading import LoadOptions
from support.bouncer import Bouncer
from support.servers import Database


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, label text, score numeric, at timestamptz)")
    connection.execute("SET timezone TO 'UTC'")
    return connection


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


def test_the_command_line_offers_every_format() -> None:
    assert set(load.FORMATS) == set(loading.FORMATS)


def test_options_of_the_library_are_checked(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id\n1\n")
    with pytest.raises(UsageError, match="exclude"):
        loading.load(database.dsn, "t", str(path), LoadOptions(resume=True, restart=True))


def test_a_pooler_by_transaction_is_refused(
    database: Database, conn: psycopg.Connection[Any], bouncer: Callable[..., Bouncer], tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id\n1\n")
    with pytest.raises(RefusedError, match="pooler in transaction mode"):
        loading.load(bouncer(database.dsn, "transaction").dsn, "t", str(path))
    assert conn.execute("SELECT to_regclass('pgscale.load'), count(*) FROM t").fetchone() == (None, 0)
