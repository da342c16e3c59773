"""Upsert of rows of which some are bad: the good ones are merged, the bad ones become dead letters."""

from __future__ import annotations

import pickle
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, TypeAlias

import psycopg

from pgscale.write import ddl
from pgscale.write.composing import array_of_rows
from pgscale.write.dead_letters.tagging import row_from_bytes, row_to_bytes
from pgscale.write.effects import Atomic, Done, Fetch, Parameter, Pull, Steps
from pgscale.write.encoding import fields_of
from pgscale.write.isolating import blames_a_row
from pgscale.write.model import Destination
from pgscale.write.rows import Chunk
from pgscale.write.spreading import Spread
from pgscale.write.staging import BATCH_BYTES, Staging, Task, check_deferred, encode_each, next_rows
from pgscale.write.surviving import land_all

# So many rows of the staging table are scanned as fast as they are looked up.
MOST_SCANNED_ROWS = 4_096
# What it costs to merge beside its rows, in rows, to be halved where one is bad included: few, for a row takes long.
COST_ROWS = 25

Merge: TypeAlias = "Callable[[ddl.Source, list[Any] | None], Steps[tuple[int, int]]]"


class Spill:
    """Rows put by on disk, to be looked up when the server does not take one of them."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 because it lives as long as this
        self._starts: list[int] = []
        self._offsets: list[int] = []

    def add(self, indexes: Sequence[int], rows: Sequence[Any], named: Callable[[object], Mapping[str, Any]]) -> None:
        """Put rows by, with their places among those given."""
        for start in range(0, len(rows), 256):
            part = dict(zip(indexes[start : start + 256], rows[start : start + 256], strict=True))
            self._starts.append(indexes[start])
            self._offsets.append(self._file.tell())
            try:
                data = pickle.dumps(part, protocol=5)
            except Exception:  # noqa: BLE001 because a class may refuse it with anything; what a letter keeps will do
                data = pickle.dumps({index: row_to_bytes(named(row)) for index, row in part.items()}, protocol=5)
            self._file.write(data)

    def row(self, index: int) -> object:
        """Return the row of a place; it was put by."""
        at = self._offsets[bisect_right(self._starts, index) - 1]
        end = self._file.tell()
        self._file.seek(at)
        row = pickle.load(self._file)[index]  # noqa: S301 because this process wrote it to a file without a name
        self._file.seek(end)
        return row_from_bytes(row) if isinstance(row, bytes) else row

    def close(self) -> None:
        self._file.close()


def upsert_surviving(
    task: Task,
    key: Sequence[str],
    chunk: Chunk,
    merge: Merge,
    most_unnested_rows: int,
) -> Steps[tuple[int, int, int]]:
    """Merge all rows of the source that can be, from the chunk that is pulled already.

    All are staged before any is merged, so that keys are written in one order whatever is bad among them.

    Args:
        merge: writes what a source has, and returns rows inserted and updated.
        most_unnested_rows: up to so many are tried as one parameter first.

    Returns:
        Rows given, rows inserted, rows updated.
    """
    yield from check_deferred(task.guards)
    given = len(chunk)
    found = yield from encode_each(task, chunk, 0)
    if given <= most_unnested_rows:
        source = unnest(task.destination, task.encoder.names, map(fields_of, found.forms))
        done = yield from _merge_whole(task, source, merge) if found.forms else _nothing()
        if done is not None:
            return given, *done
    staging, spill, staged = Staging(task, checks=False), Spill(), 0
    try:
        while chunk:
            spill.add(found.indexes, found.rows, task.named)
            staged += len((yield from staging.stage(found, keeps=True)))
            chunk = yield Pull(next_rows(len(chunk), sum(map(len, found.forms)), BATCH_BYTES))
            found = yield from encode_each(task, chunk, given)
            given += len(chunk)
        done = yield from _merge_whole(task, (ddl.isolated(task.isolation), None), merge)
        if done is None:
            done = yield from _merge_isolated(task, key, staged, spill, merge)
    finally:
        spill.close()
    return given, *done


def _nothing() -> Steps[tuple[int, int]]:
    yield from ()
    return 0, 0


def unnest(
    destination: Destination, names: Sequence[str], forms: Iterable[Sequence[bytes | None]]
) -> tuple[ddl.Source, list[Any]]:
    """Return a source of rows that are one parameter, and the parameter.

    Args:
        forms: the binary forms of the values of each row, in the order of the names.
    """
    rows = [dict(zip(names, form, strict=True)) for form in forms]
    source = ddl.unnested(destination.table, tuple(c.name for c in destination.columns))
    return source, [Parameter(array_of_rows(rows, destination))]


def _merge_whole(
    task: Task, source: tuple[ddl.Source, list[Any] | None], merge: Merge
) -> Steps[tuple[int, int] | None]:
    """Merge all at once; None when a row is bad."""
    try:
        yield Atomic()
        done = yield from merge(*source)
        yield from check_deferred(task.guards)
        yield Done()
    except psycopg.Error as error:
        if not blames_a_row(error):
            raise
        return None
    return done


def _merge_isolated(task: Task, key: Sequence[str], count: int, spill: Spill, merge: Merge) -> Steps[tuple[int, int]]:
    """Merge the staged rows but for the bad ones, in the order of the key, so that writers do not meet in a circle."""
    yield Fetch(ddl.rank_isolated(task.isolation, key))
    if count > MOST_SCANNED_ROWS:
        yield Fetch(ddl.index_isolated(task.isolation))
    totals = [0, 0]

    source = ddl.isolated(task.isolation, by_place=True)

    def land(low: int, high: int) -> Steps[int]:
        inserted, updated = yield from merge(source, [low, high])
        yield from check_deferred(task.guards)
        totals[0] += inserted
        totals[1] += updated
        return inserted + updated

    def bury(place: int, error: psycopg.Error) -> Steps[None]:
        index = (yield Fetch(ddl.number_at(task.isolation, place)))[0][0]
        yield from task.bury(spill.row(index), index, error)

    spread = Spread(max(1, count), COST_ROWS)
    spread.note_bad()
    yield from land_all(task.guards, count, land, bury, spread=spread)
    return totals[0], totals[1]
