"""Files of SQL run within a block: what cannot be in a transaction is refused before; each statement is told of."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from pgscale.connect.profiles.model import ResolvedProfile
from pgscale.core.model import Json, shorten
from pgscale.errors import PermissionDeniedError, PgscaleError, RefusedError, UsageError
from pgscale.sql.statements import Statement, line_at

_CONTROL = frozenset({"BEGIN", "COMMIT", "END", "ABORT", "START"})
_ROLLED_BACK = "Everything was rolled back; nothing of the file remains."


class StatementFailedError(PgscaleError):
    """A statement of a file failed, and all of them are rolled back.

    Args:
        line: where in the file, from 1; sqlstate: of the server, None when it said none.
    """

    exit_code = 5

    def __init__(self, fact: str, *, consequence: str, hint: str, line: int, sqlstate: str | None) -> None:
        super().__init__(fact, consequence=consequence, hint=hint)
        self.line = line
        self.sqlstate = sqlstate


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A file of statements.

    Args:
        file: its name, for messages.
    """

    file: str
    text: str
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A statement that has run.

    Args:
        command: the server's word for what it did, `INSERT`; rows: that it returned or changed, None where it has none.
    """

    line: int
    statement: str
    command: str
    rows: int | None
    seconds: float

    def to_json(self) -> dict[str, Json]:
        return {
            "line": self.line,
            "statement": self.statement,
            "command": self.command,
            "rows": self.rows,
            "seconds": round(self.seconds, 6),
        }


def refuse_untransactional(script: Script) -> None:
    """Refuse a file with statements that end the transaction or cannot be in one.

    Raises:
        RefusedError: with each of them, by file and line.
    """
    reasons = [
        f"{script.file}:{statement.line}: {why}."
        for statement in script.statements
        if (why := why_not(statement.terms))
    ]
    if reasons:
        raise RefusedError(
            f"{script.file} cannot be run in one transaction.",
            reasons=tuple(reasons),
            consequence="Nothing was run.",
            hint="Run those by themselves; the transaction begins and ends with the file.",
        )


def why_not(words: Sequence[str]) -> str:
    """Return why a statement cannot be in a block; nothing when it can, or when only the server knows.

    The rules are those of PreventInTransactionBlock in PostgreSQL's source.

    Args:
        words: its terms.
    """
    first, second = ([*words[:2], "", ""])[:2]
    shown = " ".join((first, second)).strip()
    if first in _CONTROL or (first == "ROLLBACK" and "TO" not in words[1:3]):
        return f"{first} ends or begins a transaction"
    if (first, second) == ("PREPARE", "TRANSACTION"):
        return f"{shown} ends the transaction"
    if first == "COPY" and {"STDIN", "STDOUT"} & set(words):
        return "COPY with data of the client is for psql; `pgscale load` takes files"
    if _is_alone(words):
        shown = first if first in {"VACUUM", "CLUSTER"} else shown
        is_marked = "CONCURRENTLY" in words and second != "CONCURRENTLY"
        return f"{shown}{' … CONCURRENTLY' if is_marked else ''} cannot be in a transaction"
    return ""


def _is_alone(words: Sequence[str]) -> bool:  # noqa: PLR0911 because each command has its rule
    first, second = ([*words[:2], "", ""])[:2]
    match first:
        case "VACUUM":
            return True
        case "CLUSTER":
            return set(words) <= {"CLUSTER", "VERBOSE"}
        case "CREATE":
            is_connected = not {"CREATE_SLOT", "CONNECT"} & set(words)
            return (
                second in {"DATABASE", "TABLESPACE"}
                or (second == "SUBSCRIPTION" and is_connected)
                or _names_index_concurrently(words)
            )
        case "DROP":
            return second in {"DATABASE", "TABLESPACE"} or _names_index_concurrently(words)
        case "REINDEX":
            return "CONCURRENTLY" in words or bool({"SCHEMA", "DATABASE", "SYSTEM"} & set(words[1:4]))
        case "ALTER":
            return (
                second == "SYSTEM"
                or (second == "DATABASE" and "TABLESPACE" in words)
                or (second == "SUBSCRIPTION" and "REFRESH" in words)
                or (second == "TABLE" and "DETACH" in words and words[-1] == "CONCURRENTLY")
            )
        case "DISCARD":
            return second == "ALL"
        case _:
            return False


def _names_index_concurrently(words: Sequence[str]) -> bool:
    rest = [word for word in words[1:4] if word != "UNIQUE"]
    return rest[:2] == ["INDEX", "CONCURRENTLY"]


def run(connection: psycopg.Connection[Any], script: Script, profile: ResolvedProfile) -> Iterator[Ran]:
    """Run the statements one after the other in the transaction that is open, and yield each when it is done.

    Raises:
        StatementFailedError, PermissionDeniedError: the server refused one; with file and line.
        UsageError: one has letters that the connection's client_encoding has not.
    """
    texts = [_encoded(statement, script, connection.info.encoding) for statement in script.statements]
    for statement, text in zip(script.statements, texts, strict=True):
        started = time.perf_counter()
        try:
            with connection.execute(text) as cursor:
                tag, rows = cursor.statusmessage or "", cursor.rowcount
        except psycopg.Error as error:
            raise _failed(error, script, statement, profile) from error
        command, _, count = tag.partition(" ")
        yield Ran(
            line=statement.line,
            statement=shorten(statement.shown, 80),
            command=command if count.replace(" ", "").isdigit() else tag,
            rows=rows if rows >= 0 else None,
            seconds=time.perf_counter() - started,
        )


def _encoded(statement: Statement, script: Script, encoding: str) -> bytes:
    try:
        return statement.whole.encode(encoding)
    except UnicodeEncodeError as error:
        line = line_at(script.text, statement.start + error.start)
        letter = error.object[error.start]
        raise UsageError(
            f"{script.file}:{line}: the connection's client_encoding, {encoding}, has no {letter!r}.",
            consequence="Nothing was run.",
            hint="Take client_encoding out of the DSN, or set it to UTF8.",
        ) from None


def at_commit(error: psycopg.Error, script: Script) -> StatementFailedError:
    """Return the error for a COMMIT that failed: a deferred constraint, or a connection that was lost."""
    line = script.statements[-1].line
    # Who waits for a standby is ended after the transaction has been committed here.
    if error.sqlstate is None or error.diag.severity_nonlocalized in {"FATAL", "PANIC"}:
        return StatementFailedError(
            f"{script.file}: the connection was lost at COMMIT.",
            consequence="Whether the file was committed is not known.",
            hint="Look in the database before you run it again.",
            line=line,
            sqlstate=error.sqlstate,
        )
    return StatementFailedError(
        f"{script.file}: COMMIT failed: {_said(error)}.",
        consequence=_ROLLED_BACK,
        hint=error.diag.message_detail or "",
        line=line,
        sqlstate=error.sqlstate,
    )


def _failed(error: psycopg.Error, script: Script, statement: Statement, profile: ResolvedProfile) -> PgscaleError:
    line = statement.line
    if (position := error.diag.statement_position) is not None:
        line = line_at(script.text, statement.start + int(position) - 1)
    fact = f"{script.file}:{line}: {_said(error)}."
    hint = _hint(error, profile)
    if error.sqlstate == "42501":
        return PermissionDeniedError(fact, consequence=_ROLLED_BACK, hint=hint)
    return StatementFailedError(fact, consequence=_ROLLED_BACK, hint=hint, line=line, sqlstate=error.sqlstate)


def _said(error: psycopg.Error) -> str:
    said = (error.diag.message_primary or " ".join(str(error).split())).rstrip(".")
    return f"{said} ({error.sqlstate})" if error.sqlstate else said


def _hint(error: psycopg.Error, profile: ResolvedProfile) -> str:
    """Return the server's hint, or which setting of the profile it was that ended the statement."""
    said = error.diag.message_primary or ""
    for setting in profile.settings:
        if setting.name.endswith("_timeout") and setting.name.replace("_", " ") in said.replace("-", " "):
            return f"{setting.name} = {setting.value} of profile {profile.name} ({setting.source})."
    parts = (error.diag.message_detail, error.diag.message_hint)
    return " ".join(part for part in parts if part)
