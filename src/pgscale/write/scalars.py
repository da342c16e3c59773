"""The binary form of every built-in type COPY takes values of, one function a type. Pure.

The forms are those of the types' receive functions (src/backend/utils/adt). A function takes a value that is not
None and returns its bytes without the length before them; what does not fit raises NotFittingError with the reason.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import math
import operator
import re
import struct
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeAlias, TypeGuard, cast

from psycopg.types.json import Json, Jsonb

from pgscale.write.model import NotFittingError

Encode: TypeAlias = Callable[[Any], bytes]

_I2, _I4, _I8 = struct.Struct(">h"), struct.Struct(">i"), struct.Struct(">q")
_U4, _F4, _F8 = struct.Struct(">I"), struct.Struct(">f"), struct.Struct(">d")
_TIMETZ, _INTERVAL = struct.Struct(">qi"), struct.Struct(">qii")
_F4_ZEROS = (_F4.pack(0.0), _F4.pack(-0.0))

EPOCH_DAY = dt.date(2000, 1, 1).toordinal()
EPOCH = dt.datetime(2000, 1, 1)
EPOCH_UTC = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_DAY_US = 86_400_000_000

# What stands for infinity where the type has one: no date or datetime of Python does.
_INFINITE: Mapping[Any, int] = MappingProxyType(
    {math.inf: 1, -math.inf: -1, "infinity": 1, "-infinity": -1, "Infinity": 1, "-Infinity": -1}
)


def _refuse(value: object, wanted: str) -> NotFittingError:
    return NotFittingError(f"{type(value).__name__} where {wanted} is wanted")


def _infinity(value: object) -> int:
    """Return 1 or -1 for what stands for infinity, else 0."""
    return _INFINITE.get(value, 0) if isinstance(value, (float, str)) else 0


def _integer(value: object, packer: struct.Struct, name: str) -> bytes:
    if isinstance(value, bool):
        raise _refuse(value, "an integer")
    try:
        number = operator.index(cast("int", value))
    except TypeError:
        raise _refuse(value, "an integer") from None
    try:
        return packer.pack(number)
    except struct.error:
        raise NotFittingError(f"{_short(number)} is out of range for {name}") from None


def _short(value: object) -> str:
    try:
        shown = str(value)
    except ValueError:
        # An integer of more digits than Python writes out (sys.set_int_max_str_digits).
        shown = f"{Decimal(cast('int', value)):.3e}"
    return shown if len(shown) <= 40 else f"{shown[:37]}…"


def encode_int2(value: object) -> bytes:
    return _integer(value, _I2, "smallint")


def encode_int4(value: object) -> bytes:
    return _integer(value, _I4, "integer")


def encode_int8(value: object) -> bytes:
    return _integer(value, _I8, "bigint")


def encode_oid(value: object) -> bytes:
    return _integer(value, _U4, "oid")


def _is_bool(value: object) -> bool:
    return type(value).__name__ in ("bool", "bool_")  # numpy's, too


def _number(value: object) -> float:
    if isinstance(value, (str, bytes)) or _is_bool(value):
        raise _refuse(value, "a number")
    try:
        number = float(cast("float", value))
    except OverflowError:
        raise NotFittingError(f"{_short(value)} is out of range for double precision") from None
    except (TypeError, ValueError):
        raise _refuse(value, "a number") from None
    if (math.isinf(number) or not number) and value != number:
        # A Decimal beyond all floats, which becomes infinity or zero without a word; the server refuses both.
        raise NotFittingError(f"{_short(value)} is out of range for double precision")
    return number


def encode_float8(value: object) -> bytes:
    return _F8.pack(_number(value))


def encode_float4(value: object) -> bytes:
    number = _number(value)
    try:
        packed = _F4.pack(number)
    except OverflowError:
        packed = _F4_ZEROS[0]
    if number and packed in _F4_ZEROS:
        raise NotFittingError(f"{_short(value)} is out of range for real")
    return packed


def encode_bool(value: object) -> bytes:
    if value is True:
        return b"\x01"
    if value is False:
        return b"\x00"
    if _is_bool(value):
        return b"\x01" if value else b"\x00"
    raise _refuse(value, "a boolean")


def encode_text(value: object) -> bytes:
    if not isinstance(value, str):
        raise _refuse(value, "text")
    if "\x00" in value:
        raise NotFittingError("text with a NUL character, which PostgreSQL cannot store")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise NotFittingError(f"text with a lone surrogate at {error.start}, which is no character") from None


def encode_char(value: object) -> bytes:
    """The type "char": one byte."""
    encoded = encode_text(value)
    if len(encoded) > 1:
        raise NotFittingError('more than one byte for "char"')
    return encoded or b"\x00"


def encode_name(value: object) -> bytes:
    encoded = encode_text(value)
    if len(encoded) > 63:
        raise NotFittingError(f"a name of {len(encoded)} bytes, where 63 have room")
    return encoded


# As the server finds the encoding (parse_xml_decl): after the version, and nowhere else.
_XML_ENCODING = re.compile(r"""<\?xml\s+version\s*=\s*(?:"[^"]*"|'[^']*')\s+encoding\s*=\s*["']([^"']*)["']""")


