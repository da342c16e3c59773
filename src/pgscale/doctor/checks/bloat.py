"""Bloat of tables and btree indexes, estimated from what ANALYZE knows, with the bounds of the estimate.

How it is derived, from the page layout of the documentation (Database Page Layout, B-Tree Indexes):

- A row of a table has a header of 23 bytes, and a bit a column where one is NULL, rounded up to 8; an index row one of
  8 bytes, 16 where one is NULL. Then come the values: pg_stats.avg_width is the mean width as stored, the length of
  those that vary and the TOAST pointer of those stored outside included, and a share of null_frac has none.
- Each value begins at a multiple of its alignment; short ones of varying length anywhere. As long as all before have a
  fixed length the gap is known; after that it is between 0 and alignment - 1, and so is the end of the row, rounded up
  to 8. Rounding of avg_width is half a byte a value. So there is a least and a most a row can take on average.
- A page has its size less 24 bytes of header (and 16 at the end, in an index), of which the fillfactor is filled; a row
  takes 4 bytes more for its pointer. The least has no loss at the end of pages; the most has whole rows only.
- An index also has a page of its own data, a high key in every leaf page, and pages above the leaves.

Pages above the most are bloat, as far as the sample of ANALYZE is right: they are what is judged. What an index saves
by storing equal keys once is not reckoned with: it may need less than the least, and its bloat be understated.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from pgscale.core.finding import Answer, Finding, Findings, NotChecked, Remedy, Severity, Well
from pgscale.core.model import Json, quote_ident
from pgscale.core.units import format_bytes, format_count
from pgscale.doctor import ddl
from pgscale.doctor.facts import Facts, NotReadableError, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check

SHOWN = 5
# What the query reads at most, tables and indexes.
READ = 500
# Of a varying length: from here on its header has four bytes, and it is aligned.
LONG_WIDTH = 127
ALIGNMENTS = {"c": 1, "s": 2, "i": 4, "d": 8}
PAGE_HEADER, INDEX_SPECIAL, POINTER, ROW_HEADER, INDEX_ROW_HEADER = 24, 16, 4, 23, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredColumn:
    """A column of a table or an index, with what it is a column of.

    Args:
        table: of an index.
        rows, pages: as of the last VACUUM or ANALYZE; -1 rows before the first.
        fillfactor: per cent.
        length: -1 and -2 vary.
        width: mean, of values that are not NULL; None where ANALYZE saw none.
        is_hidden: the login may not see its statistics.
    """

    oid: int
    name: str
    table: str | None
    is_index: bool
    rows: float
    pages: int
    fillfactor: int
    length: int
    align: str
    width: int | None
    null_share: float
    is_hidden: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a table or an index has and needs.

    Args:
        least_pages, most_pages: that its rows need.
    """

    of: StoredColumn
    least_pages: int
    most_pages: int

    @property
    def bloat_pages(self) -> int:
        """At least."""
        return max(0, self.of.pages - self.most_pages)

    @property
    def share(self) -> float:
        return self.bloat_pages / max(1, self.of.pages)


COLUMNS = Section(area="bloat", query="columns", row=StoredColumn)


def row_bytes(columns: Sequence[StoredColumn]) -> tuple[float, float]:
    """Return the least and the most that a row takes on average, without its pointer."""
    has_nulls = any(each.null_share > 0 for each in columns)
    if columns[0].is_index:
        header = INDEX_ROW_HEADER * (2 if has_nulls else 1)
    else:
        header = _up(ROW_HEADER + (math.ceil(len(columns) / 8) if has_nulls else 0), 8)
    least = most = float(header)
    is_exact = True
    for each in columns:
        width = float(each.length if each.length > 0 else each.width or 0)
        align = 1 if each.length < 0 and width < LONG_WIDTH else ALIGNMENTS[each.align]
        gap = _up(int(least), align) - least if is_exact else 0.0
        present = 1 - each.null_share
        least += present * (gap + width)
        most += present * ((gap if is_exact else align - 1) + width + (0.5 if each.length < 0 else 0.0))
        is_exact = is_exact and each.length > 0 and each.null_share == 0
    return (_up(int(least), 8), _up(int(least), 8)) if is_exact else (least, most + 7)


