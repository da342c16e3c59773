"""`pgscale partition adopt`: say what pg_partman does as a set of pgscale.toml, then take the table from it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from pgscale import partition
from pgscale.commands.config import append_set, missing_from, to_toml
from pgscale.commands.lifecycle import text_of
from pgscale.core.model import Json, Report
from pgscale.errors import RefusedError
from pgscale.partition import Adoption, MaintainResult


def adopt(dsn: str | None, table: str, *, config: Path | None = None, dry_run: bool = False) -> Report:
    """Take a table over from pg_partman.

    The set is in the file before pg_partman is switched off, so that somebody looks after the table whenever this is
    killed; called again, it goes on.
    """
    adoption = partition.read_adoption(dsn, table, to_switch=not dry_run)
    planned = partition.maintain(dsn, [adoption.wanted], dry_run=True)
    if planned.has_errors:
        raise RefusedError(
            f"`maintain` could not look after {adoption.table}, so pg_partman keeps it.",
            reasons=tuple(f"{f.id}: {f.message}" for f in planned.findings if f.severity == "error"),
            consequence="Nothing was changed.",
        )
    is_missing = missing_from(config, adoption.wanted) if config is not None else False
    if config is not None and not dry_run:
        append_set(config, adoption.wanted)
    switched = False if dry_run else partition.take_over(dsn, adoption)
    data: dict[str, Json] = {
        "table": str(adoption.table),
        "dry_run": dry_run,
        "partman_version": adoption.version,
        "set": asdict(adoption.wanted),
        "toml": to_toml(adoption.wanted),
        "config": str(config) if config is not None else None,
        "appended": is_missing and not dry_run,
        "was_automatic": adoption.is_automatic,
        "may_switch": adoption.may_switch,
        "switched_off": switched,
        "way_back": adoption.way_back,
        "findings": [f.to_json() for f in adoption.findings],
        "maintain": planned.to_json(),
    }
    lines = _text(adoption, planned, config, dry_run=dry_run, is_missing=is_missing, switched=switched)
    return Report(data=data, text="\n".join(lines))


def _text(
    adoption: Adoption,
    planned: MaintainResult,
    config: Path | None,
    *,
    dry_run: bool,
    is_missing: bool,
    switched: bool,
) -> list[str]:
    lines = [f"{adoption.table} is looked after by pg_partman {adoption.version}. As a set of pgscale.toml:", ""]
    lines += [to_toml(adoption.wanted)]
    for finding in adoption.findings:
        lines.append(f"{finding.severity} {finding.id}: {finding.message}")
        if finding.remedy:
            lines.append(f"    {finding.remedy}")
    lines += ["", "`pgscale partition maintain` would now do this:", "", text_of(planned, ending=False), ""]
    if config is None:
        lines.append("Put the set into your pgscale.toml, or let --config append it.")
    elif is_missing:
        lines.append(f"{'To be appended' if dry_run else 'Appended'} to {config}.")
    else:
        lines.append(f"{config} has it already.")
    if not adoption.is_automatic:
        lines.append("pg_partman's automatic maintenance of it was off already.")
    elif switched:
        lines += ["pg_partman's automatic maintenance of it is off. The way back:", f"    {adoption.way_back};"]
    else:
        lines += ["Without --dry-run this is done, with its way back:", f"    {adoption.switch_off};"]
        lines.append(f"    {adoption.way_back};")
        if not adoption.may_switch:
            lines.append(f"This login may not: GRANT UPDATE (automatic_maintenance) ON {adoption.config} TO it.")
    if dry_run:
        lines.append("Nothing was changed.")
    return lines
