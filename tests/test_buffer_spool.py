"""The spool: what it survives, what it tells, and when it pushes back."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import shutil
import threading
import time
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
from pgscale.write.buffer.spool import reading
from pgscale.write.buffer.spool.format import FRAME_MAGIC, position
from pgscale.write.buffer.spool.segments import Segment, path_of
from support.power import lose_power, open_small, read_all

MAKE = "CREATE TABLE event (n bigint, k integer, note text, seq bigserial)"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def _fill(spool: Path, events: int) -> bytes:
    """Put events; return the first segment as a producer that is killed leaves it."""
    with open_small(spool) as buffer:
        for n in range(events):
            buffer.put({"n": n, "k": n % 7, "note": "x" * 100})
        first = spool / "0000000001.seg"
        return first.read_bytes() if first.exists() else b""


def _fill_fast(spool: Path, events: int) -> None:
    with open_small(spool) as buffer:
        buffer.put_many({"n": n, "k": n % 7, "note": "x" * 100} for n in range(events))


def _frames(path: Path) -> list[int]:
    data, at, found = path.read_bytes(), 0, []
    while (at := data.find(FRAME_MAGIC, at)) >= 0:
        found.append(at)
        at += 1
    return found


def test_a_torn_tail_is_cut_and_said(spool) -> None:
    whole = _fill(spool, 50)
    segment = spool / "0000000001.seg"
    segment.write_bytes(whole)
    frames = _frames(segment)
    assert len(frames) == 50
    cuts = [(frames[-1] + 30, 49), (frames[-1] + 90, 49), (frames[20], 20), (frames[20] + 1, 20), (64, 0)]
    for cut, left in cuts:
        # As after a loss of power: the tail is cut off, or zeros, or there is something else.
        for tail in (b"", bytes(len(whole) - cut), random.Random(cut).randbytes(500)):
            segment.write_bytes(whole[:cut] + tail)
            (spool / "end").unlink()
            for later in spool.glob("000000000[2-9].*"):
                later.unlink()
            assert read_all(spool) == list(range(left))
            # Who comes next begins a segment of its own, and no position is used twice.
            with open_small(spool) as buffer:
                buffer.put({"n": 1_000, "k": 1})
            assert read_all(spool) == [*range(left), 1_000]
            with SpoolLog(spool) as log:
                tag = Segment(spool, 1, log.buffer.bytes).tag
            assert read_all(spool, dict.fromkeys(range(4), position(1, 49, tag))) == [1_000]


def test_a_torn_tail_is_in_the_backlog(spool) -> None:
    whole = _fill(spool, 10)
    segment = spool / "0000000001.seg"
    segment.write_bytes(whole[: _frames(segment)[9] + 70])
    with SpoolLog(spool) as log:
        backlog = log.backlog({})
    assert backlog.events == 9
    assert "70 bytes" in backlog.notes[0]
    assert backlog.oldest_at is not None
    assert time.time() - 60 < backlog.oldest_at <= time.time()


@pytest.mark.parametrize("where", ["head", "body", "three frames", "last frame", "segment head"])
def test_damage_in_the_middle_is_told_and_never_skipped(database, spool, where: str) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(MAKE)
    _fill(spool, 50)
    segment = spool / "0000000001.seg"
    data = bytearray(segment.read_bytes())
    frames = _frames(segment)
    lost = [20]
    match where:
        case "head":
            data[frames[20] + 10] ^= 1
        case "body":
            data[frames[20] + 100] ^= 1
        case "three frames":
            data[frames[20] : frames[23]] = bytes(frames[23] - frames[20])
            lost = [20, 21, 22]
        case "last frame":
            data[frames[49] + 100] ^= 1
            lost = [49]
        case _:
            data[9] ^= 1
            lost = list(range(50))
    segment.write_bytes(data)
    with open_small(spool) as buffer:
        buffer.put({"n": 50, "k": 0})
    for _ in range(2):
        with SpoolLog(spool) as log, pytest.raises(BufferDamagedError) as told:
            Drainer(log).run(database.dsn, until_empty=True)
        assert "0000000001.seg" in str(told.value) or "segment 1, bytes" in str(told.value)
        assert _landed(database.dsn) == list(range(lost[0]))
    with SpoolLog(spool) as log:
        assert any("damaged" in note or "no segment" in note for note in log.backlog({}).notes)
        log.skip_damaged(True)
        assert Drainer(log).run(database.dsn, until_empty=True).events == 51 - len(lost) - lost[0]
        assert log.notes_of_reading
        if where != "segment head":
            assert f"{len(lost)} events" in log.notes_of_reading[0]
            assert any((spool / "damaged").iterdir())
    assert _landed(database.dsn) == [n for n in range(51) if n not in lost]


def _landed(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as connection:
        return sorted(n for (n,) in connection.execute("SELECT n FROM event"))


def test_what_is_missing_is_told(database, database_factory, spool) -> None:
    for one in (database, other := database_factory()):
        with psycopg.connect(one.dsn, autocommit=True) as connection:
            connection.execute(MAKE)
    copy = spool.with_name("copy")
    _fill(spool, 100)
    shutil.copytree(spool, copy)
    _fill_fast(spool, 1_000)
    with SpoolLog(spool) as log:
        assert Drainer(log).run(database.dsn, until_empty=True).events == 1_100
        assert len(list(spool.glob("*.seg"))) == 1, "what is landed is removed"
        with pytest.raises(BufferDamagedError, match="drained into another database"):
            Drainer(log).run(other.dsn, until_empty=True)
    # An old copy of the directory: new events would get positions that are landed.
    with SpoolLog(copy) as log, pytest.raises(BufferDamagedError, match="old copy"):
        Drainer(log).run(database.dsn, until_empty=True)
    _fill_fast(spool, 2_000)
    numbers = sorted(int(path.stem) for path in spool.glob("*.seg"))
    (spool / f"{numbers[-2]:010d}.seg").unlink()
    with SpoolLog(spool) as log, pytest.raises(BufferDamagedError, match=f"Segment {numbers[-2]} .* is missing"):
        Drainer(log).run(database.dsn, until_empty=True)


def test_a_segment_that_vanishes_under_a_reader_is_missing(spool, monkeypatch) -> None:
    """As when another drainer lands and removes it between the look at the directory and the open."""
    _fill_fast(spool, 2_000)
    numbers = reading.list_numbers(spool)
    path_of(spool, numbers[0]).unlink()
    monkeypatch.setattr(reading, "list_numbers", lambda _: numbers)
    with SpoolLog(spool) as log:
        with pytest.raises(BufferDamagedError, match=f"Segment {numbers[0]} .* is missing"):
            log.read(dict.fromkeys(range(4), position(numbers[0], 0)), 10)
        later = dict.fromkeys(range(4), position(numbers[1], 0))
        assert len(log.read(later, 10)) == 10
        monkeypatch.setattr(os, "pread", lambda *_: _fail(errno.EIO))
        log.reader.close()
        with pytest.raises(BufferFailedError, match="cannot be read"):
            log.has_events(later)


def _fail(code: int) -> None:
    raise OSError(code, os.strerror(code))


def test_a_full_buffer_pushes_back_and_goes_on_when_drained(database, spool) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(MAKE)
    options = SpoolOptions(segment_bytes=1 << 16, max_bytes=3 << 16)
    row = {"k": 1, "note": "x" * 1_000}
    with open_small(spool, options=options) as buffer:
        put = 0

        def put_until_full() -> None:
            nonlocal put
            while True:
                buffer.put({"n": put, **row})
                put += 1

        with pytest.raises(BufferFullError, match="max_bytes") as told:
            put_until_full()
        assert told.value.stored == 0
        assert 100 < put < 200
        with pytest.raises(BufferFullError):
            buffer.put({"n": -1, **row})
        used = sum(path.stat().st_size for path in spool.glob("*.seg"))
        assert used <= 3 << 16
        # One that waits for room gets it when somebody drains.
        buffer.timeout_s = 60
        waiting = threading.Thread(target=lambda: buffer.put({"n": put, **row}))
        waiting.start()
        with SpoolLog(spool) as log:
            drainer = Drainer(log)
            while waiting.is_alive():
                drainer.run(database.dsn, until_empty=True)
            drainer.run(database.dsn, until_empty=True)
        waiting.join()
    assert _landed(database.dsn) == list(range(put + 1))


def _put_with_small_files(spool: Path, pipe: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    with open_small(spool) as buffer:
        try:
            buffer.put({"n": 1, "k": 1})
        except BufferFullError as error:
            pipe.send(str(error))


def test_a_disk_without_room_pushes_back(spool) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_put_with_small_files, args=(spool, there))
    process.start()
    assert here.poll(60)
    assert "no room for more events" in here.recv()
    process.join()
    with open_small(spool) as buffer:
        buffer.put({"n": 2, "k": 1})
    assert read_all(spool) == [2]


def test_a_part_of_a_full_put_many_is_said(spool) -> None:
    options = SpoolOptions(segment_bytes=1 << 16, max_bytes=3 << 16)
    with open_small(spool, options=options) as buffer:
        with pytest.raises(BufferFullError) as told:
            buffer.put_many({"n": n, "k": 1, "note": "x" * 1_000} for n in range(1_000))
        assert 50 < told.value.stored < 200
        assert str(told.value.stored) in str(told.value)
    assert read_all(spool) == list(range(told.value.stored))


def test_a_segment_whose_sync_failed_is_not_used_again(spool, monkeypatch) -> None:
    real, calls = os.fdatasync, []

    def failing(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 3:
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    with open_small(spool) as buffer:
        monkeypatch.setattr(os, "fdatasync", failing)
        buffer.put({"n": 0, "k": 1})
        buffer.put({"n": 1, "k": 1})
        with pytest.raises(BufferFailedError, match="could not be synced"):
            buffer.put({"n": 2, "k": 1})
        buffer.put({"n": 3, "k": 1})
    assert len(list(spool.glob("*.seg"))) == 2
    assert {0, 1, 3} <= set(read_all(spool)) <= {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(6))
def test_a_loss_of_power_takes_nothing_that_was_acknowledged(tmp_path, monkeypatch, seed: int) -> None:
    lose_power(tmp_path, monkeypatch, seed)


def test_a_forked_child_is_a_producer_of_its_own(spool) -> None:
    with open_small(spool) as buffer:
        buffer.put({"n": 0, "k": 1})
        child = os.fork()
        if child == 0:
            try:
                for n in range(1, 300):
                    buffer.put({"n": n, "k": 1})
            except BaseException:  # noqa: BLE001 because a child must never come back into pytest
                os._exit(1)
            os._exit(0)
        for n in range(1_000, 1_300):
            buffer.put({"n": n, "k": 1})
        assert os.waitpid(child, 0)[1] == 0
    found = read_all(spool)
    assert sorted(found) == [*range(300), *range(1_000, 1_300)]
    assert [n for n in found if n < 1_000] == list(range(300))


def test_a_spool_is_for_one_thing(spool, tmp_path) -> None:
    _fill(spool, 1)
    with pytest.raises(RefusedError, match="is for Target"):
        Buffer("public.other", path=spool)
    with pytest.raises(RefusedError, match="no such directory"):
        SpoolLog(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RefusedError, match="There is no buffer in"):
        SpoolLog(tmp_path / "empty")
