"""A loss of power, without losing it: what was never synced may be there, may be old, and may be half of it.

Every sync that the program makes also copies the file, as it is then, to a shadow; every sync of a directory notes its
names. When the power is cut, each file is put together page by page from its shadow and its present state, at random.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pgscale.write.buffer import Buffer, SpoolLog, SpoolOptions
from pgscale.write.buffer.records import RecordDecoder

T = TypeVar("T")
PAGE = 4096
SMALL = SpoolOptions(segment_bytes=1 << 16)


class PowerCut:
    """Watches the syncs of a directory's files.

    Args:
        directory: whose files are watched.
        patch: undoes it after the test.
    """

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.is_off = False
        self._lock = threading.Lock()
        self._shadows: dict[int, bytes] = {}  # by inode, for names change
        self._names: dict[str, int] = {}
        self._real = {"fsync": os.fsync, "fdatasync": os.fdatasync}
        for name in self._real:
            patch.setattr(os, name, self._watching(name))

    def _watching(self, name: str) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            self._real[name](fd)
            path = Path(f"/proc/self/fd/{fd}").readlink()
            with self._lock:
                if self.is_off:
                    return
                if path == self.directory:
                    self._names = {p.name: p.stat().st_ino for p in path.iterdir()}
                elif path.parent == self.directory:
                    self._shadows[os.fstat(fd).st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()

        return sync

    def cut(self, into: Path, rng: random.Random, at_once: Callable[[], T]) -> T:
        """Write the directory as it may be found after a loss of power; return what `at_once` says then."""
        with self._lock:
            self.is_off = True
            answer = at_once()
            now = {path.stat().st_ino: path.read_bytes() for path in self.directory.iterdir() if path.is_file()}
            names = dict(self._names)
            # A name that was made since may be there or not.
            for path in self.directory.iterdir():
                if path.is_file() and path.name not in names and rng.random() < 0.5:
                    names[path.name] = path.stat().st_ino
        into.mkdir()
        for name, inode in names.items():
            if inode in now or inode in self._shadows:
                old = self._shadows.get(inode, b"")
                (into / name).write_bytes(_mixed(old, now.get(inode, old), rng))
        return answer


def _mixed(old: bytes, new: bytes, rng: random.Random) -> bytes:
    share = rng.choice((0.0, 0.5, 1.0))
    size = len(new) if rng.random() < share else len(old)
    pages: list[bytes] = []
    for at in range(0, size, PAGE):
        source = new if rng.random() < share else old
        pages.append(source[at : at + PAGE].ljust(min(PAGE, size - at), b"\0"))
    return b"".join(pages)


def open_small(spool: Path, **options: Any) -> Buffer:
    return Buffer("public.event", path=spool, key="k", lanes=4, **{"options": SMALL, "timeout_s": 0.2, **options})


def read_all(spool: Path, positions: dict[int, int] | None = None, *, skips: bool = False) -> list[int]:
    """All events of a spool, by their n, and what was noted on the way."""
    decoder, found = RecordDecoder(), []
    with SpoolLog(spool) as log:
        log.skip_damaged(skips)
        positions = positions or dict.fromkeys(range(4), log.first_position())
        while len(batch := log.read(positions, 100)):
            found += [row[0] for row in decoder.decode(batch.shapes, batch.values).rows]
            positions = batch.positions
    return found


def lose_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> int:
    """Cut the power under threads that put; return how many events were lost that nobody was told of."""
    rng = random.Random(seed)
    spool = tmp_path / "spool"
    power = PowerCut(spool, monkeypatch)
    acknowledged: list[int] = []
    attempted: list[int] = []
    with open_small(spool) as buffer:

        def work(thread: int) -> None:
            for n in range(thread * 10_000, thread * 10_000 + 2_000):
                attempted.append(n)
                buffer.put({"n": n, "k": thread, "note": "x" * (n % 300)})
                acknowledged.append(n)
                if power.is_off:
                    return

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while len(acknowledged) < rng.randrange(50, 1_500):
            time.sleep(0.001)
        known = power.cut(tmp_path / "after", rng, lambda: list(acknowledged))
        for thread in threads:
            thread.join()
    found = read_all(tmp_path / "after")
    assert len(found) == len(set(found))
    assert set(known) <= set(found) <= set(attempted)
    for thread in range(4):
        mine = [n for n in found if n // 10_000 == thread]
        assert mine == list(range(thread * 10_000, thread * 10_000 + len(mine)))
    # It goes on from there.
    with open_small(tmp_path / "after") as buffer:
        buffer.put({"n": -1, "k": 0})
    assert read_all(tmp_path / "after") == [*found, -1]
    return len(set(attempted) - set(found))
