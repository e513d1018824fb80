"""Where the energy goes: a bar for each layer, in parts by level."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from emomc.report.costs import NetworkCost
from emomc.report.figures.style import tidy
from emomc.units import si, si_scale

_COLORS = {
    "mac": "#0b6aa2",
    "register": "#6baed6",
    "network": "#1b9e77",
    "buffer": "#e6ab02",
    "memory": "#e6ab02",
    "dram": "#d95f02",
    "decode": "#7570b3",
    "leakage": "#8c8c8c",
}


def cost_figure(costs: Sequence[NetworkCost], title: str) -> Figure:
    """One panel for each accelerator, each with its own scale; the legend has each level's share of the whole."""
    names = [row.layer.name for row in costs[0].layers]
    height = min(max(0.22 * len(names), 2.0), 14.0) + 1.2
    figure = Figure(figsize=(1.8 + 4.6 * len(costs), height), layout="constrained")
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    for axes, cost in zip(panels, costs, strict=True):
        scale, prefix = si_scale(max(row.metrics["energy"] for row in cost.layers))
        total, left = cost.metrics["energy"], [0.0] * len(names)
        for level, energy in cost.levels.items():
            widths = [row.levels[level] / scale for row in cost.layers]
            label = f"{level} {100 * energy / total:.0f} %"
            axes.barh(range(len(names)), widths, left=left, color=_COLORS.get(level), label=label, height=0.75)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_title(f"{cost.accelerator}: {si(total, 'J')}", fontsize=11)
        axes.set_xlabel(f"energy of one inference ({prefix}J)")
        axes.legend(fontsize=8, frameon=False)
        tidy(axes)
    panels[0].set_yticks(range(len(names)), names, fontsize=8)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle(title, fontsize=12)
    return figure
