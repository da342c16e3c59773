"""What a dead letter keeps, and who may keep it: values, transactions, rights, limits."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import ipaddress
import itertools
import json
import math
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from pgscale import write
from pgscale.connect.session import CONTROL, open_session
from pgscale.errors import PermissionDeniedError, PgscaleError
from pgscale.ledger import store
from pgscale.write.dead_letters import tagging
from pgscale.write.dead_letters.reader import Filter
from pgscale.write.dead_letters.runner import retry_letters
from support.bad_rows import COLUMNS, HERE, ZOO, letters_of, row_of
from support.servers import Database

LIGHT = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


class Colour(enum.Enum):
    RED = "red"


class Number(enum.IntEnum):
    ONE = 1


class Point(NamedTuple):
    x: int
    y: int


VALUES: list[Any] = [
    None, True, 0,
    -(2**63), 2**63, 10**400, 1.5, -0.0, 1e300, 5e-324, 1e16, math.inf, "", "é", "a\0b", "\ud800",
    "\ud83d\ude00", "{}",
    b"", b"\x00\xff", [], [1, [None]], (), (1, (2,)), {}, {"b": 1, "a": 2}, {"$": "bytes", "v": "00"},
    {1: 2}, {"a\0": 1},
    Decimal("1.50"), Decimal("Infinity"), dt.date(1, 1, 1), dt.datetime(2026, 1, 31, 1, 2, 3, 4),
    dt.datetime(2026, 1, 31, tzinfo=dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
    dt.time(1, 2, 3, 4, tzinfo=dt.UTC),
    dt.datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1), dt.timedelta(-1, 5, 7),
    uuid.UUID(int=7),
    ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("::/3"), ipaddress.ip_interface("10.0.0.1/8"),
    Range(1, 5, "[)"),    Range(None, Decimal("2"), "(]"), Range(empty=True), Multirange([Range(1, 2)]),
    Jsonb({"b": 1, "a": [b"x"]}), Number.ONE,
]  # fmt: skip


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Jsonb):
        return isinstance(found, Jsonb) and _same(found.obj, wanted.obj)
    if isinstance(wanted, dict):
        return list(found.items()) == list(wanted.items())
    fold: Callable[[Any], int] = lambda value: getattr(value, "fold", 0)  # noqa: E731 because it is one expression
    return repr(found) == repr(wanted) if isinstance(wanted, float) else found == wanted and fold(found) == fold(wanted)


def test_every_value_comes_back(database: Database) -> None:
    """By way of jsonb, which drops more than JSON does; also in a database that has no é."""
    conn = database.connect()
    for value in VALUES:
        for kept in (tagging.to_json(value), tagging.without_letters_beyond_ascii(tagging.to_json(value))):
            stored = conn.execute("SELECT %s::jsonb", [json.dumps(kept, ensure_ascii=False)]).fetchone()
            assert stored is not None
            assert _same(tagging.from_json(stored[0]), value), (value, kept)
        assert json.dumps(tagging.without_letters_beyond_ascii(tagging.to_json(value)), ensure_ascii=False).isascii()
    nan = tagging.from_json(tagging.to_json({"n": math.nan, "d": Decimal("NaN")}))
    assert math.isnan(nan["n"])
    assert nan["d"].is_nan()
    red = tagging.from_json(tagging.to_json(Colour.RED))
    assert (red.name, red.value) == ("RED", "red")
    assert tagging.from_json(tagging.to_json(Point(1, 2))) == (1, 2)


@LIGHT
@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("$"), inner), max_leaves=8,
))  # fmt: skip
def test_whatever_is_nested_comes_back(value: Any) -> None:
    assert tagging.from_json(json.loads(json.dumps(tagging.to_json(value)))) == value
    assert tagging.row_from_bytes(tagging.row_to_bytes({"$": value})) == {"$": value}


def test_what_cannot_come_back_is_kept_for_the_eye() -> None:
    kept = tagging.to_json({1, 2})
    assert kept == {"$": "opaque", "v": "{1, 2}", "type": "builtins.set"}
    with pytest.raises(tagging.NotRestorableError, match=r"set was kept for the eye only: \{1, 2\}"):
        tagging.from_json(kept)
    around: list[Any] = []
    around.append(around)
    assert "holds itself" in str(tagging.row_to_json({"a": around}))


@pytest.fixture
def conn(database: Database) -> psycopg.Connection[Any]:
    connection = database.connect()
    connection.execute(ZOO.encode())
    return connection


def test_what_is_no_rows_fault_fails_the_call(conn: psycopg.Connection[Any], database: Database) -> None:
    rows = [row_of(0), row_of(1, pos=0)]
    conn.execute("CREATE VIEW narrow AS SELECT 1 AS id")
    with pytest.raises(write.WriteFailedError):
        write.copy(conn, "narrow", [(1,)], None, HERE)
    with pytest.raises(
        write.TooManyDeadLettersError, match=r"More than 1 rows are bad; the last one is row 2 of public.zoo: .*pos"
    ):
        write.copy(conn, "zoo", [*rows, row_of(2, pos=0)], COLUMNS, write.DeadLetters(most=1))
    conn.execute("SET statement_timeout TO '1s'; CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS"
                 " $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;"
                 "CREATE TRIGGER nap BEFORE INSERT ON zoo FOR EACH ROW EXECUTE FUNCTION nap()")  # fmt: skip
    with pytest.raises(PgscaleError, match="57014"):
        write.copy(conn, "zoo", rows, COLUMNS, HERE)
    assert conn.execute("SELECT count(*), to_regclass('pgscale.dead_letter') FROM zoo").fetchone() == (1, None)


def test_the_sources_own_errors_go_through_as_they_are(conn: psycopg.Connection[Any], database: Database) -> None:
    """Rows come from another server as often as not, whose errors look just like those of this one."""
    other = database.connect()
    raised: list[BaseException] = []

    def rows(count: int, error: Exception | None = None) -> Iterator[Any]:
        yield from ((n, "x") for n in range(2_000, 2_000 + count))
        try:
            if error is not None:
                raise error
            other.execute("SELECT 1 / 0")
        except Exception as failed:
            raised.append(failed)
            raise

    async def arows(count: int) -> AsyncIterator[Any]:
        for row in rows(count):
            yield row

    async def run(call: Callable[[Any], Any]) -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            await call(connection)

    names, theirs = ["id", "req"], write.RowError(7, "theirs", "no")
    calls: list[Callable[[int, write.DeadLetters | None], object]] = [
        lambda n, into: write.copy(conn, "zoo", rows(n), names, into),
        lambda n, into: write.upsert(conn, "zoo", rows(n), ["id"], None, names, into),
        lambda n, into: write.insert(conn, {"zoo": ({"id": i, "req": x} for i, x in rows(n))}, dead_letters=into),
        lambda n, into: write.insert(conn, {"parent": ((i,) for i, _ in rows(n, theirs))}, dead_letters=into),
        lambda n, into: asyncio.run(run(lambda mine: write.acopy(mine, "zoo", arows(n), names, into))),
        lambda n, into: asyncio.run(run(lambda mine: write.aupsert(mine, "zoo", rows(n), ["id"], None, names, into))),
    ]
    for call in calls:
        for count, into in itertools.product((0, 3_000), (None, HERE)):
            with pytest.raises((psycopg.errors.DivisionByZero, write.RowError)) as told:
                call(count, into)
            assert told.value is raised[-1]
    assert conn.execute("SELECT count(*), to_regclass('pgscale.dead_letter') FROM zoo").fetchone() == (1, None)
    # What the server says of the rows is said of the table as ever.
    with pytest.raises(write.RowError, match="Row 1: duplicate key"):
        write.copy(conn, "zoo", [(5, "x"), (5, "x")], names)


def test_rows_that_a_policy_refuses(conn: psycopg.Connection[Any], database: Database) -> None:
    """An upsert stages and inserts; COPY itself is not possible there, and says so."""
    role = database.create_role()
    conn.execute(
        f"ALTER TABLE parent ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON parent USING (true) WITH CHECK (id < 100);"
        f"GRANT ALL ON parent TO {role}; GRANT CREATE ON DATABASE {database.name} TO {role}".encode()
    )
    with psycopg.connect(database.dsn_as(role), autocommit=True) as theirs:
        result = write.upsert(theirs, "parent", [(50,), (500,), (60,)], ["id"], None, ["id"], HERE)
        assert (result.inserted, result.dead_letters) == (2, 1)
        ((_, _, state, reason, row),) = letters_of(theirs)
        assert (state, "row-level security" in reason, row) == ("42501", True, {"id": 500})
        with pytest.raises(write.WriteFailedError, match="0A000"):
            write.copy(theirs, "parent", [(1,)], None, HERE)


def test_in_a_transaction_of_the_callers(conn: psycopg.Connection[Any], database: Database) -> None:
    mine = database.connect(autocommit=False)
    for n in range(3):
        assert write.copy(mine, "zoo", [row_of(10 * n), row_of(1, id=0)], COLUMNS, HERE).dead_letters == 1
        assert write.upsert(mine, "zoo", [row_of(10 * n + 1), row_of(2, pos=0)], ["id"], None, COLUMNS, HERE).rows == 2
    assert conn.execute("SELECT count(*) FROM zoo").fetchone() == (1,)
    mine.rollback()
    assert conn.execute("SELECT count(*), to_regclass('pgscale.dead_letter') FROM zoo").fetchone() == (1, None)
    # What the caller broke already is not the fault of a row.
    mine.execute("INSERT INTO zoo (id, late) VALUES (5, 77)")
    with pytest.raises(write.WriteFailedError, match="zoo_late_fkey"):
        write.copy(mine, "zoo", [row_of(1)], COLUMNS, HERE)
    mine.execute("UPDATE zoo SET late = 1 WHERE id = 5")
    write.copy(mine, "zoo", [row_of(1), row_of(2, late=7)], COLUMNS, HERE)
    # It is checked at COMMIT as before.
    mine.execute("INSERT INTO zoo (id, late) VALUES (6, 77); DELETE FROM zoo WHERE id = 6")
    mine.commit()
    assert conn.execute("SELECT count(*) FROM zoo").fetchone() == (3,)
    assert len(letters_of(conn)) == 1


def test_rights(conn: psycopg.Connection[Any], database: Database) -> None:
    """INSERT on both tables is enough; what is missing is told with its GRANT."""
    role = database.create_role()
    conn.execute(f"GRANT INSERT ON parent TO {role}".encode())
    rows = [(500,), (1,), (501,)]
    with psycopg.connect(database.dsn_as(role), autocommit=True) as theirs:
        with pytest.raises(PermissionDeniedError, match="GRANT CREATE ON DATABASE"):
            write.copy(theirs, "parent", rows, None, HERE)
        write.copy(conn, "parent", [(1,)], None, HERE)
        with pytest.raises(PermissionDeniedError, match=r"GRANT INSERT ON pgscale\.dead_letter"):
            write.copy(theirs, "parent", rows, None, HERE)
        conn.execute(f"GRANT USAGE ON SCHEMA pgscale TO {role}; GRANT INSERT ON pgscale.dead_letter TO {role}".encode())
        assert write.copy(theirs, "parent", rows, None, HERE).rows == 2
        database.connect_superuser().execute(f"REVOKE TEMPORARY ON DATABASE {database.name} FROM PUBLIC".encode())
        with pytest.raises(PermissionDeniedError, match="GRANT TEMPORARY"):
            write.copy(theirs, "parent", [(502,)], None, HERE)
    assert conn.execute("SELECT count(*) FROM parent").fetchone() == (3,)


def test_a_database_that_has_not_every_character(database: Database) -> None:
    """The row is bad because the server has no €, and the letter must not be for the same reason."""
    name = f"{database.name}_latin1"
    admin = database.connect_superuser()
    admin.execute(
        f"CREATE DATABASE {name} OWNER {database.owner} ENCODING LATIN1 LOCALE 'C' TEMPLATE template0".encode()
    )
    try:
        with psycopg.connect(
            database.server.dsn(name, database.owner), autocommit=True, client_encoding="utf8"
        ) as conn:
            conn.execute("CREATE TABLE t (n integer, x text)")
            assert (
                write.copy(conn, "t", [(1, "é"), (2, "5 €"), (3, "c")], None, write.DeadLetters(source="€")).rows == 2
            )
            ((index, column, state, _, row),) = letters_of(conn)
            assert (index, column, state, tagging.from_json(row)) == (1, "x", "22P05", {"n": 2, "x": "5 €"})
            # So must not the reason of a later try.
            conn.execute("CREATE TYPE mood AS ENUM ('ok'); ALTER TABLE t ALTER x TYPE mood USING 'ok'")
            assert retry_letters(conn.info.dsn, Filter()).failed == 1
            assert letters_of(conn)[0][3] == "'5 \\u20ac' is no label of enum mood (type mood)"
    finally:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_memory_stays_constant(conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE UNLOGGED TABLE big (n bigint CHECK (n % 50 > 0), t text)")
    text = "x" * 3_000

    def peak(count: int) -> int:
        tracemalloc.start()
        write.copy(conn, "big", ((n, text) for n in range(count)), None, HERE)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    few, many = peak(3_000), peak(9_000)
    assert many < few * 1.3 + 200_000


def test_async(conn: psycopg.Connection[Any], database: Database) -> None:
    async def rows() -> AsyncIterator[Any]:
        for n in range(2_000):
            await asyncio.sleep(0)
            yield row_of(n, **({"said": "no"} if n % 500 == 7 else {}))

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            copied = await write.acopy(connection, "zoo", rows(), COLUMNS, HERE)
            merged = await write.aupsert(connection, "zoo", rows(), ["id"], None, COLUMNS, HERE)
            assert (copied.rows, copied.dead_letters) == (1_996, 4)
            assert (merged.inserted, merged.updated, merged.dead_letters) == (0, 1_996, 4)

    asyncio.run(run())
    assert [letter[0] for letter in letters_of(conn)] == [n for n in (7, 507, 1007, 1507) for _ in range(2)]


def test_the_ledger_goes_and_the_letters_stay(conn: psycopg.Connection[Any], database: Database) -> None:
    """Both live in schema pgscale; a run that is taken back takes the ledger with it, and must leave the rest."""
    write.copy(conn, "parent", [(1,)], None, HERE)
    with open_session(database.dsn, CONTROL) as session:
        store.create(session)
        store.drop_if_empty(session)
        assert not store.exists(session)
    assert len(letters_of(conn)) == 1
