"""What the sum of sensitivities leaves unexplained, learned by scikit-learn's regressors on features of layers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emomc.accuracy.predictor_link import LinkPredictor
from emomc.genome import SearchSpace

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]

_TREES = 24
_PRIOR = np.array([1 / 3.0**2, 1 / 0.4**2])  # precision of intercept and slope; their prior means are 0 and 1


class Regressor(Protocol):
    """Learns residuals from features; see `ridge`, `gaussian_process` and `trees`."""

    def fit(self, features: Doubles, residual: Doubles) -> Any: ...

    def spread(self, features: Doubles) -> tuple[Doubles, Doubles]:
        """Mean and standard deviation, each ``(n,)``."""


class LearnedPredictor(LinkPredictor):
    """A straight line in the log-score, and a regressor on what it leaves.

    Features of a layer are its share in the score and the logarithm of its sensitivity.
    """

    def __init__(
        self,
        space: SearchSpace,
        sensitivities: Doubles,
        dense_error: float,
        samples: int | None,
        regressor: Regressor,
    ) -> None:
        super().__init__(space, sensitivities, dense_error, samples)
        self._regressor = regressor
        self._line = np.array([0.0, 1.0])
        self._scale: tuple[Doubles, Doubles] | None = None

    def _learn(self, choices: Integers, target: Doubles, variance: Doubles) -> None:
        features, design = self._features(choices)
        weight = 1 / (0.1**2 + variance)
        normal = (design.T * weight) @ design + np.diag(_PRIOR)
        self._line = np.linalg.solve(normal, design.T @ (weight * target) + [0.0, _PRIOR[1]])
        self._scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
        self._regressor.fit((features - self._scale[0]) / self._scale[1], target - design @ self._line)

    def _predict(self, choices: Integers) -> tuple[Doubles, Doubles]:
        features, design = self._features(choices)
        mean = design @ self._line
        if self._scale is None:
            return mean, np.full(len(mean), 0.25)
        residual, spread = self._regressor.spread((features - self._scale[0]) / self._scale[1])
        return mean + residual, spread**2

    def _features(self, choices: Integers) -> tuple[Doubles, Doubles]:
        parts = np.take_along_axis(self._given, choices.T, axis=1).T
        score = parts.sum(axis=1)
        features = np.concatenate([parts / score[:, None], np.log(parts)], axis=1)
        return features, np.stack([np.ones(len(score)), np.log(score)], axis=1)


class _WithDeviation:
    """A regressor of scikit-learn that tells its own standard deviation."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def fit(self, features: Doubles, residual: Doubles) -> None:
        self._model.fit(features, residual)

    def spread(self, features: Doubles) -> tuple[Doubles, Doubles]:
        mean, deviation = self._model.predict(features, return_std=True)
        return np.asarray(mean), np.asarray(deviation)


class _Forest:
    """Extremely randomized trees; the spread is that of the trees' votes and of what they miss when left out."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def fit(self, features: Doubles, residual: Doubles) -> None:
        self._model.fit(features, residual)
        self._missed = float(np.sqrt(np.mean((self._model.oob_prediction_ - residual) ** 2)))

    def spread(self, features: Doubles) -> tuple[Doubles, Doubles]:
        return np.asarray(self._model.predict(features)), np.full(len(features), self._missed)


def ridge() -> Regressor:
    """Ridge regression whose strength is its most likely one (MacKay 1992)."""
    from sklearn.linear_model import BayesianRidge

    return _WithDeviation(BayesianRidge())


def gaussian_process() -> Regressor:
    """A Gaussian process with one length scale, the most likely one."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(0.1, (1e-4, 10)) * RBF(6.0, (1.0, 100.0)) + WhiteKernel(0.01, (1e-5, 1.0))
    return _WithDeviation(GaussianProcessRegressor(kernel, random_state=0))


def trees() -> Regressor:
    """Extremely randomized trees (Geurts et al. 2006)."""
    from sklearn.ensemble import ExtraTreesRegressor

    model = ExtraTreesRegressor(_TREES, min_samples_leaf=3, bootstrap=True, oob_score=True, random_state=0)
    return _Forest(model)
