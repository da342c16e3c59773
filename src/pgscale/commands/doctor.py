"""`pgscale doctor`: run the checks, say the answers for a person and as JSON; explain a check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from pgscale.commands import FILE_NAME
from pgscale.commands.config import read_config
from pgscale.commands.finding_text import MARKS, section, wrapped
from pgscale.core.finding import Answer, Findings, NotChecked, Severity, rank
from pgscale.core.model import Json, Report
from pgscale.core.units import format_count, format_duration
from pgscale.doctor import registry
from pgscale.doctor.checks.index_use import UNUSED
from pgscale.doctor.facts import queries_of
from pgscale.doctor.limits import Limits
from pgscale.doctor.runner import Checkup, run_checks
from pgscale.doctor.samples import FileSamples, NoSamples, Samples
from pgscale.errors import UsageError


def examine(
    dsn: str | None,
    *,
    only: tuple[str, ...],
    ignore: tuple[str, ...],
    fail_on: Severity,
    samples: str | None,
    config: Path | None,
    may_sample: bool = False,
    replicas: tuple[str, ...] = (),
) -> Report:
    """Answer every chosen check; exit code 1 when something as bad as `fail_on` was found.

    Args:
        only, ignore: ids and areas of checks.
        replicas: DSNs of standbys, whose use of indexes counts as well.
        samples: the directory of earlier runs' counters; `none`; None for the user's own.
        config: None reads pgscale.toml of the working directory where there is one.
        may_sample: some rows of tables may be read, by checks that can tell more by them.
    """
    limits = _limits(config)
    checks = registry.choose(only, (*ignore, *limits.ignore))
    if replicas and UNUSED not in checks:
        raise UsageError(
            f"--replica serves {UNUSED.id} only, which is not among the chosen checks.", hint="Leave one of them out."
        )
    checkup = run_checks(dsn, checks, limits, _samples(samples), replicas, may_sample=may_sample)
    bad = checkup.worst is not None and rank(checkup.worst) >= rank(fail_on)
    return Report(data=_data(checkup), text="\n".join(_page(checkup)), exit_code=1 if bad else 0)


def explain(check_id: str, config: Path | None) -> Report:
    """Say what a check means, what it reads and by which thresholds it judges; asks no server."""
    check = registry.find(check_id)
    thresholds = check.limits(_limits(config))
    queries = {
        what.name: [
            {"since": v.since, "until": v.until, "sql": v.text.decode()}
            for v in queries_of(what).variants()
            if v.name == what.query
        ]
        for what in check.reads
    }
    products = {what.name: what.extension or "PostgreSQL" for what in check.reads}
    lines = [f"{check.id}: {check.question}", "", *wrapped("", check.about), "", *wrapped("", check.source)]
    if thresholds:
        lines += ["", f"Thresholds, as [doctor.{check.area}] of pgscale.toml may set them"]
        lines += [f"  {name} = {value:_}" for name, value in thresholds.items()]
    for name, variants in queries.items():
        for variant in variants:
            lines += [
                "",
                f"-- {name}{_gate(products[name], variant['since'], variant['until'])}",
                str(variant["sql"]) + ";",
            ]
    data: dict[str, Json] = {
        "check": check.id,
        "question": check.question,
        "about": check.about,
        "source": check.source,
        "thresholds": cast("dict[str, Json]", thresholds),
        "queries": cast("dict[str, Json]", queries),
    }
    return Report(data=data, text="\n".join(lines))


def _gate(product: str, since: object, until: object) -> str:
    parts = [f"from {_version(product, since)}" if isinstance(since, int) and since else ""]
    parts += [f"before {_version(product, until)}" if isinstance(until, int) else ""]
    said = " ".join(part for part in parts if part)
    return f" ({product} {said})" if said else ""


def _version(product: str, number: int) -> str:
    major, minor = divmod(number // 100, 100)
    return str(major) if product == "PostgreSQL" else f"{major}.{minor}"


def _limits(config: Path | None) -> Limits:
    if config is None and not Path(FILE_NAME).exists():
        return Limits()
    return read_config(config).doctor


def _samples(given: str | None) -> Samples:
    if given == "none":
        return NoSamples()
    return FileSamples(Path(given) if given else None)


def _data(checkup: Checkup) -> dict[str, Json]:
    server = checkup.server
    return {
        "server": {
            "version": server.version_text,
            "database": server.database,
            "role": server.role,
            "is_in_recovery": server.is_in_recovery,
            "started_at": server.started_at.isoformat(),
            "read_at": server.read_at.isoformat(),
        },
        "took_s": round(checkup.took_s, 3),
        "worst": checkup.worst,
        "checks": [{"check": check.id, "title": check.title, **answer.to_json()} for check, answer in checkup.answers],
        "notes": list(checkup.notes),
    }


def _page(checkup: Checkup) -> Iterator[str]:
    server = checkup.server
    up = format_duration((server.read_at - server.started_at).total_seconds())
    kind = "a standby, " if server.is_in_recovery else ""
    count = format_count(len(checkup.answers), "check")
    yield f"PostgreSQL {server.version_text}, database {server.database}, {kind}up for {up}; {count} in" + (
        f" {format_duration(checkup.took_s)}"
    )
    yield ""
    wide = max(len(check.id) for check, _ in checkup.answers)
    for check, answer in checkup.answers:
        yield from wrapped(f"{_mark(answer)} {check.id:<{wide}}  ", _line(answer))
    for _, answer in checkup.answers:
        if isinstance(answer, Findings):
            for finding in answer.items:
                yield ""
                yield from section(finding)
    for note in checkup.notes:
        yield ""
        yield from wrapped("Note: ", note)


def _mark(answer: Answer) -> str:
    return MARKS[answer.severity if isinstance(answer, Findings) else answer.answer]


def _line(answer: Answer) -> str:
    if isinstance(answer, Findings):
        return answer.summary
    if isinstance(answer, NotChecked):
        hint = f" → {answer.hint}" if answer.hint else ""
        return f"not checked, because {answer.because}.{hint}"
    return answer.text
