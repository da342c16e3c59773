"""Which indexes are missing: what each statement would want, and the few that serve most. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from pgscale.doctor.indexing.estimating import Ground
from pgscale.doctor.indexing.model import Access, Key, Test, Wanted

MOST_EQUAL, MOST_SORTED = 3, 2
# A condition that leaves more of the rows is not worth a column of the key.
LARGE_SHARE = 0.5
# Rows so few are read as they are: another column chooses among them for nothing.
FEW_ROWS = 10.0
# A predicate that leaves more of the rows makes the index no smaller than it costs in use.
PARTIAL_SHARE = 0.2
# Pages that an entry of an index costs: its way to the leaf, and the leaf written.
ENTRY_PAGES = 4.0
# What is saved is an estimate, what each write pays is certain.
LEAST_RETURN = 2.0
# A smaller index that saves so much of it is the better one.
NEARLY_ALL = 0.9
# So many pages more, or that many times as many, are felt by nobody.
MORE_PAGES, MORE_TIMES = 20.0, 3.0
# Of one table, those that take the most time.
MOST_ACCESSES = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """When an index is worth it.

    Args:
        times: pages read now, of those read with it, at least.
        saved_share: time of statements saved, of the time that passed, at least.
    """

    times: float
    saved_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What an index would change for one statement: pages a call."""

    access: Access
    pages_now: float
    pages_then: float

    @property
    def saved_ms(self) -> float:
        statement = self.access.statement
        return statement.total_ms * (self.pages_now - self.pages_then) / max(statement.blocks_a_call, self.pages_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An index that is missing.

    Args:
        served: the statements, what is saved most first.
        saved_share: time saved, of the time that passed; one for a session that is always busy.
    """

    wanted: Wanted
    ground: Ground
    served: tuple[Served, ...]
    saved_share: float


def choose(
    grounds: Mapping[int, Ground], accesses: Iterable[Access], limit: Limit, counted_s: float
) -> tuple[Choice, ...]:
    """Return the indexes that are missing, what is saved most first.

    Args:
        grounds: by the OID of the table.
        counted_s: since when statements are counted.
    """
    by_table: dict[int, list[Access]] = {}
    for access in accesses:
        by_table.setdefault(access.table.oid, []).append(access)
    found: list[Choice] = []
    for oid, these in by_table.items():
        ground = grounds[oid]
        these.sort(key=lambda access: access.statement.total_ms, reverse=True)
        looked_at = these[:MOST_ACCESSES]
        pool = {wanted for access in looked_at for wanted in _wanted(ground, access, limit)}
        found += choose_among(ground, pool | {*_together(pool)}, looked_at, limit, max(1.0, counted_s))
    return tuple(sorted(found, key=lambda choice: choice.saved_share, reverse=True))


def choose_among(
    ground: Ground, pool: set[Wanted], accesses: Sequence[Access], limit: Limit, counted_s: float
) -> Iterator[Choice]:
    """Yield the indexes of a pool that are worth it, the best first; each is judged beside those before it."""
    now = {id(access): pages_now(ground, access) for access in accesses}
    while pool:
        choices = [_judge(ground, wanted, accesses, now, limit, counted_s) for wanted in pool]
        first = max(choices, key=lambda choice: choice.saved_share)
        near = [
            choice
            for choice in choices
            if choice.saved_share >= NEARLY_ALL * first.saved_share and _is_near(choice, first)
        ]
        best = min(near, key=lambda each: (len(each.wanted.columns), ground.index_bytes(each.wanted), str(each.wanted)))
        if not best.served or best.saved_share < limit.saved_share or not _is_worth_its_writes(best, counted_s):
            return
        yield best
        pool.discard(best.wanted)
        for served in best.served:
            now[id(served.access)] = served.pages_then


def _is_near(choice: Choice, other: Choice) -> bool:
    """Tell whether an index serves each statement that another serves, about as well."""
    then = {id(each.access): each.pages_then for each in choice.served}
    return all(
        then.get(id(each.access), float("inf")) <= max(each.pages_then + MORE_PAGES, MORE_TIMES * each.pages_then)
        for each in other.served
    )


def pages_now(ground: Ground, access: Access) -> float:
    """Return what a call reads of the table now: the estimate, but no more than was counted for the whole statement."""
    return min(ground.pages_now(access), access.statement.blocks_a_call)


def _judge(
    ground: Ground,
    wanted: Wanted,
    accesses: Sequence[Access],
    now: Mapping[int, float],
    limit: Limit,
    counted_s: float,
) -> Choice:
    served = [
        Served(access=access, pages_now=now[id(access)], pages_then=then)
        for access in accesses
        if (then := ground.pages(access, wanted)) is not None and then * limit.times <= now[id(access)]
    ]
    served.sort(key=lambda each: each.saved_ms, reverse=True)
    # One statement is told once, whichever of its places saves most.
    first = {each.access.statement.query_id: each for each in reversed(served)}
    share = sum(each.saved_ms for each in first.values()) / 1000 / counted_s
    return Choice(wanted=wanted, ground=ground, served=tuple(served), saved_share=share)


def _is_worth_its_writes(choice: Choice, counted_s: float) -> bool:
    table, tested = choice.ground.table, choice.wanted.tested
    part = choice.ground.share_of_test(*tested) if tested is not None else None
    entries = table.written_rows / max(1.0, table.counted_s) * (1.0 if part is None else part)
    saved = sum(each.access.statement.calls * (each.pages_now - each.pages_then) for each in choice.served) / counted_s
    return saved >= LEAST_RETURN * ENTRY_PAGES * entries


# What one statement wants


def _wanted(ground: Ground, access: Access, limit: Limit) -> Iterator[Wanted]:
    """Yield the indexes by which a statement would read a fraction of what it reads now."""
    now = pages_now(ground, access)
    for wanted in _proposals(ground, access):
        pages = ground.pages(access, wanted)
        if pages is not None and pages * limit.times <= now:
            yield wanted


def _proposals(ground: Ground, access: Access) -> Iterator[Wanted]:
    table = access.table
    fixed = [Key(column=name) for name in _fixed(ground, access)]
    tests: list[tuple[str, Test] | None] = [None]
    if not table.is_partitioned:
        tests += _predicates(ground, access)
    tails: list[tuple[Key, ...]] = [()]
    if access.is_limited and access.order and not access.joined:
        tails.append(_sorted(access, {key.column for key in fixed}))
    used = {key.column for key in fixed}
    ranges = sorted(access.ranges - used, key=lambda name: (name not in access.both_bounds, name))
    tails += [(Key(column=name),) for name in ranges[:1]]
    begins = [tuple(fixed[:count]) for count in range(len(fixed) + 1)]
    for tested in tests:
        for begin, tail in product(begins, tails):
            keys = (*begin, *tail)
            if not all(ground.columns[key.column].is_sortable for key in keys):
                continue
            if table.is_partitioned and any(key != Key(column=key.column) for key in keys):
                continue
            if not keys and tested is not None:
                keys = tuple(Key(column=name) for name in _identity(ground, tested[0]))
            if keys:
                yield Wanted(table=table, keys=keys, tested=tested)


def _fixed(ground: Ground, access: Access) -> list[str]:
    """Return the columns that equality fixes and an index should begin with, what chooses most first."""
    shares = {
        name: share if (share := ground.share_of_value(name)) is not None else 0.0
        for name in access.equal | access.joined
        if ground.columns[name].is_sortable
    }
    chosen: list[str] = []
    rows = ground.table.rows
    alone = len(shares) == 1 and access.is_plain
    for name in sorted(shares, key=lambda each: (shares[each], ground.columns[each].number)):
        if len(chosen) == MOST_EQUAL or (chosen and rows <= FEW_ROWS):
            break
        # What is asked for may be a rare value: then the statement's own rows tell.
        if shares[name] <= LARGE_SHARE or alone:
            chosen.append(name)
            rows *= shares[name] if shares[name] else 1.0
    return chosen


def _predicates(ground: Ground, access: Access) -> list[tuple[str, Test]]:
    """Return the test that leaves fewest rows, where it leaves few."""
    known: list[tuple[float, str, Test]] = []
    for name, test in access.tests.items():
        share = ground.share_of_test(name, test)
        if share is not None and share <= PARTIAL_SHARE:
            known.append((share, name, test))
    return [(name, test) for _, name, test in sorted(known)[:1]]


def _sorted(access: Access, fixed: set[str]) -> tuple[Key, ...]:
    keys = tuple(key for key in access.order if key.column not in fixed | access.equal)[:MOST_SORTED]
    # A scan goes both ways: the plain direction is the one to read and to share.
    if keys and keys[0].is_descending:
        keys = tuple(key.turned for key in keys)
    return keys


def _identity(ground: Ground, tested: str) -> list[str]:
    """What to index where only the predicate chooses: the shortest unique key, to tell the rows apart."""
    unique = [
        [name for name in index.keys if name is not None]
        for index in ground.indexes
        if index.is_unique and not index.is_partial and None not in index.keys
    ]
    return min(unique, key=len, default=[tested])


# What several want


def _together(pool: Iterable[Wanted]) -> Iterator[Wanted]:
    """Yield keys that begin with another's, their own columns in another order: one index for both."""
    wanted = [each for each in pool if all(key == Key(column=key.column) for key in each.keys)]
    for longer in wanted:
        for shorter in wanted:
            columns = set(shorter.columns)
            if columns < set(longer.columns) and shorter.tested == longer.tested:
                rest = tuple(key for key in longer.keys if key.column not in columns)
                yield replace(longer, keys=(*shorter.keys, *rest))
