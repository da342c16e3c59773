"""Partition a live table: plan, run, and everything one may want of a run afterwards.

Each function opens its own sessions and closes them. `dsn` is a libpq conninfo string or URL; None means
PGSCALE_DSN, DATABASE_URL, or libpq's own environment. `table` is written as in SQL.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import cattrs
import psycopg

from pgscale.catalog import reader as catalog
from pgscale.catalog.model import TableFacts
from pgscale.connect.dsn import redact, resolve_dsn
from pgscale.connect.pooler import refuse_transaction_pooling
from pgscale.connect.session import CONTROL, READER, Session, open_session
from pgscale.core.model import QName, Watch, ignore_progress
from pgscale.errors import (
    ConnectError,
    InterruptedRunError,
    PermissionDeniedError,
    PgscaleError,
    RefusedError,
    RunFailedError,
)
from pgscale.ledger import store
from pgscale.ledger.store import RunRow
from pgscale.livecopy import ddl
from pgscale.livecopy.keeper import own
from pgscale.livecopy.work import execute
from pgscale.partition import bounds, reader, skew
from pgscale.partition.model import Leaf, MirrorPlan, Options, RunResult, RunStatus, Skew
from pgscale.partition.plan import check_request, make_leaves, make_plan
from pgscale.partition.runner import Runner, kill_point

_CONVERTER = cattrs.Converter(forbid_extra_keys=True)
_ENDED = {"aborting": "aborted", "finishing": "finished"}
_BEFORE_CUTOVER = frozenset({"running", "ready"})


P = ParamSpec("P")
T = TypeVar("T")


def _translated(action: Callable[P, T]) -> Callable[P, T]:
    """Let no database error leave the room as it is: each becomes one of ours, with what to do."""

    @functools.wraps(action)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return action(*args, **kwargs)
        except psycopg.Error as error:
            raise _translate(error) from error

    return wrapper


def _translate(error: psycopg.Error) -> PgscaleError:
    first = redact(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
    if error.sqlstate == "42501":
        return PermissionDeniedError(
            f"The role lacks a right: {first}.",
            hint="Connect as the table's owner; the owner of schema pgscale can grant its rights.",
        )
    if error.sqlstate in ("55P03", "57014"):
        return RefusedError(
            f"Another session holds a lock that this needs: {first}.",
            consequence="Nothing was changed.",
            hint="Try again when it has ended.",
        )
    if error.sqlstate == "25006":
        return RefusedError(
            "The server is read-only: a standby, or default_transaction_read_only.",
            consequence="Nothing was changed.",
            hint="Connect to the primary.",
        )
    if isinstance(error, psycopg.OperationalError) and error.sqlstate in (None, "57P01", "57P02", "57P03"):
        return ConnectError(f"The connection was lost: {first}.", hint="`status` shows how the run stands.")
    return RunFailedError(f"The database reported: {first}.", hint="`status` shows how the run stands.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A table's run, if it has one, and the names it goes by."""

    table: QName
    oid: int
    row: RunRow | None


@_translated
def plan(dsn: str | None, table: str, options: Options) -> MirrorPlan:
    """Return the whole run as data; changes nothing and takes no lock but ACCESS SHARE.

    Raises:
        UsageError: a wrong argument; RefusedError: what cannot be carried, every reason named;
        ConnectError, PermissionDeniedError.
    """
    with open_session(dsn, READER) as session:
        oid, _ = catalog.find_table(session, table)
        return _plan(session, oid, options)


@_translated
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
    found = _find(dsn, table)
    if found.row is not None:
        _refuse_another(dsn, found, options)
        resumed = resume(dsn, table, watch, cutover=options.cutover)
        if resumed.state not in ("aborted", "undone"):
            return resumed
    with open_session(dsn, READER) as session:
        made = _plan(session, found.oid, options)
    refuse_transaction_pooling(dsn)
    owner = _own(dsn, made.owner, found)
    with owner:
        with owner.transaction():
            store.lock_ledger(owner)
            store.create(owner)
            kill_point("before:ledger")
            if store.read_runs(owner, made.table_oid):
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
                    plan=json.dumps(_CONVERTER.unstructure(made)),
                )
            )
        kill_point("after:ledger")
        return _drive(dsn, made, run_id, owner, watch, lambda r: r.forward(cutover=options.cutover))


