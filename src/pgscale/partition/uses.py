"""What a statement does to a table beside reading it by a condition. Pure; needs sqlglot, imported when used.

Only the text is looked at, as in pruning: an unqualified name is taken for the table's.
"""

from __future__ import annotations

from collections.abc import Iterator

from sqlglot import exp

from pgscale.core.model import QName
from pgscale.partition.workload import CountedStatement, Use
from pgscale.sql.parsing import SCOPES, Parsed, Reading, args, bare, column_name, conjuncts, folded


def find_use(table: QName, columns: frozenset[str], statement: CountedStatement, parsed: Parsed) -> Use | None:
    """Return what the statement does to the table; None when it was not understood or names it nowhere."""
    if parsed.maintenance:
        # The reader's sieve let the text through, so the table is named in it as a word.
        return Use(statement=statement, truncates=True) if parsed.maintenance == "TRUNCATE" else None
    if parsed.tree is None:
        return None
    try:
        return _Uses(table, parsed.tree, columns).use(statement)
    except Exception:  # noqa: BLE001 because a parser's fault must not stop a plan
        return None


class _Uses(Reading):
    """One parsed statement."""

    def __init__(self, table: QName, tree: exp.Expr, columns: frozenset[str]) -> None:
        super().__init__(table, tree)
        self.columns = columns

    def use(self, statement: CountedStatement) -> Use | None:
        if not self.names_it():
            return None
        conflicts = list(self._conflicts())
        return Use(
            statement=statement,
            on_conflict=bool(conflicts),
            arbiters=frozenset(a for a in map(self._arbiter, conflicts) if a),
            locks_rows=self._locks_rows(),
            sets=frozenset(self._sets(conflicts)),
            deletes_below=frozenset(self._deletes_below()),
        )

    def _conflicts(self) -> Iterator[exp.Expr]:
        for insert in self.tree.find_all(exp.Insert):
            target = insert.this.this if isinstance(insert.this, exp.Schema) else insert.this
            conflict = insert.args.get("conflict")
            if isinstance(target, exp.Table) and isinstance(conflict, exp.OnConflict) and self.is_ours(target):
                yield conflict

    def _arbiter(self, conflict: exp.Expr) -> frozenset[str]:
        """Return the columns that ON CONFLICT names; none for a constraint, an expression or no target."""
        named: list[str] = []
        keys: list[exp.Expr] = args(conflict).get("conflict_keys") or []
        for key in keys:
            column: exp.Expr = key.this if isinstance(key, exp.Ordered) else key
            if isinstance(column, exp.Identifier):
                named.append(folded(column))
            elif (found := column_name(column)) is not None:
                named.append(found[1])
            else:
                return frozenset()
        return frozenset(named)

    def _locks_rows(self) -> bool:
        """Tell whether a SELECT … FOR UPDATE (or SHARE) reads the table in its own FROM."""
        return any(
            scope is not None and bool(args(scope).get("locks"))
            for scope in (table.find_ancestor(*SCOPES) for table in self.occurrences())
        )

    def _sets(self, conflicts: list[exp.Expr]) -> Iterator[str]:
        assignments: list[exp.Expr] = []
        for update in self.tree.find_all(exp.Update):
            target = update.this
            if not isinstance(target, exp.Table):
                merge = update.find_ancestor(exp.Merge)
                target = merge.this if merge is not None else None
            if isinstance(target, exp.Table) and self.is_ours(target):
                assignments += update.expressions
        for conflict in conflicts:
            assignments += args(conflict).get("expressions") or []
        for assignment in assignments:
            left = bare(assignment.this)
            for each in left.expressions if isinstance(left, exp.Tuple) else [left]:
                named = column_name(each)
                if named is not None and named[1] in self.columns:
                    yield named[1]

    def _deletes_below(self) -> Iterator[str]:
        """Yield the columns by whose upper bound rows are deleted; also where a subquery chooses them in batches."""
        for delete in self.tree.find_all(exp.Delete):
            if not isinstance(delete.this, exp.Table) or not self.is_ours(delete.this):
                continue
            for scope in (delete, *delete.find_all(exp.Select)):
                where = scope.args.get("where")
                if where is None or (scope is not delete and not self._reads_it(scope)):
                    continue
                for condition in conjuncts(where.this):
                    yield from self._bounded_above(condition)

    def _reads_it(self, scope: exp.Expr) -> bool:
        return any(table.find_ancestor(*SCOPES) is scope for table in self.occurrences())

    def _bounded_above(self, condition: exp.Expr) -> Iterator[str]:
        if isinstance(condition, (exp.LT, exp.LTE)):
            small, large = condition.this, condition.expression
        elif isinstance(condition, (exp.GT, exp.GTE)):
            small, large = condition.expression, condition.this
        elif isinstance(condition, exp.Between):
            small, large = condition.this, condition.args["high"]
        else:
            return
        named = column_name(small)
        is_value = isinstance(bare(large), exp.Subquery) or large.find(exp.Column) is None
        if named is not None and named[1] in self.columns and is_value:
            yield named[1]
