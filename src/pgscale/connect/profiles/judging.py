"""Whether a server takes a profile, and whether it can bear it. Pure.

The memory a query may take: work_mem for each sort or hash node of each process, hashes hash_mem_multiplier times as
much (PostgreSQL's documentation, "Resource Consumption": Memory).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pgscale.connect.profiles.model import Effective, Fact, ResolvedProfile, Setting
from pgscale.connect.profiles.resolving import nearest
from pgscale.core.model import quote_ident
from pgscale.core.units import format_bytes, format_count
from pgscale.errors import PermissionDeniedError, PgscaleError, RefusedError, UsageError

NOTHING_RAN = "Nothing of the block was run."
# What a transaction may last by; the first three bound every part of it.
BOUNDS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
TIMEOUTS = (*BOUNDS, "transaction_timeout")
_BOUNDED_BY_THE_WHOLE = frozenset({"statement_timeout", "idle_in_transaction_session_timeout"})
_MEMORY = frozenset(
    {
        *("work_mem", "hash_mem_multiplier", "maintenance_work_mem", "temp_buffers"),
        *("max_parallel_workers_per_gather", "max_parallel_workers"),
    }
)
_FIXED: Mapping[str, str] = {
    "internal": "it only tells what the server is",
    "postmaster": "it changes when the server starts",
    "sighup": "it is one for the whole server, changed by ALTER SYSTEM and a reload",
    "superuser-backend": "it is fixed when a connection begins; put it into the DSN's options",
    "backend": "it is fixed when a connection begins; put it into the DSN's options",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """The memory that all blocks of a profile may take at once, beside the server's own."""

    queries_bytes: int
    maintenance_bytes: int
    temp_bytes: int
    shared_bytes: int
    autovacuum_bytes: int
    text: str

    @property
    def bytes(self) -> int:
        """A session sorts for a query or for an index, not for both at the same time."""
        own = max(self.queries_bytes, self.maintenance_bytes) + self.temp_bytes
        return own + self.shared_bytes + self.autovacuum_bytes


def refuse_unsettable(
    profile: ResolvedProfile, settings: Sequence[Setting], facts: Mapping[str, Fact], names: Sequence[str]
) -> None:
    """Refuse settings that the server does not know, or that cannot be set in a transaction or by this role.

    Args:
        facts: by the setting's name; names: of all settings of the server, for those that are close.

    Raises:
        UsageError, PermissionDeniedError: with every fault there is.
    """
    faults: list[str] = []
    denied: list[str] = []
    for setting in settings:
        fact = facts[setting.name]
        if not fact.known and not _is_custom(setting.name):
            faults.append(
                f"the server has no setting {setting.name} ({setting.source}). {nearest(setting.name, names)}"
            )
        elif fact.context is not None and fact.context in _FIXED:
            faults.append(f"{setting.name} cannot be set in a transaction: {_FIXED[fact.context]} ({setting.source})")
        elif fact.context == "superuser" and not fact.may_set:
            denied.append(setting.name)
    if faults:
        said = "; ".join(fault.strip().removesuffix(".") for fault in faults)
        raise UsageError(f"{_where(profile)}: {said}.", consequence=NOTHING_RAN)
    if denied:
        role = facts[denied[0]].role
        grants = "; ".join(f"GRANT SET ON PARAMETER {name} TO {quote_ident(role)}" for name in denied)
        raise PermissionDeniedError(
            f"{_where(profile)}: role {role} may not set {', '.join(denied)}.",
            consequence=NOTHING_RAN,
            hint=f"A superuser gives it on PostgreSQL 15 and later: {grants}.",
        )


def value_denied(profile: ResolvedProfile, refused: Sequence[tuple[Setting, str]]) -> PermissionDeniedError:
    """Return the error for values that take a right, each with the server's words."""
    said = "; ".join(f"{setting.name} = {setting.value!r} ({setting.source}): {words}" for setting, words in refused)
    return PermissionDeniedError(f"{_where(profile)}: {said}.", consequence=NOTHING_RAN)


def value_error(
    profile: ResolvedProfile, refused: Sequence[tuple[Setting, str]], facts: Mapping[str, Fact]
) -> PgscaleError:
    """Return the error for values that the server refused, each with its words."""
    said = "; ".join(
        f"{setting.name} = {setting.value!r} ({setting.source}) is refused: {words.rstrip('.')}"
        + _limits_of(facts.get(setting.name))
        for setting, words in refused
    )
    return UsageError(f"{_where(profile)}: {said}.", consequence=NOTHING_RAN)


