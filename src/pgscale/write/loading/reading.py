"""Read what is loaded: its columns, and the parts of it that are not in the table yet."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pgscale.errors import RefusedError
from pgscale.write.destination import encoder_for
from pgscale.write.encoding import Encoder
from pgscale.write.loading import store
from pgscale.write.loading.columnar import ColumnarFile
from pgscale.write.loading.csv_parts import MOST_HEADER_BYTES, CsvPart, first_end, read_header
from pgscale.write.loading.lines import Piece, Style, cut, find_end_marker, find_newline, skip
from pgscale.write.loading.model import Done, LoadOptions, Part
from pgscale.write.loading.ndjson_parts import NdjsonPart, read_keys, writers_for
from pgscale.write.loading.opening import Closable, Input
from pgscale.write.model import Destination

# Servers before 18 end a CSV at a line of a backslash and a point.
NO_MARKER = 180_000


class Source(Protocol):
    """What is loaded, opened.

    Args:
        names: the columns it brings, in its order; empty when it does not say.
        total: how much there is, in the units of `taken`; None when not known.
        binary: its parts are of COPY's binary format.
    """

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def total(self) -> int | None: ...
    def prepare(self, destination: Destination, names: Sequence[str], server_version: int) -> None: ...
    def parts(self, done: Sequence[Done], part_bytes: int) -> Iterator[Part]: ...
    def begins_like(self, done: Sequence[Done]) -> bool | None:
        """Tell whether it begins with the first of these parts, and take nothing; None when that is not known."""
        ...

    def compare(self, done: Sequence[Done]) -> None:
        """Read all of it, and raise RefusedError when it is not, from beginning to end, what these parts were."""
        ...

    def taken(self, landed: int) -> int: ...
    def close(self) -> None: ...


def open_source(given: Input, options: LoadOptions) -> Source:
    """Open what is loaded and read its columns.

    Raises:
        RefusedError: it is empty where it should not be, or damaged.
    """
    return Text(given, options) if given.format in ("csv", "ndjson") else Columnar(given, options)


class Text:
    """CSV and NDJSON: bytes, cut at the ends of records."""

    def __init__(self, given: Input, options: LoadOptions) -> None:
        self._given, self._options = given, options
        opened, self._tell = given.open()
        self._stream = _Ahead(opened)
        self._at, self._line = 0, 1
        self._style = Style()
        if given.format == "csv":
            self._style = Style(quote=options.quote.encode(), escape=(options.escape or "").encode())
        self._make: Callable[[Piece], Part] | None = None
        self.names: tuple[str, ...] = ()
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Read up to the first record."""
        head = self._stream.ahead(65_536)
        if head.startswith(codecs.BOM_UTF8):
            self._take(len(codecs.BOM_UTF8))
            head = head[len(codecs.BOM_UTF8) :]
        if self._style.quote:
            self._style = replace(self._style, newline=find_newline(head, self._style))
        self.names = self._names(head)

    def _names(self, head: bytes) -> tuple[str, ...]:
        options, name = self._options, self._given.name
        if self._given.format == "ndjson":
            is_whole = b"\n" in head.lstrip()
            return options.columns or read_keys(head if is_whole else self._stream.ahead(MOST_HEADER_BYTES), name)
        if not options.header:
            return options.columns
        if not head:
            raise RefusedError(
                f"{name} is empty: there is not even a header.",
                consequence="Nothing was written.",
                hint="--no-header takes an empty file for no rows.",
            )
        # A pipe may give no more for a while: only a first line that is very long is waited for.
        is_whole = first_end(head, self._style) < len(head)
        names, end = read_header(
            head if is_whole else self._stream.ahead(MOST_HEADER_BYTES), self._style, options, name
        )
        if options.columns and len(options.columns) != len(names):
            raise RefusedError(
                f"The header of {name} has {len(names)} columns, and --columns names {len(options.columns)}.",
                consequence="Nothing was written.",
            )
        self._line += self._take(end).count(self._style.newline)
        return options.columns or names

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._stream.read(size)

    @property
    def total(self) -> int | None:
        return self._given.size_bytes

    def prepare(self, destination: Destination, names: Sequence[str], server_version: int) -> None:
        if self._given.format == "ndjson":
            writers = writers_for(destination, names)
            self._make = lambda piece: NdjsonPart(piece=piece, names=tuple(names), writers=writers)
        else:
            stops = server_version < NO_MARKER
            self._make = lambda piece: CsvPart(
                piece=piece,
                names=tuple(names),
                delimiter=self._options.delimiter,
                style=self._style,
                has_marker=stops and find_end_marker(piece.data) is not None,
            )

    def parts(self, done: Sequence[Done], part_bytes: int) -> Iterator[Part]:
        assert self._make is not None, "prepare comes first"
        for piece in self._pieces(done, part_bytes):
            yield self._make(piece)

    def _pieces(self, done: Sequence[Done], part_bytes: int) -> Iterator[Piece]:
        streams = not self._given.is_plain
        known = {part.first: part for part in done}
        for at, line, until in store.gaps(done, self._at, self._line):
            if streams:
                self._skip_done(known, at)
            else:
                self._stream.seek(at)
            yield from cut(self._stream, self._style, part_bytes, at=at, line=line, until=until, with_crc=streams)
            self._at = at if until is None else until

    def _skip_done(self, known: dict[int, Done], until: int) -> None:
        """Read over what is in the table, and see that it is what was loaded.

        Raises:
            RefusedError: it is something else.
        """
        while self._at < until and (part := known.get(self._at)) is not None:
            crc = size = 0
            for block in skip(self._stream, part.end - part.first):
                crc, size = zlib.crc32(block, crc), size + len(block)
            if crc != part.crc or size != part.end - part.first:
                raise RefusedError(
                    f"{self._given.name} is not what the load began with: it differs between the bytes {part.first:,}"
                    f" and {part.end:,}.",
                    consequence="What is in the table stays; nothing was added.",
                    hint="Give the same input, or --restart to load this one from its beginning.",
                )
            self._at = part.end

    def begins_like(self, done: Sequence[Done]) -> bool | None:
        if not done or done[0].first != self._at:
            return None
        data = self._stream.ahead(done[0].end - done[0].first)
        return len(data) == done[0].end - done[0].first and zlib.crc32(data) == done[0].crc

    def compare(self, done: Sequence[Done]) -> None:
        self._skip_done({part.first: part for part in done}, done[-1].end if done else self._at)
        if self._stream.read(1):
            raise RefusedError(
                f"{self._given.name} is not what the load began with: it goes on after byte {self._at:,}.",
                consequence="Nothing was added.",
                hint="Without --resume it is loaded from its beginning.",
            )

    def taken(self, landed: int) -> int:
        return landed if self._given.is_plain else self._tell()

    def close(self) -> None:
        self._stream.close()


