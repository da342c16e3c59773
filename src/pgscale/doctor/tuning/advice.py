"""Settings for a machine, its work and the server's version. Pure: the server's own pg_settings give names and limits.

What endangers data is never proposed, whatever it would bring: no branch here names fsync, full_page_writes,
synchronous_commit, autovacuum or wal_level.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Literal

from pgscale.core.units import format_bytes
from pgscale.doctor.tuning.memory import NODES, memory_of
from pgscale.doctor.tuning.model import Advice, Machine, Memory, Proposal, Server, Storage, Workload
from pgscale.doctor.tuning.values import format_value, parse_value, to_bytes

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30

# A number that differs by less is left alone: the formulas are no more exact than that.
MATERIAL = 0.2
SHARED_SHARE, SHARED_MOST = 0.25, 0.40
LEAST_SHARED = 128 * MB
WORK_LEAST = 4 * MB
# What the kernel, the backends' own memory and its fragments take.
RESERVED_SHARE = 0.10

WORK_MOST: Mapping[Workload, int] = {"web": 256 * MB, "oltp": 256 * MB, "mixed": 512 * MB, "bulk": GB, "dw": 2 * GB}
MAX_WAL: Mapping[Workload, int] = {"web": 4 * GB, "oltp": 8 * GB, "mixed": 8 * GB, "dw": 16 * GB, "bulk": 32 * GB}
CHECKPOINT_MIN: Mapping[Workload, int] = {"web": 15, "oltp": 15, "mixed": 15, "dw": 30, "bulk": 30}
GATHER_MOST: Mapping[Workload, int] = {"web": 2, "oltp": 2, "mixed": 4, "bulk": 4, "dw": 16}
# Pages that autovacuum may dirty: 200 is some 40 MB/s, whatever the disk can do.
VACUUM_LIMIT: Mapping[Storage, int] = {"nvme": 2000, "ssd": 1000, "san": 1000}
# Before 18, of requests ahead in a bitmap heap scan; 18 reads ahead everywhere, and its default serves.
IO_CONCURRENCY: Mapping[Storage, int] = {"nvme": 200, "ssd": 200, "san": 300, "hdd": 2}
IO_CONCURRENCY_18 = 16

_MEMORY = "PostgreSQL documentation, Resource Consumption: Memory"
_WAL = "PostgreSQL documentation, Write-Ahead Log: WAL Configuration"
_PLANNER = "PostgreSQL documentation, Query Planning: Planner Cost Constants"
_PARALLEL = "PostgreSQL documentation, Resource Consumption: Worker Processes"
_IO = "PostgreSQL documentation, Resource Consumption: I/O"
_VACUUM = "PostgreSQL documentation, Vacuuming: Cost-based Vacuum Delay"
_STANDBYS_FIRST = (
    "standbys stop replaying when it is larger on the primary than on them: raise it on every standby first"
)

Way = Literal["either", "raise", "lower"]


def advise(server: Server, machine: Machine, workload: Workload, connections: int | None = None) -> Advice:
    """Return what ought to differ from what runs, with reasons.

    Args:
        connections: what max_connections is to be; None leaves it and counts with what runs.
    """
    draft = _Draft(server)
    _connections(draft, connections)
    _parallel(draft, machine, workload)
    _memory(draft, machine, workload)
    _wal(draft, machine, workload)
    _planner(draft, machine, workload)
    _io(draft, machine)
    _vacuum(draft, machine)
    _work(draft, machine, workload)
    before = draft.memory(draft.running(), workload, machine)
    after = draft.memory(draft.values(), workload, machine)
    return Advice(proposals=draft.proposals(), before=before, after=after, notes=_notes(server, machine, after))


class _Draft:
    """Proposals so far, over what runs."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._made: dict[str, Proposal] = {}

    @property
    def version(self) -> int:
        return self._server.version

    def has(self, name: str) -> bool:
        return name in self._server.settings

    def words(self, name: str) -> tuple[str, ...]:
        """Return the words that an enum takes on this server; none for a bool."""
        return self._server.settings[name].setting.values

    def running(self) -> dict[str, str]:
        return {name: running.now for name, running in self._server.settings.items()}

    def values(self) -> dict[str, str]:
        return {**self.running(), **{name: made.number for name, made in self._made.items()}}

    def number(self, name: str) -> float:
        return float(self.values()[name])

    def size(self, name: str) -> int:
        return to_bytes(self._server.settings[name].setting, self.values()[name])

    def memory(self, values: Mapping[str, str], workload: Workload, machine: Machine) -> Memory:
        known = {name: running.setting for name, running in self._server.settings.items()}
        return memory_of(known, values, version=self.version, workload=workload, ram_bytes=machine.ram_bytes)

    def proposals(self) -> tuple[Proposal, ...]:
        return tuple(self._made.values())

    def want(
        self,
        name: str,
        value: str,
        reason: str,
        source: str,
        *,
        way: Way = "either",
        exact: bool = False,
        note: str = "",
    ) -> None:
        """Propose a value where this server has the setting, takes the value and runs with something materially else.

        Args:
            way: whether what runs may only be raised, or only lowered.
            exact: any difference is material.
        """
        running = self._server.settings.get(name)
        if running is None:
            return
        setting = running.setting
        if setting.kind == "enum" and value not in setting.values:
            return
        number = parse_value(setting, value)
        if setting.kind in {"integer", "real"}:
            wanted, now = Decimal(number), Decimal(running.now)
            if (way == "raise" and wanted <= now) or (way == "lower" and wanted >= now):
                return
            if not exact and abs(wanted - now) <= abs(now) * Decimal(str(MATERIAL)):
                return
        if number == running.now:
            return
        self._made[name] = Proposal(
            name=name,
            value=format_value(setting, number),
            number=number,
            unit=setting.unit,
            now=format_value(setting, running.now),
            reason=reason,
            source=source,
            restart=setting.needs_restart,
            notes=self._notes(name, note),
        )

    def within(self, name: str, wanted: int) -> int:
        """Return a plain number within the limits that the server gives a setting."""
        setting = self._server.settings[name].setting
        assert setting.minimum is not None
        assert setting.maximum is not None
        return max(int(setting.minimum), min(int(setting.maximum), wanted))

    def _notes(self, name: str, note: str) -> tuple[str, ...]:
        running = self._server.settings[name]
        notes = [note] if note else []
        if running.source == "command line":
            notes.append("it is given on the server's command line, which wins over ALTER SYSTEM and every file")
        elif running.source in {"database", "user", "database user"}:
            notes.append(
                f"what runs is this {running.source}'s own value (ALTER {running.source.upper()} … SET), which wins"
            )
        return tuple(notes)


