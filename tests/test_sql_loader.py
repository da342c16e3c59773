"""The loader of named queries: blocks, version gates, and every way a file can be wrong."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgscale.errors import PgscaleError
from pgscale.sql import QueryFileError, load, parse

GATED = """\
-- What this file is for.

-- name: read_table
SELECT relname FROM pg_class WHERE oid = %(oid)s::oid;

-- name: read_checkpointer
-- until: 170000
SELECT checkpoints_timed AS n
  FROM pg_stat_bgwriter -- until: 17 is a comment here

-- name: read_checkpointer
-- since: 170000
SELECT num_timed AS n FROM pg_stat_checkpointer
"""


def test_text_is_taken_as_it_stands_without_semicolon():
    queries = parse(GATED, origin="f")
    assert queries.get("read_table", 140000) == b"SELECT relname FROM pg_class WHERE oid = %(oid)s::oid"
    assert b"-- until: 17 is a comment" in queries.get("read_checkpointer", 160014)


@pytest.mark.parametrize(("version", "relation"), [(169999, b"pg_stat_bgwriter"), (170000, b"pg_stat_checkpointer")])
def test_until_is_exclusive_and_since_inclusive(version, relation):
    assert relation in parse(GATED, origin="f").get("read_checkpointer", version)


def test_names_and_variants():
    queries = parse(GATED, origin="f")
    assert queries.names == ("read_table", "read_checkpointer")
    assert [(q.name, q.since, q.until, q.origin) for q in queries.variants()] == [
        ("read_table", 0, None, "f:3"),
        ("read_checkpointer", 0, 170000, "f:6"),
        ("read_checkpointer", 170000, None, "f:11"),
    ]


def test_lines_with_a_gate_are_for_their_servers_only():
    text = """-- name: a
-- until: 180000
SELECT 1,
  'x -- since: 160000', -- a comment
  new, -- since: 160000
  old, -- until: 160000
  short -- since: 150000 until: 170000
FROM t;"""
    variants = parse(text, origin="f").variants()
    assert [(q.since, q.until) for q in variants] == [
        (0, 150000), (150000, 160000), (160000, 170000), (170000, 180000),
    ]  # fmt: skip
    rest = [q.text.decode().splitlines()[2:] for q in variants]
    assert rest == [["  old,", "FROM t"], ["  old,", "  short", "FROM t"], ["  new,", "  short", "FROM t"],
        ["  new,", "FROM t"]]  # fmt: skip
    assert all("'x -- since: 160000', -- a comment" in q.text.decode() for q in variants)


def test_unknown_name_and_uncovered_server_are_named():
    queries = parse("-- name: a\n-- since: 150000\nSELECT 1\n", origin="room/queries.sql")
    with pytest.raises(QueryFileError, match=r"room/queries\.sql has no query 'b'"):
        queries.get("b", 180000)
    with pytest.raises(PgscaleError, match="no variant of 'a' for server 149999"):
        queries.get("a", 149999)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1\n-- name: a\nSELECT 1", "f:1: SQL stands before"),
        ("SELECT 1", "f:1: SQL stands before"),
        ("-- name: Read\nSELECT 1", "'Read' is not a query name"),
        ("-- name:\nSELECT 1", "'' is not a query name"),
        ("-- name: a\n-- sinse: 17\nSELECT 1", "sinse: 17"),
        ("-- name: a\n-- since: 150000\n-- since: 160000\nSELECT 1", "is not one since"),
        ("-- name: a\n-- since: 170000\n-- until: 170000\nSELECT 1", "matches no server"),
        ("-- name: a\n-- only words\n", "'a' has no SQL"),
        ("-- name: a\nSELECT 1 -- since: 150000\n", "'a' has no SQL"),
        ("-- name: a\nSELECT 1, -- since: 15 until: 15\n2", "SELECT 1, .* matches no server"),
        ("-- name: a\nSELECT 1, -- since: 15 since: 16\n2", "matches no server"),
        ("-- name: a\n-- name: b\nSELECT 1", "'a' has no SQL"),
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", "f:3: 'a' matches servers that .* f:1"),
        ("-- name: a\n-- until: 170001\nSELECT 1\n-- name: a\n-- since: 170000\nSELECT 2", "matches servers"),
    ],
)
def test_malformed_files_are_refused_with_their_line(text, message):
    with pytest.raises(QueryFileError, match=message):
        parse(text, origin="f")


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.one_of(st.none(), st.integers(1, 20))).filter(
            lambda gate: gate[1] is None or gate[0] < gate[1]
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_file_loads_exactly_when_no_server_matches_two_variants(gates):
    text = ""
    for since, until in gates:
        text += f"-- name: a\n-- since: {since}\n" + (f"-- until: {until}\n" if until else "") + "SELECT 1\n"
    servers = range(22)
    matching = [sum(s <= v and (u is None or v < u) for s, u in gates) for v in servers]
    if max(matching) > 1:
        with pytest.raises(QueryFileError):
            parse(text, origin="f")
        return
    queries = parse(text, origin="f")
    for server, count in zip(servers, matching, strict=True):
        if count:
            assert queries.get("a", server) == b"SELECT 1"
        else:
            with pytest.raises(QueryFileError):
                queries.get("a", server)


def test_load_reads_the_file_beside_a_package_once(tmp_path, monkeypatch):
    package = tmp_path / "a_room_of_the_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "queries.sql").write_text("-- name: a\nSELECT 'é'\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    queries = load(package.name)
    assert queries.get("a", 180000) == "SELECT 'é'".encode()
    assert load(package.name) is queries
    sys.modules.pop(package.name, None)
