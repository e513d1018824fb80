"""Exact costs of a whole population: one look-up per layer, no loop over genomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from emomc.errors import EmomcError
from emomc.genome import SearchSpace
from emomc.network.layers import Layer

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]

_CHUNK = 4096  # genomes per look-up: what keeps the intermediate arrays in cache


@dataclass(frozen=True, eq=False)
class CostTables:
    """Costs of every layer's choices, and how layers combine.

    Attributes:
        space: the space whose genes are the axes after the first.
        layers: the network's layers.
        tables: per metric an array that broadcasts to ``(L, *space.shape)``, in SI units.
        constants: per metric what is added once per network.
        peaks: metrics whose layers combine by their maximum instead of their sum.
    """

    space: SearchSpace
    layers: tuple[Layer, ...]
    tables: Mapping[str, Doubles]
    constants: Mapping[str, float]
    peaks: frozenset[str] = frozenset()

    @cached_property
    def _strides(self) -> NDArray[np.int32]:
        return np.cumprod((1, *self.space.shape[:0:-1]))[::-1].astype(np.int32)

    @cached_property
    def _offsets(self) -> NDArray[np.int32]:
        return (np.arange(self.space.n_layers) * np.prod(self.space.shape)).astype(np.int32)

    @cached_property
    def _flat(self) -> dict[str, Doubles]:
        shape = (self.space.n_layers, *self.space.shape)
        return {name: np.broadcast_to(table, shape).ravel() for name, table in self.tables.items()}

    def evaluate(self, genomes: Integers, metrics: Sequence[str]) -> dict[str, Doubles]:
        """Costs of genomes ``(n, n_var)``: one array ``(n,)`` per metric.

        Raises:
            EmomcError: the accelerator has no such metric.
        """
        for metric in metrics:
            if metric not in self.tables:
                raise EmomcError(f"this accelerator does not tell {metric!r}. It tells: {', '.join(self.tables)}.")
        genomes = np.ascontiguousarray(genomes)
        results = {metric: np.empty(len(genomes)) for metric in metrics}
        for start in range(0, len(genomes), _CHUNK):
            stop = start + _CHUNK
            indices = self._indices(genomes[start:stop])
            for metric in metrics:
                results[metric][start:stop] = self._combine(metric, self._flat[metric].take(indices))
        return results

    def least(self, metric: str) -> float:
        """The lowest value that any network of the space has: every layer's cheapest allowed choice.

        Args:
            metric: one of ``tables``.
        """
        table = np.broadcast_to(self.tables[metric], (self.space.n_layers, *self.space.shape))
        cheapest = [layer[np.ix_(*allowed)].min() for layer, allowed in zip(table, self.space.allowed, strict=True)]
        return float(self._combine(metric, np.array(cheapest)[:, None])[0])

    def _indices(self, genomes: Integers) -> NDArray[np.int32]:
        """Position of each layer's entry in the flat table, shape ``(layers, n)``."""
        columns = genomes.T.reshape(self.space.n_layers, self.space.n_genes, -1)
        indices = np.repeat(self._offsets[:, None], columns.shape[2], axis=1)
        for gene, stride in enumerate(self._strides):
            indices += columns[:, gene].astype(np.int32) * stride
        return indices

    def _combine(self, metric: str, entries: Doubles) -> Doubles:
        combined = entries.max(axis=0) if metric in self.peaks else entries.sum(axis=0)
        return np.asarray(combined + self.constants.get(metric, 0.0))
