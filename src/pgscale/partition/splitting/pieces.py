"""Decide what a partition is divided into. Together the pieces cover exactly what it covered. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from decimal import Decimal, InvalidOperation

from psycopg import sql

from pgscale.core.model import QName
from pgscale.errors import RefusedError, UsageError
from pgscale.livecopy.ddl import text
from pgscale.partition.bounds import PERIODS_AHEAD, Namer
from pgscale.partition.lifecycle.checks import le
from pgscale.partition.lifecycle.model import Child, Span
from pgscale.partition.lifecycle.plan import BOUND, span_of, uncovered
from pgscale.partition.model import MOST_LEAVES
from pgscale.partition.periods import INTEGER_LIMITS, PERIODS, Grid, Period, Value
from pgscale.partition.reader import KeyValues
from pgscale.partition.splitting.model import DEFAULT, Piece, Place

# MAX_SAOP_ARRAY_SIZE of src/backend/optimizer/util/predtest.c: of more values the server does not derive that a CHECK
# implies a bound, and would read rows under the lock.
MOST_LIST_VALUES = 100
_LIST = re.compile(r"^FOR VALUES IN \((?P<values>.+)\)$", re.DOTALL)
_LITERAL = re.compile(r"\s*('(?:[^']|'')*'|[^,']+)\s*(?:,|$)")


class _Namer:
    """Names pieces after the parent, in the partition's schema."""

    def __init__(self, place: Place, taken: frozenset[str]) -> None:
        self._base, self._schema, self._namer = place.parent.name, place.leaf.schema, Namer(taken)

    def piece(self, suffix: str, bound: str) -> Piece:
        name = QName(schema=self._schema, name=self._namer.name(self._base, suffix))
        return Piece(name=name, staged=name, bound=bound)


def find_step(place: Place, zone: str) -> str | None:
    """Return the period that all other bounded partitions have, None where there is none."""
    type_name = place.parent.type_name or ""
    bounds = [m for c in place.siblings if (m := BOUND.match(c.bound)) is not None]
    for step in PERIODS:
        try:
            grid = Grid(type_name=type_name, step=step, zone=zone)
        except UsageError:
            break
        spans = [s for s in _spans(grid, place.siblings) if s.low is not None and s.high is not None]
        if spans and all(_is_period(grid, s) for s in spans):
            return step
    try:
        widths = {Decimal(m["high"].strip("'")) - Decimal(m["low"].strip("'")) for m in bounds}
    except InvalidOperation:
        return None
    return f"{widths.pop():f}" if len(widths) == 1 else None


def _is_period(grid: Grid, span: Span) -> bool:
    assert span.low is not None
    period = grid.period(span.low)
    return (period.low, period.high) == (span.low, span.high)


def _spans(grid: Grid, children: Iterable[Child]) -> list[Span]:
    found = [s for c in children if (s := span_of(grid, c)) is not None]
    return sorted(found, key=lambda s: (s.low is not None, s.low if s.low is not None else 0))


def _value(grid: Grid, shown: str | None) -> Value | None:
    return None if shown is None else grid.parse(shown)


def _range(low: str, high: str) -> str:
    return f"FOR VALUES FROM ({low}) TO ({high})"


def _literal(grid: Grid, value: Value) -> str:
    return text(sql.Literal(grid.show(value)))