@_translated
def resume(dsn: str | None, table: str, watch: Watch = ignore_progress, *, cutover: bool | None = None) -> RunResult:
    """Let a paused run go on, or take over a run whose process died.

    Args:
        cutover: as in `Options`; None keeps what the run was started with.
    """
    dsn = resolve_dsn(dsn)
    found, row = _known(dsn, table)
    owner = _try_own(dsn, found)
    if owner is None:
        with _control(dsn, row) as session:
            store.execute(session, "set_request", run_id=row.run_id, request=None)
        return _result(row, "running")
    with owner:
        row = _take_over(owner, row)
        made = _stored(row)
        if row.state == "undone":
            return _take_back(dsn, made, row, owner, watch, Runner.undo, "undone")
        if row.state in ("aborting", "finishing"):
            act = Runner.abort if row.state == "aborting" else Runner.finish
            return _take_back(dsn, made, row, owner, watch, act, _ENDED[row.state])
        wanted = made.options.cutover if cutover is None else cutover
        return _drive(dsn, made, row.run_id, owner, watch, lambda r: r.forward(cutover=wanted))


@_translated
def cutover(dsn: str | None, table: str, watch: Watch = ignore_progress) -> RunResult:
    """Order the swap of a run that was started without it; wait for it, or do it when its process died."""
    dsn = resolve_dsn(dsn)
    found, row = _known(dsn, table)
    owner = _try_own(dsn, found)
    if owner is not None:
        with owner:
            row = _take_over(owner, row)
            _expect(row, found, _BEFORE_CUTOVER, "cut over")
            return _drive(dsn, _stored(row), row.run_id, owner, watch, lambda r: r.forward(cutover=True))
    _expect(row, found, _BEFORE_CUTOVER, "cut over")
    if row.state != "ready":
        raise RefusedError(
            f"The run of {found.table} is not ready for its cut-over: it is in phase {row.phase}.",
            hint="`pgscale partition status` shows how far it is.",
        )
    return _ask(dsn, row, "cutover", until=lambda r: r is not None and r.state == "cut-over")


@_translated
def pause(dsn: str | None, table: str) -> RunResult:
    """Hold a live run after its present chunk; nothing is lost, changed keys keep being logged."""
    dsn = resolve_dsn(dsn)
    found, row = _known(dsn, table)
    with _control(dsn, row) as session:
        if not store.has_live_owner(session, row.table_oid):
            raise RefusedError(
                f"No process is working on {found.table}, so there is nothing to pause.",
                hint="`resume` takes the run over.",
            )
        store.execute(session, "set_request", run_id=row.run_id, request="pause")
    return _result(row, "paused")


@_translated
def abort(dsn: str | None, table: str, watch: Watch = ignore_progress) -> RunResult:
    """Before the cut-over: stop the run and remove every trace; the table is as it was.

    Raises:
        RefusedError: there is no run, or it is cut over (then `undo` is the way back).
    """
    dsn = resolve_dsn(dsn)
    found, row = _known(dsn, table)
    owner = _try_own(dsn, found)
    if owner is None:
        _expect(row, found, _BEFORE_CUTOVER | {"aborting"}, "aborted")
        try:
            _ask(dsn, row, "abort", until=lambda r: r is None, give_up_after_s=120.0)
            return _result(row, "aborted")
        except RunFailedError:
            # The owner may have died of something else meanwhile; then its run is taken over.
            owner = _try_own(dsn, found)
            if owner is None:
                raise
    with owner:
        row = _take_over(owner, row)
        _expect(row, found, _BEFORE_CUTOVER | {"aborting"}, "aborted")
        return _take_back(dsn, _stored(row), row, owner, watch, Runner.abort, "aborted", "aborting")


@_translated
def undo(dsn: str | None, table: str, watch: Watch = ignore_progress) -> RunResult:
    """After the cut-over: go back to the old table with every write made since, and remove the copy.

    Raises:
        RefusedError: the table is not cut over; RunFailedError: rows written since break a key of the old table.

    Locks: as the cut-over's.
    """
    dsn = resolve_dsn(dsn)
    found, row = _known(dsn, table)
    with _own(dsn, _role(row), found) as owner:
        row = _take_over(owner, row)
        _expect(row, found, frozenset({"cut-over", "undone"}), "undone")
        return _take_back(dsn, _stored(row), row, owner, watch, Runner.undo, "undone")


