"""Kinds of column types: what each takes, how the server is told of it by others, as what Arrow has it, what is wrong.

The oracle is the server's own reading of text, or of a parameter of psycopg's: nothing here encodes a value in
binary, and nothing is taken from what is tested.
"""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import json
import math
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import import_module
from typing import Any

from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

UTC = dt.UTC


class Mood(enum.Enum):
    SAD = "sad"
    ok = "fine"


class Thing:
    """Of a class that nobody knows."""

    def __repr__(self) -> str:
        return "Thing"


# -- what the server is told ---------------------------------------------------------------------------------------


def said(value: Any) -> str | None:  # noqa: PLR0911 because each class has its answer
    """Return a value as the server reads it in text; what JSON and hstore hold is said elsewhere."""
    match value:
        case None:
            return None
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            # Of Decimal's, because str() of an integer has a limit.
            return str(Decimal(value)) if abs(value) < 10**20 else f"{Decimal(value):f}"
        case bytes() | bytearray() | memoryview():
            return "\\x" + bytes(value).hex()
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"
        case enum.Enum():
            return value.name if value.name == "ok" else value.value
        case list():
            return (
                "{"
                + ",".join((said(one) or "") if isinstance(one, list) else _item(one, "NULL") for one in value)
                + "}"
            )
        case tuple() if type(value).__name__ == "MonthDayNano":
            return "{} months {} days {} microseconds".format(*value[:2], value[2] // 1_000)
        case tuple():
            return "(" + ",".join(_item(one, "") for one in value) + ")"
        case Range():
            return _range(value)
        case Multirange():
            return "{" + ",".join(map(_range, value)) + "}"
        case _:
            return str(value)


def _item(value: Any, null: str) -> str:
    text = said(value)
    return null if text is None else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _range(value: Range[Any]) -> str:
    if value.isempty:
        return "empty"
    first, last = ("[" if value.lower_inc else "("), ("]" if value.upper_inc else ")")
    return f"{first}{_item(value.lower, '')},{_item(value.upper, '')}{last}"


def _json(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return value.decode()
    return value if isinstance(value, str) else json.dumps(value.obj if isinstance(value, Jsonb) else value)


def _array(value: Any, item: Callable[[Any], Any] = lambda one: one) -> Any:
    """As it is said, but that a tuple is a list, too."""
    if isinstance(value, (list, tuple)):
        return [_array(one, item) for one in value]
    return None if value is None else item(value)


def _list(value: Any) -> str | None:
    return "{}" if value == [[]] else said(_array(value))


def _json_list(value: Any) -> str | None:
    return said(_array(value, _json))


def _multirange(value: Any) -> str | None:
    return said(Multirange(value))


def _infinite(value: Any) -> str | None:
    return {math.inf: "infinity", -math.inf: "-infinity"}[value] if isinstance(value, float) else said(value)


# -- values --------------------------------------------------------------------------------------------------------

INT2, INT4, INT8 = (st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (16, 32, 64))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
AWARE = st.datetimes(dt.datetime(2, 1, 1), dt.datetime(9998, 12, 31), timezones=st.just(UTC) | st.timezones())
OFFSETS = st.integers(-15 * 60 + 1, 15 * 60 - 1).map(lambda minutes: dt.timezone(dt.timedelta(minutes=minutes)))
NUMERICS = (
    st.decimals(allow_nan=False)
    | st.decimals(-(10**30), 10**30, places=9)
    | st.integers(-(10**40), 10**40)
    | st.floats()
)
SPANS = st.timedeltas(dt.timedelta(days=-(10**6)), dt.timedelta(days=10**6))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
DOCUMENTS = JSON.map(json.dumps) | JSON.map(Jsonb) | JSON.filter(lambda v: v is not None and not isinstance(v, str))
INTERFACES = st.ip_addresses().flatmap(
    lambda a: st.integers(0, a.max_prefixlen).map(lambda bits: ipaddress.ip_interface((a, bits)))
)
MOODS = st.sampled_from(["sad", "ok", "Ω", 'it\'s "so"', Mood.SAD, Mood.ok])
PAIRS = st.tuples(st.none() | INT4, st.none() | TEXT)


def _months(parts: tuple[int, int, int]) -> Any:
    return import_module("pyarrow").MonthDayNano((parts[0], parts[1], parts[2] * 1_000))


def _lists(items: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[Any]:
    """Of one dimension with NULLs, and of two."""
    return st.lists(st.none() | items, max_size=most) | st.integers(1, 2).flatmap(
        lambda n: st.lists(st.lists(st.none() | items, min_size=n, max_size=n), min_size=1, max_size=2)
    )


def _ranges(bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    inside = st.builds(
        lambda a, b, how: Range(min(a, b), max(a, b), how), bounds, bounds, st.sampled_from(["[)", "[]", "(]", "()"])
    )
    return inside | st.sampled_from([Range(empty=True), Range(None, None, "()")]) | bounds.map(lambda a: Range(a, None))


def _multiranges(bounds: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Of bounds in their order; the server joins what touches."""
    return st.lists(st.sampled_from(range(len(bounds) - 1)), max_size=3, unique=True).map(
        lambda at: Multirange([Range(bounds[n], bounds[n + 1]) for n in at])
    )


# -- kinds ---------------------------------------------------------------------------------------------------------


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A type of column.

    Args:
        sql: the type; values, edges: what it takes, generated and by name.
        said: what the server is told instead, as a parameter.
        arrow: the name of an Arrow type for its values, None where it has none; as_arrow: a value for it, or None.
        wrong: values that are refused, and a part of the reason.
        needs: the extension it is of.
        read: how it is read to be compared.
    """

    sql: str
    values: st.SearchStrategy[Any]
    edges: list[Any] = field(default_factory=list)
    said: Callable[[Any], Any] = said
    arrow: Callable[[Any], Any] | None = None
    as_arrow: Callable[[Any], Any] = _same
    wrong: list[tuple[Any, str]] = field(default_factory=list)
    needs: str = ""
    read: str = "{}::text"


def _finite(value: Any) -> Any:
    """Arrow has no infinite dates; nor has it them as text, which they are in Python as well."""
    return None if isinstance(value, (float, str)) else value


DAY, MOMENT = dt.date(2026, 3, 1), dt.datetime(2026, 3, 1, 12, 30, 1, 5)
NOT_TEXT: list[tuple[Any, str]] = [
    (b"x", "bytes where text is wanted"),
    ("a\x00b", "NUL"),
    ("\ud800", "lone surrogate"),
]
TEXTS = ["", " ", "\\N", "\\.", "\t\n\r\\", "é🦆", "NULL", "{}", '"', "'"]
FORMER = 10**5_000  # more digits than str() of an integer gives

KINDS: list[Kind] = [
    Kind(sql="smallint", values=INT2, edges=[-(2**15), 2**15 - 1], arrow=lambda pa: pa.int16(),
         wrong=[(40_000, "40000 is out of range for smallint"), (True, "bool where an integer is wanted")]),
    Kind(sql="integer", values=INT4, edges=[-(2**31), 2**31 - 1], arrow=lambda pa: pa.int32(),
         wrong=[("1", "str where an integer is wanted"), (1.0, "float where"), (2**31, "out of range for integer")]),
    Kind(sql="bigint", values=INT8, edges=[-(2**63), 2**63 - 1], arrow=lambda pa: pa.int64(),
         wrong=[(2**63, "9223372036854775808 is out of range for bigint"), (FORMER, "out of range for bigint")]),
    Kind(sql="oid", values=st.integers(0, 2**32 - 1), edges=[0, 2**32 - 1], arrow=lambda pa: pa.uint32(),
         wrong=[(-1, "-1 is out of range for oid"), (2**32, "out of range for oid")]),
    Kind(sql="real", values=st.floats(width=32) | INT4, edges=[-0.0, math.inf, -math.inf, math.nan, 1e-45, 0.1],
         said=float, arrow=lambda pa: pa.float32(), as_arrow=float,
         wrong=[(1e300, "1e+300 is out of range for real"), (1e-60, "1e-60 is out of range for real"),
                (-1e-300, "out of range for real"), (True, "bool where a number is wanted"), (FORMER, "out of range")]),
    Kind(sql="double precision", values=st.floats() | INT4, edges=[-0.0, 5e-324, 1.7976931348623157e308, math.nan],
         said=float, arrow=lambda pa: pa.float64(), as_arrow=float,
         wrong=[("1", "str where a number is wanted"), (Decimal("1e400"), "out of range for double precision"),
                (Decimal("-1e-400"), "out of range for double precision"), (FORMER, "out of range")]),
    Kind(sql="numeric", values=NUMERICS,
         edges=[FORMER, -FORMER, Decimal("0E-20"), Decimal("-0"), Decimal("1E+300"), Decimal("1E-300"),
                Decimal("1.500"), Decimal("-Infinity"), math.inf, math.nan, Decimal("NaN"), 1e16, 9_999, 10_000],
         wrong=[("1", "str where a number is wanted"), (False, "bool where a number is wanted"),
                (Decimal("1e200000"), "out of range for numeric"), (Decimal("1e-20000"), "out of range for numeric")]),
    Kind(sql="numeric(20,3)", values=st.decimals(-(10**16), 10**16, places=5), edges=[Decimal("0.0005"), Decimal(7)],
         arrow=lambda pa: pa.decimal128(30, 5), wrong=[(10**17, "numeric field overflow")]),
    Kind(sql="boolean", values=st.booleans(), arrow=lambda pa: pa.bool_(),
         wrong=[(1, "int where a boolean is wanted")]),
    Kind(sql="text", values=TEXT, edges=TEXTS, arrow=lambda pa: pa.string(), wrong=NOT_TEXT),
    Kind(sql="varchar", values=TEXT, edges=TEXTS, arrow=lambda pa: pa.large_string(), wrong=NOT_TEXT),
    Kind(sql="varchar(8)", values=TEXT, edges=["é" * 8, "x" * 8 + " "], arrow=lambda pa: pa.string(),
         wrong=[*NOT_TEXT, ("123456789", "value too long for type character varying(8)")]),
    Kind(sql="char(9)", values=TEXT, edges=["é  ", ""], arrow=lambda pa: pa.string(),
         wrong=[*NOT_TEXT, ("1234567890", "value too long for type character(9)")]),
    Kind(sql="bpchar", values=TEXT, edges=["é  ", ""], arrow=lambda pa: pa.string(), wrong=NOT_TEXT),
    Kind(sql="name", values=st.text("abcdefé", max_size=20), edges=["", "x" * 63], arrow=lambda pa: pa.string(),
         wrong=[*NOT_TEXT, ("x" * 64, "a name of 64 bytes")]),
    Kind(sql='"char"', values=st.sampled_from("aZ~"), edges=[""], arrow=lambda pa: pa.string(),
         wrong=[*NOT_TEXT, ("é", "more than one byte")]),
    Kind(sql="citext", values=TEXT, edges=TEXTS, arrow=lambda pa: pa.string(), wrong=NOT_TEXT, needs="citext"),
    Kind(sql="xml", values=st.sampled_from(["<a>é</a>", "text", ""]), arrow=lambda pa: pa.string(),
         edges=['<?xml version="1.0" encoding="latin1"?><a>é</a>', "<?xml version='1.0' encoding='utf-8' ?><a>é</a>",
                '<?xml version="1.0" encoding="KOI8-R" standalone="yes"?><a>д</a>', '<?xml version="1.0"?><a>д</a>'],
         wrong=[*NOT_TEXT, ("<a>", "invalid XML"),
                ('<?xml version="1.0" encoding="latin1"?><a>д</a>', "declares the encoding latin1"),
                ('<?xml version="1.0" encoding="klingon"?><a/>', "declares the encoding klingon")]),
    Kind(sql="bytea", values=st.binary(max_size=9) | st.binary(max_size=9).map(bytearray) | st.binary().map(memoryview),
         edges=[b"", b"\x00\xff\\"], arrow=lambda pa: pa.binary(), as_arrow=bytes,
         wrong=[("x", "str where bytes is wanted"), (1, "int where bytes is wanted")]),
    Kind(sql="date", values=st.dates(), edges=[dt.date.min, dt.date.max, math.inf, -math.inf, "infinity", "-infinity"],
         said=_infinite, arrow=lambda pa: pa.date32(), as_arrow=_finite,
         wrong=[("2026-01-01", "str where a date is wanted"), ("0044-03-15 BC", "str where"),
                (MOMENT, "datetime where"), (math.nan, "float where")]),
    Kind(sql="timestamp", values=st.datetimes(), edges=[dt.datetime.min, dt.datetime.max, math.inf, "-infinity"],
         said=_infinite, arrow=lambda pa: pa.timestamp("us"), as_arrow=_finite,
         wrong=[(MOMENT.replace(tzinfo=UTC), "with a time zone where timestamp"), (DAY, "date where a datetime")]),
    Kind(sql="timestamptz", values=AWARE, edges=[dt.datetime.max.replace(tzinfo=UTC), -math.inf, "infinity"],
         said=_infinite, arrow=lambda pa: pa.timestamp("us", "UTC"), as_arrow=_finite,
         wrong=[(MOMENT, "without a time zone where timestamptz"), ("now", "str where a datetime is wanted")]),
    Kind(sql="time", values=st.times(), edges=[dt.time.min, dt.time.max], arrow=lambda pa: pa.time64("us"),
         wrong=[(dt.timedelta(hours=1), "timedelta where a time"), (dt.time(1, tzinfo=UTC), "with a zone where time")]),
    Kind(sql="timetz", values=st.times(timezones=OFFSETS), edges=[dt.time.max.replace(tzinfo=UTC)],
         wrong=[(dt.time(1), "without a zone of fixed offset")]),
    Kind(sql="interval", values=SPANS, edges=[dt.timedelta.min, dt.timedelta.max, dt.timedelta(microseconds=-1)],
         arrow=lambda pa: pa.duration("us"), as_arrow=lambda v: v if abs(v.days) < 10**6 else None,
         wrong=[(5, "int where a timedelta is wanted")]),
    Kind(sql="interval(6)", values=st.tuples(st.integers(-999, 999), st.integers(-999, 999), INT4).map(_months),
         arrow=lambda pa: pa.month_day_nano_interval(), wrong=[((1, 2, 3), "tuple where a timedelta is wanted")]),
    Kind(sql="uuid", values=st.uuids() | st.uuids().map(str), edges=[uuid.UUID(int=0)], arrow=lambda pa: pa.string(),
         as_arrow=str, wrong=[("zz", "'zz' is no UUID"), (b"x" * 16, "bytes where a UUID is wanted")]),
    Kind(sql="json", values=DOCUMENTS, edges=["{}", "[ ]", b"1", {"a": [1, None, 1.5]}, 2**70, False, "null"],
         said=_json, arrow=lambda pa: pa.string(), as_arrow=_json, read="{}::jsonb::text",
         wrong=[({1, 2}, "not JSON"), (math.nan, "not JSON"), ("{", "invalid input syntax for type json")]),
    Kind(sql="jsonb", values=DOCUMENTS, edges=["{}", "[ ]", b"1", {"a": [1, None, 1.5]}, 2**70, False, "null"],
         said=_json, arrow=lambda pa: pa.string(), as_arrow=_json,
         wrong=[({1, 2}, "not JSON"), ("", "invalid input syntax for type json"), ("\ud800", "lone surrogate"),
                ({"a": "\ud800"}, "lone surrogate")]),
    Kind(sql="inet", values=INTERFACES | st.ip_addresses() | INTERFACES.map(str), arrow=lambda pa: pa.string(),
         as_arrow=str, edges=["::ffff:1.2.3.4/96", ipaddress.ip_network("10.0.0.0/8")],
         wrong=[("300.1.1.1", "300.1.1.1"), (5, "int where an address"),
                (ipaddress.ip_address("fe80::1%eth0"), "fe80::1%eth0 has a scope"), ("fe80::1%1/64", "has a scope")]),
    Kind(sql="cidr", values=INTERFACES.map(lambda v: v.network) | INTERFACES.map(lambda v: str(v.network)),
         arrow=lambda pa: pa.string(), as_arrow=str, edges=["0.0.0.0/0", ipaddress.ip_address("::1")],
         wrong=[("10.0.0.1/8", "host bits"), (ipaddress.ip_interface("10.0.0.1/8"), "bits set to the right")]),
    Kind(sql="macaddr", values=st.binary(min_size=6, max_size=6).map(lambda b: b.hex(":")),
         arrow=lambda pa: pa.string(),
         edges=["08-00-2b-01-02-03", "0800.2b01.0203"], wrong=[("08:00:2b", "is no macaddr"), (1, "int where text")]),
    Kind(sql="macaddr8", values=st.binary(min_size=8, max_size=8).map(lambda b: b.hex(":")),
         arrow=lambda pa: pa.string(), wrong=[("08:00:2b:01:02:03", "is no macaddr8")]),
    Kind(sql="bit(5)", values=st.text("01", min_size=5, max_size=5), arrow=lambda pa: pa.string(),
         wrong=[("12", "not made of zeros and ones"), ("1", "bit string length 1 does not match type bit(5)")]),
    Kind(sql="varbit(20)", values=st.text("01", max_size=20), edges=[""], arrow=lambda pa: pa.string(),
         wrong=[("1" * 21, "bit string too long"), (1, "int where text of zeros and ones")]),
    Kind(sql="hstore", values=st.dictionaries(TEXT, st.none() | TEXT, max_size=3), edges=[{}, {"": None, "a": ""}],
         said=_same, arrow=lambda pa: pa.map_(pa.string(), pa.string()), as_arrow=lambda v: list(v.items()),
         wrong=[({1: "x"}, "int where text"), ("a=>b", "str where a mapping")], needs="hstore"),
    Kind(sql="ltree", values=st.lists(st.text("aZ_9", min_size=1, max_size=3), max_size=3).map(".".join), edges=[""],
         arrow=lambda pa: pa.string(), wrong=[("a..b", "ltree syntax error"), (1, "int where text")], needs="ltree"),
    Kind(sql="mood", values=MOODS, arrow=lambda pa: pa.dictionary(pa.int8(), pa.string()), as_arrow=said,
         wrong=[("none", "'none' is no label of enum mood"), (1, "1 is no label")]),
    Kind(sql="positive", values=st.integers(1, 100), arrow=lambda pa: pa.int8(),
         wrong=[(0, "value for domain positive violates check constraint"), ("1", "str where an integer")]),
    Kind(sql="few", values=st.integers(1, 8), arrow=lambda pa: pa.int64(),
         wrong=[(9, "value for domain few violates")]),
    Kind(sql="words", values=st.lists(st.none() | TEXT, max_size=2), edges=[[], [None]],
         arrow=lambda pa: pa.list_(pa.string()), wrong=[(["a"] * 3, "value for domain words violates")]),
    Kind(sql="pair", values=PAIRS, edges=[(None, None), (1, "")], as_arrow=lambda v: {"n": v[0], "T x": v[1]},
         arrow=lambda pa: pa.struct([("n", pa.int32()), ("T x", pa.string())]),
         wrong=[((1,), "1 fields, where type pair has 2"), (("x", "y"), "field n: str where an integer is wanted"),
                ({"n": 1}, "fields T x"), ([1, "x"], "list where a tuple for type pair is wanted")]),
    Kind(sql="deep",
         values=st.tuples(st.none() | PAIRS, _lists(PAIRS, 2), st.none() | MOODS, _ranges(st.integers(0, 99))),
         edges=[(None, [], None, None)],
         wrong=[(((1, "x"), [("x", "y")], None, None), "field ps: field n: str where")]),
    Kind(sql="integer[]", values=_lists(INT4), arrow=lambda pa: pa.list_(pa.int32()),
         edges=[[], [None], [[]], [[[1, 2], [3, None]]], [[[[[[1]]]]]], (1, 2)],
         said=_list,
         as_arrow=lambda v: None if any(isinstance(one, list) for one in v) else list(v),
         wrong=[([[1], [2, 3]], "different lengths"), ([1, [2]], "different depths"), ([1, "x"],
         "str where an integer"),
                (1, "int where a list is wanted"), (memoryview(b"12"), "memoryview where a list is wanted"),
                ([[[[[[[1]]]]]]], "7 dimensions, where an array has at most 6")]),
    Kind(sql="bigint[][]", said=_list, values=st.lists(st.lists(INT8, min_size=2, max_size=2), min_size=1, max_size=2),
         arrow=lambda pa: pa.list_(pa.list_(pa.int64())), wrong=[([[2**63]], "out of range for bigint")]),
    Kind(sql="text[]", said=_list, values=_lists(TEXT), edges=[TEXTS], arrow=lambda pa: pa.large_list(pa.string()),
         as_arrow=lambda v: None if any(isinstance(one, list) for one in v) else v, wrong=[("ab", "str where a list")]),
    Kind(sql="citext[]", said=_list, values=_lists(TEXT), wrong=[([1], "int where text is wanted")], needs="citext"),
    Kind(sql="float8[]", said=_list, values=_lists(st.floats()), wrong=[(["1"], "str where a number")]),
    Kind(sql="numeric(9,2)[]", said=_list, values=st.lists(st.decimals(-999, 999, places=4), max_size=2),
         arrow=lambda pa: pa.list_(pa.decimal128(9, 4)), wrong=[([10**8], "numeric field overflow")]),
    Kind(sql="boolean[]", said=_list, values=_lists(st.booleans()), wrong=[([1], "int where a boolean")]),
    Kind(sql="bytea[]", said=_list, values=_lists(st.binary(max_size=5)), wrong=[(["x"], "str where bytes")]),
    Kind(sql="varchar(3)[]", said=_list, values=_lists(st.text("aé", max_size=3)),
         wrong=[(["four"], "value too long")]),
    Kind(sql="date[]", said=_list, values=_lists(st.dates()), edges=[[dt.date.max, "infinity"]],
         arrow=lambda pa: pa.list_(pa.date32()),
         as_arrow=lambda v: None if any(isinstance(one, (list, str)) for one in v) else v,
         wrong=[([MOMENT], "datetime")]),
    Kind(sql="timestamptz[]", said=_list, values=_lists(AWARE), wrong=[([MOMENT], "without a time zone")]),
    Kind(sql="interval[]", said=_list, values=_lists(SPANS), wrong=[([1], "int where a timedelta")]),
    Kind(sql="uuid[]", said=_list, values=_lists(st.uuids()), wrong=[(["zz"], "'zz' is no UUID")]),
    Kind(sql="jsonb[]", values=st.lists(st.none() | DOCUMENTS.filter(lambda v: not isinstance(v, list)), max_size=2),
         said=_json_list, wrong=[([{1}], "not JSON"), (["{"], "invalid input syntax for type json")]),
    Kind(sql="inet[]", said=_list, values=_lists(INTERFACES), wrong=[(["x"], "'x' does not appear to be")]),
    Kind(sql="mood[]", said=_list, values=_lists(MOODS), wrong=[(["none"], "is no label of enum mood")]),
    Kind(sql="positive[]", said=_list, values=_lists(st.integers(1, 9)),
         wrong=[([0], "value for domain positive violates")]),
    Kind(sql="pair[]", values=_lists(PAIRS, 2), wrong=[([(1,)], "1 fields")],
         arrow=lambda pa: pa.list_(pa.struct([("n", pa.int32()), ("T x", pa.string())])),
         as_arrow=lambda v: None if any(isinstance(one, list) for one in v)
         else [one and {"n": one[0], "T x": one[1]} for one in v]),
    Kind(sql="int4range[]", said=_list, values=_lists(_ranges(st.integers(0, 99)), 2),
         wrong=[([DAY], "date where a psycopg Range")]),
    Kind(sql="int4range", values=_ranges(st.integers(-(2**31), 2**31 - 2)), edges=[Range(None, 5, "()"), Range(1, 1)],
         wrong=[("[1,2)", "str where a psycopg Range"), (Range(5, 1), "range lower bound must be less"),
                (Range("a", "b"), "str where an integer")]),
    Kind(sql="int8range", values=_ranges(st.integers(-(2**62), 2**62)), wrong=[(Range(2**63, None), "out of range")]),
    Kind(sql="numrange", values=_ranges(st.decimals(-99, 99, places=2)),
         wrong=[((1, 2), "tuple where a psycopg Range")]),
    Kind(sql="daterange", values=_ranges(st.dates(DAY, dt.date(9999, 12, 30))), edges=[Range(DAY, math.inf)],
         said=lambda v: f"[{DAY},infinity)" if v.upper == math.inf else said(v), wrong=[(DAY, "date where")]),
    Kind(sql="tsrange", values=_ranges(st.datetimes()), wrong=[(Range(DAY, None), "date where a datetime")]),
    Kind(sql="tstzrange", values=_ranges(AWARE.map(lambda v: v.astimezone(UTC))),
         wrong=[(Range(MOMENT), "without a time")]),
    Kind(sql="textrange", values=_ranges(st.text("0123456789", max_size=5)), wrong=[(Range(1, 2), "int where text")]),
    Kind(sql="int4multirange", values=_multiranges(range(0, 90, 9)), edges=[Multirange([]), [Range(1, 5), Range(3, 9)]],
         said=_multirange,
         wrong=[(Range(1, 2), "Range where a psycopg Multirange"), ([None], "None where a psycopg Range")]),
    Kind(sql="nummultirange", said=_multirange, values=_multiranges([Decimal(n) / 4 for n in range(9)]),
         wrong=[([1], "int where a psycopg")]),
    Kind(sql="datemultirange", said=_multirange, values=_multiranges([dt.date(2026, 1, n) for n in range(1, 9)]),
         wrong=[("{}", "str where")]),
    Kind(sql="tstzmultirange", said=_multirange,
         values=_multiranges([MOMENT.replace(tzinfo=UTC, hour=n) for n in range(9)]),
         wrong=[([Range(MOMENT)], "without a time zone")]),
]  # fmt: skip

TYPES = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok', 'Ω', 'it''s \"so\"');"
    "CREATE DOMAIN positive AS integer CHECK (VALUE > 0); CREATE DOMAIN few AS positive CHECK (VALUE < 9);"
    "CREATE DOMAIN words AS text[] CHECK (cardinality(VALUE) < 3); CREATE TYPE textrange AS RANGE (subtype = text);"
    'CREATE TYPE pair AS (n integer, gone text, "T x" text); ALTER TYPE pair DROP ATTRIBUTE gone;'
    "CREATE TYPE deep AS (p pair, ps pair[], m mood, r int4range)"
)


def column_names(kinds: Sequence[Kind]) -> list[str]:
    """Return a name for each, by which it is known in what a test says."""
    return [f"c{number}_{re.sub(r'[^a-z0-9]+', '_', kind.sql)}" for number, kind in enumerate(kinds)]
