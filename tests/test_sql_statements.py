"""Files of SQL are taken apart where psql ends statements, with their lines, comments and words. No server."""

from __future__ import annotations

import pytest

from pgscale.errors import UsageError
from pgscale.sql.statements import Statement, split

ENDS = [
    ("SELECT 1; SELECT 2", [(1, "SELECT 1"), (1, "SELECT 2")]),
    ("\n\nSELECT ';' ; ;\n;SELECT\n2;\n", [(3, "SELECT ';'"), (4, "SELECT\n2")]),
    ("SELECT 'it''s;' ; SELECT E'\\';' ;", [(1, "SELECT 'it''s;'"), (1, "SELECT E'\\';'")]),
    ("SELECT E'c\\';d', U&'g;' ; x", [(1, "SELECT E'c\\';d', U&'g;'"), (1, "x")]),
    ('SELECT "a;""b", U&"c;" ; x', [(1, 'SELECT "a;""b", U&"c;"'), (1, "x")]),
    ("DO $a$ ; $b$ ; $$ $a$; x", [(1, "DO $a$ ; $b$ ; $$ $a$"), (1, "x")]),
    ("SELECT $$h;'$$, 1$t, $é$;$é$; x", [(1, "SELECT $$h;'$$, 1$t, $é$;$é$"), (1, "x")]),
    ("SELECT a$b$c; x", [(1, "SELECT a$b$c"), (1, "x")]),
    ("SELECT $1; x", [(1, "SELECT $1"), (1, "x")]),
    ("/* ; /* ; */ ; */ x -- ; y\n; -- z", [(1, "x")]),
    ("/*\n/*\n*/ */ SELECT '\n'; -- y\r\n\r\nx", [(3, "SELECT '\n'"), (6, "x")]),
    ("-- a;\rx; y", [(1, "x"), (1, "y")]),
    ("CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2); x", [(1, None), (1, "x")]),
    (
        "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE 1 WHEN 1 THEN 2 END; END; x",
        [(1, None), (1, "x")],
    ),
    ("CREATE PROCEDURE p() LANGUAGE sql BEGIN /* ; */ ATOMIC; END; x", [(1, None), (1, "x")]),
    ("CREATE FUNCTION begin() RETURNS int LANGUAGE sql AS 'SELECT 1'; x", [(1, None), (1, "x")]),
    ("SELECT 1 AS begin, 2 AS atomic; x", [(1, None), (1, "x")]),
    ("BEGIN; CASE; END; x", [(1, "BEGIN"), (1, "CASE"), (1, "END"), (1, "x")]),
    ("", []),
    (" -- nothing\n;/* at all */;", []),
]


@pytest.mark.parametrize(("text", "wanted"), ENDS)
def test_statements_end_where_psql_ends_them(text: str, wanted: list[tuple[int, str | None]]) -> None:
    found = split(text, "f.sql")
    assert [
        (s.line, s.text if want is not None else None) for s, (_, want) in zip(found, wanted, strict=True)
    ] == wanted
    for each in found:
        assert each.text == text[each.first : each.end]
        assert text[each.start :].startswith(each.whole)
        assert each.text in each.shown in each.whole


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SELECT 1;\n\\i other.sql\n", r"f.sql:2: \\i is a command of psql"),
        ("\nSELECT 'a;\n", "f.sql:2: the string does not end"),
        ("E'\\'", "f.sql:1: the string does not end"),
        ("SELECT $x$ $y$", r"f.sql:1: the string that \$x\$ begins does not end"),
        ("1;\n/* /* */", "f.sql:2: the comment does not end"),
        ('\n\nSELECT "a', "f.sql:3: the quoted name does not end"),
    ],
)
def test_what_is_no_sql_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        split(text, "f.sql")


def test_lines_of_psql_can_be_left_out() -> None:
    first, second = split("\\restrict a'b\nSELECT 1;\nSELECT\n\\x on\n2 AS b", "f.sql", skip_meta=True)
    assert (first.line, second.line) == (2, 3)
    assert [token.text for token in second.tokens] == ["SELECT", "2", "AS", "b"]


def test_a_statement_is_refused_before_what_follows_is_read() -> None:
    read: list[str] = []

    def refuse(statement: Statement) -> None:
        read.append(statement.text)
        if statement.starts("COPY"):
            raise UsageError(f"line {statement.line}")

    with pytest.raises(UsageError, match="line 2"):
        split("SELECT 1;\nCOPY t FROM stdin; 'a\n\\.", "f.sql", refuse=refuse)
    with pytest.raises(UsageError, match="line 1"):
        split("COPY t TO stdout", "f.sql", refuse=refuse)
    assert read == ["SELECT 1", "COPY t FROM stdin", "COPY t TO stdout"]


def test_comments_belong_to_the_statement_they_stand_at() -> None:
    first, second = split("-- a\n;SELECT 1 /* b */; -- c\n-- d\nSELECT 2 -- e\n; -- f", "f.sql")
    assert first.comments == ("-- a", "/* b */", "-- c")
    assert second.comments == ("-- d", "-- e", "-- f")
    assert (first.last_line, second.line, second.last_line) == (2, 4, 5)
    # What is sent has those around it: before it may be hints.
    assert (first.whole, first.text) == ("SELECT 1 /* b */", "SELECT 1")
    assert second.whole == "-- c\n-- d\nSELECT 2 -- e"
    assert (second.shown, second.text) == ("SELECT 2 -- e", "SELECT 2")


def test_words_and_tokens_are_those_of_the_file() -> None:
    text = "x;\n/* y */ Select 'a''b', E'c', $$d$$ -- z\n From \"e;\"\"f\",\nU&\"g\" Where n = $1 + 1.5"
    found = split(text, "f.sql")[1]
    assert found.terms == ("SELECT", "''", "''", "''", "FROM", '"e;""f"', 'U&"g"', "WHERE", "N")
    assert found.words == ("SELECT", "FROM", "WHERE", "N")
    assert found.starts("SELECT", "'A''B'")
    assert not found.starts("FROM")
    assert all(text[token.start : token.end] == token.text for token in found.tokens)
    assert [(token.kind, token.line) for token in found.tokens if token.kind != "other"] == [
        ("word", 2),
        ("string", 2),
        ("string", 2),
        ("string", 2),
        ("word", 3),
        ("quoted", 3),
        ("quoted", 4),
        ("word", 4),
        ("word", 4),
        ("parameter", 4),
        ("number", 4),
    ]
