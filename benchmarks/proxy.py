"""A solvable stand-in for compressing a network: many layers, additive losses, an exact front.

Every layer has eight bit-widths; a width costs bytes and adds a loss. The strategies see estimates of the losses that
are off by a log-normal factor each. Both objectives add up over layers, so that the exact front comes from merging
layer after layer, whatever the number of networks (8^20 by default).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import moocore
import numpy as np
from numpy.typing import NDArray

from emomc.genome import BIT_WIDTH, DATAFLOW, PRUNE_RATIO, SHARED_VALUES, Gene, SearchSpace
from emomc.network import Layer, LoopBounds
from emomc.problems import CompressionProblem, CostTables
from emomc.search import SearchTask

Doubles = NDArray[np.float64]
Genomes = NDArray[np.integer]

BIT_WIDTHS = (9, 8, 7, 6, 5, 4, 3, 2)
RESOLUTION = 1e-7  # losses are exact, so all of them can be told apart


@dataclass(frozen=True)
class Proxy:
    """A task whose loss is known for every network.

    Attributes:
        loss: what every width of a layer adds to the loss, shape ``(L, 8)``.
        estimate: what the strategies know of it, same shape.
        size: bytes of every width of a layer, same shape.
    """

    loss: Doubles
    estimate: Doubles
    size: Doubles

    @cached_property
    def space(self) -> SearchSpace:
        """Only bit-widths can be chosen."""
        names = [f"layer{i:02d}" for i in range(len(self.loss))]
        single = (Gene(PRUNE_RATIO, (0.0,)), Gene(SHARED_VALUES, (0,)), Gene(DATAFLOW, ("X:Y",), ordinal=False))
        return SearchSpace.full(names, (single[0], Gene(BIT_WIDTH, BIT_WIDTHS), *single[1:]))

    def errors(self, genomes: Genomes) -> Doubles:
        """True errors, ``(n,)``: the sum of the losses, saturating at 1."""
        return np.asarray(-np.expm1(-self._sum(self.loss, genomes)))

    def task(self) -> SearchTask:
        """What a strategy is given; the objectives are error and size, without constraints."""
        bounds = LoopBounds(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)
        layers = tuple(Layer(name, "conv", f"{name}.weight", (1, 1, 1, 1), (bounds,)) for name in self.space.layers)
        axes = (slice(None), None, slice(None), None)
        table = self.size[(*axes, None)]
        costs = CostTables(self.space, layers, {"size": table, "energy": table}, {})
        problem = CompressionProblem(costs, self.errors, ("error", "size"))
        return SearchTask(problem, self.estimate[axes], dense_error=0.0, resolution=RESOLUTION)

    def quality(self, genomes: Genomes) -> float:
        """Hypervolume of some networks over that of the exact front, in the logarithm of the loss and the size.

        The box reaches from the best to the worst value of either objective on the exact front.
        """
        return self._volume(self._values(self.loss, genomes)) / self._exact_volume

    @cached_property
    def front(self) -> Doubles:
        """Exact front, (loss, size), by merging: what is dominated as a part is dominated in every network."""
        front = np.zeros((1, 2))
        for columns in zip(self.loss, self.size, strict=True):
            merged = (front[:, None] + np.stack(columns, axis=1)[None]).reshape(-1, 2)
            front = merged[moocore.is_nondominated(merged)]
        return front

    @cached_property
    def _exact_volume(self) -> float:
        return self._volume(self.front)

    def _volume(self, values: Doubles) -> float:
        scaled, exact = (np.stack([np.log(v[:, 0]), v[:, 1]], axis=1) for v in (values, self.front))
        low, high = exact.min(axis=0), exact.max(axis=0)
        return float(moocore.hypervolume((scaled - low) / (high - low), ref=np.ones(2)))

    def _values(self, loss: Doubles, genomes: Genomes) -> Doubles:
        return np.stack([self._sum(loss, genomes), self._sum(self.size, genomes)], axis=1)

    def _sum(self, table: Doubles, genomes: Genomes) -> Doubles:
        choice = self.space.split(genomes)[:, :, self.space.column(BIT_WIDTH)]
        return np.asarray(table[np.arange(len(table)), choice].sum(axis=1))


def proxy(seed: int = 0, n_layers: int = 20, noise: float = 0.5) -> Proxy:
    """A random proxy.

    Args:
        seed: of sizes, losses and estimates.
        n_layers: layers.
        noise: standard deviation of the logarithm of estimate over loss, for every width of every layer.
    """
    rng = np.random.default_rng(seed)
    weights = np.round(10 ** rng.uniform(2, 4, n_layers))
    bits = np.array(BIT_WIDTHS, dtype=np.float64)
    sensitivity = 10 ** rng.uniform(-2, 0, n_layers)
    loss = sensitivity[:, None] * 4.0 ** (1 - bits) * np.exp(0.3 * rng.normal(size=(n_layers, len(bits))))
    loss = np.maximum.accumulate(loss, axis=1)
    estimate = loss * np.exp(noise * rng.normal(size=loss.shape))
    return Proxy(loss, estimate, weights[:, None] * bits / 8)
