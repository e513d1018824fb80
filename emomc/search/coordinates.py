"""Coordinates in which equal steps are equally interesting, whatever the objectives."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emomc.operators import uniform_ladder
from emomc.search.ledger import SearchTask

Doubles = NDArray[np.float64]
Genomes = NDArray[np.int64]

_RUNGS = 512  # networks that tell the range of the costs
_BEYOND = 1.02  # where the worst of interest still counts a little


@dataclass(frozen=True)
class Coordinates:
    """From objectives to coordinates: about 0 for the best of interest, 1 for the worst.

    Costs count by ratio, errors by their loss against the dense network, where that is large enough to count by ratio
    too. Objectives that are not positive count by difference.

    Attributes:
        loss: which objectives are errors, ``(objectives,)``.
        ratio: which others count by ratio.
        dense_error: error that losses are relative to.
        resolution: losses below this count as alike.
        low: transformed value that becomes 0.
        high: transformed value that becomes 1.
    """

    loss: NDArray[np.bool_]
    ratio: NDArray[np.bool_]
    dense_error: float
    resolution: float
    low: Doubles
    high: Doubles

    @classmethod
    def of(cls, task: SearchTask) -> Coordinates:
        """Ranges from networks that treat all layers alike, and from the limit on the error."""
        problem = task.problem
        rungs = uniform_ladder(problem.space)
        rungs = rungs[:: max(1, len(rungs) // _RUNGS)]
        limit = min([1.0, *(each.limit for each in problem.constraints if each.objective.name == "error")])
        best, worst = (problem.values(rungs, np.full(len(rungs), error))[0] for error in (task.dense_error, limit))
        values = np.concatenate([best, worst])
        loss = np.array([each.name == "error" for each in problem.objectives])
        ratio = ~loss & (values > 0).all(axis=0)
        plain = cls(loss, ratio, task.dense_error, task.resolution, np.zeros(len(loss)), np.ones(len(loss)))
        return plain.spanning(values)

    def spanning(self, values: Doubles) -> Coordinates:
        """The same for which the best and worst of these objectives, ``(n, objectives)``, are those of interest."""
        plain = replace(self, low=np.zeros(len(self.loss)), high=np.ones(len(self.loss)))(values)
        low, high = plain.min(axis=0), plain.max(axis=0)
        return replace(self, low=low, high=np.where(high - low > 1e-12, high, low + 1.0))

    @property
    def reference(self) -> Doubles:
        """Reference point of hypervolumes, just beyond the worst of interest."""
        return np.full(len(self.loss), _BEYOND)

    def __call__(self, values: Doubles) -> Doubles:
        """Coordinates of objectives, both of shape ``(..., objectives)``."""
        losses = np.log(np.maximum(values - self.dense_error, 0.0) + self.resolution)
        ratios = np.log(np.maximum(values, 1e-300))
        plain = np.where(self.loss, losses, np.where(self.ratio, ratios, values))
        return np.asarray((plain - self.low) / (self.high - self.low))
