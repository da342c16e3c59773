"""How many pages a statement reads of a table by an index: by statistics, and by the rows it really returns. Pure.

The model is the planner's, made coarse (src/backend/optimizer/path/costsize.c, utils/adt/selfuncs.c): equality chooses
one of the distinct values, a range with two bounds 0.5 % and with one a third of the rows, conditions are independent,
rows lie scattered over the pages. Where a statement returns all that match, what it returned is known and not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pgscale.doctor.indexing.model import Access, Column, Index, Key, Table, Test, Wanted

# Of a B-tree, from its root to a leaf.
DESCENT_PAGES = 3.0
# DEFAULT_RANGE_INEQ_SEL and DEFAULT_INEQ_SEL.
TWO_BOUNDS_SHARE, ONE_BOUND_SHARE = 0.005, 1 / 3
# Of a leaf page: its tuple's header, its line pointer and what is left free for a tenth of the page.
ENTRY_BYTES, FILLED = 8 + 4, 0.9
# With what stands at the end of a page of a B-tree.
PAGE_HEADER_BYTES = 24 + 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A table with all that estimates rest on."""

    table: Table
    columns: Mapping[str, Column]
    indexes: tuple[Index, ...]
    page_bytes: int

    def share(self, access: Access, column: str) -> float | None:
        """Return the share of rows that the conditions on a column leave; None when it is not known."""
        if column in access.equal or column in access.joined:
            return self.share_of_value(column)
        if column in access.ranges:
            return TWO_BOUNDS_SHARE if column in access.both_bounds else ONE_BOUND_SHARE
        test = access.tests.get(column)
        return 1.0 if test is None else self.share_of_test(column, test)

    def share_of_value(self, name: str) -> float | None:
        column, rows = self.columns[name], max(1.0, self.table.rows)
        if any(index.is_unique and index.keys == [name] and not index.is_partial for index in self.indexes):
            return 1 / rows
        if not column.distinct_values:
            return None
        distinct = column.distinct_values if column.distinct_values > 0 else -column.distinct_values * rows
        return (1 - (column.null_share or 0.0)) / max(1.0, distinct)

    def share_of_test(self, name: str, test: Test) -> float | None:
        column = self.columns[name]
        if column.is_not_null and test in ("null", "not null"):
            return 0.0 if test == "null" else 1.0
        if column.null_share is None:
            return None
        if test in ("null", "not null"):
            return column.null_share if test == "null" else 1 - column.null_share
        shares = dict(zip(column.common_values or (), column.common_shares or (), strict=False))
        return shares.get(test[0], 0.0) if shares else None

    def matching(self, access: Access, columns: Collection[str]) -> float | None:
        """Return how many rows the conditions on some columns leave; None when that is not known."""
        named = _conditioned(access)
        returned = access.statement.rows_a_call
        if access.is_plain and named <= set(columns):
            return max(1.0, returned)
        fixed = (access.equal | access.joined) & set(columns)
        if any(i.is_unique and not i.is_partial and {*i.keys} <= fixed for i in self.indexes):
            return 1.0
        shares = [self.share(access, column) for column in columns]
        known = [share for share in shares if share is not None]
        if len(known) < len(shares):
            return None
        rows = self.table.rows * math.prod(known)
        return max(1.0, rows, returned if access.is_plain else 0.0)

    def pages(self, access: Access, wanted: Wanted) -> float | None:
        """Return the pages a call reads by an index that is to be made; None when it cannot use it."""
        return self._pages(access, wanted.keys, wanted.included, wanted.tested)

    def pages_now(self, access: Access) -> float:
        """Return the pages a call reads by the best there is: what is not certain counts for the index there is."""
        found = (self._pages_by(access, index) for index in self.indexes)
        return min([float(self.table.pages), *(pages for pages in found if pages is not None)])

    def index_bytes(self, wanted: Wanted) -> int:
        """Return the size of an index to be made, at most: equal values share an entry."""
        width = sum(-(-self.columns[name].width_bytes // 8) * 8 for name in (*wanted.columns, *wanted.included))
        share = self.share_of_test(*wanted.tested) if wanted.tested is not None else 1.0
        entries = self.table.rows * (1.0 if share is None else share)
        leaves = entries * (ENTRY_BYTES + width) / (self.page_bytes - PAGE_HEADER_BYTES) / FILLED
        # Beside them its meta page, its root, and inner pages, of which one leads to a hundred others at least.
        return round(leaves * 1.01 + 2) * self.page_bytes

    def _pages_by(self, access: Access, index: Index) -> float | None:
        if index.method not in ("btree", "hash"):
            # BRIN, GiST and GIN may serve: nobody can tell from here how well.
            return DESCENT_PAGES if _conditioned(access) & {*index.keys} else None
        tested = (index.tested_column, index.test) if index.tested_column and index.test else None
        keys = [
            Key(column=name, is_descending=bool(option & 1), nulls_first=bool(option & 2)) if name is not None else None
            for name, option in zip(index.keys, index.options, strict=True)
        ]
        is_plain = index.method == "btree" and index.is_default
        if index.method == "hash" and (keys[0] is None or keys[0].column not in access.equal | access.joined):
            return None
        return self._pages(access, keys, index.included, tested, is_sorted=is_plain, is_there=True)

    def _pages(
        self,
        access: Access,
        keys: Sequence[Key | None],
        included: Iterable[str],
        tested: tuple[str, Test] | None,
        *,
        is_sorted: bool = True,
        is_there: bool = False,
    ) -> float | None:
        if tested is not None and not _implies(access, *tested):
            return None
        held = _held(access, keys)
        is_in_order = is_sorted and _gives_order(access, keys)
        if not held and tested is None and not is_in_order:
            return None
        loops = access.loops if access.joined & {*held} else 1.0
        restricted = {tested[0]} if tested is not None else set[str]()
        chosen = {*held} | restricted
        scanned = self.matching(access, chosen)
        if scanned is None:
            return None
        carried = {key.column for key in keys if key is not None} | {*included}
        fetched = self.matching(access, chosen | (_conditioned(access) & carried))
        fetched = scanned if fetched is None else min(fetched, scanned)
        width = sum(self.columns[name].width_bytes for name in carried if name in self.columns)
        leaves = scanned * (ENTRY_BYTES + width) / FILLED / self.page_bytes
        heap = min(fetched, float(self.table.pages))
        if access.used is not None and access.used <= carried | restricted:
            heap *= 1 - self.table.visible_share
        if is_in_order:
            # It stops at the last row that is wanted, wherever that is.
            found = self.matching(access, _conditioned(access))
            if found is None:
                if not is_there:
                    return None
                found = fetched
            part = min(1.0, max(1.0, access.statement.rows_a_call) / found)
            leaves, heap = leaves * part, max(1.0, min(scanned * part, heap))
        return loops * (DESCENT_PAGES + leaves + heap)


def _conditioned(access: Access) -> set[str]:
    return {*access.equal, *access.joined, *access.ranges, *access.tests}


def _implies(access: Access, column: str, test: Test) -> bool:
    """Tell whether the conditions prove the predicate of a partial index; a comparison is true of no NULL."""
    if access.tests.get(column) == test:
        return True
    return test == "not null" and column in access.equal | access.joined | access.ranges


def _held(access: Access, keys: Sequence[Key | None]) -> list[str]:
    """Return the leading columns by which a scan is bounded: those that are fixed, then one that is ranged."""
    held: list[str] = []
    for key in keys:
        if key is None:
            break
        is_fixed = key.column in access.equal | access.joined or key.column in access.tests
        if is_fixed and access.tests.get(key.column) != "not null":
            held.append(key.column)
            continue
        if key.column in access.ranges:
            held.append(key.column)
        break
    return held


def _gives_order(access: Access, keys: Sequence[Key | None]) -> bool:
    """Tell whether a scan, from either end, gives the rows in the order they are asked for, and may stop early."""
    if not access.is_limited or not access.order or access.joined:
        return False
    rest = [key for key in keys if key is None or key.column not in access.equal]
    wanted = [key for key in access.order if key.column not in access.equal]
    first = rest[: len(wanted)]
    return first in (wanted, [key.turned for key in wanted])
