"""The oracle: did a conversion carry everything over?

Three views of a table, each taken before and after:

- `normalize_dump`: the statements of `pg_dump -s`, reduced so that an ordinary table and the partitioned
  table it became compare equal if, and only if, everything that the dump can say was carried over;
- `read_storage` / `assert_leaves`: what lives on the leaves and so cannot be said of a partitioned parent
  (reloptions, tablespace, replica identity, statistics targets, the clustered index) and what a leaf must not
  give away (privileges the table did not give);
- `read_rows`, `read_sequences`: the rows of every relation as text, and where every sequence stands.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg
from psycopg import sql

from support.clients import pg_dump_schema

HIDDEN = "pgscale*"  # pgscale's own schemas never belong to what is compared


class Named(Protocol):
    """Anything with a schema and a name: `pgscale.core.model.QName` is one."""

    @property
    def schema(self) -> str: ...
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class TableName:
    """A schema-qualified name, unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{_quote(self.schema)}.{_quote(self.name)}"


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# --- pg_dump as a list of token lists ---------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
      (?P<space>\s+)
    | (?P<comment>--[^\n]*)
    | (?P<block>/\*)
    | (?P<estring>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*')
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
    | (?P<dollar>\$(?:[A-Za-z_\u0080-\uffff][\w]*)?\$)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>\d[\w.]*)
    | (?P<operator>::|[-+*<>=~!@\#%^&|`?/]+)
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def _tokens(text: str) -> Iterator[str]:
    """Yield the tokens of SQL text without white space and comments."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:  # pragma: no cover - `other` matches every character
            raise ValueError(f"cannot read the dump at: {text[at : at + 60]!r}")
        kind, token = match.lastgroup, match.group()
        at = match.end()
        if kind in ("space", "comment"):
            continue
        if kind == "block":
            at = _end_of_block_comment(text, at)
            continue
        if kind == "dollar":
            end = text.find(token, at)
            if end < 0:
                raise ValueError(f"the dollar quote {token} is never closed")
            token = text[match.start() : end + len(token)]
            at = match.start() + len(token)
        elif kind == "operator" and "--" in token[1:]:
            token = token[: token.index("--", 1)]
            at = match.start() + len(token)
        yield token


def _end_of_block_comment(text: str, at: int) -> int:
    depth = 1
    while depth:
        match = re.compile(r"/\*|\*/").search(text, at)
        if match is None:
            raise ValueError("a block comment is never closed")
        depth += 1 if match.group() == "/*" else -1
        at = match.end()
    return at


def split_statements(text: str) -> list[list[str]]:
    """Split `pg_dump -s` output into statements, each a list of its tokens without the final semicolon.

    Respects strings, dollar quotes, parentheses (rules with several actions) and `BEGIN ATOMIC … END` bodies.
    Client commands (`\\restrict`, `\\connect`) and comments are left out.
    """
    client_command = re.compile(r"\\(un)?restrict |\\connect ")
    text = "\n".join(line for line in text.splitlines() if not client_command.match(line))
    statements: list[list[str]] = []
    current: list[str] = []
    parens = atomic = 0
    for token in _tokens(text):
        word = token.upper()
        if word == "ATOMIC" and current and current[-1].upper() == "BEGIN" and _creates_routine(current):
            atomic = 1
        elif atomic and word == "CASE":
            atomic += 1
        elif atomic and word == "END":
            atomic -= 1
        elif token in ("(", ")"):
            parens += 1 if token == "(" else -1
        if token == ";" and not parens and not atomic:
            if current:
                statements.append(current)
            current = []
        else:
            current.append(token)
    if current:
        raise ValueError(f"the dump ends inside a statement: {_render(current)[:200]}")
    return statements


def _creates_routine(tokens: Sequence[str]) -> bool:
    head = [t.upper() for t in tokens[:4]]
    return head[:1] == ["CREATE"] and ("FUNCTION" in head or "PROCEDURE" in head)


def _render(tokens: Sequence[str]) -> str:
    out = ""
    for token in tokens:
        glue = not out or token in (",", ")", ".", ";", "]", "[", "::") or out.endswith(("(", ".", "::", "["))
        out += token if glue else " " + token
    return out


# --- who a statement is about -----------------------------------------------------------------------------


def _name_at(tokens: Sequence[str], at: int) -> tuple[TableName | None, int]:
    """Read `schema.name` (or `name`) at a position; returns the name and the position after it."""

    def plain(token: str) -> str:
        return token[1:-1].replace('""', '"') if token.startswith('"') else token

    if at >= len(tokens):
        return None, at
    if at + 2 < len(tokens) and tokens[at + 1] == ".":
        return TableName(plain(tokens[at]), plain(tokens[at + 2])), at + 3
    return TableName("", plain(tokens[at])), at + 1


def _find(words: Sequence[str], wanted: str, start: int = 0, *, last: bool = False) -> int:
    """Position of a word outside parentheses, -1 if there is none."""
    depth, found = 0, -1
    for i, word in enumerate(words):
        if word in ("(", ")"):
            depth += 1 if word == "(" else -1
        elif depth == 0 and i >= start and word == wanted:
            found = i
            if not last:
                return found
    return found


@dataclass(frozen=True, slots=True)
class _Subject:
    table: TableName | None = None
    index: TableName | None = None  # an index that the statement creates or is about
    child: TableName | None = None  # a table or index being attached


def _subject(tokens: Sequence[str]) -> _Subject:  # noqa: PLR0911 because each statement kind returns
    words = [t if t.startswith(('"', "'")) else t.upper() for t in tokens]
    verb, rest = words[0], words[1:]
    if verb == "CREATE":
        if "TABLE" in words[1:3] and words[1] != "EVENT":
            return _Subject(table=_name_at(tokens, words.index("TABLE") + 1)[0])
        if "INDEX" in words[1:3]:
            on = _find(words, "ON")
            only = 1 if words[on + 1] == "ONLY" else 0
            table = _name_at(tokens, on + 1 + only)[0]
            name = _name_at(tokens, words.index("INDEX") + 1)[0]
            schema = table.schema if table else ""
            return _Subject(table=table, index=TableName(schema, name.name if name else ""))
        if "TRIGGER" in words[1:3] and words[1] != "EVENT":
            return _Subject(table=_name_at(tokens, _find(words, "ON") + 1)[0])
        if rest[0] == "POLICY":
            return _Subject(table=_name_at(tokens, _find(words, "ON") + 1)[0])
        if rest[0] == "STATISTICS":
            return _Subject(table=_name_at(tokens, _find(words, "FROM", last=True) + 1)[0])
        if rest[0] == "RULE":
            return _Subject(table=_name_at(tokens, _find(words, "TO") + 1)[0])
    elif verb == "ALTER":
        if "TABLE" in words[1:3]:
            at = words.index("TABLE") + 1
            at += words[at] == "ONLY"
            table, after = _name_at(tokens, at)
            if words[after : after + 2] == ["ATTACH", "PARTITION"]:
                return _Subject(table=table, child=_name_at(tokens, after + 2)[0])
            index = None
            if words[after : after + 2] == ["ADD", "CONSTRAINT"]:
                name = _name_at(tokens, after + 2)[0]
                index = TableName(table.schema if table else "", name.name if name else "")
            return _Subject(table=table, index=index)
        if rest[0] == "INDEX":
            index, after = _name_at(tokens, 2)
            if words[after : after + 2] == ["ATTACH", "PARTITION"]:
                return _Subject(index=index, child=_name_at(tokens, after + 2)[0])
            return _Subject(index=index)
        if rest[0] == "PUBLICATION" and "TABLE" in words:
            at = words.index("TABLE") + 1
            at += words[at] == "ONLY"
            return _Subject(table=_name_at(tokens, at)[0])
    elif verb in ("GRANT", "REVOKE"):
        on = _find(words, "ON")
        if on > 0 and words[on + 1] == "TABLE":
            return _Subject(table=_name_at(tokens, on + 2)[0])
    elif verb == "COMMENT":
        if rest[1] == "TABLE":
            return _Subject(table=_name_at(tokens, 3)[0])
        if rest[1] == "COLUMN":
            return _Subject(table=_name_at(tokens, 3)[0])
        if rest[1] == "INDEX":
            return _Subject(index=_name_at(tokens, 3)[0])
        if rest[1] in ("CONSTRAINT", "TRIGGER", "POLICY", "RULE"):
            on = _find(words, "ON", 3)
            on += words[on + 1] == "DOMAIN"
            return _Subject(table=_name_at(tokens, on + 1)[0])
    return _Subject()


# --- the normal form --------------------------------------------------------------------------------------


def normalize_dump(text: str, table: Named, leaf_names: Iterable[str]) -> list[str]:
    """Reduce a schema dump to what an ordinary table and its partitioned successor must have in common.

    Args:
        text: output of `pg_dump -s` of the whole database without pgscale's schemas.
        table: the converted table.
        leaf_names: names of its leaf partitions, which live in the table's schema; empty before a conversion.

    Returns:
        Sorted statements. Left out: session settings, every statement about a leaf or a leaf's index, and
        of the table `PARTITION BY`, `WITH (…)`, `CLUSTER ON` (leaves hold them; see `assert_leaves`). `ONLY`
        is dropped where pg_dump prints it for one kind of table and not for the other. A statement that
        pg_dump wraps in SET SESSION AUTHORIZATION (a grant by another than the owner) names that role.
    """
    leaves = {TableName(table.schema, name) for name in leaf_names}
    target = TableName(table.schema, table.name)
    statements = [(who, tokens, _subject(tokens)) for who, tokens in _acting(split_statements(text))]
    leaf_indexes = {s.index for _, _, s in statements if s.table in leaves and s.index is not None}
    kept: list[str] = []
    for who, tokens, subject in statements:
        if subject.table in leaves or subject.child in leaves:
            continue
        if subject.index in leaf_indexes or subject.child in leaf_indexes:
            continue
        reduced = _reduce(tokens, is_target=subject.table == target)
        if reduced:
            kept.append((f"as {who}: " if who else "") + _render(reduced) + ";")
    return sorted(kept)


def _acting(statements: Iterable[list[str]]) -> Iterator[tuple[str, list[str]]]:
    """Drop session settings; pair each statement with the role that pg_dump switches to for it."""
    who = ""
    for tokens in statements:
        words = [t.upper() for t in tokens[:3]]
        if words == ["SET", "SESSION", "AUTHORIZATION"]:
            who = _render(tokens[3:])
        elif words[:1] == ["RESET"]:
            who = ""
        elif words[0] == "SET" or (words[0] == "SELECT" and "set_config" in tokens[:4]):
            continue
        else:
            yield who, tokens


def _reduce(tokens: list[str], *, is_target: bool) -> list[str]:
    words = [t.upper() for t in tokens]
    if words[:3] == ["ALTER", "TABLE", "ONLY"]:
        tokens = tokens[:2] + tokens[3:]
        words = words[:2] + words[3:]
    elif words[0] == "CREATE" and "INDEX" in words[1:3]:
        on = _find(words, "ON")
        if words[on + 1] == "ONLY":
            tokens = tokens[: on + 1] + tokens[on + 2 :]
    if not is_target:
        return tokens
    if words[:2] == ["ALTER", "TABLE"] and "CLUSTER" in words[2:6] and "ON" in words[4:8]:
        return []
    if words[0] == "CREATE" and "TABLE" in words[1:3]:
        tail = max(_find(words, "PARTITION", 4), -1)
        if tail > 0:
            tokens = tokens[:tail] + _after_partition_by(tokens, words, tail)
            words = [t.upper() for t in tokens]
        options = _find(words, "WITH", 4)
        if options > 0 and words[options + 1] == "(":
            close = _matching(words, options + 1)
            tokens = tokens[:options] + tokens[close + 1 :]
    return tokens


def _after_partition_by(tokens: list[str], words: list[str], at: int) -> list[str]:
    # PARTITION BY method ( … ): what follows the closing parenthesis stays
    if words[at + 1] != "BY":
        return tokens[at:]
    opening = words.index("(", at)
    return tokens[_matching(words, opening) + 1 :]


def _matching(words: Sequence[str], opening: int) -> int:
    depth = 0
    for i in range(opening, len(words)):
        depth += (words[i] == "(") - (words[i] == ")")
        if depth == 0:
            return i
    raise ValueError("parentheses do not balance")


def plain_statements(text: str) -> list[str]:
    """Every statement of a dump, sorted, with nothing reduced but white space and session settings."""
    return sorted((f"as {w}: " if w else "") + _render(t) + ";" for w, t in _acting(split_statements(text)))


def _report(what: str, before: Sequence[str], after: Sequence[str], allowed: Sequence[str]) -> None:
    """Raise AssertionError with a diff unless both hold the same statements, but for what is `allowed`."""
    lost, gained = Counter(before) - Counter(after), Counter(after) - Counter(before)
    patterns = [re.compile(p) for p in allowed]

    def surplus(counted: Counter[str], sign: str) -> list[str]:
        return [s for s in counted.elements() if not any(p.search(sign + s) for p in patterns)]

    minus, plus = surplus(lost, "-"), surplus(gained, "+")
    if not minus and not plus:
        return
    lines = list(
        difflib.unified_diff(_broken(sorted(minus)), _broken(sorted(plus)), "before", "after", lineterm="", n=2)
    )
    text = "\n".join(line if len(line) < 400 else line[:400] + " …" for line in lines[:200])
    raise AssertionError(f"{what}: {len(minus)} statements lost, {len(plus)} gained\n{text}")


def _broken(statements: Iterable[str]) -> list[str]:
    """Break statements into short lines, so that a diff shows the one column that differs."""
    return [line for s in statements for line in re.sub(r", (?=[\w\"]+ )", ",\n    ", s).split("\n")]


def assert_parity(
    before: str, after: str, *, table: Named, leaf_names: Iterable[str], allowed: Sequence[str] = ()
) -> None:
    """Assert that the dump after a conversion says the same as the one before.

    Args:
        before: dump of the ordinary table.
        after: dump of the partitioned one.
        table: the converted table.
        leaf_names: the leaf partitions after the conversion.
        allowed: regular expressions; a statement that only one side has, prefixed by `-` (before) or `+`
            (after), is forgiven when one matches.
    """
    _report(
        "the schema changed",
        normalize_dump(before, table, ()),
        normalize_dump(after, table, leaf_names),
        allowed,
    )


def assert_identical(before: str, after: str, *, allowed: Sequence[str] = ()) -> None:
    """Assert that two dumps hold the same statements, whatever their order."""
    _report("the schema is not what it was", plain_statements(before), plain_statements(after), allowed)


def assert_same_statements(before: Sequence[str], after: Sequence[str]) -> None:
    """Assert that two lists hold the same statements, whatever their order."""
    _report("the schema changed", before, after, ())


def dump_schema(dsn: str) -> str:
    """Run `pg_dump -s` of a whole database without pgscale's schemas.

    Args:
        dsn: best a superuser's: pg_dump locks every table it prints.
    """
    return pg_dump_schema(dsn, "-N", HIDDEN, "--lock-wait-timeout=30s")


# --- what lives on the leaves -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStorage:
    """What a leaf's index must have in common with the old table's index of the parent's name."""

    options: tuple[str, ...]
    tablespace: str
    statistics: tuple[str, ...]
    clustered: bool
    replica_identity: bool
    usable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafStorage:
    """What a leaf must have in common with the old table, and what it gives away."""

    options: tuple[str, ...]
    toast_options: tuple[str, ...]
    tablespace: str
    access_method: str
    replica_identity: str
    persistence: str
    owner: str
    row_security: bool
    columns: tuple[tuple[Any, ...], ...]
    checks: tuple[tuple[str, bool], ...]
    indexes: dict[str, IndexStorage]
    privileges: frozenset[tuple[str, str]]


_CLASS = """
SELECT c.oid, coalesce(c.reloptions, '{}') AS options, coalesce(t.reloptions, '{}') AS toast_options,
       coalesce(s.spcname, '') AS tablespace, am.amname AS access_method, c.relreplident AS replica_identity,
       c.relpersistence AS persistence, c.relowner::regrole::text AS owner, c.relrowsecurity AS row_security
FROM pg_class c
LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace
LEFT JOIN pg_am am ON am.oid = c.relam
WHERE c.oid = %s
"""
_COLUMNS = """
SELECT attname, format_type(atttypid, atttypmod), attnotnull, coalesce(attstattarget, -1), attstorage,
       attcompression, coalesce(attoptions, '{}')
FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_CHECKS = "SELECT conname, convalidated FROM pg_constraint WHERE conrelid = %s AND contype = 'c' ORDER BY 1"
_INDEXES = """
SELECT coalesce(p.relname,
                CASE WHEN c.relispartition THEN 'lost parent of ' ELSE '' END || ic.relname) AS name,
       coalesce(ic.reloptions, '{}') AS options, coalesce(s.spcname, '') AS tablespace,
       ARRAY(SELECT format('%%s: %%s', a.attnum, a.attstattarget) FROM pg_attribute a
             WHERE a.attrelid = ic.oid AND coalesce(a.attstattarget, -1) <> -1
             ORDER BY a.attnum) AS statistics,
       i.indisclustered AS clustered, i.indisreplident AS replica_identity,
       i.indisvalid AND i.indisready AND i.indislive AS usable
FROM pg_index i
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_class ic ON ic.oid = i.indexrelid
LEFT JOIN pg_tablespace s ON s.oid = ic.reltablespace
LEFT JOIN pg_inherits h ON h.inhrelid = ic.oid
LEFT JOIN pg_class p ON p.oid = h.inhparent
WHERE i.indrelid = %s
"""
_PRIVILEGES = """
SELECT a.grantee::regrole::text, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = %s
UNION
SELECT a.grantee::regrole::text, a.privilege_type
FROM pg_attribute t, aclexplode(t.attacl) a WHERE t.attrelid = %s AND t.attnum > 0
"""


def _relation_oid(conn: psycopg.Connection[Any], table: Named) -> int:
    row = conn.execute("SELECT to_regclass(%s)::oid", [str(TableName(table.schema, table.name))]).fetchone()
    if row is None or row[0] is None:
        raise AssertionError(f"{table.schema}.{table.name} does not exist")
    return int(row[0])


def read_storage(conn: psycopg.Connection[Any], table: Named) -> LeafStorage:
    """Read what `assert_leaves` compares, of an ordinary table or of one leaf."""
    return _read_storage(conn, _relation_oid(conn, table))


def _read_storage(conn: psycopg.Connection[Any], oid: int) -> LeafStorage:
    with conn.cursor(row_factory=psycopg.rows.dict_row) as cur:
        facts = cur.execute(_CLASS, [oid]).fetchone()
        assert facts is not None
        facts.pop("oid")
        indexes = {str(r.pop("name")): r for r in cur.execute(_INDEXES, [oid]).fetchall()}
    return LeafStorage(
        options=tuple(sorted(facts.pop("options"))),
        toast_options=tuple(sorted(facts.pop("toast_options"))),
        columns=tuple((*r[:-1], tuple(r[-1])) for r in conn.execute(_COLUMNS, [oid]).fetchall()),
        checks=tuple((n, v) for n, v in conn.execute(_CHECKS, [oid]).fetchall()),
        indexes={
            n: IndexStorage(**{**r, "options": tuple(sorted(r["options"])), "statistics": tuple(r["statistics"])})
            for n, r in indexes.items()
        },
        privileges=frozenset(conn.execute(_PRIVILEGES, [oid, oid]).fetchall()),
        **facts,
    )


def leaves_of(conn: psycopg.Connection[Any], table: Named) -> list[TableName]:
    """The leaf partitions of a partitioned table, by name."""
    rows = conn.execute(
        "SELECT n.nspname, c.relname FROM pg_partition_tree(%s::oid::regclass) t"
        " JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE t.isleaf AND c.relkind <> 'p' ORDER BY 1, 2",
        [_relation_oid(conn, table)],
    ).fetchall()
    return [TableName(*r) for r in rows]


def assert_leaves(conn: psycopg.Connection[Any], before: LeafStorage, table: Named) -> None:
    """Assert that every leaf stores what the old table stored, and gives away no more than it gave."""
    leaves = leaves_of(conn, table)
    faults: list[str] = [] if leaves else [f"{table.schema}.{table.name} has no partitions"]
    for leaf in leaves:
        after = read_storage(conn, leaf)
        faults += [f"{leaf.name}: {fault}" for fault in _storage_faults(before, after)]
        if leaf.schema != table.schema:
            faults.append(f"{leaf.name}: lies in schema {leaf.schema}")
    if faults:
        shown = "\n".join(faults[:40])
        raise AssertionError(f"{len(faults)} differences between the old table and the leaves:\n{shown}")


def _storage_faults(before: LeafStorage, after: LeafStorage) -> Iterator[str]:
    for field in (
        "options",
        "toast_options",
        "tablespace",
        "access_method",
        "replica_identity",
        "persistence",
        "owner",
        "checks",
    ):
        old, new = getattr(before, field), getattr(after, field)
        if old != new:
            yield f"{field} were {old!r}, are {new!r}"
    for old, new in zip(before.columns, after.columns, strict=False):
        # A key that grows makes its columns NOT NULL; losing NOT NULL is the fault.
        if (old[:2], old[3:]) != (new[:2], new[3:]) or (old[2] and not new[2]):
            yield f"column {old!r} became {new!r}"
    if len(before.columns) != len(after.columns):
        yield f"{len(before.columns)} columns became {len(after.columns)}"
    for name in sorted(before.indexes.keys() | after.indexes.keys()):
        old_index, new_index = before.indexes.get(name), after.indexes.get(name)
        if old_index != new_index:
            yield f"index {name}: was {old_index}, is {new_index}"
    owner = {before.owner, after.owner}
    leaked = {p for p in after.privileges - before.privileges if p[0] not in owner}
    if leaked:
        yield f"gives privileges that the table did not give: {sorted(leaked)}"
    if before.row_security and not after.row_security:
        open_to = {p for p in after.privileges if p[0] not in owner}
        if open_to:
            yield f"can be read past the row-level security of the table by {sorted(open_to)}"


# --- rows and sequences -----------------------------------------------------------------------------------


def read_rows(conn: psycopg.Connection[Any], table: Named) -> tuple[int, str]:
    """Count a relation's rows and hash their text, whatever their order."""
    name = sql.Identifier(table.schema, table.name)
    lines: list[bytes] = []
    pending = b""
    conn.execute("SET datestyle = 'ISO, YMD'")
    conn.execute("SET intervalstyle = 'postgres'")
    conn.execute("SET timezone = 'UTC'")
    # pg_dump's own columns: COPY leaves generated ones out, a SELECT brings every column in its order.
    with conn.cursor().copy(sql.SQL("COPY (SELECT * FROM {}) TO STDOUT").format(name)) as copy:
        for block in copy:
            parts = (pending + bytes(block)).split(b"\n")
            pending = parts.pop()
            lines += parts
    lines.sort()
    return len(lines), hashlib.sha256(b"\n".join(lines)).hexdigest()


def read_all_rows(conn: psycopg.Connection[Any], leaf_names: Iterable[str] = ()) -> dict[str, tuple[int, str] | str]:
    """Hash the rows of every table, view and materialized view outside pgscale's schemas and the leaves."""
    left_out = set(leaf_names)
    relations = conn.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind IN ('r', 'p', 'v', 'm') AND n.nspname !~ '^(pg_|information_schema|pgscale)'"
        " ORDER BY 1, 2"
    ).fetchall()
    found: dict[str, tuple[int, str] | str] = {}
    for schema, name in relations:
        if name in left_out:
            continue
        try:
            with conn.transaction():
                found[f"{schema}.{name}"] = read_rows(conn, TableName(schema, name))
        except psycopg.Error as error:  # an unpopulated materialized view, say: the same must happen after
            found[f"{schema}.{name}"] = f"SQLSTATE {error.sqlstate}"
    return found


def read_sequences(conn: psycopg.Connection[Any], *, everywhere: bool = False) -> dict[str, tuple[Any, ...]]:
    """Where every sequence stands: last value, whether it was called, and the column that owns it.

    Args:
        everywhere: in pgscale's own schemas too.
    """
    names = conn.execute(
        "SELECT n.nspname, c.relname, coalesce(("
        "SELECT format('%%s %%I.%%I.%%I', d.deptype, tn.nspname, t.relname, a.attname)"
        "  FROM pg_depend d JOIN pg_class t ON t.oid = d.refobjid"
        "  JOIN pg_namespace tn ON tn.oid = t.relnamespace"
        "  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid"
        "  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')"
        "  AND d.refclassid = 'pg_class'::regclass LIMIT 1), '')"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'S' AND (%s OR n.nspname !~ '^pgscale') ORDER BY 1, 2",
        [everywhere],
    ).fetchall()
    found: dict[str, tuple[Any, ...]] = {}
    for schema, name, owner in names:
        row = conn.execute(
            sql.SQL("SELECT last_value, is_called FROM {}").format(sql.Identifier(schema, name))
        ).fetchone()
        assert row is not None
        found[f"{schema}.{name}"] = (*row, owner)
    return found


def traces(conn: psycopg.Connection[Any]) -> list[str]:
    """Everything in the database whose name says that pgscale made it."""
    rows = conn.execute(
        "SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname LIKE 'pgscale%'"
        " UNION ALL SELECT 'relation ' || oid::regclass::text FROM pg_class WHERE relname LIKE '%pgscale%'"
        " UNION ALL SELECT 'function ' || oid::regprocedure::text FROM pg_proc WHERE proname LIKE '%pgscale%'"
        " UNION ALL SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass::text FROM pg_trigger"
        "  WHERE tgname LIKE '%pgscale%'"
        " UNION ALL SELECT 'constraint ' || conname FROM pg_constraint WHERE conname LIKE '%pgscale%'"
        " UNION ALL SELECT 'type ' || oid::regtype::text FROM pg_type WHERE typname LIKE '%pgscale%'"
        " UNION ALL SELECT 'publication ' || pubname FROM pg_publication WHERE pubname LIKE '%pgscale%'"
        " UNION ALL SELECT 'event trigger ' || evtname FROM pg_event_trigger WHERE evtname LIKE '%pgscale%'"
        " ORDER BY 1"
    ).fetchall()
    return [r[0] for r in rows]
