"""Bad input gets one clear paragraph and the right exit code, and changes nothing; pgscale is considerate."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgscale import partition
from pgscale.core.model import Progress
from pgscale.errors import (
    ConnectError,
    PermissionDeniedError,
    PgscaleError,
    RefusedError,
    RunFailedError,
    UsageError,
)
from pgscale.partition import Options
from support import parity
from support.bouncer import Bouncer, MissingBouncerError
from support.cli import Ran, pgscale
from support.servers import Database
from support.waiting import WaitingRun

PASSWORD = "s3cr3t-Pa55word"

TABLES = """
CREATE TABLE plain (id int PRIMARY KEY, v int, region text NOT NULL DEFAULT 'a', ts timestamp, j json,
  UNIQUE (id, region));
CREATE VIEW a_view AS SELECT * FROM plain;
CREATE MATERIALIZED VIEW a_matview AS SELECT 1 AS id;
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY HASH (id);
CREATE UNLOGGED TABLE quick (id int PRIMARY KEY);
CREATE TABLE keyless (id int, v int);
CREATE TABLE holes (id int NOT NULL UNIQUE, ts timestamp);
CREATE TABLE regions (id int, region text, PRIMARY KEY (id, region));
CREATE TYPE pair AS (a int, b int);
CREATE SEQUENCE a_sequence;
INSERT INTO plain SELECT g, g, 'a', '2013-01-01' FROM generate_series(1, 50) g;
INSERT INTO holes VALUES (1, '2013-01-01'), (2, NULL);
INSERT INTO regions VALUES (1, 'a'), (2, 'b'), (3, 'c');
"""

# Every row of the catalog that DDL could have touched, with the transaction that wrote it.
CATALOG = " UNION ALL ".join(
    f"SELECT '{name}', ctid::text, xmin::text FROM pg_catalog.{name}"
    for name in (
        *("pg_namespace", "pg_class", "pg_attribute", "pg_attrdef", "pg_type", "pg_index", "pg_constraint"),
        *(
            "pg_trigger",
            "pg_proc",
            "pg_rewrite",
            "pg_policy",
            "pg_sequence",
            "pg_depend",
            "pg_inherits",
            "pg_description",
        ),
        *("pg_statistic_ext", "pg_publication_rel", "pg_event_trigger", "pg_default_acl"),
    )
)


@dataclass(frozen=True)
class Case:
    """One thing to ask that must be declined.

    Args:
        table, by, flags: what is asked, the flags as Options names them.
        exits: acceptable exit codes.
        says: what the paragraph must mention.
    """

    name: str
    table: str
    by: str
    flags: dict[str, Any]
    exits: tuple[int, ...]
    says: str


def _case(name: str, table: str, by: str, exits: tuple[int, ...], says: str, **flags: Any) -> Case:
    return Case(name, table, by, flags, exits, says)


HASH = {"partitions": 4}
CASES = (
    _case("no such table", "public.nothing", "hash:id", (2, 4), r"nothing", **HASH),
    _case("no such schema", "nowhere.plain", "hash:id", (2, 4), r"nowhere", **HASH),
    _case("no table given", "", "hash:id", (2, 4), r"(?i)table|name", **HASH),
    _case("three-part name of another database", "other.public.plain", "hash:id", (2, 4), r"other", **HASH),
    _case("a name that is SQL", "plain; DROP TABLE plain", "hash:id", (2, 4), r"plain", **HASH),
    _case("an unclosed quote", 'public."plain', "hash:id", (2, 4), r"plain", **HASH),
    _case("a view", "public.a_view", "hash:id", (4,), r"(?i)view", **HASH),
    _case("a materialized view", "public.a_matview", "hash:id", (4,), r"(?i)materialized", **HASH),
    _case("a partitioned table", "public.parted", "hash:id", (4,), r"(?i)partitioned", **HASH),
    _case("an unlogged table", "public.quick", "hash:id", (4,), r"(?i)unlogged", **HASH),
    _case("a sequence", "public.a_sequence", "hash:last_value", (2, 4), r"(?i)sequence", **HASH),
    _case("a composite type", "public.pair", "hash:a", (2, 4), r"pair", **HASH),
    _case("an index", "public.plain_pkey", "hash:id", (2, 4), r"plain_pkey", **HASH),
    _case("a system table", "pg_catalog.pg_class", "hash:oid", (3, 4), r"pg_class", **HASH),
    _case("no identity key", "public.keyless", "hash:id", (4,), r"(?i)key|unique", **HASH),
    _case("no such column", "public.plain", "hash:nope", (2, 4), r"nope", **HASH),
    _case("a system column", "public.plain", "hash:ctid", (2, 4), r"ctid", **HASH),
    _case("a column twice", "public.plain", "hash:id,id", (2, 4), r"(?i)id|twice", **HASH),
    _case("a key of another case", "public.plain", 'hash:"ID"', (2, 4), r"ID", **HASH),
    _case("a type without hashing", "public.plain", "hash:j", (2, 4), r"(?i)json|\bj\b", **HASH),
    _case("no partitions", "public.plain", "hash:id", (2,), r"(?i)partitions"),
    _case("0 partitions", "public.plain", "hash:id", (2, 4), r"\b0\b", partitions=0),
    _case("-3 partitions", "public.plain", "hash:id", (2, 4), r"-3", partitions=-3),
    _case("10⁶ partitions", "public.plain", "hash:id", (2, 4), r"1,?000,?000", partitions=10**6),
    _case("partitions for a range", "public.plain", "range:id:10", (2,), r"(?i)partitions", partitions=4),
    _case("values for a hash", "public.plain", "hash:id", (2,), r"(?i)values", values=("a",), **HASH),
    _case("a value given twice", "public.regions", "list:region", (2, 4), r"(?i)value", values=("a", "a")),
    _case("list values that miss rows", "public.regions", "list:region", (4,), r"'?b'?", values=("a", "c")),
    _case("list values of another type", "public.plain", "list:id", (2, 4), r"(?i)value|x", values=("x",)),
    _case("NULLs in a range", "public.holes", "range:ts:month", (4,), r"(?i)null", accept_key_change=True),
    _case("a key that would have to grow", "public.regions", "hash:region", (4, 0), r"(?i)key", **HASH),
    _case("nothing to partition by", "public.plain", "", (2,), r"(?i)by", **HASH),
    _case("a method that does not exist", "public.plain", "random:id", (2,), r"random", **HASH),
    _case("a method alone", "public.plain", "hash", (2,), r"hash", **HASH),
    _case("a method and a colon", "public.plain", "hash:", (2,), r"hash", **HASH),
    _case("a range without a step", "public.plain", "range:id", (2,), r"range"),
    _case("months of a text", "public.regions", "range:region:month", (2, 4), r"region|text"),
    _case("a step that does not exist", "public.plain", "range:ts:fortnight", (2, 4), r"fortnight|key"),
    _case("a step of months for a number", "public.plain", "range:id:month", (2, 4), r"month"),
    _case("a step of 0", "public.plain", "range:id:0", (2, 4), r"\b0\b"),
    _case("a step of -5", "public.plain", "range:id:-5", (2, 4), r"-5"),
    _case("a step below 1", "public.regions", "range:id:0.001", (2, 4), r"(?i)step|whole|partitions"),
    _case("0 workers", "public.plain", "hash:id", (2,), r"(?i)workers", workers=0, **HASH),
    _case("no time to block", "public.plain", "hash:id", (2,), r"(?i)block", max_block_s=0.0, **HASH),
    _case("a negative timeout", "public.plain", "hash:id", (2,), r"(?i)lock", lock_timeout_s=-1.0, **HASH),
    _case("an unknown pace", "public.plain", "hash:id", (2,), r"ludicrous", pace="ludicrous", **HASH),
    _case("an unknown verification", "public.plain", "hash:id", (2,), r"maybe", verify="maybe", **HASH),
)  # fmt: skip
DECLINED = tuple(c for c in CASES if 0 not in c.exits)


@pytest.fixture
def filled(database: Database) -> Database:
    with database.connect() as conn:
        conn.execute(TABLES)
    return database


@contextlib.contextmanager
def _unchanged(database: Database) -> Iterator[None]:
    with database.connect_superuser() as admin:
        before = admin.execute(CATALOG).fetchall()
        yield
        assert admin.execute(CATALOG).fetchall() == before
        assert parity.traces(admin) == []


def _cli(*args: str, dsn: str | None = None, env: dict[str, str] | None = None) -> Ran:
    return pgscale("partition", *args, *(["--dsn", dsn] if dsn is not None else []), env=env)


def _flags(case: Case) -> list[str]:
    flags: list[str] = []
    for name, value in case.flags.items():
        if name.endswith("_s"):
            flags += [f"--{name.removesuffix('_s').replace('_', '-')}", f"{value}s"]
        elif value is True:
            flags.append(f"--{name.replace('_', '-')}")
        elif isinstance(value, tuple):
            flags += [f"--{name}", ",".join(value)]
        else:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def _assert_one_paragraph(ran: Ran) -> None:
    assert "Traceback" not in ran.err
    assert "psycopg" not in ran.err
    paragraphs = [p for p in re.split(r"\n\s*\n", ran.err.strip()) if p]
    # click prints a usage line of its own before the paragraph
    assert 1 <= len(paragraphs) <= 2, f"not one paragraph: {ran.err!r}"
    assert len(ran.err) < 1200, f"not short: {ran.err!r}"


# --- what is asked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", DECLINED, ids=lambda c: c.name)
def test_the_library_declines(filled: Database, case: Case) -> None:
    with _unchanged(filled), pytest.raises(PgscaleError) as declined:
        partition.run(filled.dsn, case.table, Options(by=case.by, **case.flags))
    assert declined.value.exit_code in case.exits, str(declined.value)
    assert re.search(case.says, str(declined.value)), str(declined.value)
    assert len(str(declined.value)) < 1000


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", DECLINED, ids=lambda c: c.name)
@pytest.mark.parametrize("verb", ["plan", "run"])
def test_the_command_line_declines(filled: Database, case: Case, verb: str) -> None:
    with _unchanged(filled):
        ran = _cli(verb, case.table, "--by", case.by, *_flags(case), dsn=filled.dsn)
    assert ran.exit_code in case.exits, f"exit {ran.exit_code}: {ran.err}"
    if verb == "plan" and ran.exit_code == 4 and not ran.err:
        # To a plan the refusal is the answer: it is printed as such, every reason named.
        assert "Traceback" not in ran.out
        assert re.search(case.says, ran.out), ran.out
        return
    _assert_one_paragraph(ran)
    assert re.search(case.says, ran.err), ran.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("explode", "plain"), r"explode"),
        (("run",), r"(?i)table"),
        (("run", "plain"), r"--by"),
        (("run", "plain", "--by", "hash:id", "--partitions", "many"), r"many"),
        (("run", "plain", "--by", "hash:id", "--partitions", "4", "--max-block", "soon"), r"soon"),
        (("run", "plain", "--by", "hash:id", "--partitions", "4", "--nonsense"), r"--nonsense"),
        (("run", "plain", "extra", "--by", "hash:id", "--partitions", "4"), r"extra"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_command_line_is_a_usage_error(filled: Database, args: tuple[str, ...], says: str) -> None:
    with _unchanged(filled):
        ran = _cli(*args, dsn=filled.dsn if len(args) > 1 else None)
    assert ran.exit_code == 2
    _assert_one_paragraph(ran)
    assert re.search(says, ran.err), ran.err


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_refusal_as_json_is_one_document(filled: Database, verb: str) -> None:
    ran = _cli(verb, "public.keyless", "--by", "hash:id", "--partitions", "4", "--json", dsn=filled.dsn)
    assert ran.exit_code == 4
    if ran.out:
        assert isinstance(json.loads(ran.out), dict)


def test_a_temporary_table_is_declined(filled: Database) -> None:
    with filled.connect() as other:
        other.execute("CREATE TEMP TABLE mine (id int PRIMARY KEY)")
        row = other.execute("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()").fetchone()
        assert row is not None
        for name in (f"{row[0]}.mine", "mine"):
            with pytest.raises(PgscaleError) as declined:
                partition.run(filled.dsn, name, Options(by="hash:id", partitions=4))
            assert declined.value.exit_code in (2, 4)


def test_a_plan_changes_nothing(filled: Database) -> None:
    with _unchanged(filled):
        partition.plan(filled.dsn, "public.plain", Options(by="hash:id", partitions=4))
        ran = _cli("plan", "public.plain", "--by", "hash:id", "--partitions", "4", "--json", dsn=filled.dsn)
        assert ran.exit_code == 0, ran.err
        assert json.loads(ran.out)["steps"]


@pytest.mark.parametrize("verb", ["cutover", "resume", "pause", "abort", "undo", "finish"])
def test_verbs_without_a_run_say_so(filled: Database, verb: str) -> None:
    with _unchanged(filled), pytest.raises(PgscaleError) as declined:
        getattr(partition, verb)(filled.dsn, "public.plain")
    assert declined.value.exit_code in (2, 4)
    assert "plain" in str(declined.value)


def test_status_without_a_run_is_empty(filled: Database) -> None:
    with _unchanged(filled):
        assert list(partition.status(filled.dsn, None)) == []


def test_a_table_that_has_a_run_or_had_one(filled: Database) -> None:
    options = Options(by="hash:id", partitions=4)
    before = parity.dump_schema(filled.superuser_dsn)
    with WaitingRun(filled.dsn, "public.plain", options) as run:
        for declined in (
            lambda: partition.run(filled.dsn, "public.plain", Options(by="hash:id", partitions=9)),
            lambda: partition.run(filled.dsn, "public.plain", options),
            lambda: partition.undo(filled.dsn, "public.plain"),
            lambda: partition.finish(filled.dsn, "public.plain"),
        ):
            with pytest.raises(PgscaleError) as error:
                declined()
            assert error.value.exit_code in (2, 4)
            assert re.search(r"(?i)abort|cutover|resume", str(error.value)), f"no way on: {error.value}"
        partition.cutover(filled.dsn, "public.plain")
        run.join()
    for declined in (
        lambda: partition.run(filled.dsn, "public.plain", Options(by="hash:id", partitions=4)),
        lambda: partition.abort(filled.dsn, "public.plain"),
        lambda: partition.cutover(filled.dsn, "public.plain"),
    ):
        with pytest.raises(PgscaleError) as error:
            declined()
        assert error.value.exit_code in (2, 4)
        assert re.search(r"(?i)undo|finish|partitioned", str(error.value)), f"no way on: {error.value}"
    partition.undo(filled.dsn, "public.plain")
    parity.assert_identical(before, parity.dump_schema(filled.superuser_dsn))


# --- where it is asked ------------------------------------------------------------------------------------


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _with_password(dsn: str) -> str:
    return make_conninfo(dsn, password=PASSWORD)


def _assert_no_password(error: BaseException) -> None:
    told = "".join(traceback.format_exception(error)) + repr(error) + str(error.__dict__)
    assert PASSWORD not in told


@pytest.mark.parametrize("what", ["port", "database", "role", "host", "malformed", "url", "option", "empty"])
def test_a_wrong_dsn(filled: Database, what: str) -> None:
    good = _with_password(filled.dsn)
    wrong = {
        "port": make_conninfo(good, host="127.0.0.1", port=_closed_port()),
        "database": make_conninfo(good, dbname="no_such_database"),
        "role": make_conninfo(good, user="no_such_role"),
        "host": make_conninfo(good, host="no-such-host.invalid"),
        "malformed": f"host=127.0.0.1 password={PASSWORD} nonsense",
        "url": f"postgresql://me:{PASSWORD}@127.0.0.1:99999/x",
        "option": make_conninfo(good) + " no_such_option=1",
        "empty": make_conninfo("", host="127.0.0.1", port=_closed_port(), password=PASSWORD),
    }[what]
    with pytest.raises((ConnectError, UsageError)) as declined:
        partition.run(wrong, "public.plain", Options(by="hash:id", partitions=4))
    _assert_no_password(declined.value)
    with _unchanged(filled):
        ran = _cli("run", "public.plain", "--by", "hash:id", "--partitions", "4", dsn=wrong)
    assert ran.exit_code in (2, 3), ran.err
    _assert_one_paragraph(ran)
    assert PASSWORD not in ran.out + ran.err


def test_no_dsn_at_all_says_where_one_is_looked_for() -> None:
    ran = _cli(
        "run",
        "t",
        "--by",
        "hash:id",
        "--partitions",
        "4",
        env={"PGHOST": "127.0.0.1", "PGPORT": str(_closed_port())},
    )
    assert ran.exit_code in (2, 3)
    _assert_one_paragraph(ran)


def test_the_password_reaches_neither_output_nor_ledger(filled: Database) -> None:
    dsn = _with_password(filled.dsn)
    heard: list[Progress] = []
    with WaitingRun(dsn, "public.plain", Options(by="hash:id", partitions=4), heard.append) as run:
        status = _cli("status", "--json", dsn=dsn)
        again = _cli("run", "public.plain", "--by", "hash:id", "--partitions", "5", dsn=dsn)
        with filled.connect_superuser() as admin:
            for schema, name in admin.execute(
                "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname LIKE 'pgscale%' AND c.relkind IN ('r', 'p')"
            ).fetchall():
                rows = admin.execute(sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier(schema, name)))
                assert PASSWORD not in str(rows.fetchall()), f"{schema}.{name}"
            listed = admin.execute("SELECT application_name, query FROM pg_stat_activity").fetchall()
            assert PASSWORD not in str(listed)
        partition.cutover(dsn, "public.plain")
        run.join()
    assert run.result is not None
    assert PASSWORD not in f"{run.result} {run.result.to_json()} {heard} {status} {again}"


def test_a_role_without_rights(filled: Database) -> None:
    stranger = filled.create_role()
    with _unchanged(filled), pytest.raises((PermissionDeniedError, RefusedError)) as declined:
        partition.run(filled.dsn_as(stranger), "public.plain", Options(by="hash:id", partitions=4))
    assert re.search(r"(?i)own|select|grant|right", str(declined.value))
    with filled.connect_superuser() as admin:
        admin.execute(sql.SQL("GRANT ALL ON plain TO {}").format(sql.Identifier(stranger)))
    with _unchanged(filled):
        ran = _cli("run", "public.plain", "--by", "hash:id", "--partitions", "4", dsn=filled.dsn_as(stranger))
        assert ran.exit_code in (3, 4), ran.err
        _assert_one_paragraph(ran)
        assert re.search(r"(?i)own", ran.err), ran.err


@pytest.mark.parametrize("lacks", ["the database", "the schema"])
def test_an_owner_who_may_not_create(filled: Database, lacks: str) -> None:
    """The table's owner needs a schema of pgscale's own and tables beside the old one."""
    owner = filled.create_role()
    with filled.connect_superuser() as admin:
        name, database = sql.Identifier(owner), sql.Identifier(filled.name)
        admin.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY)")
        admin.execute(sql.SQL("ALTER TABLE shop.orders OWNER TO {}").format(name))
        admin.execute(sql.SQL("GRANT USAGE ON SCHEMA shop TO {}").format(name))
        if lacks == "the database":
            admin.execute(sql.SQL("GRANT CREATE ON SCHEMA shop TO {}").format(name))
        else:
            admin.execute(sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(database, name))
    with _unchanged(filled), pytest.raises((PermissionDeniedError, RefusedError)) as declined:
        partition.run(filled.dsn_as(owner), "shop.orders", Options(by="hash:id", partitions=4))
    assert re.search(r"(?i)grant\s+create", f"{declined.value}"), f"the remedy is missing: {declined.value}"


class OldServer(threading.Thread):
    """Speaks just enough of the protocol to be PostgreSQL 12, and answers every query with an error."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    @staticmethod
    def _serve(peer: socket.socket) -> None:
        def message(kind: bytes, body: bytes) -> bytes:
            return kind + struct.pack("!i", len(body) + 4) + body

        ready = message(b"Z", b"I")
        error = message(b"E", b"SERROR\0VERROR\0C42883\0Mthis is a very old server\0\0")
        with peer, contextlib.suppress(OSError, struct.error):
            while True:
                (length,) = struct.unpack("!i", peer.recv(4))
                (code,) = struct.unpack("!i", peer.recv(length - 4)[:4])
                if code in (80877103, 80877104):  # SSL and GSSAPI: no
                    peer.sendall(b"N")
                    continue
                break
            settings = {"server_version": "12.22", "server_encoding": "UTF8", "client_encoding": "UTF8"}
            settings |= {"standard_conforming_strings": "on", "DateStyle": "ISO, MDY", "TimeZone": "UTC"}
            statuses = b"".join(
                message(b"S", name.encode() + b"\0" + value.encode() + b"\0") for name, value in settings.items()
            )
            key = message(b"K", struct.pack("!ii", 1, 1))
            peer.sendall(message(b"R", struct.pack("!i", 0)) + statuses + key + ready)
            while head := peer.recv(5):
                (length,) = struct.unpack("!i", head[1:])
                body = length - 4
                while body > 0:
                    body -= len(peer.recv(body))
                if head[:1] == b"Q":
                    peer.sendall(error + ready)
                elif head[:1] == b"P":
                    peer.sendall(error)
                elif head[:1] == b"S":
                    peer.sendall(ready)
                elif head[:1] == b"X":
                    return