def encode_xml(value: object) -> bytes:
    """Text in the encoding that it declares: the server reads the binary form in that one, and not in the client's."""
    encoded = encode_text(value)
    declared = _XML_ENCODING.match(cast("str", value))
    if declared is None:
        return encoded
    try:
        return cast("str", value).encode(declared[1])
    except (LookupError, UnicodeEncodeError):
        raise NotFittingError(f"XML that declares the encoding {declared[1]}, in which it cannot be written") from None


def encode_bytea(value: object) -> bytes:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    if isinstance(value, memoryview):
        return value.tobytes()
    raise _refuse(value, "bytes")


def encode_date(value: object) -> bytes:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return _I4.pack(value.toordinal() - EPOCH_DAY)
    if sign := _infinity(value):
        return _I4.pack(0x7FFFFFFF if sign > 0 else -0x80000000)
    raise _refuse(value, "a date")


def _microseconds(span: dt.timedelta) -> int:
    return span.days * _DAY_US + span.seconds * 1_000_000 + span.microseconds


def _infinite_timestamp(value: object, wanted: str) -> bytes:
    if sign := _infinity(value):
        return _I8.pack(0x7FFFFFFFFFFFFFFF if sign > 0 else -0x8000000000000000)
    raise _refuse(value, wanted)


def _is_datetime(value: object) -> TypeGuard[dt.datetime]:
    # The NaT of pandas is one, too, by its class.
    return isinstance(value, dt.datetime) and type(value).__name__ != "NaTType"


def encode_timestamp(value: object) -> bytes:
    if not _is_datetime(value):
        return _infinite_timestamp(value, "a datetime")
    if value.tzinfo is not None:
        raise NotFittingError("a datetime with a time zone where timestamp, which has none, is wanted")
    return _I8.pack(_microseconds(value - EPOCH))


def encode_timestamptz(value: object) -> bytes:
    if not _is_datetime(value):
        return _infinite_timestamp(value, "a datetime")
    if value.utcoffset() is None:
        raise NotFittingError("a datetime without a time zone where timestamptz is wanted")
    return _I8.pack(_microseconds(value - EPOCH_UTC))


def _time_of_day_us(value: dt.time) -> int:
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond


def encode_time(value: object) -> bytes:
    if not isinstance(value, dt.time):
        raise _refuse(value, "a time")
    if value.tzinfo is not None:
        raise NotFittingError("a time with a zone where time, which has none, is wanted")
    return _I8.pack(_time_of_day_us(value))


def encode_timetz(value: object) -> bytes:
    if not isinstance(value, dt.time):
        raise _refuse(value, "a time")
    offset = value.utcoffset()
    if offset is None:
        raise NotFittingError("a time without a zone of fixed offset where timetz is wanted")
    west_s = -round(offset.total_seconds())
    return _TIMETZ.pack(_time_of_day_us(value), west_s)


