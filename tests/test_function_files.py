"""Functions as files have them: what of a body counts, and how files are called. No server."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgscale.catalog.functions.model import Stored
from pgscale.catalog.functions.naming import paths_for
from pgscale.catalog.functions.tokens import body_key

# Formatting

PIECES = st.sampled_from(
    [
        *(
            "SELECT",
            "x",
            "Begin",
            "$1",
            "12",
            "1e-5",
            "0x1F",
            "1.5",
            "é",
            "_a$",
            '"Q"',
            '"a""b"',
            'U&"d"',
            "/*+ Hint */",
        ),
        *("'a  b'", "E'\\'x'", "'it''s'", "$q$ $$ $q$", ":=", "::", "..", "=>", "<>", "@-", "-", "+", *"()[],;"),
    ]
)
SPACES = [" ", "\n", "\t\r\n ", " -- it's\n", "/* ; /* ' */ $$ */", "\n\n--\n"]


def _joined(pieces: list[str], seed: int) -> str:
    """The pieces in some order of white space and comments, words in some case."""
    chance = random.Random(seed)
    text = ""
    for piece in pieces:
        folded = chance.choice((str.upper, str.lower))(piece) if piece.isascii() and piece.isidentifier() else piece
        text += chance.choice(SPACES) + folded
    return text + chance.choice(["", *SPACES])


@settings(max_examples=100, deadline=None)
@given(st.lists(PIECES, min_size=1, max_size=12), st.integers(0, 999), st.integers(0, 11), PIECES)
def test_formatting_never_drifts_and_another_token_always_does(
    pieces: list[str], seed: int, at: int, other: str
) -> None:
    # Strings on several lines are one string, and on one line two: there white space says something.
    if any(one[0] in "'E" and two[0] == "'" for one, two in pairwise(pieces)):
        return
    one, two = _joined(pieces, seed), _joined(pieces, seed + 1)
    key = body_key(one, "plpgsql")
    assert key == body_key(two, "plpgsql"), (one, two)
    assert len(key) == len(pieces)
    at %= len(pieces)
    if pieces[at].lower() != other.lower():
        changed = [*pieces[:at], other, *pieces[at + 1 :]]
        assert body_key(_joined(changed, seed), "plpgsql") != key
    assert body_key(_joined([*pieces[:at], *pieces[at + 1 :]], seed), "plpgsql") != key


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a<-1", "a < -1", True),
        ("a@-1", "a @ -1", False),
        ("FOR i IN 1..10", "for I in 1 .. 10", True),
        ("'a'\n'b'", "'a' -- b\n\n 'b'", True),
        ("'a'\n'b'", "'a' 'b'", False),
        ("'a'\n'b'", "'ab'", False),
        ("x 'A'", "x 'a'", False),
        ('"x"', "x", False),
        ("a /*+ Leading(a) */", "a", False),
        ("a := b", "a : = b", False),
        ("1 -- x", "1", True),
        ("É", "é", False),
        ("begin 'a", "begin  'a", False),
    ],
)
def test_tokens_are_those_of_the_server(one: str, other: str, same: bool) -> None:
    assert (body_key(one, "sql") == body_key(other, "sql")) is same
    assert body_key(f"{one}\r\n", "plpython3u") == body_key(f"{one}\n", "plpython3u")
    assert body_key(one, "plpython3u") != body_key(f" {one}", "plpython3u")


# Names of files


def test_names_of_files_are_never_two_alike() -> None:
    def stored(oid: int, name: str, *types: str) -> Stored:
        return Stored(
            oid=oid, schema="App", name=name, kind="f", inputs=[], input_names=list(types), types=[], modes=None,
            names=None, result=0, returns_set=False, shown_inputs=f"{oid}", definition="",
        )  # fmt: skip

    every = [stored(1, "f", "t"), stored(2, "f", "t"), stored(3, "con"), stored(4, "x" * 63, *["timestamptz"] * 20)]
    every += [stored(5, "F"), stored(6, "x" * 63, "int4"), stored(7, "../x"), stored(8, "taken")]
    found = paths_for(every, every, ["%41pp/Taken.sql"])
    assert {oid: path.removeprefix("%41pp/") for oid, path in found.items()} == {
        1: "f-t.sql",
        2: "f-t-" + found[2][-16:],
        3: "%63on.sql",
        4: found[4].removeprefix("%41pp/"),
        5: "%46.sql",
        6: "x" * 63 + "-int4.sql",
        7: "%2E%2E%2Fx.sql",
        8: "taken-" + found[8][-16:],
    }
    assert max(map(len, found.values())) < 200
    assert len({path.lower() for path in found.values()}) == len(every)
