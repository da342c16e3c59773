"""Buffer: what is put is durable, lands once, in order, and whatever is wrong with it is told."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgscale.write.buffer import AsyncBuffer, Buffer, Drainer, Merge, SpoolLog, SpoolOptions
from pgscale.write.buffer.records import RecordDecoder, RecordEncoder, WrongRecordError, parse
from support.servers import Database

TABLE = """CREATE TABLE event (n bigint NOT NULL, k integer NOT NULL, at timestamptz, price numeric, u uuid, raw bytea,
  doc jsonb, tags text[], note text, seq bigserial)"""
SMALL = SpoolOptions(segment_bytes=1 << 16)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def _rows(database: Database, query: str = "SELECT n FROM event ORDER BY seq") -> list[Any]:
    with psycopg.connect(database.dsn) as connection:
        return connection.execute(query).fetchall()


def _make(database: Database, statement: str = TABLE) -> None:
    with psycopg.connect(database.dsn, autocommit=True) as connection:
        connection.execute(statement)


def _drain(database: Database, spool: Path, **options: Any) -> Any:
    with SpoolLog(spool) as log:
        return Drainer(log, **options).run(database.dsn, until_empty=True)


@dataclasses.dataclass
class Click:
    n: int
    k: int
    note: str | None = None


@pytest.mark.versions("all")
def test_events_of_every_kind_land_as_they_were_put(database, spool) -> None:
    _make(database)
    at = dt.datetime(2026, 1, 31, 12, 0, 0, 5, dt.UTC)
    one = uuid.uuid4()
    full = {
        "n": 1,
        "k": 1,
        "at": at,
        "price": Decimal("1.50"),
        "u": one,
        "raw": b"\0\xff",
        "doc": {"a": [1, 2.5, None, "é"], "$": {"b": True}},
        "tags": ["a", None],
        "note": "ü",
    }
    with Buffer("public.event", path=spool, key="k") as buffer:
        receipt = buffer.put(full)
        assert (receipt.events, receipt.level, receipt.durability) == (1, "spool", "power")
        assert "loss of power" in receipt.survives
        assert buffer.put_many([Click(2, 1, "x"), Click(3, 1), {"n": 4, "k": 1, "doc": {"t": (1, 2)}}]).events == 3
    drained = _drain(database, spool)
    assert (drained.events, drained.dead) == (4, 0)
    assert _rows(database, "SELECT n, at, price, u, raw, doc, tags, note FROM event ORDER BY seq") == [
        (1, at, Decimal("1.50"), one, b"\0\xff", full["doc"], ["a", None], "ü"),
        (2, None, None, None, None, None, None, "x"),
        (3, *[None] * 7),
        (4, None, None, None, None, {"t": [1, 2]}, None, None),
    ]
    assert _drain(database, spool).events == 0
    assert len(_rows(database)) == 4


def test_async_puts_and_drains_are_the_same(database, spool) -> None:
    _make(database)

    async def work() -> int:
        async with AsyncBuffer("public.event", path=spool, key="k", options=SMALL) as buffer:
            await asyncio.gather(*(buffer.put({"n": n, "k": n % 5}) for n in range(300)))
            await buffer.put_many({"n": n, "k": n % 5} for n in range(300, 3_000))
            drained = await Drainer(SpoolLog(spool)).arun(database.dsn, until_empty=True)
            connection = await psycopg.AsyncConnection.connect(database.dsn, autocommit=True)
            async with connection:
                await buffer.put({"n": 3_000, "k": 0})
                landed = await Drainer(SpoolLog(spool)).adrain_once(connection)
        return drained.events + landed.events

    assert asyncio.run(work()) == 3_001
    found = [n for (n,) in _rows(database)]
    assert sorted(found) == list(range(3_001))
    for k in range(5):
        many = [n for n in found if n >= 300 and n % 5 == k]
        assert many == sorted(many)


def test_merging_lands_by_upsert(database, spool) -> None:
    _make(database, "CREATE TABLE page (url text PRIMARY KEY, views bigint NOT NULL)")
    merge = Merge(key=("url",), rules={"views": "add"})
    with Buffer("public.page", path=spool, key="url", merge=merge) as buffer:
        buffer.put_many({"url": f"/{n % 3}", "views": 1} for n in range(300))
    assert _drain(database, spool, batch=70).events == 300
    assert _rows(database, "SELECT url, views FROM page ORDER BY url") == [("/0", 100), ("/1", 100), ("/2", 100)]


def test_a_record_gives_back_what_went_in() -> None:
    encoder, decoder = RecordEncoder((), 1), RecordDecoder()
    zone = dt.timezone(dt.timedelta(hours=5, seconds=3))
    row = {
        "yes": True,
        "no": False,
        "none": None,
        "float": 1.5,
        "infinite": float("inf"),
        "nan": float("nan"),
        "text": "\"q\\\\ \\n\\u2028é😀'''{}",
        "int": -5,
        "big": 10**30,
        "doc": {"x": [1, {"y": None}], "'": "{v0}"},
        "rows": [(1, 2)],
        "odd": {1: (2,)},
        "numeric": Decimal("NaN"),
        "id": uuid.uuid4(),
        "raw": b"\0\xff",
        "day": dt.date(1, 1, 1),
        "naive": dt.datetime(2026, 1, 1),
        "aware": dt.datetime(1, 1, 1, tzinfo=zone),
        "span": dt.timedelta(1, 2, 3),
        "empty": "",
        "na'me\n{v1}": 1,
    }
    for _ in range(2):
        ((lane, shape, values),) = parse(encoder.encode(row), check=True)
        decoded = decoder.decode([shape], [values])
        (names,), (found,) = decoded.names, decoded.rows
        assert lane == 0
        assert names == tuple(row)
        assert list(map(repr, found)) == list(map(repr, row.values()))
    data = bytearray(encoder.encode(row))
    data[-2] ^= 1
    with pytest.raises(WrongRecordError, match="CRC"):
        parse(bytes(data), check=True)
    with pytest.raises(WrongRecordError, match="cut short"):
        parse(bytes(data[:-1]), check=False)
