"""`pgscale functions dump|check`: stored functions on disk against the catalog."""

from __future__ import annotations

from pathlib import Path

from pgscale.catalog.functions.checking import differences, read_compared
from pgscale.catalog.functions.creating import settle_by_creating
from pgscale.catalog.functions.dumping import Dump, dump_functions
from pgscale.catalog.functions.files import read_sources
from pgscale.catalog.functions.model import Difference
from pgscale.connect.session import CONTROL, READER, Profile, Session, open_session
from pgscale.core.model import Json, Report
from pgscale.core.units import format_count


def _open(dsn: str | None, profile: Profile = READER) -> Session:
    session = open_session(dsn, profile)
    # Names without a schema in files mean what they mean for the login.
    session.execute("SET search_path TO DEFAULT")
    return session


def dump(dsn: str | None, directory: Path, *, schemas: tuple[str, ...] = (), prune: bool = False) -> Report:
    """Write the stored functions of a database into a directory, as dump_functions does.

    Raises:
        ConnectError, PermissionDeniedError: no session; and as dump_functions.
    """
    with _open(dsn) as session:
        done = dump_functions(session, directory, schemas=schemas or None, prune=prune)
    return Report(data=_dump_json(done), text="\n".join(_dump_lines(done, directory)))


def _dump_json(done: Dump) -> dict[str, Json]:
    return {
        "written": [
            {"file": each.path, "functions": list(each.functions), "is_new": each.is_new} for each in done.changes
        ],
        "gone": [
            {
                "file": each.path,
                "functions": list(each.functions),
                "removed": each.path in done.pruned,
                "removable": each.removable,
            }
            for each in done.gone
        ],
        "unchanged": done.unchanged,
        "aggregates_left_out": done.aggregates,
    }


def _dump_lines(done: Dump, directory: Path) -> list[str]:
    lines = [
        f"{'new' if each.is_new else 'changed'}: {directory / each.path}: {', '.join(each.functions)}"
        for each in done.changes
    ]
    for each in done.gone:
        if each.path in done.pruned:
            what = "removed"
        elif each.removable:
            what = "gone from the catalog; --prune removes it"
        else:
            what = "gone from the catalog; the file holds more, so take them out of it yourself"
        lines.append(f"{what}: {directory / each.path}: {', '.join(each.functions)}")
    lines.append(
        f"{format_count(len(done.changes), 'file')} written,"
        f" {format_count(done.unchanged, 'function')} on disk already as in the catalog."
    )
    if done.aggregates:
        lines.append(f"{format_count(done.aggregates, 'aggregate')} left out: PostgreSQL does not write them as SQL.")
    return lines


def check(dsn: str | None, directory: Path, *, schemas: tuple[str, ...] = (), create: bool = False) -> Report:
    """Compare the stored functions of a database with a directory; exit code 1 when they differ.

    Args:
        create: have the server read defaults and SQL-standard bodies that differ in text: settle_by_creating.

    Raises:
        ConnectError, PermissionDeniedError: no session; and as assert_functions.
    """
    sources = read_sources(directory)
    with _open(dsn) as session:
        compared = read_compared(session, sources, schemas or None)
    if create and compared.drifted:
        with _open(dsn, CONTROL) as session:
            compared = settle_by_creating(session, compared)
    found = tuple(differences(compared))
    equal = len(compared.pairs) - len(compared.drifted)
    data: dict[str, Json] = {
        "directory": str(directory),
        "equal": equal,
        "differences": [each.to_json() for each in found],
        "aggregates_left_out": compared.aggregates,
    }
    return Report(data=data, text="\n".join(_check_lines(found, equal, directory)), exit_code=1 if found else 0)


def _check_lines(found: tuple[Difference, ...], equal: int, directory: Path) -> list[str]:
    same = f"{format_count(equal, 'function')} of {directory} {'is' if equal == 1 else 'are'} as in the catalog"
    if not found:
        return [f"{same}; nothing is missing or extra."]
    kinds = [each.kind for each in found]
    counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("missing", "drifted", "extra") if kind in kinds)
    return [*(line for each in found for line in each.lines), f"{counted}; {same}."]
