"""The command line: parse → command → render."""

from pgscale.cli.app import main

__all__ = ["main"]
