"""Crossover, mutation and repair of genomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.crossover import Crossover
from pymoo.core.mutation import Mutation
from pymoo.core.repair import Repair

from emomc.genome import SearchSpace

Genomes = NDArray[np.int64]


class LayerwiseCrossover(Crossover):
    """Uniform crossover of whole layers: a layer's genes fit each other, so they travel together.

    Inherited genes do not take part: each child has those of one parent for all layers. The second stage of a
    two-stage search inherits the prune ratios, which belong to one pruned network.
    """

    def __init__(self, space: SearchSpace, inherited: Sequence[str] = ()) -> None:
        super().__init__(n_parents=2, n_offsprings=2, prob=1.0)
        self._space = space
        self._free = _free_columns(space, inherited)

    def _do(self, problem: Any, X: Genomes, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Genomes:
        _, n_matings, _ = X.shape
        parents = X.reshape(2, n_matings, self._space.n_layers, self._space.n_genes)
        swap = random_state.integers(0, 2, size=(n_matings, self._space.n_layers, 1)) == 1
        swap = swap & self._free[None, None, :]
        children = np.where(swap[None], parents[::-1], parents)
        return children.reshape(X.shape)


class OrdinalMutation(Mutation):
    """Changes ``rate`` genes on average, of those that have a choice.

    Ordinal genes move by one or two of the allowed choices, others are redrawn.
    """

    def __init__(self, space: SearchSpace, inherited: Sequence[str] = (), rate: int = 3) -> None:
        super().__init__(prob=1.0)
        self._space = space
        self._rate = rate
        self._free = np.tile(_free_columns(space, inherited), space.n_layers) & (space.counts > 1)
        self._ordinal = np.tile([gene.ordinal for gene in space.genes], space.n_layers)

    def _do(self, problem: Any, X: Genomes, *args: Any, random_state: np.random.Generator, **kwargs: Any) -> Genomes:
        genomes = X.astype(np.int64)
        chosen = random_state.integers(0, int(self._free.sum()) or 1, size=genomes.shape) < self._rate
        steps = random_state.integers(1, 3, size=genomes.shape) * (2 * random_state.integers(0, 2, genomes.shape) - 1)
        redrawn = random_state.integers(0, self._space.counts, size=genomes.shape)
        ranks = np.where(self._ordinal, self._space.ranks(genomes) + steps, redrawn)
        mutated = np.where(chosen & self._free, self._space.at_ranks(ranks), genomes)
        return self._space.canonical(mutated)


class CanonicalRepair(Repair):
    """Puts every genome into the canonical form of its network."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self._space = space

    def _do(self, problem: Any, X: Genomes, **kwargs: Any) -> Genomes:
        return self._space.canonical(np.rint(X))  # pymoo's default sampling draws floats


def _free_columns(space: SearchSpace, inherited: Sequence[str]) -> NDArray[np.bool_]:
    for gene in inherited:
        space.column(gene)  # names a gene that does not exist
    return np.array([gene.name not in inherited for gene in space.genes])


def genome_operators(space: SearchSpace, inherited: Sequence[str] = ()) -> dict[str, Any]:
    """Keyword arguments that make any pymoo genetic algorithm work on genomes: ``NSGA2(**genome_operators(space))``."""
    return {
        "crossover": LayerwiseCrossover(space, inherited),
        "mutation": OrdinalMutation(space, inherited),
        "repair": CanonicalRepair(space),
        "eliminate_duplicates": True,
    }
