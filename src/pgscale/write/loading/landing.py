"""Bring one part into the table: its rows and the note of it in one transaction, whatever does not fit set aside."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgscale.connect.retry import retrying
from pgscale.connect.session import Session
from pgscale.core.model import QName
from pgscale.errors import PgscaleError
from pgscale.write import ddl as write_ddl
from pgscale.write.destination import refuse_if_altered
from pgscale.write.effects import drive
from pgscale.write.isolating import blames_a_row
from pgscale.write.loading import ddl, store
from pgscale.write.loading.model import BadRecordError, Counts, LoadedRowError, Part, Reject
from pgscale.write.loading.rejects import RejectsFile
from pgscale.write.model import Destination
from pgscale.write.sources import Rows

_LINE = re.compile(r"^COPY .*?, line (\d+)(?:, column ([^:\n]+))?", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """How rows are merged into the table, by way of a staging table.

    Args:
        counts_updates: as of `ddl.upsert`.
    """

    staging: QName
    create: sql.Composed
    statement: sql.Composed
    counts_updates: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where parts go.

    Args:
        shown: the table as displayed; unit: what a record is called: `line` or `row`.
        copy: the COPY into the table, or into the staging table of `merge`.
        encoded_for: what the rows are encoded for, where they do not go as text.
    """

    shown: str
    unit: str
    copy: sql.Composed
    merge: Merge | None
    encoded_for: Destination | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Culprit:
    record: int | None
    column: str | None
    sqlstate: str | None
    reason: str


def land(
    session: Session,
    load_id: int,
    target: Target,
    part: Part,
    rejects: RejectsFile | None,
    kill_point: Callable[[str], None],
    sleep: Callable[[float], None],
    sent: Callable[[], None],
) -> Counts:
    """Bring a part into the table and note it, in one transaction.

    A deadlock with another writer is tried again.

    Args:
        sent: is told when all bytes are, and the server works on them.

    Raises:
        LoadedRowError: a record does not fit, and there is no file for rejects. Nothing of the part is in the table.
    """

    def once() -> Counts:
        try:
            return _whole(session, load_id, target, part, kill_point, sent)
        except (psycopg.Error, BadRecordError) as error:
            if not _is_rows_fault(error):
                raise
            return _without_bad(session, load_id, target, part, rejects, error, kill_point)

    return retrying(once, sleep=sleep)


def _whole(
    session: Session,
    load_id: int,
    target: Target,
    part: Part,
    kill_point: Callable[[str], None],
    sent: Callable[[], None],
) -> Counts:
    with session.transaction():
        counts = _write(session, target, part, 0, None, sent)
        _check_types(session, target)
        kill_point("load:copied")
        store.mark(session, load_id, part, counts)
        kill_point("load:marked")
    kill_point("load:committed")
    return counts


def _without_bad(
    session: Session,
    load_id: int,
    target: Target,
    part: Part,
    rejects: RejectsFile | None,
    error: psycopg.Error | BadRecordError,
    kill_point: Callable[[str], None],
) -> Counts:
    with session.transaction():
        session.execute(ddl.all_constraints_now())
        counts, bad = _isolate(session, target, part, error, stop_at_first=rejects is None)
        _check_types(session, target)
        if rejects is None and bad:
            raise _no_rejects(target, bad[0])
        kill_point("load:copied")
        if rejects is not None and bad:
            rejects.add(sorted(bad, key=lambda one: one.line))
        kill_point("load:rejected")
        counts += Counts(rejected=len(bad))
        store.mark(session, load_id, part, counts)
        kill_point("load:marked")
    kill_point("load:committed")
    return counts


def _check_types(session: Session, target: Target) -> None:
    """Raise when values were encoded for columns that have other types by now."""
    if target.encoded_for is not None:
        drive(refuse_if_altered(target.encoded_for, target.shown), session, Rows(()))


