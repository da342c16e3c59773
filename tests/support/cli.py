"""The command line, called in the test's own process: what it prints and its exit code, without a new interpreter.

Tests that kill it, press Ctrl-C or feed it a pipe start a process instead.
"""

from __future__ import annotations

import contextlib
import io
import os
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from unittest import mock

from pgscale.cli.app import main


@dataclass(frozen=True)
class Ran:
    exit_code: int
    out: str
    err: str


def pgscale(*arguments: str, env: Mapping[str, str] | None = None) -> Ran:
    """Run `pgscale ARGUMENTS` with an environment that names no server but what `env` adds."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PG") and k != "DATABASE_URL"}
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {**clean, **(env or {})}, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(arguments)
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:  # noqa: BLE001 because a process would print it and end with 1
            traceback.print_exc()
            code = 1
    return Ran(code, out.getvalue(), err.getvalue())
