"""Land a batch: its rows and its lanes' new positions in one transaction, bad events apart from good ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg

from pgscale.core.killing import kill_point
from pgscale.errors import PgscaleError, RefusedError
from pgscale.write import ddl
from pgscale.write.buffer.model import Batch, Log, Target
from pgscale.write.buffer.positions import Advance, advance, claim, read_positions
from pgscale.write.buffer.records import RecordDecoder
from pgscale.write.copying import FIRST_CHUNK_ROWS, send
from pgscale.write.dead_letters import DeadLetter, ensure_table, save
from pgscale.write.destination import encoder_for, read_destination
from pgscale.write.effects import Atomic, Attempt, Begin, Call, Done, Effect, End, Fetch, Pull, Steps
from pgscale.write.failures import translated
from pgscale.write.model import Destination, RowError
from pgscale.write.rows import shape_of
from pgscale.write.upserting import upsert_steps

# What the event itself is to blame for, whenever it is tried: values that do not fit, and rows too long for an index.
_NEVER = ("22", "54", "23502")
# What may be well after a while: a parent row that is not there yet, a partition that is to be made, a trigger's word.
_PERHAPS = ("23", "P0", "44")


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """What a call did.

    Args:
        lanes: that it worked on; none when other drainers have all of them.
        events: written; dead: written to dead letters instead; held: whether it stopped at an event that is to be
            tried again.
        oldest_at: when the first of them was put, seconds since 1970.
    """

    lanes: int
    events: int = 0
    dead: int = 0
    held: bool = False
    oldest_at: float | None = None
    positions: dict[int, int] = field(default_factory=dict[int, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How events are delivered.

    Args:
        most: events of a batch; lanes: to claim at most; deliveries: how often an event is tried that may heal.
    """

    most: int
    lanes: int
    deliveries: int
    rate_per_s: float = 0.0


class _Hold(Exception):  # noqa: N818 because it is no error: it says how far a batch may go
    """An event that may heal stands at this index."""

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(index)
        self.index = index
        self.error = error


@dataclass(kw_only=True)
class _Work:
    """A batch on its way."""

    names: list[tuple[str, ...]]
    rows: list[list[Any]]
    lanes: list[int]
    destination: Destination
    info: psycopg.ConnectionInfo
    target: Target
    # Events that are beyond trying, with what is wrong with them.
    bad: dict[int, PgscaleError]
    # The first event of the batch has been tried often enough.
    gives_up: bool


def land(info: psycopg.ConnectionInfo, log: Log, decoder: RecordDecoder, rules: Rules) -> Steps[Landed]:
    """Take the next events of free lanes and write them, in one transaction.

    Raises:
        BufferDamagedError: the log cannot be read on; psycopg.Error, PgscaleError: nothing was landed, and not for
        an event's sake.
    """
    yield Atomic()
    claimed = yield from claim(log.buffer, rules.lanes)
    positions = {lane: position for lane, position, _ in claimed}
    if not positions:
        yield Done()
        return Landed(lanes=0)
    least = min(positions.values())
    tries = max(tries for _, position, tries in claimed if position == least)
    everyone = yield from read_positions(log.buffer)
    batch: Batch = yield Call(partial(log.read, positions, rules.most))
    kill_point("drain:read")
    if not batch.values:
        landed = Landed(lanes=len(positions), positions={**everyone, **batch.positions})
        if batch.positions != positions:
            yield from advance(log.buffer, Advance(positions=batch.positions, landed={}, dead={}))
    else:
        landed = yield from _land(info, log, decoder, rules, batch, tries)
    kill_point("drain:before-commit")
    yield Done()
    kill_point("drain:committed")
    everyone |= landed.positions
    yield Call(partial(log.forget, batch, everyone))
    kill_point("drain:forgotten")
    return landed


def _land(
    info: psycopg.ConnectionInfo, log: Log, decoder: RecordDecoder, rules: Rules, batch: Batch, tries: int
) -> Steps[Landed]:
    target = log.target
    names, rows = decoder.decode(batch.shapes, batch.values)
    with translated(target.table):
        destination = yield from read_destination(info, target.table)
    work = _Work(
        names=names,
        rows=rows,
        lanes=batch.lanes,
        destination=destination,
        info=info,
        target=target,
        bad={},
        gives_up=tries + 1 >= rules.deliveries,
    )
    count, hold = len(batch), None
    error: Exception | None
    _, error = yield Attempt(_write(work, range(count)))
    if isinstance(error, _Hold):
        count, hold = error.index, error
        work.bad.clear()
        _, error = yield Attempt(_write(work, range(count)))
    if error is not None:
        raise error
    positions = dict(batch.positions)
    for index in range(len(batch) - 1, count - 1, -1):
        positions[batch.lanes[index]] = batch.at[index]
    yield from _bury(log, work)
    dead = Counter(batch.lanes[n] for n in work.bad)
    events = Counter(batch.lanes[:count])
    yield from advance(
        log.buffer,
        Advance(
            positions=positions,
            landed={lane: events[lane] - dead[lane] for lane in positions},
            dead=dead,
            # The event that is held has been tried once more than when it was not yet the first.
            tries=0 if hold is None else tries + 1 if count == 0 else 1,
            retries=0 if hold is None else 1,
            rate_per_s=rules.rate_per_s / len(positions),
            error=None if hold is None else str(hold.error),
        ),
    )
    return Landed(
        lanes=len(positions),
        events=count - len(work.bad),
        dead=len(work.bad),
        held=hold is not None,
        oldest_at=batch.oldest_at,
        positions=positions,
    )


