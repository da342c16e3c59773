"""All rules, in the order in which they are asked."""

from __future__ import annotations

from pgscale.doctor.lint.rules import columns, constraints, indexes, tables, transactions
from pgscale.doctor.lint.rules.rule import Rule
from pgscale.errors import UsageError

RULES: tuple[Rule, ...] = (
    *transactions.RULES,
    *indexes.RULES,
    *columns.RULES,
    *constraints.RULES,
    *tables.RULES,
)
IDS = frozenset(rule.id for rule in RULES)


def find(rule_id: str) -> Rule:
    """Return a rule.

    Raises:
        UsageError: there is none of that id.
    """
    found = next((rule for rule in RULES if rule.id == rule_id), None)
    if found is None:
        raise UsageError(f"There is no rule {rule_id}.", hint=f"There are: {', '.join(sorted(IDS))}.")
    return found
