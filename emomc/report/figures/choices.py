"""What every layer got in every point of the front."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from emomc.genome import ACTIVATION_BITS, BIT_WIDTH, DATAFLOW, GRANULARITY, PRUNE_RATIO, SHARED_VALUES
from emomc.report.rundata import RunData

_TITLES = {
    PRUNE_RATIO: "prune ratio",
    GRANULARITY: "granularity",
    BIT_WIDTH: "bit-width",
    SHARED_VALUES: "shared values",
    ACTIVATION_BITS: "bits of the input",
    DATAFLOW: "dataflow",
}
_CATEGORIES = (GRANULARITY, DATAFLOW)
_COLUMNS = 2
_LONGEST = 28  # characters of a layer's name


def choices_figure(run: RunData) -> Figure:
    """One heatmap per gene, layers by points; darker is compressed more. The run must have points."""
    genes, layers = list(run.summary["genes"]), list(run.summary["layers"])
    rows = -(-len(genes) // _COLUMNS)
    width = min(max(0.16 * len(run.points), 3.6), 9.0)
    height = min(max(0.17 * len(layers), 1.8), 12.0)
    figure = Figure(figsize=(_COLUMNS * (width + 1.3) + 1.2, rows * (height + 0.9) + 0.6), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for number, gene in enumerate(genes):
        axes = panels[number // _COLUMNS][number % _COLUMNS]
        image, values = _heatmap(axes, run, gene)
        bar = figure.colorbar(image, ax=axes, ticks=range(len(values)), pad=0.02, fraction=0.05)
        bar.ax.set_yticklabels([_shown(gene, value) for value in values], fontsize=8)
        bar.ax.tick_params(which="both", length=0)
        _label(axes, run, gene, layers, bottom=number + _COLUMNS >= len(genes))
    for spare in panels.ravel()[len(genes) :]:
        spare.set_visible(False)
    figure.suptitle(f"{run.summary['task']}: choices along the front, smallest error on the left", fontsize=12)
    return figure


def mildest_first(gene: str, values: Sequence[str]) -> list[str]:
    """Distinct choices of a gene, as text, in the order in which they compress more and more."""
    distinct = sorted(set(values))
    if gene in _CATEGORIES or not all(_is_number(value) for value in distinct):
        return distinct
    sign = -1 if gene in (BIT_WIDTH, SHARED_VALUES, ACTIVATION_BITS) else 1
    return sorted(distinct, key=lambda text: sign * (float(text) or (np.inf if gene == SHARED_VALUES else 0.0)))


def _heatmap(axes: Axes, run: RunData, gene: str) -> tuple[AxesImage, list[str]]:
    chosen = [[point.genes[layer][gene] for point in run.points] for layer in run.summary["layers"]]
    values = mildest_first(gene, [value for row in chosen for value in row])
    indices = np.array([[values.index(value) for value in row] for row in chosen])
    if gene in _CATEGORIES:
        colors = [colormaps["Set2"](index % 8) for index in range(len(values))]
    else:
        colors = list(colormaps["Blues"](np.linspace(0.08, 1.0, max(len(values), 2)))[: len(values)])
    norm = BoundaryNorm(np.arange(len(values) + 1) - 0.5, len(values))
    image = axes.imshow(indices, cmap=ListedColormap(colors), norm=norm, aspect="auto", interpolation="nearest")
    return image, values


def _label(axes: Axes, run: RunData, gene: str, layers: list[str], bottom: bool) -> None:
    names = [point.name for point in run.points]
    size = 8 if len(layers) <= 40 else 6
    axes.set_title(_TITLES.get(gene, gene), fontsize=10)
    axes.set_yticks(range(len(layers)), [_short(name) for name in layers], fontsize=size)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.tick_params(length=0, labelbottom=bottom)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(layers) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)


def _short(name: str) -> str:
    """The end of a long name, which tells layers apart."""
    return name if len(name) <= _LONGEST else f"…{name[1 - _LONGEST :]}"


def _shown(gene: str, value: str) -> str:
    if gene == SHARED_VALUES and value == "0":
        return "none"
    return f"{float(value):g}" if _is_number(value) else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
