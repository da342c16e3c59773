"""`pgscale load`: call the room, say the answer for a person and as JSON."""

from __future__ import annotations

from pgscale.core.model import Report, Watch
from pgscale.core.units import format_count, format_duration
from pgscale.write import loading
from pgscale.write.loading import LoadOptions, LoadResult


def load(dsn: str | None, table: str, file: str, options: LoadOptions, watch: Watch) -> Report:
    """Load a file; lines that were rejected are bad news."""
    result = loading.load(dsn, table, file, options, watch)
    return Report(data=result.to_json(), text=_text(result), exit_code=1 if result.counts.rejected else 0)


def _text(result: LoadResult) -> str:
    counts = result.counts
    rows = format_count(counts.rows, "row")
    if result.was_complete:
        also = f", {counts.rejected:,} rejected before" if counts.rejected else ""
        return f"{result.source} is in {result.table} already: {rows}{also}. Nothing was left to do."
    what = f"{rows} of {result.source} in {result.table}"
    if counts.updated or counts.inserted != counts.rows:
        what += f" ({counts.inserted:,} inserted, {counts.updated:,} updated)"
    seconds = max(result.seconds, 0.001)
    pace = f", {counts.rows / seconds:,.0f} rows/s" if not result.resumed else ""
    workers = format_count(result.workers, "worker")
    lines = [f"{what} in {format_duration(result.seconds)} with {workers}{pace}."]
    if result.resumed:
        lines.append(f"{format_count(result.resumed, 'part')} of {result.parts:,} were there from before.")
    if counts.rejected:
        verb = "does" if counts.rejected == 1 else "do"
        lines.append(f"{format_count(counts.rejected, 'line')} {verb} not fit: see {result.rejects}.")
    lines += [f"Warning: {warning}" for warning in result.warnings]
    return "\n".join(lines)
