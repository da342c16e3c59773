"""`partition advise`: which keys come into question, how they are judged, and what is said where little is known."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner

import test_plan
from pgscale import partition
from pgscale.catalog.model import Column, ColumnStatistics, Index, Table, TableFacts
from pgscale.cli.partition import partition as command
from pgscale.core.model import QName
from pgscale.embedded import Server
from pgscale.errors import RefusedError, UsageError
from pgscale.partition import Advice, Candidate
from pgscale.partition.advice.model import ColumnEvidence, Evidence, Memory, StatementSource
from pgscale.partition.advice.plan import advise_from
from pgscale.partition.advice.sizes import choose_hashes, choose_period, choose_step
from pgscale.partition.advice.statements import parse_statements
from pgscale.partition.bounds import parse_by, show_by
from pgscale.partition.pruning import Target, judge_text
from pgscale.partition.skew import read_spread
from pgscale.partition.workload import CountedStatement, find_uses, look_at
from support.servers import Database

T = TypeVar("T")
GB = 1024**3
ORDERS = QName(schema="public", name="orders")

# --- what statements do -----------------------------------------------------------------------------------

COLUMNS = frozenset({"id", "tenant", "at", "n"})
USES: tuple[tuple[str, dict[str, object] | None], ...] = (
    ("INSERT INTO orders (id) VALUES ($1) ON CONFLICT (id) DO NOTHING", {"on_conflict": True, "arbiters": {"id"}}),
    (
        "INSERT INTO public.orders AS o VALUES ($1) ON CONFLICT (id, tenant) DO UPDATE SET at = $2",
        {"on_conflict": True, "arbiters": {"id", "tenant"}, "sets": {"at"}},
    ),
    ("INSERT INTO orders VALUES ($1) ON CONFLICT ON CONSTRAINT orders_pkey DO NOTHING", {"on_conflict": True}),
    ("INSERT INTO orders VALUES ($1) ON CONFLICT (lower(n)) DO NOTHING", {"on_conflict": True}),
    ("INSERT INTO others SELECT * FROM orders ON CONFLICT (id) DO NOTHING", {}),
    ("INSERT INTO orders VALUES ($1)", {}),
    ("SELECT * FROM orders WHERE id = $1 FOR UPDATE", {"locks_rows": True}),
    ("SELECT * FROM orders o JOIN users u USING (id) FOR NO KEY UPDATE OF o SKIP LOCKED", {"locks_rows": True}),
    ("SELECT * FROM orders WHERE id = $1 FOR SHARE", {"locks_rows": True}),
    ("SELECT * FROM orders WHERE id IN (SELECT id FROM users FOR UPDATE)", {}),
    ("UPDATE orders SET n = n + $1 WHERE id IN (SELECT id FROM orders WHERE n = 0 FOR UPDATE SKIP LOCKED)",
     {"locks_rows": True, "sets": {"n"}}),
    ("UPDATE orders SET (at, n) = ($1, $2) WHERE id = $3", {"sets": {"at", "n"}}),
    ("UPDATE users SET at = $1 FROM orders WHERE orders.id = users.id", {}),
    ("TRUNCATE orders", {"truncates": True}),
    ("truncate table orders restart identity", {"truncates": True}),
    ("VACUUM orders", None),
    ("DELETE FROM orders WHERE at < $1", {"deletes_below": {"at"}}),
    ("DELETE FROM orders WHERE at <= now() - interval $1 AND n = $2", {"deletes_below": {"at"}}),
    ("DELETE FROM orders WHERE $1 > at", {"deletes_below": {"at"}}),
    ("DELETE FROM orders WHERE at BETWEEN $1 AND $2", {"deletes_below": {"at"}}),
    (
        "DELETE FROM orders WHERE ctid IN (SELECT ctid FROM orders WHERE at < $1 LIMIT $2)",
        {"deletes_below": {"at"}},
    ),
    ("WITH gone AS (DELETE FROM orders WHERE at < $1 RETURNING *) INSERT INTO archive SELECT * FROM gone",
     {"deletes_below": {"at"}}),
    ("DELETE FROM orders WHERE at > $1", {}),
    ("DELETE FROM orders WHERE at < $1 OR n = $2", {}),
    ("DELETE FROM orders WHERE at < n", {}),
    ("DELETE FROM users WHERE at < $1 AND id IN (SELECT id FROM orders)", {}),
    ("SELECT FROM FROM orders WHERE", None),
    ("SELECT 1", None),
)  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), USES, ids=[text[:70] for text, _ in USES])
def test_what_a_statement_does_is_read_from_its_text(text: str, expected: dict[str, object] | None) -> None:
    found = find_uses(ORDERS, COLUMNS, (CountedStatement(text=text, calls=1, total_ms=1.0),))
    if expected is None:
        assert found == ()
        return
    (use,) = found
    arbiters = {column for group in use.arbiters for column in group}
    got = {
        "on_conflict": use.on_conflict,
        "arbiters": arbiters,
        "locks_rows": use.locks_rows,
        "truncates": use.truncates,
        "sets": set(use.sets),
        "deletes_below": set(use.deletes_below),
    }
    blank: dict[str, object] = {
        "on_conflict": False,
        "arbiters": set(),
        "locks_rows": False,
        "truncates": False,
        "sets": set(),
        "deletes_below": set(),
    }
    assert got == blank | expected


KEYS = ("hash:tenant", "hash:id", "hash:amount", "range:at:month", "list:flag", "list:Kind", "hash:id,tenant", "hash:z")


def test_many_keys_are_judged_as_each_alone() -> None:
    """A key that a text does not name is not judged anew; the verdict must be the same."""
    texts = [*dict.fromkeys(text for _, text, _ in test_plan.JUDGED), "SELECT * FROM users NATURAL JOIN orders"]
    columns = test_plan.COLUMNS | {"z"}
    statements = tuple(CountedStatement(text=text, calls=1, total_ms=1.0) for text in texts)
    keys = tuple(parse_by(by) for by in KEYS)
    look = look_at(ORDERS, columns, keys, statements)
    for by, judged in zip(keys, look.judged, strict=True):
        target = Target(table=ORDERS, columns=columns, by=by)
        alone = {" ".join(text.split()): judge_text(target, text) for text in texts}
        assert {s.text: s.verdict for s in judged} == {t: v for t, v in alone.items() if v is not None}


# --- a file of statements ---------------------------------------------------------------------------------

FILE = """
-- The application's day. calls: 3 is no number of ours here
-- calls: 1,200
-- mean_ms: 1.5
SELECT * -- calls: 99
FROM orders WHERE tenant = $1; -- calls: 9
/* a comment; /* nested; */ with calls: 5 */
SELECT ';' AS "semi;colon", $$ it's; $$, E'\\';' FROM orders WHERE id = 1;
-- calls: 7
SELECT * FROM orders_items;
-- calls: 40
DELETE FROM public."orders" WHERE at < now()
"""


def test_a_file_of_statements_is_split_and_counted() -> None:
    found = parse_statements(FILE, ORDERS)
    assert found.is_timed
    assert [(s.calls, s.total_ms, s.text.split()[0]) for s in found.statements] == [
        (1200, 1800.0, "SELECT"),
        (40, 40.0, "DELETE"),
        (9, 9.0, "SELECT"),
    ]
    assert found.statements[2].text.endswith("WHERE id = 1")
    assert "it's;" in found.statements[2].text
    assert not parse_statements("SELECT * FROM orders", ORDERS).is_timed


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "holds none"),
        ("-- only a comment\n;;", "holds none"),
        ("-- calls: many\nSELECT * FROM orders;", "no number"),
        ("-- calls: -5\nSELECT * FROM orders;", "no number"),
        ("-- mean_ms: nan\nSELECT * FROM orders;", "no number"),
        ("SELECT 1;\nSELECT 'orders", "the file of statements:2: the string does not end"),
        ("\\d orders", "is a command of psql"),
    ],
)
def test_a_file_that_says_nothing_is_refused(text: str, error: str) -> None:
    with pytest.raises(UsageError, match=error):
        parse_statements(text, ORDERS)


def test_no_file_crashes_the_reader() -> None:
    for text in ("SELECT '", '"', "$$", "/* /*", "SELECT $a$ ; $b$", "--", "a;" * 1000, "\x00;"):
        with contextlib.suppress(UsageError):
            parse_statements(text, ORDERS)


# --- sizes ------------------------------------------------------------------------------------------------

MEMORY = Memory(cache_bytes=16 * GB, is_default=False)  # so 2 GB are aimed at


def _days(count: int, statistics: ColumnStatistics | None = None) -> Any:
    """The histogram of a time column filled evenly over so many days up to 2024-12-31."""
    from datetime import date, timedelta  # noqa: PLC0415 because only here

    last = date(2024, 12, 31)
    bounds = [str(last - timedelta(days=round(count * (100 - n) / 100))) for n in range(101)]
    return read_spread(list(dict.fromkeys(bounds)), statistics or _statistics(-0.5))


def _statistics(n_distinct: float, *frequencies: float, **more: Any) -> ColumnStatistics:
    given: dict[str, Any] = {
        "n_distinct": n_distinct,
        "null_frac": 0.0,
        "correlation": None,
        "frequencies": list(frequencies) or None,
        "values": [str(n) for n in range(len(frequencies))] or None,
    }
    return ColumnStatistics(**(given | more))


@pytest.mark.parametrize(
    ("days", "size", "period"),
    [
        (730, 48 * GB, "month"),  # 66 MB a day: 2.0 GB a month
        (730, 12 * GB, "quarter"),
        (730, 4 * GB, "year"),
        (365, 100 * GB, "week"),
        (100, 200 * GB, "day"),
        (3650, 20_000 * GB, "month"),  # by size a day or less; those would be thousands
    ],
)
def test_a_period_is_chosen_by_growth(days: int, size: int, period: str) -> None:
    chosen = choose_period(_days(days), size, MEMORY, by_day=False)
    assert chosen.step == period, chosen.why
    assert "2048 MB, an eighth of effective_cache_size 16 GB" in chosen.why
    if days == 3650:
        assert "would be more than 400 partitions" in chosen.why


def test_a_date_is_not_divided_into_hours() -> None:
    assert choose_period(_days(10), 1000 * GB, MEMORY, by_day=True).step == "day"
    assert choose_period(_days(10), 1000 * GB, MEMORY, by_day=False).step == "1 hour"


def test_recent_growth_counts_not_the_mean() -> None:
    """All but a thirtieth of the rows came in the last month of the year."""
    bounds = ["2024-01-01", *(f"2024-12-{day:02d}" for day in range(1, 31))]
    spread = read_spread(bounds, _statistics(-0.5))
    assert spread is not None
    chosen = choose_period(spread, 60 * GB, MEMORY, by_day=True)
    assert chosen.step == "day"
    assert choose_period(_days(365), 60 * GB, MEMORY, by_day=True).step == "week"


@pytest.mark.parametrize(
    ("rows", "most", "size", "step"),
    [
        (100_000_000, 100_000_000, 40 * GB, "5000000"),  # 430 bytes a row: 5 million make 2 GB
        (100_000_000, 1_000_000_000, 40 * GB, "50000000"),  # nine of ten numbers are missing
        (1_000, 1_000, GB // 1024, "2000000"),
        (10**9, 10**9, 400_000 * GB, "5000000"),  # never more than 400 of them
    ],
)
def test_a_step_is_chosen_by_density(rows: int, most: int, size: int, step: str) -> None:
    spread = read_spread([str(n * most // 100) for n in range(101)], _statistics(-1))
    assert choose_step(spread, size, rows, MEMORY).step == step


@pytest.mark.parametrize(
    ("size", "distinct", "count"),
    [(40 * GB, 1e6, "64"), (GB, 1e6, "4"), (9_000 * GB, 1e9, "256"), (400 * GB, 100, "16"), (40 * GB, None, "64")],
)
def test_hashes_are_a_power_of_two_with_room(size: int, distinct: float | None, count: str) -> None:
    assert choose_hashes(size, MEMORY, distinct).step == count


@pytest.mark.parametrize(
    "by", ["hash:id", "hash:id,tenant", "range:at:month", 'list:"Kind of, it"', 'range:"a:b":6 hours']
)
def test_a_key_is_shown_as_it_is_read(by: str) -> None:
    assert show_by(parse_by(by)) == by


# --- judging ----------------------------------------------------------------------------------------------


def _blank(kind: type[T], /, **given: Any) -> T:
    """A value with every field it was not given false, zero or empty."""
    empty = {"int": 0, "str": "", "bool": False, "float": 0.0}
    made: dict[str, Any] = {}
    for field in fields(kind):  # pyright: ignore[reportArgumentType] because each is a dataclass
        text = str(field.type)
        made[field.name] = (
            None
            if text.endswith("None")
            else ()
            if text.startswith("tuple")
            else []
            if text.startswith("list")
            else frozenset[str]()
            if text.startswith("frozenset")
            else empty.get(text)
        )
    return kind(**(made | given))


def _column(number: int, name: str, kind: str, **more: Any) -> Column:
    given: dict[str, Any] = {
        "number": number,
        "name": name,
        "type": kind,
        "type_kind": "b",
        "not_null": True,
        "is_builtin_type": True,
        "not_null_is_plain": True,
        "has_hash_opclass": True,
        "has_btree_opclass": True,
        "equals": "OPERATOR(pg_catalog.=)",
    }
    return _blank(Column, **(given | more))


def _key(number: int, name: str, *columns: str, primary: bool = True) -> Index:
    return _blank(
        Index,
        oid=number,
        name=name,
        tail="USING btree",
        is_unique=True,
        is_primary=primary,
        is_valid=True,
        is_immediate=True,
        key_columns=list(columns),
        key_operators=["OPERATOR(pg_catalog.=)"] * len(columns),
        own_collation=[False] * len(columns),
    )


PLAIN = _blank(
    TableFacts,
    server_version=170000,
    table=_blank(
        Table, oid=1, schema="public", name="orders", kind="r", persistence="p", is_owner=True, reltuples=100e6,
        heap_bytes=40 * GB, index_bytes=8 * GB, block_bytes=8192, owner="app",
    ),
    columns=(
        _column(1, "id", "bigint", identity="a"),
        _column(2, "tenant", "integer"),
        _column(3, "at", "timestamp with time zone"),
        _column(4, "kind", "text"),
        _column(5, "note", "text", not_null=False),
    ),
    indexes=(_key(10, "orders_pkey", "id"),),
)  # fmt: skip
IDS = [str(n * 1_000_000) for n in range(101)]
AT = [f"20{23 + n // 52}-{1 + n % 52 // 4.34:02.0f}-01 00:00:00+00" for n in range(104)]
KNOWN = (
    ColumnEvidence(name="id", statistics=_statistics(-1, correlation=1.0), histogram=tuple(IDS)),
    ColumnEvidence(
        name="tenant", statistics=_statistics(20_000, 0.01, 0.01), histogram=("2", "20000"), hashes=(7, 12)
    ),
    ColumnEvidence(
        name="at", statistics=_statistics(-0.9, correlation=0.99), histogram=tuple(sorted(set(AT)))
    ),
    ColumnEvidence(name="kind", statistics=_statistics(4, 0.7, 0.1, 0.1, 0.1)),
)  # fmt: skip
LOOKUPS = ("SELECT * FROM orders WHERE tenant = $1 AND at > $2", 1000, 5000.0)
BY_ID = ("SELECT * FROM orders WHERE id = $1", 10_000, 1000.0)
RECENT = ("SELECT * FROM orders WHERE at BETWEEN $1 AND $2", 100, 20_000.0)
PURGE = ("DELETE FROM orders WHERE at < $1", 30, 9000.0)
UPSERT = ("INSERT INTO orders VALUES ($1) ON CONFLICT (id) DO NOTHING", 500, 100.0)
ALL = ("SELECT count(*) FROM orders", 10, 50_000.0)


def _evidence(*statements: tuple[str, int, float], **more: Any) -> Evidence:
    given: dict[str, Any] = {
        "facts": PLAIN,
        "columns": KNOWN,
        "combinations": (),
        "memory": MEMORY,
        "source": StatementSource(
            name="pg_stat_statements",
            statements=tuple(CountedStatement(text=t, calls=c, total_ms=ms) for t, c, ms in statements),
        ),
        "unchecked": (),
    }
    return Evidence(**(given | more))


def _found(advice: Advice, by: str) -> Candidate:
    (found,) = [c for c in advice.candidates if c.by == by]
    return found


def test_each_column_makes_the_candidates_that_fit_it() -> None:
    advice = advise_from(_evidence(BY_ID))
    kinds = {(c.proposal.by.method, c.proposal.by.columns) for c in advice.candidates}
    assert kinds == {
        ("range", ("id",)),
        ("hash", ("id",)),
        ("hash", ("tenant",)),
        ("range", ("at",)),
        ("list", ("kind",)),
    }
    composite = replace(PLAIN, indexes=(_key(10, "orders_pkey", "tenant", "id"),))
    advice = advise_from(_evidence(BY_ID, facts=composite))
    assert "hash:id,tenant" in {c.by for c in advice.candidates}
    assert not _found(advice, "hash:tenant").grown


RANKED = (
    ("lookups by id", (BY_ID,), "range:id"),
    ("reports over time", (RECENT,), "range:at"),
    ("lookups by id, and old rows deleted", (BY_ID, (*PURGE[:2], 50_000.0)), "range:at"),
    ("most calls by id, most time by time", (BY_ID, RECENT), "range:at"),
    ("lookups by tenant", (("SELECT * FROM orders WHERE tenant = $1", 1, 1.0),), "hash:tenant"),
)


@pytest.mark.parametrize(("statements", "best"), [c[1:] for c in RANKED], ids=[c[0] for c in RANKED])
def test_what_the_workload_does_decides(statements: tuple[tuple[str, int, float], ...], best: str) -> None:
    advice = advise_from(_evidence(*statements))
    assert advice.best is not None
    assert advice.best.by.split(":")[:2] == best.split(":")[:2], [(c.by, c.points) for c in advice.candidates]
    assert advice.worth == "worthwhile"


def test_shares_of_time_and_calls_are_told() -> None:
    advice = advise_from(_evidence(LOOKUPS, BY_ID, RECENT, PURGE, UPSERT))
    at = _found(advice, next(c.by for c in advice.candidates if c.by.startswith("range:at")))
    assert at.pruning is not None
    assert at.pruning.statements == 4  # the INSERT reads nothing
    assert at.pruning.pruned_time == pytest.approx(34 / 35)
    assert at.pruning.pruned_calls == pytest.approx(1130 / 11_130)
    said = " ".join(at.reasons)
    assert "3 of 4 statements can be pruned by it: 97% of the time and 10% of 11,130 calls for certain" in said
    assert "Old rows are deleted by at: 30 calls, 26% of the time" in said
    assert (
        "(id) becomes (id, at), so (id) alone may repeat. 500 calls of INSERT … ON CONFLICT (id) must name (id, at)"
        in said
    )
    assert "Not pruned: 10,000 calls, each of which opens" in said
    assert "SELECT * FROM orders WHERE id = $1" in said
    assert "before PostgreSQL 18" in said
    assert at.command == f"pgscale partition plan public.orders --by {at.by} --accept-key-change"
    by_hash = _found(advice, "hash:id")
    assert by_hash.command == "pgscale partition plan public.orders --by hash:id --partitions 64"
    assert "No unique key must grow." in by_hash.reasons


def test_an_uneven_key_loses_points() -> None:
    advice = advise_from(_evidence(LOOKUPS))
    kind = _found(advice, "list:kind")
    assert kind.proposal.skew is not None
    assert kind.proposal.skew.largest_over_mean == pytest.approx(2.8)
    assert any("2.8 times the mean, 70,000,000 rows. Uneven." in r for r in kind.reasons)
    points = {p.name: p.got for p in kind.points}
    assert points["evenness"] == pytest.approx(15 / 2.8)


def test_common_values_lie_where_their_hash_puts_them() -> None:
    for hashes, largest in (((7, 12), 0.3), ((7, 7 + 64), 0.6)):
        heavy = replace(KNOWN[1], statistics=_statistics(20_000, 0.3, 0.3), hashes=hashes)
        by_hash = _found(advise_from(_evidence(LOOKUPS, columns=(KNOWN[0], heavy, *KNOWN[2:]))), "hash:tenant")
        assert by_hash.proposal.skew is not None
        assert by_hash.proposal.partitions == 64
        assert by_hash.proposal.skew.largest_over_mean == pytest.approx(64 * largest + 0.4, rel=0.01)


def test_a_key_that_is_changed_loses_points() -> None:
    change = ("UPDATE orders SET tenant = $1 WHERE id = $2", 5000, 100.0)
    still, moved = (advise_from(_evidence(LOOKUPS, *more)) for more in ((), (change,)))
    assert any("5,000 calls (83%) change tenant" in r for r in _found(moved, "hash:tenant").reasons)
    assert {p.name: p.got for p in _found(moved, "hash:tenant").points}["moves"] == -25
    assert "moves" not in {p.name for p in _found(still, "hash:tenant").points}
    assert not any("change" in r for r in _found(moved, "hash:id").reasons)


def test_what_plan_would_refuse_comes_last() -> None:
    nullable = replace(KNOWN[2], statistics=replace(KNOWN[2].statistics, null_frac=0.25))
    facts = replace(PLAIN, columns=(*PLAIN.columns[:2], replace(PLAIN.columns[2], not_null=False), *PLAIN.columns[3:]))
    advice = advise_from(_evidence(RECENT, facts=facts, columns=(*KNOWN[:2], nullable, KNOWN[3])))
    last = advice.candidates[-1]
    assert last.by.startswith("range:at")
    assert "Column at is NULL in 25.0% of the rows, which has no place in a range." in last.blockers
    assert not advice.candidates[0].blockers
    ruled = replace(PLAIN, table=replace(PLAIN.table, has_rules=True))
    advice = advise_from(_evidence(RECENT, facts=ruled))
    assert any("has rules" in b for b in advice.blockers)
    assert not any("rules" in b for c in advice.candidates for b in c.blockers)
    assert advice.best is None


WORTH = (
    ("no condition prunes", (ALL,), {}, "useless", "No candidate prunes more than 0%"),
    ("fits into memory", (BY_ID,), {"memory": Memory(cache_bytes=500 * GB, is_default=True)}, "premature",
     "48 GB with its indexes and fits into memory (effective_cache_size, 500 GB (its default"),
    ("grows out of memory", (BY_ID,), {"memory": Memory(cache_bytes=60 * GB, is_default=False)}, "worthwhile",
     "outgrows memory (effective_cache_size, 60 GB) in"),
    ("fits, but deletes by time", (BY_ID, PURGE), {"memory": Memory(cache_bytes=500 * GB, is_default=True)},
     "worthwhile", "Old rows are deleted by time (30 calls)"),
    ("larger than memory", (BY_ID,), {}, "worthwhile", "48 GB with its indexes, more than memory"),
    ("workload unknown", (), {"source": None}, "unknown", "those that read the table were not checked"),
    ("never read", (UPSERT,), {}, "unknown", "those that read the table were not seen"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("statements", "more", "worth", "because"), [case[1:] for case in WORTH], ids=[case[0] for case in WORTH]
)
def test_whether_it_is_worth_it(
    statements: tuple[tuple[str, int, float], ...], more: dict[str, Any], worth: str, because: str
) -> None:
    advice = advise_from(_evidence(*statements, **more))
    assert advice.worth == worth, advice.because
    assert because in " ".join(advice.because)


def test_without_statistics_types_and_keys_are_judged() -> None:
    facts = replace(PLAIN, table=replace(PLAIN.table, reltuples=-1.0))
    advice = advise_from(_evidence(BY_ID, facts=facts, columns=()))
    assert {c.by.split(":")[0] + c.by.split(":")[1] for c in advice.candidates} == {"rangeid", "hashid", "rangeat"}
    assert all(c.proposal.skew is None for c in advice.candidates)
    assert any("no statistics to go by" in c.proposal.sizing for c in advice.candidates)
    assert 0 < advice.candidates[0].score <= 100


def test_a_table_without_a_fitting_column() -> None:
    facts = replace(PLAIN, columns=(_column(1, "note", "jsonb"),), indexes=())
    advice = advise_from(_evidence(BY_ID, facts=facts, columns=()))
    assert (advice.worth, advice.candidates, advice.best) == ("useless", (), None)


# --- on a server ------------------------------------------------------------------------------------------

EVENTS = """
CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant int NOT NULL,
  at timestamptz NOT NULL, kind text NOT NULL, "Big One" int NOT NULL, payload jsonb);
