"""The corpus: migrations good and bad, each with the findings, the modes of locks and the work that servers show."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from psycopg import sql

from pgscale.doctor.lint.judging import judge, views
from pgscale.doctor.lint.live import Live
from pgscale.doctor.lint.model import FileSeen, Placed, TransactionMode
from pgscale.doctor.lint.registry import IDS
from pgscale.doctor.lint.result import statement_json
from pgscale.doctor.lint.runner import run_files
from pgscale.doctor.lint.scratch import Scratch, open_scratch
from pgscale.doctor.lint.splitting import split
from pgscale.embedded import Server

CORPUS = Path(__file__).parent / "lint_corpus"
BASE = (CORPUS / "base" / "shop.sql").read_text()
FILES = sorted(CORPUS.glob("*.sql"))
# Their remedies are BEGIN, COMMIT or SET around the statement, or go with it.
NO_STATEMENTS = {
    "enum.value_used",
    "lock_timeout.missing",
    "table.rename",
    "transaction.not_allowed",
    "transaction.several_tables",
    "transaction.work_under_lock",
}
WITH_STATEMENTS = {
    "column.added_rewrite",
    "column.not_null",
    "column.type",
    "constraint.check",
    "constraint.foreign_key",
    "constraint.unique",
    "index.drop_not_concurrent",
    "index.not_concurrent",
    "index.reindex_not_concurrent",
    "partition.attach_scan",
    "partition.detach",
    "table.rewrite",
}
# Whose safer SQL has another form than that of the first migration of the rule.
OTHER_FORMS = {
    "column_serial",
    "foreign_key_column_default",
    "index_partitioned",
    "primary_key",
    "index_in_do_block",
    "quoted_names",
}
WORK = ("rewritten", "scanned", "built_indexes")
WEAK = {"ACCESS SHARE", "ROW SHARE", "ROW EXCLUSIVE"}


def header(path: Path) -> dict[str, str]:
    """Return the header of a migration: `-- word: text`, up to the first line that is none."""
    found: dict[str, str] = {}
    for line in path.read_text().splitlines():
        match = re.fullmatch(r"-- (\w+): (.*)", line)
        if match is None:
            break
        found[match[1]] = match[2]
    return found


@pytest.fixture(scope="module")
def scratches() -> Iterator[Callable[[Server], Scratch]]:
    """One scratch database a server, for all of them: a schema is made anew in a tenth of the time of a database."""
    with ExitStack() as stack:
        made: dict[str, Scratch] = {}

        def give(server: Server) -> Scratch:
            if server.dsn() not in made:
                made[server.dsn()] = stack.enter_context(open_scratch(server.dsn(), disposable=False))
            return made[server.dsn()]

        yield give


def base_for(text: str) -> str:
    """Return the part of the schema that a migration names; making all of it takes longer than judging."""
    always, *parts = re.split(r"^-- for: ", BASE, flags=re.MULTILINE)
    return always + "".join(f"-- {part}" for part in parts if part.split(maxsplit=1)[0] in text)


def run(name: str, text: str, scratch: Scratch, transaction: TransactionMode) -> tuple[FileSeen, tuple[Placed, ...]]:
    """Run a migration in the scratch database, where there is nothing but the schema of the corpus, and judge it."""
    scratch.admin.execute("DROP SCHEMA IF EXISTS app, public CASCADE")
    scratch.admin.execute(sql.SQL("CREATE SCHEMA public AUTHORIZATION {}").format(sql.Identifier(scratch.role)))
    with scratch.connect() as session:
        session.execute(base_for(text).encode())
    (seen,) = run_files(scratch, [(name, split(text, name))], transaction)
    return seen, judge(seen, seen.existing, Live(), scratch.version)


def told(seen: FileSeen, findings: tuple[Placed, ...], version: int) -> dict[str, str]:
    """Write what was seen as a header has it."""
    locks = {
        " ".join([lock["mode"], lock["relation"], *(work for work in WORK if lock[work])])
        for view in views(seen, seen.existing, Live(), version)
        for lock in statement_json(view)["locks"]
        if not lock["new"] and lock["kind"] in "rpm" and lock["mode"] not in WEAK
    }
    return {
        "expect": " ".join(sorted(placed.finding.check for placed in findings)) or "nothing",
        "locks": "; ".join(sorted(locks)) or "none",
    }


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_finds_what_is_wrong_and_nothing_else(path, server, pg_version, scratches):
    agrees(path, pg_version, scratches(server))


@pytest.mark.versions(14, 15, 16, 17)
@pytest.mark.sampled(25)
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_finds_the_same_on_other_versions(path, server, pg_version, scratches):
    agrees(path, pg_version, scratches(server))


def agrees(path: Path, pg_version: int, scratch: Scratch) -> None:
    head = header(path)
    if int(head.get("since", 0)) <= pg_version:
        seen, findings = run(path.name, path.read_text(), scratch, mode(head))
        assert told(seen, findings, scratch.version) == {key: head[key] for key in ("expect", "locks")}


def mode(head: Mapping[str, str]) -> TransactionMode:
    return cast("TransactionMode", head.get("transaction", "auto"))


@pytest.mark.versions(16, 18)
def test_the_safer_sql_runs_and_is_safer(server, scratches, pg_version):
    scratch = scratches(server)
    proved: set[str] = set()
    for path in FILES:
        head = header(path)
        # NOT NULL constraints can be NOT VALID from 18 on; the rest is the same.
        if int(head.get("since", 0)) > pg_version or (pg_version < 18 and "column.not_null" not in head["expect"]):
            continue
        if not set(head["expect"].split()) & WITH_STATEMENTS - (set() if path.stem in OTHER_FORMS else proved):
            continue
        _, findings = run(path.name, path.read_text(), scratch, mode(head))
        for placed in findings:
            check = placed.finding.check
            texts = [remedy.text for remedy in placed.finding.remedies if "…" not in remedy.text]
            if texts and check not in NO_STATEMENTS:
                _, again = run("safer.sql", f"SET lock_timeout = '2s';\n{texts[0]}", scratch, "per-statement")
                assert not {other.finding.check for other in again} & {check, "statement.failed"}, texts[0]
                proved.add(check)
    assert proved >= (WITH_STATEMENTS if pg_version == 18 else {"column.not_null"})


def test_there_are_enough_and_each_rule_has_one():
    assert len(FILES) >= 60
    # A tablespace is a superuser's to make: tests/test_lint.py has that one.
    assert {check for path in FILES for check in header(path)["expect"].split()} - {"nothing"} == IDS - {
        "table.tablespace"
    }


def test_says_which_index_is_built_again(server, scratches):
    path = CORPUS / "type_text_collation.sql"
    _, (placed,) = run(path.name, path.read_text(), scratches(server), "auto")
    assert 'to character varying(8) COLLATE "C" holds ACCESS EXCLUSIVE on orders' in placed.finding.fact
    assert "building orders_code again" in placed.finding.fact
