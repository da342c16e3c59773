"""Write the rows of dead letters again, exactly once each, or drop the letters."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, cast

import psycopg

from pgscale.connect.retry import CONFLICTS, has_sqlstate, retrying
from pgscale.connect.session import CONTROL, Session, open_session
from pgscale.core.killing import kill_point
from pgscale.errors import ConnectError, PermissionDeniedError, PgscaleError
from pgscale.write.copying import copy_steps
from pgscale.write.dead_letters.model import WHOLE
from pgscale.write.dead_letters.reader import Filter, TakenLetter, count_letters, has_letters, read_each, take_part
from pgscale.write.dead_letters.sink import OpenSink, Sink
from pgscale.write.dead_letters.storing import QUERIES, kept_reason
from pgscale.write.dead_letters.tagging import NotRestorableError, from_json
from pgscale.write.effects import Steps, drive
from pgscale.write.failures import as_the_servers, is_lost, translated
from pgscale.write.isolating import Fault
from pgscale.write.model import RowError
from pgscale.write.pacing import Pacer
from pgscale.write.sources import Rows
from pgscale.write.upserting import upsert_steps

# In what is told; the letters themselves keep every reason.
MOST_FAILURES_TOLD = 100
# Of a transaction: what a batch costs besides its rows is nothing then, and the rows are in memory.
TARGET_S, MOST_LETTERS = 1.0, 1_000
# A part that was too much for the server at once may do in smaller ones.
_TOO_MUCH = ("53", "57014")


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
            retried or dropped meanwhile, or is about to.
        failures: the first of the failed ones.
    """

    written: int
    failed: int
    gone: int
    failures: tuple[Failure, ...]


def retry_letters(dsn: str | None, wanted: Filter, watch: Callable[[int, int], None] | None = None) -> Retried:
    """Write the rows of letters again, oldest first, many in one transaction.

    A letter is deleted in the transaction that writes its row: whatever happens, the row is in one of the two places,
    and any number may retry at once. One that fails again stays, with the new reason and one more try, and keeps none
    of the others.

    Args:
        watch: told how many are done, and of how many.

    Raises:
        PermissionDeniedError: the role may not read, change or delete letters; ConnectError: the connection was lost.
    """
    written = failed = 0
    failures: list[Failure] = []
    with open_session(dsn, CONTROL) as session:
        if not has_letters(session):
            return Retried(written=0, failed=0, gone=0, failures=())
        # CHECKs and triggers of the application find what they name by the search_path it has.
        session.execute("RESET search_path; RESET timezone; RESET row_security")
        total, last = count_letters(session, wanted)
        for part in _parts(session, wanted, last):
            written += len(part.written)
            failed += len(part.faults)
            failures += part.failures[: MOST_FAILURES_TOLD - len(failures)]
            if watch is not None:
                watch(written + failed, total)
    gone = max(0, total - written - failed)
    return Retried(written=written, failed=failed, gone=gone, failures=tuple(failures))


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


