"""Compose what compares source and target byte for byte, by pages or by ranges of keys."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from pgscale.core.model import QName
from pgscale.livecopy.ddl.quoting import equal, ident, identity_of, names, qualified, text, trusted
from pgscale.livecopy.model import Pair


def verify_source(pair: Pair) -> str:
    """Return the statement that compares the source rows of pages [first, last) with the target, byte for byte.

    As every statement that compares, it returns one row: whether a TRUNCATE waits to be applied (then nothing
    was compared), how many source rows there were, and the keys of rows that differ though no change of theirs
    waits in the log: the mismatches. Rows that differ and do wait go to the recheck table.
    """
    columns = names(pair.all_columns)
    compared = sql.SQL(
        "SELECT {}, true AS _pgscale_counts,"
        " _pgscale_target.{} IS NOT DISTINCT FROM NULL"
        " OR _pgscale_source OPERATOR(pg_catalog.*<>) _pgscale_target AS _pgscale_differs"
        " FROM (SELECT {} FROM {} WHERE ctid >= $1::tid AND ctid < $2::tid) _pgscale_source"
        " LEFT JOIN (SELECT {} FROM {}) _pgscale_target ON {}"
    ).format(
        names(identity_of(pair), "_pgscale_source"),
        ident(pair.identity[0].name),
        columns,
        qualified(pair.source),
        columns,
        qualified(pair.target),
        equal((*pair.identity, *pair.placement), "_pgscale_target", "_pgscale_source"),
    )
    return _judge(pair, compared)


def can_walk_keys(pair: Pair) -> bool:
    """Tell whether the identity can be walked in order: built-in types, whose operators need no search_path."""
    return all(k.equals == "OPERATOR(pg_catalog.=)" and k.type for k in pair.identity)


def _row(pair: Pair, prefix: str = "") -> sql.Composed:
    return sql.SQL("ROW({})").format(names(identity_of(pair), prefix))


def _bound(pair: Pair, first_parameter: int) -> sql.Composed:
    return sql.SQL("ROW({})").format(
        sql.SQL(", ").join(
            sql.SQL("{}::text::{}").format(trusted(f"${first_parameter + i}"), trusted(k.type))
            for i, k in enumerate(pair.identity)
        )
    )


def _within(pair: Pair, prefix: str, *, low: bool, high: bool) -> sql.Composed:
    """Return the condition of a key range; the low limit's parameters come first, then the high limit's."""
    row, count = _row(pair, prefix), len(pair.identity)
    conditions: list[sql.Composable] = []
    if low:
        conditions.append(sql.SQL("{} >= {}").format(row, _bound(pair, 1)))
    if high:
        conditions.append(sql.SQL("{} < {}").format(row, _bound(pair, 1 + count * low)))
    return sql.SQL(" AND ").join(conditions) if conditions else sql.Composed([sql.SQL("true")])


def next_keys(pair: Pair, *, low: bool) -> str:
    """Return the statement that finds the key some rows further on, the one as many rows after that, and so on.

    Parameters: the key's columns as text (without `low`: none, from the beginning), the number of rows from one to
    the next, and how many keys are wanted.
    """
    # Each key is found from the one before by OFFSET, in the index alone: a window function over the same rows would
    # take three times as long. ORDER BY is qualified, because ORDER BY "id" would mean the text column of the result.
    count, columns = len(pair.identity), names(identity_of(pair), "k")
    rows, keys = trusted(f"${count * low + 1}"), trusted(f"${count * low + 2}")
    further = sql.SQL("SELECT {columns} FROM {source} k WHERE {within} ORDER BY {columns} OFFSET {rows}::int8 LIMIT 1")
    shown = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier("k", k.name)) for k in pair.identity)
    return text(
        sql.SQL(
            "WITH RECURSIVE _pgscale_walk AS (SELECT k.*, 1::int8 AS _pgscale_n FROM ({first}) k"
            " UNION ALL SELECT k.*, w._pgscale_n + 1 FROM _pgscale_walk w CROSS JOIN LATERAL ({next}) k"
            " WHERE w._pgscale_n < {keys}::int8)"
            " SELECT {shown} FROM _pgscale_walk k ORDER BY k._pgscale_n"
        ).format(
            first=further.format(
                columns=columns,
                source=qualified(pair.source),
                within=_within(pair, "k", low=low, high=False),
                rows=rows,
            ),
            next=further.format(
                columns=columns,
                source=qualified(pair.source),
                within=sql.SQL("{} >= {}").format(_row(pair, "k"), _row(pair, "w")),
                rows=rows,
            ),
            keys=keys,
            shown=shown,
        )
    )


def verify_keys(pair: Pair, *, low: bool, high: bool) -> str:
    """Return the statement that compares both tables in a range of keys, byte for byte, in both directions.

    Parameters, as text: the first key's columns when there is a low limit, those of the key after the last when
    there is a high one. Result: as verify_source.
    """
    return _judge(pair, _compare_keys(pair, _within(pair, "k", low=low, high=high)))


def stream_keys(pair: Pair, low: Sequence[str] | None, high: Sequence[str] | None, rows: int) -> sql.Composed:
    """Return the statement that opens the cursor `_pgscale_compared`, which compares both tables in a range of keys.

    It can be advanced a little at a time: a row comes for every key that differs, after every so many keys, and at
    the end. Its columns: the differing key as text, NULL where none is; the source's rows so far; whether this is
    the last row. An empty range has no rows. The keys are quoted when it is made text for a session.

    Args:
        low, high: the range's first key and the one after its last; None: no limit.
        rows: keys from one row of the result to the next, at most.
    """
    # DECLARE takes no parameters: the keys are written into it.
    within = sql.SQL(" AND ").join(
        sql.SQL("{} {} ROW({})").format(
            _row(pair, "k"),
            operator,
            sql.SQL(", ").join(
                sql.SQL("{}::text::{}").format(sql.Literal(value), trusted(k.type))
                for value, k in zip(limit, pair.identity, strict=True)
            ),
        )
        for operator, limit in ((sql.SQL(">="), low), (sql.SQL("<"), high))
        if limit is not None
    )
    return sql.SQL(
        "DECLARE _pgscale_compared NO SCROLL CURSOR WITHOUT HOLD FOR"
        " SELECT CASE WHEN _pgscale_differs THEN (ROW({identity})::{recheck})::text END,"
        " _pgscale_rows, _pgscale_ends"
        " FROM (SELECT {identity}, _pgscale_differs, pg_catalog.row_number() OVER w AS _pgscale_n,"
        " pg_catalog.count(*) FILTER (WHERE _pgscale_counts) OVER w AS _pgscale_rows,"
        " pg_catalog.lead(false, 1, true) OVER w AS _pgscale_ends"
        # OFFSET 0: what goes through the window is the keys and two booleans, not the rows.
        " FROM ({compared} OFFSET 0) c WINDOW w AS (ROWS UNBOUNDED PRECEDING)) c"
        " WHERE _pgscale_differs OR _pgscale_ends OR _pgscale_n % {rows} = 0"
    ).format(
        identity=names(identity_of(pair)),
        recheck=qualified(pair.recheck),
        compared=_compare_keys(pair, within if low is not None or high is not None else sql.SQL("true")),
        rows=sql.Literal(rows),
    )


def verify_streamed(pair: Pair) -> str:
    """Return the statement that judges keys that were found to differ, in the snapshot they were found in.

    Parameter: the keys, as stream_keys gives them. Result: as verify_source, without the number of rows.
    """
    identity = names(identity_of(pair))
    differing = sql.SQL("SELECT {}, false AS _pgscale_counts, true AS _pgscale_differs FROM ({}) c").format(
        identity,
        sql.SQL("SELECT (k::{}).* FROM pg_catalog.unnest($1::text[]) k").format(qualified(pair.recheck)),
    )
    return _judge(pair, differing)


def _compare_keys(pair: Pair, within: sql.Composable) -> sql.Composed:
    columns = names(pair.all_columns)
    return sql.SQL(
        "SELECT {}, _pgscale_source.{key} IS DISTINCT FROM NULL AS _pgscale_counts,"
        # Of a composite key IS NULL would look into its fields.
        " _pgscale_source.{key} IS NOT DISTINCT FROM NULL OR _pgscale_target.{key} IS NOT DISTINCT FROM NULL"
        " OR _pgscale_source OPERATOR(pg_catalog.*<>) _pgscale_target AS _pgscale_differs"
        " FROM (SELECT {} FROM {} k WHERE {}) _pgscale_source"
        " FULL JOIN (SELECT {} FROM {} k WHERE {}) _pgscale_target ON {}"
    ).format(
        sql.SQL(", ").join(
            sql.SQL("COALESCE({}, {}) AS {}").format(
                sql.Identifier("_pgscale_source", k.name), sql.Identifier("_pgscale_target", k.name), ident(k.name)
            )
            for k in pair.identity
        ),
        columns,
        qualified(pair.source),
        within,
        columns,
        qualified(pair.target),
        within,
        equal(pair.identity, "_pgscale_source", "_pgscale_target"),
        key=ident(pair.identity[0].name),
    )


def verify_target(pair: Pair, leaf: QName) -> str:
    """Return the statement that looks up the rows of a leaf's pages in the source: nothing may be left over.

    It counts no rows: they were counted from the other side.
    """
    compared = sql.SQL(
        "SELECT {}, false AS _pgscale_counts, true AS _pgscale_differs FROM {} _pgscale_target"
        " WHERE _pgscale_target.ctid >= $1::tid AND _pgscale_target.ctid < $2::tid"
        " AND NOT EXISTS (SELECT FROM {} _pgscale_source WHERE {})"
    ).format(
        names(identity_of(pair), "_pgscale_target"),
        qualified(leaf),
        qualified(pair.source),
        equal((*pair.identity, *pair.placement), "_pgscale_source", "_pgscale_target"),
    )
    return _judge(pair, compared)


def recheck(pair: Pair) -> str:
    """Return the statement that compares the keys of the recheck table once more, and empties it."""
    columns = names(pair.all_columns)
    identity = names(identity_of(pair))
    compared = sql.SQL(
        "SELECT DISTINCT {}, true AS _pgscale_counts, true AS _pgscale_differs FROM (SELECT DISTINCT {} FROM waiting) k"
        " LEFT JOIN (SELECT {} FROM {}) _pgscale_source ON {}"
        " LEFT JOIN (SELECT {} FROM {}) _pgscale_target ON {}"
        " WHERE (_pgscale_source.{key} IS NOT DISTINCT FROM NULL) <> (_pgscale_target.{key} IS NOT DISTINCT FROM NULL)"
        " OR _pgscale_source OPERATOR(pg_catalog.*<>) _pgscale_target"
    ).format(
        names(identity_of(pair), "k"),
        identity,
        columns,
        qualified(pair.source),
        equal(pair.identity, "_pgscale_source", "k"),
        columns,
        qualified(pair.target),
        equal(pair.identity, "_pgscale_target", "k"),
        key=ident(pair.identity[0].name),
    )
    waiting = sql.SQL("waiting AS (DELETE FROM {} RETURNING {}), ").format(qualified(pair.recheck), identity)
    return _judge(pair, compared, waiting)


def _judge(pair: Pair, compared: sql.Composed, before: sql.Composable | None = None) -> str:
    # Only the keys that differ are kept, as rows of the recheck table's type: to keep every row that was compared,
    # alike or not, made a third of the whole cost.
    identity = names(identity_of(pair))
    return text(
        sql.SQL(
            "WITH {before}compared AS MATERIALIZED (SELECT"
            " pg_catalog.count(*) FILTER (WHERE _pgscale_counts) AS _pgscale_rows,"
            " pg_catalog.array_agg(ROW({identity})::{recheck}) FILTER (WHERE _pgscale_differs) AS _pgscale_keys"
            " FROM ({compared}) c),"
            " judged AS MATERIALIZED (SELECT d.*, EXISTS (SELECT FROM {log} l WHERE {equal}) AS _pgscale_pending"
            " FROM compared, pg_catalog.unnest(compared._pgscale_keys) d),"
            " kept AS (INSERT INTO {recheck} SELECT {identity} FROM judged WHERE _pgscale_pending)"
            " SELECT EXISTS (SELECT FROM {truncated}), (SELECT _pgscale_rows FROM compared),"
            " ARRAY(SELECT ROW({identity})::text FROM judged WHERE NOT _pgscale_pending LIMIT 1000)"
        ).format(
            before=before or sql.SQL(""),
            compared=compared,
            log=qualified(pair.log),
            truncated=qualified(pair.truncated),
            equal=equal(pair.identity, "l", "d"),
            recheck=qualified(pair.recheck),
            identity=identity,
        )
    )


def count_recheck(pair: Pair) -> str:
    return text(sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(qualified(pair.recheck)))
