"""The profiles that come with pgscale, each setting with its reason. Values only.

Their memory fits a machine of 4 GB; pgscale.toml says what yours can take.
"""

from __future__ import annotations

from collections.abc import Mapping

from pgscale.connect.profiles.model import Entry, Section

SOURCE = "shipped"

_FIRST = "one that waits for a lock makes all who come after it wait too"

SHIPPED: Mapping[str, Section] = {
    "bulk_import": Section(
        purpose="Many rows in one transaction: COPY, and what belongs to it.",
        connections=1,
        nodes=2,
        settings={
            "work_mem": Entry(value="64MB", reason="merging what was staged sorts and hashes it"),
            "maintenance_work_mem": Entry(
                value="256MB", reason="an index or a foreign key made behind the rows sorts once, in memory"
            ),
            "statement_timeout": Entry(value="1h", reason="a COPY is one statement; an hour is a large file"),
            "lock_timeout": Entry(value="10s", reason=_FIRST),
            "idle_in_transaction_session_timeout": Entry(
                value="5min", reason="a reader that hangs must not hold back VACUUM and its locks for long"
            ),
        },
    ),
    "promote": Section(
        purpose="Staged rows into the tables that applications read: INSERT … SELECT, MERGE, ATTACH PARTITION.",
        connections=1,
        nodes=2,
        settings={
            "work_mem": Entry(value="64MB", reason="it joins and sorts whole batches"),
            "jit": Entry(value="off", reason="a batch is over before compiled code has paid for itself"),
            "statement_timeout": Entry(value="15min", reason="readers wait for what is new"),
            "lock_timeout": Entry(value="3s", reason=_FIRST),
            "idle_in_transaction_session_timeout": Entry(value="30s", reason="it holds locks on tables in use"),
        },
    ),
    "create": Section(
        purpose="DDL: tables, indexes, constraints.",
        connections=1,
        nodes=1,
        settings={
            "maintenance_work_mem": Entry(value="512MB", reason="an index is built without spilling to disk"),
            "statement_timeout": Entry(value="30min", reason="what takes longer is not for one transaction"),
            "lock_timeout": Entry(value="2s", reason=_FIRST),
            "idle_in_transaction_session_timeout": Entry(value="15s", reason="it holds ACCESS EXCLUSIVE locks"),
        },
    ),
    "report": Section(
        purpose="Queries over much of the data; they change nothing.",
        connections=2,
        nodes=3,
        settings={
            "transaction_read_only": Entry(value="on", reason="a report that writes is a mistake"),
            "work_mem": Entry(value="32MB", reason="sorts and hashes of whole tables"),
            "statement_timeout": Entry(value="10min", reason="nobody waits for it longer, and VACUUM waits for it"),
            "lock_timeout": Entry(value="5s", reason="it waits for ALTER TABLE and the like only"),
            "idle_in_transaction_session_timeout": Entry(value="1min", reason="its snapshot holds back VACUUM"),
        },
    ),
    "oltp": Section(
        purpose="A short transaction for somebody who waits.",
        connections=50,
        nodes=1,
        settings={
            "statement_timeout": Entry(value="5s", reason="who waits has gone by then"),
            "lock_timeout": Entry(value="1s", reason=_FIRST),
            "idle_in_transaction_session_timeout": Entry(
                value="5s", reason="nothing that takes longer belongs between two statements of it"
            ),
            "transaction_timeout": Entry(value="15s", reason="many short statements are long too", since=17),
            "jit": Entry(value="off", reason="compiling takes longer than a short query"),
            "max_parallel_workers_per_gather": Entry(
                value="0", reason="starting workers takes longer than a short query, and there are few for all"
            ),
        },
    ),
}