def encode_interval(value: object) -> bytes:
    """A timedelta: its days stay days, the rest is time. It has no months; Arrow's MonthDayNano has."""
    if not isinstance(value, dt.timedelta):
        if type(value).__name__ != "MonthDayNano":
            raise _refuse(value, "a timedelta")
        months, days, nanoseconds = cast("tuple[int, int, int]", value)
        return _INTERVAL.pack(nanoseconds // 1_000, days, months)
    return _INTERVAL.pack(value.seconds * 1_000_000 + value.microseconds, value.days, 0)


def encode_uuid(value: object) -> bytes:
    if isinstance(value, uuid.UUID):
        return value.bytes
    if isinstance(value, str):
        try:
            return uuid.UUID(value).bytes
        except ValueError:
            raise NotFittingError(f"{_short(value)!r} is no UUID") from None
    raise _refuse(value, "a UUID")


def _json_text(value: object) -> bytes:
    """Strings and bytes are JSON already; every other value is made JSON."""
    if isinstance(value, (Json, Jsonb)):
        dumps = value.dumps or json.dumps
        made = dumps(value.obj)
        return made if isinstance(made, bytes) else made.encode()
    if isinstance(value, str):
        return encode_text(value)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:
        raise NotFittingError("text with a lone surrogate, which is no character") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise NotFittingError(f"not JSON: {_short(error)}") from None


def encode_json(value: object) -> bytes:
    return _json_text(value)


def encode_jsonb(value: object) -> bytes:
    return b"\x01" + _json_text(value)


# -- numeric: digits of base 10,000, the weight of the first one, sign, and decimals shown ------------------------

_NUMERIC = struct.Struct(">HhHH")
_NUMERIC_NAN, _NUMERIC_PLUS, _NUMERIC_MINUS = 0xC000, 0xD000, 0xF000
_NEGATIVE, _MOST_SCALE, _MOST_WEIGHT = 0x4000, 16_383, 32_767


def encode_numeric(value: object) -> bytes:
    """Decimals and integers exactly; floats by their shortest decimal, as they print."""
    if isinstance(value, bool):
        raise _refuse(value, "a number")
    if isinstance(value, int):
        return _numeric(_digits(value), 0, is_negative=value < 0)
    if isinstance(value, float):
        value = Decimal(repr(float(value)))
    if not isinstance(value, Decimal):
        try:
            number = operator.index(cast("int", value))
        except TypeError:
            raise _refuse(value, "a number") from None
        return _numeric(_digits(number), 0, is_negative=number < 0)
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        if exponent == "F":
            return _NUMERIC.pack(0, 0, _NUMERIC_MINUS if sign else _NUMERIC_PLUS, 0)
        return _NUMERIC.pack(0, 0, _NUMERIC_NAN, 0)
    if exponent > 0:
        if len(digits) + exponent > 4 * _MOST_WEIGHT:
            raise NotFittingError(f"{_short(value)} is out of range for numeric")
        digits, exponent = (*digits, *([0] * exponent)), 0
    return _numeric("".join(map(str, digits)), -exponent, is_negative=bool(sign))


def _digits(number: int) -> str:
    try:
        return str(abs(number))
    except ValueError:
        # More of them than Python writes out (sys.set_int_max_str_digits); numeric has room for many more.
        if number.bit_length() > 16 * _MOST_WEIGHT:
            raise NotFittingError(f"{_short(number)} is out of range for numeric") from None
        return "".join(map(str, Decimal(number).as_tuple().digits))


def _numeric(digits: str, scale: int, *, is_negative: bool) -> bytes:
    """Return the form of digits with the last `scale` of them after the point."""
    if scale > _MOST_SCALE or len(digits) - scale > 4 * _MOST_WEIGHT:
        raise NotFittingError("out of range for numeric")
    whole, fraction = (digits[:-scale], digits[-scale:].rjust(scale, "0")) if scale else (digits, "")
    whole = whole.lstrip("0")
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    fraction = fraction.ljust(-(-len(fraction) // 4) * 4, "0")
    groups = [int(text[i : i + 4]) for text in (whole, fraction) for i in range(0, len(text), 4)]
    weight = len(whole) // 4 - 1
    first = next((i for i, group in enumerate(groups) if group), len(groups))
    last = next((i for i in range(len(groups), first, -1) if groups[i - 1]), first)
    kept = groups[first:last]
    if not kept:
        return _NUMERIC.pack(0, 0, 0, scale)
    sign = _NEGATIVE if is_negative else 0
    return _NUMERIC.pack(len(kept), weight - first, sign, scale) + struct.pack(f">{len(kept)}H", *kept)


# -- networks, addresses, bits -----------------------------------------------------------------------------------

_INET, _INET6 = 2, 3  # PGSQL_AF_INET and one more, whatever the client's own AF_INET6 is


def _network(value: object, *, is_cidr: bool) -> bytes:
    made: Any = value
    if isinstance(value, str):
        try:
            made = ipaddress.ip_network(value) if is_cidr else ipaddress.ip_interface(value)
        except ValueError as error:
            raise NotFittingError(f"{_short(error)}") from None
    if isinstance(made, (ipaddress.IPv4Network, ipaddress.IPv6Network)):
        address, bits = made.network_address, made.prefixlen
    elif isinstance(made, (ipaddress.IPv4Interface, ipaddress.IPv6Interface)):
        address, bits = made.ip, made.network.prefixlen
    elif isinstance(made, (ipaddress.IPv4Address, ipaddress.IPv6Address)):
        address, bits = made, made.max_prefixlen
    else:
        raise _refuse(value, "an address of ipaddress, or text")
    if getattr(made, "scope_id", None) or getattr(address, "scope_id", None):
        raise NotFittingError(f"{made} has a scope, for which there is no room")
    if is_cidr and int(address) & ((1 << (address.max_prefixlen - bits)) - 1):
        raise NotFittingError(f"{made} has bits set to the right of its mask")
    family = _INET if address.version == 4 else _INET6
    return bytes((family, bits, int(is_cidr), len(address.packed))) + address.packed


def encode_inet(value: object) -> bytes:
    return _network(value, is_cidr=False)


def encode_cidr(value: object) -> bytes:
    return _network(value, is_cidr=True)


def _hardware_address(value: object, size: int, name: str) -> bytes:
    if not isinstance(value, str):
        raise _refuse(value, "text")
    try:
        packed = bytes.fromhex(value.translate({ord(c): None for c in ":-. "}))
    except ValueError:
        packed = b""
    if len(packed) != size:
        raise NotFittingError(f"{_short(value)!r} is no {name}")
    return packed


def encode_macaddr(value: object) -> bytes:
    return _hardware_address(value, 6, "macaddr")


def encode_macaddr8(value: object) -> bytes:
    return _hardware_address(value, 8, "macaddr8")


def encode_bit(value: object) -> bytes:
    """Text of zeros and ones; the server holds it against the column's length."""
    if not isinstance(value, str):
        raise _refuse(value, "text of zeros and ones")
    if value.strip("01"):
        raise NotFittingError(f"{_short(value)!r} is not made of zeros and ones")
    size = -(-len(value) // 8)
    return _I4.pack(len(value)) + (int(value.ljust(size * 8, "0"), 2).to_bytes(size, "big") if value else b"")


def encode_hstore(value: object) -> bytes:
    if not isinstance(value, Mapping):
        raise _refuse(value, "a mapping of text")
    pairs = cast("Mapping[object, object]", value)
    parts = [_I4.pack(len(pairs))]
    for key, content in pairs.items():
        encoded = encode_text(key)
        parts += [_I4.pack(len(encoded)), encoded]
        if content is None:
            parts.append(_I4.pack(-1))
        else:
            text = encode_text(content)
            parts += [_I4.pack(len(text)), text]
    return b"".join(parts)


def encode_ltree(value: object) -> bytes:
    return b"\x01" + encode_text(value)


# By the type's name in pg_catalog: names are stable, and so readable here.
BUILT_IN: Mapping[str, Encode] = MappingProxyType(
    {
        "int2": encode_int2,
        "int4": encode_int4,
        "int8": encode_int8,
        "oid": encode_oid,
        "float4": encode_float4,
        "float8": encode_float8,
        "numeric": encode_numeric,
        "bool": encode_bool,
        "text": encode_text,
        "varchar": encode_text,
        "bpchar": encode_text,
        "xml": encode_xml,
        "name": encode_name,
        "char": encode_char,
        "bytea": encode_bytea,
        "date": encode_date,
        "timestamp": encode_timestamp,
        "timestamptz": encode_timestamptz,
        "time": encode_time,
        "timetz": encode_timetz,
        "interval": encode_interval,
        "uuid": encode_uuid,
        "json": encode_json,
        "jsonb": encode_jsonb,
        "inet": encode_inet,
        "cidr": encode_cidr,
        "macaddr": encode_macaddr,
        "macaddr8": encode_macaddr8,
        "bit": encode_bit,
        "varbit": encode_bit,
    }
)
# Of extensions, whose schema and oid differ from database to database.
EXTENSIONS: Mapping[str, Encode] = MappingProxyType(
    {"hstore": encode_hstore, "citext": encode_text, "ltree": encode_ltree}
)
