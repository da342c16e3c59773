"""Execute a MirrorPlan step by step; every step can be killed before, inside and after, and run again."""

from __future__ import annotations

import os
import threading
import time
from contextlib import ExitStack

import psycopg

from pgscale.catalog import reader as catalog
from pgscale.connect.retry import retrying
from pgscale.connect.session import CONTROL, WORKER, Session
from pgscale.core.model import Progress, QName, Step, Watch
from pgscale.errors import (
    InterruptedRunError,
    MismatchError,
    RunFailedError,
)
from pgscale.ledger import store
from pgscale.livecopy import copier, ddl, verifier
from pgscale.livecopy.applier import Applier, InBackground
from pgscale.livecopy.chunks import PageQueue
from pgscale.livecopy.cutover import CutOver, Exchange, Limits
from pgscale.livecopy.keeper import Keeper
from pgscale.livecopy.model import Pair
from pgscale.livecopy.sampler import HoldLimits, Sampler
from pgscale.livecopy.throttle import PACES, Throttle
from pgscale.livecopy.work import Rate, Telling, Work, execute, explain, in_parallel, progress
from pgscale.partition.model import MirrorPlan
from pgscale.partition.refresh import compute_matviews


class Runner:
    """One process's part in one run. The caller owns the run's advisory lock through `owner`."""

    def __init__(self, dsn: str, plan: MirrorPlan, run_id: int, owner: Session, watch: Watch) -> None:
        self.plan = plan
        self.pair = plan.forward
        options = plan.options
        self.workers = options.workers or PACES[options.pace].workers
        self.work = Work(
            dsn=dsn,
            role=plan.owner,
            oid=plan.table_oid,
            run_id=run_id,
            stop=threading.Event(),
            throttle=Throttle(options.pace, options.chunk_target_s),
            tell=Telling(watch, str(plan.table)),
            table=str(plan.table),
        )
        self.keeper = Keeper(self.work, owner)
        self.leaves = tuple(QName(schema=plan.table.schema, name=leaf.name) for leaf in plan.leaves)
        self.limits = Limits(max_block_s=options.max_block_s, lock_timeout_s=options.lock_timeout_s)

    # -- the ways through -------------------------------------------------------------------------------

    def forward(self, *, cutover: bool) -> None:
        """Carry out every step that the ledger does not have as done.

        Args:
            cutover: False stops before the swap and keeps applying until another process asks for it.

        Raises:
            MismatchError: verification failed; RunFailedError: resumable; InterruptedRunError: stopped.
        """
        with self._kept(), Sampler(self.work, HoldLimits(replica_lag_s=self.plan.options.max_replica_lag_s)):
            with self.work.open(CONTROL) as session:
                done = store.done_steps(session, self.work.run_id)
            before = [s for s in self.plan.steps if s.kind not in ("apply", "verify", "refresh", "cutover", "settle")]
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
            with self.work.open(CONTROL) as session:
                done = store.done_steps(session, self.work.run_id)
            if "undo" not in done:
                applier = Applier(self.work, reverse, ddl.apply(reverse))
                exchange = Exchange(
                    lock=plan.statements.lock_reverse,
                    statements=plan.statements.undo,
                    mark=lambda s: self._mark(s, "undo", state="undone"),
                    check=self._check_new_table,
                )
                try:
                    # The old ones are kept as they were at the swap.
                    self._refresh(applier, reverse, [(p.live, p.retained) for p in plan.matviews])
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

    def _kept(self) -> ExitStack:
        stack = ExitStack()
        stack.push(self._explain)
        stack.callback(self._close)
        stack.enter_context(self.keeper)
        return stack

    def _explain(self, kind: object, error: BaseException | None, trace: object) -> bool:
        del kind, trace
        if error is None:
            return False
        if isinstance(error, KeyboardInterrupt):
            raise InterruptedRunError(
                f"The run of {self.plan.table} was interrupted.",
                consequence="The table is unharmed, and finished steps are kept.",
                hint="`pgscale partition resume` goes on; `abort` takes everything back.",
            ) from None
        if self.keeper.wants_abort.is_set():
            return False
        if self.keeper.lost is not None:
            raise self.keeper.lost from error
        explained = explain(error)
        if explained is not error:
            raise explained from error
        return False

    def _close(self) -> None:
        for session in self.work.sessions:
            if not session.closed:
                session.close()

    def _phase(self, phase: str, note: str = "") -> None:
        self.work.tell(Progress(table=self.work.table, phase=phase, note=note))
        with self.work.open(CONTROL) as session:
            store.execute(session, "set_phase", run_id=self.work.run_id, phase=phase)

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
        with self.work.open(WORKER) as session:
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
        with self.work.open(WORKER) as session:
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
        with self.work.open(CONTROL) as session, session.transaction():
            store.execute(session, "set_rows_copied", run_id=self.work.run_id, rows=rows)
            self._mark(session, step.id, took_s=time.monotonic() - started)

    def _indexes(self, steps: list[Step]) -> None:
        queue, rate = PageQueue(len(steps)), Rate()

        def body() -> None:
            with self.work.open(WORKER) as session:
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
            if verify is not None and verify.id not in done:
                kill_point("before:verify")
                self._phase("verify")
                self._verify(applier)
                kill_point("after:verify")
            reverse = next(s for s in plan.steps if s.id == "reverse")
            if reverse.id not in done:
                self._in_one_transaction(reverse)
            if not cutover:
                self._wait_for_order(applier)
            self._refresh(applier, self.pair, [(p.live, p.staged) for p in plan.matviews])
            self._phase("cutover")
            kill_point("before:cutover")
            exchange = Exchange(
                lock=plan.statements.lock_forward,
                statements=plan.statements.cutover,
                mark=self._mark_cutover,
                check=self._check_fingerprint,
            )
            CutOver(self.work, self.pair, applier, exchange, self.limits).run()
            kill_point("after:cutover")
        finally:
            applier.close()

    def _refresh(self, applier: Applier, pair: Pair, names: list[tuple[QName, QName]]) -> None:
        """Compute what will be put in place, as late as can be without a lock. Not in the ledger: it goes stale."""
        if not names:
            return
        kill_point("before:refresh")
        self._phase("refresh")
        applier.catch_up("refresh")
        compute_matviews(self.work, pair, names)
        kill_point("after:refresh")

    def _verify(self, applier: Applier) -> None:
        with self.work.open(CONTROL) as session:
            rows = int(store.scalar(session, "sum_chunks", run_id=self.work.run_id, phase="copy"))
        with InBackground(applier) as background:
            try:
                if self.plan.walks_keys:
                    rows = verifier.verify_by_keys(self.work, self.pair, rows, self.workers)
                else:
                    rows = self._verify_by_pages()
            except MismatchError:
                with self.work.open(CONTROL) as session:
                    store.execute(session, "set_parity", run_id=self.work.run_id, rows=0, mismatches=1)
                raise
            except InterruptedRunError:
                background.check()
                raise
        verifier.recheck_until_few(self.work, self.pair, lambda: applier.catch_up("verify"))
        with self.work.open(CONTROL) as session, session.transaction():
            store.execute(session, "set_parity", run_id=self.work.run_id, rows=rows, mismatches=0)
            self._mark(session, "verify")

    def _verify_by_pages(self) -> int:
        """Walk the pages again where VACUUM FULL or CLUSTER moved rows between them meanwhile."""
        while True:
            with self.work.open(WORKER) as session:
                before = self._file(session)
            rows = verifier.verify_rows(self.work, self.pair, self.leaves, self.workers)
            with self.work.open(WORKER) as session:
                if self._file(session) == before:
                    return rows
                store.execute(session, "delete_chunks", run_id=self.work.run_id, phase="verify:%")

    def _wait_for_order(self, applier: Applier) -> None:
        """Keep applying until the cut-over is ordered."""
        with self.work.open(CONTROL) as session:
            store.execute(session, "set_state", run_id=self.work.run_id, state="ready", note="")
        self._phase("ready", "verified; waiting for `pgscale partition cutover`")
        with InBackground(applier) as background:
            while not self.keeper.wants_cutover.wait(0.1):
                background.check()
                self.work.check()

    def _settle(self, steps: list[Step]) -> None:
        for step in steps:
            self._phase("settle", step.title)
            kill_point(f"before:{step.id}")
            self._in_one_transaction(step, locked=True)

    def _remember_new_table(self) -> None:
        with self.work.open(CONTROL) as session:
            row = next(r for r in store.read_runs(session) if r.run_id == self.work.run_id)
            if row.new_fingerprint is None and row.new_oid is not None:
                fingerprint = catalog.read_fingerprint(session, row.new_oid)
                store.execute(session, "set_new_fingerprint", run_id=self.work.run_id, fingerprint=fingerprint)

    def _settle_statements(self, groups: tuple[tuple[str, ...], ...], name: str, done: frozenset[str]) -> None:
        for number, statements in enumerate(groups):
            step_id = f"{name}:{number}"
            if step_id not in done:
                self._locked(statements, "prove a foreign key", mark=step_id)

    # -- transactions -----------------------------------------------------------------------------------

    def _in_one_transaction(self, step: Step, *, locked: bool = False) -> None:
        self._locked(step.sql, step.title, mark=step.id, locked=locked)

    def _locked(self, statements: tuple[str, ...], what: str, *, mark: str | None = None, locked: bool = True) -> None:
        """Run statements and their ledger row in one transaction, in short attempts for its locks."""
        with self.work.open(WORKER) as session:
            session.execute("SET synchronous_commit = on")

            def attempt() -> None:
                started = time.monotonic()
                with session.transaction():
                    if locked:
                        session.execute(
                            "SELECT pg_catalog.set_config('lock_timeout', %s, true)",
                            (f"{self.plan.options.lock_timeout_s * 1000:.0f}ms",),
                        )
                    for statement in statements:
                        execute(session, statement)
                    if mark is not None:
                        self._mark(session, mark, took_s=time.monotonic() - started)

            def told(number: int, error: BaseException) -> None:
                first = str(error).splitlines()[0]
                self.work.tell(
                    Progress(
                        table=self.work.table,
                        phase="waiting",
                        note=f"{what}: attempt {number}: {first}{self._blockers(session)}",
                    )
                )

            retrying(attempt, give_up_after_s=3600.0, on_retry=told, sleep=self._sleep)

    def _wait_for_older_transactions(self) -> None:
        """Return when every transaction that is open now has ended: none has a snapshot from before the swap then.

        As CREATE INDEX CONCURRENTLY waits; every role may see who holds a virtual transaction.
        """
        query = (
            "SELECT l.virtualtransaction, l.pid FROM pg_catalog.pg_locks l"
            " JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
            " WHERE l.locktype = 'virtualxid' AND l.granted AND a.datname = pg_catalog.current_database()"
            " AND COALESCE(a.backend_type, 'client backend') = 'client backend' AND a.usesysid IS NOT NULL"
            " AND COALESCE(a.application_name, '') NOT LIKE 'pgscale/%'"
        )
        with self.work.open(CONTROL) as session:
            older = set(session.execute(query).fetchall())
            while older := older & set(session.execute(query).fetchall()):
                pids = ", ".join(str(pid) for _, pid in sorted(older, key=str)[:3])
                self.work.tell(
                    Progress(table=self.work.table, phase="waiting", note=f"transactions of sessions {pids} to end")
                )
                self._sleep(0.1)

    def _blockers(self, session: Session) -> str:
        rows = session.execute(
            "SELECT l.pid, pg_catalog.count(*) FROM pg_catalog.pg_locks l WHERE l.relation = %s::int8::oid"
            " AND l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid() GROUP BY l.pid LIMIT 3",
            (self.plan.table_oid,),
        ).fetchall()
        if not rows:
            return ""
        return "; held by " + ", ".join(
            f"session {pid}" if pid is not None else "a prepared transaction" for pid, _ in rows
        )

    def _sleep(self, seconds: float) -> None:
        self.work.stop.wait(seconds)
        self.work.check()

    def _mark(self, session: Session, step_id: str, *, took_s: float = 0.0, state: str | None = None) -> None:
        store.execute(session, "mark_step", run_id=self.work.run_id, step_id=step_id, duration_s=took_s)
        if state is not None:
            store.execute(session, "set_state", run_id=self.work.run_id, state=state, note="")

    def _mark_cutover(self, session: Session) -> None:
        """The name now means the new table; the ledger knows the run by both oids."""
        name = ddl.text(ddl.qualified(self.plan.table))
        store.execute(session, "set_new_oid", run_id=self.work.run_id, name=name)
        self._mark(session, "cutover", state="cut-over")

    def _mark_alone(self, step_id: str) -> None:
        with self.work.open(CONTROL) as session, session.transaction():
            self._mark(session, step_id)

    def _check_fingerprint(self, session: Session) -> None:
        self._check_capture(session, (self.plan.table,), 4)
        if catalog.read_fingerprint(session, self.plan.table_oid) != self.plan.fingerprint:
            raise RunFailedError(
                f"The definition of {self.plan.table} was changed while the run was on.",
                consequence="The copy no longer fits; the table itself is unharmed.",
                hint="`pgscale partition abort`, then run again.",
            )

    def _check_capture(self, session: Session, tables: tuple[QName, ...], expected: int) -> None:
        row = execute(session, ddl.count_capture(tables)).fetchone()
        if row is None or int(row[0]) != expected:
            raise RunFailedError(
                f"Capture triggers (_pgscale_…) on {self.plan.table} were dropped or disabled for a while.",
                consequence="Changes may have been missed, so the tables are not exchanged.",
                hint="Before the cut-over: `abort`, then run again. After it: keep the partitioned table and `finish`.",
            )

    def _check_new_table(self, session: Session) -> None:
        """Refuse to go back where the partitioned table is no longer what was put in place."""
        self._check_columns(session)
        self._check_capture(session, (self.plan.table, *self.leaves), 3 + 4 * len(self.leaves))
        row = next(r for r in store.read_runs(session) if r.run_id == self.work.run_id)
        if row.new_fingerprint is None or row.new_oid is None:
            return
        if catalog.read_fingerprint(session, row.new_oid) != row.new_fingerprint:
            raise RunFailedError(
                f"The definition of {self.plan.table} was changed since the cut-over: its partitions, indexes, grants,"
                " triggers, policies, or something that depends on it.",
                consequence="Going back would lose that, so nothing was changed.",
                hint="Take that change back, or keep the partitioned table and `pgscale partition finish`.",
            )

    def _check_columns(self, session: Session) -> None:
        new, old = (
            catalog.scalar(session, "column_signature", name=ddl.text(ddl.qualified(name)))
            for name in (self.plan.reverse.source, self.plan.reverse.target)
        )
        if new != old:
            raise RunFailedError(
                f"The columns of {self.plan.table} were changed since the cut-over.",
                consequence="The old table has no place for them, so it stays retired; nothing was changed.",
                hint="Change the columns back, or keep the partitioned table and `pgscale partition finish`.",
            )


def kill_point(name: str) -> None:
    """Where the crash tests end this process: nothing happens unless PGSCALE_KILL_AT names the point."""
    if os.environ.get("PGSCALE_KILL_AT") == name:
        os.kill(os.getpid(), 9)
