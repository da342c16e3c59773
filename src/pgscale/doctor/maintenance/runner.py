"""Carries the tasks out, one at a time, over one session; another looks at the server meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import psycopg

from pgscale.connect.retry import LOCK_NOT_AVAILABLE, retrying
from pgscale.connect.session import Profile, Session, open_session
from pgscale.core.model import Progress, Watch
from pgscale.core.signals import as_interrupts, deferred
from pgscale.core.units import format_duration
from pgscale.doctor.checks.autovacuum import read_pace
from pgscale.doctor.facts import DOCTOR, Facts, NotReadableError
from pgscale.doctor.limits import Limits
from pgscale.doctor.maintenance import ddl
from pgscale.doctor.maintenance.gate import Gate, GateLimits, progress_of
from pgscale.doctor.maintenance.history import History
from pgscale.doctor.maintenance.model import (
    KINDS,
    Done,
    Failed,
    Kind,
    Left,
    MaintenancePlan,
    Outcome,
    Task,
)
from pgscale.doctor.maintenance.pace import PACES
from pgscale.doctor.maintenance.plan import Circumstances, plan_maintenance
from pgscale.doctor.maintenance.reader import QUERIES, read_leftovers, read_targets, read_wants
from pgscale.errors import PermissionDeniedError, RefusedError, RunFailedError, UsageError
from pgscale.livecopy.throttle import Pace

# How long a VACUUM of a large table takes nobody knows: the window and Ctrl-C end it, no clock.
WORKER = Profile(purpose="maintenance", statement_timeout_ms=0, lock_timeout_ms=1_000)
WATCHER = Profile(purpose="maintenance-watch", statement_timeout_ms=10_000, lock_timeout_ms=100, read_only=True)
MAINTENANCE_LOCK = 1_885_827_461
# REINDEX waits for transactions that are older than it; when it gives up, what it has built is lost.
REINDEX_WAIT_S = 600.0
# What a killed run still had on the server takes a moment to notice that.
NOTICED_S = 3.0
LOOK_S, CANCEL_S, CLEAN_S = 0.2, 30.0, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How maintenance is done.

    Args:
        window_s: from now on; None: until it is done.
        only: kinds of tasks.
        patience_s: how long a lock is tried for, by short attempts, and how often is waited for the server.
        state: the directory of what earlier runs did; None: the user's own; keeps_state: False: nowhere.
    """

    window_s: float | None = None
    pace: Pace = "normal"
    gate: GateLimits = field(default_factory=GateLimits)
    only: tuple[Kind, ...] = KINDS
    patience_s: float = 30.0
    state: Path | None = None
    keeps_state: bool = True

    def __post_init__(self) -> None:
        if self.window_s is not None and self.window_s <= 0:
            raise UsageError("The window is over before it begins.", hint="Name one like 2h, or a later time.")


def plan(dsn: str | None, limits: Limits, options: Options) -> MaintenancePlan:
    """Return what a run would do; changes nothing.

    Raises:
        ConnectError, PermissionDeniedError; RefusedError: it is a standby.
    """
    return _plan(dsn, limits, options)[0]


def _plan(dsn: str | None, limits: Limits, options: Options) -> tuple[MaintenancePlan, History]:
    with open_session(dsn, DOCTOR) as session:
        try:
            facts = Facts(session)
            if facts.server.is_in_recovery:
                raise RefusedError(
                    "This is a standby: it has what its primary has.",
                    consequence="Nothing was done.",
                    hint="Connect to the primary.",
                )
            wants, notes = read_wants(facts, limits)
            page_cost = read_pace(facts).page_cost
        except NotReadableError as error:
            raise PermissionDeniedError(f"Nothing can be planned: {error.because}.", hint=error.hint) from error
        leftovers = read_leftovers(session)
        targets = read_targets(session, {each.oid for each in (*wants, *leftovers)})
        history = History(options.state, facts.database_key, keeps=options.keeps_state)
    given = Circumstances(
        version=facts.server.version,
        block_bytes=facts.server.block_bytes,
        page_cost=page_cost,
        pace=options.pace,
        only=options.only,
        now=datetime.now(UTC),
    )
    return plan_maintenance(wants, targets, leftovers, history, given, notes), history


