"""`pgscale dead-letters`: list them, write their rows again, drop them."""

from __future__ import annotations

import json
from dataclasses import asdict

from pgscale.core.model import Json, Progress, Report, Watch
from pgscale.core.units import format_count
from pgscale.errors import UsageError
from pgscale.write.dead_letters import reader, runner
from pgscale.write.dead_letters.reader import Filter, KeptLetter

_SHOWN = 160


def list_letters(dsn: str | None, wanted: Filter, most: int) -> Report:
    """Show letters, oldest first."""
    found = reader.list_letters(dsn, wanted, most)
    data: dict[str, Json] = {"letters": [letter.to_json() for letter in found.letters], "total": found.total}
    lines = [line for letter in found.letters for line in _lines(letter)]
    shown = len(found.letters)
    rest = f"; {shown} of them are shown, --limit shows more" if shown < found.total else ""
    lines.append(f"{format_count(found.total, 'dead letter')}{rest}.")
    return Report(data=data, text="\n".join(lines))


def retry(dsn: str | None, wanted: Filter, watch: Watch, *, every: bool) -> Report:
    """Write the rows of letters again; exit code 1 when some could not be."""
    _check_chosen(wanted, every=every)

    def progress(done: int, total: int) -> None:
        watch(Progress(table="pgscale.dead_letter", phase="retry", done=done, total=total))

    result = runner.retry_letters(dsn, wanted, progress)
    lines = [f"letter {one.id} of {one.table}: {one.reason}" for one in result.failures]
    if result.failed > len(result.failures):
        lines.append("…")
    gone = f", {result.gone} were taken by somebody else" if result.gone else ""
    lines.append(f"{format_count(result.written, 'row')} written, {result.failed} failed again and stay{gone}.")
    return Report(data=asdict(result), text="\n".join(lines), exit_code=1 if result.failed else 0)


def drop(dsn: str | None, wanted: Filter, *, every: bool) -> Report:
    """Delete letters and the rows they keep."""
    _check_chosen(wanted, every=every)
    dropped = runner.drop_letters(dsn, wanted)
    return Report(data={"dropped": dropped}, text=f"{format_count(dropped, 'dead letter')} dropped.")


def _check_chosen(wanted: Filter, *, every: bool) -> None:
    if every == (wanted != Filter()):
        raise UsageError("Say which letters: by ids, --table, --source, --sqlstate, --older-than; or --all.")


def _lines(letter: KeptLetter) -> list[str]:
    where = "" if letter.index is None else f" row {letter.index}"
    column = "" if letter.column is None else f", column {letter.column}"
    state = f" ({letter.sqlstate})" if letter.sqlstate else ""
    tries = f", tried again {format_count(letter.tries, 'time')}" if letter.tries else ""
    source = f" from {letter.source}" if letter.source else ""
    row = json.dumps(letter.row, ensure_ascii=False)
    return [
        f"{letter.id}  {letter.at:%Y-%m-%d %H:%M:%S%z}  {letter.table}{where}{column}{source}{tries}",
        f"    {letter.reason}{state}",
        f"    {row if len(row) <= _SHOWN else row[: _SHOWN - 1] + '…'}",
    ]
