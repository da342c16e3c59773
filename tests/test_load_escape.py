"""`pgscale load --escape`: COPY's ESCAPE for CSV, in files that are cut into parts and in streams that are not."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from psycopg import sql

from pgscale.errors import RefusedError
from pgscale.write import loading
from pgscale.write.loading import LoadedRowError, LoadOptions
from support.cli import pgscale
from support.servers import Database

ODD = 'say "x"\\'


def _quoted(text: str, quote: str, escape: str) -> str:
    return quote + text.replace(escape, escape * 2).replace(quote, escape + quote) + quote


def _labels(quote: str, escape: str, count: int) -> list[str]:
    """Texts of what may be mistaken for the end of a field, a record or a part."""
    rng = random.Random(7)
    pieces = (quote, escape, escape + quote, escape * 2, "\n", ",", f"{quote}\n", f"{escape}\n", "x", "é", f",{quote}")
    return ["".join(rng.choices(pieces, k=rng.randrange(9))) for _ in range(count)]


@pytest.mark.versions(15, 18)
@pytest.mark.parametrize(("quote", "escape"), [('"', "\\"), ("'", "%"), ("^", "]")])
def test_records_are_found_whatever_is_escaped(
    database: Database, tmp_path: Path, pg_version: int, quote: str, escape: str
) -> None:
    conn = database.connect()
    conn.execute(sql.SQL("CREATE TABLE t (id bigint PRIMARY KEY, {} text)").format(sql.Identifier(ODD)))
    labels = _labels(quote, escape, 600)
    lines = [f"{n},{_quoted(label, quote, escape)}\n" for n, label in enumerate(labels)]
    # Outside of quotes the escape is as any other character.
    lines[5] = f"5,{escape}x{escape}\n"
    labels[5] = f"{escape}x{escape}"
    text = f"id,{_quoted(ODD, quote, escape)}\n" + "".join(lines)
    path = tmp_path / "x.csv"
    for data in (text.encode(), gzip.compress(text.encode())):
        path.write_bytes(data)
        conn.execute("TRUNCATE t")
        options = LoadOptions(quote=quote, escape=escape, part_bytes=100, workers=2)
        result = loading.load(database.dsn, "t", str(path), options)
        assert result.parts > 40
        assert conn.execute("SELECT * FROM t ORDER BY id").fetchall() == list(enumerate(labels))

    # Lines that do not fit are found in parts that have escapes, too.
    bad = [3, 77, 78, 401, 599]
    for number in bad:
        lines[number] = f"x{lines[number]}"
    text = f"id,{_quoted(ODD, quote, escape)}\n" + "".join(lines)
    path.write_text(text)
    conn.execute("TRUNCATE t")
    options = LoadOptions(quote=quote, escape=escape, part_bytes=2_000, rejects=tmp_path / "rejects", restart=True)
    assert loading.load(database.dsn, "t", str(path), options).counts.rejected == len(bad)
    told = sorted(
        (json.loads(line) for line in (tmp_path / "rejects").read_bytes().splitlines()), key=lambda r: r["line"]
    )
    assert [one["text"] + "\n" for one in told] == [lines[n] for n in bad]
    starts = [1 + text[: text.index(lines[n])].count("\n") for n in bad]
    assert [one["line"] for one in told] == starts


def test_the_command_line_takes_it(database: Database, tmp_path: Path) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE t (id integer, label text)")
    path = tmp_path / "x.csv"
    path.write_text('id,label\n1,"say \\"x\\""\n2,"two\\\\"\n')
    done = pgscale("load", "t", str(path), "--escape", "\\", "--dsn", database.dsn)
    assert done.exit_code == 0, done.err
    assert conn.execute("SELECT * FROM t ORDER BY id").fetchall() == [(1, 'say "x"'), (2, "two\\")]
    for wrong in ("", "ab", "é", "\n"):
        done = pgscale("load", "t", str(path), "--escape", wrong, "--dsn", database.dsn)
        assert (done.exit_code, "--escape is one character of ASCII" in done.err) == (2, True), done.err
    # The quote itself is what it is without it; and a load goes on with what it began with.
    path.write_text("id,label\n" + '1,"a ""b"""\n' * 40 + "x,y\n")
    with pytest.raises(LoadedRowError):
        loading.load(database.dsn, "t", str(path), LoadOptions(escape='"', part_bytes=100))
    with pytest.raises(RefusedError, match="escape was None"):
        loading.load(database.dsn, "t", str(path), LoadOptions(escape="\\", resume=True))
    with pytest.raises(LoadedRowError):
        loading.load(database.dsn, "t", str(path), LoadOptions(resume=True))
