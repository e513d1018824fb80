"""Fronts: who is dominated, how much a front covers, and how points spread over it."""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

# Loss below which two networks count as alike when points are spread over a front: a fifth of a percentage point.
ALIKE = 0.002


def front_of(values: Doubles, violations: Doubles | None = None) -> NDArray[np.int64]:
    """Rows that are feasible and not dominated, each value once, in ascending order of the first objective.

    Args:
        values: shape ``(n, objectives)``, minimized.
        violations: shape ``(n, constraints)``; feasible where none is positive.
    """
    rows = np.flatnonzero(np.isfinite(values).all(axis=1))
    if violations is not None and violations.shape[1]:
        rows = rows[(violations[rows] <= 0).all(axis=1)]
    if not len(rows):
        return rows
    kept = rows[moocore.is_nondominated(values[rows], keep_weakly=False)]
    return np.asarray(kept[np.lexsort(values[kept].T[::-1])])


def hypervolume(values: Doubles, reference: Doubles, ideal: Doubles | None = None) -> float:
    """Part of the box between an ideal and a reference point that a set of points dominates, 0 to 1.

    Args:
        values: shape ``(n, objectives)``, minimized, not below the ideal.
        reference: shape ``(objectives,)``.
        ideal: shape ``(objectives,)``; the origin if not given.
    """
    ideal = np.zeros(len(reference)) if ideal is None else ideal
    inside = (values[(values < reference).all(axis=1)] - ideal) / (reference - ideal)
    return float(moocore.hypervolume(inside, ref=np.ones(len(reference)))) if len(inside) else 0.0


def pick_spread(candidates: Doubles, taken: Doubles, count: int) -> NDArray[np.int64]:
    """Greedy farthest-first choice: rows of ``candidates`` that are far from ``taken`` and from each other.

    Args:
        candidates: coordinates, shape ``(n, d)``.
        taken: coordinates, shape ``(m, d)``; may be empty.
        count: rows wanted; fewer are returned if there are not enough.
    """
    if not len(candidates):
        return np.zeros(0, dtype=np.int64)
    everything = np.concatenate([candidates, taken])
    width = np.maximum(np.ptp(everything, axis=0), 1e-12)
    points, others = candidates / width, taken / width
    from_corner = np.linalg.norm(points - points.min(axis=0), axis=1)
    distance = np.linalg.norm(points[:, None] - others[None], axis=2).min(axis=1, initial=np.inf)
    picks: list[int] = []
    while len(picks) < min(count, len(points)):
        pick = int((from_corner if np.isinf(distance).all() else distance).argmax())
        picks.append(pick)
        distance = np.minimum(distance, np.linalg.norm(points - points[pick], axis=1))
        distance[picks] = -1.0
    return np.array(picks, dtype=np.int64)
