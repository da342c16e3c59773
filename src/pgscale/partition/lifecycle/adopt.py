"""Take a table over from pg_partman: read what it does for it, say it as a PartitionSet, switch it off."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, cast

import psycopg

from pgscale.catalog import reader as catalog
from pgscale.connect.dsn import resolve_dsn
from pgscale.connect.session import READER, Session, open_session
from pgscale.core.killing import kill_point
from pgscale.core.model import QName, quote_ident
from pgscale.errors import PermissionDeniedError, RefusedError
from pgscale.livecopy.work import execute
from pgscale.partition.failures import translated
from pgscale.partition.lifecycle import ddl, reader
from pgscale.partition.lifecycle.attempts import CARE
from pgscale.partition.lifecycle.model import Finding, Parent, PartitionSet
from pgscale.partition.lifecycle.partman import PartmanSet, Width, translate
from pgscale.partition.periods import TIME_TYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What taking a table over from pg_partman means.

    Args:
        wanted: what `maintain` is to do from now on.
        findings: what is different from now on; no errors.
        is_automatic: whether pg_partman still maintains the table by itself.
        may_switch: whether this login may change that.
        switch_off: the statement that ends it; way_back: the one that begins it again.
    """

    table: QName
    version: str
    config: QName
    parent_table: str
    wanted: PartitionSet
    findings: tuple[Finding, ...]
    is_automatic: bool
    may_switch: bool
    switch_off: str
    way_back: str


@translated
def read_adoption(dsn: str | None, table: str, *, to_switch: bool = False) -> Adoption:
    """Say what pg_partman does for a table as a PartitionSet. Changes nothing.

    Args:
        to_switch: it is to be switched off next, so the right to do that is asked for as well.

    Raises:
        RefusedError: pg_partman does not look after it, or what it does cannot be said here, with every reason;
        PermissionDeniedError: its configuration may not be read; UsageError, ConnectError.
    """
    with open_session(resolve_dsn(dsn), READER) as session:
        oid, name = catalog.find_table(session, table)
        parent = reader.read_parent(session, oid)
        there, may_switch = _read_partman(session, parent)
        facts = reader.read_facts(session, oid)
        newest = [c.oid for c in facts.children if not c.is_default and not c.is_pending]
        there = _with_template(session, there, [oid, *([max(newest)] if newest else [])])
    made = translate(there, facts)
    errors = [f for f in made.findings if f.severity == "error"]
    if made.wanted is None or errors:
        raise RefusedError(
            f"{name} cannot be taken over from pg_partman.",
            reasons=tuple(" ".join(p for p in (f"{f.id}: {f.message}", f.remedy) if p) for f in errors),
            consequence="Nothing was changed.",
        )
    adoption = Adoption(
        table=name,
        version=there.version,
        config=there.config,
        parent_table=there.parent_table,
        wanted=made.wanted,
        findings=made.findings,
        is_automatic=there.is_automatic,
        may_switch=may_switch,
        switch_off=ddl.partman_switch(there.config, there.parent_table, "off"),
        way_back=ddl.partman_switch(there.config, there.parent_table, "on"),
    )
    if to_switch:
        _refuse_switch(adoption)
    return adoption


@translated
def take_over(dsn: str | None, adoption: Adoption) -> bool:
    """Switch pg_partman's automatic maintenance of the table off; its row stays, so that there is a way back.

    Returns:
        Whether it was on.

    Raises:
        PermissionDeniedError: the login may not; RefusedError: pg_partman is at work, or its configuration of the
        table is another than it was when the adoption was read.

    Locks: pg_partman's own advisory lock, so that it is not at work meanwhile, and a row of part_config.
    """
    if not adoption.is_automatic:
        return False
    conninfo = resolve_dsn(dsn)
    again = read_adoption(conninfo, str(adoption.table), to_switch=True)
    if again.wanted != adoption.wanted or again.parent_table != adoption.parent_table:
        raise RefusedError(
            f"pg_partman's configuration of {adoption.table} was changed a moment ago.",
            consequence="It was not switched off.",
            hint="Adopt it again.",
        )
    with open_session(conninfo, CARE) as session, session.transaction():
        _stop_maintenance(session, adoption)
        execute(session, adoption.switch_off)
        kill_point("adopt:switched")
    return True


