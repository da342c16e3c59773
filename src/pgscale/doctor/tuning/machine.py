"""What the server's machine has: memory, processors, storage, within the limits of its cgroups. Reads /proc and /sys.

A server is taken for local only when its own process is seen: the backend that serves our session has a process here
with that id, named postgres, begun at the same second. Being on 127.0.0.1 proves nothing (tunnels, published ports of
containers), and from the process its cgroup can be read, whose limits may be other than ours.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pgscale.core.units import format_bytes
from pgscale.doctor.tuning.model import Machine, Server, Storage
from pgscale.errors import UsageError

ROOT = Path("/")
SAME_START_S = 3.0
NO_LIMIT_BYTES = 1 << 60  # cgroup v1 says "none" by the largest number of pages

_TICKS = "SC_CLK_TCK"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the caller says of the machine; None is to be found out."""

    ram_bytes: int | None = None
    cpus: int | None = None
    storage: Storage | None = None


def read_machine(server: Server, given: Given, root: Path = ROOT) -> Machine:
    """Return what the server may use: what is given counts, the rest is read where the server is local.

    Args:
        root: where /proc and /sys are.

    Raises:
        UsageError: memory or processors are neither given nor to be read.
    """
    local = why_local(server, root)
    if local is None:
        return _given_only(given)
    limits = _Limits(root, server.backend_pid)
    ram, ram_by = (given.ram_bytes, "given") if given.ram_bytes else limits.ram()
    cpus, cpus_by = (given.cpus, "given") if given.cpus else limits.cpus()
    storage, storage_by = (given.storage, "given") if given.storage else _storage(server.data_directory, root)
    if ram is None or cpus is None:
        return _given_only(Given(ram_bytes=ram, cpus=cpus, storage=storage))
    return Machine(
        ram_bytes=ram,
        cpus=cpus,
        storage=storage,
        free_disk_bytes=_free(server.data_directory),
        known_by=(
            f"The server is on this machine: {local}.",
            f"Memory {format_bytes(ram)}: {ram_by}.",
            f"Processors {cpus}: {cpus_by}.",
            f"Storage {storage or 'not known'}: {storage_by}.",
        ),
    )


def _given_only(given: Given) -> Machine:
    missing = [flag for flag, value in (("--ram 16GB", given.ram_bytes), ("--cpus 4", given.cpus)) if value is None]
    if given.ram_bytes is None or given.cpus is None:
        raise UsageError(
            "It cannot be seen from here what machine the server runs on.",
            hint=f"Say what the server has: {' '.join(missing)}, and --storage {given.storage or 'ssd'} if you know.",
        )
    return Machine(
        ram_bytes=given.ram_bytes,
        cpus=given.cpus,
        storage=given.storage,
        known_by=("The machine is as given; the server's processes are not seen from here.",),
    )


