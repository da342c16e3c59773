"""The command line: parse → command → render."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a Ctrl-C while Python still loads it is one word too, not a traceback."""
    try:
        from pgscale.cli.app import main as run  # noqa: PLC0415 because loading it takes long enough to be interrupted
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    run(arguments)
