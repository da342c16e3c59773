"""What attach cannot do, beyond what no strategy can. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pgscale.catalog.model import TableFacts
from pgscale.core.model import quote_ident
from pgscale.errors import RefusedError, UsageError
from pgscale.partition.model import By

_MIRROR = "--strategy mirror carries it"


def refuse_hash(by: By) -> None:
    """Refuse a key that one partition with all rows cannot have.

    Raises:
        UsageError: the key is a hash.
    """
    if by.method == "hash":
        raise UsageError(
            "--strategy attach is for range and list keys: the table becomes one partition, and no one partition of a"
            " hash may hold every row.",
            hint="Use --strategy mirror, or --by range:COL:STEP or list:COL.",
        )


def refuse_unattachable(facts: TableFacts) -> None:
    """Refuse what would have to be built or computed under a lock.

    Raises:
        RefusedError: with every reason.
    """
    reasons = tuple(_reasons(facts))
    if reasons:
        raise RefusedError(
            f"{facts.table.qname} is not attached: {len(reasons)} thing"
            f"{'s stand' if len(reasons) > 1 else ' stands'} in the way.",
            reasons=reasons,
            consequence="Nothing was changed.",
        )


def _reasons(facts: TableFacts) -> Iterator[str]:
    for matview in facts.matviews:
        yield f"Materialized view {matview.qname} reads the table and would have to be made again; {_MIRROR}."
    for constraint in facts.constraints:
        if constraint.kind == "x":
            yield (
                f"Exclusion constraint {quote_ident(constraint.name)} would be built again under the lock: PostgreSQL"
                f" cannot attach its index; {_MIRROR} (PostgreSQL 17 and later)."
            )
    for relation in facts.indexes:
        if relation.name.startswith("_pgscale_"):
            yield f"Index {quote_ident(relation.name)} is left over from a run; drop it first."
    for constraint in facts.constraints:
        if constraint.name.startswith("_pgscale_"):
            yield f"Constraint {quote_ident(constraint.name)} is left over from a run; drop it first."
