"""A real streaming standby of a server of the test's own, and what else receives WAL."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator

from pgscale.embedded import Server
from pgscale.embedded.account import RunAs, plain_environment, server_account
from support.servers import current_root


@contextlib.contextmanager
def standby_of(primary: Server) -> Iterator[Server]:
    """A standby that streams from a running server; stopped at the end of the `with`.

    The primary's programs must have pg_basebackup: 15 of Debian, 16 and 18 of the wheel have it.
    """
    data_dir = current_root() / f"standby-{secrets.token_hex(4)}"
    data_dir.mkdir(mode=0o700)
    account = server_account()
    run_as: RunAs = account.run_as() if account else {}
    if account is not None:
        os.chown(data_dir, account.uid, account.gid)
    # -R writes where the standby streams from; the checkpoint would else be spread over minutes.
    arguments = ["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D", data_dir, "-d", primary.dsn()]
    done = subprocess.run(
        [primary.binaries.bin_dir / "pg_basebackup", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env=plain_environment(os.environ),
        **run_as,
    )
    assert done.returncode == 0, done.stderr
    standby = Server(primary.binaries, data_dir, settings=primary.settings)
    try:
        yield standby.start()
    finally:
        standby.stop("immediate")


@contextlib.contextmanager
def wal_receiver_of(primary: Server) -> Iterator[None]:
    """A pg_receivewal, as a WAL archive has it: it stores what it gets, and never replays."""
    directory = current_root() / f"archive-{secrets.token_hex(4)}"
    directory.mkdir()
    process = subprocess.Popen(
        [primary.binaries.bin_dir / "pg_receivewal", "--status-interval=1", "-D", directory, "-d", primary.dsn()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=plain_environment(os.environ),
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)
