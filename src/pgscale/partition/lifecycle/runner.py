"""Look after the partitions of tables: carry out the plan, each action so that it can be killed and continued."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Literal

import psycopg

from pgscale.catalog import reader as catalog
from pgscale.connect.dsn import resolve_dsn
from pgscale.connect.pooler import refuse_transaction_pooling
from pgscale.connect.session import READER, Session, open_session
from pgscale.core.killing import kill_point
from pgscale.core.model import Progress, QName, Watch, ignore_progress
from pgscale.errors import ConnectError, PermissionDeniedError, PgscaleError, RefusedError, UsageError
from pgscale.ledger import store
from pgscale.livecopy.work import execute
from pgscale.partition.lifecycle import ddl, reader
from pgscale.partition.lifecycle.attempts import CARE, Attempts
from pgscale.partition.lifecycle.checks import refuse
from pgscale.partition.lifecycle.failures import (
    busy_finding,
    failed_finding,
    first_line,
    no_file_finding,
    refused_finding,
)
from pgscale.partition.lifecycle.model import (
    Action,
    Archive,
    Create,
    CreateDefault,
    Detach,
    Done,
    Drop,
    Finalize,
    Finding,
    Forget,
    LifePlan,
    Limits,
    MaintainResult,
    MoveFromDefault,
    PartitionSet,
    RemoveDefault,
    SetResult,
    Sibling,
    describe,
    kind_of,
)
from pgscale.partition.lifecycle.plan import check_period, outline, plan_set
from pgscale.partition.lifecycle.retiring import Retiring, check_same


def maintain(
    dsn: str | None,
    sets: Sequence[PartitionSet],
    now: datetime | None = None,
    dry_run: bool = False,
    watch: Watch = ignore_progress,
    limits: Limits | None = None,
) -> MaintainResult:
    """Create partitions ahead, move what fell into DEFAULT, retire what is over its age; continue what was begun.

    One table's trouble is a finding and does not keep the others from being looked after.

    Args:
        now: aware; the server's present moment when None: a wrong clock here must not retire anything.
        dry_run: decide and show, change nothing.
        limits: what it may cost others.

    Raises:
        UsageError: a period that does not fit its column; ConnectError: no connection;
        RefusedError: a pooler in transaction mode.

    Locks: on the table SHARE UPDATE EXCLUSIVE, with a DEFAULT partition also ACCESS EXCLUSIVE on DEFAULT while it is
    scanned, and ACCESS EXCLUSIVE on the table for a detach; each waited for at most `limits.lock_timeout_s`.
    """
    if now is not None and now.tzinfo is None:
        raise UsageError("`now` has no time zone.", hint="Pass an aware datetime, such as datetime.now(UTC).")
    dsn = resolve_dsn(dsn)
    if not dry_run:
        refuse_transaction_pooling(dsn)
    moment = _check_periods(dsn, sets)
    if now is not None:
        moment = now
    bounds = limits or Limits()
    return MaintainResult(
        sets=tuple(_look_after(dsn, wanted, moment, bounds, watch, dry_run=dry_run) for wanted in sets),
        dry_run=dry_run,
    )


def _check_periods(dsn: str, sets: Sequence[PartitionSet]) -> datetime:
    """Refuse a wrong configuration as a whole, before the first table is touched; return the server's moment."""
    with open_session(dsn, READER) as session:
        moment = reader.read_moment(session)
        for wanted in sets:
            with suppress(RefusedError):
                oid, _ = catalog.find_table(session, wanted.table)
                parent = reader.read_parent(session, oid)
                if parent.strategy == "r" and parent.type_name is not None:
                    check_period(wanted, parent.type_name)
    return moment


