"""Make the scratch copy, partition it for real, measure, drop it, and say what the whole table would take.

The table itself is only read, by short transactions; its writers wait for nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cattrs
import psycopg

from pgscale.catalog import reader as catalog
from pgscale.catalog.model import TableFacts
from pgscale.connect.dsn import resolve_dsn
from pgscale.connect.pooler import refuse_transaction_pooling
from pgscale.connect.session import CONTROL, READER, WORKER, Session, open_session
from pgscale.core.killing import kill_point
from pgscale.core.model import Progress, QName, Watch, ignore_progress
from pgscale.core.units import format_bytes
from pgscale.errors import InterruptedRunError, RefusedError
from pgscale.ledger import store
from pgscale.ledger.store import RunRow
from pgscale.livecopy.rate import Rate
from pgscale.livecopy.sampler import HoldLimits, Sampler
from pgscale.livecopy.throttle import PACES, Throttle
from pgscale.livecopy.work import Telling, Work, execute, progress, tid
from pgscale.partition import actions, evidence
from pgscale.partition.estimate import GUESSED_ROW_BYTES, MeasuredCopy, estimate
from pgscale.partition.failures import translated
from pgscale.partition.model import MirrorPlan, Options, RunResult
from pgscale.partition.records import BEFORE_CUTOVER
from pgscale.partition.rehearsal import ddl
from pgscale.partition.rehearsal.model import LEAST_COPY_S, Amount, Rehearsal, RehearsedPhase, scratch_of
from pgscale.partition.strategies import strategy_of

# Rows of neighbouring pages are alike, so the share is taken from many places; fewer would make it less even.
CHUNK_PAGES = 32
UNIQUENESS = frozenset({"23505", "23P01"})


@translated
def rehearse(
    dsn: str | None,
    table: str,
    options: Options,
    watch: Watch = ignore_progress,
    *,
    amount: Amount | None = None,
    keep: bool = True,
) -> Rehearsal:
    """Partition a share of the table's rows in a schema of its own, with the whole of the mirror strategy.

    Args:
        amount: by default one hundredth of the pages.
        keep: leave what was measured in the ledger, where `plan` finds it until the table's run is finished.

    Raises:
        RefusedError: what a run of the table itself would refuse too, or another rehearsal of it is at work;
        UsageError, ConnectError, PermissionDeniedError, RunFailedError, InterruptedRunError.

    Locks on the table: ACCESS SHARE, for one chunk at a time.
    """
    dsn = resolve_dsn(dsn)
    options = replace(options, cutover=True)
    with open_session(dsn, READER) as session:
        oid, _ = catalog.find_table(session, table)
        made = strategy_of(options.strategy).make_plan(session, oid, options)
        facts = catalog.read_table(session, oid)
        hint_bits = evidence.logs_hint_bits(session)
    if not isinstance(made, MirrorPlan):
        raise RefusedError(
            f"The strategy {made.strategy} cannot be rehearsed: it is no matter of copying.",
            consequence="Nothing was changed.",
        )
    refuse_transaction_pooling(dsn)
    with open_session(dsn, CONTROL.as_role(made.owner)) as owner:
        if not store.try_rehearse(owner, oid):
            raise RefusedError(
                f"Another process is rehearsing {facts.table.qname}.", consequence="Nothing was changed."
            )
        stage = _Stage(dsn=dsn, owner=owner, facts=facts, plan=made, watch=watch)
        stage.leftovers = stage.clear()
        try:
            found = stage.perform(amount or Amount(share=0.01), hint_bits=hint_bits)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"The rehearsal of {facts.table.qname} was interrupted.", consequence="Its scratch copy is gone."
            ) from None
        finally:
            stage.clear()
        if keep and not found.doubt:
            with owner.transaction():
                store.lock_ledger(owner)
                store.create(owner)
                store.execute(owner, "note_rehearsal", oid=oid, outcome=pack(found.measured))
            return replace(found, stored=True)
        return found


def pack(measured: MeasuredCopy) -> str:
    """Return the figures as the ledger keeps them."""
    return json.dumps(cattrs.Converter().unstructure(measured))


@dataclass(kw_only=True)
class _Stage:
    """One rehearsal. `owner` holds its advisory lock."""

    dsn: str
    owner: Session
    facts: TableFacts
    plan: MirrorPlan
    watch: Watch
    leftovers: tuple[str, ...] = ()
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def scratch(self) -> QName:
        return scratch_of(self.facts.table.oid, self.facts.table.name)

    def perform(self, amount: Amount, *, hint_bits: bool) -> Rehearsal:
        facts, options = self.facts, self.plan.options
        rows = round(facts.table.reltuples)
        if rows < 0:
            rows = facts.table.heap_bytes // GUESSED_ROW_BYTES
        share = amount.share_of(rows)
        self._say_what_it_needs(share)
        skipped = self._fill(share)
        kill_point("rehearse:filled")
        filled = self._read_scratch()
        meter = _Meter(self.watch, self.owner)
        result = self._run(meter)
        phases = meter.end()
        took = {p.name: p.took_s for p in phases}
        measured = MeasuredCopy(
            table=str(facts.table.qname),
            heap_bytes=max(1, filled.table.heap_bytes + filled.table.toast_bytes),
            took_s=max(took.get("copy", 0.0), 1e-3),
            pace=options.pace,
            workers=options.workers or PACES[options.pace].workers,
            rows=result.rows_copied,
            index_s=took.get("index"),
            verify_s=took.get("verify"),
            wal_bytes=sum(p.wal_bytes for p in phases),
            rehearsed=True,
        )
        return Rehearsal(
            table=str(facts.table.qname),
            options=options,
            share=share,
            rows=result.rows_copied,
            heap_bytes=measured.heap_bytes,
            index_bytes=filled.table.index_bytes,
            partitions=len(self.plan.leaves),
            skipped_chunks=skipped,
            phases=phases,
            blocked_ms=result.blocked_ms,
            leftovers=self.leftovers,
            measured=measured,
            estimate=estimate(facts, options, len(self.plan.leaves), measured=measured, logs_hint_bits=hint_bits),
            stored=False,
            doubt=_doubt(measured),
        )

    def _say_what_it_needs(self, share: float) -> None:
        """The scratch copy, the copy of the copy, and the WAL of both."""
        whole = self.facts.table.heap_bytes + self.facts.table.toast_bytes + self.facts.table.index_bytes
        self._tell("fill", f"needs up to {format_bytes(2 * whole * share)} of disk, and as much again of WAL")

    def _tell(self, phase: str, note: str) -> None:
        self.watch(Progress(table=str(self.facts.table.qname), phase=phase, note=note))

    def _fill(self, share: float) -> int:
        """Copy evenly spread page ranges, one short transaction each; return how many were left out."""
        options, table = self.plan.options, self.facts.table
        for statement in ddl.create(self.facts, self.scratch):
            execute(self.owner, statement)
        kill_point("rehearse:created")
        work = Work(
            dsn=self.dsn,
            role=self.plan.owner,
            oid=table.oid,
            run_id=0,
            stop=self.stop,
            throttle=Throttle(options.pace, options.chunk_target_s, options.workers),
            tell=Telling(self.watch, str(table.qname)),
            table=str(table.qname),
        )
        pages = table.heap_bytes // table.block_bytes
        ranges = spread(pages, share)
        skipped, rate, statement = 0, Rate(), ddl.fill(self.facts, self.scratch)
        try:
            with Sampler(work, HoldLimits(replica_lag_s=options.max_replica_lag_s)), work.open(WORKER) as session:
                work.throttle.listen(self.stop)
                for number, (first, last) in enumerate(ranges, 1):
                    work.throttle.wait(self.stop)
                    started = time.monotonic()
                    try:
                        execute(session, statement, tid(first), tid(last))
                    except psycopg.IntegrityError as error:
                        # A row that was updated between two chunks can come twice. A share needs not every row.
                        if error.sqlstate not in UNIQUENESS:
                            raise
                        skipped += 1
                    progress(work, "fill", number, len(ranges), rate, unit="items")
                    work.throttle.worked(started, self.stop)
                execute(session, ddl.analyze(self.scratch))
        finally:
            self.stop.set()
            work.close()
        return skipped

    def _read_scratch(self) -> TableFacts:
        with open_session(self.dsn, READER) as session:
            return catalog.read_table(session, catalog.find_table(session, str(self.scratch))[0])

    def _run(self, watch: Watch) -> RunResult:
        result = actions.run(self.dsn, str(self.scratch), self.plan.options, watch)
        kill_point("rehearse:run")
        return result

    def clear(self) -> tuple[str, ...]:
        """Remove what is left of a rehearsal of this table, in whatever state its run is; return what there was."""
        found: list[str] = []
        for row in store.read_runs(self.owner):
            if row.table_schema == self.scratch.schema:
                self._end(row)
        there = self.owner.execute(
            "SELECT n.nspname::text FROM pg_catalog.pg_namespace n WHERE n.nspname = %s", (self.scratch.schema,)
        ).fetchone()
        if there is not None:
            found.append(self.scratch.schema)
            execute(self.owner, ddl.drop_schema(self.scratch.schema))
        return tuple(found)

    def _end(self, row: RunRow) -> None:
        name = str(QName(schema=row.table_schema, name=row.table_name))
        if row.state in BEFORE_CUTOVER:
            actions.abort(self.dsn, name)
        elif row.state == "cut-over":
            try:
                actions.finish(self.dsn, name)
            except RefusedError:
                # Killed between the cut-over and its last step: that first.
                actions.resume(self.dsn, name)
                actions.finish(self.dsn, name)
        else:
            actions.resume(self.dsn, name)


def spread(pages: int, share: float) -> list[tuple[int, int]]:
    """Return ranges of neighbouring pages, evenly over the table, that together are this share of it."""
    wanted = min(pages, max(1, round(pages * share)))
    count = -(-wanted // CHUNK_PAGES)
    ranges: list[tuple[int, int]] = []
    for number in range(count):
        first = pages * number // count
        size = wanted * (number + 1) // count - wanted * number // count
        ranges.append((first, min(first + size, pages * (number + 1) // count)))
    return ranges


def _doubt(measured: MeasuredCopy) -> str:
    if measured.took_s < LEAST_COPY_S:
        return (
            f"the copy of {format_bytes(measured.heap_bytes)} took {measured.took_s * 1000:.0f} ms, which is too short"
            " to tell of the whole table; rehearse more rows"
        )
    return ""


class _Meter:
    """A watcher that notes, at every change of phase, the time and the server's WAL position."""

    def __init__(self, watch: Watch, session: Session, clock: Callable[[], float] = time.monotonic) -> None:
        self._watch, self._session, self._clock = watch, session, clock
        self._phase, self._at, self._wal = "", clock(), self._position()
        self._found: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def _position(self) -> int:
        row = self._session.execute(
            "SELECT (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::int8"
        ).fetchone()
        assert row is not None
        return int(row[0])

    def _turn(self, phase: str) -> None:
        now, wal = self._clock(), self._position()
        if self._phase:
            took_s, written = self._found.get(self._phase, (0.0, 0))
            self._found[self._phase] = (took_s + now - self._at, written + wal - self._wal)
        self._phase, self._at, self._wal = phase, now, wal

    def __call__(self, moment: Progress) -> None:
        with self._lock:
            if moment.phase not in ("waiting", self._phase):
                self._turn(moment.phase)
        self._watch(moment)

    def end(self) -> tuple[RehearsedPhase, ...]:
        with self._lock:
            self._turn("")
            return tuple(
                RehearsedPhase(name=name, took_s=took_s, wal_bytes=wal)
                for name, (took_s, wal) in self._found.items()
                if name != "done"
            )
