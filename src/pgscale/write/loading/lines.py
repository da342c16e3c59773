"""Cut a stream of CSV or NDJSON into parts at the ends of records. Pure but for reading the stream.

The server toggles "in quotes" at every quote character of a CSV, well-formed or not (CopyReadLineText), when quote
and escape are the same. So the number of quotes before a line's end tells whether it ends a record, and cutting by it
is exact; counting a byte is what a processor does fastest. Another escape character takes itself or a quote with it,
but only in quotes; where there is none of it in a piece, counting will do.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, zip_longest
from typing import Protocol

from pgscale.errors import RefusedError

# A field is at most 1 GB on the server; long before that a quote that is never closed is what it is.
MOST_RECORD_BYTES = 256 * 1024 * 1024
# The server is at work on it while the next one is read.
FIRST_BYTES = 1024 * 1024
# A whole part would keep the other threads waiting for milliseconds, the one that sends among them.
_TURN_BYTES = 1024 * 1024
# It begins with the backslash, which is found at the speed of memory.
_END_OF_DATA = re.compile(rb"\\\.(?:[\r\n]|\Z)")


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How records end. Without a quote character every line is a record.

    Args:
        escape: takes away what a quote, or another escape, means in quotes; empty where that is the quote itself.
    """

    quote: bytes = b""
    newline: bytes = b"\n"
    escape: bytes = b""


EVERY_LINE = Style()


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Whole records of a stream, with where they stand in it: bytes from 0, lines from 1."""

    first: int
    first_line: int
    lines: int
    data: bytes
    newline: bytes
    crc: int = 0
    # Filled at the first question; nobody asks as long as all goes well.
    _index: list[Index] = field(default_factory=list["Index"])

    @property
    def end(self) -> int:
        return self.first + len(self.data)

    def index(self, style: Style) -> Index:
        if not self._index:
            self._index.append(index_records(self.data, style))
        return self._index[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceOfFile:
    """What a part made of lines says of its place in the file; how its lines are sent is the format's."""

    piece: Piece

    @property
    def first(self) -> int:
        return self.piece.first

    @property
    def end(self) -> int:
        return self.piece.end

    @property
    def first_line(self) -> int:
        return self.piece.first_line

    @property
    def lines(self) -> int:
        return self.piece.lines

    @property
    def crc(self) -> int:
        return self.piece.crc


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Where the records of a piece begin and end, and the number of each one's last line, from 1."""

    starts: list[int]
    ends: list[int]
    last_lines: list[int]


@cache
def _inside(style: Style) -> re.Pattern[bytes]:
    """What is in quotes, up to the quote that ends it, or the end of all."""
    quote, escape = re.escape(style.quote), re.escape(style.escape)
    if not escape:
        return re.compile(rb"[^" + quote + rb"]*+")
    others = rb"[^" + quote + escape + rb"]*+"
    return re.compile(others + rb"(?:" + escape + rb"[" + quote + escape + rb"]?+" + others + rb")*+")


@cache
def _records(style: Style) -> re.Pattern[bytes]:
    """As many whole records as there are."""
    quote = re.escape(style.quote)
    plain = rb"[^" + quote + style.newline + rb"]*+"
    quoted = quote + _inside(style).pattern + quote
    return re.compile(rb"(?:" + plain + rb"(?:" + quoted + plain + rb")*+" + style.newline + rb")*+")


def find_newline(head: bytes, style: Style) -> bytes:
    r"""Return how the first record ends: \n (of \r\n too), or \r alone; \n when nothing tells."""
    ends = re.compile(rb"[\r\n]" + (b"|" + re.escape(style.quote) if style.quote else b""))
    at = 0
    while (found := ends.search(head, at)) is not None:
        if found[0] != style.quote:
            return b"\n" if found[0] == b"\n" or head[found.end() : found.end() + 1] in (b"\n", b"") else b"\r"
        at = _end_of_quotes(head, found.end(), len(head), style) + 1
    return b"\n"


def _end_of_quotes(data: bytes, start: int, end: int, style: Style) -> int:
    """Return where the quote is that ends what begins in quotes; `end` when there is none before it."""
    found = _inside(style).match(data, start, end)
    assert found is not None, "nothing at all is a match, too"
    return found.end()


def _ends_in_quotes(data: bytes, start: int, end: int, style: Style, *, begins_so: bool) -> bool:
    """Tell whether a line, or more of them, ends in quotes."""
    if not style.escape or data.find(style.escape, start, end) < 0:
        return begins_so != bool(data.count(style.quote, start, end) % 2)
    at, in_quotes = start, begins_so
    while True:
        if not in_quotes:
            at = data.find(style.quote, at, end) + 1
            if not at:
                return False
        at = _end_of_quotes(data, at, end, style) + 1
        if at > end:
            return True
        in_quotes = False


def last_boundary(data: bytes, style: Style) -> int:
    """Return where the last whole record ends; 0 when there is none. `data` begins with a record."""
    at = data.rfind(style.newline)
    if not style.quote:
        return at + 1
    if style.escape and style.escape in data:
        return _end_of_records(data, style)
    quotes = count(data, style.quote)
    end = len(data)
    while at >= 0:
        quotes -= data.count(style.quote, at, end)
        if quotes % 2 == 0:
            return at + 1
        end = at
        at = data.rfind(style.newline, 0, at)
    return 0


