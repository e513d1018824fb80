"""Predicting the error of a configuration from what its layers do alone."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from emomc.genome import SearchSpace

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]


class Predictor(Protocol):
    """Predicts errors of genomes; what it returns is never called measured."""

    def fit(self, genomes: Integers, errors: Doubles, distances: Doubles | None = None) -> None:
        """Learn from measured genomes ``(n, n_var)``, their errors and, where known, distances, each ``(n,)``.

        NaN stands for a measurement that failed.
        """

    def predict(self, genomes: Integers) -> tuple[Doubles, Doubles]:
        """Predicted error and its spread (one standard deviation), each ``(n,)``."""


def rank_correlation(predicted: Doubles, measured: Doubles) -> float:
    """Kendall's tau-b of predictions and later measurements; NaN where it is undefined."""
    if len(predicted) < 2:
        return float("nan")
    return float(kendalltau(predicted, measured).statistic)


def sampling_variance(errors: Doubles, dense_error: float, samples: int) -> Doubles:
    """Variance of losses that are measured on a split, about: that of a loss d on m paired samples is d / m.

    That holds as most samples that change become wrong. Losses are taken to be at least one sample.
    """
    return np.asarray((np.abs(errors - dense_error) + 1 / samples) / samples)


def refined(errors: Doubles, predicted: Doubles, spread: Doubles, dense_error: float, samples: int) -> Doubles:
    """Estimates ``(n,)`` of the true errors of measured genomes: measurement and prediction by their certainty.

    Only for deciding what to measure next; what is reported is the measurement.

    Args:
        errors: measured on ``samples`` samples, ``(n,)``; NaN where measuring failed.
        predicted: shape ``(n,)``.
        spread: standard deviation of the predictions, ``(n,)``.
        dense_error: error of the uncompressed network.
        samples: size of the split.
    """
    noise = sampling_variance(errors, dense_error, samples)
    trust = spread**2 / (spread**2 + noise)
    return np.where(np.isfinite(errors), trust * errors + (1 - trust) * predicted, np.nan)


class AdditivePredictor:
    """Layer sensitivities add up to a score; two fitted numbers turn the score into an error.

    ``error = e0 + (1 - e0) * (1 - exp(-(c * score) ** g))``: proportional to a power of the score while it is small,
    saturating at 1. In the link ``log(-log(1 - x))`` this is a straight line in ``log(score)``. Before anything is
    measured, ``c = g = 1``.
    """

    def __init__(self, space: SearchSpace, sensitivities: Doubles, dense_error: float) -> None:
        """Start unfitted.

        Args:
            space: the space of the genomes.
            sensitivities: broadcast to ``(L, *space.shape)``.
            dense_error: error of the uncompressed network, ``e0``.
        """
        self._space = space
        self._table = np.broadcast_to(sensitivities, (space.n_layers, *space.shape))
        self._dense = dense_error
        self._intercept, self._slope, self._residual = 0.0, 1.0, 0.5

    def score(self, genomes: Integers) -> Doubles:
        """Sum of the sensitivities of every layer's variant, shape ``(n,)``."""
        parts = self._space.split(genomes)
        layer = np.arange(self._space.n_layers)[None, :]
        return np.asarray(self._table[(layer, *np.moveaxis(parts, 2, 0))].sum(axis=1))

    def fit(self, genomes: Integers, errors: Doubles, distances: Doubles | None = None) -> None:
        """Fit intercept and slope of the link by least squares; failed measurements (NaN) are left out.

        A network that is given with several dataflows counts once.
        """
        _, networks = np.unique(self._space.network_part(genomes), axis=0, return_index=True)
        genomes, errors = genomes[networks], errors[networks]
        valid = np.isfinite(errors)
        if valid.sum() < 3:
            return
        x = self._log_score(genomes[valid])
        excess = np.clip((errors[valid] - self._dense) / (1 - self._dense), 1e-4, 1 - 1e-4)
        y = np.log(-np.log1p(-excess))
        weight = np.sqrt(excess)  # small excesses are mostly sampling noise
        design = np.stack([np.ones_like(x), x], axis=1) * weight[:, None]
        solution = np.linalg.lstsq(design, y * weight, rcond=None)[0]
        self._slope = float(np.clip(solution[1], 0.2, 3.0))
        self._intercept = float(np.average(y - self._slope * x, weights=weight**2))
        self._residual = float(np.sqrt(np.average((y - self._intercept - self._slope * x) ** 2, weights=weight**2)))

    def predict(self, genomes: Integers) -> tuple[Doubles, Doubles]:
        """Predicted error and half the width of its one-sigma interval."""
        link = self._intercept + self._slope * self._log_score(genomes)
        low, mean, high = (self._to_error(link + step * self._residual) for step in (-1, 0, 1))
        return mean, (high - low) / 2

    def _log_score(self, genomes: Integers) -> Doubles:
        return np.log(np.maximum(self.score(genomes), 1e-12))

    def _to_error(self, link: Doubles) -> Doubles:
        return np.asarray(self._dense + (1 - self._dense) * -np.expm1(-np.exp(np.minimum(link, 10.0))))
