"""The binary form of types made of other types: arrays, domains, enums, composites, ranges. Pure."""

from __future__ import annotations

import dataclasses
import enum
import struct
from collections.abc import Mapping, Sequence
from typing import Any, cast

from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from pgscale.write.model import Destination, NotFittingError, TypeFact
from pgscale.write.scalars import BUILT_IN, EXTENSIONS, Encode

_I4, _HEAD, _DIMENSION = struct.Struct(">i"), struct.Struct(">iiI"), struct.Struct(">ii")
_FIELD = struct.Struct(">Ii")
NULL = _I4.pack(-1)
MOST_DIMENSIONS = 6

# src/include/utils/rangetypes.h
_EMPTY, _LOWER_INC, _UPPER_INC, _LOWER_INF, _UPPER_INF = 0x01, 0x02, 0x04, 0x08, 0x10


class NotEncodableError(Exception):
    """A type has no binary form here; the argument is its name."""


def encoder_of(  # noqa: PLR0911 because each kind of type has its answer
    oid: int, types: Mapping[int, TypeFact]
) -> Encode:
    """Return the function that gives a value of the type its binary form.

    Raises:
        NotEncodableError: the type, or one that it is made of, has none here.
    """
    fact = types[oid]
    match fact.kind:
        case "b" if fact.schema == "pg_catalog" and fact.name in BUILT_IN:
            return BUILT_IN[fact.name]
        case "b" if fact.schema != "pg_catalog" and fact.name in EXTENSIONS:
            return EXTENSIONS[fact.name]
        case "d":
            return encoder_of(fact.base_oid, types)
        case "e":
            return _enum(fact)
        case "a":
            return _array(fact, types)
        case "c":
            return _composite(fact, types)
        case "r":
            return _range(encoder_of(fact.part_oid, types))
        case "m":
            return _multirange(encoder_of(fact.part_oid, types))
        case _:
            raise NotEncodableError(fact.name)


def framed(value: object, encode: Encode) -> bytes:
    """Return a value with its length before it; None is a length of -1 alone."""
    if value is None:
        return NULL
    encoded = encode(value)
    return _I4.pack(len(encoded)) + encoded


def _enum(fact: TypeFact) -> Encode:
    forms = {label: label.encode() for label in fact.labels}

    def encode(value: object) -> bytes:
        label = value
        if isinstance(value, enum.Enum):
            # A member stands for the label that is its name or, as often, its value.
            label = value.name if value.name in forms else value.value
        found = forms.get(label) if isinstance(label, str) else None
        if found is None:
            raise NotFittingError(f"{value!r} is no label of enum {fact.name}")
        return found

    return encode


def _array(fact: TypeFact, types: Mapping[int, TypeFact]) -> Encode:
    encode_element = encoder_of(fact.element_oid, types)
    # A tuple may be an element where elements are rows.
    lists = (list,) if types[fact.element_oid].kind == "c" else (list, tuple)

    def encode(value: Any) -> bytes:
        # NumPy's; but a memoryview is bytes here, as elsewhere, and no list of numbers.
        content: Any = value.tolist() if hasattr(value, "tolist") and type(value) is not memoryview else value
        if not isinstance(content, lists):
            raise NotFittingError(f"{type(value).__name__} where a list is wanted")
        sizes: list[int] = []
        inner = cast("Sequence[Any]", content)
        while True:
            sizes.append(len(inner))
            if not (inner and isinstance(inner[0], lists)):
                break
            inner = cast("Sequence[Any]", inner[0])
        elements: list[Any] = []
        _flatten(content, sizes, 0, lists, elements)
        if not elements:
            return _HEAD.pack(0, 0, fact.element_oid)
        if len(sizes) > MOST_DIMENSIONS:
            raise NotFittingError(f"{len(sizes)} dimensions, where an array has at most {MOST_DIMENSIONS}")
        parts = [_HEAD.pack(len(sizes), int(any(e is None for e in elements)), fact.element_oid)]
        parts += [_DIMENSION.pack(size, 1) for size in sizes]
        parts += [framed(element, encode_element) for element in elements]
        return b"".join(parts)

    return encode


