"""The front: measured error against every cost."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emomc.report.choosing import knee
from emomc.report.figures.style import BLUE, GREY, ORANGE, cost_axis, tidy
from emomc.report.rundata import RunData
from emomc.report.table import heading

_LABELS = {
    "energy": "energy of one inference",
    "size": "file size",
    "latency": "latency",
    "traffic": "off-chip traffic",
}

Doubles = NDArray[np.float64]


def front_figure(run: RunData) -> Figure:
    """Error on the test split against energy, size and every further cost, one panel each."""
    columns = run.cost_columns
    figure = Figure(figsize=(1 + 4.7 * len(columns), 4.6), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        _draw(axes, run, column)
    panels[0].set_ylabel("error on the test split (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(heading(run), fontsize=12)
    return figure


def lowest_so_far(costs: Doubles, errors: Doubles) -> NDArray[np.bool_]:
    """Points ``(n,)`` that no other beats in these two values."""
    beaten = (costs[None] <= costs[:, None]) & (errors[None] <= errors[:, None])
    strictly = (costs[None] < costs[:, None]) | (errors[None] < errors[:, None])
    return np.asarray(~(beaten & strictly).any(axis=1))


def _draw(axes: Axes, run: RunData, column: str) -> None:
    name, unit = run.name_and_unit(column)
    costs = np.array([point.costs[column] for point in run.points])
    errors = 100 * np.array([point.error for point in run.points])
    bars = 100 * np.array([point.standard_error for point in run.points])
    dense, dense_error = run.reference(column), 100 * run.dense_error
    tidy(axes)
    axes.axhline(dense_error, color=GREY, linewidth=1, linestyle="--")
    if dense:
        axes.plot(dense, dense_error, "s", color=GREY, markersize=8, label="dense network, 32-bit floats")
    if run.points:
        _draw_points(axes, costs, errors, bars)
        _mark_knee(axes, run, column)
    known = np.append(costs, [dense] if dense else [])
    known = known[known > 0] if (known > 0).any() else np.ones(1)
    cost_axis(axes, _LABELS.get(name, name.replace("_", " ")), unit, known.min() / 1.25, known.max() * 1.25)
    lowest, highest = min((errors - bars).min(initial=dense_error), dense_error), axes.get_ylim()[1]
    axes.set_ylim(bottom=max(0.0, lowest - 0.12 * (highest - lowest)))


def _draw_points(axes: Axes, costs: Doubles, errors: Doubles, bars: Doubles) -> None:
    best = lowest_so_far(costs, errors)
    order = np.flatnonzero(best)[np.argsort(costs[best], kind="stable")]
    for rows, alpha in ((~best, 0.25), (best, 0.7)):
        axes.errorbar(costs[rows], errors[rows], bars[rows], fmt="none", ecolor=BLUE, elinewidth=0.9, alpha=alpha)
    axes.step(costs[order], errors[order], where="post", color=BLUE, linewidth=1.2, alpha=0.6)
    axes.plot(
        costs[~best],
        errors[~best],
        "o",
        color=BLUE,
        markerfacecolor="white",
        markersize=5,
        alpha=0.7,
        label="other points of the front",
    )
    axes.plot(costs[best], errors[best], "o", color=BLUE, markersize=6, label="best in these two; bars: standard error")


def _mark_knee(axes: Axes, run: RunData, column: str) -> None:
    point = knee(run)
    axes.plot(
        point.costs[column],
        100 * point.error,
        "o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor=ORANGE,
        markeredgewidth=1.8,
        label=f"knee, {point.name} (chosen on the selection split)",
    )