def _write(work: _Work, indexes: Sequence[int]) -> Steps[None]:
    """Write these events; bad ones are noted in the work.

    Raises:
        _Hold: at the first that may heal.
    """
    for run in _runs(work, indexes):
        yield from _write_part(work, run)


def _runs(work: _Work, indexes: Sequence[int]) -> list[list[int]]:
    """Return the events in groups of the same columns, such that each key keeps its order."""
    if len(set(work.names)) == 1:
        return [list(indexes)] if indexes else []
    runs: list[list[int]] = []
    newest: dict[tuple[str, ...], int] = {}
    last_of_key: dict[str, int] = {}
    for index in indexes:
        names = work.names[index]
        key = repr([work.rows[index][names.index(name)] for name in work.target.key])
        run = newest.get(names, -1)
        if run < (last_of_key.get(key, 0) if work.target.key else 0):
            run = newest[names] = len(runs)
            runs.append([])
        runs[run].append(index)
        last_of_key[key] = run
    return runs


def _write_part(work: _Work, part: list[int]) -> Steps[None]:
    rows = [work.rows[index] for index in part]
    error: Exception | None
    _, error = yield Attempt(_write_rows(work, work.names[part[0]], rows), rows)
    if error is None:
        return
    blame = _blame(error)
    if blame == "server":
        raise error
    if len(part) == 1:
        _judge(work, part[0], error, blame)
        return
    if isinstance(error, RowError) and 0 <= error.row < len(part):
        pieces = (part[: error.row], part[error.row : error.row + 1], part[error.row + 1 :])
    else:
        pieces = (part[: len(part) // 2], part[len(part) // 2 :])
    for piece in pieces:
        if piece:
            yield from _write_part(work, piece)


def _judge(work: _Work, index: int, error: Exception, blame: str) -> None:
    if blame == "perhaps" and not (index == 0 and work.gives_up):
        raise _Hold(index, error)
    assert isinstance(error, PgscaleError), "nothing else is an event's fault"
    work.bad[index] = error


def _blame(error: Exception) -> str:
    """Tell who is to blame: the event (`never` will it go in, or `perhaps`), or the `server`."""
    cause = error.__cause__
    if not isinstance(cause, psycopg.Error):
        # Found before anything was sent: a value that does not fit, or a column that is not there (yet).
        return "never" if isinstance(error, RowError) else "perhaps" if isinstance(error, RefusedError) else "server"
    state = cause.sqlstate or ""
    if state.startswith(_NEVER):
        return "never"
    return "perhaps" if state.startswith(_PERHAPS) else "server"


def _write_rows(work: _Work, names: tuple[str, ...], rows: list[list[Any]]) -> Steps[None]:
    merge, table = work.target.merge, work.target.table
    with translated(table):
        if merge is not None:
            yield from upsert_steps(work.info, table, merge.key, dict(merge.rules), names, (), None)
        else:
            encoder = encoder_for(work.destination, names)
            yield Begin(ddl.copy_statement(work.destination.table, encoder.names))
            yield from send(encoder, shape_of(rows[0]), (yield Pull(FIRST_CHUNK_ROWS)))
            yield End()
        # What is deferred to the COMMIT would fail there, with nobody to tell of which event.
        yield Fetch(ddl.check_constraints_now())


def _bury(log: Log, work: _Work) -> Generator[Effect, Any, None]:
    """Keep the bad events as dead letters, in the batch's transaction."""
    if not work.bad:
        return
    merge = work.target.merge
    letters = [
        DeadLetter(
            table=str(work.destination.table),
            row=dict(zip(work.names[index], work.rows[index], strict=True)),
            index=None,
            column=error.column if isinstance(error, RowError) else None,
            sqlstate=getattr(error.__cause__, "sqlstate", None),
            reason=error.reason if isinstance(error, RowError) else error.fact,
            source=f"buffer {log.buffer}",
            merge=None if merge is None else {"key": list(merge.key), "rules": dict(merge.rules)},
        )
        for index, error in sorted(work.bad.items())
    ]
    yield from ensure_table()
    yield from save(letters)
