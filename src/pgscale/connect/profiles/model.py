"""Values of profiles: what pgscale.toml says, what comes of it for one environment, what the server knows of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pgscale.core.model import Json

DEFAULT_ENVIRONMENT = "development"
# Environments that need not stand in the file, and those where a timeout of zero needs a reason.
USUAL_ENVIRONMENTS = ("development", "test", "staging", "production")
LIVE_ENVIRONMENTS = frozenset({"production", "prod", "live"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A setting as it is written.

    Args:
        value: as SET takes it; None leaves what the session has, where another layer sets something.
        reason: why it is so.
        since: the first major version of PostgreSQL that has it; older servers are spared.
    """

    value: str | None
    reason: str = ""
    since: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A profile as one layer writes it; None leaves what the layer below says.

    Args:
        purpose: for a person.
        connections: blocks of it that are open at the same time, of all processes.
        nodes: sorts and hashes that one of its queries has at the same time.
    """

    purpose: str | None = None
    connections: int | None = None
    nodes: int | None = None
    settings: Mapping[str, Entry] = field(default_factory=dict[str, Entry])


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What is different in one environment.

    Args:
        ram_bytes: of the server; None where it is not known.
        live: a timeout of zero needs a reason here; None goes by the name.
    """

    ram_bytes: int | None = None
    live: bool | None = None
    profiles: Mapping[str, Section] = field(default_factory=dict[str, Section])


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiles:
    """The profiles of a pgscale.toml.

    Args:
        origin: the file, for messages.
    """

    profiles: Mapping[str, Section] = field(default_factory=dict[str, Section])
    environments: Mapping[str, Environment] = field(default_factory=dict[str, Environment])
    origin: str = "pgscale.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting of a profile in an environment.

    Args:
        source: which layer says so.
    """

    name: str
    value: str
    reason: str
    source: str
    since: int = 0

    def to_json(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "value": self.value,
            "reason": self.reason,
            "source": self.source,
            "since": self.since or None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedProfile:
    """A profile in an environment, all layers taken together.

    Args:
        live: a timeout of zero needs a reason.
        ram_bytes: of the server; None where nobody said.
    """

    name: str
    environment: str
    purpose: str
    connections: int
    nodes: int
    live: bool
    ram_bytes: int | None
    settings: tuple[Setting, ...]

    def for_server(self, version: int) -> tuple[Setting, ...]:
        """Return the settings that a server of this server_version_num is sent."""
        return tuple(each for each in self.settings if each.since <= version // 10_000)

    def to_json(self) -> dict[str, Json]:
        return {
            "profile": self.name,
            "environment": self.environment,
            "purpose": self.purpose,
            "connections": self.connections,
            "nodes": self.nodes,
            "settings": [each.to_json() for each in self.settings],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What the server says of a setting that a profile names.

    Args:
        name: as it is written in the profile; names do not mind upper and lower case.
        known: to the server; one with a dot may be unknown and yet be set.
        context: when it can be changed; None where pg_settings does not show it.
        may_set: the role may, where it takes a right.
        before: what the session has; role: that it acts as.
    """

    name: str
    known: bool
    context: str | None
    may_set: bool
    kind: str | None
    unit: str | None
    least: str | None
    most: str | None
    words: tuple[str, ...]
    before: str | None
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """What counts for the sums and the timeouts, as it stands within the block.

    Args:
        autovacuum_bytes: what each of the server's own workers takes, whatever the block sets.
        gather_workers: of one query; parallel_workers: of all sessions.
        zero_timeouts: names of timeouts that are 0.
    """

    work_mem_bytes: int
    hash_mem_multiplier: float
    maintenance_bytes: int
    temp_buffers_bytes: int
    shared_buffers_bytes: int
    gather_workers: int
    parallel_workers: int
    autovacuum_workers: int
    autovacuum_bytes: int
    zero_timeouts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """A setting as the server has it within the block.

    Args:
        before: what the session had; None for a name with a dot that nobody had set.
        value: as SHOW prints it.
    """

    setting: Setting
    before: str | None
    value: str

    def to_json(self) -> dict[str, Json]:
        return {**self.setting.to_json(), "value": self.value, "written": self.setting.value, "before": self.before}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A profile that a server takes.

    Args:
        notes: what was not judged, and why.
    """

    profile: ResolvedProfile
    settings: tuple[InForce, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Json]:
        return {
            **self.profile.to_json(),
            "settings": [each.to_json() for each in self.settings],
            "notes": list(self.notes),
        }
