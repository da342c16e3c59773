"""The way of whole Arrow columns writes what the way of single values writes, for every type, or leaves it to that."""

from __future__ import annotations

import datetime as dt
import decimal
import struct
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgscale import write
from pgscale.write import scalars
from pgscale.write.arrow import ArrowRows
from pgscale.write.composing import encoder_of, framed
from pgscale.write.model import NotFittingError, TypeFact
from pgscale.write.scalars import Encode
from support.servers import Database

pa = pytest.importorskip("pyarrow")

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
MOMENTS = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2250, 1, 1))
MOOD = TypeFact(
    oid=1, name="mood", schema="s", kind="e", element_oid=0, base_oid=0, part_oid=0,
    labels=("sad", "ok"), field_names=(), field_oids=(),
)  # fmt: skip
LIST = TypeFact(
    oid=2, name="_int4", schema="pg_catalog", kind="a", element_oid=3, base_oid=0, part_oid=0,
    labels=(), field_names=(), field_oids=(),
)  # fmt: skip
INT4 = TypeFact(
    oid=3, name="int4", schema="pg_catalog", kind="b", element_oid=0, base_oid=0, part_oid=0,
    labels=(), field_names=(), field_oids=(),
)  # fmt: skip
TYPES = {f.oid: f for f in (MOOD, LIST, INT4)}
ENCODERS: dict[str, Encode] = {
    **scalars.BUILT_IN,
    **scalars.EXTENSIONS,
    "mood": encoder_of(1, TYPES),
    "_int4": encoder_of(2, TYPES),
}


def _ints(bits: int) -> st.SearchStrategy[int]:
    edge = st.sampled_from([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0, -1])
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) | edge


# An Arrow type, its values, and the types of PostgreSQL for which no value is looked at singly.
KINDS: list[tuple[Any, st.SearchStrategy[Any], set[str]]] = [
    (pa.int8(), _ints(8), {"int2", "int4", "int8", "float4", "float8"}),
    (pa.int16(), _ints(16), {"int2", "int4", "int8", "float4", "float8"}),
    (pa.int32(), _ints(32), {"int4", "int8", "float4", "float8"}),
    (pa.int64(), _ints(64), {"int8", "float4", "float8"}),
    (pa.uint8(), st.integers(0, 255), {"int2", "int4", "int8", "oid", "float8"}),
    (pa.uint32(), st.integers(0, 2**32 - 1), {"int8", "oid", "float8"}),
    (pa.uint64(), st.integers(0, 2**64 - 1), {"float8"}),
    (pa.float16(), st.floats(width=16), {"float4", "float8"}),
    (pa.float32(), st.floats(width=32), {"float4", "float8"}),
    (pa.float64(), st.floats(), {"float8"}),
    (pa.bool_(), st.booleans(), {"bool"}),
    (pa.string(), TEXT, {"text", "varchar", "bpchar", "xml", "citext", "json", "jsonb"}),
    (pa.large_string(), TEXT, {"text", "json", "jsonb"}),
    (pa.dictionary(pa.int8(), pa.string()), TEXT, {"text", "jsonb"}),
    (pa.string(), st.sampled_from(["sad", "ok"]), {"text"}),
    (pa.string(), st.uuids().map(str), {"text"}),
    (pa.string(), st.text("ab\x00", max_size=3), set()),
    (pa.binary(), st.binary(max_size=20), {"bytea", "json", "jsonb"}),
    (pa.large_binary(), st.binary(max_size=20), {"bytea"}),
    (pa.binary(16), st.binary(min_size=16, max_size=16), {"bytea"}),
    (pa.date32(), st.dates(), {"date"}),
    (pa.date64(), st.dates(), set()),
    (pa.timestamp("s"), MOMENTS.map(lambda v: v.replace(microsecond=0)), {"timestamp"}),
    (pa.timestamp("ms"), MOMENTS.map(lambda v: v.replace(microsecond=1000)), {"timestamp"}),
    (pa.timestamp("us"), st.datetimes(), {"timestamp"}),
    (pa.timestamp("us", "UTC"), st.datetimes(timezones=st.just(dt.UTC)), {"timestamptz"}),
    (pa.timestamp("us", "Asia/Kolkata"), MOMENTS.map(lambda v: v.replace(tzinfo=dt.UTC)), {"timestamptz"}),
    (pa.timestamp("ns", "UTC"), st.integers(-(2**62), 2**62), {"timestamptz"}),
    (pa.time32("s"), st.times().map(lambda v: v.replace(microsecond=0)), {"time"}),
    (pa.time64("us"), st.times(), {"time"}),
    (pa.time64("ns"), st.times(), {"time"}),
    (pa.duration("us"), st.timedeltas(dt.timedelta(-9999), dt.timedelta(9999)), set()),
    (pa.decimal128(20, 3), st.decimals(-(10**15), 10**15, places=3), set()),
    (pa.list_(pa.int32()), st.lists(st.none() | _ints(32), max_size=4), set()),
    (pa.null(), st.none(), set(scalars.BUILT_IN)),
]
if hasattr(pa, "uuid"):
    KINDS.append((pa.uuid(), st.uuids().map(lambda v: v.bytes), {"uuid"}))


