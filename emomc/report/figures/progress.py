"""How the search went: the front's growth, and the predictions."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from emomc.report.figures.style import GREY, STAGES, tidy
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
    axes.set_ylabel("hypervolume, part of the reference box")
    axes.set_title(f"{run.summary['task']}: measured front on the selection split", fontsize=11)
    axes.legend(loc="lower right", frameon=False)
    return figure


def predictions_figure(run: RunData) -> Figure | None:
    """Errors predicted before measuring against measured ones; None where the strategy predicts nothing."""
    known = [each for each in run.history if math.isfinite(each.predicted_error) and math.isfinite(each.error)]
    if not known:
        return None
    figure = Figure(figsize=(5.6, 5.0), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    values = 100 * np.array([[each.predicted_error, each.error] for each in known])
    low, high = _limits(values)
    axes.plot([low, high], [low, high], "--", color=GREY, linewidth=1, label="prediction = measurement")
    for color, stage in zip(_cycle(len(_stages(run))), _stages(run), strict=True):
        own = np.array([each.stage == stage for each in known])
        axes.plot(*values[own].T, "o", color=color, markersize=5, alpha=0.7, markeredgewidth=0, label=f"stage: {stage}")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.set_xlabel("error predicted before it was measured (%)")
    axes.set_ylabel("error measured on the selection split (%)")
    tau = float(run.summary["rank_correlation"])
    axes.set_title(f"{run.summary['task']}: predictions, Kendall's tau {tau:.2f}", fontsize=11)
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return figure


def _stages(run: RunData) -> list[str]:
    """Stages in the order in which they began."""
    return list(dict.fromkeys(each.stage for each in run.history))


def _cycle(count: int) -> list[str]:
    return [STAGES[number % len(STAGES)] for number in range(count)]


def _limits(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, float]:
    """Common limits of both axes with a margin."""
    low, high = float(values.min()), float(values.max())
    margin = 0.06 * max(high - low, 0.1)
    return max(low - margin, 0.0) if low - margin < 0 else low - margin, high + margin
