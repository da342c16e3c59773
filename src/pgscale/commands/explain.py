"""`pgscale explain`: a query's plan from a server, or from a file; where its time goes, and what is found in it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pgscale.commands import explain_text
from pgscale.connect.session import open_session
from pgscale.core.finding import Finding, Severity, rank, worst
from pgscale.core.model import Json, Report
from pgscale.doctor.explain import judging, reader, runner
from pgscale.doctor.explain.case import Case
from pgscale.doctor.explain.facts import Surroundings
from pgscale.doctor.explain.measuring import measure
from pgscale.doctor.explain.model import Node
from pgscale.doctor.explain.parsing import read_plan
from pgscale.doctor.explain.runner import Wish
from pgscale.doctor.explain.statement import Query, read_query
from pgscale.errors import UsageError

_ID = re.compile(r"\s*-?\d+\s*")
WRITES = (
    "It was executed and rolled back. What no rollback undoes stays: values taken from sequences, what functions and"
    " triggers did outside of the transaction (dblink, files), dead rows and WAL. Its locks were held until the"
    " rollback;"
    " deferred constraints were not checked."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What is said of a query.

    Args:
        notes: of how the plan was made.
    """

    case: Case
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Json]:
        plan, known = self.case.plan, self.case.known
        return {
            "query": self.case.query or None,
            "server": {"version": known.version_text, "database": known.database} if known.is_known else None,
            "is_measured": plan.is_measured,
            "is_generic": self.case.is_generic,
            "planning_ms": plan.planning_ms,
            "execution_ms": plan.execution_ms,
            "settings": dict(plan.settings),
            "plan": _node(self.case, plan.root),
            "worst": worst(finding.severity for finding in self.findings),
            "findings": [finding.to_json() for finding in self.findings],
            "notes": list(self.notes),
        }


def explain(dsn: str | None, what: str, wish: Wish, *, fail_on: Severity) -> Report:
    """Explain a query; exit code 1 when something as bad as `fail_on` was found in its plan.

    Args:
        what: the query, a file with it, `-` for standard input, or the id of a counted statement.

    Raises:
        UsageError: there is no such file or id, or not exactly one statement that has a plan.
        RefusedError, PermissionDeniedError, ConnectError: as runner.explain().
    """
    is_id = _ID.fullmatch(what) is not None
    query = None if is_id else _query(what)
    with open_session(dsn, runner.EXPLAIN) as session:
        if query is None:
            query_id = int(what)
            query = read_query(reader.read_statement(session, query_id), f"statement {query_id}")
        explained = runner.explain(session, query, wish)
        known = reader.read_surroundings(session, explained.plan, explained.settings)
    notes = [WRITES] if wish.analyze and wish.write else []
    if explained.plan.root.figures.get("Shared Read Blocks"):
        notes += explained.notes
    if explained.is_generic:
        notes.append(
            f"The plan is generic: made without the values of its parameters ({query.parameters}), so the rows"
            " expected are"
            " averages and partitions are not pruned by them. With --param for each it is that of the values."
        )
    if not wish.analyze:
        notes.append("Nothing was executed: rows and costs are what PostgreSQL expects. --analyze measures.")
    plan = explained.plan
    case = Case(plan=plan, measure=measure(plan), known=known, query=query.text, is_generic=explained.is_generic)
    return _report(case, tuple(notes), fail_on)


def read(file: str, *, fail_on: Severity) -> Report:
    """Read a plan that EXPLAIN (FORMAT JSON) has written; asks no server.

    Args:
        file: its path; `-` is standard input.

    Raises:
        UsageError: it cannot be read, or is no plan.
    """
    name = "standard input" if file == "-" else file
    plan = read_plan(_text(file, name), name)
    case = Case(plan=plan, measure=measure(plan), known=Surroundings(), query=plan.query)
    note = "No server was asked: whether an index exists, and how old statistics are, is not known."
    return _report(case, (note,), fail_on)


def _report(case: Case, notes: tuple[str, ...], fail_on: Severity) -> Report:
    findings = judging.judge(case)
    if case.known.unknown:
        notes = (*notes, case.known.unknown)
    said = Explanation(case=case, findings=findings, notes=notes)
    found = worst(finding.severity for finding in findings)
    bad = found is not None and rank(found) >= rank(fail_on)
    text = "\n".join(explain_text.page(case, findings, notes))
    return Report(data=said.to_json(), text=text, exit_code=1 if bad else 0)


def _query(what: str) -> Query:
    if what == "-":
        return read_query(_text("-", "standard input"), "standard input")
    if not any(letter.isspace() for letter in what.strip()) or _is_file(what):
        # No query that has a plan is one word.
        return read_query(_text(what, what), what)
    return read_query(what, "the query")


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        # Longer than any name of a file.
        return False


def _text(file: str, name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return raw.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name or 'The query'} cannot be read: {error}.",
            hint="Give a query (in quotes), a file with one, - for standard input, or the id of a statement.",
        ) from None


def _node(case: Case, node: Node) -> Json:
    measured: dict[str, Json] = {}
    if node.actual is not None:
        measured = {"actual_rows": node.actual.rows, "loops": node.actual.loops, "actual_ms": node.actual.ms}
    unit = "ms" if case.measure.is_time else "cost"
    return {
        "number": node.number,
        "label": node.label,
        f"own_{unit}": round(case.measure.own[node.number], 3),
        "own_share": round(case.measure.own_share(node), 4),
        "expected_rows": node.expected.rows,
        "expected_cost": node.expected.cost,
        **measured,
        "properties": {**node.texts, **node.figures, **{name: list(items) for name, items in node.lists.items()}},
        "children": [_node(case, child) for child in node.children],
    }
