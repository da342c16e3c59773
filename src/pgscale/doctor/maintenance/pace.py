"""How much of the server maintenance may take. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.doctor.maintenance.model import Kind
from pgscale.livecopy.throttle import Pace

MB = 1 << 20
# Bytes a second where nothing was measured yet: what a small cloud volume gives; a build of an index also sorts.
USUAL: dict[Kind, float] = {
    "clean": 1024 * MB, "freeze": 40 * MB, "vacuum": 60 * MB, "analyze": 60 * MB, "reindex": 20 * MB,
}  # fmt: skip
# What a statement takes however little there is to do.
LEAST_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceSettings:
    """What a pace sets.

    Args:
        delay_ms, cost_limit: of VACUUM and ANALYZE, as autovacuum has them; 0 ms: no pauses.
        workers: max_parallel_maintenance_workers; None: as the server has it.
    """

    delay_ms: float
    cost_limit: int
    workers: int | None

    def settings(self) -> list[tuple[str, str]]:
        found = [("vacuum_cost_delay", f"{self.delay_ms:g}ms"), ("vacuum_cost_limit", str(self.cost_limit))]
        if self.workers is not None:
            found.append(("max_parallel_maintenance_workers", str(self.workers)))
        return found

    def bytes_per_s(self, page_cost: float, block_bytes: int) -> float | None:
        """What the pauses allow, of pages that are read and changed; None: anything.

        Args:
            page_cost: of such a page.
        """
        if not self.delay_ms:
            return None
        return self.cost_limit / max(1.0, page_cost) / (self.delay_ms / 1000) * block_bytes


# gentle is what one worker of autovacuum has by default; normal ten times that.
PACES: dict[Pace, PaceSettings] = {
    "gentle": PaceSettings(delay_ms=2, cost_limit=200, workers=0),
    "normal": PaceSettings(delay_ms=2, cost_limit=2_000, workers=1),
    "fast": PaceSettings(delay_ms=0, cost_limit=200, workers=None),
}


def estimate_s(kind: Kind, size_bytes: int, measured: float | None, allowed: float | None) -> float:
    """Return how long a statement takes, about.

    Args:
        measured: bytes a second of earlier ones at this pace; it has the pauses in it.
        allowed: bytes a second by the pauses.
    """
    rate = measured or USUAL[kind]
    if measured is None and allowed is not None and kind in ("freeze", "vacuum", "analyze"):
        rate = min(rate, allowed)
    return LEAST_S + size_bytes / rate
