"""Ask every rule about every statement, and leave out what a comment of the file says to leave out. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

from pgscale.doctor.lint.live import Live
from pgscale.doctor.lint.model import Catalog, FileSeen, Placed, Seen
from pgscale.doctor.lint.registry import IDS, RULES
from pgscale.doctor.lint.rules.transactions import TIMEOUT
from pgscale.doctor.lint.view import View
from pgscale.errors import UsageError
from pgscale.sql.statements import Statement

_IGNORE = re.compile(r"pgscale:ignore(?:[ \t]+([\w.,* \t-]*))?")


def judge(seen: FileSeen, origins: Catalog, live: Live, version: int) -> tuple[Placed, ...]:
    """Return what is wrong with a file, in its order.

    Args:
        origins: the relations as the run found them.
        version: of the server that the migration is for.

    Raises:
        UsageError: a comment names a rule that does not exist.
    """
    return tuple(_findings(seen, origins, live, version))


def _findings(seen: FileSeen, origins: Catalog, live: Live, version: int) -> Iterator[Placed]:
    once: set[str] = set()
    for view in views(seen, origins, live, version):
        statement = view.seen.statement
        ignored = ignored_in(statement)
        for rule in RULES:
            if rule.id in ignored or rule.id in once:
                continue
            for finding in rule.judge(view):
                yield Placed(file=seen.file, line=statement.line, finding=finding)
                if rule is TIMEOUT:
                    once.add(rule.id)


def views(seen: FileSeen, origins: Catalog, live: Live, version: int) -> Iterator[View]:
    """Return each statement of a file among those of its transaction."""
    for _, group in groupby(seen.statements, key=lambda each: each.transaction):
        members = tuple(group)
        work = tuple(each for each in members if _is_work(each))
        for each in members:
            at = work.index(each) if each in work else len(work)
            yield View(
                seen=each,
                existing=seen.existing,
                origins=origins,
                live=live,
                version=version,
                earlier=work[:at],
                later=work[at + 1 :],
            )


def _is_work(seen: Seen) -> bool:
    return bool(seen.tag) and seen.tag not in {"BEGIN", "COMMIT", "SET", "ROLLBACK"}


def ignored_in(statement: Statement) -> frozenset[str]:
    """Return the rules that the comments of a statement silence.

    Raises:
        UsageError: one of them does not exist, or none is named.
    """
    ids: set[str] = set()
    for comment in statement.comments:
        for found in _IGNORE.finditer(comment):
            named = [each for each in re.split(r"[,\s]+", (found[1] or "").strip(" -*")) if each]
            unknown = [each for each in named if each not in IDS]
            if unknown or not named:
                wrong = f"names {unknown[0]}, which is no rule" if unknown else "names no rule"
                raise UsageError(
                    f"{statement.file}:{statement.line}: the comment pgscale:ignore {wrong}.",
                    hint="Write -- pgscale:ignore index.not_concurrent; `pgscale lint --explain all` lists the rules.",
                )
            ids.update(named)
    return frozenset(ids)
