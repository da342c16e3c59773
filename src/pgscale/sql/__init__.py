"""Named static SQL that stands beside its room, with variants by server version; files of SQL taken apart."""

from pgscale.sql.loader import Queries, Query, QueryFileError, load, parse

__all__ = ["Queries", "Query", "QueryFileError", "load", "parse"]
