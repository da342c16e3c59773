"""A run that was told not to cut over: it waits in a thread, applying, until ordered to go on or to stop."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import TracebackType
from typing import Self

from pgscale import partition
from pgscale.core.model import Progress, Watch, ignore_progress
from pgscale.errors import PgscaleError
from pgscale.partition import Options, RunResult


class WaitingRun:
    """Starts `partition.run(cutover=False)` in a thread; inside the `with` it is ready for its cut-over.

    A run that is still waiting at the end of the `with` is aborted.
    """

    def __init__(self, dsn: str, table: str, options: Options, watch: Watch = ignore_progress) -> None:
        self.dsn, self.table = dsn, table
        self.result: RunResult | None = None
        self.error: BaseException | None = None
        self._watch = watch
        self._options = replace(options, cutover=False)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            self.result = partition.run(self.dsn, self.table, self._options, watch=self._seen)
        except BaseException as error:  # noqa: BLE001 because it is handed to the test
            self.error = error

    def _seen(self, progress: Progress) -> None:
        self._watch(progress)

    def __enter__(self) -> Self:
        self._thread.start()
        until = time.monotonic() + 60
        while not self._is_ready():
            if not self._thread.is_alive() or time.monotonic() > until:
                raise AssertionError(f"the run did not become ready: {self.error!r}") from self.error
            time.sleep(0.05)
        return self

    def _is_ready(self) -> bool:
        return any(s.result.state == "ready" for s in partition.status(self.dsn, self.table))

    def join(self) -> None:
        """Wait for the run to end, as somebody ordered it to."""
        self._thread.join(timeout=60)
        assert not self._thread.is_alive(), "the run does not end"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread.is_alive():
            try:
                partition.abort(self.dsn, self.table)
            except PgscaleError:
                if error is None:
                    raise
            self._thread.join(timeout=60)
