"""Parts of a CSV: the server reads it, we only cut it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pgscale.errors import RefusedError, UsageError
from pgscale.write.loading.lines import PieceOfFile, Style, find_end_marker, last_boundary
from pgscale.write.loading.model import BadRecordError, LoadOptions

# What psycopg sends in one message at most: a larger piece would be copied once more.
BLOCK_BYTES = 128 * 1024
MOST_HEADER_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvPart(PieceOfFile):
    """Lines of a CSV, sent as they are.

    Args:
        names: the columns, in the order of the file.
        has_marker: there is a line of a backslash and a point, which the server takes for the end of all data.
    """

    names: Sequence[str]
    delimiter: str
    style: Style
    has_marker: bool

    def count(self) -> int:
        return len(self.piece.index(self.style).starts)

    def payload(self, low: int, high: int | None) -> Iterable[bytes]:
        data = self.piece.data
        at, end = 0, len(data)
        if low or high is not None:
            index = self.piece.index(self.style)
            at = index.starts[low]
            end = end if high is None else index.ends[high - 1]
        if self.has_marker:
            marker = find_end_marker(data[at:end])
            if marker is not None:
                starts = self.piece.index(self.style).starts
                record = max(n for n, start in enumerate(starts) if start <= at + marker)
                raise BadRecordError(record, None, r"a line of \. alone, where servers before 18 stop reading")
        view = memoryview(data)
        for start in range(at, end, BLOCK_BYTES):
            yield bytes(view[start : min(start + BLOCK_BYTES, end)])

    def record_at(self, low: int, line: int) -> int:
        """Count as the server does (CopyReadLineText): a record is a line, and so is each end of a line in its quotes.

        In quotes it counts newlines where lines end in one alone, else carriage returns; and how lines end it knows
        from the end of the first record on, so in that one newlines do not count.
        """
        data, index = self.piece.data, self.piece.index(self.style)
        last = len(index.starts) - 1
        if not self.style.quote or self.style.quote not in data:
            return min(low + line - 1, last)
        counted = b"\r"
        left = line
        for record in range(low, last + 1):
            start, end = index.starts[record], index.ends[record]
            text_end = end - (2 if data[end - 2 : end] == b"\r\n" else 1 if data[end - 1 : end] in b"\r\n" else 0)
            left -= 1 + data.count(counted, start, text_end)
            if left <= 0:
                return record
            if record == low and data[text_end:end] == b"\n":
                counted = b"\n"
        return last

    def find(self, low: int, high: int, key: Mapping[str, str]) -> int | None:
        if not set(key) <= set(self.names):
            return None
        data, index = self.piece.data, self.piece.index(self.style)
        wanted = [(self.names.index(name), text) for name, text in key.items()]
        texts = [text.encode() for text in key.values()]
        for record in range(low, high):
            line = data[index.starts[record] : index.ends[record]]
            if all(text in line for text in texts):
                fields = read_fields(line.decode("utf-8", "replace"), self.style, self.delimiter)
                if all(at < len(fields) and fields[at] == text for at, text in wanted):
                    return record
        return None

    def show(self, record: int) -> tuple[int, bytes]:
        index = self.piece.index(self.style)
        line = index.last_lines[record - 1] if record else 0
        text = self.piece.data[index.starts[record] : index.ends[record]].rstrip(b"\r\n")
        return self.piece.first_line + line, text


def check_style(options: LoadOptions) -> None:
    """Raise when the characters that CSV is written with are none.

    Raises:
        UsageError
    """
    escape = options.quote if options.escape is None else options.escape
    for name, value in (("--delimiter", options.delimiter), ("--quote", options.quote), ("--escape", escape)):
        if len(value.encode()) != 1 or value in "\r\n":
            raise UsageError(f"{name} is one character of ASCII, not {value!r}.")
    if options.delimiter == options.quote:
        raise UsageError("--delimiter and --quote are the same.")
    if set(options.null) & {options.quote, options.delimiter, "\r", "\n"}:
        raise UsageError("--null holds the quote, the delimiter or a line's end.")


def read_header(head: bytes, style: Style, options: LoadOptions, source: str) -> tuple[tuple[str, ...], int]:
    """Return the names of the first record and where the next one begins.

    Args:
        head: the beginning of the file, the whole of it when that is all.

    Raises:
        RefusedError: there is no first line that could be a header.
    """
    end = first_end(head, style)
    try:
        text = head[:end].decode()
    except UnicodeDecodeError as error:
        raise RefusedError(
            f"The first line of {source} is no UTF-8 (byte {error.start}).",
            consequence="Nothing was written.",
            hint="--encoding names what it is: latin-1, cp1252, utf-16 …",
        ) from None
    names = read_fields(text, style, options.delimiter)
    if not any(name.strip() for name in names):
        raise RefusedError(
            f"The first line of {source} is empty: it names no columns.",
            consequence="Nothing was written.",
            hint="--no-header when there is none.",
        )
    return names, end


def read_fields(record: str, style: Style, delimiter: str) -> tuple[str, ...]:
    """Return the fields of a record as the server reads them (CopyReadAttributesCSV)."""
    text = record.removesuffix("\n").removesuffix("\r")
    quote, escape = style.quote.decode(), (style.escape or style.quote).decode()
    fields: list[str] = []
    field: list[str] = []
    at, in_quotes = 0, False
    while at < len(text):
        character, following = text[at], text[at + 1 : at + 2]
        at += 1
        if in_quotes and character == escape and following and following in (quote, escape):
            field.append(following)
            at += 1
        elif character == quote:
            in_quotes = not in_quotes
        elif character == delimiter and not in_quotes:
            fields.append("".join(field))
            field = []
        else:
            field.append(character)
    return (*fields, "".join(field))


def first_end(head: bytes, style: Style) -> int:
    """Return where the first record ends; where the bytes end when it does not."""
    at = 0
    while (found := head.find(style.newline, at)) >= 0:
        if last_boundary(head[: found + 1], style) == found + 1:
            return found + 1
        at = found + 1
    return len(head)
