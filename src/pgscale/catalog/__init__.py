"""pg_catalog as typed facts, and stored functions on disk against it. Reads only.

>>> from pgscale import catalog                                                              # doctest: +SKIP
>>> [t.name for t in catalog.read_tables(connection, schemas=["shop"]) if t.heap_bytes > 1e9]  # doctest: +SKIP
['orders']
>>> catalog.assert_functions(connection, "db/functions")                                     # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgscale.catalog.facts import (
        Column,
        Constraint,
        Freshness,
        Function,
        Index,
        Partition,
        Table,
        read_columns,
        read_constraints,
        read_freshness,
        read_functions,
        read_indexes,
        read_partitions,
        read_tables,
    )
    from pgscale.catalog.functions.checking import (
        FunctionDriftError,
        aassert_functions,
        assert_functions,
        check_functions,
    )
    from pgscale.catalog.functions.dumping import dump_functions

__all__ = [
    "Column",
    "Constraint",
    "Freshness",
    "Function",
    "FunctionDriftError",
    "Index",
    "Partition",
    "Table",
    "aassert_functions",
    "assert_functions",
    "check_functions",
    "dump_functions",
    "read_columns",
    "read_constraints",
    "read_freshness",
    "read_functions",
    "read_indexes",
    "read_partitions",
    "read_tables",
]

_CHECKING = {"FunctionDriftError", "aassert_functions", "assert_functions", "check_functions"}


def __getattr__(name: str) -> Any:
    """Load what is asked for: rooms above use the facts of one table, few use these."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = "functions.checking" if name in _CHECKING else "functions.dumping" if name == "dump_functions" else "facts"
    return getattr(import_module(f"pgscale.catalog.{place}"), name)
