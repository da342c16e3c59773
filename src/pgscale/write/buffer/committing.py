"""Group commit: whoever comes first writes for all who came meanwhile, and one of them goes on after him.

Many callers, one write and one sync: the first one leads; those that come while it syncs wait, and when it is done
the first of them leads the next group. There is no thread of its own for threads that put (and none to lose in a
fork); for coroutines one thread leads as long as somebody waits.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from pgscale.errors import PgscaleError
from pgscale.write.buffer.model import BufferFailedError

# A group is no longer than this, so that nobody waits for the bytes of too many others.
MOST_GROUP_BYTES = 1 << 20

Store = Callable[[list[bytes], float], None]


class Ticket:
    """Records of one caller on their way; done with an error or without."""

    __slots__ = ("deadline", "error", "future", "leads", "loop", "next", "records", "size", "wake")

    def __init__(self, records: list[bytes], deadline: float) -> None:
        self.records = records
        self.size = len(records[0]) if len(records) == 1 else sum(map(len, records))
        self.deadline = deadline
        self.error: BaseException | None = None
        self.leads = False
        self.next: threading.Lock | None = None
        self.wake: threading.Lock | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[None] | None = None


class GroupCommit:
    """Hands groups of tickets to `store`, one group at a time, in the order of their coming.

    Args:
        most_bytes: of a group; a single ticket may be larger.
    """

    def __init__(self, store: Store, most_bytes: int = MOST_GROUP_BYTES) -> None:
        self._store = store
        self._most_bytes = most_bytes
        self._mutex = threading.Lock()
        self._waiting: deque[Ticket] = deque()
        self._is_led = False
        self._thread: ThreadPoolExecutor | None = None

    def commit(self, records: list[bytes], timeout_s: float) -> None:
        """Return when the records are stored.

        Raises:
            what `store` raised for the group that they were in.
        """
        ticket = Ticket(records, time.monotonic() + timeout_s)
        with self._mutex:
            self._waiting.append(ticket)
            leads, self._is_led = not self._is_led, True
            if not leads:
                ticket.wake = threading.Lock()
                ticket.wake.acquire()  # released by whoever leads
        if ticket.wake is None:
            self._lead(ticket)
        else:
            try:
                ticket.wake.acquire()
            except BaseException:
                # Ctrl-C: what was put goes in all the same, and somebody has to do what this one will be woken for.
                threading.Thread(target=self._woken, args=(ticket, ticket.wake), daemon=True).start()
                raise
            self._go_on(ticket)
        if ticket.error is not None:
            raise ticket.error

    async def acommit(self, records: list[bytes], timeout_s: float) -> None:
        """As commit."""
        ticket = Ticket(records, time.monotonic() + timeout_s)
        ticket.loop = asyncio.get_running_loop()
        future = ticket.future = ticket.loop.create_future()
        with self._mutex:
            self._waiting.append(ticket)
            leads, self._is_led = not self._is_led, True
        if leads:
            try:
                self._lead_in_thread()
            except RuntimeError as error:
                self._resign(ticket)
                raise BufferFailedError(
                    f"No thread can be started to write to the buffer ({error}).",
                    consequence="Nothing of the call was stored.",
                ) from error
        await future

    def close(self) -> None:
        """Wait for the thread that leads for coroutines."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _woken(self, ticket: Ticket, wake: threading.Lock) -> None:
        wake.acquire()
        self._go_on(ticket)

    def _go_on(self, ticket: Ticket) -> None:
        """Do what a ticket was woken for: lead, or wake the next one."""
        if ticket.leads:
            self._lead(ticket)
        elif ticket.next is not None:
            ticket.next.release()

    def _lead_in_thread(self) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pgscale-buffer")
        self._thread.submit(self._lead_on)

    def _lead_on(self) -> None:
        while self._lead(None):
            pass

    def _resign(self, ticket: Ticket) -> None:
        """Leave the lead to whoever comes next, and take the ticket back if nobody has it."""
        with self._mutex:
            self._is_led = False
            if ticket in self._waiting:
                self._waiting.remove(ticket)

    def _lead(self, own: Ticket | None) -> bool:
        """Store one group; hand the lead on. Return whether to go on, where the leader is nobody's ticket.

        Whatever goes wrong, those of the group are told, and somebody leads as long as anybody waits.
        """
        group, records = self._take()
        if not group:
            return False
        error: BaseException | None = None
        goes_on = False
        try:
            self._store(records, max(ticket.deadline for ticket in group))
        except PgscaleError as failed:
            error = failed
        except BaseException as failed:
            error = BufferFailedError(
                f"A write to the buffer was broken off ({type(failed).__name__}: {failed}).",
                consequence="Whether its events are in is not known.",
            )
            error.__cause__ = failed
            if own is not None:
                # A Ctrl-C is for the thread that it came to.
                raise
        finally:
            try:
                goes_on = self._hand_on(in_thread=own is None)
            finally:
                self._tell(group, own, error)
        return goes_on

    def _take(self) -> tuple[list[Ticket], list[bytes]]:
        group: list[Ticket] = []
        records: list[bytes] = []
        size = 0
        with self._mutex:
            while self._waiting and (not group or size + self._waiting[0].size <= self._most_bytes):
                ticket = self._waiting.popleft()
                group.append(ticket)
                records += ticket.records
                size += ticket.size
        return group, records

    def _hand_on(self, *, in_thread: bool) -> bool:
        with self._mutex:
            if not self._waiting:
                self._is_led = False
                return False
            if in_thread:
                return True
            heir = self._waiting[0]
            wake = heir.wake
            heir.leads = wake is not None
        if wake is None:
            self._lead_in_thread()
        else:
            wake.release()
        return False

    @staticmethod
    def _tell(group: list[Ticket], own: Ticket | None, error: BaseException | None) -> None:
        first: threading.Lock | None = None
        last: Ticket | None = None
        loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
        for ticket in group:
            ticket.error = error
            if ticket.loop is not None and ticket.future is not None:
                loops.setdefault(ticket.loop, []).append(ticket.future)
            elif ticket is not own and ticket.wake is not None:
                # One wakes the next: all at once would only wait for the interpreter's lock.
                if last is None:
                    first = ticket.wake
                else:
                    last.next = ticket.wake
                last = ticket
        if first is not None:
            first.release()
        for loop, futures in loops.items():
            # A loop that is closed meanwhile has nobody left that waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(_resolve, futures, error)


def _resolve(futures: list[asyncio.Future[None]], error: BaseException | None) -> None:
    for future in futures:
        if future.done():  # its caller no longer waits
            continue
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
