"""`pgscale load` of streams that differ, pipes that never end, disks that are full, tables that change."""

from __future__ import annotations

import contextlib
import errno
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.errors import PgscaleError, RefusedError, RunFailedError, UsageError
from pgscale.write import loading
from pgscale.write.failures import WriteFailedError
from pgscale.write.loading import LoadedRowError, LoadOptions, LoadResult
from pgscale.write.loading.model import Reject
from pgscale.write.loading.rejects import RejectsFile
from pgscale.write.loading.threads import Reading

pa = pytest.importorskip("pyarrow")


@pytest.fixture
def conn(database) -> Iterator[psycopg.Connection[Any]]:
    with database.connect() as connection:
        # No key: what was loaded twice would be there twice.
        connection.execute("CREATE TABLE t (id smallint, label text)")
        yield connection


def _piped(dsn: str, data: bytes, path: Path, **options: Any) -> LoadResult:
    """Load bytes as they come through a pipe: without a name, and once."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), path.open("wb", buffering=0) as pipe:
            pipe.write(data)

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        return loading.load(dsn, "t", str(path), LoadOptions(**{"workers": 1, **options}))
    finally:
        # What nobody read, so that whoever writes it comes to an end.
        rest = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        while thread.is_alive():
            with contextlib.suppress(BlockingIOError):
                os.read(rest, 1 << 20)
            thread.join(0.01)
        os.close(rest)


def _count(conn: psycopg.Connection[Any]) -> tuple[int, int]:
    found = conn.execute("SELECT count(*), count(DISTINCT id) FROM t").fetchone()
    assert found is not None
    return found


def test_a_finished_load_of_a_pipe_is_known_by_its_bytes(database, conn, tmp_path) -> None:
    """Another input is not taken for it: it would be said to be in the table, and is not."""
    pipe = tmp_path / "pipe"
    one, other = (b"id,label\n" + b"".join(b"%d,x\n" % n for n in range(at, at + 500)) for at in (0, 500))
    assert _piped(database.dsn, one, pipe, part_bytes=1_000).counts.rows == 500
    for data, says in ((other, "differs between"), (one + b"9999,y\n", "goes on after"), (one[:-7], "differs between")):
        with pytest.raises(RefusedError, match=says):
            _piped(database.dsn, data, pipe, resume=True)
    again = _piped(database.dsn, one, pipe, resume=True)
    assert (again.was_complete, again.counts.rows) == (True, 500)
    assert _piped(database.dsn, other, pipe).counts.rows == 500
    # Of several, that one which begins so: also when a later one was killed before its first part.
    names = "table_oid, source, options"
    conn.execute(f"INSERT INTO pgscale.load ({names}) SELECT {names} FROM pgscale.load LIMIT 1".encode())
    for data in (one, other):
        assert _piped(database.dsn, data, pipe, resume=True).was_complete
    assert _count(conn) == (1_000, 1_000)


def _arrow(ids: Sequence[int], chunks: int, *more: int) -> bytes:
    out = io.BytesIO()
    table, rest = (pa.table({"id": pa.array(some, pa.int32()), "label": ["x"] * len(some)}) for some in (ids, more))
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=chunks)
        writer.write_table(rest)
    return out.getvalue()


def test_an_arrow_stream_that_goes_on_is_the_same_one(database, conn, tmp_path) -> None:
    """Cut elsewhere, or with other values, rows would be left out or come twice."""
    pipe = tmp_path / "pipe"
    ids = [*range(900)]
    bad = [*ids[:700], 70_000, *ids[701:]]
    with pytest.raises(LoadedRowError, match="Row 700"):
        _piped(database.dsn, _arrow(bad, 300), pipe, format="arrow")
    assert _count(conn) == (600, 600)
    again: dict[str, Any] = {"format": "arrow", "resume": True}
    for other in (_arrow(ids, 250), _arrow(ids, 350), _arrow([5, *ids[1:]], 300), _arrow(ids[:300], 300)):
        with pytest.raises(RefusedError, match="not what the load began with"):
            _piped(database.dsn, other, pipe, **again)
    with pytest.raises(PgscaleError, match="damaged or cut short"):
        _piped(database.dsn, _arrow(ids, 300)[:-500], pipe, **again)
    assert _count(conn)[0] == _count(conn)[1] == 600
    assert _piped(database.dsn, _arrow(ids, 300), pipe, **again).counts.rows == 900
    assert _piped(database.dsn, _arrow(ids, 300), pipe, **again).was_complete
    with pytest.raises(RefusedError, match="goes on with row 900"):
        _piped(database.dsn, _arrow(ids, 300, 900), pipe, **again)
    assert _count(conn) == (900, 900)


def _start(dsn: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pgscale", "load", "t", "-", *arguments, "--dsn", dsn],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return how it ends while its standard input stays open."""
    try:
        code = process.wait(60)
        assert process.stderr is not None
        return code, process.stderr.read().decode()
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stderr):
            if stream is not None:
                stream.close()


def test_a_bad_line_is_told_though_the_pipe_stays_open(database, conn) -> None:
    process = _start(database.dsn, "--part-size", "10kB")
    assert process.stdin is not None
    process.stdin.write(b"id,label\n" + b"1,x\n" * 20_000 + b"many,x\n" + b"1,x\n" * 4_000)
    process.stdin.flush()
    code, err = _ended(process)
    assert (code, "Line 20,002, column id" in err) == (5, True), err


