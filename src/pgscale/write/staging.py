"""What is written where, row by row if need be, and the temporary table in which bad rows are found."""

from __future__ import annotations

import dataclasses
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import psycopg

from pgscale.core.model import QName
from pgscale.errors import PermissionDeniedError, UsageError
from pgscale.write import ddl
from pgscale.write.dead_letters.model import WHOLE
from pgscale.write.dead_letters.sink import Sink
from pgscale.write.destination import encoder_for
from pgscale.write.effects import Atomic, Begin, Done, End, Fetch, Steps, Write
from pgscale.write.encoding import SIGNATURE, TRAILER, Encoder
from pgscale.write.failures import find_line
from pgscale.write.isolating import Guards, blames_a_row, fault_of, isolate
from pgscale.write.model import Destination, RowError
from pgscale.write.rows import Chunk, Shape, shape_of
from pgscale.write.spreading import Spread

# A batch is held in memory until it has landed, and is what one bad row makes the server do again.
BATCH_BYTES = 4 * 1024 * 1024
FIRST_BATCH_ROWS, MOST_BATCH_ROWS = 1_024, 16_384
# The staging table is emptied when it has so many rows: each time costs a file, and a scan of it costs its rows.
MOST_STAGED_ROWS = 65_536
_WRITE_BYTES = 256 * 1024
_NUMBERED = struct.Struct(">hiq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is written where, and what becomes of bad rows.

    Args:
        isolation: the staging table's name; is_in_a_transaction: of the caller's, so that it may hold rows already.
    """

    destination: Destination
    encoder: Encoder
    shape: Shape
    guards: Guards
    sink: Sink
    isolation: QName
    is_in_a_transaction: bool

    def bury(self, row: object, index: int, error: psycopg.Error) -> Steps[None]:
        """Make a letter of a row that the server does not take."""
        names = ((self.isolation.name, self.destination.table.name),)
        fault = fault_of(error, self.guards, names)
        yield from self.sink.take(self.named(row), index, fault.column, fault.sqlstate, fault.reason)

    def named(self, row: object) -> Mapping[str, Any]:
        """Return a row by the names of its columns; as the one value under WHOLE when it has not as many."""
        if isinstance(row, Mapping):
            given = cast("Mapping[object, Any]", row)
            if all(isinstance(name, str) for name in given):
                return cast("Mapping[str, Any]", given)
        elif dataclasses.is_dataclass(row) and not isinstance(row, type):
            return {f.name: getattr(row, f.name, None) for f in dataclasses.fields(row)}
        elif isinstance(row, (tuple, list)):
            values = cast("Sequence[Any]", row)
            if len(values) == len(self.encoder.names):
                return dict(zip(self.encoder.names, values, strict=True))
        return {WHOLE: row}


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows that have a binary form: their place among those given, the row itself, its form for COPY; and those
    that have none: place, row, column, reason."""

    indexes: list[int]
    rows: list[Any]
    forms: list[bytes]
    faults: list[tuple[int, Any, str | None, str]]


def make_task(
    destination: Destination,
    encoder: Encoder,
    shape: Shape,
    guards: Guards,
    sink: Sink,
    *,
    purpose: str,
    is_in_a_transaction: bool,
) -> Task:
    """Return the task.

    Args:
        purpose: tasks with the same purpose, table and columns share a staging table, one after the other.

    Raises:
        PermissionDeniedError: the role may not make temporary tables, and bad rows are found in one.
    """
    if not destination.may_stage:
        raise PermissionDeniedError(
            "Bad rows are found in a temporary table, which this role may not make.",
            consequence="Nothing was written.",
            hint="GRANT TEMPORARY ON DATABASE … TO this role.",
        )
    made_for = (purpose, guards.checks, guards.may_change_rows)
    isolation = ddl.isolation_name(destination.table, destination.oid, encoder.columns, made_for)
    return Task(
        destination=destination,
        encoder=encoder,
        shape=shape,
        guards=guards,
        sink=sink,
        isolation=isolation,
        is_in_a_transaction=is_in_a_transaction,
    )


def choose_shape(
    chunk: Chunk, destination: Destination, columns: Sequence[str] | None, names: tuple[str, ...]
) -> tuple[Shape, Encoder]:
    """Return the shape that most of the first rows have, and the encoder for it.

    Raises:
        UsageError: none of them is a row; RefusedError: most of them name a column that is not there.
    """
    shape = most_common_shape(chunk)
    return shape, encoder_for(destination, columns or names or shape.names or None)


def most_common_shape(chunk: Chunk) -> Shape:
    """Return the shape that most of these rows have, for the first one may be a bad one.

    Raises:
        UsageError: none of them is a row.
    """
    shapes: Counter[Shape] = Counter()
    wrong: UsageError | None = None
    for row in chunk:
        try:
            shapes[shape_of(row)] += 1
        except UsageError as error:
            wrong = wrong or error
    if not shapes:
        assert wrong is not None, "the chunk has rows, and none of them has a shape"
        raise wrong
    (shape, _), *_ = shapes.most_common(1)
    return shape


def next_rows(rows: int, size: int, wanted: int) -> int:
    """Return how many rows have about as many bytes as wanted, by those of the last ones."""
    return min(max(1, wanted * rows // max(1, size)), MOST_BATCH_ROWS)


def encode_each(task: Task, chunk: Chunk, at: int) -> Steps[Encoded]:
    """Encode rows one by one, from index `at` on; those that do not fit become letters."""
    found = judge_each(task, chunk, at)
    yield from bury_faults(task, found)
    return found


def judge_each(task: Task, chunk: Chunk, at: int) -> Encoded:
    """Encode rows one by one, from index `at` on; those that do not fit are among the faults."""
    found = Encoded([], [], [], [])
    for index, row in enumerate(chunk, start=at):
        try:
            form = task.encoder.encode_one(row, task.shape, index)
        except RowError as error:
            found.faults.append((index, row, error.column, error.reason))
        except Exception as error:  # noqa: BLE001 because a value's own methods may raise anything, and only it is bad
            found.faults.append((index, row, None, f"{type(error).__name__}: {error}"))
        else:
            found.indexes.append(index)
            found.rows.append(row)
            found.forms.append(form)
    return found


def bury_faults(task: Task, found: Encoded) -> Steps[None]:
    """Make letters of the rows that do not fit."""
    for index, row, column, reason in found.faults:
        yield from task.sink.take(task.named(row), index, column, None, reason)


def send_rows(data: bytes) -> Steps[None]:
    yield Write(SIGNATURE)
    for start in range(0, len(data), _WRITE_BYTES):
        yield Write(data[start : start + _WRITE_BYTES])
    yield Write(TRAILER)


def check_deferred(guards: Guards) -> Steps[None]:
    """Check now what would be checked at COMMIT, when it is too late to tell which row it was."""
    yield from set_constraints(guards.deferred, immediate=True)
    yield from set_constraints(guards.deferred, immediate=False)


def set_constraints(names: Sequence[QName], *, immediate: bool) -> Steps[None]:
    if names:
        yield Fetch(ddl.set_constraints(names, immediate=immediate))


class Staging:
    """The session's temporary table in which bad rows are found. Its rows are numbered by their index in the call."""

    def __init__(self, task: Task, *, checks: bool, spread: Spread | None = None) -> None:
        self._task, self._checks = task, checks
        self._spread = spread or Spread(MOST_BATCH_ROWS)
        self._rows = MOST_STAGED_ROWS
        self._is_made = False

    def stage(self, found: Encoded, *, keeps: bool = False) -> Steps[set[int]]:
        """Copy rows into the table; those that it does not take are buried. Return the places of those it took.

        A row that is bad by itself is named by its line: what came before it is copied, it is buried, and so on
        after it.

        Args:
            keeps: what is in the table already stays.
        """
        if self._rows >= MOST_STAGED_ROWS and not (keeps and self._is_made):
            yield from self._make()
        task, taken = self._task, set[int]()
        count = len(task.encoder.names) + 1
        forms = [
            _NUMBERED.pack(count, 8, index) + form[2:] for index, form in zip(found.indexes, found.forms, strict=True)
        ]
        names = [ddl.ORDINAL, *task.encoder.names]

        def land(low: int, high: int) -> Steps[int]:
            yield Begin(ddl.copy_statement(task.isolation, names))
            yield from send_rows(b"".join(forms[low:high]))
            landed: int = yield End()
            taken.update(range(low, high))
            return landed

        def bury(place: int, error: psycopg.Error) -> Steps[None]:
            self._spread.note_bad()
            yield from task.bury(found.rows[place], found.indexes[place], error)

        start = 0
        while start < len(forms):
            stop = min(start + self._spread.rows(), len(forms))
            try:
                yield Atomic()
                yield from land(start, stop)
                yield Done()
                self._spread.note_good(stop - start)
                start = stop
            except psycopg.Error as error:
                if not blames_a_row(error):
                    raise
                line = find_line(error)
                if line is None:
                    yield from isolate(start, stop, land, bury, is_doomed=True)
                    start = stop
                    continue
                place = start + line[0]
                if place > start:
                    yield from isolate(start, place, land, bury)
                self._spread.note_good(place - start)
                yield from bury(place, error)
                start = place + 1
        self._rows += len(taken)
        return taken

    def _make(self) -> Steps[None]:
        task, guards = self._task, self._task.guards
        if not self._is_made:
            chosen = [
                check
                for check, read in zip(guards.checks, guards.checked_columns, strict=True)
                if self._checks and set(read) <= set(task.encoder.names)
            ]
            yield Fetch(ddl.create_isolation(task.isolation, task.encoder.columns, chosen, refuses_nulls=self._checks))
        # Rows of batches that are done; or of an earlier call in a transaction of the caller's. After a COMMIT there
        # are none, and emptying the table would only bloat the catalogs.
        if self._is_made or task.is_in_a_transaction:
            yield Fetch(ddl.empty(task.isolation))
        self._is_made = True
        self._rows = 0
