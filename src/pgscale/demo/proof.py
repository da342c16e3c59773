"""What the demo proves, read back in plain SQL on a connection of its own: nothing here trusts the runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from pgscale.core.model import Json
from pgscale.demo.latency import Latency
from pgscale.demo.load import LoadReport
from pgscale.partition import RunResult

_TPC_B = """
SELECT (SELECT coalesce(sum(abalance), 0)::bigint FROM pgbench_accounts),
       (SELECT coalesce(sum(tbalance), 0)::bigint FROM pgbench_tellers),
       (SELECT coalesce(sum(bbalance), 0)::bigint FROM pgbench_branches),
       (SELECT coalesce(sum(delta), 0)::bigint FROM pgbench_history),
       (SELECT count(*) FROM pgbench_history)
"""

_PARTITIONED = """
SELECT pg_get_partkeydef(c.oid), count(i.inhrelid)
FROM pg_class c LEFT JOIN pg_inherits i ON i.inhparent = c.oid
WHERE c.oid = to_regclass(%s) AND c.relkind = 'p'
GROUP BY c.oid
"""

# Order-independent over every column of every row; flights gets no writes, so it may not change at all.
_FLIGHTS = "SELECT count(*), coalesce(sum(hashtextextended(f::text, 0)), 0)::text FROM flights f"

_ACCOUNTS = "SELECT count(*), '' FROM pgbench_accounts"


@dataclass(frozen=True, slots=True, kw_only=True)
class TpcB:
    """The sums that every TPC-B transaction keeps equal, and how many transactions left their row."""

    accounts: int
    tellers: int
    branches: int
    history: int
    transactions: int

    @property
    def holds(self) -> bool:
        return self.accounts == self.tellers == self.branches == self.history

    def to_json(self) -> dict[str, Json]:
        return {
            "holds": self.holds,
            "accounts": self.accounts,
            "tellers": self.tellers,
            "branches": self.branches,
            "history": self.history,
            "transactions": self.transactions,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """How many rows a table has and what they add up to; `checksum` is empty where writes go on."""

    rows: int
    checksum: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableProof:
    """A table as the catalog and a full read show it at the end.

    Args:
        table: its name.
        key: the partition key in PostgreSQL's words, such as `HASH (aid)`; empty when not partitioned.
        partitions: how many it has.
        before: its content before the run.
        after: its content now.
    """

    table: str
    key: str
    partitions: int
    before: Content
    after: Content

    @property
    def ok(self) -> bool:
        return self.partitions > 0 and self.before == self.after

    def to_json(self) -> dict[str, Json]:
        return {
            "table": self.table,
            "key": self.key,
            "partitions": self.partitions,
            "rows_before": self.before.rows,
            "rows_after": self.after.rows,
            "unchanged": self.before == self.after,
        }


def read_contents(connection: psycopg.Connection[Any]) -> dict[str, Content]:
    """Count pgbench_accounts and flights, with a checksum of the latter; one full read of each."""
    return {
        "pgbench_accounts": _content(connection, _ACCOUNTS),
        "flights": _content(connection, _FLIGHTS),
    }


def read_tpc_b(connection: psycopg.Connection[Any]) -> TpcB:
    """Read the four sums and the number of recorded transactions, in one statement and so one snapshot."""
    accounts, tellers, branches, history, transactions = _one(connection, _TPC_B)
    return TpcB(accounts=accounts, tellers=tellers, branches=branches, history=history, transactions=transactions)


def read_table_proof(connection: psycopg.Connection[Any], table: str, before: Content) -> TableProof:
    """Read how a table is partitioned and what it holds now; one full read of it."""
    found = connection.execute(_PARTITIONED, (table,)).fetchone()
    key, partitions = found or ("", 0)
    return TableProof(
        table=table,
        key=key,
        partitions=partitions,
        before=before,
        after=_content(connection, _FLIGHTS if table == "flights" else _ACCOUNTS),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """How the demo ended.

    Args:
        server: version of the server, as it says itself.
        rate: transactions a second the load was limited to.
        duration_s: from the first step to the last.
        runs: what each run reported.
        tables: what plain SQL found afterwards.
        tpc_b: the sums of the load's own invariant.
        load: what the application felt, and what it was served.
        trial: transactions served before that, when the load was tried out.
        before: latency without a run.
        during: latency while the runs were on.
        kept_dsn: where the server still listens, empty when it was cleared away.
        kept_directory: its files, empty when they were deleted.
        kept_pid: its process id, None when it ended.
    """

    server: str
    rate: float
    duration_s: float
    runs: tuple[RunResult, ...]
    tables: tuple[TableProof, ...]
    tpc_b: TpcB
    load: LoadReport
    trial: int
    before: Latency
    during: Latency
    kept_dsn: str = ""
    kept_directory: str = ""
    kept_pid: int | None = None

    @property
    def rows_checked(self) -> int:
        return sum(run.rows_checked for run in self.runs)

    @property
    def mismatches(self) -> int:
        return sum(run.mismatches for run in self.runs)

    @property
    def failed(self) -> int:
        return self.load.failed + self.load.aborted_clients

    @property
    def blocked_ms(self) -> float:
        return max((run.blocked_ms for run in self.runs), default=0.0)

    @property
    def nothing_lost(self) -> bool:
        """Every transaction pgbench was told is committed left its row in the history, and no other did."""
        return self.tpc_b.transactions == self.load.processed + self.trial

    @property
    def ok(self) -> bool:
        return (
            bool(self.runs)
            and self.rows_checked > 0
            and self.mismatches == 0
            and self.load.ok
            and self.tpc_b.holds
            and self.nothing_lost
            and all(table.ok for table in self.tables)
        )

    def to_json(self) -> dict[str, Json]:
        return {
            "ok": self.ok,
            "server": self.server,
            "duration_s": round(self.duration_s, 1),
            "rows_checked": self.rows_checked,
            "mismatches": self.mismatches,
            "failed_transactions": self.failed,
            "blocked_ms": round(self.blocked_ms, 1),
            "invariant": self.tpc_b.to_json(),
            "nothing_lost": self.nothing_lost,
            "tables": [table.to_json() for table in self.tables],
            "runs": [run.to_json() for run in self.runs],
            "load": {
                "rate": round(self.rate, 1),
                **self.load.to_json(),
                "before": self.before.to_json(),
                "during": self.during.to_json(),
            },
            "kept": {"dsn": self.kept_dsn, "directory": self.kept_directory, "pid": self.kept_pid}
            if self.kept_dsn
            else None,
        }


def _one(connection: psycopg.Connection[Any], query: LiteralString) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row


def _content(connection: psycopg.Connection[Any], query: LiteralString) -> Content:
    rows, checksum = _one(connection, query)
    return Content(rows=rows, checksum=checksum)
