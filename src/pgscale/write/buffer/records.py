"""A row as one record of a log, and back. Pure.

    length u32 | crc u32 | lane u16 | shape length u16 | shape | values

The values are a JSON array; the shape says the columns' names and, a letter a column, what JSON could not hold. A row
is encoded once, by whoever puts it; a batch is decoded by one call of the JSON parser. Rows of an application have
few shapes, so what a shape needs is worked out once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import itertools
import json
import numbers
import struct
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, cast

from pgscale.errors import UsageError
from pgscale.write.dead_letters.model import WHOLE
from pgscale.write.dead_letters.tagging import from_json, to_json
from pgscale.write.model import RowError

HEAD = struct.Struct("<IIHH")
MOST_SHAPES = 4_096

_dumps = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode

NATIVE = frozenset({str, int, float, bool, type(None)})
# By type: the letter in the shape, and what a value {v} becomes, as a piece of the function that is made for a shape.
# None of these texts needs an escape but those that `quoted` gives.
_PIECES: Mapping[type, tuple[str, str]] = {
    str: ("n", "{{quoted({v})}}"),
    int: ("n", "{{{v}}}"),
    float: ("n", "{{dumps({v})}}"),
    bool: ("n", "{{'true' if {v} else 'false'}}"),
    type(None): ("n", "null"),
    dict: ("n", "{{dumps(plain({v}))}}"),
    list: ("n", "{{dumps(plain({v}))}}"),
    dt.datetime: ("t", '"{{{v}.isoformat()}}"'),
    dt.date: ("d", '"{{{v}.isoformat()}}"'),
    uuid.UUID: ("u", '"{{{v}.hex}}"'),
    Decimal: ("m", '"{{{v}}}"'),
    bytes: ("b", '"{{{v}.hex()}}"'),
}
_TAGGED = ("x", "{{dumps(tag({v}))}}")
_REVIVE: Mapping[str, Callable[[Any], Any]] = {
    "t": dt.datetime.fromisoformat,
    "d": dt.date.fromisoformat,
    "u": uuid.UUID,
    "m": Decimal,
    "b": bytes.fromhex,
    "x": from_json,
}


class _NotPlainError(Exception):
    """A dict or list holds what JSON cannot."""


def _tagged(value: object) -> Any:
    """Return a value as JSON with tags that is known to come back.

    Raises:
        ValueError: it would not: what is acknowledged must be of use to whoever drains it.
    """
    made = to_json(value)
    try:
        from_json(json.loads(json.dumps(made)))
    except Exception as error:
        kind = type(value)
        raise ValueError(f"a value of type {kind.__module__}.{kind.__qualname__} would not come back") from error
    return made


def key_text(values: Sequence[Any]) -> str:
    """Return a text that is the same for keys that are equal to the database, whatever types of Python they are of."""
    return "\0".join([value if value.__class__ is str else _part_of_key(value) for value in values])


def _part_of_key(value: Any) -> str:
    if value.__class__ is int:
        return str(hash(value))
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, numbers.Number):
        # 1, True, 1.0 and Decimal("1.00") are equal, and so are their hashes; a NaN's is another each time.
        return str(hash(value)) if value == value else "nan"  # noqa: PLR0124 because that is how a NaN is known
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return value.astimezone(dt.UTC).isoformat()
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", value)).hex()
    return str(value)


def _plain(value: Any) -> Any:
    """Return a dict or list as it is.

    Raises:
        _NotPlainError: there is something in it that JSON would change.
    """
    if value.__class__ is dict:
        for name, one in cast("dict[Any, Any]", value).items():
            if name.__class__ is not str:
                raise _NotPlainError
            if one.__class__ not in NATIVE:
                _plain(one)
    elif value.__class__ is list:
        for one in cast("list[Any]", value):
            if one.__class__ not in NATIVE:
                _plain(one)
    else:
        raise _NotPlainError
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """How rows with these names and types become records: the shape's text, and the function from values to JSON."""

    text: bytes
    write: Callable[..., str]


