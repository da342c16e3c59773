"""One root error; a class per kind of fact. Each says what happened, what follows, and what to do."""

from __future__ import annotations

from typing import ClassVar


class PgscaleError(Exception):
    """Root of everything pgscale raises on purpose.

    Args:
        fact: what happened, in one sentence.
        consequence: what follows from it for the database; empty when nothing does.
        hint: what to do next; empty when there is nothing to do.
    """

    exit_code: ClassVar[int] = 5

    def __init__(self, fact: str, *, consequence: str = "", hint: str = "") -> None:
        super().__init__(fact)
        self.fact = fact
        self.consequence = consequence
        self.hint = hint

    def __str__(self) -> str:
        return " ".join(part for part in (self.fact, self.consequence, self.hint) if part)


class UsageError(PgscaleError):
    """The call itself is wrong: an unknown strategy, a number out of range."""

    exit_code = 2


class ConnectError(PgscaleError):
    """No connection could be made, or it was lost where that cannot be repaired."""

    exit_code = 3


class PermissionDeniedError(PgscaleError):
    """The role lacks a right; the hint is the GRANT that gives it."""

    exit_code = 3


class RefusedError(PgscaleError):
    """Refused before anything was changed.

    Args:
        reasons: every reason found, each a full sentence; the fact summarizes them.
    """

    exit_code = 4

    def __init__(self, fact: str, *, reasons: tuple[str, ...] = (), consequence: str = "", hint: str = "") -> None:
        super().__init__(fact, consequence=consequence, hint=hint)
        self.reasons = reasons

    def __str__(self) -> str:
        return " ".join(p for p in (self.fact, *self.reasons, self.consequence, self.hint) if p)


class RunFailedError(PgscaleError):
    """A run stopped while changing things; it can be resumed or aborted."""

    exit_code = 5


class InterruptedRunError(RunFailedError):
    """The operator or a signal stopped the run; nothing is broken and it can be resumed."""


class MismatchError(PgscaleError):
    """Verification found rows that differ and are not waiting to be applied."""

    exit_code = 1
