"""Divide a partition while it is being written: plan it, do it. What follows is as with any run (partition.actions)."""

from __future__ import annotations

from pgscale.catalog import reader as catalog
from pgscale.connect.dsn import resolve_dsn
from pgscale.connect.session import READER, open_session
from pgscale.core.model import Watch, ignore_progress
from pgscale.errors import RefusedError
from pgscale.ledger import store
from pgscale.ledger.store import RunRow
from pgscale.partition.actions import resume
from pgscale.partition.driving import begin
from pgscale.partition.failures import translated
from pgscale.partition.model import RunResult
from pgscale.partition.ownership import Found, find_run
from pgscale.partition.records import BEFORE_CUTOVER, stored_plan
from pgscale.partition.splitting.model import SplitOptions, SplitPlan
from pgscale.partition.splitting.survey import plan_split


@translated
def look(dsn: str | None, table: str, options: SplitOptions) -> SplitPlan:
    """Return the whole split as data; changes nothing and takes no lock but ACCESS SHARE.

    Raises:
        UsageError: a wrong argument; RefusedError: what cannot be done, every reason named;
        ConnectError, PermissionDeniedError.
    """
    with open_session(dsn, READER) as session:
        oid, _ = catalog.find_table(session, table)
        return plan_split(session, oid, options)


@translated
def split(dsn: str | None, table: str, options: SplitOptions, watch: Watch = ignore_progress) -> RunResult:
    """Divide one big partition into proper ones while it is being written; return when it is done.

    With `cutover=False` it stops before the exchange and keeps applying until another process calls `cutover`.
    A split of a dead process with the same goal is taken over.

    Args:
        table: the partitioned table, or the partition itself.

    Raises:
        RefusedError: nothing was changed; RunFailedError: stopped, resumable; MismatchError: verification
        failed, the cut-over did not happen; InterruptedRunError: Ctrl-C or another process's abort.

    Locks on the table and the partition: SHARE ROW EXCLUSIVE once, then ACCESS EXCLUSIVE once, each waiting at most
    `lock_timeout_s`, the second held at most `max_block_s`; the same on a DEFAULT partition beside it, once more.
    """
    dsn = resolve_dsn(dsn)
    found = find_run(dsn, table)
    if found.row is not None:
        _refuse_another(dsn, found, found.row, options)
        resumed = resume(dsn, table, watch, cutover=options.cutover)
        if resumed.state not in ("aborted", "undone"):
            return resumed
    made = look(dsn, table, options)
    # The run is the partition's; its parent must not be in another at the same time.
    leaf = Found(table=made.table, oid=made.table_oid, row=None)
    return begin(dsn, leaf, made, watch, cutover=options.cutover, also=(made.parent_oid,))


def _refuse_another(dsn: str, found: Found, row: RunRow, options: SplitOptions) -> None:
    """Refuse to start a split where there is a run that is done, alive, or has another goal."""
    made = stored_plan(row)
    about = f"{made.table}, by run {row.run_id}"
    if row.state == "cut-over":
        raise RefusedError(
            f"{found.table} has a run that is done but not finished, of {about}.",
            consequence="Nothing was changed.",
            hint="`finish` drops what is retained; `undo` goes back to it.",
        )
    with open_session(dsn, READER) as session:
        if store.has_live_owner(session, row.table_oid):
            raise RefusedError(
                f"{found.table} is being worked on right now, of {about} (server process {row.owner_pid}).",
                consequence="Nothing was changed.",
                hint="`status` shows it; `pause`, `resume`, `cutover` and `abort` steer it.",
            )
    same = isinstance(made, SplitPlan) and made.asked.same_goal(options)
    if row.state in BEFORE_CUTOVER and not same:
        raise RefusedError(
            f"{found.table} has an unfinished run with another goal, of {about} ({made.options.by}).",
            consequence="Nothing was changed.",
            hint="`resume` goes on with it, `abort` removes it.",
        )
