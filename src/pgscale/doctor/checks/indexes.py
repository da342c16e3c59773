"""Indexes that could go or must be made again: unused, redundant, invalid."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well
from pgscale.core.model import Json, QName
from pgscale.core.units import format_bytes, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.checks.holders import TRANSACTION_IDS, age_bounds_s
from pgscale.doctor.checks.partition_indexes import PARTITIONS, complete_index
from pgscale.doctor.facts import Facts, NotReadableError, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check

SHOWN = 10
# The LIMIT of the queries: the largest of them; where it is reached there may be more.
MOST_SELDOM_USED, MOST_PAIRS = 500, 1000
OWNER = "The owner of the table may."


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
class Pair:
    """Two indexes of a table, of which one answers nothing that the other (`more`) does not.

    Args:
        is_duplicate: they have the same key; else it is the beginning of the other's.
        constraint_name: of the UNIQUE constraint it stands for.
    """

    oid: int
    more_oid: int
    schema: str
    name: str
    table_schema: str
    table_name: str
    is_partitioned: bool
    more: str
    columns: str
    is_partial: bool
    is_duplicate: bool
    is_unique: bool
    more_is_unique: bool
    more_columns: int
    constraint_name: str | None
    more_is_constraint: bool
    scans: int
    pages: int

    @property
    def table(self) -> QName:
        return QName(schema=self.table_schema, name=self.table_name)

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)

    @property
    def may_go(self) -> bool:
        """A constraint gives way to another constraint only."""
        return self.constraint_name is None or self.more_is_constraint

    @property
    def gives_way(self) -> bool:
        """Which of two goes when either could: not the constraint, not the unique one, not the older."""
        mine = (self.constraint_name is not None, self.is_unique, -self.oid)
        return mine < (self.more_is_constraint, self.more_is_unique, -self.more_oid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invalid:
    """An index that no query may use.

    Args:
        is_written: writes keep it up nevertheless.
        columns: None stands for an expression.
        is_plain: columns and nothing else: B-tree, ascending, default operator classes, no predicate, no INCLUDE.
        is_in_work: somebody holds a lock on it or its table as those do who make, rebuild or drop an index.
    """

    schema: str
    name: str
    table_schema: str
    table_name: str
    table_oid: int
    oid: int
    is_partitioned: bool
    is_toast: bool
    is_unique: bool
    is_written: bool
    pages: int
    columns: list[str | None]
    is_constraint: bool
    is_plain: bool
    is_in_work: bool

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)

    @property
    def table(self) -> QName:
        return QName(schema=self.table_schema, name=self.table_name)

    @property
    def kind(self) -> str:
        if self.is_partitioned:
            return "not attached on every partition"
        if re.search(r"_ccnew\d*$", self.name):
            return "the new one of a REINDEX CONCURRENTLY that failed"
        if re.search(r"_ccold\d*$", self.name):
            return "the old one of a REINDEX CONCURRENTLY that was interrupted"
        return "a CREATE or DROP INDEX CONCURRENTLY that failed"

    @property
    def is_leftover(self) -> bool:
        return "REINDEX" in self.kind


COUNTING = Section(area="indexes", query="counting", row=Counting)
SELDOM_USED = Section(area="indexes", query="unused", row=SeldomUsed)
PAIRS = Section(area="indexes", query="redundant", row=Pair)
INVALID = Section(area="indexes", query="invalid", row=Invalid)


# Unused


def judge_unused(facts: Facts, limits: Limits) -> Answer:
    """Report large indexes that nobody has used for long enough."""
    if facts.server.is_in_recovery:
        raise NotReadableError("a standby counts its own scans only", "Run it on the primary.")
    thresholds, page = limits.indexes, facts.server.block_bytes
    large = [each for each in facts.rows(SELDOM_USED) if each.pages * page >= thresholds.least_unused_bytes]
    size = format_bytes(thresholds.least_unused_bytes)
    if not large:
        return Well(f"No index that could go has {size} or more.")
    counting = facts.row(COUNTING)
    counted_s = counting.counted_s or 0.0
    unused: list[SeldomUsed] = []
    known_old = 0
    for each in large:
        old_s, newest_s = age_bounds_s(facts, each.age_xids)
        known_s = counted_s if each.scans == 0 else each.unused_s or 0.0
        if min(known_s, newest_s if newest_s is not None else known_s) >= thresholds.unused_s:
            unused.append(each)
            known_old += old_s >= thresholds.unused_s
    long = format_duration(thresholds.unused_s)
    if unused:
        return Findings((_unused(facts, counting, unused, known_old, long),))
    never = sum(each.scans == 0 for each in large)
    if never and counted_s < thresholds.unused_s:
        raise NotReadableError(
            f"scans are counted for {format_duration(counted_s)} only, and an index is called unused after {long}",
            "Wait, or set a shorter unused_s in [doctor.indexes] of pgscale.toml.",
        )
    return Well(f"No index of {size} or more has gone unused for {long}.")


def _unused(facts: Facts, counting: Counting, unused: list[SeldomUsed], known_old: int, long: str) -> Finding:
    page, count = facts.server.block_bytes, len(unused)
    total = sum(each.pages for each in unused) * page
    shown = unused[:SHOWN]
    at_least = "At least " if len(facts.rows(SELDOM_USED)) == MOST_SELDOM_USED else ""
    cost = (
        f"They take {format_bytes(total)}, and every row that is inserted, or updated otherwise than in place, makes"
        " an entry in each."
    )
    doubts: list[str] = []
    if known_old < count:
        doubts.append(
            "PostgreSQL does not tell when an index was made; of those made lately this says nothing, and earlier runs"
            " do not go back far enough to know."
        )
    if counting.standbys:
        are = "standby is" if counting.standbys == 1 else "standbys are"
        doubts.append(f"Scans on standbys are not counted here, and {counting.standbys} {are} connected: ask there.")
    more = f" The {SHOWN} largest are shown." if count > SHOWN else ""
    return Finding(
        check=UNUSED.id,
        severity="info" if doubts else "warning",
        subject=str(unused[0].qname) if count == 1 else "",
        fact=f"{at_least}{count:,} {'index' if count == 1 else 'indexes'} of {format_bytes(total)}"
        f" {'was' if count == 1 else 'were'} not used for more than {long}.{more}",
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
        },
        cost=" ".join((cost, *doubts)),
        remedies=(
            Remedy(
                text=ddl.drop_indexes([(each.qname, each.is_partitioned) for each in shown]),
                why=f"Shows their definitions, to keep, and drops them without blocking anybody{_locked(shown)}."
                f" {OWNER}",
            ),
        ),
    )  # fmt: skip


def _locked(indexes: list[SeldomUsed] | list[Pair]) -> str:
    """What cannot be done without a lock."""
    if not any(each.is_partitioned for each in indexes):
        return ""
    return "; those of partitioned tables under ACCESS EXCLUSIVE, for which they wait 2 s at most"


# Redundant


def judge_redundant(facts: Facts, limits: Limits) -> Answer:
    """Report indexes that answer nothing that another of their table does not."""
    pairs = [pair for pair in facts.rows(PAIRS) if pair.may_go]
    either = {(pair.oid, pair.more_oid) for pair in pairs}
    going = [pair for pair in pairs if (pair.more_oid, pair.oid) not in either or pair.gives_way]
    gone = {pair.oid for pair in going}
    # For each the one that stays; an exact double says more than a longer one.
    chosen: dict[int, Pair] = {}
    for pair in sorted(going, key=lambda each: (not each.is_duplicate, each.more_columns)):
        if pair.more_oid not in gone:
            chosen.setdefault(pair.oid, pair)
    page, least = facts.server.block_bytes, limits.indexes.least_redundant_bytes
    found = sorted(
        (pair for pair in chosen.values() if pair.pages * page >= least),
        key=lambda each: (each.is_duplicate, each.pages),
        reverse=True,
    )
    if not found:
        size = f" of {format_bytes(least)} or more" if least else ""
        return Well(f"No index{size} repeats another.")
    total = sum(pair.pages for pair in found) * page
    duplicates = sum(pair.is_duplicate for pair in found)
    shown = found[:SHOWN]
    at_least = "at least " if len(facts.rows(PAIRS)) == MOST_PAIRS else ""
    parts = [f"{duplicates} {'has' if duplicates == 1 else 'have'} the same key as another"] * bool(duplicates)
    rest = len(found) - duplicates
    parts += [f"{rest} {'is' if rest == 1 else 'are'} the beginning of a longer one"] * bool(rest)
    finding = Finding(
        check=REDUNDANT.id,
        severity="warning" if duplicates else "info",
        subject=str(found[0].qname) if len(found) == 1 else "",
        fact=f"Of the indexes, {at_least}{' and '.join(parts)}: {format_bytes(total)} for nothing."
        + (f" The {SHOWN} largest are shown." if len(found) > SHOWN else ""),
        evidence={
            "indexes": len(found),
            "all_bytes": total,
            "which": [
                {
                    "index": str(pair.qname), "repeats": pair.more, "table": str(pair.table), "columns": pair.columns,
                    "partial": pair.is_partial, "same_key": pair.is_duplicate, "size_bytes": pair.pages * page,
                    "scans": pair.scans,
                }
                for pair in shown
            ],
        },
        cost="Each is kept up at every write and takes memory from the other; what it finds, the other finds.",
        remedies=_drop(shown),
    )  # fmt: skip
    return Findings((finding,))


def _drop(pairs: list[Pair]) -> tuple[Remedy, ...]:
    indexes = [pair for pair in pairs if pair.constraint_name is None]
    texts = [ddl.drop_indexes([(pair.qname, pair.is_partitioned) for pair in indexes])] if indexes else []
    texts += [ddl.drop_constraint(pair.table, pair.constraint_name) for pair in pairs if pair.constraint_name]
    why = f"Shows their definitions, to keep, and drops them without blocking anybody{_locked(indexes)}."
    if len(indexes) < len(pairs):
        constraints = "Constraints are dropped under ACCESS EXCLUSIVE, for which it waits 2 s at most."
        why = f"{why} {constraints}" if indexes else constraints
    return (Remedy(text="\n".join(texts), why=f"{why} {OWNER}"),)


# Invalid


def judge_invalid(facts: Facts, limits: Limits) -> Answer:
    """Report indexes that are kept up but never used, or lie there for nothing."""
    del limits
    rows = facts.rows(INVALID)
    found = [row for row in rows if not row.is_in_work]
    if not found:
        if rows:
            one = len(rows) == 1
            return Well(f"{len(rows)} {'index is' if one else 'indexes are'} not valid yet and being worked on.")
        return Well("Every index is valid.")
    page, shown = facts.server.block_bytes, found[:SHOWN]
    count = len(found)
    severity: Severity = "warning"
    evidence: dict[str, Json] = {
        "which": [
            {
                "index": str(row.qname), "table": str(row.table), "unique": row.is_unique, "what": row.kind,
                "written": row.is_written, "size_bytes": row.pages * page,
            }
            for row in shown
        ],
    }  # fmt: skip
    written = sum(row.is_written for row in found)
    cost = "No query uses them."
    if written:
        cost += f" {written} {'is' if written == 1 else 'are'} nevertheless kept up at every write; a unique one"
        cost += " refuses duplicates."
    finding = Finding(
        check=BROKEN.id,
        severity=severity,
        subject=str(found[0].qname) if count == 1 else "",
        fact=f"Index {found[0].qname} is invalid: {found[0].kind}."
        if count == 1
        else f"{count} indexes are invalid.{f' {SHOWN} are shown.' if count > SHOWN else ''}",
        evidence=evidence,
        cost=cost,
        remedies=_repair(facts, shown),
    )
    return Findings((finding,))


def _repair(facts: Facts, rows: list[Invalid]) -> tuple[Remedy, ...]:
    leftovers = [row for row in rows if row.is_leftover]
    failed = [row for row in rows if not row.is_leftover and not row.is_partitioned]
    remedies: list[Remedy] = []
    whys = ["Drops what REINDEX left: the index in use is another."] * bool(leftovers)
    whys += ["Builds anew what failed; a unique one fails again while there are duplicates."] * bool(failed)
    lines = [ddl.drop_index(row.qname) for row in leftovers] + [ddl.reindex(row.qname) for row in failed]
    if lines:
        remedies.append(Remedy(text="\n".join(lines), why=f"{' '.join(whys)} Blocks nobody. {OWNER}"))
    for row in rows:
        if row.is_partitioned:
            remedies.append(_complete(facts, row))
    droppable = [row for row in failed if not row.is_toast]
    if droppable:
        text = "\n".join(ddl.drop_index(row.qname) for row in droppable)
        remedies.append(Remedy(text=text, why="When nobody misses them, or a DROP INDEX was meant."))
    return tuple(remedies)


def _complete(facts: Facts, row: Invalid) -> Remedy:
    columns = [name for name in row.columns if name is not None]
    lines: list[str] = []
    if row.is_plain and not row.is_constraint:
        lines = complete_index(facts, row.table_oid, row.oid, row.qname, columns, unique=row.is_unique)
    if lines:
        why = f"Makes it on each partition that has none, blocking nobody, and attaches it. {OWNER}"
        return Remedy(text="\n".join(lines), why=why)
    why = (
        "Shows how it is defined: make it CONCURRENTLY on each partition that has none, then ALTER INDEX … ATTACH"
        " PARTITION; it becomes valid with the last."
    )
    return Remedy(text=ddl.show_index(row.qname), why=why)


UNUSED = Check(
    id="indexes.unused",
    title="Unused indexes",
    question="Are there indexes that nobody uses?",
    about=(
        "An index is kept up at every write and takes memory and disk, whether or not anybody reads it. Reported are"
        " large ones without a scan since the statistics were reset (or, from 16 on, for long), of partitioned tables"
        " as a whole. Spared are unique ones and those of constraints, of replica identities, and those that serve a"
        " foreign key: they may be needed without ever being scanned. Scans on standbys are counted there only. An"
        " index of an expression gives the planner statistics, too, used or not."
    ),
    source=(
        "PostgreSQL, The Cumulative Statistics System (pg_stat_all_indexes). 35 days include whatever runs once a"
        " month; since when scans are counted is the last reset, that of a crash included. The sizes are of the last"
        " VACUUM or ANALYZE; below 10 MB an index costs next to nothing."
    ),
    judge=judge_unused,
    reads=(SELDOM_USED, COUNTING, TRANSACTION_IDS),
)

REDUNDANT = Check(
    id="indexes.redundant",
    title="Redundant indexes",
    question="Does an index repeat another?",
    about=(
        "Two indexes of a table with the same key, or a B-tree whose key is the beginning of another's: whatever the"
        " one finds, the other finds. Compared are access method, operator classes, collations, order, predicate,"
        " expressions and INCLUDEd columns. A unique index gives way only to one that is unique in the same way, a"
        " constraint only to a constraint, and what a foreign key refers to or identifies rows for replication never. A"
        " shorter index can still be faster than the longer one, being smaller: hence only info for beginnings."
    ),
    source=(
        "PostgreSQL, Indexes (Multicolumn Indexes): a B-tree serves conditions on its leading columns as well as an"
        " index of these alone, but for its size. Below 1 MB it is not worth a word."
    ),
    judge=judge_redundant,
    reads=(PAIRS,),
)

BROKEN = Check(
    id="indexes.invalid",
    title="Invalid indexes",
    question="Are there indexes that are not valid?",
    about=(
        "CREATE, REINDEX and DROP INDEX CONCURRENTLY leave an invalid index behind when they fail: no query uses it,"
        " yet most are kept up at every write. One whose name ends in _ccnew is the unfinished new one of a REINDEX,"
        " _ccold the old one: both are to be dropped. The index of a partitioned table is invalid while a partition has"
        " none attached. What somebody is working on just now is left alone."
    ),
    source="PostgreSQL, CREATE INDEX and REINDEX (Building/Rebuilding Indexes Concurrently): there is no threshold.",
    judge=judge_invalid,
    reads=(INVALID, PARTITIONS),
)

CHECKS = (UNUSED, REDUNDANT, BROKEN)
