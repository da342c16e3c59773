"""What a spool is for, beside its segments."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from pgscale.core.durable import sync_directory, write_all
from pgscale.errors import RefusedError, UsageError
from pgscale.write.buffer.meta import converter
from pgscale.write.buffer.model import Target

FORMAT = 2
FILE = "buffer.json"
LEAST_SEGMENT_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolOptions:
    """How a spool uses its disk.

    Args:
        segment_bytes: of a file; a row must be smaller. Room is taken and given back in such steps.
        max_bytes: most that the files may take together; a put that would need more waits. None: all the disk has.
        keep_s: how long files stay after their events are landed, for `replay` and for a database that is restored
            from a backup.
    """

    segment_bytes: int = 32 << 20
    max_bytes: int | None = None
    keep_s: float = 0.0

    def __post_init__(self) -> None:
        if not LEAST_SEGMENT_BYTES <= self.segment_bytes < 1 << 31:
            raise UsageError(f"segment_bytes is {self.segment_bytes}; it is between 64 kB and 2 GB.")
        if self.max_bytes is not None and self.max_bytes < 2 * self.segment_bytes:
            raise UsageError(f"max_bytes is {self.max_bytes}; at least two segments must fit.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """The file buffer.json."""

    format: int
    buffer: uuid.UUID
    target: Target
    options: SpoolOptions


def read_meta(directory: Path) -> Meta | None:
    """Return what a directory's spool is for; None when there is none in it.

    Raises:
        RefusedError: it is of another version of pgscale, or no meta file of ours.
    """
    path = directory / FILE
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        data = None
    if not isinstance(data, dict) or data.get("format") != FORMAT:  # pyright: ignore[reportUnknownMemberType] because it is any JSON
        raise RefusedError(f"{path} is not of a buffer that this version of pgscale knows.")
    return converter().structure(data, Meta)


def write_meta(directory: Path, meta: Meta) -> None:
    """Write it, whole and durable or not at all."""
    path = directory / FILE
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, json.dumps(converter().unstructure(meta), indent=2).encode() + b"\n", 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    temporary.rename(path)
    sync_directory(directory)
    sync_directory(directory.parent)
