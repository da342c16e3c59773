"""Measure the ladder in a scratch copy of a table, with rows of the table itself."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import psycopg
from psycopg.types.json import Json, Jsonb

from pgscale.connect.dsn import redact, resolve_dsn
from pgscale.connect.session import Profile, Session, open_session
from pgscale.core.model import Progress, QName, Watch, ignore_progress
from pgscale.errors import ConnectError, PermissionDeniedError, PgscaleError, RefusedError, RunFailedError, UsageError
from pgscale.write.copying import copy
from pgscale.write.destination import read_destination
from pgscale.write.effects import drive
from pgscale.write.ladder import ddl
from pgscale.write.ladder.model import Ladder, Rung
from pgscale.write.loading.ddl import settings_of_the_login
from pgscale.write.model import ColumnFact, Destination
from pgscale.write.sources import Rows

# A measurement takes as long as its rows take; COMMIT waits for the disk, as an application's does.
BENCH = Profile(purpose="bench", statement_timeout_ms=0, lock_timeout_ms=5_000)
# Row by row is told from fewer: a commit a row is two orders slower than the rest.
SINGLE_ROWS = 1_000
UNNEST_ROWS = 1_000
PARALLEL = 2

# Objects that psycopg reads as dicts and writes as none.
_WRAPPERS: dict[str, Callable[[Any], Any]] = {"json": Json, "jsonb": Jsonb}

Way = Callable[[Sequence[tuple[Any, ...]]], None]


def measure(
    dsn: str | None, table: str, *, rows: int = 20_000, rounds: int = 3, watch: Watch = ignore_progress
) -> Ladder:
    """Write rows of the table into a scratch copy of it, in every way, in turn; the copy is dropped at the end.

    The copy has the table's columns, defaults, checks and indexes, not its triggers and foreign keys.

    Args:
        rows: at most so many, read from the table itself; rounds: each way goes so often, and the median counts.

    Raises:
        UsageError: too few rows or rounds; RefusedError: no such table, or it is empty; PermissionDeniedError: the
            role may not make a table beside it; ConnectError.

    Locks: ACCESS SHARE on the table while rows are read and the copy is made.
    """
    if rows < 1 or rounds < 1:
        raise UsageError("There is at least one row and one round to measure.")
    conninfo = resolve_dsn(dsn)
    try:
        with _open(conninfo) as session:
            return _Measurement(conninfo, session, table, rows, rounds, watch).run()
    except psycopg.Error as error:
        raise _translated(error, conninfo) from error


def _open(conninfo: str) -> Session:
    session = open_session(conninfo, BENCH)
    session.execute(settings_of_the_login())
    return session


class _Measurement:
    def __init__(self, conninfo: str, session: Session, table: str, rows: int, rounds: int, watch: Watch) -> None:
        self._conninfo, self._session, self._rounds, self._watch = conninfo, session, rounds, watch
        self._others: list[Session] = []
        self._destination: Destination = drive(read_destination(session.info, table), session, Rows(()))
        self._columns: list[ColumnFact] = [c for c in self._destination.columns if not c.is_generated]
        table_name = self._destination.table
        self._scratch = QName(schema=table_name.schema, name=f"_pgscale_bench_{secrets.token_hex(4)}")
        found = session.execute(ddl.sample(table_name, self._columns, rows))
        wraps = [_WRAPPERS.get(c.type_name) for c in self._columns]
        self._rows = [
            tuple(v if w is None or v is None else w(v) for v, w in zip(row, wraps, strict=True)) for row in found
        ]
        if not self._rows:
            raise RefusedError(
                f"{table_name} has no rows to measure with.",
                consequence="Nothing was changed.",
                hint="The ladder writes rows of the table itself into a copy of it: put some in first.",
            )

    def run(self) -> Ladder:
        self._session.execute(ddl.create_scratch(self._scratch, self._destination.table))
        try:
            with ExitStack() as stack:
                self._others = [stack.enter_context(_open(self._conninfo)) for _ in range(PARALLEL)]
                rungs = self._climb()
        finally:
            self._session.execute(ddl.drop(self._scratch))
        version = self._session.info.server_version
        return Ladder(
            table=str(self._destination.table),
            server=f"PostgreSQL {version // 10_000}.{version % 10_000}",
            columns=len(self._columns),
            rows=len(self._rows),
            rounds=self._rounds,
            rungs=rungs,
        )

    def _climb(self) -> tuple[Rung, ...]:
        ways: dict[str, tuple[Way, int]] = {
            "row by row, a commit each": (self._row_by_row, SINGLE_ROWS),
            "executemany": (self._executemany, len(self._rows)),
            f"unnest, {UNNEST_ROWS:,} rows each": (self._unnest, len(self._rows)),
            "COPY, text": (self._copy_text, len(self._rows)),
            "COPY, binary": (self._copy_binary, len(self._rows)),
            "pgscale.write.copy": (self._copy, len(self._rows)),
            f"pgscale.write.copy, {PARALLEL} connections": (self._parallel, len(self._rows)),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        reasons: dict[str, str] = {}
        step = 0
        for number in range(self._rounds):
            # In turn, and back again: what the server does meanwhile hits all alike.
            names = list(ways) if number % 2 == 0 else list(reversed(ways))
            for name in names:
                step += 1
                self._tell(name, step, self._rounds * len(ways))
                if name in reasons:
                    continue
                way, most = ways[name]
                rows = self._rows[:most]
                try:
                    rates[name].append(len(rows) / self._timed(way, rows))
                except (psycopg.Error, PgscaleError, TypeError, ValueError) as error:
                    if self._session.closed:
                        raise
                    reasons[name] = " ".join(redact(str(error), self._conninfo).split())[:200]
        return tuple(
            Rung(
                name=name,
                rows=min(most, len(self._rows)),
                rates=() if name in reasons else tuple(rates[name]),
                reason=reasons.get(name, ""),
            )
            for name, (_, most) in ways.items()
        )

    def _timed(self, way: Way, rows: Sequence[tuple[Any, ...]]) -> float:
        self._session.execute(ddl.truncate(self._scratch))
        began = time.perf_counter()
        way(rows)
        return max(time.perf_counter() - began, 1e-9)

    def _tell(self, name: str, done: int, total: int) -> None:
        self._watch(
            Progress(
                table=str(self._destination.table), phase="measure", done=done - 1, total=total, unit="items", note=name
            )
        )

    # -- the ways --------------------------------------------------------------------------------------------------

    def _row_by_row(self, rows: Sequence[tuple[Any, ...]]) -> None:
        statement = ddl.insert(self._scratch, self._columns)
        with self._session.cursor() as cursor:
            for row in rows:
                cursor.execute(statement, row, prepare=True)

    def _executemany(self, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._session.transaction(), self._session.cursor() as cursor:
            cursor.executemany(ddl.insert(self._scratch, self._columns), rows)

    def _unnest(self, rows: Sequence[tuple[Any, ...]]) -> None:
        statement = ddl.insert_unnested(self._scratch, self._columns)
        with self._session.transaction():
            for start in range(0, len(rows), UNNEST_ROWS):
                arrays = [list(values) for values in zip(*rows[start : start + UNNEST_ROWS], strict=True)]
                self._session.execute(statement, arrays)

    def _copy_text(self, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._session.cursor() as cursor, cursor.copy(ddl.copy_text(self._scratch, self._columns)) as writing:
            for row in rows:
                writing.write_row(row)

    def _copy_binary(self, rows: Sequence[tuple[Any, ...]]) -> None:
        with self._session.cursor() as cursor, cursor.copy(ddl.copy_binary(self._scratch, self._columns)) as writing:
            writing.set_types([column.type_oid for column in self._columns])
            for row in rows:
                writing.write_row(row)

    def _copy(self, rows: Sequence[tuple[Any, ...]]) -> None:
        copy(self._session, str(self._scratch), rows, [c.name for c in self._columns])

    def _parallel(self, rows: Sequence[tuple[Any, ...]]) -> None:
        failures: list[BaseException] = []

        def body(number: int) -> None:
            try:
                names = [c.name for c in self._columns]
                copy(self._others[number], str(self._scratch), rows[number::PARALLEL], names)
            except BaseException as error:  # noqa: BLE001 because it is raised again in the caller's thread
                failures.append(error)

        threads = [threading.Thread(target=body, args=(number,), daemon=True) for number in range(PARALLEL)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]


def _translated(error: psycopg.Error, conninfo: str) -> PgscaleError:
    text = str(error).strip()
    first = redact(text.splitlines()[0] if text else type(error).__name__, conninfo).rstrip(".")
    if error.sqlstate == "42501":
        return PermissionDeniedError(
            f"The role lacks a right: {first}.",
            consequence="Nothing was changed.",
            hint="Measuring reads the table and makes a copy beside it: GRANT CREATE ON SCHEMA … TO the role.",
        )
    if error.sqlstate == "25006":
        return RefusedError("The server is read-only.", consequence="Nothing was changed.", hint="Use the primary.")
    if isinstance(error, psycopg.OperationalError) and error.sqlstate in (None, "57P01", "57P02", "57P03"):
        return ConnectError(f"The connection was lost: {first}.", hint="DROP TABLE what is called _pgscale_bench_….")
    return RunFailedError(f"The database reported: {first}.", consequence="The scratch copy was dropped.")
