"""Profiles: where values come from, and what is refused before a block's body runs, on the very server."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pgscale.commands.config import read_all_profiles, read_config
from pgscale.connect import Database, Entry, Environment, Profiles, Section, read_profiles
from pgscale.connect.profiles.shipped import SHIPPED
from pgscale.errors import PermissionDeniedError, RefusedError, UsageError

MB, GB = 1 << 20, 1 << 30
TOML = """
[profiles.report.settings]
work_mem = "96MB"
lock_timeout = { value = 0, reason = "it reads only what nobody alters" }
"app.tenant" = "seven"

[profiles.nightly]
purpose = "The night's work."
connections = 3
nodes = 5
[profiles.nightly.settings]
jit = false

[environments.production]
ram = "16GB"
[environments.production.profiles.report]
connections = 2
[environments.production.profiles.report.settings]
WORK_MEM = { value = "128MB", reason = "the machine is large" }
statement_timeout = { leave = true }

[environments.canary]
live = true
"""


def _one(settings: dict[str, Entry | str], **section: int) -> Profiles:
    entries = {name: each if isinstance(each, Entry) else Entry(value=each) for name, each in settings.items()}
    return Profiles(profiles={"p": Section(settings=entries, **section)})


def test_each_layer_is_laid_over_the_one_below(tmp_path: Path) -> None:
    file = tmp_path / "pgscale.toml"
    file.write_text(TOML)
    assert read_all_profiles(file) == read_profiles(file)
    found = Database(config=file, environment="production").resolve("report")
    assert (found.connections, found.nodes, found.live, found.ram_bytes) == (2, 3, True, 16 * GB)
    assert found.purpose == SHIPPED["report"].purpose
    by_name = {each.name: each for each in found.settings}
    assert by_name.keys() == SHIPPED["report"].settings.keys() - {"statement_timeout"} | {"app.tenant"}
    said = {name: (each.value, each.source.removeprefix(f"{file} "), each.reason) for name, each in by_name.items()}
    assert said["work_mem"] == ("128MB", "[environments.production.profiles.report]", "the machine is large")
    assert said["lock_timeout"] == ("0", "[profiles.report]", "it reads only what nobody alters")
    assert said["transaction_read_only"][:2] == ("on", "shipped")
    other = Database(config=file, environment="canary").resolve("nightly")
    assert (other.purpose, other.connections, other.nodes, other.live) == ("The night's work.", 3, 5, True)
    assert [(each.name, each.value) for each in other.settings] == [("jit", "off")]
    assert Database(config=Profiles()).resolve("report").live is False


def test_the_environment_is_said_or_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGSCALE_ENVIRONMENT", "production")
    assert Database().resolve("oltp").live
    assert not Database(environment="test").resolve("oltp").live
    monkeypatch.delenv("PGSCALE_ENVIRONMENT")
    assert Database().environment == "development"
    with pytest.raises(UsageError, match=r"no environment 'prodution'.*production was meant"):
        Database(environment="prodution")
    (tmp_path / "pgscale.toml").write_text("[environments.eu.profiles.mine]\n")
    assert "mine" in [profile.name for profile in Database(environment="eu").profiles()]
    with pytest.raises(UsageError, match="It is one of eu only"):
        Database().profile("mine").__enter__()
    with pytest.raises(UsageError, match=r"no profile 'reprot'.*report or promote was meant"):
        Database().resolve("reprot")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("profiles = 3", "profiles"),
        ("[profiles]\nreport = 3", "report"),
        ("[profiles.report]\nwork_mem = '1MB'", "work_mem"),
        ("[profiles.report]\nnodes = 0", "nodes"),
        ("[profiles.report]\nnodes = true", "nodes"),
        ("[profiles.report]\nconnections = '3'", "connections"),
        ("[profiles.report]\npurpose = 3", "purpose"),
        ("[profiles.report.settings]\nwork_mem = []", "work_mem"),
        ("[profiles.report.settings]\nwork_mem = { vlaue = 3 }", "vlaue"),
        ("[profiles.report.settings]\nwork_mem = { reason = 'x' }", "work_mem"),
        ("[profiles.report.settings]\nwork_mem = { value = 3, leave = true }", "work_mem"),
        ("[profiles.report.settings]\nwork_mem = { value = 3, since = '17' }", "since"),
        ("[profiles.report.settings]\napp.tenant = 3", "tenant"),
        ("[profiles.report.settings]\nwork_mem = 3\nWork_Mem = 4", "Work_Mem"),
        ("[environments.production]\nram = 16", "ram"),
        ("[environments.production]\nram = '16 pounds'", "ram"),
        ("[environments.production]\nlive = 'yes'", "live"),
        ("[environments.production.profile.report]", "profile"),
        ("[profile.report]", "profile"),
        ("[enviroments.production]", "enviroments"),
        ("profiles = [", "TOML"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "pgscale.toml"
    file.write_text(text)
    for read in (read_profiles, read_config):
        with pytest.raises(UsageError, match=rf"pgscale.toml.*\b{named}\b"):
            read(file)
    with pytest.raises(UsageError, match="cannot be read"):
        read_profiles(tmp_path / "none.toml")


@pytest.mark.versions("all")
def test_shipped_profiles_are_taken_by_every_server(pg_version, database):
    assert set(SHIPPED) == {"bulk_import", "promote", "create", "report", "oltp"}
    db = Database(database.dsn, environment="production", config=Profiles(), ram_bytes=4 * GB)
    for name, section in SHIPPED.items():
        assert all(entry.reason for entry in section.settings.values()), name
        checked = db.check(name)
        set_here = {each.setting.name: each.value for each in checked.settings}
        spared = {each for each, entry in section.settings.items() if entry.since > pg_version}
        assert set_here == {n: e.value for n, e in section.settings.items() if n not in spared}
        assert (name == "oltp" and pg_version < 17) == bool(spared)
        assert len([note for note in checked.notes if "is spared" in note]) == len(spared)
        assert all(each.before != each.value for each in checked.settings if each.setting.name == "work_mem")
    big = Profiles(environments={"production": Environment(ram_bytes=8 * GB)})
    assert (
        Database(database.dsn, environment="production", config=big, ram_bytes=1)
        .check("report")
        .notes[0]
        .startswith("Memory: up to ")
    )


WRONG = [
    ({"work_men": "1MB"}, "no setting work_men .*work_mem"),
    ({"transaction_timeut": "1s"}, "no setting transaction_timeut"),
    ({"shared_buffers": "1GB"}, "shared_buffers cannot be set in a transaction: it changes when the server starts"),
    ({"autovacuum": "off"}, "autovacuum cannot be set in a transaction: it is one for the whole server"),
    ({"server_version": "9"}, "server_version cannot be set in a transaction: it only tells"),
    ({"ignore_system_indexes": "on"}, "ignore_system_indexes cannot be set in a transaction: .*DSN"),
    ({"work_mem": "1kB"}, "work_mem = '1kB' .* integers from 64 to 2147483647, in units of kB"),
    ({"work_mem": "1mb"}, "work_mem = '1mb' .*invalid value"),
    ({"jit": "maybe"}, "jit = 'maybe' .*Boolean"),
    ({"random_page_cost": "-1"}, "random_page_cost = '-1' .* reals from 0 to"),
    ({"plan_cache_mode": "none"}, "plan_cache_mode = 'none' .*; it takes auto, force_generic_plan, force_custom_plan"),
    ({"transaction_isolation": "snapshot"}, "transaction_isolation = 'snapshot'"),
    ({"role": "nobody_at_all"}, "role = 'nobody_at_all' .*does not exist"),
    ({"no good.name": "1"}, "no good.name = '1'"),
    ({"work_mem": "x", "jit": "x", "enable_sort": "on"}, "work_mem = 'x' .*jit = 'x'"),
    ({"work_men": "1MB", "autovacuum": "off"}, "work_men .*autovacuum"),
]


@pytest.mark.versions(14, 18)
def test_what_the_server_does_not_take_is_refused_before_the_body(database):
    connection = database.connect()
    for settings, said in WRONG:
        with pytest.raises(UsageError, match=said) as caught, Database(connection, config=_one(settings)).profile("p"):
            raise AssertionError(settings)
        assert "Nothing of the block was run." in str(caught.value)
        assert "(pgscale.toml [profiles.p])" in str(caught.value)
        assert "enable_sort" not in str(caught.value)
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.versions(14, 18)
def test_a_server_that_took_a_profile_is_asked_again_when_it_no_longer_does(database):
    role, superuser = database.create_role(), database.connect_superuser()
    names = [sql.Identifier(each) for each in (role, database.owner)]
    superuser.execute(sql.SQL("GRANT {} TO {}").format(*names))
    connection = database.connect()
    db = Database(connection, config=_one({"role": role, "work_mem": "8MB"}))
    for _ in range(2):
        assert db.tuned("p").execute("SELECT current_user, current_setting('work_mem')").rows == [(role, "8MB")]
    superuser.execute(sql.SQL("REVOKE {} FROM {}").format(*names))
    for _ in range(2):
        with pytest.raises(PermissionDeniedError, match="permission denied to set role"):
            db.tuned("p").execute("SELECT 1")
    superuser.execute(sql.SQL("GRANT {} TO {}").format(*names))
    for before in ("5MB", "6MB"):
        connection.execute(sql.SQL("SET work_mem = {}").format(before))
        assert [(each.before, each.value) for each in db.check("p").settings] == [("none", role), (before, "8MB")]


@pytest.mark.versions(14, 18)
def test_what_takes_a_right_is_refused_with_the_grant(pg_version, database):
    config = _one({"log_min_duration_statement": "5s"})
    with pytest.raises(PermissionDeniedError, match=f"GRANT SET ON PARAMETER .* TO {database.owner}") as caught:
        Database(database.dsn, config=config).tuned("p").execute("SELECT 1")
    assert caught.value.exit_code == 3
    shows = "SHOW log_min_duration_statement"
    assert Database(database.superuser_dsn, config=config).tuned("p").execute(shows).rows == [("5s",)]
    hidden = Database(database.dsn, config=_one({"session_preload_libraries": "x"}))
    with pytest.raises(PermissionDeniedError, match="session_preload_libraries"):
        hidden.tuned("p").execute("SELECT 1")
    if pg_version < 15:
        return
    superuser = database.connect_superuser()
    right = sql.SQL("SET ON PARAMETER log_min_duration_statement")
    owner = sql.Identifier(database.owner)
    superuser.execute(sql.SQL("GRANT {} TO {}").format(right, owner))
    try:
        assert Database(database.dsn, config=config).tuned("p").execute(shows).rows == [("5s",)]
    finally:
        superuser.execute(sql.SQL("REVOKE {} FROM {}").format(right, owner))


def test_more_memory_than_the_server_has_is_refused(database):
    def take(settings: dict[str, Entry | str], ram: int | None = 16 * GB, **section: int) -> str:
        db = Database(database.dsn, config=_one(settings, **section), ram_bytes=ram)
        return " ".join(db.check("p").notes)

    # 20 connections and 8 workers, 4 nodes of 64 MB, hashes twice as much: 14 GB, and the server's own.
    heavy: dict[str, Entry | str] = {"work_mem": "64MB", "max_parallel_workers_per_gather": "2"}
    figures = r"\(20 connections \+ 8 parallel workers\) × 4 nodes × work_mem 64 MB × hash_mem_multiplier 2 = 14 GB"
    assert "up to 14" in take(heavy, connections=20, nodes=4)
    with pytest.raises(RefusedError, match=figures) as caught:
        take(heavy, ram=14 * GB, connections=20, nodes=4)
    assert (caught.value.exit_code, "Nothing of the block was run" in str(caught.value)) == (4, True)
    (shared,) = database.connect().execute("SELECT pg_size_bytes(current_setting('shared_buffers'))").fetchone()
    # Sessions' temporary buffers of 8 MB, and three workers of autovacuum with 64 MB each.
    exact = 28 * 4 * 128 * MB + 20 * 8 * MB + shared + 3 * 64 * MB
    assert take(heavy, ram=exact, connections=20, nodes=4)
    with pytest.raises(RefusedError):
        take(heavy, ram=exact - 1, connections=20, nodes=4)
    with pytest.raises(RefusedError, match="hash_mem_multiplier 4"):
        take(heavy | {"hash_mem_multiplier": "4"}, connections=20, nodes=4)
    with pytest.raises(RefusedError, match="maintenance_work_mem 2048 MB = 20 GB"):
        take({"maintenance_work_mem": "2GB"}, connections=10)
    with pytest.raises(RefusedError, match="temp_buffers 20 GB"):
        take({"temp_buffers": "2GB"}, connections=10)
    assert "nobody said what the server has" in take(heavy, ram=None, connections=1000)
    # What it does not touch it is not blamed for.
    assert take({"jit": "off"}, ram=1, connections=1000) == ""


def test_no_timeout_in_production_needs_a_reason(database):
    bounded: dict[str, Entry | str] = {
        "statement_timeout": "1h",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "1min",
    }

    def take(change: dict[str, Entry | str], environment: str = "production") -> int:
        db = Database(database.dsn, environment=environment, config=_one(bounded | change))
        return len(db.check("p").settings)

    zero, reasoned = Entry(value="0"), Entry(value="0ms", reason="the index of a year takes as long as it takes")
    assert take({}) == take({"statement_timeout": reasoned}) == take({"statement_timeout": zero}, "staging") == 3
    for name in bounded:
        with pytest.raises(RefusedError, match=rf"production: {name} would be 0.*say why: {name} = "):
            take({name: zero})
        with pytest.raises(RefusedError, match=f"{name} would be 0"):
            take({name: Entry(value="0", reason="  ".strip())})
    with pytest.raises(RefusedError, match="transaction_timeout would be 0"):
        take({"transaction_timeout": zero})
    # What is not said is what the session has: here, none.
    bare = Database(database.dsn, environment="production", config=_one({"jit": "off"}))
    with pytest.raises(RefusedError, match="statement_timeout, lock_timeout, idle_in_transaction_session_timeout"):
        bare.check("p")
    del bounded["idle_in_transaction_session_timeout"], bounded["statement_timeout"]
    assert take({"transaction_timeout": "2h"}) == 2