def run(
    dsn: str | None, limits: Limits, options: Options, watch: Watch, told: Callable[[MaintenancePlan], None]
) -> Outcome:
    """Do what the checks find needed, until it is done or the window is over.

    Every statement takes SHARE UPDATE EXCLUSIVE on its table. It can be killed at any moment: another run goes on with
    what is still needed, and drops what a killed REINDEX left.

    Args:
        told: the plan, before anything is begun.

    Raises:
        RefusedError: another run is at work in this database, or it is a standby.
        RunFailedError: the connection was lost.
        KeyboardInterrupt: what ran was cancelled, and what it left dropped.
    """
    began = time.monotonic()
    with as_interrupts(), _Run(dsn, options, watch, began) as work:
        work.own()
        planned, history = _plan(dsn, limits, options)
        told(planned)
        try:
            work.carry_out(planned, history)
        except psycopg.Error as error:
            what = "The connection was lost" if work.is_lost else "The server does not tell what must be known"
            raise RunFailedError(
                f"{what}: {' '.join(str(error).split())}.",
                consequence=f"{len(work.done)} of {len(planned.tasks)} tasks were done.",
                hint="Run it again: it goes on with what is still needed.",
            ) from error
    return Outcome(
        plan=planned,
        done=tuple(work.done),
        failed=tuple(work.failed),
        left=(*planned.left, *work.left),
        took_s=time.monotonic() - began,
    )


