"""The strategies by name: how each makes its plan, reads it back from the ledger, and carries it out.

Whatever the strategy, a run is found, owned, taken over, steered and struck from the ledger alike; what differs is
behind these protocols.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol, Self, cast

from pgscale.catalog import reader as catalog
from pgscale.connect.session import Session
from pgscale.core.model import Json, QName, Step, Watch
from pgscale.errors import RefusedError, UsageError
from pgscale.livecopy.keeper import Keeper
from pgscale.livecopy.model import Pair
from pgscale.partition.model import STRATEGY_NAMES, Estimate, Leaf, Options, Skew, StrategyName, Workload


class RunPlan(Protocol):
    """What every strategy's plan says. Frozen, and of values that cattrs can write as JSON and read back."""

    @property
    def strategy(self) -> str: ...
    @property
    def table(self) -> QName: ...
    @property
    def table_oid(self) -> int: ...
    @property
    def owner(self) -> str: ...
    @property
    def options(self) -> Options: ...
    @property
    def steps(self) -> tuple[Step, ...]: ...
    @property
    def retained(self) -> QName | None:
        """The old table that `finish` drops, where the strategy keeps one."""
        ...

    def log_of(self, state: str) -> Pair | None:
        """Return the pair whose log is applied in this state of the run, None where nothing is logged."""
        ...

    @property
    def leaves(self) -> tuple[Leaf, ...]: ...
    @property
    def changes(self) -> tuple[str, ...]:
        """What changes for the application."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def unchecked(self) -> tuple[str, ...]: ...
    @property
    def estimate(self) -> Estimate | None: ...
    @property
    def skew(self) -> Skew | None: ...
    @property
    def workload(self) -> Workload | None: ...

    def within(self, max_block_s: float) -> Self:
        """Return the plan with another limit for its locks."""
        ...

    def to_json(self) -> dict[str, Json]: ...


class StrategyRunner(Protocol):
    """One process's part in one run, whose advisory lock the caller owns."""

    @property
    def keeper(self) -> Keeper: ...

    def forward(self, *, cutover: bool) -> None:
        """Carry out every step that the ledger does not have as done."""
        ...

    def undo(self) -> None:
        """Go back to the table as it was, with every write made since."""
        ...

    def abort(self) -> None:
        """Before the cut-over: remove every trace."""
        ...

    def finish(self) -> None:
        """After the cut-over: remove the way back and every trace."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way to partition a table.

    Args:
        plan_type: returns the class of its plans, which the ledger's JSON is read back into.
        make_plan: reads what it needs in a READ ONLY session and decides; refuses what it cannot carry.
        make_runner: dsn, plan, run id, owning session, watch.
    """

    plan_type: Callable[[], type[Any]]
    make_plan: Callable[[Session, int, Options], RunPlan]
    make_runner: Callable[[str, Any, int, Session, Watch], StrategyRunner]


def _by_its_own_verb(session: Session, oid: int, options: Options) -> RunPlan:
    del session, oid, options
    raise UsageError("A partition is divided by `pgscale partition split`.")


def _strategy(package: str, plan_type: str, survey: str, plan: str, runner: str) -> Strategy:
    """Return a strategy whose modules are loaded when it is used: most calls need one of them, or none."""

    def load(module: str, name: str) -> Any:
        return getattr(import_module(f"pgscale.partition.{package}{module}"), name)

    def plan_it(session: Session, oid: int, options: Options) -> RunPlan:
        return load(survey, plan)(session, oid, options)

    def make_runner(dsn: str, made: Any, run_id: int, owner: Session, watch: Watch) -> StrategyRunner:
        return load("runner", runner)(dsn, made, run_id, owner, watch)

    return Strategy(plan_type=lambda: load("model", plan_type), make_plan=plan_it, make_runner=make_runner)


STRATEGIES: dict[str, Strategy] = {
    "mirror": _strategy("", "MirrorPlan", "survey", "plan_table", "Runner"),
    "attach": _strategy("attach.", "AttachPlan", "survey", "plan_attach", "AttachRunner"),
    "move": _strategy("move.", "MovePlan", "survey", "plan_move", "MoveRunner"),
    "split": replace(_strategy("splitting.", "SplitPlan", "survey", "", "SplitRunner"), make_plan=_by_its_own_verb),
}


def strategy_of(name: str) -> Strategy:
    """Return the strategy of this name.

    Raises:
        UsageError: there is none.
    """
    found = STRATEGIES.get(name)
    if found is None:
        raise UsageError(f"There is no strategy {name!r}.", hint=f"Use {', '.join(sorted(STRATEGIES))}.")
    return found


def make_plan(session: Session, oid: int, options: Options) -> RunPlan:
    """Return the plan of the strategy asked for; for `auto`, of the first that fits and does not refuse.

    Its options name the concrete strategy, and why it was chosen. Takes no lock but ACCESS SHARE.

    Raises:
        RefusedError: none fits, or each refuses, with every reason.
    """
    if options.strategy != "auto":
        return strategy_of(options.strategy).make_plan(session, oid, options)
    from pgscale.partition.bounds import parse_by  # noqa: PLC0415 because only a choice needs these
    from pgscale.partition.checks import refuse_kind  # noqa: PLC0415 because only a choice does
    from pgscale.partition.choosing import decide  # noqa: PLC0415 because only a choice does
    from pgscale.partition.circumstances import read_circumstances  # noqa: PLC0415 because only a choice does

    by, facts = parse_by(options.by), catalog.read_table(session, oid)
    if refuse_kind(facts) is not None or any(facts.column(c) is None for c in by.columns):
        # A mistake of the request, which any strategy names.
        return strategy_of("mirror").make_plan(session, oid, replace(options, strategy="mirror"))
    found = read_circumstances(session, facts, by, options, frozenset(STRATEGIES) & frozenset(STRATEGY_NAMES))
    decision = decide(found)
    refused = list(decision.excluded)
    for name, because in zip(decision.order, decision.picked_because, strict=True):
        reasons = (*decision.reasons, *(f"Not {r}" for r in refused), f"Chosen: {because}")
        known = cast(StrategyName, name)
        try:
            return strategy_of(name).make_plan(session, oid, replace(options, strategy=known, strategy_reasons=reasons))
        except RefusedError as error:
            if len(decision.order) == 1:
                # There was nothing to choose from: what this one says is the answer.
                raise
            refused += [f"{name}: {r}" for r in error.reasons or (error.fact,)]
    raise RefusedError(
        f"{facts.table.qname} is not partitioned: no strategy fits.",
        reasons=tuple(refused),
        consequence="Nothing was changed.",
        hint="--strategy names one to be done all the same; --free-disk tells how much disk is free.",
    )
