"""SQL that findings give to paste: composed with psycopg.sql, so every name and value is quoted. Nothing runs here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import LiteralString

from psycopg import sql

from pgscale.core.model import QName
from pgscale.doctor.toast.ddl import made_anew
from pgscale.doctor.toast.model import ToastColumn


def _say(statement: LiteralString, *names: QName, **parts: sql.Composable) -> str:
    qualified = (sql.Identifier(name.schema, name.name) for name in names)
    return sql.SQL(statement).format(*qualified, **parts).as_string(None)


def _process(pid: int, started_at: datetime | None) -> sql.Composable:
    """The conditions that choose one session and, where its start is known, nobody who got its process id since."""
    if started_at is None:
        return sql.SQL("pid = {}").format(sql.Literal(pid))
    return sql.SQL("pid = {} AND backend_start = {}").format(sql.Literal(pid), sql.Literal(started_at.isoformat(" ")))


def terminate(pid: int, started_at: datetime | None) -> str:
    """End one session."""
    return _say("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {who};", who=_process(pid, started_at))


def cancel(pid: int, started_at: datetime | None) -> str:
    """Cancel the statement of one session."""
    return _say("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {who};", who=_process(pid, started_at))


def rollback_prepared(gid: str) -> str:
    return _say("ROLLBACK PREPARED {gid};", gid=sql.Literal(gid))


def drop_slot(name: str) -> str:
    return _say("SELECT pg_drop_replication_slot({name});", name=sql.Literal(name))


def terminate_idle(condition: LiteralString, longer_than_s: float, **of: str | None) -> str:
    """End sessions by what they do at the time it is run.

    Args:
        condition: on `state`.
        longer_than_s: in that state, seconds.
        of: columns of pg_stat_activity and their values; None leaves one out.
    """
    chosen = [
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(v)) for name, v in of.items() if v is not None
    ]
    conditions = sql.SQL(" AND ").join(
        [
            sql.SQL("backend_type = 'client backend'"),
            sql.SQL(condition),
            sql.SQL("state_change < now() - interval {}").format(sql.Literal(f"{longer_than_s:g} s")),
            *chosen,
        ]
    )
    return _say("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {conditions};", conditions=conditions)


def alter_database(database: str, setting: LiteralString, value: str) -> str:
    """Set something for the new sessions of a database."""
    statement: LiteralString = "ALTER DATABASE {database} SET " + setting + " = {value};"
    return _say(statement, database=sql.Identifier(database), value=sql.Literal(value))


def alter_role(role: str, setting: LiteralString, value: str, *, database: str | None = None) -> str:
    """Set something for the new sessions of a role, in one database or everywhere."""
    where = sql.SQL(" IN DATABASE {}").format(sql.Identifier(database)) if database is not None else sql.SQL("")
    statement: LiteralString = "ALTER ROLE {role}{where} SET " + setting + " = {value};"
    return _say(statement, role=sql.Identifier(role), where=where, value=sql.Literal(value))


def alter_system(setting: LiteralString, value: str) -> str:
    """Set something for the server, and have it read unless it must be restarted."""
    statement: LiteralString = "ALTER SYSTEM SET " + setting + " = {value};\nSELECT pg_reload_conf();"
    return _say(statement, value=sql.Literal(value))


def settings_of(library: str) -> str:
    """Show the settings of a module."""
    like = sql.Literal(library.replace("_", "\\_") + ".%")
    return _say("SELECT name, setting, pending_restart FROM pg_settings WHERE name LIKE {like};", like=like)


def freeze(tables: Iterable[str]) -> str:
    """Freeze tables, of no names all of the database.

    Args:
        tables: as regclass::text gives them, which is quoted.
    """
    return " ".join(["VACUUM (FREEZE)", ", ".join(tables)]).rstrip() + ";"


def vacuum_analyze(tables: Iterable[str]) -> str:
    """Vacuum and analyze tables, quoted."""
    return f"VACUUM (ANALYZE) {', '.join(tables)};"


def analyze(tables: Iterable[str]) -> str:
    """Analyze tables, quoted."""
    return f"ANALYZE {', '.join(tables)};"


def reindex_concurrently(index: str) -> str:
    """Write an index, quoted, anew."""
    return f"REINDEX INDEX CONCURRENTLY {index};"


def vacuum_full(tables: Iterable[str]) -> str:
    """Write tables, quoted, anew under ACCESS EXCLUSIVE."""
    return f"VACUUM (FULL, ANALYZE) {', '.join(tables)};"


def measure_bloat(schema: str, table: str) -> str:
    """Measure a table, quoted, by pgstattuple."""
    return _say(
        "SELECT * FROM {schema}.pgstattuple_approx({table});", schema=sql.Identifier(schema), table=sql.Literal(table)
    )


def set_option(table: str, option: LiteralString, value: float) -> str:
    """Set a storage parameter of a table, quoted."""
    return f"ALTER TABLE {table} SET ({option} = {value:g});"


def reset_option(table: str, option: LiteralString) -> str:
    """Let a storage parameter of a table, quoted, be the server's."""
    return f"ALTER TABLE {table} RESET ({option});"


