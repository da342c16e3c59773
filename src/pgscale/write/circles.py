"""Rows of tables that refer to one another in a circle, some of them bad: the others land, and so do their children.

No order of such tables is one in which parents come first, so all rows are staged, and landed as a whole with the keys
between the tables waiting. When a key is not satisfied in the end, all that landed is rolled back and landed again, the
children last and with their keys checked at once: so those without a parent are found. Without them others may lack
theirs; it goes round until nobody does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import psycopg

from pgscale import sql as named
from pgscale.core.model import QName
from pgscale.write import ddl
from pgscale.write.dead_letters.sink import Letters, LetterSink
from pgscale.write.destination import read_destination
from pgscale.write.effects import Atomic, Change, Done, Fetch, Pull, Steps
from pgscale.write.isolating import Guards, blames_a_row, read_guards
from pgscale.write.merging import Spill
from pgscale.write.ordering import ForeignKey
from pgscale.write.rows import Chunk
from pgscale.write.staging import (
    BATCH_BYTES,
    FIRST_BATCH_ROWS,
    Staging,
    Task,
    check_deferred,
    choose_shape,
    encode_each,
    make_task,
    next_rows,
    set_constraints,
)
from pgscale.write.surviving import land_all

QUERIES = named.load("pgscale.write")
# Rows that are bad are deleted from the staging table so many at a time.
_PART_NUMBERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The rows of one table of the circle, staged.

    Args:
        given: how many there are; bad: those that the server does not take, by their index.
    """

    task: Task
    spill: Spill
    given: int
    bad: dict[int, psycopg.Error] = field(default_factory=dict[int, psycopg.Error])

    @property
    def oid(self) -> int:
        return self.task.destination.oid


def stage_member(
    info: psycopg.ConnectionInfo,
    table: str,
    place: int,
    names: tuple[str, ...],
    letters: Letters,
    spill: Spill,
    keys: Sequence[ForeignKey],
) -> Steps[Member | None]:
    """Stage all rows of the source; those that do not fit become letters. None when there are none.

    Args:
        place: of the table among those given, which it may be several times; spill: keeps the rows to be looked up.
        keys: those between the tables of the circle.
    """
    destination = yield from read_destination(info, table)
    chunk: Chunk = yield Pull(FIRST_BATCH_ROWS)
    if not chunk:
        return None
    shape, encoder = choose_shape(chunk, destination, None, names)
    guards = yield from read_guards(info, destination.oid)
    deferred = yield from _without(info, guards, keys)
    task = make_task(
        destination,
        encoder,
        shape,
        replace(guards, deferred=deferred),
        LetterSink(letters, str(destination.table), closes=False),
        purpose=f"circle {place}",
        is_in_a_transaction=True,
    )
    staging = Staging(task, checks=not guards.may_change_rows)
    given = 0
    while chunk:
        found = yield from encode_each(task, chunk, given)
        given += len(chunk)
        spill.add(found.indexes, found.rows, task.named)
        yield from staging.stage(found, keeps=True)
        chunk = yield Pull(next_rows(len(chunk), sum(map(len, found.forms)), BATCH_BYTES))
    return Member(task=task, spill=spill, given=given)


def land_circle(members: Sequence[Member], keys: Sequence[ForeignKey]) -> Steps[list[int]]:
    """Land the staged rows but the bad ones, which become letters; return how many landed, by member.

    Raises:
        psycopg.Error: a key is not satisfied, and nobody's row is at fault.
    """
    oids = list(dict.fromkeys(member.oid for member in members))
    judged: int | None = None
    fruitless = 0
    while True:
        known = sum(len(member.bad) for member in members)
        landed: list[int] = []
        error = yield from _land_round(members, keys, judged, landed)
        if error is None:
            break
        fruitless = fruitless + 1 if sum(len(member.bad) for member in members) == known else 0
        if fruitless > len(oids):
            raise error
        judged = oids[0] if judged is None else oids[(oids.index(judged) + 1) % len(oids)]
    for member in members:
        for index in sorted(member.bad):
            yield from member.task.bury(member.spill.row(index), index, member.bad[index])
    return landed


def _land_round(
    members: Sequence[Member], keys: Sequence[ForeignKey], judged: int | None, landed: list[int]
) -> Steps[psycopg.Error | None]:
    """Land what is left of all rows; return the error when a key is not satisfied, and then nothing has landed.

    Args:
        judged: the table whose rows come last, each with its parents there or bad; landed: takes how many, by member.
    """
    counts: dict[int, int] = {}
    are_all_in = False
    try:
        yield Atomic()
        yield from set_constraints(_names(keys), immediate=False)
        for place in sorted(range(len(members)), key=lambda place: members[place].oid == judged):
            member = members[place]
            if member.oid == judged:
                yield from set_constraints(_names([k for k in keys if k.child_oid == judged]), immediate=True)
            counts[place] = yield from _land(member)
        are_all_in = True
        yield from set_constraints(_names(keys), immediate=True)
        yield Done()
    except psycopg.Error as error:
        if not (are_all_in and blames_a_row(error)):
            raise
        for member in members:
            numbers = list(member.bad)
            for start in range(0, len(numbers), _PART_NUMBERS):
                yield Fetch(ddl.forget_isolated(member.task.isolation, numbers[start : start + _PART_NUMBERS]))
        return error
    landed[:] = [counts[place] for place in range(len(members))]
    return None


def _land(member: Member) -> Steps[int]:
    task = member.task

    def land(low: int, high: int) -> Steps[int]:
        count: int = yield Change(
            ddl.insert_isolated(task.destination.table, task.isolation, task.encoder.names, low, high - 1)
        )
        yield from check_deferred(task.guards)
        return count

    def bury(index: int, error: psycopg.Error) -> Steps[None]:
        member.bad[index] = error
        yield from ()

    landed, _ = yield from land_all(task.guards, member.given, land, bury)
    return landed


def _names(keys: Sequence[ForeignKey]) -> list[QName]:
    return list(dict.fromkeys(QName(schema=k.schema, name=k.name) for k in keys))


def _without(info: psycopg.ConnectionInfo, guards: Guards, keys: Sequence[ForeignKey]) -> Steps[tuple[QName, ...]]:
    """Return what a table checks at COMMIT besides these keys, which partitions may have by other names."""
    if not guards.deferred:
        return ()
    params = {"schemas": [k.schema for k in keys], "names": [k.name for k in keys]}
    rows = yield Fetch(QUERIES.get("read_kin_of_keys", info.server_version), params)
    kin = {QName(schema=row[0], name=row[1]) for row in rows}
    return tuple(name for name in guards.deferred if name not in kin)
