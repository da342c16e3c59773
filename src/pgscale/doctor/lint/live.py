"""What the real database has of the tables that a migration locks: sizes, rows, and who is in the way now.

Only catalogs and views are read; no function that locks a user's relation is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pgscale.connect.session import Profile, Session
from pgscale.core.model import Json, QName
from pgscale.sql import load

QUERIES = load(__package__ or "pgscale.doctor.lint", "live.sql")
LIVE = Profile(purpose="lint", statement_timeout_ms=10_000, lock_timeout_ms=100, read_only=True)

# Shorter transactions are over before anybody notices a queue.
LONG_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTable:
    """A table, with its partitions.

    Args:
        table_bytes, index_bytes: pages as of the last VACUUM or ANALYZE, TOAST with the table.
        rows: as of the same; None when it was never analyzed.
    """

    name: QName
    table_bytes: int
    index_bytes: int
    rows: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A transaction that has been open for long and holds a lock on one of the tables.

    Args:
        pid: None for a prepared transaction.
    """

    table: QName
    pid: int | None
    mode: str
    age_s: float
    state: str

    def to_json(self) -> dict[str, Json]:
        return {
            "table": str(self.table),
            "pid": self.pid,
            "mode": self.mode,
            "age_s": round(self.age_s, 1),
            "state": self.state,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionFunction:
    """A function that an extension of the real database has.

    Args:
        arguments, result: as the server writes them in CREATE FUNCTION.
        volatility: IMMUTABLE, STABLE or VOLATILE: a volatile default is computed for each row.
    """

    schema: str
    name: str
    arguments: str
    result: str
    volatility: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The real database, or nothing where none was given.

    Args:
        lock_timeout_ms: what the login has without setting it.
        oldest_s: age of the oldest transaction of another session in this database; None where there is none.
    """

    database: str = ""
    version: int = 0
    lock_timeout_ms: int = 0
    oldest_s: float | None = None
    tables: Mapping[QName, LiveTable] = field(default_factory=dict[QName, LiveTable])
    holders: tuple[Holder, ...] = ()

    @property
    def is_known(self) -> bool:
        return self.version > 0


def read_extension_functions(session: Session) -> tuple[ExtensionFunction, ...]:
    """Read what functions the extensions have."""
    rows = session.execute(QUERIES.get("read_extension_functions", session.info.server_version)).fetchall()
    return tuple(
        ExtensionFunction(schema=schema, name=name, arguments=arguments, result=result, volatility=volatility)
        for schema, name, arguments, result, volatility in rows
    )


def read_live(session: Session, tables: Iterable[QName] = ()) -> Live:
    """Read the facts of some tables; those that are not there are left out."""
    version = session.info.server_version
    names = list(tables)
    parameters = {"schemas": [name.schema for name in names], "names": [name.name for name in names]}
    base = session.execute(QUERIES.get("read_database", version)).fetchone()
    assert base is not None
    found = session.execute(QUERIES.get("read_tables", version), parameters).fetchall()
    held = session.execute(QUERIES.get("read_holders", version), {**parameters, "least_s": LONG_S}).fetchall()
    return Live(
        database=base[0],
        version=version,
        lock_timeout_ms=base[1],
        oldest_s=base[2],
        tables={
            QName(schema=schema, name=name): LiveTable(
                name=QName(schema=schema, name=name), table_bytes=size, index_bytes=indexes, rows=rows
            )
            for schema, name, size, indexes, rows in found
        },
        holders=tuple(
            Holder(table=QName(schema=schema, name=name), pid=pid, mode=mode, age_s=age_s, state=state)
            for schema, name, pid, mode, age_s, state in held
        ),
    )
