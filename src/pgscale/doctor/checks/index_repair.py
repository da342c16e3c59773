"""Indexes that are not valid, and how each is completed, made anew or dropped."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well
from pgscale.core.model import Json, QName
from pgscale.doctor import ddl
from pgscale.doctor.checks.partition_indexes import OWNER, PARTITIONS, complete_index
from pgscale.doctor.facts import Facts, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check

SHOWN = 10


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


INVALID = Section(area="indexes", query="invalid", row=Invalid)


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

CHECKS = (BROKEN,)
