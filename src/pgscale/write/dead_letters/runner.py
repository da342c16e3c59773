"""Write the rows of dead letters again, exactly once each, or drop the letters."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import psycopg

from pgscale.connect.retry import CONFLICTS, retrying
from pgscale.connect.session import CONTROL, Session, open_session
from pgscale.errors import ConnectError, PermissionDeniedError, PgscaleError
from pgscale.write.copying import copy
from pgscale.write.dead_letters.model import WHOLE
from pgscale.write.dead_letters.reader import Filter, count_letters, has_letters, read_each
from pgscale.write.dead_letters.storing import QUERIES
from pgscale.write.dead_letters.tagging import NotRestorableError, from_json
from pgscale.write.failures import as_the_servers
from pgscale.write.model import RowError
from pgscale.write.upserting import upsert

# In what is told; the letters themselves keep every reason.
MOST_FAILURES_TOLD = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A letter that could not be written this time either."""

    id: int
    table: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """What a retry did.

    Args:
        written: letters whose rows are in their tables now; failed: those that stay; gone: those that somebody else
            retried or dropped meanwhile.
        failures: the first of the failed ones.
    """

    written: int
    failed: int
    gone: int
    failures: tuple[Failure, ...]


def retry_letters(dsn: str | None, wanted: Filter, watch: Callable[[int, int], None] | None = None) -> Retried:
    """Write the rows of letters again, oldest first.

    A letter is deleted in the transaction that writes its row: whatever happens, the row is in one of the two places,
    and any number may retry at once. One that fails again stays, with the new reason and one more try.

    Args:
        watch: told how many are done, and of how many.

    Raises:
        PermissionDeniedError: the role may not read, change or delete letters; ConnectError: the connection was lost.
    """
    counts = {"written": 0, "failed": 0, "gone": 0}
    failures: deque[Failure] = deque(maxlen=MOST_FAILURES_TOLD)
    with open_session(dsn, CONTROL) as session:
        if not has_letters(session):
            return Retried(**counts, failures=())
        # CHECKs and triggers of the application find what they name by the search_path it has.
        session.execute("RESET search_path; RESET timezone; RESET row_security")
        total, last = count_letters(session, wanted)
        for done, letter in enumerate(read_each(session, wanted, last), start=1):
            outcome, reason = _retry_one(session, letter.id)
            counts[outcome] += 1
            if outcome == "failed" and len(failures) < MOST_FAILURES_TOLD:
                failures.append(Failure(id=letter.id, table=letter.table, reason=reason))
            if watch is not None:
                watch(done, total)
    return Retried(**counts, failures=tuple(failures))


def drop_letters(dsn: str | None, wanted: Filter) -> int:
    """Delete letters, and the rows they keep; return how many.

    Raises:
        PermissionDeniedError: the role may not read or delete letters.
    """
    dropped = 0
    with open_session(dsn, CONTROL) as session:
        if not has_letters(session):
            return 0
        _, last = count_letters(session, wanted)
        letters = read_each(session, wanted, last)
        while part := [letter.id for letter in islice(letters, 1_000)]:
            try:
                dropped += session.execute(QUERIES.get("drop_letters", 0), {"ids": part}).rowcount
            except psycopg.errors.InsufficientPrivilege as error:
                raise _not_permitted(error) from None
    return dropped


def _retry_one(session: Session, number: int) -> tuple[str, str]:
    """Return what became of a letter, and why it failed."""

    def once() -> str:
        try:
            return _write(session, number)
        except PgscaleError as error:
            # A deadlock or a serialization failure is worth another attempt at once.
            raise as_the_servers(error, CONFLICTS) from error.__cause__

    try:
        return retrying(once, states=CONFLICTS, give_up_after_s=30), ""
    except (PgscaleError, psycopg.Error) as error:
        if isinstance(error, PermissionDeniedError):
            raise
        if session.closed:
            raise ConnectError(
                f"The connection was lost at letter {number}.",
                consequence="Every row is either in its table or still a letter.",
                hint="Run it again.",
            ) from error
        return "failed", _note_failure(session, number, error)


def _write(session: Session, number: int) -> str:
    with session.transaction():
        try:
            taken = session.execute(QUERIES.get("take_letter", 0), {"id": number}).fetchone()
        except psycopg.errors.InsufficientPrivilege as error:
            raise _not_permitted(error) from None
        if taken is None:
            return "gone"
        table, kept, merge = taken
        row = cast("dict[str, Any]", from_json(kept))
        if set(row) == {WHOLE}:
            raise NotRestorableError("The row has no names of columns, so it is not known where its values go.")
        if merge is None:
            written = copy(session, table, [row]).rows
        else:
            upsert(session, table, [row], merge["key"], merge["rules"])
            written = 1
        if not written:
            raise RowError(0, None, "a trigger left it out")
    return "written"


def _note_failure(session: Session, number: int, error: PgscaleError | psycopg.Error) -> str:
    server = error if isinstance(error, psycopg.Error) else error.__cause__
    state = server.sqlstate if isinstance(server, psycopg.Error) else None
    column = error.column if isinstance(error, RowError) else None
    if isinstance(server, psycopg.Error):
        column = column or server.diag.column_name
        reason = (server.diag.message_primary or str(server)).rstrip(".")
    else:
        reason = error.reason if isinstance(error, RowError) else str(error)
    reason = reason.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
    params = {"id": number, "column": column, "sqlstate": state, "reason": reason}
    session.execute(QUERIES.get("note_try", 0), params)
    return f"{reason} ({state})" if state else reason


def _not_permitted(error: psycopg.Error) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"Letters cannot be taken: {str(error).splitlines()[0]}.",
        consequence="Nothing was changed.",
        hint="GRANT SELECT, UPDATE, DELETE ON pgscale.dead_letter TO the role.",
    )
