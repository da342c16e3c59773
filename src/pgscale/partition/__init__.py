"""Partition a live table by hash, range or list: nobody stopped, nothing lost.

>>> from pgscale import partition                                                    # doctest: +SKIP
>>> opts = partition.Options(by="hash:account_id", partitions=16)                    # doctest: +SKIP
>>> partition.run("postgresql://app@db/shop", "public.events", opts).state           # doctest: +SKIP
'cut-over'
"""

from pgscale.partition.actions import abort, cutover, finish, pause, resume, run, status, undo
from pgscale.partition.advice.advise import advise
from pgscale.partition.advice.model import Advice, Candidate
from pgscale.partition.forecast import plan
from pgscale.partition.lifecycle.adopt import Adoption, read_adoption, take_over
from pgscale.partition.lifecycle.model import Finding, Limits, MaintainResult, PartitionSet
from pgscale.partition.lifecycle.runner import maintain
from pgscale.partition.model import STRATEGY_NAMES, MirrorPlan, Options, RunResult, RunStatus
from pgscale.partition.rehearsal.model import Amount, Rehearsal
from pgscale.partition.rehearsal.runner import rehearse
from pgscale.partition.splitting.actions import look as plan_split
from pgscale.partition.splitting.actions import split
from pgscale.partition.splitting.model import SplitOptions, SplitPlan
from pgscale.partition.strategies import RunPlan
from pgscale.partition.workload import summarize

__all__ = [
    "STRATEGY_NAMES",
    "Adoption",
    "Advice",
    "Amount",
    "Candidate",
    "Finding",
    "Limits",
    "MaintainResult",
    "MirrorPlan",
    "Options",
    "PartitionSet",
    "Rehearsal",
    "RunPlan",
    "RunResult",
    "RunStatus",
    "SplitOptions",
    "SplitPlan",
    "abort",
    "advise",
    "cutover",
    "finish",
    "maintain",
    "pause",
    "plan",
    "plan_split",
    "read_adoption",
    "rehearse",
    "resume",
    "run",
    "split",
    "status",
    "summarize",
    "take_over",
    "undo",
]
