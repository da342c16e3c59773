"""Compose what compares source and target byte for byte, by pages or by ranges of keys."""

from __future__ import annotations

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
        " _pgscale_target.{} IS NULL OR _pgscale_source OPERATOR(pg_catalog.*<>) _pgscale_target AS _pgscale_differs"
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
    # ORDER BY is qualified, because ORDER BY "id" would mean the text column of the result.
    order, first = names(identity_of(pair), "k"), len(pair.identity) * low + 1
    return text(
        sql.SQL(
            "SELECT {} FROM (SELECT {}, pg_catalog.row_number() OVER (ORDER BY {}) AS _pgscale_n FROM {} k WHERE {}"
            " ORDER BY {} LIMIT {rows}::int8 * {keys}::int8 + 1) k"
            " WHERE k._pgscale_n > 1 AND (k._pgscale_n - 1) % {rows}::int8 = 0 ORDER BY {}"
        ).format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier("k", k.name)) for k in pair.identity),
            order,
            order,
            qualified(pair.source),
            _within(pair, "k", low=low, high=False),
            order,
            order,
            rows=trusted(f"${first}"),
            keys=trusted(f"${first + 1}"),
        )
    )


def verify_keys(pair: Pair, *, low: bool, high: bool) -> str:
    """Return the statement that compares both tables in a range of keys, byte for byte, in both directions.

    Parameters, as text: the first key's columns when there is a low limit, those of the key after the last when
    there is a high one. Result: as verify_source.
    """
    columns = names(pair.all_columns)
    within = _within(pair, "k", low=low, high=high)
    compared = sql.SQL(
        "SELECT {}, _pgscale_source.{key} IS NOT NULL AS _pgscale_counts,"
        " _pgscale_source.{key} IS NULL OR _pgscale_target.{key} IS NULL"
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
    return _judge(pair, compared)


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
        " WHERE (_pgscale_source.{key} IS NULL) <> (_pgscale_target.{key} IS NULL)"
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
