"""The schema of a database as SQL, by pg_dump."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgscale.connect.dsn import redact, resolve_dsn
from pgscale.errors import ConnectError, UsageError

LOCK_WAIT_MS = 2_000
_WITHOUT = ("owner", "privileges", "comments", "publications", "subscriptions", "security-labels", "tablespaces")


def dump_schema(dsn: str, pg_dump: Path | str = "pg_dump") -> str:
    """Return the schema of a database, without owners and privileges.

    pg_dump reads in a read-only transaction and holds ACCESS SHARE on every table for as long as it reads the catalogs;
    it waits two seconds for one at most. It reads no rows.

    Args:
        pg_dump: at least as new as the server.

    Raises:
        UsageError: there is no pg_dump.
        ConnectError: it failed; the fact carries its words.
    """
    conninfo = resolve_dsn(dsn)
    environment = dict(os.environ)
    # Everybody can read the arguments of a process.
    password = conninfo_to_dict(conninfo).get("password")
    if password:
        environment["PGPASSWORD"] = str(password)
    arguments = [
        pg_dump,
        "--schema-only",
        *(f"--no-{what}" for what in _WITHOUT),
        f"--lock-wait-timeout={LOCK_WAIT_MS}",
        f"--dbname={_without_password(conninfo)}",
    ]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        raise UsageError(
            f"pg_dump could not be started: {error.strerror}.", hint="Install PostgreSQL's client programs."
        ) from None
    if done.returncode != 0:
        said = redact(" ".join(done.stderr.split()), conninfo)
        held = "LOCK TABLE" in said
        raise ConnectError(
            f"The schema could not be read: {said}",
            hint="Somebody holds a table in ACCESS EXCLUSIVE: `pgscale locks` shows who. Then try again."
            if held
            else "The role must be able to read it: pg_read_all_data, or USAGE and SELECT.",
        )
    return done.stdout


def _without_password(conninfo: str) -> str:
    parts = {name: value for name, value in conninfo_to_dict(conninfo).items() if name != "password"}
    return make_conninfo("", **parts)
