"""Compose what looks at the log of captured keys and what keeps it small."""

from __future__ import annotations

from psycopg import sql

from pgscale.livecopy.ddl.quoting import qualified, text
from pgscale.livecopy.model import Pair


def has_log(pair: Pair) -> str:
    """Return the statement that tells whether any captured key is waiting."""
    return text(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(qualified(pair.log)))


def count_log(pair: Pair, most: int) -> str:
    """Return the statement that counts waiting keys, up to `most`."""
    return text(
        sql.SQL("SELECT pg_catalog.count(*) FROM (SELECT FROM {} LIMIT {}) l").format(
            qualified(pair.log), sql.Literal(most)
        )
    )


def next_in_log(pair: Pair) -> str:
    """Return the statement that finds where the next waiting key lies, as text. Parameter: the TID to begin at."""
    return text(sql.SQL("SELECT ctid::text FROM {} WHERE ctid >= $1::tid LIMIT 1").format(qualified(pair.log)))


def vacuum_log(pair: Pair) -> str:
    return text(sql.SQL("VACUUM {}").format(qualified(pair.log)))


def lock_log(pair: Pair) -> str:
    return text(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(qualified(pair.log)))


def truncate_log(pair: Pair) -> str:
    return text(sql.SQL("TRUNCATE {}").format(qualified(pair.log)))


def is_truncated(pair: Pair) -> str:
    return text(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(qualified(pair.truncated)))


def take_truncated(pair: Pair) -> str:
    """Return the statement that takes the marks of TRUNCATEs; its row count tells whether there were any."""
    return text(sql.SQL("DELETE FROM {}").format(qualified(pair.truncated)))
