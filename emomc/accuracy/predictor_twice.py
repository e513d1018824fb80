"""Predicting with sensitivities that are corrected twice: by distances, then by errors.

Measured distances are continuous and carry hardly any noise, so few networks tell the distance of any other within some
percent. But what a distance costs in error differs: some layers move outputs where it decides a class, others where
nothing depends on it. Errors tell this, with the noise of a count, once the distances are right.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emomc.accuracy.predictor_corrected import CorrectedPredictor

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]


class TwiceCorrectedPredictor:
    """Two corrections, one on top of the other; see the module."""

    def __init__(self, first: CorrectedPredictor) -> None:
        """Start unfitted.

        Args:
            first: learns from distances.
        """
        self._first = self._last = first

    @property
    def table(self) -> Doubles:
        """Corrected sensitivities, which broadcast to ``(L, *space.shape)``."""
        return self._last.table

    def fit(self, genomes: Integers, errors: Doubles, distances: Doubles | None = None) -> None:
        """Learn from measured networks; without distances, by their errors alone."""
        self._first.fit(genomes, errors, distances)
        self._last = self._first
        if distances is not None:
            self._last = self._first.on_top()
            self._last.fit(genomes, errors)

    def predict(self, genomes: Integers) -> tuple[Doubles, Doubles]:
        """Predicted error and half the width of its one-sigma interval."""
        return self._last.predict(genomes)