@dataclass(frozen=True, slots=True)
class _Part:
    """What became of the letters of one transaction: ids of those whose rows are in, and the faults of the others."""

    letters: Sequence[TakenLetter]
    faults: Mapping[int, Fault]

    @property
    def written(self) -> list[int]:
        return [letter.id for letter in self.letters if letter.id not in self.faults]

    @property
    def failures(self) -> list[Failure]:
        told = ((one, self.faults[one.id]) for one in self.letters if one.id in self.faults)
        return [
            Failure(id=one.id, table=one.table, reason=f"{f.reason} ({f.sqlstate})" if f.sqlstate else f.reason)
            for one, f in told
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Letters of one table whose rows have the same columns and are written the same way."""

    table: str
    merge: Mapping[str, Any] | None
    names: frozenset[str]
    ids: list[int] = field(default_factory=list[int])
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


class _LeftOut(PgscaleError):  # noqa: N818 because of many rows it is no error: it says to write them one by one
    """Not every row that was taken is in the table."""

    def __init__(self) -> None:
        super().__init__("a trigger left it out")


class _Faults:
    """A sink that only notes what is wrong, by the row's place among those given."""

    def __init__(self) -> None:
        self.found: dict[int, Fault] = {}

    def opened(self, table: str, merge: Mapping[str, Any] | None) -> Sink:
        del table, merge
        return self

    @property
    def count(self) -> int:
        return len(self.found)

    def take(
        self, row: Mapping[str, Any], index: int, column: str | None, sqlstate: str | None, reason: str
    ) -> Steps[None]:
        del row
        self.found[index] = Fault(column=column, sqlstate=sqlstate, reason=reason)
        yield from ()

    def close(self) -> Steps[None]:
        yield from ()


def _parts(session: Session, wanted: Filter, last: int) -> Iterator[_Part]:
    """Write part after part; fewer letters at a time where many are too many."""
    pacer, after = Pacer(TARGET_S, MOST_LETTERS), 0
    while True:
        began, seen = time.perf_counter(), list[TakenLetter]()
        try:
            part = retrying(
                partial(_write_part, session, wanted, after, last, pacer.rows, seen),
                states=CONFLICTS,
                give_up_after_s=30,
            )
        except PermissionDeniedError:
            raise
        except (PgscaleError, psycopg.Error) as error:
            if is_lost(error):
                raise _lost(seen) from error
            if not seen:
                raise
            if len(seen) > 1:
                # What fails at COMMIT, or for what the rows are together, says nothing about which of them it is.
                pacer.note(len(seen), float("inf"))
                continue
            part = _Part(seen, {seen[0].id: _fault(error)})
            _note(session, part)
        else:
            pacer.note(len(seen), time.perf_counter() - began)
        if not seen:
            return
        after = seen[-1].id
        yield part


def _write_part(session: Session, wanted: Filter, after: int, last: int, most: int, seen: list[TakenLetter]) -> _Part:
    """Write the next letters in a transaction; `seen` tells which, also when it fails."""
    try:
        with session.transaction():
            seen[:] = _take(session, wanted, after, last, most)
            part = _write(session, seen)
            kill_point("letters:written")
    except PgscaleError as error:
        # A deadlock or a serialization failure is worth another attempt at once.
        raise as_the_servers(error, CONFLICTS) from error.__cause__
    kill_point("letters:committed")
    return part


def _take(session: Session, wanted: Filter, after: int, last: int, most: int) -> list[TakenLetter]:
    try:
        return take_part(session, wanted, after, last, most)
    except psycopg.errors.InsufficientPrivilege as error:
        raise _not_permitted(error) from None


def _write(session: Session, letters: Sequence[TakenLetter]) -> _Part:
    """Write the rows of letters, delete those letters, and note why the others failed."""
    faults: dict[int, Fault] = {}
    for run in _runs(letters, faults):
        faults |= _write_run(session, run)
    part = _Part(letters, faults)
    if part.written:
        try:
            session.execute(QUERIES.get("drop_letters", 0), {"ids": part.written})
        except psycopg.errors.InsufficientPrivilege as error:
            raise _not_permitted(error) from None
    _note(session, part)
    return part


def _runs(letters: Sequence[TakenLetter], faults: dict[int, Fault]) -> list[_Run]:
    """Return the letters in groups that can be written at once, so that each table's keep their order.

    Args:
        faults: takes those whose rows cannot be restored.
    """
    runs: list[_Run] = []
    newest: dict[str, _Run] = {}
    for letter in letters:
        try:
            row = cast("dict[str, Any]", from_json(letter.row))
            if set(row) == {WHOLE}:
                raise NotRestorableError("The row has no names of columns, so it is not known where its values go.")
        except NotRestorableError as error:
            faults[letter.id] = _fault(error)
            continue
        run = newest.get(letter.table)
        if run is None or (run.merge, run.names) != (letter.merge, row.keys()):
            run = newest[letter.table] = _Run(table=letter.table, merge=letter.merge, names=frozenset(row))
            runs.append(run)
        run.ids.append(letter.id)
        run.rows.append(row)
    return runs


def _write_run(session: Session, run: _Run) -> dict[int, Fault]:
    """Write rows but for those that fail again; return the faults of these, by the letter's id."""
    faults = _Faults()
    try:
        with session.transaction(), translated(run.table):
            # Of one row alone it need not be found out which is bad.
            drive(_steps(session.info, run, None if len(run.ids) == 1 else faults), session, Rows(run.rows))
    except (_LeftOut, PermissionDeniedError) as error:
        if len(run.ids) > 1:
            return _write_alone(session, run)
        return {run.ids[0]: _fault(error)}
    except (PgscaleError, psycopg.Error) as error:
        server = error if isinstance(error, psycopg.Error) else error.__cause__
        is_too_much = isinstance(server, psycopg.Error) and (server.sqlstate or "").startswith(_TOO_MUCH)
        if is_lost(error) or has_sqlstate(server, CONFLICTS) or (is_too_much and len(run.ids) > 1):
            raise
        return dict.fromkeys(run.ids, _fault(error))
    return {run.ids[place]: fault for place, fault in faults.found.items()}


def _steps(info: psycopg.ConnectionInfo, run: _Run, faults: _Faults | None) -> Steps[None]:
    open_sink: OpenSink | None = None if faults is None else faults.opened
    if run.merge is not None:
        key, rules = tuple(run.merge["key"]), dict(run.merge["rules"])
        yield from upsert_steps(info, run.table, key, rules, None, (), open_sink)
        return
    copied = yield from copy_steps(info, run.table, None, (), open_sink)
    if copied.rows + copied.dead_letters < len(run.ids):
        raise _LeftOut


def _write_alone(session: Session, run: _Run) -> dict[int, Fault]:
    faults: dict[int, Fault] = {}
    for number, row in zip(run.ids, run.rows, strict=True):
        one = _Run(table=run.table, merge=run.merge, names=run.names, ids=[number], rows=[row])
        faults |= _write_run(session, one)
    return faults


def _note(session: Session, part: _Part) -> None:
    """Keep the new reasons of the letters that stay."""
    if not part.faults:
        return
    encoding = session.execute(QUERIES.get("read_encoding", 0)).fetchone()
    kept = "utf-8" if encoding == ("UTF8",) else "ascii"
    faults = list(part.faults.values())
    params = {
        "ids": list(part.faults),
        "columns": [fault.column for fault in faults],
        "states": [fault.sqlstate for fault in faults],
        "reasons": [kept_reason(fault.reason, kept) for fault in faults],
    }
    try:
        session.execute(QUERIES.get("note_tries", 0), params)
    except psycopg.errors.InsufficientPrivilege as error:
        raise _not_permitted(error) from None


def _fault(error: PgscaleError | psycopg.Error) -> Fault:
    server = error if isinstance(error, psycopg.Error) else error.__cause__
    column = error.column if isinstance(error, RowError) else None
    if isinstance(server, psycopg.Error):
        reason = (server.diag.message_primary or str(server)).rstrip(".")
        return Fault(column=column or server.diag.column_name, sqlstate=server.sqlstate, reason=reason)
    return Fault(column=column, sqlstate=None, reason=error.reason if isinstance(error, RowError) else str(error))


def _lost(letters: Sequence[TakenLetter]) -> ConnectError:
    where = f" at the letters {letters[0].id} to {letters[-1].id}" if letters else ""
    return ConnectError(
        f"The connection was lost{where}.",
        consequence="Every row is either in its table or still a letter.",
        hint="Run it again.",
    )


def _not_permitted(error: psycopg.Error) -> PermissionDeniedError:
    return PermissionDeniedError(
        f"Letters cannot be taken: {str(error).splitlines()[0]}.",
        consequence="Nothing was changed.",
        hint="GRANT SELECT, UPDATE, DELETE ON pgscale.dead_letter TO the role.",
    )
