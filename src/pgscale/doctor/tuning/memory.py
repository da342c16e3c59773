"""The most memory that settings allow a server to take. Pure.

work_mem is for each sort or hash node of each process, and hashes may take hash_mem_multiplier times as much
(PostgreSQL's documentation, "Resource Consumption": Memory). So every connection and every parallel worker counts with
all its nodes.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgscale.doctor.tuning.model import Memory, Setting, Workload
from pgscale.doctor.tuning.values import to_bytes

# Sorts and hashes that one query of the workload has at the same time.
NODES: Mapping[Workload, int] = {"web": 1, "oltp": 1, "mixed": 2, "bulk": 2, "dw": 4}

VACUUM_MOST_BYTES = 1 << 30
VACUUM_UNLIMITED = 170_000


def memory_of(
    settings: Mapping[str, Setting], values: Mapping[str, str], *, version: int, workload: Workload, ram_bytes: int
) -> Memory:
    """Return the sum for settings, each in its own unit.

    Args:
        version: as server_version_num: VACUUM takes no more than 1 GB before 17.
    """

    def size(name: str) -> int:
        return to_bytes(settings[name], values[name])

    own = values["autovacuum_work_mem"]
    each = size("maintenance_work_mem") if own == "-1" else size("autovacuum_work_mem")
    if version < VACUUM_UNLIMITED:
        each = min(each, VACUUM_MOST_BYTES)
    connections = int(values["max_connections"])
    processes = connections + int(values["max_parallel_workers"])
    work = processes * NODES[workload] * size("work_mem") * float(values["hash_mem_multiplier"])
    return Memory(
        shared_bytes=size("shared_buffers"),
        work_bytes=round(work),
        maintenance_bytes=int(values["autovacuum_max_workers"]) * each,
        ram_bytes=ram_bytes,
        connections=connections,
        workers=processes - connections,
        nodes=NODES[workload],
    )
