"""Where the bad rows of a call go: the table, in the call's transaction, or a file."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

from pgscale.core.durable import append_lines
from pgscale.core.killing import kill_point
from pgscale.core.model import Json
from pgscale.errors import PgscaleError, UsageError
from pgscale.write.dead_letters.model import DeadLetter
from pgscale.write.dead_letters.storing import ensure_table, record, save
from pgscale.write.effects import Call, Steps

# Letters are saved in parts of so many; more of them in memory would save no more time.
PART_LETTERS = 500
_SPOOL_BYTES = 1024 * 1024


class TooManyDeadLettersError(PgscaleError):
    """More rows are bad than the caller said may be; nothing of the call was written."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetters:
    """Where rows that cannot be written are to go, so that they do not fail the call.

    Args:
        source: the writer's name, to find its letters by.
        file: a file of one JSON document a line, to append to; by default they go to table pgscale.dead_letter, in
            the transaction of the call. A file is no part of that: its letters are on disk before the COMMIT, so that
            none is ever missing, and a call that fails after that has listed rows that nobody wrote.
        most: with more letters than so many the call fails after all, and nothing is written.
    """

    source: str = ""
    file: Path | str | None = None
    most: int | None = None


class Sink(Protocol):
    """Takes the bad rows of a call; `count` of them so far."""

    @property
    def count(self) -> int: ...

    def take(
        self, row: Mapping[str, Any], index: int, column: str | None, sqlstate: str | None, reason: str
    ) -> Steps[None]:
        """Take a bad row, with its index among the rows of the call; in the transaction of the call."""
        ...

    def close(self) -> Steps[None]:
        """Do what is left to do, just before the transaction of the call ends."""
        ...


# Opens the sink of a call: with the table as SQL, and the key and the rules of an upsert.
OpenSink: TypeAlias = "Callable[[str, Mapping[str, Any] | None], Sink]"


def opening(wanted: DeadLetters | None, first_index: int = 0, call: str = "") -> OpenSink | None:
    """Return what opens the sink that a caller asked for; None when a bad row is to fail the call.

    Args:
        first_index: what letters say of the first row; call: of what call it is, one of its own where not given.
    """
    if wanted is None:
        return None
    return lambda table, merge: LetterSink(Letters(wanted, call), table, merge, first_index)


def new_call() -> str:
    """Return what tells the letters of one call from those of all others."""
    return uuid.uuid4().hex


class LetterSink:
    """Makes letters of the bad rows of one table.

    Args:
        letters: of the call.
        closes: the call ends with this table, and its letters are kept then.
    """

    def __init__(
        self,
        letters: Letters,
        table: str,
        merge: Mapping[str, Any] | None = None,
        first_index: int = 0,
        *,
        closes: bool = True,
    ) -> None:
        self.count = 0
        self._letters, self._table, self._merge = letters, table, merge
        self._first_index, self._closes = first_index, closes

    def take(
        self, row: Mapping[str, Any], index: int, column: str | None, sqlstate: str | None, reason: str
    ) -> Steps[None]:
        """As Sink.take.

        Raises:
            TooManyDeadLettersError: it is one too many.
        """
        self.count += 1
        yield from self._letters.add(
            DeadLetter(
                table=self._table,
                row=row,
                index=index + self._first_index,
                column=column,
                sqlstate=sqlstate,
                reason=reason,
                source=self._letters.source,
                merge=self._merge,
            )
        )

    def close(self) -> Steps[None]:
        if self._closes:
            yield from self._letters.close()


class Letters:
    """The letters of one call, in constant memory; they are kept for good when the call is about to end."""

    def __init__(self, wanted: DeadLetters, call: str = "") -> None:
        if "\0" in wanted.source:
            raise UsageError("The name of a source has no NUL.")
        self.count = 0
        self._wanted, self._call = wanted, call or new_call()
        self._part: list[DeadLetter] = []
        self._has_table = False
        self._spool: IO[bytes] | None = None

    @property
    def source(self) -> str:
        return self._wanted.source

    def add(self, letter: DeadLetter) -> Steps[None]:
        """Take a letter, in the transaction of the call.

        Raises:
            TooManyDeadLettersError: it is one too many.
        """
        self.count += 1
        if self._wanted.most is not None and self.count > self._wanted.most:
            raise TooManyDeadLettersError(
                f"More than {self._wanted.most} rows are bad; the last one is row {letter.index} of {letter.table}:"
                f" {letter.reason}.",
                consequence="Nothing of this call was written.",
            )
        self._part.append(letter)
        if len(self._part) >= PART_LETTERS:
            yield from self._save()

    def close(self) -> Steps[None]:
        """Keep every letter for good, just before the transaction of the call ends.

        A file is on disk when this is done. It is no part of the transaction: a COMMIT that fails after it leaves
        letters of rows that nobody wrote, and never rows without letters.

        Raises:
            UsageError: the file cannot be written; it is as it was.
        """
        yield from self._save()
        if self._spool is None or self._wanted.file is None:
            return
        self._spool.seek(0)
        try:
            yield Call(partial(append_lines, Path(self._wanted.file), self._spool))
        except OSError as error:
            raise UsageError(
                f"The dead letters cannot be written to {self._wanted.file}: {error.strerror}.",
                consequence="Nothing of this call was written.",
            ) from error
        finally:
            self._spool.close()
        kill_point("letters:filed")

    def _save(self) -> Steps[None]:
        part, self._part = self._part, []
        if not part:
            return
        if self._wanted.file is None:
            if not self._has_table:
                yield from ensure_table()
                self._has_table = True
            yield from save(part)
            return
        if self._spool is None:
            self._spool = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 because close() ends it
        at = dt.datetime.now(dt.UTC).isoformat()
        for letter in part:
            kept = record(letter)
            line = json.dumps({"id": _id_of(kept), "call": self._call, "at": at, **kept}, ensure_ascii=False)
            self._spool.write(line.encode() + b"\n")


def _id_of(kept: Mapping[str, Json]) -> str:
    """Return what is the same whenever the same row is a letter of the same source and table."""
    what = [kept["source"], kept["table_name"], kept["row"], kept["merge"]]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
