"""The settings of every supported version, without a server: settings.tsv, which `tools/settings.py` writes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import cast

from pgscale.doctor.tuning.model import Kind, Setting
from pgscale.errors import UsageError

OLDEST, NEWEST = 14, 18
# What only some builds have, and what the server takes in a file but never shows.
UNSHOWN = frozenset(
    {
        *(
            "trace_syncscan",
            "optimize_bounded_sort",
            "debug_deadlocks",
            "trace_locks",
            "trace_lwlocks",
            "trace_userlocks",
        ),
        *("trace_lock_oidmin", "trace_lock_table", "wal_debug", "log_btree_build_stats", "btree_build_stats", "seed"),
        *("ssl_renegotiation_limit", "default_with_oids", "role"),
    }
)


@cache
def settings_of(version: int) -> Mapping[str, Setting]:
    """Return the settings of a major version by name.

    Raises:
        UsageError: pgscale does not know that version.
    """
    if not OLDEST <= version <= NEWEST:
        raise UsageError(
            f"pgscale does not know the settings of PostgreSQL {version}.",
            hint=f"It knows {OLDEST} to {NEWEST}: --for {NEWEST}.",
        )
    text = resources.files(__package__ or "").joinpath("settings.tsv").read_text(encoding="utf-8")
    found: dict[str, Setting] = {}
    for line in text.splitlines()[1:]:
        name, since, until, kind, unit, least, most, values, default, context = line.split("\t")
        if int(since) <= version and (not until or version < int(until)):
            found[name] = Setting(
                name=name,
                kind=cast("Kind", kind),
                unit=unit or None,
                minimum=float(least) if least else None,
                maximum=float(most) if most else None,
                values=tuple(values.split(",")) if values else (),
                default=default or None,
                context=context,
            )
    return found
