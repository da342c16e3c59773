"""`cache.hits`: pages read from outside shared_buffers."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgscale.embedded import Server
from support.clients import psql
from support.doctor import Doctor
from support.servers import Database

CHECK = "cache.hits"
# By the index, since a scan of a table that is larger than a quarter of the cache goes past it.
READ = "SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT sum(length(t)) FROM t WHERE id > 0;" * 3


@pytest.mark.versions(14, 18)
def test_a_small_cache(
    private_server: Callable[..., Server], database_factory: Callable[..., Database], tmp_path: Path
) -> None:
    server = private_server({"max_connections": "20"})
    database = database_factory(server)
    psql(database.superuser_dsn, "ALTER SYSTEM SET shared_buffers = '2MB'; ALTER SYSTEM SET track_io_timing = on")
    server.restart()
    doctor = Doctor(database, tmp_path)
    psql(
        database.dsn,
        "CREATE TABLE t (id integer PRIMARY KEY, t text);"
        "INSERT INTO t SELECT g, repeat('x', 900) FROM generate_series(1, 3000) g; VACUUM ANALYZE t",
    )
    assert doctor.answer(CHECK)["because"] == "there is no earlier sample to compare with"
    doctor.hours_pass(0.05)
    assert "too few to tell a share" in doctor.answer(CHECK)["because"]
    limits = {"least_pages": 300, "least_reads_per_s": 0.1, "most_cached_read_s": 0}
    psql(database.dsn, READ)
    doctor.limits(cache={**limits, "least_reads_per_s": 100})
    until = time.monotonic() + 60
    while not doctor.answer(CHECK).get("text", "").endswith(" a second."):  # 14's collector tells later
        assert time.monotonic() < until
    doctor.limits(cache=limits)
    finding = doctor.finding(CHECK)
    assert finding["severity"] == "warning"
    evidence = finding["evidence"]
    assert evidence["shared_buffers_bytes"] == 2 << 20
    assert "public.t" in [each["name"] for each in evidence["tables"]]
    assert evidence["mean_read_s"] > 0
    doctor.limits(cache={**limits, "most_cached_read_s": 10})
    assert doctor.finding(CHECK)["severity"] == "info"

    doctor.limits(cache=limits)
    assert finding["remedies"][0]["restart"]
    doctor.apply(finding)
    server.restart()
    psql(database.dsn, READ)
    assert doctor.answer(CHECK)["answer"] == "not checked"  # it is another start of the server
    doctor.hours_pass(0.05)
    psql(database.dsn, READ)
    while not doctor.is_well(CHECK):
        assert time.monotonic() < until
