"""Events in Redis streams, a stream a lane.

A lane's position in PostgreSQL is what counts; the consumer group tells who was handed what, and XACK follows the
COMMIT. A drainer reads a lane only while it holds the lane's row in PostgreSQL, so it may claim what others were
handed: they are dead, or their transaction is over. What is handed out again though it is landed is known by its
position.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from importlib import resources
from itertools import chain
from typing import Any, TypeAlias, cast

from pgscale.core.killing import kill_point
from pgscale.errors import ConnectError, RefusedError
from pgscale.write.buffer.meta import converter
from pgscale.write.buffer.model import (
    MOST_BATCH_BYTES,
    Backlog,
    Batch,
    BufferDamagedError,
    BufferFailedError,
    BufferFullError,
    Durability,
    Level,
    Target,
)
from pgscale.write.buffer.records import HEAD, WrongRecordError, parse
from pgscale.write.buffer.streams.serving import FULL, NOT_NOW, connect, library, read_durability, split_url

FORMAT = 1
# One name for all that read: who may is settled in PostgreSQL, and a name each would be left behind by each.
GROUP, CONSUMER = "pgscale", "drainer"
# A producer that retries does so within its timeout; its last number is remembered for much longer.
REMEMBER_S = 24 * 3600
CHECK_EVERY_S = 60.0
RETRY_S = 0.05
_SEQ_BITS = 64
# The position of a lane of which a database lands what is left: no entry has this id, and none was landed before.
BEGUN_HERE = 1
# Entries asked for of a lane while it is not known how large they are.
FIRST_ENTRIES = 64

_Entry: TypeAlias = "tuple[bytes, dict[bytes, bytes]]"


class StreamLog:
    """A log of Redis streams.

    Args:
        url: redis://host:6379/0?buffer=NAME.
        target: what the buffer is for; None takes it from the buffer, which must be there.

    Raises:
        RefusedError: there is no such buffer, or one for something else, or the server keeps nothing.
        ConnectError: the server does not answer.
    """

    level: Level = "redis"

    def __init__(self, url: str, target: Target | None = None) -> None:
        server, self._name = split_url(url)
        self._redis = library()
        self._client = connect(server, self._meet)
        self.durability: Durability = read_durability(self._client)
        self._checked_at: float | None = time.monotonic()
        self.buffer, self.target = self._agree(target)
        self._streams: list[str] = [self._key(f"lane:{lane}") for lane in range(self.target.lanes)]
        self._add = self._client.register_script(
            resources.files("pgscale.write.buffer.streams").joinpath("add.lua").read_text()
        )
        self._producers = self._key("producers")
        self._become_producer()
        self._skips = False
        self._notes: list[str] = []
        self._mean_bytes = 0
        if target is not None:
            # Now, for a server whose memory is full makes none, and then it could not be drained.
            self._make_groups()
            self._forget_producers()

    def _key(self, what: str) -> str:
        # Braces: in a cluster all keys of a buffer are in one slot.
        return f"pgscale:{{{self._name}}}:{what}"

    def _become_producer(self) -> None:
        self._pid = os.getpid()
        self._producer = str(uuid.uuid4())
        self._calls = 0

    def _forget_producers(self) -> None:
        """Forget the numbers of those that are long silent; one that lives after all goes on with its next number."""
        try:
            now = int(self._client.time()[0])
            for producer, said in self._client.hscan_iter(self._producers, count=1_000):
                if now - int(said.split()[1]) > REMEMBER_S:
                    self._client.hdel(self._producers, producer)
        except self._redis.RedisError as error:
            raise self._failed(error, is_known=True) from error

    def _agree(self, target: Target | None) -> tuple[uuid.UUID, Target]:
        key = self._key("meta")
        try:
            if target is not None:
                mine = {"format": FORMAT, "buffer": str(uuid.uuid4()), "target": converter().unstructure(target)}
                self._client.set(key, json.dumps(mine), nx=True)
            found = self._client.get(key)
        except self._redis.RedisError as error:
            raise ConnectError(f"Redis does not answer: {error}.") from error
        if found is None:
            raise RefusedError(f"There is no buffer {self._name!r} in this Redis.")
        meta = json.loads(found)
        if meta.get("format") != FORMAT:
            raise RefusedError(f"Buffer {self._name!r} is not of a kind that this version of pgscale knows.")
        known = converter().structure(meta["target"], Target)
        if target is not None and target != known:
            raise RefusedError(
                f"The buffer {self._name!r} is for {known}, not for {target}.",
                consequence="Nothing was put.",
                hint="Use another name, or drain this one and delete its keys.",
            )
        return uuid.UUID(meta["buffer"]), known

    # Appending

    def append(self, records: list[bytes], deadline: float) -> None:
        """As Log.append: one script, sent again under its number until it is answered."""
        if self._pid != os.getpid():
            self._become_producer()
        self._calls += 1
        lanes = [HEAD.unpack_from(record)[2] for record in records]
        place = {lane: number for number, lane in enumerate(sorted(set(lanes)), 2)}
        keys: list[str] = [self._producers, *(self._streams[lane] for lane in place)]
        arguments = [
            self._calls,
            self._producer,
            *chain.from_iterable(zip(map(place.__getitem__, lanes), records, strict=True)),
        ]
        is_known = True
        while True:
            try:
                self._check_level()
                kill_point("redis:before-add")
                self._add(keys=keys, args=arguments)
            except RefusedError as error:
                raise error if is_known else self._failed(error, is_known=False) from error
            except (self._redis.ConnectionError, self._redis.TimeoutError) as error:
                is_known = is_known and (_never_sent(error) or _says(error, NOT_NOW))
                failed: Exception = error
            except self._redis.ResponseError as error:
                if not _says(error, (*FULL, *NOT_NOW)):
                    raise self._failed(error, is_known=is_known) from error
                failed = error
            else:
                kill_point("redis:added")
                self._check_level_after()
                return
            if time.monotonic() >= deadline:
                if is_known and _says(failed, FULL):
                    raise self._full(failed) from failed
                raise self._failed(failed, is_known=is_known) from failed
            time.sleep(RETRY_S)

    def _full(self, error: Exception) -> BufferFullError:
        return BufferFullError(
            f"Redis takes no more events: {error}.",
            consequence="Nothing of the call was stored.",
            hint="Drain it faster (`pgscale buffer drain`), or give it more memory or disk.",
        )

    def _failed(self, error: Exception, *, is_known: bool) -> BufferFailedError:
        return BufferFailedError(
            f"Redis failed: {error}.",
            consequence="Nothing of the call was stored."
            if is_known
            else "Whether the events of this call are in is not known.",
            hint="Look after Redis.",
        )

    def _check_level(self) -> None:
        """Know it when the server's settings have changed."""
        if self._checked_at is not None and time.monotonic() - self._checked_at < CHECK_EVERY_S:
            return
        now = time.monotonic()
        try:
            self.durability = read_durability(self._client)
        except ConnectError:
            return  # the put finds out
        self._checked_at = now

    def _check_level_after(self) -> None:
        """Know it when another server has taken the events than the one whose settings are known."""
        if self._checked_at is not None:
            return
        self.durability = "unknown"
        try:
            self._check_level()
        except RefusedError as error:
            raise self._failed(error, is_known=False) from error

    def _meet(self) -> None:
        self._checked_at = None

    # Reading

    @property
    def notes_of_reading(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def skip_damaged(self, skips: bool) -> None:
        self._skips = skips

    def first_position(self, *, is_oldest: bool = False) -> int:
        """As Log.first_position."""
        if is_oldest:
            return BEGUN_HERE
        gone = any(at is not None for at in self._removed_to(range(self.target.lanes)).values())
        for stream in self._streams:
            told = self._told(stream)
            if gone or int(told.get("entries-added", 0)) > int(told.get("length", 0)):
                raise BufferDamagedError(
                    f"The buffer {self._name!r} has been drained into another database than this.",
                    consequence="Nothing was landed.",
                    hint="Drain it into the database that has table pgscale.buffer_lane with its positions, or say"
                    " --begin-here to land what is left into this one.",
                )
        return 0

    def _removed_to(self, lanes: Iterable[int]) -> dict[int, float | None]:
        """Return up to when, in milliseconds since 1970, entries of each lane were removed as landed."""
        wanted = list(lanes)
        try:
            found = self._client.zmscore(self._key("landed"), [str(lane) for lane in wanted])
        except self._redis.RedisError as error:
            raise self._failed(error, is_known=True) from error
        return dict(zip(wanted, found, strict=True))

    def _check_removed(self, positions: Mapping[int, int]) -> None:
        """Know it when the database has not landed what was removed as landed: it was restored, or is another one.

        Raises:
            BufferDamagedError
        """
        for lane, removed_to in self._removed_to(positions).items():
            at = positions[lane]
            if removed_to is None or at == BEGUN_HERE or at >> _SEQ_BITS >= removed_to:
                continue
            fact = (
                f"Lane {lane} of the buffer {self._name!r} was landed up to {_moment(removed_to)}, and the database has"
                f" it only up to {_moment(at >> _SEQ_BITS)}: the events between are gone."
            )
            if not self._skips:
                raise BufferDamagedError(
                    fact,
                    consequence="Nothing was landed.",
                    hint="Was the database restored from a backup? `pgscale buffer drain --skip-damaged` goes on with"
                    " what is left. A spool keeps landed events for such a case (keep_s).",
                )
            self._note(fact)

    def _note(self, note: str) -> bool:
        """Note something; return whether it is new."""
        is_new = note not in self._notes
        if is_new:
            self._notes.append(note)
        return is_new

    def _told(self, stream: str) -> dict[str, Any]:
        try:
            return cast("dict[str, Any]", self._client.xinfo_stream(stream))
        except self._redis.ResponseError:
            return {}
        except self._redis.RedisError as error:
            raise self._failed(error, is_known=True) from error

    def has_events(self, positions: Mapping[int, int]) -> bool:
        """As Log.has_events: looks, and takes nothing."""
        return any(self._first_of(positions).values())

    def _first_of(self, positions: Mapping[int, int]) -> dict[int, list[Any]]:
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for lane, position in positions.items():
                    pipe.xrange(self._streams[lane], min=_id(position), count=1)
                return dict(zip(positions, pipe.execute(), strict=True))
        except self._redis.RedisError as error:
            raise self._failed(error, is_known=True) from error

    def read(self, positions: Mapping[int, int], most: int) -> Batch:
        """As Log.read; the caller holds these lanes, so whatever is handed to others is taken over."""
        self._check_removed(positions)
        batch = Batch(lanes=[], shapes=[], values=[], at=[], positions=dict(positions), token={})
        token = cast("dict[int, list[bytes]]", batch.token)
        count = self._count(most, len(positions))
        damage: BufferDamagedError | None = None
        try:
            for lane, position in positions.items():
                # What is handed out already comes before what is not.
                entries = self._claim(self._streams[lane], count)
                if len(entries) < count:
                    entries += self._next(self._streams[lane], count - len(entries))
                token[lane] = [identity for identity, _ in entries]
                for identity, fields in entries:
                    at = _position(identity)
                    if at < position:
                        continue
                    if len(batch) >= most:
                        break
                    try:
                        _, shape, values = _record(fields)
                    except WrongRecordError as error:
                        damage = self._face(lane, identity, fields, error)
                        if damage is not None:
                            break
                    else:
                        batch.lanes.append(lane)
                        batch.shapes.append(shape)
                        batch.values.append(values)
                        batch.at.append(at)
                    batch.positions[lane] = at + 1
        except self._redis.RedisError as error:
            if str(error).startswith("NOGROUP"):
                self._make_groups()  # the next read finds them
            raise self._failed(error, is_known=True) from error
        if batch.values:
            self._mean_bytes = sum(map(len, batch.values)) // len(batch) + 1
        elif damage is not None:
            # What stands before it is landed; and what other lanes have.
            raise damage
        return batch

    def _count(self, most: int, lanes: int) -> int:
        """Return how many entries to ask of each lane: not more than there may be, and not many bytes."""
        fit = MOST_BATCH_BYTES // self._mean_bytes if self._mean_bytes else FIRST_ENTRIES * lanes
        return max(1, min(most, fit) // lanes)

    def _face(
        self, lane: int, identity: bytes, fields: dict[bytes, bytes], error: WrongRecordError
    ) -> BufferDamagedError | None:
        """Return what is to be said of an entry that is no record; None when it is given up, and kept aside."""
        where = f"entry {identity.decode()} of lane {lane} of the buffer {self._name!r}"
        if not self._skips:
            return BufferDamagedError(
                f"The {where} cannot be read: {error}.",
                consequence="Nothing of the lane was landed from there on.",
                hint="Did somebody else write to the stream? `pgscale buffer drain --skip-damaged` gives it up, and"
                f" keeps it in the stream {self._key('damaged')}.",
            )
        if self._note(f"skipped: {where}: {error}"):
            self._client.xadd(self._key("damaged"), {**fields, b"pgscale-lane": lane, b"pgscale-id": identity})
        return None

    def _make_groups(self) -> None:
        for stream in self._streams:
            try:
                self._client.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except self._redis.ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise self._failed(error, is_known=True) from error
            except self._redis.RedisError as error:
                raise self._failed(error, is_known=True) from error

    def _claim(self, stream: str, most: int) -> list[_Entry]:
        """Take over what was handed out and not acknowledged, in order, at most so much."""
        found: list[_Entry] = []
        cursor: Any = "0-0"
        while True:
            answer = self._client.xautoclaim(
                stream, GROUP, CONSUMER, min_idle_time=0, start_id=cursor, count=most - len(found)
            )
            cursor = answer[0]
            # One that is deleted meanwhile has no fields.
            found += [(identity, fields) for identity, fields in answer[1] if identity is not None and fields]
            if len(found) >= most or cursor in (b"0-0", "0-0"):
                return found

    def _next(self, stream: str, most: int) -> list[_Entry]:
        answer = self._client.xreadgroup(GROUP, CONSUMER, {stream: ">"}, count=most)
        return list(answer[0][1]) if answer else []

    def forget(self, batch: Batch, positions: Mapping[int, int]) -> None:
        """Acknowledge what is landed, and remove it; nothing that is not landed is ever trimmed."""
        token = cast("dict[int, list[bytes]] | None", batch.token)
        if not token:
            return
        try:
            with self._client.pipeline(transaction=False) as pipe:
                for lane, identities in token.items():
                    landed = [one for one in identities if _position(one) < positions[lane]]
                    if landed:
                        # First: what is removed without this being known would not be missed.
                        pipe.zadd(self._key("landed"), {str(lane): positions[lane] >> _SEQ_BITS}, gt=True)
                        pipe.xack(self._streams[lane], GROUP, *landed)
                        pipe.xtrim(self._streams[lane], minid=_id(positions[lane]), approximate=False)
                pipe.execute()
        except self._redis.RedisError:
            # It is committed. Whoever is handed these again knows them by their positions.
            return

    def backlog(self, positions: Mapping[int, int]) -> Backlog:
        """As Log.backlog."""
        wanted = positions or dict.fromkeys(range(self.target.lanes), 0)
        firsts = self._first_of(wanted)
        events, size = 0, 0
        try:
            for lane, position in wanted.items():
                stream = self._streams[lane]
                landed = len(self._client.xrange(stream, max=f"({_id(position)}")) if position else 0
                events += int(self._client.xlen(stream)) - landed
                size += int(self._client.memory_usage(stream) or 0)
        except self._redis.RedisError as error:
            raise self._failed(error, is_known=True) from error
        oldest = min((_position(found[0][0]) >> _SEQ_BITS for found in firsts.values() if found), default=None)
        return Backlog(events=events, bytes=size, oldest_at=None if oldest is None else oldest / 1000)

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()


def _record(fields: Mapping[bytes, bytes]) -> tuple[int, bytes, bytes]:
    """Return the record of an entry.

    Raises:
        WrongRecordError: it has none.
    """
    if b"e" not in fields:
        raise WrongRecordError("it has no field e")
    found = parse(fields[b"e"], check=True)
    if len(found) != 1:
        raise WrongRecordError(f"it has {len(found)} records")
    return found[0]


def _moment(ms: float) -> str:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC).isoformat(timespec="milliseconds") if ms else "nothing"


def _position(identity: bytes) -> int:
    """Return the position of an entry by its id: milliseconds and a number."""
    ms, _, seq = identity.partition(b"-")
    return int(ms) << _SEQ_BITS | int(seq)


def _id(position: int) -> str:
    return f"{position >> _SEQ_BITS}-{position & ((1 << _SEQ_BITS) - 1)}"


def _says(error: Exception, words: tuple[str, ...]) -> bool:
    """Tell whether the server answered with one of these; the client makes classes of some, without their word."""
    return str(error).startswith(words) or type(error).__name__ in words


def _never_sent(error: Exception) -> bool:
    """Tell whether there was no connection to send anything on."""
    return "Connection refused" in str(error) or "connecting to" in str(error)
