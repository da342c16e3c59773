"""Plans whose shape costs: inner sides without an index, subplans for each row, CTEs, OFFSET, partitions. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from pgscale.core.finding import Finding, Remedy
from pgscale.core.units import format_count
from pgscale.doctor.explain import ddl, indexing
from pgscale.doctor.explain.case import Case
from pgscale.doctor.explain.conditions import Term, read_terms, terms_of
from pgscale.doctor.explain.facts import Partitioned, Relation
from pgscale.doctor.explain.model import SUB_PLAN, Node
from pgscale.doctor.explain.thresholds import (
    LARGE_SHARE,
    LEAST_SHARE,
    MANY_EXECUTIONS,
    MANY_PARTITIONS,
    MANY_SCANS,
    MISESTIMATED_TIMES,
    SCANNED_ROWS,
    SKIPPED_ROWS,
    SKIPPED_TIMES,
    WASTED_SHARE,
)
from pgscale.errors import UsageError
from pgscale.sql.statements import split


def judge(case: Case) -> Iterator[Finding]:
    """Report them."""
    for node in case.plan.nodes:
        if case.plan.is_measured and not node.is_executed:
            continue
        if node.kind == "Nested Loop":
            yield from _nested_loop(case, node)
        elif node.kind == "CTE Scan":
            yield from _cte(case, node)
        elif node.kind == "Limit":
            yield from _offset(case, node)
        elif node.kind in ("Append", "Merge Append"):
            yield from _partitions(case, node)
        if node.relationship == SUB_PLAN:
            yield from _subplan(case, node)


def _nested_loop(case: Case, node: Node) -> Iterator[Finding]:
    if len(node.plain_children) != 2 or not case.plan.is_measured:
        return
    outer, inner = node.plain_children
    if outer.actual is None or inner.actual is None or not inner.is_executed:
        return
    share = case.measure.share(node)
    scan = inner
    while scan.kind in ("Materialize", "Memoize") and scan.plain_children:
        scan = scan.plain_children[0]
    loops = inner.actual.loops
    joined = node.texts.get("Join Filter", "")
    removed = node.figures.get("Rows Removed by Join Filter", 0.0) * (
        node.actual.loops if node.actual is not None else 1.0
    )
    if scan.kind == "Seq Scan" and joined and loops >= MANY_SCANS and removed >= SCANNED_ROWS and share >= LEAST_SHARE:
        terms = read_terms(joined, scan.alias)
        advice = indexing.advise(case, scan, terms)
        yield case.find(
            "nested_loop",
            node,
            f"For each of {loops:,.0f} rows all of {scan.table} was gone through, and {removed:,.0f} pairs were"
            " thrown away.",
            severity=case.severity(share),
            evidence={"executions": round(loops), "pairs_thrown_away": round(removed), "join_condition": joined},
            cost="A nested loop without an index on its inner side costs the product of both.",
            remedies=(indexing.remedy(case, [scan], advice),) if advice is not None else (),
        )
        return
    expected = max(1.0, outer.expected.rows)
    if loops >= MANY_EXECUTIONS and outer.actual.rows >= MISESTIMATED_TIMES * expected and share >= LARGE_SHARE:
        yield case.find(
            "nested_loop",
            node,
            f"A nested loop planned for {format_count(round(expected), 'row')} was gone through {loops:,.0f} times.",
            severity=case.severity(share),
            evidence={"rows_expected": round(expected), "executions": round(loops)},
            cost="For so many a hash join reads each side once. It follows from the misjudged rows below: mend that.",
            remedies=(
                Remedy(
                    text=ddl.set_here("enable_nestloop", "off"),
                    kind="setting",
                    why="Only to compare, in a session: shows what the query takes without it.",
                ),
            ),
        )


def _subplan(case: Case, node: Node) -> Iterator[Finding]:
    loops = node.actual.loops if node.actual is not None else 0.0
    share = case.measure.share(node)
    # One that is hashed is run once.
    if loops < MANY_EXECUTIONS or share < LARGE_SHARE:
        return
    holder = case.measure.parents[node.number]
    yield case.find(
        "subplan",
        node,
        f"A subquery was executed {loops:,.0f} times, once for each row of its outer query.",
        severity=case.severity(share),
        evidence={
            "executions": round(loops),
            "time_share": share,
            "asked_by": "" if holder is None else f"#{holder.number} {holder.label}",
        },
        cost="PostgreSQL cannot turn such a subquery into a join by itself. Write it as one: LEFT JOIN of a"
        " subquery that is"
        " grouped by what is compared, or a condition with EXISTS or IN that stands alone.",
    )


def _cte(case: Case, node: Node) -> Iterator[Finding]:
    if "Filter" not in node.texts or node.actual is None:
        return
    kept = node.actual.all_rows
    read = kept + node.figures.get("Rows Removed by Filter", 0.0) * node.actual.loops
    name = node.texts.get("CTE Name", "")
    made = next((each for each in case.plan.nodes if each.is_cte and each.subplan == f"CTE {name}"), None)
    if made is None or made.kind == "Recursive Union" or read - kept < max(SCANNED_ROWS, WASTED_SHARE * read):
        return
    scans = sum(each.kind == "CTE Scan" and each.texts.get("CTE Name") == name for each in case.plan.nodes)
    inlined = _inlined(case.query, name)
    yield case.find(
        "cte",
        node,
        f"CTE {name} was computed wholly, {read:,.0f} rows, of which {kept:,.0f} are wanted here.",
        severity=case.severity(case.measure.share(made)),
        evidence={
            "rows_computed": round(read),
            "rows_kept": round(kept),
            "scans": scans,
            "filter": node.texts["Filter"],
        },
        cost="A CTE that is MATERIALIZED, or named twice, is computed by itself: no condition from outside goes in,"
        " and no"
        " index serves it.",
        remedies=(Remedy(text=inlined, why="Lets PostgreSQL put it in wherever it is named."),) if inlined else (),
    )


def _inlined(query: str, name: str) -> str:
    """Return the query with a CTE said to be NOT MATERIALIZED; nothing when it is not found in it."""
    if not query:
        return ""
    try:
        statements = split(query, "query")
    except UsageError:
        return ""
    tokens = statements[0].tokens if statements else ()
    for before, token in pairwise(tokens):
        if token.text.upper() != "AS" or (before.text.strip('"') != name and before.text.lower() != name):
            continue
        behind = [each for each in tokens if each.start > token.start][:2]
        words = [each.text.upper() for each in behind]
        if words[:1] == ["NOT"]:
            return ""
        end = behind[0].end if words[:1] == ["MATERIALIZED"] else token.end
        if words[:1] == ["MATERIALIZED"] or words[:1] == ["("]:
            return f"{query[: token.end]} NOT MATERIALIZED{query[end:]};"
    return ""


def _offset(case: Case, node: Node) -> Iterator[Finding]:
    child = node.plain_children[0] if node.plain_children else None
    if child is None:
        return
    if node.actual is None:
        skipped, given = _literal_offset(case.query), node.expected.rows
    elif child.actual is not None:
        # A LIMIT alone takes no more of its child than it gives.
        skipped, given = (child.actual.rows - node.actual.rows) * node.actual.loops, node.actual.all_rows
    else:
        return
    if skipped < SKIPPED_ROWS or skipped < SKIPPED_TIMES * max(1.0, given):
        return
    keys = [
        key
        for each in node.walk()
        if each.kind in ("Sort", "Incremental Sort")
        for key in each.lists.get("Sort Key", ())
    ]
    after = (
        f"WHERE ({', '.join(keys)}) > (the last ones of the page before) "
        if keys
        else "a condition on what it is sorted by "
    )
    yield case.find(
        "offset",
        node,
        f"OFFSET skips {skipped:,.0f} rows to return {given:,.0f}.",
        severity="warning" if case.measure.share(node) >= LARGE_SHARE else "info",
        evidence={"rows_skipped": round(skipped), "rows_returned": round(given)},
        cost="What is skipped is computed all the same, more with each page. Begin where the last page ended:"
        f" {after}and no OFFSET, with an index on it.",
    )


def _literal_offset(query: str) -> float:
    try:
        tokens = split(query, "query")[0].tokens if query else ()
    except (UsageError, IndexError):
        return 0.0
    return max(
        (
            float(b.text)
            for a, b in pairwise(tokens)
            if a.text.upper() == "OFFSET" and b.kind == "number" and b.text.isdigit()
        ),
        default=0.0,
    )


def _partitions(case: Case, node: Node) -> Iterator[Finding]:
    """Report that every partition is read though there are conditions, none of which is on the key."""
    scans = [each for child in node.plain_children if (each := _scan(child)) is not None]
    found = [
        (each, relation) for each in scans if (relation := case.known.relation(each)) is not None and relation.root
    ]
    root = case.known.root_of(found[0][1]) if found else None
    if root is None or len(root.leaves) < MANY_PARTITIONS or any(relation.root != root.oid for _, relation in found):
        return
    read = {(relation.schema, relation.name) for _, relation in found}
    # Others were left out: by planning, when execution began ("Subplans Removed"), or while it ran.
    if read < root.leaves or (case.plan.is_measured and not all(each.is_executed for each, _ in found)):
        return
    terms = [term for each, _ in found for term in terms_of(each)]
    if not terms:
        return
    on_key = [term for term in terms if term.columns & set(root.key_columns)]
    empty = sum(each.actual is not None and each.actual.all_rows == 0 for each, _ in found)
    disabled = case.known.setting("enable_partition_pruning") == "off"
    if on_key and not disabled and (case.is_generic or not all(_hides(case, found[0][1], term) for term in on_key)):
        # Without values nothing can be pruned that is compared with one.
        return
    yield case.find(
        "not_pruned",
        node,
        f"All {len(root.leaves)} partitions of {ddl.ident(root.schema, root.name)}"
        f" {'were' if case.plan.is_measured else 'are to be'} read"
        + (f"; {empty} of them gave no row." if case.plan.is_measured else "."),
        severity="warning" if case.plan.is_measured and 2 * empty >= len(found) else "info",
        evidence={
            "partitions": len(root.leaves),
            "partitions_without_rows": empty if case.plan.is_measured else None,
            "partition_key": ", ".join(root.key_columns) + (" and an expression" if root.has_expression else ""),
            "conditions": " AND ".join(dict.fromkeys(term.text for term in terms_of(found[0][0]))),
        },
        cost=_why_not_pruned(root, disabled=disabled, hides=bool(on_key)),
        remedies=(_pruning_on(case),) if disabled else (),
    )


def _why_not_pruned(root: Partitioned, *, disabled: bool, hides: bool) -> str:
    key = ", ".join(root.key_columns)
    if disabled:
        return "enable_partition_pruning is off: every query reads every partition."
    if hides:
        return f"A function or a cast stands around {key}: only a condition on the key itself leaves partitions out."
    return (
        f"No condition is on the key, {key}: each partition is opened, locked and searched. Where the caller knows"
        " a range of it, give it as a condition too."
    )


def _pruning_on(case: Case) -> Remedy:
    found = case.known.settings["enable_partition_pruning"]
    text = ddl.reset_setting(found.name, found.source, case.known.database, case.known.role)
    return Remedy(text=text, kind="setting", why="Takes it back where it was set; on is the default.")


def _hides(case: Case, relation: Relation, term: Term) -> bool:
    return term.is_served and term.kind in ("equal", "range") and not indexing.is_plain(case, relation, term)


def _scan(node: Node) -> Node | None:
    """Return the scan of one relation that a child of an Append is."""
    while node.relation is None and len(node.plain_children) == 1:
        node = node.plain_children[0]
    return node if node.relation is not None else None