def _shape(names: Sequence[str], kinds: Sequence[type], *, tagged: bool = False) -> _Shape:
    """Work out a shape.

    Args:
        tagged: dicts and lists hold what JSON cannot.
    """
    pieces = [_TAGGED if kind not in _PIECES or (tagged and kind in (dict, list)) else _PIECES[kind] for kind in kinds]
    text = _dumps([list(names), "".join(letter for letter, _ in pieces)]).encode()
    if len(text) > 0xFFFF:
        raise RowError(0, None, "its column names are longer than 64 kB")
    values = [f"v{number}" for number in range(len(pieces))]
    parts = ",".join(piece.format(v=value) for (_, piece), value in zip(pieces, values, strict=True))
    scope = {"quoted": encode_basestring, "dumps": _dumps, "plain": _plain, "tag": _tagged}
    source = f"lambda {', '.join(values)}: f'''[{parts}]'''"
    return _Shape(text, eval(source, scope))  # noqa: S307 because the source holds our own constants and numbers only


class RecordEncoder:
    """Makes records of rows.

    Args:
        key: the columns that choose the lane; without any, lanes take turns.
        needs: columns without which a row cannot be merged.
    """

    def __init__(self, key: Sequence[str], lanes: int, needs: Sequence[str] = ()) -> None:
        self._key = tuple(key)
        self._needs = frozenset(needs)
        self._lanes = lanes
        self._turn = itertools.count()
        self._shapes: dict[tuple[tuple[str, ...], tuple[type, ...]], _Shape] = {}

    def encode(self, row: object, index: int = 0) -> bytes:
        """Return a row as a record.

        Args:
            row: a dict, dataclass or named tuple; index: its place in the call, for errors.

        Raises:
            RowError: it has no value for a column of the key, or one that cannot be stored.
            UsageError: it is no row with names.
        """
        named = cast("dict[str, Any]", row) if row.__class__ is dict else _named(row)
        kinds = (tuple(named), tuple(map(type, named.values())))
        shape = self._shapes.get(kinds) or self._remember(kinds, index)
        try:
            try:
                body = shape.text + shape.write(*named.values()).encode()
            except _NotPlainError:
                shape = _shape(*kinds, tagged=True)
                body = shape.text + shape.write(*named.values()).encode()
        except (ValueError, RecursionError) as error:
            raise RowError(index, None, f"it cannot be stored: {error}") from None
        lane = self._lane(named, index)
        size = len(shape.text)
        return HEAD.pack(len(body), zlib.crc32(body, lane << 16 | size), lane, size) + body

    def _remember(self, kinds: tuple[tuple[str, ...], tuple[type, ...]], index: int) -> _Shape:
        names, types = kinds
        if missing := self._needs.difference(names):
            raise RowError(index, min(missing), "the key to merge by has no value here")
        if not names or not all(name.__class__ is str for name in names):
            raise UsageError("A row is put by its columns' names, and this one has none or others than str.")
        shape = _shape(names, types)
        if len(self._shapes) >= MOST_SHAPES:
            self._shapes.clear()
        self._shapes[kinds] = shape
        return shape

    def _lane(self, row: Mapping[str, Any], index: int) -> int:
        if not self._key:
            return next(self._turn) % self._lanes
        try:
            key = key_text([row[name] for name in self._key])
        except KeyError as error:
            raise RowError(index, str(error.args[0]), "the key of the buffer has no value here") from None
        except (ArithmeticError, ValueError, OverflowError) as error:
            raise RowError(index, None, f"it has no key that can be compared: {error}") from None
        return zlib.crc32(key.encode("utf-8", "surrogatepass")) % self._lanes


def _named(row: object) -> dict[str, Any]:
    if isinstance(row, Mapping):
        return dict(cast("Mapping[str, Any]", row))
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return {field.name: getattr(row, field.name) for field in dataclasses.fields(cast("Any", row))}
    kind: type[object] = type(row)
    if issubclass(kind, tuple) and hasattr(cast("Any", kind), "_asdict"):
        return dict(cast("Any", row)._asdict())
    raise UsageError(
        f"{kind.__name__} is no event.", hint="Events are dicts, dataclasses or named tuples: rows with names."
    )


