"""A rehearsal: it measures, leaves the table alone, cleans up after the dead, and plans rest on it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner

from pgscale import partition
from pgscale.cli.partition import partition as command
from pgscale.core.model import Progress
from pgscale.errors import InterruptedRunError, RefusedError, UsageError
from pgscale.partition import Amount, Options
from pgscale.partition.rehearsal import model, runner
from pgscale.partition.rehearsal.runner import spread
from support.clients import pg_dump_schema
from support.crash import pgscale
from support.servers import Database

TABLE = """
CREATE SEQUENCE own_numbers;
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.note := ''fired''; RETURN NEW; END';
CREATE TABLE kinds (kind int PRIMARY KEY);
INSERT INTO kinds SELECT generate_series(0, 9);
CREATE TABLE t (id bigint PRIMARY KEY DEFAULT nextval('own_numbers'), at timestamptz NOT NULL,
                kind int NOT NULL REFERENCES kinds, note text, twice bigint GENERATED ALWAYS AS (id * 2) STORED,
                CHECK (id > 0)) WITH (fillfactor = 90);
CREATE INDEX ON t (at);
INSERT INTO t (id, at, kind, note) SELECT g, '2026-01-01'::timestamptz + g * interval '1 minute', g % 10,
  repeat('x', 60) FROM generate_series(1, 60000) g;
