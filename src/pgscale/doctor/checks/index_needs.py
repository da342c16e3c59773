"""Indexes that are missing: on foreign keys, and BRIN where rows lie in the order of a column."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Well
from pgscale.core.model import QName
from pgscale.core.units import format_bytes, format_count
from pgscale.doctor import ddl
from pgscale.doctor.checks.partition_indexes import OWNER, PARTITIONS, build_index
from pgscale.doctor.facts import Facts, NotReadableError, Section
from pgscale.doctor.limits import IndexesLimits, Limits
from pgscale.doctor.model import Check

SHOWN = 10
# pages_per_range, as it is unless told otherwise.
BRIN_RANGE_PAGES = 128
# With fewer values, whatever their order, no range of pages can be left out.
LEAST_DISTINCT = 100
ACTIONS = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key whose columns no index begins with.

    Args:
        width_bytes: of its columns, on average.
        pages, table_rows: of the referencing table, as of its last VACUUM or ANALYZE.
        deleted_rows, updated_rows: of the referenced one, since the statistics were reset.
        on_delete, on_update: as pg_constraint has them.
    """

    name: str
    table_schema: str
    table_name: str
    table_oid: int
    is_partitioned: bool
    columns: list[str]
    width_bytes: int
    pages: int
    table_rows: float
    referenced: str
    deleted_rows: int
    updated_rows: int
    on_delete: str
    on_update: str

    @property
    def table(self) -> QName:
        return QName(schema=self.table_schema, name=self.table_name)

    @property
    def index_bytes(self) -> int:
        """Of its index, at most: equal values share an entry."""
        # A tuple of 8 bytes and the key, its line pointer, pages nine tenths full.
        return round(self.table_rows * (8 + -(-self.width_bytes // 8) * 8 + 4) / 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderedColumn:
    """A column of a large table that has no BRIN index.

    Args:
        correlation, distinct_values: as pg_stats has them; None without statistics.
        is_visible: else the login may not see its statistics.
        index_schema, index_name, index_pages: a plain B-tree of this column alone.
        is_indexed: an index begins with it.
    """

    schema: str
    table_name: str
    column_name: str
    is_time: bool
    width_bytes: int
    pages: int
    table_rows: float
    changed_rows: int
    sequential_scans: int
    is_visible: bool
    correlation: float | None
    distinct_values: float | None
    index_schema: str | None
    index_name: str | None
    index_pages: int | None
    is_indexed: bool

    @property
    def table(self) -> QName:
        return QName(schema=self.schema, name=self.table_name)

    @property
    def brin_bytes(self) -> int:
        """Of a BRIN index: the least and the greatest value of each 128 pages, and where they are found."""
        width = self.width_bytes if self.width_bytes > 0 else 16
        return round(self.pages / BRIN_RANGE_PAGES * (2 * width + 24)) + 3 * 8192


FOREIGN_KEYS = Section(area="indexes", query="foreign_keys", row=ForeignKey)
IN_ORDER = Section(area="indexes", query="in_order", row=OrderedColumn)


def judge_foreign_keys(facts: Facts, limits: Limits) -> Answer:
    """Report foreign keys of large tables that no index begins with."""
    page, least = facts.server.block_bytes, limits.indexes.least_referencing_bytes
    found = [key for key in facts.rows(FOREIGN_KEYS) if key.pages * page >= least]
    if not found:
        return Well(f"Every foreign key of a table of {format_bytes(least)} or more has an index.")
    found.sort(key=lambda key: (key.deleted_rows > 0, key.pages), reverse=True)
    shown, first = found[:SHOWN], found[0]
    lines = [
        line
        for key in shown
        for line in (
            build_index(facts, key.table_oid, key.table, key.columns)
            if key.is_partitioned
            else [ddl.create_index(key.table, key.columns)]
        )
    ]
    estimate = format_bytes(sum(key.index_bytes for key in shown))
    deleted = f": {format_count(first.deleted_rows, 'row')} so far" if first.deleted_rows else ""
    finding = Finding(
        check=MISSING.id,
        severity="warning" if first.deleted_rows else "info",
        subject=str(first.table) if len(found) == 1 else "",
        fact=f"Foreign key {first.name} of {first.table} ({', '.join(first.columns)}) has no index."
        if len(found) == 1
        else f"{len(found)} foreign keys have no index."
        + (f" The {SHOWN} that matter most are shown." if len(found) > SHOWN else ""),
        evidence={
            "foreign_keys": len(found),
            "which": [
                {
                    "table": str(key.table), "foreign_key": key.name, "columns": ", ".join(key.columns),
                    "table_bytes": key.pages * page, "references": key.referenced,
                    "rows_deleted_there": key.deleted_rows, "rows_updated_there": key.updated_rows,
                    "on_delete": ACTIONS[key.on_delete], "index_at_most_bytes": key.index_bytes,
                }
                for key in shown
            ],
        },
        cost=(
            f"Each row deleted from {first.referenced}{deleted}, or whose key is changed, makes PostgreSQL read the"
            f" whole of {first.table}, {format_bytes(first.pages * page)}, while it holds its locks."
        ),
        remedies=(Remedy(text="\n".join(lines), why=f"Takes {estimate} at most, and blocks no writer. {OWNER}"),),
    )  # fmt: skip
    return Findings((finding,))


def judge_brin(facts: Facts, limits: Limits) -> Answer:
    """Report columns by which large tables lie in order, and whose B-tree is large or which have none."""
    page, thresholds = facts.server.block_bytes, limits.indexes
    large = [each for each in facts.rows(IN_ORDER) if each.pages * page >= thresholds.least_brin_table_bytes]
    found = [each for each in large if _suits_brin(each, thresholds)]
    hidden = sorted({str(each.table) for each in large if not each.is_visible})
    least = format_bytes(thresholds.least_brin_table_bytes)
    if not found:
        if hidden:
            raise NotReadableError(
                f"the statistics of {format_count(len(hidden), 'large table')} are hidden from this login, those of"
                f" {hidden[0]} for one",
                facts.grant_read,
            )
        return Well(f"No table of {least} or more lies in the order of a column that BRIN would serve better.")
    # The first column of a table is the one; a second in the same order adds nothing.
    shown = found[:SHOWN]
    saved = sum((each.index_pages or 0) * page for each in shown)
    made = sum(each.brin_bytes for each in shown)
    text = "\n".join(ddl.create_index(each.table, [each.column_name], brin=True) for each in shown)
    replaced = [
        (QName(schema=each.index_schema, name=each.index_name), False)
        for each in shown
        if each.index_schema is not None and each.index_name is not None
    ]
    remedies = [Remedy(text=text, why=f"Takes about {format_bytes(made)}, and blocks no writer. {OWNER}")]
    if replaced:
        why = (
            f"Afterwards, gives {format_bytes(saved)} back: where the B-tree serves ranges of many rows only. Single"
            " rows, and ORDER BY with LIMIT, need it."
        )
        remedies.append(Remedy(text=ddl.drop_indexes(replaced), why=why))
    count = len(found)
    finding = Finding(
        check=BRIN.id,
        severity="info",
        subject=str(found[0].table) if count == 1 else "",
        fact=(
            f"{found[0].table} lies in the order of {found[0].column_name}: a BRIN index would do."
            if count == 1
            else f"{count} columns of large tables follow the order of their rows: BRIN indexes would do."
        ),
        evidence={
            "which": [
                {
                    "table": str(each.table), "column": each.column_name, "table_bytes": each.pages * page,
                    "correlation": each.correlation, "changed_rows": each.changed_rows,
                    "b_tree": each.index_name, "b_tree_bytes": (each.index_pages or 0) * page or None,
                    "brin_bytes": each.brin_bytes, "sequential_scans": each.sequential_scans,
                }
                for each in shown
            ],
            "tables_not_seen": len(hidden),
        },
        cost=(
            "A B-tree has an entry for every row, and each insert writes it; BRIN has one for 128 pages."
            if replaced
            else "Without an index a range of time is found by reading the whole table."
        ),
        remedies=tuple(remedies),
    )  # fmt: skip
    return Findings((finding,))


def _suits_brin(column: OrderedColumn, limits: IndexesLimits) -> bool:
    if column.correlation is None or column.distinct_values is None:
        return False
    distinct = column.distinct_values if column.distinct_values >= 0 else -column.distinct_values * column.table_rows
    if abs(column.correlation) < limits.brin_correlation or distinct < LEAST_DISTINCT:
        return False
    if column.changed_rows > limits.brin_changed_share * column.table_rows:
        return False
    return column.index_name is not None or (column.is_time and not column.is_indexed and column.sequential_scans > 0)


MISSING = Check(
    id="indexes.foreign_keys",
    title="Foreign keys without index",
    question="Do foreign keys lack an index?",
    about=(
        "PostgreSQL indexes the referenced columns, not the referencing ones. When a referenced row is deleted, or its"
        " key changed, it looks for rows that refer to it; without an index whose leading columns are those of the key,"
        " in any order, it reads the whole table. Joins from the referenced table want the same index. A warning when"
        " rows were deleted there since the statistics were reset, else info."
    ),
    source=(
        "PostgreSQL, Constraints (Foreign Keys): it is often a good idea to index the referencing columns. A table of"
        " less than 10 MB is read in some milliseconds. Sizes are of the last VACUUM or ANALYZE; the size of the index"
        " is that of a B-tree without deduplication, which makes it smaller where values repeat."
    ),
    judge=judge_foreign_keys,
    reads=(FOREIGN_KEYS, PARTITIONS),
)

BRIN = Check(
    id="indexes.brin",
    title="BRIN indexes",
    question="Would BRIN serve better than a B-tree, or than nothing?",
    about=(
        "In a table that only grows, rows lie in the order of their time or number. BRIN keeps the least and the"
        " greatest value of each 128 pages: thousands of times smaller than a B-tree, nearly free to keep up, and good"
        " for ranges of many rows. Reported are such columns of large tables with a plain B-tree of their own, and"
        " times without any index where the whole table is read. The column needs statistics that the login may see,"
        f" and {LEAST_DISTINCT} values at least. Partitions are left out: partitioning by the column does the same."
    ),
    source=(
        "PostgreSQL, BRIN Indexes, and pg_stats.correlation. Rows that come to lie elsewhere widen the range of their"
        " pages: hence 0.99, and at most 1 % of rows updated or deleted. Below 1 GB a B-tree is small enough."
    ),
    judge=judge_brin,
    reads=(IN_ORDER,),
)

CHECKS = (MISSING, BRIN)
