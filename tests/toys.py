"""Tabulated surfaces with a known optimum: no torch, no files, milliseconds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import moocore
import numpy as np
from numpy.typing import NDArray

from emomc.genome import BIT_WIDTH, DATAFLOW, PRUNE_RATIO, SHARED_VALUES, Gene, SearchSpace
from emomc.network.layers import Layer, LoopBounds
from emomc.problems import CompressionProblem, Constraint, CostTables
from emomc.problems.objectives import DEFAULT_OBJECTIVES, Objective, load_objective
from emomc.search import SearchTask

Doubles = NDArray[np.float64]
Genomes = NDArray[np.int64]

DENSE_ERROR = 0.08
GENES = (
    Gene(PRUNE_RATIO, (0.0, 0.3, 0.5, 0.7, 0.9)),
    Gene(BIT_WIDTH, (16, 8, 6, 4, 3, 2)),
    Gene(SHARED_VALUES, (0, 16, 4)),
    Gene(DATAFLOW, ("X:Y", "FX:FY", "CI:CO"), ordinal=False),
)


def layer(name: str, channels: int) -> Layer:
    bounds = LoopBounds(1, 1, channels, channels, 8, 8, 3, 3, 8, 8)
    return Layer(name, "conv", f"{name}.weight", (channels, channels, 3, 3), (bounds,))


@dataclass(frozen=True)
class Toy:
    """A task whose true error is known for every genome.

    Attributes:
        loss: nats that each choice adds, shape ``(L, *space.shape)``; the true error grows with its sum.
        costs: energy and size in whole units, so that many networks cost the same.
    """

    space: SearchSpace
    loss: Doubles
    costs: CostTables

    def errors(self, genomes: Genomes) -> Doubles:
        """True errors, ``(n,)``."""
        layer = np.arange(self.space.n_layers)[None, :]
        score = self.loss[(layer, *np.moveaxis(self.space.split(genomes), 2, 0))].sum(axis=1)
        return np.asarray(DENSE_ERROR + (1 - DENSE_ERROR) * -np.expm1(-((3 * score) ** 1.3)))

    def problem(
        self,
        objectives: tuple[str | Objective, ...] = DEFAULT_OBJECTIVES,
        constraints: tuple[Constraint, ...] | None = None,
        errors: Callable[[Genomes], Doubles] | None = None,
    ) -> CompressionProblem:
        """Networks that lose more than ten points of error are infeasible unless other constraints are given."""
        limit = (Constraint(load_objective("error"), DENSE_ERROR + 0.1),)
        return CompressionProblem(
            self.costs, errors or self.errors, objectives, limit if constraints is None else constraints
        )

    def task(self, noise: float = 0.4, **problem: object) -> SearchTask:
        """A search task that knows the losses up to a log-normal factor each."""
        rng = np.random.default_rng(17)
        known = self.loss[..., :1] * np.exp(noise * rng.normal(size=self.loss.shape[:-1]))[..., None]
        known = np.maximum.accumulate(np.maximum.accumulate(known, axis=1), axis=2)
        return SearchTask(self.problem(**problem), canonical_table(self.space, known), DENSE_ERROR)  # type: ignore[arg-type]

    @property
    def reference(self) -> Doubles:
        """Worst point of interest in (error, energy, size)."""
        mildest = self.costs.evaluate(np.zeros((1, self.space.n_var), np.int64), ["energy", "size"])
        return np.array([DENSE_ERROR + 0.1, mildest["energy"][0], mildest["size"][0]])

    @cached_property
    def exact_front(self) -> Doubles:
        """(error, energy, size) of every network that no other dominates, by merging layer after layer.

        A part of a network that is dominated by another part of the same layers is dominated in every network.
        """
        flat = [table.reshape(self.space.n_layers, -1) for table in (self.loss, *self.costs.tables.values())]
        front = np.zeros((1, 3))
        for columns in zip(*flat, strict=True):
            options = np.stack(columns, axis=1)
            merged = (front[:, None] + options[None]).reshape(-1, 3)
            merged = merged[merged[:, 0] < 0.08]  # losses grow only, and this is beyond ten points of error
            front = merged[moocore.is_nondominated(merged)]
        error = DENSE_ERROR + (1 - DENSE_ERROR) * -np.expm1(-((3 * front[:, :1]) ** 1.3))
        return np.concatenate([error, front[:, 1:] + [0, self.costs.constants["size"]]], axis=1)


def canonical_table(space: SearchSpace, table: Doubles) -> Doubles:
    """A table over all genes, or some of them without influence, whose entries of equal networks are equal."""
    result = table.copy()
    for indices in itertools.product(*map(range, space.shape)):
        canonical = space.split(space.canonical(np.tile(indices, space.n_layers)))[0]
        for position, row in enumerate(canonical.tolist()):
            entry, source = (tuple(np.minimum(each, np.array(table.shape[1:]) - 1)) for each in (indices, row))
            result[(position, *entry)] = table[(position, *source)]
    return result


def toy(n_layers: int = 6, seed: int = 0, genes: tuple[Gene, ...] = GENES) -> Toy:
    """Layers of random sizes and sensitivities; losses and costs have the usual shapes."""
    rng = np.random.default_rng(seed)
    ratio, bits, shared = (np.array([float(c) for c in gene.choices]) for gene in genes[:3])
    weights = rng.integers(2, 12, n_layers)
    space = SearchSpace.full([f"layer{i}" for i in range(n_layers)], genes)
    scale = np.exp(rng.normal(0, 1, size=(3, n_layers, 1, 1, 1)))
    prune_loss = scale[0] * 0.02 * ratio[None, :, None, None] ** 3
    bit_loss = scale[1] * 0.5 * 4.0 ** -bits[None, None, :, None]
    share_loss = scale[2] * np.where(shared > 0, 0.05 / np.maximum(shared, 1) ** 2, 0.0)[None, None, None, :]
    loss = np.broadcast_to((prune_loss + bit_loss + share_loss)[..., None], (n_layers, *space.shape))
    kept = weights[:, None, None, None] * (1 - ratio)[None, :, None, None]
    stored = np.where(shared > 0, np.minimum(np.log2(np.maximum(shared, 1)), bits[:, None]), bits[:, None])
    size = np.ceil(kept * stored[None, None])[..., None] + np.zeros(len(genes[3].choices))
    dataflow = rng.uniform(1, 3, size=(n_layers, 1, 1, 1, len(genes[3].choices)))
    work = (
        weights[:, None, None, None, None]
        * (1 - ratio)[None, :, None, None, None]
        * (4 + bits[None, None, :, None, None])
    )
    energy = np.ceil(work * dataflow / 8) + np.zeros((1, 1, 1, len(shared), 1))
    tables = {"energy": canonical_table(space, energy), "size": canonical_table(space, size)}
    layers = tuple(layer(name, int(count)) for name, count in zip(space.layers, weights, strict=True))
    return Toy(space, canonical_table(space, np.array(loss)), CostTables(space, layers, tables, {"size": 10.0}))
