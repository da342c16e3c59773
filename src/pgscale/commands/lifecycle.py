"""`pgscale partition maintain` and `schedule`: read the configuration, call the room, say the answer."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pgscale import partition
from pgscale.commands.config import Config, read_config
from pgscale.core.model import Report, Watch
from pgscale.errors import UsageError
from pgscale.partition import Limits, MaintainResult, PartitionSet


def maintain(
    dsn: str | None,
    table: str | None,
    watch: Watch,
    *,
    config: Path | None = None,
    dry_run: bool = False,
    now: datetime | None = None,
    limits: Limits | None = None,
) -> Report:
    """Look after every set of pgscale.toml, or after one; exit code 1 when something needs a person."""
    sets = _chosen(read_config(config), table)
    result = partition.maintain(dsn, sets, now, dry_run, watch, limits)
    return Report(data=result.to_json(), text=text_of(result), exit_code=1 if result.has_errors else 0)


def _chosen(config: Config, table: str | None) -> tuple[PartitionSet, ...]:
    if not config.partitions:
        raise UsageError("There is no [[partitions]] in the configuration.", hint="Add one with `table` and `period`.")
    if table is None:
        return config.partitions
    chosen = tuple(s for s in config.partitions if _names_same(s.table, table))
    if not chosen:
        known = ", ".join(s.table for s in config.partitions)
        raise UsageError(f"The configuration has no `table` {table!r}.", hint=f"It has {known}.")
    return chosen


def _names_same(configured: str, given: str) -> bool:
    """Without a schema, a name means the table of that name in whichever schema is configured."""
    return configured == given or ("." not in given and configured.rpartition(".")[2] == given)


def text_of(result: MaintainResult, *, ending: bool = True) -> str:
    """Return what was or would be done, for a person."""
    lines: list[str] = []
    for each in result.sets:
        lines.append(each.table)
        for done in each.actions:
            data = done.to_json()
            lines.append(f"  {done.state}: {data['text']}")
            if done.state == "planned":
                lines += [f"      | {statement}" for statement in done.sql]
            if done.file is not None:
                lines.append(f"      {done.file}")
        for finding in each.findings:
            lines.append(f"  {finding.severity} {finding.id}: {finding.message}")
            if finding.remedy:
                lines.append(f"      {finding.remedy}")
        if not each.actions and not each.findings:
            lines.append("  nothing to do")
    if result.dry_run and ending:
        lines.append("Nothing was changed.")
    return "\n".join(lines)
