"""Compose the statements of loading."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from pgscale.core.model import QName
from pgscale.write.loading.model import LoadOptions


def copy_lines(table: QName, names: Sequence[str], options: LoadOptions) -> sql.Composed:
    """Return the COPY that reads the lines of a CSV, or of NDJSON made text."""
    if options.format == "ndjson":
        how = sql.SQL("FORMAT text")
    else:
        how = sql.SQL("FORMAT csv, DELIMITER {}, QUOTE {}, ESCAPE {}, NULL {}").format(
            sql.Literal(options.delimiter),
            sql.Literal(options.quote),
            sql.Literal(options.escape or options.quote),
            sql.Literal(options.null),
        )
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in names)
    return sql.SQL("COPY {} ({}) FROM STDIN ({})").format(sql.Identifier(table.schema, table.name), columns, how)


def settings_of_the_login() -> sql.SQL:
    """Return what sets back the settings by which text becomes values, and by which triggers find names.

    Our sessions fix them for our own statements; a load means what the same COPY would mean to its user.
    """
    return sql.SQL(
        "RESET search_path; RESET row_security; RESET timezone; RESET datestyle; RESET intervalstyle; RESET xmloption"
    )


def all_constraints_now() -> sql.SQL:
    """Return what lets a deferred constraint speak at its statement, not at COMMIT, where nobody knows the row."""
    return sql.SQL("SET CONSTRAINTS ALL IMMEDIATE")