class _Run:
    """One run: its two sessions, its window, and what came of its tasks."""

    def __init__(self, dsn: str | None, options: Options, watch: Watch, began: float) -> None:
        self._dsn, self._options, self._watch = dsn, options, watch
        self._until = None if options.window_s is None else began + options.window_s
        self.done: list[Done] = []
        self.failed: list[Failed] = []
        self.left: list[Left] = []
        self._warnings: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._worker: Session = self._stack.enter_context(open_session(self._dsn, WORKER))
        self._watcher: Session = self._stack.enter_context(open_session(self._dsn, WATCHER))
        self._worker.add_notice_handler(lambda said: self._warnings.append(said.message_primary or ""))
        self._worker.execute(ddl.settings(PACES[self._options.pace].settings()))
        self._gate = Gate(self._watcher, self._options.gate)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def is_lost(self) -> bool:
        return self._worker.closed or self._watcher.closed

    def own(self) -> None:
        """Be the only one in this database; the lock lives as long as the session, and so as long as its statement.

        Raises:
            RefusedError: another one is.
        """
        until = time.monotonic() + NOTICED_S
        query = QUERIES.get("own", self._worker.info.server_version)
        while True:
            row = self._worker.execute(query, {"lock": MAINTENANCE_LOCK}).fetchone()
            if row is not None and row[0]:
                return
            if time.monotonic() > until:
                raise RefusedError(
                    "Another pgscale maintenance is at work in this database.",
                    consequence="Nothing was done.",
                    hint="Wait for its end; `pgscale locks` and pg_stat_activity (pgscale/maintenance) show it.",
                )
            time.sleep(0.1)

    def carry_out(self, planned: MaintenancePlan, history: History) -> None:
        """Do the tasks in order; those that something hinders once more at the end."""
        postponed: list[tuple[Task, str]] = []
        for task in planned.tasks:
            if reason := self._try(task, history):
                postponed.append((task, reason))
        for task, _ in postponed:
            if reason := self._try(task, history):
                self._leave(task, reason)

    def _leave(self, task: Task, reason: str) -> None:
        self.left.append(Left(subject=str(task.target), check=task.check, reason=reason))

    @property
    def _remaining_s(self) -> float:
        return float("inf") if self._until is None else self._until - time.monotonic()

    def _try(self, task: Task, history: History) -> str:
        """Do a task, or note why not; return why it should be tried again later, nothing when it should not."""
        if reason := self._await_turn(task):
            self._leave(task, reason)
            return ""
        if task.estimate_s > self._remaining_s:
            self._leave(
                task,
                f"it takes about {format_duration(task.estimate_s)}, and the window is over in"
                f" {format_duration(max(0.0, self._remaining_s))}",
            )
            return ""
        if reason := self._gate.hinders(task):
            return reason
        if task.kind == "clean" and not self._is_leftover(task):
            return ""
        self._watch(Progress(table=str(task.target), phase=task.kind, unit="pages"))
        self._warnings.clear()
        began = time.monotonic()
        try:
            self._execute(task)
        except _WindowOverError:
            self._leave(
                task, f"the window was over; it was cancelled after {format_duration(time.monotonic() - began)}"
            )
            self._clean_after(task)
        except psycopg.errors.LockNotAvailable:
            self._clean_after(task)
            return f"its lock was not to be had within {format_duration(self._wait_s(task))}"
        except psycopg.errors.QueryCanceled:
            self._leave(task, "somebody cancelled it")
            self._clean_after(task)
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedObject):
            self._leave(task, "it is gone")
        except psycopg.Error as error:
            if self.is_lost:
                raise
            self.failed.append(Failed(task=task, error=" ".join(str(error).split())))
            self._clean_after(task)
        else:
            self._note(task, time.monotonic() - began, history)
        return ""

    def _note(self, task: Task, took_s: float, history: History) -> None:
        # VACUUM and ANALYZE only warn of what they may not do.
        refused = [said for said in self._warnings if "skipping" in said or "permission denied" in said]
        if refused:
            self._leave(task, f"the server said: {refused[0]}")
            return
        self.done.append(Done(task=task, took_s=took_s))
        if said := history.note(task, took_s, self._options.pace):
            self._watch(Progress(table=str(task.target), phase=task.kind, note=said))

    def _await_turn(self, task: Task) -> str:
        """Wait while the server suffers; return why nothing can begin any more when the window ends meanwhile."""
        while reason := self._gate.held():
            if self._remaining_s <= task.estimate_s:
                return f"{reason} until the window was over"
            self._watch(Progress(table=str(task.target), phase="waiting", throttled=reason))
            time.sleep(min(1.0, max(0.05, self._remaining_s)))
        return ""

    def _is_leftover(self, task: Task) -> bool:
        """Look once more before something is dropped."""
        found = read_leftovers(self._watcher, task.table_oid)
        return any(each.qname == task.target and not each.is_in_work for each in found)

    # -- one statement ----------------------------------------------------------------------------------

    def _wait_s(self, task: Task) -> float:
        return REINDEX_WAIT_S if task.kind == "reindex" else self._options.patience_s

    def _execute(self, task: Task) -> None:
        if task.kind == "reindex":
            # It is not tried by short attempts: each would leave an index behind and lose what it has built.
            self._worker.execute(ddl.settings([("lock_timeout", f"{REINDEX_WAIT_S * 1000:.0f}")]))
            self._in_thread(task)
            return
        self._worker.execute(ddl.settings([("lock_timeout", str(WORKER.lock_timeout_ms))]))
        retrying(
            lambda: self._in_thread(task),
            states=frozenset({LOCK_NOT_AVAILABLE}),
            give_up_after_s=min(self._options.patience_s, max(0.0, self._remaining_s)),
            longest_wait_s=2.0,
        )

    def _in_thread(self, task: Task) -> None:
        """Run the statement where Ctrl-C and the end of the window can reach it.

        Raises:
            _WindowOverError: it was cancelled, because the window is over.
            psycopg.Error: as the statement does.
        """
        failures: list[BaseException] = []

        def body() -> None:
            try:
                self._worker.execute(task.step.sql[0].encode())
            except BaseException as error:  # noqa: BLE001 because it is raised again in the caller's thread
                failures.append(error)

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        is_over = False
        try:
            while thread.is_alive():
                thread.join(LOOK_S)
                if not thread.is_alive():
                    break
                self._tell(task)
                if self._remaining_s <= 0:
                    is_over = True
                    break
        except BaseException:
            with deferred():
                self._cancel(thread)
                self._clean_after(task)
            raise
        if is_over:
            self._cancel(thread)
        if failures:
            if is_over and isinstance(failures[0], psycopg.errors.QueryCanceled):
                raise _WindowOverError from failures[0]
            raise failures[0]

    def _tell(self, task: Task) -> None:
        phase, done, total = progress_of(self._watcher, self._worker.info.backend_pid)
        self._watch(Progress(table=str(task.target), phase=task.kind, done=done, total=total, unit="pages", note=phase))

    def _cancel(self, thread: threading.Thread) -> None:
        until = time.monotonic() + CANCEL_S
        while thread.is_alive() and time.monotonic() < until:
            # Again and again: the statement may not have begun.
            with contextlib.suppress(psycopg.Error):  # it is gone, and the statement with it
                self._worker.cancel_safe(timeout=2.0)
            thread.join(0.5)
        if thread.is_alive():
            self._worker.close()

    def _clean_after(self, task: Task) -> None:
        """Drop what a rebuild that did not end has left; what cannot be dropped now, the next run drops."""
        if task.kind != "reindex" or self.is_lost:
            return
        self._worker.execute(ddl.settings([("lock_timeout", f"{CLEAN_S * 1000:.0f}")]))
        for each in read_leftovers(self._watcher, task.table_oid):
            if each.is_in_work:
                continue
            try:
                self._worker.execute(ddl.drop(each.qname))
            except psycopg.Error as error:
                if self.is_lost:
                    raise
                reason = f"REINDEX left it, and it could not be dropped: {' '.join(str(error).split())}"
                self.left.append(Left(subject=str(each.qname), check="indexes.invalid", reason=reason))


class _WindowOverError(Exception):
    """The statement was cancelled because the window is over."""


def describe(tasks: Sequence[Task]) -> str:
    """Return `3 tasks, about 12 min 0 s`."""
    total = sum(task.estimate_s for task in tasks)
    return f"{len(tasks)} {'task' if len(tasks) == 1 else 'tasks'}, about {format_duration(total)}"
