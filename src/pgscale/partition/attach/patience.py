"""What waits for older transactions, beside applications that want stronger locks meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable

import psycopg

from pgscale.livecopy.work import Work

# A TRUNCATE every minute or so meets a build of an hour some times, but not each of these.
TIMES = 10


def through_deadlocks(work: Work, act: Callable[[], object]) -> None:
    """Do what waits for the transactions that are older, again when it was the victim of a deadlock.

    CREATE and DROP INDEX CONCURRENTLY hold a lock on the table while they wait for transactions that have written it.
    When one of those asks for a lock that conflicts (TRUNCATE, LOCK, ALTER TABLE), both wait for each other, and the
    server ends the one that notices first. That may be the application's.

    Raises:
        psycopg.errors.DeadlockDetected: it was the victim `TIMES` times.
        InterruptedRunError: the run is being stopped.
    """
    for left in reversed(range(TIMES)):
        try:
            act()
        except psycopg.errors.DeadlockDetected:
            if not left:
                raise
            work.stop.wait(random.uniform(0.1, 0.5))  # noqa: S311 because jitter needs no secrecy
            work.check()
        else:
            return
