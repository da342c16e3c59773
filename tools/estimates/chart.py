"""The chart of the burst trap, as PNG and SVG."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from estimates.simulation import Look, Simulated

# matplotlib's own annotations are partial, which the strict checker does not take.
mpl: Any = import_module("matplotlib")
mpl.use("Agg")
plt: Any = import_module("matplotlib.pyplot")

HOUR = 3600.0


def draw(found: Simulated, target: Path) -> tuple[Path, Path]:
    """Draw what was announced as the whole duration, over the hours of the run.

    Args:
        target: the path without its suffix.
    """
    looks = [x for x in found.looks if x.at_s >= 60]
    with plt.rc_context({"font.size": 10, "svg.hashsalt": "pgscale", "axes.spines.top": False}):
        figure, axes = plt.subplots(figsize=(10, 4.5), layout="constrained")
        axes.axhline(found.took_s / HOUR, color="#1e8449", linewidth=1.2, label="in truth")
        axes.plot(_at(looks), [x.naive_s / HOUR for x in looks], color="#c0392b", linewidth=1.2, label="present rate")
        modelled = [(x.at_s / HOUR, x.model) for x in looks if x.model is not None]
        axes.fill_between(
            [at for at, _ in modelled],
            [span[0] / HOUR for _, span in modelled],
            [span[1] / HOUR for _, span in modelled],
            color="#1f5fa8", alpha=0.25, linewidth=0, label="pgscale's range, storage described",
        )  # fmt: skip
        axes.set_xscale("log")
        axes.set_ylim(0, found.took_s / HOUR * 1.35)
        axes.set_xlabel("hours since the run began")
        axes.set_ylabel("hours the run would take in all")
        axes.set_title(
            "A gp2 volume of 500 GB falls to its baseline after an hour: what is announced meanwhile (simulated)",
            loc="left",
            fontsize=10,
        )
        axes.legend(loc="lower right", frameon=False)
        png, svg = target.with_suffix(".png"), target.with_suffix(".svg")
        figure.savefig(png, dpi=130)
        figure.savefig(svg, metadata={"Date": None})
        plt.close(figure)
    return png, svg


def _at(looks: list[Look]) -> list[float]:
    return [x.at_s / HOUR for x in looks]
