"""`pgscale buffer …`: open the buffer, call the room, say the answer for a person and as JSON."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from types import FrameType

import psycopg

from pgscale.connect.dsn import redact, resolve_dsn
from pgscale.connect.session import CONTROL, Session, open_session
from pgscale.core.model import Json, Report
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.errors import ConnectError, PermissionDeniedError, RefusedError
from pgscale.write.buffer import Drained, Drainer, Log, SpoolLog, open_log
from pgscale.write.buffer.model import SURVIVES
from pgscale.write.buffer.opening import shown
from pgscale.write.buffer.status import BufferStatus, rewind
from pgscale.write.buffer.status import status as read_status

Tell = Callable[[str], None]


def drain(
    dsn: str | None,
    where: str,
    tell: Tell,
    *,
    workers: int,
    until_empty: bool,
    deliveries: int,
    skip_damaged: bool,
    begin_here: bool,
) -> Report:
    """Land what is in a buffer, until it is empty or somebody ends it; dead letters and damage are bad news."""
    conninfo = resolve_dsn(dsn)
    # A drainer waits out a server that is away; one that was never there is a mistake in the call.
    open_session(conninfo, CONTROL).close()
    with ExitStack() as stack, _until_told() as stop:
        logs: list[Log] = []
        for _ in range(workers):
            logs.append(open_log(where))
            stack.callback(logs[-1].close)
            logs[-1].skip_damaged(skip_damaged)
        drainers = [Drainer(log, deliveries=deliveries, begin_here=begin_here) for log in logs]
        tell(
            f"Landing events of {shown(where)} in {logs[0].target.table}"
            + ("." if until_empty else "; Ctrl-C or SIGTERM ends it after the present batch.")
        )
        failures = _run_all(drainers, conninfo, stop, tell, until_empty=until_empty)
        if failures:
            raise failures[0]
        notes = list(dict.fromkeys(note for log in logs for note in log.notes_of_reading))
    done = [d.drained for d in drainers]
    total = Drained(
        events=sum(d.events for d in done), dead=sum(d.dead for d in done), retries=sum(d.retries for d in done)
    )
    data: dict[str, Json] = {"events": total.events, "dead": total.dead, "retries": total.retries, "notes": [*notes]}
    lines = [f"{format_count(total.events, 'event')} landed, {format_count(total.dead, 'dead letter')}.", *notes]
    if total.dead:
        lines.append("`pgscale dead-letters list` shows them.")
    return Report(data=data, text="\n".join(lines), exit_code=1 if total.dead or notes else 0)


def _run_all(
    drainers: list[Drainer], dsn: str, stop: threading.Event, tell: Tell, *, until_empty: bool
) -> list[BaseException]:
    told = ""
    failures: list[BaseException] = []

    def work(drainer: Drainer) -> None:
        try:
            drainer.run(dsn, stop, until_empty=until_empty)
        except BaseException as error:  # noqa: BLE001 because it is raised where the threads are joined
            failures.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(drainer,)) for drainer in drainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        # In slices, so that a signal is heard in between, and trouble is told while it lasts.
        while thread.is_alive():
            thread.join(0.2)
            trouble = next((d.last_error for d in drainers if d.last_error), "")
            if trouble and trouble != told:
                tell(f"Trying again: {trouble}")
            told = trouble
    return failures


@contextmanager
def _until_told() -> Generator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set, so that a batch under way is not cut in two."""
    stop = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    before = {number: signal.signal(number, told) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _session(dsn: str | None) -> Generator[Session]:
    """Yield a session; what the server says in it comes out in our words.

    Raises:
        RefusedError, PermissionDeniedError, ConnectError
    """
    with open_session(dsn, CONTROL) as session:
        try:
            yield session
        except psycopg.errors.LockNotAvailable:
            raise RefusedError(
                "Drainers are at work on the buffer.",
                consequence="Nothing was changed.",
                hint="Try again, or end them first.",
            ) from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise PermissionDeniedError(
                f"The role lacks a right: {str(error).splitlines()[0]}.",
                hint="GRANT USAGE ON SCHEMA pgscale, and SELECT, UPDATE ON pgscale.buffer_lane TO it.",
            ) from None
        except psycopg.Error as error:
            raise ConnectError(f"The database ended it: {redact(str(error).splitlines()[0])}.") from error


def status(dsn: str | None, where: str) -> Report:
    """Say what waits in a buffer, since when, and how fast it lands; damage and a drainer in trouble are bad news."""
    log = open_log(where)
    try:
        with _session(dsn) as session:
            found = read_status(log, session)
    finally:
        log.close()
    bad = bool(found.last_error) or any("damaged" in note or "not the one" in note for note in found.notes)
    return Report(data={**found.to_json()}, text=_text(found), exit_code=1 if bad else 0)


def _text(found: BufferStatus) -> str:
    age = "" if found.oldest_age_s is None else f", the oldest {format_duration(found.oldest_age_s)} old"
    lines = [
        f"Buffer {found.buffer} for {found.table}",
        f"  level      {found.level}: {SURVIVES[found.durability]}",
        f"  depth      {format_count(found.depth, 'event')}{age} ({format_bytes(found.bytes)})",
        f"  landed     {format_count(found.landed, 'event')}, {found.rate_per_s:,.0f}/s now",
        f"  dead       {format_count(found.dead, 'dead letter')}",
        f"  retries    {found.retries:,}",
    ]
    if not found.is_known:
        lines.append("  This database has landed nothing of it yet.")
    if found.last_error:
        lines.append(f"  waits      {found.last_error}")
    lines += [f"  {note}" for note in found.notes]
    return "\n".join(lines)


def replay(dsn: str | None, where: str, since: datetime | None) -> Report:
    """Have kept events landed again by the next drainer."""
    log = open_log(where)
    try:
        if not isinstance(log, SpoolLog):
            raise RefusedError(
                "Only a spool keeps events after they are landed; there is nothing to land again.",
                consequence="Nothing was changed.",
            )
        with _session(dsn) as session:
            events = rewind(log, session, None if since is None else since.timestamp())
    finally:
        log.close()
    text = f"{format_count(events, 'event')} will be landed again by the next `pgscale buffer drain`."
    return Report(data={"events": events}, text=text)
