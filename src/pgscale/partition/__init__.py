"""Partition a live table by hash, range or list: nobody stopped, nothing lost.

>>> from pgscale import partition                                                    # doctest: +SKIP
>>> opts = partition.Options(by="hash:account_id", partitions=16)                    # doctest: +SKIP
>>> partition.run("postgresql://app@db/shop", "public.events", opts).state           # doctest: +SKIP
'cut-over'
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Which module has it: loaded when it is first used, because a call needs few of them.
_HOMES = {
    "Adoption": ("lifecycle.adopt", "Adoption"),
    "Advice": ("advice.model", "Advice"),
    "Amount": ("rehearsal.model", "Amount"),
    "Candidate": ("advice.model", "Candidate"),
    "Finding": ("lifecycle.model", "Finding"),
    "Limits": ("lifecycle.model", "Limits"),
    "MaintainResult": ("lifecycle.model", "MaintainResult"),
    "MirrorPlan": ("model", "MirrorPlan"),
    "Options": ("model", "Options"),
    "PartitionSet": ("lifecycle.model", "PartitionSet"),
    "Rehearsal": ("rehearsal.model", "Rehearsal"),
    "RunPlan": ("strategies", "RunPlan"),
    "RunResult": ("model", "RunResult"),
    "RunStatus": ("model", "RunStatus"),
    "STRATEGY_NAMES": ("model", "STRATEGY_NAMES"),
    "SplitOptions": ("splitting.model", "SplitOptions"),
    "SplitPlan": ("splitting.model", "SplitPlan"),
    "abort": ("actions", "abort"),
    "advise": ("advice.advise", "advise"),
    "cutover": ("actions", "cutover"),
    "finish": ("actions", "finish"),
    "maintain": ("lifecycle.runner", "maintain"),
    "pause": ("actions", "pause"),
    "plan": ("forecast", "plan"),
    "plan_split": ("splitting.actions", "look"),
    "read_adoption": ("lifecycle.adopt", "read_adoption"),
    "rehearse": ("rehearsal.runner", "rehearse"),
    "resume": ("actions", "resume"),
    "run": ("actions", "run"),
    "split": ("splitting.actions", "split"),
    "status": ("actions", "status"),
    "summarize": ("workload", "summarize"),
    "take_over": ("lifecycle.adopt", "take_over"),
    "undo": ("actions", "undo"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, original = _HOMES[name]
    value = getattr(import_module(f"{__name__}.{module}"), original)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
