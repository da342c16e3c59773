"""The spool: one log of segment files in a directory, appended to by any number of threads and processes.

Locks, all by flock, so that the kernel takes them back from whoever dies:
- `open`, shared, by everybody who has the spool open. Who gets it exclusively knows that nobody writes, and recovers.
- `append`, exclusively, while a group is written, not while it is synced: the next group is written meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import uuid
import weakref
import zlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Self

from pgscale.core.durable import make_directory, sync_data, write_all
from pgscale.core.killing import kill_point
from pgscale.core.units import format_bytes
from pgscale.errors import RefusedError, UsageError
from pgscale.write.buffer.model import (
    Backlog,
    Batch,
    BufferDamagedError,
    BufferFailedError,
    BufferFullError,
    Durability,
    Level,
    Target,
)
from pgscale.write.buffer.spool.format import (
    EVENTS,
    FRAME_HEAD_BYTES,
    SEGMENT_HEAD_BYTES,
    Frame,
    number_of,
    pack_frame,
)
from pgscale.write.buffer.spool.meta import FORMAT, Meta, SpoolOptions, read_meta, write_meta
from pgscale.write.buffer.spool.reading import SpoolReader
from pgscale.write.buffer.spool.segments import (
    Segment,
    begin,
    list_numbers,
    path_of,
    prepare,
    prepared_path,
    recover,
    seal,
)
from pgscale.write.buffer.spool.state import End, SharedEnd

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL_WAIT_S = 0.05
# All that this process has open, for a child that it forks.
_OPEN: weakref.WeakSet[SpoolLog] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    for log in list(_OPEN):
        log.let_go()


os.register_at_fork(after_in_child=_leave_to_the_parent)


class SpoolLog:
    """A log of segment files.

    Args:
        directory: made when it is not there; on a local disk, never on NFS.
        target: what the spool is for; None takes it from the spool, which must be there.

    Raises:
        RefusedError: the directory has no spool, or one for something else.
    """

    level: Level = "spool"
    durability: Durability = "power"

    def __init__(self, directory: Path, target: Target | None = None, options: SpoolOptions | None = None) -> None:
        self.directory = directory.absolute()
        self._open_fd = self._append_fd = -1
        self._segment: Segment | None = None
        self._synced = 0
        self._preparing: threading.Thread | None = None
        self._pid = os.getpid()
        try:
            if target is None and not self.directory.is_dir():
                raise RefusedError(f"There is no buffer in {directory}: no such directory.")
            make_directory(self.directory)
            try:
                self._open_files()
                with _locked(self._append_fd):
                    self._meta = self._agree(target, options)
                self.notes = self._join()
            except BaseException:
                self.close()
                raise
        except OSError as error:
            raise RefusedError(
                f"The buffer in {directory} cannot be opened: {error.strerror}.",
                hint="Look after the disk and the rights on the directory and its files.",
            ) from error
        self.reader = SpoolReader(self.directory, self._meta, self._end)
        _OPEN.add(self)

    def _open_files(self) -> None:
        self._pid = os.getpid()
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._open_fd = os.open(self.directory / "open", flags, 0o600)
        self._append_fd = os.open(self.directory / "append", flags, 0o600)
        self._end = SharedEnd(self.directory / "end")

    def _agree(self, target: Target | None, options: SpoolOptions | None) -> Meta:
        meta = read_meta(self.directory)
        if meta is None:
            if target is None:
                raise RefusedError(f"There is no buffer in {self.directory}.")
            meta = Meta(format=FORMAT, buffer=uuid.uuid4(), target=target, options=options or SpoolOptions())
            write_meta(self.directory, meta)
            return meta
        if target is not None and target != meta.target:
            raise RefusedError(
                f"The buffer in {self.directory} is for {meta.target}, not for {target}.",
                consequence="Nothing was put.",
                hint="Use another directory, or drain this one and remove it.",
            )
        if options is not None and options != meta.options:
            meta = Meta(format=FORMAT, buffer=meta.buffer, target=meta.target, options=options)
            write_meta(self.directory, meta)
        return meta

    def _join(self) -> tuple[str, ...]:
        """Hold the spool open; recover it first when nobody else does."""
        notes: tuple[str, ...] = ()
        try:
            fcntl.flock(self._open_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            notes = self._recover()
        # From exclusive to shared is no single step; who slips in between recovers again, and finds nothing to do.
        fcntl.flock(self._open_fd, fcntl.LOCK_SH)
        return notes

    def _recover(self) -> tuple[str, ...]:
        # Who has just begun to open it may be writing its buffer.json.
        with _locked(self._append_fd):
            return self._recovered()

    def _recovered(self) -> tuple[str, ...]:
        numbers = list_numbers(self.directory)
        notes: tuple[str, ...] = ()
        last = numbers[-1] if numbers else 0
        for path in (*self.directory.glob("*.tmp"), *self.directory.glob("*.next")):
            if path.suffix == ".tmp" or int(path.stem) <= last:
                path.unlink(missing_ok=True)
        if numbers:
            try:
                segment = Segment(self.directory, last, self.buffer.bytes, writes=True)
            except BufferDamagedError as error:
                # Whoever reads it stops there. New events are safe in a segment of their own.
                notes = (error.fact,)
            else:
                try:
                    notes = recover(segment)
                finally:
                    segment.close()
        self._end.write(End(last, 0, 0))
        return notes

    @property
    def buffer(self) -> uuid.UUID:
        return self._meta.buffer

    @property
    def target(self) -> Target:
        return self._meta.target

    @property
    def options(self) -> SpoolOptions:
        return self._meta.options

    # Appending. One thread of a process at a time: see committing.

    def append(self, records: list[bytes], deadline: float) -> None:
        """As Log.append: written under the lock, synced without it."""
        if self._pid != os.getpid():
            self._reopen()
        body = b"".join(records)
        needed = FRAME_HEAD_BYTES + len(body)
        if SEGMENT_HEAD_BYTES + needed + FRAME_HEAD_BYTES > self.options.segment_bytes:
            raise UsageError(
                f"A put of {format_bytes(len(body))} does not fit into a segment.", hint="Raise segment_bytes."
            )
        segment, after = self._write(body, len(records), deadline)
        kill_point("spool:written")
        try:
            sync_data(segment.fd)
        except OSError as error:
            self._give_up(segment, error)
        kill_point("spool:synced")
        if self._segment is segment:
            self._synced = max(self._synced, after)
        # The events are in, whatever comes of this.
        with contextlib.suppress(OSError, RuntimeError):
            self._prepare_ahead(segment.number, after)

    def _write(self, body: bytes, count: int, deadline: float) -> tuple[Segment, int]:
        while True:
            try:
                with _locked(self._append_fd):
                    end = self._end.read()
                    if end.offset == 0 or end.offset + len(body) + 2 * FRAME_HEAD_BYTES > self.options.segment_bytes:
                        end = self._roll(end)
                    segment = self._current(end.number)
                    return segment, self._write_frame(segment, end, body, count)
            except BufferFullError:
                if time.monotonic() >= deadline:
                    raise
            except OSError as error:
                # Too many open files, a segment that somebody removed: nothing was written.
                raise _refusal(error, self.directory) from error
            time.sleep(FULL_WAIT_S)

    def _write_frame(self, segment: Segment, end: End, body: bytes, count: int) -> int:
        now_us = time.time_ns() // 1000
        frame = Frame(len(body), count, end.offset, end.events, self._synced, now_us, zlib.crc32(body), EVENTS)
        try:
            write_all(segment.fd, pack_frame(frame, segment.salt) + body, end.offset)
        except OSError as error:
            # The end is not moved: what went in is written over by the next.
            raise _refusal(error, self.directory) from error
        kill_point("spool:unmoved")
        self._end.write(End(end.number, frame.after, end.events + count))
        return frame.after

    def _current(self, number: int) -> Segment:
        if self._segment is None or self._segment.number != number:
            before, self._segment = self._segment, None
            if before is not None:
                before.close()
            self._segment = Segment(self.directory, number, self.buffer.bytes, writes=True)
            self._synced = 0
        return self._segment

    def _roll(self, end: End) -> End:
        """Begin the next segment; the caller holds the lock.

        Raises:
            BufferFullError: there is no room for one.
        """
        number, size = end.number + 1, self.options.segment_bytes
        used = self._used_bytes()
        most = self.options.max_bytes
        if most is not None and used + size > most:
            raise BufferFullError(
                f"The buffer in {self.directory} takes {format_bytes(used)}, and one more segment would pass its"
                f" max_bytes of {format_bytes(most)}.",
                consequence="Nothing of the call was stored.",
                hint="Drain it faster (`pgscale buffer drain`), or raise max_bytes.",
            )
        try:
            kill_point("spool:before-begin")
            begin(self.directory, number, self.buffer.bytes, size)
            kill_point("spool:begun")
            if end.offset:
                old = self._current(end.number)
                seal(old.fd, old.salt, end.offset, end.events)
        except OSError as error:
            raise _refusal(error, self.directory) from error
        kill_point("spool:sealed")
        end = End(number, SEGMENT_HEAD_BYTES, 0)
        self._end.write(end)
        return end

    def _used_bytes(self) -> int:
        used = 0
        for number in list_numbers(self.directory):
            with contextlib.suppress(FileNotFoundError):
                used += path_of(self.directory, number).stat().st_size
        return used

    def _give_up(self, segment: Segment, error: OSError) -> None:
        """Never write to a segment again whose sync failed: the kernel may have dropped what it could not write.

        Raises:
            BufferFailedError: always.
        """
        with _locked(self._append_fd):
            end = self._end.read()
            if end.number == segment.number:
                self._end.write(End(segment.number, 0, end.events))
        raise BufferFailedError(
            f"{segment.path} could not be synced: {error.strerror}.",
            consequence="Whether the events of this call are in is not known; the segment takes no more.",
            hint="Look after the disk. What was acknowledged before was synced and is drained.",
        ) from error

    def _prepare_ahead(self, number: int, offset: int) -> None:
        size = self.options.segment_bytes
        if offset * 2 < size or (self._preparing is not None and self._preparing.is_alive()):
            return
        most = self.options.max_bytes
        if prepared_path(self.directory, number + 1).exists() or (
            most is not None and self._used_bytes() + size > most
        ):
            return

        def work() -> None:
            # Where there is no room, the append that needs it says so.
            with contextlib.suppress(OSError):
                prepare(self.directory, number + 1, self.buffer.bytes, size)

        self._preparing = threading.Thread(target=work, daemon=True, name="pgscale-buffer-prepare")
        self._preparing.start()

    def let_go(self) -> None:
        """Close the files that are locked: in a child just forked, too, where the locks are the parent's."""
        for fd in (self._open_fd, self._append_fd):
            if fd >= 0:
                os.close(fd)
        self._open_fd = self._append_fd = -1

    def _reopen(self) -> None:
        """In a forked child: take part in its own name."""
        self.let_go()
        self._end.close()
        if self._segment is not None:
            self._segment.close()
        self._segment, self._synced, self._preparing = None, 0, None
        self._open_files()
        fcntl.flock(self._open_fd, fcntl.LOCK_SH)
        self.reader = SpoolReader(self.directory, self._meta, self._end)

    # Reading

    @property
    def notes_of_reading(self) -> tuple[str, ...]:
        return tuple(self.reader.notes)

    def skip_damaged(self, skips: bool) -> None:
        self.reader.skips_damaged = skips

    def first_position(self, *, is_oldest: bool = False) -> int:
        return self.reader.oldest_position() if is_oldest else self.reader.first_position()

    def has_events(self, positions: Mapping[int, int]) -> bool:
        return len(self.read(positions, 1)) > 0

    def read(self, positions: Mapping[int, int], most: int) -> Batch:
        try:
            return self.reader.read(positions, most)
        except OSError as error:
            raise BufferFailedError(
                f"The buffer in {self.directory} cannot be read: {error.strerror}.",
                consequence="Nothing was landed.",
                hint="Look after the disk and the rights on the files.",
            ) from error

    def forget(self, batch: Batch, positions: Mapping[int, int]) -> None:
        """Remove the files whose events are landed, all but the newest: its number tells the next one's."""
        del batch
        floor, keep_s = number_of(min(positions.values())), self.options.keep_s
        # What cannot be removed now is found by the next batch; this one is committed all the same.
        with contextlib.suppress(OSError):
            for number in list_numbers(self.directory)[:-1]:
                if number >= floor or (keep_s and _age_s(path_of(self.directory, number)) < keep_s):
                    break
                path_of(self.directory, number).unlink(missing_ok=True)

    def backlog(self, positions: Mapping[int, int]) -> Backlog:
        found = self.reader.backlog(positions)
        notes = tuple(dict.fromkeys((*self.notes, *found.notes)))
        return Backlog(events=found.events, bytes=self._used_bytes(), oldest_at=found.oldest_at, notes=notes)

    def close(self) -> None:
        """Let go of the spool; what is in it stays."""
        is_mine = self._pid == os.getpid()
        if self._preparing is not None and is_mine:
            self._preparing.join()
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()
        if self._open_fd >= 0:
            if segment is not None and is_mine:
                self._seal_last()
            # By word and not by closing: a child that was forked without our knowing has the same lock.
            if is_mine:
                fcntl.flock(self._open_fd, fcntl.LOCK_UN)
        self.let_go()
        _OPEN.discard(self)
        # Where it could not even be opened there is less to close.
        for part in (getattr(self, "_end", None), getattr(self, "reader", None)):
            if part is not None:
                part.close()

    def _seal_last(self) -> None:
        """When nobody else has the spool open: seal it, so that damage to its very end is known for what it is."""
        with contextlib.suppress(OSError):
            fcntl.flock(self._open_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._recover()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _locked(fd: int) -> Generator[None]:
    try:
        # Inside: a Ctrl-C just after it must not leave it locked.
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)


def _age_s(path: Path) -> float:
    """Return how long ago a file was written last; one that is written in the future is from now on new."""
    age_s = time.time() - path.stat().st_mtime
    if age_s < 0:
        # The clock went back. Its age would be wrong for so long, and all files after it would be kept with it.
        os.utime(path)
    return age_s


def _refusal(error: OSError, directory: Path) -> BufferFullError | BufferFailedError:
    """Return what a failed write means; the log's end was not moved, so nothing of it is in."""
    if error.errno in _FULL:
        return BufferFullError(
            f"There is no room for more events in {directory}: {error.strerror}.",
            consequence="Nothing of the call was stored.",
            hint="Drain it faster (`pgscale buffer drain`), or give it more disk.",
        )
    return BufferFailedError(
        f"The buffer in {directory} cannot be written: {error.strerror}.",
        consequence="Nothing of the call was stored.",
        hint="Look after the disk.",
    )
