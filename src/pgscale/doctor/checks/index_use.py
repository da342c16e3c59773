"""Indexes that nobody uses, here or on a replica."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Well
from pgscale.core.model import QName
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.checks.holders import TRANSACTION_IDS, age_bounds_s
from pgscale.doctor.checks.partition_indexes import OWNER, how_dropped
from pgscale.doctor.facts import Facts, NotReadableError, Replica, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check
from pgscale.errors import ConnectError

SHOWN = 10
# The LIMIT of the query: the largest of them; where it is reached there may be more.
MOST_SELDOM_USED = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Counting:
    """Since when scans are counted, and on how many servers beside this one they happen."""

    counted_s: float | None
    standbys: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SeldomUsed:
    """An index that holds no constraint.

    Args:
        columns: by name; `(expression)` for one.
        scans: since the statistics were reset, of all partitions.
        unused_s: since its last scan, seconds; from 16 on; None when there was none.
        age_xids: since the index was made or altered, at least as old.
        written_rows: of its table, since the statistics were reset; not known of partitioned ones.
    """

    oid: int
    schema: str
    name: str
    table_name: str
    is_partitioned: bool
    columns: str
    is_partial: bool
    scans: int
    pages: int
    unused_s: float | None
    age_xids: int
    written_rows: int

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scans:
    """How a replica uses an index; those it never used are left out.

    Args:
        unused_s: since its last scan, seconds; from 16 on.
    """

    oid: int
    scans: int
    unused_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a replica said.

    Args:
        counted_s: since when it counts; None where `because` says why it said nothing.
        scans: by the OID of the index.
    """

    name: str
    counted_s: float | None
    scans: Mapping[int, Scans]
    because: str = ""

    def uses(self, index: SeldomUsed, unused_s: float) -> bool:
        found = self.scans.get(index.oid)
        return found is not None and (found.unused_s is None or found.unused_s < unused_s)


COUNTING = Section(area="indexes", query="counting", row=Counting)
SELDOM_USED = Section(area="indexes", query="unused", row=SeldomUsed)
SCANS = Section(area="indexes", query="scans", row=Scans)


def judge_unused(facts: Facts, limits: Limits) -> Answer:
    """Report large indexes that nobody has used for long enough."""
    if facts.server.is_in_recovery:
        raise NotReadableError(
            "a standby counts its own scans only", "Run it on the primary, and give it as --replica."
        )
    thresholds, page = limits.indexes, facts.server.block_bytes
    large = [each for each in facts.rows(SELDOM_USED) if each.pages * page >= thresholds.least_unused_bytes]
    size = format_bytes(thresholds.least_unused_bytes)
    if not large:
        return Well(f"No index that could go has {size} or more.")
    counting = facts.row(COUNTING)
    counted_s = counting.counted_s or 0.0
    unused: list[SeldomUsed] = []
    known_old: set[int] = set()
    for each in large:
        old_s, newest_s = age_bounds_s(facts, each.age_xids)
        known_s = counted_s if each.scans == 0 else each.unused_s or 0.0
        if min(known_s, newest_s if newest_s is not None else known_s) >= thresholds.unused_s:
            unused.append(each)
            known_old |= {each.oid} if old_s >= thresholds.unused_s else set()
    asked = [_ask(replica) for replica in facts.replicas]
    used_there = [each for each in unused if any(one.uses(each, thresholds.unused_s) for one in asked)]
    long = format_duration(thresholds.unused_s)
    left = [each for each in unused if each not in used_there]
    if left:
        is_known_old = all(each.oid in known_old for each in left)
        doubts = _doubts(counting, asked, thresholds.unused_s, is_known_old=is_known_old)
        return Findings((_unused(facts, counting, left, asked, doubts, long),))
    never = sum(each.scans == 0 for each in large)
    if never and counted_s < thresholds.unused_s:
        raise NotReadableError(
            f"scans are counted for {format_duration(counted_s)} only, and an index is called unused after {long}",
            "Wait, or set a shorter unused_s in [doctor.indexes] of pgscale.toml.",
        )
    on_replicas = f"; {len(used_there)} on replicas only" if used_there else ""
    return Well(f"No index of {size} or more has gone unused for {long}{on_replicas}.")


def _ask(replica: Replica) -> Asked:
    because = replica.because
    if replica.facts is not None:
        try:
            counted_s = replica.facts.row(COUNTING).counted_s or 0.0
            scans = {each.oid: each for each in replica.facts.rows(SCANS)}
            return Asked(name=replica.name, counted_s=counted_s, scans=scans)
        except NotReadableError as error:
            because = error.because
        except ConnectError as error:
            because = error.fact.rstrip(".")
    return Asked(name=replica.name, counted_s=None, scans={}, because=because)


