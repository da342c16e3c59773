"""Load a file into a table: CSV, NDJSON, Parquet, Arrow; in parallel, resumable, lines that do not fit set aside.

>>> from pgscale.write import loading                                                         # doctest: +SKIP
>>> loading.load("postgresql://app@db/shop", "public.events", "events.csv.gz").counts.rows    # doctest: +SKIP
1000000
"""

from pgscale.write.loading.model import (
    FORMATS,
    Counts,
    Format,
    LoadedRowError,
    LoadOptions,
    LoadResult,
)
from pgscale.write.loading.runner import load

__all__ = ["FORMATS", "Counts", "Format", "LoadOptions", "LoadResult", "LoadedRowError", "load"]