@_translated
def finish(dsn: str | None, table: str, watch: Watch = ignore_progress) -> RunResult:
    """After the cut-over: drop the retained old table and every trace of the run. There is no way back."""
    dsn = resolve_dsn(dsn)
    found, row = _known(dsn, table)
    with _own(dsn, _role(row), found) as owner:
        row = _take_over(owner, row)
        _expect(row, found, frozenset({"cut-over", "finishing"}), "finished")
        made = _stored(row)
        done = store.done_steps(owner, row.run_id)
        if row.state == "cut-over" and any(s.kind == "settle" and s.id not in done for s in made.steps):
            raise RefusedError(
                f"Foreign keys of {found.table} are not validated yet.", hint="`resume` does that first."
            )
        return _take_back(dsn, made, row, owner, watch, Runner.finish, "finished", "finishing")


@_translated
def status(dsn: str | None, table: str | None = None) -> tuple[RunStatus, ...]:
    """Return the runs that the ledger knows, of one table or of all."""
    with open_session(dsn, READER) as session:
        oid = None if table is None else catalog.find_table(session, table)[0]
        return tuple(_status(session, row) for row in store.read_runs(session, oid))


# -- inside ---------------------------------------------------------------------------------------------


def _plan(session: Session, oid: int, options: Options) -> MirrorPlan:
    by = bounds.parse_by(options.by)
    facts = catalog.read_table(session, oid)
    keys = check_request(facts, by, options)
    _check_rights(facts)
    found = reader.read_key_values(session, facts, by)
    leaves = make_leaves(facts, by, options, found)
    _check_lock_table(session, facts, leaves)
    statistics = catalog.read_column_statistics(session, facts.table.qname, keys.identity[0].name)
    return make_plan(
        facts,
        by,
        options,
        keys,
        found,
        _skew(session, facts, by, leaves),
        key_correlation=statistics.correlation if statistics else None,
    )


def _check_rights(facts: TableFacts) -> None:
    table = facts.table
    if not table.is_owner:
        raise PermissionDeniedError(
            f"{table.qname} belongs to {table.owner}, and this login is not a member of that role.",
            consequence="Nothing was changed.",
            hint=f"Connect as {table.owner}, or GRANT {table.owner} TO this login.",
        )
    missing: list[str] = []
    if not table.owner_may_create_schema:
        missing.append(f"GRANT CREATE, TEMPORARY ON DATABASE … TO {table.owner}")
    elif not table.owner_may_create_temp:
        missing.append(f"GRANT TEMPORARY ON DATABASE … TO {table.owner}")
    if not table.owner_may_create_in_schema:
        missing.append(f"GRANT CREATE ON SCHEMA {table.schema} TO {table.owner}")
    if missing:
        raise PermissionDeniedError(
            f"The owner {table.owner} may not create what a run needs.",
            consequence="Nothing was changed.",
            hint="; ".join(missing) + ".",
        )


def _check_lock_table(session: Session, facts: TableFacts, leaves: tuple[Leaf, ...]) -> None:
    """Every leaf, its TOAST table and its indexes are locked in one transaction when the copy is made or dropped."""
    row = session.execute(
        "SELECT pg_catalog.current_setting('max_locks_per_transaction')::int8 *"
        " (pg_catalog.current_setting('max_connections')::int8"
        " + pg_catalog.current_setting('max_prepared_transactions')::int8)"
    ).fetchone()
    room = int(row[0]) if row else 0
    needed = len(leaves) * (3 + len(facts.indexes))
    if needed > room * 0.6:
        raise RefusedError(
            f"{len(leaves)} partitions need some {needed:,} locks at once; the server has room for {room:,}.",
            consequence="Nothing was changed.",
            hint="Make fewer partitions, or raise max_locks_per_transaction (needs a restart).",
        )


def _skew(session: Session, facts: TableFacts, by: bounds.By, leaves: tuple[Leaf, ...]) -> Skew | None:
    if len(by.columns) != 1:
        return None
    column = facts.column(by.columns[0])
    statistics = catalog.read_column_statistics(session, facts.table.qname, by.columns[0])
    rows = round(facts.table.reltuples)
    if column is None or statistics is None or rows <= 0:
        return None
    if by.method == "list":
        return skew.list_skew(leaves, rows, statistics)
    if by.method == "range":
        histogram = catalog.read_histogram(session, facts.table.qname, by.columns[0])
        return skew.range_skew(leaves, rows, histogram, statistics)
    remainders = reader.hash_remainders(session, column.type, statistics.values or [], len(leaves))
    return None if remainders is None else skew.hash_skew(leaves, rows, statistics, remainders)


