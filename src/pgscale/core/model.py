"""Values that every room shares: names, steps, plans, progress. No I/O, standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class QName:
    """A schema-qualified name, unquoted."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{quote_ident(self.schema)}.{quote_ident(self.name)}"


def quote_ident(name: str) -> str:
    """Quote an identifier for messages and display. SQL is composed with psycopg.sql, never with this."""
    plain = name[:1].isalpha() and name.islower() and name.replace("_", "a").isalnum() and name.isascii()
    return name if plain else '"' + name.replace('"', '""') + '"'


def shorten(text: str, most: int = 120) -> str:
    """Return a text on one line, at most so many characters of it: a query in a message."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a plan, as it will be executed.

    Args:
        id: stable id, also the key of its ledger row.
        title: what it does, for a person.
        kind: which action of the room's runner carries it out.
        sql: the statements, in order; work steps bind parameters per batch.
        lock: the strongest lock taken on the user's table, in PostgreSQL's words.
        longest_wait: how long others can be made to wait, in words with a number.
        undo: the statements that take it back.
        reason: why the step is there.
    """

    id: str
    title: str
    kind: str
    sql: tuple[str, ...]
    lock: str
    longest_wait: str
    undo: tuple[str, ...]
    reason: str

    def to_json(self) -> dict[str, Json]:
        return {
            "id": self.id,
            "title": self.title,
            "kind": self.kind,
            "sql": list(self.sql),
            "lock": self.lock,
            "longest_wait": self.longest_wait,
            "undo": list(self.undo),
            "reason": self.reason,
        }


Unit = Literal["rows", "pages", "items", "keys"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A moment of a long piece of work, for whoever watches.

    Args:
        table: the table being worked on, as displayed.
        phase: `prepare`, `capture`, `copy`, `scrub`, `index`, `apply`, `verify`, `cutover`, `settle`, `done`;
            `fill` in a rehearsal.
        done: units finished; `total` is None when it cannot be known (applying live writes).
        rate: units per second over a trailing window.
        eta_s: seconds left for this phase at the present rate, None when unknown.
        eta_least_s, eta_most_s: the range it is expected to lie in, None when that is not known (yet). Only the
            most is None where nothing moved in some of the last windows.
        throttled: why the pace is reduced or paused now, empty when it is not.
        workers: workers that are copying now.
        note: one more line worth showing (the attempt of a cut-over, keys waiting).
    """

    table: str
    phase: str
    done: int = 0
    total: int | None = None
    unit: Unit = "rows"
    rate: float = 0.0
    eta_s: float | None = None
    eta_least_s: float | None = None
    eta_most_s: float | None = None
    throttled: str = ""
    workers: int = 0
    note: str = ""


Watch: TypeAlias = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """The watcher of nobody."""
    del progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a command answers: one JSON document, the same for a person, and the exit code."""

    data: Json
    text: str
    exit_code: int = 0
