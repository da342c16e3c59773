"""Execute a MirrorPlan step by step; every step can be killed before, inside and after, and run again."""

from __future__ import annotations

from pgscale.catalog import reader as catalog
from pgscale.connect.session import Session
from pgscale.core.killing import kill_point
from pgscale.core.model import QName, Watch
from pgscale.errors import RunFailedError
from pgscale.livecopy import ddl
from pgscale.livecopy.applier import Applier
from pgscale.livecopy.model import Pair
from pgscale.partition.copying import CopyRun
from pgscale.partition.model import MirrorPlan
from pgscale.partition.refresh import compute_matviews


class Runner(CopyRun[MirrorPlan]):
    """One process's part in one run. The caller owns the run's advisory lock through `owner`."""

    def __init__(self, dsn: str, plan: MirrorPlan, run_id: int, owner: Session, watch: Watch) -> None:
        leaves = tuple(QName(schema=plan.table.schema, name=leaf.name) for leaf in plan.leaves)
        super().__init__(dsn, plan, run_id, owner, watch, leaves=leaves)

    def _before_swap(self, applier: Applier) -> None:
        self._refresh(applier, self.pair, [(p.live, p.staged) for p in self.plan.matviews])

    def _before_undo(self, applier: Applier, done: frozenset[str]) -> None:
        del done
        # The old ones are kept as they were at the swap.
        self._refresh(applier, self.plan.reverse, [(p.live, p.retained) for p in self.plan.matviews])

    def _refresh(self, applier: Applier, pair: Pair, names: list[tuple[QName, QName]]) -> None:
        """Compute what will be put in place, as late as can be without a lock. Not in the ledger: it goes stale."""
        if not names:
            return
        kill_point("before:refresh")
        self._phase("refresh")
        applier.catch_up("refresh")
        compute_matviews(self.work, pair, names)
        kill_point("after:refresh")

    def _check_before_swap(self, session: Session) -> None:
        self._check_capture(session, (self.plan.table,), 4)
        self._check_definition(session, self.plan.fingerprint)

    def _check_before_undo(self, session: Session) -> None:
        """Refuse to go back where the partitioned table is no longer what was put in place."""
        self._check_columns(session)
        self._check_capture(session, (self.plan.table, *self.leaves), 3 + 4 * len(self.leaves))
        self._check_new_table(session)

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
