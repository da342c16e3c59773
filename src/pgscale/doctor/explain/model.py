"""Plans as EXPLAIN (FORMAT JSON) tells them. Values only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pgscale.core.model import quote_ident

# EXPLAIN's words for how a node hangs at its parent.
INIT_PLAN, SUB_PLAN = "InitPlan", "SubPlan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the planner expected of one execution of a node, its children included.

    Args:
        startup_cost, cost: in the planner's units; width_bytes: of a row.
    """

    startup_cost: float = 0.0
    cost: float = 0.0
    rows: float = 0.0
    width_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """What was measured of a node, its children included.

    Args:
        ms: of one execution on average; None where timing was off.
        rows: of one execution on average.
        loops: executions, those of parallel workers added; 0 when it was never executed.
    """

    ms: float | None
    rows: float
    loops: float

    @property
    def all_ms(self) -> float:
        """Of all executions, those of parallel workers added up."""
        return (self.ms or 0.0) * self.loops

    @property
    def all_rows(self) -> float:
        return self.rows * self.loops


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One parallel worker's part of a node; its sort is in `texts` and `figures`, where it has one."""

    number: int
    actual: Actual | None
    figures: Mapping[str, float]
    texts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a plan.

    Args:
        number: from 1, in the order in which EXPLAIN prints them.
        kind: "Node Type", `Seq Scan`.
        relationship: "Parent Relationship": `Outer`, `Inner`, `Member`, `Subquery`, `InitPlan`, `SubPlan`; empty for
            the root.
        actual: None without ANALYZE.
        figures, texts, lists: further properties by EXPLAIN's names, by the kind of their value.
        flags: the names of those that are true.
    """

    number: int
    kind: str
    relationship: str
    expected: Expected
    actual: Actual | None
    figures: Mapping[str, float] = field(default_factory=dict[str, float])
    texts: Mapping[str, str] = field(default_factory=dict[str, str])
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    flags: frozenset[str] = frozenset()
    workers: tuple[Worker, ...] = ()
    children: tuple[Node, ...] = ()

    @property
    def subplan(self) -> str:
        """`CTE recent`, `InitPlan 1 (returns $0)`, `SubPlan 2`; empty for others."""
        return self.texts.get("Subplan Name", "")

    @property
    def is_cte(self) -> bool:
        return self.relationship == INIT_PLAN and self.subplan.startswith("CTE ")

    @property
    def relation(self) -> tuple[str, str] | None:
        """Schema (empty where EXPLAIN had no VERBOSE) and name of the table it reads."""
        name = self.texts.get("Relation Name")
        return None if name is None else (self.texts.get("Schema", ""), name)

    @property
    def table(self) -> str:
        """The table it reads, quoted, for people."""
        if self.relation is None:
            return ""
        schema, name = self.relation
        return f"{quote_ident(schema)}.{quote_ident(name)}" if schema else quote_ident(name)

    @property
    def alias(self) -> str:
        return self.texts.get("Alias", self.texts.get("Relation Name", ""))

    @property
    def is_executed(self) -> bool:
        return self.actual is not None and self.actual.loops > 0

    @property
    def plain_children(self) -> tuple[Node, ...]:
        """Those that give it rows; not what is computed beside it."""
        return tuple(child for child in self.children if child.relationship not in (INIT_PLAN, SUB_PLAN))

    @property
    def label(self) -> str:
        """As EXPLAIN's text has it: `Parallel Seq Scan on public.t x`."""
        kind = self.kind
        if kind == "Aggregate":
            kind = {"Sorted": "GroupAggregate", "Hashed": "HashAggregate", "Mixed": "MixedAggregate"}.get(
                self.texts.get("Strategy", ""), kind
            )
            partial = self.texts.get("Partial Mode", "Simple")
            kind = kind if partial == "Simple" else f"{partial} {kind}"
        elif kind == "ModifyTable":
            kind = self.texts.get("Operation", kind)
        join = self.texts.get("Join Type", "Inner")
        if join != "Inner":
            kind = f"{kind.removesuffix(' Join')} {join} Join"
        parallel = "Parallel " if "Parallel Aware" in self.flags else ""
        backward = " Backward" if self.texts.get("Scan Direction") == "Backward" else ""
        index = f" using {quote_ident(self.texts['Index Name'])}" if "Index Name" in self.texts else ""
        on = self.table or self.texts.get("CTE Name", "") or self.texts.get("Function Name", "")
        alias = f" {quote_ident(self.alias)}" if self.alias and self.alias != self._unaliased else ""
        subplan = f"{self.subplan}: " if self.subplan else ""
        return f"{subplan}{parallel}{kind}{backward}{index}{f' on {on}{alias}' if on else ''}"

    @property
    def _unaliased(self) -> str:
        return next(
            (self.texts[name] for name in ("Relation Name", "CTE Name", "Function Name") if name in self.texts), ""
        )

    def walk(self) -> Iterator[Node]:
        """Yield it and all below it, as EXPLAIN prints them."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A trigger that fired, with the constraint it belongs to, if any."""

    name: str
    constraint: str
    relation: str
    ms: float
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan as a whole.

    Args:
        planning_ms, execution_ms: None where EXPLAIN did not say; execution contains triggers.
        jit_ms, jit_functions: 0 where nothing was compiled.
        serialization_ms, serialized_bytes: of the rows made ready to be sent (17); None where not measured.
        settings: of the planner, that differ from PostgreSQL's own.
        query: its text, where EXPLAIN's output (auto_explain's) has it.
    """

    root: Node
    planning_ms: float | None = None
    execution_ms: float | None = None
    jit_ms: float = 0.0
    jit_functions: int = 0
    serialization_ms: float | None = None
    serialized_bytes: int = 0
    triggers: tuple[Trigger, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    query: str = ""

    @property
    def is_measured(self) -> bool:
        """It was executed: EXPLAIN ANALYZE."""
        return self.root.actual is not None

    @property
    def nodes(self) -> tuple[Node, ...]:
        return tuple(self.root.walk())
