"""What tuning works with: settings and their limits, machines, proposals, lines of a file. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal, cast, get_args

from pgscale.core.finding import Severity
from pgscale.core.model import Json

Kind = Literal["bool", "integer", "real", "enum", "string"]
Storage = Literal["nvme", "ssd", "san", "hdd"]
Workload = Literal["web", "oltp", "dw", "mixed", "bulk"]
STORAGES: tuple[Storage, ...] = get_args(Storage)
WORKLOADS: tuple[Workload, ...] = get_args(Workload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a server says about a setting.

    Args:
        unit: what a bare number means: `8kB`, `MB`, `ms`; None where a number is a number.
        minimum, maximum: in `unit`; None for what is no number.
        values: the words of an enum that pg_settings shows.
        default: of the server, in `unit`; None where the build decides.
        context: when it can be changed; `postmaster` at a start only, `internal` never.
    """

    name: str
    kind: Kind
    unit: str | None
    minimum: float | None
    maximum: float | None
    values: tuple[str, ...]
    default: str | None
    context: str

    @property
    def needs_restart(self) -> bool:
        return self.context == "postmaster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A setting and what new sessions get of it now.

    Args:
        now: in the setting's unit, as pg_settings prints it.
        source: where it comes from: `default`, `configuration file`, `command line`, `database` …
        pending_restart: a changed file waits for a restart.
    """

    setting: Setting
    now: str
    source: str
    pending_restart: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server to be tuned, as one look found it.

    Args:
        version: as server_version_num.
        standbys: connected by streaming now; None where that may not be read.
        backend_pid: of the session that looked, in the server's own process namespace.
        backend_start_s: when that process began, in seconds since 1970 by the server's clock.
        socket: connected through a Unix-domain socket.
        data_directory: None where the role may not read it.
    """

    version: int
    settings: Mapping[str, Running]
    in_recovery: bool
    standbys: int | None
    backend_pid: int
    backend_start_s: float
    socket: bool
    data_directory: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the server may use.

    Args:
        ram_bytes: of the machine, or of the smallest cgroup around the server.
        storage: of the data directory; None when not known, and then nothing is proposed that depends on it.
        free_disk_bytes: in the data directory's file system; None when not known.
        known_by: how each of them is known, for a person.
    """

    ram_bytes: int
    cpus: int
    storage: Storage | None
    free_disk_bytes: int | None = None
    known_by: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        return {**asdict(self), "known_by": list(self.known_by)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The most that a server with these settings can come to use, against the memory there is.

    Args:
        work_bytes: (connections + workers) × nodes × work_mem × hash_mem_multiplier.
        maintenance_bytes: workers of autovacuum × their memory.
        connections: of max_connections, every one in a query at the same time.
        workers: of max_parallel_workers.
        nodes: sorts and hashes at once in one process.
    """

    shared_bytes: int
    work_bytes: int
    maintenance_bytes: int
    ram_bytes: int
    connections: int
    workers: int
    nodes: int

    @property
    def sum_bytes(self) -> int:
        return self.shared_bytes + self.work_bytes + self.maintenance_bytes

    @property
    def fits(self) -> bool:
        return self.sum_bytes <= self.ram_bytes

    def to_json(self) -> dict[str, Json]:
        return {**asdict(self), "sum_bytes": self.sum_bytes, "fits": self.fits}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """One setting to change.

    Args:
        value: as it is to be written, `4GB`.
        number: the same in the server's unit, as pg_settings will print it.
        now: what runs, written alike.
        reason: why, with the formula and the figures put into it.
        source: where the formula comes from.
        restart: a reload is not enough.
        notes: what has to be known before it is changed.
    """

    name: str
    value: str
    number: str
    unit: str | None
    now: str
    reason: str
    source: str
    restart: bool
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        return {**cast("dict[str, Json]", asdict(self)), "notes": list(self.notes)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Every setting that ought to differ, in the order of the documentation, and the memory before and after."""

    proposals: tuple[Proposal, ...]
    before: Memory
    after: Memory
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        return {
            "proposals": [proposal.to_json() for proposal in self.proposals],
            "memory": {"now": self.before.to_json(), "proposed": self.after.to_json()},
            "notes": list(self.notes),
        }


Problem = Literal[
    "syntax", "include", "removed", "renamed", "misspelt", "unknown", "internal", "value", "unit", "range",
    "conflict", "dangerous", "duplicate", "lowers-default",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFinding:
    """What is wrong with one line of a configuration file.

    Args:
        problem: a stable id.
        severity: `critical` when the server does not start with it, or can lose data.
        file: as it was given, or as the file that includes it names it.
        line: counted from 1.
        name: the setting; empty for a line that cannot be read.
        text: the line as it stands.
        fact: what is so and what follows.
        replacement: lines that take its place; none when it is to go.
    """

    problem: Problem
    severity: Severity
    file: str
    line: int
    name: str
    text: str
    fact: str
    replacement: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        return {**cast("dict[str, Json]", asdict(self)), "replacement": list(self.replacement)}
