"""Every type COPY is given values of: what is written is read back, or refused with its reason."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import math
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg.types import TypeInfo
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.hstore import register_hstore
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from pgscale import write
from support.servers import Database

LIGHT = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
UTC = dt.UTC
INT2, INT4, INT8 = (st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (16, 32, 64))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
DATES = st.dates()
DATETIMES = st.datetimes()
AWARE = st.datetimes(
    min_value=dt.datetime(2, 1, 1), max_value=dt.datetime(9998, 12, 31), timezones=st.just(UTC) | st.timezones()
)
OFFSETS = st.integers(-15 * 60 + 1, 15 * 60 - 1).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
NUMERICS = st.decimals(allow_nan=False, allow_infinity=False) | st.decimals(-(10**30), 10**30, places=9)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
INTERFACES = st.ip_addresses().flatmap(
    lambda a: st.integers(0, a.max_prefixlen).map(lambda bits: ipaddress.ip_interface((a, bits)))
)
RANGES = st.builds(
    lambda a, b, bounds: Range(min(a, b), max(a, b), bounds),
    INT4.filter(lambda n: n < 2**31 - 2),
    INT4.filter(lambda n: n < 2**31 - 2),
    st.sampled_from(["[)", "[]", "(]", "()"]),
) | st.sampled_from([Range(empty=True), Range(None, None, "()"), Range(1, None), Range(None, 5, "()")])


def _canonical(value: Range[Any]) -> Any:
    """A range of integers as the server keeps it."""
    if value.isempty:
        return "empty"
    lower = None if value.lower is None else value.lower + (not value.lower_inc)
    upper = None if value.upper is None else value.upper + bool(value.upper_inc)
    return "empty" if lower is not None and lower == upper else (lower, upper)


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Case:
    """A type, the values given, and how given and read values are made comparable."""

    sql: str
    values: st.SearchStrategy[Any]
    given: Callable[[Any], Any] = _same
    read: Callable[[Any], Any] = _same
    select: str = "v"


def _float4(value: float) -> float:
    return struct.unpack(">f", struct.pack(">f", value))[0]


CASES = [
    Case("smallint", INT2),
    Case("integer", INT4),
    Case("bigint", INT8),
    Case("oid", st.integers(0, 2**32 - 1)),
    Case("real", st.floats(width=32, allow_nan=False), _float4, _float4),
    Case("double precision", st.floats(allow_nan=False)),
    Case("double precision", st.just(math.nan), lambda _: True, math.isnan),
    Case("numeric", NUMERICS, lambda v: v + 0, lambda v: v + 0),
    Case("numeric", st.integers(-(10**60), 10**60), Decimal),
    Case("numeric", st.floats(allow_nan=False, allow_infinity=False), lambda v: Decimal(repr(v))),
    Case(
        "numeric",
        st.sampled_from([Decimal("Infinity"), Decimal("-Infinity"), math.inf]),
        lambda v: str(Decimal(v)),
        str,
        "v::text",
    ),
    Case("numeric(20,3)", st.decimals(-(10**16), 10**16, places=3)),
    Case("boolean", st.booleans()),
    Case("text", TEXT),
    Case("varchar(60)", TEXT),
    Case("char(45)", TEXT.map(lambda v: v.rstrip(" ")), _same, lambda v: v.rstrip(" ")),
    Case("name", st.text("abcdefé", max_size=20)),
    Case('"char"', st.sampled_from(["a", "Z", "~"])),
    Case("citext", TEXT),
    Case("xml", st.just("<a>é</a>")),
    Case("bytea", st.binary(max_size=60) | st.binary().map(bytearray) | st.binary().map(memoryview), bytes, bytes),
    Case("date", DATES),
    Case("date", st.sampled_from([math.inf, -math.inf, "infinity"]), lambda v: f"{v}"[:3], lambda v: v[:3], "v::text"),
    Case("timestamp", DATETIMES),
    Case("timestamptz", AWARE, lambda v: v.astimezone(UTC), lambda v: v.astimezone(UTC)),
    Case(
        "timestamptz", st.sampled_from([math.inf, -math.inf]), lambda v: f"{v}infinity"[:3], lambda v: v[:3], "v::text"
    ),
    Case("time", st.times()),
    Case("timetz", st.times(timezones=OFFSETS)),
    Case(
        "interval",
        st.timedeltas(dt.timedelta(days=-(10**6)), dt.timedelta(days=10**6)),
        lambda v: v,
    ),
    Case("uuid", st.uuids()),
    Case("uuid", st.uuids().map(str), uuid.UUID),
    Case("json", JSON.filter(lambda v: v is not None and not isinstance(v, str))),
    Case("jsonb", JSON.map(Jsonb), lambda v: v.obj),
    Case("jsonb", JSON.map(json.dumps), json.loads),
    Case("inet", INTERFACES, str, lambda v: str(ipaddress.ip_interface(v)), "v::text"),
    Case("inet", st.ip_addresses()),
    Case("cidr", INTERFACES.map(lambda v: v.network), str, _same, "v::text"),
    Case("macaddr", st.binary(min_size=6, max_size=6).map(lambda b: b.hex(":"))),
    Case("macaddr8", st.binary(min_size=8, max_size=8).map(lambda b: b.hex(":"))),
    Case("bit(5)", st.text("01", min_size=5, max_size=5), _same, _same, "v::text"),
    Case("varbit", st.text("01", max_size=30), _same, _same, "v::text"),
    Case("hstore", st.dictionaries(TEXT, st.none() | TEXT, max_size=4)),
    Case("mood", st.sampled_from(["sad", "ok", "Ω"])),
    Case("positive", st.integers(1, 100)),
    Case("integer[]", st.lists(st.none() | INT4, max_size=5)),
    Case(
        "integer[]", st.integers(1, 3).flatmap(lambda n: st.lists(st.lists(INT4, min_size=n, max_size=n), max_size=3))
    ),
    Case("text[]", st.lists(st.none() | TEXT, max_size=5)),
    Case("mood[]", st.lists(st.sampled_from(["sad", "ok", "Ω"]), max_size=3), _same, _same, "v::text[]"),
    Case("timestamptz[]", st.lists(AWARE.map(lambda v: v.astimezone(UTC)), max_size=3)),
    Case("pair", st.tuples(st.none() | INT4, st.none() | TEXT), _same, tuple, "v"),
    Case("pair[]", st.lists(st.tuples(INT4, TEXT), max_size=3), _same, lambda v: [tuple(p) for p in v]),
    Case("int4range", RANGES, _canonical, _canonical),
    Case(
        "int4multirange",
        st.lists(st.integers(0, 50), max_size=3, unique=True).map(
            lambda n: Multirange([Range(i * 9, i * 9 + 3) for i in n])
        ),
        lambda v: sorted((r.lower, r.upper) for r in v),
        lambda v: sorted((r.lower, r.upper) for r in v),
    ),
    Case("tstzrange", st.just(Range(dt.datetime(2026, 1, 1, tzinfo=UTC), None))),
]

TYPES = (
    "CREATE EXTENSION citext; CREATE EXTENSION hstore; CREATE TYPE mood AS ENUM ('sad', 'ok', 'Ω');"
    'CREATE DOMAIN positive AS integer CHECK (VALUE > 0); CREATE TYPE pair AS (n integer, "T x" text)'
)


@pytest.fixture
def connection(database: Database) -> Any:
    with psycopg.connect(database.dsn, autocommit=True) as conn:
        conn.execute("SET timezone TO 'UTC'; SET extra_float_digits TO 1")
        conn.execute(TYPES)
        info = TypeInfo.fetch(conn, "hstore")
        assert info is not None
        register_hstore(info, conn)
        pair = CompositeInfo.fetch(conn, "pair")
        assert pair is not None
        register_composite(pair, conn)
        yield conn


def _round_trip(connection: psycopg.Connection[Any], table: str, case: Case) -> None:
    @LIGHT
    @given(st.lists(st.none() | case.values, max_size=4))
    @example([])
    def check(values: list[Any]) -> None:
        connection.execute(f"DELETE FROM {table}".encode())
        assert write.copy(connection, table, list(enumerate(values))).rows == len(values)
        found = connection.execute(f"SELECT {case.select} FROM {table} ORDER BY n".encode()).fetchall()
        wanted = [None if v is None else case.given(v) for v in values]
        assert [None if v is None else case.read(v) for (v,) in found] == wanted

    check()


@pytest.mark.versions(15)
def test_every_type_round_trips(connection: psycopg.Connection[Any]) -> None:
    """Values and NULLs mixed, so that the fast path and the slow one are both taken."""
    failed: dict[str, BaseException] = {}
    for number, case in enumerate(CASES):
        table = f"t{number}"
        connection.execute(f"CREATE TABLE {table} (n integer, v {case.sql})".encode())
        try:
            _round_trip(connection, table, case)
        except Exception as error:  # noqa: BLE001 because all types are to be told of, not the first alone
            failed[f"{number} {case.sql}"] = error
    assert not failed, "\n\n".join(f"{name}: {error}" for name, error in failed.items())
