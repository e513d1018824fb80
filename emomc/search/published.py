"""The search of Wang et al. 2021 as published: one prune ratio for the whole network, one bit-width per layer.

NSGA-II with 40 survivors and 20 offspring per generation, simulated binary crossover (0.9, eta 15) and polynomial
mutation (eta 20), started at random, every individual measured. Two differences: genes are whole numbers (the released
code measures accuracy at fractional widths and charges the rounded ones), and selection never sees the test split.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling

from emomc.genome import BIT_WIDTH, PRUNE_RATIO
from emomc.search.ledger import Genomes, Ledger, SearchTask

_SURVIVORS = 40
_OFFSPRING = 20
_PATIENCE = 50  # generations without a new network after which the space counts as exhausted


class _GlobalPruneProblem(Problem):
    """Variables: one prune-ratio index, then one bit-width index per layer; all other genes at their mildest."""

    def __init__(self, task: SearchTask, ledger: Ledger) -> None:
        self._task, self._ledger = task, ledger
        space = task.problem.space
        upper = [space.shape[space.column(PRUNE_RATIO)] - 1]
        upper += [space.shape[space.column(BIT_WIDTH)] - 1] * space.n_layers
        super().__init__(
            n_var=len(upper),
            n_obj=task.problem.n_obj,
            n_ieq_constr=task.problem.n_ieq_constr,
            xl=np.zeros(len(upper)),
            xu=np.array(upper),
            vtype=int,
        )

    def genomes(self, x: NDArray[Any]) -> Genomes:
        """Full genomes of variables ``(n, 1 + layers)``."""
        space = self._task.problem.space
        genomes = np.zeros((len(x), space.n_var), dtype=np.int64)
        parts = space.split(genomes)
        parts[:, :, space.column(PRUNE_RATIO)] = x[:, :1]
        parts[:, :, space.column(BIT_WIDTH)] = x[:, 1:]
        return space.canonical(genomes)

    def _evaluate(self, x: NDArray[Any], out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        genomes = self.genomes(x.astype(np.int64))
        errors = self._ledger.measure(genomes, "evolve")
        out["F"], violations = self._task.problem.values(genomes, errors)
        if self.n_ieq_constr:
            out["G"] = violations

    def __deepcopy__(self, memo: dict[int, Any]) -> _GlobalPruneProblem:
        return self


def published(task: SearchTask, ledger: Ledger, seed: int) -> None:
    """Spend the ledger's budget; the measured networks are in the ledger."""
    whole = RoundingRepair()
    algorithm = NSGA2(
        pop_size=_SURVIVORS,
        n_offsprings=_OFFSPRING,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=0.9, eta=15, vtype=float, repair=whole),
        mutation=PM(eta=20, vtype=float, repair=whole),
        eliminate_duplicates=True,
    )
    algorithm.setup(_GlobalPruneProblem(task, ledger), seed=seed, termination=("n_gen", 10_000))
    fruitless = 0
    while ledger.remaining and fruitless < _PATIENCE and algorithm.has_next():
        before = ledger.remaining
        algorithm.next()
        fruitless = fruitless + 1 if ledger.remaining == before else 0
