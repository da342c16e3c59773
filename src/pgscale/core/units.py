"""Durations and sizes as people write and read them. Pure."""

from __future__ import annotations

import re

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|m|h|d)?\s*$")
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(b|kb|mb|gb|tb)?\s*$", re.IGNORECASE)
_UNITS = ("b", "kb", "mb", "gb", "tb")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def parse_duration_s(text: str) -> float:
    """Return seconds from `250ms`, `1s`, `1.5 min`, `2h`; a bare number is seconds.

    Raises:
        ValueError: it is not a duration.
    """
    match = _DURATION.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write 250ms, 1s, 2min or 1h")
    return float(match[1]) * _SECONDS[match[2] or "s"]


def parse_bytes(text: str) -> int:
    """Return bytes from `512MB`, `1.5 TB`, `80 gb`: powers of 1024, as PostgreSQL reads them; a bare number is bytes.

    Raises:
        ValueError: it is not a size.
    """
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write 512MB, 80GB or 1.5TB")
    return round(float(match[1]) * 1024 ** _UNITS.index((match[2] or "b").lower()))


def format_bytes(count: float) -> str:
    """Return `822 MB`: powers of 1024, as PostgreSQL's pg_size_pretty."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 10_240:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.0f} TB"


def format_eta(least_s: float, most_s: float | None) -> str:
    """Return `ETA 2 h 10 min to 3 h 0 min`; `or more` where the most is not known."""
    least = format_duration(least_s)
    if most_s is None:
        return f"ETA {least} or more"
    most = format_duration(most_s)
    return f"ETA {least}" if least == most else f"ETA {least} to {most}"


def format_count(count: int, noun: str) -> str:
    """Return `1 call`, `1,234 calls`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Return `450 ms`, `12.3 s`, `4 min 10 s`, `3 h 20 min` or `2 d 4 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
