"""What an upsert does with a column when the row is there already. Pure.

Each rule folds: the rows of a batch that share a key are first made one by the same rule, and the result is what
one row at a time would have given. NULL is "no value": it never wipes a sum, a least or a greatest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from pgscale.errors import UsageError
from pgscale.write.model import ColumnFact, TypeFact

Rule = Literal["set", "add", "least", "greatest", "keep", "coalesce", "nothing"]
RULES: tuple[str, ...] = get_args(Rule)

# Words that name what is counted up; a rule that overwrites such a column loses what others added.
_COUNTER = re.compile(r"(^|_)(count|counts|counter|total|totals|hits|views|clicks|visits|quantity|qty|uses)(_|$)")
_NUMBERS = frozenset({"int2", "int4", "int8", "numeric", "float4", "float8"})
_ADDABLE = _NUMBERS | {"interval", "money"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRule:
    """A column that is not of the key, and its rule."""

    column: ColumnFact
    rule: Rule


def choose_rules(
    columns: Sequence[ColumnFact],
    key: Sequence[str],
    rules: Mapping[str, Rule],
    types: Mapping[int, TypeFact],
) -> tuple[ColumnRule, ...]:
    """Return the rule of every column that is not of the key; `set` where none is given.

    Raises:
        UsageError: a rule that there is not, or for a column that is of the key, is not written, or cannot be added.
    """
    names = {c.name for c in columns}
    for name, rule in rules.items():
        if rule not in RULES:
            raise UsageError(f"There is no rule {rule!r} for {name}.", hint=f"Use {', '.join(RULES)}.")
        if name in key:
            raise UsageError(f"{name} is of the key: it has no rule.")
        if name not in names:
            raise UsageError(f"There is a rule for {name}, which the rows have no value for.")
    chosen = tuple(ColumnRule(column=c, rule=rules.get(c.name, "set")) for c in columns if c.name not in key)
    for one in chosen:
        if one.rule == "add" and base_type(one.column.type_oid, types).name not in _ADDABLE:
            raise UsageError(
                f"{one.column.name} is of type {one.column.type_name}, which cannot be added.",
                hint="`add` is for numbers and intervals.",
            )
    return chosen


def find_overwritten_counters(rules: Sequence[ColumnRule], types: Mapping[int, TypeFact]) -> tuple[str, ...]:
    """Return a warning for every number that is overwritten though its name says it counts something."""
    return tuple(
        f"{one.column.name} looks like a counter, and `set` overwrites what is there; `add` adds to it."
        for one in rules
        if one.rule == "set"
        and base_type(one.column.type_oid, types).name in _NUMBERS
        and _COUNTER.search(one.column.name.lower())
    )


def base_type(oid: int, types: Mapping[int, TypeFact]) -> TypeFact:
    """Return the type itself, of a domain what it is a domain over."""
    fact = types[oid]
    while fact.kind == "d":
        fact = types[fact.base_oid]
    return fact
