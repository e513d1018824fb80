"""The predictor in use: of several, the one that has ranked best what was measured after it was predicted."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emomc.accuracy.predictor import AdditivePredictor, Predictor, rank_correlation
from emomc.accuracy.predictor_corrected import CorrectedPredictor
from emomc.accuracy.predictor_learned import LearnedPredictor, gaussian_process, ridge, trees
from emomc.genome import SearchSpace

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]

_FEWEST = 12  # networks predicted and then measured, before predictors are told apart by them
_RECENT = 64  # what was measured last counts: predictors get better as a search goes on
_MARGIN = 0.01  # better by this, or the one before stays
_WEIGHT = 8  # measured networks that the claim of a spread counts as


class ChosenPredictor:
    """Several predictors side by side.

    Whenever it is fitted, each predictor first predicts what is new; only then all of them learn it. So every network
    is a fresh test of all of them (prequential: Dawid 1984). The spread is scaled by how far predictions were off,
    measured in their spreads.

    Attributes:
        name: of the predictor in use.
        rank_correlations: Kendall's tau of each predictor on networks that it predicted before they were measured.
    """

    def __init__(self, corrected: CorrectedPredictor, others: Mapping[str, Predictor]) -> None:
        """Start with the corrected predictor, which stays in use until another one is better."""
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

    def fit(self, genomes: Integers, errors: Doubles, divergences: Doubles | None = None) -> None:
        """Test every predictor on what is new, choose one, and let all learn."""
        self._test(genomes, errors)
        self._choose()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's on length scales at a bound, which is where they belong
            for predictor in self._predictors.values():
                predictor.fit(genomes, errors, divergences)

    def predict(self, genomes: Integers) -> tuple[Doubles, Doubles]:
        """Predicted error and half the width of its one-sigma interval, calibrated."""
        mean, spread = self.predictor.predict(genomes)
        return mean, spread * self._calibration(self.name)

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
        recent = {name: rank_correlation(mean[-_RECENT:], measured[-_RECENT:]) for name, mean in means.items()}
        best = max(recent, key=lambda name: np.nan_to_num(recent[name], nan=-1.0))
        if recent[best] > np.nan_to_num(recent[self.name], nan=-1.0) + _MARGIN:
            self.name = best

    def _calibration(self, name: str) -> float:
        """Factor that makes two thirds of the measured errors fall within one spread of their predictions."""
        rows = np.array(self._predicted[name][-_RECENT:])
        if not len(rows):
            return 1.0
        off = np.abs(rows[:, 0] - np.array(self._measured[-_RECENT:])) / np.maximum(rows[:, 1], 1e-9)
        seen = float(np.quantile(off, 0.683))
        factor = np.exp((len(off) * np.log(np.maximum(seen, 1e-3))) / (len(off) + _WEIGHT))
        return float(np.clip(factor, 0.25, 4.0))


def default_predictors(
    space: SearchSpace, sensitivities: Doubles, dense_error: float, samples: int | None
) -> ChosenPredictor:
    """The additive predictor, its corrected form, which goes first, and regressors on what the additive one leaves."""
    given = (space, sensitivities, dense_error, samples)
    return ChosenPredictor(
        CorrectedPredictor(*given),
        {
            "additive": AdditivePredictor(space, sensitivities, dense_error),
            "ridge": LearnedPredictor(*given, ridge()),
            "gaussian process": LearnedPredictor(*given, gaussian_process()),
            "trees": LearnedPredictor(*given, trees()),
        },
    )
