"""Carry a run on, take it back, or ask the process that owns it; in each case tell how the run ended."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

import psycopg

from pgscale.connect.pooler import refuse_transaction_pooling
from pgscale.connect.session import Session
from pgscale.core.killing import kill_point
from pgscale.core.model import Watch
from pgscale.errors import InterruptedRunError, PgscaleError, RefusedError, RunFailedError
from pgscale.ledger import store
from pgscale.ledger.store import RunRow
from pgscale.partition.model import RunResult
from pgscale.partition.ownership import Found, open_control, own_or_refuse
from pgscale.partition.records import BEFORE_CUTOVER, packed_plan, result_of, stored_plan
from pgscale.partition.strategies import RunPlan, StrategyRunner, strategy_of


def drive(
    dsn: str,
    made: RunPlan,
    run_id: int,
    owner: Session,
    watch: Watch,
    act: Callable[[StrategyRunner], None],
) -> RunResult:
    """Let the owned run do `act`; when what fails was cancelled by another process's abort, take the run back."""
    runner = strategy_of(made.strategy).make_runner(dsn, made, run_id, owner, watch)
    try:
        act(runner)
    except (PgscaleError, psycopg.Error):
        # What an abort cancels fails in many ways; whatever it was, the table is to be as it was.
        if not runner.keeper.wants_abort.is_set():
            raise
        store.wait_for_orphans(owner, made.table_oid)
        row = _row(owner, run_id)
        if row.state not in BEFORE_CUTOVER:
            raise
        take_back(dsn, made, row, owner, watch, lambda r: r.abort(), "aborted", "aborting")
        raise InterruptedRunError(
            f"The run of {made.table} was aborted by another process.", consequence="The table is as it was."
        ) from None
    row = _row(owner, run_id)
    return result_of(row, row.state, made)


def begin(
    dsn: str, found: Found, made: RunPlan, watch: Watch, *, cutover: bool, also: tuple[int, ...] = ()
) -> RunResult:
    """Enter the plan into the ledger and carry it out up to the cut-over, and that too when wanted.

    Args:
        also: further tables that no other run may be about.

    Raises:
        RefusedError: another run took the table a moment ago.
    """
    refuse_transaction_pooling(dsn)
    owner = own_or_refuse(dsn, made.owner, found)
    with owner:
        with owner.transaction():
            store.lock_ledger(owner)
            store.create(owner)
            kill_point("before:ledger")
            if any(store.read_runs(owner, oid) for oid in (made.table_oid, *also)):
                raise RefusedError(
                    f"{made.table} was taken by another run a moment ago.",
                    consequence="Nothing was changed.",
                    hint="`status` shows it.",
                )
            run_id = int(
                store.scalar(
                    owner,
                    "insert_run",
                    table_oid=made.table_oid,
                    schema=made.table.schema,
                    name=made.table.name,
                    strategy=made.strategy,
                    plan=packed_plan(made),
                )
            )
        kill_point("after:ledger")
        return drive(dsn, made, run_id, owner, watch, lambda r: r.forward(cutover=cutover))


def take_back(
    dsn: str,
    made: RunPlan,
    row: RunRow,
    owner: Session,
    watch: Watch,
    act: Callable[[StrategyRunner], None],
    end_state: str,
    state: str | None = None,
) -> RunResult:
    """Let the owned run do `act`, which leaves nothing of it, and strike it from the ledger."""
    if state is not None:
        store.execute(owner, "set_state", run_id=row.run_id, state=state, note="")
    act(strategy_of(made.strategy).make_runner(dsn, made, row.run_id, owner, watch))
    last = _row(owner, row.run_id)
    with owner.transaction():
        store.execute(owner, "delete_run", run_id=row.run_id)
        store.forget_rehearsal(owner, row.table_oid)
    store.drop_if_empty(owner)
    return result_of(last, end_state)


def _row(session: Session, run_id: int) -> RunRow:
    return next(r for r in store.read_runs(session) if r.run_id == run_id)


def ask(
    dsn: str,
    row: RunRow,
    request: str,
    *,
    until: Callable[[RunRow | None], bool],
    give_up_after_s: float = 3600.0,
) -> RunResult:
    """Leave a request for the live owner and wait until it is carried out."""
    end = time.monotonic() + give_up_after_s
    with open_control(dsn, row) as session:
        store.execute(session, "set_request", run_id=row.run_id, request=request)
        while True:
            now = next((r for r in store.read_runs(session) if r.run_id == row.run_id), None)
            if until(now):
                return result_of(now or row, now.state if now else "aborted", stored_plan(row))
            if now is not None and now.state not in (row.state, *BEFORE_CUTOVER):
                # It is being carried out: rows that go back take as long as they take.
                end = math.inf
            if time.monotonic() > end or (now is None) or not store.has_live_owner(session, row.table_oid):
                raise RunFailedError(
                    f"The process that owns the run did not carry out the {request}.",
                    consequence="The table is unharmed.",
                    hint="Look at `status`; `resume` takes over a run whose process died.",
                )
            threading.Event().wait(0.2)
