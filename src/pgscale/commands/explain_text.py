"""A plan for people: a tree with each node's own part of the time, the rows that came and that were expected. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pgscale.commands.finding_text import MARKS, section, wrapped
from pgscale.core.finding import Finding, rank
from pgscale.core.model import shorten
from pgscale.core.units import format_bytes, format_count
from pgscale.doctor.explain.case import Case
from pgscale.doctor.explain.model import Node

BAR = 10
_BLOCKS = " ▏▎▍▌▋▊▉█"
_SHOWN_NODES = 200
_SHOWN_CONDITION = 100
# Under these names nodes say what decides about rows.
_SAID = ("Index Cond", "Hash Cond", "Merge Cond", "Join Filter", "Filter", "One-Time Filter")


def page(case: Case, findings: tuple[Finding, ...], notes: tuple[str, ...]) -> Iterator[str]:
    """Yield the lines: what it took, the tree, what was found, and notes."""
    if case.query:
        yield shorten(case.query, 110)
    yield from wrapped("", _headline(case))
    yield ""
    yield from _tree(case, findings)
    for finding in findings:
        yield ""
        where = f" at #{finding.subject.split(' ')[0].lstrip('#')}" if finding.subject else ""
        yield from section(finding, f"{finding.check}{where}")
    if not findings:
        yield ""
        kind = "took" if case.plan.is_measured else "is expected to take"
        yield f"{MARKS['well']} Nothing in the plan {kind} more than it should."
    for note in notes:
        yield ""
        yield from wrapped("Note: ", note)


def _headline(case: Case) -> str:
    plan, known = case.plan, case.known
    server = f"PostgreSQL {known.version_text}, database {known.database}: " if known.is_known else ""
    if plan.is_measured:
        took = "not timed" if plan.execution_ms is None else f"took {_milliseconds(plan.execution_ms)}"
        what = f"{took}, {format_count(round(plan.root.actual.all_rows) if plan.root.actual else 0, 'row')}"
    else:
        what = f"cost {plan.root.expected.cost:,.0f}, {plan.root.expected.rows:,.0f} rows expected"
    planning = f"; planning {_milliseconds(plan.planning_ms)}" if plan.planning_ms is not None else ""
    return f"{server}{what}{planning}{_blocks(case)}."


def _blocks(case: Case) -> str:
    figures, page = case.plan.root.figures, case.known.block_bytes
    said = {
        "from buffers": figures.get("Shared Hit Blocks", 0.0) * page,
        "read": figures.get("Shared Read Blocks", 0.0) * page,
        "changed": figures.get("Shared Dirtied Blocks", 0.0) * page,
        "temporary": figures.get("Temp Written Blocks", 0.0) * page,
        "of WAL": figures.get("WAL Bytes", 0.0),
    }
    parts = [f"{format_bytes(size)} {what}" for what, size in said.items() if size]
    # 17 tells the times of shared, local and temporary reads apart.
    waited = figures.get("Shared I/O Read Time", figures.get("I/O Read Time", 0.0))
    parts += [f"{_milliseconds(waited)} waited for reads"] if waited else []
    return f"; {', '.join(parts)}" if parts else ""


def _tree(case: Case, findings: tuple[Finding, ...]) -> Iterator[str]:
    nodes = case.plan.nodes
    marks: dict[str, Finding] = {}
    for finding in findings:
        key = finding.subject.split(" ")[0]
        if key and (key not in marks or rank(finding.severity) > rank(marks[key].severity)):
            marks[key] = finding
    shown = nodes[:_SHOWN_NODES]
    rows = [_cells(case, node) for node in shown]
    heads = (
        "own time" if case.measure.is_time else "own cost",
        "",
        "rows" if case.plan.is_measured else "",
        "expected",
    )
    wide = [max(len(row[column]) for row in [heads, *rows]) for column in range(4)]
    number_width = len(str(shown[-1].number)) + 1
    yield (
        f"  {'':<{number_width}} {heads[0]:>{wide[0]}} {heads[1]:<{wide[1]}} {heads[2]:>{wide[2]}}"
        f" {heads[3]:>{wide[3]}}"
    ).rstrip()
    lines = dict(_branches(case.plan.root))
    for node, row in zip(shown, rows, strict=True):
        found = marks.get(f"#{node.number}")
        mark = MARKS[found.severity] if found is not None else " "
        head, below = lines[node.number]
        figures = f"{row[0]:>{wide[0]}} {row[1]:<{wide[1]}} {row[2]:>{wide[2]}} {row[3]:>{wide[3]}}"
        yield f"{mark} {f'#{node.number}':<{number_width}} {figures}  {head}{node.label}{_aside(node)}"
        blank = " " * (number_width + sum(wide) + 8)
        for name in _SAID:
            if name in node.texts:
                yield f"{blank}{below}{name}: {shorten(node.texts[name], _SHOWN_CONDITION)}"
    if len(nodes) > len(shown):
        yield f"  … and {len(nodes) - len(shown)} more nodes; --json has them all."


def _cells(case: Case, node: Node) -> tuple[str, str, str, str]:
    own, share = case.measure.own[node.number], case.measure.own_share(node)
    if node.actual is not None and not node.is_executed:
        return "never", " " * BAR, "", f"{node.expected.rows:,.0f}"
    time = _milliseconds(own) if case.measure.is_time else f"{own:,.0f}"
    if case.plan.is_measured and not case.measure.is_time:
        time, share = "", 0.0
    loops = node.actual.loops if node.actual is not None else 1.0
    times = f" × {loops:,.0f}" if loops != 1 else ""
    rows = "" if node.actual is None else f"{_number(node.actual.rows)}{times}"
    return time, f"{_bar(share)} {f'{share:.0%}' if share >= 0.005 else '':>4}", rows, f"{node.expected.rows:,.0f}"


def _number(rows: float) -> str:
    return f"{rows:,.0f}" if rows >= 10 or rows == round(rows) else f"{rows:,.2f}"


def _milliseconds(ms: float) -> str:
    return f"{ms:,.1f} ms" if ms < 1000 else f"{ms / 1000:,.2f} s"


def _bar(share: float) -> str:
    """Return a share of one as a bar of eighths."""
    eighths = round(min(1.0, share) * BAR * 8)
    full, rest = divmod(eighths, 8)
    return f"{'█' * full}{_BLOCKS[rest] if rest else ''}".ljust(BAR)


def _aside(node: Node) -> str:
    said: list[str] = []
    if "Workers Planned" in node.figures:
        launched = node.figures.get("Workers Launched")
        said.append(
            f"{node.figures['Workers Planned']:.0f} workers"
            + (f", {launched:.0f} came" if launched is not None else "")
        )
    if node.texts.get("Sort Space Type") == "Disk":
        said.append(f"{format_bytes(node.figures.get('Sort Space Used', 0.0) * 1024)} on disk")
    if node.figures.get("Hash Batches", 1.0) > 1:
        said.append(f"{node.figures['Hash Batches']:,.0f} batches")
    if node.figures.get("Rows Removed by Filter"):
        said.append(f"{node.figures['Rows Removed by Filter']:,.0f} rows removed")
    if node.figures.get("Subplans Removed"):
        said.append(f"{node.figures['Subplans Removed']:.0f} partitions pruned")
    keys = node.lists.get("Sort Key") or node.lists.get("Group Key")
    if keys:
        said.insert(0, f"by {', '.join(shorten(key, 40) for key in keys)}")
    return f" ({'; '.join(said)})" if said else ""


def _branches(root: Node) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield for each node what stands before its name, and before the lines below it."""

    def go(node: Node, head: str, below: str) -> Iterator[tuple[int, tuple[str, str]]]:
        more = "│  " if node.children else "   "
        yield node.number, (head, below + more)
        for place, child in enumerate(node.children):
            last = place == len(node.children) - 1
            yield from go(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))

    yield from go(root, "", "")
