"""Two-stage evolutionary search after EMOMC (Wang et al. 2021): prune first, then quantize what was pruned.

What is kept of the paper: stage 1 decides prune ratios, stage 2 decides bit-widths, shared values and dataflows of the
networks that stage 1 chose, both by NSGA-II. What differs: every layer has its own prune ratio; populations start from
exact trade-offs of per-layer sensitivities; NSGA-II works on predicted errors and exact costs, and only the few
networks of largest expected gain are measured in each round, after which the predictors are fitted again; and a last
stage goes on from the front with all genes free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.core.algorithm import Algorithm
from pymoo.util.ref_dirs import get_reference_directions

from emomc.genome import PRUNING, RUNNING, SearchSpace
from emomc.search.front import pick_spread
from emomc.search.ledger import Genomes, Ledger, SearchTask
from emomc.search.rounds import POPULATION, Ground, MakeAlgorithm, Rounds
from emomc.search.seeds import starting_seeds


def nsga2(initial: Genomes, operators: dict[str, Any]) -> Algorithm:
    """NSGA-II, the algorithm of the paper."""
    return NSGA2(pop_size=POPULATION, sampling=initial, **operators)


def nsga3(objectives: int) -> MakeAlgorithm:
    """NSGA-III (Deb and Jain 2014): among four objectives or more, hardly any network dominates another."""
    partitions = next(n for n in range(1, POPULATION) if math.comb(n + objectives, objectives - 1) > POPULATION)
    directions = get_reference_directions("das-dennis", objectives, n_partitions=partitions)
    return lambda initial, operators: NSGA3(directions, pop_size=POPULATION, sampling=initial, **operators)


_MANY = 4  # objectives from which on domination no longer tells networks apart


@dataclass(frozen=True)
class Schedule:
    """How the budget is spent.

    Attributes:
        prune: fraction of the evaluations spent on pruning alone.
        polish: fraction of the evaluations spent, in the end, with all genes free.
        batch: networks measured per round.
        generations: generations of the algorithm per round, on predicted errors.
        bases: pruned networks that stage 2 starts from, at most.
        algorithm: makes the pymoo algorithm of a round; if not given, NSGA-II, and NSGA-III from four objectives on.
    """

    prune: float = 0.05
    polish: float = 0.9
    batch: int = 4
    generations: int = 6
    bases: int = 16
    algorithm: MakeAlgorithm | None = None


def two_stage(task: SearchTask, ledger: Ledger, seed: int, schedule: Schedule | None = None) -> None:
    """Spend the ledger's budget; the measured networks are in the ledger."""
    schedule = schedule or Schedule()
    rounds = Rounds(task, ledger, seed)
    space, problem = rounds.space, task.problem
    pruning = tuple(gene.name for gene in space.genes if gene.name in PRUNING)
    budget = ledger.remaining
    make = schedule.algorithm or (nsga2 if problem.n_obj < _MANY else nsga3(problem.n_obj))
    share = schedule.batch, schedule.generations, make

    pruned = _pruned_only(space)
    first = max(round(budget * schedule.prune), min(budget, 1))
    rounds.stage(Ground("prune", pruned), starting_seeds(problem, pruned, task.sensitivities), first, *share)

    last = round(budget * schedule.polish)
    bases = _bases(rounds, schedule.bases)
    losses = rounds.predictor.table
    if ledger.remaining > last:
        seeds = [starting_seeds(problem, _pruned_as(space, base, pruning), losses) for base in bases]
        rounds.stage(Ground("quantize", space, pruning), np.concatenate(seeds), ledger.remaining - last, *share)
    rounds.stage(Ground("polish", space), rounds.measured_front()[0], ledger.remaining, *share)


def _pruned_only(space: SearchSpace) -> SearchSpace:
    """The space of networks that are pruned and not compressed otherwise."""
    for gene in space.genes:
        if gene.name not in (*PRUNING, *RUNNING):
            space = space.mildest(gene.name)
    return space


def _pruned_as(space: SearchSpace, base: NDArray[np.int64], genes: tuple[str, ...]) -> SearchSpace:
    """The space of all networks that are pruned as a genome is."""
    for gene in genes:
        space = space.pinned(gene, base)
    return space


def _bases(rounds: Rounds, count: int) -> Genomes:
    """Pruned networks for stage 2: spread over the measured front of stage 1."""
    genomes, coordinates = rounds.measured_front()
    if not len(genomes):
        return rounds.ledger.genomes[:count]
    return genomes[pick_spread(coordinates, coordinates[:0], count)]
