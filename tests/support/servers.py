"""Servers shared by all workers of a test session, and fresh databases on them.

The session's controller makes one directory and names it in the environment; whichever worker first needs a
version starts it there, under a lock; the controller stops everything at the end. A session that was killed
leaves its directory behind, named by the controller's process id: the next session clears it away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tools import servers

from pgscale.embedded import Server, ServerBinaries

ROOT_VARIABLE = "PGSCALE_TEST_ROOT"
ROOT_PREFIX = "pgscale-test-"
MEMORY = Path("/dev/shm")
LEAST_MEMORY_BYTES = 6 << 30

ALL_VERSIONS = servers.VERSIONS
DEFAULT_VERSION = 18

SETTINGS: Mapping[str, str] = {
    # Servers that crash here crash alone: what the kernel holds is not lost, and no page is torn.
    "fsync": "off",
    "full_page_writes": "off",
    # Five servers' WAL lies in memory: see _place.
    "max_wal_size": "256MB",
    "jit": "off",
    "max_connections": "200",
    "wal_level": "logical",
    "max_prepared_transactions": "10",
    "autovacuum": "on",
    "log_statement": "none",
}


class MissingServerError(Exception):
    """A server a test needs is not on this machine."""


def binaries(version: int) -> ServerBinaries:
    """The programs of a version, as `tools/servers.py` finds them."""
    info = servers.find().get(version)
    if info is None:
        raise MissingServerError(f"there is no PostgreSQL {version} here; `make servers` says why")
    return ServerBinaries(info.bin_dir, version)


def has_extension(version: int, name: str) -> bool:
    """Whether a version's server has `pg_partman` or `hypopg`."""
    info = servers.find().get(version)
    return info is not None and name in info.extensions


def install_partman(database: Database) -> None:
    """Make pg_partman as its documentation says for an owner that is no superuser."""
    owner = sql.Identifier(database.owner)
    with database.connect_superuser() as superuser:
        superuser.execute("CREATE SCHEMA partman")
        superuser.execute("CREATE EXTENSION pg_partman SCHEMA partman")
        for statement in (
            "GRANT ALL ON SCHEMA partman TO {}",
            "GRANT ALL ON ALL TABLES IN SCHEMA partman TO {}",
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA partman TO {}",
            "GRANT EXECUTE ON ALL PROCEDURES IN SCHEMA partman TO {}",
        ):
            superuser.execute(sql.SQL(statement).format(owner))


# The session's directory


def _places() -> list[Path]:
    """Where directories of sessions may be, the best first."""
    return [place for place in (MEMORY, Path(tempfile.gettempdir())) if place.is_dir()]


