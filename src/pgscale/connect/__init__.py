"""DSNs, sessions and blocks with profiles, the only retry, and what stands between us and the server.

For applications: transactions with a profile's settings.

>>> from pgscale.connect import Database                                      # doctest: +SKIP
>>> with Database("postgresql://app@db/shop").profile("bulk_import") as conn:  # doctest: +SKIP
...     conn.execute("INSERT INTO orders SELECT * FROM staged")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgscale.connect.profiles.configuring import read_profiles
    from pgscale.connect.profiles.counting import RowByRowWarning
    from pgscale.connect.profiles.database import AsyncDatabase, Database, Rows
    from pgscale.connect.profiles.model import Checked, Entry, Environment, Profiles, ResolvedProfile, Section

__all__ = [
    "AsyncDatabase",
    "Checked",
    "Database",
    "Entry",
    "Environment",
    "Profiles",
    "ResolvedProfile",
    "RowByRowWarning",
    "Rows",
    "Section",
    "read_profiles",
]

_PLACES = {
    "read_profiles": "configuring",
    "RowByRowWarning": "counting",
    **dict.fromkeys(("AsyncDatabase", "Database", "Rows"), "database"),
    **dict.fromkeys(("Checked", "Entry", "Environment", "ResolvedProfile", "Profiles", "Section"), "model"),
}


def __getattr__(name: str) -> Any:
    """Load the profiles when they are asked for: every room uses this one, few need them."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"pgscale.connect.profiles.{_PLACES[name]}"), name)
