"""Rows as the bytes of COPY … (FORMAT binary): one function made for the columns of one table.

A row costs what its slowest common path costs, so the function is written out for the columns: fixed formats are
packed inline, and everything a value may be besides its usual kind (None, infinity, a wrong type) goes to the slow
function of its type, which is the one that judges. The source is made of numbers and our own constants alone: no
name or value of the caller's ever gets into it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pgscale.write import scalars
from pgscale.write.arrow import ArrowRows, UnreadableValue
from pgscale.write.composing import NULL, framed
from pgscale.write.model import ColumnFact, NotFittingError, RowError
from pgscale.write.rows import Chunk, Shape, WrongRowError, explain_row
from pgscale.write.scalars import Encode

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)

# What a value of the usual kind becomes, inline. {v} is the value, {n} the column's number. A datetime with a zone
# less one without is an error of Python's, so the wrong kind goes the slow way, too.
_FAST: dict[Encode, str] = {
    scalars.encode_int2: "(p2(2, {v}) if {v}.__class__ is int else s{n}({v}))",
    scalars.encode_int4: "(p4(4, {v}) if {v}.__class__ is int else s{n}({v}))",
    scalars.encode_int8: "(p8(8, {v}) if {v}.__class__ is int else s{n}({v}))",
    scalars.encode_float8: "(pd(8, {v}) if {v}.__class__ is float else s{n}({v}))",
    scalars.encode_bool: "(TRUE if {v} is True else FALSE if {v} is False else s{n}({v}))",
    scalars.encode_text: (
        "(p(len(e)) + e if {v}.__class__ is str and b'\\0' not in (e := {v}.encode()) else s{n}({v}))"
    ),
    scalars.encode_jsonb: "(p1(len(e) + 1) + e if {v}.__class__ is str and (e := {v}.encode()) else s{n}({v}))",
    scalars.encode_json: "(p(len(e)) + e if {v}.__class__ is str and (e := {v}.encode()) else s{n}({v}))",
    scalars.encode_timestamptz: (
        "(p8(8, (d.days * 86400 + d.seconds) * 1000000 + d.microseconds)"
        " if {v}.__class__ is datetime and (d := {v} - UTC2000) is not None"
        " else s{n}({v}))"
    ),
    scalars.encode_timestamp: (
        "(p8(8, (d.days * 86400 + d.seconds) * 1000000 + d.microseconds)"
        " if {v}.__class__ is datetime and (d := {v} - AT2000) is not None else s{n}({v}))"
    ),
    scalars.encode_date: "(p4(4, {v}.toordinal() - DAY2000) if {v}.__class__ is date else s{n}({v}))",
    scalars.encode_uuid: "(U16 + {v}.bytes if {v}.__class__ is UUID else s{n}({v}))",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Encodes chunks of rows for some columns of one table.

    Args:
        columns: in the order the values come.
        encoders: each column's own function.
        fast: the function made for all of them: sequences of values in, bytes out.
    """

    columns: tuple[ColumnFact, ...]
    encoders: tuple[Encode, ...]
    fast: Callable[[Iterable[Sequence[Any]]], bytes]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def encode(
        self, rows: ArrowRows | Chunk, shape: Shape, extract: Callable[[Chunk], Iterable[Sequence[Any]]], at: int
    ) -> bytes:
        """Return the rows of a chunk as COPY wants them, without signature and trailer.

        Args:
            extract: shape.extractor of these columns; at: the index of the chunk's first row.

        Raises:
            RowError: names the first row that does not fit, its column and the reason.
        """
        if isinstance(rows, ArrowRows):
            data = rows.encoded(self.encoders)
            if data is not None:
                return data
            rows = list(rows)
        try:
            return self.fast(extract(rows))
        except Exception:  # noqa: BLE001 because whatever went wrong, the slow way says where, or goes through
            return b"".join(self.encode_one(row, shape, at + number) for number, row in enumerate(rows))

    def encode_one(self, row: object, shape: Shape, index: int) -> bytes:
        """Return one row as COPY wants it.

        Raises:
            RowError: it does not fit.
        """
        parts = [struct.pack(">h", len(self.columns))]
        for value in self.judge(row, shape, index):
            parts += [NULL] if value is None else [struct.pack(">i", len(value)), value]
        return b"".join(parts)

    def judge(self, row: object, shape: Shape, index: int) -> list[bytes | None]:
        """Return the binary forms of one row's values.

        Raises:
            RowError: one does not fit.
        """
        try:
            values = explain_row(shape, row, self.names)
        except WrongRowError as error:
            raise RowError(index, None, str(error)) from None
        forms: list[bytes | None] = []
        for column, encode, value in zip(self.columns, self.encoders, values, strict=True):
            if isinstance(value, UnreadableValue):
                raise RowError(index, column.name, f"a value of Arrow's {value.type} that no value of Python is")
            try:
                forms.append(None if value is None else encode(value))
            except NotFittingError as error:
                raise RowError(index, column.name, f"{error} (type {column.type_name})") from None
            except Exception as error:
                # A value's own methods may raise anything; which one it was is to be told.
                reason = f"{type(error).__name__}: {error} (type {column.type_name})"
                raise RowError(index, column.name, reason) from error
        return forms


def make_encoder(columns: Sequence[ColumnFact], encoders: Sequence[Encode]) -> Encoder:
    """Return the encoder of these columns, each with the function of its type."""
    pieces: list[str] = []
    scope: dict[str, Any] = {
        "p": struct.Struct(">i").pack,
        "p1": _with_version,
        "p2": struct.Struct(">ih").pack,
        "p4": struct.Struct(">ii").pack,
        "p8": struct.Struct(">iq").pack,
        "pd": struct.Struct(">id").pack,
        "TRUE": struct.pack(">i?", 1, True),
        "FALSE": struct.pack(">i?", 1, False),
        "U16": struct.pack(">i", 16),
        "COUNT": struct.pack(">h", len(columns)),
        "datetime": scalars.dt.datetime,
        "date": scalars.dt.date,
        "UUID": scalars.uuid.UUID,
        "UTC2000": scalars.EPOCH_UTC,
        "AT2000": scalars.EPOCH,
        "DAY2000": scalars.EPOCH_DAY,
    }
    for number, encode in enumerate(encoders):
        scope[f"s{number}"] = partial(_framed_by, encode)
        pieces.append(_FAST.get(encode, "s{n}({v})").format(v=f"v{number}", n=number))
    values = ", ".join(f"v{number}" for number in range(len(pieces)))
    source = f"lambda rows: b''.join([COUNT + {' + '.join(pieces)} for {values}, in rows])"
    return Encoder(
        columns=tuple(columns),
        encoders=tuple(encoders),
        fast=eval(source, scope),  # noqa: S307 because the source holds our own constants and numbers only
    )


_SIZE = struct.Struct(">i")
_JSONB = struct.Struct(">ib")


def _framed_by(encode: Encode, value: object) -> bytes:
    return framed(value, encode)


def _with_version(size: int) -> bytes:
    return _JSONB.pack(size, 1)


def fields_of(form: bytes) -> list[bytes | None]:
    """Return the values of a row as COPY has it, each in its binary form."""
    fields: list[bytes | None] = []
    at = 2
    while at < len(form):
        size: int = _SIZE.unpack_from(form, at)[0]
        at += 4
        if size < 0:
            fields.append(None)
            continue
        fields.append(form[at : at + size])
        at += size
    return fields
