"""What the threads of a load share: the parts on their way, and how they are stopped."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg

from pgscale.connect.session import Session
from pgscale.errors import InterruptedRunError
from pgscale.write.loading.model import Part


@dataclass(slots=True, kw_only=True)
class Shared:
    """What the threads of a load share.

    Args:
        room: of how many parts the reader may be ahead. A worker gives room when it has sent a part and the server
            works on the last of it: the reader takes the interpreter to itself for milliseconds, which a worker that
            is about to send must not wait for, nor its server.
    """

    room: threading.Semaphore
    parts: queue.Queue[Part | None] = field(default_factory=queue.Queue["Part | None"])
    stop: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    failures: list[BaseException] = field(default_factory=list[BaseException])
    sessions: list[Session] = field(default_factory=list[Session])
    ended: queue.Queue[None] = field(default_factory=queue.Queue[None])


def guarded(body: Callable[[], None], shared: Shared) -> None:
    """Do what a thread is for; its failure stops the others, and is kept for the caller's thread."""
    try:
        body()
    except BaseException as error:  # noqa: BLE001 because it is raised again in the caller's thread
        with shared.lock:
            shared.failures.append(error)
        shared.stop.set()
    finally:
        shared.ended.put(None)


def wait_for(ended: queue.Queue[None]) -> None:
    """Wait until one more thread has ended; a Ctrl-C comes through."""
    while True:
        try:
            return ended.get(timeout=1.0)
        except queue.Empty:
            continue


class Room:
    """What a worker gives once for each part."""

    def __init__(self, shared: Shared) -> None:
        self._shared: Shared | None = shared

    def give(self) -> None:
        if self._shared is not None:
            self._shared.room.release()
        self._shared = None


def wait_for_room(shared: Shared) -> bool:
    """Wait until another part may be read; return False when the load is being stopped."""
    while not shared.stop.is_set():
        if shared.room.acquire(timeout=0.1):
            return True
    return False


def take(shared: Shared) -> Part | None:
    """Return the next part; None when there are no more, or the load is being stopped."""
    while not shared.stop.is_set():
        try:
            return shared.parts.get(timeout=0.1)
        except queue.Empty:
            continue
    return None


def sleep(shared: Shared, seconds: float) -> None:
    """Wait, unless the load is being stopped.

    Raises:
        InterruptedRunError
    """
    if shared.stop.wait(seconds):
        raise InterruptedRunError("The load was stopped.")


def cancel(shared: Shared) -> None:
    """Stop every thread now: statements under way are cancelled, their transactions roll back."""
    shared.stop.set()
    with shared.lock:
        sessions = list(shared.sessions)
    for session in sessions:
        try:
            if not session.closed:
                session.cancel_safe(timeout=2.0)
        except psycopg.Error:
            # The connection is gone already, and with it the statement.
            continue


class Reading:
    """Closes the source when the load ends, or, where a thread is reading then, when that thread does.

    That thread may wait for a pipe: to close what it reads would be to wait with it.
    """

    def __init__(self, close: Callable[[], object]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._is_under_way = self._is_over = False

    @contextmanager
    def under_way(self) -> Generator[None]:
        """Read within this block."""
        with self._lock:
            self._is_under_way = True
        try:
            yield
        finally:
            with self._lock:
                self._is_under_way = False
                closes = self._is_over
            if closes:
                self._close()

    def end(self) -> None:
        """Nobody wants to read on."""
        with self._lock:
            self._is_over = True
            closes = not self._is_under_way
        if closes:
            self._close()