def widen_sequence(sequence: str, bound: str) -> str:
    """Give a sequence eight bytes and no bound (`MAXVALUE` or `MINVALUE`) of its own.

    Args:
        sequence: as regclass::text gives it, which is quoted.
    """
    return f"ALTER SEQUENCE {sequence} AS bigint NO {bound};"


def widen_columns(columns: Iterable[tuple[str, str]], sequence: str | None) -> str:
    """Give columns eight bytes, and the sequence that feeds them.

    Args:
        columns: table and column of each, quoted.
        sequence: quoted; None when it has eight bytes, or there is none.
    """
    lines = [f"ALTER TABLE {table} ALTER COLUMN {column} TYPE bigint;" for table, column in columns]
    if sequence is not None:
        lines.append(f"ALTER SEQUENCE {sequence} AS bigint;")
    return "\n".join(["BEGIN;", "SET LOCAL lock_timeout = '5s';", *lines, "COMMIT;"])


def limit_connections(kind: str, name: str, most: int) -> str:
    """Set the CONNECTION LIMIT of a `database` or a `role`."""
    statement: LiteralString = (
        "ALTER DATABASE {name} CONNECTION LIMIT {most};"
        if kind == "database"
        else "ALTER ROLE {name} CONNECTION LIMIT {most};"
    )
    return _say(statement, name=sql.Identifier(name), most=sql.Literal(most))


# Indexes


def drop_indexes(indexes: Sequence[tuple[QName, bool]]) -> str:
    """Show the definitions of indexes, then drop them.

    Args:
        indexes: each with whether it is that of a partitioned table, which cannot be dropped CONCURRENTLY.
    """
    shown = sql.SQL(", ").join(_regclass(name) for name, _ in indexes)
    lines = [
        _say(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indexrelid IN ({shown});",
            shown=shown,
        )
    ]
    lines += [drop_index(name) for name, is_partitioned in indexes if not is_partitioned]
    locking = [_say("DROP INDEX {};", name) for name, is_partitioned in indexes if is_partitioned]
    return "\n".join([*lines, *_briefly(locking)])


def drop_index(name: QName) -> str:
    return _say("DROP INDEX CONCURRENTLY {};", name)


def reindex(name: QName) -> str:
    return _say("REINDEX INDEX CONCURRENTLY {};", name)


def drop_constraint(table: QName, name: str) -> str:
    return "\n".join(_briefly([_say("ALTER TABLE {} DROP CONSTRAINT {name};", table, name=sql.Identifier(name))]))


def show_index(name: QName) -> str:
    return _say("SELECT pg_get_indexdef({name});", name=_regclass(name))


def create_index(
    table: QName, columns: Sequence[str], *, name: QName | None = None, brin: bool = False, unique: bool = False
) -> str:
    """Make an index of a table that is not partitioned; without a name PostgreSQL finds one."""
    return _say(
        "CREATE {unique}INDEX CONCURRENTLY {name}ON {} {how};",
        table,
        unique=sql.SQL("UNIQUE " if unique else ""),
        name=sql.SQL("{} ").format(sql.Identifier(name.name)) if name is not None else sql.SQL(""),
        how=sql.SQL("USING brin ({}) WITH (autosummarize = on)" if brin else "({})").format(_columns(columns)),
    )


def create_parent_index(table: QName, columns: Sequence[str], name: QName) -> str:
    """Begin the index of a partitioned table: it is valid when the index of every partition was attached."""
    return _say(
        "CREATE INDEX {name} ON ONLY {} ({columns});", table, name=sql.Identifier(name.name), columns=_columns(columns)
    )


def attach_index(parent: QName, name: QName) -> str:
    return _say("ALTER INDEX {} ATTACH PARTITION {name};", parent, name=sql.Identifier(name.schema, name.name))


