"""SQL by which a sample of a column is read and stored in other ways; in temporary tables that are rolled back."""

from __future__ import annotations

from typing import LiteralString, cast

from psycopg import sql

from pgscale.doctor.toast.model import STORAGES, ToastColumn

STORED, ANEW = sql.Identifier("pg_temp", "pgscale_stored"), sql.Identifier("pg_temp", "pgscale_anew")
# Of which each tells something only when the value was fetched and decompressed as a whole, at next to no cost beside.
_TOUCHES: dict[str, LiteralString] = {
    "text": "pg_catalog.ascii(v)",
    "varchar": "pg_catalog.ascii(v::text)",
    "bpchar": "pg_catalog.ascii(v::text)",
    "bytea": "pg_catalog.get_byte(v, 0)",
    "json": "pg_catalog.json_typeof(v)",
    "jsonb": "pg_catalog.jsonb_typeof(v)",
}


def sizes(column: ToastColumn, percent: float, rows: int, version: int) -> sql.Composed:
    """Count a sample's values and their bytes by what the rows say of them: none is fetched from the TOAST table."""
    outside: LiteralString = "count(pg_catalog.pg_column_toast_chunk_id(v))" if version >= 170000 else "NULL::int8"
    return sql.SQL(
        "SELECT count(*), count(v), COALESCE(sum(pg_catalog.pg_column_size(v)), 0)::int8, {outside},"
        " count(*) FILTER (WHERE pg_catalog.pg_column_compression(v) = 'pglz'),"
        " count(*) FILTER (WHERE pg_catalog.pg_column_compression(v) = 'lz4') FROM ({sampled}) s"
    ).format(outside=sql.SQL(outside), sampled=_sampled(column, percent, rows))


def keep_long(column: ToastColumn, percent: float, rows: int, *, values: int, most_bytes: int) -> list[sql.Composed]:
    """Copy long values of a sample as they are stored: INSERT leaves compressed ones as they are."""
    return [
        sql.SQL(
            "CREATE TEMPORARY TABLE {stored} ON COMMIT DROP AS SELECT {column} AS v FROM {table} WITH NO DATA"
        ).format(stored=STORED, column=sql.Identifier(column.name), table=_table(column)),
        _store(STORED, STORAGES[column.storage], None),
        sql.SQL(
            "INSERT INTO {stored} SELECT v FROM ("
            "SELECT v, sum(pg_catalog.pg_column_size(v)) OVER (ROWS UNBOUNDED PRECEDING) - pg_catalog.pg_column_size(v)"
            " AS before FROM ({sampled}) s"
            " WHERE pg_catalog.pg_column_size(v) > 1900 OR pg_catalog.pg_column_compression(v) IS NOT NULL) l"
            " WHERE before < {most} LIMIT {values}"
        ).format(
            stored=STORED,
            sampled=_sampled(column, percent, rows),
            most=sql.Literal(most_bytes),
            values=sql.Literal(values),
        ),
    ]


def store_anew(column: ToastColumn, storage: str, method: str | None) -> list[sql.Composed]:
    """Store the values that were kept in another way."""
    return [
        sql.SQL("DROP TABLE IF EXISTS {anew}").format(anew=ANEW),
        sql.SQL("CREATE TEMPORARY TABLE {anew} (LIKE {stored}) ON COMMIT DROP").format(anew=ANEW, stored=STORED),
        _store(ANEW, storage, method),
        sql.SQL("INSERT INTO {anew} SELECT {value} FROM {stored}").format(
            anew=ANEW, stored=STORED, value=made_anew(column, sql.Identifier("v"))
        ),
    ]


def made_anew(column: ToastColumn, value: sql.Composable) -> sql.Composed:
    """Compose a value equal to another, but made anew: only such a one is compressed as the column says now."""
    if column.base in ("text", "varchar", "bpchar"):
        return sql.SQL("{} || ''").format(value)
    if column.base == "bytea":
        return sql.SQL("{} || ''::bytea").format(value)
    # format_type() quotes what it gives.
    return sql.SQL("CAST(CAST({} AS text) AS {})").format(value, sql.SQL(cast("LiteralString", column.type_name)))


def weigh(stored: sql.Identifier) -> sql.Composed:
    return sql.SQL("SELECT count(*), COALESCE(sum(pg_catalog.pg_column_size(v)), 0)::int8 FROM {}").format(stored)


def read(column: ToastColumn, stored: sql.Identifier) -> sql.Composed:
    """Fetch and decompress every value."""
    of_any: LiteralString = (
        "pg_catalog.cardinality(v)" if column.category == "A" else "pg_catalog.octet_length(CAST(v AS text))"
    )
    return sql.SQL("SELECT count({touched}) FROM {stored}").format(
        touched=sql.SQL(_TOUCHES.get(column.base, of_any)), stored=stored
    )


def _store(table: sql.Identifier, storage: str, method: str | None) -> sql.Composed:
    how: list[sql.Composable] = [
        sql.SQL("ALTER COLUMN v SET STORAGE {}").format(sql.SQL(cast("LiteralString", storage)))
    ]
    if method is not None:
        how.append(sql.SQL("ALTER COLUMN v SET COMPRESSION {}").format(sql.Identifier(method)))
    return sql.SQL("ALTER TABLE {table} {how}").format(table=table, how=sql.SQL(", ").join(how))


def _sampled(column: ToastColumn, percent: float, rows: int) -> sql.Composed:
    return sql.SQL(
        "SELECT {column} AS v FROM {table} TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1) LIMIT {rows}"
    ).format(
        column=sql.Identifier(column.name),
        table=_table(column),
        percent=sql.Literal(percent),
        rows=sql.Literal(rows),
    )


def _table(column: ToastColumn) -> sql.Identifier:
    return sql.Identifier(column.schema, column.table_name)
