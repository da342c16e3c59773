"""`pgscale explain` on real servers: the illness, the finding, what it says to do, and that it is gone then."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from pgscale.doctor.explain import runner
from support.cli import Ran, pgscale
from support.clients import pgbench, psql
from support.lifecycle import wait_until
from support.servers import Database

# Plans of so few rows are made for many.
PARALLEL = {
    "parallel_setup_cost": "0", "parallel_tuple_cost": "0", "min_parallel_table_scan_size": "0",
    "max_parallel_workers_per_gather": "2",
}  # fmt: skip
ALONE = {"max_parallel_workers_per_gather": "0"}
ORDERS = """
CREATE TABLE orders (
  id integer PRIMARY KEY, customer integer, status text, email varchar(60), made timestamp, city integer, zip
  integer, pad text
) WITH (autovacuum_enabled = off);
INSERT INTO orders SELECT g, g % 1000, CASE WHEN g % 900 = 0 THEN 'open' ELSE 'done' END, 'User' || g,
  timestamp '2024-01-01' + g * interval '7 minutes', g / 10 % 20, g / 10 % 20, repeat('x', 120) FROM
  generate_series(1, 60000) g;
CREATE INDEX orders_made ON orders (made);
"""


def make_orders(database: Database) -> None:
    psql(database.dsn, ORDERS)
    # In a session of its own: what the first one inserted counts as a change when it ends.
    psql(database.dsn, "VACUUM ANALYZE orders")
    # 14 tells of both a while later.
    state = "SELECT n_mod_since_analyze, last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'orders'"
    wait_until(lambda: psql(database.dsn, state).strip() == "0|t")


LOOKS = 5


class Explain:
    """The command on one database.

    Args:
        options: settings of its sessions.
    """

    def __init__(self, database: Database, **options: str) -> None:
        self.database = database
        self.options = {**ALONE, "jit": "off", **options}

    def run(self, *arguments: str, dsn: str | None = None, **options: str) -> Ran:
        given = " ".join(f"-c{name}={value}" for name, value in (self.options | options).items())
        return pgscale("explain", *arguments, "--dsn", make_conninfo(dsn or self.database.dsn, options=given))

    def __call__(self, query: str, *arguments: str, **options: str) -> dict[str, Any]:
        """Explain with --analyze, unless --param or --plain is given; the document."""
        how = arguments if "--plain" in arguments else ("--analyze", *arguments)
        ran = self.run(query, "--json", *(each for each in how if each != "--plain"), **options)
        assert ran.exit_code in (0, 1), ran.err
        return json.loads(ran.out)

    def checks(self, query: str, *arguments: str, **options: str) -> list[str]:
        return [each["check"].removeprefix("explain.") for each in self(query, *arguments, **options)["findings"]]

    def is_silent(self, query: str, *arguments: str, **options: str) -> bool:
        """Nothing is found, in one of some looks: a machine that pauses adds time anywhere."""
        return any(not self.checks(query, *arguments, **options) for _ in range(LOOKS))

    def finding(self, check: str, query: str, *arguments: str, **options: str) -> dict[str, Any]:
        """The only finding of a kind, seen in one of some looks."""
        for _ in range(LOOKS):
            found = self(query, *arguments, **options)["findings"]
            of_kind = [each for each in found if each["check"] == f"explain.{check}"]
            if of_kind:
                break
        assert len(of_kind) == 1, found
        return of_kind[0]

    def mend(self, check: str, query: str, *arguments: str, **options: str) -> dict[str, Any]:
        """See the finding, paste what it says, and see it gone."""
        finding = self.finding(check, query, *arguments, **options)
        remedy = finding["remedies"][0]
        if remedy["text"].startswith("SET "):
            name, _, value = remedy["text"].removeprefix("SET ").rstrip(";").partition(" = ")
            options |= {name: value.strip("'")}
        else:
            psql(self.database.superuser_dsn, remedy["text"])
        assert any(check not in self.checks(query, *arguments, **options) for _ in range(LOOKS)), remedy["text"]
        return finding


@pytest.mark.versions("all")
def test_scans_that_an_index_would_save(database: Database) -> None:
    make_orders(database)
    explain = Explain(database)
    query = "SELECT * FROM orders WHERE customer = 7 AND pad <> ''"
    expected = explain.finding("seq_scan", query, "--plain")
    assert expected["fact"].startswith(
        "PostgreSQL expects that 60 of 60,000 rows are kept: all of public.orders is to be"
    )
    with_id = explain("SELECT * FROM orders WHERE customer = $1", "--plain")
    assert (with_id["is_generic"], [each["check"] for each in with_id["findings"]]) == (True, ["explain.seq_scan"])
    assert explain("SELECT * FROM orders WHERE id = $1", "--param", "42")["plan"]["label"].startswith(
        "Index Scan using orders_pkey"
    )
    assert explain.finding("seq_scan", query)["evidence"]["table_size"].endswith("B")
    # A table that nobody has analyzed has no size that is known.
    psql(database.dsn, "CREATE TABLE fresh WITH (autovacuum_enabled = off) AS TABLE orders")
    assert "table_size" not in explain.finding("seq_scan", "SELECT * FROM fresh WHERE customer = 7")["evidence"]
    finding = explain.mend("seq_scan", query)
    assert finding["remedies"][0]["text"] == 'CREATE INDEX CONCURRENTLY ON "public"."orders" ("customer");'
    assert finding["remedies"][0]["why"].startswith("Takes about 1")
    assert (finding["evidence"]["rows_read"], finding["evidence"]["rows_kept"]) == (60_000, 60)
    # What there is is not proposed again, whatever keeps it from being used; what keeps one row in ten wants none.
    assert explain.checks(query, enable_indexscan="off", enable_bitmapscan="off") == ["setting_off"]
    assert explain.is_silent("SELECT count(*) FROM orders WHERE city IN (3, 4)")


@pytest.mark.versions(14, 18)
def test_indexes_of_expressions_and_orders(database: Database) -> None:
    make_orders(database)
    explain = Explain(database)
    # An expression; a prefix, by varchar's other name text; a column whose index a cast hides.
    lower = explain.mend("seq_scan", "SELECT * FROM orders WHERE lower(email) = 'user77'")
    assert lower["remedies"][0]["text"].endswith("((lower((email)::text)));")
    prefix = explain.mend("seq_scan", "SELECT * FROM orders WHERE email LIKE 'User777%'")
    assert prefix["remedies"][0]["text"].endswith('("email" text_pattern_ops);')
    hidden = explain.mend("hidden_index", "SELECT * FROM orders WHERE made::date = '2024-02-01'")
    assert "Index orders_made on made cannot serve `(made)::date`" in hidden["fact"]
    # What a session's settings make of it, no index can hold.
    formatted = explain.finding("hidden_index", "SELECT * FROM orders WHERE to_char(made, 'YYYY-MM-DD') = '2024-02-01'")
    assert formatted["remedies"] == []
    # The time zone is the session's: of such a cast no index can be made, and none is proposed.
    psql(database.dsn, "DROP INDEX orders_made_idx; ALTER TABLE orders ALTER made TYPE timestamptz; ANALYZE orders")
    (finding,) = explain("SELECT * FROM orders WHERE made::date = '2024-02-01'")["findings"]
    assert (finding["check"], finding["remedies"]) == ("explain.hidden_index", [])
    # Two columns together, the one with more values first.
    both = explain.mend("seq_scan", "SELECT * FROM orders WHERE status = 'open' AND city = 3 AND made IS NOT NULL")
    assert both["remedies"][0]["text"].endswith('("city", "status");')
    # The index in the order wanted finds all of them; the filter keeps few.
    psql(database.dsn, "CREATE TABLE logs AS SELECT g AS id, g % 3000 AS who FROM generate_series(1, 60000) g;"
         "CREATE INDEX ON logs (id); VACUUM ANALYZE logs")  # fmt: skip
    found = explain.mend(
        "filter_after_index", "SELECT * FROM logs WHERE who = 2999 ORDER BY id LIMIT 15", enable_seqscan="off"
    )
    assert found["remedies"][0]["text"].endswith('("who", id);')
    psql(database.dsn, "UPDATE logs SET who = who")
    assert explain.mend("heap_fetches", "SELECT count(*) FROM logs WHERE id > 10 AND id < 30000", enable_seqscan="off",
                        enable_bitmapscan="off")["remedies"][0]["text"] == 'VACUUM "public"."logs";'  # fmt: skip


@pytest.mark.versions(14, 16, 18)  # tuples take memory in three ways
def test_what_does_not_fit_into_memory(database: Database) -> None:
    make_orders(database)
    small = Explain(database, work_mem="128kB")
    assert (
        small.mend("sort_spill", "SELECT id, pad FROM orders ORDER BY pad, email")["evidence"]["work_mem_bytes"]
        == 128 << 10
    )
    joined = "SELECT count(*) FROM orders a JOIN orders b ON a.id = b.customer * 60"
    small.mend("hash_spill", joined, enable_mergejoin="off", enable_nestloop="off")
    small.mend("aggregate_spill", "SELECT email, count(*) FROM orders GROUP BY email", enable_sort="off")
    psql(database.dsn, "CREATE INDEX ON orders (customer)")
    lossy = "SELECT count(pad) FROM orders WHERE customer < 1000"
    finding = small.mend("lossy_bitmap", lossy, work_mem="64kB", enable_seqscan="off", enable_indexscan="off")
    assert finding["evidence"]["lossy_pages"] > 100
    # Parallel: each process has its own.
    gone = small.mend("sort_spill", "SELECT id, pad FROM orders ORDER BY pad, email", **PARALLEL)
    assert "Gather Merge" in gone["evidence"]["path"]


@pytest.mark.versions(14, 18)
def test_rows_that_were_not_expected(database: Database) -> None:
    make_orders(database)
    explain = Explain(database)
    joined = "SELECT count(*) FROM orders a JOIN orders b ON b.id = a.id + 1 WHERE a.city = 3 AND a.zip = 3"
    looped = {"enable_hashjoin": "off", "enable_mergejoin": "off"}
    assert "nested_loop" in explain.checks(joined, **looped)
    finding = explain.mend("misestimate", joined)
    assert "nested_loop" not in explain.checks(joined, **looped)
    assert finding["remedies"][0]["text"].startswith(
        'CREATE STATISTICS "public"."orders_city_zip_stat" ON "city", "zip" FROM "public"."orders";'
    )
    assert (finding["severity"], finding["evidence"]["rows_that_came"]) == ("warning", 3000)
    assert finding["cost"].startswith("By that number it chose the ")
    expression = explain.mend("misestimate", "SELECT count(*) FROM orders WHERE length(status) = 4")
    assert "ON (length(status)) FROM" in expression["remedies"][0]["text"]
    psql(database.dsn, "UPDATE orders SET status = 'new' WHERE id > 20000")
    changed = "SELECT n_mod_since_analyze FROM pg_stat_user_tables WHERE relname = 'orders'"
    wait_until(lambda: psql(database.dsn, changed).strip() == "40000")
    stale = explain.mend("misestimate", "SELECT * FROM orders WHERE status = 'new'")
    assert stale["remedies"][0]["text"] == 'ANALYZE "public"."orders";'
    assert "40,000 rows of the table were changed" in stale["cost"]
    psql(database.dsn, "CREATE FUNCTION many() RETURNS SETOF integer LANGUAGE sql VOLATILE SECURITY DEFINER AS"
         " 'SELECT generate_series(1, 30000)'")  # fmt: skip
    function = explain.mend("misestimate", "SELECT count(*) FROM many()")
    assert function["remedies"][0]["text"] == 'ALTER FUNCTION "public"."many" ROWS 30000;'


@pytest.mark.versions(14, 18)
def test_shapes_that_cost(database: Database) -> None:
    make_orders(database)
    psql(
        database.dsn,
        "CREATE TABLE people AS SELECT g AS id, 'p' || g AS name FROM generate_series(1, 2000) g; ANALYZE people",
    )
    explain = Explain(database)
    hinted = {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_material": "off"}
    joined = "SELECT count(*) FROM people p JOIN people q ON p.id = q.id WHERE p.id < 400"
    found = explain.mend("nested_loop", joined, **hinted)
    assert "all of public.people was gone through" in found["fact"]
    psql(database.dsn, "DROP INDEX people_id_idx")
    per_row = (
        "SELECT p.id, (SELECT count(*) FROM people q WHERE q.id > p.id AND q.id < p.id + 5) FROM people p"
        " WHERE p.id > 900"
    )
    found = explain.finding("subplan", per_row)
    assert "A subquery was executed 1,100 times" in found["fact"]
    flat = "SELECT p.id, count(q.id) FROM people p LEFT JOIN people q ON q.id = p.id + 1 GROUP BY p.id"
    assert explain.is_silent(flat)
    cte = "WITH done AS MATERIALIZED (SELECT * FROM orders WHERE status = 'done') SELECT * FROM done WHERE id = 77"
    found = explain.finding("cte", cte)
    rewritten = found["remedies"][0]["text"]
    assert rewritten == cte.replace("MATERIALIZED", "NOT MATERIALIZED") + ";"
    assert explain.is_silent(rewritten)
    paged = "SELECT * FROM orders ORDER BY id LIMIT 10 OFFSET 30000"
    assert "OFFSET skips 30,000 rows to return 10" in explain.finding("offset", paged)["fact"]
    assert explain.checks(paged, "--plain") == ["offset"]
    assert explain.is_silent("SELECT * FROM orders WHERE id > 30000 ORDER BY id LIMIT 10")
    # Foreign keys whose own columns have no index.
    psql(database.dsn, "ALTER TABLE people ADD PRIMARY KEY (id); CREATE TABLE notes (who integer REFERENCES people);"
         "INSERT INTO notes SELECT 1 FROM generate_series(1, 20000)")  # fmt: skip
    delete = "DELETE FROM people WHERE id > 1900"
    found = explain.mend("trigger", delete, "--write")
    assert found["remedies"][0]["text"] == 'CREATE INDEX CONCURRENTLY ON "public"."notes" ("who");'
    # Settings that were for trying.
    psql(database.dsn, f"ALTER DATABASE {database.name} SET enable_indexscan = off")
    assert explain.mend("setting_off", "SELECT 1")["evidence"]["set_by"] == {"enable_indexscan": "database"}
    # Workers that others have.
    workers = explain.finding("workers", "SELECT count(*) FROM orders", **PARALLEL, max_parallel_workers="0")
    assert "Of 1 parallel worker planned 0 could be had" in workers["fact"]
    assert "SET max_parallel_workers = 2;" in workers["remedies"][0]["text"]
    # Others' tests may have them for a moment.
    wait_until(lambda: not explain.checks("SELECT count(*) FROM orders", **PARALLEL, max_parallel_workers="8"))


@pytest.mark.versions(14, 16, 18)  # a generic plan is had in two ways
def test_partitions_that_are_read_in_vain(database: Database) -> None:
    psql(
        database.dsn,
        """
        CREATE TABLE events (at date NOT NULL, who integer, n integer) PARTITION BY RANGE (at);
        SELECT format('CREATE TABLE e%s PARTITION OF events FOR VALUES FROM (%L) TO (%L)', m,
          date '2024-01-01' + m * 30, date '2024-01-01' + m * 30 + 30) FROM generate_series(0, 5) m \\gexec
        INSERT INTO events SELECT date '2024-01-01' + g % 180, g % 180 / 30 * 10000 + g % 5000, g
          FROM generate_series(1, 60000) g;
        CREATE INDEX ON events (n);
        ANALYZE events;
        """,
    )
    explain = Explain(database)
    query = "SELECT * FROM events WHERE n = 4242"
    found = explain.finding("not_pruned", query)
    assert found["fact"] == 'All 6 partitions of "public"."events" were read; 5 of them gave no row.'
    assert "No condition is on the key, at" in found["cost"]
    assert explain.finding("not_pruned", query, "--plain")["severity"] == "info"
    assert explain.is_silent(f"{query} AND at = '2024-04-23'")
    assert explain.is_silent("SELECT count(*) FROM events")
    assert explain.is_silent("SELECT * FROM e1 WHERE n = 4242 UNION ALL SELECT * FROM e2 WHERE n = 4242")
    # Of a generic plan it is known, but where the key is compared with a value to come.
    assert explain.checks("SELECT * FROM events WHERE n = $1", "--plain") == ["not_pruned"]
    assert explain.is_silent("SELECT * FROM events WHERE n = $1 AND at = $2", "--plain")
    assert explain.is_silent("SELECT * FROM events WHERE n = 4242 AND at <> '2024-04-23'")
    hides = explain.finding("not_pruned", f"{query} AND to_char(at, 'YYYY') = '2024'")
    assert "only a condition on the key itself" in hides["cost"]
    # Left out when it is executed: by a value that planning does not know.
    assert "not_pruned" not in explain.checks(f"{query} AND at = (SELECT date '2024-04-23')")
    psql(database.dsn, f"ALTER ROLE {database.owner} SET enable_partition_pruning = off")
    off = explain.mend("not_pruned", f"{query} AND at = '2024-04-23'")
    assert off["remedies"][0]["text"] == f'ALTER ROLE "{database.owner}" RESET "enable_partition_pruning";'
    # One finding for all partitions, and an index for all, the parent's too.
    finding = explain.mend("seq_scan", "SELECT * FROM events WHERE who = 10077")
    assert finding["evidence"]["table"] == "6 partitions of public.events"
    with database.connect() as connection:
        valid = "SELECT indisvalid FROM pg_index WHERE indrelid = 'events'::regclass"
        assert connection.execute(valid).fetchall() == [(True,), (True,)]


def test_healthy_plans_are_silent(database: Database) -> None:
    pgbench(database.dsn, "-i", "-q", "-s", "1")
    explain = Explain(database)
    for query in (
        "SELECT abalance FROM pgbench_accounts WHERE aid = 4242",
        "SELECT * FROM pgbench_accounts WHERE aid BETWEEN 100 AND 5000 ORDER BY aid DESC LIMIT 10",
        "SELECT count(*), sum(abalance) FROM pgbench_accounts",
        "SELECT t.tid, count(*) FROM pgbench_tellers t JOIN pgbench_accounts a USING (bid) WHERE a.aid < 900 GROUP"
        " BY 1",
        "WITH a AS (SELECT * FROM pgbench_accounts WHERE aid < 10) SELECT * FROM a x JOIN a y USING (aid)",
        "SELECT * FROM pgbench_branches b WHERE EXISTS (SELECT FROM pgbench_tellers t WHERE t.bid = b.bid)",
    ):
        for how in ((), ("--plain",)):
            assert explain.is_silent(query, *how), query
        # Others' tests may have the workers.
        assert any(set(explain.checks(query, **PARALLEL)) <= {"workers"} for _ in range(LOOKS)), query
    for query in (
        "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 4242",
        "INSERT INTO pgbench_history SELECT 1, 1, g, 1, now() FROM generate_series(1, 100) g",
        "DELETE FROM pgbench_tellers WHERE tid = 3",
    ):
        assert explain.is_silent(query, "--write")
    page = explain.run("SELECT count(*) FROM pgbench_accounts", "--analyze").out.splitlines()
    assert page[0] == "SELECT count(*) FROM pgbench_accounts"
    assert page[1].startswith(f"PostgreSQL 18.{page[1].split('18.')[1].split(',')[0]}, database {database.name}: took ")
    assert "✓ Nothing in the plan took more than it should." in page
    assert any("#1" in line and "Aggregate" in line for line in page)
    assert any("#2" in line and "└─ " in line and "█" in line and "100,000" in line for line in page)


@pytest.mark.versions(14, 18)
def test_nothing_remains_and_what_writes_is_asked_for(database: Database, tmp_path: Any, monkeypatch: Any) -> None:
    psql(database.dsn, "CREATE TABLE t (n integer); INSERT INTO t VALUES (1); CREATE SEQUENCE s; CREATE SCHEMA x;"
         "CREATE TABLE x.far (n integer); CREATE FUNCTION sneaky() RETURNS integer LANGUAGE plpgsql AS"
         " 'BEGIN DELETE FROM t; RETURN 1; END'")  # fmt: skip
    explain = Explain(database)

    def refused(*arguments: str, exit_code: int, words: str, **options: str) -> None:
        ran = explain.run(*arguments, **options)
        assert (ran.exit_code, words in ran.err, ran.out) == (exit_code, True, ""), ran
        assert "Traceback" not in ran.err

    refused("UPDATE t SET n = 2", "--analyze", exit_code=4, words="--analyze --write executes it and rolls it back")
    for query in (
        "WITH d AS (DELETE FROM t RETURNING 1) TABLE d",
        "SELECT nextval('s')",
        "SELECT sneaky()",
        "SELECT * FROM t FOR UPDATE",
    ):
        refused(query, "--analyze", exit_code=4, words="The query writes: cannot execute")
    assert explain("UPDATE t SET n = 2", "--plain")["is_measured"] is False
    for query in ("UPDATE t SET n = 2", "SELECT sneaky(), nextval('s')"):
        said = explain(query, "--write")
        assert "What no rollback undoes stays" in said["notes"][0]
    with database.connect() as connection:
        rows = connection.execute("SELECT n, (SELECT is_called FROM s) FROM t").fetchall()
    assert rows == [(1, True)]
    refused("SELECT nope FROM t", exit_code=2, words='column "nope" does not exist (42703)')
    refused("SELECT n FROM far", exit_code=2, words="another search_path goes into the DSN")
    assert explain("SELECT n FROM far", "--plain", search_path="x")["plan"]["label"] == "Seq Scan on x.far"
    assert explain("SELECT '\\'", "--plain", standard_conforming_strings="off")["query"] == "SELECT '\\'"
    refused("SELECT $1, $2", "--analyze", exit_code=2, words="cannot be executed without values")
    refused("SELECT $1, $2", "--param", "1", exit_code=2, words="2 parameters, and 1 values")
    refused("SELECT pg_sleep(60)", "--analyze", "--timeout", "50ms", exit_code=4, words="did not end within 50 ms")
    refused("SELECT 1", "--analyze", "--timeout", "soon", exit_code=2, words="not a duration")
    monkeypatch.setattr(runner, "LOCK_TIMEOUT_MS", 50)
    holder = database.connect()
    holder.execute("BEGIN; LOCK TABLE t")
    refused("TABLE t", exit_code=4, words="`pgscale locks` shows who holds it")
    holder.execute("ROLLBACK")
    refused("123", exit_code=2, words="pg_stat_statements is not installed in this database")
    plain = database.create_role("plain")
    ran = pgscale("explain", "TABLE x.far", "--dsn", database.dsn_as(plain))
    assert (ran.exit_code, "permission denied for schema x" in ran.err) == (3, True), ran.err
    # From a file and from standard input; values that are quotes and per cent signs.
    file = tmp_path / "a query.sql"
    file.write_text("-- all\nSELECT n, '%s' FROM t WHERE n = $1 AND 'it''s 5%' = $2;\n")
    said = explain(str(file), "--param", "1", "--param", "it's 5%")
    assert (said["plan"]["actual_rows"], said["query"].splitlines()[0]) == (1, "-- all")
    assert explain("SELECT 1 WHERE $1 = '-5'", "--param", "-5")["plan"]["actual_rows"] == 1
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"TABLE t")))
    assert explain("-", "--plain")["plan"]["label"] == "Seq Scan on public.t"


def test_ctrl_c_cancels_the_query_on_the_server(database: Database) -> None:
    watcher = database.connect_superuser()
    sleeping = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE '%%pg_sleep(600)%%' AND state ="
        " 'active'"
        " AND pid <> pg_backend_pid()"
    )

    def interrupt() -> None:
        wait_until(lambda: watcher.execute(sleeping, (database.name,)).fetchone() == (1,))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    ran = Explain(database).run("SELECT pg_sleep(600)", "--analyze", "--timeout", "600s")
    thread.join()
    assert (ran.exit_code, ran.err.strip()) == (130, "Interrupted.")
    wait_until(lambda: watcher.execute(sleeping, (database.name,)).fetchone() == (0,))


@pytest.mark.versions(15)
def test_the_time_of_reads_is_measured_where_that_is_allowed(database: Database) -> None:
    psql(database.dsn, "CREATE TABLE t (n integer)")
    explain = Explain(database)
    assert "I/O Read Time" not in explain("TABLE t")["plan"]["properties"]
    psql(database.superuser_dsn, f"GRANT SET ON PARAMETER track_io_timing TO {database.owner}")
    assert "I/O Read Time" in explain("TABLE t")["plan"]["properties"]
    psql(database.superuser_dsn, f"REVOKE SET ON PARAMETER track_io_timing FROM {database.owner}")
