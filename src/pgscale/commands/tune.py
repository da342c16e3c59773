"""`pgscale tune`: settings for the machine and its work; configuration files held against a version."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pgscale.connect.session import open_session
from pgscale.core.model import Json, Report
from pgscale.core.units import format_bytes, format_count
from pgscale.doctor.tuning import fixing, known
from pgscale.doctor.tuning.advice import advise
from pgscale.doctor.tuning.conf import Conf, read_conf
from pgscale.doctor.tuning.ddl import alter_system, conf_line, pasted
from pgscale.doctor.tuning.judging import judge
from pgscale.doctor.tuning.machine import Given, read_machine
from pgscale.doctor.tuning.model import Advice, LineFinding, Machine, Memory, Server, Workload
from pgscale.doctor.tuning.reader import LOOKER, read_server
from pgscale.doctor.tuning.runner import CHANGER, Applied
from pgscale.doctor.tuning.runner import apply as apply_all
from pgscale.doctor.tuning.values import quote
from pgscale.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the server is for, and what is known of its machine.

    Args:
        connections: what max_connections is to be; None leaves it.
    """

    machine: Given
    workload: Workload = "mixed"
    connections: int | None = None


def tune(dsn: str | None, wish: Wish, *, apply: bool = False) -> Report:
    """Propose settings, and set them when told to.

    Raises:
        UsageError: the machine is neither given nor to be seen.
        PermissionDeniedError, RefusedError, RunFailedError: as runner.apply().
    """
    with open_session(dsn, CHANGER if apply else LOOKER) as session:
        server = read_server(session)
        machine = read_machine(server, wish.machine)
        advice = advise(server, machine, wish.workload, wish.connections)
        applied = apply_all(session, advice.proposals) if apply and advice.proposals else None
    data: dict[str, Json] = {
        "version": server.version,
        "machine": machine.to_json(),
        "workload": wish.workload,
        **advice.to_json(),
        "conf": [conf_line(proposal) for proposal in advice.proposals],
        "sql": _statements(advice),
        "applied": None if applied is None else _applied_json(applied),
    }
    return Report(data=data, text="\n".join(_lines(server, machine, wish, advice, applied)))


def _statements(advice: Advice) -> list[Json]:
    set_all: list[Json] = [pasted(alter_system(proposal.name, proposal.value)) for proposal in advice.proposals]
    return [*set_all, "SELECT pg_reload_conf();"] if set_all else []


def _applied_json(applied: Applied) -> dict[str, Json]:
    return {
        "in_force": list(applied.in_force),
        "pending_restart": list(applied.pending_restart),
        "overruled": dict(applied.overruled),
        "undo": list(applied.undo),
    }


def _lines(server: Server, machine: Machine, wish: Wish, advice: Advice, applied: Applied | None) -> list[str]:
    major, minor = divmod(server.version, 10_000)
    lines = [f"PostgreSQL {major}.{minor}, for {wish.workload} work.", *machine.known_by, ""]
    for proposal in advice.proposals:
        lines += [
            f"# {proposal.reason}.",
            f"#   {proposal.source}. {'Needs a restart' if proposal.restart else 'A reload is enough'}.",
            *(f"#   But {note}." for note in proposal.notes),
            f"-{proposal.name} = {quote(proposal.now)}",
            f"+{conf_line(proposal)}",
            "",
        ]
    if not advice.proposals:
        lines += ["Nothing differs materially from what would be proposed.", ""]
    lines.append(f"Memory, if everything is used at once: {_sum(advice.after)}.")
    if advice.proposals:
        lines.append(f"Now: {_sum(advice.before)}.")
    lines += advice.notes
    if applied is not None:
        lines += ["", *_applied(applied)]
    elif advice.proposals:
        lines += ["", "Nothing was changed. `pgscale tune … --apply` sets them, or these do:"]
        lines += [f"  {statement}" for statement in _statements(advice)]
    return lines


def _sum(memory: Memory) -> str:
    processes = f"{memory.connections} connections + {memory.workers} workers"
    return (
        f"{format_bytes(memory.sum_bytes)} of {format_bytes(memory.ram_bytes)}"
        f" (shared buffers {format_bytes(memory.shared_bytes)}, work memory {format_bytes(memory.work_bytes)} for"
        f" {processes} with {format_count(memory.nodes, 'node')} each, autovacuum"
        f" {format_bytes(memory.maintenance_bytes)})" + ("" if memory.fits else ": too much")
    )


