"""Reads what is needed, by the checks' own judgement, and what it is about; locks nothing."""

from __future__ import annotations

from collections.abc import Iterable

from psycopg.rows import class_row, dict_row

from pgscale import sql as named
from pgscale.connect.session import Session
from pgscale.core.units import format_bytes
from pgscale.doctor.checks import autovacuum, bloat, wraparound
from pgscale.doctor.facts import Facts, NotReadableError
from pgscale.doctor.limits import Limits
from pgscale.doctor.maintenance.model import Leftover, Target, Want
from pgscale.ledger.store import OWNER_LOCK

QUERIES = named.load("pgscale.doctor.maintenance")


def read_wants(facts: Facts, limits: Limits) -> tuple[list[Want], list[str]]:
    """Return what the checks find needed, the most urgent first, and what could not be looked at, as sentences."""
    wants: list[Want] = []
    notes: list[str] = []
    for read in (_aged, _behind, _never_analyzed, _bloated):
        try:
            wants += read(facts, limits)
        except NotReadableError as error:
            notes.append(f"Not looked at, because {error.because}. {error.hint}".strip())
    return wants, notes


def _aged(facts: Facts, limits: Limits) -> Iterable[Want]:
    for kind, noun in wraparound.NOUN.items():
        for _, each in wraparound.find_aged(facts, limits, wraparound.read_scale(facts, kind)):
            # Temporary tables can be frozen by their own sessions only; the check says so.
            if not each.is_temporary:
                why = f"not frozen for {each.age(kind):,} {noun} ids, of {each.most(kind):,}"
                yield Want(kind="freeze", oid=each.oid, check="wraparound.tables", why=why, busy_with=each.vacuumed_by)


def _behind(facts: Facts, limits: Limits) -> Iterable[Want]:
    least = limits.autovacuum.warning_due_factor
    for *_, each in autovacuum.find_behind(facts, limits):
        dead, inserted, changed = each.factors(limits.autovacuum)
        for kind, late in (("vacuum", max(dead, inserted)), ("analyze", changed)):
            if late[0] >= least:
                yield Want(
                    kind="vacuum" if kind == "vacuum" else "analyze",
                    oid=each.oid,
                    check="autovacuum.behind",
                    why=f"{late[1]}, {late[0]:.1f} times as many as make it due",
                    busy_with=each.vacuumed_by,
                )


def _never_analyzed(facts: Facts, limits: Limits) -> Iterable[Want]:
    for each, rows in autovacuum.find_never_analyzed(facts, limits):
        why = f"never analyzed, about {rows:,.0f} rows"
        yield Want(kind="analyze", oid=each.oid, check="autovacuum.analyzed", why=why)


def _bloated(facts: Facts, limits: Limits) -> Iterable[Want]:
    block = facts.server.block_bytes
    for each in bloat.find_bloated_indexes(facts, limits):
        why = (
            f"at least {format_bytes(each.bloat_pages * block)} of {format_bytes(each.of.pages * block)},"
            f" {each.share:.0%}, hold nothing"
        )
        yield Want(kind="reindex", oid=each.of.oid, check="bloat.indexes", why=why)


def read_targets(session: Session, oids: Iterable[int]) -> dict[int, Target]:
    """Return tables and indexes by OID; those that are gone are missing."""
    version = session.info.server_version
    with session.cursor(row_factory=dict_row) as cursor:
        query = QUERIES.get("targets", version)
        rows = cursor.execute(query, {"oids": list(oids), "run_lock": OWNER_LOCK}).fetchall()
        tables = {"oids": list({row["table_oid"] for row in rows})}
        rights = {row.pop("oid"): row for row in cursor.execute(QUERIES.get("rights", version), tables).fetchall()}
    return {row["oid"]: Target(**row, **rights[row["table_oid"]]) for row in rows if row["table_oid"] in rights}


def read_leftovers(session: Session, table_oid: int | None = None) -> list[Leftover]:
    """Return what REINDEX CONCURRENTLY left, of one table or of all."""
    with session.cursor(row_factory=class_row(Leftover)) as cursor:
        query = QUERIES.get("leftovers", session.info.server_version)
        return cursor.execute(query, {"table": table_oid}).fetchall()