def _kb(size: float) -> str:
    return f"{int(size) // KB}kB"


def neat(size: float) -> int:
    """Return a size rounded down to a sixteenth of a power of two, in whole MB."""
    whole = max(int(size), MB)
    step = max(MB, 1 << (whole.bit_length() - 5))
    return whole // step * step


def _connections(draft: _Draft, connections: int | None) -> None:
    if connections is not None:
        draft.want(
            "max_connections",
            str(connections),
            f"--connections {connections}",
            "as you said",
            exact=True,
            note=_STANDBYS_FIRST,
        )


def _parallel(draft: _Draft, machine: Machine, workload: Workload) -> None:
    cpus = machine.cpus
    draft.want(
        "max_worker_processes",
        str(draft.within("max_worker_processes", max(8, cpus + 4))),
        f"processors + 4 = {cpus + 4}: all parallel workers, and some left for replication and extensions",
        _PARALLEL,
        way="raise",
        note=_STANDBYS_FIRST,
    )
    draft.want(
        "max_parallel_workers",
        str(draft.within("max_parallel_workers", cpus)),
        f"one a processor: {cpus}",
        _PARALLEL,
        exact=cpus < draft.number("max_parallel_workers"),
    )
    half = cpus // 2
    most = GATHER_MOST[workload]
    draft.want(
        "max_parallel_workers_per_gather",
        str(min(half, most)),
        f"half of {cpus} processors, at most {most} for {workload}: queries that run side by side need the others",
        _PARALLEL,
        exact=True,
        way="either" if half < draft.number("max_parallel_workers_per_gather") or workload == "dw" else "raise",
    )
    if cpus >= 4:
        draft.want(
            "max_parallel_maintenance_workers",
            str(min(half, 8 if workload in {"dw", "bulk"} else 4)),
            f"half of {cpus} processors for index builds, at most {8 if workload in {'dw', 'bulk'} else 4}",
            _PARALLEL,
            way="raise",
        )


