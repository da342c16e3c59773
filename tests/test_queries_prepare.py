"""Every named query is accepted by every server it says it is for, and so is every `schema.sql`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from psycopg import sql

import pgscale
from pgscale.sql import parse

PACKAGE = Path(pgscale.__file__).parent
# A room's own tables, and what closes them to others: run as they stand.
SCHEMAS = sorted([*PACKAGE.rglob("schema.sql"), *PACKAGE.rglob("closed.sql")])
FILES = sorted(set(PACKAGE.rglob("*.sql")) - set(SCHEMAS))  # named queries
# Files that are named as the extension they read, and gated by its version.
EXTENSIONS = {"pg_stat_statements"}
_PLACEHOLDER = re.compile(r"%%|%\((\w+)\)[stb]|%.?")


def _numbered(text: str) -> str:
    """psycopg's placeholders as the server's own; each name keeps one number, as psycopg gives it.

    A query without parameters is sent as it stands, and so it is here.
    """
    if "%(" not in text:
        return text
    numbers: dict[str, int] = {}

    def replace(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        assert found[1], f"{found[0]!r} is no named placeholder; a per cent sign is written %%"
        return f"${numbers.setdefault(found[1], len(numbers) + 1)}"

    return _PLACEHOLDER.sub(replace, text)


def test_placeholders_are_numbered_by_name():
    assert _numbered("SELECT %(b)s, %(a)s, %(b)s, 5 %% 2") == "SELECT $1, $2, $1, 5 % 2"
    with pytest.raises(AssertionError, match="no named placeholder"):
        _numbered("SELECT 'a%', %(b)s")
    assert _numbered("SELECT 5 % 2") == "SELECT 5 % 2"


def _installed(database, extension):
    """The version of an extension, once it is there: 11100 for 1.11."""
    with database.connect_superuser() as superuser:
        available = superuser.execute("SELECT FROM pg_available_extensions WHERE name = %s", (extension,))
        if not available.rowcount:
            pytest.skip(f"this server has no {extension}")
        superuser.execute(sql.SQL("CREATE EXTENSION {}").format(sql.Identifier(extension)))
        (version,) = superuser.execute(
            "SELECT extversion FROM pg_extension WHERE extname = %s", (extension,)
        ).fetchone()
    major, minor = version.split(".")
    return int(major) * 10_000 + int(minor) * 100


@pytest.mark.versions("all")
@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_server_accepts_every_query(path, database):
    queries = parse(path.read_text(encoding="utf-8"), origin=str(path.relative_to(PACKAGE)))
    refused: list[str] = []
    with database.connect() as connection:
        for schema in SCHEMAS:
            connection.execute(schema.read_bytes())
        version = connection.info.server_version
        if path.stem in EXTENSIONS:
            version = _installed(database, path.stem)
        matching = [query for query in queries.variants() if query.matches(version)]
        for query in matching:
            statement = sql.SQL("PREPARE {} AS ").format(sql.Identifier(f"q_{query.name}"))
            try:
                connection.execute(statement.as_bytes(connection) + _numbered(query.text.decode()).encode())
            except Exception as error:  # noqa: BLE001 because every refusal is reported, not only the first
                refused.append(f"{query.origin} {query.name}: {error}")
    assert matching or all(query.since or query.until for query in queries.variants())
    assert not refused, "\n".join(refused)


@pytest.mark.versions("all")
@pytest.mark.parametrize("path", SCHEMAS, ids=[str(path.relative_to(PACKAGE)) for path in SCHEMAS])
def test_an_owner_can_run_a_schema_twice(path, database):
    with database.connect() as connection:
        for _ in range(2):
            connection.execute(path.read_bytes())
