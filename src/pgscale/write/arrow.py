"""Arrow record batches as the bytes of COPY … (FORMAT binary), a column at a time.

A row in binary form is a run of fixed pieces (the number of columns, lengths, values of fixed width) and pieces of
any length (text, bytes). NumPy makes the fixed ones of a whole batch at once, Arrow's own buffers are the others, and
Arrow joins them row by row. The encoders of single values remain the judges: a column that is not known here goes
through its own, and a batch in which anything is strange goes through them whole, so that both ways write the same
bytes and say the same of what does not fit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from pgscale.errors import UsageError
from pgscale.write import scalars
from pgscale.write.scalars import Encode

# Arrays of Arrow and NumPy: pyarrow has no types that a strict checker could use.
Array: TypeAlias = Any

_EPOCH_US = 946_684_800_000_000  # from 1970 to 2000
_EPOCH_DAY = 10_957
# Of a datetime of Python, which is what the other way goes through: 0001-01-01 to 9999-12-31.
_LEAST_US, _MOST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
_LEAST_DAY, _MOST_DAY = -719_162, 2_932_896


@runtime_checkable
class ArrowStream(Protocol):
    """What Arrow, pandas, polars and DuckDB offer: the Arrow PyCapsule interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class _StrangeError(ValueError):
    """Something is not as the fast way wants it; the slow one judges."""


