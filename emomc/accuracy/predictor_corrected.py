"""Predicting with sensitivities that are corrected by what was measured: a Gaussian process over layers' choices.

The score of a network is the sum of its layers' sensitivities. Each sensitivity is off by an unknown factor ``exp(t)``;
factors of one layer resemble each other, the more so the closer their choices are, and where choices share a point of
the layer's curves, such as a prune ratio, by the part that this point has in their losses. The logarithm of the score
is linear in ``t`` near the present estimate: the derivative is the share that a layer's choice has in the score. So
measured networks tell the factors by linear Gaussian regression, repeated at the new estimate (Gauss-Newton). The
target is a smooth curve over the log-score, near the diagonal: a straight line and a bend, regressed along; without the
bend, what saturates in another way than the link does would be put down to the factors.

Sensitivities that stand out from smooth curves are more often wrong than others: the logarithm of a factor has two
parts more, the table's roughness (`SensitivityCurves`) times two numbers that all layers share and measured networks
tell as well. How far factors are off, how alike they are and whether roughness is doubted at all is chosen by marginal
likelihood (Rasmussen and Williams 2006, equation 2.30).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from emomc.accuracy.predictor_link import LinkPredictor
from emomc.accuracy.sensitivity_curves import SensitivityCurves
from emomc.genome import SearchSpace

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]
Factor = tuple[Doubles, bool]

_OFF = (0.1, 0.25, 0.35, 0.5, 0.7, 1.0)  # standard deviation of the factors' logarithm
_ALIKE = (  # parts of their variance: whole layer, near choices, points of the curves
    (0.8, 0.2, 0.0),
    (0.4, 0.6, 0.0),
    (0.2, 0.4, 0.4),
    (0.5, 0.0, 0.5),
    (0.0, 0.0, 1.0),
)
_DOUBT = (0.0, 0.7)  # standard deviation of the share of the roughness that is taken back; 0 takes nothing back
_DOUBTS = (-0.2, 1.0)  # that share is taken to be within
_NOISE = (0.005, 0.02, 0.06, 0.15, 0.4)  # standard deviation of what no factor explains
_REACH = 2.0  # steps between choices over which likeness falls to 1 / e
_INTERCEPT, _SLOPE = 3.0, 0.4  # prior standard deviations of the curve; the prior means are 0 and 1
_BEND, _BENDS = 0.5, 2.0  # standard deviation of its bend, and the log-score over which it bends
_STEPS = 8
_CHOOSING = (0, 2, 5)  # steps that choose the prior anew
_STEP = 0.05  # of the difference quotient that is the slope
_SLOPES = (0.2, 5.0)  # the slope is taken to be within
_MOST = 4.0  # largest logarithm of a factor


@dataclass(frozen=True)
class _Prior:
    off: float
    alike: tuple[float, float, float]
    doubt: float
    noise: float


@dataclass(frozen=True)
class _Point:
    """Networks at an estimate of the factors.

    Attributes:
        choices: shape ``(n, L)``.
        log_score: shape ``(n,)``.
        pulls: derivative of the target by the logarithm of each layer's factor, shape ``(n, L)``.
        rough: derivative of the target by the shares of the two kinds of roughness that are taken back, ``(n, 2)``.
    """

    choices: Integers
    log_score: Doubles
    pulls: Doubles
    rough: Doubles


@dataclass(frozen=True)
class _Curve:
    """What the target is above the log-score: a Gaussian process's mean, given by weights at known log-scores."""

    known: Doubles
    weights: Doubles

    def __call__(self, log_score: Doubles) -> Doubles:
        return np.asarray(_curves(log_score, self.known) @ self.weights)


