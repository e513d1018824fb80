"""The figure of the README: hypervolume against evaluations, all methods on three problems.

    python -m benchmarks.search_figure

Reads what there is of the results of search_proxies, search_enumerated and search_resnet20, and writes
docs/images/search.png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from emomc.benchmarks.curves import STEPS, Curves, known_curves
from emomc.benchmarks.methods import METHODS

IMAGE = Path(__file__).resolve().parents[1] / "docs" / "images" / "search.png"
PANELS = (
    ("20 layers whose losses couple\n(fraction of the exact front)", ("search_proxies", "problems", "coupled")),
    ("digits, all 65,536 networks measured\n(fraction of the exact front)", ("search_enumerated",)),
    ("ResNet-20 on CIFAR-10\n(fraction of the box)", ("search_resnet20", "ratios")),
)
COLOURS = ("#d62728", "#ff9f40", "#1f77b4", "#2ca02c", "#9467bd", "0.45", "#8c564b")


def main() -> None:
    """Draw and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    from matplotlib.figure import Figure

    panels = [(title, curves) for title, path in PANELS if (curves := known_curves(*path))]
    canvas = Figure(figsize=(4 * len(panels), 4.2), layout="constrained")
    for axes, (title, curves) in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes, curves)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("networks measured")
    canvas.axes[0].set_ylabel("hypervolume found")
    lines = {line.get_label(): line for axes in canvas.axes for line in axes.get_lines()}
    shown = [method for method in METHODS if method in lines]
    canvas.legend([lines[method] for method in shown], shown, loc="outside lower center", ncols=4, frameon=False)
    IMAGE.parent.mkdir(exist_ok=True)
    canvas.savefig(IMAGE, dpi=110)
    print(IMAGE)


def draw(axes: Any, curves: Curves) -> None:
    """One problem: the mean of the seeds, and their range."""
    for method, colour in zip(METHODS, COLOURS, strict=True):
        if method not in curves:
            continue
        quality = np.array([each["quality"] for each in curves[method]])
        steps = STEPS[: quality.shape[1]]
        style = {"lw": 2.2, "zorder": 3} if method == "emomc" else {"lw": 1.4}
        axes.plot(steps, quality.mean(axis=0), color=colour, label=method, **style)
        if len(quality) > 1:
            axes.fill_between(steps, quality.min(axis=0), quality.max(axis=0), color=colour, alpha=0.15, lw=0)
    axes.set(xscale="log", ylim=(0, 1), xlim=(STEPS[0], None))
    ticks = [step for step in (5, 10, 20, 50, 100, 200, 500, 2000) if step <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