def _find(dsn: str, table: str) -> _Found:
    with open_session(dsn, READER) as session:
        try:
            oid, name = catalog.find_table(session, table)
        except RefusedError:
            # The table may have been dropped under its run, which must still be possible to take back.
            known = store.scalar(session, "find_run_by_name", name=table) if store.exists(session) else None
            if known is None:
                raise
            oid = int(known)
            row = store.read_runs(session, oid)[0]
            name = QName(schema=row.table_schema, name=row.table_name)
        try:
            rows = store.read_runs(session, oid)
        except psycopg.errors.InsufficientPrivilege as error:
            raise PermissionDeniedError(
                f"The ledger (schema pgscale) cannot be read: {str(error).splitlines()[0]}.",
                consequence="Nothing was changed.",
                hint="Let the owner of schema pgscale grant its rights to this role.",
            ) from None
        return _Found(table=name, oid=oid, row=rows[0] if rows else None)


def _known(dsn: str, table: str) -> tuple[_Found, RunRow]:
    found = _find(dsn, table)
    if found.row is None:
        raise RefusedError(f"{found.table} has no run.", consequence="Nothing was changed.", hint="`run` starts one.")
    return found, found.row


def _take_over(owner: Session, row: RunRow) -> RunRow:
    """Now that the run is owned: wait for a dead owner's sessions, forget its requests, and read the run again."""
    store.wait_for_orphans(owner, row.table_oid)
    now = next((r for r in store.read_runs(owner) if r.run_id == row.run_id), None)
    if now is None:
        raise RefusedError("The run ended a moment ago.", consequence="Nothing was changed.")
    store.execute(owner, "set_request", run_id=row.run_id, request=None)
    return now


def _expect(row: RunRow, found: _Found, states: frozenset[str], what: str) -> None:
    if row.state not in states:
        raise RefusedError(
            f"{found.table} cannot be {what}: its run is in state {row.state}.",
            consequence="Nothing was changed.",
            hint=f"What can be done: {_NEXT.get(row.state, '`status`')}.",
        )


def _refuse_another(dsn: str, found: _Found, options: Options) -> None:
    row = found.row
    assert row is not None
    if row.state == "cut-over":
        raise RefusedError(
            f"{found.table} is partitioned already, by run {row.run_id}.",
            consequence="Nothing was changed.",
            hint="`finish` drops the retained old table; `undo` goes back to it.",
        )
    with open_session(dsn, READER) as session:
        if store.has_live_owner(session, row.table_oid):
            raise RefusedError(
                f"{found.table} is being partitioned right now by run {row.run_id} (server process {row.owner_pid}).",
                consequence="Nothing was changed.",
                hint="`status` shows it; `pause`, `resume`, `cutover` and `abort` steer it.",
            )
    if row.state in _BEFORE_CUTOVER and not _stored(row).options.same_goal(options):
        raise RefusedError(
            f"{found.table} has an unfinished run {row.run_id} with another goal ({_stored(row).options.by}).",
            consequence="Nothing was changed.",
            hint="`resume` goes on with it, `abort` removes it.",
        )


def _stored(row: RunRow) -> MirrorPlan:
    return _CONVERTER.structure(json.loads(row.plan), MirrorPlan)


def _role(row: RunRow) -> str:
    return str(json.loads(row.plan)["owner"])


def _control(dsn: str, row: RunRow) -> Session:
    return open_session(dsn, CONTROL.as_role(_role(row)))


def _try_own(dsn: str, found: _Found) -> Session | None:
    assert found.row is not None
    refuse_transaction_pooling(dsn)
    return own(dsn, _role(found.row), found.row.table_oid)


def _own(dsn: str, role: str, found: _Found) -> Session:
    oid = found.oid if found.row is None else found.row.table_oid
    session = own(dsn, role, oid)
    if session is None:
        raise RefusedError(
            f"Another live process is working on {found.table}.",
            consequence="Nothing was changed.",
            hint="`status` shows it; `pause`, `resume`, `cutover` and `abort` steer it.",
        )
    return session


