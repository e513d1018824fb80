"""What predictors share that regress on a link: the target, and the way from the target to the error.

Where distances were measured, they are the target: they are continuous, so they carry less noise than counts of
errors, and a second link, of two numbers, turns a distance into an error. Otherwise the link of the error is the
target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emomc.accuracy.link import from_link, to_link
from emomc.genome import SearchSpace

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]

_FEWEST = 3  # measured networks from which something is learned
_LOWEST = 1e-9
_PRIOR_MEAN = np.array([0.0, 0.8])  # of intercept and slope from log-distance to the link of the error
_PRIOR_SPREAD = np.array([3.0, 0.3])


class LinkPredictor(ABC):
    """Predicts errors through a link; subclasses learn the target."""

    def __init__(self, space: SearchSpace, sensitivities: Doubles, dense_error: float, samples: int | None = None):
        """Start unfitted.

        Args:
            space: the space of the genomes.
            sensitivities: broadcast to ``(L, *space.shape)``.
            dense_error: error of the uncompressed network.
            samples: samples that errors are measured on; None where they are exact.
        """
        self._space, self._dense, self._samples = space, dense_error, samples
        self._shape = np.shape(sensitivities)
        self._given = np.maximum(np.reshape(sensitivities, (space.n_layers, -1)), 1e-12)
        self._to_error = DistanceLink()

    @abstractmethod
    def _learn(self, choices: Integers, target: Doubles, variance: Doubles) -> None:
        """Learn targets ``(n,)`` of different networks, each known up to a variance ``(n,)``.

        Args:
            choices: columns of the flat table of sensitivities, shape ``(n, L)``.
            target: what is regressed on.
            variance: of the target, by sampling.
        """

    @abstractmethod
    def _predict(self, choices: Integers) -> tuple[Doubles, Doubles]:
        """Mean and variance of the target, each ``(n,)``."""

    def fit(self, genomes: Integers, errors: Doubles, distances: Doubles | None = None) -> None:
        """Learn from measured networks; failed measurements (NaN) are left out, equal networks count once."""
        choices, networks = np.unique(self._choices(genomes), axis=0, return_index=True)
        kept = np.isfinite(errors[networks])
        choices, known = choices[kept], networks[kept]
        if len(known) < _FEWEST:
            return
        target, variance = to_link(errors[known], self._dense, self._samples)
        self._to_error = DistanceLink()
        if distances is not None and np.isfinite(distances[known]).all():
            logs = np.log(np.maximum(distances[known], _LOWEST))
            self._to_error = DistanceLink.fitted(logs, target, variance)
            target, variance = logs, np.zeros_like(variance)
        self._learn(choices, target, variance)

    def predict(self, genomes: Integers) -> tuple[Doubles, Doubles]:
        """Predicted error and half the width of its one-sigma interval."""
        mean, variance = self._to_error(*self._predict(self._choices(genomes)))
        spread = np.sqrt(np.maximum(variance, 1e-12))
        low, middle, high = (from_link(mean + step * spread, self._dense) for step in (-1, 0, 1))
        return middle, (high - low) / 2

    def _choices(self, genomes: Integers) -> NDArray[np.int64]:
        parts = self._space.split(genomes)
        columns = tuple(np.minimum(parts[:, :, axis], size - 1) for axis, size in enumerate(self._shape[1:]))
        return np.asarray(np.ravel_multi_index(columns, self._shape[1:]))


@dataclass(frozen=True)
class DistanceLink:
    """``link of the error = intercept + slope * target``, with the variance of what is left."""

    intercept: float = 0.0
    slope: float = 1.0
    variance: float = 0.0

    @classmethod
    def fitted(cls, log_distance: Doubles, link: Doubles, variance: Doubles) -> DistanceLink:
        """By regression with weak priors, weighted by sampling variance and what is left, in turns."""
        centre = float(log_distance.mean())
        design = np.stack([np.ones_like(log_distance), log_distance - centre], axis=1)
        prior = np.diag(_PRIOR_SPREAD**-2.0)
        pull = prior @ (_PRIOR_MEAN + np.array([_PRIOR_MEAN[1] * centre, 0.0]))
        left = 0.01
        for _ in range(5):
            weight = 1 / (variance + left)
            intercept, slope = np.linalg.solve((design.T * weight) @ design + prior, design.T @ (weight * link) + pull)
            residual = link - design @ np.array([intercept, slope])
            left = max(float(np.average(residual**2 - variance, weights=weight)), 1e-4)
        return cls(float(intercept - slope * centre), float(max(slope, 0.2)), left)

    def __call__(self, mean: Doubles, variance: Doubles) -> tuple[Doubles, Doubles]:
        """Mean and variance of the error's link for those of the target."""
        return self.intercept + self.slope * mean, self.slope**2 * variance + self.variance
