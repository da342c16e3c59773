"""A Redis server of a test's own: started, killed, and started again over the same files."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import redis


class MissingRedisError(Exception):
    """There is no redis-server on this machine."""


class RedisServer:
    """A redis-server with an append-only file in a directory; settings as `{"appendfsync": "everysec"}`."""

    def __init__(self, directory: Path, settings: dict[str, str] | None = None) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise MissingRedisError("there is no redis-server on PATH; `make servers` says why")
        directory.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        chosen = {"appendonly": "yes", "appendfsync": "always", "save": "", **(settings or {})}
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory)]
        for name, value in chosen.items():
            self._command += [f"--{name}", *value.split(" ")]
        self._log = directory / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, buffer: str) -> str:
        return f"redis://127.0.0.1:{self.port}/0?buffer={buffer}"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)

    def start(self) -> RedisServer:
        """Return when it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until = time.monotonic() + 60
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return self
            except redis.RedisError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise AssertionError(f"redis-server does not start: {self._log.read_text()}") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None
