"""What every command has: --dsn, --json, durations and sizes, and how a report is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pgscale.core.model import Report
from pgscale.core.units import parse_bytes, parse_duration_s

F = TypeVar("F", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """`250ms`, `1s`, `2min`: seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return parse_duration_s(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()


class Size(click.ParamType[int]):
    """`512MB`, `80GB`: bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return parse_bytes(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = Size()


def common(function: F) -> F:
    """--dsn and --json, which every verb has."""
    function = click.option("--json", "as_json", is_flag=True, help="Print exactly one JSON document.")(function)
    return click.option("--dsn", help="Connection string or URL.")(function)


def render(report: Report, as_json: bool) -> None:
    """Print the report and end with its exit code."""
    click.echo(json.dumps(report.data, ensure_ascii=False) if as_json else report.text)
    if report.exit_code:
        sys.exit(report.exit_code)
