"""Attach beside an application that wants stronger locks while an index is built."""

from __future__ import annotations

import threading
import time
from typing import Any

from pgscale import partition
from pgscale.partition import Options
from support.servers import Database


def test_a_build_that_is_the_victim_of_a_deadlock_is_repeated(database: Database) -> None:
    """Whoever has written the table and then empties it waits for the build, which waits for it."""
    conn = database.connect()
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, at date NOT NULL)")
    with database.connect_superuser() as superuser:
        # The build is to notice first.
        superuser.execute(f"ALTER ROLE {database.owner} SET deadlock_timeout = '3s'")
        superuser.execute("SET deadlock_timeout = '10min'; BEGIN; INSERT INTO t VALUES (1, now())")
        outcome: list[Any] = []
        options = Options(by="range:at:month", strategy="attach", accept_key_change=True, pace="fast")
        runs = threading.Thread(target=lambda: outcome.append(partition.run(database.dsn, "t", options)))
        runs.start()
        waits = (
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE UNIQUE INDEX CONCURRENTLY%'"
            " AND wait_event_type = 'Lock' AND datname = current_database())"
        )
        until = time.monotonic() + 60
        while conn.execute(waits).fetchone() != (True,):
            assert time.monotonic() < until
            time.sleep(0.02)
        superuser.execute("TRUNCATE t; COMMIT")
    runs.join(120)
    assert outcome[0].state == "cut-over"
    assert conn.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone() == (0,)
