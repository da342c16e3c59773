"""Every type by every kind of input: what is written is what the server reads itself, or is refused with its reason."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections import namedtuple
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types import TypeInfo
from psycopg.types.hstore import register_hstore

from pgscale import write
from pgscale.errors import RefusedError
from support.servers import Database
from support.type_matrix import KINDS, TYPES, Kind, Thing, column_names

SOAK_ROUNDS = int(os.environ.get("SOAK_ROUNDS", "20"))
LIGHT = settings(
    phases=[Phase.explicit, Phase.generate],  # what failed is told by row and column; to shrink it would take minutes
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONG = settings(LIGHT, max_examples=25 * SOAK_ROUNDS, derandomize=False)
Row = dict[str, Any]


# -- kinds of input ------------------------------------------------------------------------------------------------


def _named(rows: list[Row]) -> list[Any]:
    names = list(rows[0])[::-1] if rows else []
    make = namedtuple("make", names)
    return [make(**row) for row in rows]


def _objects(rows: list[Row]) -> list[Any]:
    make = dataclasses.make_dataclass("Record", list(rows[0])[::-1] if rows else [])
    return [make(**row) for row in rows]


def _generated(rows: list[Row]) -> Iterator[Any]:
    yield from rows


async def _generated_async(rows: list[Row]) -> AsyncIterator[Any]:
    for row in rows:
        await asyncio.sleep(0)
        yield tuple(row.values())


def _pandas(table: Any) -> Any:
    return table.to_pandas(types_mapper=import_module("pandas").ArrowDtype)


PYTHON: dict[str, Callable[[list[Row]], Any]] = {
    "tuples": lambda rows: [tuple(row.values()) for row in rows],
    "lists": lambda rows: [list(row.values()) for row in rows],
    "dicts": lambda rows: [dict(reversed(row.items())) for row in rows],
    "named tuples": _named,
    "dataclasses": _objects,
    "a generator": _generated,
    "an async generator": _generated_async,
}
ARROW: dict[str, Callable[[Any], Any]] = {
    "an Arrow table": lambda table: table,
    "a reader of record batches": lambda table: table.to_reader(max_chunksize=1),
    "pandas": _pandas,
    "polars": lambda table: import_module("polars").from_arrow(table),
    "DuckDB": lambda table: import_module("duckdb").from_arrow(table),
}
# What these libraries do not take from Arrow.
LEFT_OUT = {"polars": {"hstore", "interval(6)"}, "DuckDB": {"interval"}}


class Ground:
    """A table `got` with a column for every kind, a table `want` alike, and the connections to write to it."""

    def __init__(self, database: Database) -> None:
        self.conn = database.connect()
        self._dsn = database.dsn
        self.conn.execute("SET timezone TO 'UTC'; SET extra_float_digits TO 1; SET client_min_messages TO warning")
        there = {row[0] for row in self.conn.execute("SELECT name FROM pg_available_extensions").fetchall()}
        for name in ("citext", "hstore", "ltree"):
            if name in there:
                self.conn.execute(f"CREATE EXTENSION {name}".encode())
        self.conn.execute(TYPES)
        info = TypeInfo.fetch(self.conn, "hstore")
        if info is not None:
            register_hstore(info, self.conn)
        has_xml = self._tells("SELECT '<a/>'::text::xml")
        self.kinds = [k for k in KINDS if (not k.needs or k.needs in there) and (k.sql != "xml" or has_xml)]
        self.names = column_names(self.kinds)
        self.by_name = dict(zip(self.names, self.kinds, strict=True))
        columns = ", ".join(f"{name} {kind.sql}" for name, kind in self.by_name.items())
        for table in ("got", "want"):
            self.conn.execute(f"CREATE UNLOGGED TABLE {table} (n integer, {columns})".encode())
        self._read = ", ".join(kind.read.format(name) for name, kind in self.by_name.items())
        places = ", ".join(["%s"] * (1 + len(self.names)))
        self._insert = f"INSERT INTO want VALUES ({places})".encode()

    def _tells(self, statement: str) -> bool:
        try:
            self.conn.execute(statement.encode())
        except psycopg.errors.FeatureNotSupported:
            return False
        return True

    def rows(self, values: Sequence[dict[str, Any]]) -> list[Row]:
        """Return rows of all columns, numbered."""
        return [{"n": n, **{name: row.get(name) for name in self.names}} for n, row in enumerate(values)]

    def tell(self, rows: Sequence[Row]) -> None:
        """Let the server read rows itself, into `want`."""
        with self.conn.cursor() as cursor, self.conn.transaction():
            cursor.execute("DELETE FROM want")
            said = [
                [row["n"], *(None if row[c] is None else kind.said(row[c]) for c, kind in self.by_name.items())]
                for row in rows
            ]
            cursor.executemany(self._insert, said)

    def read(self, table: str) -> list[tuple[Any, ...]]:
        return self.conn.execute(f"SELECT n, {self._read} FROM {table} ORDER BY n".encode()).fetchall()

    def write(self, rows: Any, **options: Any) -> Any:
        self.conn.execute("DELETE FROM got")
        if not hasattr(rows, "__aiter__"):
            return write.copy(self.conn, "got", rows, **options)
        return asyncio.run(self._write_async(rows, **options))

    async def _write_async(self, rows: Any, **options: Any) -> Any:
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as connection:
            return await write.acopy(connection, "got", rows, **options)

    def differences(self, what: str) -> list[str]:
        """Return what is another in `got` than in `want`, by column."""
        got, want = self.read("got"), self.read("want")
        if len(got) != len(want):
            return [f"{what}: {len(got)} rows, not {len(want)}"]
        return [
            f"{what}: row {found[0]}, {name}: {one!r}, not {other!r}"
            for found, wanted in zip(got, want, strict=True)
            for name, one, other in zip(["n", *self.names], found, wanted, strict=True)
            if one != other
        ]

    def table(self, rows: Sequence[Row], without: set[str]) -> tuple[Any, list[Row]]:
        """Return rows as a table of Arrow, and what of them it has."""
        pa = pytest.importorskip("pyarrow")
        chosen = {
            name: kind for name, kind in self.by_name.items() if kind.arrow is not None and kind.sql not in without
        }
        columns: dict[str, Any] = {"n": pa.array([row["n"] for row in rows], pa.int64())}
        there: list[Row] = [{"n": row["n"], **dict.fromkeys(self.names)} for row in rows]
        for name, kind in chosen.items():
            values = [None if row[name] is None else kind.as_arrow(row[name]) for row in rows]
            assert kind.arrow is not None
            columns[name] = pa.array(values, kind.arrow(pa))
            for row, given_row, value in zip(there, rows, values, strict=True):
                row[name] = None if value is None else given_row[name]
        return pa.table(columns), there


def _installed(name: str) -> bool:
    try:
        import_module({"pandas": "pandas", "polars": "polars", "DuckDB": "duckdb"}.get(name, "pyarrow"))
    except ImportError:
        return False
    return True


@pytest.fixture
def ground(database: Database) -> Ground:
    return Ground(database)


# -- what fits -----------------------------------------------------------------------------------------------------


def _check_all_inputs(ground: Ground, values: Sequence[dict[str, Any]]) -> None:
    failed: list[str] = []

    def check(what: str, rows: Any) -> None:
        try:
            ground.write(rows)
        except Exception as error:  # noqa: BLE001 because all inputs are to be told of, not the first alone
            failed.append(f"{what}: {type(error).__name__}: {error}")
        else:
            failed.extend(ground.differences(what))

    rows = ground.rows(values)
    ground.tell(rows)
    for what, make in PYTHON.items():
        check(what, make(rows))
    for what, make in ARROW.items():
        if _installed(what):
            table, there = ground.table(rows, LEFT_OUT.get(what, set()))
            ground.tell(there)
            check(what, make(table))
    assert not failed, "\n".join(failed)


def _edges(ground: Ground) -> list[dict[str, Any]]:
    most = max(len(kind.edges) for kind in ground.kinds)
    return [{name: kind.edges[n] for name, kind in ground.by_name.items() if n < len(kind.edges)} for n in range(most)]


def _values(ground: Ground) -> st.SearchStrategy[list[dict[str, Any]]]:
    """Values and NULLs mixed, so that the fast ways and the slow ones are all taken."""
    row = st.fixed_dictionaries({name: st.none() | kind.values for name, kind in ground.by_name.items()})
    return st.lists(row, min_size=1, max_size=2)


def _round_trips(ground: Ground, how: settings, start: int | None) -> None:
    @how
    @given(_values(ground))
    @example([])
    @example([{}, {}])
    @example(_edges(ground))
    def check(values: list[dict[str, Any]]) -> None:
        _check_all_inputs(ground, values)

    (check if start is None else seed(start)(check))()


@pytest.mark.versions(15)
def test_every_type_by_every_input(ground: Ground) -> None:
    _round_trips(ground, LIGHT, None)


@pytest.mark.soak
@pytest.mark.versions("all")
def test_every_type_by_every_input_at_length(ground: Ground) -> None:
    start = int(os.environ.get("SOAK_SEED", "1"))
    print(f"types: SOAK_SEED={start}")
    _round_trips(ground, LONG, start)
    _of_other_types(ground, LONG, start)


# -- what does not -------------------------------------------------------------------------------------------------


def _wrong(ground: Ground) -> list[tuple[str, Any, str]]:
    return [
        (name, value, reason)
        for name, kind in ground.by_name.items()
        for value, reason in [*kind.wrong, *_not_there(kind), (Thing(), "Thing")]
    ]


def _not_there(kind: Kind) -> list[tuple[Any, str]]:
    """What pandas has for no value, where its rows are given one by one."""
    if not _installed("pandas"):
        return []
    pandas = import_module("pandas")
    nat = [(pandas.NaT, "NaTType where a date")] if kind.sql in ("date", "timestamp", "timestamptz") else []
    return [*nat, (pandas.NA, "<NA>" if kind.sql == "mood" else "NAType")]


def _letters(ground: Ground) -> list[tuple[int, str | None, str]]:
    found = ground.conn.execute("SELECT row_index, column_name, reason FROM pgscale.dead_letter ORDER BY 1").fetchall()
    ground.conn.execute("DELETE FROM pgscale.dead_letter")
    return found


@pytest.mark.versions(15)
def test_what_does_not_fit_is_named_by_every_input(ground: Ground) -> None:
    """All of it in one call, for each becomes a letter; and one by one, where the call fails."""
    wrong = _wrong(ground)
    rows = ground.rows([{name: value} for name, value, _ in wrong])
    failed: list[str] = []
    for place, (what, make) in enumerate(PYTHON.items()):
        ground.write(make(rows), dead_letters=write.DeadLetters())
        letters = {index: (column, reason) for index, column, reason in _letters(ground)}
        for n, (name, value, part) in enumerate(wrong):
            column, reason = letters.get(n, (None, "it was written"))
            if column != name or part not in reason:
                failed.append(f"{what}: row {n}, {name}, {value!r:.60}: {column}: {reason}")
        assert len(ground.read("got")) == len(wrong) - len(letters)
        for n in range(place, len(wrong), 3 * len(PYTHON)):
            name, value, part = wrong[n]
            some = ground.rows([{}, {}, {name: value}, {}])
            try:
                ground.write(make(some))
            except write.RowError as error:
                if (error.row, error.column) == (2, name) and part in str(error):
                    continue
                failed.append(f"{what}: {name}, {value!r:.60}: {error}")
            else:
                failed.append(f"{what}: {name}, {value!r:.60}: it was written")
    assert not failed, "\n".join(failed)


@pytest.mark.versions(15)
def test_what_arrow_brings_and_does_not_fit_is_named(ground: Ground) -> None:
    """Bytes that are no text of anything, in every column; and text where bytes are wanted."""
    pa = pytest.importorskip("pyarrow")
    columns: dict[str, Any] = {}
    for n, (name, kind) in enumerate(ground.by_name.items()):
        value, arrow = ("x", pa.string()) if kind.sql == "bytea" else (b"\xff", pa.binary())
        columns[name] = pa.array([value if row == n else None for row in range(len(ground.names))], arrow)
    for what, make in ARROW.items():
        if _installed(what):
            assert ground.write(make(pa.table(columns)), dead_letters=write.DeadLetters()).rows == 0, what
            letters = _letters(ground)
            assert [(index, column) for index, column, _ in letters] == list(enumerate(ground.names)), what
            assert all(reason for _, _, reason in letters), what


# -- values of one type in the column of another -------------------------------------------------------------------


def _of_other_types(ground: Ground, how: settings, start: int | None) -> None:
    """What is taken after all is what the server makes of it; the rest is refused by row and column."""
    anything = st.one_of([kind.values for kind in ground.kinds])
    ground.write([(1, *[Thing()] * len(ground.names))], dead_letters=write.DeadLetters())
    _letters(ground)

    @how
    @given(st.lists(anything, min_size=len(ground.names), max_size=len(ground.names)))
    def check(values: list[Any]) -> None:
        rows = ground.rows([{name: value} for name, value in zip(ground.names, values, strict=True)])
        ground.write([tuple(row.values()) for row in rows], dead_letters=write.DeadLetters())
        letters = _letters(ground)
        for index, column, reason in letters:
            assert column == ground.names[index], (values[index], reason)
            assert reason
        refused = {index for index, _, _ in letters}
        ground.tell([row for row in rows if row["n"] not in refused])
        assert not (found := ground.differences("tuples")), "\n".join(found)

    (check if start is None else seed(start)(check))()


@pytest.mark.versions(15)
def test_values_of_other_types(ground: Ground) -> None:
    _of_other_types(ground, LIGHT, None)


# -- types that have no form here ----------------------------------------------------------------------------------

HAVE_A_FORM = {
    "bool", "bytea", "char", "name", "int8", "int2", "int4", "text", "oid", "json", "xml", "cidr", "float4", "float8",
    "macaddr8", "macaddr", "inet", "bpchar", "varchar", "date", "time", "timestamp", "timestamptz", "interval",
    "timetz", "bit", "varbit", "numeric", "uuid", "jsonb",
}  # fmt: skip


@pytest.mark.versions("all")
def test_every_other_type_of_the_server_is_refused_by_name(database: Database) -> None:
    """Whatever is in pg_type: also what a server brings that is newer than this; by itself and inside of others."""
    conn = database.connect()
    found = conn.execute(
        "SELECT t.typname::text FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace"
        " WHERE n.nspname = 'pg_catalog' AND t.typtype = 'b' AND t.typinput <> 0 AND NOT EXISTS"
        " (SELECT FROM pg_type e WHERE e.typarray = t.oid) AND t.typname NOT LIKE 'pg_node_tree' ORDER BY 1"
    ).fetchall()
    others = [row[0] for row in found if row[0] not in HAVE_A_FORM]
    assert {"money", "point", "tsvector", "int2vector", "regclass", "pg_lsn"} <= set(others)
    assert {row[0] for row in found} >= HAVE_A_FORM
    conn.execute(
        "CREATE TYPE holder AS (a integer, p point); CREATE DOMAIN far AS path;"
        "CREATE TYPE span AS RANGE (subtype = money)"
    )
    columns = {name: sql.SQL("pg_catalog.{}").format(sql.Identifier(name)) for name in others}
    for name in ("money[]", "holder", "far", "far[]", "span"):
        columns[name] = sql.SQL(name)  # pyright: ignore[reportArgumentType] because it is one of these
    spelled = sql.SQL(", ").join(sql.SQL("{} {}").format(sql.Identifier(name), kind) for name, kind in columns.items())
    conn.execute(sql.SQL("CREATE TABLE t (n integer, {})").format(spelled))
    with pytest.raises(RefusedError) as raised:
        write.copy(conn, "t", [(1, *[None] * len(columns))])
    told = {reason.split(" has type ")[0].removeprefix("Column "): reason for reason in raised.value.reasons}
    assert set(told) == set(columns)
    inner = {"money[]": "money", "holder": "point", "far": "path", "far[]": "path", "span": "money"}
    for name, reason in told.items():
        assert reason.endswith(f"no binary form is known for {inner.get(name, name)}."), reason
    # They may be left out, but for those that the server itself cannot read in binary.
    with pytest.raises(
        RefusedError, match=r"aclitem, which the server reads as text only: no binary COPY into"
    ) as raised:
        write.copy(conn, "t", [(1,)], ["n"])
    for reason in raised.value.reasons:
        name = reason.split(" has type ")[0].removeprefix("Column ")
        conn.execute(sql.SQL("ALTER TABLE t DROP {}").format(sql.Identifier(name)))
    assert write.copy(conn, "t", [(1,)], ["n"]).rows == 1
