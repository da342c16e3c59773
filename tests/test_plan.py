"""What a plan says beside its steps: which statements are not pruned, how long, how even, which locks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest
from click.testing import CliRunner

from pgscale import partition
from pgscale.catalog import reader as catalog
from pgscale.catalog.model import ColumnStatistics, TableFacts
from pgscale.cli.partition import partition as command
from pgscale.connect.session import READER, open_session
from pgscale.core.model import QName
from pgscale.embedded import Server
from pgscale.partition import Options
from pgscale.partition.bounds import parse_by
from pgscale.partition.estimate import MeasuredCopy, estimate
from pgscale.partition.pruning import Target, judge_text
from pgscale.partition.skew import Combinations, combined_skew, describe_unevenness
from support.servers import Database

# --- judging statements -----------------------------------------------------------------------------------

COLUMNS = frozenset({"id", "tenant", "at", "amount", "Kind", "flag"})


def _target(by: str) -> Target:
    return Target(table=QName(schema="public", name="orders"), columns=COLUMNS, by=parse_by(by))


HASH = (
    ("SELECT * FROM orders WHERE tenant = $1", "pruned"),
    ("SELECT * FROM public.orders o WHERE $1 = o.tenant AND amount > $2", "pruned"),
    ("SELECT * FROM orders WHERE tenant IN ($1,$2)", "pruned"),
    ("SELECT * FROM orders WHERE tenant IN ($1 /*, ... */)", "pruned"),
    ("SELECT * FROM orders WHERE tenant = ANY($1)", "pruned"),
    ("SELECT * FROM orders WHERE tenant = ANY (ARRAY[$1,$2])", "pruned"),
    ("SELECT * FROM orders WHERE tenant IS NULL", "pruned"),
    ("SELECT * FROM orders WHERE (tenant,id) = ($1,$2)", "pruned"),
    ("SELECT * FROM orders WHERE (tenant,id) IN (($1,$2),($3,$4))", "pruned"),
    ("SELECT * FROM orders WHERE tenant = $1 OR (tenant = $2 AND amount > $3)", "pruned"),
    ("SELECT * FROM orders WHERE tenant = (SELECT t FROM me LIMIT $1)", "pruned"),
    ("UPDATE orders SET amount = amount + $1 WHERE tenant = $2 AND id = $3", "pruned"),
    ("DELETE FROM ONLY orders WHERE tenant = $1", "pruned"),
    ("SELECT * FROM orders o JOIN users u ON u.tenant = o.tenant WHERE u.tenant = $1", "pruned"),
    ("SELECT * FROM users u LEFT JOIN orders o ON o.user_id = u.id AND o.tenant = $1", "pruned"),
    ("WITH c AS (SELECT * FROM orders WHERE tenant = $1) SELECT * FROM c", "pruned"),
    ("SELECT * FROM orders WHERE tenant = $1 ORDER BY at DESC LIMIT $2 FOR UPDATE SKIP LOCKED", "pruned"),
    ("SELECT date_trunc($1, at), extract($2 from at) FROM orders WHERE tenant=$3 AND at > date $4", "pruned"),
    ("SELECT * FROM orders", "unpruned"),
    ("SELECT count(*) FROM orders WHERE id = $1", "unpruned"),
    ("SELECT * FROM orders WHERE tenant > $1", "unpruned"),
    ("SELECT * FROM orders WHERE tenant BETWEEN $1 AND $2", "unpruned"),
    ("SELECT * FROM orders WHERE tenant <> $1", "unpruned"),
    ("SELECT * FROM orders WHERE tenant IS NOT NULL", "unpruned"),
    ("SELECT * FROM orders WHERE NOT (tenant = $1)", "unpruned"),
    ("SELECT * FROM orders WHERE tenant NOT IN ($1, $2)", "unpruned"),
    ("SELECT * FROM orders WHERE tenant = $1 OR id = $2", "unpruned"),
    ("SELECT * FROM orders WHERE tenant::text = $1", "unpruned"),
    ("SELECT * FROM orders WHERE lower(tenant) = $1", "unpruned"),
    ("SELECT * FROM orders WHERE tenant = amount", "unpruned"),
    ("SELECT * FROM orders WHERE tenant = (random() * $1)::int", "unpruned"),
    ("SELECT * FROM orders WHERE tenant = ALL($1)", "unpruned"),
    ("SELECT * FROM orders a, orders b WHERE a.tenant = $1 AND a.id = b.amount", "unpruned"),
    ("SELECT * FROM orders o LEFT JOIN users u ON u.id = o.id AND o.tenant = $1", "unpruned"),
    ("UPDATE orders SET tenant = $1 WHERE id = $2", "unpruned"),
    ("DELETE FROM orders", "unpruned"),
    ("INSERT INTO archive SELECT * FROM orders WHERE at < $1", "unpruned"),
    ("SELECT * FROM users u WHERE EXISTS (SELECT FROM orders o WHERE o.id = u.id) AND u.tenant = 5", "depends"),
    ("SELECT * FROM orders o JOIN users u ON u.tenant = o.tenant", "depends"),
    ("SELECT * FROM orders JOIN users USING (tenant)", "depends"),
    ("SELECT * FROM orders WHERE tenant IN (SELECT id FROM users)", "depends"),
    ("SELECT * FROM orders WHERE tenant = ANY(SELECT id FROM users)", "depends"),
    ("SELECT * FROM users u WHERE EXISTS (SELECT FROM orders o WHERE o.tenant = u.tenant)", "depends"),
    ("SELECT * FROM (SELECT * FROM orders) s WHERE s.tenant = $1", "depends"),
    ("MERGE INTO orders o USING feed f ON o.tenant = f.tenant WHEN MATCHED THEN DELETE", "depends"),
    ("INSERT INTO orders (id, tenant) VALUES ($1,$2) ON CONFLICT (id) DO UPDATE SET tenant = $3", "no rows read"),
    ("SELECT * FROM users", None),
    ("SELECT * FROM other.orders WHERE id = $1", None),
    ('SELECT * FROM "Orders" WHERE id = $1', None),
    ("WITH orders AS (SELECT $1 AS id) SELECT * FROM orders", None),
    ("SELECT FROM FROM orders WHERE", "not understood"),
    ("DECLARE c CURSOR FOR SELECT * FROM orders", "not understood"),
    ("VACUUM orders", None),
    ("CREATE INDEX ON orders (id)", None),
    ("copy orders TO STDOUT", None),
)
RANGE = (
    ("SELECT * FROM orders WHERE at >= $1 AND at < $2", "pruned"),
    ("SELECT * FROM orders WHERE at BETWEEN $1 AND $2", "pruned"),
    ("SELECT * FROM orders WHERE at > now() - interval $1 AND amount < $2", "pruned"),
    ("SELECT * FROM orders WHERE at > timestamp with time zone $1", "pruned"),
    ("SELECT * FROM orders WHERE at > clock_timestamp()", "unpruned"),
    ("SELECT * FROM orders WHERE date_trunc($1, at) = $2", "unpruned"),
    ("SELECT * FROM orders WHERE at::date = $1", "unpruned"),
    ("SELECT * FROM orders WHERE at < amount", "unpruned"),
)
SEVERAL = (
    ("SELECT * FROM orders WHERE tenant = $1 AND id = $2", "pruned"),
    ("SELECT * FROM orders WHERE (id, tenant) = ($1, $2)", "pruned"),
    ("SELECT * FROM orders WHERE tenant = $1", "unpruned"),
    ("SELECT * FROM orders WHERE tenant = $1 AND id > $2", "unpruned"),
)
LISTED = (
    ('SELECT * FROM orders WHERE "Kind" = $1', "pruned"),
    ('SELECT * FROM orders WHERE "Kind" >= $1', "pruned"),
    ("SELECT * FROM orders WHERE kind = $1", "unpruned"),
)
BOOLEAN = (
    ("SELECT * FROM orders WHERE flag AND id = $1", "pruned"),
    ("SELECT * FROM orders WHERE NOT flag", "pruned"),
    ("SELECT * FROM orders WHERE flag IS TRUE", "pruned"),
)
JUDGED = [
    (by, text, verdict)
    for by, cases in (
        ("hash:tenant", HASH),
        ("range:at:month", RANGE),
        ("hash:tenant,id", SEVERAL),
        ("list:Kind", LISTED),
        ("list:flag", BOOLEAN),
    )
    for text, verdict in cases
]


@pytest.mark.parametrize(("by", "text", "verdict"), JUDGED)
def test_a_statement_is_judged_by_its_conditions(by: str, text: str, verdict: str | None) -> None:
    assert judge_text(_target(by), text) == verdict


def test_no_text_crashes_the_judge() -> None:
    deep = "SELECT * FROM orders WHERE " + "(" * 5_000 + "id = 1" + ")" * 5_000
    for text in ("", ";", "SELECT 1; SELECT 2 FROM orders", "\x00", deep, "SELECT * FROM orders --" + "x" * 60_000):
        assert judge_text(_target("hash:tenant"), text) in (None, "not understood", "unpruned")


ON_SERVER = """
CREATE TABLE orders (id int NOT NULL, tenant int NOT NULL, at timestamptz NOT NULL, amount int, "Kind" text,
  flag boolean) PARTITION BY {}
