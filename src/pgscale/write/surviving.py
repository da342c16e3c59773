"""COPY of rows of which some are bad: the good ones land, the bad ones become dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import psycopg

from pgscale.write import ddl
from pgscale.write.effects import Atomic, Begin, Change, Done, End, Pull, Steps, Write
from pgscale.write.encoding import SIGNATURE, TRAILER
from pgscale.write.isolating import FOREIGN_KEY, Guards, blames_a_row, isolate
from pgscale.write.rows import Chunk
from pgscale.write.staging import (
    BATCH_BYTES,
    MOST_BATCH_ROWS,
    Encoded,
    Staging,
    Task,
    bury_faults,
    check_deferred,
    encode_each,
    judge_each,
    next_rows,
)

# After a batch with a bad row so many go through staging first: a COPY that fails leaves its rows behind, dead.
WARY_BATCHES = 4
# A COPY is sent in pieces of about this size.
CHUNK_BYTES = 256 * 1024
# So many rows are judged one by one; of more, each half is tried as a whole first.
FEW_ROWS = 16

Extract: TypeAlias = "Callable[[Chunk], Iterable[Sequence[Any]]]"


class Batch:
    """Rows that land or fail together, until it is known which of them are bad."""

    def __init__(self, at: int, chunk: Chunk) -> None:
        self.at = at
        self.rows = list(chunk)
        self.bytes = 0
        self.is_last = False
        self.source_error: Exception | None = None

    def pull(self, most: int) -> Steps[Chunk]:
        """Add the next rows of the source, and return them; none at its end."""
        try:
            chunk: Chunk = yield Pull(most)
        except Exception as error:
            # It may be one of a server's, too, and is no fault of these rows.
            self.source_error = error
            raise
        self.is_last = not chunk
        self.rows += chunk
        return chunk


def copy_surviving(task: Task, chunk: Chunk) -> Steps[tuple[int, int]]:
    """Copy all rows of the source in a transaction that has begun, from the chunk that is pulled already.

    Returns:
        Rows landed, and the bytes of their encoding.
    """
    staging = Staging(task, checks=not task.guards.may_change_rows)
    at = landed = sent = wary = 0
    # What is wrong already in a transaction of the caller's is not the fault of a row of this call.
    yield from check_deferred(task.guards)
    while chunk:
        batch = Batch(at, chunk)
        count = None if wary else (yield from _copy_whole(task, batch))
        if count is None:
            found = yield from encode_each(task, batch.rows, at)
            batch.bytes = sum(map(len, found.forms))
            count, is_bad = yield from _copy_isolated(task, staging, found)
            wary = WARY_BATCHES if is_bad else wary - 1
        at += len(batch.rows)
        landed += count
        sent += batch.bytes
        most = next_rows(len(batch.rows), batch.bytes, BATCH_BYTES if wary else CHUNK_BYTES)
        chunk = [] if batch.is_last else (yield Pull(most))
    return landed, sent + len(SIGNATURE) + len(TRAILER)


def _copy_whole(task: Task, batch: Batch) -> Steps[int | None]:
    """Copy a batch to its table, chunk by chunk, so that the server works while the next one is made.

    Returns:
        How many rows landed; None when one that the server got is bad.
    """
    extract = task.shape.extractor(task.encoder.names)
    judged: list[Encoded] = []
    chunk = batch.rows[:]
    try:
        yield Atomic()
        yield Begin(ddl.copy_statement(task.destination.table, task.encoder.names))
        yield Write(SIGNATURE)
        while chunk:
            data = _encode(task, extract, chunk, batch.at + len(batch.rows) - len(chunk), judged)
            yield Write(data)
            batch.bytes += len(data)
            room = MOST_BATCH_ROWS - len(batch.rows)
            if room <= 0 or batch.bytes >= BATCH_BYTES:
                break
            chunk = yield from batch.pull(min(room, next_rows(len(batch.rows), batch.bytes, CHUNK_BYTES)))
        yield Write(TRAILER)
        landed: int = yield End()
        yield from check_deferred(task.guards)
        yield Done()
    except psycopg.Error as error:
        if error is batch.source_error or not blames_a_row(error):
            raise
        return None
    for found in judged:
        yield from bury_faults(task, found)
    return landed


def _encode(task: Task, extract: Extract, chunk: Chunk, at: int, judged: list[Encoded]) -> bytes:
    """Encode rows, from index `at` on; those near one that does not fit one by one, as `judged` tells."""
    try:
        return task.encoder.fast(extract(chunk))
    except Exception:  # noqa: BLE001 because whatever went wrong, row by row is how it is found
        if len(chunk) > FEW_ROWS:
            middle = len(chunk) // 2
            left = _encode(task, extract, chunk[:middle], at, judged)
            return left + _encode(task, extract, chunk[middle:], at + middle, judged)
        judged.append(judge_each(task, chunk, at))
        return b"".join(judged[-1].forms)


def _copy_isolated(task: Task, staging: Staging, found: Encoded) -> Steps[tuple[int, bool]]:
    """Land a batch by way of the staging table; return the rows landed and whether any were bad."""
    taken = yield from staging.stage(found)
    was_bad = len(taken) < len(found.indexes)
    places = sorted(taken)
    if not places:
        return 0, was_bad

    def land(low: int, high: int) -> Steps[int]:
        first, last = found.indexes[places[low]], found.indexes[places[high - 1]]
        count: int = yield Change(
            ddl.insert_isolated(task.destination.table, task.isolation, task.encoder.names, first, last)
        )
        yield from check_deferred(task.guards)
        return count

    def bury(at: int, error: psycopg.Error) -> Steps[None]:
        yield from task.bury(found.rows[places[at]], found.indexes[places[at]], error)

    landed, is_bad = yield from land_all(task.guards, len(places), land, bury)
    return landed, was_bad or is_bad


def land_all(
    guards: Guards,
    count: int,
    land: Callable[[int, int], Steps[int]],
    bury: Callable[[int, psycopg.Error], Steps[None]],
    *,
    is_doomed: bool = False,
) -> Steps[tuple[int, bool]]:
    """Land all rows but the bad ones, as `isolate` does; one that needs another is tried when all others have been."""
    left: list[tuple[int, psycopg.Error]] = []

    def bury_or_wait(at: int, error: psycopg.Error) -> Steps[None]:
        if guards.refers_to_itself and error.sqlstate == FOREIGN_KEY:
            left.append((at, error))
            return
        yield from bury(at, error)

    landed, is_bad = yield from isolate(0, count, land, bury_or_wait, is_doomed=is_doomed)
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
