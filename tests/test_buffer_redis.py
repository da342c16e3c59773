"""Level redis: streams and a consumer group on a real server, killed as everything else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import redis

from pgscale.errors import ConnectError, RefusedError, UsageError
from pgscale.write.buffer import Buffer, BufferDamagedError, BufferFailedError, BufferFullError, Drainer, open_log
from pgscale.write.buffer.status import status
from support.redis_server import RedisServer

Make = Callable[..., RedisServer]


def _make(dsn: str, statement: str = "CREATE TABLE event (n integer, k integer, note text, seq bigserial)") -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


def _landed(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM event ORDER BY seq")]


def _drain(where: str, dsn: str, **options: Any) -> Any:
    log = open_log(where)
    try:
        return Drainer(log, **options).run(dsn, until_empty=True)
    finally:
        log.close()


def test_events_land_once_in_order_and_leave_nothing_behind(database, redis_server: Make) -> None:
    _make(database.dsn)
    server = redis_server()
    where = server.url("events")
    with Buffer("public.event", level="redis", url=where, key="k", lanes=3) as buffer:
        receipt = buffer.put({"n": 0, "k": 0})
        assert (receipt.level, receipt.durability) == ("redis", "power")
        buffer.put_many({"n": n, "k": n % 4} for n in range(1, 2_000))
        log = open_log(where)
        with psycopg.connect(database.dsn, autocommit=True) as connection:
            found = status(log, connection)
            assert (found.depth, found.is_known) == (2_000, False)
            assert found.oldest_age_s is not None
            assert 0 <= found.oldest_age_s < 60
            assert _drain(where, database.dsn, batch=300).events == 2_000
            found = status(log, connection)
            assert (found.depth, found.landed, found.notes) == (0, 2_000, ())
        log.close()
    landed = _landed(database.dsn)
    assert sorted(landed) == [*range(2_000)]
    for k in range(4):
        assert [n for n in landed if n % 4 == k] == [*range(k, 2_000, 4)]
    with server.client() as client:
        for lane in range(3):
            stream = f"pgscale:{{events}}:lane:{lane}"
            assert client.xlen(stream) == 0
            assert client.xpending(stream, "pgscale")["pending"] == 0


@pytest.mark.parametrize(("fsync", "durability"), [("everysec", "second"), ("no", "system")])
def test_the_level_is_what_the_server_really_gives(redis_server: Make, fsync: str, durability: str) -> None:
    server = redis_server({"appendfsync": fsync})
    with Buffer("public.event", level="redis", url=server.url("a")) as buffer:
        receipt = buffer.put({"n": 1})
        assert receipt.durability == durability
        assert "lose" in receipt.survives


def test_a_server_that_does_not_tell_is_unknown(redis_server: Make) -> None:
    server = redis_server({"rename-command": "CONFIG x"})
    with Buffer("public.event", level="redis", url=server.url("a")) as buffer:
        assert buffer.put({"n": 1}).durability == "unknown"


def test_a_server_that_keeps_nothing_is_refused(redis_server: Make) -> None:
    server = redis_server({"appendonly": "no"})
    with pytest.raises(RefusedError, match="no append-only file"):
        Buffer("public.event", level="redis", url=server.url("a"))
    evicting = redis_server({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})
    with pytest.raises(RefusedError, match="evicts any key"):
        Buffer("public.event", level="redis", url=evicting.url("a"))
    evicting.kill()
    with pytest.raises(ConnectError, match="does not answer"):
        Buffer("public.event", level="redis", url=evicting.url("a"))
    with pytest.raises(UsageError, match="names it once"):
        Buffer("public.event", level="redis", url="redis://127.0.0.1/0")
    with pytest.raises(UsageError, match="needs a URL"):
        Buffer("public.event", level="redis")
    with pytest.raises(RefusedError, match="There is no buffer 'b'"):
        open_log(redis_server().url("b"))


def test_a_full_server_pushes_back_and_keeps_what_it_has(database, redis_server: Make) -> None:
    _make(database.dsn)
    server = redis_server({"maxmemory": "8mb", "maxmemory-policy": "noeviction"})
    where = server.url("events")
    with Buffer("public.event", level="redis", url=where, timeout_s=0.2) as buffer:
        put = 0

        def put_until_full() -> None:
            nonlocal put
            while True:
                buffer.put({"n": put, "note": "x" * 20_000})
                put += 1

        with pytest.raises(BufferFullError, match="takes no more events"):
            put_until_full()
        assert put > 50
        assert _drain(where, database.dsn).events == put
        assert sorted(_landed(database.dsn)) == [*range(put)]
        buffer.put({"n": put})
    assert _drain(where, database.dsn).events == 1


def test_an_answer_that_is_lost_does_not_double(redis_server: Make, monkeypatch) -> None:
    server = redis_server()
    where = server.url("events")
    with Buffer("public.event", level="redis", url=where, lanes=2) as buffer:
        log: Any = buffer.log
        real, sent = log._add, []

        def lossy(**given: Any) -> Any:
            sent.append(given["args"][0])
            answer = real(**given)
            if len(sent) % 2:
                raise redis.ConnectionError("the answer is lost")
            return answer

        monkeypatch.setattr(log, "_add", lossy)
        for n in range(10):
            buffer.put({"n": n})
        assert sent == [n for n in range(1, 11) for _ in range(2)]
        assert log.backlog({}).events == 10
        # When no answer comes in time, that is what the caller is told.
        monkeypatch.setattr(log, "_add", lambda **_: _raise(redis.TimeoutError("no answer")))
        buffer.timeout_s = 0.1
        with pytest.raises(BufferFailedError, match="is not known"):
            buffer.put({"n": 99})


def _raise(error: Exception) -> None:
    raise error


def test_what_a_dead_consumer_was_handed_is_claimed(database, redis_server: Make) -> None:
    _make(database.dsn)
    where = redis_server().url("events")
    with Buffer("public.event", level="redis", url=where, key="k", lanes=2) as buffer:
        buffer.put_many({"n": n, "k": n % 2} for n in range(100))
    dead = open_log(where)
    dead.read({0: 0, 1: 0}, 60)  # handed out, and never heard of again
    assert _drain(where, database.dsn).events == 100
    assert sorted(_landed(database.dsn)) == [*range(100)]
    dead.close()


def test_side_by_side_and_a_server_that_dies_and_comes_back(database, redis_server: Make) -> None:
    _make(database.dsn)
    server = redis_server()
    where = server.url("events")
    stop, results = threading.Event(), []

    def drain() -> None:
        log = open_log(where)
        try:
            results.append(Drainer(log, batch=200).run(database.dsn, stop))
        finally:
            log.close()

    with Buffer("public.event", level="redis", url=where, key="k", lanes=4, timeout_s=60) as buffer:
        drainers = [threading.Thread(target=drain) for _ in range(2)]
        producers = [
            threading.Thread(target=lambda k=k: [buffer.put({"n": n, "k": k}) for n in range(400)]) for k in range(4)
        ]
        for one in (*drainers, *producers):
            one.start()
        for _ in range(2):
            time.sleep(0.3)
            server.kill()
            server.start()
        for one in producers:
            one.join()
        until = time.monotonic() + 60
        while len(_landed(database.dsn)) < 1_600:
            assert time.monotonic() < until, (len(_landed(database.dsn)), results)
            time.sleep(0.05)
        stop.set()
        for one in drainers:
            one.join(30)
    with psycopg.connect(database.dsn) as connection:
        for k in range(4):
            found = connection.execute("SELECT n FROM event WHERE k = %s ORDER BY seq", [k]).fetchall()
            assert [n for (n,) in found] == [*range(400)]


def test_another_database_is_told_that_events_are_gone(database, database_factory, redis_server: Make) -> None:
    other = database_factory()
    for one in (database, other):
        _make(one.dsn)
    where = redis_server().url("events")
    with Buffer("public.event", level="redis", url=where) as buffer:
        buffer.put_many({"n": n} for n in range(10))
        assert _drain(where, database.dsn).events == 10
        buffer.put({"n": 10})
    with pytest.raises(BufferDamagedError, match="another database"):
        _drain(where, other.dsn)
    assert _drain(where, other.dsn, begin_here=True).events == 1
