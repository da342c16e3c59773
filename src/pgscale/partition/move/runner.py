"""Execute a MovePlan step by step; every step can be killed before, inside and after, and run again."""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg

from pgscale import sql as named
from pgscale.catalog import reader as catalog
from pgscale.catalog.model import Followed
from pgscale.connect.retry import TRANSIENT, retrying
from pgscale.connect.session import CONTROL, WORKER, Session
from pgscale.core.killing import kill_point
from pgscale.core.model import Progress, Step, Watch
from pgscale.errors import RunFailedError
from pgscale.ledger import store
from pgscale.livecopy import ddl
from pgscale.livecopy.sampler import HoldLimits, Sampler
from pgscale.livecopy.throttle import PACES
from pgscale.livecopy.work import execute
from pgscale.partition.move.compacting import Compactor
from pgscale.partition.move.ddl.following import follow
from pgscale.partition.move.model import Lane, MovePlan
from pgscale.partition.move.mover import Mover
from pgscale.partition.move.tail import Cutter
from pgscale.partition.running import RunBase

QUERIES = named.load("pgscale.partition.move")

# Shares of the rows at which the planner is given statistics of the partitions.
ANALYZE_AT = (0.02, 0.2, 0.6)


class MoveRunner(RunBase[MovePlan]):
    """One process's part in one run. The caller owns the run's advisory lock through `owner`."""

    def __init__(self, dsn: str, plan: MovePlan, run_id: int, owner: Session, watch: Watch) -> None:
        super().__init__(dsn, plan, run_id, owner, watch)
        self.workers = plan.options.workers or PACES[plan.options.pace].workers

    # -- the ways through -----------------------------------------------------------------------------------

    def forward(self, *, cutover: bool) -> None:
        """Carry out every step that the ledger does not have as done.

        Args:
            cutover: False stops before the partitioned table takes the name, until another process asks for it.

        Raises:
            RunFailedError: resumable; InterruptedRunError: stopped.
        """
        with self._kept(), self._watched():
            done = self._done()
            self.work.throttle.listen(self.work.stop)
            for step in (s for s in self.plan.steps if s.id not in done):
                self.work.check()
                kill_point(f"before:{step.id}")
                self._carry_out(step, cutover=cutover)
                kill_point(f"after:{step.id}")
            self._remember_new_table()
            self._phase("done")

    def undo(self) -> None:
        """Let the view take the partitioned table's place, move the rows back, and give the old table its name.

        Raises:
            RunFailedError: rows written since break a key of the old table; the view stays until they are gone.
        """
        with self._kept(), self._watched():
            if "undo" not in self._done():
                self._exchange(self.plan.statements.undo, "undo", state="undone", check=self._check_new_table)
                kill_point("after:undo")
            self._go_back()

    def abort(self) -> None:
        """Before the end: move the rows back where they came from; the table is as it was."""
        with self._kept(), self._watched():
            done = self._done()
            if "view" in done:
                if not done & {"turn", "restore"}:
                    self._exchange(self.plan.statements.turn, "turn")
                    kill_point("after:turn")
                self._go_back()
            else:
                self._locked(self.plan.statements.drop_new, "drop the partitioned table")

    def finish(self) -> None:
        """After the end: drop the empty old table and every trace. There is no way back from here."""
        with self._kept():
            self._locked(self.plan.statements.finish, "drop the old table")

    # -- steps ----------------------------------------------------------------------------------------------

    def _carry_out(self, step: Step, *, cutover: bool) -> None:
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
            case "view":
                self._phase("view", step.title)
                self._remember_size()
                self._exchange(
                    self.plan.statements.raise_view,
                    "view",
                    lock=self.plan.statements.lock_table,
                    check=lambda s: self._check_definition(s, self.plan.fingerprint),
                )
            case "move":
                self._phase("move")
                self._move_all(step)
            case "cutover":
                self._analyze()
                if not cutover:
                    self._wait_for_order("every row has moved")
                self._phase("cutover")
                # Who took a snapshot before the last row had moved would not find it in the partitioned table.
                self._wait_for_older_transactions()
                self._exchange(
                    self.plan.statements.settle,
                    "cutover",
                    state="cut-over",
                    check=self._check_old_is_empty,
                    drop_view=self.plan.statements.drop_view,
                )
            case _:
                raise AssertionError(step.kind)

    def _probe(self, step: Step) -> None:
        """Raise where rows cannot be moved as they would be behind the view.

        Raises:
            RunFailedError: nothing but the empty partitioned table was made.
        """
        with self.work.session(WORKER) as session:
            try:
                with session.transaction(force_rollback=True):
                    for statement in step.sql:
                        execute(session, statement)
            except psycopg.Error as error:
                if session.closed or error.sqlstate in TRANSIENT or self.work.stop.is_set():
                    raise
                raise RunFailedError(
                    f"Rows of {self.plan.table} cannot be moved: {str(error).splitlines()[0]}.",
                    consequence="The table is unharmed.",
                    hint="What a CHECK or an index calls must find what it names whatever the search_path is: ALTER"
                    " FUNCTION … SET search_path. Then `pgscale partition abort`, and run again.",
                ) from error
        self._mark_alone(step.id)

    def _remember_size(self) -> None:
        with self.work.session(CONTROL) as session:
            if not store.read_chunks(session, self.work.run_id, "pages"):
                row = execute(session, ddl.pages_of(self.plan.table)).fetchone()
                pages = int(row[0]) if row else 0
                store.execute(
                    session, "insert_chunk", run_id=self.work.run_id, phase="pages", first=0, last=pages, rows=0
                )

    def _move_all(self, step: Step) -> None:
        started = time.monotonic()
        with self.work.session(CONTROL) as session:
            at_first = store.read_chunks(session, self.work.run_id, "pages")[0][1]
        marks = list(ANALYZE_AT)
        leaves = tuple(lane.source for lane in self.plan.back)
        compactor = Compactor(self.work, filling=leaves, emptying=(self.plan.old,), total_bytes=self.plan.total_bytes)

        def after(left: int) -> None:
            gone = max(0, at_first - left)
            with self.work.session(CONTROL) as session:
                session.execute(
                    QUERIES.get("set_pages_gone", session.info.server_version),
                    {"run_id": self.work.run_id, "pages": gone},
                )
            kill_point("inside:move")
            if marks and gone >= marks[0] * at_first:
                while marks and gone >= marks[0] * at_first:
                    marks.pop(0)
                self._analyze()
            compactor.look(gone / max(1, at_first))

        self._empty(self.plan.forward, at_first, "move", after)
        compactor.look(1.0)
        compactor.tidy()
        with self.work.session(CONTROL) as session, session.transaction():
            rows = int(store.scalar(session, "sum_chunks", run_id=self.work.run_id, phase="moved"))
            store.execute(session, "set_rows_copied", run_id=self.work.run_id, rows=rows)
            session.execute(
                QUERIES.get("set_pages_gone", session.info.server_version),
                {"run_id": self.work.run_id, "pages": at_first},
            )
            self._mark(session, step.id, took_s=time.monotonic() - started)

    def _empty(self, lane: Lane, at_first: int, phase: str, after: Callable[[int], None]) -> None:
        options = self.plan.options
        cutter = Cutter(
            self.work,
            lane.vacuum,
            self.plan.statements.gate,
            lock_timeout_s=options.lock_timeout_s,
            max_block_s=options.max_block_s,
        )
        Mover(self.work, lane, cutter, workers=self.workers, at_first=at_first, phase=phase, after=after).run()

    def _compactor(self) -> Compactor:
        leaves = tuple(lane.source for lane in self.plan.back)
        return Compactor(self.work, filling=leaves, emptying=(self.plan.old,), total_bytes=self.plan.total_bytes)

    def _analyze(self) -> None:
        self._locked((self.plan.statements.analyze,), "ANALYZE")

    def _go_back(self) -> None:
        """From the view with rows going back, to the table as it was."""
        if "restore" not in self._done():
            self._phase("move back")
            self._compactor().tidy()
            self._move_back()
            self._wait_for_older_transactions()
            self._exchange(
                self.plan.statements.restore,
                "restore",
                check=self._check_new_is_empty,
                drop_view=self.plan.statements.drop_view,
            )
            kill_point("after:restore")
        self._locked(self.plan.statements.drop_new, "drop the partitioned table")

    def _move_back(self) -> None:
        for lane in self.plan.back:
            with self.work.session(CONTROL) as session:
                row = execute(session, ddl.pages_of(lane.source)).fetchone()
            pages = int(row[0]) if row else 0
            try:
                self._empty(lane, pages, "move back", lambda _: None)
                kill_point("inside:back")
            except RunFailedError as error:
                if isinstance(error.__cause__, psycopg.errors.UniqueViolation):
                    raise RunFailedError(
                        f"{self.plan.table} cannot go back: rows written since break a key of the old table"
                        f" ({str(error.__cause__).splitlines()[0]}).",
                        consequence="The application goes on with the view over both tables; nothing is lost.",
                        hint="Remove the rows that share the old key, then `pgscale partition resume`.",
                    ) from error
                raise

    # -- the swaps ------------------------------------------------------------------------------------------

    def _exchange(
        self,
        statements: tuple[str, ...],
        mark: str,
        *,
        lock: str = "",
        state: str | None = None,
        check: Callable[[Session], None] = lambda _: None,
        drop_view: str = "",
    ) -> None:
        """One short transaction that changes what the table's name means, in short attempts for its lock.

        Args:
            drop_view: the view goes; what hangs on it by now goes over to what takes the name.
        """
        lock = lock or self.plan.statements.lock_view
        timeout_ms = f"{self.plan.options.lock_timeout_s * 1000:.0f}ms"
        with self.work.session(CONTROL) as session:
            # Whoever takes the run over must wait for a COMMIT of this session that is still under way.
            store.lock_work(session, self.work.oid)

            def attempt() -> None:
                started = time.monotonic()
                try:
                    with session.transaction():
                        session.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", (timeout_ms,))
                        execute(session, lock)
                        check(session)
                        view = self._read_followed(session) if drop_view else None
                        for statement in statements:
                            execute(session, statement)
                        if view is not None:
                            for statement in follow(view, self._read_followed(session), self.plan.table):
                                execute(session, statement)
                            execute(session, drop_view)
                        name = ddl.text(ddl.qualified(self.plan.table))
                        store.execute(session, "set_new_oid", run_id=self.work.run_id, name=name)
                        self._mark(session, mark, took_s=time.monotonic() - started, state=state)
                finally:
                    blocked_ms = (time.monotonic() - started) * 1000
                    if not session.closed and not self.work.stop.is_set():
                        store.execute(session, "add_attempt", run_id=self.work.run_id, blocked_ms=blocked_ms)

            def told(number: int, error: BaseException) -> None:
                first = str(error).splitlines()[0]
                note = f"{mark}: attempt {number}: {first}"
                self.work.tell(Progress(table=self.work.table, phase="waiting", note=note))

            retrying(attempt, give_up_after_s=3600.0, on_retry=told, sleep=self._sleep)

    def _read_followed(self, session: Session) -> Followed:
        row = session.execute(
            "SELECT pg_catalog.to_regclass(%s::text)::oid::int8", (ddl.text(ddl.qualified(self.plan.table)),)
        ).fetchone()
        assert row is not None
        return catalog.read_followed(session, int(row[0]))

    def _check_old_is_empty(self, session: Session) -> None:
        row = execute(session, self.plan.statements.is_empty).fetchone()
        if not (row and row[0]):
            raise RunFailedError(
                f"{self.plan.old} holds rows again.",
                consequence="The view stays in place, and nothing is lost.",
                hint="Something wrote to it directly: move these rows by hand through the view, then `resume`.",
            )

    def _check_new_is_empty(self, session: Session) -> None:
        """The whole of it, and so partitions that others have attached."""
        row = execute(session, self.plan.statements.is_emptied).fetchone()
        if not (row and row[0]):
            raise RunFailedError(
                f"{self.plan.stage} holds rows again.",
                consequence="The view stays in place, and nothing is lost.",
                hint="`pgscale partition resume` moves them; a partition that somebody attached, detach first.",
            )

    # -- frames ---------------------------------------------------------------------------------------------

    def _watched(self) -> Sampler:
        return Sampler(self.work, HoldLimits(replica_lag_s=self.plan.options.max_replica_lag_s))

    def _done(self) -> frozenset[str]:
        with self.work.session(CONTROL) as session:
            return store.done_steps(session, self.work.run_id)
