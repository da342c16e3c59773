"""Findings of lint for machines: annotations of GitHub's workflow commands, and SARIF 2.1.0."""

from __future__ import annotations

import json
from pathlib import Path

from pgscale import __version__
from pgscale.core.finding import Finding
from pgscale.core.model import Json
from pgscale.doctor.lint.model import Placed
from pgscale.doctor.lint.registry import RULES
from pgscale.doctor.lint.result import Result

_GITHUB = {"critical": "error", "warning": "warning", "info": "notice"}
_SARIF = {"critical": "error", "warning": "warning", "info": "note"}


def github(result: Result) -> str:
    """Return a workflow command a finding, which GitHub shows at the line of the file."""
    return "\n".join(_annotation(placed) for placed in result.findings)


def _annotation(placed: Placed) -> str:
    finding = placed.finding
    where = f"file={_property(placed.file)},line={placed.line},title={_property(finding.check)}"
    return f"::{_GITHUB[finding.severity]} {where}::{_data(_message(finding))}"


def _message(finding: Finding) -> str:
    parts = [finding.fact, finding.cost]
    for remedy in finding.remedies[:1]:
        parts += [f"Instead: {remedy.why}" if remedy.why else "Instead:", remedy.text]
    return "\n".join(part for part in parts if part)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def sarif(result: Result) -> str:
    """Return one SARIF log with one run."""
    ids = [rule.id for rule in RULES]
    rules: list[Json] = [
        {"id": rule.id, "shortDescription": {"text": rule.title}, "fullDescription": {"text": rule.about}}
        for rule in RULES
    ]
    results: list[Json] = [_result(placed, ids) for placed in result.findings]
    log: dict[str, Json] = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "pgscale lint", "version": __version__, "rules": rules}},
                "columnKind": "unicodeCodePoints",
                "results": results,
            }
        ],
    }
    return json.dumps(log, ensure_ascii=False, indent=2)


def _result(placed: Placed, ids: list[str]) -> dict[str, Json]:
    path = Path(placed.file)
    uri = path.as_uri() if path.is_absolute() else path.as_posix()
    return {
        "ruleId": placed.finding.check,
        "ruleIndex": ids.index(placed.finding.check),
        "level": _SARIF[placed.finding.severity],
        "message": {"text": _message(placed.finding)},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": placed.line}}}],
    }
