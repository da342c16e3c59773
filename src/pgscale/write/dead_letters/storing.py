"""Keep dead letters in table pgscale.dead_letter, in the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import resources

import psycopg

from pgscale import sql as named
from pgscale.core.model import Json
from pgscale.errors import PermissionDeniedError
from pgscale.ledger.closing import closed
from pgscale.ledger.store import WORK_LOCK
from pgscale.write.dead_letters.model import DeadLetter
from pgscale.write.dead_letters.tagging import row_to_json, without_letters_beyond_ascii
from pgscale.write.effects import Fetch, Steps

QUERIES = named.load("pgscale.write.dead_letters")
# A jsonb value ends at 256 MB: letters go in parts that are far from it.
MOST_BYTES = 8 * 1024 * 1024


def ensure_table() -> Steps[None]:
    """Make the table where there is none, in the caller's transaction.

    A role that may write to an existing table needs no right to make one.

    Raises:
        PermissionDeniedError: there is none and the role may not make it.
    """
    if (yield from has_table()):
        return
    # Two that make one table at once would fail on the catalogs' own keys; the ledger's makers wait here, too.
    yield Fetch(QUERIES.get("lock_schema", 0), {"lock": WORK_LOCK})
    schema = resources.files("pgscale.write.dead_letters").joinpath("schema.sql").read_bytes()
    try:
        yield Fetch(closed(schema))
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDeniedError(
            f"Table pgscale.dead_letter cannot be made: {str(error).splitlines()[0]}.",
            consequence="Nothing was written.",
            hint="GRANT CREATE ON DATABASE … TO the role, or make it as another one and GRANT INSERT on it.",
        ) from None


def has_table() -> Steps[bool]:
    """Tell whether there is a table of dead letters."""
    found = yield Fetch(QUERIES.get("has_table", 0))
    return bool(found[0][0])


def save(letters: Sequence[DeadLetter]) -> Steps[None]:
    """Add letters to the table, in the caller's transaction; `ensure_table` came before.

    Raises:
        PermissionDeniedError: the role may not insert into the table.
    """
    encoding = (yield Fetch(QUERIES.get("read_encoding", 0)))[0][0]
    part: list[str] = []
    size = 0
    for letter in letters:
        kept = record(letter)
        if encoding != "UTF8":
            # Perhaps the row is here because the database's encoding has no such character.
            kept = {name: _ascii(name, one) for name, one in kept.items()}
        text = json.dumps(kept, ensure_ascii=False)
        if part and size + len(text) > MOST_BYTES:
            yield from _insert(part)
            part, size = [], 0
        part.append(text)
        size += len(text)
    if part:
        yield from _insert(part)


def _insert(texts: Sequence[str]) -> Steps[None]:
    try:
        yield Fetch(QUERIES.get("insert_letters", 0), {"letters": f"[{','.join(texts)}]"})
    except psycopg.errors.InsufficientPrivilege:
        raise PermissionDeniedError(
            "This role may not write to table pgscale.dead_letter.",
            consequence="Nothing was written.",
            hint="GRANT USAGE ON SCHEMA pgscale TO the role; GRANT INSERT ON pgscale.dead_letter TO it.",
        ) from None


def _ascii(name: str, value: Json) -> Json:
    if isinstance(value, str):
        return value.encode("ascii", "backslashreplace").decode()
    return without_letters_beyond_ascii(value) if name == "row" else value


def record(letter: DeadLetter) -> Mapping[str, Json]:
    """Return a letter as its row of the table, and as its line of a file."""
    return {
        "source": letter.source,
        "table_name": letter.table,
        "row_index": letter.index,
        "column_name": letter.column,
        "sqlstate": letter.sqlstate,
        "reason": kept_reason(letter.reason),
        "row": row_to_json(letter.row),
        "merge": None if letter.merge is None else dict(letter.merge),
    }


def kept_reason(reason: str, encoding: str = "utf-8") -> str:
    """Return a reason as the database can keep it: the server's or ours, it may quote whatever the value was."""
    return reason.replace("\0", "\\0").encode(encoding, "backslashreplace").decode(encoding)
