"""Decide what is done, in which order, and what is left alone. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg import sql

from pgscale.core.model import Step, quote_ident
from pgscale.core.units import format_duration
from pgscale.doctor.maintenance import ddl
from pgscale.doctor.maintenance.history import History
from pgscale.doctor.maintenance.model import Kind, Left, Leftover, MaintenancePlan, Target, Task, Want
from pgscale.doctor.maintenance.pace import PACES, estimate_s
from pgscale.livecopy.throttle import Pace

# What was done so lately and is still needed was done in vain.
VACUUM_AGAIN_S, REINDEX_AGAIN_S = 3_600.0, 7 * 86_400.0
# ANALYZE reads 300 rows for each unit of the statistics target, 100 by default, a page each at most.
ANALYZED_PAGES = 30_000
_LOCK = "SHARE UPDATE EXCLUSIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a plan depends on beside what is needed.

    Args:
        version: as server_version_num.
        page_cost: what VACUUM counts for a page that is read and changed.
        only: the kinds that are asked for.
        now: by this machine's clock.
    """

    version: int
    block_bytes: int
    page_cost: float
    pace: Pace
    only: Collection[Kind]
    now: datetime


def plan_maintenance(
    wants: Sequence[Want],
    targets: Mapping[int, Target],
    leftovers: Iterable[Leftover],
    history: History,
    given: Circumstances,
    notes: Sequence[str] = (),
) -> MaintenancePlan:
    """Return one task a table or index, the most urgent first: cleaning, freezing, VACUUM, ANALYZE, REINDEX."""
    tasks: list[Task] = []
    left: list[Left] = []
    for leftover in leftovers if "clean" in given.only else ():
        target = targets.get(leftover.oid)
        if target is None:
            continue
        reason = _clean_not(leftover, target)
        if reason:
            left.append(Left(subject=str(leftover.qname), check="indexes.invalid", reason=reason))
        else:
            tasks.append(_clean(leftover, target, history, given))
    by_table: dict[int, list[Want]] = {}
    for want in wants:
        target = targets.get(want.oid)
        if target is None or want.kind not in given.only:
            continue
        reason = _not_now(want, target, history, given)
        if reason:
            left.append(Left(subject=_subject(target), check=want.check, reason=reason))
        elif want.kind == "reindex":
            tasks.append(_reindex(want, target, history, given))
        else:
            by_table.setdefault(target.table_oid, []).append(want)
    tasks += [_of_table(some, targets, history, given) for some in by_table.values()]
    order: tuple[Kind, ...] = ("clean", "freeze", "vacuum", "analyze", "reindex")
    tasks.sort(key=lambda task: order.index(task.kind))
    return MaintenancePlan(tasks=tuple(tasks), left=tuple(dict.fromkeys(left)), notes=tuple(notes))


def _subject(target: Target) -> str:
    return f"TOAST of {target.table}" if target.is_toast else str(target.qname)


def _clean_not(leftover: Leftover, target: Target) -> str:
    if leftover.is_in_work:
        return "somebody works on the indexes of its table"
    if not target.may_drop:
        return f"its table belongs to role {target.owner}"
    # Of a TOAST table: its schema is the superusers'.
    return "" if target.may_look else f"this role may not look into schema {quote_ident(target.table_schema)}"


def _not_now(want: Want, target: Target, history: History, given: Circumstances) -> str:
    """Say why something that is needed is left alone; nothing when it is not."""
    if target.has_run:
        return f"pgscale partition is at work on {target.table}"
    if want.busy_with is not None:
        return f"process {want.busy_with} is vacuuming it"
    if not target.may_look:
        return f"this role may not look into schema {quote_ident(target.table_schema)}"
    if not (target.may_reindex if want.kind == "reindex" else target.may_vacuum):
        grant = f", and GRANT MAINTAIN ON {target.table} was not given" if given.version >= 170000 else ""
        return f"it belongs to role {target.owner}{grant}"
    return _in_vain(want, target, history, given)