def test_a_compressed_pipe_can_be_interrupted(database, conn) -> None:
    process = _start(database.dsn, "--part-size", "10kB")
    assert process.stdin is not None
    packed = gzip.compress(b"id,label\n" + b"".join(b"%d,%d\n" % (n % 999, n * n) for n in range(40_000)))
    process.stdin.write(packed[: len(packed) * 9 // 10])
    process.stdin.flush()
    until = time.monotonic() + 60
    while _count(conn)[0] < 33_000:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, err = _ended(process)
    assert (code, "interrupted" in err, "Fatal" in err) == (5, True, False), err


def _reject(part: int, line: int) -> Reject:
    return Reject(first=part, line=line, column=None, sqlstate=None, reason="r" * 100, text=b"x")


def _lines(path: Path) -> list[tuple[int, int]]:
    return [(one["part"], one["line"]) for one in map(json.loads, path.read_text().splitlines())]


def test_rejects_are_there_once_and_whole(tmp_path, monkeypatch) -> None:
    path = tmp_path / "rejects"
    file = RejectsFile(path, (), resumes=False)
    file.add([_reject(0, 1), _reject(0, 2)])
    file.add([_reject(50, 60)])
    # A part that meets a deadlock after it wrote its rejects is tried again.
    file.add([_reject(0, 1), _reject(0, 2)])
    assert sorted(_lines(path)) == [(0, 1), (0, 2), (50, 60)]
    real = os.write

    def half(fd: int, data: Any) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(RunFailedError, match="No space left"):
            file.add([_reject(90, 91)])
    file.add([_reject(120, 121)])
    file.close()
    assert sorted(_lines(path)) == [(0, 1), (0, 2), (50, 60), (120, 121)]


def test_a_trigger_may_raise_whatever_it_likes(database, conn, tmp_path) -> None:
    conn.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF NEW.id = 77 THEN RAISE 'not you' USING ERRCODE = 'MY001'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    path = tmp_path / "x.csv"
    path.write_text("id,label\n" + "".join(f"{n},x\n" for n in range(200)))
    result = loading.load(database.dsn, "t", str(path), LoadOptions(rejects=tmp_path / "rejects"))
    assert (result.counts.rows, result.counts.rejected) == (199, 1)
    assert _lines(tmp_path / "rejects") == [(9, 79)]


def test_a_column_that_is_altered_meanwhile_gets_no_garbage(database, conn, tmp_path) -> None:
    from pyarrow import parquet  # noqa: PLC0415 because pyarrow may not be there

    conn.execute("CREATE TABLE b (n bigint)")
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"n": [1, 2, 3]}), path)
    told: list[BaseException] = []

    def work() -> None:
        try:
            loading.load(database.dsn, "b", str(path))
        except WriteFailedError as error:
            told.append(error)

    with database.connect(autocommit=False) as other:
        other.execute("ALTER TABLE b ALTER n TYPE double precision")
        thread = threading.Thread(target=work)
        thread.start()
        _wait_for_blocked(conn, other.info.backend_pid)
        other.commit()
        thread.join(60)
    assert "was given another type" in str(told[0])
    assert conn.execute("SELECT count(*) FROM b").fetchone() == (0,)


def _wait_for_blocked(conn: psycopg.Connection[Any], pid: int) -> None:
    until = time.monotonic() + 60
    query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pg_blocking_pids(pid) = ARRAY[%s::int])"
    while conn.execute(query, [pid]).fetchone() != (True,):
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_file_that_grows_while_it_is_loaded_is_told(database, conn, tmp_path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,label\n" + "".join(f"{n},x\n" for n in range(2_000)))

    def watch(_: object) -> None:
        with path.open("a") as file:
            file.write("1,x\n")

    result = loading.load(database.dsn, "t", str(path), LoadOptions(workers=1, part_bytes=4_000), watch)
    assert any("was changed while it was loaded" in warning for warning in result.warnings)


def test_files_that_cannot_be_unpacked_and_codecs_that_are_none(database, conn, tmp_path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("x.csv", "id,label\n1,x\n")
    locked = bytearray(out.getvalue())
    locked[6] |= 1  # the bit that says it is encrypted, of both its heads
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    path = tmp_path / "x.csv.zip"
    path.write_bytes(locked)
    with pytest.raises(RefusedError, match=r"cannot be unpacked: .*encrypted"):
        loading.load(database.dsn, "t", str(path))
    for name in ("base64", "rot13", "hex"):
        with pytest.raises(UsageError, match="no encoding"):
            loading.load(database.dsn, "t", str(path), LoadOptions(encoding=name))


def test_a_source_is_closed_once_by_whoever_is_last() -> None:
    closed: list[str] = []
    reading = Reading(lambda: closed.append("at once"))
    with reading.under_way():
        pass
    reading.end()
    assert closed == ["at once"]

    closed.clear()
    reading = Reading(lambda: closed.append("by the reader"))
    with reading.under_way():
        reading.end()
        assert closed == [], "it may wait for a pipe: to close it would be to wait with it"
    assert closed == ["by the reader"]