def _stop_maintenance(session: Session, adoption: Adoption) -> None:
    """Until the end of the transaction, run_maintenance() finds its lock taken and returns at once."""
    try:
        session.execute(
            "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pg_partman run_maintenance')::int8)"
        )
    except psycopg.errors.LockNotAvailable:
        raise RefusedError(
            f"pg_partman is maintaining at this moment, so {adoption.table} was not taken from it.",
            hint="Try again when it has ended.",
        ) from None


def _refuse_switch(adoption: Adoption) -> None:
    config = adoption.config
    if adoption.is_automatic and not adoption.may_switch:
        raise PermissionDeniedError(
            f"This login may not change {config}, so pg_partman would go on with {adoption.table}.",
            consequence="Nothing was changed.",
            hint=f"GRANT UPDATE (automatic_maintenance) ON {config} TO this login.",
        )


# -- reading ---------------------------------------------------------------------------------------------


def _read_partman(session: Session, parent: Parent) -> tuple[PartmanSet, bool]:
    found = reader.query(session, "partman").fetchone()
    if found is None:
        raise RefusedError(
            "pg_partman is not installed in this database.", consequence="Nothing was changed.", hint="Check the DSN."
        )
    schema, version, may_use, may_read, may_update = found
    config = QName(schema=schema, name="part_config")
    if not may_use or not may_read:
        raise PermissionDeniedError(
            f"This login may not read {config} and part_config_sub.",
            consequence="Nothing was changed.",
            hint=f"GRANT USAGE ON SCHEMA {quote_ident(schema)} TO this login; GRANT SELECT ON {config},"
            f" {quote_ident(schema)}.part_config_sub TO it; GRANT UPDATE (automatic_maintenance) ON {config} TO it.",
        )
    # pg_partman writes names without quotes, whatever is in them.
    parent_table = f"{parent.schema}.{parent.name}"
    row = execute(session, ddl.partman_row(config), parent_table).fetchone()
    if row is None:
        raise RefusedError(
            f"pg_partman does not look after {parent.qname}.",
            consequence="Nothing was changed.",
            hint=f"The column parent_table of {config} lists what it does.",
        )
    data = cast("dict[str, Any]", row[0])
    sub = execute(session, ddl.partman_sub(config), parent_table).fetchone()
    is_time = data["epoch"] == "none" and parent.type_name in TIME_TYPES
    zones = tuple(r[0] for r in reader.query(session, "time_zones"))
    coders = (data.get("time_encoder"), data.get("time_decoder"))
    return PartmanSet(
        config=config,
        version=version,
        parent_table=parent_table,
        kind=data["partition_type"],
        control=data["control"],
        interval=data["partition_interval"],
        premake=data["premake"],
        epoch=data["epoch"],
        datetime_string=data.get("datetime_string"),
        is_automatic=data["automatic_maintenance"] == "on",
        is_infinite=bool(data["infinite_time_partitions"]),
        is_undone=bool(data["undo_in_progress"]),
        has_sub_partitions=sub is not None and bool(sub[0]),
        retention=data["retention"],
        retention_schema=data["retention_schema"],
        keeps_table=bool(data["retention_keep_table"]),
        keeps_index=bool(data["retention_keep_index"]),
        cascades=bool(data.get("drop_cascade_fk")),
        constraint_columns=tuple(data.get("constraint_cols") or ()),
        publications=tuple(data.get("publications") or ()),
        subscription=data.get("subscription_refresh"),
        coder=next((c for c in coders if c), None),
        template=data["template_table"],
        width=_width(session, data["partition_interval"]) if is_time else None,
        retention_width=_width(session, data["retention"]) if is_time and data["retention"] else None,
        zones=zones,
    ), bool(may_update)


def _width(session: Session, interval: str) -> Width | None:
    """Have the server split an interval; None where it is none."""
    try:
        row = reader.query(session, "interval_parts", text=interval).fetchone()
    except psycopg.DataError:
        return None
    assert row is not None
    return Width(months=row[0], days=row[1], seconds=row[2])


def _with_template(session: Session, there: PartmanSet, others: list[int]) -> PartmanSet:
    if there.template is None:
        return there
    rows = reader.query(session, "template_lacks", template=there.template, others=others)
    return replace(there, template_lacks=tuple(r[0] for r in rows))
