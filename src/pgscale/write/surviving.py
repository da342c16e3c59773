"""COPY of rows of which some are bad: the good ones land, the bad ones become dead letters."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from pgscale.write import ddl
from pgscale.write.batches import Batch, Coder
from pgscale.write.effects import Atomic, Begin, Change, Done, End, Pull, Steps, Write
from pgscale.write.encoding import SIGNATURE, TRAILER
from pgscale.write.failures import find_key, find_line
from pgscale.write.isolating import FOREIGN_KEY, Guards, blames_a_row, isolate
from pgscale.write.rows import Chunk, explain_row
from pgscale.write.spreading import Spread
from pgscale.write.staging import (
    BATCH_BYTES,
    MOST_BATCH_ROWS,
    Staging,
    Task,
    bury_faults,
    check_deferred,
    judge_each,
)

# A COPY is sent in pieces of about this size, so that the server works while the next one is made.
CHUNK_BYTES = 256 * 1024
# Of rows among which bad ones are to be expected: what is cut is encoded again.
PIECE_ROWS = 256
# With fewer good rows for a bad one than this they go by way of the staging table, if bad ones are bad by themselves:
# it takes no savepoint for each, and has no indexes. One in 100 against a CHECK took two thirds of the time.
DENSE_GAP = 500


def copy_surviving(task: Task, chunk: Chunk) -> Steps[tuple[int, int]]:
    """Copy all rows of the source in a transaction that has begun, from the chunk that is pulled already.

    Returns:
        Rows landed, and the bytes of their encoding.
    """
    # What is wrong already in a transaction of the caller's is not the fault of a row of this call.
    yield from check_deferred(task.guards)
    return (yield from _Copying(task).run(chunk))


class _Copying:
    """One copy: what is on its way, and what was learned of how thinly bad rows are spread.

    Rows land in their order. A COPY that fails tells which row it was; then those before it land, it becomes a
    letter, and the ones after it go on with the rows that come next.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._coder = Coder(task.encoder, task.shape)
        self._statement = ddl.copy_statement(task.destination.table, task.encoder.names)
        self._spread = Spread(MOST_BATCH_ROWS)
        self._staging = Staging(task, checks=not task.guards.may_change_rows, spread=self._spread)
        self._ahead = Batch(self._coder, 0)
        self._row_bytes = 1.0
        self._is_over = False
        # The last bad row was named by its line: it was bad by itself, and not for what is in the table, or is not.
        self._are_named = True
        self._source_error: Exception | None = None
        self._landed = self._sent = self._bad = 0

    def run(self, chunk: Chunk) -> Steps[tuple[int, int]]:
        batch = self._encoded(0, chunk)
        while batch.pieces:
            self._row_bytes = max(1.0, batch.size_bytes / len(batch))
            self._ahead = batch.between(len(batch), len(batch))
            if self._spread.gap < DENSE_GAP and self._are_named:
                yield from self._fill(batch, MOST_BATCH_ROWS, sends=False)
                yield from self._land_by_staging(batch)
                rest = batch.between(len(batch), len(batch))
            elif self._task.guards.refers_to_itself:
                # Always as one batch, for children may come before their parents.
                if (yield from self._try(batch, MOST_BATCH_ROWS)) is not None:
                    yield from self._land_by_staging(batch)
                rest = batch.between(len(batch), len(batch))
            else:
                most = self._spread.rows()
                batch, tail = batch.split(most)
                rest = yield from self._land(batch, 0 if tail.pieces else most)
                rest += tail
            batch = rest + self._ahead
            if not batch.pieces:
                batch = yield from self._next(batch.at)
        return self._landed, self._sent + len(SIGNATURE) + len(TRAILER)

    # -- the source ------------------------------------------------------------------------------------------------

    def _encoded(self, at: int, chunk: Chunk) -> Batch:
        rows = list(chunk)
        size = PIECE_ROWS if self._spread.has_bad else max(1, len(rows))
        return Batch(self._coder, at, [self._coder.piece(rows[low : low + size]) for low in range(0, len(rows), size)])

    def _pull(self, at: int, most: int) -> Steps[Batch]:
        """Take the next rows of the source; none at its end."""
        try:
            chunk: Chunk = yield Pull(most)
        except Exception as error:
            # It may be one of a server's, too, and is no fault of these rows.
            self._source_error = error
            raise
        self._is_over = not chunk
        return self._encoded(at, chunk)

    def _next(self, at: int) -> Steps[Batch]:
        """Take the rows that the next COPY begins with."""
        most = min(self._spread.rows(), self._chunk_rows())
        return Batch(self._coder, at) if self._is_over else (yield from self._pull(at, most))

    def _fill(self, batch: Batch, most_rows: int, *, sends: bool = True) -> Steps[None]:
        """Add rows to a batch until it is as large as it may be, and send them."""
        while not self._is_over:
            size = batch.size_bytes
            self._row_bytes = max(1.0, size / len(batch))
            room = min(most_rows - len(batch), int((BATCH_BYTES - size) / self._row_bytes))
            if room <= 0:
                break
            more = yield from self._pull(batch.at + len(batch), min(room, self._chunk_rows()))
            batch.pieces += more.pieces
            if sends:
                yield Write(more.data)

    def _chunk_rows(self) -> int:
        return min(max(1, int(CHUNK_BYTES / self._row_bytes)), MOST_BATCH_ROWS)

    # -- straight to the table -------------------------------------------------------------------------------------

    def _land(self, batch: Batch, fill_rows: int = 0) -> Steps[Batch]:
        """Land rows up to the first bad one, which becomes a letter; return those after it.

        Args:
            fill_rows: the batch is filled up to so many rows while they are sent, and the next ones are made ready.
        """
        error = yield from self._try(batch, fill_rows)
        size = len(batch)
        if error is None:
            return batch.between(size, size)
        place, is_sure = self._blamed(batch, error)
        if place is None:
            yield from self._halve(batch)
            return batch.between(size, size)
        if place:
            bad, before = self._bad, batch.between(0, place)
            while before.pieces:
                before = yield from self._land(before)
            if self._bad > bad:
                # What made it bad may be among the letters now.
                return batch.between(place, size)
        if not is_sure:
            certain = yield from self._try(batch.between(place, place + 1))
            if certain is None:
                return batch.between(place + 1, size)
            error = certain
        yield from self._bury(batch, place, error)
        return batch.between(place + 1, size)

    def _try(self, batch: Batch, fill_rows: int = 0) -> Steps[psycopg.Error | None]:
        """Copy a batch to its table; return why the server does not take it."""
        try:
            yield Atomic()
            yield Begin(self._statement)
            yield Write(SIGNATURE + batch.data)
            if fill_rows:
                yield from self._fill(batch, fill_rows)
                # While the server works on what it has.
                self._ahead = yield from self._next(batch.at + len(batch))
            yield Write(TRAILER)
            landed: int = yield End()
            yield from check_deferred(self._task.guards)
            yield Done()
        except psycopg.Error as error:
            if error is self._source_error or not blames_a_row(error):
                raise
            return error
        self._landed += landed
        self._sent += batch.size_bytes
        self._spread.note_good(landed)
        yield from self._bury_faults(batch)
        return None

    def _blamed(self, batch: Batch, error: psycopg.Error) -> tuple[int | None, bool]:
        """Return the place of the row that is blamed, and whether that is sure; None when it is not known."""
        sent = batch.sent()
        line = find_line(error)
        if line is not None:
            return sent[min(line[0], len(sent) - 1)], True
        # Checked when all rows are there, which tells the values of a key, as text. It is for the server to judge.
        key, names = find_key(error), self._task.encoder.names
        if not key or not set(key) <= set(names):
            return None, False
        wanted = [(names.index(name), text) for name, text in key.items()]
        for place in sent:
            values = explain_row(self._task.shape, batch.row(place), names)
            if all(str(values[at]) == text for at, text in wanted):
                return place, False
        return None, False

    def _halve(self, batch: Batch) -> Steps[None]:
        """Land the rows of a batch but the bad ones, of which it is not told which they are."""
        sent, rows = batch.sent(), batch.rows
        yield from self._bury_faults(batch)

        def land(low: int, high: int) -> Steps[int]:
            return (yield from self._copy([rows[place] for place in sent[low:high]]))

        def bury(at: int, error: psycopg.Error) -> Steps[None]:
            yield from self._bury(batch, sent[at], error)

        landed, _ = yield from isolate(0, len(sent), land, bury, is_doomed=True)
        self._landed += landed

    def _copy(self, rows: Chunk) -> Steps[int]:
        data = self._coder.piece(rows).data
        yield Begin(self._statement)
        yield Write(SIGNATURE + data + TRAILER)
        landed: int = yield End()
        yield from check_deferred(self._task.guards)
        self._sent += len(data)
        return landed

    # -- letters ---------------------------------------------------------------------------------------------------

    def _bury(self, batch: Batch, place: int, error: psycopg.Error) -> Steps[None]:
        self._bad += 1
        self._spread.note_bad()
        self._are_named = find_line(error) is not None
        yield from self._task.bury(batch.row(place), batch.at + place, error)

    def _bury_faults(self, batch: Batch) -> Steps[None]:
        for index, row, fault in batch.faults():
            yield from self._task.sink.take(self._task.named(row), index, fault.column, None, fault.reason)

    # -- by way of the staging table -------------------------------------------------------------------------------

    def _land_by_staging(self, batch: Batch) -> Steps[None]:
        task = self._task
        found = judge_each(task, batch.rows, batch.at)
        yield from bury_faults(task, found)
        taken = yield from self._staging.stage(found)
        places = sorted(taken)
        if not places:
            return

        def land(low: int, high: int) -> Steps[int]:
            first, last = found.indexes[places[low]], found.indexes[places[high - 1]]
            count: int = yield Change(
                ddl.insert_isolated(task.destination.table, task.isolation, task.encoder.names, first, last)
            )
            yield from check_deferred(task.guards)
            return count

        def bury(at: int, error: psycopg.Error) -> Steps[None]:
            self._spread.note_bad()
            # It was not when it was staged.
            self._are_named = False
            yield from task.bury(found.rows[places[at]], found.indexes[places[at]], error)

        landed, _ = yield from land_all(task.guards, len(places), land, bury)
        self._landed += landed
        self._sent += sum(map(len, found.forms))


