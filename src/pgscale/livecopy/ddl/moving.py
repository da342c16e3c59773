"""Compose what brings rows from the source to the target: the copy's chunks and the log's batches."""

from __future__ import annotations

from psycopg import sql

from pgscale.core.model import QName
from pgscale.livecopy.ddl.quoting import equal, identity_of, keys_of, names, qualified, text
from pgscale.livecopy.model import Pair


def copy(pair: Pair) -> str:
    """Return the statement that copies a chunk and notes it in the ledger, in one transaction and one round trip.

    Parameters: the first TID and the one after the last, the run, the first page of the ledger's row and its new
    last page. It returns the number of rows.
    """
    columns = names(pair.columns)
    return text(
        sql.SQL(
            "WITH moved AS (INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {}"
            " WHERE ctid >= $1::tid AND ctid < $2::tid RETURNING 1),"
            " counted AS (SELECT pg_catalog.count(*) AS n FROM moved)"
            " UPDATE pgscale.chunk SET last_page = $5::int8, row_count = row_count + n FROM counted"
            " WHERE run_id = $3::int8 AND phase = 'copy' AND first_page = $4::int8 RETURNING n"
        ).format(qualified(pair.target), columns, columns, qualified(pair.source))
    )


def scrub(pair: Pair, leaf: QName) -> str:
    """Return the statement that removes from one unindexed leaf every row whose key was captured."""
    return text(
        sql.SQL("DELETE FROM {} _pgscale_target USING (SELECT DISTINCT {} FROM {}) k WHERE {}").format(
            qualified(leaf), names(identity_of(pair)), qualified(pair.log), equal(pair.identity, "_pgscale_target", "k")
        )
    )


def batch_table(pair: Pair) -> str:
    """Return the statement that makes the session's own batch table; emptied at every commit."""
    return text(
        sql.SQL(
            "CREATE TEMPORARY TABLE IF NOT EXISTS _pgscale_batch ON COMMIT DELETE ROWS AS SELECT * FROM {} WITH NO DATA"
        ).format(qualified(pair.log))
    )


def apply(pair: Pair) -> tuple[str, str, str]:
    """Return the three statements of one batch: take keys, delete them from the target, bring them as they are.

    They run in one REPEATABLE READ transaction: one snapshot sees which keys changed and how their rows
    stand, so a batch may be any subset of the log, in any order, and be repeated.
    """
    keys, identity = names(keys_of(pair)), names(identity_of(pair))
    take = sql.SQL(
        "WITH taken AS (DELETE FROM {} WHERE ctid >= $1::tid AND ctid < $2::tid RETURNING {})"
        " INSERT INTO pg_temp._pgscale_batch SELECT DISTINCT {} FROM taken"
    ).format(qualified(pair.log), keys, keys)
    return (text(take), _delete(pair, sql.SQL("pg_temp._pgscale_batch")), text(_bring(pair, identity)))


def _delete(pair: Pair, keys_from: sql.Composable) -> str:
    if pair.placement:
        # A row's old partition is in the log, its present one in the source: both are looked into.
        doomed = sql.SQL(
            "SELECT {} FROM {} UNION SELECT {} FROM (SELECT DISTINCT {} FROM {}) b JOIN {} _pgscale_source ON {}"
        ).format(
            names(keys_of(pair)),
            keys_from,
            names(keys_of(pair), "_pgscale_source"),
            names(identity_of(pair)),
            keys_from,
            qualified(pair.source),
            equal(pair.identity, "_pgscale_source", "b"),
        )
    else:
        doomed = sql.SQL("SELECT DISTINCT {} FROM {}").format(names(identity_of(pair)), keys_from)
    return text(
        sql.SQL("DELETE FROM {} _pgscale_target USING ({}) k WHERE {}").format(
            qualified(pair.target), doomed, equal((*pair.identity, *pair.placement), "_pgscale_target", "k")
        )
    )


def _bring(pair: Pair, identity: sql.Composed) -> sql.Composed:
    return sql.SQL(
        "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM"
        " (SELECT DISTINCT {} FROM pg_temp._pgscale_batch) b JOIN {} _pgscale_source ON {}"
    ).format(
        qualified(pair.target),
        names(pair.columns),
        names(pair.columns, "_pgscale_source"),
        identity,
        qualified(pair.source),
        equal(pair.identity, "_pgscale_source", "b"),
    )


def evict(pair: Pair) -> str:
    """Return the statement that deletes from the target every key waiting in the log.

    For a batch whose rows collide with rows that are themselves about to change (two rows that swapped a
    unique value): what is in the log will be brought again anyway.
    """
    return _delete(pair, qualified(pair.log))


def truncate_target(pair: Pair) -> str:
    return text(sql.SQL("TRUNCATE {}").format(qualified(pair.target)))
