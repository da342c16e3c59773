"""Execute an AttachPlan step by step; every step can be killed before, inside and after, and run again."""

from __future__ import annotations

import time
from functools import partial

import psycopg

from pgscale.connect.session import CONTROL, WORKER, Session
from pgscale.core.killing import kill_point
from pgscale.core.model import QName, Step, Watch
from pgscale.errors import RunFailedError
from pgscale.ledger import store
from pgscale.livecopy import ddl
from pgscale.livecopy.cutover import CutOver, GiveUpError, Limits, old_snapshots, raise_if_late
from pgscale.livecopy.sampler import HoldLimits, Sampler
from pgscale.livecopy.work import execute
from pgscale.partition.attach.attempts import Attempts
from pgscale.partition.attach.model import CHECK_NAME, AttachPlan, IndexBuild
from pgscale.partition.attach.patience import through_deadlocks
from pgscale.partition.attach.survey import QUERIES
from pgscale.partition.running import RunBase

# Rows that came to later partitions are moved back under the lock; more attempts than this would not make it shorter.
MOST_LATE = 3


class AttachRunner(RunBase[AttachPlan]):
    """One process's part in one attach. The caller owns the run's advisory lock through `owner`."""

    def __init__(self, dsn: str, plan: AttachPlan, run_id: int, owner: Session, watch: Watch) -> None:
        super().__init__(dsn, plan, run_id, owner, watch)
        options = plan.options
        self.limits = Limits(max_block_s=options.max_block_s, lock_timeout_s=options.lock_timeout_s)

    # -- the ways through -------------------------------------------------------------------------------

    def forward(self, *, cutover: bool) -> None:
        """Carry out every step that the ledger does not have as done.

        Args:
            cutover: False stops before the CHECK is added, until another process asks for the cut-over.

        Raises:
            RunFailedError: resumable; InterruptedRunError: stopped.
        """
        with self._kept(), Sampler(self.work, HoldLimits(replica_lag_s=self.plan.options.max_replica_lag_s)):
            with self.work.session(CONTROL) as session:
                done = store.done_steps(session, self.work.run_id)
            self.work.throttle.listen(self.work.stop)
            for step in self.plan.steps:
                if step.id in done or step.kind == "settle":
                    continue
                if step.kind == "check" and not cutover:
                    # Before the CHECK is on the table: until then nothing the application writes is refused.
                    self._wait_for_order("prepared")
                self.work.check()
                kill_point(f"before:{step.id}")
                self._do(step)
                kill_point(f"after:{step.id}")
            self._settle([s for s in self.plan.steps if s.kind == "settle" and s.id not in done])
            self._remember_new_table()
            self._phase("done")

    def undo(self) -> None:
        """Give the table its name back, with the rows that came to other partitions; then remove every trace.

        Raises:
            RunFailedError: rows written since the cut-over break an old key, are too many to be moved within
            --max-block, or the table's definition was changed.
        """
        statements = self.plan.statements
        with self._kept():
            with self.work.session(CONTROL) as session:
                done = store.done_steps(session, self.work.run_id)
            if "undo" not in done:
                self._build_back()
                self._phase("cutover")
                kill_point("before:undo")
                attempts = Attempts(
                    self.work, self.limits, f"The way back of {self.plan.table}", statements.calm, most_late=MOST_LATE
                )
                tried = [0]
                try:
                    attempts.run(lambda session, deadline: self._swap_back(session, deadline, tried))
                except psycopg.errors.UniqueViolation as error:
                    raise self._old_key_broken(error) from error
                kill_point("after:undo")
            self._settle_statements(statements.back_settle, "undo_settle", done)
            self._wait_for_older_transactions()
            self._locked((statements.unguard,), "drop the guard")
            self._locked(statements.drop_new, "drop the partitioned table")

    def abort(self) -> None:
        """Before the cut-over: take the CHECK, the built keys and the new parent away; the table is as it was."""
        with self._kept():
            self._locked((self.plan.statements.drop_check,), "drop the CHECK")
            self._drop_indexes(self.plan.keys)
            self._locked(self.plan.statements.drop_new, "drop the new parent")

    def finish(self) -> None:
        """After the cut-over: remove what the way back needs. There is no way back from here."""
        with self._kept():
            self._drop_indexes(self.plan.back)
            self._locked(self.plan.statements.finish, "drop what was kept for undo")

    # -- steps ------------------------------------------------------------------------------------------

    def _do(self, step: Step) -> None:
        match step.kind:
            case "sql":
                self._phase("prepare", step.title)
                self._in_one_transaction(step)
            case "locked":
                self._phase("prepare", step.title)
                self._in_one_transaction(step, locked=True)
            case "probe":
                self._phase("prepare", step.title)
                self._probe(step)
            case "key":
                self._phase("index", step.title)
                built = next(b for b in self.plan.keys if step.sql == (b.create,))
                self._build_index(built, step.id)
            case "check":
                # Held here, before the CHECK: from then on until the swap rows outside the bound are refused.
                self.work.throttle.wait(self.work.stop)
                self.work.check()
                self._phase("check", step.title)
                self._refuse_late()
                self._in_one_transaction(step, locked=True)
            case "validate":
                self._phase("validate", step.title)
                self._validate(step)
            case _:
                self._phase("cutover")
                attempts = Attempts(
                    self.work, self.limits, f"The cut-over of {self.plan.table}", self.plan.statements.calm
                )
                attempts.run(self._swap)

    def _probe(self, step: Step) -> None:
        """Raise when ATTACH PARTITION would read the rows of a table with this CHECK.

        Raises:
            RunFailedError: it would; nothing but the empty parent was made.
        """
        with self.work.session(WORKER) as session:
            with session.transaction(force_rollback=True):
                for statement in step.sql:
                    execute(session, statement)
                row = self._query(session, "scans", name=_text(self.plan.statements.probe_name)).fetchone()
            # Where the server counts nothing, the time limit of the swap is what protects.
            if row is not None and row[1] and row[0]:
                raise RunFailedError(
                    f"PostgreSQL cannot derive the bound of {self.plan.first} from its CHECK, so attaching would read"
                    " every row under the lock.",
                    consequence="The table is unharmed.",
                    hint="`pgscale partition abort`, then use --strategy mirror.",
                )
            self._mark_durably(session, step.id)

    def _build_index(self, built: IndexBuild, mark: str) -> None:
        """Build an index concurrently; what a killed build left is dropped first."""
        started = time.monotonic()
        self.work.throttle.wait(self.work.stop)
        self.work.check()
        with self.work.session(WORKER) as session:
            # It waits for older transactions, whatever they take; nobody but other DDL queues behind it.
            session.execute("SET lock_timeout = 0")

            def build() -> None:
                row = self._query(session, "index_state", name=_text(built.name)).fetchone()
                if row is None or not row[0]:
                    execute(session, built.drop)
                    execute(session, built.create)

            through_deadlocks(self.work, build)
            self._mark_durably(session, mark, took_s=time.monotonic() - started)

    def _drop_indexes(self, builds: tuple[IndexBuild, ...]) -> None:
        with self.work.session(WORKER) as session:
            session.execute("SET lock_timeout = 0")
            for built in builds:
                through_deadlocks(self.work, partial(execute, session, built.drop))

    def _refuse_late(self) -> None:
        """Raise when the bound has come so near that the CHECK would soon refuse rows of the present.

        Raises:
            RunFailedError: it has.
        """
        until = self.plan.bound.safe_until
        if until is None:
            return
        with self.work.session(CONTROL) as session:
            row = self._query(session, "is_past", moment=until).fetchone()
        if row is not None and row[0]:
            raise RunFailedError(
                f"The bound of {self.plan.first} ({self.plan.bound.shown}) has come too near.",
                consequence="Its CHECK would soon refuse rows of the present, so it was not added.",
                hint="`pgscale partition abort`, then run again: the bound is chosen anew.",
            )

    def _validate(self, step: Step) -> None:
        self.work.throttle.wait(self.work.stop)
        self.work.check()
        try:
            # Waits longer than other steps: nobody but DDL queues behind it, and only then autovacuum gives way.
            self._in_one_transaction(step)
        except psycopg.errors.CheckViolation as error:
            self._locked((self.plan.statements.drop_check,), "drop the CHECK")
            with self.work.session(CONTROL) as session:
                store.execute(session, "unmark_step", run_id=self.work.run_id, step_id="check")
            raise RunFailedError(
                f"Rows came to {self.plan.table} that the bound planned for {self.plan.first} does not take"
                f" ({self.plan.bound.shown}).",
                consequence="The CHECK was taken back; the table is unharmed.",
                hint="`pgscale partition abort`, then run again: the bound is chosen anew.",
            ) from error

    # -- the swaps --------------------------------------------------------------------------------------

    def _swap(self, session: Session, deadline: float) -> None:
        execute(session, self.plan.statements.lock)
        raise_if_late(deadline)
        self._check_definition(session, self.plan.fingerprint)
        self._check_proofs(session)
        for statement in self.plan.statements.swap:
            raise_if_late(deadline)
            execute(session, statement)
        self._mark_cutover(session)
        raise_if_late(deadline)

    def _check_proofs(self, session: Session) -> None:
        """Raise when what was built and proven before the swap is there no more: it would be done under the lock."""
        row = self._query(session, "check_state", oid=self.plan.table_oid, name=CHECK_NAME).fetchone()
        missing = [] if row is not None and row[0] else [f"constraint {CHECK_NAME}"]
        for built in self.plan.keys:
            row = self._query(session, "index_state", name=_text(built.name)).fetchone()
            missing += [] if row is not None and row[0] else [f"index {built.name.name}"]
        if missing:
            raise RunFailedError(
                f"Somebody dropped what the run put on {self.plan.table}: {', '.join(missing)}.",
                consequence="The table is unharmed.",
                hint="`pgscale partition abort`, then run again.",
            )

    def _build_back(self) -> None:
        for number, built in enumerate(self.plan.back):
            self._phase("index", f"Build {built.of} as it was")
            try:
                self._build_index(built, f"back:{number}")
            except psycopg.errors.UniqueViolation as error:
                raise self._old_key_broken(error) from error

    def _old_key_broken(self, error: psycopg.Error) -> RunFailedError:
        return RunFailedError(
            f"{self.plan.table} cannot go back: rows written since the cut-over break a key of the old table"
            f" ({str(error).splitlines()[0]}).",
            consequence="The partitioned table stays in place, nothing was changed.",
            hint="Remove the rows that share the old key, then undo again.",
        )

    def _swap_back(self, session: Session, deadline: float, tried: list[int]) -> None:
        statements = self.plan.statements
        execute(session, statements.lock_back)
        raise_if_late(deadline)
        self._check_new_table(session)
        self._refuse_old_snapshots(session, tried)
        for statement in (*statements.detach, statements.move, *statements.restore):
            raise_if_late(deadline)
            execute(session, statement)
        self._mark(session, "undo", state="undone")
        raise_if_late(deadline)

    def _refuse_old_snapshots(self, session: Session, tried: list[int]) -> None:
        """Give the attempt up while a transaction could later read the table without the rows that are moved now."""
        row = session.execute("SELECT pg_catalog.pg_current_xact_id()::xid::text").fetchone()
        assert row is not None
        trusts = tried[0] >= CutOver.GIVE_UPS_BEFORE_TRUST
        end = time.monotonic() + self.limits.max_block_s / 4
        # Statements that ran when the lock came end soon, or come to wait for it.
        while (older := old_snapshots(session, str(row[0]), self.plan.table, trusts=trusts)) and time.monotonic() < end:
            time.sleep(0.005)
        for pid, user, state, age_s in older:
            tried[0] += 1
            raise GiveUpError(
                f"session {pid} of {user} ({state}, for {age_s:.1f} s) holds a snapshot from before the way back"
            )

    # -- small things -----------------------------------------------------------------------------------

    def _query(self, session: Session, query: str, /, **params: object) -> psycopg.Cursor[tuple[object, ...]]:
        return session.execute(QUERIES.get(query, session.info.server_version), params)

    def _mark_durably(self, session: Session, step_id: str, *, took_s: float = 0.0) -> None:
        session.execute("SET synchronous_commit = on")
        with session.transaction():
            self._mark(session, step_id, took_s=took_s)


def _text(name: QName) -> str:
    return ddl.text(ddl.qualified(name))