"""
PARTITIONED = {
    "hash:tenant": ("HASH (tenant)", "FOR VALUES WITH (MODULUS 4, REMAINDER {n})"),
    "hash:tenant,id": ("HASH (tenant, id)", "FOR VALUES WITH (MODULUS 4, REMAINDER {n})"),
    "range:at:month": ("RANGE (at)", "FOR VALUES FROM ('202{n}-01-01') TO ('202{n}-12-31')"),
}


@pytest.mark.versions(14, 18)
@pytest.mark.parametrize("by", PARTITIONED)
def test_the_server_agrees(database: Database, by: str) -> None:
    """EXPLAIN of a generic plan: pruned statements leave partitions out, unpruned ones name each."""
    key, bound = PARTITIONED[by]
    values = {"tenant": "3", "id": "7", "at": "'2021-03-01'::timestamptz"}
    with database.connect() as conn:
        run: Callable[[str], psycopg.Cursor[tuple[str]]] = conn.execute  # pyright: ignore[reportAssignmentType] because the texts vary
        run(ON_SERVER.format(key))
        for number in range(4):
            run(f"CREATE TABLE orders_{number} PARTITION OF orders {bound.format(n=number)}")
        run("CREATE TABLE users (id int, tenant int, user_id int); SET enable_nestloop = off")
        checked = 0
        for text, verdict in [(t, v) for b, t, v in JUDGED if b == by and v in ("pruned", "unpruned")]:
            statement = re.sub(r"(?:interval|date|timestamp with time zone) \$1\b|date \$4", "'2021-01-01'", text)
            statement = statement.replace("= ANY($1)", f"= ANY(ARRAY[{values['tenant']}])")
            statement = re.sub(r"date_trunc\(\$\d", "date_trunc('day'", statement).replace("extract($2", "extract(day")
            statement = statement.replace("now() - '2021-01-01'", "now() - interval '1 day'")
            for column, value in values.items():
                statement = re.sub(rf"(\b{column}\)?(?:::\w+)? (?:[<>=]+|BETWEEN) )\$\d", rf"\g<1>{value}", statement)
            statement = re.sub(r"BETWEEN (\S+) AND \$\d", r"BETWEEN \1 AND \1", re.sub(r"\$\d", "3", statement))
            try:
                lines = [row[0] for row in run(f"EXPLAIN (ANALYZE, COSTS off, TIMING off) {statement}").fetchall()]
            except psycopg.Error:
                continue  # a type that does not fit; the cases are about shapes
            checked += 1
            scanned = {m[0] for line in lines if "never executed" not in line for m in re.finditer(r"orders_\d", line)}
            assert (len(scanned) < 4) == (verdict == "pruned"), (statement, lines)
        assert checked >= len([1 for b, _, v in JUDGED if b == by and v in ("pruned", "unpruned")]) / 2


# --- reading pg_stat_statements ---------------------------------------------------------------------------

ORDERS = """
CREATE TABLE orders (id int, tenant int, at timestamptz, PRIMARY KEY (id, tenant));
INSERT INTO orders SELECT g, g % 50, now() FROM generate_series(1, 2000) g;
CREATE TABLE orders_items (order_id int);
CREATE VIEW recent AS SELECT * FROM orders WHERE at > now() - interval '1 day';
ANALYZE orders
"""
BY_TENANT = Options(by="hash:tenant", partitions=8)
EXTENSIONS = (
    pytest.param(14, "1.7", id="14 before 1.8"),
    pytest.param(14, None, id="14"),
    pytest.param(15, None, id="15"),
    pytest.param(17, None, id="17"),
)


def _preload(start: Callable[..., Server], version: int) -> Server:
    return start({"shared_preload_libraries": "pg_stat_statements"}, version=version)


@pytest.mark.parametrize(("major", "extension"), EXTENSIONS)
def test_statements_without_the_key_are_named_with_numbers(
    private_server: Callable[..., Server],
    database_factory: Callable[..., Database],
    major: int,
    extension: str | None,
) -> None:
    database = database_factory(_preload(private_server, major))
    with database.connect_superuser() as admin:
        admin.execute(
            "CREATE SCHEMA stats; CREATE EXTENSION pg_stat_statements SCHEMA stats"
            + (f" VERSION '{extension}'" if extension else "")  # pyright: ignore[reportArgumentType, reportCallIssue] because names vary
        )
        admin.execute("GRANT USAGE ON SCHEMA stats TO PUBLIC")
    with database.connect() as conn:
        conn.execute(ORDERS)
        for number in range(7):
            conn.execute("SELECT count(*) FROM orders WHERE id = %s", (number,))
            conn.execute("SELECT * FROM public.orders o WHERE o.tenant = %s AND id > %s", (number, 5))
            conn.execute("SELECT * FROM orders_items WHERE order_id = %s", (number,))
        conn.execute("SELECT * FROM recent")
    first = partition.plan(database.dsn, "public.orders", BY_TENANT)
    made = partition.plan(database.dsn, "public.orders", BY_TENANT)
    assert first.workload is not None
    assert made.workload is not None
    verdicts = {s.text: (s.verdict, s.calls) for s in made.workload.statements}
    unpruned = [s for s in made.workload.statements if s.verdict == "unpruned"]
    assert [(s.text, s.calls) for s in unpruned] == [("SELECT count(*) FROM orders WHERE id = $1", 7)]
    assert verdicts["SELECT * FROM public.orders o WHERE o.tenant = $1 AND id > $2"] == ("pruned", 7)
    assert not [text for text in verdicts if "orders_items" in text or "pg_catalog.m" in text]
    assert made.workload.via_views == 1
    assert unpruned[0].mean_ms > 0
    (header, each) = [w for w in made.warnings if "statements on this table" in w or w.startswith("Not pruned")]
    assert "reads all 8 partitions: 7 calls" in header
    assert re.search(r"Not pruned: 7 calls, mean [\d.]+ ms, \d+% of the time: SELECT count", each)
    assert ("since 20" in header) == (extension is None)
    assert any("1 statement was not checked, because it reads" in u for u in made.unchecked)

    shown = CliRunner().invoke(
        command, ["plan", "orders", "--by", "hash:tenant", "--partitions", "8", "--dsn", database.dsn]
    )
    assert shown.exit_code == 0, shown.output
    assert "Not pruned: 7 calls" in shown.output
    arguments = ["plan", "orders", "--by", "hash:tenant", "--partitions", "8", "--json", "--dsn", database.dsn]
    data = json.loads(CliRunner().invoke(command, arguments).output)
    (found,) = [s for s in data["workload"]["statements"] if s["verdict"] == "unpruned"]
    assert (found["calls"], found["query"]) == (7, "SELECT count(*) FROM orders WHERE id = $1")
    assert found["mean_ms"] == pytest.approx(found["total_ms"] / 7, abs=0.01)
    assert 0 < found["share"] <= 1
    assert any("Not pruned" in w for w in data["warnings"])


@pytest.mark.versions(15)
def test_what_cannot_be_read_is_said(
    private_server: Callable[..., Server], database_factory: Callable[..., Database]
) -> None:
    database = database_factory(_preload(private_server, 15))

    def unchecked() -> str:
        return " ".join(partition.plan(database.dsn, "public.orders", BY_TENANT).unchecked)

    with database.connect() as conn, database.connect_superuser() as admin:
        conn.execute(ORDERS)
        assert "not checked, because the extension pg_stat_statements is not installed" in unchecked()
        admin.execute("CREATE EXTENSION pg_stat_statements")
        admin.execute("SELECT count(*) FROM orders")
        conn.execute("DO $$ BEGIN EXECUTE 'TRUNCATE orders' || '_items'; END $$")
        assert re.search(
            r"\d+ statements? of other roles (was|were) not checked, because the text is hidden", unchecked()
        )
        admin.execute(f"GRANT pg_read_all_stats TO {database.owner}")  # pyright: ignore[reportArgumentType, reportCallIssue] because names vary
        made = partition.plan(database.dsn, "public.orders", BY_TENANT)
        assert "hidden" not in " ".join(made.unchecked)
        assert (
            [s.text for s in made.workload.statements if s.verdict == "unpruned"] == ["SELECT count(*) FROM orders"]
            if made.workload
            else False
        )
        admin.execute("REVOKE ALL ON pg_stat_statements FROM PUBLIC")
        assert "pg_stat_statements cannot be read (permission denied" in unchecked()
        admin.execute("DROP EXTENSION pg_stat_statements")


@pytest.mark.versions(15)
def test_an_extension_that_is_not_loaded_is_said(database: Database) -> None:
    with database.connect() as conn, database.connect_superuser() as admin:
        conn.execute(ORDERS)
        admin.execute("CREATE EXTENSION pg_stat_statements")
    made = partition.plan(database.dsn, "public.orders", BY_TENANT)
    assert made.workload is None
    assert any("must be loaded via" in u and "shared_preload_libraries" in u for u in made.unchecked)


@pytest.mark.versions(15)
def test_a_run_does_not_count_its_own_statements(
    private_server: Callable[..., Server], database_factory: Callable[..., Database]
) -> None:
    database = database_factory(_preload(private_server, 15))
    with database.connect() as conn, database.connect_superuser() as admin:
        admin.execute("CREATE EXTENSION pg_stat_statements")
        conn.execute(ORDERS)
        partition.run(database.dsn, "public.orders", replace(BY_TENANT, pace="fast"))
        partition.undo(database.dsn, "public.orders")
        made = partition.plan(database.dsn, "public.orders", BY_TENANT)
    assert made.workload is not None
    assert [s.text for s in made.workload.statements if s.verdict in ("unpruned", "depends")] == []


# --- the estimate -----------------------------------------------------------------------------------------


@pytest.fixture
def facts(database: Database) -> TableFacts:
    with database.connect() as conn:
        conn.execute(ORDERS)
    return _facts(database)


def _facts(database: Database, table: str = "public.orders") -> TableFacts:
    with open_session(database.dsn, READER) as session:
        return catalog.read_table(session, catalog.find_table(session, table)[0])


def _sized(facts: TableFacts, heap_bytes: int, rows: int) -> TableFacts:
    table = replace(facts.table, heap_bytes=heap_bytes, toast_bytes=0, index_bytes=heap_bytes // 4, reltuples=rows)
    return replace(facts, table=table)


def test_the_estimate_follows_the_pace(facts: TableFacts) -> None:
    large = _sized(facts, 100 * 10**9, 250_000_000)
    made = {p: estimate(large, replace(BY_TENANT, pace=p), 8) for p in ("gentle", "normal", "fast")}
    for each in made.values():
        assert 0 < each.least_duration_s < each.duration_s
        assert {p.name for p in each.phases} == {"prepare", "copy", "index", "verify"}
        assert each.least_duration_s == pytest.approx(sum(p.least_s for p in each.phases))
        assert "assumed" in each.basis
    assert made["gentle"].duration_s > made["normal"].duration_s > made["fast"].duration_s
    assert "pace normal lets 1 worker work 10% to 25% of the time" in made["normal"].basis
    assert "pace fast lets 2 workers work all the time" in made["fast"].basis
    copy = {p: next(x for x in e.phases if x.name == "copy") for p, e in made.items()}
    assert copy["normal"].least_s == pytest.approx(copy["fast"].least_s * 2 / 0.25)
    assert copy["gentle"].most_s == pytest.approx(copy["fast"].most_s * 2 / 0.05)
    more = estimate(large, replace(BY_TENANT, pace="fast", workers=4), 8)
    assert more.duration_s < made["fast"].duration_s
    none = estimate(large, replace(BY_TENANT, verify="none"), 8)
    assert "verify" not in {p.name for p in none.phases}
    assert none.duration_s < made["normal"].duration_s


def test_the_measured_runs_lie_within_the_estimate(facts: TableFacts) -> None:
    """docs/benchmarks/partition.md: 819 MB without a load; pgbench's accounts (1,000,000 rows) under it."""
    plain = estimate(_sized(facts, 819 * 2**20, 2_000_000), replace(BY_TENANT, pace="fast"), 20)
    assert plain.least_duration_s < 9.0 < plain.duration_s
    for pace, seconds in (("gentle", 60.5), ("normal", 19.2), ("fast", 3.8)):
        made = estimate(_sized(facts, 131 * 10**6, 1_000_000), replace(BY_TENANT, pace=pace), 16)
        assert made.least_duration_s < seconds < made.duration_s, pace


