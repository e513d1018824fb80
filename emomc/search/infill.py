"""What to measure next: the batch with the largest expected gain of hypervolume.

Only errors are uncertain, costs are exact. So the expected gain of a network is the mean, over equally likely errors,
of the volume that it alone would add. Networks of a batch are chosen one after the other, each as if those before it
had been measured at their predicted errors, which keeps a batch diverse.
"""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


def gains(points: Doubles, archive: Doubles, reference: Doubles) -> Doubles:
    """Hypervolume that each point alone would add to an archive, shape ``(n,)``.

    Args:
        points: shape ``(n, objectives)``, minimized.
        archive: shape ``(m, objectives)``.
        reference: shape ``(objectives,)``; what is not below it in every objective adds nothing.
    """
    result = np.zeros(len(points))
    inside = (points < reference).all(axis=1)
    if len(archive):
        archive = archive[moocore.is_nondominated(archive, keep_weakly=False)]
        beaten = np.asarray(np.all(archive[None] <= points[:, None], axis=2))
        inside &= ~beaten.any(axis=1)
    for row in np.flatnonzero(inside):
        point = points[row]
        box = float(np.prod(reference - point))
        # What the archive dominates of the point's box, which is what points moved into the box dominate.
        covered = np.maximum(archive, point)
        covered = covered[(covered < reference).all(axis=1)]
        result[row] = box - (float(moocore.hypervolume(covered, ref=reference)) if len(covered) else 0.0)
    return np.maximum(result, 0.0)


def pick_gain(
    outcomes: Doubles, believed: Doubles, archive: Doubles, reference: Doubles, count: int
) -> NDArray[np.int64]:
    """Greedy batch of largest expected gain: at most ``count`` candidates, none that is sure to gain nothing.

    Args:
        outcomes: equally likely objectives of each candidate, shape ``(outcomes, n, objectives)``; NaN where
            infeasible.
        believed: objectives of the candidates that those picked before are counted at, shape ``(n, objectives)``.
        archive: objectives of what is measured, shape ``(m, objectives)``.
        reference: shape ``(objectives,)``.
        count: rows wanted.
    """
    n = outcomes.shape[1]
    expected = _expected(outcomes, archive, reference)
    stale = np.zeros(n, dtype=bool)
    picks: list[int] = []
    while len(picks) < count and expected.max(initial=0.0) > 0:
        best = int(expected.argmax())
        if stale[best]:  # a gain only shrinks as the archive grows, so the others need not be looked at again yet
            expected[best] = _expected(outcomes[:, best : best + 1], archive, reference)[0]
            stale[best] = False
            continue
        picks.append(best)
        if np.isfinite(believed[best]).all():
            archive = np.concatenate([archive, believed[best : best + 1]])
        stale[:] = True
        expected[best] = 0.0
        stale[best] = False
    return np.array(picks, dtype=np.int64)


def _expected(outcomes: Doubles, archive: Doubles, reference: Doubles) -> Doubles:
    flat = outcomes.reshape(-1, outcomes.shape[2])
    feasible = np.isfinite(flat).all(axis=1)
    gained = np.zeros(len(flat))
    gained[feasible] = gains(flat[feasible], archive, reference)
    return np.asarray(gained.reshape(outcomes.shape[:2]).mean(axis=0))
