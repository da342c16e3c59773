"""Where the log ends, shared by all processes that have it open.

It lies in a mapped file and need not survive a loss of power: whoever opens a log that nobody has open finds its end
by reading it. Two slots are written in turn, each with a CRC: a writer that is killed while it writes leaves the other.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from pgscale.write.buffer.model import BufferDamagedError

_SLOT = struct.Struct("<QQQQ")
_CRC = struct.Struct("<I")
_SLOT_BYTES = 64
_BYTES = 4096
_TRIES = 1000


class End(NamedTuple):
    """The segment that is appended to, how far it is written, and how many events are in it.

    `offset` is 0 when nothing more may be written to it: the next append begins segment number + 1.
    """

    number: int
    offset: int
    events: int


class SharedEnd:
    """Reads without a lock, writes under the lock of whoever appends."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < _BYTES:
                _make_room(fd)
            self._map = mmap.mmap(fd, _BYTES)
        finally:
            os.close(fd)

    def read(self) -> End:
        """Return where the log ends; a slot that is being written just now is read again."""
        for _ in range(_TRIES):
            found = self._newest()
            if found is not None:
                return found[1]
        raise BufferDamagedError(
            "The file `end` of the buffer holds nothing sensible.",
            hint="Stop all that have the buffer open; whoever opens it next finds its end by reading it.",
        )

    def _newest(self) -> tuple[int, End] | None:
        newest: tuple[int, End] | None = None
        for slot in (0, _SLOT_BYTES):
            data = self._map[slot : slot + _SLOT.size + _CRC.size]
            if _CRC.unpack_from(data, _SLOT.size)[0] != zlib.crc32(data[: _SLOT.size]):
                continue
            generation, *fields = _SLOT.unpack_from(data)
            if newest is None or generation > newest[0]:
                newest = generation, End(*fields)
        return newest

    def write(self, end: End) -> None:
        newest = self._newest()
        generation = 1 if newest is None else newest[0] + 1
        packed = _SLOT.pack(generation, *end)
        slot = generation % 2 * _SLOT_BYTES
        self._map[slot : slot + _SLOT.size + _CRC.size] = packed + _CRC.pack(zlib.crc32(packed))

    def close(self) -> None:
        self._map.close()


def _make_room(fd: int) -> None:
    """Give the file its block now: one that the disk has no room for would be a signal at the first write."""
    try:
        os.posix_fallocate(fd, 0, _BYTES)
    except AttributeError:  # macOS
        os.ftruncate(fd, _BYTES)
