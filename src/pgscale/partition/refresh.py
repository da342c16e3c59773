"""Compute materialized views that wait for a swap, from one snapshot and under no lock that the application needs."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import IsolationLevel

from pgscale.catalog import reader as catalog
from pgscale.connect.retry import retrying
from pgscale.connect.session import WORKER, Session
from pgscale.core.model import Progress, QName
from pgscale.errors import RunFailedError
from pgscale.livecopy import ddl
from pgscale.livecopy.applier import drain_within
from pgscale.livecopy.model import Pair
from pgscale.livecopy.work import Work, execute
from pgscale.partition import matviews

# Classes of SQLSTATEs that say nothing about a query: connection, locks, resources, an operator's hand, the system.
_NOT_OF_THE_QUERY = ("08", "25", "40", "53", "55", "57", "58")


def compute_matviews(work: Work, pair: Pair, names: Sequence[tuple[QName, QName]]) -> None:
    """Compute the waiting materialized views over the target of the pair, each after those it reads.

    Args:
        names: of each the one the application reads, and the one that waits; where the first holds no rows the
            second shall hold none. Nobody else may be applying this direction meanwhile.

    One REPEATABLE READ transaction drains the log and computes: the rows are those of the source at one moment, as
    with a REFRESH. It holds its snapshot as long as that takes.

    Raises:
        RunFailedError: a query fails.

    Locks: ACCESS SHARE on the source and on what the queries read.
    """

    def attempt() -> None:
        with session.transaction():
            # Before the snapshot: what a TRUNCATE left behind must be seen.
            execute(session, ddl.lock_to_read(pair.source))
            drain_within(session, pair)
            for setting in matviews.AS_THE_APPLICATION:
                session.execute(setting)
            for live, waiting in names:
                _compute(session, live, waiting)

    def told(number: int, error: BaseException) -> None:
        first = str(error).splitlines()[0]
        work.tell(Progress(table=work.table, phase="waiting", note=f"materialized views: attempt {number}: {first}"))

    def sleep(seconds: float) -> None:
        work.stop.wait(seconds)
        work.check()

    with work.session(WORKER) as session:
        session.isolation_level = IsolationLevel.REPEATABLE_READ
        # Its indexes are built anew.
        session.execute("SET maintenance_work_mem = '256MB'")
        retrying(attempt, give_up_after_s=3600.0, on_retry=told, sleep=sleep)


def _compute(session: Session, live: QName, waiting: QName) -> None:
    has_rows, had_rows = (
        bool(catalog.scalar(session, "is_populated", name=ddl.text(ddl.qualified(name)))) for name in (live, waiting)
    )
    if not has_rows and not had_rows:
        return
    try:
        execute(session, matviews.refresh(waiting, with_data=has_rows))
    except psycopg.Error as error:
        if error.sqlstate is None or error.sqlstate.startswith(_NOT_OF_THE_QUERY):
            raise
        raise RunFailedError(
            f"Materialized view {live} cannot be computed: {str(error).splitlines()[0]}.",
            consequence="The tables were not exchanged; nothing was changed for the application.",
            hint="Make its REFRESH succeed, or drop it; then `pgscale partition resume`, or `abort`.",
        ) from error
    if has_rows:
        execute(session, matviews.analyze(waiting))