def _place() -> Path:
    """Memory where there is plenty: a new database is 300 files, which a disk's file system makes six times slower."""
    place = _places()[0]
    free = shutil.disk_usage(place).free
    with contextlib.suppress(OSError, ValueError):
        free = min(free, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return place if free >= LEAST_MEMORY_BYTES else _places()[-1]


def make_root() -> Path:
    """The controller's: a directory the server's user can reach, known to the workers by the environment."""
    root = Path(tempfile.mkdtemp(prefix=f"{ROOT_PREFIX}{os.getpid()}-", dir=_place()))
    root.chmod(0o755)
    os.environ[ROOT_VARIABLE] = str(root)
    return root


def current_root() -> Path:
    return Path(os.environ[ROOT_VARIABLE])


def clear_root(root: Path) -> None:
    """Stop every server whose data is in the directory, then delete it."""
    for pid_file in root.glob("*/postmaster.pid"):
        with contextlib.suppress(FileNotFoundError, ValueError, MissingServerError):
            major = int((pid_file.parent / "PG_VERSION").read_text())
            Server(binaries(major), pid_file.parent).stop("immediate")
    shutil.rmtree(root, ignore_errors=True)


def clear_abandoned_roots() -> None:
    """What sessions left behind that are no longer alive."""
    for root in (root for place in _places() for root in place.glob(f"{ROOT_PREFIX}*")):
        pid = root.name.removeprefix(ROOT_PREFIX).split("-")[0]
        if pid.isdigit() and root.stat().st_uid == os.geteuid() and not _is_alive(int(pid)):
            clear_root(root)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# Servers


def shared_server(version: int) -> Server:
    """The session's server of a version: started by the first who asks, adopted by everyone else."""
    root = current_root()
    server = Server(binaries(version), root / f"shared-{version}", settings=SETTINGS)
    with (root / f"shared-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return server.start()


def private_server(version: int, settings: Mapping[str, str]) -> Server:
    """A started server of one test's own, with its data in the session's directory."""
    data_dir = current_root() / f"private-{version}-{secrets.token_hex(4)}"
    return Server(binaries(version), data_dir, settings={**SETTINGS, **settings}).start()


@contextlib.contextmanager
def quiet_server(version: int) -> Iterator[Server]:
    """A server that is shared, but by one test at a time: what it shows of the whole cluster is that test's doing."""
    root = current_root()
    settings = {**SETTINGS, "max_connections": "30", "autovacuum": "off", "max_wal_size": "96MB"}
    if version >= 16:
        settings["reserved_connections"] = "2"
    server = Server(binaries(version), root / f"quiet-{version}", settings=settings)
    with (root / f"quiet-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield server.start()


# Databases


@dataclass(frozen=True)
class Database:
    """A fresh database, owned by a fresh role that is no superuser."""

    server: Server
    name: str
    owner: str
    _roles: list[str] = field(default_factory=list)
    _connections: list[psycopg.Connection[Any]] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        """As the owner: what pgscale is given."""
        return self.server.dsn(self.name, self.owner)

    @property
    def superuser_dsn(self) -> str:
        return self.server.dsn(self.name)

    def dsn_as(self, role: str) -> str:
        return self.server.dsn(self.name, role)

    def connect(self, **kwargs: Any) -> psycopg.Connection[Any]:
        """A connection as the owner, autocommit unless told; closed after the test. `user=` for others."""
        connection = psycopg.connect(make_conninfo(self.dsn), **{"autocommit": True, **kwargs})
        self._connections.append(connection)
        return connection

    def connect_superuser(self, **kwargs: Any) -> psycopg.Connection[Any]:
        return self.connect(user="postgres", **kwargs)

    def create_role(self, prefix: str = "role", options: str = "LOGIN") -> str:
        """One more role, dropped with the database; `options` as in CREATE ROLE."""
        name = f"{prefix}_{secrets.token_hex(4)}"
        with _admin(self.server) as admin:
            admin.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(name), sql.SQL(options)))
        self._roles.append(name)
        return name

    def drop(self) -> None:
        """Drop the database and its roles, whatever still uses it; nothing when the server is down."""
        for connection in self._connections:
            connection.close()
        if not self.server.running:
            return
        with _admin(self.server) as admin:
            # After a failure nothing else would end a wait.
            admin.execute("SET statement_timeout = '120s'")
            leftovers = admin.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [self.name]).fetchall()
            if leftovers:
                with psycopg.connect(self.superuser_dsn, autocommit=True) as inside:
                    for (gid,) in leftovers:
                        inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
            # FORCE spares replication: end it first, and its slots with it.
            admin.execute(
                "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots "
                "WHERE database = %s AND active",
                [self.name],
            )
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.name)))
            for role in (*self._roles, self.owner):
                admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def create_database(server: Server) -> Database:
    """A new database on a running server. The owner's rights in `public` are those every owner has."""
    token = secrets.token_hex(4)
    database = Database(server, f"db_{token}", f"owner_{token}")
    owner, name = sql.Identifier(database.owner), sql.Identifier(database.name)
    with _admin(server) as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER").format(owner))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, owner))
    return database


@contextlib.contextmanager
def _admin(server: Server) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        yield connection
