"""Radars in one picture: what was recorded, or the first of several, beside the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.world.radar_statistics import PROBABILITIES
from training.world.statistic import RARE, Statistic

# Okabe and Ito's colours; the first is that of what the others are held against.
COLORS = ("#000000", "#e69f00", "#0072b2", "#009e73")
BARS = {
    "objects without a return": "share of objects without a return",
    "returns per object": "returns of all radars per object",
    "returns per scan": "returns of the front radar per scan",
}
CURVES = {
    ("distance", "all"): "distance of returns, m",
    ("RCS", "default filter"): "RCS after the default filter, dBsm",
    ("position, behind the near side", "car"): "depth behind a car's near side, m",
}


def compared(tables: Mapping[str, Sequence[Statistic]]) -> Figure:
    """A figure of several radars' statistics: {name: statistics}, the first of which says what is drawn.

    Bars have two standard errors to either side; curves are distribution functions.
    """
    figure = Figure(figsize=(9.6, 9.6), layout="constrained")
    grid = figure.add_gridspec(4, len(CURVES), height_ratios=(1.0, 1.0, 1.0, 1.2))
    by_key = {name: {s.key: s for s in statistics} for name, statistics in tables.items()}
    first = next(iter(by_key.values()))
    for row, (name, title) in enumerate(BARS.items()):
        axes = figure.add_subplot(grid[row, :])
        groups = [group for found, group in first if found == name and not group.startswith(RARE)]
        _bars(axes, groups, {who: [found.get((name, g)) for g in groups] for who, found in by_key.items()})
        axes.set_title(title, fontsize=9)
    for k, (key, label) in enumerate(CURVES.items()):
        axes = figure.add_subplot(grid[-1, k])
        for (who, found), color in zip(by_key.items(), COLORS):
            if key in found and found[key].count:
                axes.plot(found[key].quantiles, PROBABILITIES, color=color, label=who, linewidth=1.4)
        drawn = [found[key].quantiles for found in by_key.values() if key in found and found[key].count]
        if drawn:
            axes.set_xlim(min(q[0] for q in drawn) - 0.5, max(q[-2] for q in drawn) + 0.5)
        axes.set_title(label, fontsize=9)
        axes.grid(color="#e5e5e5", linewidth=0.6)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(tables), frameon=False, fontsize=8)
    return figure


def _bars(axes: Axes, groups: Sequence[str], rows: Mapping[str, Sequence[Statistic | None]]) -> None:
    width = 0.8 / len(rows)
    for k, ((who, found), color) in enumerate(zip(rows.items(), COLORS)):
        at = np.arange(len(groups)) + (k - (len(rows) - 1) / 2) * width
        heights = [s.value if s and s.count else 0.0 for s in found]
        errors = [2 * s.error if s and np.isfinite(s.error) else 0.0 for s in found]
        axes.bar(at, heights, width * 0.92, color=color, label=who, yerr=errors, error_kw={"linewidth": 0.8})
    axes.set_xticks(np.arange(len(groups)), [g.replace(", ", "\n").replace("_", " ") for g in groups], fontsize=7)
    axes.set_ylim(bottom=0)
    axes.tick_params(axis="x", length=0)