def _look_after(
    dsn: str, wanted: PartitionSet, now: datetime, limits: Limits, watch: Watch, *, dry_run: bool
) -> SetResult:
    try:
        with open_session(dsn, READER) as session:
            oid, _ = catalog.find_table(session, wanted.table)
            parent = reader.read_parent(session, oid)
        role = parent.owner if parent.is_owner else None
        with open_session(dsn, (READER if dry_run else CARE).as_role(role)) as session:
            if not dry_run and parent.is_owner and not store.try_look_after(session, oid):
                return SetResult(table=str(parent.qname), actions=(), findings=(busy_finding(str(parent.qname)),))
            caretaker = Caretaker(dsn, session, oid, wanted, now, limits, watch)
            if dry_run:
                return caretaker.show()
            result = caretaker.run()
            # The server ends a closed session a moment later; the next call must not meet the lock until then.
            if parent.is_owner:
                store.stop_looking_after(session, oid)
            return result
    except (RefusedError, PermissionDeniedError) as error:
        return SetResult(table=wanted.table, actions=(), findings=(refused_finding(wanted.table, error),))
    except psycopg.OperationalError as error:
        if error.sqlstate not in (None, "57P01", "57P02", "57P03"):
            return SetResult(table=wanted.table, actions=(), findings=(failed_finding(wanted.table, None, error),))
        raise ConnectError(
            f"The connection was lost: {first_line(error)}.", hint="The next `maintain` continues what was begun."
        ) from error
    except psycopg.Error as error:
        return SetResult(table=wanted.table, actions=(), findings=(failed_finding(wanted.table, None, error),))


