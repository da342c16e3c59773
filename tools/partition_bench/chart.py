"""The chart of the load's latency through one run, as PNG and SVG."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from partition_bench.model import LoadRun

# matplotlib's own annotations are partial, which the strict checker does not take.
mpl: Any = import_module("matplotlib")
mpl.use("Agg")
plt: Any = import_module("matplotlib.pyplot")
ticker: Any = import_module("matplotlib.ticker")

_SHADES = ("#eef3f8", "#dde7f0")
_LABEL_SHARE = 0.045


def draw(run: LoadRun, *, server: str, rate: float, target: Path) -> tuple[Path, Path]:
    """Draw p50, p99 and the slowest of every half a second, the phases shaded, the cut-over marked.

    Args:
        target: the path without its suffix.

    Returns:
        The PNG and the SVG.
    """
    with plt.rc_context({"font.size": 10, "svg.hashsalt": "pgscale", "axes.spines.top": False}):
        figure, axes = plt.subplots(figsize=(11, 5), layout="constrained")
        _draw_phases(axes, run)
        buckets = run["buckets"]
        at = [bucket["at_s"] for bucket in buckets]
        axes.plot(at, [b["max_ms"] for b in buckets], ".", color="#b8b8b8", markersize=4, label="slowest")
        axes.plot(at, [b["p99_ms"] for b in buckets], color="#c0392b", linewidth=1.4, label="p99")
        axes.plot(at, [b["p50_ms"] for b in buckets], color="#1f5fa8", linewidth=1.4, label="p50")
        axes.axhline(run["before"]["p99_ms"], color="#c0392b", linewidth=0.8, linestyle=":")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.set_xlim(at[0], at[-1])
        axes.set_xlabel("seconds since the run began")
        axes.set_ylabel("latency of a transaction, ms")
        axes.set_title(
            f"pgbench at {rate:,.0f} tps while pgbench_accounts becomes partitioned, pace {run['pace']}\n"
            f"p99 {run['before']['p99_ms']:.1f} ms before (dotted), {run['during']['p99_ms']:.1f} ms during; "
            f"{run['failed']} failed of {run['processed']:,}; {server}",
            loc="left",
            fontsize=10,
        )
        axes.legend(loc="upper left", frameon=False, ncols=3)
        png, svg = target.with_suffix(".png"), target.with_suffix(".svg")
        figure.savefig(png, dpi=144)
        figure.savefig(svg, metadata={"Date": None})
        plt.close(figure)
    return png, svg


def _draw_phases(axes: Any, run: LoadRun) -> None:
    started_s = run["run"]["started_s"]
    spans = run["run"]["spans"]
    whole_s = max(run["run"]["ended_s"] - started_s, 0.001)
    for number, span in enumerate(spans):
        left, right = span["start_s"] - started_s, span["end_s"] - started_s
        axes.axvspan(left, right, color=_SHADES[number % 2], zorder=0)
        if span["phase"] != "cutover" and (right - left) / whole_s > _LABEL_SHARE:
            _label(axes, (left + right) / 2, span["phase"], "#54687a")
    cutovers = [span for span in spans if span["phase"] == "cutover"]
    if cutovers:
        at = cutovers[-1]["end_s"] - started_s
        axes.axvline(at, color="#1e8449", linewidth=1.2)
        blocked = run["run"]["result"]["cutover"]["blocked_ms"]
        _label(axes, at, f"cut-over, {blocked:.0f} ms ", "#1e8449", side="right")


def _label(axes: Any, at: float, text: str, color: str, side: str = "center") -> None:
    axes.text(
        at, 0.02, text, transform=axes.get_xaxis_transform(), ha=side, va="bottom",
        rotation=90, color=color, fontsize=8,
    )  # fmt: skip
