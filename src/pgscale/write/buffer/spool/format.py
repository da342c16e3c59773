"""The bytes of a segment. Pure.

A segment is a head and then frames, one a group commit; behind the last frame lie zeros, or what a killed writer left
there. A frame stands for itself: its head says where it stands, how many events came before it in the segment and how
many bytes of the segment were known to be on disk when it was written, and has a CRC of its own, salted by the segment;
so nothing but a frame written right there is ever taken for one. The body is records (see `records`), each with its
CRC, and has one as a whole.

A position is the segment's number, its tag and the event's index in it, as one integer. Numbers are never used again,
and so are no positions, whatever a crash or a loss of power takes from the end of a segment. Where a directory is put
back from a copy, numbers are used again all the same, for other events: the tag is a random number of the segment, by
which that is known. A position before the first event of a segment has the tag 0, for it may not be there yet.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

MAGIC = b"pgsSEG01"
_SEGMENT = struct.Struct("<8s16sQQQ")
_CRC = struct.Struct("<I")
SEGMENT_HEAD_BYTES = 64

FRAME_MAGIC = b"pgsF"
_FRAME = struct.Struct("<4sIIQQQQIB3x")
FRAME_HEAD_BYTES = _FRAME.size + _CRC.size

EVENTS, END = 0, 1
INDEX_BITS = TAG_BITS = 32


class SegmentHead(NamedTuple):
    """What a segment says of itself; `created_us` in microseconds since 1970."""

    buffer: bytes
    number: int
    salt: int
    created_us: int


class Frame(NamedTuple):
    """The head of a frame.

    Args:
        size: of its body in bytes; events: how many are in it; first: how many come before it in the segment.
        offset: where it stands; synced: up to where the segment was on disk for certain when it was written.
        kind: EVENTS, or END: nothing comes after it.
    """

    size: int
    events: int
    offset: int
    first: int
    synced: int
    at_us: int
    crc: int
    kind: int

    @property
    def after(self) -> int:
        return self.offset + FRAME_HEAD_BYTES + self.size


def position(number: int, index: int, tag: int = 0) -> int:
    return (number << TAG_BITS | tag) << INDEX_BITS | index


def number_of(position: int) -> int:
    return position >> TAG_BITS + INDEX_BITS


def tag_of(position: int) -> int:
    return position >> INDEX_BITS & ((1 << TAG_BITS) - 1)


def index_of(position: int) -> int:
    return position & ((1 << INDEX_BITS) - 1)


def pack_segment_head(head: SegmentHead) -> bytes:
    packed = _SEGMENT.pack(MAGIC, *head)
    return (packed + _CRC.pack(zlib.crc32(packed))).ljust(SEGMENT_HEAD_BYTES, b"\0")


def unpack_segment_head(data: bytes) -> SegmentHead | None:
    """Return the head of a segment; None when the bytes are none."""
    if len(data) < SEGMENT_HEAD_BYTES:
        return None
    magic, *fields = _SEGMENT.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _SEGMENT.size)
    if magic != MAGIC or crc != zlib.crc32(data[: _SEGMENT.size]):
        return None
    return SegmentHead(*fields)


def pack_frame(frame: Frame, salt: int) -> bytes:
    packed = _FRAME.pack(FRAME_MAGIC, *frame)
    return packed + _CRC.pack(zlib.crc32(packed, salt & 0xFFFFFFFF))


def unpack_frame(data: bytes | memoryview, at: int, offset: int, salt: int) -> Frame | None:
    """Return the head of the frame at data[at:], which stands at `offset` of its segment; None when it is none."""
    if at + FRAME_HEAD_BYTES > len(data):
        return None
    magic, *fields = _FRAME.unpack_from(data, at)
    if magic != FRAME_MAGIC:
        return None
    (crc,) = _CRC.unpack_from(data, at + _FRAME.size)
    if crc != zlib.crc32(data[at : at + _FRAME.size], salt & 0xFFFFFFFF):
        return None
    frame = Frame(*fields)
    return frame if frame.offset == offset else None