def range_pieces(
    place: Place, grid: Grid, found: KeyValues, taken: frozenset[str], stage_schema: str
) -> tuple[Piece, ...]:
    """Return one piece a period from the smallest key present to the upper bound.

    What the bound reaches below the first period gets a piece of its own; so does what an open bound reaches beyond
    some periods ahead. A DEFAULT partition is divided where no other partition is, and stays for the rest.

    Args:
        found: the keys' extent; taken: names that are in use; stage_schema: where a new DEFAULT waits.

    Raises:
        RefusedError: there is nothing to divide, or too many pieces would come of it.
    """
    try:
        lowest, highest = _value(grid, found.extent.lowest), _value(grid, found.extent.highest)
    except ValueError:
        raise RefusedError(
            f"{place.leaf.qname} holds a key outside the years 1 to 9999.",
            consequence="Nothing was changed.",
            hint="Correct such rows first.",
        ) from None
    namer = _Namer(place, taken)
    if place.leaf.is_default:
        pieces = tuple(_default_range(place, grid, lowest, highest, namer))
        least = 1
    else:
        pieces = tuple(_bounded_range(place, grid, lowest, highest, namer))
        least = 2
    if len(pieces) < least:
        raise _nothing(place, f"everything in it belongs to one period ({grid.step})")
    return (*pieces, *_new_default(place, stage_schema))


def _nothing(place: Place, why: str) -> RefusedError:
    return RefusedError(
        f"{place.leaf.qname} cannot be divided: {why}.",
        consequence="Nothing was changed.",
        hint="Name a shorter period with --every, or another partition with --partition.",
    )


def _too_many(grid: Grid) -> RefusedError:
    return RefusedError(
        f"A period of {grid.step} would make more than {MOST_LEAVES} partitions.",
        consequence="Nothing was changed.",
        hint="Name a longer period with --every.",
    )


def _bounded_range(
    place: Place, grid: Grid, lowest: Value | None, highest: Value | None, namer: _Namer
) -> Iterator[Piece]:
    match, span = BOUND.match(place.leaf.bound), span_of(grid, place.leaf)
    assert match is not None
    assert span is not None
    least, most = INTEGER_LIMITS.get(grid.type_name, (None, None))
    start = lowest if lowest is not None else span.low
    if start is None:
        raise _nothing(place, "it holds no row, and its bound does not begin anywhere")
    last, ahead, period = highest if highest is not None else start, 0, grid.period(start)
    low = match["low"]
    if (span.low is None or not le(period.low, span.low)) and (least is None or not le(period.low, Decimal(least))):
        yield namer.piece(f"_before_{period.label}", _range(low, _literal(grid, period.low)))
        low = _literal(grid, period.low)
    for count, period in enumerate(grid.periods(start)):
        if count >= MOST_LEAVES:
            raise _too_many(grid)
        is_last = span.high is not None and le(span.high, period.high)
        is_last = is_last or (most is not None and not le(period.high, Decimal(most)))
        high = match["high"] if is_last else _literal(grid, period.high)
        yield namer.piece(f"_p{period.label}", _range(low, high))
        if is_last:
            return
        low = high
        ahead += not le(period.low, last)
        if span.high is None and ahead >= PERIODS_AHEAD:
            break
    yield namer.piece(f"_after_{period.label}", _range(low, match["high"]))


def _default_range(
    place: Place, grid: Grid, lowest: Value | None, highest: Value | None, namer: _Namer
) -> Iterator[Piece]:
    if lowest is None or highest is None:
        return
    spans = _spans(grid, place.siblings)
    for count, period in enumerate(grid.periods(lowest)):
        if not le(period.low, highest):
            return
        if count > MOST_LEAVES:
            raise _too_many(grid)
        yield from _parts(grid, period, spans, namer)


def _parts(grid: Grid, period: Period, spans: list[Span], namer: _Namer) -> Iterator[Piece]:
    least, most = INTEGER_LIMITS.get(grid.type_name, (None, None))
    for low, high in uncovered(period, spans):
        below = least is not None and not le(Decimal(least), low)
        beyond = most is not None and not le(high, Decimal(most))
        bound = _range(
            "MINVALUE" if below else _literal(grid, low),
            "MAXVALUE" if beyond else _literal(grid, high),
        )
        yield namer.piece(f"_p{period.label}", bound)


def _new_default(place: Place, schema: str) -> Iterator[Piece]:
    """The old DEFAULT partition keeps its name until the cut-over, so the new one waits elsewhere under it."""
    if place.leaf.is_default:
        yield Piece(name=place.leaf.qname, staged=QName(schema=schema, name=place.leaf.name), bound=DEFAULT)