def _in_vain(want: Want, target: Target, history: History, given: Circumstances) -> str:
    """Say so when it was done lately and is needed all the same."""
    is_index = want.kind == "reindex"
    ago = history.ago_s(f"{want.kind} {target.qname if is_index else target.table}", given.now)
    if want.kind == "analyze" or ago is None or ago >= (REINDEX_AGAIN_S if is_index else VACUUM_AGAIN_S):
        return ""
    if is_index:
        return f"it was rebuilt {format_duration(ago)} ago, and that did not help: the estimate may be wrong for it"
    return (
        f"it was vacuumed {format_duration(ago)} ago, and that did not help:"
        " look who holds VACUUM back with pgscale doctor --only horizon"
    )


def _task(
    kind: Kind, statement: sql.Composed, title: str, target: Target, want: tuple[str, str], pages: int,
    history: History, given: Circumstances, *, room_pages: int = 0,
) -> Task:  # fmt: skip
    check, why = want
    size = pages * given.block_bytes
    allowed = PACES[given.pace].bytes_per_s(given.page_cost, given.block_bytes)
    step = Step(
        id=f"{kind} {target.oid}",
        title=title,
        kind=kind,
        sql=(statement.as_string(None),),
        lock=_LOCK,
        longest_wait="none: reads and writes go on",
        undo=(),
        reason=f"{check}: {why}",
    )
    return Task(
        kind=kind,
        step=step,
        target=target.table if kind in ("freeze", "vacuum", "analyze") else target.qname,
        table=target.table,
        table_oid=target.table_oid,
        check=check,
        why=why,
        bytes=size,
        estimate_s=estimate_s(kind, size, history.rate(kind, given.pace), allowed),
        room_bytes=room_pages * given.block_bytes,
    )


def _clean(leftover: Leftover, target: Target, history: History, given: Circumstances) -> Task:
    why = f"REINDEX CONCURRENTLY left it; the index in use is {leftover.twin}"
    return _task(
        "clean", ddl.drop(leftover.qname), f"drop {leftover.qname}", target, ("indexes.invalid", why),
        leftover.pages, history, given,
    )  # fmt: skip


def _reindex(want: Want, target: Target, history: History, given: Circumstances) -> Task:
    return _task(
        "reindex", ddl.reindex(target.qname), f"rebuild {target.qname}", target, (want.check, want.why),
        # The table is read twice: to build, and to look for what was written meanwhile.
        2 * target.table_pages + target.pages, history, given, room_pages=target.pages,
    )  # fmt: skip


def _of_table(wants: list[Want], targets: Mapping[int, Target], history: History, given: Circumstances) -> Task:
    """One VACUUM or ANALYZE for all that a table and its TOAST table need."""
    target = targets[wants[0].oid]
    kinds = {want.kind for want in wants}
    said = list(dict.fromkeys(want.check for want in wants))
    why = "; ".join(dict.fromkeys(f"{'TOAST: ' if targets[want.oid].is_toast else ''}{want.why}" for want in wants))
    only_toast = given.version >= 160000 and all(targets[want.oid].is_toast for want in wants)
    analyzes = "analyze" in kinds
    if kinds == {"analyze"}:
        pages = min(target.table_pages, ANALYZED_PAGES)
        return _task(
            "analyze", ddl.analyze(target.table), f"analyze {target.table}", target, (", ".join(said), why), pages,
            history, given,
        )  # fmt: skip
    kind: Kind = "freeze" if "freeze" in kinds else "vacuum"
    pages = target.toast_pages if only_toast else target.table_pages + target.index_pages + target.toast_pages
    statement = ddl.vacuum(target.table, freeze=kind == "freeze", analyze=analyzes, only_toast=only_toast)
    title = f"{'freeze' if kind == 'freeze' else 'vacuum'} {target.table}"
    return _task(kind, statement, title, target, (", ".join(said), why), pages, history, given)