def estimate(columns: Sequence[StoredColumn], block_bytes: int) -> Estimate:
    """Reckon how many pages the rows of a table or index need, from all its columns."""
    of = columns[0]
    least, most = row_bytes(columns)
    usable = block_bytes - PAGE_HEADER - (INDEX_SPECIAL if of.is_index else 0)
    filled = usable * of.fillfactor / 100
    loose = math.ceil(of.rows * (least + POINTER) / filled)
    # Of an index one row of each page is its high key.
    whole = max(1, int(filled / (most + POINTER)) - of.is_index)
    tight = math.ceil(of.rows / whole)
    if of.is_index:
        fanout = max(2, int(usable / 2 / (most + POINTER)))
        loose, tight = loose + 1, tight + 2 + math.ceil(tight / (fanout - 1))
    return Estimate(of=of, least_pages=loose, most_pages=tight)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _judge(facts: Facts, limits: Limits, *, indexes: bool) -> Answer:
    if facts.server.is_in_recovery:
        raise NotReadableError("what a standby has is as bloated as on its primary", "Ask there.")
    thresholds, block = limits.bloat, facts.server.block_bytes
    noun = "index" if indexes else "table"
    large = [list(columns) for _, columns in groupby(facts.rows(COLUMNS), key=lambda each: each.oid)]
    large = [each for each in large if each[0].is_index == indexes and each[0].pages * block >= thresholds.least_bytes]
    hidden = [each for each in large if any(column.is_hidden for column in each)]
    known = [each for each in large if each not in hidden and _is_known(each)]
    if bloated := _bloated(facts, limits, known):
        return Findings((_finding(facts, limits, bloated),))
    if hidden:
        role = quote_ident(facts.server.role)
        count = sum(column.is_hidden for each in hidden for column in each)
        total = sum(len(each) for each in large)
        because = f"the values of {format_count(count, 'column')} of {total:,} are hidden from role {role}"
        return NotChecked(because, f"GRANT pg_read_all_data TO {role};")
    said = f"No {noun} of {format_bytes(thresholds.least_bytes)} or more is bloated by {thresholds.warning_share:.0%}"
    unknown = len(large) - len(known)
    if unknown:
        said += f"; {unknown:,} never analyzed {'is' if unknown == 1 else 'are'} not known"
    columns = facts.rows(COLUMNS)
    if len({each.oid for each in columns}) >= READ and columns[-1].pages * block >= thresholds.least_bytes:
        said += f"; only the {READ:,} largest tables and indexes were judged"
    return Well(f"{said}.")


def find_bloated_indexes(facts: Facts, limits: Limits) -> list[Estimate]:
    """Return the btree indexes that have far more pages than their rows need, as far as the login may know."""
    indexes = [list(columns) for _, columns in groupby(facts.rows(COLUMNS), key=lambda each: each.oid)]
    known = [
        each
        for each in indexes
        if each[0].is_index and _is_known(each) and not any(column.is_hidden for column in each)
    ]
    return _bloated(facts, limits, known)


def _bloated(facts: Facts, limits: Limits, known: list[list[StoredColumn]]) -> list[Estimate]:
    thresholds, block = limits.bloat, facts.server.block_bytes
    found = (estimate(each, block) for each in known if each[0].pages * block >= thresholds.least_bytes)
    bloated = [
        each
        for each in found
        if each.share >= thresholds.warning_share and each.bloat_pages * block >= thresholds.least_bytes
    ]
    return sorted(bloated, key=lambda each: each.bloat_pages, reverse=True)


def _is_known(columns: Sequence[StoredColumn]) -> bool:
    """It was analyzed, all of it."""
    return columns[0].rows >= 0 and all(each.length > 0 or each.width is not None for each in columns)


def judge_tables(facts: Facts, limits: Limits) -> Answer:
    """Report tables with far more pages than their rows need."""
    return _judge(facts, limits, indexes=False)


def judge_indexes(facts: Facts, limits: Limits) -> Answer:
    """Report btree indexes with far more pages than their rows need."""
    return _judge(facts, limits, indexes=True)


def _finding(facts: Facts, limits: Limits, bloated: list[Estimate]) -> Finding:
    first, block = bloated[0], facts.server.block_bytes
    is_index = first.of.is_index
    others = ""
    if len(bloated) > 1:
        others = (
            f" So are {len(bloated) - 1:,} more, {format_bytes(sum(e.bloat_pages for e in bloated) * block)} in all."
        )
    severity: Severity = "info" if first.bloat_pages * block < limits.bloat.warning_bytes else "warning"
    return Finding(
        check=(INDEXES if is_index else TABLES).id,
        severity=severity,
        subject=first.of.name,
        fact=f"{first.of.name} is bloated: at least {format_bytes(first.bloat_pages * block)} of its"
        f" {format_bytes(first.of.pages * block)}, {first.share:.0%}, hold nothing.{others}",
        evidence={
            "estimated": "from the widths ANALYZE saw; what is needed is between the two",
            "indexes" if is_index else "tables": [_row(each, block) for each in bloated[:SHOWN]],
        },
        cost="It takes disk and cache, and every scan reads it."
        if not is_index
        else "It takes disk and cache; VACUUM and scans of the index read it all.",
        remedies=_of_indexes(bloated) if is_index else _of_tables(facts, bloated),
    )