def _no_rejects(target: Target, one: Reject) -> PgscaleError:
    where = f"{target.unit.capitalize()} {one.line:,}" + (f", column {one.column}" if one.column else "")
    state = f" ({one.sqlstate})" if one.sqlstate else ""
    return LoadedRowError(
        f"{where}: {one.reason}{state}.",
        line=one.line,
        column=one.column,
        sqlstate=one.sqlstate,
        consequence=f"Nothing of the part it is in was written to {target.shown}.",
    )


def _isolate(
    session: Session,
    target: Target,
    part: Part,
    first: psycopg.Error | BadRecordError,
    *,
    stop_at_first: bool,
) -> tuple[Counts, list[Reject]]:
    """Write all records of a part but those that do not fit; return those.

    A failure that names its line costs the lines before it a second time, so a part with many costs twice its
    bytes and a statement each; one that names none is found by halving.
    """
    counts = Counts()
    bad: list[Reject] = []
    spans: deque[tuple[int, int]] = deque()

    def divide(error: psycopg.Error | BadRecordError, low: int, high: int) -> None:
        found = _culprit(part, error, low, high)
        record = low if found.record is None and high - low == 1 else found.record
        if record is None:
            middle = (low + high) // 2
            spans.extendleft(((middle, high), (low, middle)))
            return
        line, text = part.show(record)
        bad.append(
            Reject(
                first=part.first,
                line=line,
                column=found.column,
                sqlstate=found.sqlstate,
                reason=found.reason,
                text=text,
            )
        )
        spans.extendleft(((record + 1, high), (low, record)))

    divide(first, 0, part.count())
    while spans and not (stop_at_first and bad):
        low, high = spans.popleft()
        if low >= high:
            continue
        try:
            with session.transaction():
                counts += _write(session, target, part, low, high)
        except (psycopg.Error, BadRecordError) as error:
            if not _is_rows_fault(error):
                raise
            divide(error, low, high)
    return counts, bad


def _nothing() -> None:
    """Nobody wants to be told."""


def _write(
    session: Session, target: Target, part: Part, low: int, high: int | None, sent: Callable[[], None] = _nothing
) -> Counts:
    merge = target.merge
    if merge is None:
        rows = _copy(session, target.copy, part.payload(low, high), sent)
        return Counts(rows=rows, inserted=rows)
    session.execute(merge.create)
    session.execute(write_ddl.empty(merge.staging))
    rows = _copy(session, target.copy, part.payload(low, high), sent)
    if merge.counts_updates:
        session.execute(write_ddl.count_from_zero())
    answer = session.execute(merge.statement).fetchone()
    assert answer is not None, "the statement counts"
    inserted, updated = int(answer[0]), int(answer[1])
    if merge.counts_updates:
        counted = session.execute(write_ddl.counted()).fetchone()
        updated = int(counted[0]) if counted else 0
        inserted -= updated
    return Counts(rows=rows, inserted=inserted, updated=updated)


def _copy(session: Session, statement: sql.Composed, blocks: Iterable[bytes], sent: Callable[[], None]) -> int:
    with session.cursor() as cursor:
        with cursor.copy(statement) as copy:
            for block in blocks:
                copy.write(block)
            sent()
        return cursor.rowcount


def _is_rows_fault(error: psycopg.Error | BadRecordError) -> bool:
    return isinstance(error, BadRecordError) or blames_a_row(error)


def _culprit(part: Part, error: psycopg.Error | BadRecordError, low: int, high: int) -> _Culprit:
    if isinstance(error, BadRecordError):
        return _Culprit(record=error.record, column=error.column, sqlstate=None, reason=error.reason)
    reason = " ".join((error.diag.message_primary or str(error)).split()).rstrip(".")
    column = error.diag.column_name
    context = error.diag.context or ""
    found = _LINE.search(context)
    record = None
    if found is not None:
        column = column or found[2]
        record = min(part.record_at(low, int(found[1])), high - 1)
    return _Culprit(record=record, column=column, sqlstate=error.sqlstate, reason=reason)
