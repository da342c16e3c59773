"""A load that was killed, interrupted or cut off goes on with --resume: every row once, every reject once."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.embedded import Server
from pgscale.errors import RefusedError, RunFailedError
from pgscale.write import loading
from pgscale.write.loading import LoadOptions
from support.servers import Database, create_database

ROWS = 60_000
BAD = (7, 11_000, 11_001, 42_000)
POINTS = (
    "load:entered",
    "load:copied",
    "load:copied#4",
    "load:rejected",
    "load:rejected#2",
    "load:marked",
    "load:marked#6",
    "load:committed",
    "load:committed#9",
    "load:ended",
    "load:finished",
)
# After three parts every other one waits for whoever holds the lock: the load can be found in the middle of its work.
GATE = (
    "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " IF (SELECT count(*) FROM pgscale.load_part) >= 3 THEN PERFORM pg_advisory_xact_lock_shared(42); END IF;"
    " RETURN NULL; END $$;"
    "CREATE TRIGGER wait AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION wait();"
    "SELECT pg_advisory_lock(42)"
)


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    # No key: what was loaded twice would be there twice.
    connection.execute("CREATE TABLE t (id bigint, label text)")
    return connection


def _text() -> str:
    # Long enough for parts of 256 kB to be many.
    lines = (f'{"bad" if n in BAD else n},"line {n}\nof {"x" * 40}"' for n in range(ROWS))
    return "id,label\n" + "\n".join(lines) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.csv"
    path.write_text(_text())
    return path


def _start(dsn: str, *arguments: str, kill_at: str = "", stdin: Any = subprocess.DEVNULL) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pgscale", "load", *arguments, "--dsn", dsn],
        env={**os.environ, "PGSCALE_KILL_AT": kill_at},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def _check(conn: psycopg.Connection[Any], rejects: Path | None = None, *, keeps_parts: bool = False) -> None:
    found = conn.execute("SELECT count(*), count(DISTINCT id), sum(id) FROM t").fetchone()
    good = [n for n in range(ROWS) if n not in BAD]
    assert found == (len(good), len(good), sum(good))
    assert conn.execute("SELECT count(*) > 0 FROM pgscale.load_part").fetchone() == (keeps_parts,)
    if rejects is not None:
        told = [json.loads(line) for line in rejects.read_text().splitlines()]
        assert sorted(one["line"] for one in told) == [2 + 2 * n for n in BAD]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("point", POINTS)
def test_killed_at(database: Database, conn: psycopg.Connection[Any], file: Path, tmp_path: Path, point: str) -> None:
    rejects = tmp_path / "rejects"
    arguments = ("t", str(file), "--rejects", str(rejects), "--workers", "2")
    code, _, err = _ended(_start(database.dsn, *arguments, kill_at=point))
    assert code == -signal.SIGKILL, err
    if conn.execute("SELECT count(*) > 0 FROM t").fetchone() == (True,) and point not in (
        "load:finished",
        "load:entered",
    ):
        code, _, err = _ended(_start(database.dsn, *arguments))
        assert code == 4, err
        assert "was not finished" in err
    code, out, err = _ended(_start(database.dsn, *arguments, "--resume", "--json"))
    assert code == 1, err
    assert json.loads(out)["rows"] == ROWS - len(BAD)
    assert json.loads(out)["was_complete"] == (point == "load:finished")
    _check(conn, rejects)
    # Once more changes nothing.
    assert _ended(_start(database.dsn, *arguments, "--resume"))[0] == 1
    _check(conn, rejects)


def _wait(conn: psycopg.Connection[Any], parts: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = conn.execute("SELECT to_regclass('pgscale.load_part') IS NOT NULL").fetchone()
        if found == (True,):
            count = conn.execute("SELECT count(*) FROM pgscale.load_part").fetchone()
            if count is not None and count[0] >= parts:
                return
        time.sleep(0.02)
    raise AssertionError("the load does not begin")


def test_interrupted(database: Database, conn: psycopg.Connection[Any], file: Path, tmp_path: Path) -> None:
    conn.execute(GATE)
    rejects = tmp_path / "rejects"
    arguments = ("t", str(file), "--rejects", str(rejects), "--workers", "2")
    process = _start(database.dsn, *arguments)
    _wait(conn, 3)
    second = _ended(_start(database.dsn, *arguments, "--resume"))
    assert second[0] == 4
    assert "by another process" in second[2]
    process.send_signal(signal.SIGINT)
    code, _, err = _ended(process)
    assert code == 5
    assert "interrupted" in err
    assert "--resume" in err
    assert "Traceback" not in err
    kept = conn.execute("SELECT count(*) FROM t").fetchone()
    assert kept is not None
    assert f"{kept[0]:,} rows" in err
    assert 0 < kept[0] < ROWS - len(BAD)
    conn.execute("DROP TRIGGER wait ON t")
    assert _ended(_start(database.dsn, *arguments, "--resume", "--workers", "1"))[0] == 1
    _check(conn, rejects)


def test_interrupted_while_it_waits_for_more(database: Database, conn: psycopg.Connection[Any]) -> None:
    process = _start(database.dsn, "t", "-", "--part-size", "10kB", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write("id,label\n" + "1,x\n" * 40_000)
    process.stdin.flush()
    _wait(conn, 5)
    process.send_signal(signal.SIGINT)
    # The pipe stays open: nothing but the interrupt ends it.
    assert process.wait(60) == 5
    assert process.stderr is not None
    err = process.stderr.read()
    assert "interrupted" in err
    assert "Fatal" not in err
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream is not None
        stream.close()


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["x.csv.gz", "-"])
def test_streams_are_read_over(database: Database, conn: psycopg.Connection[Any], tmp_path: Path, name: str) -> None:
    """What is in the table already is read again, compared, and not loaded."""
    data = _text().encode()
    path = tmp_path / "given"
    path.write_bytes(gzip.compress(data) if name != "-" else data)
    rejects = tmp_path / "rejects"
    arguments = ("t", "-" if name == "-" else str(path), "--rejects", str(rejects), "--part-size", "200kB")

    def run(*more: str, kill_at: str = "") -> tuple[int, str, str]:
        with path.open("rb") as stdin:
            return _ended(_start(database.dsn, *arguments, *more, kill_at=kill_at, stdin=stdin))

    assert run(kill_at="load:committed#4")[0] == -signal.SIGKILL
    if name == "-":
        whole = path.read_bytes()
        path.write_bytes(whole.replace(b"line 3\n", b"line 4\n"))
        code, _, err = run("--resume")
        assert code == 4
        assert "not what the load began with" in err
        path.write_bytes(whole)
    for _ in range(2):
        assert run("--resume")[0] == 1
        # What came through a pipe has nothing else to be known by.
        _check(conn, rejects, keeps_parts=name == "-")


def test_a_file_that_changed_is_refused(database: Database, conn: psycopg.Connection[Any], file: Path) -> None:
    file.write_text(file.read_text().replace("bad", "5"))
    code, _, err = _ended(_start(database.dsn, "t", str(file), kill_at="load:committed#3"))
    assert code == -signal.SIGKILL, err
    before = conn.execute("SELECT count(*) FROM t").fetchone()
    writers = "SELECT array_agg(DISTINCT xmin::text ORDER BY xmin::text) FROM {}"
    rows, parts = (conn.execute(writers.format(table).encode()).fetchone() for table in ("t", "pgscale.load_part"))
    assert rows == parts, "a part and the note of it are one transaction's"
    with pytest.raises(RefusedError, match="null was ''"):
        loading.load(database.dsn, "t", str(file), LoadOptions(resume=True, null="x"))
    os.utime(file, (1, 1))
    with pytest.raises(RefusedError, match="was changed since"):
        loading.load(database.dsn, "t", str(file), LoadOptions(resume=True))
    assert conn.execute("SELECT count(*) FROM t").fetchone() == before
    conn.execute("TRUNCATE t")
    file.write_text("id\n1\n")
    assert loading.load(database.dsn, "t", str(file), LoadOptions(restart=True)).counts.rows == 1
    assert conn.execute("SELECT count(*) FROM pgscale.load").fetchone() == (1,)
    assert loading.load(database.dsn, "t", str(file), LoadOptions(resume=True)).was_complete
    assert loading.load(database.dsn, "t", str(file)).counts.rows == 1, "a new load is a new load"
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_what_happens_to_the_table_meanwhile(database: Database, conn: psycopg.Connection[Any], file: Path) -> None:
    """Its rows are not ours to judge: a dropped table, a terminated backend end the load, in words, resumable."""
    file.write_text(file.read_text().replace("bad", "5"))
    conn.execute(GATE)

    def fail(act: Callable[[], object]) -> RunFailedError:
        done: list[int] = []

        def watch(_: object) -> None:
            if not done:
                done.append(1)
                act()

        with pytest.raises(RunFailedError) as raised:
            loading.load(database.dsn, "t", str(file), LoadOptions(workers=2, part_bytes=300_000), watch)
        return raised.value

    superuser = database.connect_superuser()
    terminated = fail(
        lambda: superuser.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgscale/load'"
            " AND datname = current_database()"
        )
    )
    assert terminated.exit_code == 5
    assert "--resume" in str(terminated)
    conn.execute("DROP TRIGGER wait ON t")
    result = loading.load(database.dsn, "t", str(file), LoadOptions(resume=True))
    assert result.resumed > 0
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (ROWS,)
    conn.execute("TRUNCATE t")
    conn.execute("SELECT pg_advisory_unlock(42)")
    dropped = fail(lambda: conn.execute("DROP TABLE t"))
    assert 'relation "public.t" does not exist' in str(dropped)
    assert dropped.exit_code == 5


@pytest.mark.sampled(2)
@pytest.mark.parametrize("persistence", ["", "UNLOGGED"])
def test_the_server_dies(private_server: Callable[..., Server], file: Path, persistence: str) -> None:
    server = private_server({"fsync": "on"})
    database = create_database(server)
    with database.connect() as conn:
        conn.execute(f"CREATE {persistence} TABLE t (id bigint, label text)".encode())
        conn.execute(GATE)
        process = _start(database.dsn, "t", str(file), "--workers", "2", "--rejects", str(file.parent / "rejects"))
        _wait(conn, 3)
        server.stop("immediate")
    code, _, err = _ended(process)
    assert code == 5, err
    assert "connection was lost" in err
    assert "Traceback" not in err
    server.start()
    with database.connect() as conn:
        conn.execute("DROP TRIGGER wait ON t")
        again = ("t", str(file), "--rejects", str(file.parent / "rejects"))
        code, _, err = _ended(_start(database.dsn, *again, "--resume"))
        if persistence:
            assert code == 4
            assert "crashed since" in err
            (file.parent / "rejects").unlink(missing_ok=True)
            code, _, err = _ended(_start(database.dsn, *again, "--restart"))
        assert code == 1, err
        _check(conn, file.parent / "rejects")
        if persistence:
            # As another crash would leave them: what was done is undone.
            conn.execute("TRUNCATE t, pgscale.load_witness")
            with pytest.raises(RefusedError, match="crashed since"):
                loading.load(database.dsn, "t", str(file), LoadOptions(resume=True))
    database.drop()


@pytest.mark.soak
def test_killed_again_and_again(database: Database, conn: psycopg.Connection[Any], file: Path, tmp_path: Path) -> None:
    rounds = int(os.environ.get("SOAK_ROUNDS", "20"))
    rng = random.Random(int(os.environ.get("SOAK_SEED", "1")))
    for number in range(rounds):
        conn.execute("TRUNCATE t")
        if _has_load(conn):
            # That of the round before, which ended: a process killed before it has begun leaves it as it is.
            conn.execute("DELETE FROM pgscale.load")
        rejects = tmp_path / f"rejects-{number}"
        arguments = ("t", str(file), "--rejects", str(rejects), "--workers", str(rng.randint(1, 4)))
        options = ("--restart",)
        for _ in range(20):
            process = _start(database.dsn, *arguments, *options)
            try:
                process.wait(rng.uniform(0.3, 1.4))
            except subprocess.TimeoutExpired:
                process.kill()
            code, _, err = _ended(process)
            if code in (0, 1):
                break
            assert code in (-signal.SIGKILL, 4), err
            options = ("--resume",) if _has_load(conn) else ("--restart",)
        else:
            code, _, err = _ended(_start(database.dsn, *arguments, *options))
            assert code == 1, err
        _check(conn, rejects)


def _has_load(conn: psycopg.Connection[Any]) -> bool:
    if conn.execute("SELECT to_regclass('pgscale.load') IS NULL").fetchone() == (True,):
        return False
    # Also one that was killed when it was done, and had yet to say so.
    return conn.execute("SELECT EXISTS (SELECT FROM pgscale.load)").fetchone() == (True,)
