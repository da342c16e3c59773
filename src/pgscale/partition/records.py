"""Turn what the ledger holds of a run into values: its plan, its owner, its result and how it stands."""

from __future__ import annotations

import json

import cattrs
import psycopg

from pgscale.connect.session import Session
from pgscale.core.model import QName
from pgscale.errors import RefusedError
from pgscale.ledger import store
from pgscale.ledger.store import RunRow
from pgscale.livecopy import ddl
from pgscale.livecopy.work import execute
from pgscale.partition.model import RunResult, RunStatus
from pgscale.partition.strategies import RunPlan, strategy_of

_CONVERTER = cattrs.Converter(forbid_extra_keys=True)

# The states from which `abort` leads back.
BEFORE_CUTOVER = frozenset({"running", "ready"})
# What a user can do, by the state of the run.
NEXT_STEP = {
    "running": "wait, or `pause`, `abort`",
    "ready": "`cutover`, or `abort`",
    "cut-over": "`finish` ends the way back; `undo` takes it",
    "undone": "`resume` finishes the undo",
    "aborting": "`resume` finishes the abort",
    "finishing": "`resume` finishes it",
}


def packed_plan(made: RunPlan) -> str:
    """Return the plan as the ledger keeps it."""
    return json.dumps(_CONVERTER.unstructure(made))


def stored_plan(row: RunRow) -> RunPlan:
    """Return the plan the run was started with.

    Raises:
        RefusedError: another version wrote it.
    """
    try:
        made: RunPlan = _CONVERTER.structure(json.loads(row.plan), strategy_of(row.strategy).plan_type())
    except cattrs.BaseValidationError as error:
        raise RefusedError(
            f"The run of {QName(schema=row.table_schema, name=row.table_name)} was begun by another version of pgscale,"
            " whose plan this one cannot read.",
            consequence="Nothing was changed.",
            hint="Go on with it, or take it back, with that version.",
        ) from error
    return made


def stored_owner(row: RunRow) -> str:
    """Return the role that owns the table, and the run."""
    return str(json.loads(row.plan)["owner"])


def result_of(row: RunRow, state: str, made: RunPlan | None = None) -> RunResult:
    """Return the run's figures; the retained table only while there is one, and when the plan is given."""
    return RunResult(
        run_id=row.run_id,
        table=str(QName(schema=row.table_schema, name=row.table_name)),
        strategy=row.strategy,
        state=state,
        rows_copied=row.rows_copied,
        rows_applied=row.rows_applied,
        rows_checked=row.rows_checked,
        mismatches=row.mismatches,
        attempts=row.attempts,
        blocked_ms=row.blocked_ms,
        duration_s=row.busy_s,
        retained_table=str(made.retained) if made is not None and made.retained and state == "cut-over" else None,
    )


def status_of(session: Session, row: RunRow) -> RunStatus:
    """Return how the run stands, whether a process works on it, and what can be done next."""
    made = stored_plan(row)
    live = store.has_live_owner(session, row.table_oid)
    pages = store.read_chunks(session, row.run_id, "pages")
    copied = store.read_chunks(session, row.run_id, "copy")
    backlog = 0
    pair = made.log_of(row.state)
    try:
        got = execute(session, ddl.pages_of(pair.log)).fetchone() if pair is not None else None
        backlog = int(got[0]) * 8192 if got else 0
    except psycopg.Error:
        # Not made yet, or of a role whose schema this login may not look into.
        backlog = 0
    state = "paused" if live and row.request == "pause" else row.state
    step = NEXT_STEP.get(row.state, "")
    if not live and row.state in ("running", "ready"):
        step = "no process works on it: `resume` takes it over, `abort` takes it back"
    return RunStatus(
        result=result_of(row, state, made),
        phase=row.phase,
        note=row.note,
        is_live=live,
        pages_copied=sum(last - first for first, last, _ in copied),
        pages_total=pages[0][1] if pages else 0,
        backlog_bytes=backlog,
        next_step=step,
        eta_least_s=row.eta_least_s if live else None,
        eta_most_s=row.eta_most_s if live else None,
    )
