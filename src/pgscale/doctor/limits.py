"""Thresholds, with their units in their names. `[doctor.<area>]` of pgscale.toml overrides them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from pgscale.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaLimits:
    """The thresholds of one area: numbers that are not negative, no warning_… above its critical_…."""

    def __post_init__(self) -> None:
        values: dict[str, float] = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, value in values.items():
            if value < 0:
                raise UsageError(f"`{name}` = {value} is below zero")
            critical = name.replace("warning_", "critical_", 1)
            if name.startswith("warning_") and value > values.get(critical, value):
                raise UsageError(f"`{name}` = {value} is above `{critical}` = {values[critical]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HorizonLimits(AreaLimits):
    """How long VACUUM may be held back.

    Args:
        warning_age_s, critical_age_s: the age of what holds it, seconds.
        least_age_xids: nothing younger is reported for its age in time: little has been written since.
        warning_age_xids, critical_age_xids: its age in transaction ids, whatever its age in time.
    """

    warning_age_s: float = 900.0
    critical_age_s: float = 21_600.0
    least_age_xids: int = 1_000
    warning_age_xids: int = 10_000_000
    critical_age_xids: int = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionsLimits(AreaLimits):
    """How sessions may behave.

    Args:
        warning_idle_in_transaction_s, critical_idle_in_transaction_s: since a transaction's last statement, seconds.
        warning_connections_share, critical_connections_share: connections in use, of those that may be; 0 to 1.
        long_idle_s: a session that has asked for nothing for so long is not needed now, seconds.
        pooler_connections, pooler_idle_share: a pooler pays from so many connections on, of which such a share is idle.
    """

    warning_idle_in_transaction_s: float = 300.0
    critical_idle_in_transaction_s: float = 3_600.0
    warning_connections_share: float = 0.8
    critical_connections_share: float = 0.95
    long_idle_s: float = 600.0
    pooler_connections: int = 200
    pooler_idle_share: float = 0.75


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every threshold.

    Args:
        ignore: ids and areas of checks that are left out, as with --ignore.
    """

    ignore: tuple[str, ...] = ()
    horizon: HorizonLimits = field(default_factory=HorizonLimits)
    sessions: SessionsLimits = field(default_factory=SessionsLimits)