class Caretaker:
    """One call's part in the life of one table's partitions."""

    def __init__(
        self, dsn: str, session: Session, oid: int, wanted: PartitionSet, now: datetime, limits: Limits, watch: Watch
    ) -> None:
        self.session = session
        self.wanted = wanted
        self.limits = limits
        self.watch = watch
        self.facts = reader.read_facts(session, oid)
        self.plan = self._plan(now)
        self.sibling = self._read_sibling()
        self.findings = list(self.plan.findings)
        self.attempts = Attempts(dsn, session, limits)
        self.retiring = Retiring(self.attempts, self.facts.parent, watch)

    def _plan(self, now: datetime) -> LifePlan:
        refused = refuse(self.facts)
        if refused is not None:
            return LifePlan(table=str(self.facts.parent.qname), findings=(refused,))
        seen = outline(self.facts, self.wanted, now)
        obstacles = reader.read_obstacles(self.session, self.facts, seen, self.wanted, self.limits)
        return plan_set(self.facts, self.wanted, now, obstacles, self.limits)

    def _read_sibling(self) -> Sibling | None:
        """The newest partition made: new ones get its rights, storage parameters and own indexes."""
        made = [c for c in self.facts.children if c.kind == "r" and not c.is_default and not c.is_pending]
        makes = any(isinstance(a, Create | CreateDefault | MoveFromDefault) for a in self.plan.actions)
        return reader.read_sibling(self.session, max(c.oid for c in made)) if made and makes else None

    def show(self) -> SetResult:
        return self._result(tuple(self._done(a, "planned") for a in self.plan.actions))

    def run(self) -> SetResult:
        """Carry the plan out; an action that fails keeps only those of the same partition from being tried."""
        done: list[Done] = []
        failed: set[QName] = set()
        for number, action in enumerate(self.plan.actions):
            if action.leaf in failed:
                continue
            self.watch(
                Progress(
                    table=str(self.facts.parent.qname),
                    phase=kind_of(action),
                    done=number,
                    total=len(self.plan.actions),
                    unit="items",
                    note=describe(action),
                )
            )
            try:
                done.append(self._act(action))
            except psycopg.Error as error:
                if self.session.closed:
                    raise
                self._fail(action, failed_finding(str(self.facts.parent.qname), action, error), failed, done)
            except PgscaleError as error:
                self._fail(action, refused_finding(str(self.facts.parent.qname), error), failed, done)
            except OSError as error:
                self._fail(action, no_file_finding(str(self.facts.parent.qname), action, error), failed, done)
        self._tidy()
        return self._result(tuple(done))

    def _fail(self, action: Action, finding: Finding, failed: set[QName], done: list[Done]) -> None:
        failed.add(action.leaf)
        self.findings.append(finding)
        done.append(self._done(action, "failed"))

    def _done(self, action: Action, state: Literal["planned", "done", "failed"], file: str | None = None) -> Done:
        return Done(action=action, state=state, sql=ddl.statements(self.facts.parent, self.sibling, action), file=file)

    def _result(self, done: tuple[Done, ...]) -> SetResult:
        return SetResult(table=str(self.facts.parent.qname), actions=done, findings=tuple(self.findings))

    # -- actions ----------------------------------------------------------------------------------------

    def _act(self, action: Action) -> Done:
        file: str | None = None
        match action:
            case Create() | MoveFromDefault():
                action = self._create(action)
            case CreateDefault():
                self._create_default(action)
            case RemoveDefault():
                self.attempts.in_short(lambda: self._remove_default(action))
            case Finalize():
                self.retiring.finalize(action)
            case Detach():
                self.retiring.detach(action)
            case Archive():
                file = self.retiring.archive(action)
            case Drop():
                self.retiring.drop(action)
            case Forget():
                self.retiring.forget(action)
        return self._done(action, "done", file)

    def _create(self, action: Create | MoveFromDefault) -> Action:
        kill_point("maintain:before-create")
        try:
            self.attempts.in_short(lambda: self._make(action))
        except psycopg.errors.CheckViolation:
            default = self.facts.default
            if isinstance(action, MoveFromDefault) or default is None:
                raise
            # A row of the range came to DEFAULT since it was looked at.
            action = MoveFromDefault(leaf=action.leaf, low=action.low, high=action.high, default=default.qname, rows=0)
            self.attempts.in_short(lambda: self._make(action))
        kill_point("maintain:after-create")
        return action

    def _make(self, action: Create | MoveFromDefault) -> None:
        parent = self.facts.parent
        for statement in ddl.create(parent, self.sibling, action.leaf):
            execute(self.session, statement)
        if isinstance(action, MoveFromDefault):
            self._move(action)
        execute(self.session, ddl.attach(parent, action.leaf, action.low, action.high))
        self._set_replica_identity(action.leaf)
        kill_point("maintain:in-create")

    def _move(self, action: MoveFromDefault) -> None:
        """Bring the rows of the range, unseen by triggers: to the application nothing happens to them."""
        default = self.facts.default
        assert default is not None
        execute(self.session, ddl.lock_writers(action.default))
        # Asked again under the lock: both could have been added since the plan was made.
        foreign, publications = reader.read_movers(self.session, default.oid)
        if foreign or publications:
            raise RefusedError(
                f"Rows of {action.default} cannot be moved: {', '.join((*foreign, *publications))} would act on it.",
                consequence="Nothing was changed.",
            )
        triggers = reader.query(self.session, "user_triggers", oid=default.oid).fetchall()
        columns = [row[0] for row in reader.query(self.session, "stored_columns", oid=default.oid)]
        for name, _ in triggers:
            execute(self.session, ddl.disable_trigger(action.default, name))
        moved = execute(self.session, ddl.move_rows(self.facts.parent, action, columns)).rowcount
        for name, enabled in triggers:
            execute(self.session, ddl.enable_trigger(action.default, name, enabled))
        if moved > self.limits.move_rows:
            raise RefusedError(
                f"{action.default} holds {moved:,} rows of [{action.low}, {action.high}): too many at once.",
                consequence="Nothing was changed.",
                hint="Allow more with --max-move-rows when it is quiet.",
            )

    def _set_replica_identity(self, leaf: QName) -> None:
        if self.sibling is None or self.sibling.facts.table.replica_identity != "i":
            return
        row = reader.query(
            self.session,
            "identity_index_of_sibling",
            sibling=self.sibling.facts.table.oid,
            leaf=ddl.text(ddl.qualified(leaf)),
        ).fetchone()
        if row is not None:
            execute(self.session, ddl.replica_identity(leaf, row[0]))

    def _create_default(self, action: CreateDefault) -> None:
        def make() -> None:
            for statement in ddl.create(self.facts.parent, self.sibling, action.leaf):
                execute(self.session, statement)
            execute(self.session, ddl.attach_default(self.facts.parent, action.leaf))
            self._set_replica_identity(action.leaf)

        self.attempts.in_short(make)

    def _remove_default(self, action: RemoveDefault) -> None:
        execute(self.session, ddl.detach(self.facts.parent.qname, action.leaf, "plain"))
        row = execute(self.session, ddl.has_rows(action.leaf)).fetchone()
        if row is None or row[0]:
            raise RefusedError(f"{action.leaf} got rows a moment ago, so it stays.", consequence="Nothing was changed.")
        check_same(self.session, action.leaf, action.oid)
        execute(self.session, ddl.drop(action.leaf))

    def _tidy(self) -> None:
        """Leave no empty ledger behind, not even that of a call that was killed before its own tidying."""
        if self.plan.findings and refuse(self.facts) is not None:
            return
        try:
            if store.exists(self.session):
                store.drop_if_empty(self.session)
        except psycopg.errors.LockNotAvailable:
            # Somebody reads the ledger; an empty one harms nobody.
            return
