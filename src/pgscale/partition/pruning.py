"""Judge one statement: whether its partitions would be pruned. Pure; needs sqlglot, so it is imported when used.

What PostgreSQL prunes by is in src/backend/partitioning/partprune.c: for a hash key, equality (or IS NULL) on every
key column; for range and list also <, <=, >, >= and BETWEEN. The text alone is judged, by its WHERE and JOIN
conditions; where the planner has a choice (a join on the key), the verdict is `depends`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from sqlglot import exp

from pgscale.core.model import QName
from pgscale.partition.model import By, Verdict
from pgscale.sql.parsing import (
    SCOPES,
    Parsed,
    Reading,
    arg,
    args,
    bare,
    column_name,
    conditions,
    folded,
    is_constant,
    joins,
    parse_text,
)

_WORST_FIRST: tuple[Verdict, ...] = ("not understood", "unpruned", "depends", "pruned")
_EQUALITY, _RANGE, _JOIN = "equality", "range", "join"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The table as statements name it, and the key it is to be partitioned by."""

    table: QName
    columns: frozenset[str]
    by: By


def judge_text(target: Target, text: str) -> Verdict | None:
    """Return the verdict on one statement: the worst over all places where it reads the table; None when nowhere."""
    return judge(target, parse_text(text))


def judge(target: Target, parsed: Parsed) -> Verdict | None:
    """Return the verdict on a statement that was read already."""
    if parsed.maintenance:
        return None
    if parsed.tree is None:
        return "not understood"
    try:
        return _Judge(target, parsed.tree).verdict()
    except Exception:  # noqa: BLE001 because a parser's fault must not stop a plan
        return "not understood"


