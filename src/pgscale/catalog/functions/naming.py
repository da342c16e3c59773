"""Names of files for functions: safe on file systems that fold case or compose letters, and never two alike. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from pgscale.catalog.functions.model import Stored

# Of 255 bytes that a name may have; a file being written has a longer one.
MOST_CHARACTERS = 180
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")
_RESERVED = frozenset(  # by Windows, whatever follows the dot
    {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))}
)


def paths_for(new: Iterable[Stored], every: Iterable[Stored], taken: Iterable[str]) -> dict[int, str]:
    """Return by OID where functions go that have no file yet: `schema/name.sql`.

    Of several functions of one name each is called by its types too: `schema/name-int4-text.sql`.

    Args:
        every: all functions, these included.
        taken: paths of the files there are.
    """
    count: dict[tuple[str, str], int] = {}
    for each in every:
        count[each.schema, each.name] = count.get((each.schema, each.name), 0) + 1
    used = {path.lower() for path in taken}
    found: dict[int, str] = {}
    for each in new:
        stem = _encoded(each.name)
        if count[each.schema, each.name] > 1:
            stem = "-".join((stem, *(_encoded(name) for name in each.input_names)))
        path = f"{_encoded(each.schema)}/{_fitted(stem, each)}.sql"
        if path in used:
            path = f"{_encoded(each.schema)}/{_fitted(stem, each, marked=True)}.sql"
        used.add(path)
        found[each.oid] = path
    return found


def _encoded(name: str) -> str:
    """Return a name in lower-case letters, digits and underscores; every other byte of it as %C3."""
    text = "".join(
        character if character in _PLAIN else "".join(f"%{byte:02X}" for byte in character.encode())
        for character in name
    )
    return f"%{ord(text[0]):02X}{text[1:]}" if text in _RESERVED else text


def _fitted(stem: str, stored: Stored, *, marked: bool = False) -> str:
    if len(stem) <= MOST_CHARACTERS and not marked:
        return stem
    digest = hashlib.sha256(stored.shown.encode()).hexdigest()[:12]
    return f"{stem[: MOST_CHARACTERS - len(digest) - 1]}-{digest}"
