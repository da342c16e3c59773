"""Say in words what a lock is on. Pure."""

from __future__ import annotations

from pgscale.doctor.locks.model import Look, Tag

_HALF = 1 << 31
_WHOLE = 1 << 63


def describe(tag: Tag, look: Look) -> str:
    """Return `public.orders`, `row (0,1) of public.orders`, `transaction 771`, `advisory lock 42` …"""
    match tag.kind:
        case "relation":
            what = _relation(tag, look)
        case "extend":
            what = f"the extension of {_relation(tag, look)} by new pages"
        case "page":
            what = f"page {tag.page} of {_relation(tag, look)}"
        case "tuple":
            what = f"row ({tag.page},{tag.tuple}) of {_relation(tag, look)}"
        case "transactionid":
            what = f"the end of transaction {tag.transaction}"
        case "virtualxid":
            what = f"the end of virtual transaction {tag.virtual}"
        case "spectoken":
            what = f"the speculative insertion of transaction {tag.transaction}"
        case "frozenid":
            what = f"the freezing of {_where(tag) or 'the cluster'}"
        case "applytransaction":
            what = f"the application of transaction {tag.transaction}"
        case "advisory":
            what = f"advisory lock {advisory_key(tag)}{_elsewhere(tag, look)}"
        case _:
            what = _object(tag, look)
    return what


def advisory_key(tag: Tag) -> str:
    """Return the key as it was given: one bigint, or two integers."""
    high, low = tag.class_id or 0, tag.object_id or 0
    if tag.object_sub_id == 1:
        return str(_signed((high << 32) | low, _WHOLE))
    return f"({_signed(high, _HALF)}, {_signed(low, _HALF)})"


def _signed(number: int, half: int) -> int:
    return number - 2 * half if number >= half else number


def _relation(tag: Tag, look: Look) -> str:
    oid = tag.relation or 0
    if tag.database is not None and tag.database != look.database:
        return f"relation {oid} of {_where(tag)}"
    # What was made in a transaction that is still open has no name for others.
    return look.relations.get(oid, f"relation {oid}")


def _object(tag: Tag, look: Look) -> str:
    class_id, object_id = tag.class_id or 0, tag.object_id or 0
    named = None if _elsewhere(tag, look) else look.objects.get((class_id, object_id))
    return named or f"{tag.kind} {object_id} of class {class_id}{_elsewhere(tag, look)}"


def _where(tag: Tag) -> str:
    return f"database {tag.database}" if tag.database is not None else ""


def _elsewhere(tag: Tag, look: Look) -> str:
    return f" in {_where(tag)}" if tag.database not in (None, look.database) else ""