def _one_by_one(batch: Any, encoders: list[Encode]) -> bytes | None:
    """What the encoders of single values make of a batch; None when a value does not fit."""
    parts: list[bytes] = []
    for row in ArrowRows(batch):
        parts.append(struct.pack(">h", len(encoders)))
        for value, encode in zip(row, encoders, strict=True):
            try:
                parts.append(framed(value, encode))
            except NotFittingError:
                return None
    return b"".join(parts)


def _array(kind: Any, values: list[Any]) -> Any:
    if getattr(kind, "extension_name", "") == "arrow.uuid":
        return pa.ExtensionArray.from_storage(kind, pa.array(values, pa.binary(16)))
    return pa.array(values, kind)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("number", range(len(KINDS)), ids=[str(kind) for kind, _, _ in KINDS])
def test_both_ways_write_the_same(number: int) -> None:
    kind, values, fast = KINDS[number]

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.none() | values, min_size=1, max_size=12), st.integers(0, 3), st.data())
    def check(given_values: list[Any], skipped: int, data: st.DataObject) -> None:
        batch = pa.record_batch({"v": _array(kind, given_values)})
        batch = batch.slice(min(skipped, batch.num_rows - 1))
        name = data.draw(st.sampled_from(sorted(fast) or sorted(ENCODERS)) | st.sampled_from(sorted(ENCODERS)))
        found = ArrowRows(batch).encoded([ENCODERS[name]])
        wanted = _one_by_one(batch, [ENCODERS[name]])
        if name in fast and wanted is not None:
            assert found is not None, f"{kind} to {name} is looked at singly"
        if found is not None:
            assert found == wanted, name

    check()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.data())
def test_columns_side_by_side(rows: int, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from([k for k in KINDS if k[2]]), min_size=1, max_size=6))
    arrays = [_array(k, data.draw(st.lists(st.none() | v, min_size=rows, max_size=rows))) for k, v, _ in chosen]
    encoders = [ENCODERS[data.draw(st.sampled_from(sorted(fast)))] for _, _, fast in chosen]
    batch = pa.RecordBatch.from_arrays(arrays, [f"c{n}" for n in range(len(arrays))])
    wanted = _one_by_one(batch, encoders)
    found = ArrowRows(batch).encoded(encoders)
    assert found == wanted or found is None or rows == 0
    if wanted and not any(fast >= set(scalars.BUILT_IN) for _, _, fast in chosen):
        assert found is not None


BROKEN: list[tuple[str, Any, Any, str]] = [
    ("smallint", pa.int32(), 40000, "40000 is out of range for smallint"),
    ("integer", pa.string(), "1", "str where an integer is wanted"),
    ("text", pa.string(), "a\x00b", "NUL"),
    ("real", pa.float64(), 1e300, "1e+300 is out of range for real"),
    ("real", pa.float64(), 1e-60, "1e-60 is out of range for real"),
    ("jsonb", pa.map_(pa.string(), pa.int32()), [("k", 1), ("k", 2)], "Arrow's map<string, int32> that no value of"),
    ("timestamptz", pa.timestamp("us"), dt.datetime(2026, 1, 1), "without a time zone where timestamptz"),
    ("timestamp", pa.timestamp("us", "UTC"), dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "with a time zone"),
    ("date", pa.date32(), 2**31 - 1, "Arrow's date32[day] that no value of Python is"),
    ("timestamp", pa.timestamp("s"), 2**40, "Arrow's timestamp[s] that no value of Python is"),
    ("numeric(5,2)", pa.decimal128(20, 3), decimal.Decimal("12345.678"), "numeric field overflow (22003)"),
]