def _regclass(name: QName) -> sql.Composable:
    # pg_get_indexdef('"public"."i"'::regclass): the name is quoted twice.
    return sql.SQL("{}::regclass").format(sql.Literal(sql.Identifier(name.schema, name.name).as_string(None)))


def _columns(names: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(sql.Identifier(name) for name in names)


def _briefly(statements: Sequence[str]) -> list[str]:
    """Statements that lock out everybody wait no longer than this for their locks."""
    return ["SET lock_timeout = '2s';", *statements, "RESET lock_timeout;"] if statements else []


# Statements


def show_statement(query_id: str) -> str:
    return _say("SELECT query FROM pg_stat_statements WHERE queryid = {id} LIMIT 1;", id=sql.Literal(int(query_id)))


def count_statement_anew(query_id: str) -> str:
    """Forget what was counted of a statement in this database, for every role."""
    return _say(
        "SELECT pg_stat_statements_reset(0, oid, {id}) FROM pg_database WHERE datname = current_database();",
        id=sql.Literal(int(query_id)),
    )


# Partitions


def finish_detach(table: QName, partition: QName) -> str:
    return _say("ALTER TABLE {} DETACH PARTITION {} FINALIZE;", table, partition)


def show_some(table: QName) -> str:
    return _say("SELECT * FROM {} LIMIT 10;", table)


# TOAST


def set_compression(columns: Sequence[tuple[QName, str]], method: LiteralString) -> str:
    """Let the long values of columns be compressed so from now on."""
    statement: LiteralString = "ALTER TABLE {} ALTER COLUMN {column} SET COMPRESSION " + method + ";"
    return "\n".join(_briefly([_say(statement, table, column=sql.Identifier(name)) for table, name in columns]))


def set_column_storage(table: QName, column: str, storage: LiteralString) -> str:
    """Let the long values of a column be stored so from now on."""
    statement: LiteralString = "ALTER TABLE {} ALTER COLUMN {column} SET STORAGE " + storage + ";"
    return "\n".join(_briefly([_say(statement, table, column=sql.Identifier(column))]))


def write_anew(column: ToastColumn) -> str:
    """Update some values that pglz compressed, or nothing did, to equal ones that are made anew."""
    name = sql.Identifier(column.name)
    return _say(
        "UPDATE {} SET {name} = {anew} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {old} LIMIT 1000));",
        column.table,
        name=name,
        anew=made_anew(column, name),
        table=sql.Identifier(column.schema, column.table_name),
        old=sql.SQL(
            "pg_column_compression({name}) IS DISTINCT FROM 'lz4' AND pg_column_size({name}) > 2000"
            if column.storage == "e"
            else "pg_column_compression({name}) = 'pglz'"
        ).format(name=name),
    )


def refresh(view: QName) -> str:
    return _say("REFRESH MATERIALIZED VIEW {};", view)


def side_table(table: QName, key: Sequence[str], column: str) -> str:
    """Move a column to a table of its own with the same key; one transaction, under a lock that keeps writers out."""
    side = QName(schema=table.schema, name=f"{table.name[:40]}_{column[:20]}")
    columns = _columns(key)
    return "\n".join(
        [
            "BEGIN;",
            "SET LOCAL lock_timeout = '2s';",
            _say("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE;", table),
            _say(
                "CREATE TABLE {} AS SELECT {key}, {column} FROM {table} WHERE {column} IS NOT NULL;",
                side,
                key=columns,
                column=sql.Identifier(column),
                table=sql.Identifier(table.schema, table.name),
            ),
            _say(
                "ALTER TABLE {} ADD PRIMARY KEY ({key}),"
                " ADD FOREIGN KEY ({key}) REFERENCES {table} ({key}) ON DELETE CASCADE ON UPDATE CASCADE;",
                side,
                key=columns,
                table=sql.Identifier(table.schema, table.name),
            ),
            _say("ALTER TABLE {} DROP COLUMN {column};", table, column=sql.Identifier(column)),
            "COMMIT;",
        ]
    )


def statements_naming(schema: str, table: str) -> str:
    """Show the statements of pg_stat_statements in which a name occurs, the most expensive first."""
    pattern = "%" + table.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    return _say(
        "SELECT calls, mean_exec_time, query FROM {schema}.pg_stat_statements WHERE query ILIKE {pattern}"
        " ORDER BY total_exec_time DESC LIMIT 10;",
        schema=sql.Identifier(schema),
        pattern=sql.Literal(pattern),
    )