def _limits_of(fact: Fact | None) -> str:
    if fact is None or fact.kind is None:
        return ""
    if fact.words:
        return f"; it takes {', '.join(fact.words)}"
    if fact.least is not None and fact.most is not None:
        unit = f", in units of {fact.unit}" if fact.unit else ""
        return f"; it takes {fact.kind}s from {fact.least} to {fact.most}{unit}"
    return f"; it is a {fact.kind}"


def refuse_endless(profile: ResolvedProfile, settings: Sequence[Setting], effective: Effective) -> None:
    """Refuse a transaction without a timeout in production, unless somebody said why.

    Raises:
        RefusedError: with every timeout that is 0 for no stated reason.
    """
    if not profile.live:
        return
    given = {setting.name: setting for setting in settings}
    zero = set(effective.zero_timeouts)
    needed = set(BOUNDS)
    if _bounds_the_whole(given, zero):
        needed -= _BOUNDED_BY_THE_WHOLE
    # One that is written as zero is to be explained, whatever else bounds the transaction.
    needed |= zero & given.keys()
    bad = [name for name in TIMEOUTS if name in zero & needed and not (name in given and given[name].reason)]
    if bad:
        example = f'{bad[0]} = {{ value = 0, reason = "…" }}'
        raise RefusedError(
            f"{_where(profile)}: {', '.join(bad)} would be 0, and no reason is stated.",
            consequence=f"Such a block can hold its locks and hold back VACUUM for ever. {NOTHING_RAN}",
            hint=f"Give {'it' if len(bad) == 1 else 'them'} a time, or say why: {example}.",
        )


def _bounds_the_whole(given: Mapping[str, Setting], zero: set[str]) -> bool:
    """Tell whether the profile bounds its transactions as a whole (17 and later)."""
    return "transaction_timeout" in given and "transaction_timeout" not in zero


def sum_of(profile: ResolvedProfile, effective: Effective) -> Sum:
    """Return the most memory that all blocks of a profile take at once."""
    workers = min(profile.connections * effective.gather_workers, effective.parallel_workers)
    processes = profile.connections + workers
    node = effective.work_mem_bytes * max(1.0, effective.hash_mem_multiplier)
    queries = round(processes * profile.nodes * node)
    maintenance = profile.connections * effective.maintenance_bytes
    temp = profile.connections * effective.temp_buffers_bytes
    autovacuum = effective.autovacuum_workers * effective.autovacuum_bytes
    text = (
        f"({format_count(profile.connections, 'connection')} + {format_count(workers, 'parallel worker')})"
        f" × {format_count(profile.nodes, 'node')} × work_mem {format_bytes(effective.work_mem_bytes)}"
        f" × hash_mem_multiplier {effective.hash_mem_multiplier:g} = {format_bytes(queries)};"
        f" or {profile.connections} × maintenance_work_mem {format_bytes(effective.maintenance_bytes)}"
        f" = {format_bytes(maintenance)}; temp_buffers {format_bytes(temp)};"
        f" shared_buffers {format_bytes(effective.shared_buffers_bytes)};"
        f" autovacuum {effective.autovacuum_workers} × {format_bytes(effective.autovacuum_bytes)}"
    )
    return Sum(
        queries_bytes=queries,
        maintenance_bytes=maintenance,
        temp_bytes=temp,
        shared_bytes=effective.shared_buffers_bytes,
        autovacuum_bytes=autovacuum,
        text=text,
    )


def judge_memory(profile: ResolvedProfile, settings: Sequence[Setting], effective: Effective) -> str:
    """Return a note on the memory that blocks of a profile take; nothing for one that does not touch it.

    Raises:
        RefusedError: they would take more than the server has.
    """
    if not _MEMORY & {setting.name for setting in settings}:
        return ""
    total = sum_of(profile, effective)
    if profile.ram_bytes is None:
        return (
            f"Memory was not judged, because nobody said what the server has: up to {format_bytes(total.bytes)}"
            f": {total.text}."
        )
    if total.bytes <= profile.ram_bytes:
        return f"Memory: up to {format_bytes(total.bytes)} of {format_bytes(profile.ram_bytes)}: {total.text}."
    raise RefusedError(
        f"{_where(profile)} can take {format_bytes(total.bytes)} of {format_bytes(profile.ram_bytes)}: {total.text}.",
        consequence=f"The kernel may end a backend then, and the server restarts with it. {NOTHING_RAN}",
        hint="Lower work_mem, or `connections` and `nodes` of the profile if fewer are open at once.",
    )


def _is_custom(name: str) -> bool:
    return "." in name


def _where(profile: ResolvedProfile) -> str:
    return f"Profile {profile.name} in environment {profile.environment}"
