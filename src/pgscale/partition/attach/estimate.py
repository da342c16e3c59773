"""What an attach will need: the keys that grow are built anew, and the table is read once. Pure."""

from __future__ import annotations

from pgscale.catalog.model import TableFacts
from pgscale.partition.estimate import BEST, INDEX_BYTES_PER_S, WORST
from pgscale.partition.keys import Keys
from pgscale.partition.model import Estimate, Phase

# docs/benchmarks/attach.md: rows of 190 bytes, in memory, while other programs used the processors.
VALIDATE_BYTES_PER_S = 700_000_000
# The parent, the swap and what follows it.
REST_S = (0.5, 3.0)
GROWN_COLUMN_BYTES = 8


def estimate(facts: TableFacts, keys: Keys) -> Estimate:
    """Return disk, WAL and time from best to worst; disk is what is needed until the old keys go in the swap."""
    rows = max(0, round(facts.table.reltuples))
    index_bytes = sum(
        i.bytes + rows * GROWN_COLUMN_BYTES * len(keys.grown[i.oid]) for i in facts.indexes if i.oid in keys.grown
    )
    index_s, validate_s = index_bytes / INDEX_BYTES_PER_S, facts.table.heap_bytes / VALIDATE_BYTES_PER_S
    phases = (
        Phase(name="index", least_s=index_s * BEST, most_s=index_s * WORST),
        Phase(name="validate", least_s=validate_s * BEST, most_s=validate_s * WORST),
        Phase(name="the rest", least_s=REST_S[0], most_s=REST_S[1]),
    )
    return Estimate(
        rows=rows,
        disk_bytes=index_bytes,
        wal_bytes=index_bytes,
        least_wal_bytes=index_bytes // 2,
        duration_s=sum(p.most_s for p in phases),
        least_duration_s=sum(p.least_s for p in phases),
        phases=phases,
        basis="From benchmarks in memory, from two thirds of their time to three times as much; a table that must be"
        " read from disk takes as long as the disk does.",
    )
