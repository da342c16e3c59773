"""Composes what makes an index, and what asks the planner about one."""

from __future__ import annotations

from psycopg import sql

from pgscale.doctor.indexing.model import Access, Key, Test, Wanted

PROBE = sql.Identifier("pgscale_probe")


def create_index(wanted: Wanted, *, concurrently: bool = True) -> str:
    """Make an index of a table that is not partitioned; PostgreSQL finds its name."""
    included = sql.SQL(", ").join(map(sql.Identifier, wanted.included))
    return (
        sql.SQL("CREATE INDEX {how}ON {table} ({keys}){included}{where};")
        .format(
            how=sql.SQL("CONCURRENTLY " if concurrently else ""),
            table=sql.Identifier(wanted.table.schema, wanted.table.name),
            keys=_keys(wanted.keys),
            included=sql.SQL(" INCLUDE ({})").format(included) if wanted.included else sql.SQL(""),
            where=sql.SQL(" WHERE {}").format(_test(*wanted.tested)) if wanted.tested is not None else sql.SQL(""),
        )
        .as_string(None)
    )


def probe(access: Access) -> tuple[sql.Composed, int]:
    """Read a table as a statement does, by parameters; return how many they are.

    Only names and operators of PostgreSQL's own are in it, none of the statement's functions: planning evaluates those.
    """
    conditions: list[sql.Composable] = []
    count = 0
    for name in sorted(access.equal | access.joined):
        count += 1
        conditions.append(_compare(name, "=", count))
    for name in sorted(access.ranges):
        count += 1
        conditions.append(_compare(name, ">", count))
        if name in access.both_bounds:
            count += 1
            conditions.append(_compare(name, "<", count))
    conditions += [_test(name, test) for name, test in sorted(access.tests.items())]
    text = sql.SQL("SELECT {ctid} FROM {table}{where}{order}{limit}").format(
        ctid=sql.Identifier("ctid") if access.used is None else _columns(access),
        table=sql.Identifier(access.table.schema, access.table.name),
        where=sql.SQL(" WHERE {}").format(sql.SQL(" AND ").join(conditions)) if conditions else sql.SQL(""),
        order=sql.SQL(" ORDER BY {}").format(_keys(access.order)) if access.order else sql.SQL(""),
        limit=sql.SQL(" LIMIT {}").format(sql.Literal(max(1, round(access.statement.rows_a_call))))
        if access.is_limited
        else sql.SQL(""),
    )
    return text, count


def explain_generic(text: sql.Composed) -> sql.Composed:
    """Plan a statement with parameters as if they were not known; from 16 on."""
    return sql.SQL("EXPLAIN (GENERIC_PLAN, FORMAT JSON) {}").format(text)


def prepare(text: sql.Composed) -> sql.Composed:
    return sql.SQL("PREPARE {} AS {}").format(PROBE, text)


def explain_prepared(count: int) -> sql.Composed:
    """Plan what was prepared; the values are of no account while plan_cache_mode is force_generic_plan."""
    values = sql.SQL("({})").format(sql.SQL(", ").join([sql.NULL] * count)) if count else sql.SQL("")
    return sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE {}{}").format(PROBE, values)


def pretend(schema: str, definition: str) -> sql.Composed:
    """Let the planner believe in an index, by HypoPG."""
    return sql.SQL("SELECT indexrelid::int8, indexname FROM {}.hypopg_create_index({})").format(
        sql.Identifier(schema), sql.Literal(definition)
    )


def forget(schema: str) -> sql.Composed:
    return sql.SQL("SELECT {}.hypopg_reset()").format(sql.Identifier(schema))


def _columns(access: Access) -> sql.Composable:
    used = sorted(access.used or ())
    return sql.SQL(", ").join(map(sql.Identifier, used)) if used else sql.SQL("1")


def _compare(name: str, operator: str, number: int) -> sql.Composable:
    signs = {"=": sql.SQL("="), ">": sql.SQL(">"), "<": sql.SQL("<")}
    return sql.SQL("{} OPERATOR(pg_catalog.{}) ${}").format(sql.Identifier(name), signs[operator], sql.Literal(number))


def _test(name: str, test: Test) -> sql.Composable:
    forms = {
        "null": sql.SQL("{} IS NULL"),
        "not null": sql.SQL("{} IS NOT NULL"),
        "true": sql.SQL("{}"),
        "false": sql.SQL("NOT {}"),
    }
    return forms[test].format(sql.Identifier(name))


def _keys(keys: tuple[Key, ...]) -> sql.Composable:
    directions = {
        (False, False): sql.SQL(""),
        (False, True): sql.SQL(" NULLS FIRST"),
        (True, True): sql.SQL(" DESC"),
        (True, False): sql.SQL(" DESC NULLS LAST"),
    }
    return sql.SQL(", ").join(
        sql.SQL("{}{}").format(sql.Identifier(key.column), directions[key.is_descending, key.nulls_first])
        for key in keys
    )
