"""Partition a live table: plan, run, and everything one may want of a run afterwards.

Each function opens its own sessions and closes them. `dsn` is a libpq conninfo string or URL; None means
PGSCALE_DSN, DATABASE_URL, or libpq's own environment. `table` is written as in SQL.
"""

from __future__ import annotations

from collections.abc import Callable

from pgscale.connect.dsn import resolve_dsn
from pgscale.connect.session import READER, open_session
from pgscale.core.model import Watch, ignore_progress
from pgscale.errors import RefusedError, RunFailedError
from pgscale.ledger import store
from pgscale.partition.driving import ask, begin, drive, take_back
from pgscale.partition.failures import translated
from pgscale.partition.model import Options, RunResult, RunStatus
from pgscale.partition.ownership import (
    expect,
    find_run,
    known_run,
    open_control,
    own_or_refuse,
    refuse_another,
    take_over,
    try_own,
)
from pgscale.partition.records import BEFORE_CUTOVER, result_of, status_of, stored_owner, stored_plan
from pgscale.partition.strategies import StrategyRunner, make_plan

_ENDED = {"aborting": "aborted", "finishing": "finished"}
_ENDING: dict[str, Callable[[StrategyRunner], None]] = {
    "aborting": lambda runner: runner.abort(),
    "finishing": lambda runner: runner.finish(),
}


@translated
def run(dsn: str | None, table: str, options: Options, watch: Watch = ignore_progress) -> RunResult:
    """Partition the table while it is being written; return when it is done.

    With `cutover=False` it stops before the swap and keeps applying until another process calls `cutover`.
    A run of a dead process with the same goal is taken over.

    Raises:
        RefusedError: nothing was changed; RunFailedError: stopped, resumable; MismatchError: verification
        failed, the cut-over did not happen; InterruptedRunError: Ctrl-C or another process's abort.

    Locks on the table: SHARE ROW EXCLUSIVE once, then ACCESS EXCLUSIVE once, each waiting at most
    `lock_timeout_s`, the second held at most `max_block_s`.
    """
    dsn = resolve_dsn(dsn)
    found = find_run(dsn, table)
    if found.row is not None:
        refuse_another(dsn, found, options)
        resumed = resume(dsn, table, watch, cutover=options.cutover)
        if resumed.state not in ("aborted", "undone"):
            return resumed
    with open_session(dsn, READER) as session:
        made = make_plan(session, found.oid, options)
    return begin(dsn, found, made, watch, cutover=options.cutover)


@translated
def resume(dsn: str | None, table: str, watch: Watch = ignore_progress, *, cutover: bool | None = None) -> RunResult:
    """Let a paused run go on, or take over a run whose process died.

    Args:
        cutover: as in `Options`; None keeps what the run was started with.
    """
    dsn = resolve_dsn(dsn)
    found, row = known_run(dsn, table)
    owner = try_own(dsn, found)
    if owner is None:
        with open_control(dsn, row) as session:
            store.execute(session, "set_request", run_id=row.run_id, request=None)
        return result_of(row, "running")
    with owner:
        row = take_over(owner, row)
        made = stored_plan(row)
        if row.state == "undone":
            return take_back(dsn, made, row, owner, watch, lambda r: r.undo(), "undone")
        if row.state in ("aborting", "finishing"):
            return take_back(dsn, made, row, owner, watch, _ENDING[row.state], _ENDED[row.state])
        wanted = made.options.cutover if cutover is None else cutover
        return drive(dsn, made, row.run_id, owner, watch, lambda r: r.forward(cutover=wanted))


@translated
def cutover(dsn: str | None, table: str, watch: Watch = ignore_progress) -> RunResult:
    """Order the swap of a run that was started without it; wait for it, or do it when its process died."""
    dsn = resolve_dsn(dsn)
    found, row = known_run(dsn, table)
    owner = try_own(dsn, found)
    if owner is not None:
        with owner:
            row = take_over(owner, row)
            expect(row, found, BEFORE_CUTOVER, "cut over")
            return drive(dsn, stored_plan(row), row.run_id, owner, watch, lambda r: r.forward(cutover=True))
    expect(row, found, BEFORE_CUTOVER, "cut over")
    if row.state != "ready":
        raise RefusedError(
            f"The run of {found.table} is not ready for its cut-over: it is in phase {row.phase}.",
            hint="`pgscale partition status` shows how far it is.",
        )
    return ask(dsn, row, "cutover", until=lambda r: r is not None and r.state == "cut-over")