# How pyarrow declines, what it has not been taught included; and it may be there without NumPy.
_SAYS_NO = (ValueError, OverflowError, TypeError, NotImplementedError, LookupError, ImportError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fixed:
    """Values of one width: big-endian bytes, a row of the matrix each; `valid` is None when no value is NULL."""

    data: Array
    valid: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Varying:
    """Values of any length, as Arrow has them; `prefix` stands before each that is not NULL."""

    data: Array
    prefix: bytes


def pyarrow() -> Any:
    """Return the module pyarrow.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module("pyarrow")
    except ImportError:
        raise UsageError(
            "Rows with __arrow_c_stream__ need pyarrow, which is not installed.", hint="pip install 'pgscale[arrow]'"
        ) from None


class ArrowRows(Sequence[Any]):
    """Rows of a record batch: tuples to whoever asks for one, columns to the encoder."""

    def __init__(self, batch: Array) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return self.batch.num_rows

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return ArrowRows(self.batch.slice(start, stop - start))
        return tuple(_python(column, index) for column in self.batch.columns)

    def __iter__(self) -> Iterator[Any]:
        if not self.batch.num_columns:
            return iter([()] * len(self))
        try:
            return iter(zip(*(_pythons(column) for column in self.batch.columns), strict=True))
        except _SAYS_NO:
            # A value that Python has nothing for; one by one it is told which.
            return (self[index] for index in range(len(self)))

    def encoded(self, encoders: Sequence[Encode]) -> bytes | None:
        """Return the rows as COPY wants them; None when something is strange about them."""
        columns: list[Array] = self.batch.columns
        if len(columns) != len(encoders) or not columns or not len(self):
            return None
        try:
            return _joined([_column(a, e) for a, e in zip(columns, encoders, strict=True)], len(self))
        except _SAYS_NO:
            return None


@dataclass(frozen=True, slots=True)
class UnreadableValue:
    """Stands for a value of Arrow that no value of Python is, as a date before the year 1."""

    type: str


def _python(column: Array, index: int) -> Any:
    try:
        return _pythons(column.slice(index, 1))[0]
    except _SAYS_NO:
        return UnreadableValue(str(column.type))


def _pythons(array: Array) -> list[Any]:
    """Return the values as Python has them: maps as dicts, where pyarrow knows to make them."""
    if "map<" in str(array.type):
        with contextlib.suppress(TypeError):
            return array.to_pylist(maps_as_pydicts="strict")
    return array.to_pylist()


def read_arrow(stream: ArrowStream) -> tuple[tuple[str, ...], Callable[[int], ArrowRows | list[Any]]]:
    """Return the column names of an Arrow stream, and what gives its rows, at most so many, none at the end.

    Raises:
        UsageError: pyarrow, which reads it, is not installed.
    """
    reader: Any = pyarrow().RecordBatchReader.from_stream(stream)
    batches: Iterator[Array] = iter(reader)
    current: list[Array] = []

    def pull(most: int) -> ArrowRows | list[Any]:
        while not current:
            batch = next(batches, None)
            if batch is None:
                return []
            if batch.num_rows:
                current.append(batch)
        batch = current.pop()
        if batch.num_rows > most:
            current.append(batch.slice(most))
            batch = batch.slice(0, most)
        return ArrowRows(batch)

    return tuple(reader.schema.names), pull


# -- a column ------------------------------------------------------------------------------------------------------


def _column(array: Array, encode: Encode) -> _Fixed | _Varying:
    pa = pyarrow()
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        if getattr(kind, "extension_name", "") == "arrow.uuid" and encode is scalars.encode_uuid:
            return _bytes_of_width(array.storage, 16)
        return _by_value(array, encode)
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_null(kind):
        return _Varying(data=pa.nulls(len(array), pa.binary()), prefix=b"")
    make = _FAST.get(encode)
    made = make(pa, array, kind) if make is not None else None
    return made if made is not None else _by_value(array, encode)


def _by_value(array: Array, encode: Encode) -> _Varying:
    values = _pythons(array)
    pa = pyarrow()
    return _Varying(data=pa.array([None if v is None else encode(v) for v in values], pa.large_binary()), prefix=b"")


def _valid(array: Array) -> Array:
    return None if array.null_count == 0 else array.is_valid().to_numpy(zero_copy_only=False)


def _numbers(array: Array) -> Array:
    """The values as NumPy has them; where they are NULL, zero."""
    if array.null_count:
        array = array.fill_null(0)
    return array.to_numpy(zero_copy_only=False)


def _matrix(values: Array, dtype: str) -> Array:
    return values.astype(dtype).view("u1").reshape(len(values), -1)


def _integers(dtype: str, least: int, most: int) -> Callable[[Any, Array, Any], _Fixed | None]:
    def make(pa: Any, array: Array, kind: Any) -> _Fixed | None:
        if not pa.types.is_integer(kind):
            return None
        values = _numbers(array)
        if len(values) and (int(values.min()) < least or int(values.max()) > most):
            raise _StrangeError
        return _Fixed(data=_matrix(values, dtype), valid=_valid(array))

    return make


def _floats(dtype: str) -> Callable[[Any, Array, Any], _Fixed | None]:
    def make(pa: Any, array: Array, kind: Any) -> _Fixed | None:
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            return None
        values = _numbers(array)
        if dtype == ">f4":
            # What is finite must stay so, and what is not zero, too; halves between integers and floats are rounded by
            # way of doubles, as there.
            values = values.astype("f8")
            if len(values) and (abs(values[_finite(values)]) > 3.4028235e38).any():
                raise _StrangeError
            if ((values != 0) & (values.astype("f4") == 0)).any():
                raise _StrangeError
        return _Fixed(data=_matrix(values, dtype), valid=_valid(array))

    return make


def _finite(values: Array) -> Array:
    return abs(values) < float("inf")


def _booleans(pa: Any, array: Array, kind: Any) -> _Fixed | None:
    if not pa.types.is_boolean(kind):
        return None
    filled = array.fill_null(False) if array.null_count else array
    return _Fixed(data=_matrix(filled.to_numpy(zero_copy_only=False), "u1"), valid=_valid(array))


def _texts(prefix: bytes, *, takes_bytes: bool) -> Callable[[Any, Array, Any], _Varying | None]:
    def make(pa: Any, array: Array, kind: Any) -> _Varying | None:
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or str(kind) == "string_view"
        is_binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
        if not is_text and not (takes_bytes and is_binary):
            return None
        data = array.cast(pa.large_string()).cast(pa.large_binary()) if is_text else array.cast(pa.large_binary())
        if is_text and _has_nul(data):
            raise _StrangeError
        return _Varying(data=data, prefix=prefix)

    return make


def _has_nul(array: Array) -> bool:
    buffers = array.buffers()
    if buffers[2] is None:
        return False
    first, last = _bounds(array)
    return b"\0" in buffers[2].slice(first, last - first).to_pybytes()


def _bytea(pa: Any, array: Array, kind: Any) -> _Varying | None:
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)):
        return None
    return _Varying(data=array.cast(pa.binary()).cast(pa.large_binary()), prefix=b"")


def _bytes_of_width(array: Array, width: int) -> _Fixed:
    numpy: Any = import_module("numpy")
    filled = array.fill_null(bytes(width)) if array.null_count else array
    start = filled.offset * width
    data = numpy.frombuffer(filled.buffers()[1], "u1")[start : start + len(array) * width]
    return _Fixed(data=data.reshape(len(array), width), valid=_valid(array))


def _dates(pa: Any, array: Array, kind: Any) -> _Fixed | None:
    if not pa.types.is_date32(kind):
        return None
    days = _numbers(array.cast(pa.int32()))
    if len(days) and (int(days.min()) < _LEAST_DAY or int(days.max()) > _MOST_DAY):
        raise _StrangeError
    return _Fixed(data=_matrix(days - _EPOCH_DAY, ">i4"), valid=_valid(array))


def _timestamps(*, has_zone: bool) -> Callable[[Any, Array, Any], _Fixed | None]:
    def make(pa: Any, array: Array, kind: Any) -> _Fixed | None:
        if not pa.types.is_timestamp(kind) or (kind.tz is not None) != has_zone:
            return None
        values = _numbers(array.cast(pa.int64()))
        if kind.unit == "ns":
            values = values // 1_000
        elif kind.unit != "us":
            factor = 1_000 if kind.unit == "ms" else 1_000_000
            if len(values) and (int(values.min()) < _LEAST_US // factor or int(values.max()) > _MOST_US // factor):
                raise _StrangeError
            values = values * factor
        if len(values) and (int(values.min()) < _LEAST_US or int(values.max()) > _MOST_US):
            raise _StrangeError
        return _Fixed(data=_matrix(values - _EPOCH_US, ">i8"), valid=_valid(array))

    return make


def _times(pa: Any, array: Array, kind: Any) -> _Fixed | None:
    if not pa.types.is_time(kind):
        return None
    if kind.bit_width == 32:
        values = _numbers(array.cast(pa.int32())).astype("i8") * (1_000_000 if kind.unit == "s" else 1_000)
    else:
        values = _numbers(array.cast(pa.int64()))
        values = values // 1_000 if kind.unit == "ns" else values
    if len(values) and (int(values.min()) < 0 or int(values.max()) >= 86_400_000_000):
        raise _StrangeError
    return _Fixed(data=_matrix(values, ">i8"), valid=_valid(array))


_FAST: dict[Encode, Callable[[Any, Array, Any], _Fixed | _Varying | None]] = {
    scalars.encode_int2: _integers(">i2", -(2**15), 2**15 - 1),
    scalars.encode_int4: _integers(">i4", -(2**31), 2**31 - 1),
    scalars.encode_int8: _integers(">i8", -(2**63), 2**63 - 1),
    scalars.encode_oid: _integers(">u4", 0, 2**32 - 1),
    scalars.encode_float4: _floats(">f4"),
    scalars.encode_float8: _floats(">f8"),
    scalars.encode_bool: _booleans,
    scalars.encode_text: _texts(b"", takes_bytes=False),
    scalars.encode_json: _texts(b"", takes_bytes=True),
    scalars.encode_jsonb: _texts(b"\x01", takes_bytes=True),
    scalars.encode_bytea: _bytea,
    scalars.encode_date: _dates,
    scalars.encode_timestamp: _timestamps(has_zone=False),
    scalars.encode_timestamptz: _timestamps(has_zone=True),
    scalars.encode_time: _times,
}


# -- rows ----------------------------------------------------------------------------------------------------------


class _Segment:
    """Fixed pieces that stand side by side: one matrix of bytes, a row each, and which of them are not there."""

    def __init__(self, numpy: Any, rows: int) -> None:
        self._numpy, self._rows = numpy, rows
        self._pieces: list[Array] = []
        self._masks: list[tuple[int, int, Array]] = []
        self.width = 0

    def add(self, piece: Array, valid: Array = None) -> None:
        width = piece.shape[1]
        if valid is not None:
            self._masks.append((self.width, self.width + width, valid))
        self._pieces.append(piece)
        self.width += width

    def add_lengths(self, lengths: Array) -> None:
        self.add(_matrix(lengths, ">i4"))

    def add_constant(self, data: bytes, valid: Array = None) -> None:
        if data:
            one = self._numpy.frombuffer(data, "u1")
            self.add(self._numpy.broadcast_to(one, (self._rows, len(data))), valid)

    def made(self, pa: Any) -> Array:
        """Return the pieces as an array of large_binary."""
        numpy = self._numpy
        matrix = numpy.concatenate(self._pieces, axis=1) if len(self._pieces) > 1 else self._pieces[0]
        offsets = numpy.arange(self._rows + 1, dtype="i8") * self.width
        data = matrix
        if self._masks:
            mask = numpy.ones((self._rows, self.width), bool)
            for start, end, valid in self._masks:
                mask[:, start:end] = valid[:, None]
            offsets[1:] = numpy.cumsum(mask.sum(axis=1))
            data = matrix[mask]
        data = numpy.ascontiguousarray(data)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.large_binary(), self._rows, buffers)


def _joined(columns: Sequence[_Fixed | _Varying], rows: int) -> bytes:
    pa = pyarrow()
    numpy: Any = import_module("numpy")
    segment = _Segment(numpy, rows)
    segment.add_constant(len(columns).to_bytes(2, "big"))
    pieces: list[Array] = []
    for column in columns:
        if isinstance(column, _Fixed):
            width = column.data.shape[1]
            if column.valid is None:
                segment.add_constant(width.to_bytes(4, "big"))
            else:
                segment.add_lengths(numpy.where(column.valid, width, -1))
            segment.add(column.data, column.valid)
            continue
        data, valid = column.data.cast(pa.large_binary()), _valid(column.data)
        lengths = _lengths(data, numpy) + len(column.prefix)
        if len(lengths) and int(lengths.max()) > 0x7FFFFFFF:
            raise _StrangeError
        if valid is not None:
            lengths = numpy.where(valid, lengths, -1)
            data = data.fill_null(b"")
        segment.add_lengths(lengths)
        segment.add_constant(column.prefix, valid)
        pieces += [segment.made(pa), data]
        segment = _Segment(numpy, rows)
    if segment.width:
        pieces.append(segment.made(pa))
    joined = pieces[0]
    if len(pieces) > 1:
        compute: Any = import_module("pyarrow.compute")
        joined = compute.binary_join_element_wise(*pieces, pa.scalar(b"", pa.large_binary()))
    first, last = _bounds(joined)
    return cast("bytes", joined.buffers()[2].slice(first, last - first).to_pybytes())


def _bounds(array: Array) -> tuple[int, int]:
    """Return where the values of an array of large_binary begin and end in its buffer."""
    offsets: Any = memoryview(array.buffers()[1]).cast("q")
    return int(offsets[array.offset]), int(offsets[array.offset + len(array)])


def _lengths(array: Array, numpy: Any) -> Array:
    offsets = numpy.frombuffer(array.buffers()[1], "i8")[array.offset : array.offset + len(array) + 1]
    return numpy.diff(offsets)
