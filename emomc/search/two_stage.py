"""Two-stage evolutionary search after EMOMC (Wang et al. 2021): prune first, then quantize what was pruned.

What is kept of the paper: stage 1 decides prune ratios, stage 2 decides bit-widths, shared values and dataflows of the
networks that stage 1 chose, both by NSGA-II. What differs: every layer has its own prune ratio; populations start from
exact trade-offs of per-layer sensitivities; NSGA-II works on predicted errors and exact costs, and only a few
promising, diverse networks of each round are measured, after which the predictor is fitted again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.algorithm import Algorithm
from pymoo.optimize import minimize

from emomc.accuracy.predictor import AdditivePredictor
from emomc.genome import PRUNING, RUNNING, SearchSpace
from emomc.operators import genome_operators, lagrangian_seeds, uniform_ladder
from emomc.search.front import front_of, pick_spread, spread_coordinates
from emomc.search.ledger import Genomes, Ledger, SearchTask

Doubles = NDArray[np.float64]
MakeAlgorithm = Callable[[Genomes, dict[str, Any]], Algorithm]
"""``make(initial population, operators)``: a pymoo algorithm."""

_POPULATION = 100
_ENUMERABLE = 2000  # spaces of no more genomes are listed, as evolution would spend its time on avoiding duplicates


def nsga2(initial: Genomes, operators: dict[str, Any]) -> Algorithm:
    """NSGA-II, the algorithm of the paper."""
    return NSGA2(pop_size=_POPULATION, sampling=initial, **operators)


@dataclass(frozen=True)
class Schedule:
    """How the budget is spent.

    Attributes:
        first_stage: fraction of the evaluations spent on pruning alone.
        batch: networks measured per round.
        generations: generations of the algorithm per round, on predicted errors.
        bases: pruned networks that stage 2 starts from, at most.
        algorithm: makes the pymoo algorithm of a round.
    """

    first_stage: float = 0.25
    batch: int = 8
    generations: int = 25
    bases: int = 16
    algorithm: MakeAlgorithm = nsga2


def two_stage(task: SearchTask, ledger: Ledger, seed: int, schedule: Schedule | None = None) -> None:
    """Spend the ledger's budget; the measured networks are in the ledger."""
    _TwoStage(task, ledger, seed, schedule or Schedule()).run()


