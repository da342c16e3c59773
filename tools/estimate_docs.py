"""Write the computed parts of docs/estimates.md, and its chart.

    python tools/estimate_docs.py [--check]

`--check` writes nothing and fails when the page says something else than the code.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from estimates.paper import TB, table_of, trap_table
from estimates.simulation import Simulated, looks_table, simulate

PAGE = Path(__file__).resolve().parent.parent / "docs" / "estimates.md"


def parts(found: Simulated) -> dict[str, str]:
    """Return the computed parts of the page, by the name in their markers."""
    return {
        "trap": trap_table(),
        "looks": looks_table(found),
        "paper 1 TB": table_of(TB),
        "paper 10 TB": table_of(10 * TB),
    }


def renewed(page: str, made: dict[str, str]) -> str:
    """Return the page with its computed parts as they are now.

    Raises:
        ValueError: a part has no place, or a place no part.
    """
    places = re.findall(r"<!-- computed: (.+?) -->", page)
    if sorted(places) != sorted(made):
        raise ValueError(f"the page has places for {places}, and the parts are {list(made)}")
    for name, text in made.items():
        marker = re.escape(name)
        pattern = rf"(<!-- computed: {marker} -->\n)(?:.*?\n)??(<!-- end -->)"
        page = re.sub(pattern, lambda m, t=text: f"{m[1]}{t}\n{m[2]}", page, flags=re.DOTALL)
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the page is out of date")
    given = parser.parse_args(arguments)
    found = simulate()
    page = PAGE.read_text(encoding="utf-8")
    made = renewed(page, parts(found))
    if given.check:
        if made != page:
            print(f"{PAGE.name} is out of date: run `make estimates`", file=sys.stderr)
        return int(made != page)
    PAGE.write_text(made, encoding="utf-8")
    from estimates.chart import draw  # noqa: PLC0415 because --check needs no matplotlib

    draw(found, PAGE.with_name("estimates-trap"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
