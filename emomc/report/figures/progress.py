"""How the search went: the front's growth, and the predictions."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emomc.report.figures.style import GREY, STAGES, log_axis, tidy
from emomc.report.rundata import RunData


def hypervolume_figure(run: RunData) -> Figure:
    """Hypervolume of all measured networks against the number of evaluations; the run must have evaluations."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    numbers = [0, *(each.number for each in run.history)]
    volumes = [0.0, *(each.hypervolume for each in run.history)]
    for color, stage in zip(_cycle(len(_stages(run))), _stages(run), strict=True):
        own = [each.number for each in run.history if each.stage == stage]
        part = slice(own[0] - 1, own[-1] + 1)
        axes.step(numbers[part], volumes[part], where="post", color=color, linewidth=2, label=f"stage: {stage}")
        axes.fill_between(numbers[part], volumes[part], step="post", color=color, alpha=0.10, linewidth=0)
    axes.set_xlim(0, max(numbers))
    axes.set_ylim(0, 1)
    axes.set_xlabel("networks measured")
    axes.set_ylabel("hypervolume, fraction of the reference box")
    axes.set_title(f"{run.summary['task']}: growth of the measured front, selection split", fontsize=11)
    axes.legend(loc="lower right", frameon=False)
    return figure


def predictions_figure(run: RunData) -> Figure | None:
    """Errors predicted before measuring against measured ones; None where the strategy predicts nothing."""
    known = [each for each in run.history if math.isfinite(each.predicted_error) and math.isfinite(each.error)]
    if not known:
        return None
    figure = Figure(figsize=(5.4, 5.6), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    values = 100 * np.array([[each.predicted_error, each.error] for each in known])
    low, high = _limit(axes, values)
    axes.plot([low, high], [low, high], "--", color=GREY, linewidth=1, label="prediction = measurement")
    for color, stage in zip(_cycle(len(_stages(run))), _stages(run), strict=True):
        own = np.array([each.stage == stage for each in known])
        axes.plot(*values[own].T, "o", color=color, markersize=5, alpha=0.7, markeredgewidth=0, label=f"stage: {stage}")
    axes.set_aspect("equal")
    axes.set_xlabel("error predicted before it was measured (%)")
    axes.set_ylabel("error measured on the selection split (%)")
    tau = float(run.summary["rank_correlation"])
    axes.set_title(f"{run.summary['task']}: predictions, Kendall's tau {tau:.2f}", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _stages(run: RunData) -> list[str]:
    """Stages in the order in which they began."""
    return list(dict.fromkeys(each.stage for each in run.history))


def _cycle(count: int) -> list[str]:
    return [STAGES[number % len(STAGES)] for number in range(count)]


def _limit(axes: Axes, values: NDArray[np.float64]) -> tuple[float, float]:
    """The same limits for both axes, with a margin; logarithmic where no error is 0."""
    low, high = float(values.min()), float(values.max())
    if low > 0:
        low, high = low / 1.2, max(high, 2 * low) * 1.2
        log_axis(axes.xaxis, low, high)
        log_axis(axes.yaxis, low, high)
    else:
        low, high = 0.0, 1.06 * max(high, 0.1)
        axes.set(xlim=(low, high), ylim=(low, high))
    return low, high
