"""Parts of Parquet and Arrow files: row groups and record batches, encoded for the table a column at a time."""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from pgscale.errors import RefusedError, UsageError
from pgscale.write.arrow import ArrowRows
from pgscale.write.encoding import SIGNATURE, TRAILER, Encoder
from pgscale.write.loading.model import BadRecordError, Done
from pgscale.write.loading.opening import Closable, Input, damaged
from pgscale.write.model import RowError
from pgscale.write.rows import shape_of

BLOCK_ROWS = 4_096
_SHAPE = shape_of(())


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnarPart:
    """Rows of a file, from `first` to before `end`, counted from 0.

    Args:
        batches: reads them, a record batch at a time.
        crc: of their bytes in a stream; 0 of a file, which is known by its size and time.
    """

    first: int
    end: int
    encoder: Encoder
    batches: Callable[[], Iterable[Any]]
    crc: int = 0
    # Kept from the first question for some of them on, for others will follow; nobody asks as long as all goes well.
    _kept: list[Any] = field(default_factory=list[Any])

    @property
    def first_line(self) -> int:
        return self.first

    @property
    def lines(self) -> int:
        return self.end - self.first

    def count(self) -> int:
        return self.end - self.first

    def payload(self, low: int, high: int | None) -> Iterable[bytes]:
        yield SIGNATURE
        extract = _SHAPE.extractor(self.encoder.names)
        for at, batch in self._between(low, self.count() if high is None else high):
            for start in range(0, batch.num_rows, BLOCK_ROWS):
                rows = ArrowRows(batch.slice(start, BLOCK_ROWS))
                try:
                    yield self.encoder.encode(rows, _SHAPE, extract, at + start)
                except RowError as error:
                    raise BadRecordError(error.row, error.column, error.reason) from None
        yield TRAILER

    def _between(self, low: int, high: int) -> Iterator[tuple[int, Any]]:
        at = 0
        if not self._kept and (low or high < self.count()):
            self._kept.extend(self.batches())
        for batch in self._kept or self.batches():
            first, last = max(low, at), min(high, at + batch.num_rows)
            if first < last:
                yield first, batch.slice(first - at, last - first)
            at += batch.num_rows
            if at >= high:
                return

    def record_at(self, low: int, line: int) -> int:
        return low + line - 1

    def find(self, low: int, high: int, key: Mapping[str, str]) -> int | None:
        if not set(key) <= set(self.encoder.names):
            return None
        wanted = [(self.encoder.names.index(name), text) for name, text in key.items()]
        for at, batch in self._between(low, high):
            for number, row in enumerate(ArrowRows(batch)):
                if all(str(row[column]) == text for column, text in wanted):
                    return at + number
        return None

    def show(self, record: int) -> tuple[int, bytes]:
        for _, batch in self._between(record, record + 1):
            values = ArrowRows(batch)[0]
            row = dict(zip(self.encoder.names, values, strict=True))
            return self.first + record, json.dumps(row, ensure_ascii=False, default=str).encode()
        raise AssertionError("the record is one of the part")


