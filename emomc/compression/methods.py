"""Ways to compress one layer, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from emomc.coding.tensor import CodedTensor
from emomc.compression.channels import prune_channels
from emomc.compression.obs import (
    OutputError,
    cluster_obs,
    prune_n_m,
    prune_obs,
    quantize_obs,
    share_obs,
)
from emomc.compression.pruning import prune_channels_magnitude, prune_magnitude, prune_n_m_magnitude
from emomc.compression.quantization import quantize_largest, quantize_uniform
from emomc.compression.sharing import cluster_nonzero, share_values
from emomc.compression.threads import on_one_thread
from emomc.errors import EmomcError
from emomc.genome import (
    BIT_WIDTH,
    CHANNEL,
    GRANULARITY,
    PRUNE_RATIO,
    SHARED_VALUES,
    WEIGHT,
    Choice,
    nonzero_levels,
    pattern_of,
)

Floats = NDArray[np.float32]
Pruning = tuple[float, str]
"""Prune ratio and granularity."""


class Setting(NamedTuple):
    """What one layer gets.

    Attributes:
        prune_ratio: fraction of the weights, or of the input channels, that are zero afterwards; 0 prunes nothing.
        bit_width: of a weight, or of an entry of the codebook.
        shared_values: entries of the codebook; 0 shares nothing.
        granularity: what is removed together; an N:M pattern has a ratio of its own.
    """

    prune_ratio: float
    bit_width: int
    shared_values: int
    granularity: str = WEIGHT

    @classmethod
    def of(cls, choices: Mapping[str, Choice]) -> Setting:
        """What choices by the names of genes say."""
        return cls(
            float(choices[PRUNE_RATIO]),
            int(choices[BIT_WIDTH]),
            int(choices[SHARED_VALUES]),
            str(choices.get(GRANULARITY, WEIGHT)),
        )

    @property
    def pruning(self) -> Pruning:
        """What decides which weights are zero."""
        return self.prune_ratio, self.granularity

    @property
    def codebook(self) -> int:
        """Shared values; 0 where the grid of the bit-width has no more, as in the canonical form of genomes."""
        return 0 if self.shared_values >= nonzero_levels(self.bit_width) else self.shared_values


class Method(Protocol):
    """A way to compress a layer, at several settings.

    Weights that are zero in the given layer stay zero.
    """

    def __call__(
        self, weight: Floats, settings: Sequence[Setting], gram: Floats | None = None, /
    ) -> Iterator[CodedTensor]:
        """One tensor per setting, made as they are asked for.

        Args:
            weight: output channels first.
            settings: what the layer gets; what several have in common is computed once.
            gram: of the layer's inputs, for methods in `CALIBRATED`; `emomc.compression.collect_grams`.
        """


def compress_magnitude(
    weight: Floats, settings: Sequence[Setting], _gram: Floats | None = None, /
) -> Iterator[CodedTensor]:
    """Magnitude pruning, then rounding per output channel with a clipping search, or exact k-means sharing."""
    pruned = _smallest_removed(weight, settings)
    clusters = {how: cluster_nonzero(pruned[how], counts) for how, counts in _codebooks(settings).items()}
    for each in settings:
        layer = pruned[each.pruning]
        if each.codebook:
            yield share_values(layer, clusters[each.pruning], each.codebook, each.bit_width)
        else:
            yield quantize_uniform(layer, each.bit_width)


def _smallest_removed(weight: Floats, settings: Sequence[Setting]) -> dict[Pruning, Floats]:
    """The layer pruned in every way that occurs, by magnitude."""

    def removed(ratio: float, granularity: str) -> Floats:
        pattern = pattern_of(granularity)
        if ratio and pattern:
            return prune_n_m_magnitude(weight, *pattern)
        return (prune_channels_magnitude if granularity == CHANNEL else prune_magnitude)(weight, ratio)

    return {how: removed(*how) for how in {each.pruning for each in settings}}


def _cheapest_removed(objective: OutputError, settings: Sequence[Setting]) -> dict[Pruning, Floats]:
    """The layer pruned in every way that occurs, keeping its output."""
    prunings = {each.pruning for each in settings}
    single = [(ratio, granularity) for ratio, granularity in prunings if granularity == WEIGHT or not ratio]
    found = dict(zip(single, prune_obs(objective, [ratio for ratio, _ in single]), strict=True))
    for ratio, granularity in prunings - set(single):
        pattern = pattern_of(granularity)
        together = prune_n_m(objective, *pattern) if pattern else prune_channels(objective, ratio)
        found[ratio, granularity] = together
    return found


def _codebooks(settings: Sequence[Setting]) -> dict[Pruning, list[int]]:
    """The sizes of codebooks that are wanted, ascending, where there are any."""
    found: dict[Pruning, set[int]] = {}
    for each in settings:
        if each.codebook:
            found.setdefault(each.pruning, set()).add(each.codebook)
    return {how: sorted(counts) for how, counts in found.items()}


def compress_published(
    weight: Floats, settings: Sequence[Setting], _gram: Floats | None = None, /
) -> Iterator[CodedTensor]:
    """Magnitude pruning and linear quantization per tensor as in Wang et al. 2021; it has no weight sharing."""
    if any(each.shared_values for each in settings):
        raise EmomcError("method 'published' has no weight sharing: fix shared_values to 0.")
    pruned = _smallest_removed(weight, settings)
    return (quantize_largest(pruned[each.pruning], each.bit_width) for each in settings)


def compress_obs(weight: Floats, settings: Sequence[Setting], gram: Floats | None = None, /) -> Iterator[CodedTensor]:
    """Pruning, rounding and sharing that keep the layer's output, as in `emomc.compression.obs`.

    A layer without a Gram matrix, which is one that is too wide for it, is compressed by magnitude.
    """
    if gram is None:
        return compress_magnitude(weight, settings)
    return on_one_thread(_compensated(weight, settings, gram))


def _compensated(weight: Floats, settings: Sequence[Setting], gram: Floats) -> Iterator[CodedTensor]:
    objective = OutputError.of(weight, gram)
    pruned = _cheapest_removed(objective, settings)
    clusters = {how: cluster_obs(objective, pruned[how], counts) for how, counts in _codebooks(settings).items()}
    grid = [(pruned[each.pruning], each.bit_width) for each in settings if not each.codebook]
    books = [
        (pruned[each.pruning], clusters[each.pruning], each.bit_width, each.codebook)
        for each in settings
        if each.codebook
    ]
    rounded, shared = quantize_obs(objective, grid), share_obs(objective, books)
    for each in settings:
        yield next(shared if each.codebook else rounded)


METHODS: Mapping[str, Method] = {
    "magnitude": compress_magnitude,
    "obs": compress_obs,
    "published": compress_published,
}
CALIBRATED = frozenset({"obs"})
"""Methods that use the Gram matrices of the layers' inputs."""
