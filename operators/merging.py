"""The exact front of additive objectives, by merging layer after layer.

A part of a network that another part of the same layers dominates is dominated in every network, so only fronts of
parts have to be kept. Where a front outgrows a limit, it is thinned to one part per cell of a grid over the
objectives' logarithms, which loses a known factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import moocore
import numpy as np
from numpy.typing import NDArray

from emomc.genome import SearchSpace

Doubles = NDArray[np.float64]
Genomes = NDArray[np.int64]

_FLOOR = 1e-6  # of the largest total of an objective: values below count as equal


@dataclass(frozen=True)
class AdditiveFront:
    """Networks that no other dominates in objectives that add up over layers.

    Attributes:
        genomes: canonical, shape ``(n, n_var)``, in ascending order of the first objective.
        values: their totals, shape ``(n, objectives)``.
        factor: 1 where the front is exact. Otherwise every network of the space is met in all objectives at once by one
            of these, up to this factor and a millionth of the largest total.
    """

    genomes: Genomes
    values: Doubles
    factor: float


def additive_front(
    space: SearchSpace, tables: Sequence[Doubles], limit: int = 2000, most: Sequence[float] | None = None
) -> AdditiveFront:
    """Front of a space under additive objectives that are minimized.

    Args:
        space: where choices may come from.
        tables: objectives of every layer's choices, not negative; each broadcasts to ``(L, *space.shape)``.
        limit: parts kept after each layer; a front that never grows beyond it is exact.
        most: networks beyond one of these totals are left out, one bound for each objective.
    """
    shape = (space.n_layers, *space.shape)
    stacked = np.stack([np.broadcast_to(table, shape) for table in tables], axis=-1)
    floor = _FLOOR * np.maximum(stacked.reshape(space.n_layers, -1, len(tables)).max(axis=1).sum(axis=0), 1e-300)
    bounds = np.full(len(tables), np.inf) if most is None else np.asarray(most)
    front, factor = np.zeros((1, len(tables))), 1.0
    steps: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []  # of each layer: parent and choice of each part
    for layer, row in enumerate(space.allowed):
        cells = np.stack(np.meshgrid(*row, indexing="ij"), axis=-1).reshape(-1, space.n_genes)
        choices = stacked[(layer, *cells.T)]
        kept = np.flatnonzero(moocore.is_nondominated(choices, keep_weakly=False))
        merged = (front[:, None] + choices[kept][None]).reshape(-1, len(tables))
        within = np.flatnonzero((merged <= bounds).all(axis=1))  # totals only grow
        rows = within[moocore.is_nondominated(merged[within], keep_weakly=False)] if len(within) else within
        rows, lost = _thinned(merged, rows, floor, limit)
        factor *= lost
        front = merged[rows]
        flat = np.ravel_multi_index(cells[kept].T, space.shape)
        steps.append((rows // len(kept), flat[rows % len(kept)]))
    return _collected(space, front, factor, steps)


def _thinned(values: Doubles, rows: NDArray[np.int64], floor: Doubles, limit: int) -> tuple[NDArray[np.int64], float]:
    """At most ``limit`` of the rows, and the factor that this loses: one per cell, in cells as small as possible."""
    if len(rows) <= limit:
        return rows, 1.0
    logs = np.log(values[rows] + floor)
    total = (logs / np.maximum(np.ptp(logs, axis=0), 1e-12)).sum(axis=1)
    order = np.argsort(total, kind="stable")  # of each cell, the part that is best on the whole
    low, high = 0.0, float(np.ptp(logs, axis=0).max()) + 1e-9
    best = _one_per_cell(logs[order], high)
    for _ in range(12):
        middle = (low + high) / 2
        picks = _one_per_cell(logs[order], middle)
        if len(picks) <= limit:
            high, best = middle, picks
        else:
            low = middle
    return rows[np.sort(order[best])], float(np.exp(high))


def _one_per_cell(logs: Doubles, width: float) -> NDArray[np.int64]:
    cells = np.floor((logs - logs.min(axis=0)) / width).astype(np.int64)
    sizes = cells.max(axis=0) + 1
    if float(np.prod(sizes.astype(np.float64))) < 2**62:
        return np.unique(np.ravel_multi_index(cells.T, sizes), return_index=True)[1]
    return np.unique(cells, axis=0, return_index=True)[1]


def _collected(
    space: SearchSpace, front: Doubles, factor: float, steps: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> AdditiveFront:
    """Walk back from the last layer to the first."""
    parts = np.zeros((len(front), space.n_layers, space.n_genes), dtype=np.int64)
    row = np.arange(len(front))
    for layer in range(space.n_layers - 1, -1, -1):
        parents, flat = steps[layer]
        parts[:, layer] = np.stack(np.unravel_index(flat[row], space.shape), axis=1)
        row = parents[row]
    order = np.lexsort(front.T[::-1])
    return AdditiveFront(space.canonical(parts.reshape(-1, space.n_var))[order], front[order], factor)