def why_local(server: Server, root: Path = ROOT) -> str | None:
    """Return how it is known that the server runs here; None where it is not."""
    process = root / "proc" / str(server.backend_pid)
    if sys.platform != "linux" and root == ROOT:
        return "the session goes through a Unix-domain socket" if server.socket else None
    try:
        name = (process / "comm").read_text().strip()
        # Fields are counted behind the name, which may hold anything.
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        booted = re.search(r"^btime (\d+)", (root / "proc/stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    if booted is None or len(fields) < 20 or name not in {"postgres", "postmaster"}:
        return None
    started_s = int(booted[1]) + int(fields[19]) / os.sysconf(_TICKS)
    if abs(started_s - server.backend_start_s) > SAME_START_S:
        return None
    return f"process {server.backend_pid} here is the backend of our session, begun at the same second"


class _Limits:
    """What the cgroups around a process leave of the machine."""

    def __init__(self, root: Path, pid: int) -> None:
        self._root = root
        self._process = root / "proc" / str(pid)
        self._v2, self._v1 = self._groups()

    def ram(self) -> tuple[int | None, str]:
        total = self._total_ram()
        if total is None:
            return None, "not known"
        found = [(total, "of the machine")]
        found += self._least_bytes(self._v2, ("memory.max", "memory.high"), "cgroup v2")
        found += self._least_bytes(self._v1.get("memory", []), ("memory.limit_in_bytes",), "cgroup v1")
        return min(found, key=lambda each: each[0])

    def cpus(self) -> tuple[int | None, str]:
        total = os.cpu_count()
        if (status := _text(self._process / "status")) and (
            allowed := re.search(r"^Cpus_allowed_list:\s*(\S+)", status, re.MULTILINE)
        ):
            total = _count_list(allowed[1])
        if total is None:
            return None, "not known"
        found = [(total, "of the machine")]
        for group in self._v2:
            quota, _, period = (_text(group / "cpu.max") or "max").strip().partition(" ")
            found += _quota(quota, period, f"cgroup v2, cpu.max of {group}")
        for group in self._v1.get("cpu", []):
            quota = (_text(group / "cpu.cfs_quota_us") or "-1").strip()
            period = (_text(group / "cpu.cfs_period_us") or "100000").strip()
            found += _quota(quota, period, f"cgroup v1, cpu.cfs_quota_us of {group}")
        return min(found, key=lambda each: each[0])

    def _total_ram(self) -> int | None:
        info = _text(self._root / "proc/meminfo")
        if info and (total := re.search(r"^MemTotal:\s*(\d+) kB", info, re.MULTILINE)):
            return int(total[1]) * 1024
        if self._root == ROOT and sys.platform == "darwin":
            done = subprocess.run(["sysctl", "-n", "hw.memsize"], capture_output=True, text=True, check=False)
            return int(done.stdout) if done.stdout.strip().isdigit() else None
        return None

    def _groups(self) -> tuple[list[Path], dict[str, list[Path]]]:
        """Return the directories of version 2 and, by controller, of version 1, from the process's own upwards."""
        base = self._root / "sys/fs/cgroup"
        v2: list[Path] = []
        v1: dict[str, list[Path]] = {}
        for line in (_text(self._process / "cgroup") or "").splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                mount = base if (base / "cgroup.controllers").exists() else base / "unified"
                v2 = _upwards(mount, path)
                continue
            for controller in controllers.split(","):
                mounts = [base / controllers, base / controller]
                mount = next((each for each in mounts if each.is_dir()), mounts[-1])
                v1[controller] = _upwards(mount, path)
        return v2, v1

    @staticmethod
    def _least_bytes(groups: list[Path], names: tuple[str, ...], version: str) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        for group in groups:
            for name in names:
                limit = (_text(group / name) or "max").strip()
                if limit.isdigit() and int(limit) < NO_LIMIT_BYTES:
                    found.append((int(limit), f"{version}, {name} of {group}"))
        return found


def _upwards(mount: Path, path: str) -> list[Path]:
    """Return the group's directory and all above it; a container that sees only its own has the mount itself."""
    groups = [mount]
    for part in Path(path).parts[1:]:
        if part == "..":
            return [mount]
        groups.append(groups[-1] / part)
    return [group for group in reversed(groups) if group.is_dir()]


def _quota(quota: str, period: str, where: str) -> list[tuple[int, str]]:
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return []
    # Half a processor is one backend at half the speed.
    return [(max(1, round(int(quota) / int(period))), where)]


def _count_list(text: str) -> int:
    """Count what `0-3,8` names."""
    count = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


def _storage(data_directory: str | None, root: Path) -> tuple[Storage | None, str]:
    if data_directory is None:
        return None, "the role may not read data_directory (pg_read_all_settings); say --storage"
    try:
        device = Path(data_directory).stat().st_dev
    except OSError as error:
        return None, f"{data_directory} cannot be looked at ({error.strerror}); say --storage"
    return storage_of(os.major(device), os.minor(device), root)


def storage_of(major: int, minor: int, root: Path = ROOT) -> tuple[Storage | None, str]:
    """Return the kind of a block device, and how it is known; None for memory and network file systems."""
    link = root / f"sys/dev/block/{major}:{minor}"
    if not link.exists():
        return None, "the data directory lies on no block device that the kernel names; say --storage"
    device = link.resolve()
    # A partition has no queue of its own.
    disk = device if (device / "queue").is_dir() else device.parent
    turns = (_text(disk / "queue/rotational") or "").strip()
    if disk.name.startswith("nvme"):
        return "nvme", f"the data directory lies on {disk.name}"
    if turns == "0":
        return "ssd", f"{disk.name} says that it does not rotate"
    if turns == "1" and re.match(r"(vd|xvd)[a-z]+", disk.name):
        return None, f"{disk.name} is a virtual disk, whose word that it rotates means nothing; say --storage"
    if turns == "1":
        return "hdd", f"{disk.name} says that it rotates"
    return None, f"{disk.name} does not say whether it rotates; say --storage"


def _free(data_directory: str | None) -> int | None:
    try:
        return None if data_directory is None else shutil.disk_usage(data_directory).free
    except OSError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
