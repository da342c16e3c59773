"""Which keys come into question, by the columns' types, statistics and unique keys. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pgscale.catalog.model import Column, ColumnStatistics, TableFacts
from pgscale.errors import RefusedError, UsageError
from pgscale.partition import skew
from pgscale.partition.advice import sizes
from pgscale.partition.advice.model import ColumnEvidence, Evidence, Proposal
from pgscale.partition.bounds import (
    TIME_TYPES,
    Extent,
    Namer,
    default_leaf,
    hash_leaves,
    list_leaves,
    range_leaves,
)
from pgscale.partition.keys import decide_keys
from pgscale.partition.model import By, Leaf, Skew
from pgscale.partition.periods import INTEGER_TYPES

# A list makes a partition for each value: beyond this a hash serves better.
MOST_LISTED = 50
# pg_stats.correlation from which on rows lie in the order of the column, so that new ones come at its end.
MONOTONE = 0.95
# Large texts and documents, and what nobody compares for equality, are no keys.
_NO_KEYS = re.compile(
    r"json|xml|bytea|\[\]$|tsvector|tsquery|real|double|money|point|box|circle|polygon|path|line|oid$"
)
MOST_COMBINED = 3
MOST_KEYS = 40


def find_proposals(evidence: Evidence) -> tuple[Proposal, ...]:
    """Return the keys worth judging: for each fitting column a range, list or hash, and combinations of unique keys.

    At most MOST_KEYS of them, those over indexed columns first.
    """
    found = list(_of_columns(evidence))
    found += _combined(evidence)
    indexed = _indexed(evidence.facts)
    found.sort(key=lambda p: not set(p.by.columns) <= indexed)
    return tuple(found[:MOST_KEYS])


def may_be_key(column: Column) -> bool:
    """Tell whether the column's type makes a key that statements compare."""
    return not column.generated and column.has_btree_opclass and not _NO_KEYS.search(_plain(column))


def is_time(column: Column) -> bool:
    """Tell whether the column can be divided into periods of time."""
    return _plain(column) in TIME_TYPES


def is_monotone(facts: TableFacts, column: Column, statistics: ColumnStatistics | None) -> bool:
    """Tell whether new rows come at the end of a whole-number column."""
    if _plain(column) not in INTEGER_TYPES:
        return False
    if column.identity or (column.default_sql or "").startswith("nextval("):
        return True
    if statistics is None or statistics.correlation is None:
        return False
    distinct = distinct_values(statistics, facts.table.reltuples)
    return statistics.correlation >= MONOTONE and distinct > MOST_LISTED


def distinct_values(statistics: ColumnStatistics, rows: float) -> float:
    """Return how many different values the column has; pg_stats writes a share of the rows as a negative number."""
    return statistics.n_distinct if statistics.n_distinct > 0 else -statistics.n_distinct * max(0.0, rows)


def known_rows(facts: TableFacts) -> int:
    """Return the rows of the last ANALYZE or VACUUM, 0 when there was none."""
    return max(0, round(facts.table.reltuples))


def _of_columns(evidence: Evidence) -> Iterator[Proposal]:
    facts = evidence.facts
    for column in facts.columns:
        if not may_be_key(column):
            continue
        found = evidence.column(column.name)
        statistics = found.statistics if found else None
        if is_time(column):
            yield _by_time(evidence, column, found)
            continue
        if is_monotone(facts, column, statistics):
            yield _by_step(evidence, column, found)
        distinct = distinct_values(statistics, facts.table.reltuples) if statistics is not None else None
        if found is not None and distinct is not None and 1 < distinct <= MOST_LISTED:
            yield _by_list(evidence, column, found)
        if column.has_hash_opclass and _may_be_hashed(facts, column, distinct):
            yield _by_hash(evidence, (column.name,))


def _may_be_hashed(facts: TableFacts, column: Column, distinct: float | None) -> bool:
    if distinct is not None:
        return distinct > MOST_LISTED
    # Without statistics only columns that name rows, or are looked up, are known to have many values.
    return column.name in _indexed(facts) and _plain(column) != "boolean" and column.type_kind != "e"


def _combined(evidence: Evidence) -> Iterator[Proposal]:
    """Yield the hash over the columns that all unique keys share, and over the primary key's: neither grows a key."""
    facts = evidence.facts
    unique = [frozenset(i.key_columns) for i in facts.indexes if i.is_unique and i.is_valid and not i.is_exclusion]
    if not unique:
        return
    order = {c.name: c.number for c in facts.columns if c.has_hash_opclass and not c.generated}
    shared = unique[0].intersection(*unique)
    identity = decide_keys(facts, By(method="hash", columns=())).identity_index
    wanted: set[frozenset[str]] = {shared}
    if identity is not None:
        wanted.add(frozenset(identity.key_columns))
    for columns in sorted(wanted, key=sorted):
        if 1 < len(columns) <= MOST_COMBINED and columns <= set(order):
            yield _by_hash(evidence, tuple(sorted(columns, key=order.__getitem__)))


