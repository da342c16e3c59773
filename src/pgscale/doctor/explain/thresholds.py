"""From when on something in a plan is worth a word. Each with where it comes from; none is worth a table of settings.

A plan of a small query may be as bad as it likes: all of these are about rows and pages that take time.
"""

from __future__ import annotations

# A node that takes less of the time is not where it goes. By reasoning: what is mended there cannot be felt.
LEAST_SHARE = 0.10
# One that takes as much, is. By reasoning.
LARGE_SHARE = 0.25

# Estimates. PostgreSQL's choices turn at factors: a nested loop costs a page read per row, a hash join a fraction of it
# (random_page_cost / seq_page_cost = 4, cpu_tuple_cost = 0.01). Ten times is beyond any of its margins.
MISESTIMATED_TIMES = 10.0
# Fewer rows too many or too few cost less than a millisecond, however they are joined.
MISESTIMATED_ROWS = 1_000
# autovacuum_analyze_scale_factor: from there on PostgreSQL itself finds statistics stale.
STALE_SHARE = 0.10
# default_statistics_target is 100; ANALYZE reads 300 rows for each: 300,000 rows still take seconds only.
RAISED_TARGET = 1_000

# Scans. An index scan reads a page for each row, and a page holds tens of rows: at random_page_cost = 4 it loses to
# reading
# everything when it keeps more than some per cent.
KEPT_SHARE = 0.05
# 10,000 rows are read from memory in a millisecond or two.
SCANNED_ROWS = 10_000
# Of an index scan: nine of ten rows fetched in vain.
WASTED_SHARE = 0.90
# An index-only scan that asks the table for one row in ten is none.
HEAP_FETCH_SHARE = 0.10
HEAP_FETCHES = 1_000
# Of the pages of a bitmap.
LOSSY_SHARE = 0.10
# An index of more columns is for one query only.
MOST_INDEX_COLUMNS = 3

# Shapes. By reasoning: a thousand executions of some 10 µs are felt.
MANY_EXECUTIONS = 1_000
# An inner side without an index reads everything for each row.
MANY_SCANS = 100
SKIPPED_ROWS = 10_000
SKIPPED_TIMES = 10.0
# With fewer, planning and opening those that hold nothing is cheap.
MANY_PARTITIONS = 4

# What is beside executing. Milliseconds.
LEAST_JIT_MS = 20.0
LEAST_PLANNING_MS = 20.0
LEAST_TRIGGER_MS = 5.0
LEAST_SERIALIZATION_MS = 20.0

# Memory.
# Of one query; from there on it is the server's memory, not the query's: work_mem is per node and per worker.
MUCH_MEMORY_BYTES = 1 << 30
DEFAULT_WORK_MEM_BYTES = 4 << 20