def _flatten(value: Any, sizes: Sequence[int], depth: int, lists: tuple[type, ...], into: list[Any]) -> None:
    if depth == len(sizes):
        if isinstance(value, lists):
            raise NotFittingError("lists of different depths, where an array is rectangular")
        into.append(value)
        return
    if not isinstance(value, lists) or len(cast("Sequence[Any]", value)) != sizes[depth]:
        raise NotFittingError("lists of different lengths, where an array is rectangular")
    for element in cast("Sequence[Any]", value):
        _flatten(element, sizes, depth + 1, lists, into)


def _composite(fact: TypeFact, types: Mapping[int, TypeFact]) -> Encode:
    encoders = [encoder_of(oid, types) for oid in fact.field_oids]
    known = frozenset(fact.field_names)

    def encode(value: object) -> bytes:
        fields = _fields(value, fact, known)
        parts = [_I4.pack(len(fields))]
        for name, oid, field, encode_field in zip(fact.field_names, fact.field_oids, fields, encoders, strict=True):
            try:
                encoded = None if field is None else encode_field(field)
            except NotFittingError as error:
                raise NotFittingError(f"field {name}: {error}") from None
            parts.append(_FIELD.pack(oid, -1 if encoded is None else len(encoded)))
            if encoded is not None:
                parts.append(encoded)
        return b"".join(parts)

    return encode


def _fields(value: object, fact: TypeFact, known: frozenset[str]) -> Sequence[Any]:
    if isinstance(value, Mapping):
        named = cast("Mapping[str, Any]", value)
        if wrong := sorted(str(name) for name in named.keys() ^ known):
            raise NotFittingError(f"fields {', '.join(wrong)} are not in both the value and type {fact.name}")
        return [named[name] for name in fact.field_names]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if missing := [name for name in fact.field_names if not hasattr(value, name)]:
            raise NotFittingError(f"{type(value).__name__} has no {', '.join(missing)}")
        return [getattr(value, name) for name in fact.field_names]
    if not isinstance(value, tuple):
        raise NotFittingError(f"{type(value).__name__} where a tuple for type {fact.name} is wanted")
    fields = cast("tuple[Any, ...]", value)
    if len(fields) != len(fact.field_names):
        raise NotFittingError(f"{len(fields)} fields, where type {fact.name} has {len(fact.field_names)}")
    return fields


def _range(encode_bound: Encode) -> Encode:
    def encode(value: object) -> bytes:
        if not isinstance(value, Range):
            raise NotFittingError(f"{type(value).__name__} where a psycopg Range is wanted")
        found = cast("Range[Any]", value)
        if found.isempty:
            return bytes((_EMPTY,))
        flags = 0
        parts: list[bytes] = []
        for bound, inclusive, flag_inc, flag_inf in (
            (found.lower, found.lower_inc, _LOWER_INC, _LOWER_INF),
            (found.upper, found.upper_inc, _UPPER_INC, _UPPER_INF),
        ):
            if bound is None:
                flags |= flag_inf
                continue
            flags |= flag_inc if inclusive else 0
            parts.append(framed(bound, encode_bound))
        return bytes((flags,)) + b"".join(parts)

    return encode


def _multirange(encode_range: Encode) -> Encode:
    def encode(value: object) -> bytes:
        if not isinstance(value, (Multirange, list, tuple)):
            raise NotFittingError(f"{type(value).__name__} where a psycopg Multirange is wanted")
        ranges = list(cast("Sequence[object]", value))
        if None in ranges:
            raise NotFittingError("None where a psycopg Range is wanted")
        return _I4.pack(len(ranges)) + b"".join(framed(one, encode_range) for one in ranges)

    return encode


def array_of_rows(rows: Sequence[Mapping[str, bytes | None]], destination: Destination) -> bytes:
    """Return an array of the table's row type; columns that a row has no value for are NULL.

    Args:
        rows: the binary forms of the values, by column.
    """
    parts = [_HEAD.pack(1, 0, destination.row_type_oid), _DIMENSION.pack(len(rows), 1)]
    for row in rows:
        fields = [_I4.pack(len(destination.columns))]
        for column in destination.columns:
            value = row.get(column.name)
            fields.append(_FIELD.pack(column.type_oid, -1 if value is None else len(value)))
            if value is not None:
                fields.append(value)
        record = b"".join(fields)
        parts += [_I4.pack(len(record)), record]
    return b"".join(parts)
