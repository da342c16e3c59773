"""What a block asks of the server before its body runs; sync and async give it the same answers. No I/O of its own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from pgscale import sql as named
from pgscale.connect.profiles import ddl, judging
from pgscale.connect.profiles.model import Checked, Effective, Fact, InForce, ResolvedProfile, Setting
from pgscale.errors import PermissionDeniedError, PgscaleError

T = TypeVar("T")
QUERIES = named.load("pgscale.connect.profiles")
_DENIED = "42501"
# What set_config says of a name or a value: unknown object, invalid or reserved name, not now, not at all.
_ABOUT_A_VALUE = frozenset({_DENIED, "42704", "42602", "42939", "25001", "55P02", "0A000"})


@dataclass(frozen=True, slots=True)
class Ask:
    """Run a statement; the answer is its rows, none when it returns none."""

    query: bytes | sql.Composed
    params: dict[str, Any] | None = None


Steps: TypeAlias = "Generator[Ask, list[tuple[Any, ...]], T]"


def drive(steps: Steps[T], connection: psycopg.Connection[Any]) -> T:
    """Answer everything the steps ask; return what they return."""
    with psycopg.Cursor(connection, row_factory=tuple_row) as cursor:
        try:
            ask = next(steps)
            while True:
                try:
                    cursor.execute(ask.query, ask.params)
                    rows = cursor.fetchall() if cursor.description is not None else []
                except psycopg.Error as error:
                    ask = steps.throw(error)
                else:
                    ask = steps.send(rows)
        except StopIteration as ended:
            return ended.value


async def drive_async(steps: Steps[T], connection: psycopg.AsyncConnection[Any]) -> T:
    """As drive, on an async connection."""
    async with psycopg.AsyncCursor(connection, row_factory=tuple_row) as cursor:
        try:
            ask = next(steps)
            while True:
                try:
                    await cursor.execute(ask.query, ask.params)
                    rows = await cursor.fetchall() if cursor.description is not None else []
                except psycopg.Error as error:
                    ask = steps.throw(error)
                else:
                    ask = steps.send(rows)
        except StopIteration as ended:
            return ended.value


def enter(profile: ResolvedProfile, version: int) -> Steps[Checked]:
    """Set what a profile says within the transaction that has begun, when all of it is fit to be.

    Raises:
        UsageError: the server does not know a setting, or does not take it here, or not this value.
        PermissionDeniedError: the role may not set it.
        RefusedError: it is dangerous: more memory than there is, or no timeout in production for no stated reason.
    """
    settings = profile.for_server(version)
    yield from _set_first(profile, settings)
    facts = yield from _read_facts(profile, settings, version)
    unknown = [each.name for each in facts.values() if not each.known]
    names = [row[0] for row in (yield Ask(QUERIES.get("read_names", version)))] if unknown else []
    judging.refuse_unsettable(profile, settings, facts, names)
    yield from _try_out(profile, _after(settings), facts, version)
    yield _apply(_after(settings), version)
    values = yield Ask(QUERIES.get("read_values", version), {"names": [each.name for each in settings]})
    effective = yield from _read_effective(version)
    judging.refuse_endless(profile, settings, effective)
    note = judging.judge_memory(profile, settings, effective)
    spared = [each for each in profile.settings if each not in settings]
    notes = [f"{each.name} is for PostgreSQL {each.since} and later; this server is spared." for each in spared]
    return Checked(
        profile=profile,
        settings=tuple(
            InForce(setting=each, before=facts[each.name].before, value=str(value))
            for each, (value,) in zip(settings, values, strict=True)
        ),
        notes=(*notes, note) if note else tuple(notes),
    )


def enter_again(profile: ResolvedProfile, version: int) -> Steps[None]:
    """As enter, for a server that has taken this profile before: one statement.

    Raises:
        UsageError, PermissionDeniedError: it no longer does.
    """
    settings = profile.for_server(version)
    yield from _set_first(profile, settings)
    rest = _after(settings)
    try:
        yield _apply(rest, version)
    except psycopg.Error as error:
        if not _is_about_a_value(error):
            raise
        named = [each for each in rest if each.name in _words(error).lower()]
        raise _explained(profile, [(each, error) for each in named or rest], {}) from error


def _after(settings: Sequence[Setting]) -> list[Setting]:
    return [each for each in settings if each.name not in ddl.BEFORE_QUERIES]


def _set_first(profile: ResolvedProfile, settings: Sequence[Setting]) -> Steps[None]:
    for each in settings:
        if each.name in ddl.BEFORE_QUERIES:
            try:
                yield Ask(ddl.set_first(each))
            except psycopg.Error as error:
                if not _is_about_a_value(error):
                    raise
                raise _explained(profile, [(each, error)], {}) from error


def _read_facts(profile: ResolvedProfile, settings: Sequence[Setting], version: int) -> Steps[dict[str, Fact]]:
    try:
        rows = yield Ask(QUERIES.get("read_facts", version), {"names": [each.name for each in settings]})
    except psycopg.errors.InsufficientPrivilege as error:
        raise PermissionDeniedError(
            f"Profile {profile.name} in environment {profile.environment}: {_words(error)}.",
            consequence=judging.NOTHING_RAN,
            hint="What a role may not see it may not set; take it out of the profile.",
        ) from error
    return {
        row[0]: Fact(
            name=row[0],
            known=row[1],
            context=row[2],
            may_set=row[3],
            kind=row[4],
            unit=row[5],
            least=row[6],
            most=row[7],
            words=tuple(row[8] or ()),
            before=row[9],
            role=row[10],
        )
        for row in rows
    }


def _try_out(
    profile: ResolvedProfile, settings: Sequence[Setting], facts: dict[str, Fact], version: int
) -> Steps[None]:
    """Set all at once and take it back; when one is refused, try each by itself and say every one that is.

    What is set in a savepoint is not what is wanted: transaction_read_only ends with it, even when it is released.
    """
    yield Ask(b"SAVEPOINT pgscale_profile")
    try:
        yield _apply(settings, version)
    except psycopg.Error as error:
        if not _is_about_a_value(error):
            raise
        yield Ask(b"ROLLBACK TO SAVEPOINT pgscale_profile")
        refused: list[tuple[Setting, psycopg.Error]] = []
        for each in settings:
            try:
                yield _apply([each], version)
            except psycopg.Error as alone:
                refused.append((each, alone))
                yield Ask(b"ROLLBACK TO SAVEPOINT pgscale_profile")
        if not refused:
            raise
        raise _explained(profile, refused, facts) from error
    yield Ask(b"ROLLBACK TO SAVEPOINT pgscale_profile; RELEASE SAVEPOINT pgscale_profile")


def _explained(
    profile: ResolvedProfile, refused: Sequence[tuple[Setting, psycopg.Error]], facts: dict[str, Fact]
) -> PgscaleError:
    said = [(each, _words(error)) for each, error in refused]
    if all(error.sqlstate == _DENIED for _, error in refused):
        return judging.value_denied(profile, said)
    return judging.value_error(profile, said, facts)


def _apply(settings: Sequence[Setting], version: int) -> Ask:
    params = {"names": [each.name for each in settings], "values": [each.value for each in settings]}
    return Ask(QUERIES.get("apply", version), params)


def _is_about_a_value(error: psycopg.Error) -> bool:
    """Tell it from a lost connection, a cancelled statement and mistakes of ours."""
    return error.sqlstate is not None and (error.sqlstate in _ABOUT_A_VALUE or error.sqlstate.startswith("22"))


def _words(error: psycopg.Error) -> str:
    said = (error.diag.message_primary or str(error)).rstrip(".")
    return f"{said} ({error.diag.message_hint.rstrip('.')})" if error.diag.message_hint else said


def _read_effective(version: int) -> Steps[Effective]:
    rows = yield Ask(QUERIES.get("read_effective", version), {"timeouts": list(judging.TIMEOUTS)})
    row = rows[0]
    return Effective(
        work_mem_bytes=row[0],
        hash_mem_multiplier=row[1],
        maintenance_bytes=row[2],
        temp_buffers_bytes=row[3],
        shared_buffers_bytes=row[4],
        gather_workers=row[5],
        parallel_workers=row[6],
        autovacuum_workers=row[7],
        autovacuum_bytes=row[8],
        zero_timeouts=tuple(row[9]),
    )