def _applied(applied: Applied) -> list[str]:
    lines: list[str] = []
    if applied.in_force:
        lines.append(f"In force: {', '.join(applied.in_force)}.")
    if applied.pending_restart:
        lines.append(f"Waiting for a restart: {', '.join(applied.pending_restart)}.")
    lines += [f"Set, but {name} still comes from: {source}." for name, source in applied.overruled]
    return [*lines, "To take it back:", *(f"  {statement}" for statement in applied.undo)]


# Files


def check(path: Path, version: int | None = None, fix: Path | None = None) -> Report:
    """Hold a configuration file against a version, and write it corrected when asked to. Needs no server.

    Args:
        version: major version; None takes it from PG_VERSION beside the file or from its path, else the newest.
        fix: where to write the corrected file; `-` makes it the text of the report.

    Raises:
        UsageError: a file cannot be read or written, or the version is not known.
    """
    conf = read_conf(path)
    major, because = (version, "as you said") if version is not None else _version_for(path)
    findings = judge(conf, major)
    corrected = fixing.fixed(conf, findings)
    left = fixing.elsewhere(conf, findings)
    shown = _printable(corrected)
    printing = fix is not None and str(fix) == "-"
    if fix is not None and not printing:
        _write(fix, path, corrected)
    data: dict[str, Json] = {
        "file": conf.path,
        "files": list(conf.files),
        "version": major,
        "version_from": because,
        "findings": [_finding_json(finding) for finding in findings],
        "fixed": shown if fix is not None else None,
        "fixed_file": None if fix is None or printing else str(fix),
        "not_fixed": list(left) if fix is not None else [],
    }
    code = 1 if findings else 0
    if printing:
        return Report(data=data, text=shown.removesuffix("\n"), exit_code=code)
    text = _check_lines(conf, major, because, findings)
    if fix is not None:
        text.append(f"{fix} is the corrected file; what was wrong stands in it as a comment.")
        text += [f"{file} is included and not corrected: check it by itself." for file in left]
    return Report(data=data, text=_printable("\n".join(text)), exit_code=code)


def _printable(text: str) -> str:
    """Return text from a file of any encoding so that it can be printed; bytes that are no UTF-8 are replaced."""
    return text.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")


def _finding_json(finding: LineFinding) -> Json:
    shown = {"text": _printable(finding.text), "fact": _printable(finding.fact)}
    return {**finding.to_json(), **shown, "replacement": [_printable(line) for line in finding.replacement]}


def _version_for(path: Path) -> tuple[int, str]:
    beside = path.resolve().parent / "PG_VERSION"
    try:
        return int(beside.read_text()), f"by {beside}"
    except (OSError, ValueError):
        pass
    # /etc/postgresql/16/main, /var/lib/pgsql/16/data
    for part in reversed(path.resolve().parts[:-1]):
        if re.fullmatch(r"1\d", part) and known.OLDEST <= int(part) <= known.NEWEST:
            return int(part), f"by its directory, {path.resolve().parent}"
    return known.NEWEST, "the newest; --for says another"


def _write(target: Path, source: Path, text: str) -> None:
    if target.exists() and target.samefile(source):
        raise UsageError(f"{target} is the file itself.", hint="Write the corrected one to another and compare them.")
    try:
        target.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}.") from None


_MARKS = {"critical": "✗", "warning": "!", "info": "·"}


def _check_lines(conf: Conf, major: int, because: str, findings: tuple[LineFinding, ...]) -> list[str]:
    lines = [f"{conf.path} for PostgreSQL {major} ({because}):"]
    for finding in findings:
        lines += [
            f"{_MARKS[finding.severity]} {finding.file}:{finding.line}: {finding.problem}: {finding.text.strip()}",
            f"    {finding.fact}",
            *(f"    → {new}" for new in finding.replacement or ("remove the line",)),
        ]
    if not findings:
        return [f"{lines[0]} nothing is wrong."]
    critical = sum(finding.severity == "critical" for finding in findings)
    return [*lines, f"{format_count(len(findings), 'finding')}, {critical} of them critical."]
