"""Compose the SQL that captures, copies, applies and verifies. Pure: values in, SQL text out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import LiteralString, cast

from psycopg import sql

from pgscale.core.model import QName
from pgscale.livecopy.model import KeyColumn, Pair

CAPTURE_EVENTS: tuple[tuple[LiteralString, LiteralString, LiteralString], ...] = (
    ("_pgscale_i", "INSERT", "REFERENCING NEW TABLE AS pgscale_new "),
    ("_pgscale_u", "UPDATE", "REFERENCING OLD TABLE AS pgscale_old NEW TABLE AS pgscale_new "),
    ("_pgscale_d", "DELETE", "REFERENCING OLD TABLE AS pgscale_old "),
    ("_pgscale_t", "TRUNCATE", ""),
)

# What a transaction that probes by key must not do: read whole tables because statistics are missing.
PROBE_BY_KEY = (
    "SET LOCAL enable_seqscan = off",
    "SET LOCAL enable_hashjoin = off",
    "SET LOCAL enable_mergejoin = off",
)


def disable(method: LiteralString) -> sql.Composed:
    """Return the statement that makes the planner avoid a method in this session: `seqscan`, `hashjoin` …"""
    return sql.SQL("SET {} = off").format(sql.Identifier("enable_" + method))


def text(composed: sql.Composable) -> str:
    """Return the statement as text. Parameters are written $1, $2: `%` in a name stays a plain character."""
    return composed.as_string(None)


def ident(name: str) -> sql.Identifier:
    return sql.Identifier(name)


def qualified(name: QName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)


def trusted(definition: str) -> sql.SQL:
    """Take a definition the server itself deparsed (pg_get_…def) as SQL; never use it for user input."""
    return sql.SQL(cast(LiteralString, definition))


def names(columns: Iterable[str], prefix: str = "") -> sql.Composed:
    """Return a comma-separated list of quoted column names, each behind `prefix.`."""
    return sql.SQL(", ").join(sql.Identifier(prefix, c) if prefix else sql.Identifier(c) for c in columns)


def _keys(pair: Pair) -> tuple[str, ...]:
    return tuple(k.name for k in (*pair.identity, *pair.placement))


def _identity(pair: Pair) -> tuple[str, ...]:
    return tuple(k.name for k in pair.identity)


def equal(columns: Sequence[KeyColumn], left: str, right: str) -> sql.Composed:
    """Return `left.c = right.c AND …` with each column's own operator, NULL-safe where NULL can occur."""

    def one(column: KeyColumn) -> sql.Composed:
        a, b = sql.Identifier(left, column.name), sql.Identifier(right, column.name)
        plain = sql.SQL("{} {} {}").format(a, trusted(column.equals), b)
        if not column.nullable:
            return plain
        return sql.SQL("({} OR ({} IS NULL AND {} IS NULL))").format(plain, a, b)

    return sql.SQL(" AND ").join(one(c) for c in columns)


def capture_objects(pair: Pair) -> tuple[str, ...]:
    """Return the log tables and trigger functions of one direction.

    The functions are SECURITY DEFINER: the application's role needs no right on our schema.
    """
    keys = names(_keys(pair))
    log, truncated, source = qualified(pair.log), qualified(pair.truncated), qualified(pair.source)

    def function(name: LiteralString, body: sql.Composed) -> str:
        return text(
            sql.SQL(
                "CREATE FUNCTION {} () RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER"
                " SET search_path = pg_catalog, pg_temp AS $pgscale$BEGIN {}; RETURN NULL; END$pgscale$"
            ).format(sql.Identifier(pair.work_schema, name), body)
        )

    insert = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM ").format(log, keys, keys)
    return (
        text(sql.SQL("CREATE TABLE {} AS SELECT {} FROM {} WITH NO DATA").format(log, keys, source)),
        # Its tail is given back by us when it is empty, not by a VACUUM that would lock the application out.
        text(sql.SQL("ALTER TABLE {} SET (vacuum_truncate = off, autovacuum_vacuum_cost_delay = 0)").format(log)),
        text(sql.SQL("CREATE TABLE {} (at timestamptz DEFAULT pg_catalog.clock_timestamp())").format(truncated)),
        text(
            sql.SQL("CREATE TABLE {} AS SELECT {} FROM {} WITH NO DATA").format(
                qualified(pair.recheck), names(_identity(pair)), source
            )
        ),
        function("_pgscale_i", insert + sql.SQL("pgscale_new")),
        function(
            "_pgscale_u",
            insert + sql.SQL("pgscale_old UNION ALL SELECT {} FROM pgscale_new").format(keys),
        ),
        function("_pgscale_d", insert + sql.SQL("pgscale_old")),
        _truncate_function(pair, function),
    )


