"""Schema `pgscale` is its owner's: rows of users lie in its tables, without the rights and policies of theirs."""

from __future__ import annotations

from importlib import resources

_MARK = b"-- the script\n"


def closed(script: bytes) -> bytes:
    """Return one statement that runs a script of CREATE … IF NOT EXISTS in schema `pgscale` and closes what it made.

    What ALTER DEFAULT PRIVILEGES gives others on new schemas, tables and sequences is taken back, but for what it
    gives IN SCHEMA pgscale. What was there before keeps its grants, and so does what is granted later.

    Args:
        script: statements that PL/pgSQL can run; it is quoted by `$closed$`.
    """
    before, after = resources.files("pgscale.ledger").joinpath("closed.sql").read_bytes().split(_MARK)
    return before + script + b"\n" + after
