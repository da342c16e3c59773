"""Segment files: made whole and ahead of time, sealed, and read back frame by frame."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from pgscale.core.durable import sync_directory, write_all
from pgscale.write.buffer.model import BufferDamagedError
from pgscale.write.buffer.spool.format import (
    END,
    FRAME_HEAD_BYTES,
    FRAME_MAGIC,
    SEGMENT_HEAD_BYTES,
    TAG_BITS,
    Frame,
    SegmentHead,
    pack_frame,
    pack_segment_head,
    unpack_frame,
    unpack_segment_head,
)

_ZEROS = bytes(1 << 20)
_READ_BYTES = 1 << 20


def path_of(directory: Path, number: int) -> Path:
    return directory / f"{number:010d}.seg"


def list_numbers(directory: Path) -> list[int]:
    """Return the numbers of the segments there are, in order."""
    return sorted(int(path.stem) for path in directory.glob("*.seg") if path.stem.isdigit())


def prepared_path(directory: Path, number: int) -> Path:
    return directory / f"{number:010d}.next"


def prepare(directory: Path, number: int, buffer: bytes, size: int) -> None:
    """Write a segment full of zeros and sync it, under the name that `begin` looks for.

    Its blocks are on disk then, so a sync of what is written to it need not write a word of the file system's own.

    Raises:
        OSError: there is no room, mostly.
    """
    path = directory / f"{number:010d}.{secrets.token_hex(4)}.tmp"
    head = SegmentHead(buffer, number, secrets.randbits(64), time.time_ns() // 1000)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Some file systems and systems cannot; the zeros tell whether there is room.
        with contextlib.suppress(OSError, AttributeError):
            os.posix_fallocate(fd, 0, size)
        at = 0
        while at < size:
            at += os.pwrite(fd, _ZEROS[: min(len(_ZEROS), size - at)], at)
        write_all(fd, pack_segment_head(head), 0)
        os.fsync(fd)
        path.rename(prepared_path(directory, number))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)


def begin(directory: Path, number: int, buffer: bytes, size: int) -> None:
    """Bring a segment into the log: prepared already, or now. It is durable when this returns."""
    ready = prepared_path(directory, number)
    if not ready.exists():
        prepare(directory, number, buffer, size)
    ready.rename(path_of(directory, number))
    sync_directory(directory)


def seal(fd: int, salt: int, offset: int, index: int) -> None:
    """Write the last frame of a segment, sync all of it, and give back the room behind."""
    frame = Frame(0, 0, offset, index, offset, time.time_ns() // 1000, zlib.crc32(b""), END)
    write_all(fd, pack_frame(frame, salt), offset)
    os.ftruncate(fd, frame.after)
    os.fsync(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Bytes of a segment that are no frame though they should be one.

    Args:
        start, end: in bytes; events: how many were there, None when that cannot be told.
        is_torn: nothing in them was ever known to be on disk: it was cut off by a loss of power, in puts that had
            not returned.
    """

    number: int
    start: int
    end: int
    events: int | None
    is_torn: bool

    def __str__(self) -> str:
        events = "an unknown number of events" if self.events is None else f"{self.events} events"
        return f"segment {self.number}, bytes {self.start} to {self.end}: {events}"