# -- one key ----------------------------------------------------------------------------------------------


def _by_time(evidence: Evidence, column: Column, found: ColumnEvidence | None) -> Proposal:
    spread = _spread(found)
    by_day = _plain(column) == "date"
    size = sizes.choose_period(spread, evidence.table_bytes, evidence.memory, by_day=by_day)
    return _ranged(evidence, column, size, spread, found)


def _by_step(evidence: Evidence, column: Column, found: ColumnEvidence | None) -> Proposal:
    spread = _spread(found)
    size = sizes.choose_step(spread, evidence.table_bytes, known_rows(evidence.facts), evidence.memory)
    return _ranged(evidence, column, size, spread, found)


def _ranged(
    evidence: Evidence,
    column: Column,
    size: sizes.Size,
    spread: skew.Spread | None,
    found: ColumnEvidence | None,
) -> Proposal:
    facts = evidence.facts
    extent = Extent(lowest=spread.lowest, highest=spread.highest) if spread else Extent(lowest=None, highest=None)
    namer = Namer(facts.taken_names)
    try:
        leaves = range_leaves(facts.table.name, _plain(column), size.step, extent, namer)
    except (RefusedError, UsageError):
        # Dates before our era or beyond the year 9999: `plan` names them.
        leaves = ()
    evenness: Skew | None = None
    if found is not None and known_rows(facts) and leaves:
        evenness = skew.range_skew(leaves, known_rows(facts), list(found.histogram), found.statistics)
    return Proposal(
        by=By(method="range", columns=(column.name,), step=size.step),
        leaves=(*leaves, default_leaf(facts.table.name, namer)),
        sizing=size.why,
        skew=evenness,
        growth_bytes_per_s=size.growth_bytes_per_s,
    )


def _by_list(evidence: Evidence, column: Column, found: ColumnEvidence) -> Proposal:
    facts, statistics = evidence.facts, found.statistics
    namer = Namer(facts.taken_names)
    distinct = round(distinct_values(statistics, facts.table.reltuples))
    values = tuple(sorted(statistics.values or []))
    leaves = list_leaves(facts.table.name, values, namer, with_null=statistics.null_frac > 0)
    evenness = skew.list_skew(leaves, known_rows(facts), statistics) if known_rows(facts) else None
    rare = distinct - len(values)
    more = f"; {rare} rare value{'s' if rare > 1 else ''} more, which `plan` reads from the table" if rare > 0 else ""
    return Proposal(
        by=By(method="list", columns=(column.name,)),
        leaves=(*leaves, default_leaf(facts.table.name, namer)),
        sizing=f"a partition for each of {distinct} values{more}",
        skew=evenness,
    )


def _by_hash(evidence: Evidence, columns: tuple[str, ...]) -> Proposal:
    facts = evidence.facts
    alone = evidence.column(columns[0]) if len(columns) == 1 else None
    distinct = distinct_values(alone.statistics, facts.table.reltuples) if alone is not None else None
    size = sizes.choose_hashes(evidence.table_bytes, evidence.memory, distinct)
    leaves = hash_leaves(facts.table.name, int(size.step), Namer(facts.taken_names))
    return Proposal(
        by=By(method="hash", columns=columns),
        leaves=leaves,
        sizing=size.why,
        skew=_hash_skew(evidence, columns, leaves),
    )


def _hash_skew(evidence: Evidence, columns: tuple[str, ...], leaves: tuple[Leaf, ...]) -> Skew | None:
    rows = known_rows(evidence.facts)
    found = [c for c in map(evidence.column, columns) if c is not None]
    if not rows or len(found) < len(columns):
        return None
    if len(columns) == 1:
        column = found[0]
        if column.statistics.values and not column.hashes:
            return None
        return skew.hash_skew(leaves, rows, column.statistics, [h % len(leaves) for h in column.hashes])
    counted = next((c for group, c in evidence.combinations if group == frozenset(columns)), None)
    return skew.combined_skew(len(leaves), rows, tuple((c.name, c.statistics) for c in found), counted)


def _spread(found: ColumnEvidence | None) -> skew.Spread | None:
    return skew.read_spread(list(found.histogram), found.statistics) if found is not None else None


def _indexed(facts: TableFacts) -> set[str]:
    return {c for i in facts.indexes for c in i.key_columns} | {
        c for k in facts.constraints if k.kind == "f" for c in k.columns
    }


def _plain(column: Column) -> str:
    """Return the type without its modifier: `timestamp(3) with time zone` → `timestamp with time zone`."""
    return re.sub(r"\(.*?\)", "", column.type)