def test_a_server_too_old() -> None:
    old = OldServer()
    old.start()
    dsn = f"host=127.0.0.1 port={old.port} user=me dbname=me password={PASSWORD}"
    try:
        with pytest.raises(PgscaleError) as declined:
            partition.run(dsn, "public.plain", Options(by="hash:id", partitions=4))
        assert declined.value.exit_code in (3, 4)
        assert re.search(r"\b14\b", str(declined.value)), str(declined.value)
        assert "12" in str(declined.value)
        _assert_no_password(declined.value)
        ran = _cli("run", "public.plain", "--by", "hash:id", "--partitions", "4", dsn=dsn)
        assert ran.exit_code in (3, 4), ran.err
        _assert_one_paragraph(ran)
    finally:
        old.listener.close()


def test_pgbouncer_is_refused_when_it_pools_transactions_and_works_otherwise(filled: Database) -> None:
    try:
        with Bouncer(filled.dsn, "transaction") as bouncer, _unchanged(filled):
            with pytest.raises(RefusedError, match=r"(?i)pool") as refused:
                partition.run(bouncer.dsn, "public.plain", Options(by="hash:id", partitions=4))
            assert re.search(r"(?i)session|direct", str(refused.value)), "the way around is missing"
        with Bouncer(filled.dsn, "session") as bouncer:
            partition.run(bouncer.dsn, "public.plain", Options(by="hash:id", partitions=4))
            partition.finish(bouncer.dsn, "public.plain")
    except MissingBouncerError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing))
        pytest.skip(str(missing))


