"""What is measured of a database, and what is concluded from it. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pgscale.core.model import Json

PhaseName = Literal["one instance", "replicas", "partitioning and caching", "shards"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A phase begins where a database has so many rows or serves so many transactions a second.

    Args:
        means: what serves it, as a sentence.
    """

    name: PhaseName
    rows: float
    tps: float
    means: str


# Orders of magnitude, for one server of ordinary size: what the field agrees on, not what any one server can do.
PHASES: tuple[Phase, ...] = (
    Phase(name="one instance", rows=0, tps=0, means="One server, its settings and its indexes are all it needs."),
    Phase(name="replicas", rows=10e6, tps=1e3, means="Reads move to replicas; one primary still takes every write."),
    Phase(
        name="partitioning and caching",
        rows=100e6,
        tps=10e3,
        means="Large tables are divided, and what is read again and again is kept ready.",
    ),
    Phase(name="shards", rows=1e9, tps=100e3, means="One primary no longer takes the writes: the rows are spread."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table or a materialized view, as the statistics have it.

    Args:
        rows, pages, index_pages: as of the last VACUUM or ANALYZE; pages with those of TOAST.
        seq_scans, seq_rows, index_scans, inserted, updated, deleted: since the statistics were reset.
        documents, times, blobs: columns of json, jsonb, xml and hstore; of dates and timestamps; of text, bytea, json.
        most_keys_to_one: foreign keys to the one table it refers to most often; keys_to_itself: to itself.
        key_columns: of its primary key.
    """

    oid: int
    schema: str
    name: str
    is_partition: bool
    rows: float
    pages: int
    index_pages: int
    seq_scans: int
    seq_rows: int
    index_scans: int
    inserted: int
    updated: int
    deleted: int
    columns: int
    documents: int
    times: int
    blobs: int
    most_keys_to_one: int
    keys_to_itself: int
    key_columns: int

    @property
    def written(self) -> int:
        return self.inserted + self.updated + self.deleted


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    partitioned_tables: int
    foreign_servers: int
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A database in figures.

    Args:
        basis: over which time rates were counted, to be said; seconds: how long that is.
        tps: transactions a second; writes_per_s: rows inserted, updated and deleted; growth_per_s: rows more.
        read_share: rows read by index, of those and the rows written, at least: an UPDATE that scans hides some; None
            when there were too few.
        hit_share: pages found in shared_buffers; None when too few were asked for.
        total_bytes: of tables and indexes; shared_buffers_bytes: of the server.
        connections, idle: of clients; None where they are hidden.
    """

    basis: str
    seconds: float
    tables: tuple[Table, ...]
    block_bytes: int
    tps: float
    writes_per_s: float
    growth_per_s: float
    read_share: float | None
    hit_share: float | None
    total_bytes: int
    shared_buffers_bytes: int
    connections: int | None
    idle: int | None
    surroundings: Surroundings
    has_citus: bool

    @property
    def rows(self) -> float:
        return sum(table.rows for table in self.tables)

    def bytes_of(self, table: Table) -> int:
        return (table.pages + table.index_pages) * self.block_bytes

    def to_json(self) -> dict[str, Json]:
        return {
            "basis": self.basis,
            "basis_s": round(self.seconds, 1),
            "tables": len(self.tables),
            "rows": round(self.rows),
            "rows_per_day": round(self.growth_per_s * 86_400),
            "tps": round(self.tps, 1),
            "writes_per_s": round(self.writes_per_s, 1),
            "read_share": None if self.read_share is None else round(self.read_share, 3),
            "hit_share": None if self.hit_share is None else round(self.hit_share, 4),
            "total_bytes": self.total_bytes,
            "shared_buffers_bytes": self.shared_buffers_bytes,
            "connections": self.connections,
            "idle": self.idle,
            "partitioned_tables": self.surroundings.partitioned_tables,
            "replicas": self.surroundings.replicas,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that could be done to serve more.

    Args:
        id: its name, which never changes.
        pressure: how much it is needed: 1.0 where it begins to pay.
        evidence: the figures, as a sentence.
        why: what it would bring, as a sentence.
        command: to paste; empty where pgscale has none.
    """

    id: str
    title: str
    pressure: float
    evidence: str
    why: str
    command: str

    @property
    def is_due(self) -> bool:
        return self.pressure >= 1.0

    def to_json(self) -> dict[str, Json]:
        return {
            "id": self.id,
            "title": self.title,
            "pressure": round(self.pressure, 3),
            "evidence": self.evidence,
            "why": self.why,
            "command": self.command,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A table that another kind of database is made for.

    Args:
        kind: which; because: what it is seen by; still: why PostgreSQL may do, and how.
    """

    table: str
    kind: str
    because: str
    still: str

    def to_json(self) -> dict[str, Json]:
        return {"table": self.table, "kind": self.kind, "because": self.because, "still": self.still}


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """What is concluded.

    Args:
        reached_by: rows or transactions, and how many: why it is this phase.
        next_step: the one that would bring most; None when none is due.
        later: those that are due too, the most urgent first; premature: those that are not.
        next_phase_days: until the rows reach the next phase at today's growth; None when they never do, or when
            what was seen was too short to say.
    """

    phase: Phase
    reached_by: str
    next_step: Step | None
    later: tuple[Step, ...]
    premature: tuple[Step, ...]
    fits: tuple[Fit, ...]
    next_phase_days: float | None
    measured: Measured

    def to_json(self) -> dict[str, Json]:
        return {
            "phase": self.phase.name,
            "means": self.phase.means,
            "reached_by": self.reached_by,
            "next_phase_days": None if self.next_phase_days is None else round(self.next_phase_days),
            "next_step": None if self.next_step is None else self.next_step.to_json(),
            "due_later": [step.to_json() for step in self.later],
            "premature": [step.to_json() for step in self.premature],
            "fits": [fit.to_json() for fit in self.fits],
            "measured": self.measured.to_json(),
        }