class CorrectedPredictor(LinkPredictor):
    """Sensitivities, corrected choice by choice, through a link; see the module.

    Attributes:
        curves: behind the sensitivities.
    """

    def __init__(
        self,
        space: SearchSpace,
        sensitivities: Doubles,
        dense_error: float,
        samples: int | None = None,
        curves: SensitivityCurves | None = None,
    ):
        """Start unfitted.

        Args:
            space: the space of the genomes.
            sensitivities: broadcast to ``(L, *space.shape)``.
            dense_error: error of the uncompressed network.
            samples: samples that errors are measured on; None where they are exact.
            curves: behind sensitivities; if not given, they are found, which takes a second.
        """
        super().__init__(space, sensitivities, dense_error, samples)
        self._logs = np.zeros_like(self._given)  # of the factors
        self._curve = _Curve(np.zeros(0), np.zeros(0))
        self._prior = _Prior(0.5, _ALIKE[1], _DOUBT[0], 0.15)
        self._learned: tuple[_Point, Factor] | None = None
        self.curves = curves or SensitivityCurves.of(self._given.reshape(self._shape))
        grid = np.stack(np.unravel_index(np.arange(self._given.shape[1]), self._shape[1:]), axis=1)
        self._near = np.exp(-np.abs(grid[:, None] - grid[None]).sum(axis=2) / _REACH)

    @property
    def table(self) -> Doubles:
        """Corrected sensitivities, which broadcast to ``(L, *space.shape)``."""
        return (self._given * np.exp(self._logs)).reshape(self._shape)

    def on_top(self) -> CorrectedPredictor:
        """An unfitted predictor that corrects what this one has corrected; the curves stay those that were found."""
        return CorrectedPredictor(self._space, self.table, self._dense, self._samples, self.curves)

    def _learn(self, choices: Integers, target: Doubles, variance: Doubles) -> None:
        self._logs, self._curve = np.zeros_like(self._given), _Curve(np.zeros(0), np.zeros(0))
        for step in range(_STEPS):
            known = self._at(choices)
            rest = target - known.log_score + _picked(self._logs, known)
            if step in _CHOOSING:
                self._prior = self._likeliest(known, rest, variance)
            weights = cho_solve(self._factored(known, variance), rest)
            moved = self._moved(choices, known.pulls * weights[:, None])
            doubts = np.clip(self._prior.doubt**2 * weights @ known.rough, *_DOUBTS)
            taken_back = np.tensordot(doubts, self.curves.roughness, axes=1)
            self._logs = np.clip(self._prior.off**2 * moved - taken_back, -_MOST, _MOST)
            self._curve = _Curve(known.log_score, weights)
        known = self._at(choices)
        factor = self._factored(known, variance)
        rest = target - known.log_score + _picked(self._logs, known)
        self._curve = _Curve(known.log_score, cho_solve(factor, rest))
        self._learned = known, factor

    def _predict(self, choices: Integers) -> tuple[Doubles, Doubles]:
        point = self._at(choices)
        mean = point.log_score + self._curve(point.log_score)
        layer, near, points = self._prior.alike
        own = (layer + near) * (point.pulls**2).sum(axis=1) + points * (self._pointed(point) ** 2).sum(axis=1)
        variance = self._prior.off**2 * own + self._prior.noise**2
        variance += self._prior.doubt**2 * (point.rough**2).sum(axis=1)
        if self._learned is not None:
            known, factor = self._learned
            across = self._covariance(point, known)
            variance += _INTERCEPT**2 + _SLOPE**2 * point.log_score**2 + _BEND**2
            variance -= np.einsum("ij,ji->i", across, cho_solve(factor, across.T))
        return mean, np.maximum(variance, self._prior.noise**2)

    def _likeliest(self, known: _Point, rest: Doubles, variance: Doubles) -> _Prior:
        """The prior of largest marginal likelihood."""
        curves, best = _curves(known.log_score, known.log_score), (-np.inf, self._prior)
        rough, kinds = known.rough @ known.rough.T, self._layered(known, known)
        for alike in _ALIKE:
            layered = np.tensordot(alike, kinds, axes=1)
            for off, doubt in itertools.product(_OFF, _DOUBT):
                covariance = off**2 * layered + doubt**2 * rough + curves
                for noise in _NOISE:
                    factor = _factored(covariance, noise**2 + variance)
                    explained = rest @ cho_solve(factor, rest, check_finite=False)
                    evidence = float(-0.5 * explained - np.log(np.diag(factor[0])).sum())
                    if evidence > best[0]:
                        best = evidence, _Prior(off, alike, doubt, noise)
        return best[1]

    def _factored(self, known: _Point, variance: Doubles) -> Factor:
        return _factored(self._covariance(known, known), self._prior.noise**2 + variance)

    def _covariance(self, some: _Point, others: _Point) -> Doubles:
        layered = np.tensordot(self._prior.alike, self._layered(some, others), axes=1)
        rough = some.rough @ others.rough.T
        curves = _curves(some.log_score, others.log_score)
        return np.asarray(self._prior.off**2 * layered + self._prior.doubt**2 * rough + curves)

    def _at(self, choices: Integers) -> _Point:
        parts = np.take_along_axis(self._given * np.exp(self._logs), choices.T, axis=1).T
        score = parts.sum(axis=1)
        log_score = np.log(score)
        slope = 1 + (self._curve(log_score + _STEP) - self._curve(log_score - _STEP)) / (2 * _STEP)
        pulls = np.clip(slope, *_SLOPES)[:, None] * parts / score[:, None]
        rough = [-(pulls * np.take_along_axis(kind, choices.T, axis=1).T).sum(axis=1) for kind in self.curves.roughness]
        return _Point(choices, log_score, pulls, np.stack(rough, axis=1))

    def _layered(self, some: _Point, others: _Point) -> Doubles:
        """Covariances of targets by factors of variance 1, alike in a layer, near, and on curves, ``(3, n, m)``."""
        near = np.zeros((len(some.choices), len(others.choices)))
        for own, other, pulls, pushes in zip(
            some.choices.T, others.choices.T, some.pulls.T, others.pulls.T, strict=True
        ):
            near += self._near[np.ix_(own, other)] * np.multiply.outer(pulls, pushes)
        return np.stack([some.pulls @ others.pulls.T, near, self._pointed(some) @ self._pointed(others).T])

    def _pointed(self, point: _Point) -> Doubles:
        """Derivative of the targets by what each point of each layer's curves is off, shape ``(n, L * points)``."""
        parts = self.curves.parts[np.arange(point.choices.shape[1]), point.choices]
        return np.asarray((point.pulls[:, :, None] * parts).reshape(len(parts), -1))

    def _moved(self, choices: Integers, pulls: Doubles) -> Doubles:
        """Logarithms of factors ``(L, choices)`` that networks pull at, were their variance 1."""
        layer, near, points = self._prior.alike
        return np.array(
            [
                layer * pull.sum() + near * self._near[:, own] @ pull + points * parts @ (parts[own].T @ pull)
                for own, pull, parts in zip(choices.T, pulls.T, self.curves.parts, strict=True)
            ]
        )


def _picked(logs: Doubles, known: _Point) -> Doubles:
    """What the logarithms of factors ``(L, choices)`` add to the targets, near where the networks are."""
    return np.asarray((known.pulls * np.take_along_axis(logs, known.choices.T, axis=1).T).sum(axis=1))


def _curves(some: Doubles, others: Doubles) -> Doubles:
    """Covariance that the curve gives log-scores: by its intercept, its slope and its bend."""
    bend = np.exp(-0.5 * (np.subtract.outer(some, others) / _BENDS) ** 2)
    return np.asarray(_INTERCEPT**2 + _SLOPE**2 * np.multiply.outer(some, others) + _BEND**2 * bend)


def _factored(covariance: Doubles, noise: Doubles) -> Factor:
    matrix = covariance.copy(order="F")  # in LAPACK's order, so that it is not copied again: there are hundreds of them
    matrix.flat[:: len(matrix) + 1] += noise
    factor: Factor = cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    return factor
