"""Scans that read much for little: without an index, by the wrong one, by whole pages. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from pgscale.core.finding import Finding, Remedy
from pgscale.core.model import Json
from pgscale.core.units import format_bytes, format_count
from pgscale.doctor.explain import ddl, indexing
from pgscale.doctor.explain.case import Case
from pgscale.doctor.explain.conditions import Term, terms_of
from pgscale.doctor.explain.memory import memory_remedy
from pgscale.doctor.explain.model import Node
from pgscale.doctor.explain.thresholds import (
    HEAP_FETCH_SHARE,
    HEAP_FETCHES,
    KEPT_SHARE,
    LEAST_SHARE,
    LOSSY_SHARE,
    SCANNED_ROWS,
    WASTED_SHARE,
)

REMOVED = "Rows Removed by Filter"
_INDEX_SCANS = ("Index Scan", "Index Only Scan", "Bitmap Heap Scan")
# sizeof(PagetableEntry) and two pointers (tbm_calculate_entries in PostgreSQL's source); a quarter more for its table.
_BITMAP_PAGE_BYTES = 64 * 1.25


def judge(case: Case) -> Iterator[Finding]:
    """Report them; partitions that are scanned alike are one finding."""
    scans = sorted(
        (
            node
            for node in case.plan.nodes
            if node.relation is not None and (node.is_executed or not case.plan.is_measured)
        ),
        key=lambda node: _alike(case, node),
    )
    for _, alike in groupby(scans, key=lambda node: _alike(case, node)):
        nodes = sorted(alike, key=lambda node: node.number)
        if nodes[0].kind == "Seq Scan":
            yield from _sequential(case, nodes)
        elif nodes[0].kind in _INDEX_SCANS:
            yield from _wasteful(case, nodes)
    for node in case.plan.nodes:
        if node.is_executed:
            yield from _heap_fetches(case, node)
            yield from _lossy(case, node)
            yield from _foreign(case, node)


def _alike(case: Case, node: Node) -> tuple[str, str, tuple[str, ...], int]:
    relation = case.known.relation(node)
    table = str(relation.root) if relation is not None and relation.root else node.table
    what = tuple(sorted(f"{term.expression} {term.operator}" for term in terms_of(node)))
    # Alone, but for partitions: each scan of the same table is another.
    return node.kind, table, what, 0 if relation is not None and relation.root else node.number


def _read_and_kept(case: Case, nodes: Sequence[Node]) -> tuple[float, float]:
    if case.plan.is_measured:
        kept = sum(node.actual.all_rows for node in nodes if node.actual is not None)
        removed = sum(node.figures.get(REMOVED, 0.0) * node.actual.loops for node in nodes if node.actual is not None)
        return kept + removed, kept
    read = kept = 0.0
    for node in nodes:
        relation = case.known.relation(node)
        read += max(0.0, relation.rows) if relation is not None else 0.0
        kept += node.expected.rows * (case.processes(node) if "Parallel Aware" in node.flags else 1.0)
    return read, kept


def _sequential(case: Case, nodes: list[Node]) -> Iterator[Finding]:
    node = nodes[0]
    read, kept = _read_and_kept(case, nodes)
    share = sum(case.measure.own_share(each) for each in nodes)
    if "Filter" not in node.texts or _is_catalog(node) or read < SCANNED_ROWS or kept > KEPT_SHARE * read:
        return
    if share < LEAST_SHARE and (case.measure.is_time or not case.plan.is_measured):
        return
    terms = terms_of(node, "Filter")
    advice = indexing.advise(case, node, terms)
    hiding = advice.hidden_by if advice is not None else indexing.hidden(case, node, terms)
    if advice is None and hiding is None:
        return
    table = _table(case, nodes)
    loops = max(each.actual.loops if each.actual is not None else 1.0 for each in nodes)
    times = f" {format_count(round(loops), 'time')}" if loops > case.processes(node) else ""
    verb = "was read" if case.plan.is_measured else "is to be read"
    fact = (
        f"{case.expects}{kept:,.0f} of {read:,.0f} rows are kept: all of {table} {verb}{times} for"
        f" {_said(advice, terms)}."
    )
    if hiding is not None:
        term, index = hiding
        fact += f" Index {index.name} on {index.keys[0]} cannot serve `{term.expression}`."
    yield case.find(
        "seq_scan" if hiding is None else "hidden_index",
        node,
        _sentence(fact),
        severity=case.severity(share),
        evidence={
            "table": table,
            "rows_read": round(read),
            "rows_kept": round(kept),
            "kept_share": kept / read,
            "filter": node.texts["Filter"],
            **_pages(case, nodes),
        },
        cost="Every row is read and tested; the table grows, and so does this."
        if hiding is None
        else "A cast or a function around a column hides its index: compare the column itself, with a value of its"
        " own type"
        " (a day is created_at >= its begin AND < its end). Otherwise the expression needs an index of its own.",
        remedies=(indexing.remedy(case, nodes, advice),) if advice is not None else (),
    )


def _wasteful(case: Case, nodes: list[Node]) -> Iterator[Finding]:
    """Report index scans whose filter throws away most of what the index found."""
    node = nodes[0]
    if not case.plan.is_measured or "Filter" not in node.texts or _is_catalog(node):
        return
    read, kept = _read_and_kept(case, nodes)
    share = sum(case.measure.share(each) for each in nodes)
    if read - kept < SCANNED_ROWS or read - kept < WASTED_SHARE * read or share < LEAST_SHARE:
        return
    found_by = terms_of(node, "Index Cond", "Recheck Cond")
    terms = (*found_by, *terms_of(node, "Filter"))
    advice = indexing.advise(case, node, terms, ordered=() if found_by else _order(case, node))
    if advice is None:
        return
    table = _table(case, nodes)
    yield case.find(
        "filter_after_index",
        node,
        f"An index found {read:,.0f} rows of {table}, and the filter kept {kept:,.0f} of them.",
        severity=case.severity(share),
        evidence={
            "table": table,
            "index": node.texts.get("Index Name"),
            "rows_read": round(read),
            "rows_kept": round(kept),
            "kept_share": kept / read,
            "index_condition": node.texts.get("Index Cond", node.texts.get("Recheck Cond")),
            "filter": node.texts["Filter"],
        },
        cost="Each of those rows was fetched from the table to be thrown away.",
        remedies=(indexing.remedy(case, nodes, advice),),
    )


def _is_catalog(node: Node) -> bool:
    """Nobody may give those an index."""
    return node.relation is not None and node.relation[0] in ("pg_catalog", "pg_toast")


def _order(case: Case, node: Node) -> tuple[str, ...]:
    """Return the keys of the index that is read for its order."""
    relation = case.known.relation(node)
    if relation is None:
        return ()
    for index in case.known.indexes_of(relation):
        if index.name == node.texts.get("Index Name"):
            return tuple(index.keys)
    return ()


def _heap_fetches(case: Case, node: Node) -> Iterator[Finding]:
    fetches = node.figures.get("Heap Fetches", 0.0)
    assert node.actual is not None
    if fetches < HEAP_FETCHES or fetches < HEAP_FETCH_SHARE * node.actual.all_rows or not case.matters(node):
        return
    relation = case.known.relation(node)
    evidence: dict[str, Json] = {"heap_fetches": round(fetches), "rows": round(node.actual.all_rows)}
    if relation is not None and relation.pages:
        evidence["all_visible_share"] = min(1.0, relation.visible_pages / relation.pages)
    yield case.find(
        "heap_fetches",
        node,
        f"An index-only scan of {node.table} had to ask the table for {fetches:,.0f} rows.",
        severity=case.severity(case.measure.own_share(node)),
        evidence=evidence,
        cost="Pages that VACUUM has not marked as visible to all since they were written must be read for each row.",
        remedies=(
            Remedy(
                text=f"VACUUM {ddl.ident(*(node.relation or ('', '')))};",
                why="Marks them. If it does not help, something holds VACUUM back: `pgscale doctor --only horizon`."
                " If it is needed again and again: `pgscale doctor --only autovacuum`.",
            ),
        ),
    )


def _lossy(case: Case, node: Node) -> Iterator[Finding]:
    lossy = node.figures.get("Lossy Heap Blocks", 0.0) + sum(
        w.figures.get("Lossy Heap Blocks", 0.0) for w in node.workers
    )
    exact = node.figures.get("Exact Heap Blocks", 0.0) + sum(
        w.figures.get("Exact Heap Blocks", 0.0) for w in node.workers
    )
    if not lossy or lossy < LOSSY_SHARE * (lossy + exact) or not case.matters(node):
        return
    assert node.actual is not None
    # Of one execution.
    pages = (lossy + exact) / node.actual.loops if not node.workers else lossy + exact
    rechecked = node.figures.get("Rows Removed by Index Recheck", 0.0) * node.actual.loops
    yield case.find(
        "lossy_bitmap",
        node,
        f"The bitmap of {node.table} did not fit into work_mem: of {lossy:,.0f} pages it knew no rows, and"
        f" {rechecked:,.0f} rows were tested in vain.",
        severity=case.severity(case.measure.own_share(node)),
        evidence={
            "lossy_pages": round(lossy),
            "exact_pages": round(exact),
            "rows_removed_by_recheck": round(rechecked),
        },
        cost="Of such a page every row is tested again.",
        remedies=(memory_remedy(case, pages * _BITMAP_PAGE_BYTES),),
    )


def _foreign(case: Case, node: Node) -> Iterator[Finding]:
    if node.kind != "Foreign Scan" or "Filter" not in node.texts:
        return
    read, kept = _read_and_kept(case, [node])
    if read - kept < SCANNED_ROWS or read - kept < WASTED_SHARE * read:
        return
    yield case.find(
        "foreign_filter",
        node,
        f"{read:,.0f} rows of foreign table {node.table} were fetched, and {kept:,.0f} of them were kept here.",
        severity=case.severity(case.measure.share(node)),
        evidence={
            "rows_fetched": round(read),
            "rows_kept": round(kept),
            "filter": node.texts["Filter"],
            "remote_sql": node.texts.get("Remote SQL"),
        },
        cost="The condition was not sent to the other server: of what is sent, operators, functions and collations"
        " must be built in, or of an extension that the server's option `extensions` names, and immutable.",
    )


def _said(advice: indexing.Advice | None, terms: Sequence[Term]) -> str:
    texts = [term.text for term in (advice.terms if advice is not None else terms)]
    return " AND ".join(texts)


def _table(case: Case, nodes: Sequence[Node]) -> str:
    relation = case.known.relation(nodes[0])
    root = case.known.root_of(relation) if relation is not None else None
    if root is None or len(nodes) == 1:
        return nodes[0].table
    return f"{len(nodes)} partitions of {root.schema}.{root.name}"


def _pages(case: Case, nodes: Sequence[Node]) -> dict[str, Json]:
    found = {each.oid: each for node in nodes if (each := case.known.relation(node)) is not None}
    pages = sum(each.pages for each in found.values())
    # Of a table that nobody has vacuumed or analyzed the catalog knows no size.
    return {"table_size": format_bytes(pages * case.known.block_bytes)} if pages > 0 else {}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
