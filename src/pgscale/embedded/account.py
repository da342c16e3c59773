"""Who runs the server: PostgreSQL refuses root, so root lends it to a system user that can reach it."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

CACHE_ROOT = Path("/var/tmp")  # noqa: S108 because every account must read it; owner and mode are checked


class RunAs(TypedDict, total=False):
    """The arguments of subprocess that change the user; empty when nothing changes."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The user a server runs as, when that is not the caller."""

    name: str
    uid: int
    gid: int

    def run_as(self) -> RunAs:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def may_traverse(self, path: Path) -> bool:
        """Whether the account can reach what lies below the directory: every level needs its x bit."""
        return all(self._has_x(level.stat()) for level in (path, *path.parents))

    def _has_x(self, status: os.stat_result) -> bool:
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


def server_account() -> Account | None:
    """The account root lends to the server: `postgres`, else `nobody`; None for everyone but root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    return None


def plain_environment(base: Mapping[str, str]) -> dict[str, str]:
    """An environment without libpq's variables and locale, which would change what initdb and postgres do."""
    kept = {name: base[name] for name in ("PATH", "HOME", "TMPDIR") if name in base}
    return kept | {"LC_ALL": "C"}


def reachable_install(install: Path, version: int, account: Account) -> Path:
    """The install tree itself, or a copy under /var/tmp when the account cannot reach it.

    The copy is made once per source tree and renamed into place, so callers in parallel are safe.

    Raises:
        PermissionError: the cache directory exists but belongs to someone else or is writable by others.
    """
    install = install.resolve()
    if account.may_traverse(install / "bin"):
        return install
    source = f"{install}:{(install / 'bin' / 'postgres').stat().st_mtime_ns}"
    cache = CACHE_ROOT / f"pgscale-server-{version}-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    if not cache.exists():
        _copy_install(install, cache)
    status = cache.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{cache} belongs to someone else or others can write to it")
    return cache / "package" / "install"


def _copy_install(install: Path, cache: Path) -> None:
    # A repaired wheel keeps its libraries beside the package and looks for them at ../../../<package>.libs
    # from each program: the copy keeps that shape.
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    with tempfile.TemporaryDirectory(prefix=f"{cache.name}.", dir=cache.parent) as staging:
        copy = Path(staging, "copy")
        omit = shutil.ignore_patterns("include")
        shutil.copytree(install, copy / "package" / "install", symlinks=True, ignore=omit)
        if libraries.is_dir():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        for directory in (copy, copy / "package", copy / "package" / "install"):
            directory.chmod(0o755)
        try:
            copy.rename(cache)
        except OSError:
            if not cache.exists():
                raise