CREATE TRIGGER stamp BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION stamp();
ANALYZE t;
"""
BY_ID = Options(by="hash:id", partitions=4, pace="fast")


@pytest.fixture
def made(database: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    # A table that takes seconds to copy would take minutes to make.
    monkeypatch.setattr(runner, "LEAST_COPY_S", 0.0)
    with database.connect() as conn:
        for statement in TABLE.split(";\n"):
            if statement.strip():
                conn.execute(statement)
    return database


def _schemas(database: Database) -> list[str]:
    with database.connect() as conn:
        rows = conn.execute("SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'pgscale%' ORDER BY 1")
        return [row[0] for row in rows]


def _content(database: Database) -> object:
    with database.connect() as conn:
        return conn.execute("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM t").fetchone()


def test_page_ranges_are_spread_over_the_table() -> None:
    ranges = spread(100_000, 0.01)
    assert sum(last - first for first, last in ranges) == 1_000
    assert ranges[0][0] == 0
    assert 96_000 < ranges[-1][0] < 100_000
    assert all(a[1] <= b[0] for a, b in pairwise(ranges))
    assert spread(10, 1.0) == [(0, 10)]
    assert spread(5, 0.001) == [(0, 1)]
    assert spread(0, 0.5) == []
    full = spread(1_000, 1.0)
    assert [p for first, last in full for p in range(first, last)] == list(range(1_000))


def test_amounts() -> None:
    assert Amount.parse("1%").share_of(5) == 0.01
    assert Amount.parse("100%").share_of(5) == 1
    assert Amount.parse("1000").share_of(10_000) == 0.1
    assert Amount.parse("1000").share_of(10) == 1
    for wrong in ("0%", "101%", "0", "-1", "some", ""):
        with pytest.raises(UsageError, match="--rows"):
            Amount.parse(wrong)


@pytest.mark.sampled(2)
@pytest.mark.versions(14, 18)
def test_a_rehearsal_measures_and_leaves_nothing_but_its_figures(made: Database) -> None:
    before, content = pg_dump_schema(made.dsn), _content(made)
    said: list[str] = []
    found = partition.rehearse(
        made.dsn, "t", BY_ID, lambda m: said.append(f"{m.phase} {m.note}"), amount=Amount.parse("50%"), keep=False
    )
    assert pg_dump_schema(made.dsn) == before
    assert _content(made) == content
    assert _schemas(made) == []
    assert 27_000 < found.rows < 33_000
    assert not found.stored
    assert found.partitions == 4
    assert {"prepare", "copy", "index", "verify", "cutover"} <= {p.name for p in found.phases}
    copied = found.phase("copy")
    assert copied is not None
    # Every copied row is in the WAL, with its 60 bytes of note.
    assert copied.wal_bytes > found.rows * 60
    assert found.wal_bytes_per_row > 100
    assert any("of disk" in s for s in said)
    assert found.estimate.rows == 60_000
    assert "measured: a rehearsal of public.t" in found.estimate.basis


def test_a_plan_rests_on_the_rehearsal_until_the_run_is_finished(made: Database) -> None:
    with pytest.raises(RefusedError, match="Nothing was measured"):
        partition.plan(made.dsn, "t", Options(by="hash:id", partitions=4, pace="fast", storage="measured"))
    assert partition.rehearse(made.dsn, "t", BY_ID, amount=Amount.parse("20%")).stored
    assert _schemas(made) == ["pgscale"]
    planned = partition.plan(made.dsn, "t", Options(by="hash:id", partitions=4, pace="fast", storage="measured"))
    assert planned.estimate is not None
    assert "measured: a rehearsal of public.t was copied" in planned.estimate.basis
    partition.run(made.dsn, "t", BY_ID)
    partition.finish(made.dsn, "t")
    assert _schemas(made) == []


def test_the_table_is_written_while_it_is_rehearsed(made: Database) -> None:
    stop, failures, written = threading.Event(), list[str](), [0]

    def write() -> None:
        with psycopg.connect(made.dsn, autocommit=True, options="-c statement_timeout=2000") as conn:
            while not stop.is_set():
                try:
                    conn.execute("UPDATE t SET kind = (kind + 1) %% 10 WHERE id %% 997 = %s", (written[0] % 997,))
                    written[0] += 1
                except psycopg.Error as error:
                    failures.append(str(error))
                    return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        found = partition.rehearse(made.dsn, "t", BY_ID, amount=Amount.parse("100%"), keep=False)
    finally:
        stop.set()
        thread.join(30)
    assert failures == []
    assert written[0] > 10
    assert found.rows > 40_000
    assert _schemas(made) == []


def test_a_row_that_comes_twice_costs_its_chunk_only(made: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real = runner.spread
    monkeypatch.setattr(runner, "spread", lambda pages, share: [*real(pages, share), (0, 4)])
    found = partition.rehearse(made.dsn, "t", BY_ID, amount=Amount.parse("10%"), keep=False)
    assert found.skipped_chunks == 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("point", ["rehearse:created", "after:copy", "after:cutover", "rehearse:run"])
def test_the_next_one_removes_what_a_killed_one_left(made: Database, point: str) -> None:
    arguments = ("rehearse", "t", "--by", "hash:id", "--partitions", "4", "--pace", "fast", "--rows", "20%")
    assert pgscale(made.dsn, *arguments, kill_at=point).returncode == -9
    left = _schemas(made)
    assert any(s.startswith("pgscale_rehearse_") for s in left)
    found = partition.rehearse(made.dsn, "t", BY_ID, amount=Amount.parse("20%"), keep=False)
    assert [s for s in left if s.startswith("pgscale_rehearse_")] == list(found.leftovers)
    assert _schemas(made) == []


def test_ctrl_c_leaves_nothing(made: Database) -> None:
    content = _content(made)
    for phase in ("fill", "copy"):

        def interrupt(moment: object, phase: str = phase) -> None:
            if getattr(moment, "phase", "") == phase and getattr(moment, "done", 0):
                raise KeyboardInterrupt

        with pytest.raises(InterruptedRunError):
            partition.rehearse(made.dsn, "t", BY_ID, interrupt, amount=Amount.parse("50%"))
        assert _schemas(made) == []
    assert _content(made) == content


def test_one_rehearsal_a_table(made: Database) -> None:
    refused: list[RefusedError] = []

    def again(moment: object) -> None:
        if getattr(moment, "phase", "") == "copy" and not refused:
            with pytest.raises(RefusedError, match="Another process is rehearsing") as found:
                partition.rehearse(made.dsn, "t", BY_ID)
            refused.append(found.value)

    partition.rehearse(made.dsn, "t", BY_ID, again, amount=Amount.parse("20%"), keep=False)
    assert len(refused) == 1
    assert _schemas(made) == []


def test_what_a_run_refuses_a_rehearsal_refuses(made: Database) -> None:
    with pytest.raises(RefusedError, match="stand"):
        partition.rehearse(made.dsn, "t", Options(by="range:at:month"))
    assert _schemas(made) == []


def test_too_little_is_said_and_not_kept(database: Database) -> None:
    with database.connect() as conn:
        conn.execute("CREATE TABLE s (id int PRIMARY KEY); INSERT INTO s SELECT generate_series(1, 1000)")
    done = CliRunner().invoke(
        command,
        ["rehearse", "s", "--by", "hash:id", "--partitions", "2", "--pace", "fast", "--json", "--dsn", database.dsn],
    )
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert "too short" in document["doubt"]
    assert not document["stored"]
    assert _schemas(database) == []
    assert model.LEAST_COPY_S == 1.0


def test_the_command_line_and_the_file(
    made: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database_factory: Callable[..., Database]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pgscale.toml").write_text('storage = "gp2:500GB,used=1160"\n')
    goal = ["t", "--by", "hash:id", "--partitions", "4", "--pace", "fast", "--dsn", made.dsn]
    shown = CliRunner().invoke(command, ["plan", *goal])
    assert shown.exit_code == 0, shown.output
    assert "storage gp2:500GB,used=1160, 8 to 128 kB an I/O" in shown.stdout
    shown = CliRunner().invoke(command, ["plan", *goal, "--storage", "gp3"])
    assert "storage gp3, " in shown.stdout
    shown = CliRunner().invoke(command, ["rehearse", *goal, "--rows", "30%"])
    assert shown.exit_code == 0, shown.output
    assert "The whole table:" in shown.stdout
    assert "Kept in the ledger" in shown.stdout
    for wrong in ("gp9:1TB", "gp2"):
        shown = CliRunner().invoke(command, ["plan", *goal, "--storage", wrong])
        assert isinstance(shown.exception, UsageError)
    ran = CliRunner().invoke(command, ["run", *goal, "--json"])
    assert ran.exit_code == 0, ran.output
    with made.connect() as conn:
        row = conn.execute("SELECT plan -> 'options' ->> 'storage' FROM pgscale.run").fetchone()
    assert row == ("gp2:500GB,used=1160",)


def test_names_that_need_quotes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LEAST_COPY_S", 0.0)
    with database.connect() as conn:
        conn.execute('CREATE SCHEMA "My Schema"')
        conn.execute('CREATE TABLE "My Schema"."a ""b"".c" ("Id" int PRIMARY KEY, "x y" text)')
        conn.execute('INSERT INTO "My Schema"."a ""b"".c" SELECT generate_series(1, 1000)')
    options = Options(by='hash:"Id"', partitions=2, pace="fast")
    found = partition.rehearse(
        database.dsn, '"My Schema"."a ""b"".c"', options, amount=Amount.parse("100%"), keep=False
    )
    assert found.rows == 1000
    assert _schemas(database) == []


def test_status_shows_the_eta_of_a_live_run(made: Database) -> None:
    seen: list[partition.RunStatus] = []
    done = threading.Event()

    def slowed(moment: Progress) -> None:
        # Slower than the pace, so that there are windows enough to make a range of.
        if moment.phase == "copy" and moment.done and not seen:
            done.wait(0.05)

    def run() -> None:
        try:
            partition.run(made.dsn, "t", Options(by="hash:id", partitions=4, storage="gp3", pace="normal"), slowed)
        finally:
            done.set()

    thread = threading.Thread(target=run)
    thread.start()
    while not done.wait(0.2):
        seen += [s for s in partition.status(made.dsn, "t") if s.eta_least_s is not None][: 1 - len(seen)]
    thread.join(60)
    (status,) = seen
    assert status.eta_least_s is not None
    assert status.eta_most_s is not None
    assert 0 < status.eta_least_s <= status.eta_most_s
    assert status.to_json()["phase_eta_s"] == {
        "least": round(status.eta_least_s, 1),
        "most": round(status.eta_most_s, 1),
    }
    # Of a run that no process works on there is none.
    assert partition.status(made.dsn, "t")[0].eta_least_s is None
