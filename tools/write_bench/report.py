"""The page of `make bench-write`."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import cast

from write_bench.model import Part, Results, rate_of

_ABOUT = {
    "copy": "Rows of Python into a table",
    "arrow": "Rows of Arrow into a table (payload text, for not every library writes jsonb)",
    "upsert": "Counts added up over 100,000 keys, half of them there already",
    "load": "A CSV with a header",
}


def render(results: Results) -> str:
    """Return the page in Markdown."""
    lines = ["# Writing, measured", ""]
    if "ground" in results:
        ground = results["ground"]
        settings = ", ".join(f"{name} {value}" for name, value in ground["settings"].items())
        lines += [
            f"`{ground['command']}` on {ground['date']}: {ground['server']}, Python {ground['python']},"
            f" {ground['processor']}, {ground['cores']} cores for server and client together; {settings}.",
            "",
            "The table is `id bigserial PRIMARY KEY, user_id bigint, type text, payload jsonb, at timestamptz`. All"
            " ways of a table are measured in turn in one run; the figures are medians of the rounds, with the least"
            " and the most.",
            "",
        ]
    for name, about in _ABOUT.items():
        part = results.get(name)
        if part is not None:
            lines += _part(cast("Part", part), about)
    if "bad" in results:
        lines += _bad(results["bad"])
    if "sizes" in results:
        lines += [
            "## What a row costs as their number grows",
            "",
            "| rows | µs a row | peak of memory |",
            "|---|---|---|",
        ]
        lines += [
            f"| {size['rows']:,} | {size['us_per_row']:.2f} | {size['peak_rss_bytes'] / 1048576:.0f} MB |"
            for size in results["sizes"]
        ]
        lines += [""]
    return "\n".join(lines)


def _part(part: Part, about: str) -> list[str]:
    base = rate_of(part, part["base"])
    lines = [
        f"## {about}",
        "",
        f"{part['rows']:,} rows.",
        "",
        "| way | rows/s | least – most | ratio |",
        "|---|---|---|---|",
    ]
    for way in part["ways"]:
        rates = way["rates"]
        if not rates:
            lines.append(f"| {way['name']} | not measured: {way['reason']} | | |")
            continue
        ratio = f"{median(rates) / base:.2f}" if base else ""
        lines.append(f"| {way['name']} | {median(rates):,.0f} | {min(rates):,.0f} – {max(rates):,.0f} | {ratio} |")
    return [*lines, ""]


def _bad(parts: Sequence[Part]) -> list[str]:
    lines = [
        "## One bad row in 10,000, set aside",
        "",
        f"{parts[0]['rows']:,} rows of `id bigint PRIMARY KEY, place bigint, stars integer, said text`, against the"
        " same without a bad one.",
        "",
        "| way, and what refuses | rows/s, none bad | with bad ones | ratio |",
        "|---|---|---|---|",
    ]
    for part in parts:
        base, *others = part["ways"]
        for way in others:
            if not (base["rates"] and way["rates"]):
                lines.append(f"| {part['title']} | not measured: {base['reason'] or way['reason']} | | |")
                continue
            good, bad = median(base["rates"]), median(way["rates"])
            lines.append(f"| {part['title']} | {good:,.0f} | {bad:,.0f} | {bad / good:.2f} |")
    return [*lines, ""]
