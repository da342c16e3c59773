"""Have a file and its name survive a loss of power."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

_BLOCK_BYTES = 1024 * 1024


def write_all(fd: int, data: bytes, offset: int) -> None:
    """Write all of the bytes; a signal or a disk that fills up may cut a write short.

    Raises:
        OSError: the rest does not go in.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def sync_data(fd: int) -> None:
    """Have what was written to a file on its disk, and what it takes to find it there."""
    if hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        # macOS: its fsync leaves the data in the disk's own cache.
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)


def sync_directory(directory: Path) -> None:
    """Make names that were added to a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(directory: Path) -> None:
    """Make a directory where there is none, and those above it; each of their names is durable."""
    if directory.is_dir():
        return
    make_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    sync_directory(directory.parent)


def append_lines(path: Path, lines: IO[bytes]) -> None:
    """Add lines to a file; when this returns they are on disk, and when it fails the file is as it was.

    Any number of processes may add to one file: each waits for the others. What a crash has left of a line stays a
    line of its own, for the next one begins on a new line.

    Raises:
        OSError: there is no room, or no such directory.

    Lock: of the file (flock), while it is written.
    """
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        try:
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            shutil.copyfileobj(lines, file, _BLOCK_BYTES)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), end)
            raise
    # Also when it was there before: whoever made it may have died before its name was on disk.
    sync_directory(path.absolute().parent)
