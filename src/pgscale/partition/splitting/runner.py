"""Execute a SplitPlan step by step; every step can be killed before, inside and after, and run again."""

from __future__ import annotations

from pgscale.connect.session import CONTROL, Session
from pgscale.core.killing import kill_point
from pgscale.core.model import QName, Watch
from pgscale.errors import RunFailedError
from pgscale.ledger import store
from pgscale.livecopy import ddl
from pgscale.livecopy.applier import Applier
from pgscale.partition.copying import CopyRun
from pgscale.partition.splitting.model import SplitPlan
from pgscale.partition.splitting.reader import columns_differ, read_oids, read_signature


class SplitRunner(CopyRun[SplitPlan]):
    """One process's part in one split. The caller owns the run's advisory lock through `owner`."""

    def __init__(self, dsn: str, plan: SplitPlan, run_id: int, owner: Session, watch: Watch) -> None:
        super().__init__(dsn, plan, run_id, owner, watch, leaves=tuple(p.staged for p in plan.pieces))

    def _check_before_swap(self, session: Session) -> None:
        plan = self.plan
        self._check_capture(session, (plan.parent, plan.table), 3 + 4)
        self._check_definition(session, plan.fingerprint)
        if read_signature(session, plan.parent_oid, (plan.table_oid,), every=plan.watches_all) != plan.signature:
            raise RunFailedError(
                f"{plan.parent} was changed while {plan.table} was being divided: its columns, constraints, indexes,"
                " or its DEFAULT partition.",
                consequence="The new partitions may no longer fit; the table itself is unharmed.",
                hint="`pgscale partition abort`, then split again.",
            )

    def _mark_cutover(self, session: Session) -> None:
        """The rows are the parent's from now on; the ledger knows the run by both oids."""
        store.execute(session, "set_new_oid", run_id=self.work.run_id, name=ddl.text(ddl.qualified(self.plan.parent)))
        self._mark(session, "cutover", state="cut-over")

    def _remember_new_table(self) -> None:
        with self.work.session(CONTROL) as session:
            row = next(r for r in store.read_runs(session) if r.run_id == self.work.run_id)
            if row.new_fingerprint is None:
                fingerprint = self._fingerprint(session)
                store.execute(session, "set_new_fingerprint", run_id=self.work.run_id, fingerprint=fingerprint)

    def _names(self) -> tuple[QName, ...]:
        return tuple(p.name for p in self.plan.pieces)

    def _fingerprint(self, session: Session) -> str:
        """Return a digest of the parent and of each new partition."""
        oids = read_oids(session, self._names())
        return read_signature(session, self.plan.parent_oid, oids, every=self.plan.watches_all)

    def _before_undo(self, applier: Applier, done: frozenset[str]) -> None:
        """Prove what lets the retained partition be attached again without a scan under the lock."""
        del applier
        for number, statements in enumerate(self.plan.undo_before):
            step_id = f"undo_before:{number}"
            if step_id not in done:
                self._phase("prepare", "prove where the old partition belongs")
                self._locked(statements, "prove where the old partition belongs", mark=step_id)
                kill_point(f"after:{step_id}")

    def _check_before_undo(self, session: Session) -> None:
        """Refuse to go back where the new partitions are no longer what was put in place."""
        plan = self.plan
        if columns_differ(session, plan.parent, plan.retained):
            raise RunFailedError(
                f"The columns of {plan.parent} were changed since the cut-over.",
                consequence="The old partition has no place for them, so it stays retired; nothing was changed.",
                hint="Change the columns back, or keep the new partitions and `pgscale partition finish`.",
            )
        names = self._names()
        self._check_capture(session, (plan.parent, *names), 3 + 4 * len(names))
        row = next(r for r in store.read_runs(session) if r.run_id == self.work.run_id)
        if row.new_fingerprint is not None and self._fingerprint(session) != row.new_fingerprint:
            raise RunFailedError(
                f"The definition of {plan.parent} or of its new partitions was changed since the cut-over.",
                consequence="Going back would lose that, so nothing was changed.",
                hint="Take that change back, or keep the new partitions and `pgscale partition finish`.",
            )