@pytest.mark.parametrize(("kind", "arrow", "value", "reason"), BROKEN, ids=[b[0] + " " + str(b[1]) for b in BROKEN])
def test_what_does_not_fit_is_named_as_it_is_elsewhere(
    database: Database, kind: str, arrow: Any, value: Any, reason: str
) -> None:
    conn = database.connect()
    conn.execute(f"CREATE TABLE t (n integer, v {kind})".encode())
    table = pa.table({"n": range(9_000), "v": pa.array([None] * 8_500 + [value] + [None] * 499, arrow)})
    with pytest.raises(write.RowError) as raised:
        write.copy(conn, "t", table)
    assert (raised.value.row, raised.value.column) == (8_500, "v")
    assert reason in str(raised.value)
    assert conn.execute("SELECT count(*) FROM t").fetchone() == (0,)


def _tables() -> dict[str, Callable[[], Any]]:
    day = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    size = 20_000

    def arrow() -> Any:
        return pa.table(
            {
                "id": pa.array(range(size), pa.int64()),
                "note": pa.array([None if n % 7 == 0 else f"é{n}" for n in range(size)]),
                "at": pa.array([day + dt.timedelta(seconds=n) for n in range(size)], pa.timestamp("us", "UTC")),
                "doc": pa.array(['{"n": 1}'] * size),
            }
        )

    made: dict[str, Callable[[], Any]] = {
        "arrow": arrow,
        "chunks": lambda: pa.concat_tables([arrow().slice(0, 9_999), arrow().slice(9_999)]),
    }
    made["pandas"] = lambda: pytest.importorskip("pandas") and arrow().to_pandas()
    return made


@pytest.mark.parametrize("name", sorted(_tables()))
def test_tables_are_read_back(database: Database, name: str) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE t (id bigint, note text, at timestamptz, doc jsonb)")
    assert write.copy(conn, "t", _tables()[name]()).rows == 20_000
    found = conn.execute(
        "SELECT count(*), sum(id), count(note), min(at), max(at), count(*) FILTER (WHERE doc = '{\"n\": 1}') FROM t"
    ).fetchone()
    day = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
    assert found is not None
    assert found[:3] == (20_000, 20_000 * 19_999 // 2, 20_000 - 2_858)
    assert (found[3], found[4] - day) == (day, dt.timedelta(seconds=19_999))
    assert found[5] == 20_000
    assert conn.execute("SELECT note FROM t WHERE id = 12345").fetchone() == ("é12345",)


def test_maps_are_objects(database: Database) -> None:
    conn = database.connect()
    conn.execute("CREATE TABLE t (n integer, j jsonb)")
    maps = pa.array([[("a", 1), ("b", None)], None, []], pa.map_(pa.string(), pa.int32()))
    assert write.copy(conn, "t", pa.table({"n": [1, 2, 3], "j": maps})).rows == 3
    assert conn.execute("SELECT j FROM t ORDER BY n").fetchall() == [({"a": 1, "b": None},), (None,), ({},)]


def test_upsert_takes_arrow(database: Database) -> None:
    conn: psycopg.Connection[Any] = database.connect()
    conn.execute("CREATE TABLE page (url text PRIMARY KEY, views bigint)")
    for rows in (10, 5_000):
        table = pa.table({"url": [f"/{n % 5}" for n in range(rows)], "views": [1] * rows})
        write.upsert(conn, "page", table, ["url"], {"views": "add"})
    assert conn.execute("SELECT count(*), sum(views) FROM page").fetchone() == (5, 5_010)


def test_a_uuid_is_sixteen_bytes() -> None:
    """Of Arrow's own type; bytes alone are no uuid, here as elsewhere."""
    if not hasattr(pa, "uuid"):
        pytest.skip("pyarrow is older than its type uuid")
    one = uuid.UUID(int=7)
    batch = pa.record_batch({"v": _array(pa.uuid(), [one.bytes, None])})
    assert ArrowRows(batch).encoded([scalars.encode_uuid]) == _one_by_one(batch, [scalars.encode_uuid])
    assert (
        ArrowRows(pa.record_batch({"v": pa.array([one.bytes], pa.binary(16))})).encoded([scalars.encode_uuid]) is None
    )
