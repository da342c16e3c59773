"""`pgscale tune`: what is proposed is set on real servers of every version, with the undo; how machines are read."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from pgscale.connect.session import open_session
from pgscale.doctor.tuning.advice import advise
from pgscale.doctor.tuning.conf import parse_text
from pgscale.doctor.tuning.ddl import conf_line
from pgscale.doctor.tuning.judging import DANGEROUS, judge
from pgscale.doctor.tuning.machine import Given, read_machine, storage_of, why_local
from pgscale.doctor.tuning.model import STORAGES, WORKLOADS, Machine
from pgscale.doctor.tuning.reader import LOOKER, read_server
from pgscale.doctor.tuning.runner import CHANGER, apply
from pgscale.doctor.tuning.values import parse_value
from pgscale.errors import RunFailedError, UsageError
from support.cli import pgscale

MB, GB = 1 << 20, 1 << 30
MACHINES = [
    Machine(ram_bytes=256 * MB, cpus=1, storage="hdd", free_disk_bytes=4 * GB),
    Machine(ram_bytes=4 * GB, cpus=2, storage=None),
    Machine(ram_bytes=16 * GB, cpus=4, storage="ssd", free_disk_bytes=100 * GB),
    Machine(ram_bytes=64 * GB, cpus=16, storage="nvme"),
    Machine(ram_bytes=1024 * GB, cpus=192, storage="san"),
]
GIVEN = ("--ram", "16GB", "--cpus", "4", "--storage", "ssd")


def _read(dsn: str):
    with open_session(dsn, LOOKER) as session:
        return read_server(session)


def _every_advice(server):
    return [
        (machine, workload, connections, advise(server, machine, workload, connections))
        for machine in MACHINES
        for workload in WORKLOADS
        for connections in (None, 20, 1000)
    ]


@pytest.mark.versions("all")
def test_what_is_proposed_is_taken_by_the_server_and_starts_it(pg_version, private_server):
    server = private_server({"max_wal_size": "1GB", "jit": "on", "wal_level": "replica"})
    found = _read(server.dsn())
    before = {name: running.now for name, running in found.settings.items()}
    everything = _every_advice(found)
    proposals = {(p.name, p.value): p for *_, advice in everything for p in advice.proposals}
    assert not {(p.name, p.number) for p in proposals.values()} & DANGEROUS.keys()
    assert not {p.name for p in proposals.values()} & {"fsync", "full_page_writes", "synchronous_commit", "autovacuum"}
    for *_, advice in everything:
        text = "".join(f"{conf_line(p)}\n" for p in advice.proposals)
        assert judge(parse_text(text), pg_version) == (), text
    # Each value is taken by the server itself, whatever the machine; this one starts with those of a small and
    # those of a large one in turn, where shared_buffers is 64MB in place of gigabytes that it does not have.
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        for (name, value), proposal in proposals.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            assert parse_value(found.settings[name].setting, value) == proposal.number
        connection.execute("ALTER SYSTEM RESET ALL")
    machine, workload = (MACHINES[2], "web") if pg_version % 2 else (MACHINES[4], "dw")
    chosen = tuple(
        replace(p, value="64MB", number="8192") if p.name == "shared_buffers" else p
        for p in advise(found, machine, workload, 60).proposals
    )
    assert len(chosen) > 12
    with open_session(server.dsn(), CHANGER) as session:
        applied = apply(session, chosen)
    assert set(applied.pending_restart) == {p.name for p in chosen if p.restart}
    assert set(applied.in_force) == {p.name for p in chosen if not p.restart}
    server.restart("immediate")
    now = _read(server.dsn())
    for proposal in chosen:
        assert now.settings[proposal.name].now == proposal.number, proposal.name
        assert not now.settings[proposal.name].pending_restart
    # Once set, it is not proposed again; and the undo brings back what was.
    again = {p.name for p in advise(now, machine, workload, 60).proposals}
    assert again <= {"shared_buffers"}
    with psycopg.connect(server.dsn(), autocommit=True) as undoing:
        for statement in applied.undo:
            undoing.execute(statement)
    assert (server.data_dir / "postgresql.auto.conf").read_text().count("\n") == 2
    changed = {p.name for p in chosen if not p.restart}
    with psycopg.connect(server.dsn(), autocommit=True) as looking:
        rows = dict(looking.execute("SELECT name, reset_val FROM pg_settings").fetchall())
    assert {name: rows[name] for name in changed} == {name: before[name] for name in changed}


def test_the_undo_gives_back_what_alter_system_had_set_before(private_server, monkeypatch):
    server = private_server({"work_mem": "5MB"})
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET random_page_cost = 3")
        connection.execute("ALTER DATABASE postgres SET jit = on")
        connection.execute("SELECT pg_reload_conf()")
        dsn = server.dsn()
        ran = pgscale("tune", "--dsn", dsn, *GIVEN, "--workload", "oltp", "--apply", "--json")
        assert ran.exit_code == 0, ran.err
        applied = json.loads(ran.out)["applied"]
        assert "ALTER SYSTEM SET \"random_page_cost\" = '3';" in applied["undo"]
        assert applied["overruled"] == {"jit": "database"}
        assert "shared_buffers" in applied["pending_restart"]
        for statement in applied["undo"]:
            connection.execute(statement)
        lines = (server.data_dir / "postgresql.auto.conf").read_text().splitlines()[2:]
        assert lines == ["random_page_cost = '3'"]

        # Refused half way: nothing of it stays.
        found = _read(dsn)
        proposals = advise(found, MACHINES[2], "oltp").proposals
        bad = (*proposals[:3], replace(proposals[3], value="rubbish"), *proposals[4:])
        with open_session(dsn, CHANGER) as session, pytest.raises(RunFailedError, match="The server refused"):
            apply(session, bad)
        assert (server.data_dir / "postgresql.auto.conf").read_text().splitlines()[2:] == lines

        # A role that was granted a few settings, and cannot see what ALTER SYSTEM wrote.
        connection.execute("CREATE ROLE tuner LOGIN")
        as_tuner = server.dsn(user="tuner")
        chosen = tuple(p for p in proposals if p.name in {"random_page_cost", "checkpoint_timeout"})
        ran = pgscale("tune", "--dsn", as_tuner, *GIVEN, "--apply")
        assert (ran.exit_code, "Nothing was changed" in ran.err) == (3, True)
        assert "  shared_buffers = 4GB\n" in ran.err
        grant = re.search(r"(GRANT ALTER SYSTEM.*?;) (GRANT EXECUTE.*?;)", ran.err)
        connection.execute(grant[1])
        connection.execute(grant[2])
        with open_session(as_tuner, CHANGER) as session:
            undo = apply(session, chosen).undo
        assert undo[:1] == ("ALTER SYSTEM SET \"checkpoint_timeout\" = '5min';",)

        connection.execute("ALTER SYSTEM SET search_path = public")
        path = server.data_dir / "pgscale.conf"
        path.write_text(f"{path.read_text()}allow_alter_system = off\n")
        connection.execute("SELECT pg_reload_conf()")
        ran = pgscale("tune", "--dsn", dsn, *GIVEN, "--apply")
        assert (ran.exit_code, "forbids ALTER SYSTEM" in ran.err) == (4, True)


def test_the_memory_that_is_proposed_fits_unless_that_is_said(server):
    found = _read(server.dsn())
    for machine, workload, connections, advice in _every_advice(found):
        told = any("put a pooler in front" in note for note in advice.notes)
        assert advice.after.fits != told, (machine, workload, connections)
        values = {p.name: p.number for p in advice.proposals}
        now = {name: running.now for name, running in found.settings.items()} | values
        work = int(now["work_mem"]) * 1024 * float(now["hash_mem_multiplier"]) * advice.after.nodes
        processes = int(now["max_connections"]) + int(now["max_parallel_workers"])
        assert advice.after.work_bytes == round(work * processes)
        assert advice.after.shared_bytes == int(now["shared_buffers"]) * 8192
        assert advice.after.maintenance_bytes == int(now["maintenance_work_mem"]) * 1024 * 3
        assert machine.storage is not None or "random_page_cost" not in values
    sizes = {(m.ram_bytes, w, c): a.after.fits for m, w, c, a in _every_advice(found)}
    assert all(sizes[machine.ram_bytes, workload, 20] for machine in MACHINES[1:] for workload in WORKLOADS)
    assert not sizes[256 * MB, "dw", 1000]


def test_nothing_is_proposed_that_merely_differs_a_little_or_is_larger_already(server):
    found = _read(server.dsn())

    def told(**now):
        settings = dict(found.settings)
        for name, value in now.items():
            settings[name] = replace(settings[name], now=parse_value(settings[name].setting, value))
        advice = advise(replace(found, settings=settings), MACHINES[2], "web")
        return {p.name: p.value for p in advice.proposals}

    assert told(shared_buffers="128MB")["shared_buffers"] == "4GB"
    assert "shared_buffers" not in told(shared_buffers="3.5GB")
    assert "shared_buffers" not in told(shared_buffers="6GB")
    assert told(shared_buffers="12GB")["shared_buffers"] == "4GB"
    assert "max_wal_size" not in told(max_wal_size="64GB")
    assert told(work_mem="2GB", shared_buffers="4GB")["work_mem"] != "2GB"
    assert "max_connections" not in told(max_connections="500")


# Machines


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _process(pid: int, started_s: int, cgroup: str, name: str = "postgres") -> dict[str, str]:
    ticks = started_s * os.sysconf("SC_CLK_TCK")
    stat = f"{pid} (post) gres) S " + " ".join(["0"] * 18) + f" {ticks} 0\n"
    return {
        f"proc/{pid}/comm": f"{name}\n",
        f"proc/{pid}/stat": stat,
        f"proc/{pid}/status": "Name:\tpostgres\nCpus_allowed_list:\t0-7,16-23\n",
        f"proc/{pid}/cgroup": cgroup,
        "proc/stat": "cpu 1 2 3\nbtime 1700000000\n",
        "proc/meminfo": f"MemTotal:       {64 * GB // 1024} kB\n",
    }


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
def test_the_machine_is_read_where_the_server_is_local_and_only_there(server, tmp_path):
    with open_session(server.dsn(), LOOKER) as session:
        found = read_server(session)
        assert "backend of our session" in (why_local(found) or "")
        machine = read_machine(found, Given())
        # A process that has another name, or the number by chance, is not the server's.
        assert why_local(replace(found, backend_start_s=found.backend_start_s - 60)) is None
    total = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    assert 0 < machine.ram_bytes <= total
    assert 1 <= machine.cpus <= os.cpu_count()
    assert why_local(replace(found, backend_pid=os.getpid())) is None
    with pytest.raises(UsageError, match="what machine") as refused:
        read_machine(replace(found, backend_pid=2**22 + 1), Given(cpus=4))
    assert "--ram" in refused.value.hint
    assert "--cpus" not in refused.value.hint
    given = Given(ram_bytes=8 * GB, cpus=2, storage="hdd")
    machine = read_machine(replace(found, backend_pid=2**22 + 1), given)
    assert (machine.ram_bytes, machine.cpus, machine.storage) == (8 * GB, 2, "hdd")

    v2 = _process(100, 500, "0::/system.slice/pg.service/inner\n")
    v2 |= {
        "sys/fs/cgroup/cgroup.controllers": "cpu memory",
        "sys/fs/cgroup/system.slice/memory.max": "max\n",
        "sys/fs/cgroup/system.slice/pg.service/memory.max": f"{8 * GB}\n",
        "sys/fs/cgroup/system.slice/pg.service/cpu.max": "350000 100000\n",
        "sys/fs/cgroup/system.slice/pg.service/inner/memory.high": f"{6 * GB}\n",
        "sys/fs/cgroup/system.slice/pg.service/inner/cpu.max": "max 100000\n",
    }
    v1 = _process(100, 500, "9:name=systemd:/\n4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n")
    v1 |= {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": f"{2 * GB}\n",
        "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "50000\n",
        "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
    }
    # In a container without a cgroup namespace, the path of the host is not there: the mount is the container's own.
    hidden = _process(100, 500, "4:memory:/docker/abc\n1:cpu:/docker/abc\n")
    hidden |= {
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{3 * GB}\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
    }
    local = replace(found, backend_pid=100, backend_start_s=1700000500.7)
    for name, files, ram, cpus in (
        ("v2", v2, 6 * GB, 4),
        ("v1", v1, 2 * GB, 1),
        ("hidden", hidden, 3 * GB, 16),
        ("free", _process(100, 500, "0::/\n"), 64 * GB, 16),
    ):
        machine = read_machine(local, Given(), _tree(tmp_path / name, files))
        assert (machine.ram_bytes, machine.cpus) == (ram, cpus), name
    assert any("cgroup v2, memory.high" in each for each in read_machine(local, Given(), tmp_path / "v2").known_by)


def test_storage_is_what_the_disk_says_under_its_partitions(tmp_path):
    for number, (disk, part, turns) in enumerate(
        (("nvme0n1", "nvme0n1p2", "0"), ("sda", "sda1", "0"), ("sdb", "sdb1", "1"), ("vda", "vda1", "1"))
    ):
        _tree(tmp_path, {f"sys/devices/{disk}/queue/rotational": f"{turns}\n", f"sys/devices/{disk}/{part}/size": "1"})
        link = tmp_path / f"sys/dev/block/8:{number}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / f"sys/devices/{disk}/{part}")
    found = [storage_of(8, number, tmp_path) for number in range(5)]
    assert [kind for kind, _ in found] == ["nvme", "ssd", "hdd", None, None]
    assert "virtual disk" in found[3][1]
    assert set(STORAGES) > {"nvme", "ssd", "hdd"}


def test_the_command_line_shows_a_diff_and_changes_nothing(database):
    ran = pgscale("tune", "--dsn", database.dsn, *GIVEN, "--workload", "web")
    assert ran.exit_code == 0, ran.err
    assert "-shared_buffers = 128MB\n+shared_buffers = 4GB\n" in ran.out
    assert "Nothing was changed." in ran.out
    assert "ALTER SYSTEM SET \"shared_buffers\" = '4GB';" in ran.out
    data = json.loads(pgscale("tune", "--dsn", database.dsn, *GIVEN, "--json").out)
    named = {proposal["name"]: proposal for proposal in data["proposals"]}
    assert (named["shared_buffers"]["number"], named["shared_buffers"]["unit"]) == ("524288", "8kB")
    assert named["shared_buffers"]["restart"]
    assert not named["random_page_cost"]["restart"]
    assert all(proposal["reason"] and proposal["source"] for proposal in data["proposals"])
    assert data["applied"] is None
    for wrong in (["--fix", "x"], ["--check", "x", "--apply"], ["--workload", "desktop"], ["--connections", "1"]):
        assert pgscale("tune", "--dsn", database.dsn, *wrong).exit_code == 2
