"""The spool among copies of itself, clocks that go back, forks, and systems that run out of things."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.errors import RefusedError
from pgscale.write.buffer import (
    Buffer,
    BufferDamagedError,
    BufferFailedError,
    BufferFullError,
    Drainer,
    SpoolLog,
    SpoolOptions,
)
from pgscale.write.buffer.model import Target
from pgscale.write.buffer.spool import log as spool_log
from pgscale.write.buffer.spool import reading
from pgscale.write.buffer.spool.segments import path_of
from pgscale.write.buffer.spool.state import SharedEnd
from pgscale.write.buffer.status import rewind, status
from support.power import SMALL, open_small, read_all


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def conn(database) -> Iterator[psycopg.Connection[Any]]:
    with database.connect() as connection:
        connection.execute("CREATE TABLE event (n integer, k integer, note text, seq bigserial)")
        yield connection


def _put(spool: Path, numbers: range) -> None:
    with open_small(spool) as buffer:
        buffer.put_many({"n": n, "k": n} for n in numbers)


def _landed(conn: psycopg.Connection[Any]) -> list[int]:
    return [n for (n,) in conn.execute("SELECT n FROM event ORDER BY n")]


def test_a_directory_that_is_put_back_from_a_copy_loses_no_new_events(conn, spool) -> None:
    """Its next segment has the number of one that is landed: new events must not be taken for landed ones."""
    _put(spool, range(100))
    copy = spool.with_name("copy")
    shutil.copytree(spool, copy)
    with open_small(spool) as buffer, SpoolLog(spool) as log:
        buffer.put_many({"n": n, "k": n} for n in range(100, 200))
        drainer = Drainer(log)
        while drainer.drain_once(conn).events:
            pass
    shutil.rmtree(spool)
    copy.rename(spool)
    between = time.time()
    for numbers in (range(1_000, 1_050), range(1_050, 1_300)):
        # Fewer than were landed, and more.
        with SpoolLog(spool) as log, pytest.raises(BufferDamagedError, match="not the one that was drained"):
            Drainer(log).drain_once(conn)
        _put(spool, numbers)
    assert _landed(conn) == [*range(200)]
    with SpoolLog(spool) as log:
        assert any("not the one" in note for note in status(log, conn).notes)
        rewind(log, conn, between)
        drainer = Drainer(log)
        while drainer.drain_once(conn).events:
            pass
        assert status(log, conn).notes == ()
    assert _landed(conn) == [*range(200), *range(1_000, 1_300)]


def test_files_of_a_clock_that_was_ahead_are_removed(conn, spool) -> None:
    """One that stays keeps all after it, and a buffer with max_bytes would be full for as long."""
    _put(spool, range(5_000))
    numbers = reading.list_numbers(spool)
    assert len(numbers) > 2
    ahead = time.time() + 10**7
    os.utime(path_of(spool, 1), (ahead, ahead))
    with SpoolLog(spool, options=SpoolOptions(segment_bytes=1 << 16, keep_s=3600)) as log:
        while Drainer(log).drain_once(conn).events:
            pass
        assert reading.list_numbers(spool) == numbers, "kept"
        assert path_of(spool, 1).stat().st_mtime < time.time() + 60, "and young from now on"
        os.utime(path_of(spool, 1), (ahead, ahead))
    with SpoolLog(spool, options=SMALL) as log:
        Drainer(log).drain_once(conn)
    assert reading.list_numbers(spool) == numbers[-1:]


def test_damage_costs_one_look_at_the_rest(spool, monkeypatch) -> None:
    with Buffer("public.event", path=spool) as buffer:
        for n in range(300):
            buffer.log.append([buffer._encoder.encode({"n": n})], 0)
    segment = path_of(spool, 1)
    data = bytearray(segment.read_bytes())
    data[200] ^= 1
    segment.write_bytes(data)
    read, real = [], os.pread

    def counting(fd: int, size: int, offset: int) -> bytes:
        read.append(len(found := real(fd, size, offset)))
        return found

    monkeypatch.setattr(os, "pread", counting)
    with SpoolLog(spool) as log:
        assert any("damaged" in note for note in log.backlog({}).notes)
    assert sum(read) < 20 * len(data)


def test_names_of_directories_are_durable(tmp_path, monkeypatch) -> None:
    synced, real = [], os.fsync

    def noting(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())
        real(fd)

    monkeypatch.setattr(os, "fsync", noting)
    _put(tmp_path / "a" / "b" / "c", range(1))
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"} <= set(synced)


def test_a_spool_goes_by_its_own_segments(spool) -> None:
    """Who opens it without options may not make groups that fit into no segment."""
    _put(spool, range(1))
    with Buffer("public.event", path=spool, key="k", lanes=4) as buffer:
        buffer.put_many({"n": n, "k": 1, "note": "x" * 1_000} for n in range(1, 300))
    assert read_all(spool) == [*range(300)]


def test_the_end_of_the_log_has_its_room_on_the_disk(tmp_path) -> None:
    """A page that the disk has no room for would kill the process by a signal."""
    end = SharedEnd(tmp_path / "end")
    assert (tmp_path / "end").stat().st_blocks > 0
    end.close()


def test_running_out_of_files_is_told_and_over_when_it_is_over(spool, monkeypatch) -> None:
    with open_small(spool) as buffer:
        buffer.put({"n": 0, "k": 0})
        log: Any = buffer.log
        log._end.write(log._end.read()._replace(offset=0))  # the next put needs another segment

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        with monkeypatch.context() as patch:
            patch.setattr(spool_log, "Segment", fail)
            for _ in range(2):
                with pytest.raises(BufferFailedError, match=r"Too many open files\. Nothing of the call was stored"):
                    buffer.put({"n": 1, "k": 0})
        buffer.put({"n": 2, "k": 0})
    assert read_all(spool) == [0, 2]


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_write_that_fails_halfway_is_written_over(spool, monkeypatch, code: int) -> None:
    """It is for its group alone: what comes after it stands where it would have stood."""

    def half(fd: int, data: bytes, offset: int) -> None:
        os.pwrite(fd, data[: len(data) // 2], offset)
        raise OSError(code, os.strerror(code))

    with open_small(spool) as buffer:
        buffer.put({"n": 0, "k": 0})
        with monkeypatch.context() as patch:
            patch.setattr(spool_log, "write_all", half)
            with pytest.raises((BufferFailedError, BufferFullError), match="Nothing of the call was stored"):
                buffer.put_many({"n": 1, "k": 0, "note": "x" * 200} for _ in range(9))
        buffer.put({"n": 2, "k": 0})
        with SpoolLog(spool) as log:
            assert log.backlog({}).notes == ()
    assert read_all(spool) == [0, 2]


def _opens(spool: Path) -> bool:
    """Tell whether another process can open the spool; it is killed when it cannot."""
    process = multiprocessing.get_context("spawn").Process(target=_open, args=(spool,))
    process.start()
    process.join(30)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    return process.exitcode == 0


def _open(spool: Path) -> None:
    SpoolLog(spool).close()


def test_an_idle_child_holds_no_lock_of_its_parents(spool) -> None:
    """Its parent closes the spool, or dies while it appends: others go on, and so does the child."""
    buffer = open_small(spool)
    buffer.put({"n": 0, "k": 1})
    led = buffer._commit
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(there)
            log: Any = buffer.log
            is_new = buffer._commit is not led and log._open_fd == log._append_fd == -1
            os.read(here, 1)
            signal.alarm(30)
            buffer.put({"n": 1, "k": 1})
            buffer.close()
        except BaseException:  # noqa: BLE001 because a child must never come back into pytest
            os._exit(1)
        os._exit(0 if is_new else 2)
    os.close(here)
    buffer.close()
    can_open = _opens(spool)
    os.close(there)
    code = os.waitpid(child, 0)[1]
    assert can_open
    assert code == 0
    assert read_all(spool) == [0, 1]


def test_a_batch_has_not_too_many_bytes(spool, monkeypatch) -> None:
    monkeypatch.setattr(reading, "MOST_BATCH_BYTES", 10_000)
    with open_small(spool) as buffer:
        buffer.put_many({"n": n, "k": n, "note": "x" * 1_000} for n in range(100))
        with SpoolLog(spool) as log:
            assert len(log.read(dict.fromkeys(range(4), log.first_position()), 1_000)) == 10
            assert len(log.read({0: log.first_position()}, 1_000)) == 10
        assert read_all(spool) == [*range(100)]


def test_what_is_wrong_with_a_directory_is_no_traceback(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RefusedError, match="cannot be opened: File exists"):
        SpoolLog(tmp_path / "file" / "spool", Target(table="public.event"))


def test_threads_of_one_process_may_open_it_at_once(spool) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            options = SpoolOptions(segment_bytes=(1 << 16) + 4096 * (number % 2))
            with open_small(spool, options=options) as buffer:
                buffer.put({"n": number, "k": 1})
        except BaseException as error:  # noqa: BLE001 because it is told of below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(read_all(spool)) == [*range(12)]