# --- a full disk ------------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_run_and_abort_gives_everything_back(database: Database) -> None:
    """The error of a full disk comes from a CHECK that the copy inherits: no disk has to be filled for it."""
    with database.connect() as conn:
        conn.execute(
            "CREATE TABLE disk (is_full bool); INSERT INTO disk VALUES (false);"
            "CREATE FUNCTION has_room(int) RETURNS bool LANGUAGE plpgsql VOLATILE AS $$ BEGIN"
            " IF (SELECT is_full FROM public.disk) AND $1 > 500 THEN"
            "  RAISE EXCEPTION USING ERRCODE = '53100', "
            "   MESSAGE = 'could not extend file \"base/1/2\": No space left on device'; END IF;"
            " RETURN true; END $$;"
            "CREATE TABLE t (id int PRIMARY KEY CHECK (has_room(id)));"
            "INSERT INTO t SELECT generate_series(1, 1000); UPDATE disk SET is_full = true"
        )
        before = parity.dump_schema(database.superuser_dsn)
        with pytest.raises(RunFailedError) as failed:
            partition.run(database.dsn, "public.t", Options(by="hash:id", partitions=4))
        assert re.search(r"(?i)disk|space", str(failed.value))
        assert re.search(r"(?i)resume", str(failed.value))
        assert re.search(r"(?i)abort", str(failed.value))
        assert conn.execute("SELECT count(*) FROM t").fetchone() == (1000,)

        partition.abort(database.dsn, "public.t")
        parity.assert_identical(before, parity.dump_schema(database.superuser_dsn))

        with pytest.raises(RunFailedError):
            partition.run(database.dsn, "public.t", Options(by="hash:id", partitions=4))
        conn.execute("UPDATE disk SET is_full = false")
        result = partition.resume(database.dsn, "public.t")
        assert result.mismatches == 0
        assert conn.execute("SELECT count(*), count(DISTINCT id) FROM t").fetchone() == (1000, 1000)