def _memory(draft: _Draft, machine: Machine, workload: Workload) -> None:
    ram = machine.ram_bytes
    shared = max(LEAST_SHARED, neat(ram * SHARED_SHARE))
    too_much = draft.size("shared_buffers") > ram * SHARED_MOST
    draft.want(
        "shared_buffers",
        _kb(shared),
        f"a quarter of {format_bytes(ram)}; the rest serves as the kernel's cache"
        + ("; more than 40% gains nothing" if too_much else ""),
        _MEMORY,
        way="lower" if too_much else "raise",
    )
    draft.want(
        "effective_cache_size",
        _kb(neat(ram * 0.75)),
        f"three quarters of {format_bytes(ram)}: shared_buffers and what the kernel caches; nothing is allocated",
        _PLANNER,
    )
    if draft.number("hash_mem_multiplier") < 2:
        draft.want(
            "hash_mem_multiplier",
            "2",
            "hashes suffer more from spilling than sorts; 2 is the default since 15",
            _MEMORY,
            way="raise",
        )
    share, most = (8, 2 * GB) if workload in {"dw", "bulk"} else (16, GB)
    maintenance = max(64 * MB, min(most, neat(ram / share)))
    draft.want(
        "maintenance_work_mem",
        _kb(maintenance),
        f"memory / {share}, at most {format_bytes(most)}: index builds sort in memory, VACUUM reads each index once",
        _MEMORY,
        way="lower" if draft.size("maintenance_work_mem") > max(ram // 8, maintenance) else "raise",
    )


def _work(draft: _Draft, machine: Machine, workload: Workload) -> None:
    """work_mem last: it is what the others leave."""
    sums = draft.memory(draft.values(), workload, machine)
    usable = machine.ram_bytes * (1 - RESERVED_SHARE) - sums.shared_bytes - sums.maintenance_bytes
    processes, nodes = sums.connections + sums.workers, NODES[workload]
    multiplier = draft.number("hash_mem_multiplier")
    share = usable / (processes * nodes * multiplier)
    work = min(WORK_MOST[workload], max(WORK_LEAST, neat(share) if share > 0 else 0))
    held = "; 4 MB at least" if share < WORK_LEAST else f"; at most {format_bytes(WORK_MOST[workload])} for {workload}"
    draft.want(
        "work_mem",
        _kb(work),
        f"(90% of memory - shared_buffers - autovacuum's) / (({sums.connections} connections + {sums.workers} workers)"
        f" × {nodes} node{'s' if nodes > 1 else ''} × {multiplier:g})"
        + (held if share < WORK_LEAST or work == WORK_MOST[workload] else ""),
        _MEMORY,
        way="raise" if sums.fits else "lower",
    )


def _wal(draft: _Draft, machine: Machine, workload: Workload) -> None:
    wanted = MAX_WAL[workload]
    free = machine.free_disk_bytes
    if free is not None:
        # What runs has its place already.
        wanted = min(wanted, neat((free + draft.size("max_wal_size")) / 8))
    bound = (
        ""
        if free is None or wanted == MAX_WAL[workload]
        else f", no more than an eighth of {format_bytes(free)} free disk"
    )
    draft.want(
        "max_wal_size",
        _kb(wanted),
        f"room for {workload} so that checkpoints come by time, not by WAL{bound}; `pgscale doctor` measures the rate",
        _WAL,
        way="raise",
    )
    draft.want(
        "min_wal_size",
        _kb(neat(draft.size("max_wal_size") / 4)),
        "a quarter of max_wal_size: segments are renamed, not made anew",
        _WAL,
        way="raise",
    )
    minutes = CHECKPOINT_MIN[workload]
    draft.want(
        "checkpoint_timeout",
        f"{minutes}min",
        "fewer full-page images in the WAL; recovery after a crash takes the longer",
        _WAL,
        way="raise",
    )
    draft.want(
        "checkpoint_completion_target", "0.9", "writes of a checkpoint spread evenly", _WAL, way="raise", exact=True
    )
    if workload == "bulk":
        draft.want("wal_buffers", "64MB", "many writers of large rows do not wait for each segment", _WAL, way="raise")
    if draft.values()["wal_compression"] == "off":
        kind = "lz4" if "lz4" in draft.words("wal_compression") else "on"
        draft.want(
            "wal_compression", kind, "full-page images shrink to a third or less for little processor time", _WAL
        )
    draft.want("log_checkpoints", "on", "the log tells what checkpoints cost; the default since 15", _WAL)


def _planner(draft: _Draft, machine: Machine, workload: Workload) -> None:
    if machine.storage is not None:
        cost = 4.0 if machine.storage == "hdd" else 1.1
        draft.want(
            "random_page_cost",
            str(cost),
            "a random read costs nearly what a sequential one does"
            if cost < 4
            else "heads must move for a random read",
            _PLANNER,
        )
    if workload == "dw":
        draft.want(
            "default_statistics_target",
            "500",
            "large tables with skewed columns; ANALYZE takes longer",
            _PLANNER,
            way="raise",
        )
    if workload in {"web", "oltp"}:
        draft.want(
            "jit",
            "off",
            "short queries lose more time to compiling than they gain",
            "PostgreSQL documentation, Just-in-Time Compilation: When to JIT?",
        )


def _io(draft: _Draft, machine: Machine) -> None:
    if machine.storage is None or not draft.has("effective_io_concurrency"):
        return
    new = draft.version >= 180_000
    wanted = IO_CONCURRENCY_18 if new else IO_CONCURRENCY[machine.storage]
    # Where the system cannot read ahead the largest value is 0.
    wanted = draft.within("effective_io_concurrency", wanted)
    draft.want(
        "effective_io_concurrency",
        str(wanted),
        "the default of 18" if new else f"requests that {machine.storage} serves at the same time",
        _IO,
        way="raise",
    )
    if machine.storage != "hdd":
        draft.want(
            "maintenance_io_concurrency",
            str(draft.within("maintenance_io_concurrency", wanted)),
            "the same for VACUUM and recovery, which read ahead alike",
            _IO,
            way="raise",
        )
    if draft.has("io_workers") and draft.values().get("io_method") == "worker":
        draft.want(
            "io_workers",
            str(draft.within("io_workers", max(3, machine.cpus // 4))),
            f"a quarter of {machine.cpus} processors: every read of io_method = worker goes through them",
            _IO,
            way="raise",
        )


def _vacuum(draft: _Draft, machine: Machine) -> None:
    limit = VACUUM_LIMIT.get(machine.storage) if machine.storage else None
    # -1 takes vacuum_cost_limit, 200.
    if limit is not None and draft.number("autovacuum_vacuum_cost_limit") < limit:
        per_s = limit / 20 / 0.002 * 8 * KB
        draft.want(
            "autovacuum_vacuum_cost_limit",
            str(limit),
            f"{limit} / 20 a dirtied page, every 2 ms: {format_bytes(per_s)}/s for all workers together, not 39 MB/s",
            _VACUUM,
            way="raise",
        )
    draft.want(
        "autovacuum_vacuum_cost_delay",
        "2ms",
        "the default since 12; 20ms lets tables outgrow autovacuum",
        _VACUUM,
        way="lower",
    )
    if draft.values()["log_autovacuum_min_duration"] == "-1":
        draft.want(
            "log_autovacuum_min_duration", "10min", "the log tells of slow autovacuums; the default since 15", _VACUUM
        )


def _notes(server: Server, machine: Machine, after: Memory) -> tuple[str, ...]:
    notes: list[str] = []
    if not after.fits:
        notes.append(
            f"With all {after.connections} connections at work, {format_bytes(after.sum_bytes)} would be needed and"
            f" there are {format_bytes(machine.ram_bytes)}: put a pooler in front and lower max_connections"
            " (--connections)."
        )
    if machine.storage is None:
        notes.append("The storage is not known, so what depends on it is left alone; say --storage.")
    if server.in_recovery:
        notes.append("This server is a standby: settings are its own, the primary is not changed.")
    elif server.standbys:
        notes.append(f"{server.standbys} standby servers have settings of their own; tune them, too.")
    waiting = sorted(name for name, running in server.settings.items() if running.pending_restart)
    if waiting:
        notes.append(f"Waiting for a restart already: {', '.join(waiting)}.")
    return tuple(notes)
