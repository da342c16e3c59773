"""Landing: bad events apart from good ones, drainers side by side, order by key, whatever fails on the way."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.errors import PermissionDeniedError, UsageError
from pgscale.write import RowError
from pgscale.write.buffer import AsyncBuffer, Buffer, BufferFullError, Drainer, SpoolLog, SpoolOptions
from pgscale.write.buffer.memory import MemoryLog
from support.servers import Database

SMALL = SpoolOptions(segment_bytes=1 << 16)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def _run(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _drain(database: Database, spool: Path, **options: Any) -> Any:
    with SpoolLog(spool) as log:
        return Drainer(log, **options).run(database.dsn, until_empty=True)


def test_events_that_never_fit_become_dead_letters_and_nothing_waits_for_them(database, spool) -> None:
    _run(database.dsn, "CREATE TABLE event (n integer NOT NULL, k integer, name varchar(5), seq bigserial)")
    bad = {
        7: ({"n": 7, "k": 1, "name": 5}, "name", None, "int"),
        70: ({"n": 1 << 40, "k": 1, "name": "a"}, "n", None, "out of range"),
        150: ({"n": 150, "k": 1, "name": "too long"}, "name", "22001", "too long"),
        151: ({"n": None, "k": 1, "name": "b"}, "n", "23502", "null value"),
        299: ({"n": 299, "k": 1, "name": "a\0b"}, "name", None, "NUL"),
    }
    with Buffer("public.event", path=spool, key="k") as buffer:
        for n in range(300):
            buffer.put(bad[n][0] if n in bad else {"n": n, "k": 1, "name": "fine"})
    drained = _drain(database, spool)
    assert (drained.events, drained.dead) == (295, 5)
    landed = [n for (n,) in _run(database.dsn, "SELECT n FROM event ORDER BY seq")]
    assert landed == [n for n in range(300) if n not in bad]
    letters = _run(
        database.dsn,
        "SELECT table_name, column_name, sqlstate, reason, row::text, source FROM pgscale.dead_letter ORDER BY id",
    )
    assert len(letters) == 5
    for (table, column, sqlstate, reason, row, source), (event, at, state, words) in zip(
        letters, bad.values(), strict=True
    ):
        assert (table, column, sqlstate) == ("public.event", at, state)
        assert words in reason
        assert source.startswith("buffer ")
        assert event["n"] == json.loads(row)["n"]
    (counted,) = _run(database.dsn, "SELECT sum(landed), sum(dead) FROM pgscale.buffer_lane")
    assert counted == (295, 5)


CHILD = """CREATE TABLE parent (id integer PRIMARY KEY);
CREATE TABLE event (n integer, k integer, parent integer REFERENCES parent {}, seq bigserial)"""


@pytest.mark.parametrize("timing", ["", "DEFERRABLE INITIALLY DEFERRED"])
def test_an_event_that_may_heal_is_waited_for_in_order(database, spool, timing: str) -> None:
    _run(database.dsn, CHILD.format(timing))
    with Buffer("public.event", path=spool, key="k", lanes=2) as buffer:
        buffer.put_many({"n": n, "k": n % 3, "parent": 1 if n == 40 else None} for n in range(100))
    with SpoolLog(spool) as log, psycopg.connect(database.dsn, autocommit=True) as connection:
        drainer = Drainer(log, deliveries=3)
        first = drainer.drain_once(connection)
        assert (first.events, first.held) == (40, True), "what came before it is in"
        second = drainer.drain_once(connection)
        assert (second.events, second.held) == (0, True)
        assert _run(database.dsn, "SELECT max(tries), sum(retries) > 0, max(last_error) FROM pgscale.buffer_lane")[0][
            :2
        ] == (2, True)
        connection.execute("INSERT INTO parent VALUES (1)")
        third = drainer.drain_once(connection)
        assert (third.events, third.dead, third.held) == (60, 0, False)
        # A second one whose parent never comes is given up after so many tries, alone.
        with Buffer("public.event", path=spool, key="k", lanes=2) as buffer:
            buffer.put_many({"n": n, "k": n % 3, "parent": 2 if n == 101 else None} for n in range(100, 110))
        results = [drainer.drain_once(connection) for _ in range(3)]
        assert [(r.events, r.dead, r.held) for r in results] == [(1, 0, True), (0, 0, True), (8, 1, False)]
    landed = [n for (n,) in _run(database.dsn, "SELECT n FROM event ORDER BY seq")]
    assert sorted(landed) == [n for n in range(110) if n != 101]
    for k in range(3):
        assert [n for n in landed if n % 3 == k] == [n for n in range(110) if n % 3 == k and n != 101]
    assert _run(database.dsn, "SELECT sqlstate, row->>'n' FROM pgscale.dead_letter") == [("23503", "101")]


def test_an_unknown_column_is_waited_for_and_then_a_dead_letter(database, spool) -> None:
    _run(database.dsn, "CREATE TABLE event (n integer, k integer, seq bigserial)")
    with Buffer("public.event", path=spool) as buffer:
        buffer.put_many([{"n": 1, "k": 1}, {"n": 2, "k": 1, "colour": "red"}, {"n": 3, "k": 1}])
    with SpoolLog(spool) as log:
        drained = Drainer(log, deliveries=2).run(database.dsn, until_empty=True)
    assert (drained.events, drained.dead, drained.retries) == (2, 1, 1)
    ((reason, row),) = _run(database.dsn, "SELECT reason, row->>'colour' FROM pgscale.dead_letter")
    assert "cannot be written" in reason
    assert row == "red"


def test_trouble_that_is_nobodys_fault_is_waited_out(database, spool) -> None:
    """No table, no right, a locked table: nothing is landed, nothing is lost, status says why."""
    with Buffer("public.event", path=spool) as buffer:
        buffer.put_many({"n": n} for n in range(10))
    stop, done = threading.Event(), []

    def work() -> None:
        with SpoolLog(spool) as log:
            done.append(Drainer(log).run(database.dsn, stop))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        _wait(lambda: "no table" in _last_error(database.dsn))
        _run(database.dsn, "CREATE TABLE event (n integer, k integer)")
        _wait(lambda: _run(database.dsn, "SELECT count(*) FROM event") == [(10,)])
    finally:
        stop.set()
        thread.join(30)
    assert done[0].events == 10
    assert done[0].retries >= 1


def _last_error(dsn: str) -> str:
    if not _run(dsn, "SELECT to_regclass('pgscale.buffer_lane')")[0][0]:
        return ""
    return str(_run(dsn, "SELECT max(last_error) FROM pgscale.buffer_lane")[0][0])


def _wait(is_so: Any) -> None:
    until = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < until, "it never became so"
        time.sleep(0.02)


def test_a_role_without_rights_is_told(database, spool) -> None:
    _run(database.dsn, "CREATE TABLE event (n integer)")
    role = database.create_role()
    with Buffer("public.event", path=spool) as buffer:
        buffer.put({"n": 1})
    connection = psycopg.connect(database.dsn_as(role), autocommit=True)
    with SpoolLog(spool) as log, connection, pytest.raises(PermissionDeniedError, match="GRANT CREATE"):
        Drainer(log).drain_once(connection)


def test_drainers_side_by_side_land_everything_once_in_order(database, spool) -> None:
    _run(database.dsn, "CREATE TABLE event (n integer, k integer, seq bigserial, worker text DEFAULT pg_backend_pid())")
    stop = threading.Event()
    results: list[Any] = []

    def drain() -> None:
        with SpoolLog(spool) as log:
            results.append(Drainer(log, batch=300).run(database.dsn, stop))

    with Buffer("public.event", path=spool, key="k", lanes=6, options=SMALL) as buffer:
        drainers = [threading.Thread(target=drain) for _ in range(3)]
        for one in drainers:
            one.start()

        def produce(k: int) -> None:
            for n in range(0, 3_000, 20):
                buffer.put_many({"n": i, "k": k} for i in range(n, n + 20))

        producers = [threading.Thread(target=produce, args=(k,)) for k in range(6)]
        for one in producers:
            one.start()
        for one in producers:
            one.join()
        _wait(lambda: _run(database.dsn, "SELECT count(*) FROM event") == [(18_000,)])
        stop.set()
        for one in drainers:
            one.join(30)
    assert sum(r.events for r in results) == 18_000
    assert sum(r.events > 0 for r in results) >= 2, "the lanes are shared"
    for k in range(6):
        assert [n for (n,) in _run(database.dsn, f"SELECT n FROM event WHERE k = {k} ORDER BY seq")] == [*range(3_000)]


def test_rows_of_other_columns_keep_the_order_of_their_key(database, spool) -> None:
    _run(database.dsn, "CREATE TABLE event (n integer, k integer, a text, b text, seq bigserial)")
    with Buffer("public.event", path=spool, key="k", lanes=2) as buffer:
        shapes = ({}, {"a": "x"}, {"b": "y"}, {"b": None, "a": "z"})
        buffer.put_many({"n": n, "k": n % 4 % 3, **shapes[n % 4]} for n in range(400))
    assert _drain(database, spool).events == 400
    landed = [n for (n,) in _run(database.dsn, "SELECT n FROM event ORDER BY seq")]
    for k in range(3):
        mine = [n for n in landed if n % 4 % 3 == k]
        assert mine == sorted(mine)
    assert len(landed) == 400


def test_memory_is_a_level_that_says_what_it_is(database) -> None:
    _run(database.dsn, "CREATE TABLE event (n integer)")

    async def work() -> None:
        async with AsyncBuffer("public.event", level="memory") as buffer:
            receipt = await buffer.put_many({"n": n} for n in range(100))
            assert receipt.durability == "process"
            assert "lost when the process ends" in receipt.survives
            assert (await Drainer(buffer.log).arun(database.dsn, until_empty=True)).events == 100
            assert buffer.log.backlog({}).bytes == 0

    asyncio.run(work())
    # A process that is gone leaves rows that nobody needs; they do not pile up.
    _run(database.dsn, "UPDATE pgscale.buffer_lane SET landed_at = now() - interval '8 days'")
    _run(
        database.dsn,
        "INSERT INTO pgscale.buffer_lane SELECT gen_random_uuid(), 0, 0, 0, 0, 0, 0, 0, now() - interval '1 year'",
    )
    with Buffer("public.event", level="memory", lanes=3) as buffer:
        assert Drainer(buffer.log).run(database.dsn, until_empty=True).events == 0
    assert _run(database.dsn, "SELECT count(*) FROM pgscale.buffer_lane") == [(4,)]
    assert _run(database.dsn, "SELECT count(*), count(DISTINCT n) FROM event") == [(100, 100)]


def test_memory_pushes_back(database) -> None:
    with Buffer("public.event", level="memory", timeout_s=0.05) as buffer:
        assert isinstance(buffer.log, MemoryLog)
        buffer.log._max_bytes = 2_000
        buffer.put_many({"n": n} for n in range(100))
        with pytest.raises(BufferFullError, match="max_bytes"):
            buffer.put({"n": 100})


def test_what_is_no_event_is_refused_at_the_door(spool) -> None:
    with Buffer("public.event", path=spool, key=("k", "l")) as buffer:
        with pytest.raises(RowError, match="column l: the key"):
            buffer.put_many([{"k": 1, "l": 2}, {"k": 1}])
        with pytest.raises(RowError, match="cannot be stored"):
            buffer.put({"k": 1, "l": "\ud800"})
        with pytest.raises(UsageError, match="tuple is no event"):
            buffer.put((1, 2))
        with pytest.raises(UsageError, match="by its columns' names"):
            buffer.put({})
        circle: list[Any] = []
        circle.append(circle)
        with pytest.raises(RowError, match="cannot be stored"):
            buffer.put({"k": 1, "l": circle})
        assert buffer.log.backlog({}).events == 0
    with pytest.raises(UsageError, match="needs a directory"):
        Buffer("public.event")
