"""Weight sharing: a layer's non-zero weights take few distinct values, found by exact one-dimensional k-means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emomc.coding.tensor import CodedTensor
from emomc.compression.quantization import largest_level, storable_scale, to_grid, to_integers

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# More distinct values than this are first merged into equal-width cells. A cell is then a thousandth of the layer's
# range wide at most, which is far below the width of a cluster.
MAX_POINTS = 4096
_CLIPPING = np.linspace(0.5, 1.0, 21)
# Least importance of a weight, as a part of the largest: below it, sums over a layer no longer resolve it.
_LEAST_IMPORTANCE = 1e-8


def distinct_points(
    values: NDArray[np.floating], importance: NDArray[np.floating] | None = None
) -> tuple[Doubles, Doubles]:
    """Sorted distinct values and how much each weighs, merged into `MAX_POINTS` cells where there are more.

    A merged cell is represented by its mean, so that totals and means of the data are kept.

    Args:
        values: shape ``(n,)``.
        importance: weight of each value, positive, same shape; 1 if not given, so that values are counted.
    """
    points, position = np.unique(values.astype(np.float64), return_inverse=True)
    counts = np.bincount(position, importance, minlength=len(points)).astype(np.float64)
    if len(points) <= MAX_POINTS:
        return points, counts
    width = (points[-1] - points[0]) / MAX_POINTS
    cells = np.minimum(((points - points[0]) / width).astype(np.int64), MAX_POINTS - 1)
    weight = np.bincount(cells, weights=counts, minlength=MAX_POINTS)
    total = np.bincount(cells, weights=counts * points, minlength=MAX_POINTS)
    used = weight > 0
    return total[used] / weight[used], weight[used].astype(np.float64)


class _SegmentCost:
    """Weighted squared error of representing the sorted points ``i..j`` by their mean, for arrays of i and j."""

    def __init__(self, points: Doubles, weights: Doubles) -> None:
        centred = points - np.average(points, weights=weights)  # keeps the differences of prefix sums accurate
        zero = np.zeros(1)
        self.w = np.concatenate([zero, np.cumsum(weights)])
        self.wx = np.concatenate([zero, np.cumsum(weights * centred)])
        self.wxx = np.concatenate([zero, np.cumsum(weights * centred**2)])

    def __call__(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> Doubles:
        end = last + 1
        sums = self.wx[end] - self.wx[first]
        spread = self.wxx[end] - self.wxx[first] - sums * sums / (self.w[end] - self.w[first])
        return np.asarray(np.maximum(spread, 0.0))


def _next_row(cost: _SegmentCost, row: Doubles, k: int) -> tuple[Doubles, NDArray[np.int64]]:
    """Best cost of splitting points ``0..j`` into k+1 segments, and where the last segment starts, for every j.

    The best start does not decrease with j (the cost is concave Monge), so the range of starts is halved level by
    level; all midpoints of a level are solved in one vectorised step.
    """
    m = len(row)
    best = np.full(m, np.inf)
    start = np.zeros(m, dtype=np.int64)
    best[k] = cost(np.array([k]), np.array([k]))[0] + row[k - 1]
    start[k] = k
    low, high = np.array([k + 1]), np.array([m - 1])  # intervals of j still to solve
    first, last = np.array([k]), np.array([m - 1])  # range of starts for each interval
    while low.size:
        keep = low <= high
        low, high, first, last = low[keep], high[keep], first[keep], last[keep]
        if not low.size:
            break
        middle = (low + high) // 2
        stop = np.minimum(last, middle)
        lengths = stop - first + 1
        offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        starts = np.arange(lengths.sum()) - np.repeat(offsets - first, lengths)
        totals = row[starts - 1] + cost(starts, np.repeat(middle, lengths))
        lowest = np.minimum.reduceat(totals, offsets)
        hits = np.flatnonzero(totals == np.repeat(lowest, lengths))
        segment = np.repeat(np.arange(len(middle)), lengths)[hits]
        chosen = starts[hits[np.unique(segment, return_index=True)[1]]]
        best[middle], start[middle] = lowest, chosen
        low, high = np.concatenate([low, middle + 1]), np.concatenate([middle - 1, high])
        first, last = np.concatenate([first, chosen]), np.concatenate([chosen, last])
    return best, start


def kmeans_1d(points: Doubles, weights: Doubles, counts: Sequence[int]) -> dict[int, Doubles]:
    """Optimal one-dimensional k-means for several numbers of clusters at once, by dynamic programming.

    Args:
        points: shape ``(m,)``, ascending and distinct.
        weights: shape ``(m,)``, positive.
        counts: numbers of clusters; more than m means m.

    Returns:
        Centroids, ascending, for each number of clusters in ``counts``.

    Source: Wang & Song 2011 (Ckmeans.1d.dp) with divide and conquer in place of the full inner loop.
    """
    m = len(points)
    largest = min(max(counts), m)
    cost = _SegmentCost(points, weights)
    row = cost(np.zeros(m, dtype=np.int64), np.arange(m))
    starts = [np.zeros(m, dtype=np.int64)]
    for k in range(1, largest):
        row, start = _next_row(cost, row, k)
        starts.append(start)
    weighted = weights * points
    result = {}
    for count in counts:
        end, edges = m, [m]
        for k in range(min(count, m) - 1, -1, -1):
            end = int(starts[k][end - 1])
            edges.append(end)
        bounds = np.array(edges[::-1][:-1])
        result[count] = np.add.reduceat(weighted, bounds) / np.add.reduceat(weights, bounds)
    return result


def codebook_levels(centroids: Doubles, population: Doubles, bit_width: int) -> tuple[NDArray[np.float16], Floats]:
    """Scale and distinct integer levels for a codebook, clipped where that lowers the weighted squared error."""
    level = largest_level(bit_width)
    largest = np.abs(centroids).max() / level
    rows = centroids[None, :].astype(np.float32)
    best: tuple[float, NDArray[np.float16]] = (np.inf, storable_scale(np.array([largest])))
    for fraction in _CLIPPING[::-1]:
        scale = storable_scale(np.array([largest * fraction]))
        residual = to_grid(rows, scale, bit_width)[0] * np.float32(scale[0]) - rows[0]
        error = float((population * residual * residual).sum())
        if error < best[0]:
            best = error, scale
    return best[1], np.unique(to_grid(rows, best[1], bit_width)[0])


@dataclass(frozen=True)
class Clusters:
    """The non-zero weights of a layer as weighted points, and their optimal centroids per number of shared values."""

    points: Doubles
    population: Doubles
    centroids: dict[int, Doubles]

    def codebook(self, count: int, bit_width: int) -> tuple[NDArray[np.float16], Floats]:
        """Scale, shape ``(1,)``, and ascending distinct levels of ``count`` shared values at a bit-width."""
        centroids = self.centroids[count]
        members = np.bincount(
            np.searchsorted((centroids[1:] + centroids[:-1]) / 2, self.points),
            weights=self.population,
            minlength=len(centroids),
        )
        return codebook_levels(centroids, members.astype(np.float64), bit_width)


def cluster_nonzero(weight: Floats, counts: Sequence[int], importance: NDArray[np.floating] | None = None) -> Clusters:
    """Cluster the non-zero weights of a layer for several numbers of shared values in one pass.

    Args:
        weight: any shape.
        counts: numbers of shared non-zero values, each at least 1.
        importance: factor of each weight's squared error, same shape; 1 if not given. Weights that matter for no
            input, which have 0, count as little as sums resolve.
    """
    kept = weight != 0
    if not kept.any():
        return Clusters(np.zeros(0), np.zeros(0), {count: np.zeros(1) for count in counts})
    points, population = distinct_points(weight[kept], None if importance is None else _resolved(importance[kept]))
    return Clusters(points, population, kmeans_1d(points, population, counts))


def _resolved(importance: NDArray[np.floating]) -> NDArray[np.floating]:
    largest = float(importance.max())
    if largest <= 0:
        return np.ones_like(importance)
    return np.asarray(np.maximum(importance, _LEAST_IMPORTANCE * largest))


def share_values(weight: Floats, clusters: Clusters, count: int, bit_width: int) -> CodedTensor:
    """Replace the non-zero weights of a layer by few shared values on the grid of a bit-width.

    Zeros stay zero and do not use up a shared value; at most ``count`` distinct non-zero integers remain.

    Args:
        weight: any shape.
        clusters: of the same weight.
        count: number of shared values.
        bit_width: bits of a codebook entry, 2 to 16.
    """
    scale, levels = clusters.codebook(count, bit_width)
    entries = levels * np.float32(scale[0])
    nearest = levels[np.searchsorted((entries[1:] + entries[:-1]) / 2, weight)]
    return CodedTensor(to_integers(np.where(weight != 0, nearest, 0), bit_width), scale, bit_width)
