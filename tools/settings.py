"""Writes src/pgscale/doctor/tuning/settings.tsv: what pg_settings of every supported server says.

    python tools/settings.py

Each version found by `tools/servers.py` is started once. Run it when a new major version is supported; the tests hold
the file against every server. What depends on how a server was built is said here by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import servers

from pgscale.embedded import Server, ServerBinaries

TARGET = servers.REPOSITORY / "src/pgscale/doctor/tuning/settings.tsv"
HEADER = "name\tsince\tuntil\tkind\tunit\tminimum\tmaximum\tvalues\tdefault\tcontext"

# Words that only some builds have.
BUILD_VALUES: Mapping[str, str] = {
    "default_toast_compression": "pglz,lz4",
    "dynamic_shared_memory_type": "posix,sysv,mmap",
    "io_method": "sync,worker,io_uring",
    "recovery_init_sync_method": "fsync,syncfs",
    "shared_memory_type": "sysv,mmap",
    "wal_sync_method": "fsync,fdatasync,open_sync,open_datasync,fsync_writethrough",
}
# Defaults that the build or the packager decides: none is told.
BUILD_DEFAULTS = frozenset(
    {
        *("extension_destdir", "krb_server_keyfile", "server_version", "server_version_num", "shared_buffers"),
        *("ssl_ciphers", "ssl_ecdh_curve", "ssl_library", "unix_socket_directories", "ssl_groups"),
        *(
            "debug_assertions",
            "data_directory_mode",
            "dynamic_shared_memory_type",
            "wal_sync_method",
            "max_stack_depth",
        ),
    }
)
NO_LIMITS = frozenset({"server_version_num"})
# Debian's patch; any Debian server takes it.
EVERYWHERE = frozenset({"extension_destdir"})


def read(version: int, bin_dir: Path) -> dict[str, tuple[str, ...]]:
    """Start a server and return its settings: by name kind, unit, limits, words, default and context."""
    with (
        Server(ServerBinaries(bin_dir, version), settings={"fsync": "off"}) as server,
        psycopg.connect(server.dsn()) as connection,
    ):
        rows = connection.execute(
            "SELECT name, vartype, coalesce(unit, ''), coalesce(min_val, ''), coalesce(max_val, ''),"
            " coalesce(array_to_string(enumvals, ','), ''), coalesce(boot_val, ''), context FROM pg_settings"
            " WHERE name NOT LIKE '%.%'"
        ).fetchall()
    found: dict[str, tuple[str, ...]] = {}
    for name, kind, unit, least, most, words, default, context in rows:
        limits = ("", "") if name in NO_LIMITS else (least, most)
        built = BUILD_VALUES.get(name, words)
        if name == "wal_compression" and kind == "enum":
            built = "pglz,lz4,zstd,on,off"
        found[name] = (kind, unit, *limits, built, "" if name in BUILD_DEFAULTS else default, context)
    return found


def lines(by_version: Mapping[int, Mapping[str, tuple[str, ...]]]) -> list[str]:
    """Return one line for each stretch of versions in which a setting is the same."""
    versions = sorted(by_version)
    made: list[str] = []
    for name in sorted({name for found in by_version.values() for name in found}):
        stretch: tuple[int, tuple[str, ...]] | None = None
        for version in versions:
            there = by_version[version].get(name)
            if stretch is not None and there != stretch[1]:
                made.append(_line(name, stretch[0], str(version), stretch[1]))
                stretch = None
            if there is not None and stretch is None:
                stretch = (version, there)
        if stretch is not None:
            made.append(_line(name, stretch[0], "", stretch[1]))
    return made


def _line(name: str, since: int, until: str, rest: tuple[str, ...]) -> str:
    return "\t".join((name, str(since), until, *rest))


def main() -> None:
    """Write the file."""
    found = servers.find()
    missing = [version for version in servers.VERSIONS if version not in found]
    if missing:
        sys.exit(f"PostgreSQL {', '.join(map(str, missing))} is missing; `make servers` says why.")
    by_version = {version: read(version, info.bin_dir) for version, info in found.items()}
    for name in EVERYWHERE:
        there = next(rows[name] for rows in by_version.values() if name in rows)
        for rows in by_version.values():
            rows[name] = there
    made = lines(by_version)
    TARGET.write_text("\n".join([HEADER, *made]) + "\n", encoding="utf-8")
    print(f"{len(made)} lines in {TARGET.relative_to(servers.REPOSITORY)}")


if __name__ == "__main__":
    main()
