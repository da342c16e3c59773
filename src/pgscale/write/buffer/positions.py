"""Where each lane of a buffer stands, in table pgscale.buffer_lane: written by the transaction that lands events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from uuid import UUID

import psycopg

from pgscale import sql as named
from pgscale.errors import PermissionDeniedError, RefusedError
from pgscale.ledger.closing import closed
from pgscale.ledger.store import WORK_LOCK
from pgscale.write.effects import Atomic, Done, Fetch, Steps

QUERIES = named.load("pgscale.write.buffer")


def query(name: str) -> bytes:
    return QUERIES.get(name, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRow:
    """A lane as the database has it. `landed_ago_s` is by the server's clock, None before the first batch."""

    lane: int
    position: int
    tries: int
    landed: int
    dead: int
    retries: int
    rate_per_s: float
    landed_ago_s: float | None
    last_error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """A lane that is locked until the end of the transaction; `tries`: of the event at its position, so far."""

    lane: int
    position: int
    tries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """What a batch did to its lanes; `tries` of those that are not in it stay."""

    positions: Mapping[int, int]
    landed: Mapping[int, int] = field(default_factory=dict[int, int])
    dead: Mapping[int, int] = field(default_factory=dict[int, int])
    tries: Mapping[int, int] = field(default_factory=dict[int, int])
    retries: int = 0
    rate_per_s: float = 0.0
    error: str | None = None


def ensure_table() -> Steps[None]:
    """Make the table where there is none, in a transaction.

    Raises:
        PermissionDeniedError: there is none and the role may not make it.
    """
    if (yield Fetch(query("has_table")))[0][0]:
        return
    schema = resources.files("pgscale.write.buffer").joinpath("schema.sql").read_bytes()
    try:
        yield Atomic()
        # Two that make one table at once would fail on the catalogs' own keys; the ledger's makers wait here, too.
        yield Fetch(query("lock_schema"), {"lock": WORK_LOCK})
        yield Fetch(closed(schema))
        yield Done()
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDeniedError(
            f"Table pgscale.buffer_lane cannot be made: {str(error).splitlines()[0]}.",
            consequence="Nothing was landed.",
            hint="GRANT CREATE ON DATABASE … TO the role, or make it as another one (`pgscale buffer drain` once) and"
            " GRANT SELECT, INSERT, UPDATE, DELETE on it.",
        ) from None


def count_lanes(buffer: UUID) -> Steps[int]:
    """Return how many lanes of the buffer the database knows."""
    return (yield Fetch(query("count_lanes"), {"buffer": buffer}))[0][0]


def insert_lanes(buffer: UUID, lanes: int, position: int) -> Steps[None]:
    yield Fetch(query("insert_lanes"), {"buffer": buffer, "lanes": lanes, "position": position})


def commit_durably() -> Steps[None]:
    """Have the COMMIT of this transaction wait for the server's disk, whatever the role's settings are.

    What is landed is removed from the log: a COMMIT that a crash of the server takes back would lose it.
    """
    yield Fetch(query("commit_durably"))


def claim(buffer: UUID, most: int) -> Steps[list[Claimed]]:
    """Lock lanes until the end of the transaction."""
    rows = yield Fetch(query("claim_lanes"), {"buffer": buffer, "most": most})
    return [Claimed(lane=lane, position=int(position), tries=tries) for lane, position, tries in rows]


def read_positions(buffer: UUID) -> Steps[dict[int, int]]:
    rows = yield Fetch(query("read_positions"), {"buffer": buffer})
    return {lane: int(position) for lane, position in rows}


def shown(error: object, info: psycopg.ConnectionInfo) -> str:
    """Return an error as text that the database takes: it may quote what an event brought."""
    text = str(error)[:1000].replace("\0", "\\0")
    is_utf8 = info.parameter_status("server_encoding") == "UTF8"
    return text.encode("utf-8" if is_utf8 else "ascii", "backslashreplace").decode()


def note_error(info: psycopg.ConnectionInfo, buffer: UUID, error: object) -> Steps[None]:
    """Let the database know why a drainer does not go on, for `status`."""
    yield Fetch(query("note_error"), {"buffer": buffer, "error": shown(error, info)})


def forget_memory(buffer: UUID) -> Steps[None]:
    """Remove the rows of buffers in memory that landed nothing, or nothing for a week: their processes have ended."""
    yield Fetch(query("forget_memory"), {"buffer": buffer})


def clear_error(buffer: UUID) -> Steps[None]:
    """Let the database know that it goes on, though there is nothing to land just now."""
    yield Fetch(query("clear_error"), {"buffer": buffer})


def advance(info: psycopg.ConnectionInfo, buffer: UUID, done: Advance) -> Steps[None]:
    """Write where the lanes stand now, with the counts of the batch."""
    lanes: Sequence[int] = list(done.positions)
    yield Fetch(
        query("advance"),
        {
            "buffer": buffer,
            "lanes": lanes,
            "positions": [done.positions[lane] for lane in lanes],
            "landed": [done.landed.get(lane, 0) for lane in lanes],
            "dead": [done.dead.get(lane, 0) for lane in lanes],
            "tries": [done.tries.get(lane) for lane in lanes],
            "retries": done.retries,
            "rate": done.rate_per_s,
            "error": None if done.error is None else shown(done.error, info),
        },
    )


def read_lanes(buffer: UUID) -> Steps[tuple[LaneRow, ...]]:
    """Return every lane the database knows of the buffer; none when it knows nothing."""
    if not (yield Fetch(query("has_table")))[0][0]:
        return ()
    rows = yield Fetch(query("read_lanes"), {"buffer": buffer})
    return tuple(
        LaneRow(
            lane=row[0],
            position=int(row[1]),
            tries=row[2],
            landed=row[3],
            dead=row[4],
            retries=row[5],
            rate_per_s=row[6],
            landed_ago_s=row[7],
            last_error=row[8],
        )
        for row in rows
    )


def refuse_other_lanes(known: int, lanes: int) -> None:
    if known not in (0, lanes):
        raise RefusedError(
            f"The database knows {known} lanes of this buffer, which has {lanes}.", consequence="Nothing was landed."
        )
