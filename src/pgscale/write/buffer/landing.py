"""Land a batch: its rows and its lanes' new positions in one transaction, bad events apart from good ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psycopg

from pgscale.core.killing import kill_point
from pgscale.errors import PgscaleError, RefusedError
from pgscale.write import ddl
from pgscale.write.buffer.model import Batch, Log, Target
from pgscale.write.buffer.positions import Advance, Claimed, advance, claim, commit_durably, read_positions
from pgscale.write.buffer.records import RecordDecoder, key_text, text_of
from pgscale.write.copying import FIRST_CHUNK_ROWS, send
from pgscale.write.dead_letters import WHOLE, DeadLetter, ensure_table, save
from pgscale.write.dead_letters.tagging import KIND, OPAQUE, row_to_json
from pgscale.write.destination import encoder_for, read_destination, read_unique_keys, refuse_if_altered
from pgscale.write.effects import Atomic, Attempt, Begin, Call, Done, Effect, End, Fetch, Pull, Steps
from pgscale.write.failures import translated
from pgscale.write.isolating import blames_a_row
from pgscale.write.model import Destination, RowError
from pgscale.write.rows import shape_of
from pgscale.write.rules import Rule
from pgscale.write.upserting import arbiter_of, upsert_steps

# What the event itself is to blame for, whenever it is tried: values that do not fit, and rows too long for an index.
# All else that blames a row may be well after a while: a parent row that is not there yet, a partition that is to be
# made, a trigger's word.
_NEVER = ("22", "54", "23502")


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
        on_read: told how many events a batch has, before they are written.
    """

    most: int
    lanes: int
    deliveries: int
    on_read: Callable[[int], None]
    rate_per_s: float = 0.0


class _Hold(Exception):  # noqa: N818 because it is no error: it says how far a batch may go
    """An event that may heal stands at this index."""

    def __init__(self, index: int, error: Exception) -> None:
        super().__init__(index)
        self.index = index
        self.error = error


@dataclass(kw_only=True)
class _Work:
    """A batch on its way.

    Args:
        keys: of each event, when there are several kinds of rows.
        bad: events that are beyond trying, with what is wrong with them.
        tried: how often the event at this index was delivered before; 0 for those that are not here.
        deliveries: that an event gets.
    """

    names: list[tuple[str, ...]]
    rows: list[list[Any]]
    faults: dict[int, RowError]
    destination: Destination
    info: psycopg.ConnectionInfo
    target: Target
    bad: dict[int, PgscaleError]
    tried: dict[int, int]
    deliveries: int


def land(info: psycopg.ConnectionInfo, log: Log, decoder: RecordDecoder, rules: Rules) -> Steps[Landed]:
    """Take the next events of free lanes and write them, in one transaction.

    Raises:
        BufferDamagedError: the log cannot be read on; psycopg.Error, PgscaleError: nothing was landed, and not for
        an event's sake.
    """
    yield Atomic()
    yield from commit_durably()
    claimed = yield from claim(log.buffer, rules.lanes)
    positions = {one.lane: one.position for one in claimed}
    if not positions:
        yield Done()
        return Landed(lanes=0)
    everyone = yield from read_positions(log.buffer)
    batch: Batch = yield Call(partial(log.read, positions, rules.most))
    rules.on_read(len(batch))
    kill_point("drain:read")
    if not batch.values:
        landed = Landed(lanes=len(positions), positions={**everyone, **batch.positions})
        if batch.positions != positions:
            yield from advance(info, log.buffer, Advance(positions=batch.positions))
    else:
        landed = yield from _land(info, log, decoder, rules, batch, claimed)
    kill_point("drain:before-commit")
    yield Done()
    kill_point("drain:committed")
    everyone |= landed.positions
    yield Call(partial(log.forget, batch, everyone))
    kill_point("drain:forgotten")
    return landed