def test_an_earlier_copy_narrows_the_estimate(facts: TableFacts) -> None:
    large = _sized(facts, 100 * 10**9, 250_000_000)
    measured = MeasuredCopy(table="small", heap_bytes=10**9, took_s=50.0, pace="normal", workers=1)
    alike = estimate(large, BY_TENANT, 8, measured=measured)
    copy = next(p for p in alike.phases if p.name == "copy")
    assert copy.least_s < 5_000 < copy.most_s
    assert "measured: small was copied at 20 MB/s at pace normal with 1 worker" in alike.basis
    fast = estimate(large, replace(BY_TENANT, pace="fast"), 8, measured=measured)
    copy = next(p for p in fast.phases if p.name == "copy")
    # A worker that worked 10 to 25 % of the time copied 20 MB/s: at work it makes 80 to 200, two of them twice that.
    assert copy.least_s < 100e9 / 400e6 < 100e9 / 160e6 < copy.most_s


def test_rows_that_were_never_counted_are_guessed(facts: TableFacts) -> None:
    counted, guessed = (estimate(_sized(facts, 10**9, rows), BY_TENANT, 8) for rows in (10**9 // 150, -1))
    assert guessed.duration_s == counted.duration_s
    assert "never analyzed, so rows are guessed" in guessed.basis
    assert "guessed" not in counted.basis


def test_wal_and_disk_are_a_range(facts: TableFacts) -> None:
    large = _sized(facts, 10**9, 10_000_000)
    plain, logged = (estimate(large, BY_TENANT, 8, logs_hint_bits=h) for h in (False, True))
    assert plain.least_wal_bytes == plain.wal_bytes == logged.least_wal_bytes
    assert logged.wal_bytes == plain.wal_bytes + 10**9
    assert plain.disk_bytes >= 10**9 * 1.25
    assert plain.wal_bytes > plain.disk_bytes


@pytest.mark.versions(14, 18)
def test_the_wal_of_a_run_lies_within_the_estimate(
    private_server: Callable[..., Server], database_factory: Callable[..., Database]
) -> None:
    """On a server of its own: the WAL of a shared one is other tests', too."""
    database = database_factory(private_server())
    with database.connect() as conn:
        conn.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, repeat('x', 40)"
            " FROM generate_series(1, 200000) g"
        )
        conn.execute("VACUUM ANALYZE t")
        options = Options(by="hash:id", partitions=4, pace="fast")
        made = partition.plan(database.dsn, "public.t", options)
        before = conn.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        partition.run(database.dsn, "public.t", options)
        row = conn.execute("SELECT pg_current_wal_insert_lsn() - %s::pg_lsn", before).fetchone()
        size = conn.execute(
            "SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent='t'::regclass"
        ).fetchone()
        assert row is not None
        assert size is not None
        assert made.estimate is not None
        assert made.estimate.least_wal_bytes * 0.8 < row[0] < made.estimate.wal_bytes * 1.3
        assert size[0] <= made.estimate.disk_bytes * 1.1


def test_a_plan_uses_what_an_earlier_run_took(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(ORDERS)
        conn.execute("CREATE TABLE small (id int PRIMARY KEY); INSERT INTO small SELECT generate_series(1, 1000)")
        fresh = partition.plan(database.dsn, "public.orders", BY_TENANT)
        assert fresh.estimate is not None
        assert "assumed" in fresh.estimate.basis
        partition.run(database.dsn, "public.small", Options(by="hash:id", partitions=2, pace="fast"))
        conn.execute("UPDATE pgscale.step SET duration_s = 2, finished_at = finished_at WHERE step_id = 'copy'")
        made = partition.plan(database.dsn, "public.orders", BY_TENANT)
        assert made.estimate is not None
        assert "measured: small was copied at 0.0" in made.estimate.basis
        assert "at pace fast with 2 workers" in made.estimate.basis
        # Stopped and resumed: the last process's time is not the copy's.
        conn.execute("UPDATE pgscale.step SET finished_at = finished_at + interval '1 hour' WHERE step_id = 'copy'")
        made = partition.plan(database.dsn, "public.orders", BY_TENANT)
        assert made.estimate is not None
        assert "assumed" in made.estimate.basis


# --- evenness ---------------------------------------------------------------------------------------------


def test_a_range_that_ends_with_its_type_is_counted(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("CREATE TABLE ends (id int PRIMARY KEY)")
        conn.execute("INSERT INTO ends VALUES (-2147483648), (-1), (0), (999999999), (1000000000), (2147483647)")
        conn.execute("ANALYZE ends")
    made = partition.plan(database.dsn, "public.ends", Options(by="range:id:1000000000"))
    assert made.skew is not None
    assert made.leaves[0].bound.startswith("FOR VALUES FROM (MINVALUE)")
    assert sum(count for _, count in made.skew.rows_per_leaf) == 6


def _statistics(n_distinct: float, *frequencies: float) -> ColumnStatistics:
    return ColumnStatistics(
        n_distinct=n_distinct,
        null_frac=0.0,
        correlation=None,
        frequencies=list(frequencies) or None,
        values=[str(n) for n in range(len(frequencies))] or None,
    )


def test_several_columns_are_judged_from_above() -> None:
    even = combined_skew(16, 1_000_000, (("a", _statistics(-1)), ("b", _statistics(3, 0.5, 0.3, 0.2))), None)
    assert even.largest_over_mean < 1.1
    assert describe_unevenness(even) is None
    both = (("a", _statistics(100, 0.4)), ("b", _statistics(50, 0.3)))
    heavy = combined_skew(16, 1_000_000, both, None)
    assert heavy.largest_over_mean > 0.3 * 16
    assert heavy.largest_rows > 300_000
    counted = combined_skew(16, 1_000_000, both, Combinations(count=5_000, source="the extended statistics s"))
    assert counted.largest_over_mean < heavy.largest_over_mean
    assert "5,000 combinations by the extended statistics s" in counted.basis
    warning = describe_unevenness(counted)
    assert warning is not None
    assert "could hold up to" in warning
    assert (
        combined_skew(16, 100, (("a", _statistics(1, 1.0)), ("b", _statistics(1, 1.0))), None).largest_over_mean == 16
    )


@pytest.mark.sampled(3)
@pytest.mark.versions(14, 15, 18)
def test_a_key_of_several_columns_is_judged_on_a_server(database: Database) -> None:
    options = Options(by="hash:a,b", partitions=8)
    with database.connect() as conn:
        conn.execute(
            "CREATE TABLE t (a int, b int, id int, PRIMARY KEY (a, b, id));"
            "INSERT INTO t SELECT g % 40, g % 40, g FROM generate_series(1, 20000) g"
        )
        made = partition.plan(database.dsn, "public.t", options)
        assert made.skew is None
        assert any("How even" in u and "never analyzed" in u for u in made.unchecked)
        conn.execute("ANALYZE t")
        made = partition.plan(database.dsn, "public.t", options)
        assert made.skew is not None
        assert "40 combinations by the column with most values" in made.skew.basis
        conn.execute("CREATE STATISTICS t_ab (ndistinct) ON b, a FROM t")
        conn.execute("UPDATE t SET b = id % 41 WHERE id > 0")
        conn.execute("ANALYZE t")
        made = partition.plan(database.dsn, "public.t", options)
        assert made.skew is not None
        assert "combinations by the extended statistics t_ab" in made.skew.basis
        count = int(re.findall(r"^([\d,]+) combinations", made.skew.basis)[0].replace(",", ""))
        assert count == pytest.approx(40 * 41, rel=0.2)
        partition.run(database.dsn, "public.t", options)
        largest = conn.execute("SELECT max(n) FROM (SELECT count(*) n FROM t GROUP BY tableoid) x").fetchone()
        assert largest is not None
        assert largest[0] <= made.skew.largest_rows


def test_statistics_that_may_not_be_seen_are_named(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(
            "CREATE TABLE t (a int, b int, PRIMARY KEY (a, b)); INSERT INTO t SELECT g, g FROM generate_series(1, 99) g"
        )
        conn.execute("ANALYZE t")
        conn.execute("REVOKE SELECT ON t FROM CURRENT_USER")
        conn.execute("GRANT SELECT (a) ON t TO CURRENT_USER")
    for by in ("hash:a,b", "hash:b"):
        made = partition.plan(database.dsn, "public.t", Options(by=by, partitions=4, accept_key_change=True))
        assert any("How even" in u and "there is no SELECT right on b" in u for u in made.unchecked), by


DAYS = "CASE WHEN g % 10 < 8 THEN 3 ELSE g % 90 END"
UNEVEN = (
    ("range:at:month", "at timestamptz", f"'2024-01-01'::timestamptz + {DAYS} * interval '1 day'"),
    ("range:at:month", "at timestamp", f"'2024-01-01'::timestamp + {DAYS} * interval '1 day'"),
    ("range:at:month", "at date", "'2024-01-01'::date + CASE WHEN g % 10 < 8 THEN g % 3 ELSE g % 90 END"),
    ("range:at:1000", "at int", "CASE WHEN g % 10 < 8 THEN g % 1000 ELSE g % 4000 END"),
    ("range:at:1000", "at numeric", "CASE WHEN g % 10 < 8 THEN g % 1000 ELSE g % 4000 END + 0.5"),
    ("list:at", "at text", "CASE WHEN g % 10 < 8 THEN 'it''s' ELSE 'v' || g % 4 END"),
    ("list:at", "at int", "CASE WHEN g % 10 < 8 THEN 7 ELSE g % 4 END"),
    ("hash:at", "at int", "CASE WHEN g % 10 < 8 THEN 7 ELSE g END"),
)  # fmt: skip


@pytest.mark.sampled(4)
@pytest.mark.versions(14, 18)
@pytest.mark.parametrize(("by", "column", "value"), UNEVEN, ids=[f"{by} {column}" for by, column, _ in UNEVEN])
def test_an_uneven_key_is_warned_of_with_numbers(database: Database, by: str, column: str, value: str) -> None:
    with database.connect() as conn:
        run: Callable[[str], object] = conn.execute  # pyright: ignore[reportAssignmentType] because the texts vary
        run(f"CREATE TABLE t (id int, {column}, PRIMARY KEY (id, at))")
        run(f"INSERT INTO t SELECT g, {value} FROM generate_series(1, 10000) g")
        run("ANALYZE t")
        options = Options(by=by, partitions=8 if by.startswith("hash") else None)
        made = partition.plan(database.dsn, "public.t", options)
        assert made.skew is not None
        assert not [u for u in made.unchecked if "How even" in u]
        (warning,) = [w for w in made.warnings if w.startswith("The key is uneven")]
        partition.run(database.dsn, "public.t", replace(options, pace="fast"))
        row = conn.execute(
            "SELECT tableoid::regclass::text, count(*) FROM t GROUP BY 1 ORDER BY 2 DESC LIMIT 1"
        ).fetchone()
        assert row is not None
        found = re.search(r"uneven: (.+) would hold about ([\d,]+) rows", warning)
        assert found is not None
        assert found[1] == row[0]
        assert int(found[2].replace(",", "")) == pytest.approx(row[1], rel=0.15)


# --- locks ------------------------------------------------------------------------------------------------

FOREIGN = """
CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE "Other ( )" (id int PRIMARY KEY);
CREATE TABLE t (id int PRIMARY KEY, parent int CONSTRAINT up REFERENCES parents, other int REFERENCES "Other ( )" (id),
  self int REFERENCES t);
CREATE TABLE child (id int PRIMARY KEY, t_id int CONSTRAINT down REFERENCES t);
INSERT INTO parents VALUES (1); INSERT INTO "Other ( )" VALUES (1); INSERT INTO t VALUES (1, 1, 1, 1);
INSERT INTO child VALUES (1, 1)
"""
STRENGTH = ("ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "SHARE", "SHARE ROW EXCLUSIVE",
            "EXCLUSIVE", "ACCESS EXCLUSIVE")  # fmt: skip


def _held_locks(conn: psycopg.Connection[tuple[object, ...]], table: str) -> str:
    """Return the strongest lock this transaction holds on a table, as the documentation writes it."""
    rows = conn.execute(
        "SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = %s::regclass", (table,)
    ).fetchall()
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", str(mode).removesuffix("Lock")).upper() for (mode,) in rows]
    return max(words, key=STRENGTH.index, default="")


@pytest.mark.versions(14, 18)
def test_the_locks_on_other_tables_are_named(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(FOREIGN)
    made = partition.plan(database.dsn, "public.t", Options(by="hash:id", partitions=2))
    steps = {step.id: step for step in made.steps}
    cutover = steps["cutover"]
    assert cutover.lock == (
        "ACCESS EXCLUSIVE on public.t; ACCESS EXCLUSIVE on public.child, whose foreign keys move;"
        ' ACCESS EXCLUSIVE on public."Other ( )", public.parents, which the table\'s foreign keys reference'
    )
    assert "1000 ms at most" in cutover.longest_wait
    assert "100 ms" in cutover.longest_wait
    settled = {s.lock: s for s in made.steps if s.kind == "settle"}
    assert "SHARE UPDATE EXCLUSIVE on one partition, ROW SHARE on public.parents" in settled
    # From PostgreSQL 18 on the table has the key from the cut-over on, unproved.
    parent_first = made.server_version >= 180000
    last = (
        "SHARE UPDATE EXCLUSIVE on public.t and its partitions, ROW SHARE on public.parents"
        if parent_first
        else "SHARE ROW EXCLUSIVE on public.t and its partitions, and on public.parents"
    )
    assert last in settled
    assert "SHARE UPDATE EXCLUSIVE on public.child, ROW SHARE on public.t" in settled
    assert all("100 ms" in s.longest_wait for s in settled.values())
    assert "SHARE UPDATE EXCLUSIVE or SHARE ROW EXCLUSIVE" not in settled

    # What the server takes, statement by statement of the plan itself.
    with database.connect(autocommit=False) as conn:
        run: Callable[[str], object] = conn.execute  # pyright: ignore[reportAssignmentType] because the texts are the plan's
        run(next(s for s in cutover.sql if 'DROP CONSTRAINT IF EXISTS "up"' in s))
        assert _held_locks(conn, "parents") == "ACCESS EXCLUSIVE"
        conn.rollback()
        run(next(s for s in cutover.sql if s.startswith("LOCK TABLE")))
        assert _held_locks(conn, "child") == "ACCESS EXCLUSIVE"
        conn.rollback()
    partition.run(database.dsn, "public.t", Options(by="hash:id", partitions=2))
    with database.connect(autocommit=False) as conn:
        run = conn.execute  # pyright: ignore[reportAssignmentType] because the texts vary
        if parent_first:
            run('ALTER TABLE t DROP CONSTRAINT "up"')
            run('ALTER TABLE t ADD CONSTRAINT "up" FOREIGN KEY (parent) REFERENCES parents NOT VALID')
        else:
            run('ALTER TABLE t DROP CONSTRAINT "up"')
        conn.commit()
        run(settled[last].sql[0])
        expected = ("ROW SHARE", "SHARE UPDATE EXCLUSIVE") if parent_first else ("SHARE ROW EXCLUSIVE",) * 2
        assert (_held_locks(conn, "parents"), _held_locks(conn, "t")) == expected
        assert _held_locks(conn, "t_p0") == expected[1]
        conn.rollback()


def test_a_table_without_foreign_keys_locks_itself_alone(facts: TableFacts, database: Database) -> None:
    del facts
    made = partition.plan(database.dsn, "public.orders", BY_TENANT)
    (cutover,) = [s for s in made.steps if s.id == "cutover"]
    assert cutover.lock == "ACCESS EXCLUSIVE"
