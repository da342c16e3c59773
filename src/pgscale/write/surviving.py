"""COPY of rows of which some are bad: the good ones land, the bad ones become dead letters."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from pgscale.write import ddl
from pgscale.write.effects import Atomic, Begin, Change, Done, End, Pull, Steps
from pgscale.write.encoding import SIGNATURE, TRAILER
from pgscale.write.isolating import FOREIGN_KEY, blames_a_row, isolate
from pgscale.write.rows import Chunk
from pgscale.write.staging import Encoded, Staging, Task, check_deferred, encode_each, next_batch_rows, send_rows

# After a batch with a bad row so many go through staging first: a COPY that fails leaves its rows behind, dead.
WARY_BATCHES = 4


def copy_surviving(task: Task, chunk: Chunk) -> Steps[tuple[int, int]]:
    """Copy all rows of the source in a transaction that has begun, from the chunk that is pulled already.

    Returns:
        Rows landed, and the bytes of their encoding.
    """
    extract = task.shape.extractor(task.encoder.names)
    staging = Staging(task, checks=not task.guards.may_change_rows)
    pulled = landed = sent = wary = 0
    # What is wrong already in a transaction of the caller's is not the fault of a row of this call.
    yield from check_deferred(task.guards)
    while chunk:
        found: Encoded | None = None
        try:
            data = task.encoder.fast(extract(chunk))
        except Exception:  # noqa: BLE001 because whatever went wrong, row by row is how it is found
            found = yield from encode_each(task, chunk, pulled)
            data = b"".join(found.forms)
        count = None if wary else (yield from _copy_whole(task, data))
        if count is None:
            if found is None:
                found = yield from encode_each(task, chunk, pulled)
            count, is_bad = yield from _copy_isolated(task, staging, found)
            wary = WARY_BATCHES if is_bad else wary - 1
        pulled += len(chunk)
        landed += count
        sent += len(data)
        chunk = yield Pull(next_batch_rows(len(chunk), len(data)))
    return landed, sent + len(SIGNATURE) + len(TRAILER)


def _copy_whole(task: Task, data: bytes) -> Steps[int | None]:
    """Copy a batch to its table; None when a row of it is bad."""
    if not data:
        return 0
    try:
        yield Atomic()
        yield Begin(ddl.copy_statement(task.destination.table, task.encoder.names))
        yield from send_rows(data)
        landed: int = yield End()
        yield from check_deferred(task.guards)
        yield Done()
    except psycopg.Error as error:
        if not blames_a_row(error):
            raise
        return None
    return landed


def _copy_isolated(task: Task, staging: Staging, found: Encoded) -> Steps[tuple[int, bool]]:
    """Land a batch by way of the staging table; return the rows landed and whether any were bad."""
    taken = yield from staging.stage(found)
    was_bad = len(taken) < len(found.indexes)
    places = sorted(taken)
    if not places:
        return 0, was_bad
    left: list[tuple[int, psycopg.Error]] = []

    def land(low: int, high: int) -> Steps[int]:
        first, last = found.indexes[places[low]], found.indexes[places[high - 1]]
        count: int = yield Change(
            ddl.insert_isolated(task.destination.table, task.isolation, task.encoder.names, first, last)
        )
        yield from check_deferred(task.guards)
        return count

    def bury(at: int, error: psycopg.Error) -> Steps[None]:
        if task.guards.refers_to_itself and error.sqlstate == FOREIGN_KEY:
            left.append((at, error))
            return
        yield from task.bury(found.rows[places[at]], found.indexes[places[at]], error)

    landed, is_bad = yield from isolate(0, len(places), land, bury)
    landed += yield from land_children(left, land)
    for at, error in left:
        yield from task.bury(found.rows[places[at]], found.indexes[places[at]], error)
    return landed, was_bad or is_bad


def land_children(left: list[tuple[int, psycopg.Error]], land: Callable[[int, int], Steps[int]]) -> Steps[int]:
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