def _drive(
    dsn: str,
    made: MirrorPlan,
    run_id: int,
    owner: Session,
    watch: Watch,
    act: Callable[[Runner], None],
) -> RunResult:
    runner = Runner(dsn, made, run_id, owner, watch)
    try:
        act(runner)
    except (PgscaleError, psycopg.Error):
        # What an abort cancels fails in many ways; whatever it was, the table is to be as it was.
        if not runner.keeper.wants_abort.is_set():
            raise
        store.wait_for_orphans(owner, made.table_oid)
        row = _row(owner, run_id)
        if row.state not in _BEFORE_CUTOVER:
            raise
        _take_back(dsn, made, row, owner, watch, Runner.abort, "aborted", "aborting")
        raise InterruptedRunError(
            f"The run of {made.table} was aborted by another process.", consequence="The table is as it was."
        ) from None
    row = _row(owner, run_id)
    return _result(row, row.state, made)


def _take_back(
    dsn: str,
    made: MirrorPlan,
    row: RunRow,
    owner: Session,
    watch: Watch,
    act: Callable[[Runner], None],
    end_state: str,
    state: str | None = None,
) -> RunResult:
    if state is not None:
        store.execute(owner, "set_state", run_id=row.run_id, state=state, note="")
    act(Runner(dsn, made, row.run_id, owner, watch))
    last = _row(owner, row.run_id)
    with owner.transaction():
        store.execute(owner, "delete_run", run_id=row.run_id)
    store.drop_if_empty(owner)
    return _result(last, end_state)


def _row(session: Session, run_id: int) -> RunRow:
    return next(r for r in store.read_runs(session) if r.run_id == run_id)


def _ask(
    dsn: str,
    row: RunRow,
    request: str,
    *,
    until: Callable[[RunRow | None], bool],
    give_up_after_s: float = 3600.0,
) -> RunResult:
    """Leave a request for the live owner and wait until it is carried out."""
    end = time.monotonic() + give_up_after_s
    with _control(dsn, row) as session:
        store.execute(session, "set_request", run_id=row.run_id, request=request)
        while True:
            now = next((r for r in store.read_runs(session) if r.run_id == row.run_id), None)
            if until(now):
                return _result(now or row, now.state if now else "aborted", _stored(row))
            if time.monotonic() > end or (now is None) or not store.has_live_owner(session, row.table_oid):
                raise RunFailedError(
                    f"The process that owns the run did not carry out the {request}.",
                    consequence="The table is unharmed.",
                    hint="Look at `status`; `resume` takes over a run whose process died.",
                )
            threading.Event().wait(0.2)


def _result(row: RunRow, state: str, made: MirrorPlan | None = None) -> RunResult:
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
        retained_table=str(made.retained) if made is not None and state == "cut-over" else None,
    )


_NEXT = {
    "running": "wait, or `pause`, `abort`",
    "ready": "`cutover`, or `abort`",
    "cut-over": "`finish` drops the retained table; `undo` goes back",
    "undone": "`resume` finishes the undo",
    "aborting": "`resume` finishes the abort",
    "finishing": "`resume` finishes it",
}


def _status(session: Session, row: RunRow) -> RunStatus:
    made = _stored(row)
    live = store.has_live_owner(session, row.table_oid)
    pages = store.read_chunks(session, row.run_id, "pages")
    copied = store.read_chunks(session, row.run_id, "copy")
    backlog = 0
    pair = made.reverse if row.state == "cut-over" else made.forward
    try:
        got = execute(session, ddl.pages_of(pair.log)).fetchone()
        backlog = int(got[0]) * 8192 if got else 0
    except psycopg.Error:
        # Not made yet, or of a role whose schema this login may not look into.
        backlog = 0
    state = "paused" if live and row.request == "pause" else row.state
    step = _NEXT.get(row.state, "")
    if not live and row.state in ("running", "ready"):
        step = "no process works on it: `resume` takes it over, `abort` takes it back"
    return RunStatus(
        result=_result(row, state, made),
        phase=row.phase,
        note=row.note,
        is_live=live,
        pages_copied=sum(last - first for first, last, _ in copied),
        pages_total=pages[0][1] if pages else 0,
        backlog_bytes=backlog,
        next_step=step,
    )