class _TwoStage:
    def __init__(self, task: SearchTask, ledger: Ledger, seed: int, schedule: Schedule) -> None:
        self._task, self._ledger, self._schedule = task, ledger, schedule
        self._rng = np.random.default_rng(seed)
        self._space = task.problem.space
        self._predictor = AdditivePredictor(self._space, task.sensitivities, task.dense_error)
        self._predicted_problem = task.problem.with_errors(lambda genomes: self._predictor.predict(genomes)[0])
        self._is_error = np.array([objective.measured for objective in task.problem.objectives])

    def run(self) -> None:
        budget = self._ledger.remaining
        names = [gene.name for gene in self._space.genes]
        prune_only, inherited = self._space, tuple(name for name in names if name in PRUNING)
        for name in names:
            if name not in (*PRUNING, *RUNNING):
                prune_only = prune_only.mildest(name)
        first = max(round(budget * self._schedule.first_stage), min(budget, 1))
        self._stage("prune", prune_only, (), self._seeds(prune_only), first)
        if not self._ledger.remaining:
            return
        bases = self._bases()
        seeds = np.concatenate([self._seeds(self._pruned_as(base, inherited)) for base in bases])
        self._stage("quantize", self._space, inherited, seeds, self._ledger.remaining)

    def _pruned_as(self, base: NDArray[np.int64], genes: tuple[str, ...]) -> SearchSpace:
        """The space of all networks that are pruned as a genome is."""
        space = self._space
        for gene in genes:
            space = space.pinned(gene, base)
        return space

    def _stage(
        self, name: str, space: SearchSpace, inherited: tuple[str, ...], seeds: Genomes, evaluations: int
    ) -> None:
        """Rounds of predict, evolve, measure and fit, until the evaluations are spent or nothing new is found."""
        stop = self._ledger.remaining - evaluations
        pool = np.unique(space.canonical(seeds), axis=0)
        while self._ledger.remaining > stop:
            population = self._evolve(space, inherited, pool)
            known = self._ledger.is_known(population)
            self._ledger.measure(population[known], name)  # networks with other dataflows than before cost nothing
            picked = self._choose(population[~known], min(self._schedule.batch, self._ledger.remaining - stop))
            if not len(picked):
                return
            self._ledger.measure(picked, name, self._predictor.predict(picked)[0])
            self._predictor.fit(self._ledger.genomes, self._ledger.errors)
            pool = np.unique(np.concatenate([pool, picked, population]), axis=0)
            pool = pool[self._best(pool, 4 * _POPULATION)]

    def _evolve(self, space: SearchSpace, inherited: tuple[str, ...], pool: Genomes) -> Genomes:
        """Genomes that a few generations on predicted errors end with, the pool's best among them."""
        if space.size <= _ENUMERABLE:
            return space.every()
        initial = pool[self._best(pool, _POPULATION)]
        if len(initial) < _POPULATION:
            filling = self._rng.integers(0, len(initial), _POPULATION - len(initial))
            initial = np.concatenate([initial, initial[filling]])
        algorithm = self._schedule.algorithm(initial, genome_operators(space, inherited))
        seed = int(self._rng.integers(2**31))
        result = minimize(self._predicted_problem, algorithm, ("n_gen", self._schedule.generations), seed=seed)
        final = np.concatenate([initial, result.pop.get("X").astype(np.int64)])
        return np.unique(space.canonical(final), axis=0)

    def _values(self, genomes: Genomes) -> tuple[Doubles, Doubles]:
        return self._task.problem.values(genomes, self._predictor.predict(genomes)[0])

    def _estimates(self) -> Doubles:
        """Errors of the measured networks, freed of sampling noise as far as the predictor can tell.

        Against raw errors, a network that was lucky on the selection split would rule out all better ones near it.
        """
        genomes, errors, samples = self._ledger.genomes, self._ledger.errors, self._task.samples
        return errors if samples is None else self._predictor.refine(genomes, errors, samples)

    def _coordinates(self, values: Doubles) -> Doubles:
        return spread_coordinates(values, self._is_error, self._task.dense_error, self._task.resolution)

    def _best(self, genomes: Genomes, count: int) -> NDArray[np.int64]:
        """Rows of the predicted front, thinned to ``count``; filled up with others if there is room."""
        values, violations = self._values(genomes)
        front = front_of(values, violations)
        coordinates = self._coordinates(values)
        if len(front) >= count:
            return front[pick_spread(coordinates[front], coordinates[:0], count)]
        others = np.setdiff1d(np.arange(len(genomes)), front)
        more = pick_spread(coordinates[others], coordinates[front], count - len(front))
        return np.concatenate([front, others[more]])

    def _choose(self, candidates: Genomes, count: int) -> Genomes:
        """Networks to measure: predicted to be on the front, and far from what is measured and from each other."""
        if not len(candidates):
            return candidates
        values, violations = self._values(candidates)
        measured, measured_violations = self._task.problem.values(self._ledger.genomes, self._estimates())
        everything = np.concatenate([values, measured])
        front = front_of(everything, np.concatenate([violations, measured_violations]))
        promising = front[front < len(candidates)]
        taken = self._coordinates(measured)
        picks = promising[pick_spread(self._coordinates(values[promising]), taken, count)]
        if len(picks) < count:
            own = front_of(values, violations)
            rest = np.setdiff1d(own if len(own) else np.arange(len(candidates)), picks)
            near = np.concatenate([taken, self._coordinates(values[picks])])
            more = pick_spread(self._coordinates(values[rest]), near, count - len(picks))
            picks = np.concatenate([picks, rest[more]])
        return candidates[picks]

    def _seeds(self, space: SearchSpace) -> Genomes:
        """Exact trade-offs of the additive model over a space, and the ladder that treats all layers alike."""
        costs = [
            self._task.problem.costs.tables[objective.name]
            for objective in self._task.problem.objectives
            if objective.name in self._task.problem.costs.tables
        ]
        return np.concatenate([lagrangian_seeds(space, self._task.sensitivities, costs), uniform_ladder(space)])

    def _bases(self) -> Genomes:
        """Pruned networks for stage 2: spread over the measured front of stage 1."""
        values, violations = self._task.problem.values(self._ledger.genomes, self._estimates())
        front = front_of(values, violations)
        if not len(front):
            return self._ledger.genomes[: self._schedule.bases]
        picks = pick_spread(self._coordinates(values[front]), values[:0], self._schedule.bases)
        return self._ledger.genomes[front[picks]]
