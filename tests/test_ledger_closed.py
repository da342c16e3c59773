"""Schema pgscale keeps rows of users: what its owner gives others by default is not given there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgscale import write
from pgscale.connect.session import CONTROL, open_session
from pgscale.ledger import store
from pgscale.write import loading
from pgscale.write.buffer import Buffer, Drainer
from support.servers import Database

GIVEN = """
SELECT relation, string_agg(privilege_type, ',' ORDER BY privilege_type COLLATE "C") FROM (
  SELECT 'pgscale' AS relation, nspowner AS owner, nspacl AS acl FROM pg_namespace WHERE nspname = 'pgscale'
  UNION ALL SELECT relname, relowner, relacl FROM pg_class WHERE relnamespace = 'pgscale'::regnamespace
) o, aclexplode(acl) WHERE grantee <> owner GROUP BY relation ORDER BY relation
"""


def _make_ledger(database: Database, conn: psycopg.Connection[Any], path: Path) -> None:
    with open_session(database.dsn, CONTROL) as session, session.transaction():
        store.lock_ledger(session)
        store.create(session)


def _make_letters(database: Database, conn: psycopg.Connection[Any], path: Path) -> None:
    write.copy(conn, "t", [(1,), ("x",)], ["n"], write.DeadLetters())


def _make_lanes(database: Database, conn: psycopg.Connection[Any], path: Path) -> None:
    with Buffer("public.t", level="memory") as buffer:
        Drainer(buffer.log).drain_once(conn)


def _make_loads(database: Database, conn: psycopg.Connection[Any], path: Path) -> None:
    path.write_text("n\n1\n")
    loading.load(database.dsn, "t", str(path))


MAKERS = (_make_ledger, _make_letters, _make_lanes, _make_loads)


@pytest.mark.versions(14, 18)
@pytest.mark.parametrize("first", range(len(MAKERS)))
def test_default_privileges_open_nothing(database: Database, tmp_path: Path, first: int) -> None:
    """Whoever makes the schema, and whoever comes to it later."""
    reader = sql.Identifier(database.create_role('Odd "reader'))
    conn = database.connect()
    conn.execute("CREATE TABLE t (n integer)")
    conn.execute(
        sql.SQL(
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;"
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {0} WITH GRANT OPTION;"
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO {0}, PUBLIC;"
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO {0};"
            "ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO PUBLIC"
        ).format(reader)
    )
    order = (*MAKERS[first:], *MAKERS[:first])
    for make in order[:-1]:
        make(database, conn, tmp_path / "x.csv")
        assert conn.execute(GIVEN).fetchall() == []
    # What is given to them by name stays, whoever makes what else; and so does what is to be given in this schema.
    conn.execute(sql.SQL("GRANT USAGE ON SCHEMA pgscale TO {}").format(reader))
    conn.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA pgscale TO {}").format(reader))
    before = conn.execute(GIVEN).fetchall()
    conn.execute(sql.SQL("ALTER DEFAULT PRIVILEGES IN SCHEMA pgscale GRANT INSERT ON TABLES TO {}").format(reader))
    for make in (*order[:-1], order[-1]):
        make(database, conn, tmp_path / "x.csv")
    new = dict(conn.execute(GIVEN).fetchall())
    assert all(new.pop(relation) == privileges for relation, privileges in before)
    assert new
    assert set(new.values()) == {"INSERT"}
