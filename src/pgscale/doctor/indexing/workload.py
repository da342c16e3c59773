"""Read what statements do to large tables, once for all checks that ask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pgscale.core.units import format_duration
from pgscale.doctor.facts import Facts, NotReadableError, Section
from pgscale.doctor.indexing.estimating import Ground
from pgscale.doctor.indexing.model import Access, Column, Index, Statement, Table
from pgscale.doctor.limits import Limits

if TYPE_CHECKING:
    from pgscale.doctor.indexing.reading import Known

# Who reads fewer pages a call reads hardly less by any index: its descent, a leaf and a row are four.
LEAST_PAGES = 12.0
# Many statements that each save a tenth of what is worth a word want one index.
SUMMED_SHARE = 0.1
STATEMENTS_EXTENSION = "pg_stat_statements"
STATEMENTS = Section(
    area=STATEMENTS_EXTENSION,
    query="workload",
    row=Statement,
    needs_statistics=True,
    extension=STATEMENTS_EXTENSION,
)
TABLES = Section(area="workload", query="tables", row=Table)
COLUMNS = Section(area="workload", query="columns", row=Column)
INDEXES = Section(area="workload", query="indexes", row=Index)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is known of the statements on large tables.

    Args:
        statements: how many there are; not_understood: those that could not be read.
        accesses: every place where one of those that an index could make cheaper reads a large table.
        sets: columns of each table that they update, with how often.
        grounds: the tables by their OID.
        counted_s: since when statements are counted.
        cheap: those whose texts were not read: they take too little time, or read too few pages.
        known: what texts are read with; None where there is nothing to read.
    """

    statements: int = 0
    not_understood: int = 0
    accesses: tuple[Access, ...] = ()
    sets: Mapping[tuple[int, str], int] = field(default_factory=dict[tuple[int, str], int])
    grounds: Mapping[int, Ground]
    counted_s: float
    cheap: tuple[Statement, ...] = ()
    known: Known | None = None

    def naming(self, columns: Iterable[str]) -> tuple[tuple[Access, ...], Mapping[tuple[int, str], int]]:
        """Return accesses and sets of all statements, of the cheap ones those that name a column."""
        if self.known is None:
            return self.accesses, self.sets
        from pgscale.doctor.indexing import reading  # noqa: PLC0415 because only this needs sqlglot

        names = frozenset(columns)
        chosen = [each for each in self.cheap if reading.may_read(each.query, names)]
        accesses, sets, _ = _read_texts(chosen, self.known)
        return (*self.accesses, *accesses), {
            key: sets.get(key, 0) + self.sets.get(key, 0) for key in {*sets, *self.sets}
        }


def read_grounds(facts: Facts, least_bytes: float) -> dict[int, Ground]:
    """Return the tables of at least a size, by their OID.

    Raises:
        NotReadableError: the catalog cannot be read.
    """
    page = facts.server.block_bytes
    columns: dict[int, dict[str, Column]] = {}
    for column in facts.rows(COLUMNS):
        columns.setdefault(column.table_oid, {})[column.name] = column
    indexes: dict[int, list[Index]] = {}
    for index in facts.rows(INDEXES):
        indexes.setdefault(index.table_oid, []).append(index)
    return {
        table.oid: Ground(
            table=table, columns=columns.get(table.oid, {}), indexes=tuple(indexes.get(table.oid, ())), page_bytes=page
        )
        for table in facts.rows(TABLES)
        if table.pages * page >= least_bytes
    }


def read_workload(facts: Facts, limits: Limits) -> Workload:
    """Return what statements do to tables that are worth an index.

    Raises:
        NotReadableError: pg_stat_statements is missing, hidden or too young, or the catalog cannot be read.
    """
    return facts.keep("workload of large tables", lambda: _read(facts, limits))


def _read(facts: Facts, limits: Limits) -> Workload:
    statements = [each for each in facts.rows(STATEMENTS) if each.calls >= limits.queries.least_calls]
    counted_s = max((each.counted_s or 0.0 for each in statements), default=0.0)
    if statements and counted_s < limits.queries.least_counted_s:
        raise NotReadableError(
            f"pg_stat_statements counts for {format_duration(counted_s)} only",
            f"Run it again after {format_duration(limits.queries.least_counted_s)}.",
        )
    grounds = read_grounds(facts, limits.indexes.least_missing_table_bytes)
    if not (statements and grounds):
        return Workload(grounds=grounds, counted_s=counted_s)
    try:
        from pgscale.doctor.indexing import reading  # noqa: PLC0415 because only this needs sqlglot
    except ImportError:
        raise NotReadableError("sqlglot, which reads statements, is not installed", "pip install sqlglot") from None
    known = reading.Known(
        tables=[ground.table for ground in grounds.values()],
        columns={oid: frozenset(ground.columns) for oid, ground in grounds.items()},
        unique={
            oid: [
                frozenset(name for name in index.keys if name is not None)
                for index in ground.indexes
                if index.is_unique and not index.is_partial and None not in index.keys
            ]
            for oid, ground in grounds.items()
        },
        path=_path(facts),
    )
    names = frozenset(ground.table.name for ground in grounds.values())
    looked_at = [each for each in statements if reading.may_read(each.query, names)]
    worth: list[Statement] = []
    cheap: list[Statement] = []
    for each in looked_at:
        share = each.total_ms / 1000 / max(1.0, counted_s)
        is_worth = each.blocks_a_call >= LEAST_PAGES and share >= limits.indexes.least_saved_share * SUMMED_SHARE
        (worth if is_worth else cheap).append(each)
    accesses, sets, not_understood = _read_texts(worth, known)
    return Workload(
        statements=len(looked_at),
        not_understood=not_understood,
        accesses=accesses,
        sets=sets,
        grounds=grounds,
        counted_s=counted_s,
        cheap=tuple(cheap),
        known=known,
    )


def _read_texts(
    statements: Iterable[Statement], known: Known
) -> tuple[tuple[Access, ...], dict[tuple[int, str], int], int]:
    """Return what statements read, what they set and how often, and how many were not understood."""
    from pgscale.doctor.indexing import reading  # noqa: PLC0415 because only this needs sqlglot

    accesses: list[Access] = []
    sets: dict[tuple[int, str], int] = {}
    not_understood = 0
    for statement in statements:
        read = reading.read_statement(statement, known)
        if read is None:
            not_understood += 1
            continue
        accesses += read.accesses
        for key in read.sets:
            sets[key] = sets.get(key, 0) + statement.calls
    return tuple(accesses), sets, not_understood


def _path(facts: Facts) -> list[str]:
    """The schemas of the search path of the login, which may be that of the application."""
    try:
        value = facts.setting("search_path").value
    except NotReadableError:
        return ["public"]
    return [name.strip().strip('"') for name in value.split(",")]
