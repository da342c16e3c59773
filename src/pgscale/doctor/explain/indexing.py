"""Which index would serve the conditions of a scan; whether it exists, and what hides it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pgscale.core.finding import Remedy
from pgscale.core.units import format_bytes
from pgscale.doctor.explain import ddl
from pgscale.doctor.explain.case import Case
from pgscale.doctor.explain.conditions import Term
from pgscale.doctor.explain.facts import Index, Relation
from pgscale.doctor.explain.model import Node
from pgscale.doctor.explain.thresholds import MOST_INDEX_COLUMNS

# Immutable on every server, where none can be asked.
_SURELY_IMMUTABLE = frozenset({"lower", "upper"})
_PATTERN_CLASSES = {"character": "bpchar_pattern_ops"}
_TEXTS = ("text", "character varying", "character")
# Of a B-tree's entry: header and line pointer.
_ENTRY_BYTES, _POINTER_BYTES, _FILL = 8, 4, 0.9
_UNKNOWN_WIDTH = 16
# More statements are for a program, not for pasting.
_MOST_PARTITIONS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """An index that would serve.

    Args:
        keys: as CREATE INDEX has them; columns: that are in them.
        method: empty for a B-tree.
        hidden_by: a term that hides the column of an index that exists, and that index.
        terms: that it serves.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    method: str = ""
    hidden_by: tuple[Term, Index] | None = None
    terms: tuple[Term, ...] = ()


def advise(case: Case, node: Node, terms: Sequence[Term], *, ordered: Sequence[str] = ()) -> Advice | None:
    """Return the index for the terms of a scan; None when none can serve, or it is there.

    Args:
        ordered: keys whose order the scan gives, to stand behind those of equality.
    """
    relation = case.known.relation(node)
    served = [term for term in terms if term.is_served]
    equal = [
        (term, key)
        for term in served
        if term.kind in ("equal", "null", "boolean") and (key := _key(case, relation, term))
    ]
    equal.sort(key=lambda each: _distinct(case, relation, each[0]), reverse=True)
    chosen = equal[:MOST_INDEX_COLUMNS]
    if not ordered:
        for term in served:
            key = _key(case, relation, term)
            if key and term.kind in ("range", "prefix") and len(chosen) < MOST_INDEX_COLUMNS:
                chosen.append((term, f"{key} {_pattern_class(case, relation, term)}" if term.kind == "prefix" else key))
                break
    method = ""
    if not chosen:
        chosen, method = _inverted(case, relation, served)
    if not chosen:
        return None
    keys = tuple(dict.fromkeys([*(key for _, key in chosen), *ordered]))
    columns = tuple(dict.fromkeys(column for term, _ in chosen for column in sorted(term.columns)))
    if relation is not None and _exists(case, relation, keys, method):
        return None
    hidden = [
        (term, index)
        for term, _ in chosen
        if relation is not None and not is_plain(case, relation, term)
        for index in case.known.indexes_of(relation)
        if not index.is_partial and index.keys and _same(index.keys[0], ddl.ident(*term.columns))
    ]
    return Advice(
        keys=keys,
        columns=columns,
        method=method,
        hidden_by=hidden[0] if hidden else None,
        terms=tuple(term for term, _ in chosen),
    )


def hidden(case: Case, node: Node, terms: Sequence[Term]) -> tuple[Term, Index] | None:
    """Return a term whose cast or function keeps an index on its column from being used."""
    relation = case.known.relation(node)
    if relation is None:
        return None
    for term in terms:
        if (
            term.is_served
            and term.kind in ("equal", "range")
            and len(term.columns) == 1
            and not is_plain(case, relation, term)
        ):
            for index in case.known.indexes_of(relation):
                if not index.is_partial and index.keys and _same(index.keys[0], ddl.ident(*term.columns)):
                    return term, index
    return None


def remedy(case: Case, nodes: Sequence[Node], advice: Advice) -> Remedy:
    """Return the SQL that makes the index, without blocking writers for longer than a moment."""
    node = nodes[0]
    relation = case.known.relation(node)
    table = ddl.ident(*(node.relation or ("", "")))
    root = case.known.root_of(relation) if relation is not None else None
    size = _size(case, nodes, advice)
    owner = f"{size}Blocks no writer. The owner of the table may."
    unknown = "" if relation is not None else " If there is no such index yet: no server was asked."
    first = ""
    if advice.method == "gin" and any("gin_trgm_ops" in key for key in advice.keys):
        first = "CREATE EXTENSION IF NOT EXISTS pg_trgm;\n"
    if root is None or len(nodes) == 1 or len(root.leaves) > _MOST_PARTITIONS:
        text = "\n".join(
            ddl.create_index(ddl.ident(*each), advice.keys, method=advice.method)
            for each in dict.fromkeys(node.relation or ("", "") for node in nodes)
        )
        return Remedy(text=first + text, why=f"{owner}{unknown}")
    lines = [ddl.create_index(ddl.ident(*leaf), advice.keys, method=advice.method) for leaf in sorted(root.leaves)]
    table = ddl.ident(root.schema, root.name)
    lines += [
        "SET lock_timeout = '2s';",
        ddl.create_index(table, advice.keys, method=advice.method, concurrently=False),
        "RESET lock_timeout;",
    ]
    why = (
        f"{owner} The last takes those that are there for its own, with a short lock, and gives one to partitions"
        " to come."
    )
    return Remedy(text=first + "\n".join(lines), why=why)


