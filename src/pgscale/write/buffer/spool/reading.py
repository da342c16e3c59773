"""Read a spool from a position on: whole frames, each compared with its CRC; what is damaged is never passed over."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Generator, Mapping
from pathlib import Path

from pgscale.write.buffer.model import MOST_BATCH_BYTES, Backlog, Batch, BufferDamagedError
from pgscale.write.buffer.records import WrongRecordError, parse
from pgscale.write.buffer.spool.format import (
    SEGMENT_HEAD_BYTES,
    Frame,
    index_of,
    number_of,
    position,
    tag_of,
)
from pgscale.write.buffer.spool.meta import Meta
from pgscale.write.buffer.spool.segments import Damage, Segment, list_numbers
from pgscale.write.buffer.spool.state import End, SharedEnd

SKIPPED = "damaged"


class SpoolReader:
    """Reads for one drainer; it remembers where it stopped, so that the next batch begins there."""

    def __init__(self, directory: Path, meta: Meta, end: SharedEnd) -> None:
        self._directory = directory
        self._meta = meta
        self._end = end
        self._segment: Segment | None = None
        # Where frames of the open segment begin, by the index of their first event.
        self._cursor: tuple[int, int] = (0, SEGMENT_HEAD_BYTES)
        self.skips_damaged = False
        self.notes: list[str] = []

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def first_position(self) -> int:
        """As Log.first_position."""
        numbers = list_numbers(self._directory)
        if numbers and numbers[0] > 1:
            raise BufferDamagedError(
                f"The buffer in {self._directory} has been drained into another database: its first"
                f" {numbers[0] - 1} segments are gone, and this database knows nothing of it.",
                consequence="Nothing was landed.",
                hint="Drain it into the database that has table pgscale.buffer_lane with its positions, or say"
                " --begin-here to land what is left into this one.",
            )
        return position(1, 0)

    def oldest_position(self) -> int:
        """Return the position of the oldest event that is still there."""
        numbers = list_numbers(self._directory)
        return position(numbers[0] if numbers else self._end.read().number + 1, 0)

    def read(self, positions: Mapping[int, int], most: int) -> Batch:
        """As Log.read."""
        stop = min(positions.values())
        batch = Batch(lanes=[], shapes=[], values=[], at=[], positions={})
        oldest: float | None = None
        room = MOST_BATCH_BYTES
        try:
            for number, tag, frame, body in self._walk(positions, self._end.read()):
                if frame is None:
                    stop = max(stop, position(number + 1, 0))
                    continue
                self._cursor = (frame.first, frame.offset)
                stop, room = self._take(batch, position(number, frame.first, tag), frame, body, positions, most, room)
                if oldest is None and batch.values:
                    oldest = frame.at_us / 1e6
                if len(batch) >= most or room <= 0:
                    break
        except BufferDamagedError:
            # What stands before the damage is good; the next read begins there.
            if not batch.values:
                raise
        batch.positions.update({lane: max(at, stop) for lane, at in positions.items()})
        return dataclasses.replace(batch, oldest_at=oldest)

    def _walk(self, positions: Mapping[int, int], end: End) -> Generator[tuple[int, int, Frame | None, bytes]]:
        """Yield the frames from the least position on, with their segment's number and tag; None after its last one."""
        for number in self._numbers_from(positions, end):
            for tag, frame, body in self._frames(number, positions, end):
                yield number, tag, frame, body
            if number < end.number or end.offset == 0:
                yield number, 0, None, b""

    def _numbers_from(self, positions: Mapping[int, int], end: End) -> Generator[int]:
        """Yield the numbers of the segments to read.

        Raises:
            BufferDamagedError: one is missing, or they are not those that were drained.
        """
        known = frozenset(list_numbers(self._directory))
        if foreign := self._beyond(positions, end):
            raise foreign
        for each in range(number_of(min(positions.values())), end.number + 1):
            if each not in known:
                if self.skips_damaged:
                    self._note(f"segment {each} is missing")
                    continue
                raise self._missing(each)
            yield each

    def _beyond(self, positions: Mapping[int, int], end: End) -> BufferDamagedError | None:
        """Return an error when more has been landed than was ever put here."""
        newest = max(positions.values())
        if newest <= position(end.number + 1, 0):
            return None
        return self._foreign(number_of(newest), f"it ends with segment {end.number}")

    def _other(self, positions: Mapping[int, int], segment: Segment) -> BufferDamagedError | None:
        """Return an error when what has been landed is of another segment of the same number."""
        number = segment.number
        if all(number_of(at) != number or tag_of(at) in (0, segment.tag) for at in positions.values()):
            return None
        return self._foreign(number, "its segment of that number is another one")

    def _foreign(self, number: int, found: str) -> BufferDamagedError:
        return BufferDamagedError(
            f"The buffer in {self._directory} is not the one that was drained: the database has landed events of"
            f" segment {number}, and {found}.",
            consequence="Nothing was landed: new events would be taken for landed ones.",
            hint="Is it an old copy of the directory? Bring the right one back; or say from when on the events of this"
            " one are to be landed: `pgscale buffer replay --since`.",
        )

    def _missing(self, number: int) -> BufferDamagedError:
        return BufferDamagedError(
            f"Segment {number} of the buffer in {self._directory} is missing, and is not landed yet.",
            consequence="Nothing was landed from there on.",
            hint="After a restore of the database: bring the files back (see keep_s), or give their events up"
            " with `pgscale buffer drain --skip-damaged`.",
        )

    def _frames(self, number: int, positions: Mapping[int, int], end: End) -> Generator[tuple[int, Frame, bytes]]:
        """Yield the frames of a segment from the least position on, with the segment's tag."""
        segment = self._open(number)
        if segment is None:
            return
        if foreign := self._other(positions, segment):
            raise foreign
        least = min(positions.values())
        wanted = index_of(least) if number_of(least) == number else 0
        begin = self._cursor[1] if self._cursor[0] <= wanted else SEGMENT_HEAD_BYTES
        stop = end.offset if number == end.number and end.offset else None
        for found in segment.frames(begin, stop):
            if isinstance(found, Damage):
                self._face(found, segment)
                continue
            frame, body = found
            if frame.first + frame.events > wanted:
                yield segment.tag, frame, body

    def _open(self, number: int) -> Segment | None:
        """Return a segment, which stays open; None where it is given up.

        Raises:
            BufferDamagedError: it is not there, or is none.
        """
        if self._segment is None or self._segment.number != number:
            self.close()
            try:
                self._segment = Segment(self._directory, number, self._meta.buffer.bytes)
            except FileNotFoundError:
                # Somebody removed it since it was listed: landed, if the positions asked for are old ones.
                raise self._missing(number) from None
            except BufferDamagedError as error:
                if not self.skips_damaged:
                    raise
                self._note(error.fact)
                return None
            self._cursor = (0, SEGMENT_HEAD_BYTES)
        return self._segment

    def _face(self, damage: Damage, segment: Segment) -> None:
        if damage.is_torn:
            self._note(f"torn: {damage} of puts that never returned")
            return
        if not self.skips_damaged:
            raise BufferDamagedError(
                f"The buffer in {self._directory} is damaged: {damage} cannot be read.",
                consequence="Nothing was landed from there on.",
                hint="Bring the file back from a copy, or give them up with `pgscale buffer drain --skip-damaged`,"
                f" which keeps the bytes in {self._directory / SKIPPED}.",
            )
        self._keep(damage, segment)
        self._note(f"skipped: {damage}")

    def _keep(self, damage: Damage, segment: Segment) -> None:
        directory = self._directory / SKIPPED
        directory.mkdir(mode=0o700, exist_ok=True)
        data = os.pread(segment.fd, damage.end - damage.start, damage.start)
        (directory / f"{damage.number:010d}-{damage.start}.bin").write_bytes(data)

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _take(
        self, batch: Batch, first: int, frame: Frame, body: bytes, positions: Mapping[int, int], most: int, room: int
    ) -> tuple[int, int]:
        """Add a frame's events, whose first has this position, to the batch.

        Args:
            room: how many bytes more it may have; the last event may pass that.

        Returns:
            The position after the last event that was looked at, and the room that is left.
        """
        try:
            records = parse(body, check=False)
        except WrongRecordError as error:
            raise BufferDamagedError(
                f"Segment {number_of(first)} of the buffer in {self._directory}, byte {frame.offset}: {error}.",
                consequence="Nothing was landed from there on.",
            ) from error
        at = first
        for lane, shape, values in records:
            landed = positions.get(lane)
            if landed is not None and at >= landed:
                if room <= 0 or len(batch.values) >= most:
                    return at, room
                batch.lanes.append(lane)
                batch.shapes.append(shape)
                batch.values.append(values)
                batch.at.append(at)
                room -= len(values)
            at += 1
        return at, room

    def backlog(self, positions: Mapping[int, int]) -> Backlog:
        """As Log.backlog, without the bytes."""
        end = self._end.read()
        if positions:
            least, most = min(positions.values()), max(positions.values())
        else:
            least = most = self.oldest_position()
        events, oldest, notes = 0, None, [*self.notes]
        if positions and (foreign := self._beyond(positions, end)):
            notes.append(foreign.fact)
        for number in list_numbers(self._directory):
            if number < number_of(least):
                continue
            try:
                segment = Segment(self._directory, number, self._meta.buffer.bytes)
            except FileNotFoundError:
                continue
            except BufferDamagedError as error:
                notes.append(error.fact)
                continue
            if foreign := self._other(positions, segment):
                notes.append(foreign.fact)
            try:
                for found in segment.frames(
                    SEGMENT_HEAD_BYTES, end.offset if number == end.number and end.offset else None
                ):
                    if isinstance(found, Damage):
                        notes.append(f"{'torn' if found.is_torn else 'damaged'}: {found}")
                        continue
                    frame, body = found
                    first = position(number, frame.first, segment.tag)
                    waiting = _waiting(first, frame.events, body, positions, least, most)
                    if waiting and oldest is None:
                        oldest = frame.at_us / 1e6
                    events += waiting
            finally:
                segment.close()
        return Backlog(events=events, bytes=0, oldest_at=oldest, notes=tuple(dict.fromkeys(notes)))

    def position_at(self, since_s: float) -> int:
        """Return the position of the first event that was put at or after a moment, in seconds since 1970."""
        end = self._end.read()
        at = position(end.number + 1, 0)
        for number in list_numbers(self._directory):
            segment = Segment(self._directory, number, self._meta.buffer.bytes)
            try:
                stop = end.offset if number == end.number and end.offset else None
                for found in segment.frames(SEGMENT_HEAD_BYTES, stop):
                    if not isinstance(found, Damage) and found[0].at_us >= since_s * 1e6:
                        return position(number, found[0].first, segment.tag)
                if stop is not None:
                    at = position(number, end.events, segment.tag if end.events else 0)
            finally:
                segment.close()
        return at


def _waiting(at: int, count: int, body: bytes, positions: Mapping[int, int], least: int, most: int) -> int:
    """Return how many events of a frame are not landed."""
    if at + count <= least:
        return 0
    if at >= most or not positions:
        return count
    return sum(at + number >= positions.get(lane, 0) for number, (lane, _, _) in enumerate(parse(body, check=False)))