def _truncate_function(pair: Pair, function: Callable[[LiteralString, sql.Composed], str]) -> str:
    if not pair.source_leaves:
        return function("_pgscale_t", sql.SQL("INSERT INTO {} DEFAULT VALUES").format(qualified(pair.truncated)))
    # Of a partitioned source each leaf can be truncated by itself, so what goes is logged key by key, before it goes.
    keys = names(_keys(pair))
    body = sql.SQL(
        "EXECUTE pg_catalog.format('INSERT INTO {} ({}) SELECT {} FROM %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME)"
    )
    return function(
        "_pgscale_t",
        body.format(
            *(trusted(text(part).replace("'", "''").replace("%", "%%")) for part in (qualified(pair.log), keys, keys))
        ),
    )


def drop_capture_objects(pair: Pair) -> tuple[str, ...]:
    """Return the statements that drop the log tables and functions, where they exist."""
    functions = sql.SQL(", ").join(
        sql.SQL("{} ()").format(sql.Identifier(pair.work_schema, name)) for name, _, _ in CAPTURE_EVENTS
    )
    tables = sql.SQL(", ").join(qualified(t) for t in (pair.log, pair.truncated, pair.recheck))
    return (
        text(sql.SQL("DROP FUNCTION IF EXISTS {}").format(functions)),
        text(sql.SQL("DROP TABLE IF EXISTS {}").format(tables)),
    )


def capture_triggers(pair: Pair, table: QName) -> tuple[str, ...]:
    """Return the triggers that write the log; they fire whatever session_replication_role says.

    CREATE TRIGGER takes SHARE ROW EXCLUSIVE on the table: it waits for open writers.
    """
    events = CAPTURE_EVENTS
    if pair.source_leaves and table == pair.source:
        events = CAPTURE_EVENTS[:3]
    statements = [
        text(
            sql.SQL("CREATE TRIGGER {} {} {} ON {} {}FOR EACH STATEMENT EXECUTE FUNCTION {} ()").format(
                ident(name),
                sql.SQL("BEFORE" if event == "TRUNCATE" else "AFTER"),
                sql.SQL(event),
                qualified(table),
                sql.SQL(referencing),
                sql.Identifier(pair.work_schema, name),
            )
        )
        for name, event, referencing in events
    ]
    enables = sql.SQL(", ").join(sql.SQL("ENABLE ALWAYS TRIGGER {}").format(ident(name)) for name, _, _ in events)
    return (*statements, text(sql.SQL("ALTER TABLE ONLY {} {}").format(qualified(table), enables)))


def drop_capture_triggers(table: QName) -> tuple[str, ...]:
    """Return the statements that drop the capture triggers, where they exist. ACCESS EXCLUSIVE, for a moment."""
    return tuple(
        text(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(ident(name), qualified(table)))
        for name, _, _ in CAPTURE_EVENTS
    )


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
            qualified(leaf), names(_identity(pair)), qualified(pair.log), equal(pair.identity, "_pgscale_target", "k")
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
    keys, identity = names(_keys(pair)), names(_identity(pair))
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
            names(_keys(pair)),
            keys_from,
            names(_keys(pair), "_pgscale_source"),
            names(_identity(pair)),
            keys_from,
            qualified(pair.source),
            equal(pair.identity, "_pgscale_source", "b"),
        )
    else:
        doomed = sql.SQL("SELECT DISTINCT {} FROM {}").format(names(_identity(pair)), keys_from)
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
        names(_identity(pair), "_pgscale_source"),
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
    return sql.SQL("ROW({})").format(names(_identity(pair), prefix))


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
    order, first = names(_identity(pair), "k"), len(pair.identity) * low + 1
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
        names(_identity(pair), "_pgscale_target"),
        qualified(leaf),
        qualified(pair.source),
        equal((*pair.identity, *pair.placement), "_pgscale_source", "_pgscale_target"),
    )
    return _judge(pair, compared)


