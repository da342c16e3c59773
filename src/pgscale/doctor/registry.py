"""Every check there is, in the order of the page, and the choice among them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from pgscale.doctor.checks import (
    autovacuum,
    bloat,
    cache,
    checkpoints,
    connections,
    horizon,
    index_needs,
    index_partial,
    index_repair,
    index_repeats,
    index_use,
    index_workload,
    partitions,
    queries,
    replicas,
    sequences,
    sessions,
    toast,
    wal,
    wraparound,
)
from pgscale.doctor.model import Check
from pgscale.errors import UsageError

CHECKS: tuple[Check, ...] = (
    *horizon.CHECKS,
    *sessions.CHECKS,
    *connections.CHECKS,
    *checkpoints.CHECKS,
    *wal.CHECKS,
    *wraparound.CHECKS,
    *autovacuum.CHECKS,
    *bloat.CHECKS,
    *sequences.CHECKS,
    *cache.CHECKS,
    *replicas.CHECKS,
    *index_use.CHECKS,
    *index_repeats.CHECKS,
    *index_repair.CHECKS,
    *index_needs.CHECKS,
    *index_workload.CHECKS,
    *index_partial.CHECKS,
    *queries.CHECKS,
    *toast.CHECKS,
    *partitions.CHECKS,
)


def find(check_id: str) -> Check:
    """Return a check by its id.

    Raises:
        UsageError: there is none.
    """
    for check in CHECKS:
        if check.id == check_id:
            return check
    raise _unknown(check_id, [check.id for check in CHECKS])


def choose(only: Iterable[str] = (), ignore: Iterable[str] = ()) -> tuple[Check, ...]:
    """Return the checks of these ids and areas, by default all, without those of the others.

    Raises:
        UsageError: a name is neither an id nor an area, or nothing is left.
    """
    wanted, unwanted = set(only), set(ignore)
    known = {check.id for check in CHECKS} | {check.area for check in CHECKS}
    for name in sorted((wanted | unwanted) - known):
        raise _unknown(name, sorted(known))
    chosen = tuple(
        check
        for check in CHECKS
        if (not wanted or wanted & {check.id, check.area}) and not unwanted & {check.id, check.area}
    )
    if not chosen:
        raise UsageError("No check is left to run.", hint="Ignore fewer, or choose others with --only.")
    return chosen


def _unknown(name: str, known: list[str]) -> UsageError:
    close = get_close_matches(name, known, n=1)
    guess = f"Did you mean {close[0]}? " if close else ""
    return UsageError(f"There is no check {name!r}.", hint=f"{guess}They are: {', '.join(known)}.")