# --- considerate ------------------------------------------------------------------------------------------


class Prober(threading.Thread):
    """An application with one question and one write at a time; remembers the longest it had to wait."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.dsn = dsn
        self.longest_s = 0.0
        self.failures: list[str] = []
        self.count = 0
        self.done = threading.Event()

    def run(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            number = 10_000_000
            while not self.done.is_set():
                number += 1
                began = time.monotonic()
                try:
                    conn.execute("INSERT INTO t (id, v) VALUES (%s, 1)", [number])
                    conn.execute("SELECT v FROM t WHERE id = 5").fetchone()
                except psycopg.Error as error:
                    self.failures.append(str(error))
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.count += 1
                time.sleep(0.002)

    def __enter__(self) -> Prober:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.join(timeout=30)


def _big(database: Database, rows: int) -> None:
    with database.connect() as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, v int, pad text)")
        conn.execute("INSERT INTO t SELECT g, g, repeat('x', 100) FROM generate_series(1, %s::int) g", [rows])


@pytest.mark.parametrize("holds", ["ACCESS SHARE", "ROW EXCLUSIVE", "SHARE ROW EXCLUSIVE"])
def test_no_queue_forms_behind_a_waiting_lock(database: Database, holds: str) -> None:
    """A transaction sits on the table for two seconds: pgscale must wait without making others wait."""
    _big(database, 5000)
    blocker = database.connect(autocommit=False)
    blocker.execute(sql.SQL("LOCK TABLE t IN {} MODE").format(sql.SQL(holds)))
    release = threading.Timer(2.0, blocker.rollback)
    options = Options(by="hash:id", partitions=4, lock_timeout_s=0.1)
    waits = holds == "SHARE ROW EXCLUSIVE"  # this one blocks the prober by itself
    with Prober(database.dsn) as prober:
        release.start()
        result = partition.run(database.dsn, "public.t", options)
    release.join()
    assert result.mismatches == 0
    assert prober.failures == []
    assert prober.count > 5
    if not waits:
        assert prober.longest_s < 0.6, f"somebody waited {prober.longest_s:.2f} s behind pgscale"


def test_no_snapshot_is_held_longer_than_a_chunk(database: Database) -> None:
    """A long snapshot stops VACUUM everywhere. Sampled while 100,000 rows are copied and verified."""
    _big(database, 100_000)
    longest: dict[str, float] = {}
    done = threading.Event()

    def sample() -> None:
        with psycopg.connect(database.superuser_dsn, autocommit=True) as conn:
            while not done.is_set():
                for query, age in conn.execute(
                    "SELECT left(query, 80), extract(epoch FROM clock_timestamp() - xact_start)::float8"
                    " FROM pg_stat_activity WHERE datname = %s AND usename = %s AND backend_xmin IS NOT NULL"
                    # CREATE INDEX holds one, as it does anywhere.
                    " AND query !~* 'CREATE (UNIQUE )?INDEX|ADD CONSTRAINT'",
                    [database.name, database.owner],
                ).fetchall():
                    longest[query] = max(longest.get(query, 0.0), age)
                time.sleep(0.01)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    partition.run(database.dsn, "public.t", Options(by="hash:id", partitions=4, chunk_target_s=0.1))
    done.set()
    thread.join()
    held = {query: age for query, age in longest.items() if age > 1.5}
    assert not held, f"snapshots held with a chunk target of 0.1 s: {held}"


def test_a_cutover_that_cannot_get_its_lock_gives_up_and_can_be_ordered_again(database: Database) -> None:
    _big(database, 2000)
    options = Options(by="hash:id", partitions=4)
    blocker = database.connect(autocommit=False)
    outcome: list[Any] = []
    ordered = threading.Thread(
        target=lambda: outcome.append(_caught(lambda: partition.cutover(database.dsn, "public.t"))),
        daemon=True,
    )
    with WaitingRun(database.dsn, "public.t", options) as run:
        blocker.execute("SELECT 1 FROM t LIMIT 1")
        with Prober(database.dsn) as prober:
            ordered.start()
            time.sleep(1.5)
            assert prober.count > 20
            blocker.rollback()
            ordered.join(timeout=60)
        assert not ordered.is_alive()
        assert prober.failures == []
        assert prober.longest_s < 1.0
        if isinstance(outcome[0], PgscaleError):
            assert re.search(r"(?i)cutover|again|resume", str(outcome[0]))
            partition.cutover(database.dsn, "public.t")
        run.join()
    with database.connect() as conn:
        assert conn.execute("SELECT relkind FROM pg_class WHERE oid = 't'::regclass").fetchone() == ("p",)


def _caught(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except PgscaleError as error:
        return error


def test_an_owner_without_any_further_right_is_enough(database: Database) -> None:
    with database.connect() as conn:
        row = conn.execute(
            "SELECT rolsuper OR rolreplication OR rolcreaterole OR rolbypassrls,"
            " pg_has_role('pg_monitor', 'MEMBER')"
            " FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert row == (False, False)
    _big(database, 1000)
    assert partition.run(database.dsn, "public.t", Options(by="hash:id", partitions=4)).state