INSERT INTO events (tenant, at, kind, "Big One", payload)
  SELECT hashint4(g) % 500, '2024-01-01'::timestamptz + g * interval '20 minutes', 'k' || g % 5,
    CASE WHEN g % 10 < 8 THEN 7 ELSE g END, '{}'
  FROM generate_series(1, 20000) g;
ANALYZE events
"""
WORKLOAD = """
-- calls: 5000
-- mean_ms: 2
SELECT * FROM events WHERE at >= $1 AND at < $2;
-- calls: 300
-- mean_ms: 1
SELECT * FROM events WHERE tenant = $1 AND at > now() - interval '7 days';
-- calls: 50
-- mean_ms: 20
SELECT * FROM events WHERE id = 42;
-- calls: 30
-- mean_ms: 100
DELETE FROM events WHERE at < now() - interval '90 days';
"""


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    file = tmp_path / "workload.sql"
    file.write_text(WORKLOAD)
    return file


def _small_memory(database: Database) -> None:
    with database.connect_superuser() as admin:
        admin.execute(f"ALTER DATABASE {database.name} SET effective_cache_size = '1MB'")  # pyright: ignore[reportArgumentType, reportCallIssue] because names vary


@pytest.mark.versions("all")
def test_advice_on_a_file_of_statements_leads_to_a_plan(database: Database, workload: Path) -> None:
    with database.connect() as conn:
        conn.execute(EVENTS)
    _small_memory(database)
    advice = partition.advise(database.dsn, "events", workload)
    assert advice.worth == "worthwhile"
    assert advice.source == "workload.sql"
    best = advice.best
    assert best is not None
    assert best.by.startswith("range:at:")
    assert best.pruning is not None
    # 13,300 of 14,300 ms: all but the lookups by id.
    assert best.pruning.pruned_time == pytest.approx(13_300 / 14_300)
    assert [key.name for key in best.grown] == ["events_pkey"]
    said = " ".join(best.reasons)
    assert "Old rows are deleted by at: 30 calls" in said
    assert "(correlation 1.00): new rows go to the newest partition" in said
    skewed = _found(advice, next(c.by for c in advice.candidates if c.by.startswith('hash:"Big One"')))
    assert skewed.proposal.skew is not None
    assert skewed.proposal.skew.largest_over_mean > 0.8 * skewed.proposal.partitions * 0.9
    step = _found(advice, next(c.by for c in advice.candidates if c.by.startswith("range:id:")))
    assert not step.grown
    kinds = _found(advice, "list:kind")
    assert kinds.proposal.skew is not None
    assert kinds.proposal.skew.largest_over_mean == pytest.approx(1.0, abs=0.1)

    # What is printed can be run.
    for candidate in (best, skewed, step, kinds):
        program, group, *words = shlex.split(candidate.command)
        assert (program, group) == ("pgscale", "partition")
        done = CliRunner().invoke(command, [*words, "--dsn", database.dsn, "--json"])
        assert done.exit_code == 0, done.output
        made = json.loads(done.output)
        count = len([p for p in made["partitions"] if p["bound"] != "DEFAULT"])
        assert count == candidate.proposal.partitions


def test_the_answer_for_a_person_and_as_json(database: Database, workload: Path) -> None:
    with database.connect() as conn:
        conn.execute(EVENTS)
    arguments = ["advise", "public.events", "--queries", str(workload), "--dsn", database.dsn]
    shown = CliRunner().invoke(command, arguments)
    assert shown.exit_code == 0, shown.output
    output = " ".join(shown.output.split())
    assert "public.events: partitioning is worthwhile" in output
    assert "fits into memory (effective_cache_size" in output
    assert "1. range:at:" in output
    assert "Next: pgscale partition plan public.events --by range:at:" in output
    assert max(map(len, shown.output.splitlines())) <= 130
    data = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).output)
    assert data["worth"] == "worthwhile"
    assert data["best"] == data["candidates"][0]["by"]
    assert data["command"] == data["candidates"][0]["command"]
    assert data["candidates"][0]["keys_that_grow"][0]["grows_by"] == ["at"]
    assert sum(p["got"] for p in data["candidates"][0]["points"].values()) > 0
    verbose = CliRunner().invoke(command, [*arguments, "--verbose"])
    assert len(verbose.output) > len(shown.output)


@pytest.mark.versions(15)
def test_the_statements_that_really_ran_decide(
    private_server: Callable[..., Server], database_factory: Callable[..., Database]
) -> None:
    database = database_factory(private_server({"shared_preload_libraries": "pg_stat_statements"}, version=15))
    with database.connect_superuser() as admin, database.connect() as conn:
        admin.execute("CREATE EXTENSION pg_stat_statements")
        conn.execute(EVENTS)
        admin.execute("SELECT pg_stat_statements_reset()")
        for number in range(20):
            conn.execute("SELECT count(*) FROM events WHERE tenant = %s", (number,))
        conn.execute("SELECT * FROM events WHERE id = 5")
    advice = partition.advise(database.dsn, "public.events")
    assert advice.source.startswith("pg_stat_statements since 20")
    best = advice.best
    assert best is not None
    assert best.by.startswith("hash:tenant")
    assert best.pruning is not None
    assert (best.pruning.calls, best.pruning.pruned_calls) == (21, pytest.approx(20 / 21))
    again = partition.advise(database.dsn, "public.events")
    assert again.best is not None
    assert again.best.pruning is not None
    # Asking is no workload.
    assert again.best.pruning.calls == 21
    with database.connect_superuser() as admin:
        admin.execute("SELECT pg_stat_statements_reset()")
        admin.execute("SELECT max(payload::text) FROM events")
        admin.execute(f"GRANT pg_read_all_stats TO {database.owner}")  # pyright: ignore[reportArgumentType, reportCallIssue] because names vary
    advice = partition.advise(database.dsn, "public.events")
    assert advice.worth == "useless"


def test_a_small_table_is_told_so(database: Database, workload: Path, tmp_path: Path) -> None:
    with database.connect() as conn:
        conn.execute(EVENTS)
    file = tmp_path / "lookups.sql"
    file.write_text("SELECT * FROM events WHERE id = $1")
    advice = partition.advise(database.dsn, "events", file)
    assert advice.worth == "premature"
    assert any("fits into memory (effective_cache_size, 4096 MB (its default" in b for b in advice.because)


def test_a_table_that_was_never_analyzed(database: Database, workload: Path) -> None:
    with database.connect() as conn:
        conn.execute(EVENTS.replace("ANALYZE events", "").replace("CREATE TABLE events (", "CREATE TABLE events ("))
        conn.execute("ALTER TABLE events SET (autovacuum_enabled = off)")
    advice = partition.advise(database.dsn, "events", workload)
    assert advice.rows == 0
    assert any("statistics were not checked, because public.events was never analyzed" in u for u in advice.unchecked)
    assert advice.best is not None
    assert advice.best.by == "range:at:month"


@pytest.mark.versions(14, 18)
def test_a_role_without_rights_gets_what_it_may_see(database: Database, workload: Path) -> None:
    role = database.create_role("reader")
    with database.connect() as conn:
        conn.execute(EVENTS)
    advice = partition.advise(database.dsn_as(role), "public.events", workload)
    assert any(
        "statistics were not checked, because there is no SELECT right on id, tenant" in u for u in advice.unchecked
    )
    assert advice.rows == 20_000
    assert advice.best is not None
    assert advice.best.by == "range:at:month"
    with database.connect() as conn:
        conn.execute(f"GRANT SELECT (at, kind) ON events TO {role}")  # pyright: ignore[reportArgumentType, reportCallIssue] because names vary
    advice = partition.advise(database.dsn_as(role), "public.events", workload)
    (said,) = [u for u in advice.unchecked if "statistics" in u]
    assert "there is no SELECT right on id, tenant, Big One" in said
    assert any(c.by == "list:kind" for c in advice.candidates)
    with database.connect() as conn:
        conn.execute("ALTER TABLE events ENABLE ROW LEVEL SECURITY")
        conn.execute(f"GRANT SELECT ON events TO {role}")  # pyright: ignore[reportArgumentType, reportCallIssue] because names vary
    advice = partition.advise(database.dsn_as(role), "public.events", workload)
    assert any("the row-level security of public.events hides them" in u for u in advice.unchecked)


def test_without_statements_it_says_so(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(EVENTS)
    advice = partition.advise(database.dsn, "events")
    (said,) = [u for u in advice.unchecked if "workload" in u]
    assert "not checked, because the extension pg_stat_statements is not installed" in said
    assert "--queries FILE" in said
    assert advice.worth in ("unknown", "premature")
    assert all(c.pruning is None for c in advice.candidates)
    assert advice.to_json()["source"] is None


def test_nothing_but_access_share_is_asked_for(database: Database, workload: Path) -> None:
    """An EXCLUSIVE lock lets only ACCESS SHARE through; the session is READ ONLY besides."""
    with database.connect() as conn:
        conn.execute(EVENTS)
    with database.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE events IN EXCLUSIVE MODE")
        assert partition.advise(database.dsn, "events", workload).best is not None


def test_foreign_keys_have_their_say(database: Database, workload: Path) -> None:
    with database.connect() as conn:
        conn.execute("CREATE TABLE tenants (id int PRIMARY KEY); INSERT INTO tenants SELECT generate_series(-999, 999)")
        conn.execute(EVENTS)
        conn.execute("ALTER TABLE events ADD CONSTRAINT of_tenant FOREIGN KEY (tenant) REFERENCES tenants")
        conn.execute("CREATE INDEX ON events (tenant)")
        conn.execute("CREATE TABLE comments (id int PRIMARY KEY, event bigint CONSTRAINT on_event REFERENCES events)")
    advice = partition.advise(database.dsn, "events", workload)
    assert advice.best is not None
    assert advice.best.proposal.by.columns == ("id",)
    by_time = _found(advice, next(c.by for c in advice.candidates if c.by.startswith("range:at")))
    assert any("Foreign key on_event of public.comments references (id)" in b for b in by_time.blockers)
    by_tenant = _found(advice, next(c.by for c in advice.candidates if c.by.startswith("hash:tenant")))
    assert any("Foreign key of_tenant contains the key" in r for r in by_tenant.reasons)
    assert any("Foreign key of_tenant of this table does not contain the key" in r for r in by_time.reasons)
    for candidate in (by_time, by_tenant):
        words = shlex.split(candidate.command)[2:]
        assert CliRunner().invoke(command, [*words, "--dsn", database.dsn]).exit_code == 4


def test_what_is_no_table_is_refused(database: Database, tmp_path: Path) -> None:
    with database.connect() as conn:
        conn.execute(EVENTS + "; CREATE VIEW seen AS SELECT * FROM events")
        conn.execute("CREATE TABLE parts (id int) PARTITION BY HASH (id)")
    for name, why in (("seen", "is a view"), ("parts", "partitioned already"), ("absent", "no table")):
        with pytest.raises(RefusedError, match=why):
            partition.advise(database.dsn, name)
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        partition.advise(database.dsn, "events", tmp_path / "absent.sql")
    (tmp_path / "bad.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(UsageError, match="it is not UTF-8"):
        partition.advise(database.dsn, "events", tmp_path / "bad.sql")
