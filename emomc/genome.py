"""Genomes: compression configurations as rows of integers, and the space they live in.

A genome holds, layer after layer, one index per gene into that gene's list of choices. Choices are ordered from the
mildest to the most aggressive, so that index 0 means "not compressed" and a step of one is a small change.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emomc.errors import EmomcError, unknown_name

Choice = float | int | str
Integers = NDArray[np.integer]

PRUNE_RATIO = "prune_ratio"
GRANULARITY = "granularity"
BIT_WIDTH = "bit_width"
SHARED_VALUES = "shared_values"
ACTIVATION_BITS = "activation_bits"
DATAFLOW = "dataflow"

WEIGHT = "weight"
CHANNEL = "channel"
"""Granularities: single weights, or whole input channels of a layer; `pattern_of` reads the others, N:M patterns."""

PRUNING = (PRUNE_RATIO, GRANULARITY)
"""Genes that decide which weights a layer keeps: what the first stage of a two-stage search settles."""
STORED = (*PRUNING, BIT_WIDTH, SHARED_VALUES)
"""Genes that decide the stored weights of a layer: the axes of the bank, in the order of a genome's columns."""
RUNNING = (DATAFLOW,)
"""Genes that decide how a network runs and not what it computes; all other genes change the network."""

UNQUANTIZED = 16
"""The choice of `ACTIVATION_BITS` that leaves a layer's input as it is: cost models charge 16 bits for such maps."""
ACTIVATION_WIDTHS = (UNQUANTIZED, 8, 7, 6, 5, 4, 3, 2)
"""All that `ACTIVATION_BITS` can be."""

MAX_PATTERN = 64  # M of an N:M pattern; hardware knows 4 and 8

DEFAULT_PRUNE_RATIOS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
DEFAULT_GRANULARITIES = (WEIGHT, "2:4", "1:4", CHANNEL)
DEFAULT_BIT_WIDTHS = (16, 8, 7, 6, 5, 4, 3, 2)
DEFAULT_SHARED_VALUES = (0, 32, 16, 8, 4)
DEFAULT_ACTIVATION_BITS = (UNQUANTIZED, 8, 6, 4)
DEFAULT_DATAFLOWS = ("X:Y", "FX:FY", "X:FX", "CI:CO")


@dataclass(frozen=True)
class Gene:
    """One column of a layer's configuration: a name and its choices, mildest first."""

    name: str
    choices: tuple[Choice, ...]
    ordinal: bool = True  # neighbouring choices are similar; False for plain categories such as the dataflow

    def index_of(self, choice: Choice) -> int:
        """Index of a choice.

        Raises:
            EmomcError: the choice is not in the list.
        """
        if choice not in self.choices:
            raise EmomcError(f"{self.name} cannot be {choice!r}: choose from {', '.join(map(str, self.choices))}.")
        return self.choices.index(choice)


def default_genes(dataflows: Sequence[str] = DEFAULT_DATAFLOWS) -> tuple[Gene, ...]:
    """The four genes of a compression configuration."""
    return (
        Gene(PRUNE_RATIO, DEFAULT_PRUNE_RATIOS),
        Gene(BIT_WIDTH, DEFAULT_BIT_WIDTHS),
        Gene(SHARED_VALUES, DEFAULT_SHARED_VALUES),
        Gene(DATAFLOW, tuple(dataflows), ordinal=False),
    )


def all_genes(dataflows: Sequence[str] = DEFAULT_DATAFLOWS) -> tuple[Gene, ...]:
    """Every gene there is, in genome order: those of `default_genes`, and those that a space has if it is asked for."""
    prune_ratio, *others, dataflow = default_genes(dataflows)
    granularity = Gene(GRANULARITY, DEFAULT_GRANULARITIES, ordinal=False)
    return (prune_ratio, granularity, *others, Gene(ACTIVATION_BITS, DEFAULT_ACTIVATION_BITS), dataflow)