class Columnar:
    """Parquet and Arrow: rows, in the groups of the file."""

    def __init__(self, given: Input, options: LoadOptions) -> None:
        self._given = given
        self._file = ColumnarFile(given)
        self._encoder: Encoder | None = None
        if missing := [name for name in options.columns if name not in self._file.names]:
            raise RefusedError(f"{given.name} has no column {', '.join(missing)}.", consequence="Nothing was written.")
        self.names = options.columns or self._file.names

    @property
    def total(self) -> int | None:
        return self._file.rows

    def prepare(self, destination: Destination, names: Sequence[str], server_version: int) -> None:
        del server_version
        self._encoder = encoder_for(destination, names)

    def parts(self, done: Sequence[Done], part_bytes: int) -> Iterator[Part]:
        del part_bytes
        assert self._encoder is not None, "prepare comes first"
        yield from self._file.parts(self._encoder, done)

    def begins_like(self, done: Sequence[Done]) -> bool | None:
        del done
        return None

    def compare(self, done: Sequence[Done]) -> None:
        for part in self.parts(done, 0):
            raise RefusedError(
                f"{self._given.name} is not what the load began with: it goes on with row {part.first:,}.",
                consequence="Nothing was added.",
                hint="Without --resume it is loaded from its beginning.",
            )

    def taken(self, landed: int) -> int:
        return landed

    def close(self) -> None:
        self._file.close()


class _Ahead:
    """A stream that can be looked at before it is read."""

    def __init__(self, stream: Closable) -> None:
        self._stream: Any = stream
        self._ahead = b""

    def ahead(self, size: int) -> bytes:
        while len(self._ahead) < size and (block := self._stream.read(size - len(self._ahead))):
            self._ahead += block
        return self._ahead[:size]

    def read(self, size: int, /) -> bytes:
        if self._ahead:
            given, self._ahead = self._ahead[:size], self._ahead[size:]
            return given
        return self._stream.read(size)

    def seek(self, offset: int) -> None:
        self._ahead = b""
        self._stream.seek(offset)

    def close(self) -> None:
        self._stream.close()