def _end_of_records(data: bytes, style: Style) -> int:
    """As last_boundary, where quotes may be escaped; other threads have their turn meanwhile."""
    at, size = 0, _TURN_BYTES
    while True:
        found = _records(style).match(data, at, at + size)
        assert found is not None, "no record at all is a match, too"
        if found.end() > at:
            at, size = found.end(), _TURN_BYTES
        elif at + size >= len(data):
            return at
        else:
            size *= 2


def cut(
    stream: Readable,
    style: Style,
    part_bytes: int,
    *,
    at: int = 0,
    line: int = 1,
    head: bytes = b"",
    until: int | None = None,
    with_crc: bool = False,
) -> Iterator[Piece]:
    """Yield the stream's records in pieces of about `part_bytes`, but for the first, which is soon there.

    Args:
        at, line: where the stream stands, which is where a record begins; head: what was read of it already.
        until: where to stop, the beginning of a record too.

    Raises:
        RefusedError: a record is too long to be one.
    """
    rest = head
    wanted = min(part_bytes, FIRST_BYTES)
    while True:
        most = wanted - len(rest)
        if until is not None:
            most = min(most, until - at - len(rest))
        block = read_fully(stream, most) if most > 0 else b""
        is_last = len(block) < most or (until is not None and at + len(rest) + len(block) >= until)
        data = rest + block if rest else block
        end = len(data) if is_last else last_boundary(data, style)
        if end == 0 and not is_last:
            if len(data) > MOST_RECORD_BYTES:
                raise RefusedError(
                    f"The record that begins at line {line} has not ended after {len(data):,} bytes.",
                    consequence="It and what follows cannot be loaded.",
                    hint="A quote that is never closed looks like this; --quote and --escape name other characters.",
                )
            wanted = 2 * max(len(data), part_bytes)
            rest = data
            continue
        wanted = part_bytes
        if end:
            made = data if end == len(data) else data[:end]
            lines = count(made, style.newline) + (not made.endswith(style.newline))
            yield Piece(
                first=at,
                first_line=line,
                lines=lines,
                data=made,
                newline=style.newline,
                crc=zlib.crc32(made) if with_crc else 0,
            )
            at, line = at + end, line + lines
        rest = data[end:]
        if is_last:
            return


def read_fully(stream: Readable, size: int) -> bytes:
    """Return so many bytes, fewer only at the end: a pipe gives what it has."""
    block = stream.read(size)
    if len(block) in (0, size):
        return block
    blocks = [block]
    left = size - len(block)
    while left and (block := stream.read(left)):
        blocks.append(block)
        left -= len(block)
    return b"".join(blocks)


def index_records(data: bytes, style: Style) -> Index:
    """Return where every record of `data` is."""
    lines = data.split(style.newline)
    if not lines[-1]:
        lines.pop()
    ends = list(accumulate(len(line) + 1 for line in lines))
    if ends:
        ends[-1] = len(data)
    numbers = list(range(1, len(lines) + 1))
    # A line in which quotes begin begins a record of several, the one in which they end ends it; as would the data.
    turns = _turns(data, lines, style) if style.quote and style.quote in data else []
    if turns:
        kept: list[int] = []
        at = 0
        for first, last in zip_longest(turns[::2], turns[1::2], fillvalue=len(lines) - 1):
            kept += range(at, first)
            at = last
        kept += range(at, len(lines))
        ends, numbers = [ends[n] for n in kept], [n + 1 for n in kept]
    return Index(starts=[0, *ends[:-1]] if ends else [], ends=ends, last_lines=numbers)


def _turns(data: bytes, lines: Sequence[bytes], style: Style) -> list[int]:
    """Return the lines that end in quotes and began outside, or the other way round."""
    if not style.escape or style.escape not in data:
        return [n for n, line in enumerate(lines) if line.count(style.quote) % 2]
    turns: list[int] = []
    in_quotes = False
    for n, line in enumerate(lines):
        before = in_quotes
        in_quotes = _ends_in_quotes(line, 0, len(line), style, begins_so=before)
        if in_quotes != before:
            turns.append(n)
    return turns


def count(data: bytes, byte: bytes) -> int:
    """Return how often a byte is in data; other threads have their turn meanwhile."""
    return sum(data.count(byte, at, at + _TURN_BYTES) for at in range(0, len(data), _TURN_BYTES))


def find_end_marker(data: bytes) -> int | None:
    r"""Return where a line of `\.` alone is, at which servers before 18 stop reading a CSV without a word."""
    for found in _END_OF_DATA.finditer(data):
        at = found.start()
        if at == 0 or data[at - 1] in b"\r\n":
            return at
    return None


def skip(stream: Readable, size: int) -> Iterable[bytes]:
    """Yield the next `size` bytes of a stream, in blocks."""
    while size > 0 and (block := stream.read(min(size, 1 << 20))):
        size -= len(block)
        yield block
