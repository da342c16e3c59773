"""Partitions: tables that are ready for them, and what is wrong with those there are."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, Remedy, Severity, Well
from pgscale.core.model import QName
from pgscale.core.units import format_bytes, format_count
from pgscale.doctor import ddl
from pgscale.doctor.checks.queries import STATEMENTS, Statement
from pgscale.doctor.facts import Facts, NotReadableError, Section
from pgscale.doctor.limits import Limits, PartitionsLimits
from pgscale.doctor.model import Check

SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class LargeTable:
    """A table that is neither partitioned nor a partition.

    Args:
        pages: of the table alone; all_pages: with its indexes and TOAST.
        inserted_rows, updated_rows, deleted_rows: since the statistics were reset.
        time_columns: dates and timestamps, those that cannot be NULL first.
    """

    schema: str
    name: str
    pages: int
    all_pages: int
    table_rows: float
    inserted_rows: int
    updated_rows: int
    deleted_rows: int
    dead_rows: int
    time_columns: list[str]

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultPartition:
    """A DEFAULT partition with rows.

    Args:
        strategy: of the table, as pg_partitioned_table has it: `r` or `l`.
        is_one_column: its key is one column and no expression.
        partitions: of the table, this one included.
    """

    table_schema: str
    table_name: str
    schema: str
    name: str
    strategy: str
    is_one_column: bool
    held_rows: int
    pages: int
    partitions: int

    @property
    def table(self) -> QName:
        return QName(schema=self.table_schema, name=self.table_name)

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detaching:
    """A partition whose DETACH CONCURRENTLY has not come to its end; where `is_in_work`, may still."""

    table_schema: str
    table_name: str
    schema: str
    name: str
    is_in_work: bool

    @property
    def table(self) -> QName:
        return QName(schema=self.table_schema, name=self.table_name)

    @property
    def qname(self) -> QName:
        return QName(schema=self.schema, name=self.name)


LARGE = Section(area="partitions", query="large", row=LargeTable)
DEFAULTS = Section(area="partitions", query="defaults", row=DefaultPartition)
DETACHING = Section(area="partitions", query="detaching", row=Detaching)


# Ready to be partitioned


def judge_ready(facts: Facts, limits: Limits) -> Answer:
    """Report tables that have outgrown memory, or what one VACUUM should have to read."""
    thresholds, page = limits.partitions, facts.server.block_bytes
    cache_bytes = facts.setting("effective_cache_size").bytes
    least = max(thresholds.least_table_bytes, min(cache_bytes, thresholds.large_table_bytes))
    large = [table for table in facts.rows(LARGE) if table.all_pages * page >= least]
    if not large:
        return Well(f"No table of {format_bytes(least)} or more is without partitions.")
    statements = _statements(facts)
    return Findings(
        tuple(_ready(table, page, cache_bytes, thresholds, statements) for table in large[:SHOWN]),
        text=""
        if len(large) == 1
        else f"{len(large)} tables are ready to be partitioned, the first: {large[0].qname}.",
    )


def _statements(facts: Facts) -> tuple[Statement, ...]:
    try:
        return facts.rows(STATEMENTS)
    except NotReadableError:
        # What they say is one reason of several, and the counters have it, too.
        return ()


def _ready(
    table: LargeTable, page: int, cache_bytes: int, limits: PartitionsLimits, statements: tuple[Statement, ...]
) -> Finding:
    size = table.all_pages * page
    reasons: list[str] = []
    if size >= cache_bytes:
        reasons.append(f"it does not fit into memory (effective_cache_size, {format_bytes(cache_bytes)})")
    if size >= limits.large_table_bytes:
        reasons.append("each VACUUM, index build, backup and restore takes all of it in one piece")
    by_time = _deletes_by_time(table, statements)
    mass = table.deleted_rows > 0 and table.deleted_rows >= limits.deleted_share * table.inserted_rows
    if by_time is not None:
        calls = format_count(by_time.calls, "call")
        reasons.append(f"old rows are deleted by time ({calls}), where dropping a partition would do")
    elif table.time_columns and mass:
        reasons.append(
            f"{format_count(table.deleted_rows, 'row')} were deleted while {table.inserted_rows:,} came: where that is"
            " by age, dropping a partition would do"
        )
    changed = table.updated_rows + table.deleted_rows
    if table.time_columns and table.inserted_rows and changed <= limits.changed_share * table.inserted_rows:
        reasons.append("rows only come in, so all but the newest partition would rest")
    if table.table_rows > 0 and table.dead_rows >= limits.dead_share * table.table_rows:
        reasons.append(
            f"{format_count(table.dead_rows, 'dead row')} make VACUUM walk {format_bytes(size)} at once, where"
            " partitions are vacuumed one by one"
        )
    severity: Severity = "warning" if by_time is not None or size >= limits.large_table_bytes else "info"
    return Finding(
        check=READY.id,
        severity=severity,
        subject=str(table.qname),
        fact=f"Table {table.qname} of {format_bytes(size)} is ready to be partitioned: {'; '.join(reasons)}.",
        evidence={
            "size_bytes": size,
            "table_bytes": table.pages * page,
            "effective_cache_size_bytes": cache_bytes,
            "rows": round(table.table_rows) if table.table_rows >= 0 else None,
            "rows_inserted": table.inserted_rows,
            "rows_updated": table.updated_rows,
            "rows_deleted": table.deleted_rows,
            "dead_rows": table.dead_rows,
            "time_columns": ", ".join(table.time_columns),
            "deleting_statement": by_time.query if by_time is not None else None,
        },
        cost="Whatever touches the table as a whole takes longer from month to month, and the rows that are in use"
        " share their pages, and memory, with those that are not.",
        remedies=(
            Remedy(
                text=f"pgscale partition advise {shlex.quote(str(table.qname))}",
                kind="shell",
                why="Says whether partitions pay, by which key, and how; changes nothing. Name the database by --dsn.",
            ),
        ),
    )


def _deletes_by_time(table: LargeTable, statements: tuple[Statement, ...]) -> Statement | None:
    """The statement that deletes by a time column of the table, the one with the most time first."""
    columns = "|".join(re.escape(name) for name in table.time_columns)
    if not columns:
        return None
    pattern = re.compile(
        rf'\s*DELETE\s+FROM\s+(?:ONLY\s+)?(?:"?{re.escape(table.schema)}"?\s*\.\s*)?"?{re.escape(table.name)}"?\s'
        rf'.*\bWHERE\b.*\b(?:{columns})"?\s*(?:<|BETWEEN\b)',
        re.IGNORECASE | re.DOTALL,
    )
    found = [each for each in statements if pattern.match(each.query)]
    return max(found, key=lambda each: each.total_ms, default=None)


# DEFAULT partitions


def judge_default(facts: Facts, limits: Limits) -> Answer:
    """Report DEFAULT partitions that hold rows: nothing made them a partition of their own."""
    least = limits.partitions.least_default_rows
    found = [each for each in facts.rows(DEFAULTS) if each.held_rows >= least]
    if not found:
        return Well("No DEFAULT partition holds rows." if least <= 1 else "No DEFAULT partition holds many rows.")
    return Findings(
        tuple(_default(each, facts.server.block_bytes) for each in found[:SHOWN]),
        text="" if len(found) == 1 else f"{len(found)} DEFAULT partitions hold rows, the most {found[0].qname}.",
    )


def _default(each: DefaultPartition, page: int) -> Finding:
    if each.is_one_column:
        name, leaf = shlex.quote(str(each.table)), shlex.quote(str(each.qname))
        remedy = Remedy(
            text=f"pgscale partition split {name} --partition {leaf}\npgscale partition finish {name}",
            kind="shell",
            why="Gives its rows partitions of their own, under live writes; needs a primary or unique key, and changes"
            " nothing where it cannot; look with --dry-run first. From then on `pgscale partition maintain` makes them"
            " ahead of time.",
        )
    else:
        remedy = Remedy(text=ddl.show_some(each.qname), why="Shows some: they tell which partition is missing.")
    return Finding(
        check=DEFAULT.id,
        severity="warning" if each.strategy == "r" else "info",
        subject=str(each.qname),
        fact=f"DEFAULT partition {each.qname} of {each.table} holds {format_count(each.held_rows, 'row')}.",
        evidence={
            "table": str(each.table),
            "rows": each.held_rows,
            "size_bytes": each.pages * page,
            "partitions": each.partitions,
        },
        cost="No partition was made for these rows: they are not pruned, not dropped with the others, and a partition"
        " that is made for them later reads all of DEFAULT under ACCESS EXCLUSIVE, and fails while they are there.",
        remedies=(remedy,),
    )


# Detached half-way


def judge_detaching(facts: Facts, limits: Limits) -> Answer:
    """Report partitions that an interrupted DETACH CONCURRENTLY has left half-way."""
    del limits
    rows = facts.rows(DETACHING)
    if rows:
        facts.need_statistics("whether somebody is detaching partitions just now is")
    found = [each for each in rows if not each.is_in_work]
    if not found:
        if rows:
            count = format_count(len(rows), "partition")
            return Well(f"{count} {'is' if len(rows) == 1 else 'are'} being detached just now.")
        return Well("No partition is detached half-way.")
    one = len(found) == 1
    finding = Finding(
        check=HALF_DETACHED.id,
        severity="warning",
        subject=str(found[0].qname) if one else "",
        fact=f"Partition {found[0].qname} of {found[0].table} is detached half-way."
        if one
        else f"{len(found)} partitions are detached half-way.",
        evidence={"which": [{"partition": str(each.qname), "table": str(each.table)} for each in found[:SHOWN]]},
        cost="A DETACH CONCURRENTLY was interrupted: queries see the partition no more, writes to it are refused, and"
        " no other partition of the table can be detached so.",
        remedies=(
            Remedy(
                text="\n".join(ddl.finish_detach(each.table, each.qname) for each in found),
                why="Brings it to its end, waiting for those who still read. The owner of the table may.",
            ),
        ),
    )
    return Findings((finding,))


READY = Check(
    id="partitions.ready",
    title="Tables to partition",
    question="Is a table ready to be partitioned?",
    about=(
        "A table that no longer fits into memory, or that one VACUUM takes hours for, gains by partitions where its"
        " rows are used by time or by another key. Sizes include indexes and TOAST. Reasons are told where they are"
        " seen: rows deleted by age (from pg_stat_statements where it can be read, else from the counters), rows that"
        " only come in, dead rows for which VACUUM must walk the whole. Whether it pays, and by which key, `pgscale"
        " partition advise` works out from the statements."
    ),
    source=(
        "PostgreSQL, Table Partitioning: the benefits are worthwhile when a table would otherwise be very large, by"
        " rule of thumb larger than the memory of the server; that is taken from effective_cache_size. Beyond 100 GB"
        " maintenance suffers whatever the memory; below 10 GB nothing does."
    ),
    judge=judge_ready,
    reads=(LARGE, STATEMENTS),
)

DEFAULT = Check(
    id="partitions.default",
    title="DEFAULT partitions",
    question="Do DEFAULT partitions hold rows?",
    about=(
        "A DEFAULT partition catches rows no other takes. By range that means the right partition was not made in time,"
        " or a date is wrong: a warning. By list it may be meant so: info. Rows are counted by the statistics."
    ),
    source="PostgreSQL, CREATE TABLE and ALTER TABLE … ATTACH PARTITION, which reads DEFAULT. One row is too many.",
    judge=judge_default,
    reads=(DEFAULTS,),
)

HALF_DETACHED = Check(
    id="partitions.detaching",
    title="Detached half-way",
    question="Was a partition detached half-way only?",
    about=(
        "ALTER TABLE … DETACH PARTITION … CONCURRENTLY works in two transactions. If it is interrupted between them the"
        " partition is neither in the table nor out of it, until the same is said with FINALIZE."
    ),
    source="PostgreSQL, ALTER TABLE (DETACH PARTITION): there is no threshold.",
    judge=judge_detaching,
    reads=(DETACHING,),
)

CHECKS = (READY, DEFAULT, HALF_DETACHED)
