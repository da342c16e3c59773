"""Have a file and its name survive a loss of power."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


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
