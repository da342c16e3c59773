"""Values of loading a file: what is asked, what a part of a file is, what became of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from pgscale.core.model import Json
from pgscale.errors import PgscaleError, RunFailedError
from pgscale.write.rules import Rule

Format = Literal["csv", "ndjson", "parquet", "arrow"]
FORMATS: tuple[Format, ...] = ("csv", "ndjson", "parquet", "arrow")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a file is to be loaded.

    Args:
        format: found by the file's name or first bytes when None.
        columns: of a CSV without a header, in its order; of NDJSON: the keys; of Parquet and Arrow: those to load.
        header: the first line of a CSV names its columns.
        delimiter, quote, null: of CSV; one character, one character, and the text that stands for NULL unquoted.
        escape: of CSV, one character: stands before a quote, or before another of it, in quotes; the quote when None.
        encoding: of CSV and NDJSON, as Python names it.
        key, rules: merge by this unique key, with these rules, as `upsert` does; without a key rows are inserted.
        workers: connections; by the size of the file when None.
        rejects: a file for the lines that do not fit; without one the first of them ends the load.
        resume: go on with a load of this file that was not finished.
        restart: forget such a load and begin anew; what it loaded stays in the table.
        part_bytes: of a transaction; by the size of the file when None.
    """

    format: Format | None = None
    columns: tuple[str, ...] = ()
    header: bool = True
    delimiter: str = ","
    quote: str = '"'
    escape: str | None = None
    null: str = ""
    encoding: str = "utf-8"
    key: tuple[str, ...] = ()
    rules: Mapping[str, Rule] = field(default_factory=dict[str, Rule])
    workers: int | None = None
    rejects: Path | None = None
    resume: bool = False
    restart: bool = False
    part_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What tells whether a file is still the one that a load began with."""

    size_bytes: int
    modified_ns: int
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A line that the table does not take.

    Args:
        first: of the part it is in; line: from 1, of a columnar file the row from 0.
        text: the line itself, or the row as JSON.
    """

    first: int
    line: int
    column: str | None
    sqlstate: str | None
    reason: str
    text: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What loading parts did; inserted and updated are of the table, rows are of the file."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    rejected: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            rows=self.rows + other.rows,
            inserted=self.inserted + other.inserted,
            updated=self.updated + other.updated,
            rejected=self.rejected + other.rejected,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A part that is in the table: from `first` to before `end`, in the units of the file, and its lines."""

    first: int
    end: int
    first_line: int
    lines: int
    crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What a load did, earlier attempts of it included.

    Args:
        rows: of the file, that are in the table now; rejected: lines in the rejects file.
        inserted, updated: rows of the table; without a key all are inserted.
        parts: transactions; resumed: of them, those of earlier attempts.
        was_complete: there was nothing left to do.
    """

    table: str
    source: str
    format: Format
    counts: Counts
    parts: int
    resumed: int
    workers: int
    seconds: float
    rejects: str | None = None
    warnings: tuple[str, ...] = ()
    was_complete: bool = False

    def to_json(self) -> dict[str, Json]:
        return {
            "table": self.table,
            "source": self.source,
            "format": self.format,
            "rows": self.counts.rows,
            "inserted": self.counts.inserted,
            "updated": self.counts.updated,
            "rejected": self.counts.rejected,
            "rejects": self.rejects,
            "parts": self.parts,
            "resumed_parts": self.resumed,
            "workers": self.workers,
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
            "was_complete": self.was_complete,
        }


class BadRecordError(ValueError):
    """A record does not fit, which is known before the server is asked.

    Args:
        record: its index in the part.
    """

    def __init__(self, record: int, column: str | None, reason: str) -> None:
        super().__init__(reason)
        self.record = record
        self.column = column
        self.reason = reason


class LoadedRowError(PgscaleError):
    """A line does not fit the table, and there is no file for rejects.

    Args:
        line: from 1, of a columnar file the row from 0.
    """

    exit_code = 5

    def __init__(self, fact: str, *, line: int, column: str | None, sqlstate: str | None, consequence: str) -> None:
        super().__init__(
            fact,
            consequence=consequence,
            hint="`--rejects FILE` puts lines that do not fit aside.",
        )
        self.line = line
        self.column = column
        self.sqlstate = sqlstate


class DamagedFileError(RunFailedError):
    """A compressed file ends too early, or is none; going on would end there again."""


class Part(Protocol):
    """A run of whole records of a file, that one transaction loads. Its records are numbered from 0."""

    @property
    def first(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def first_line(self) -> int: ...
    @property
    def lines(self) -> int: ...
    @property
    def crc(self) -> int: ...

    def count(self) -> int:
        """Return how many records there are."""
        ...

    def payload(self, low: int, high: int | None) -> Iterable[bytes]:
        """Return the bytes of COPY for the records from `low` to before `high`, to the end when None.

        Raises:
            BadRecordError: one of them cannot be sent.
        """
        ...

    def record_at(self, low: int, line: int) -> int:
        """Return the record that the server calls line `line` (from 1) of a payload that began with record `low`."""
        ...

    def find(self, low: int, high: int, key: Mapping[str, str]) -> int | None:
        """Return the first record from `low` to before `high` that has these texts in these columns, if one has."""
        ...

    def show(self, record: int) -> tuple[int, bytes]:
        """Return the place of a record in the file, and its text."""
        ...
