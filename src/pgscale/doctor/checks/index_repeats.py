"""Indexes that say what another says."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Well
from pgscale.core.model import QName
from pgscale.core.units import format_bytes
from pgscale.doctor import ddl
from pgscale.doctor.checks.partition_indexes import OWNER, how_dropped
from pgscale.doctor.facts import Facts, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check

SHOWN = 10
# The LIMIT of the query: the largest of them; where it is reached there may be more.
MOST_PAIRS = 1000


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


PAIRS = Section(area="indexes", query="redundant", row=Pair)


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
    locked = how_dropped(pair.is_partitioned for pair in indexes)
    why = f"Shows their definitions, to keep, and drops them without blocking anybody{locked}."
    if len(indexes) < len(pairs):
        constraints = "Constraints are dropped under ACCESS EXCLUSIVE, for which it waits 2 s at most."
        why = f"{why} {constraints}" if indexes else constraints
    return (Remedy(text="\n".join(texts), why=f"{why} {OWNER}"),)


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

CHECKS = (REDUNDANT,)
