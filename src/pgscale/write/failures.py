"""What the server says of a write, as an error that names the row where it can be known."""

from __future__ import annotations

import re
from typing import Protocol

import psycopg

from pgscale.errors import PgscaleError
from pgscale.write.model import RowError

_LINE = re.compile(r"^COPY (?P<table>.*?), line (?P<line>\d+)(?:, column (?P<column>[^:\n]+))?", re.MULTILINE)


def find_line(error: psycopg.Error) -> tuple[int, str | None] | None:
    """Return which row of a COPY the server blames, from 0, and its column where it says so.

    None where it blames none, and where it speaks another language than English.
    """
    found = _LINE.search(error.diag.context or "")
    return None if found is None else (int(found["line"]) - 1, found["column"])


def blames_a_value(error: psycopg.Error) -> bool:
    """Tell whether a type calls a value a syntax error (ltree, tsquery, jsonpath), as a wrong statement is called."""
    found = find_line(error)
    return error.sqlstate == "42601" and found is not None and found[1] is not None


# In every language: the columns of a key and its values, in brackets, with an equals sign between.
_KEY = re.compile(r"\((?P<names>[^()]+)\)=\((?P<values>.*)\)", re.DOTALL)


def find_key(error: psycopg.Error) -> dict[str, str] | None:
    """Return the key that the server blames, its values as text by column, as well as they can be told apart."""
    found = _KEY.search(error.diag.message_detail or "")
    if found is None:
        return None
    names = found["names"].split(", ")
    values = found["values"].split(", ") if len(names) > 1 else [found["values"]]
    return dict(zip(names, values, strict=True)) if len(names) == len(values) else None


class WriteFailedError(PgscaleError):
    """The database refused a write as a whole."""

    exit_code = 5


class Fallible(Protocol):
    """What rows are read from.

    Args:
        failure: what it raised, when it was read.
    """

    @property
    def failure(self) -> Exception | None: ...


class translated:  # noqa: N801 because it reads as a word in a with statement
    """Turns what the server says of a COPY into an error that names the row.

    Args:
        source: of the rows, which may be another database: what it raises is its own, and goes through as it is.
    """

    def __init__(self, table: str, source: Fallible | None = None) -> None:
        self.table, self._source = table, source

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        del kind, trace
        if not isinstance(error, psycopg.Error) or error.sqlstate is None:
            return
        if self._source is not None and error is self._source.failure:
            return
        reason = (error.diag.message_primary or str(error)).rstrip(".")
        found = _LINE.search(error.diag.context or "")
        if found is not None and not found["table"].startswith("_pgscale_"):
            column = error.diag.column_name or found["column"]
            raise RowError(int(found["line"]) - 1, column, f"{reason} ({error.sqlstate})") from error
        raise WriteFailedError(
            f"{self.table} could not be written: {reason} ({error.sqlstate}).",
            consequence="Nothing of this call was written.",
        ) from error


def as_the_servers(error: PgscaleError, states: frozenset[str]) -> Exception:
    """Return what the server said when its SQLSTATE is one of these, else the error itself."""
    cause = error.__cause__
    return cause if isinstance(cause, psycopg.Error) and cause.sqlstate in states else error


def is_lost(error: BaseException) -> bool:
    """Tell whether the connection is gone, so that nothing more can be heard on it."""
    server = error if isinstance(error, psycopg.Error) else error.__cause__
    if not isinstance(server, psycopg.Error):
        return False
    if server.sqlstate is None:
        return isinstance(server, psycopg.OperationalError)
    return server.diag.severity_nonlocalized in ("FATAL", "PANIC") or server.sqlstate.startswith("08")