def _land(
    info: psycopg.ConnectionInfo,
    log: Log,
    decoder: RecordDecoder,
    rules: Rules,
    batch: Batch,
    claimed: Sequence[Claimed],
) -> Steps[Landed]:
    target = log.target
    decoded = decoder.decode(batch.shapes, batch.values)
    with translated(target.table):
        destination = yield from read_destination(info, target.table)
        if target.merge is not None:
            # A key that is not there (yet) is no event's fault.
            arbiter_of(destination, (yield from read_unique_keys(info, destination.oid)), target.merge.key)
    first_of: dict[int, int] = {}
    for index, lane in enumerate(batch.lanes):
        first_of.setdefault(lane, index)
    work = _Work(
        names=decoded.names,
        rows=decoded.rows,
        faults={index: RowError(0, None, reason) for index, reason in decoded.faults.items()},
        destination=destination,
        info=info,
        target=target,
        bad={},
        # What was delivered before is the first event of its lane.
        tried={first_of[one.lane]: one.tries for one in claimed if one.lane in first_of},
        deliveries=rules.deliveries,
    )
    count, hold = len(batch), None
    error: Exception | None
    while True:
        work.bad = {index: fault for index, fault in work.faults.items() if index < count}
        _, error = yield Attempt(_write(work, [index for index in range(count) if index not in work.faults]))
        if not isinstance(error, _Hold):
            break
        count, hold = error.index, error
    if error is not None:
        raise error
    # What was encoded for columns that are others by now is garbage, or no fault of the events.
    yield from refuse_if_altered(destination, target.table)
    positions = dict(batch.positions)
    for index in range(len(batch) - 1, count - 1, -1):
        positions[batch.lanes[index]] = batch.at[index]
    yield from _bury(log, work, batch)
    dead = Counter(batch.lanes[n] for n in work.bad)
    events = Counter(batch.lanes[:count])
    # The count goes with the event: an event that is now the first of its lane and was not, has been tried at most now.
    tries = {one.lane: one.tries if first_of.get(one.lane, count) >= count else 0 for one in claimed}
    if hold is not None:
        tries[batch.lanes[count]] = work.tried.get(count, 0) + 1
    yield from advance(
        info,
        log.buffer,
        Advance(
            positions=positions,
            landed={lane: events[lane] - dead[lane] for lane in positions},
            dead=dead,
            tries=tries,
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
        yield from _write_run(work, run)


def _runs(work: _Work, indexes: Sequence[int]) -> list[list[int]]:
    """Return the events in groups of the same columns, such that each key keeps its order."""
    if len({work.names[index] for index in indexes}) <= 1:
        return [list(indexes)] if indexes else []
    runs: list[list[int]] = []
    newest: dict[tuple[str, ...], int] = {}
    last_of_key: dict[str, int] = {}
    for index in indexes:
        names = work.names[index]
        key = key_text([work.rows[index][names.index(name)] for name in work.target.key])
        run = newest.get(names, -1)
        if run < (last_of_key.get(key, 0) if work.target.key else 0):
            run = newest[names] = len(runs)
            runs.append([])
        runs[run].append(index)
        last_of_key[key] = run
    return runs


def _write_run(work: _Work, run: list[int]) -> Steps[None]:
    """Write events of the same columns: all at once, and where that fails, what is left without the bad ones."""
    names, merge = work.names[run[0]], work.target.merge
    if merge is not None and (missing := [name for name in merge.key if name not in names]):
        work.bad.update((n, RowError(0, missing[0], "the key to merge by has no value here")) for n in run)
        return
    # On top is what comes first.
    left = [run]
    while left:
        part = left.pop()
        if not part:
            continue
        rows = [work.rows[index] for index in part]
        error: Exception | None
        _, error = yield Attempt(_write_rows(work, names, rows), rows)
        if error is None:
            continue
        blame = _blame(error)
        if blame == "unknown":
            # Before anything of theirs was sent. All that do not fit are found at once: there may be thousands.
            unfit = _judge_each(work, names, part)
            if not unfit and not isinstance(error, RowError):
                raise error
            work.bad.update(unfit)
            if unfit:
                left.append([index for index in part if index not in unfit])
                continue
        elif blame == "server":
            raise error
        if len(part) == 1:
            _judge(work, part[0], error, blame)
        elif isinstance(error, RowError) and 0 <= error.row < len(part):
            left += [part[error.row + 1 :], part[error.row : error.row + 1], part[: error.row]]
        else:
            left += [part[len(part) // 2 :], part[: len(part) // 2]]


def _judge(work: _Work, index: int, error: Exception, blame: str) -> None:
    if blame == "perhaps" and work.tried.get(index, 0) + 1 < work.deliveries:
        raise _Hold(index, error)
    assert isinstance(error, PgscaleError), "nothing else is an event's fault"
    work.bad[index] = error


def _judge_each(work: _Work, names: tuple[str, ...], part: Sequence[int]) -> dict[int, PgscaleError]:
    """Return the events that have no form for their columns, each with the reason."""
    encoder = encoder_for(work.destination, names)
    shape = shape_of(work.rows[part[0]])
    found: dict[int, PgscaleError] = {}
    for index in part:
        try:
            encoder.encode_one(work.rows[index], shape, 0)
        except RowError as error:
            found[index] = error
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 because whatever a value brings about, it is this event's
            found[index] = RowError(0, None, f"{type(error).__name__}: {error}")
    return found


def _blame(error: Exception) -> str:
    """Tell who is to blame: the event (`never` will it go in, or `perhaps`), the `server`, or it is `unknown`."""
    cause = error.__cause__
    if isinstance(cause, psycopg.Error) and isinstance(error, PgscaleError):
        if (cause.sqlstate or "").startswith(_NEVER):
            return "never"
        return "perhaps" if blames_a_row(cause) else "server"
    if isinstance(error, (psycopg.Error, MemoryError)):
        return "server"
    # Found before anything was sent: a column that is not there (yet), or a value that has no form.
    if isinstance(error, RefusedError):
        return "perhaps"
    return "unknown" if isinstance(error, RowError) or not isinstance(error, PgscaleError) else "server"


def _write_rows(work: _Work, names: tuple[str, ...], rows: list[list[Any]]) -> Steps[None]:
    merge, table = work.target.merge, work.target.table
    with translated(table):
        if merge is not None:
            # An event need not have all columns that there are rules for.
            rules: dict[str, Rule] = {name: rule for name, rule in merge.rules.items() if name in names}
            yield from upsert_steps(work.info, table, merge.key, rules, names, (), None)
        else:
            encoder = encoder_for(work.destination, names)
            yield Begin(ddl.copy_statement(work.destination.table, encoder.names))
            yield from send(encoder, shape_of(rows[0]), (yield Pull(FIRST_CHUNK_ROWS)))
            yield End()
        # What is deferred to the COMMIT would fail there, with nobody to tell of which event.
        yield Fetch(ddl.check_constraints_now())


def _bury(log: Log, work: _Work, batch: Batch) -> Generator[Effect, Any, None]:
    """Keep the bad events as dead letters, in the batch's transaction."""
    if not work.bad:
        return
    merge = work.target.merge
    letters = [
        DeadLetter(
            table=str(work.destination.table),
            row=_kept(work, batch, index),
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


def _kept(work: _Work, batch: Batch, index: int) -> dict[str, Any]:
    """Return a row for its letter; as it stands in the log where a letter could not hold it (nested too deep)."""
    row = dict(zip(work.names[index], work.rows[index], strict=True))
    if row_to_json(row).get(KIND) == OPAQUE:
        return {WHOLE: text_of(batch.shapes[index], batch.values[index])}
    return row
