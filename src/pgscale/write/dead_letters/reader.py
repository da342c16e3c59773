"""Find dead letters by table, source, id, SQLSTATE and age."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row, tuple_row

from pgscale.connect.session import READER, Session, open_session
from pgscale.core.model import Json
from pgscale.errors import PermissionDeniedError
from pgscale.write.dead_letters.storing import QUERIES

# Read in parts, so that a session never holds them all.
PART_LETTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters; every condition that is given has to hold.

    Args:
        table: with its schema or without; ages are by the server's clock.
    """

    ids: tuple[int, ...] = ()
    table: str | None = None
    source: str | None = None
    sqlstate: str | None = None
    older_than_s: float | None = None
    newer_than_s: float | None = None

    @property
    def params(self) -> dict[str, Any]:
        return {**asdict(self), "ids": list(self.ids) or None}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptLetter:
    """A letter as the table has it; `row` is tagged JSON."""

    id: int
    at: datetime
    source: str
    table: str
    index: int | None
    column: str | None
    sqlstate: str | None
    reason: str
    row: Json
    merge: dict[str, Any] | None
    tries: int

    def to_json(self) -> dict[str, Json]:
        return {**asdict(self), "at": self.at.isoformat()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenLetter:
    """A letter that this transaction has for itself; `row` is tagged JSON."""

    id: int
    table: str
    row: Json
    merge: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Letters:
    """The first letters of those that were asked for, and how many there are."""

    letters: tuple[KeptLetter, ...]
    total: int


def list_letters(dsn: str | None, wanted: Filter, most: int) -> Letters:
    """Return letters, oldest first; none where there is no table of them.

    Raises:
        PermissionDeniedError: the role may not read the table.
    """
    with open_session(dsn, READER) as session, session.transaction():
        if not has_letters(session):
            return Letters(letters=(), total=0)
        total, last = count_letters(session, wanted)
        return Letters(letters=tuple(_part(session, wanted, 0, last, most)), total=total)


def has_letters(session: Session) -> bool:
    """Tell whether there is a table of letters.

    Raises:
        PermissionDeniedError: there is, and the role may not read it.
    """
    version = session.info.server_version
    found = session.execute(QUERIES.get("has_table", version)).fetchone()
    if not (found and found[0]):
        return False
    allowed = session.execute(QUERIES.get("may_read", version)).fetchone()
    if not (allowed and allowed[0]):
        raise PermissionDeniedError(
            "This role may not read table pgscale.dead_letter.",
            hint="GRANT USAGE ON SCHEMA pgscale, and SELECT, UPDATE, DELETE ON pgscale.dead_letter TO it.",
        )
    return True


def count_letters(session: Session, wanted: Filter) -> tuple[int, int]:
    """Return how many letters there are, and the highest id: later ones are no part of what was asked for."""
    with session.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(QUERIES.get("count_letters", session.info.server_version), wanted.params).fetchone()
    assert found is not None, "an aggregate is one row"
    return found[0], found[1]


def read_each(session: Session, wanted: Filter, last: int) -> Iterator[KeptLetter]:
    """Give out the letters up to an id, oldest first; each part is read when it is its turn."""
    after = 0
    while part := _part(session, wanted, after, last, PART_LETTERS):
        yield from part
        after = part[-1].id


def take_part(session: Session, wanted: Filter, after: int, last: int, most: int) -> list[TakenLetter]:
    """Lock the next letters between two ids until the end of the transaction, and return them, oldest first.

    Those that another session has locked are left out.
    """
    query = QUERIES.get("take_letters", session.info.server_version)
    with session.cursor(row_factory=class_row(TakenLetter)) as cursor:
        return cursor.execute(query, {**wanted.params, "after": after, "last": last, "most": most}).fetchall()


def _part(session: Session, wanted: Filter, after: int, last: int, most: int) -> list[KeptLetter]:
    query = QUERIES.get("select_letters", session.info.server_version)
    with session.cursor(row_factory=class_row(KeptLetter)) as cursor:
        return cursor.execute(query, {**wanted.params, "after": after, "last": last, "most": most}).fetchall()
