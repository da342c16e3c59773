"""What became of a COMMIT whose answer was never heard: looked up on another connection, by the transaction's id.

A server that crashed may have forgotten the id along with the transaction, and given it to another one since; then what
`pg_xact_status` says is said of that one. So the server is asked, too, whether it is the same and has been up all the
time, and if not, what the checkpoint at the end of its recovery says was the next id.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypeVar

import psycopg

from pgscale import sql as named
from pgscale.write.effects import Atomic, Done, Effect, Fetch, Steps
from pgscale.write.failures import is_lost

T = TypeVar("T")
QUERIES = named.load("pgscale.write")

Verdict = Literal["committed", "aborted", "in progress", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Incarnation:
    """A server from one start or crash to the next, as a connection found it.

    Args:
        system: the cluster; timeline: of its WAL, another one after a fail-over.
        started_at: of the postmaster, which survives the crash of a backend; counting_since: of its statistics, which
            a crash resets, but anybody may, too. found_at: by the server's clock.
    """

    system: str
    timeline: str
    started_at: datetime
    counting_since: datetime | None
    found_at: datetime = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The server's last checkpoint.

    Args:
        is_last_word: it was made when nothing was going on: at the end of a recovery or at a shutdown.
        next_xid: the first transaction id that WAL before it knows nothing of.
    """

    made_at: datetime
    is_last_word: bool
    next_xid: int


class Commit(Generic[T]):
    """A transaction whose outcome can be looked up.

    Args:
        xid: its id, from just before COMMIT on; None while nothing is committed for sure, and when nothing was
            written.
    """

    def __init__(self) -> None:
        self.xid: int | None = None
        self._rest: Steps[T] | None = None

    def watched(self, steps: Steps[T], info: psycopg.ConnectionInfo) -> Steps[T]:
        """Ask what the steps ask, and note the transaction's id before its COMMIT.

        When the connection is lost at COMMIT, the error is raised here, and the steps wait for `finish`.
        """
        self.xid = self._rest = None
        depth = 0
        try:
            effect: Effect = steps.send(None)
            while True:
                depth += isinstance(effect, Atomic) - isinstance(effect, Done)
                is_commit = isinstance(effect, Done) and depth == 0
                if is_commit:
                    xid = (yield Fetch(QUERIES.get("read_xid", info.server_version)))[0][0]
                    self.xid = None if xid is None else int(xid)
                try:
                    answer = yield effect
                except Exception as error:
                    if is_commit and is_lost(error):
                        self._rest = steps
                        raise
                    # What failed has rolled back the block that it was in, unless that was at its end already.
                    depth -= depth > 0 and not isinstance(effect, Done)
                    effect = steps.throw(error)
                else:
                    effect = steps.send(answer)
        except StopIteration as ended:
            return ended.value

    def finish(self) -> T:
        """Return what the steps would have returned, had the answer of COMMIT been heard."""
        assert self._rest is not None, "its COMMIT was lost"
        try:
            self._rest.send(None)
        except StopIteration as ended:
            return ended.value
        raise AssertionError("nothing is asked after the COMMIT")


def read_incarnation(info: psycopg.ConnectionInfo) -> Steps[Incarnation | None]:
    """Read which server this is; None where the role may not know, or while it is a standby. In no transaction."""
    try:
        rows = yield Fetch(QUERIES.get("read_incarnation", info.server_version))
    except psycopg.errors.InsufficientPrivilege:
        return None
    system, timeline, started_at, counting_since, found_at = rows[0]
    if timeline is None:
        return None
    return Incarnation(
        system=system,
        timeline=timeline,
        started_at=started_at,
        counting_since=counting_since,
        found_at=found_at,
    )


def look_up(info: psycopg.ConnectionInfo, xid: int, before: Incarnation | None, *, ends_idle: bool) -> Steps[Verdict]:
    """Look up what became of a transaction whose connection is lost; on another one, in no transaction.

    Args:
        before: the server, as the lost connection found it.
        ends_idle: end the session that has the transaction where it waits for the client: COMMIT never came, or will
            find it gone.
    """
    now = yield from read_incarnation(info)
    if before is None or now is None:
        # Of a standby nothing is known before it is promoted.
        return "unknown" if before is None else "in progress"
    if ends_idle:
        with suppress(psycopg.errors.InsufficientPrivilege):
            yield Fetch(QUERIES.get("end_idle_transaction", info.server_version), {"xid": str(xid)})
    try:
        status = (yield Fetch(QUERIES.get("read_xact_status", info.server_version), {"xid": str(xid)}))[0][0]
    except psycopg.errors.InvalidParameterValue:
        status = "in the future"
    checkpoint = None
    if now != before:
        made_at, is_last_word, next_xid = (yield Fetch(QUERIES.get("read_checkpoint", info.server_version)))[0]
        checkpoint = Checkpoint(made_at=made_at, is_last_word=is_last_word, next_xid=int(next_xid))
    return judge(xid, status, before, now, checkpoint)


def judge(
    xid: int, status: str | None, before: Incarnation, now: Incarnation, checkpoint: Checkpoint | None
) -> Verdict:
    """Say what became of a transaction. Pure.

    Args:
        status: as pg_xact_status says; `in the future` of an id that was not given out yet.
        before: the server that had the transaction; now: the one that was asked.
        checkpoint: of `now`, where they differ.
    """
    if status is None or now.system != before.system:
        return "unknown"
    is_other = (now.timeline, now.started_at) != (before.timeline, before.started_at)
    has_crashed = is_other or (
        now.counting_since != before.counting_since and checkpoint is not None and checkpoint.made_at > before.found_at
    )
    if status == "in progress":
        # Of a server that has started since, it is the transaction of somebody who got the same id.
        return "aborted" if has_crashed else "in progress"
    if status != "committed":
        return "aborted"
    if now.counting_since == before.counting_since and not is_other:
        return "committed"
    # Perhaps somebody else's, unless WAL kept the id: then it was given out once.
    if not has_crashed or now.timeline != before.timeline or checkpoint is None or not checkpoint.is_last_word:
        return "unknown"
    return "committed" if xid < checkpoint.next_xid else "aborted"
