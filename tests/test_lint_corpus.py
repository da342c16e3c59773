"""The corpus: migrations good and bad, each with the findings, the modes of locks and the work that servers show."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from psycopg import sql

from pgscale.doctor.lint.judging import judge, views
from pgscale.doctor.lint.lexer import split
from pgscale.doctor.lint.live import Live
from pgscale.doctor.lint.model import TransactionMode
from pgscale.doctor.lint.result import statement_json
from pgscale.doctor.lint.runner import run_files
from pgscale.doctor.lint.scratch import Scratch, load_schema, open_scratch
from pgscale.embedded import Server

CORPUS = Path(__file__).parent / "lint_corpus"
BASE = (CORPUS / "base" / "shop.sql").read_text()
FILES = sorted(CORPUS.glob("*.sql"))
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


def judged(path: Path, scratch: Scratch, transaction: TransactionMode = "auto") -> dict[str, str]:
    """Lint a migration in an empty scratch database, and write what was seen as its header has it."""
    for schema in ("app", "public"):
        scratch.admin.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
    scratch.admin.execute(sql.SQL("CREATE SCHEMA public AUTHORIZATION {}").format(sql.Identifier(scratch.role)))
    load_schema(scratch, BASE, "shop.sql", is_dump=False)
    assert scratch.notes == []
    (seen,) = run_files(scratch, [(path.name, split(path.read_text(), path.name))], transaction)
    findings = judge(seen, seen.existing, Live(), scratch.version)
    locks = {
        f"{lock['mode']} {lock['relation']}{' rewritten' * lock['rewritten']}{' scanned' * lock['scanned']}"
        for view in views(seen, seen.existing, Live(), scratch.version)
        for lock in statement_json(view)["locks"]
        if not lock["new"] and lock["kind"] in "rpm" and lock["mode"] not in WEAK
    }
    return {
        "expect": " ".join(sorted(placed.finding.check for placed in findings)) or "nothing",
        "locks": "; ".join(sorted(locks)) or "none",
    }


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_finds_what_is_wrong_and_nothing_else(path, server, pg_version, scratches):
    head = header(path)
    if int(head.get("since", 0)) > pg_version:
        pytest.skip("not in this version")
    assert judged(path, scratches(server), head.get("transaction", "auto")) == {
        key: head[key] for key in ("expect", "locks")
    }


def test_there_are_enough():
    assert len(FILES) >= 60