class Segment:
    """An open segment.

    Raises:
        BufferDamagedError: its head is not what was written.
    """

    def __init__(self, directory: Path, number: int, buffer: bytes, *, writes: bool = False) -> None:
        self.number = number
        self.path = path_of(directory, number)
        self.fd = os.open(self.path, (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC)
        head = unpack_segment_head(os.pread(self.fd, SEGMENT_HEAD_BYTES, 0))
        if head is None or head.number != number or head.buffer != buffer:
            os.close(self.fd)
            raise BufferDamagedError(
                f"{self.path} is no segment of this buffer: its head is not what was written.",
                consequence="Nothing of it was landed, and nothing after it.",
                hint="Bring the file back, or give its events up with `pgscale buffer drain --skip-damaged`.",
            )
        self.salt = head.salt
        # Never 0, which no segment has.
        self.tag = head.salt & ((1 << TAG_BITS) - 1) or 1
        self.size = os.fstat(self.fd).st_size

    def close(self) -> None:
        os.close(self.fd)

    def frames(self, offset: int, end: int | None = None) -> Generator[tuple[Frame, bytes] | Damage]:
        """Yield the frames from an offset on with their bodies, and what should be frames and is none.

        Args:
            end: how far it is written; None when nobody writes to it any more, and its own last frame says it.
        """
        stop = os.fstat(self.fd).st_size if end is None else end
        index: int | None = None
        data, base = b"", offset
        while offset < stop:
            at = offset - base
            if at + FRAME_HEAD_BYTES > len(data):
                data, base, at = os.pread(self.fd, min(_READ_BYTES, stop - offset), offset), offset, 0
            frame = unpack_frame(data, at, offset, self.salt)
            if frame is not None and at + FRAME_HEAD_BYTES + frame.size > len(data):
                data, base, at = os.pread(self.fd, max(_READ_BYTES, frame.after - offset), offset), offset, 0
            body = b"" if frame is None else data[at + FRAME_HEAD_BYTES : at + FRAME_HEAD_BYTES + frame.size]
            if frame is None or len(body) < frame.size or zlib.crc32(body) != frame.crc:
                damage, offset = self._judge(offset, stop, index, frame, is_closed=end is None)
                if damage is None:
                    return
                yield damage
                index = None
                continue
            if frame.kind == END:
                return
            yield frame, body
            index = frame.first + frame.events
            offset = frame.after

    def _judge(
        self, offset: int, stop: int, index: int | None, bad: Frame | None, *, is_closed: bool
    ) -> tuple[Damage | None, int]:
        """Tell what an offset is where there should be a frame: damage, or the end of what was written.

        Args:
            index: of the event that should come, where it is known; bad: the head, when only the body is wrong.
        """
        rest = os.pread(self.fd, stop - offset, offset)
        after = self._next_frame(rest, offset, offset + 1)
        if after is None and bad is None and is_closed:
            # Behind the last frame of a segment that was not sealed there may be anything.
            return None, stop
        first = index if index is not None else bad.first if bad is not None else None
        if after is not None:
            events = None if first is None else after.first - first
            synced = self._most_synced(rest, offset, after)
        else:
            events = None if bad is None else bad.events
            # Under a writer's end there is nothing torn; behind the last one nobody has vouched for it.
            synced = 0 if is_closed else stop
        end = stop if after is None else after.offset
        if after is None and is_closed and bad is not None and synced <= offset:
            return None, stop
        is_torn = is_closed and synced <= offset
        damage = Damage(number=self.number, start=offset, end=end, events=events, is_torn=is_torn)
        return damage, end

    def _next_frame(self, rest: bytes, base: int, offset: int) -> Frame | None:
        """Return the head of the first frame at or after an offset; `rest` is what stands from `base` on."""
        at = rest.find(FRAME_MAGIC, offset - base)
        while at >= 0:
            frame = unpack_frame(rest, at, base + at, self.salt)
            if frame is not None and frame.after <= base + len(rest):
                return frame
            at = rest.find(FRAME_MAGIC, at + 1)
        return None

    def _most_synced(self, rest: bytes, base: int, frame: Frame) -> int:
        """Return up to where the segment was on disk for certain, as the frames from this one on say."""
        synced = 0
        found: Frame | None = frame
        while found is not None:
            synced = max(synced, found.synced)
            found = self._next_frame(rest, base, found.after)
        return synced


def recover(segment: Segment) -> tuple[str, ...]:
    """Seal a segment that nobody writes to any more; return what was cut off or is damaged.

    What lies behind the last whole frame is cut off: it is of a put that never returned. With damage in the middle the
    segment is left as it is, and whoever reads it says so.
    """
    offset, index = SEGMENT_HEAD_BYTES, 0
    for found in segment.frames(SEGMENT_HEAD_BYTES):
        if isinstance(found, Damage):
            return (f"{'torn' if found.is_torn else 'damaged'}: {found}",)
        offset, index = found[0].after, found[0].first + found[0].events
    rest = os.pread(segment.fd, FRAME_HEAD_BYTES, offset)
    last = unpack_frame(rest, 0, offset, segment.salt)
    if last is not None and last.kind == END:
        return ()
    torn = _torn_bytes(segment, offset)
    seal(segment.fd, segment.salt, offset, index)
    return (f"torn tail: segment {segment.number}, {torn} bytes from byte {offset} on were cut off",) if torn else ()


def _torn_bytes(segment: Segment, offset: int) -> int:
    return len(os.pread(segment.fd, max(0, segment.size - offset), offset).rstrip(b"\0"))
