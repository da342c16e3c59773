"""The corrected file: what is wrong becomes a comment that says why, and what stands for it today follows. Pure."""

from __future__ import annotations

from pgscale.doctor.tuning.conf import Conf
from pgscale.doctor.tuning.model import LineFinding


def fixed(conf: Conf, findings: tuple[LineFinding, ...]) -> str:
    """Return the text of the file itself, corrected; files that it includes are left alone.

    Lines that are well stay as they are, byte for byte.
    """
    wrong = {finding.line: finding for finding in findings if finding.file == conf.path}
    made: list[str] = []
    for number, line in enumerate(conf.lines, start=1):
        finding = wrong.get(number)
        if finding is None:
            made.append(line)
            continue
        end = "\r" if line.endswith("\r") else ""
        made.append(f"#{line.removesuffix(end)}  # pgscale: {finding.problem}{end}")
        made += [f"{new}{end}" for new in finding.replacement]
    return "".join(f"{line}\n" for line in made)


def elsewhere(conf: Conf, findings: tuple[LineFinding, ...]) -> tuple[str, ...]:
    """Return the included files that need correcting, each once."""
    return tuple(dict.fromkeys(finding.file for finding in findings if finding.file != conf.path))