class ColumnarFile:
    """A Parquet file, an Arrow file or an Arrow stream.

    Raises:
        UsageError: pyarrow is not installed; RefusedError: the file is damaged or no such file.
    """

    def __init__(self, given: Input) -> None:
        self._given = given
        self._stream: Closable | None = None
        self._bytes: _Whole | None = None
        self._reader: Any = None
        self._groups: list[int] | None = None
        try:
            if given.format == "parquet":
                parquet = _module("pyarrow.parquet")
                self._metadata: Any = parquet.read_metadata(given.path)
                schema: Any = self._metadata.schema.to_arrow_schema()
                self._groups = [self._metadata.row_group(n).num_rows for n in range(self._metadata.num_row_groups)]
            else:
                schema = self._open_arrow()
        except (OSError, ValueError) as error:
            self.close()
            raise RefusedError(
                f"{given.name} cannot be read as {given.format}: {str(error).splitlines()[0]}.",
                consequence="Nothing was written.",
            ) from error
        self.names: tuple[str, ...] = tuple(schema.names)

    @property
    def rows(self) -> int | None:
        """How many rows there are, when the file says so."""
        return None if self._groups is None else sum(self._groups)

    def _open_arrow(self) -> Any:
        ipc = _module("pyarrow.ipc")
        path = self._given.path
        if path is not None and not self._given.compression:
            with path.open("rb") as opened:
                is_file = opened.read(6) == b"ARROW1"
            if is_file:
                reader = ipc.open_file(str(path))
                self._groups = [reader.get_batch(n).num_rows for n in range(reader.num_record_batches)]
                return reader.schema
        self._stream, _ = self._given.open()
        self._bytes = _Whole(self._stream)
        self._reader = ipc.open_stream(_module("pyarrow").PythonFile(self._bytes, mode="r"))
        return self._reader.schema

    def parts(self, encoder: Encoder, done: Sequence[Done]) -> Iterator[ColumnarPart]:
        """Yield the parts that are not done.

        Raises:
            RefusedError: those that are done are not what stands there: it is another stream.
        """
        left = deque(sorted(done, key=lambda part: part.first))
        at = 0
        for rows, crc, batches in self._all(encoder.names):
            if not rows:
                continue
            if not left or left[0].first >= at + rows:
                yield ColumnarPart(first=at, end=at + rows, encoder=encoder, batches=batches, crc=crc)
            elif (left[0].first, left[0].end, left[0].crc) == (at, at + rows, crc):
                left.popleft()
            else:
                raise self._differs(left[0])
            at += rows
        if left:
            raise self._differs(left[0])

    def _differs(self, part: Done) -> RefusedError:
        return RefusedError(
            f"{self._given.name} is not what the load began with: it differs between the rows {part.first:,} and"
            f" {part.end:,}.",
            consequence="What is in the table stays; nothing was added there.",
            hint="Give the same input, or --restart to load this one from its beginning.",
        )

    def _all(self, names: Sequence[str]) -> Iterator[tuple[int, int, Callable[[], Iterable[Any]]]]:
        """Yield the number of rows, the CRC and a reader of each group of rows."""
        if self._groups is None:
            assert self._bytes is not None, "a stream is read through it"
            self._bytes.crc = 0
            for batch in self._whole(self._reader):
                crc, self._bytes.crc = self._bytes.crc, 0
                yield batch.num_rows, crc, lambda batch=batch: [batch.select(list(names))]
            return
        read = self._read_group if self._given.format == "parquet" else self._read_batch
        for number, rows in enumerate(self._groups):
            yield rows, 0, lambda number=number: read(number, list(names))

    def _read_group(self, number: int, names: list[str]) -> Iterable[Any]:
        # One a part: a reader is no thread's but the one's that made it.
        file: Any = _module("pyarrow.parquet").ParquetFile(self._given.path, metadata=self._metadata)
        with file:
            size = 16 * BLOCK_ROWS
            for batch in self._whole(file.iter_batches(row_groups=[number], columns=names, batch_size=size)):
                yield batch.select(names)

    def _read_batch(self, number: int, names: list[str]) -> Iterable[Any]:
        file = _module("pyarrow.ipc").open_file(str(self._given.path))
        for batch in self._whole(map(file.get_batch, [number])):
            yield batch.select(names)

    def _whole(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield what pyarrow reads.

        Raises:
            DamagedFileError: it cannot be read on.
        """
        try:
            yield from batches
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
            raise damaged(self._given.name, reason) from error

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class _Whole:
    """A stream as pyarrow wants it: what is asked for comes at once, or it is the end. `crc` is of what was read."""

    closed = False

    def __init__(self, stream: Closable) -> None:
        self._stream = stream
        self.crc = 0

    def read(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size > 0 and (block := self._stream.read(size)):
            parts.append(block)
            size -= len(block)
            self.crc = zlib.crc32(block, self.crc)
        return b"".join(parts)

    def close(self) -> None:
        self._stream.close()


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise UsageError(
            "Parquet and Arrow need pyarrow, which is not installed.",
            consequence="Nothing was written.",
            hint="pip install 'pgscale[arrow]'",
        ) from None
