"""How a statement reads tables, from its text. Pure; needs sqlglot, so it is imported when used.

Only what PostgreSQL can find by a B-tree is told apart: a column compared with a value, tied to another table's,
bounded, NULL or boolean, and the order of a sort. All else is a condition that no index proposed here would serve.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from pgscale.doctor.indexing.model import Access, Key, Statement, Table, Test
from pgscale.sql.parsing import (
    SCOPES,
    args,
    bare,
    column_name,
    conditions,
    folded,
    is_constant,
    is_cte,
    joins,
    parse_text,
)

_WORD = re.compile(r'"(?:[^"]|"")+"|[\w$]+')
# A table that is not among the known ones is small; by a condition a few of its rows are chosen.
CHOSEN_ROWS = 10.0
MOST_LOOPS = 1_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The tables that statements are looked at for.

    Args:
        tables: the large ones; columns: of each, by its OID; unique: of each the sets of columns that choose one row.
        path: the schemas that an unqualified name is looked for in, where several have a table of that name.
    """

    tables: Sequence[Table]
    columns: Mapping[int, frozenset[str]]
    unique: Mapping[int, Sequence[frozenset[str]]]
    path: Sequence[str]

    def find(self, table: exp.Table) -> Table | None:
        """Return the known table that a statement means, None where it is another or not certain."""
        if not isinstance(table.this, exp.Identifier):
            return None
        name, schema = folded(table.this), table.args.get("db")
        named = [each for each in self.tables if each.name == name]
        if schema is not None:
            return next((each for each in named if each.schema == folded(schema)), None)
        for each in named:
            if not each.namesakes:
                return each
            first = next((s for s in self.path if s == each.schema or s in each.namesakes), None)
            if first == each.schema:
                return each
        return None


