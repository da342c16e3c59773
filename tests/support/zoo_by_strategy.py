"""The animals of the zoo as each strategy gets them, and what each refuses beyond what none can carry."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from pgscale.partition import Options
from support.zoo import SHAPES, Shape

# Every shape goes through 18; the core of the zoo through more. `ZOO_EVERYWHERE=1` runs all on 15 and 16 too.
EVERYTHING_ON = (15, 16, 18) if os.environ.get("ZOO_EVERYWHERE") else (18,)
# Of the servers tested, the one built with all that a shape may need; on 18 these would only ever be skipped.
COMPLETE_ON = 15


def cases(adapt: Callable[[Shape], Shape], *, core_on: tuple[int, ...] = (14,)) -> Iterator[Any]:
    """Yield every shape as a strategy gets it, with the versions it is tried on."""
    for shape in map(adapt, SHAPES):
        versions = (COMPLETE_ON,) if shape.needs else (*EVERYTHING_ON, *core_on) if shape.core else EVERYTHING_ON
        for version in versions:
            if shape.min_version <= version <= shape.max_version:
                yield pytest.param(shape, version, id=f"{shape.name}-pg{version}")


def options_of(shape: Shape, **rest: Any) -> Options:
    """Return what a run of this shape is asked for."""
    return Options(
        by=shape.by,
        partitions=shape.partitions,
        values=shape.values,
        accept_key_change=shape.accept_key_change,
        workers=2,
        pace="fast",
        **rest,
    )


# --- attach -----------------------------------------------------------------------------------------------

# A hash has no first partition: these keys are attached by list, the others by range of their number.
LISTED = (
    "bytea_key",
    "uuid_key",
    "bpchar_key",
    "nondeterministic_collation_key",
    "citext_key",
    "text_key_that_needs_escapes",
    "key_type_without_hash",
    "without_overlaps",
)
# What mirror refuses for want of a key, attach carries, and what it would have to build or compute anew it refuses.
NEEDS_NO_KEY = ("no_key", "unique_but_nullable", "partial_unique_only")


def attached(shape: Shape) -> Shape:
    """The same animal, for attach."""
    by, expect, reason = shape.by, shape.expect, shape.reason
    method, _, columns = by.partition(":")
    first = columns.partition(",")[0]
    if method == "hash":
        by = f"list:{first}" if shape.name in LISTED else f"range:{first}:1000"
    if shape.name in NEEDS_NO_KEY:
        expect = "converts"
    if "materialized_view" in shape.name and expect == "converts":
        expect, reason = "refused", "(?i)materialized view .* made again"
    if shape.name.startswith("exclusion"):
        expect, reason = "refused", "(?i)exclusion constraint"
    changed = {"by": by, "partitions": None, "expect": expect, "reason": reason, **ATTACHED.get(shape.name, {})}
    return replace(shape, **changed)


ATTACHED: dict[str, dict[str, Any]] = {
    "user_types": {"by": "list:id", "expect": "refused", "reason": "more than 100 values"},
    "hash_null_key": {"by": "list:k"},
    "exclusion_with_the_key": {"by": "list:k"},
    "numeric_key_scales": {"expect": "refused", "reason": "(?i)nan"},
    "bytea_key": {"expect": "refused", "reason": "300 values|302 values"},
    "uuid_key": {"expect": "refused", "reason": "300 values"},
    "unique_but_nullable": {"expect": "refused", "reason": "(?i)null"},
}


# --- move -------------------------------------------------------------------------------------------------

_ROW_SECURITY = "row-level security"
# What a view in the table's place cannot carry, by shape: the words of the refusal.
REFUSED_BY_MOVE = {
    "uniques": "Unique key u2 is DEFERRABLE(.|\n)*Unique key u3 is DEFERRABLE(.|\n)*Unique key u4 compares",
    "primary_key_deferrable": "Unique key k is DEFERRABLE",
    "check_not_valid": "Constraint positive is NOT VALID",
    "exclusion_with_the_key": "Exclusion constraint no_overlap cannot hold over two tables",
    "foreign_keys_out": "Foreign key .* changes rows of the table by itself",
    "foreign_key_set_null_columns": "Foreign key t_a_b_fkey changes rows of the table by itself",
    "foreign_key_out_not_valid": "Constraint lax is NOT VALID",
    "foreign_keys_in": 'Foreign key "child of t" of public.c1 references the table',
    "foreign_key_in_not_valid": "Foreign key lax of public.c references the table",
    "foreign_key_to_itself": "Foreign key up of public.t references the table",
    "triggers": "Trigger a_row would fire for rows that only move",
    "trigger_changes_the_row": "Trigger touch would fire for rows that only move",
    "constraint_trigger": "Trigger checked would fire for rows that only move",
    "cursor_free_sql_by_name": "Trigger audit would fire for rows that only move",
    "row_security": _ROW_SECURITY,
    "row_security_disabled": _ROW_SECURITY,
    "row_security_forced": _ROW_SECURITY,
    "publications": "Publication zoo_a would send every row that moves",
    "publication_via_root": "Publication zoo_root would send every row that moves",
    "publication_columns_and_filter": "Publication zoo_root would send every row that moves",
    "hash_null_key": "Column k may be NULL, and the key that names rows would grow by it",
    "list_null_key": "Column region may be NULL, and the key that names rows would grow by it",
    "everything": "row-level security(.|\n)*Trigger seen(.|\n)*Publication zoo_orders(.|\n)*Foreign key .* references",
}


# What the zoo leaves open, and move carries; the rest of that it refuses.
CARRIED_BY_MOVE = (
    "functions_with_standard_bodies",
    "names_that_leaves_would_take",
    "range_with_infinity",
    "range_numeric_step",
    "range_numeric_nan",
    "key_grows_and_was_nullable",
)
# A view that relies on the primary key is refused (test_move.py); without it the other views are shown to be carried.
_BY_KEY = "CREATE VIEW by_key AS SELECT t.*, count(*) AS n FROM t GROUP BY id;"


def moved(shape: Shape) -> Shape:
    """The same animal, for move."""
    if shape.name == "views":
        assert _BY_KEY in shape.setup
        return replace(shape, setup=shape.setup.replace(_BY_KEY, ""))
    if "materialized_view" in shape.name and shape.expect != "refused":
        return replace(shape, expect="refused", reason="Materialized view .* reads the table; the view in its place")
    if shape.name in REFUSED_BY_MOVE:
        return replace(shape, expect="refused", reason=REFUSED_BY_MOVE[shape.name])
    if shape.expect == "either":
        return replace(shape, expect="converts" if shape.name in CARRIED_BY_MOVE else "refused")
    return shape


# --- split ------------------------------------------------------------------------------------------------

# How the partition is divided that holds the rows; what is not here by 250.
EVERY = {
    "range_timestamp_month": "quarter",
    "range_timestamptz_day": "quarter",
    "range_date_week": "quarter",
    "range_date_quarter_and_year": "quarter",
    "range_before_1970": "year",
    "range_before_christ": "year",
    "range_with_infinity": "week",
    "range_far_apart": "year",
    "range_interval_step": "year",
    "range_int_step": "1000",
    "range_int_extremes": "500000000",
    "range_bigint_extremes": "1000000000000000000",
    "range_numeric_step": "10.5",
    "range_numeric_nan": "20",
    "range_empty": "month",
    "range_null_key": "quarter",
    "names_sharing_63_bytes": "quarter",
}

# What a split cannot carry, or finds nothing to divide in, by shape: the words of the refusal.
_NO_KEY = "no key that names a row"
_MANY = "values would be compared"
# Mirror has made a partition of each value.
_ALONE = "there are not two values to part"
_EMPTY = "it holds no row, and its bound does not begin anywhere"
REFUSED_BY_SPLIT = {
    "user_types": _ALONE,
    "bytea_key": _ALONE,
    "uuid_key": _ALONE,
    "exclusion_with_the_key": _ALONE,
    "identity_untouched_sequence": _EMPTY,
    "no_rows": _EMPTY,
    "range_empty": _EMPTY,
    "no_key": _NO_KEY,
    "partial_unique_only": _NO_KEY,
    "hash_null_key": _NO_KEY,
    "list_null_key": _NO_KEY,
    "range_before_christ": "holds a key outside the years 1 to 9999",
    "all_rows_deleted": _EMPTY,
    "row_security": "Policy add of public.t_p_first reads public.t_p_first by its own name",
    "check_not_valid": "CHECK constraint positive is NOT VALID",
    "bpchar_key": _MANY,
    "nondeterministic_collation_key": _MANY,
    "citext_key": _MANY,
}
