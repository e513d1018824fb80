"""Where populations start: exact trade-offs of additive losses and costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emomc.genome import SearchSpace
from emomc.operators import additive_front, lagrangian_seeds, uniform_ladder
from emomc.problems.compression import CompressionProblem

Doubles = NDArray[np.float64]
Genomes = NDArray[np.int64]

_PARTS = 600  # kept per layer when fronts are merged
_MERGED_COSTS = 2  # with more costs, fronts have too many networks to be merged


def additive_seeds(problem: CompressionProblem, space: SearchSpace, losses: Doubles) -> Genomes:
    """Canonical genomes that no other beats in summed losses and costs, exactly or up to thinning.

    Args:
        problem: its objectives that are sums over layers count, others do not.
        space: where choices may come from.
        losses: loss of every layer's choices; broadcasts to ``(L, *space.shape)``.
    """
    costs = [
        problem.costs.tables[each.name]
        for each in problem.objectives
        if each.name in problem.costs.tables and each.name not in problem.costs.peaks
    ]
    if not costs or len(costs) > _MERGED_COSTS:
        return lagrangian_seeds(space, losses, costs)
    return additive_front(space, [losses, *costs], _PARTS).genomes


def starting_seeds(problem: CompressionProblem, space: SearchSpace, losses: Doubles) -> Genomes:
    """Those of `additive_seeds`, and all networks that treat their layers alike."""
    return np.concatenate([additive_seeds(problem, space, losses), uniform_ladder(space)])