class _Judge(Reading):
    """One parsed statement."""

    def __init__(self, target: Target, tree: exp.Expr) -> None:
        super().__init__(target.table, tree)
        self.target = target
        self.key = frozenset(target.by.columns)

    def verdict(self) -> Verdict | None:
        if not isinstance(self.tree, exp.Command) and not self.names_it():
            return None
        if not isinstance(self.tree, (exp.Select, exp.SetOperation, exp.Update, exp.Delete, exp.Insert, exp.Merge)):
            return "not understood"
        found = [self._judge(table) for table in self.occurrences()]
        for verdict in _WORST_FIRST:
            if verdict in found:
                return verdict
        return "no rows read"

    # -- one place where the table is read ----------------------------------------------------------------

    def _judge(self, table: exp.Table) -> Verdict:
        scope = table.find_ancestor(*SCOPES)
        if scope is None:
            return "not understood"
        alias = self.alias_of(table)
        held_there = list(conditions(scope, table))
        fixed = self._fixed(held_there)
        held: dict[str, str] = {}
        for condition in held_there:
            held = _both(held, self._held(condition, alias, fixed))
        for column in self._joined_using(scope):
            held.setdefault(column, _JOIN)
        strengths = [held.get(column) for column in self.target.by.columns]
        if None in strengths:
            # A condition outside a derived table or CTE can be pushed into it.
            return "depends" if self._is_filtered_outside(scope) else "unpruned"
        return "depends" if _JOIN in strengths else "pruned"

    def _fixed(self, conditions: list[exp.Expr]) -> set[tuple[str, str]]:
        """Return the columns, as (alias, name), that some chain of equalities ties to a constant."""
        fixed: set[tuple[str, str]] = set()
        pairs: list[tuple[tuple[str, str], tuple[str, str]]] = []
        for condition in conditions:
            if not isinstance(condition, exp.EQ) or condition.find(exp.Any) is not None:
                continue
            left, right = column_name(condition.this), column_name(condition.expression)
            if left and right:
                pairs.append((left, right))
            elif left and is_constant(condition.expression):
                fixed.add(left)
            elif right and is_constant(condition.this):
                fixed.add(right)
        grown = True
        while grown:
            more = {b for a, b in pairs if a in fixed} | {a for a, b in pairs if b in fixed}
            grown = not more <= fixed
            fixed |= more
        return fixed

    def _held(  # noqa: PLR0911 because each kind of condition has its answer
        self, node: exp.Expr, alias: str, fixed: set[tuple[str, str]]
    ) -> dict[str, str]:
        """Return the key columns of the table that a condition bounds, each with how."""
        node = bare(node)
        if args(node).get("negate"):
            return {}
        if isinstance(node, exp.And):
            return _both(self._held(node.left, alias, fixed), self._held(node.right, alias, fixed))
        if isinstance(node, exp.Or):
            return _either(self._held(node.left, alias, fixed), self._held(node.right, alias, fixed))
        if isinstance(node, exp.EQ) and isinstance(bare(node.this), exp.Tuple):
            other = bare(node.expression)
            held: dict[str, str] = {}
            if isinstance(other, exp.Tuple):
                for left, right in zip(node.this.expressions, other.expressions, strict=False):
                    held = _both(held, self._compare(left, right, _EQUALITY, alias, fixed))
            return held
        if isinstance(node, exp.EQ):
            return self._compare(node.this, node.expression, _EQUALITY, alias, fixed)
        if isinstance(node, (exp.LT, exp.LTE, exp.GT, exp.GTE)):
            return self._within(self._compare(node.this, node.expression, _RANGE, alias, fixed))
        if isinstance(node, exp.Between):
            bounds = (node.args["low"], node.args["high"])
            named = self._own_key(node.this, alias) if any(map(is_constant, bounds)) else ()
            return self._within(dict.fromkeys(named, _RANGE))
        if isinstance(node, exp.In):
            return self._in(node, alias)
        if isinstance(node, exp.Is):
            by_null = isinstance(bare(node.expression), (exp.Null, exp.Boolean))
            return {c: _EQUALITY for c in self._own_key(node.this, alias) if by_null}
        if self.target.by.method == "list":
            # A boolean key: WHERE flag, WHERE NOT flag.
            inner = bare(node.this) if isinstance(node, exp.Not) else node
            return dict.fromkeys(self._own_key(inner, alias), _EQUALITY)
        return {}

    def _within(self, held: dict[str, str]) -> dict[str, str]:
        """Drop what no hash key is pruned by."""
        return {} if self.target.by.method == "hash" else held

    def _in(self, node: exp.In, alias: str) -> dict[str, str]:
        by_subquery = node.args.get("query") is not None
        if not by_subquery and not all(is_constant(e) for e in node.expressions):
            return {}
        members = node.this.expressions if isinstance(node.this, exp.Tuple) else [node.this]
        strength = _JOIN if by_subquery else _EQUALITY
        return {c: strength for member in members for c in self._own_key(member, alias)}

    def _compare(
        self, left: exp.Expr, right: exp.Expr, strength: str, alias: str, fixed: set[tuple[str, str]]
    ) -> dict[str, str]:
        held: dict[str, str] = {}
        for side, other in ((left, right), (right, left)):
            for column in self._own_key(side, alias):
                if is_constant(other):
                    held[column] = strength
                elif strength == _EQUALITY and self._is_of_others(other, alias):
                    named = column_name(other)
                    held[column] = _EQUALITY if named is not None and named in fixed else _JOIN
        return held

    def _own_key(self, node: exp.Expr, alias: str) -> tuple[str, ...]:
        """Return the key column that the node is, and nothing for an expression over it."""
        named = column_name(node)
        # An unqualified name of the key must be this table's, or the statement would be ambiguous.
        return (named[1],) if named is not None and named[1] in self.key and named[0] in ("", alias) else ()

    def _is_of_others(self, node: exp.Expr, alias: str) -> bool:
        """Tell whether a value is made of other tables' columns and none of this one's."""
        scope = node.find_ancestor(*SCOPES)
        columns = list(node.find_all(exp.Column))
        for column in columns:
            named = column_name(column)
            own = column.find_ancestor(*SCOPES) is scope
            if named is None or named[0] == alias or (own and named[0] == "" and named[1] in self.target.columns):
                return False
        return bool(columns)

    def _is_filtered_outside(self, scope: exp.Expr) -> bool:
        """Tell whether a scope around this one has a condition on a column with the key's name."""
        outer = scope.find_ancestor(exp.Select, exp.Update, exp.Delete)
        while outer is not None:
            for part in [arg(outer, "where"), *(arg(join, "on") for join in joins(outer))]:
                columns = part.find_all(exp.Column) if part is not None else ()
                if any(folded(c.this) in self.key and c.find_ancestor(*SCOPES) is outer for c in columns):
                    return True
            outer = outer.find_ancestor(exp.Select, exp.Update, exp.Delete)
        return False

    def _joined_using(self, scope: exp.Expr) -> Iterator[str]:
        for join in joins(scope):
            named = {folded(i) for i in cast("list[exp.Expr]", join.args.get("using") or [])}
            yield from self.key if join.args.get("method") == "NATURAL" else self.key & named


def _both(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """What holds when both hold: of each column the better."""
    best = (_EQUALITY, _RANGE, _JOIN)
    return {c: min((d[c] for d in (one, other) if c in d), key=best.index) for c in one | other}


def _either(one: dict[str, str], other: dict[str, str]) -> dict[str, str]:
    """What holds when one of them holds: only columns that both bound, each by the worse."""
    best = (_EQUALITY, _RANGE, _JOIN)
    return {c: max(one[c], other[c], key=best.index) for c in one if c in other}
