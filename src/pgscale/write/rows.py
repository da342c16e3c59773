"""Rows of any usual shape as tuples in the order of the columns. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Any, TypeAlias, cast

from pgscale.errors import UsageError

Row: TypeAlias = "tuple[Any, ...] | list[Any] | Mapping[str, Any] | object"
Chunk: TypeAlias = "list[Any]"
Getter: TypeAlias = "Callable[[Any], Any]"


class WrongRowError(ValueError):
    """A row as a whole is wrong; the message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How the rows of a call look.

    Args:
        names: what the rows themselves say their columns are; empty when they say nothing.
        extract: turns a chunk of rows into tuples or lists in the order of the columns it was made for.
    """

    names: tuple[str, ...]
    kind: str

    def extractor(self, columns: Sequence[str]) -> Callable[[Chunk], Iterable[Sequence[Any]]]:
        """Return what turns a chunk of rows into sequences of values in the order of `columns`.

        What it returns may raise WrongRowError, KeyError, AttributeError or TypeError at a row that is different.
        """
        if self.kind == "sequence":
            return _sequences
        if self.kind == "mapping":
            return _mappings(tuple(columns))
        return _objects(tuple(columns))


def _sequences(rows: Chunk) -> Iterable[Sequence[Any]]:
    # A string or a dict would be taken apart just as well.
    kinds = set(map(type, rows))
    for kind in kinds:
        if not issubclass(kind, (tuple, list)):
            raise WrongRowError("a row is no tuple or list as the first")
    return rows


def _mappings(columns: tuple[str, ...]) -> Callable[[Chunk], Iterable[Sequence[Any]]]:
    get = _many_or_one(cast("Getter", itemgetter(*columns)), len(columns))
    count = {len(columns)}

    def extract(rows: Chunk) -> Iterable[Sequence[Any]]:
        # One pass in C; a row with more keys than columns would lose some of them.
        if set(map(len, rows)) != count:
            raise WrongRowError("a row has other keys than the first")
        return map(get, rows)

    return extract


def _objects(columns: tuple[str, ...]) -> Callable[[Chunk], Iterable[Sequence[Any]]]:
    get = _many_or_one(attrgetter(*columns), len(columns))
    return lambda rows: map(get, rows)


def _many_or_one(get: Callable[[Any], Any], count: int) -> Callable[[Any], Sequence[Any]]:
    """A getter of one thing returns it bare."""
    return get if count > 1 else lambda row: (get(row),)


def shape_of(row: object) -> Shape:
    """Tell from the first row how all of them look.

    Raises:
        UsageError: it is no row.
    """
    if isinstance(row, Mapping):
        return Shape(names=tuple(map(str, cast("Mapping[object, object]", row))), kind="mapping")
    if isinstance(row, tuple):
        fields: tuple[str, ...] = getattr(cast("Any", row), "_fields", ())
        return Shape(names=tuple(fields), kind="sequence")
    if isinstance(row, list):
        return Shape(names=(), kind="sequence")
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return Shape(names=tuple(f.name for f in dataclasses.fields(row)), kind="object")
    raise UsageError(
        f"{type(row).__name__} is no row.",
        hint="Rows are tuples, lists, dicts, named tuples or dataclasses, or one object with __arrow_c_stream__.",
    )


def explain_row(shape: Shape, row: object, columns: Sequence[str]) -> Sequence[Any]:
    """Return one row's values in the order of the columns.

    Raises:
        WrongRowError: with what is wrong with the row.
    """
    if shape.kind == "mapping":
        if not isinstance(row, Mapping):
            raise WrongRowError(f"{type(row).__name__}, where the first row is a mapping")
        named = cast("Mapping[str, Any]", row)
        if missing := [c for c in columns if c not in named]:
            raise WrongRowError(f"no value for {', '.join(missing)}")
        if extra := [str(k) for k in named if k not in columns]:
            raise WrongRowError(f"{', '.join(extra)} is not among the columns of the first row")
        return [named[c] for c in columns]
    if shape.kind == "object":
        if missing := [c for c in columns if not hasattr(row, c)]:
            raise WrongRowError(f"{type(row).__name__} has no {', '.join(missing)}")
        return [getattr(row, c) for c in columns]
    if not isinstance(row, (tuple, list)):
        raise WrongRowError(f"{type(row).__name__}, where the first row is a tuple or list")
    values = cast("Sequence[Any]", row)
    if len(values) != len(columns):
        raise WrongRowError(f"{len(values)} values for {len(columns)} columns")
    return values
