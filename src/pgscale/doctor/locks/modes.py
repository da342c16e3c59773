"""Lock modes: which conflict, and how they are written. Pure.

Source: LockConflicts in src/backend/storage/lmgr/lock.c; the table of the documentation's chapter "Explicit Locking".
"""

from __future__ import annotations

import re
from functools import cache

_SHORT = {
    "AccessShareLock": "a",
    "RowShareLock": "r",
    "RowExclusiveLock": "w",
    "ShareUpdateExclusiveLock": "u",
    "ShareLock": "s",
    "ShareRowExclusiveLock": "x",
    "ExclusiveLock": "e",
    "AccessExclusiveLock": "A",
}
_CONFLICTS = {
    "a": "A",
    "r": "eA",
    "w": "sxeA",
    "u": "usxeA",
    "s": "wuxeA",
    "x": "wusxeA",
    "e": "rwusxeA",
    "A": "arwusxeA",
}


def is_conflict(one: str, other: str) -> bool:
    """Tell whether two modes of pg_locks exclude each other; SIReadLock excludes nothing."""
    first, second = _SHORT.get(one), _SHORT.get(other)
    return first is not None and second is not None and second in _CONFLICTS[first]


@cache
def mode_name(mode: str) -> str:
    """Return `ACCESS EXCLUSIVE` for `AccessExclusiveLock`, as LOCK TABLE writes it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", mode.removesuffix("Lock")).upper()
