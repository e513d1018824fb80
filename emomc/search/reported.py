"""The front that a search reports: what no other network beats, on few samples as well."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emomc.search.coordinates import Coordinates
from emomc.search.front import front_of, pick_spread
from emomc.search.infill import pick_gain
from emomc.search.ledger import Ledger, SearchTask

Doubles = NDArray[np.float64]


def reported_front(task: SearchTask, ledger: Ledger, most: int | None = None) -> NDArray[np.int64]:
    """Rows of a ledger, by ascending measured error.

    Of many networks measured on few samples, those that were lucky beat better ones. So beside the networks that no
    other beats in measured error are those that no other is believed to beat: in the error that the strategy estimates
    from measurements and predictions; if it estimates none, in distance from the dense network, which is measured too
    and continuous.

    Args:
        task: defines objectives and constraints.
        ledger: what was measured.
        most: rows wanted, at least 1; of more, that of the smallest measured error is kept, and those that dominate
            most by what is estimated.
    """
    values, violations = task.problem.values(ledger.genomes, ledger.errors)
    estimates = _visible(task, ledger.estimated_errors())
    believed = _closeness(task, ledger) if ledger.estimates is None else estimates
    is_error = np.array([each.measured for each in task.problem.objectives])
    by_belief = np.where(is_error, believed[:, None], values)
    front = unbeaten(values, by_belief, violations)
    front = front[np.lexsort((believed[front], ledger.errors[front]))]
    if most is None:
        return front
    return front[thinned(Coordinates.of(task), task.problem.values(ledger.genomes[front], estimates[front])[0], most)]


def unbeaten(measured: Doubles, believed: Doubles, violations: Doubles | None = None) -> NDArray[np.int64]:
    """Rows that no other beats as measured, and rows that no other is believed to beat.

    Args:
        measured: objectives, ``(n, m)``.
        believed: the same with errors as they are believed to be.
        violations: of constraints, ``(n, constraints)``; None where all rows meet them.
    """
    return np.union1d(front_of(measured, violations), front_of(believed, violations))


def thinned(coordinates: Coordinates, values: Doubles, most: int) -> NDArray[np.int64]:
    """The first row, then rows picked for hypervolume, and where none adds any, for being far from the others.

    Args:
        coordinates: of the search.
        values: objectives of a front as they are believed to be, ``(n, m)``.
        most: rows wanted, at least 1.

    Returns:
        Rows in ascending order; all where these are no more than wanted.
    """
    if len(values) <= most:
        return np.arange(len(values))
    points = coordinates(values)
    picks = np.concatenate([[0], pick_gain(points[None], points, points[:1], coordinates.reference, most - 1)])
    others = np.setdiff1d(np.arange(len(points)), picks)
    more = pick_spread(points[others], points[picks], most - len(picks))
    return np.sort(np.concatenate([picks, others[more]]))


def _visible(task: SearchTask, estimates: Doubles) -> Doubles:
    """Estimates ``(n,)``; losses of less than one sample count as equal: of these the cheapest will do."""
    return estimates if task.samples is None else np.maximum(estimates, task.dense_error + 1 / task.samples)


def _closeness(task: SearchTask, ledger: Ledger) -> Doubles:
    """Distance of each network, ``(n,)``; those too small to have cost any network a sample count as equal."""
    if task.samples is None:
        return ledger.distances
    visible = ledger.distances[ledger.errors > task.dense_error + 1.5 / task.samples]
    nothing = np.where(np.isfinite(ledger.distances), 0.0, np.nan)
    return np.maximum(ledger.distances, visible.min(initial=np.inf)) if len(visible) else nothing