def _size(case: Case, nodes: Sequence[Node], advice: Advice) -> str:
    """Say the size of a B-tree without deduplication, of the tables of some nodes."""
    if advice.method:
        return ""
    relations = {each.oid: each for node in nodes if (each := case.known.relation(node)) is not None}
    total = 0.0
    for relation in relations.values():
        widths = [
            (found.width_bytes if (found := case.known.column(relation, name)) is not None else None) or _UNKNOWN_WIDTH
            for name in advice.columns
        ]
        key = sum(-(-width // 8) * 8 for width in widths)
        total += max(relation.rows, 0.0) * (_ENTRY_BYTES + key + _POINTER_BYTES) / _FILL
    return f"Takes about {format_bytes(total)}, less where values repeat. " if total else ""


def _key(case: Case, relation: Relation | None, term: Term) -> str:
    """Return a term's left side as the key of an index; nothing when it cannot be one."""
    if is_plain(case, relation, term):
        return ddl.ident(term.column) if term.column is not None else ""
    if len(term.columns) != 1 or not term.expression:
        return ""
    immutable = case.known.immutable_functions if case.known.is_known else _SURELY_IMMUTABLE
    if not set(term.functions) <= immutable:
        return ""
    if not all(_cast_holds(case, relation, cast, "is_immutable") for cast in term.casts):
        return ""
    return f"({term.expression})"


def is_plain(case: Case, relation: Relation | None, term: Term) -> bool:
    """Tell whether it is a column: also one under another name of its type, `(varchar_column)::text`."""
    if term.column is None or term.functions:
        return False
    return all(_cast_holds(case, relation, cast, "is_relabel") for cast in term.casts)


def _cast_holds(case: Case, relation: Relation | None, cast: tuple[str, str], what: str) -> bool:
    name, target = cast
    column = case.known.column(relation, name) if relation is not None else None
    if column is None:
        return target == "text" and what == "is_relabel"
    return any((each.source, each.target) == (column.type, target) and getattr(each, what) for each in case.known.casts)


def _distinct(case: Case, relation: Relation | None, term: Term) -> float:
    if relation is None or term.column is None:
        return 0.0
    column = case.known.column(relation, term.column)
    if column is None or column.distinct_values is None:
        return 0.0
    return column.distinct_values if column.distinct_values >= 0 else -column.distinct_values * max(relation.rows, 1.0)


def _pattern_class(case: Case, relation: Relation | None, term: Term) -> str:
    return _PATTERN_CLASSES.get(_type(case, relation, term), "text_pattern_ops")


def _type(case: Case, relation: Relation | None, term: Term) -> str:
    column = case.known.column(relation, term.column) if relation is not None and term.column is not None else None
    return column.type if column is not None else ""


def _inverted(case: Case, relation: Relation | None, terms: Iterable[Term]) -> tuple[list[tuple[Term, str]], str]:
    """Return the key of a GIN index, where the type of the column is known to have one."""
    for term in terms:
        if term.column is None:
            continue
        kind, name = _type(case, relation, term), ddl.ident(term.column)
        if term.kind == "pattern" and kind in _TEXTS:
            return [(term, f"{name} gin_trgm_ops")], "gin"
        if term.kind == "contains" and (kind.endswith("[]") or kind in ("tsvector", "jsonb")):
            return [(term, f"{name} jsonb_path_ops" if kind == "jsonb" and term.operator == "@>" else name)], "gin"
    return [], ""


def _exists(case: Case, relation: Relation, keys: Sequence[str], method: str) -> bool:
    wanted = {_plain(key) for key in keys}
    for index in case.known.indexes_of(relation):
        if index.is_partial or index.method != (method or "btree"):
            continue
        first = [
            _plain(f"{key} {name}" if name.endswith(("_pattern_ops", "gin_trgm_ops", "_path_ops")) else key)
            for key, name in zip(index.keys, index.classes, strict=False)
        ]
        if set(first[: len(wanted)]) == wanted:
            return True
    return False


def _same(one: str, other: str) -> bool:
    return _plain(one) == _plain(other)


def _plain(key: str) -> str:
    """Return a key as it can be compared: without quotes, blanks, and parentheses around the whole."""
    key = key.replace('"', "").replace(" ", "")
    while key.startswith("(") and _closing(key) == len(key) - 1:
        key = key[1:-1]
    return key


def _closing(text: str) -> int:
    depth = 0
    for place, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return place
    return -1
