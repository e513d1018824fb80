"""What a strategy works with: the task it is given, and the ledger that pays for measurements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emomc.problems.compression import CompressionProblem
from emomc.search.front import ALIKE

Doubles = NDArray[np.float64]
Genomes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SearchTask:
    """All that a strategy may know.

    Attributes:
        problem: objectives, constraints and exact costs; its ``errors`` must not be called, measure instead.
        sensitivities: error that each layer's variant causes alone, about; broadcasts to ``(L, *space.shape)``.
        dense_error: error of the uncompressed network on the selection split.
        samples: size of the selection split; None where errors are exact.
        resolution: losses smaller than this are as good as none; a fifth of a percentage point by default.
    """

    problem: CompressionProblem
    sensitivities: Doubles
    dense_error: float
    samples: int | None = None
    resolution: float = ALIKE


@dataclass(frozen=True)
class Request:
    """Networks that a strategy wants measured together.

    Attributes:
        genomes: canonical, all of different networks, shape ``(n, n_var)``.
        predicted: errors predicted before measuring, ``(n,)``; NaN where nothing was predicted.
        stage: what the strategy calls the part of its schedule.
    """

    genomes: Genomes
    predicted: Doubles
    stage: str


@dataclass(frozen=True)
class Readings:
    """What measuring a request tells beside errors.

    Attributes:
        errors: shape ``(n,)``; NaN where measuring failed.
        distances: from the dense network's output, shape ``(n,)``.
    """

    errors: Doubles
    distances: Doubles


class Ledger:
    """Pays for measurements: each network costs one evaluation of the budget, a network already measured costs none.

    Attributes:
        genomes: measured genomes in order, shape ``(n, n_var)``; a genome that differs from an earlier one only in
            what does not change the network (the dataflow) is listed too.
        errors: their measured errors, ``(n,)``; NaN where measuring failed.
        distances: their measured distances, ``(n,)``; NaN where nothing tells them.
        estimates: tells errors of the measured genomes, ``(n,)``, freed of sampling noise as far as the strategy can;
            None where it cannot. Networks are chosen by them, before and after the search ends.
        notes: what the strategy tells of itself, plain values; they go into the run's summary.
    """

    def __init__(self, task: SearchTask, budget: int, measure: Callable[[Request], Doubles | Readings]) -> None:
        """Open a ledger with nothing measured.

        Args:
            task: defines equal networks.
            budget: networks that may be measured.
            measure: measures a request; returns errors ``(n,)``, or readings. May raise to end the search early.
        """
        self._space = task.problem.space
        self._measure = measure
        self._known: dict[bytes, tuple[float, float]] = {}
        self._listed: set[bytes] = set()
        self.remaining = budget
        self.genomes: Genomes = np.zeros((0, self._space.n_var), dtype=np.int64)
        self.errors: Doubles = np.zeros(0)
        self.distances: Doubles = np.zeros(0)
        self.estimates: Callable[[], Doubles] | None = None
        self.notes: dict[str, Any] = {}

    def is_known(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Which canonical genomes are networks that have been measured, with whatever dataflows, ``(n,)``."""
        return np.array([row.tobytes() in self._known for row in self._space.network_part(genomes)], dtype=bool)

    def estimated_errors(self) -> Doubles:
        """What the strategy estimates, or what was measured where it estimates nothing, ``(n,)``."""
        return self.errors if self.estimates is None else self.estimates()

    def measure(self, genomes: Genomes, stage: str, predicted: Doubles | None = None) -> Doubles:
        """Errors of genomes, ``(n,)``; NaN for those that the budget no longer pays for.

        Args:
            genomes: shape ``(n, n_var)``, in any form.
            stage: name of the part of the schedule.
            predicted: predicted errors, ``(n,)``.
        """
        genomes = self._space.canonical(genomes)
        keys = [row.tobytes() for row in self._space.network_part(genomes)]
        predicted = np.full(len(genomes), np.nan) if predicted is None else predicted
        fresh: dict[bytes, int] = {}
        for position, key in enumerate(keys):
            if key not in self._known and key not in fresh and len(fresh) < self.remaining:
                fresh[key] = position
        if fresh:
            positions = list(fresh.values())
            measured = self._measure(Request(genomes[positions], predicted[positions], stage))
            if not isinstance(measured, Readings):
                measured = Readings(measured, np.full(len(measured), np.nan))
            pairs = zip(measured.errors.tolist(), measured.distances.tolist(), strict=True)
            self._known.update(zip(fresh, pairs, strict=True))
            self.remaining -= len(fresh)
        known = np.array([self._known.get(key, (np.nan, np.nan)) for key in keys]).reshape(-1, 2)
        self._list(genomes, known)
        return known[:, 0]

    def _list(self, genomes: Genomes, known: Doubles) -> None:
        """Enter the genomes whose networks are known, each once."""
        rows = []
        for position in np.flatnonzero(self.is_known(genomes)).tolist():
            entry = genomes[position].tobytes()
            if entry not in self._listed:
                self._listed.add(entry)
                rows.append(position)
        self.genomes = np.concatenate([self.genomes, genomes[rows]])
        self.errors = np.concatenate([self.errors, known[rows, 0]])
        self.distances = np.concatenate([self.distances, known[rows, 1]])