def _row(each: Estimate, block: int) -> dict[str, Json]:
    return {
        "name": each.of.name, "rows": int(each.of.rows), "size_bytes": each.of.pages * block,
        "needs_least_bytes": each.least_pages * block, "needs_most_bytes": each.most_pages * block,
        "bloat_share": each.share,
    }  # fmt: skip


def _of_indexes(bloated: list[Estimate]) -> tuple[Remedy, ...]:
    text = "\n".join(ddl.reindex_concurrently(each.of.name) for each in bloated[:SHOWN])
    why = (
        "Lets reads and writes go on, waits for old transactions, and needs room for the new index. When it fails it"
        " leaves an invalid one behind, name_ccnew, to be dropped."
    )
    return (Remedy(text=text, why=why),)


def _of_tables(facts: Facts, bloated: list[Estimate]) -> tuple[Remedy, ...]:
    names = [each.of.name for each in bloated[:SHOWN]]
    tables = " ".join(f"--table={shlex.quote(name)}" for name in names)
    remedies = [
        Remedy(
            text=f"pg_repack --dbname={shlex.quote(facts.server.database)} {tables}",
            kind="shell",
            why="Writes it anew while reads and writes go on. It needs its extension, a primary key or a unique one"
            " without NULL, and room for the copy. A table to be partitioned anyway is written anew by"
            " pgscale partition run --strategy move.",
        ),
        Remedy(
            text=ddl.vacuum_full(names),
            why="Without further tools, but nobody may read or write it meanwhile. Plain VACUUM makes the room usable"
            " again for new rows, and gives back only what is empty at the end.",
        ),
    ]
    exact = facts.extension("pgstattuple")
    if exact is not None:
        text = "\n".join(ddl.measure_bloat(exact.schema, name) for name in names)
        why = (
            "Measures it first. It locks the table in ACCESS SHARE, behind whoever alters it, and reads what is not"
            " all visible: hence not asked by itself."
        )
        remedies.append(Remedy(text=text, why=why))
    return tuple(remedies)


_ABOUT = (
    " The estimate rests on relpages and reltuples, as of the last VACUUM or ANALYZE, and on the widths in pg_stats,"
    " which take SELECT on the columns (pg_read_all_data brings it). Gaps by which values are aligned are not known"
    " after one of varying length: so there is a least and a most that the rows need, and only pages above the most"
    " count. No table is read and none is locked. What was never analyzed, small ones, TOAST tables, system"
    " catalogs and all but the 500 largest are not judged."
)
_SOURCE = (
    "PostgreSQL, Database Page Layout, The Statistics Used by the Planner, and {chapter}. A table in steady use has"
    " room to spare, and a btree with random keys is filled by two thirds: hence half, and 64 MB at least; a warning"
    " from 1 GB on."
)

TABLES = Check(
    id="bloat.tables",
    title="Bloated tables",
    question="Do tables take far more room than their rows need?",
    about=(
        "Room of dead rows is used again once VACUUM has removed them, but seldom given back. After a mass deletion, or"
        " a time when VACUUM was behind or held back, a table stays as large as it ever was." + _ABOUT
    ),
    source=_SOURCE.format(chapter="Routine Vacuuming (Recovering Disk Space)"),
    judge=judge_tables,
    reads=(COLUMNS,),
)

INDEXES = Check(
    id="bloat.indexes",
    title="Bloated indexes",
    question="Do btree indexes take far more room than their rows need?",
    about=(
        "A page of an index is used again only when it is empty, or for keys of its own range. Deletions that leave"
        " some keys everywhere, and updates of indexed columns, leave it half empty for good. Equal keys are stored"
        " once, which is not reckoned with: bloat of such an index is understated." + _ABOUT
    ),
    source=_SOURCE.format(chapter="Routine Reindexing"),
    judge=judge_indexes,
    reads=(COLUMNS,),
)

CHECKS = (TABLES, INDEXES)