class WrongRecordError(ValueError):
    """Bytes are no record; the argument says where and why."""


def parse(body: bytes | memoryview, *, check: bool) -> list[tuple[int, bytes, bytes]]:
    """Return the records in the bytes as (lane, shape, values).

    Args:
        check: compare each record's CRC.

    Raises:
        WrongRecordError: they are not whole records, or a CRC differs.
    """
    found: list[tuple[int, bytes, bytes]] = []
    unpack, head = HEAD.unpack_from, HEAD.size
    at, end = 0, len(body)
    while at < end:
        if at + head > end:
            raise WrongRecordError(f"the record at byte {at} is cut short")
        size, crc, lane, shape_size = unpack(body, at)
        start, middle, stop = at + head, at + head + shape_size, at + head + size
        if stop > end or middle > stop:
            raise WrongRecordError(f"the record at byte {at} is cut short")
        if check and zlib.crc32(body[start:stop], lane << 16 | shape_size) != crc:
            raise WrongRecordError(f"the CRC of the record at byte {at} differs")
        found.append((lane, bytes(body[start:middle]), bytes(body[middle:stop])))
        at = stop
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class _Reader:
    names: tuple[str, ...]
    revive: tuple[tuple[int, Callable[[Any], Any]], ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """Rows of a batch: the names and the values of each; and of those that could not be made again, by index, why not.

    A row of that kind has what could be read of it, for a dead letter.
    """

    names: list[tuple[str, ...]]
    rows: list[list[Any]]
    faults: dict[int, str]


class RecordDecoder:
    """Makes rows of records."""

    def __init__(self) -> None:
        self._readers: dict[bytes, _Reader] = {}

    def decode(self, shapes: Sequence[bytes], values: Sequence[bytes]) -> Decoded:
        """Return the rows; one that is not what this version writes is a fault of its own, not of the batch."""
        try:
            return self._all(shapes, values)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 because one by one is how the one that is to blame is found
            found = Decoded(names=[], rows=[], faults={})
            for index, (shape, value) in enumerate(zip(shapes, values, strict=True)):
                try:
                    one = self._all([shape], [value])
                except Exception as error:  # noqa: BLE001 because whatever it is, it is this row's
                    found.faults[index] = f"it cannot be read: {type(error).__name__}: {error}"
                    name, row = _left_of(shape, value)
                    found.names.append(name)
                    found.rows.append(row)
                else:
                    found.names.append(one.names[0])
                    found.rows.append(one.rows[0])
            return found

    def _all(self, shapes: Sequence[bytes], values: Sequence[bytes]) -> Decoded:
        rows: list[list[Any]] = json.loads(b"[" + b",".join(values) + b"]")
        readers = self._readers
        names: list[tuple[str, ...]] = []
        for shape, row in zip(shapes, rows, strict=True):
            reader = readers.get(shape) or self._remember(shape)
            names.append(reader.names)
            for number, revive in reader.revive:
                row[number] = revive(row[number])
        return Decoded(names=names, rows=rows, faults={})

    def _remember(self, shape: bytes) -> _Reader:
        names, letters = cast("tuple[list[str], str]", json.loads(shape))
        revive = tuple((n, _REVIVE[letter]) for n, letter in enumerate(letters) if letter != "n")
        if len(self._readers) >= MOST_SHAPES:
            self._readers.clear()
        reader = self._readers[shape] = _Reader(tuple(names), revive)
        return reader


def _left_of(shape: bytes, value: bytes) -> tuple[tuple[str, ...], list[Any]]:
    """Return the names and values of a row as they stand in the log; where even that is not to be had, its bytes."""
    with contextlib.suppress(Exception):
        names, row = tuple(map(str, json.loads(shape)[0])), json.loads(value)
        if len(names) == len(row):
            return names, list(row)
    return (WHOLE,), [text_of(shape, value)]


def text_of(shape: bytes, value: bytes) -> str:
    """Return a record as it stands in the log, as text."""
    return (shape + value).decode("utf-8", "backslashreplace")
