"""Where the crash tests end a process."""

from __future__ import annotations

import os
from collections import Counter

_passed: Counter[str] = Counter()


def kill_point(name: str) -> None:
    """End this process by SIGKILL where PGSCALE_KILL_AT names the point, or at its n-th passing: `name#n`.

    Without the variable nothing happens.
    """
    wanted = os.environ.get("PGSCALE_KILL_AT")
    if not wanted:
        return
    point, _, times = wanted.partition("#")
    if point == name:
        _passed[name] += 1
        if _passed[name] >= int(times or 1):
            os.kill(os.getpid(), 9)
