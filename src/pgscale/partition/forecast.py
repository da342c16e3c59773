"""A plan with its outlook: how long, how even, and which statements of the application would not be pruned.

Only `plan` looks this far; a run is made from the plan alone, and nothing found here changes it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import psycopg

from pgscale.catalog import reader as catalog
from pgscale.catalog.model import TableFacts
from pgscale.connect.session import READER, Session, open_session
from pgscale.errors import RefusedError
from pgscale.partition import bounds, evidence, skew, workload
from pgscale.partition.estimate import estimate
from pgscale.partition.failures import translated
from pgscale.partition.model import By, MirrorPlan, Options, Skew, Workload
from pgscale.partition.strategies import RunPlan, make_plan
from pgscale.partition.volumes import MEASURED
from pgscale.partition.workload_reader import NotReadableError, read_statements

if TYPE_CHECKING:
    from pgscale.partition.attach.model import AttachPlan


@translated
def plan(dsn: str | None, table: str, options: Options) -> RunPlan:
    """Return the whole run as data, and what it will mean; changes nothing and takes no lock but ACCESS SHARE.

    Raises:
        UsageError: a wrong argument; RefusedError: what cannot be carried, every reason named;
        ConnectError, PermissionDeniedError.
    """
    with open_session(dsn, READER) as session:
        oid, _ = catalog.find_table(session, table)
        made = make_plan(session, oid, options)
        if made.strategy == "attach":
            return add_workload(session, cast("AttachPlan", made))
        return add_outlook(session, made) if isinstance(made, MirrorPlan) else made


def add_workload(session: Session, made: AttachPlan) -> AttachPlan:
    """Return the plan with the statements that would not be pruned; what cannot be looked at is in `unchecked`."""
    facts, by = catalog.read_table(session, made.table_oid), bounds.parse_by(made.options.by)
    warnings, unchecked = list(made.warnings), list(made.unchecked)
    judged, why = _workload(session, facts, by)
    if judged is None:
        unchecked.append(f"Which statements would not be pruned was not checked, because {why}.")
    else:
        warnings += workload.describe(judged, len(made.leaves))
        unchecked += workload.find_unjudged(judged)
    return replace(made, workload=judged, warnings=tuple(warnings), unchecked=tuple(unchecked))


def add_outlook(session: Session, made: MirrorPlan) -> MirrorPlan:
    """Return the plan with estimate, evenness and workload; what cannot be looked at is named in `unchecked`."""
    facts, by = catalog.read_table(session, made.table_oid), bounds.parse_by(made.options.by)
    warnings, unchecked = list(made.warnings), list(made.unchecked)
    evenness = made.skew
    if evenness is None:
        evenness, why = _evenness(session, facts, by, len(made.leaves))
        if why:
            unchecked.append(f"How even the partitions would be was not checked, because {why}.")
        warning = skew.describe_unevenness(evenness)
        warnings += [warning] if warning else []
    judged, why = _workload(session, facts, by)
    if judged is None:
        unchecked.append(f"Which statements would not be pruned was not checked, because {why}.")
    else:
        warnings += workload.describe(judged, len(made.leaves))
        unchecked += workload.find_unjudged(judged)
    measured = evidence.read_measured_copy(session, facts)
    if made.options.storage == MEASURED and measured is None:
        raise RefusedError(
            f"Nothing was measured in this database that a plan of {made.table} could rest on.",
            consequence="Nothing was changed.",
            hint=f"`pgscale partition rehearse {made.table}` with the same options measures.",
        )
    expected = estimate(
        facts,
        made.options,
        len(made.leaves),
        measured=measured,
        logs_hint_bits=evidence.logs_hint_bits(session),
    )
    if expected.burst_trap:
        warnings.append(expected.burst_trap)
    return replace(
        made,
        estimate=expected,
        skew=evenness,
        workload=judged,
        warnings=tuple(warnings),
        unchecked=tuple(unchecked),
    )


def _evenness(session: Session, facts: TableFacts, by: By, leaves: int) -> tuple[Skew | None, str]:
    """Return the evenness of a key of several columns, or why it (or a one-column key's) is not known."""
    rows = round(facts.table.reltuples)
    found = evidence.read_statistics(session, facts, by.columns) if rows > 0 else {}
    missing = tuple(c for c in by.columns if c not in found)
    if missing or len(by.columns) == 1:
        return None, evidence.explain_missing_statistics(session, facts, missing or by.columns)
    columns = tuple((c, found[c]) for c in by.columns)
    return skew.combined_skew(leaves, rows, columns, evidence.read_combinations(session, facts, by.columns)), ""


def _workload(session: Session, facts: TableFacts, by: By) -> tuple[Workload | None, str]:
    """Return the judged statements, or why they could not be read."""
    table, columns = facts.table.qname, frozenset(c.name for c in facts.columns)
    views = tuple(dict.fromkeys(v.name for v in facts.views))
    try:
        counted = read_statements(session, table, views)
        judged = workload.judge(table, columns, by, counted.statements)
    except NotReadableError as error:
        return None, str(error)
    except workload.ParserMissingError:
        return None, "sqlglot, which reads their text, is not installed"
    except psycopg.Error as error:
        return None, f"the server reported: {str(error).splitlines()[0]}"
    return Workload(
        statements=judged,
        since=counted.since,
        hidden=counted.hidden,
        via_views=counted.via_views,
        left_out=counted.found - len(counted.statements),
    ), ""
