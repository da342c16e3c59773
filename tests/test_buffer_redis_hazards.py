"""Level redis among restored databases, foreign hands, full servers and secrets in URLs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgscale.commands import buffer as commands
from pgscale.errors import UsageError
from pgscale.write.buffer import Buffer, BufferDamagedError, Drained, Drainer, open_log
from pgscale.write.buffer.opening import shown
from pgscale.write.buffer.streams import log as stream_log
from support.redis_server import RedisServer

Make = Callable[..., RedisServer]


@pytest.fixture
def conn(database) -> Iterator[psycopg.Connection[Any]]:
    with database.connect() as connection:
        connection.execute("CREATE TABLE event (n integer, note text, seq bigserial)")
        yield connection


def _landed(conn: psycopg.Connection[Any]) -> list[int]:
    return [n for (n,) in conn.execute("SELECT n FROM event ORDER BY n")]


def _drain(where: str, dsn: str, *, skips: bool = False) -> tuple[Drained, tuple[str, ...]]:
    log = open_log(where)
    try:
        log.skip_damaged(skips)
        return Drainer(log).run(dsn, until_empty=True), log.notes_of_reading
    finally:
        log.close()


def test_a_restored_database_is_told_what_it_cannot_get_back(database, conn, redis_server: Make) -> None:
    where = redis_server().url("events")
    with Buffer("public.event", level="redis", url=where, lanes=2) as buffer:
        buffer.put_many({"n": n} for n in range(10))
        _drain(where, database.dsn)
        conn.execute("CREATE TABLE backup AS TABLE pgscale.buffer_lane")
        buffer.put_many({"n": n} for n in range(10, 20))
        _drain(where, database.dsn)
        conn.execute("DELETE FROM event WHERE n >= 10; DELETE FROM pgscale.buffer_lane")
        conn.execute("INSERT INTO pgscale.buffer_lane TABLE backup")
        buffer.put_many({"n": n} for n in range(20, 30))
    with pytest.raises(BufferDamagedError, match="the events between are gone"):
        _drain(where, database.dsn)
    drained, notes = _drain(where, database.dsn, skips=True)
    assert drained.events == 10
    assert len(notes) == 2
    assert _landed(conn) == [*range(10), *range(20, 30)]


def test_what_others_wrote_to_a_stream_stops_the_drainer_and_not_for_ever(database, conn, redis_server: Make) -> None:
    server = redis_server()
    where = server.url("events")
    with Buffer("public.event", level="redis", url=where, lanes=1) as buffer, server.client() as client:
        buffer.put({"n": 1})
        stream = "pgscale:{events}:lane:0"
        client.xadd(stream, {"hello": "world"})
        client.xadd(stream, {"e": "no record"})
        buffer.put({"n": 2})
        with pytest.raises(BufferDamagedError, match="it has no field e"):
            _drain(where, database.dsn)
        assert _landed(conn) == [1]
        drained, notes = _drain(where, database.dsn, skips=True)
        assert (drained.events, len(notes)) == (1, 2)
        assert _landed(conn) == [1, 2]
        kept = [fields for _, fields in client.xrange("pgscale:{events}:damaged")]
        assert [(f.get(b"hello"), f.get(b"e")) for f in kept] == [(b"world", None), (None, b"no record")]
        assert client.xlen(stream) == 0


def test_nothing_expires_and_nothing_piles_up(database, conn, redis_server: Make) -> None:
    """A server that evicts volatile keys when it is full would forget which calls it has seen."""
    server = redis_server({"maxmemory": "64mb", "maxmemory-policy": "volatile-lru"})
    where = server.url("events")
    with server.client() as client:
        for n in range(3):
            with Buffer("public.event", level="redis", url=where, lanes=1) as buffer:
                buffer.put({"n": n})
            _drain(where, database.dsn)
        assert {client.ttl(key) for key in client.scan_iter()} == {-1}
        assert len(client.xinfo_consumers("pgscale:{events}:lane:0", "pgscale")) == 1
        # Those that are long silent are forgotten by the next one.
        producers = client.hgetall("pgscale:{events}:producers")
        assert len(producers) == 3
        old = next(iter(producers))
        client.hset("pgscale:{events}:producers", old, b"1 %d" % (client.time()[0] - 2 * 24 * 3600))
        Buffer("public.event", level="redis", url=where, lanes=1).close()
        assert set(client.hkeys("pgscale:{events}:producers")) == set(producers) - {old}
    assert _landed(conn) == [0, 1, 2]


def test_the_level_follows_the_server_that_answers(redis_server: Make) -> None:
    server = redis_server({"no-appendfsync-on-rewrite": "yes"})
    with Buffer("public.event", level="redis", url=server.url("a")) as buffer:
        assert buffer.put({"n": 1}).durability == "system", "it does not sync while it rewrites its file"
    server = redis_server()
    with Buffer("public.event", level="redis", url=server.url("a")) as buffer:
        assert buffer.put({"n": 1}).durability == "power"
        server.kill()
        server._command[server._command.index("--appendfsync") + 1] = "everysec"
        server.start()
        assert buffer.put({"n": 2}).durability == "second"


def test_a_batch_has_not_too_many_bytes(database, conn, redis_server: Make, monkeypatch) -> None:
    monkeypatch.setattr(stream_log, "MOST_BATCH_BYTES", 20_000)
    where = redis_server().url("events")
    with Buffer("public.event", level="redis", url=where, lanes=2) as buffer:
        buffer.put_many({"n": n, "note": "x" * 1_000} for n in range(300))
        log = open_log(where)
        assert len(log.read({0: 0, 1: 0}, 20_000)) == 2 * stream_log.FIRST_ENTRIES
        assert 15 <= len(log.read({0: 0, 1: 0}, 20_000)) <= 20
        log.close()
        assert _drain(where, database.dsn)[0].events == 300
    assert _landed(conn) == [*range(300)]


def test_what_is_held_is_handed_out_again(database, conn, redis_server: Make) -> None:
    """Only what is landed is acknowledged, whatever was read with it."""
    conn.execute("CREATE TABLE parent (note text PRIMARY KEY); INSERT INTO parent VALUES ('a')")
    conn.execute("ALTER TABLE event ADD FOREIGN KEY (note) REFERENCES parent")
    where = redis_server().url("events")
    with Buffer("public.event", level="redis", url=where, lanes=1) as buffer:
        buffer.put_many({"n": n, "note": "b" if n == 3 else "a"} for n in range(6))
    log = open_log(where)
    drainer = Drainer(log)
    assert [(r.events, r.held) for r in (drainer.drain_once(conn) for _ in range(2))] == [(3, True), (0, True)]
    conn.execute("INSERT INTO parent VALUES ('b')")
    log.close()
    assert _drain(where, database.dsn)[0].events == 3
    assert _landed(conn) == [*range(6)]


SECRET = "s3cr3t"


def test_no_url_shows_its_password(database, conn, redis_server: Make) -> None:
    server = redis_server()
    with server.client() as client:
        client.acl_setuser("app", enabled=True, passwords=f"+{SECRET}", keys="*", commands=["+@all"])
    where = server.url("events").replace("redis://", f"redis://app:{SECRET}@")
    with Buffer("public.event", level="redis", url=where) as buffer:
        buffer.put({"n": 1})
    said: list[str] = []
    commands.drain(
        database.dsn,
        where,
        said.append,
        workers=1,
        until_empty=True,
        deliveries=1,
        skip_damaged=False,
        begin_here=False,
    )
    assert said == [f"Landing events of {server.url('events')} in public.event."]
    assert _landed(conn) == [1]
    for wrong in (
        f"redis://:{SECRET}/x@127.0.0.1:1/0?buffer=a",
        f"redis://:{SECRET}#x@127.0.0.1:1/0?buffer=a",
        f"redis://[{SECRET}@127.0.0.1:1/0?buffer=a",
        f"redis://127.0.0.1:1/0?buffer=a&secret={SECRET}",
        f"valkey://:{SECRET}@127.0.0.1:1/0?buffer=a",
    ):
        with pytest.raises(UsageError) as told:
            open_log(wrong)
        assert SECRET not in f"{told.value}{told.value.__cause__}"
    assert shown(f"redis://a:{SECRET}@{SECRET}@h:1/0?buffer=b&password={SECRET}") == "redis://h:1/0?buffer=b"
    assert shown("/var/lib/x") == "/var/lib/x"
