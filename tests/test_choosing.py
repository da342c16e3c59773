"""`--strategy auto`: what it decides from which numbers, and that a plan and a run carry what it chose."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace

import psycopg
import pytest
from click.testing import CliRunner

from pgscale import partition
from pgscale.cli.partition import partition as command
from pgscale.core.model import Progress
from pgscale.core.units import parse_bytes
from pgscale.embedded import Server
from pgscale.errors import InterruptedRunError, RefusedError
from pgscale.ledger import store
from pgscale.partition import Options, circumstances
from pgscale.partition.bounds import parse_by
from pgscale.partition.choosing import PREFERENCE, Circumstances, Disk, Statements, decide
from pgscale.partition.records import stored_plan
from pgscale.partition.strategies import STRATEGIES
from support.servers import Database

GB = 1024**3
ALL = frozenset({"mirror", "attach", "move"})
QUIET = Statements(on_conflict=0, row_locks=0, truncates=0)
PLENTY = Circumstances(
    by=parse_by("range:at:month"),
    pace="normal",
    table_bytes=100 * GB,
    index_bytes=20 * GB,
    copy_bytes=100 * GB,
    longest_s=3600.0,
    disk=Disk(free_bytes=500 * GB, source="on the file system of /data"),
    grown=(),
    grown_bytes=0,
    incoming=0,
    statements=QUIET,
    why_no_statements="",
    writes_per_s=100.0,
    available=ALL,
)
HASH = replace(PLENTY, by=parse_by("hash:id"))
SHORT = Disk(free_bytes=40 * GB, source="--free-disk 40 GB")
UNKNOWN = Disk(free_bytes=None, source="the server is on another machine")

CASES = (
    ("plenty of everything", PLENTY, ("mirror", "attach", "move")),
    ("a hash", HASH, ("mirror", "move")),
    ("disk not known", replace(PLENTY, disk=UNKNOWN), ("mirror", "attach", "move")),
    ("disk short", replace(PLENTY, disk=SHORT), ("attach", "move")),
    ("disk short, hash", replace(HASH, disk=SHORT), ("move",)),
    ("disk short, hash, ON CONFLICT", replace(HASH, disk=SHORT, statements=replace(QUIET, on_conflict=1)), ()),
    ("disk short, hash, FOR UPDATE", replace(HASH, disk=SHORT, statements=replace(QUIET, row_locks=1)), ()),
    ("disk short, hash, TRUNCATE", replace(HASH, disk=SHORT, statements=replace(QUIET, truncates=1)), ()),
    ("disk short, hash, hidden texts", replace(HASH, disk=SHORT, statements=replace(QUIET, hidden=3)), ()),
    ("disk short, hash, referenced", replace(HASH, disk=SHORT, incoming=1), ()),
    ("disk short, hash, unread", replace(HASH, disk=SHORT, statements=None, why_no_statements="no extension"), ()),
    ("disk short, keys grow", replace(PLENTY, disk=SHORT, grown=("a",), grown_bytes=10 * GB), ("attach", "move")),
    (
        "disk shorter, keys grow",
        replace(PLENTY, disk=Disk(free_bytes=12 * GB, source=""), grown=("a",), grown_bytes=10 * GB),
        (),
    ),
    ("too little even to move", replace(HASH, disk=Disk(free_bytes=37 * GB - 1, source="")), ()),
    ("just enough to move", replace(HASH, disk=Disk(free_bytes=37 * GB, source="")), ("move",)),
    ("disk full", replace(PLENTY, disk=Disk(free_bytes=GB, source="")), ("attach",)),
    ("many writes", replace(PLENTY, writes_per_s=50_000.0), ("attach", "mirror", "move")),
    ("many writes, hash", replace(HASH, writes_per_s=50_000.0), ("mirror", "move")),
    ("a copy of many days", replace(PLENTY, longest_s=10 * 86_400.0), ("attach", "mirror", "move")),
    ("only mirror there is", replace(PLENTY, available=frozenset({"mirror"})), ("mirror",)),
    ("only mirror, disk short", replace(PLENTY, disk=SHORT, available=frozenset({"mirror"})), ()),
    ("disk just enough", replace(HASH, disk=Disk(free_bytes=112 * GB, source="")), ("mirror", "move")),
    ("disk just short", replace(HASH, disk=Disk(free_bytes=112 * GB - 1, source="")), ("move",)),
)


@pytest.mark.parametrize(("given", "order"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_circumstances_decide(given: Circumstances, order: tuple[str, ...]) -> None:
    made = decide(given)
    assert made.order == order
    assert len(made.picked_because) == len(order)
    named = {text.split(":")[0] for text in made.excluded}
    assert named == given.available - set(order)


def test_auto_knows_every_strategy() -> None:
    asked_for = set(partition.STRATEGY_NAMES) - {"auto"}
    assert asked_for == set(PREFERENCE)
    # A split is no way to partition a table: it has a verb of its own.
    assert asked_for == set(STRATEGIES) - {"split"}


def test_every_reason_has_its_numbers() -> None:
    made = decide(replace(PLENTY, grown=("orders_pkey",), incoming=2, statements=replace(QUIET, on_conflict=1_234)))
    said = " ".join(made.reasons)
    for words in (
        "Key: range by at",
        "a copy needs 112 GB free; 500 GB are free (on the file system of /data): enough",
        "1,234 calls with ON CONFLICT, 0 with FOR UPDATE",
        "Foreign keys that reference the table: 2",
        "must grow by the partition key: orders_pkey",
        "Writes: 100.0 rows a second; copying takes some 1 h 0 min at worst at pace normal",
    ):
        assert words in said
    (move,) = made.excluded
    assert "2 foreign keys could not reference a view" in move
    short = decide(replace(PLENTY, disk=SHORT))
    assert "mirror: it needs 112 GB of free disk, and there are 40 GB." in short.excluded
    assert "too little" in " ".join(short.reasons)
    assert "it needs 112 GB" in short.picked_because[0]
    unread = decide(replace(PLENTY, disk=UNKNOWN, statements=None, why_no_statements="no extension", writes_per_s=None))
    said = " ".join(unread.reasons)
    assert "how much is free is not known, because the server is on another machine" in said
    assert "TRUNCATE: not known, because no extension" in said
    assert "Writes: not known" in said
    assert any("whether ON CONFLICT is in use is not known, because no extension" in e for e in unread.excluded)


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("1kB", 1024), ("1.5 MB", 1_572_864), ("80gb", 80 * GB), ("2TB", 2048 * GB)]
)
def test_sizes_are_read_as_postgresql_does(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "-1", "12 parsecs", "GB", "1e9"])
def test_what_is_no_size_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


# --- on a server ------------------------------------------------------------------------------------------

ORDERS = """
CREATE TABLE orders (id int PRIMARY KEY, tenant int NOT NULL, n int);
INSERT INTO orders SELECT g, g % 50, 0 FROM generate_series(1, 2000) g;
ANALYZE orders
"""
AUTO = Options(by="hash:id", partitions=4, pace="fast", strategy="auto")


@pytest.fixture(autouse=True)
def short_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    # Only the test of the rate waits as long as servers take to tell their counters.
    monkeypatch.setattr(circumstances, "SAMPLE_S", 0.05)


def test_a_plan_says_what_was_chosen_and_why(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(ORDERS)
    arguments = ["plan", "orders", "--by", "hash:id", "--partitions", "4", "--strategy", "auto", "--dsn", database.dsn]
    shown = CliRunner().invoke(command, arguments)
    assert shown.exit_code == 0, shown.output
    assert "strategy mirror" in shown.output
    assert "Chosen: mirror" in shown.output
    assert "how much is free is not known" in shown.output
    data = json.loads(CliRunner().invoke(command, [*arguments, "--free-disk", "80GB", "--json"]).output)
    assert data["strategy"] == data["options"]["strategy"] == "mirror"
    assert any("80 GB are free (--free-disk 80 GB): enough" in r for r in data["strategy_reasons"])
    assert data["strategy_reasons"][-1].startswith("Chosen: mirror")
    plain = partition.plan(database.dsn, "orders", replace(AUTO, strategy="mirror"))
    assert plain.options.strategy_reasons == ()


def test_free_disk_is_measured_where_it_can_be(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(ORDERS)
    made = partition.plan(database.superuser_dsn, "public.orders", AUTO)
    assert any("are free (on the file system of /" in r for r in made.options.strategy_reasons)


def test_what_does_not_fit_is_refused_with_numbers(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(ORDERS)
    little = replace(AUTO, free_disk_bytes=10**6)
    with pytest.raises(RefusedError) as caught:
        partition.run(database.dsn, "orders", little)
    assert any(r.startswith("mirror: it needs 2") and "977 kB" in r for r in caught.value.reasons)
    with database.connect() as conn:
        assert conn.execute("SELECT to_regnamespace('pgscale')").fetchone() == (None,)


def test_a_refusal_of_the_only_strategy_that_fits_is_its_own(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(ORDERS)
    options = replace(AUTO, by="hash:tenant")
    with pytest.raises(RefusedError) as chosen:
        partition.plan(database.dsn, "orders", options)
    with pytest.raises(RefusedError) as plain:
        partition.plan(database.dsn, "orders", replace(options, strategy="mirror"))
    assert "orders_pkey" in str(chosen.value)
    assert chosen.value.reasons == plain.value.reasons
    assert chosen.value.fact == plain.value.fact


def test_a_run_keeps_what_was_chosen_and_a_rerun_recognizes_it(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(ORDERS)

    def stop(progress: Progress) -> None:
        if progress.phase == "copy":
            raise KeyboardInterrupt

    with pytest.raises(InterruptedRunError):
        partition.run(database.dsn, "orders", AUTO, stop)
    with database.connect() as conn:
        (row,) = store.read_runs(conn)
        kept = stored_plan(row)
    assert (row.strategy, kept.options.strategy) == ("mirror", "mirror")
    assert kept.options.strategy_reasons[-1].startswith("Chosen: mirror")
    with pytest.raises(RefusedError, match="another goal"):
        partition.run(database.dsn, "orders", replace(AUTO, partitions=8))
    done = partition.run(database.dsn, "orders", AUTO)
    assert (done.run_id, done.state, done.strategy) == (row.run_id, "cut-over", "mirror")


@pytest.mark.versions(14, 15)
def test_statements_in_use_are_counted(
    private_server: Callable[..., Server], database_factory: Callable[..., Database], pg_version: int
) -> None:
    database = database_factory(private_server({"shared_preload_libraries": "pg_stat_statements"}, version=pg_version))
    with database.connect_superuser() as admin, database.connect() as conn:
        admin.execute("CREATE EXTENSION pg_stat_statements")
        conn.execute(ORDERS)
        for number in range(3):
            conn.execute(
                "INSERT INTO orders VALUES (%s, 1, 1) ON CONFLICT (id) DO UPDATE SET n = orders.n + 1", (number,)
            )
        conn.execute("SELECT * FROM orders o WHERE id = 1 FOR UPDATE")
        conn.execute("CREATE TABLE orders_log (id int); TRUNCATE orders_log")
        made = partition.plan(database.dsn, "orders", AUTO)
        said = " ".join(made.options.strategy_reasons)
        assert "3 calls with ON CONFLICT, 1 with FOR UPDATE or SHARE, 0 TRUNCATE" in said
        conn.execute("TRUNCATE orders")
        made = partition.plan(database.dsn, "orders", AUTO)
        assert ", 1 TRUNCATE" in " ".join(made.options.strategy_reasons)


@pytest.mark.versions(14, 18)
def test_the_rate_of_writes_is_measured(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circumstances, "SAMPLE_S", 2.5)
    with database.connect() as conn:
        conn.execute(ORDERS)
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(database.dsn, autocommit=True) as writer:
            while not stop.is_set():
                writer.execute("UPDATE orders SET n = n + 1")
                # Counters are told when a transaction ends, once a second at most.
                stop.wait(0.1)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        made = partition.plan(database.dsn, "orders", AUTO)
    finally:
        stop.set()
        thread.join()
    (said,) = [r for r in made.options.strategy_reasons if r.startswith("Writes:")]
    # Each statement writes 2,000 rows; one of them is told at the least.
    assert float(said.split()[1].replace(",", "")) >= 2_000 / 2.5
