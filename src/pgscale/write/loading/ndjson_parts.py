"""Parts of NDJSON: an object a line, its keys are columns; the server reads values as text of the columns' types."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from pgscale.errors import RefusedError
from pgscale.write.loading.lines import EVERY_LINE, PieceOfFile
from pgscale.write.loading.model import BadRecordError
from pgscale.write.model import Destination, TypeFact

Write: TypeAlias = Callable[[Any], str]

_ESCAPES = re.compile(r"[\\\n\r\t\x08\x0b\x0c]")
_ESCAPED = str.maketrans(
    {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\x08": "\\b", "\x0b": "\\v", "\x0c": "\\f"}
)
NULL = "\\N"
BLOCK_ROWS = 1_000


class Number(str):
    """A number as it was written: numeric and jsonb keep every digit."""

    __slots__ = ()


_decode = json.JSONDecoder(parse_float=Number, parse_constant=Number).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class NdjsonPart(PieceOfFile):
    """Lines of NDJSON, sent as rows of COPY's text format."""

    names: tuple[str, ...]
    writers: tuple[Write, ...]

    def count(self) -> int:
        return len(self.piece.index(EVERY_LINE).starts)

    def payload(self, low: int, high: int | None) -> Iterable[bytes]:
        data = self.piece.data
        if low or high is not None:
            index = self.piece.index(EVERY_LINE)
            data = data[index.starts[low] : len(data) if high is None else index.ends[high - 1]]
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for start in range(0, len(lines), BLOCK_ROWS):
            yield self._rows(lines[start : start + BLOCK_ROWS], low + start)

    def _rows(self, lines: Sequence[bytes], at: int) -> bytes:
        rows: list[str] = []
        known = set(self.names)
        columns = tuple(zip(self.names, self.writers, strict=True))
        for number, line in enumerate(lines):
            try:
                found = _decode(line.decode())
            except ValueError as error:
                if not line.strip():
                    continue
                raise BadRecordError(at + number, None, _explain(error)) from None
            except RecursionError:
                raise BadRecordError(at + number, None, "not JSON: nested too deep") from None
            if not isinstance(found, dict):
                raise BadRecordError(at + number, None, f"{_kind(found)}, where an object is wanted")
            row = cast("dict[str, Any]", found)
            if not row.keys() <= known:
                extra = ", ".join(sorted(row.keys() - known))
                raise BadRecordError(at + number, None, f"{extra} is not among the columns of the load")
            rows.append("\t".join([NULL if (v := row.get(n)) is None else write(v) for n, write in columns]) + "\n")
        # What is no character is the server's to refuse, with its line.
        return "".join(rows).encode("utf-8", "surrogatepass")

    def record_at(self, low: int, line: int) -> int:
        index = self.piece.index(EVERY_LINE)
        left = line
        for record in range(low, len(index.starts)):
            # Empty lines are no rows.
            left -= bool(self.piece.data[index.starts[record] : index.ends[record]].strip())
            if left == 0:
                return record
        return len(index.starts) - 1

    def find(self, low: int, high: int, key: Mapping[str, str]) -> int | None:
        data, index = self.piece.data, self.piece.index(EVERY_LINE)
        texts = [text.encode() for text in key.values()]
        for record in range(low, high):
            line = data[index.starts[record] : index.ends[record]]
            # They were sent, so that they are objects, but for empty lines.
            if line.strip() and all(text in line for text in texts):
                row = _decode(line.decode())
                if all(name in row and _plain(row[name]) == text for name, text in key.items()):
                    return record
        return None

    def show(self, record: int) -> tuple[int, bytes]:
        index = self.piece.index(EVERY_LINE)
        text = self.piece.data[index.starts[record] : index.ends[record]].rstrip(b"\r\n")
        return self.piece.first_line + record, text


def _explain(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg} at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 at byte {error.start} of the line"
    return f"not JSON: {error}"


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "a JSON array"
    if value is None:
        return "null"
    return "a JSON string" if isinstance(value, str) and not isinstance(value, Number) else "a JSON number or boolean"


def read_keys(head: bytes, source: str) -> tuple[str, ...]:
    """Return the keys of the first line that is not empty; none when there is no line.

    Raises:
        RefusedError: it is no JSON object.
    """
    line = next((each for each in head.split(b"\n") if each.strip()), None)
    if line is None:
        return ()
    try:
        found = _decode(line.decode())
        if not isinstance(found, dict):
            raise ValueError(f"{_kind(found)}, where an object is wanted")
    except (ValueError, RecursionError) as error:
        reason = _explain(error) if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else str(error)
        raise RefusedError(
            f"The first line of {source} names no columns: {reason}.",
            consequence="Nothing was written.",
            hint="NDJSON is a JSON object a line; --columns names the keys when the first line is not to be trusted.",
        ) from None
    return tuple(cast("dict[str, Any]", found))


def writers_for(destination: Destination, names: Sequence[str]) -> tuple[Write, ...]:
    """Return what turns a JSON value that is not null into a field of COPY's text format, for each column."""
    made: list[Write] = []
    for name in names:
        column = destination.column(name)
        assert column is not None, "the columns are of the table"
        made.append(_writer(destination.types, column.type_oid))
    return tuple(made)


def _writer(types: Mapping[int, TypeFact], oid: int) -> Write:
    fact = types[oid]
    while fact.kind == "d":
        fact = types[fact.base_oid]
    if fact.schema == "pg_catalog" and fact.name in ("json", "jsonb"):
        return lambda value: _escaped(dumps(value))
    if fact.kind == "a":
        element = types[fact.element_oid]
        is_json = element.schema == "pg_catalog" and element.name in ("json", "jsonb")
        return lambda value: _escaped(
            _array(cast("list[Any]", value), is_json) if isinstance(value, list) else _plain(value)
        )
    return _scalar


def _scalar(value: Any) -> str:
    if value.__class__ is str:
        return value.translate(_ESCAPED) if _ESCAPES.search(value) else value
    return _escaped(_plain(value))


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return str(value)
    return dumps(value)


def _escaped(text: str) -> str:
    return text.translate(_ESCAPED) if _ESCAPES.search(text) else text


def dumps(value: Any) -> str:
    """Return a value as JSON, its numbers as they were written."""
    if value is None:
        return "null"
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return "{" + ",".join(f"{_quoted(key)}:{dumps(inner)}" for key, inner in pairs.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(dumps(inner) for inner in cast("list[Any]", value)) + "]"
    return _quoted(value)


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _array(values: list[Any], is_json: bool) -> str:
    parts: list[str] = []
    for value in values:
        if value is None:
            parts.append("NULL")
        elif isinstance(value, list) and not is_json:
            parts.append(_array(cast("list[Any]", value), is_json))
        else:
            text = dumps(value) if is_json else _plain(value)
            parts.append('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return "{" + ",".join(parts) + "}"
