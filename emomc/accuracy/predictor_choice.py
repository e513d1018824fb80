"""The predictor in use: of several, the one that has ranked best what was measured after it was predicted."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emomc.accuracy.predictor import AdditivePredictor, Predictor, rank_correlation, sampling_variance
from emomc.accuracy.predictor_corrected import CorrectedPredictor
from emomc.accuracy.predictor_learned import LearnedPredictor, gaussian_process, ridge, trees
from emomc.accuracy.predictor_twice import TwiceCorrectedPredictor
from emomc.genome import SearchSpace

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]

_FEWEST = 12  # networks predicted and then measured, before predictors are told apart by them
_RECENT = 64  # what was measured last counts: predictors get better as a search goes on
_CLEARLY = 3.0  # standard errors by which another predictor has to be better
_WEIGHT = 4  # measured networks that the claim of a spread counts as
_NEAR = 0.7  # ratio of predicted losses, as a logarithm, over which networks tell of each other's spread
_FARTHEST = 4.0  # spreads that a single network can be off
_FACTORS = (0.25, 4.0)  # the claim of a spread is taken to be right within


class ChosenPredictor:
    """Several predictors side by side.

    Whenever it is fitted, each predictor first predicts what is new; only then all of them learn it. So every network
    is a fresh test of all of them (prequential: Dawid 1984). Another predictor is used once it has ranked better beyond
    doubt, not at once: few networks tell little, and as those are measured of which the predictor in use hopes most, it
    is the one that they disappoint. The spread is scaled by how far predictions of networks
    with about the same loss were off, measured in their spreads and less what sampling explains: a predictor can be
    too sure of networks that lose little and not sure enough of the others.

    Attributes:
        name: of the predictor in use.
        rank_correlations: Kendall's tau of each predictor on networks that it predicted before they were measured.
    """

    def __init__(
        self,
        corrected: TwiceCorrectedPredictor,
        others: Mapping[str, Predictor],
        dense_error: float,
        samples: int | None = None,
    ) -> None:
        """Start with the corrected predictor, which stays in use until another one is better.

        Args:
            corrected: the one to start with.
            others: those that compete with it, by name.
            dense_error: error of the uncompressed network.
            samples: samples that errors are measured on; None where they are exact.
        """
        self._dense, self._samples = dense_error, samples
        self._corrected = corrected
        self._predictors: dict[str, Predictor] = {"corrected": corrected, **others}
        self.name = "corrected"
        self.rank_correlations: dict[str, float] = {}
        self._seen: set[bytes] = set()
        self._measured: list[float] = []
        self._predicted: dict[str, list[tuple[float, float]]] = {name: [] for name in self._predictors}

    @property
    def predictor(self) -> Predictor:
        """The one in use."""
        return self._predictors[self.name]

    @property
    def table(self) -> Doubles:
        """Sensitivities as they are corrected by now."""
        return self._corrected.table

    def fit(self, genomes: Integers, errors: Doubles, distances: Doubles | None = None) -> None:
        """Test every predictor on what is new, choose one, and let all learn."""
        self._test(genomes, errors)
        self._choose()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's on length scales at a bound, which is where they belong
            for predictor in self._predictors.values():
                predictor.fit(genomes, errors, distances)

    def predict(self, genomes: Integers) -> tuple[Doubles, Doubles]:
        """Predicted error and half the width of its one-sigma interval, calibrated."""
        mean, spread = self.predictor.predict(genomes)
        return mean, spread * self._calibration(mean)

    def _test(self, genomes: Integers, errors: Doubles) -> None:
        keys = [row.tobytes() for row in genomes]
        new = [row for row, key in enumerate(keys) if key not in self._seen and np.isfinite(errors[row])]
        self._seen.update(keys)
        if not new:
            return
        self._measured += errors[new].tolist()
        for name, predictor in self._predictors.items():
            mean, spread = predictor.predict(genomes[new])
            self._predicted[name] += list(zip(mean.tolist(), spread.tolist(), strict=True))

    def _choose(self) -> None:
        if len(self._measured) < _FEWEST:
            return
        measured = np.array(self._measured)
        means = {name: np.array(rows)[:, 0] for name, rows in self._predicted.items()}
        self.rank_correlations = {name: rank_correlation(mean, measured) for name, mean in means.items()}
        ranked = {name: _ranked(mean[-_RECENT:], measured[-_RECENT:]) for name, mean in means.items()}
        leads = {name: _lead(ranked[name], ranked[self.name]) for name in ranked if name != self.name}
        best = max(leads, key=lambda name: leads[name], default=self.name)
        if leads.get(best, 0.0) > _CLEARLY:
            self.name = best

    def _calibration(self, mean: Doubles) -> Doubles:
        """Factors ``(n,)`` for the spreads of the predictor in use at these predictions."""
        rows = np.array(self._predicted[self.name][-_RECENT:]).reshape(-1, 2)
        measured = np.array(self._measured[-_RECENT:])
        samples = self._samples
        noise = 0.0 if samples is None else sampling_variance(rows[:, 0], self._dense, samples)
        off = ((rows[:, 0] - measured) ** 2 - noise) / np.maximum(rows[:, 1] ** 2, 1e-18)
        apart = np.subtract.outer(self._log_loss(mean), self._log_loss(rows[:, 0])) / _NEAR
        weight = np.exp(-0.5 * apart**2)
        square = (weight @ np.minimum(off, _FARTHEST**2) + _WEIGHT) / (weight.sum(axis=1) + _WEIGHT)
        return np.asarray(np.sqrt(np.clip(square, _FACTORS[0] ** 2, _FACTORS[1] ** 2)))

    def _log_loss(self, errors: Doubles) -> Doubles:
        least = 1e-4 if self._samples is None else 1 / self._samples
        return np.asarray(np.log(np.maximum(errors - self._dense, least)))


def _ranked(predicted: Doubles, measured: Doubles) -> Doubles:
    """Whether each pair of networks is ranked rightly (1), wrongly (-1) or not at all (0), shape ``(n, n)``."""
    return np.asarray(np.sign(np.subtract.outer(predicted, predicted) * np.subtract.outer(measured, measured)))


def _lead(one: Doubles, other: Doubles) -> float:
    """By how many of its standard errors the rank correlation of one predictor is above that of another.

    The difference is a mean over pairs of networks, whose variance is 4 / n times that of the networks' own means
    (Hoeffding 1948).

    Args:
        one: pairs as ``_ranked`` has them.
        other: those of the other predictor.
    """
    each = (one - other).sum(axis=1) / (len(one) - 1)
    error = 2 * float(each.std(ddof=1)) / math.sqrt(len(each))
    if error == 0:  # each network says the same
        return math.copysign(math.inf, each[0]) if each[0] else 0.0
    return float(each.mean()) / error


def default_predictors(
    space: SearchSpace, sensitivities: Doubles, dense_error: float, samples: int | None
) -> ChosenPredictor:
    """The additive predictor, its corrected form, which goes first, and regressors on what the additive one leaves."""
    given = (space, sensitivities, dense_error, samples)
    return ChosenPredictor(
        TwiceCorrectedPredictor(CorrectedPredictor(*given)),
        {
            "additive": AdditivePredictor(space, sensitivities, dense_error),
            "ridge": LearnedPredictor(*given, ridge()),
            "gaussian process": LearnedPredictor(*given, gaussian_process()),
            "trees": LearnedPredictor(*given, trees()),
        },
        dense_error,
        samples,
    )
