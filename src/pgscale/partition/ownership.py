"""Find a table's run and own it: one live process a run, and no run in a state that forbids what is asked."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from pgscale.catalog import reader as catalog
from pgscale.connect.pooler import refuse_transaction_pooling
from pgscale.connect.session import CONTROL, READER, Session, open_session
from pgscale.core.model import QName
from pgscale.errors import PermissionDeniedError, RefusedError
from pgscale.ledger import store
from pgscale.ledger.store import RunRow
from pgscale.livecopy.keeper import own
from pgscale.partition.model import Options
from pgscale.partition.records import BEFORE_CUTOVER, NEXT_STEP, stored_owner, stored_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A table's run, if it has one, and the names it goes by."""

    table: QName
    oid: int
    row: RunRow | None


def find_run(dsn: str, table: str) -> Found:
    """Return the table and its run, if the ledger knows one."""
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
        if not rows and store.exists(session):
            known = store.scalar(session, "find_split_by_name", schema=name.schema, name=name.name)
            rows = store.read_runs(session, int(known)) if known is not None else ()
        return Found(table=name, oid=oid, row=rows[0] if rows else None)


def known_run(dsn: str, table: str) -> tuple[Found, RunRow]:
    """Return the table and its run.

    Raises:
        RefusedError: it has none.
    """
    found = find_run(dsn, table)
    if found.row is None:
        raise RefusedError(f"{found.table} has no run.", consequence="Nothing was changed.", hint="`run` starts one.")
    return found, found.row


def take_over(owner: Session, row: RunRow) -> RunRow:
    """Now that the run is owned: wait for a dead owner's sessions, forget its requests, and read the run again."""
    store.wait_for_orphans(owner, row.table_oid)
    store.bring_up_to_date(owner)
    now = next((r for r in store.read_runs(owner) if r.run_id == row.run_id), None)
    if now is None:
        raise RefusedError("The run ended a moment ago.", consequence="Nothing was changed.")
    store.execute(owner, "set_request", run_id=row.run_id, request=None)
    return now


def expect(row: RunRow, found: Found, states: frozenset[str], what: str) -> None:
    """Refuse what cannot be done with a run in another state than these."""
    if row.state not in states:
        raise RefusedError(
            f"{found.table} cannot be {what}: its run is in state {row.state}.",
            consequence="Nothing was changed.",
            hint=f"What can be done: {NEXT_STEP.get(row.state, '`status`')}.",
        )


def refuse_another(dsn: str, found: Found, options: Options) -> None:
    """Refuse to start a run where there is one that is done, alive, or has another goal."""
    row = found.row
    assert row is not None
    if row.state == "cut-over":
        raise RefusedError(
            f"{found.table} is partitioned already, by run {row.run_id}.",
            consequence="Nothing was changed.",
            hint="`finish` ends the way back, `undo` takes it.",
        )
    with open_session(dsn, READER) as session:
        if store.has_live_owner(session, row.table_oid):
            raise RefusedError(
                f"{found.table} is being partitioned right now by run {row.run_id} (server process {row.owner_pid}).",
                consequence="Nothing was changed.",
                hint="`status` shows it; `pause`, `resume`, `cutover` and `abort` steer it.",
            )
    if row.state in BEFORE_CUTOVER and not stored_plan(row).options.same_goal(options):
        raise RefusedError(
            f"{found.table} has an unfinished run {row.run_id} with another goal ({stored_plan(row).options.by}).",
            consequence="Nothing was changed.",
            hint="`resume` goes on with it, `abort` removes it.",
        )


def open_control(dsn: str, row: RunRow) -> Session:
    """Open a session that writes the run's row in the ledger, as the role that made it."""
    return open_session(dsn, CONTROL.as_role(stored_owner(row)))


def try_own(dsn: str, found: Found) -> Session | None:
    """Return the session that owns the run from now on, or None when another live process does."""
    assert found.row is not None
    refuse_transaction_pooling(dsn)
    return own(dsn, stored_owner(found.row), found.row.table_oid)


def own_or_refuse(dsn: str, role: str, found: Found) -> Session:
    """Return the session that owns the table's run from now on.

    Raises:
        RefusedError: another live process does.
    """
    oid = found.oid if found.row is None else found.row.table_oid
    session = own(dsn, role, oid)
    if session is None:
        raise RefusedError(
            f"Another live process is working on {found.table}.",
            consequence="Nothing was changed.",
            hint="`status` shows it; `pause`, `resume`, `cutover` and `abort` steer it.",
        )
    return session