def may_read(text: str, names: frozenset[str]) -> bool:
    """A cheap sieve: the text contains one of the names as a word."""
    words = (word.strip('"').replace('""', '"') for word in _WORD.findall(text))
    return any(word in names or word.lower() in names for word in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What one statement does to the known tables.

    Args:
        sets: columns that it updates, each with the OID of its table.
    """

    accesses: tuple[Access, ...] = ()
    sets: frozenset[tuple[int, str]] = frozenset()


def read_statement(statement: Statement, known: Known) -> Read | None:
    """Return what a statement does to the known tables; None where it is not understood."""
    parsed = parse_text(statement.query)
    if parsed.maintenance:
        return Read()
    if parsed.tree is None:
        return None
    try:
        reading = _Accesses(statement, parsed.tree, known)
        return Read(accesses=tuple(reading.find()), sets=frozenset(reading.sets()))
    except Exception:  # noqa: BLE001 because a parser's fault must not stop a check
        return None


@dataclass(slots=True)
class _Held:
    """What the conditions of one place say of its columns."""

    equal: set[str] = field(default_factory=set[str])
    single: set[str] = field(default_factory=set[str])  # of those that are equal, to one value
    joined: set[str] = field(default_factory=set[str])
    partners: set[str] = field(default_factory=set[str])
    low: set[str] = field(default_factory=set[str])
    high: set[str] = field(default_factory=set[str])
    tests: dict[str, Test] = field(default_factory=dict[str, Test])
    is_whole: bool = True


class _Accesses:
    """One parsed statement."""

    def __init__(self, statement: Statement, tree: exp.Expr, known: Known) -> None:
        self.statement, self.tree, self.known = statement, tree, known

    def find(self) -> Iterator[Access]:
        for node in self.tree.find_all(exp.Table):
            table = self.known.find(node)
            scope = node.find_ancestor(*SCOPES, exp.Insert)
            if table is None or is_cte(node) or not isinstance(scope, (exp.Select, exp.Update, exp.Delete)):
                continue
            yield self._access(table, node, scope)

    def _access(self, table: Table, node: exp.Table, scope: exp.Expr) -> Access:
        alias, columns = _alias(node), self.known.columns[table.oid]
        held = _Held()
        for condition in conditions(scope, node):
            if not self._hold(condition, alias, columns, held):
                held.is_whole = False
        held.joined |= _joined_using(scope, columns)
        is_select = isinstance(scope, exp.Select)
        order = self._order(scope, alias, columns) if is_select else None
        is_limited = args(scope).get("limit") is not None
        alone = scope is self.tree and len(_sources(scope)) == 1
        is_grouped = is_select and _is_grouped(scope)
        return Access(
            statement=self.statement,
            table=table,
            equal=frozenset(held.equal),
            joined=frozenset(held.joined - held.equal),
            ranges=frozenset((held.low | held.high) - held.equal),
            both_bounds=frozenset((held.low & held.high) - held.equal),
            tests=held.tests,
            order=order or () if not is_grouped else (),
            is_limited=is_limited and order is not None and not is_grouped,
            used=self._used(scope, alias, columns) if is_select else None,
            is_plain=alone and held.is_whole and not is_grouped and not is_limited,
            loops=self._loops(scope, node, held) if held.joined - held.equal else 1.0,
        )

    def sets(self) -> Iterator[tuple[int, str]]:
        """Yield the columns that UPDATE sets."""
        for update in self.tree.find_all(exp.Update):
            table = self.known.find(update.this) if isinstance(update.this, exp.Table) else None
            for each in update.expressions if table is not None else ():
                named = column_name(each.this)
                if table is not None and named is not None and named[1] in self.known.columns[table.oid]:
                    yield (table.oid, named[1])

    # Conditions

    def _hold(  # noqa: PLR0911 because each kind of condition has its answer
        self, node: exp.Expr, alias: str, columns: frozenset[str], held: _Held
    ) -> bool:
        """Take a condition in; return whether all it says is said by what is held."""
        node = bare(node)
        test = self._test(node, alias, columns)
        if test is not None:
            held.tests[test[0]] = test[1]
            return True
        if args(node).get("negate"):
            return False
        if isinstance(node, exp.EQ):
            return self._equal(node, alias, columns, held)
        if isinstance(node, exp.In):
            own = self._own(node.this, alias, columns)
            if own is None or isinstance(bare(node.this), exp.Tuple):
                return False
            if node.args.get("query") is not None:
                held.joined.add(own)
                return False
            held.equal.add(own)
            return all(map(is_constant, node.expressions))
        if isinstance(node, (exp.LT, exp.LTE, exp.GT, exp.GTE)):
            is_upper = isinstance(node, (exp.LT, exp.LTE))
            for side, other, upper in (
                (node.this, node.expression, is_upper),
                (node.expression, node.this, not is_upper),
            ):
                own = self._own(side, alias, columns)
                if own is not None and is_constant(other):
                    (held.high if upper else held.low).add(own)
                    return True
            return False
        if isinstance(node, exp.Between):
            own = self._own(node.this, alias, columns)
            if own is None or not (is_constant(node.args["low"]) and is_constant(node.args["high"])):
                return False
            held.low.add(own)
            held.high.add(own)
            return True
        if isinstance(node, exp.Or):
            return self._either(node, alias, columns, held)
        return False

    def _either(self, node: exp.Expr, alias: str, columns: frozenset[str], held: _Held) -> bool:
        """`a = 1 OR a = 2` is as good as IN; nothing else is held by an OR."""
        parts = list(_disjuncts(node))
        names: set[str] = set()
        for part in parts:
            one = _Held()
            if not self._hold(part, alias, columns, one) or len(one.equal) != 1 or one.tests or one.low or one.high:
                return False
            names |= one.equal
        if len(names) != 1:
            return False
        held.equal |= names
        return True

    def _equal(self, node: exp.Expr, alias: str, columns: frozenset[str], held: _Held) -> bool:
        left, right = bare(node.this), bare(node.expression)
        if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple):
            pairs = list(zip(left.expressions, right.expressions, strict=False))
        else:
            pairs = [(left, right)]
        is_whole = True
        for one, two in pairs:
            is_held = False
            for side, other in ((one, two), (two, one)):
                own = self._own(side, alias, columns)
                if own is None:
                    continue
                if is_constant(other):
                    held.equal.add(own)
                    held.single |= set[str]() if isinstance(bare(other), exp.Any) else {own}
                    is_held = True
                    break
                partners = self._partners(other, alias, columns)
                if partners:
                    held.joined.add(own)
                    held.partners |= partners
                    break
            is_whole = is_whole and is_held
        return is_whole

    def _test(self, node: exp.Expr, alias: str, columns: frozenset[str]) -> tuple[str, Test] | None:
        is_not = isinstance(node, exp.Not)
        inner = bare(node.this) if is_not else node
        if isinstance(inner, exp.Is):
            own, value = self._own(inner.this, alias, columns), bare(inner.expression)
            # IS NOT NULL has a mark of its own.
            is_turned = is_not != bool(args(inner).get("negate"))
            if own is None:
                return None
            if isinstance(value, exp.Null):
                return (own, "not null" if is_turned else "null")
            if isinstance(value, exp.Boolean) and not is_turned:
                return (own, "true" if value.this else "false")
            return None
        own = self._own(inner, alias, columns)
        return None if own is None else (own, "false" if is_not else "true")

    def _own(self, node: exp.Expr, alias: str, columns: frozenset[str]) -> str | None:
        """Return the table's column that the node is, and nothing for an expression over it."""
        named = column_name(node)
        if named is None or named[1] not in columns or named[0] not in ("", alias):
            return None
        return named[1]

    def _partners(self, node: exp.Expr, alias: str, columns: frozenset[str]) -> set[str]:
        """Return the aliases that a value is made of; nothing where it needs this table's own columns."""
        found: set[str] = set()
        for column in node.find_all(exp.Column):
            named = column_name(column)
            if named is None or named[0] == alias or (named[0] == "" and named[1] in columns):
                return set()
            found.add(named[0])
        return found

    # Joins

    def _loops(self, scope: exp.Expr, node: exp.Table, held: _Held) -> float:
        """Return how many rows of other tables this one is looked up for: few, or nobody knows."""
        around: list[exp.Expr] = []
        at: exp.Expr | None = scope
        while at is not None:
            around.append(at)
            at = at.find_ancestor(*SCOPES)
        partners = [
            (each, source)
            for each in around
            for source in _sources(each)
            if source is not node and (not held.partners or "" in held.partners or _alias(source) in held.partners)
        ]
        returned = max(1.0, min(self.statement.rows_a_call, MOST_LOOPS))
        for each, source in partners:
            known = self.known.find(source) if not is_cte(source) else None
            alias = _alias(source)
            chosen = _Held()
            for condition in conditions(each, source):
                if known is not None:
                    self._hold(condition, alias, self.known.columns[known.oid], chosen)
                elif _compares(condition, alias):
                    chosen.equal.add("")
            unique = self.known.unique.get(known.oid, ()) if known is not None else ()
            if any(key <= chosen.single for key in unique):
                return 1.0
            if chosen.equal:
                # What it is chosen by may be a key: as many rows as came out, or a few.
                return max(CHOSEN_ROWS, returned)
        return float("inf")

    # Sorting and output

    def _order(self, scope: exp.Expr, alias: str, columns: frozenset[str]) -> tuple[Key, ...] | None:
        """Return the sort by columns of this table; empty without a sort, None where it is by something else."""
        order = args(scope).get("order")
        if order is None:
            return ()
        keys: list[Key] = []
        for each in order.expressions:
            own = self._own(each.this if isinstance(each, exp.Ordered) else each, alias, columns)
            if own is None:
                return None
            down = bool(args(each).get("desc"))
            nulls = args(each).get("nulls_first")
            keys.append(Key(column=own, is_descending=down, nulls_first=down if nulls is None else bool(nulls)))
        return tuple(keys)

    def _used(self, scope: exp.Expr, alias: str, columns: frozenset[str]) -> frozenset[str] | None:
        if args(scope).get("locks"):
            return None
        for star in scope.find_all(exp.Star):
            if not isinstance(star.parent, exp.Count):
                return None
        named = (column_name(column) for column in scope.find_all(exp.Column))
        return frozenset(
            name for each in named if each is not None for alias_, name in (each,)
            if name in columns and alias_ in ("", alias)
        )  # fmt: skip


def _alias(table: exp.Table) -> str:
    return folded(table.args["alias"].this) if table.args.get("alias") else folded(table.this)


def _sources(scope: exp.Expr) -> list[exp.Table]:
    """Return the tables whose rows a scope reads; of derived ones, their insides are scopes of their own."""
    found = [t for t in scope.find_all(exp.Table) if t.find_ancestor(*SCOPES) is scope]
    return [t for t in found if isinstance(t.this, exp.Identifier)]


def _is_grouped(scope: exp.Expr) -> bool:
    parts = args(scope)
    if any(parts.get(name) for name in ("group", "distinct", "having", "windows", "qualify")):
        return True
    return any(
        isinstance(node, (exp.AggFunc, exp.Window))
        for each in scope.expressions
        for node in each.find_all(exp.AggFunc, exp.Window)
    )


def _disjuncts(node: exp.Expr) -> Iterator[exp.Expr]:
    node = bare(node)
    if isinstance(node, exp.Or):
        yield from _disjuncts(node.this)
        yield from _disjuncts(node.expression)
    else:
        yield node


def _compares(condition: exp.Expr, alias: str) -> bool:
    """Tell whether a condition compares a column of a table with a value."""
    condition = bare(condition)
    if not isinstance(condition, (exp.EQ, exp.In)):
        return False
    named = column_name(condition.this)
    if named is None or named[0] not in ("", alias):
        return False
    others = condition.expressions if isinstance(condition, exp.In) else [condition.expression]
    return bool(others) and all(map(is_constant, others))


def _joined_using(scope: exp.Expr, columns: frozenset[str]) -> set[str]:
    found: set[str] = set()
    for join in joins(scope):
        using: list[exp.Expr] = args(join).get("using") or []
        found |= {folded(each) for each in using} & columns
    return found
