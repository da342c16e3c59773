"""Find the rows that the server does not take, and land all the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from pgscale import sql as named
from pgscale.core.model import QName
from pgscale.write.effects import Atomic, Done, Fetch, Steps
from pgscale.write.failures import blames_a_value, find_line

QUERIES = named.load("pgscale.write")

# Classes of SQLSTATE that say nothing about a row: the connection, the transaction, the statement, the server.
_OF_THE_WHOLE = frozenset(
    {"08", "0A", "25", "26", "28", "2D", "34", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0", "HV", "XX"}
)
FOREIGN_KEY = "23503"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What stands between a row and its table.

    Args:
        deferred: constraints that are checked at COMMIT unless told otherwise, of the table and its partitions.
        checks: name and definition of the CHECKs that a row can be held against by itself, by its own values.
        checked_columns: the columns each of `checks` reads.
        may_change_rows: a BEFORE trigger may make a good row of one that NOT NULL or a CHECK would refuse.
        refers_to_itself: a row may need another one of the same batch.
        column_of: the column of every constraint and unique index that has only one.
    """

    deferred: tuple[QName, ...]
    checks: tuple[tuple[str, str], ...]
    checked_columns: tuple[tuple[str, ...], ...]
    may_change_rows: bool
    refers_to_itself: bool
    column_of: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a row was not taken; by the server where there is a SQLSTATE."""

    column: str | None
    sqlstate: str | None
    reason: str


def read_guards(info: psycopg.ConnectionInfo, oid: int) -> Steps[Guards]:
    """Read what may refuse the rows of a table."""
    rows = yield Fetch(QUERIES.get("read_guards", info.server_version), {"oid": oid})
    found: list[dict[str, Any]] = rows[0][1]
    own = [c for c in found if c["is_own"] and c["is_of_row"]]
    return Guards(
        deferred=tuple(QName(schema=c["schema"], name=c["name"]) for c in found if c["is_deferred"]),
        checks=tuple((c["name"], c["definition"]) for c in own),
        checked_columns=tuple(tuple(c["columns"]) for c in own),
        may_change_rows=rows[0][0],
        refers_to_itself=any(c["refers_to_itself"] for c in found),
        column_of={c["name"]: c["columns"][0] for c in found if len(c["columns"]) == 1},
    )


def blames_a_row(error: psycopg.Error) -> bool:
    """Tell whether another row in its place might have been taken: data, constraints, triggers; not the server."""
    state = error.sqlstate
    if state is None:
        return False
    if state == "42501":
        # Policies of row-level security and WITH CHECK OPTION, not a missing GRANT; the message is translated.
        return error.diag.source_function == "ExecWithCheckOptions"
    return state[:2] not in _OF_THE_WHOLE or blames_a_value(error)


def fault_of(error: psycopg.Error, guards: Guards, names: tuple[tuple[str, str], ...] = ()) -> Fault:
    """Return what a letter says of an error.

    Args:
        names: what to say for names of our own in the server's message, as pairs.
    """
    reason = (error.diag.message_primary or str(error)).rstrip(".")
    for ours, theirs in names:
        reason = reason.replace(ours, theirs)
    constraint = error.diag.constraint_name
    found = find_line(error)
    column = error.diag.column_name or (found[1] if found else None) or guards.column_of.get(constraint or "")
    return Fault(column=column, sqlstate=error.sqlstate or "", reason=reason)


def isolate(
    low: int,
    high: int,
    land: Callable[[int, int], Steps[int]],
    bury: Callable[[int, psycopg.Error], Steps[None]],
    *,
    is_doomed: bool = False,
) -> Steps[tuple[int, bool]]:
    """Land the rows from `low` to before `high`, but for those the server does not take; in their order.

    k such rows among n cost at most 2k (1 + log2 n) + 1 attempts: a range that is taken is done, one that is not is
    halved.

    Args:
        land: writes a range; the answer is how many rows it wrote.
        bury: is told the place of a bad row and the error.
        is_doomed: the range is known to fail, so that it is halved at once.

    Returns:
        How many rows were written, and whether any were not.
    """
    if not is_doomed or high - low == 1:
        try:
            yield Atomic()
            landed = yield from land(low, high)
            yield Done()
        except psycopg.Error as error:
            if not blames_a_row(error):
                raise
            if high - low == 1:
                yield from bury(low, error)
                return 0, True
        else:
            return landed, False
    middle = (low + high) // 2
    left, is_bad = yield from isolate(low, middle, land, bury)
    # What failed as a whole and not in its left half fails in its right one.
    right, _ = yield from isolate(middle, high, land, bury, is_doomed=not is_bad)
    return left + right, True
