"""One `pgscale.partition.run` in a process of its own: `python child.py DSN TABLE OPTIONS-AS-JSON`.

Prints a ChildRun without `process_s`, which only the parent can measure.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pgscale import partition
from pgscale.errors import PgscaleError
from pgscale.partition import Options

if TYPE_CHECKING:  # the parent's directory is not on the path of this process
    from partition_bench.model import Span
    from pgscale.core.model import Progress


class Timeline:
    """Which phase was on when: a moment belongs to the phase that was reported last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.spans: list[Span] = []

    def watch(self, progress: Progress) -> None:
        with self._lock:
            if progress.phase == "waiting" and self.spans:
                return  # it belongs to the phase that waits
            if not self.spans or self.spans[-1]["phase"] != progress.phase:
                self.close()
                now_s = time.time()
                self.spans.append({"phase": progress.phase, "start_s": now_s, "end_s": now_s})

    def close(self) -> None:
        if self.spans:
            self.spans[-1]["end_s"] = time.time()


def peak_rss_bytes() -> int:
    """The peak of this process since its exec; getrusage's would include what the parent had at the fork."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return _maxrss_bytes(resource.RUSAGE_SELF)


def _maxrss_bytes(who: int) -> int:
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> int:
    dsn, table, options = sys.argv[1:]
    timeline = Timeline()
    started_s = time.time()
    try:
        result = partition.run(dsn, table, Options(**json.loads(options)), watch=timeline.watch)
    except PgscaleError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    ended_s = time.time()
    timeline.close()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(
        json.dumps(
            {
                "run_s": ended_s - started_s,
                "cpu_s": usage.ru_utime + usage.ru_stime,
                "peak_rss_bytes": peak_rss_bytes(),
                "children_peak_rss_bytes": _maxrss_bytes(resource.RUSAGE_CHILDREN),
                "started_s": started_s,
                "ended_s": ended_s,
                "spans": timeline.spans,
                "result": result.to_json(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
