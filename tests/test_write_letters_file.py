"""Dead letters in a file: on disk before the COMMIT, so that a crash lists a letter twice at worst, and loses none."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import random
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale import write
from pgscale.errors import UsageError
from support.bad_rows import COLUMNS, ZOO, row_of
from support.power import PowerCut
from support.servers import Database


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute(ZOO.encode())
    return connection


def _read(path: Path) -> list[dict[str, Any]]:
    """As a reader would: what is no whole line was never said."""
    found: list[dict[str, Any]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def test_a_file_of_letters(conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    path = tmp_path / "letters.ndjson"
    into = write.DeadLetters(source="night", file=path)
    rows = [row_of(0), row_of(1, pos=0, req="é"), row_of(2, req=b"x")]
    for start in (0, 10):
        assert (
            write.copy(conn, "zoo", [r | {"id": r["id"] + start, "once": None} for r in rows], COLUMNS, into).rows == 1
        )
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(one["source"], one["table_name"], one["row_index"], one["sqlstate"]) for one in lines] == [
        ("night", "public.zoo", 1, "23514"),
        ("night", "public.zoo", 2, None),
    ] * 2
    assert lines[1]["row"]["req"] == {"$": "bytes", "v": "78"}
    assert conn.execute("SELECT to_regclass('pgscale.dead_letter')").fetchone() == (None,)
    with pytest.raises(UsageError, match="cannot be written to"):
        write.copy(conn, "zoo", [row_of(50), row_of(51, pos=0)], COLUMNS, write.DeadLetters(file=tmp_path))
    with pytest.raises(write.TooManyDeadLettersError):
        write.copy(conn, "zoo", [row_of(60, pos=0)], COLUMNS, write.DeadLetters(file=path, most=0))
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4
    assert conn.execute("SELECT count(*) FROM zoo").fetchone() == (3,)


STREAM = """
import sys
import psycopg
from pgscale import write
dsn, file, first = sys.argv[1:]
rows = [(n, -1 if n % 100 == 7 else 1) for n in range(int(first), 1500)]
with psycopg.connect(dsn, autocommit=True) as conn:
    write.stream(conn, "t", rows, queue_rows=500, target_commit_s=30,
                 dead_letters=write.DeadLetters(source="night", file=file))
"""


def test_a_process_that_is_killed_loses_no_letter(database: Database, tmp_path: Path) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE t (id integer, n integer CHECK (n > 0))")
    path = tmp_path / "letters"

    def run(first: int, kill_at: str = "") -> int:
        done = subprocess.run(
            [sys.executable, "-c", STREAM, database.dsn, str(path), str(first)],
            env={**os.environ, "PGSCALE_KILL_AT": kill_at, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == (-9 if kill_at else 0), done.stderr
        count = conn.execute("SELECT count(*) FROM t").fetchone()
        assert count is not None
        return count[0]

    bad = [n for n in range(1_500) if n % 100 == 7]
    # The second batch is killed between its letters and its COMMIT.
    assert run(0, "letters:filed#2") == 495
    assert [one["row"]["id"] for one in _read(path)] == bad[:10]
    # Of the last line only half is on the disk.
    path.write_bytes(path.read_bytes()[:-30])
    assert run(500) == 1_485
    letters = _read(path)
    assert [one["row"]["id"] for one in letters] == [*bad[:9], *bad[5:]]
    # The same letter has the same id, and letters of one call are told from those of another.
    assert sorted({one["id"]: one["row"]["id"] for one in letters}.values()) == bad
    assert [len({one["call"] for one in part}) for part in (letters[:9], letters[9:], letters)] == [1, 1, 2]
    assert conn.execute("SELECT count(DISTINCT id) FROM t").fetchone() == (1_485,)


def test_a_loss_of_power_takes_no_letter(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was never synced may be gone, the file's name as well as its lines."""
    conn = database.connect()
    conn.execute("CREATE TABLE t (n integer)")
    for number in range(4):
        where = tmp_path / f"{number}"
        where.mkdir()
        into = write.DeadLetters(file=where / "letters")
        with monkeypatch.context() as patch:
            power = PowerCut(where, patch)
            for _ in range(2):
                write.copy(conn, "t", [(n, n % 2) for n in range(5)] + [(n,) for n in range(20)], ["n"], into)
            after = tmp_path / f"{number} after"
            power.cut(after, random.Random(number), lambda: None)
        assert len(_read(after / "letters")) == 10


def test_writers_wait_for_one_another(database: Database, tmp_path: Path) -> None:
    """A line is never in the middle of another one."""
    path = tmp_path / "letters"
    rows = [(1,), ("x",)]

    async def run() -> write.CopyResult:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as mine:
            return await write.acopy(mine, "t", rows, ["n"], write.DeadLetters(file=path))

    database.connect().execute("CREATE TABLE t (n integer)")
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: asyncio.run(run()))
        thread.start()
        thread.join(0.3)
        other.write(b'{"of": "another"}\n{"ha')
        other.flush()
        assert thread.is_alive()
        fcntl.flock(other, fcntl.LOCK_UN)
        thread.join(60)
    lines = path.read_text().splitlines()
    assert lines[:2] == ['{"of": "another"}', '{"ha']
    assert json.loads(lines[2])["row"] == {"n": "x"}


def test_a_full_disk_leaves_the_file_as_it_was(database: Database, tmp_path: Path) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE t (n integer)")
    path = tmp_path / "letters"
    path.write_bytes(b'{"n": 1}\n{"cut')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"cannot be written to .*letters: File too large\. Nothing of this call"):
            write.copy(conn, "t", [(1,), *(("x" * 1_000,) for _ in range(500))], ["n"], write.DeadLetters(file=path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b'{"n": 1}\n{"cut'
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (0,)
