"""Values of buffers: what a buffer is for, what a put is told, how events are handed to a drainer."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pgscale.errors import PgscaleError
from pgscale.write.rules import Rule

Level = Literal["memory", "spool", "redis"]
LEVELS: tuple[Level, ...] = ("memory", "spool", "redis")

# What an acknowledged event survives.
Durability = Literal["process", "system", "second", "power", "unknown"]
SURVIVES: Mapping[Durability, str] = {
    "process": "it is lost when the process ends",
    "system": "a loss of power or a crash of the system can lose the last half minute",
    "second": "a crash of the machine or of Redis can lose the last seconds",
    "power": "it survives kill -9 and a loss of power",
    "unknown": "the server does not tell how durable it is",
}


# What a batch may have of values: more of them would not land faster, and a drainer has them in memory several times.
MOST_BATCH_BYTES = 16 << 20


class BufferFullError(PgscaleError):
    """There is no room for more events, and none came while the call waited. None of the call is lost: none is in.

    Args:
        stored: how many events of the call, from its beginning, are in the buffer all the same.
    """

    exit_code = 5

    def __init__(self, fact: str, *, consequence: str = "", hint: str = "", stored: int = 0) -> None:
        super().__init__(fact, consequence=consequence, hint=hint)
        self.stored = stored


class BufferFailedError(PgscaleError):
    """A write to the buffer failed in a way that leaves open whether its events are in.

    Args:
        stored: how many events of the call, from its beginning, are in the buffer for certain.
    """

    exit_code = 5

    def __init__(self, fact: str, *, consequence: str = "", hint: str = "", stored: int = 0) -> None:
        super().__init__(fact, consequence=consequence, hint=hint)
        self.stored = stored


class BufferDamagedError(PgscaleError):
    """What was acknowledged cannot be read back, or is missing. Nothing is skipped until somebody says so."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Land by upsert instead of by COPY: `key` and `rules` as for `write.upsert`."""

    key: tuple[str, ...]
    rules: Mapping[str, Rule] = field(default_factory=dict[str, Rule])


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a buffer is for. It is kept with the buffer, so that a drainer needs nothing else.

    Args:
        table: as in SQL; give it with its schema.
        key: columns whose values name what is ordered: events with equal ones land in the order of their puts.
            Empty promises no order.
        lanes: how many drainers can work side by side; a key is always in the same lane.
        merge: how rows that are there already are merged; None inserts.
    """

    table: str
    key: tuple[str, ...] = ()
    lanes: int = 8
    merge: Merge | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a put is told: the events are in, and what they survive from now on.

    Args:
        events: how many.
        level: where they are.
        durability: what that is worth: `power`, `second`, `system`, `process` or `unknown`.
    """

    events: int
    level: Level
    durability: Durability

    @property
    def survives(self) -> str:
        return SURVIVES[self.durability]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Events to land, in their order, and where their lanes stand after them. The three lists go together.

    Args:
        lanes, shapes, values: of each event, as `records` made them.
        at: the position of each event in its lane; the one after it is greater by one or more.
        positions: after the batch, of every lane that was asked for, also where there was no event for it.
        oldest_at: when the first of them was put, seconds since 1970.
        token: what the log itself needs to forget the batch.
    """

    lanes: list[int]
    shapes: list[bytes]
    values: list[bytes]
    at: list[int]
    positions: dict[int, int]
    oldest_at: float | None = None
    token: object = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in a log.

    Args:
        events: not landed yet.
        bytes: on disk or in memory; of events that are landed and not yet removed, too.
        oldest_at: when the oldest of them was put, seconds since 1970.
        notes: what was found wrong with the log and did not stop it.
    """

    events: int
    bytes: int
    oldest_at: float | None
    notes: tuple[str, ...] = ()


class Log(Protocol):
    """Where events are between their put and their COMMIT. A lane's position is that of the next event to land."""

    @property
    def buffer(self) -> uuid.UUID: ...
    @property
    def target(self) -> Target: ...
    @property
    def level(self) -> Level: ...
    @property
    def durability(self) -> Durability: ...

    def append(self, records: list[bytes], deadline: float) -> None:
        """Store records, durably: all of them or none.

        Args:
            deadline: of the monotonic clock; until then it waits for room.

        Raises:
            BufferFullError: nothing is stored; BufferFailedError: that is not known.
        """
        ...

    @property
    def notes_of_reading(self) -> tuple[str, ...]:
        """What was given up or found torn while it was read."""
        ...

    def skip_damaged(self, skips: bool) -> None:
        """Give up what cannot be read, instead of stopping there."""
        ...

    def first_position(self, *, is_oldest: bool = False) -> int:
        """Return where a database begins that has never landed anything of this log.

        Args:
            is_oldest: with whatever is left.

        Raises:
            BufferDamagedError: events before it are gone: another database has landed them.
        """
        ...

    def has_events(self, positions: Mapping[int, int]) -> bool:
        """Tell whether there are events from these positions on; take none."""
        ...

    def read(self, positions: Mapping[int, int], most: int) -> Batch:
        """Return events of these lanes from their positions on, in order: at most so many, and not many bytes.

        What is written and not yet durable may be among them; its position is never used for another event.

        Raises:
            BufferDamagedError: what should be there is not, or is not what was written.
        """
        ...

    def forget(self, batch: Batch, positions: Mapping[int, int]) -> None:
        """Know that the batch is committed, and that everything before these positions, of all lanes, is."""
        ...

    def backlog(self, positions: Mapping[int, int]) -> Backlog:
        """Return what waits behind these positions of all lanes; none means that nothing has been landed."""
        ...

    def close(self) -> None: ...
