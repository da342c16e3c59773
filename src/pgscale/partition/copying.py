"""Carry out a run that copies rows and exchanges tables: the part that mirror and split have in common."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from typing import Protocol, TypeVar

import psycopg

from pgscale.connect.session import CONTROL, WORKER, Session
from pgscale.core.killing import kill_point
from pgscale.core.model import QName, Step, Watch
from pgscale.errors import InterruptedRunError, MismatchError, RunFailedError
from pgscale.ledger import store
from pgscale.livecopy import copier, ddl, verifier
from pgscale.livecopy.applier import Applier, InBackground
from pgscale.livecopy.chunks import PageQueue
from pgscale.livecopy.cutover import CutOver, Exchange, Limits
from pgscale.livecopy.model import Pair
from pgscale.livecopy.sampler import HoldLimits, Sampler
from pgscale.livecopy.throttle import PACES
from pgscale.livecopy.work import Rate, execute, in_parallel, progress
from pgscale.partition.model import Statements
from pgscale.partition.running import Planned, RunBase


class CopyPlan(Planned, Protocol):
    """What CopyRun reads of a plan: its steps, both directions of copying, and the statements around the swap."""

    @property
    def steps(self) -> tuple[Step, ...]: ...
    @property
    def forward(self) -> Pair: ...
    @property
    def reverse(self) -> Pair: ...
    @property
    def statements(self) -> Statements: ...
    @property
    def walks_keys(self) -> bool: ...


C = TypeVar("C", bound=CopyPlan)

# Kinds of steps that wait for a complete copy; ANALYZE reads it while other workers compare.
AFTER_THE_COPY = ("analyze", "apply", "verify", "refresh", "cutover", "settle")


class CopyRun(RunBase[C]):
    """One process's part in one run. The caller owns the run's advisory lock through `owner`.

    Args:
        leaves: the partitions that rows are copied to, under the names they have until the cut-over.
    """

    def __init__(
        self, dsn: str, plan: C, run_id: int, owner: Session, watch: Watch, *, leaves: tuple[QName, ...]
    ) -> None:
        super().__init__(dsn, plan, run_id, owner, watch)
        self.pair = plan.forward
        self.workers = plan.options.workers or PACES[plan.options.pace].workers
        self.leaves = leaves
        self.limits = Limits(max_block_s=plan.options.max_block_s, lock_timeout_s=plan.options.lock_timeout_s)

    # -- what a strategy adds -----------------------------------------------------------------------------

    @abstractmethod
    def _check_before_swap(self, session: Session) -> None:
        """Under the cut-over's lock: raise RunFailedError where things are not what was planned."""

    @abstractmethod
    def _check_before_undo(self, session: Session) -> None:
        """Under the lock of undo's swap: raise RunFailedError where things are not what the cut-over left."""

    def _before_swap(self, applier: Applier) -> None:
        """What is to be done as late as can be without a lock; not in the ledger: it goes stale."""

    def _before_undo(self, applier: Applier, done: frozenset[str]) -> None:
        """The same before the swap of undo."""

    # -- the ways through -------------------------------------------------------------------------------

    def forward(self, *, cutover: bool) -> None:
        """Carry out every step that the ledger does not have as done.

        Args:
            cutover: False stops before the swap and keeps applying until another process asks for it.

        Raises:
            MismatchError: verification failed; RunFailedError: resumable; InterruptedRunError: stopped.
        """
        with self._kept(), Sampler(self.work, HoldLimits(replica_lag_s=self.plan.options.max_replica_lag_s)):
            with self.work.session(CONTROL) as session:
                done = store.done_steps(session, self.work.run_id)
            before = [s for s in self.plan.steps if s.kind not in AFTER_THE_COPY]
            live = [s for s in before if s.id != "reverse"]
            self.work.throttle.listen(self.work.stop)
            if "cutover" not in done:
                self._build([s for s in live if s.id not in done])
                self._exchange(done, cutover=cutover)
            self._settle([s for s in self.plan.steps if s.kind == "settle" and s.id not in done])
            self._remember_new_table()
            self._phase("done")

    def undo(self) -> None:
        """Swap back, with every write made since the cut-over; then remove the copy and every trace.

        Raises:
            RunFailedError: the new table holds rows the old key forbids, or its columns were changed.
        """
        plan, reverse = self.plan, self.plan.reverse
        with self._kept():
            with self.work.session(CONTROL) as session:
                done = store.done_steps(session, self.work.run_id)
            if "undo" not in done:
                applier = Applier(self.work, reverse, ddl.apply(reverse))
                exchange = Exchange(
                    lock=plan.statements.lock_reverse,
                    statements=plan.statements.undo,
                    mark=lambda s: self._mark(s, "undo", state="undone"),
                    check=self._check_before_undo,
                )
                try:
                    self._before_undo(applier, done)
                    CutOver(self.work, reverse, applier, exchange, self.limits).run()
                except psycopg.errors.UniqueViolation as error:
                    raise RunFailedError(
                        f"{plan.table} cannot go back: rows written since the cut-over break a key of the old"
                        f" table ({str(error).splitlines()[0]}).",
                        consequence="The partitioned table stays in place, nothing was changed.",
                        hint="Remove the rows that share the old key, then undo again.",
                    ) from error
                finally:
                    applier.close()
            self._settle_statements(plan.statements.undo_settle, "undo_settle", done)
            self._wait_for_older_transactions()
            self._locked(plan.statements.undo_unguard, "drop the guard")
            self._locked(plan.statements.drop_new, "drop the copy")

    def abort(self) -> None:
        """Before the cut-over: remove the triggers, then everything else; the table is as it was."""
        with self._kept():
            self._locked(self.plan.statements.abort_triggers, "drop the capture triggers")
            self._locked(self.plan.statements.drop_new, "drop the copy")

    def finish(self) -> None:
        """After the cut-over: drop the retained table and every trace. There is no way back from here."""
        with self._kept():
            for statements in self.plan.statements.finish_triggers:
                self._locked(statements, "drop the capture triggers")
            self._locked(self.plan.statements.finish, "drop the retained table")

    # -- phases -----------------------------------------------------------------------------------------

    def _build(self, steps: list[Step]) -> None:
        """Everything up to a complete copy that is only behind by what the log holds."""
        index = [s for s in steps if s.kind == "index"]
        for step in steps:
            self.work.check()
            kill_point(f"before:{step.id}")
            match step.kind:
                case "sql":
                    self._phase("prepare", step.title)
                    self._in_one_transaction(step)
                case "locked":
                    self._phase("capture", step.title)
                    self._in_one_transaction(step, locked=True)
                case "copy":
                    self._phase("copy")
                    self._copy(step)
                case "scrub":
                    self._phase("scrub")
                    copier.scrub(self.work, self.pair, step.sql, step.id, self.workers)
                    self._mark_alone(step.id)
                case "index" if step is index[0]:
                    self._phase("index")
                    self._indexes(index)
                case _:
                    pass
            kill_point(f"after:{step.id}")

    def _file(self, session: Session) -> int:
        row = execute(session, ddl.file_of(self.pair.source)).fetchone()
        return int(row[0]) if row else 0

    def _was_rewritten(self) -> bool:
        """Tell whether VACUUM FULL or CLUSTER moved the rows between pages since the copy began; then all of it is
        thrown away, to begin again. After a TRUNCATE the log knows every row, and the scrub sees to the copy."""
        with self.work.session(WORKER) as session:
            known = store.read_chunks(session, self.work.run_id, "pages")
            truncated = execute(session, ddl.is_truncated(self.pair)).fetchone()
            if not known or known[0][2] == self._file(session) or (truncated and truncated[0]):
                return False
            with session.transaction():
                execute(session, ddl.truncate_target(self.pair))
                for phase in ("copy", "pages"):
                    store.execute(session, "delete_chunks", run_id=self.work.run_id, phase=phase)
            return True

    def _copy(self, step: Step) -> None:
        with self.work.session(WORKER) as session:
            known = store.read_chunks(session, self.work.run_id, "pages")
            if known:
                pages = known[0][1]
            else:
                row = execute(session, ddl.pages_of(self.pair.source)).fetchone()
                pages = int(row[0]) if row else 0
                store.execute(
                    session,
                    "insert_chunk",
                    run_id=self.work.run_id,
                    phase="pages",
                    first=0,
                    last=pages,
                    rows=self._file(session),
                )
        started = time.monotonic()
        rows = copier.copy_rows(self.work, step.sql[0], pages, self.workers)
        if self._was_rewritten():
            self._phase("copy", "the table was rewritten (VACUUM FULL, CLUSTER); copying again")
            self._copy(step)
            return
        with self.work.session(CONTROL) as session, session.transaction():
            store.execute(session, "set_rows_copied", run_id=self.work.run_id, rows=rows)
            self._mark(session, step.id, took_s=time.monotonic() - started)

    def _indexes(self, steps: list[Step]) -> None:
        queue, rate = PageQueue(len(steps)), Rate()

        def body() -> None:
            with self.work.session(WORKER) as session:
                session.execute("SET maintenance_work_mem = '256MB'")
                # Leaves are built side by side already.
                session.execute("SET max_parallel_maintenance_workers = 0")
                while not self.work.stop.is_set() and (item := queue.take(1)):
                    self.work.throttle.wait(self.work.stop)
                    step, started = steps[item[0]], time.monotonic()
                    with session.transaction():
                        for statement in step.sql:
                            execute(session, statement)
                        self._mark(session, step.id, took_s=time.monotonic() - started)
                    queue.finish(1)
                    progress(self.work, "index", queue.finished, len(steps), rate, unit="items")
                    self.work.throttle.worked(started, self.work.stop)

        in_parallel(self.work, [body] * self.workers)

    def _exchange(self, done: frozenset[str], *, cutover: bool) -> None:
        plan = self.plan
        applier = Applier(self.work, self.pair, ddl.apply(self.pair))
        try:
            kill_point("before:apply")
            self._phase("apply")
            applier.catch_up("apply")
            verify = next((s for s in plan.steps if s.kind == "verify"), None)
            analyze = next((s for s in plan.steps if s.kind == "analyze" and s.id not in done), None)
            if verify is not None and verify.id not in done:
                kill_point("before:verify")
                self._phase("verify")
                self._verify(applier, lambda: self._analyze(analyze))
                kill_point("after:verify")
            else:
                self._analyze(analyze)
            reverse = next(s for s in plan.steps if s.id == "reverse")
            if reverse.id not in done:
                self._in_one_transaction(reverse)
            if not cutover:
                self._apply_until_ordered(applier)
            self._before_swap(applier)
            self._phase("cutover")
            kill_point("before:cutover")
            exchange = Exchange(
                lock=plan.statements.lock_forward,
                statements=plan.statements.cutover,
                mark=self._mark_cutover,
                check=self._check_before_swap,
            )
            CutOver(self.work, self.pair, applier, exchange, self.limits).run()
            kill_point("after:cutover")
        finally:
            applier.close()

    def _analyze(self, step: Step | None) -> None:
        if step is not None:
            kill_point(f"before:{step.id}")
            started = time.monotonic()
            with self.work.session(WORKER) as session:
                # Not in a transaction: each leaf is then analyzed in one of its own, and no snapshot is kept.
                for statement in step.sql:
                    execute(session, statement)
                self._mark(session, step.id, took_s=time.monotonic() - started)
            kill_point(f"after:{step.id}")

    def _verify(self, applier: Applier, first: Callable[[], None]) -> None:
        with self.work.session(CONTROL) as session:
            rows = int(store.scalar(session, "sum_chunks", run_id=self.work.run_id, phase="copy"))
        with InBackground(applier, shrinks_log=False) as background:
            try:
                if self.plan.walks_keys:
                    rows = verifier.verify_by_keys(self.work, self.pair, rows, self.workers, first)
                else:
                    rows = self._verify_by_pages(first)
            except MismatchError:
                with self.work.session(CONTROL) as session:
                    store.execute(session, "set_parity", run_id=self.work.run_id, rows=0, mismatches=1)
                raise
            except InterruptedRunError:
                background.check()
                raise
        verifier.recheck_until_few(self.work, self.pair, lambda: applier.catch_up("verify"))
        with self.work.session(CONTROL) as session, session.transaction():
            store.execute(session, "set_parity", run_id=self.work.run_id, rows=rows, mismatches=0)
            self._mark(session, "verify")

    def _verify_by_pages(self, first: Callable[[], None]) -> int:
        """Walk the pages again where VACUUM FULL or CLUSTER moved rows between them meanwhile."""
        while True:
            with self.work.session(WORKER) as session:
                before = self._file(session)
            rows = verifier.verify_rows(self.work, self.pair, self.leaves, self.workers, first)
            with self.work.session(WORKER) as session:
                if self._file(session) == before:
                    return rows
                first = verifier.nothing
                store.execute(session, "delete_chunks", run_id=self.work.run_id, phase="verify:%")

    def _apply_until_ordered(self, applier: Applier) -> None:
        self._say_ready("verified")
        with InBackground(applier) as background:
            while not self.keeper.wants_cutover.wait(0.1):
                background.check()
                self.work.check()

    def _check_capture(self, session: Session, tables: tuple[QName, ...], expected: int) -> None:
        row = execute(session, ddl.count_capture(tables)).fetchone()
        if row is None or int(row[0]) != expected:
            raise RunFailedError(
                f"Capture triggers (_pgscale_…) on {self.plan.table} were dropped or disabled for a while.",
                consequence="Changes may have been missed, so the tables are not exchanged.",
                hint="Before the cut-over: `abort`, then run again. After it: keep the partitioned table and `finish`.",
            )