def land_all(
    guards: Guards,
    count: int,
    land: Callable[[int, int], Steps[int]],
    bury: Callable[[int, psycopg.Error], Steps[None]],
    *,
    spread: Spread | None = None,
) -> Steps[tuple[int, bool]]:
    """Land all rows but the bad ones, as `isolate` does; one that needs another is tried when all others have been.

    Args:
        spread: all at once have failed already; says how many at a time are to be tried, and learns of the bad ones.
    """
    left: list[tuple[int, psycopg.Error]] = []

    def bury_or_wait(at: int, error: psycopg.Error) -> Steps[None]:
        if spread is not None:
            spread.note_bad()
        if guards.refers_to_itself and error.sqlstate == FOREIGN_KEY:
            left.append((at, error))
            return
        yield from bury(at, error)

    landed, is_bad, low = 0, False, 0
    while low < count:
        high = count if spread is None else min(count, low + spread.rows())
        found, was_bad = yield from isolate(low, high, land, bury_or_wait)
        if spread is not None and not was_bad:
            spread.note_good(found)
        landed, is_bad, low = landed + found, is_bad or was_bad, high
    landed += yield from _land_children(left, land)
    for at, error in left:
        yield from bury(at, error)
    return landed, is_bad


def _land_children(left: list[tuple[int, psycopg.Error]], land: Callable[[int, int], Steps[int]]) -> Steps[int]:
    """Try rows again whose parents were not there, for they may have come later in the batch; `left` keeps the rest.

    Backwards and forwards in turn, so that a chain of them takes one round and not one for each link.
    """
    landed = 0
    while left:
        still: list[tuple[int, psycopg.Error]] = []
        for at, _ in reversed(left):
            count, error = yield from _try_one(at, land)
            landed += count
            if error is not None:
                still.append((at, error))
        is_over = len(still) == len(left)
        left[:] = still
        if is_over:
            left.sort(key=lambda one: one[0])
            break
    return landed


def _try_one(at: int, land: Callable[[int, int], Steps[int]]) -> Steps[tuple[int, psycopg.Error | None]]:
    failed: list[psycopg.Error] = []

    def bury(_: int, error: psycopg.Error) -> Steps[None]:
        failed.append(error)
        yield from ()

    landed, _ = yield from isolate(at, at + 1, land, bury)
    return landed, failed[0] if failed else None
