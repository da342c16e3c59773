"""A Ctrl-C while a server of ours starts leaves neither a process nor a directory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

START = "from pgscale.embedded import Server, wheel_binaries\nwith Server(wheel_binaries(18)): pass"


@pytest.mark.parametrize("later_s", [0.0, 0.4])
def test_an_interrupted_start_leaves_nothing(later_s: float) -> None:
    # pytest's own directories are closed to the server's user.
    place = Path(tempfile.mkdtemp(prefix="pgscale-test-interrupt-"))
    place.chmod(0o755)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", START], env={**os.environ, "TMPDIR": str(place)}, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 60
        while not (any(place.glob("pgscale-server-*/*")) or process.poll() is not None):
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(later_s)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
        assert list(place.iterdir()) == []
    finally:
        shutil.rmtree(place, ignore_errors=True)
