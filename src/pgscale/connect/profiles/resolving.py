"""What a profile is in an environment: shipped, then the file, then the environment's part of it. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pgscale.connect.profiles.model import (
    LIVE_ENVIRONMENTS,
    USUAL_ENVIRONMENTS,
    Entry,
    Environment,
    Profiles,
    ResolvedProfile,
    Section,
    Setting,
)
from pgscale.connect.profiles.shipped import SHIPPED, SOURCE
from pgscale.errors import UsageError

_NO_SECTION = Section()


def resolve_environment(config: Profiles, name: str) -> Environment:
    """Return what an environment says.

    Raises:
        UsageError: it is neither in the file nor a usual one: a misspelt `production` must not be a lenient one.
    """
    if name not in config.environments and name not in USUAL_ENVIRONMENTS:
        known = tuple(dict.fromkeys((*config.environments, *USUAL_ENVIRONMENTS)))
        raise UsageError(
            f"There is no environment {name!r}.",
            hint=f"{nearest(name, known)} An environment of yours is a table [environments.{name}] of {config.origin}.",
        )
    return config.environments.get(name, Environment())


def profile_names(config: Profiles, environment: str) -> tuple[str, ...]:
    """Return the names of all profiles of an environment, those that are shipped first."""
    own = resolve_environment(config, environment).profiles
    return tuple(dict.fromkeys((*SHIPPED, *config.profiles, *own)))


def resolve(config: Profiles, name: str, environment: str) -> ResolvedProfile:
    """Return a profile with every layer in it.

    Raises:
        UsageError: there is no such profile or environment; close names are said.
    """
    where = resolve_environment(config, environment)
    known = profile_names(config, environment)
    if name not in known:
        elsewhere = [each for each, other in config.environments.items() if name in other.profiles]
        hint = f"It is one of {', '.join(elsewhere)} only." if elsewhere else nearest(name, known)
        raise UsageError(f"There is no profile {name!r} in environment {environment}.", hint=hint)
    layers = (
        (SOURCE, SHIPPED.get(name, _NO_SECTION)),
        (f"{config.origin} [profiles.{name}]", config.profiles.get(name, _NO_SECTION)),
        (
            f"{config.origin} [environments.{environment}.profiles.{name}]",
            where.profiles.get(name, _NO_SECTION),
        ),
    )
    settings: dict[str, tuple[Entry, str]] = {}
    purpose, connections, nodes = "", 1, 2
    for source, section in layers:
        purpose = section.purpose if section.purpose is not None else purpose
        connections = section.connections or connections
        nodes = section.nodes or nodes
        for setting, entry in section.settings.items():
            settings[setting] = (entry, source)
    return ResolvedProfile(
        name=name,
        environment=environment,
        purpose=purpose,
        connections=connections,
        nodes=nodes,
        live=where.live if where.live is not None else environment in LIVE_ENVIRONMENTS,
        ram_bytes=where.ram_bytes,
        settings=tuple(
            Setting(name=each, value=entry.value, reason=entry.reason, source=source, since=entry.since)
            for each, (entry, source) in settings.items()
            if entry.value is not None
        ),
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names what was meant, or all there is."""
    known = tuple(known)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if near:
        return f"{' or '.join(near)} was meant?"
    return f"There are {', '.join(known)}." if len(known) < 20 else ""