def pattern_of(granularity: str) -> tuple[int, int] | None:
    """(N, M) of an N:M pattern, which keeps at most N weights of every M neighbouring input channels; else None.

    Raises:
        EmomcError: it is no granularity.
    """
    if granularity in (WEIGHT, CHANNEL):
        return None
    keep, _, of = granularity.partition(":")
    if not (keep.isdecimal() and of.isdecimal() and 1 <= int(keep) < int(of) <= MAX_PATTERN):
        raise EmomcError(
            f"granularity cannot be {granularity!r}: write {WEIGHT}, {CHANNEL}, or N:M with N below M and M at most "
            f"{MAX_PATTERN}, such as 2:4."
        )
    return int(keep), int(of)


def nonzero_levels(bit_width: int) -> int:
    """Distinct non-zero values of the symmetric grid of a bit-width: ``2 * (2**(b-1) - 1)``."""
    return int(2 * (2 ** (bit_width - 1) - 1))


@dataclass(frozen=True)
class Configuration:
    """The choices of one network, by layer name and gene name."""

    layers: Mapping[str, Mapping[str, Choice]]

    def to_json(self) -> str:
        """As JSON text; `from_json` reads it back."""
        return json.dumps({name: dict(choices) for name, choices in self.layers.items()})

    @classmethod
    def from_json(cls, text: str) -> Configuration:
        """From the text that `to_json` wrote.

        Raises:
            EmomcError: the text is not a JSON object of objects.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise EmomcError(f"configuration is not JSON: {error}.") from None
        if not isinstance(data, dict) or not all(isinstance(value, dict) for value in data.values()):
            raise EmomcError("configuration: expected {layer name: {gene name: choice}}.")
        return cls(data)


@dataclass(frozen=True)
class SearchSpace:
    """Which configurations exist: layers, genes, and per layer and gene the choices that are allowed.

    Attributes:
        layers: layer names, in network order.
        genes: the columns of a layer, in genome order.
        allowed: ``allowed[layer][gene]`` are the allowed indices into ``genes[gene].choices``, ascending.
    """

    layers: tuple[str, ...]
    genes: tuple[Gene, ...]
    allowed: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def full(cls, layers: Sequence[str], genes: Sequence[Gene] | None = None) -> SearchSpace:
        """The space in which every layer may take every choice of every gene."""
        genes = default_genes() if genes is None else tuple(genes)
        row = tuple(tuple(range(len(gene.choices))) for gene in genes)
        return cls(tuple(layers), genes, (row,) * len(layers))

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def n_genes(self) -> int:
        """Genes per layer."""
        return len(self.genes)

    @property
    def n_var(self) -> int:
        """Length of a genome."""
        return self.n_layers * self.n_genes

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Number of choices of each gene: the trailing axes of every table over this space."""
        return tuple(len(gene.choices) for gene in self.genes)

    @cached_property
    def upper(self) -> NDArray[np.int64]:
        """Largest index of each genome position, shape ``(n_var,)``; the smallest is 0."""
        return np.tile(np.array(self.shape) - 1, self.n_layers)

    @property
    def size(self) -> int:
        """Number of distinct genomes before equal networks are merged."""
        total = 1
        for layer in self.allowed:
            for indices in layer:
                total *= len(indices)
        return total

    @cached_property
    def digest(self) -> str:
        """Content hash of the space."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def column(self, gene: str) -> int:
        """Position of a gene within a layer.

        Raises:
            EmomcError: the space has no such gene.
        """
        for position, candidate in enumerate(self.genes):
            if candidate.name == gene:
                return position
        raise unknown_name("gene", gene, [candidate.name for candidate in self.genes])

    def has(self, gene: str) -> bool:
        """Whether the space has a gene of this name."""
        return any(candidate.name == gene for candidate in self.genes)

    def columns(self, genes: Iterable[str]) -> tuple[int, ...]:
        """Positions within a layer of those of these genes that the space has, in genome order."""
        wanted = set(genes)
        return tuple(position for position, gene in enumerate(self.genes) if gene.name in wanted)

    def spread(self, table: NDArray[Any], genes: Iterable[str]) -> NDArray[Any]:
        """A table over some genes as one over all of them, which broadcasts to ``(layers, *shape)``.

        Args:
            table: shape ``(layers, ...)``, one axis for each of these genes that the space has, in genome order.
            genes: names.
        """
        kept = self.columns(genes)
        return np.expand_dims(table, [1 + axis for axis in range(self.n_genes) if axis not in kept])

    def split(self, genomes: Integers) -> Integers:
        """Genomes ``(n, n_var)`` as ``(n, layers, genes)``, without copying."""
        return genomes.reshape(-1, self.n_layers, self.n_genes)

    def values(self, genomes: Integers, gene: str) -> NDArray[Any]:
        """Choices of one gene, shape ``(n, layers)``, in the units of the gene."""
        position = self.column(gene)
        return np.asarray(self.genes[position].choices)[self.split(genomes)[:, :, position]]

    def restrict(self, gene: str, choices: Iterable[Choice], layers: str = "*") -> SearchSpace:
        """The space with one gene limited to some choices, in the layers whose names match a shell pattern.

        Raises:
            EmomcError: the gene or a choice is unknown, no layer matches, or nothing is left to choose.
        """
        position = self.column(gene)
        indices = tuple(sorted({self.genes[position].index_of(choice) for choice in choices}))
        if not indices:
            raise EmomcError(f"{gene}: at least one choice must remain.")
        matching = set(fnmatch.filter(self.layers, layers))
        if not matching:
            raise EmomcError(f"no layer matches {layers!r}. Layers: {', '.join(self.layers)}.")
        columns = [
            indices if name in matching else row[position] for name, row in zip(self.layers, self.allowed, strict=True)
        ]
        return self._with_column(position, columns)

    def mildest(self, gene: str) -> SearchSpace:
        """The space with one gene held at the mildest allowed choice of each layer."""
        position = self.column(gene)
        return self._with_column(position, [row[position][:1] for row in self.allowed])

    def pinned(self, gene: str, genome: Integers) -> SearchSpace:
        """The space with one gene held, in every layer, at the choice of a genome of shape ``(n_var,)``."""
        position = self.column(gene)
        return self._with_column(position, [(index,) for index in self.split(genome)[0][:, position].tolist()])

    def _with_column(self, position: int, indices: Sequence[tuple[int, ...]]) -> SearchSpace:
        rows = tuple(
            (*row[:position], allowed, *row[position + 1 :]) for row, allowed in zip(self.allowed, indices, strict=True)
        )
        return replace(self, allowed=rows)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Number of allowed choices at each genome position, shape ``(n_var,)``."""
        return np.array([len(indices) for row in self.allowed for indices in row])

    @cached_property
    def _choices(self) -> NDArray[np.int64]:
        """Allowed indices at each genome position, padded with zeros, shape ``(n_var, max choices)``."""
        table = np.zeros((self.n_var, max(self.shape)), dtype=np.int64)
        for position, indices in enumerate(indices for row in self.allowed for indices in row):
            table[position, : len(indices)] = indices
        return table

    @cached_property
    def _ranks(self) -> NDArray[np.int64]:
        """Rank of the nearest allowed index, for every genome position and index, shape ``(n_var, max choices)``."""
        absent = np.arange(max(self.shape)) >= self.counts[:, None]
        distance = np.abs(np.arange(max(self.shape))[None, :, None] - self._choices[:, None, :])
        return np.asarray(np.where(absent[:, None, :], max(self.shape), distance).argmin(axis=2))

    @cached_property
    def _nearest(self) -> NDArray[np.int64]:
        """Nearest allowed index, for every genome position and index, shape ``(n_var, max choices)``."""
        return np.take_along_axis(self._choices, self._ranks, axis=1)

    def ranks(self, genomes: Integers) -> NDArray[np.int64]:
        """Position of each gene's choice, or of the nearest, among those allowed; ``(n, n_var)`` to the same."""
        return self._ranks[np.arange(self.n_var), genomes]

    def at_ranks(self, ranks: Integers) -> NDArray[np.int64]:
        """Genomes with allowed choices at these ranks, the last ones beyond the ends; ``(n, n_var)`` to the same."""
        return self._choices[np.arange(self.n_var), np.clip(ranks, 0, self.counts - 1)]

    @cached_property
    def _pruning(self) -> NDArray[np.int64] | None:
        """Canonical prune-ratio and granularity indices, shape ``(L, prune-ratio index, granularity index, 2)``.

        At ratio 0 nothing is pruned, whatever the granularity: the mildest allowed one stands for all. An N:M pattern
        has a ratio of its own: the nearest allowed ratio above 0 stands for all that are above 0.
        """
        if not (self.has(PRUNE_RATIO) and self.has(GRANULARITY)):
            return None
        ratio, granularity = self.column(PRUNE_RATIO), self.column(GRANULARITY)
        ratios = np.array([float(choice) for choice in self.genes[ratio].choices])
        patterns = [pattern_of(str(choice)) for choice in self.genes[granularity].choices]
        shape = (self.n_layers, len(ratios), len(patterns))
        table = np.stack(np.broadcast_arrays(*np.ogrid[tuple(map(slice, shape))][1:]), axis=-1)
        table = np.broadcast_to(table, (*shape, 2)).copy()
        for layer, row in enumerate(self.allowed):
            positive = np.array([index for index in row[ratio] if ratios[index] > 0], dtype=np.int64)
            for column, pattern in enumerate(patterns):
                if pattern is not None and positive.size:
                    own = 1 - pattern[0] / pattern[1]
                    table[layer, ratios > 0, column, 0] = positive[np.abs(ratios[positive] - own).argmin()]
            table[layer, ratios == 0, :, 1] = row[granularity][0]
        return table

    @cached_property
    def _sharing(self) -> NDArray[np.int64] | None:
        """Canonical shared-values index per (layer, bit-width index, shared-values index).

        A codebook with at least as many values as the bit-width's grid holds shares nothing: all such genomes are
        the same network, and the mildest allowed index stands for them.
        """
        if not (self.has(BIT_WIDTH) and self.has(SHARED_VALUES)):
            return None
        bits, shared = self.genes[self.column(BIT_WIDTH)], self.genes[self.column(SHARED_VALUES)]
        capacity = np.array([nonzero_levels(int(bit)) for bit in bits.choices])
        values = np.array([int(value) for value in shared.choices])
        unshared = (values[None, :] == 0) | (values[None, :] >= capacity[:, None])
        table = np.tile(np.arange(len(values)), (self.n_layers, len(capacity), 1))
        for layer, row in enumerate(self.allowed):
            allowed = np.array(row[self.column(SHARED_VALUES)])
            for bit in range(len(capacity)):
                candidates = allowed[unshared[bit, allowed]]
                if candidates.size:
                    table[layer, bit, unshared[bit]] = candidates[0]
        return table

    def canonical(self, genomes: Integers) -> NDArray[np.int64]:
        """The genome that stands for each network: indices in range, allowed, and equal for equal networks.

        Args:
            genomes: shape ``(n, n_var)`` or ``(n_var,)``.

        Returns:
            New array of the same shape.
        """
        indices = np.clip(np.asarray(genomes, dtype=np.int64).reshape(-1, self.n_var), 0, self.upper)
        nearest = self._nearest[np.arange(self.n_var), indices]
        if self._pruning is not None:
            layer, ratio, granularity = np.arange(self.n_layers), self.column(PRUNE_RATIO), self.column(GRANULARITY)
            parts = self.split(nearest)
            canonical = self._pruning[layer, parts[:, :, ratio], parts[:, :, granularity]]
            parts[:, :, ratio], parts[:, :, granularity] = np.moveaxis(canonical, 2, 0)
        if self._sharing is not None:
            layer, bit, shared = np.arange(self.n_layers), self.column(BIT_WIDTH), self.column(SHARED_VALUES)
            parts = self.split(nearest)
            parts[:, :, shared] = self._sharing[layer, parts[:, :, bit], parts[:, :, shared]]
        return nearest.reshape(np.shape(genomes))

    def random(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Uniform random canonical genomes, shape ``(n, n_var)``."""
        return self.canonical(self.at_ranks(rng.integers(0, self.counts, size=(n, self.n_var))))

    def every(self) -> NDArray[np.int64]:
        """All canonical genomes, shape ``(n, n_var)`` with n at most `size`: for small spaces only."""
        ranks = np.zeros((self.size, self.n_var), dtype=np.int64)
        remaining = np.arange(self.size)
        for position in np.flatnonzero(self.counts > 1)[::-1]:
            remaining, ranks[:, position] = np.divmod(remaining, self.counts[position])
        return np.unique(self.canonical(self.at_ranks(ranks)), axis=0)

    def network_part(self, genomes: Integers) -> NDArray[np.int64]:
        """Genomes with the genes in `RUNNING` set to 0: two genomes with equal parts are the same network."""
        part = np.array(genomes, dtype=np.int64, copy=True)
        self.split(part)[:, :, self.columns(RUNNING)] = 0
        return part

    def decode(self, genome: Integers) -> Configuration:
        """Configuration of one genome, shape ``(n_var,)``."""
        rows = self.split(np.asarray(genome))[0]
        return Configuration(
            {
                name: {gene.name: gene.choices[index] for gene, index in zip(self.genes, row, strict=True)}
                for name, row in zip(self.layers, rows.tolist(), strict=True)
            }
        )

    def encode(self, configuration: Configuration) -> NDArray[np.int64]:
        """Canonical genome of a configuration, shape ``(n_var,)``.

        Raises:
            EmomcError: a layer is missing or unknown, or a choice is not in the space.
        """
        unknown = [name for name in configuration.layers if name not in self.layers]
        if unknown:
            raise unknown_name("layer", unknown[0], self.layers)
        genome = []
        for name, row in zip(self.layers, self.allowed, strict=True):
            if name not in configuration.layers:
                raise EmomcError(f"configuration: layer {name!r} is missing.")
            for gene, indices in zip(self.genes, row, strict=True):
                choices = configuration.layers[name]
                if gene.name not in choices:
                    raise EmomcError(f"configuration: layer {name!r} has no {gene.name!r}.")
                index = gene.index_of(choices[gene.name])
                if index not in indices:
                    allowed = ", ".join(str(gene.choices[i]) for i in indices)
                    raise EmomcError(
                        f"configuration: {gene.name} of layer {name!r} is {choices[gene.name]!r}; allowed: {allowed}."
                    )
                genome.append(index)
        return self.canonical(np.array(genome))

    def to_dict(self) -> dict[str, Any]:
        """As plain data for JSON; `from_dict` reads it back."""
        return {
            "layers": list(self.layers),
            "genes": [{"name": g.name, "choices": list(g.choices), "ordinal": g.ordinal} for g in self.genes],
            "allowed": [[list(indices) for indices in row] for row in self.allowed],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SearchSpace:
        """From what `to_dict` returned."""
        return cls(
            tuple(data["layers"]),
            tuple(Gene(g["name"], tuple(g["choices"]), g["ordinal"]) for g in data["genes"]),
            tuple(tuple(tuple(indices) for indices in row) for row in data["allowed"]),
        )
