"""A fixture for pytest: the functions on disk are those of the test database.

It is loaded by those who ask for it, in their conftest.py:

    pytest_plugins = ["pgscale.catalog.testing"]

and used so:

    def test_stored_functions(connection, stored_functions_match):
        stored_functions_match(connection, "db/functions")
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest

from pgscale.catalog.functions.checking import check_functions

Matcher: TypeAlias = Callable[..., None]


@pytest.fixture
def stored_functions_match(pytestconfig: pytest.Config) -> Matcher:
    """Return what fails the test, with a diff of each function, where database and directory differ.

    It takes a psycopg connection or a DSN; a directory, from the root of the test run where it is relative; and
    `schemas`, as assert_functions.
    """

    def match(
        database: psycopg.Connection[Any] | str, directory: Path | str, *, schemas: Collection[str] | None = None
    ) -> None:
        place = pytestconfig.rootpath / directory
        if isinstance(database, str):
            with psycopg.connect(database) as connection:
                found = check_functions(connection, place, schemas=schemas)
        else:
            found = check_functions(database, place, schemas=schemas)
        if found:
            lines = [line for each in found for line in each.lines]
            pytest.fail("\n".join((f"Stored functions are not those of {directory}:", *lines)), pytrace=False)

    return match
