"""Rounds of a search guided by predictions: evolve on predicted errors, choose a batch, measure it, learn from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.algorithm import Algorithm
from pymoo.optimize import minimize
from scipy.stats import norm

from emomc.accuracy.predictor import refined
from emomc.accuracy.predictor_choice import default_predictors
from emomc.genome import SearchSpace
from emomc.operators import genome_operators
from emomc.search.coordinates import Coordinates
from emomc.search.front import front_of, pick_spread
from emomc.search.infill import pick_gain
from emomc.search.ledger import Genomes, Ledger, SearchTask
from emomc.search.seeds import additive_seeds

Doubles = NDArray[np.float64]
MakeAlgorithm = Callable[[Genomes, dict[str, Any]], Algorithm]
"""``make(initial population, operators)``: a pymoo algorithm."""

POPULATION = 100
_ENUMERABLE = 2000  # spaces of no more genomes are listed, as evolution would spend its time on avoiding duplicates
_CANDIDATES = 400  # networks whose gain is worked out in a round
_OUTCOMES = 6  # equally likely errors of a candidate


@dataclass(frozen=True)
class Ground:
    """Where a stage may go.

    Attributes:
        name: of the stage.
        space: the networks it may measure.
        inherited: genes that children have from one parent alone.
    """

    name: str
    space: SearchSpace
    inherited: tuple[str, ...] = ()


class Rounds:
    """What all stages of a search share: the ledger, the predictor, and how batches are chosen."""

    def __init__(self, task: SearchTask, ledger: Ledger, seed: int) -> None:
        self.task, self.ledger = task, ledger
        self.space = task.problem.space
        self.predictor = default_predictors(self.space, task.sensitivities, task.dense_error, task.samples)
        self.coordinates = Coordinates.of(task)
        self._rng = np.random.default_rng(seed)
        ledger.estimates = self.estimates
        self._predicted_problem = task.problem.with_errors(lambda genomes: self.predictor.predict(genomes)[0])

    def stage(
        self, ground: Ground, seeds: Genomes, evaluations: int, batch: int, generations: int, make: MakeAlgorithm
    ) -> None:
        """Spend evaluations in rounds, until nothing new is found.

        Args:
            ground: where to search.
            seeds: genomes to start from.
            evaluations: networks to measure, at most.
            batch: networks per round.
            generations: of the algorithm in each round.
            make: the algorithm.
        """
        stop = self.ledger.remaining - evaluations
        pool = np.unique(ground.space.canonical(seeds), axis=0)
        while self.ledger.remaining > stop:
            if len(ground.inherited) == 0:
                found = additive_seeds(self.task.problem, ground.space, self.predictor.table)
                pool = np.unique(np.concatenate([pool, found]), axis=0)
            population = self._evolve(ground, pool, generations, make)
            known = self.ledger.is_known(population)
            self.ledger.measure(population[known], ground.name)  # with other dataflows than before they cost nothing
            picked = self._choose(population[~known], min(batch, self.ledger.remaining - stop))
            if not len(picked):
                return
            self.ledger.measure(picked, ground.name, self.predictor.predict(picked)[0])
            self.predictor.fit(self.ledger.genomes, self.ledger.errors, self.ledger.distances)
            self.ledger.notes = {"predictor": self.predictor.name, "predictors": self.predictor.rank_correlations}
            pool = np.unique(np.concatenate([pool, picked, population]), axis=0)
            pool = pool[self._best(pool, 4 * POPULATION)]

    def measured_front(self) -> tuple[Genomes, Doubles]:
        """Measured networks that no other is estimated to beat, and their coordinates."""
        values, violations = self.task.problem.values(self.ledger.genomes, self.estimates())
        front = front_of(values, violations)
        return self.ledger.genomes[front], self.coordinates(values[front])

    def estimates(self) -> Doubles:
        """Errors of the measured networks, freed of sampling noise as far as the predictor can tell.

        Against raw errors, a network that was lucky on the selection split would rule out all better ones near it.
        """
        genomes, errors, samples = self.ledger.genomes, self.ledger.errors, self.task.samples
        if samples is None or not len(errors):
            return errors
        return refined(errors, *self.predictor.predict(genomes), self.task.dense_error, samples)

    def _evolve(self, ground: Ground, pool: Genomes, generations: int, make: MakeAlgorithm) -> Genomes:
        """Genomes that a few generations on predicted errors end with, the pool's best among them."""
        if ground.space.size <= _ENUMERABLE:
            return ground.space.every()
        best = pool[self._best(pool, _CANDIDATES)]
        initial = best[
            pick_spread(self.coordinates(self._values(best)[0]), np.zeros((0, len(self.coordinates.low))), POPULATION)
        ]
        if len(initial) < POPULATION:
            filling = self._rng.integers(0, len(initial), POPULATION - len(initial))
            initial = np.concatenate([initial, initial[filling]])
        algorithm = make(initial, genome_operators(ground.space, ground.inherited))
        seed = int(self._rng.integers(2**31))
        result = minimize(self._predicted_problem, algorithm, ("n_gen", generations), seed=seed)
        final = np.concatenate([best, result.pop.get("X").astype(np.int64)])
        return np.unique(ground.space.canonical(final), axis=0)

    def _values(self, genomes: Genomes) -> tuple[Doubles, Doubles]:
        return self.task.problem.values(genomes, self.predictor.predict(genomes)[0])

    def _best(self, genomes: Genomes, count: int) -> NDArray[np.int64]:
        """Rows of the predicted front, thinned to ``count``; filled up with others if there is room."""
        values, violations = self._values(genomes)
        front = front_of(values, violations)
        coordinates = self.coordinates(values)
        if len(front) >= count:
            return front[pick_spread(coordinates[front], coordinates[:0], count)]
        others = np.setdiff1d(np.arange(len(genomes)), front)
        more = pick_spread(coordinates[others], coordinates[front], count - len(front))
        return np.concatenate([front, others[more]])

    def _choose(self, candidates: Genomes, count: int) -> Genomes:
        """Networks to measure: those of most expected gain; if these are too few, those far from what is measured."""
        if not len(candidates):
            return candidates
        candidates = candidates[self._best(candidates, _CANDIDATES)]
        errors, spread = self.predictor.predict(candidates)
        values, violations = self.task.problem.values(candidates, errors)
        measured, measured_violations = self.task.problem.values(self.ledger.genomes, self.estimates())
        archive = self.coordinates(measured[front_of(measured, measured_violations)])
        coordinates = self.coordinates(values)
        outcomes = np.array([self._outcome(candidates, each) for each in self._likely(errors, spread)])
        believed = np.where((violations <= 0).all(axis=1, keepdims=True), coordinates, np.nan)
        picks = pick_gain(outcomes, believed, archive, self.coordinates.reference, count)
        if len(picks) < count:
            own = front_of(values, violations)
            rest = np.setdiff1d(own if len(own) else np.arange(len(candidates)), picks)
            near = np.concatenate([self.coordinates(measured), coordinates[picks]])
            more = pick_spread(coordinates[rest], near, count - len(picks))
            picks = np.concatenate([picks, rest[more]])
        return candidates[picks]

    def _outcome(self, genomes: Genomes, errors: Doubles) -> Doubles:
        values, violations = self.task.problem.values(genomes, errors)
        feasible = (violations <= 0).all(axis=1, keepdims=True)
        return np.where(feasible, self.coordinates(values), np.nan)

    def _likely(self, errors: Doubles, spread: Doubles) -> list[Doubles]:
        """Equally likely errors of each network: losses are about log-normal."""
        loss = np.maximum(errors - self.task.dense_error, 1e-6)
        steps = norm.ppf((np.arange(_OUTCOMES) + 0.5) / _OUTCOMES)
        return [self.task.dense_error + loss * np.exp(step * np.arcsinh(spread / loss)) for step in steps]