def _doubts(counting: Counting, asked: list[Asked], unused_s: float, *, is_known_old: bool) -> list[str]:
    """Why one of them may be used nevertheless."""
    doubts: list[str] = []
    if not is_known_old:
        doubts.append(
            "PostgreSQL does not tell when an index was made; of those made lately this says nothing, and earlier runs"
            " do not go back far enough to know."
        )
    for one in asked:
        if one.counted_s is None:
            doubts.append(f"Replica {one.name} could not be asked, and may use them: {one.because}.")
        elif one.counted_s < unused_s:
            doubts.append(f"Replica {one.name} counts scans for {format_duration(one.counted_s)} only.")
    heard = sum(one.counted_s is not None for one in asked)
    if counting.standbys > heard:
        are = "standby is" if counting.standbys == 1 else "standbys are"
        ask = "name them with --replica" if not asked else f"{heard} answered"
        doubts.append(f"Scans on standbys are not counted here, and {counting.standbys} {are} connected: {ask}.")
    return doubts


def _unused(
    facts: Facts, counting: Counting, unused: list[SeldomUsed], asked: list[Asked], doubts: list[str], long: str
) -> Finding:
    page, count = facts.server.block_bytes, len(unused)
    total = sum(each.pages for each in unused) * page
    shown = unused[:SHOWN]
    at_least = "At least " if len(facts.rows(SELDOM_USED)) == MOST_SELDOM_USED else ""
    cost = (
        f"They take {format_bytes(total)}, and every row that is inserted, or updated otherwise than in place, makes"
        " an entry in each."
    )
    more = f" The {SHOWN} largest are shown." if count > SHOWN else ""
    heard = sum(one.counted_s is not None for one in asked)
    nor = f", nor on {format_count(heard, 'replica')}" if heard else ""
    return Finding(
        check=UNUSED.id,
        severity="info" if doubts else "warning",
        subject=str(unused[0].qname) if count == 1 else "",
        fact=f"{at_least}{count:,} {'index' if count == 1 else 'indexes'} of {format_bytes(total)}"
        f" {'was' if count == 1 else 'were'} not used for more than {long}{nor}.{more}",
        evidence={
            "indexes": count,
            "all_bytes": total,
            "scans_counted_for_s": counting.counted_s,
            "standbys": counting.standbys,
            "which": [
                {
                    "index": str(each.qname), "table": each.table_name, "columns": each.columns,
                    "partial": each.is_partial, "size_bytes": each.pages * page, "scans": each.scans,
                    "last_used_s": each.unused_s, "rows_written": None if each.is_partitioned else each.written_rows,
                }
                for each in shown
            ],
            "replicas": [
                {"replica": one.name, "scans_counted_for_s": one.counted_s, "not_asked_because": one.because or None}
                for one in asked
            ],
        },
        cost=" ".join((cost, *doubts)),
        remedies=(
            Remedy(
                text=ddl.drop_indexes([(each.qname, each.is_partitioned) for each in shown]),
                why="Shows their definitions, to keep, and drops them without blocking anybody"
                f"{how_dropped(each.is_partitioned for each in shown)}. {OWNER}",
            ),
        ),
    )  # fmt: skip


UNUSED = Check(
    id="indexes.unused",
    title="Unused indexes",
    question="Are there indexes that nobody uses?",
    about=(
        "An index is kept up at every write and takes memory and disk, whether or not anybody reads it. Reported are"
        " large ones without a scan since the statistics were reset (or, from 16 on, for long), of partitioned tables"
        " as a whole. Spared are unique ones and those of constraints, of replica identities, and those that serve a"
        " foreign key: they may be needed without ever being scanned. Scans on standbys are counted there only: name"
        " each with --replica, and what one of them uses is left alone. An index of an expression gives the planner"
        " statistics, too, used or not."
    ),
    source=(
        "PostgreSQL, The Cumulative Statistics System (pg_stat_all_indexes). 35 days include whatever runs once a"
        " month; since when scans are counted is the last reset, that of a crash included. The sizes are of the last"
        " VACUUM or ANALYZE; below 10 MB an index costs next to nothing."
    ),
    judge=judge_unused,
    reads=(SELDOM_USED, COUNTING, TRANSACTION_IDS, SCANS),
)

CHECKS = (UNUSED,)