def list_pieces(
    place: Place, found: KeyValues, values: tuple[str, ...], taken: frozenset[str], stage_schema: str
) -> tuple[Piece, ...]:
    """Return one piece a value, or one for each of `values` and one for all others.

    Raises:
        RefusedError: there is nothing to divide; UsageError: a value that the partition does not take.
    """
    namer = _Namer(place, taken)
    if place.leaf.is_default:
        pieces = tuple(_default_list(place, found, values, namer))
        least = 1
    else:
        pieces = tuple(_bounded_list(place, found, values, namer))
        least = 2
    if len(pieces) < least:
        raise RefusedError(
            f"{place.leaf.qname} cannot be divided: there are not two values to part.",
            consequence="Nothing was changed.",
        )
    beside = sum(len(literals_of(c.bound)) for c in place.siblings) + len(pieces)
    count = beside if place.leaf.is_default else len(literals_of(place.leaf.bound))
    if count > MOST_LIST_VALUES:
        raise RefusedError(
            f"{place.leaf.qname} cannot be divided: {count} values would be compared, and of more than"
            f" {MOST_LIST_VALUES} PostgreSQL does not see without reading the rows that they are in the right place.",
            consequence="Nothing was changed.",
        )
    return (*pieces, *_new_default(place, stage_schema))


def _value_piece(namer: _Namer, literal: str) -> Piece:
    label = re.sub(r"\W+", "_", _unquoted(literal).lower()).strip("_")[:24] or "value"
    return namer.piece(f"_p_{label}", f"FOR VALUES IN ({literal})")


def _unquoted(literal: str) -> str:
    return literal[1:-1].replace("''", "'") if literal.startswith("'") else literal


def literals_of(bound: str) -> tuple[str, ...]:
    """Return the values of a list bound, each as the server wrote it."""
    match = _LIST.match(bound)
    return tuple(m[1].strip() for m in _LITERAL.finditer(match["values"])) if match is not None else ()


def _bounded_list(place: Place, found: KeyValues, values: tuple[str, ...], namer: _Namer) -> Iterator[Piece]:
    literals = literals_of(place.leaf.bound)
    if not values:
        yield from (_value_piece(namer, literal) for literal in literals)
        return
    assert found.named is not None
    # What was asked for as the server prints it, which is how it prints the bound.
    wanted = set(found.named.values)
    strangers = wanted - {_unquoted(literal) for literal in literals if literal != "NULL"}
    if strangers:
        raise UsageError(
            f"--values names {', '.join(map(repr, sorted(strangers)))}, which {place.leaf.qname} does not take.",
            hint=f"It is {place.leaf.bound}.",
        )
    rest = [literal for literal in literals if literal == "NULL" or _unquoted(literal) not in wanted]
    yield from (_value_piece(namer, literal) for literal in literals if literal not in rest)
    if rest:
        yield namer.piece("_p_other", f"FOR VALUES IN ({', '.join(rest)})")


def _default_list(place: Place, found: KeyValues, values: tuple[str, ...], namer: _Namer) -> Iterator[Piece]:
    named = found.named.values if values and found.named is not None else found.values
    if named is None:
        raise RefusedError(
            f"{place.leaf.qname} holds too many different values for a partition each.",
            consequence="Nothing was changed.",
            hint="Name those that shall have one with --values.",
        )
    taken = {_unquoted(literal) for child in place.siblings for literal in literals_of(child.bound)}
    if strangers := sorted(taken.intersection(named)):
        raise UsageError(f"--values names {', '.join(map(repr, strangers))}, which another partition takes.")
    yield from (_value_piece(namer, text(sql.Literal(value))) for value in named)
    if found.has_null and not values:
        yield namer.piece("_p_null", "FOR VALUES IN (NULL)")
