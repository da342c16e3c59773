"""Rows the planner expected against those that came: where it first went wrong, and what would teach it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pgscale.core.finding import Finding, Remedy
from pgscale.core.model import Json
from pgscale.core.units import format_count
from pgscale.doctor.explain import ddl
from pgscale.doctor.explain.case import Case
from pgscale.doctor.explain.conditions import Term, read_terms, terms_of
from pgscale.doctor.explain.facts import Relation
from pgscale.doctor.explain.model import INIT_PLAN, SUB_PLAN, Node
from pgscale.doctor.explain.thresholds import MISESTIMATED_ROWS, MISESTIMATED_TIMES, RAISED_TARGET, STALE_SHARE

# They give what their child gives, or no rows of their own.
_PASSING = frozenset(
    {
        *("Hash", "Materialize", "Memoize", "Sort", "Incremental Sort", "Gather", "Gather Merge", "Limit", "LockRows"),
        *("ModifyTable", "Bitmap Index Scan", "BitmapAnd", "BitmapOr", "Result", "ProjectSet", "Unique"),
    }
)
# Their children run to their end, whatever is taken of them.
_BLOCKING = frozenset({"Sort", "Hash", "Bitmap Heap Scan", "BitmapAnd", "BitmapOr", "ModifyTable"})
_STOPPING_JOINS = frozenset({"Semi", "Anti", "Right Semi"})
# What decides by such numbers. On top of it a wrong one has no consequence but its own scan.
_DECIDED = frozenset({"Nested Loop", "Hash Join", "Merge Join", "Hash", "Sort", "Aggregate", "Materialize", "Memoize"})
_COUNTS_DEFAULT = "PostgreSQL takes 1,000 rows, or 100, for granted where a function does not say how many it returns."


def judge(case: Case) -> Iterator[Finding]:
    """Report the nodes where the number of rows was first misjudged."""
    if case.plan.is_measured:
        yield from _look(case, case.plan.root, is_whole=True)


def _look(case: Case, node: Node, *, is_whole: bool) -> Iterator[Finding]:
    """Go down the tree.

    Args:
        is_whole: the node was run to its end, so that fewer rows than expected mean a wrong expectation.
    """
    if node.kind == "Recursive Union":
        # Each round has its own number of rows, and there are no statistics of rounds: the scan of the whole tells it.
        return
    if node.is_executed and node.kind not in _PASSING:
        off = _off(node, is_whole=is_whole)
        below = [_off(child, is_whole=_runs_whole(node, child, is_whole=is_whole)) for child in _givers(node)]
        if off >= MISESTIMATED_TIMES and not any(each >= MISESTIMATED_TIMES for each in below):
            yield _finding(case, node)
    for child in node.children:
        yield from _look(case, child, is_whole=_runs_whole(node, child, is_whole=is_whole))


def _givers(node: Node) -> Iterator[Node]:
    """Yield the nodes that give it rows, through those that only pass them on."""
    for child in node.plain_children:
        if child.kind in _PASSING and child.plain_children:
            yield from _givers(child)
        else:
            yield child


def _off(node: Node, *, is_whole: bool) -> float:
    """Return by which factor the rows of a node were misjudged; 1 when not, when it does not matter or is unknown."""
    if node.actual is None or not node.is_executed or node.kind in _PASSING:
        return 1.0
    expected, came = max(1.0, node.expected.rows), max(1.0, node.actual.rows)
    if abs(expected - came) * node.actual.loops < MISESTIMATED_ROWS:
        return 1.0
    if came > expected:
        return came / expected
    return expected / came if is_whole else 1.0


def _runs_whole(node: Node, child: Node, *, is_whole: bool) -> bool:
    """Tell whether a child is run to its end."""
    if child.relationship in (INIT_PLAN, SUB_PLAN):
        return False
    if node.kind in _BLOCKING or (node.kind == "Aggregate" and node.texts.get("Strategy") in ("Plain", "Hashed")):
        return True
    if node.kind in ("Limit", "Merge Join"):
        return False
    is_inner = child.relationship == "Inner"
    stops = node.texts.get("Join Type") in _STOPPING_JOINS or "Inner Unique" in node.flags
    if node.kind == "Nested Loop" and is_inner and stops:
        return False
    if node.kind == "Hash Join" and not is_inner:
        # Where the hash table is empty, the other side is not read.
        inner = next((each for each in node.plain_children if each.relationship == "Inner"), None)
        if inner is not None and inner.actual is not None and inner.actual.rows == 0:
            return False
    return is_whole


def _finding(case: Case, node: Node) -> Finding:
    assert node.actual is not None
    expected, came = node.expected.rows, node.actual.rows
    # Rows of one execution; of parallel ones and inner sides there are many.
    each = " each time" if node.actual.loops > 1 else ""
    times = max(expected, 1.0) / max(came, 1.0) if expected > came else max(came, 1.0) / max(expected, 1.0)
    decided = [above.kind for above in case.measure.ancestors(node) if above.kind in _DECIDED]
    subject = node.table or node.texts.get("Function Name") or node.label
    evidence: dict[str, Json] = {
        "rows_expected": round(expected),
        "rows_that_came": round(came, 2),
        "executions": round(node.actual.loops),
        "times_off": round(times, 1),
        "condition": next(
            (
                node.texts[name]
                for name in ("Filter", "Index Cond", "Hash Cond", "Merge Cond", "Join Filter")
                if name in node.texts
            ),
            None,
        ),
    }
    why, remedies = _lesson(case, node)
    return case.find(
        "misestimate",
        node,
        f"PostgreSQL expected {format_count(round(expected), 'row')} of {subject}{each}, and {came:,.0f} came:"
        f" {times:,.0f} times {'too many' if expected > came else 'too few'} expected.",
        severity="warning" if decided and remedies else "info",
        evidence=evidence,
        cost=(f"By that number it chose the {decided[0].lower()} above, among others. " if decided else "") + why,
        remedies=remedies,
    )  # fmt: skip


def _lesson(case: Case, node: Node) -> tuple[str, tuple[Remedy, ...]]:  # noqa: PLR0911 because each kind has its own
    """Say why it may have been wrong, and what to run."""
    if node.kind == "Function Scan":
        return _COUNTS_DEFAULT, _function(node)
    if node.kind == "Aggregate":
        return _grouped(case, node)
    relation = case.known.relation(node)
    if node.relation is None:
        if node.kind in ("CTE Scan", "Subquery Scan"):
            return "Of what a subquery gives there are no statistics: what a condition keeps of it is guessed.", ()
        if "Join" not in node.kind and node.kind != "Nested Loop":
            return "", ()
        return "Both sides were expected rightly: that their columns depend on one another no statistics tell.", ()
    if relation is None:
        text = f"ANALYZE {ddl.ident(*node.relation)};"
        return "", (Remedy(text=text, why="If its statistics are old; no server was asked."),)
    if stale := _stale(relation):
        remedy = Remedy(
            text=f"ANALYZE {ddl.ident(relation.schema, relation.name)};", why="Reads a sample; blocks nobody."
        )
        return stale, (remedy,)
    return _by_columns(case, relation, terms_of(node))


def _stale(relation: Relation) -> str:
    if relation.rows < 0:
        return "The table was never analyzed."
    if relation.changed_rows > STALE_SHARE * max(relation.rows, relation.live_rows):
        return f"{relation.changed_rows:,} rows of the table were changed since its last ANALYZE."
    return ""


def _by_columns(case: Case, relation: Relation, terms: Sequence[Term]) -> tuple[str, tuple[Remedy, ...]]:
    table = ddl.ident(relation.schema, relation.name)
    plain = sorted(
        {term.column for term in terms if term.column is not None and not term.functions and term.kind != "other"}
    )
    computed = sorted({term.expression for term in terms if term.functions or (term.column is None and term.columns)})
    known = case.known.statistics_of(relation)
    why = "Blocks no reader or writer; the owner of the table may."
    if len(plain) > 1 and not any(set(plain) <= set(each.columns) for each in known):
        return (
            f"Statistics are kept a column: {' and '.join(plain)} were taken for independent.",
            (
                Remedy(
                    text=ddl.create_statistics(table, _named(relation, plain), [ddl.ident(each) for each in plain]),
                    why=why,
                ),
            ),
        )
    if computed and not any(set(computed) & set(each.expressions) for each in known):
        expression = computed[0]
        return (
            f"Of what `{expression}` gives there are no statistics.",
            (
                Remedy(
                    text=ddl.create_statistics(table, _named(relation, ["expression"]), [f"({expression})"]), why=why
                ),
            ),
        )
    for name in plain:
        column = case.known.column(relation, name)
        if column is not None and (column.target is None or column.target < RAISED_TARGET):
            return (
                f"The most common values and the histogram of {name} are too coarse.",
                (Remedy(text=ddl.set_target(table, ddl.ident(name), RAISED_TARGET), why=why),),
            )
    return "", ()


def _grouped(case: Case, node: Node) -> tuple[str, tuple[Remedy, ...]]:
    """Groups of several columns of one table are counted as if the columns were independent."""
    keys = node.lists.get("Group Key", ())
    for scan in node.walk():
        relation = case.known.relation(scan)
        if relation is None:
            continue
        columns = sorted(
            {name for key in keys for term in read_terms(f"({key} = 0)", scan.alias) for name in term.columns}
        )
        if len(columns) > 1 and len(columns) == len(keys):
            table = ddl.ident(relation.schema, relation.name)
            text = ddl.create_statistics(
                table, _named(relation, columns), [ddl.ident(each) for each in columns], " (ndistinct)"
            )
            if any(set(columns) <= set(each.columns) for each in case.known.statistics_of(relation)):
                return "", ()
            return f"{' and '.join(columns)} were taken for independent.", (Remedy(text=text, why="Blocks nobody."),)
    return "", ()


def _named(relation: Relation, columns: Sequence[str]) -> str:
    name = f"{relation.name}_{'_'.join(columns)}_stat"
    return ddl.ident(relation.schema, name.encode()[:63].decode(errors="ignore"))


def _function(node: Node) -> tuple[Remedy, ...]:
    schema, name = node.texts.get("Schema", ""), node.texts.get("Function Name", "")
    if schema in ("", "pg_catalog") or node.actual is None:
        return ()
    rows = max(1, round(node.actual.rows))
    return (Remedy(text=f"ALTER FUNCTION {ddl.ident(schema, name)} ROWS {rows};", why="Says how many; its owner may."),)