@translated
def pause(dsn: str | None, table: str) -> RunResult:
    """Hold a live run after its present chunk; nothing is lost, changed keys keep being logged."""
    dsn = resolve_dsn(dsn)
    found, row = known_run(dsn, table)
    with open_control(dsn, row) as session:
        if not store.has_live_owner(session, row.table_oid):
            raise RefusedError(
                f"No process is working on {found.table}, so there is nothing to pause.",
                hint="`resume` takes the run over.",
            )
        store.execute(session, "set_request", run_id=row.run_id, request="pause")
    return result_of(row, "paused")


@translated
def abort(dsn: str | None, table: str, watch: Watch = ignore_progress) -> RunResult:
    """Before the cut-over: stop the run and remove every trace; the table is as it was.

    Raises:
        RefusedError: there is no run, or it is cut over (then `undo` is the way back).
    """
    dsn = resolve_dsn(dsn)
    found, row = known_run(dsn, table)
    owner = try_own(dsn, found)
    if owner is None:
        expect(row, found, BEFORE_CUTOVER | {"aborting"}, "aborted")
        try:
            ask(dsn, row, "abort", until=lambda r: r is None, give_up_after_s=120.0)
            return result_of(row, "aborted")
        except RunFailedError:
            # The owner may have died of something else meanwhile; then its run is taken over.
            owner = try_own(dsn, found)
            if owner is None:
                raise
    with owner:
        row = take_over(owner, row)
        expect(row, found, BEFORE_CUTOVER | {"aborting"}, "aborted")
        return take_back(dsn, stored_plan(row), row, owner, watch, lambda r: r.abort(), "aborted", "aborting")


@translated
def undo(dsn: str | None, table: str, watch: Watch = ignore_progress, *, max_block_s: float | None = None) -> RunResult:
    """After the cut-over: go back to the old table with every write made since, and remove the copy.

    Args:
        max_block_s: longest time the table may be locked, seconds; None keeps the run's.

    Raises:
        RefusedError: the table is not cut over; RunFailedError: rows written since break a key of the old table.

    Locks: as the cut-over's.
    """
    dsn = resolve_dsn(dsn)
    found, row = known_run(dsn, table)
    with own_or_refuse(dsn, stored_owner(row), found) as owner:
        row = take_over(owner, row)
        expect(row, found, frozenset({"cut-over", "undone"}), "undone")
        made = stored_plan(row)
        if max_block_s is not None:
            made = made.within(max_block_s)
        return take_back(dsn, made, row, owner, watch, lambda r: r.undo(), "undone")


@translated
def finish(dsn: str | None, table: str, watch: Watch = ignore_progress) -> RunResult:
    """After the cut-over: drop the retained old table and every trace of the run. There is no way back."""
    dsn = resolve_dsn(dsn)
    found, row = known_run(dsn, table)
    with own_or_refuse(dsn, stored_owner(row), found) as owner:
        row = take_over(owner, row)
        expect(row, found, frozenset({"cut-over", "finishing"}), "finished")
        made = stored_plan(row)
        done = store.done_steps(owner, row.run_id)
        if row.state == "cut-over" and any(s.kind == "settle" and s.id not in done for s in made.steps):
            raise RefusedError(
                f"Foreign keys of {found.table} are not validated yet.", hint="`resume` does that first."
            )
        return take_back(dsn, made, row, owner, watch, lambda r: r.finish(), "finished", "finishing")


@translated
def status(dsn: str | None, table: str | None = None) -> tuple[RunStatus, ...]:
    """Return the runs that the ledger knows, of one table or of all."""
    found = None if table is None else find_run(resolve_dsn(dsn), table)
    with open_session(dsn, READER) as session:
        if found is not None:
            return () if found.row is None else (status_of(session, found.row),)
        return tuple(status_of(session, row) for row in store.read_runs(session))
