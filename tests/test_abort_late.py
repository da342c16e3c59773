"""An abort that is asked for when the owner has no heartbeat left before its cut-over."""

from __future__ import annotations

import pytest

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.errors import InterruptedRunError
from pgscale.partition import Options
from support.clients import pg_dump_schema
from support.servers import Database

WAYS = {
    "mirror": Options(by="hash:id", partitions=3, pace="fast"),
    "attach": Options(by="range:id:1000", strategy="attach", pace="fast"),
    "move": Options(by="hash:id", partitions=3, strategy="move", pace="fast"),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_counts_until_the_commit(database: Database, way: str) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
    conn.execute("INSERT INTO t SELECT g, g FROM generate_series(1, 500) g")
    dump = pg_dump_schema(database.dsn)
    asked: list[str] = []

    def watch(progress: Progress) -> None:
        if progress.phase == "cutover" and not asked:
            asked.append(progress.phase)
            conn.execute("UPDATE pgscale.run SET request = 'abort'")

    with pytest.raises(InterruptedRunError, match="aborted by another process"):
        partition.run(database.dsn, "t", WAYS[way], watch=watch)
    assert asked
    assert pg_dump_schema(database.dsn) == dump
    assert conn.execute("SELECT count(*), sum(n) FROM t").fetchone() == (500, 125_250)
    assert partition.status(database.dsn) == ()
