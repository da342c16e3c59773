"""Loads `queries.sql` files: blocks of `-- name:`, gated by `-- since:` and `-- until:`.

    -- name: read_checkpointer
    -- since: 170000
    SELECT num_timed FROM pg_stat_checkpointer

    -- name: read_checkpointer
    -- until: 170000
    SELECT checkpoints_timed AS num_timed FROM pg_stat_bgwriter

    -- name: read_indexes
    SELECT indexrelid,
      indnullsnotdistinct AS is_strict -- since: 150000
      false AS is_strict -- until: 150000
    FROM pg_index

The numbers are `server_version_num`; `since` is included, `until` is not. A line that ends in a gate of its own belongs
to those servers only; the query then has a variant for each. Parameters are psycopg's:
`%(oid)s`; in a query that has any, a per cent sign is written `%%`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import combinations

from pgscale.errors import PgscaleError

_NAME = re.compile(r"--\s*name:\s*(?P<name>\S*)\s*")
_GATE = re.compile(r"--\s*(?P<word>\w+):\s*(?P<number>\d+)\s*")
_LINE_GATE = re.compile(r"(?P<sql>.*\S)\s+--(?P<gates>(?:\s+(?:since|until):\s*\d+)+)\s*")
_LINE_WORD = re.compile(r"(since|until):\s*(\d+)")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


class QueryFileError(PgscaleError):
    """A file of named queries is malformed, or has no query for the name and the server asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One variant of a named query.

    Args:
        name: what code asks for.
        since: the first server_version_num it is for; 0 when it has no lower bound.
        until: the first server_version_num it is no longer for; None when it has no upper bound.
        text: the statement, without a trailing semicolon.
        origin: file and line, for messages.
    """

    name: str
    since: int
    until: int | None
    text: bytes
    origin: str

    def matches(self, server_version: int) -> bool:
        return self.since <= server_version and (self.until is None or server_version < self.until)

    def overlaps(self, other: Query) -> bool:
        later = max(self.since, other.since)
        return self.matches(later) and other.matches(later)


@dataclass(frozen=True, slots=True)
class Queries:
    """The queries of one file."""

    origin: str
    _variants: tuple[Query, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every name, once, in the order of the file."""
        return tuple(dict.fromkeys(query.name for query in self._variants))

    def variants(self) -> tuple[Query, ...]:
        """Every variant of every query, in the order of the file."""
        return self._variants

    def get(self, name: str, server_version: int) -> bytes:
        """The text of a query for a server.

        Args:
            name: as after `-- name:`.
            server_version: as `server_version_num`, for example 180004.

        Raises:
            QueryFileError: the file has no such name, or no variant for this server.
        """
        named = [query for query in self._variants if query.name == name]
        if not named:
            raise QueryFileError(f"{self.origin} has no query {name!r}.")
        for query in named:
            if query.matches(server_version):
                return query.text
        raise QueryFileError(f"{self.origin} has no variant of {name!r} for server {server_version}.")


@cache
def load(package: str, filename: str = "queries.sql") -> Queries:
    """Read the queries of a room, once per process.

    Args:
        package: the room's package, usually `__package__`.
        filename: the file beside it.

    Raises:
        QueryFileError: the file is malformed, or two variants of a name match the same server.
    """
    text = (resources.files(package) / filename).read_text(encoding="utf-8")
    return parse(text, origin=f"{package}/{filename}")


def parse(text: str, *, origin: str) -> Queries:
    """Split the text of a file into its queries.

    Raises:
        QueryFileError: as `load`.
    """
    queries = tuple(_blocks(text.splitlines(), origin))
    for one, other in combinations(queries, 2):
        if one.name == other.name and one.overlaps(other):
            raise QueryFileError(
                f"{other.origin}: {one.name!r} matches servers that the variant at {one.origin} matches too.",
                hint="Gate them apart with since: and until:.",
            )
    return Queries(origin, queries)


def _blocks(lines: list[str], origin: str) -> Iterator[Query]:
    starts = [number for number, line in enumerate(lines) if _NAME.fullmatch(line)]
    for number, line in enumerate(lines[: starts[0] if starts else None], start=1):
        if line.strip() and not line.startswith("--"):
            raise QueryFileError(f"{origin}:{number}: SQL stands before the first `-- name:`.")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield from _variants(lines[start:end], f"{origin}:{start + 1}")


def _variants(lines: list[str], origin: str) -> Iterator[Query]:
    """Yield a block as it stands, or, where lines have gates, as it is for each span of servers between them."""
    found = _NAME.fullmatch(lines[0])
    name = found["name"] if found else ""
    if not _IDENTIFIER.fullmatch(name):
        raise QueryFileError(f"{origin}: {name!r} is not a query name; names are lower case, like read_table.")
    gates: dict[str, int] = {}
    body = 1
    while body < len(lines) and (gate := _GATE.fullmatch(lines[body])):
        word = gate["word"]
        if word not in {"since", "until"} or word in gates:
            raise QueryFileError(f"{origin}: {lines[body]!r} is not one since: or one until:.")
        gates[word] = int(gate["number"])
        body += 1
    since, until = gates.get("since", 0), gates.get("until")
    if until is not None and until <= since:
        raise QueryFileError(f"{origin}: {name!r} matches no server: until is not above since.")
    gated = [_gated(line, origin) for line in lines[body:]]
    edges = {edge for _, first, last in gated for edge in (first, last) if edge is not None}
    edges = {edge for edge in edges if since < edge and (until is None or edge < until)}
    firsts = [since, *sorted(edges)]
    for first, last in zip(firsts, [*firsts[1:], until], strict=True):
        kept = (text for text, low, high in gated if low <= first and (high is None or first < high))
        statement = "\n".join(kept).strip().removesuffix(";").rstrip()
        if not any(line.strip() and not line.lstrip().startswith("--") for line in statement.splitlines()):
            raise QueryFileError(f"{origin}: {name!r} has no SQL.")
        yield Query(name=name, since=first, until=last, text=statement.encode(), origin=origin)


def _gated(line: str, origin: str) -> tuple[str, int, int | None]:
    """Return a line without its gate, and the servers it is for."""
    found = _LINE_GATE.fullmatch(line)
    if found is None:
        return line, 0, None
    gates = _LINE_WORD.findall(found["gates"])
    named = {word: int(number) for word, number in gates}
    since, until = named.get("since", 0), named.get("until")
    if len(named) < len(gates) or (until is not None and until <= since):
        raise QueryFileError(f"{origin}: the gate of {line.strip()!r} matches no server.")
    return found["sql"], since, until
