"""What every strategy's runner needs: its sessions, how its errors leave, its short transactions, its marks."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Generic, Protocol, TypeVar

from pgscale.catalog import reader as catalog
from pgscale.connect.retry import retrying
from pgscale.connect.session import CONTROL, WORKER, Session
from pgscale.core.killing import kill_point
from pgscale.core.model import Progress, QName, Step, Watch
from pgscale.errors import InterruptedRunError, RunFailedError
from pgscale.ledger import store
from pgscale.livecopy import ddl
from pgscale.livecopy.keeper import Keeper
from pgscale.livecopy.throttle import Throttle
from pgscale.livecopy.work import Telling, Work, execute, explain
from pgscale.partition.estimate import make_outlook
from pgscale.partition.model import Estimate, Options


class Planned(Protocol):
    """What RunBase reads of a plan."""

    @property
    def table(self) -> QName: ...
    @property
    def table_oid(self) -> int: ...
    @property
    def owner(self) -> str: ...
    @property
    def options(self) -> Options: ...
    @property
    def estimate(self) -> Estimate | None: ...


P = TypeVar("P", bound=Planned)


class RunBase(Generic[P]):
    """One process's part in one run. The caller owns the run's advisory lock through `owner`.

    A strategy's runner derives from it and adds forward, undo, abort and finish, each inside `with self._kept()`.
    """

    def __init__(self, dsn: str, plan: P, run_id: int, owner: Session, watch: Watch) -> None:
        self.plan = plan
        self.work = Work(
            dsn=dsn,
            role=plan.owner,
            oid=plan.table_oid,
            run_id=run_id,
            stop=threading.Event(),
            throttle=Throttle(plan.options.pace, plan.options.chunk_target_s, plan.options.workers),
            tell=Telling(watch, str(plan.table)),
            table=str(plan.table),
            outlook=make_outlook(plan.options, plan.estimate),
        )
        self.keeper = Keeper(self.work, owner)

    # -- the frame of every action ----------------------------------------------------------------------

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
        self.work.close()

    def _phase(self, phase: str, note: str = "") -> None:
        self.work.tell(Progress(table=self.work.table, phase=phase, note=note))
        with self.work.session(CONTROL) as session:
            store.execute(session, "set_phase", run_id=self.work.run_id, phase=phase)

    # -- short transactions -------------------------------------------------------------------------------

    def _in_one_transaction(self, step: Step, *, locked: bool = False) -> None:
        self._locked(step.sql, step.title, mark=step.id, locked=locked)

    def _locked(self, statements: tuple[str, ...], what: str, *, mark: str | None = None, locked: bool = True) -> None:
        """Run statements and their ledger row in one transaction, in short attempts for its locks."""
        with self.work.session(WORKER) as session:
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
        with self.work.session(CONTROL) as session:
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

    # -- the ledger, and after the cut-over -----------------------------------------------------------------

    def _settle(self, steps: list[Step]) -> None:
        for step in steps:
            self._phase("settle", step.title)
            kill_point(f"before:{step.id}")
            self._in_one_transaction(step, locked=True)

    def _settle_statements(self, groups: tuple[tuple[str, ...], ...], name: str, done: frozenset[str]) -> None:
        for number, statements in enumerate(groups):
            step_id = f"{name}:{number}"
            if step_id not in done:
                self._locked(statements, "prove a foreign key", mark=step_id)

    def _remember_new_table(self) -> None:
        with self.work.session(CONTROL) as session:
            row = next(r for r in store.read_runs(session) if r.run_id == self.work.run_id)
            if row.new_fingerprint is None and row.new_oid is not None:
                fingerprint = catalog.read_fingerprint(session, row.new_oid)
                store.execute(session, "set_new_fingerprint", run_id=self.work.run_id, fingerprint=fingerprint)

    def _mark(self, session: Session, step_id: str, *, took_s: float = 0.0, state: str | None = None) -> None:
        store.execute(session, "mark_step", run_id=self.work.run_id, step_id=step_id, duration_s=took_s)
        if state == "cut-over":
            self._set_cut_over(session)
        elif state is not None:
            store.execute(session, "set_state", run_id=self.work.run_id, state=state, note="")

    def _set_cut_over(self, session: Session) -> None:
        """What is asked for until the very COMMIT counts: an abort may be half a heartbeat old."""
        if store.scalar(session, "set_cut_over", run_id=self.work.run_id) is None:
            self.keeper.wants_abort.set()
            raise InterruptedRunError(
                f"The run of {self.plan.table} is to be aborted, and was not cut over.",
                consequence="The table is unharmed.",
            )

    def _mark_alone(self, step_id: str) -> None:
        with self.work.session(CONTROL) as session, session.transaction():
            self._mark(session, step_id)

    def _mark_cutover(self, session: Session) -> None:
        """The name now means the new table; the ledger knows the run by both oids."""
        name = ddl.text(ddl.qualified(self.plan.table))
        store.execute(session, "set_new_oid", run_id=self.work.run_id, name=name)
        self._mark(session, "cutover", state="cut-over")

    def _check_definition(self, session: Session, fingerprint: str) -> None:
        if catalog.read_fingerprint(session, self.plan.table_oid) != fingerprint:
            raise RunFailedError(
                f"The definition of {self.plan.table} was changed while the run was on.",
                consequence="The copy no longer fits; the table itself is unharmed.",
                hint="`pgscale partition abort`, then run again.",
            )

    def _check_new_table(self, session: Session) -> None:
        """Refuse to go back where the partitioned table is no longer what was put in place.

        Raises:
            RunFailedError: somebody changed its definition since.
        """
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

    def _wait_for_order(self, note: str) -> None:
        """Hold until `pgscale partition cutover` asks; `note` says what is done."""
        self._say_ready(note)
        while not self.keeper.wants_cutover.wait(0.1):
            self.work.check()

    def _say_ready(self, note: str) -> None:
        with self.work.session(CONTROL) as session:
            store.execute(session, "set_state", run_id=self.work.run_id, state="ready", note="")
        self._phase("ready", f"{note}; waiting for `pgscale partition cutover`")
