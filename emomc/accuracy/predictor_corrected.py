"""Predicting with sensitivities that are corrected by what was measured: a Gaussian process over layers' choices.

The score of a network is the sum of its layers' sensitivities. Each sensitivity is off by an unknown factor ``exp(t)``;
factors of one layer resemble each other, the more so the closer their choices are. The logarithm of the score is linear
in ``t`` near the present estimate: the derivative is the share that a layer's choice has in the score. So measured
networks tell the factors by linear Gaussian regression, repeated at the new estimate (Gauss-Newton). Intercept and
slope of the target over the log-score are regressed along. How far factors are off and how alike they are is chosen by
marginal likelihood (Rasmussen and Williams 2006, equation 2.30).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from emomc.accuracy.predictor_link import LinkPredictor
from emomc.genome import SearchSpace

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]
Factor = tuple[Doubles, bool]

_OFF = (0.1, 0.25, 0.5, 1.0)  # standard deviation of the factors' logarithm
_ALIKE = ((0.8, 0.2, 0.0), (0.4, 0.6, 0.0), (0.2, 0.4, 0.4), (0.0, 0.0, 1.0))  # parts: whole layer, near choices, own
_NOISE = (0.02, 0.06, 0.15, 0.4)  # standard deviation of what no factor explains
_REACH = 2.0  # steps between choices over which likeness falls to 1 / e
_INTERCEPT, _SLOPE = 3.0, 0.4  # prior standard deviations; the prior means are 0 and 1
_STEPS = 4
_MOST = 4.0  # largest logarithm of a factor


@dataclass(frozen=True)
class _Prior:
    off: float
    alike: tuple[float, float, float]
    noise: float


@dataclass(frozen=True)
class _Point:
    """Networks at an estimate of the factors.

    Attributes:
        choices: shape ``(n, L)``.
        log_score: shape ``(n,)``.
        shares: of each layer in the score, shape ``(n, L)``.
    """

    choices: Integers
    log_score: Doubles
    shares: Doubles


class CorrectedPredictor(LinkPredictor):
    """Sensitivities, corrected choice by choice, through a link; see the module."""

    def __init__(self, space: SearchSpace, sensitivities: Doubles, dense_error: float, samples: int | None = None):
        super().__init__(space, sensitivities, dense_error, samples)
        self._corrected = self._given
        self._intercept, self._slope = 0.0, 1.0
        self._prior = _Prior(0.5, _ALIKE[1], 0.15)
        self._known: _Point | None = None
        self._factor: Factor | None = None
        self._kernels = {alike: self._kernel(alike) for alike in _ALIKE}

    @property
    def table(self) -> Doubles:
        """Corrected sensitivities, which broadcast to ``(L, *space.shape)``, nats."""
        return self._corrected.reshape(self._shape)

    def _learn(self, choices: Integers, target: Doubles, variance: Doubles) -> None:
        self._corrected, self._intercept, self._slope = self._given, 0.0, 1.0
        for step in range(_STEPS):
            known = self._at(choices)
            logs = np.log(self._corrected / self._given)
            explained = (known.shares * np.take_along_axis(logs, choices.T, axis=1).T).sum(axis=1)
            rest = target - known.log_score + self._slope * explained
            if step in (0, 2):
                self._prior = self._likeliest(known, rest, variance)
            noise = self._prior.noise**2 + variance
            weights = cho_solve(_factored(self._covariance(known, known), noise), rest)
            kernel, pulls = self._kernels[self._prior.alike], known.shares * weights[:, None]
            moved = [kernel[:, own] @ pull for own, pull in zip(choices.T, pulls.T, strict=True)]
            logs = self._prior.off**2 * self._slope * np.array(moved)
            self._corrected = self._given * np.exp(np.clip(logs, -_MOST, _MOST))
            self._slope = max(1.0 + _SLOPE**2 * float(known.log_score @ weights), 0.2)
        self._known = self._at(choices)
        left = target - self._slope * self._known.log_score
        self._intercept = float(np.average(left, weights=1 / noise))
        self._factor = _factored(self._covariance(self._known, self._known), noise)

    def _predict(self, choices: Integers) -> tuple[Doubles, Doubles]:
        point = self._at(choices)
        mean = self._intercept + self._slope * point.log_score
        kernel = self._kernels[self._prior.alike]
        layered = (point.shares**2 * kernel[choices, choices]).sum(axis=1)
        variance = (self._prior.off * self._slope) ** 2 * layered + self._prior.noise**2
        if self._known is not None and self._factor is not None:
            across = self._covariance(point, self._known)
            known = np.einsum("ij,ji->i", across, cho_solve(self._factor, across.T))
            variance = variance + _INTERCEPT**2 + _SLOPE**2 * point.log_score**2 - known
        return mean, np.maximum(variance, self._prior.noise**2)

    def _likeliest(self, known: _Point, rest: Doubles, variance: Doubles) -> _Prior:
        """The prior of largest marginal likelihood."""
        line, best = _line(known, known), (-np.inf, self._prior)
        for alike, kernel in self._kernels.items():
            layered = self._slope**2 * _layered(kernel, known, known)
            for off, noise in itertools.product(_OFF, _NOISE):
                factor = _factored(off**2 * layered + line, noise**2 + variance)
                evidence = -0.5 * rest @ cho_solve(factor, rest) - np.log(np.diag(factor[0])).sum()
                best = max(best, (float(evidence), _Prior(off, alike, noise)), key=lambda entry: entry[0])
        return best[1]

    def _covariance(self, some: _Point, others: _Point) -> Doubles:
        layered = _layered(self._kernels[self._prior.alike], some, others)
        return np.asarray((self._prior.off * self._slope) ** 2 * layered + _line(some, others))

    def _at(self, choices: Integers) -> _Point:
        parts = np.take_along_axis(self._corrected, choices.T, axis=1).T
        score = parts.sum(axis=1)
        return _Point(choices, np.log(score), parts / score[:, None])

    def _kernel(self, alike: tuple[float, float, float]) -> Doubles:
        layer, near, own = alike
        grid = np.stack(np.unravel_index(np.arange(self._given.shape[1]), self._shape[1:]), axis=1)
        steps = np.abs(grid[:, None] - grid[None]).sum(axis=2)
        return np.asarray(layer + near * np.exp(-steps / _REACH) + own * (steps == 0))


def _layered(kernel: Doubles, some: _Point, others: _Point) -> Doubles:
    """Covariance that the factors of all layers give two sets of networks, for factors of variance 1."""
    total = np.zeros((len(some.choices), len(others.choices)))
    for layer in range(some.choices.shape[1]):
        pairs = kernel[np.ix_(some.choices[:, layer], others.choices[:, layer])]
        total += pairs * np.multiply.outer(some.shares[:, layer], others.shares[:, layer])
    return total


def _line(some: _Point, others: _Point) -> Doubles:
    """Covariance that intercept and slope give."""
    return np.asarray(_INTERCEPT**2 + _SLOPE**2 * np.multiply.outer(some.log_score, others.log_score))


def _factored(covariance: Doubles, noise: Doubles) -> Factor:
    matrix = covariance.copy()
    matrix[np.diag_indices_from(matrix)] += noise
    factor: Factor = cho_factor(matrix, lower=True)
    return factor
