"""Write the records of a part to the table, all or all but those that do not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgscale.connect.session import Session
from pgscale.core.model import QName
from pgscale.write import ddl as write_ddl
from pgscale.write.failures import find_key
from pgscale.write.isolating import FOREIGN_KEY, blames_a_row
from pgscale.write.loading.model import BadRecordError, Counts, Part, Reject
from pgscale.write.model import Destination
from pgscale.write.spreading import Spread

# What it costs to merge beside its rows, in rows: the staging table is emptied, and another statement planned.
COST_OF_MERGE = 1_000
MOST_RECORDS = 1_000_000

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
        oid, shown: the table, and as displayed; unit: what a record is called: `line` or `row`.
        copy: the COPY into the table, or into the staging table of `merge`.
        encoded_for: what the rows are encoded for, where they do not go as text.
    """

    oid: int
    shown: str
    unit: str
    copy: sql.Composed
    merge: Merge | None
    encoded_for: Destination | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Culprit:
    """Why the server did not take records, which one it was, and whether that is sure."""

    record: int | None
    is_sure: bool
    column: str | None
    sqlstate: str | None
    reason: str


def isolate(
    session: Session,
    target: Target,
    part: Part,
    spread: Spread,
    error: psycopg.Error | BadRecordError | None,
    *,
    stop_at_first: bool,
    refers_to_itself: bool,
) -> tuple[Counts, list[Reject]]:
    """Write all records of a part but those that do not fit; return those, in their order.

    A COPY that fails tells which record it was. Then those before it are written again, it is set aside, and it goes
    on after it, with as many records at a time as `spread` thinks best. Where it is not told, it is found by halving.

    Args:
        error: why the part as a whole was not taken, where that was tried.
        stop_at_first: nobody wants to know of more than one.
        refers_to_itself: a record may need another one of the part, which may come later.
    """
    return _Isolating(session, target, part, spread, stop_at_first, refers_to_itself).run(error)


class _Isolating:
    def __init__(
        self,
        session: Session,
        target: Target,
        part: Part,
        spread: Spread,
        stop_at_first: bool,
        refers_to_itself: bool,
    ) -> None:
        self._session, self._target, self._part, self._spread = session, target, part, spread
        self._stop_at_first, self._refers_to_itself = stop_at_first, refers_to_itself
        self._counts = Counts()
        self._bad: list[Reject] = []
        self._orphans: list[tuple[int, _Culprit]] = []
        self._count_of_bad = 0

    def run(self, error: psycopg.Error | BadRecordError | None) -> tuple[Counts, list[Reject]]:
        at, end = 0, self._part.count()
        if error is not None:
            at = self._up_to_bad(0, end, error)
        while at < end and not self._is_over:
            at = self._up_to_bad(at, end if self._refers_to_itself else min(end, at + self._spread.rows()))
        self._bring_children()
        return self._counts, sorted(self._bad, key=lambda one: one.line)

    @property
    def _is_over(self) -> bool:
        return self._stop_at_first and bool(self._bad)

    def _up_to_bad(self, low: int, high: int, error: psycopg.Error | BadRecordError | None = None) -> int:
        """Write records up to the first bad one, which is set aside; return where to go on."""
        error = error or self._try(low, high)
        if error is None:
            return high
        found = self._culprit(error, low, high)
        record = found.record
        if record is None:
            self._halve(low, high, is_doomed=True)
            return high
        if record > low:
            known, at = self._count_of_bad, low
            while at < record and not self._is_over:
                at = self._up_to_bad(at, record)
            if self._count_of_bad > known:
                # What made it bad may be set aside now.
                return record
        if not found.is_sure:
            certain = self._try(record, record + 1)
            if certain is None:
                return record + 1
            found = self._culprit(certain, record, record + 1)
        self._set_aside(record, found)
        return record + 1

    def _halve(self, low: int, high: int, *, is_doomed: bool) -> None:
        if self._is_over:
            return
        if not is_doomed or high - low == 1:
            error = self._try(low, high)
            if error is None:
                return
            if high - low == 1:
                self._set_aside(low, self._culprit(error, low, high))
                return
        middle, known = (low + high) // 2, self._count_of_bad
        self._halve(low, middle, is_doomed=False)
        # What failed as a whole and not in its left half fails in its right one.
        self._halve(middle, high, is_doomed=self._count_of_bad == known)

    def _try(self, low: int, high: int) -> psycopg.Error | BadRecordError | None:
        try:
            with self._session.transaction():
                counts = write(self._session, self._target, self._part, low, high)
        except (psycopg.Error, BadRecordError) as error:
            if not is_rows_fault(error):
                raise
            return error
        self._counts += counts
        self._spread.note_good(high - low)
        return None

    def _culprit(self, error: psycopg.Error | BadRecordError, low: int, high: int) -> _Culprit:
        if isinstance(error, BadRecordError):
            return _Culprit(record=error.record, is_sure=True, column=error.column, sqlstate=None, reason=error.reason)
        reason = " ".join((error.diag.message_primary or str(error)).split()).rstrip(".")
        column, sqlstate = error.diag.column_name, error.sqlstate
        found = _LINE.search(error.diag.context or "")
        if found is not None:
            record = min(self._part.record_at(low, int(found[1])), high - 1)
            return _Culprit(record=record, is_sure=True, column=column or found[2], sqlstate=sqlstate, reason=reason)
        # Checked when all rows are there, which tells the values of a key, as text. It is for the server to judge.
        # Where a record needs another one, which may come later, there may be as many as there are records.
        key = None if self._refers_to_itself else find_key(error)
        record = self._part.find(low, high, key) if key and high - low > 1 else None
        return _Culprit(record=record, is_sure=False, column=column, sqlstate=sqlstate, reason=reason)

    def _set_aside(self, record: int, found: _Culprit) -> None:
        self._count_of_bad += 1
        self._spread.note_bad()
        if self._refers_to_itself and found.sqlstate == FOREIGN_KEY:
            self._orphans.append((record, found))
            return
        self._reject(record, found)

    def _reject(self, record: int, found: _Culprit) -> None:
        line, text = self._part.show(record)
        self._bad.append(
            Reject(
                first=self._part.first,
                line=line,
                column=found.column,
                sqlstate=found.sqlstate,
                reason=found.reason,
                text=text,
            )
        )

    def _bring_children(self) -> None:
        """Write records whose parents came after them, backwards and forwards in turn; set the others aside."""
        while self._orphans:
            still = [one for one in reversed(self._orphans) if self._try(one[0], one[0] + 1) is not None]
            if len(still) == len(self._orphans):
                break
            self._orphans = still
        for record, found in self._orphans:
            self._reject(record, found)


def _nothing() -> None:
    """Nobody wants to be told."""


def write(
    session: Session, target: Target, part: Part, low: int, high: int | None, sent: Callable[[], None] = _nothing
) -> Counts:
    """Write the records of a part from `low` to before `high`, to its end when None.

    Args:
        sent: is told when all bytes are, and the server works on them.
    """
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


def is_rows_fault(error: psycopg.Error | BadRecordError) -> bool:
    """Tell whether a record is to blame, and not the database."""
    return isinstance(error, BadRecordError) or blames_a_row(error)
