"""A PgBouncer of a test's own, in front of one database."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tools.servers import find_pgbouncer

from pgscale.embedded.account import server_account
from support.servers import current_root

PoolMode = Literal["session", "transaction", "statement"]
START_TIMEOUT_S = 15


class MissingBouncerError(Exception):
    """There is no PgBouncer on this machine."""


class Bouncer:
    """PgBouncer on loopback; whoever connects becomes the DSN's user. A context manager.

    Args:
        dsn: the database behind it, host, port, name and user.
        pool_mode: PgBouncer's own word.
        settings: more lines of its [pgbouncer] section.
    """

    def __init__(self, dsn: str, pool_mode: PoolMode, settings: Mapping[str, str] | None = None) -> None:
        program = find_pgbouncer()
        if program is None:
            raise MissingBouncerError("there is no PgBouncer here; `make servers` says why")
        self._program = program
        self._target = conninfo_to_dict(dsn)
        self.pool_mode = pool_mode
        self._settings = dict(settings or {})
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def dsn(self) -> str:
        """The same database and user, by way of PgBouncer."""
        target = self._target
        return make_conninfo("", host="127.0.0.1", port=self.port, dbname=target["dbname"], user=target["user"])

    @property
    def admin_dsn(self) -> str:
        """PgBouncer's own console: SHOW POOLS, PAUSE, RECONNECT. Autocommit only."""
        return make_conninfo("", host="127.0.0.1", port=self.port, dbname="pgbouncer", user="postgres")

    @property
    def log(self) -> str:
        return (self._directory / "bouncer.log").read_text() if self._directory else ""

    def start(self) -> Self:
        self._directory = current_root() / f"bouncer-{secrets.token_hex(4)}"
        self._directory.mkdir()
        self.port = _free_port()
        ini = self._directory / "bouncer.ini"
        ini.write_text(self._configuration())
        account = server_account()
        if account is not None:
            os.chown(self._directory, account.uid, account.gid)
        self._process = subprocess.Popen(
            [self._program, ini],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **(account.run_as() if account else {}),
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End it at once, by its process id, and its clients with it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _configuration(self) -> str:
        target = {name: self._target[name] for name in ("host", "port", "dbname", "user")}
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "admin_users": "postgres",
            "pool_mode": self.pool_mode,
            "max_client_conn": 200,
            "default_pool_size": 20,
            "logfile": f"{self._directory}/bouncer.log",
        } | self._settings
        return "\n".join(
            [
                "[databases]",
                f"{target['dbname']} = " + " ".join(f"{name}={value}" for name, value in target.items()),
                "[pgbouncer]",
                *(f"{name} = {value}" for name, value in settings.items()),
                "",
            ]
        )

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                psycopg.connect(self.dsn, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PgBouncer did not start: {error}; its log: {self.log}") from error
                time.sleep(0.02)
            else:
                return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
