"""Partition a live table by hash, range or list: nobody stopped, nothing lost.

>>> from pgscale import partition                                                    # doctest: +SKIP
>>> opts = partition.Options(by="hash:account_id", partitions=16)                    # doctest: +SKIP
>>> partition.run("postgresql://app@db/shop", "public.events", opts).state           # doctest: +SKIP
'cut-over'
"""

from pgscale.partition.actions import abort, cutover, finish, pause, resume, run, status, undo
from pgscale.partition.forecast import plan
from pgscale.partition.model import MirrorPlan, Options, RunResult, RunStatus
from pgscale.partition.workload import summarize

__all__ = [
    "MirrorPlan",
    "Options",
    "RunResult",
    "RunStatus",
    "abort",
    "cutover",
    "finish",
    "pause",
    "plan",
    "resume",
    "run",
    "status",
    "summarize",
    "undo",
]