def recheck(pair: Pair) -> str:
    """Return the statement that compares the keys of the recheck table once more, and empties it."""
    columns = names(pair.all_columns)
    identity = names(_identity(pair))
    compared = sql.SQL(
        "SELECT DISTINCT {}, true AS _pgscale_counts, true AS _pgscale_differs FROM (SELECT DISTINCT {} FROM waiting) k"
        " LEFT JOIN (SELECT {} FROM {}) _pgscale_source ON {}"
        " LEFT JOIN (SELECT {} FROM {}) _pgscale_target ON {}"
        " WHERE (_pgscale_source.{key} IS NULL) <> (_pgscale_target.{key} IS NULL)"
        " OR _pgscale_source OPERATOR(pg_catalog.*<>) _pgscale_target"
    ).format(
        names(_identity(pair), "k"),
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
    identity = names(_identity(pair))
    return text(
        sql.SQL(
            "WITH {before}compared AS MATERIALIZED ({compared}),"
            " judged AS MATERIALIZED (SELECT {identity}, EXISTS (SELECT FROM {log} l WHERE {equal})"
            " AS _pgscale_pending FROM compared d WHERE _pgscale_differs),"
            " kept AS (INSERT INTO {recheck} SELECT {identity} FROM judged WHERE _pgscale_pending)"
            " SELECT EXISTS (SELECT FROM {truncated}),"
            " (SELECT pg_catalog.count(*) FROM compared WHERE _pgscale_counts),"
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


def has_log(pair: Pair) -> str:
    """Return the statement that tells whether any captured key is waiting."""
    return text(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(qualified(pair.log)))


def take_truncated(pair: Pair) -> str:
    """Return the statement that takes the marks of TRUNCATEs; its row count tells whether there were any."""
    return text(sql.SQL("DELETE FROM {}").format(qualified(pair.truncated)))


def truncate_target(pair: Pair) -> str:
    return text(sql.SQL("TRUNCATE {}").format(qualified(pair.target)))


def count_log(pair: Pair, most: int) -> str:
    """Return the statement that counts waiting keys, up to `most`."""
    return text(
        sql.SQL("SELECT pg_catalog.count(*) FROM (SELECT FROM {} LIMIT {}) l").format(
            qualified(pair.log), sql.Literal(most)
        )
    )


def vacuum_log(pair: Pair) -> str:
    return text(sql.SQL("VACUUM {}").format(qualified(pair.log)))


def lock_log(pair: Pair) -> str:
    return text(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(qualified(pair.log)))


def truncate_log(pair: Pair) -> str:
    return text(sql.SQL("TRUNCATE {}").format(qualified(pair.log)))


def lock_to_read(table: QName, *more: QName) -> str:
    """Return the statement that keeps TRUNCATE away for one transaction; it freezes no snapshot.

    Of further tables only the parent is locked, not every partition: those are ours, and we TRUNCATE the parent.
    """
    also = sql.SQL("").join(sql.SQL(", ONLY {}").format(qualified(t)) for t in more)
    return text(sql.SQL("LOCK TABLE {}{} IN ACCESS SHARE MODE").format(qualified(table), also))


def is_truncated(pair: Pair) -> str:
    return text(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(qualified(pair.truncated)))


def pages_of(table: QName) -> str:
    """Return the statement that tells a table's size in pages."""
    return text(
        sql.SQL(
            "SELECT pg_catalog.pg_relation_size({}::pg_catalog.regclass)"
            " / pg_catalog.current_setting('block_size')::int8"
        ).format(sql.Literal(text(qualified(table))))
    )


def count_recheck(pair: Pair) -> str:
    return text(sql.SQL("SELECT pg_catalog.count(*) FROM {}").format(qualified(pair.recheck)))


def lock_against_writers(table: QName) -> str:
    """Return the statement that keeps writers and row lockers out, but not readers."""
    return text(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(qualified(table)))


def count_capture(tables: Sequence[QName]) -> str:
    """Return the statement that counts our capture triggers on the tables that fire always, as we made them.

    Whoever disabled and enabled them again (`DISABLE TRIGGER USER`) left another state behind.
    """
    return text(
        sql.SQL(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger t WHERE t.tgenabled = 'A' AND t.tgname IN ({})"
            " AND t.tgrelid IN ({})"
        ).format(
            sql.SQL(", ").join(sql.Literal(name) for name, _, _ in CAPTURE_EVENTS),
            sql.SQL(", ").join(
                sql.SQL("{}::pg_catalog.regclass").format(sql.Literal(text(qualified(t)))) for t in tables
            ),
        )
    )


def file_of(table: QName) -> str:
    """Return the statement that tells the table's file: another one after VACUUM FULL, CLUSTER or TRUNCATE."""
    return text(
        sql.SQL("SELECT pg_catalog.pg_relation_filenode({}::pg_catalog.regclass)::int8").format(
            sql.Literal(text(qualified(table)))
        )
    )


def statement_timeout(seconds: float) -> sql.Composed:
    return sql.SQL("SET statement_timeout = {}").format(sql.Literal(max(1, round(seconds * 1000))))
