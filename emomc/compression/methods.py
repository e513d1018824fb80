"""Ways to compress one layer, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

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
from emomc.compression.threads import torch_threads
from emomc.errors import EmomcError
from emomc.genome import CHANNEL, WEIGHT, nonzero_levels, pattern_of

Floats = NDArray[np.float32]
Choices = Sequence[tuple[int, int]]


class Method(Protocol):
    """A way to compress a layer, pruned in one way, at several (bit-width, shared values); 0 shares nothing.

    Weights that are zero in the given layer stay zero.
    """

    def __call__(
        self,
        weight: Floats,
        prune_ratio: float,
        choices: Choices,
        gram: Floats | None = None,
        granularity: str = WEIGHT,
        /,
    ) -> list[CodedTensor]:
        """One tensor per choice.

        Args:
            weight: output channels first.
            prune_ratio: fraction of the weights, or of the input channels, that are zero afterwards; 0 prunes nothing.
            choices: (bit-width, shared values).
            gram: of the layer's inputs, for methods in `CALIBRATED`; `emomc.compression.collect_grams`.
            granularity: what is removed together; an N:M pattern has a ratio of its own.
        """


def compress_magnitude(
    weight: Floats,
    prune_ratio: float,
    choices: Choices,
    _gram: Floats | None = None,
    granularity: str = WEIGHT,
    /,
) -> list[CodedTensor]:
    """Magnitude pruning, then rounding per output channel with a clipping search, or exact k-means sharing.

    A codebook with room for all values of the bit-width's grid shares nothing, as in the canonical form of genomes.
    """
    pruned = _smallest_removed(weight, prune_ratio, granularity)
    sharing = _sharing(choices)
    clusters = cluster_nonzero(pruned, _counts(sharing))
    return [
        share_values(pruned, clusters, count, bits) if count else quantize_uniform(pruned, bits)
        for (bits, _), count in zip(choices, sharing, strict=True)
    ]


def _smallest_removed(weight: Floats, prune_ratio: float, granularity: str) -> Floats:
    pattern = pattern_of(granularity)
    if prune_ratio and pattern:
        return prune_n_m_magnitude(weight, *pattern)
    prune = prune_channels_magnitude if granularity == CHANNEL else prune_magnitude
    return prune(weight, prune_ratio)


def _cheapest_removed(objective: OutputError, prune_ratio: float, granularity: str) -> Floats:
    pattern = pattern_of(granularity)
    if prune_ratio and pattern:
        return prune_n_m(objective, *pattern)
    prune = prune_channels if granularity == CHANNEL else prune_obs
    return prune(objective, prune_ratio)


def _sharing(choices: Choices) -> list[int]:
    """Shared values of every choice, 0 where the grid of its bit-width has no more values than the codebook."""
    return [0 if shared >= nonzero_levels(bits) else shared for bits, shared in choices]


def _counts(sharing: Sequence[int]) -> list[int]:
    """The sizes of codebooks that are wanted, at least one of them."""
    return sorted({count for count in sharing if count}) or [1]


def compress_published(
    weight: Floats,
    prune_ratio: float,
    choices: Choices,
    _gram: Floats | None = None,
    granularity: str = WEIGHT,
    /,
) -> list[CodedTensor]:
    """Magnitude pruning and linear quantization per tensor as in Wang et al. 2021; it has no weight sharing."""
    if any(shared for _, shared in choices):
        raise EmomcError("method 'published' has no weight sharing: fix shared_values to 0.")
    pruned = _smallest_removed(weight, prune_ratio, granularity)
    return [quantize_largest(pruned, bits) for bits, _ in choices]


def compress_obs(
    weight: Floats,
    prune_ratio: float,
    choices: Choices,
    gram: Floats | None = None,
    granularity: str = WEIGHT,
    /,
) -> list[CodedTensor]:
    """Pruning, rounding and sharing that keep the layer's output, as in `emomc.compression.obs`.

    A layer without a Gram matrix, which is one that is too wide for it, is compressed by magnitude.
    """
    if gram is None:
        return compress_magnitude(weight, prune_ratio, choices, None, granularity)
    sharing = _sharing(choices)
    with torch_threads(1):
        objective = OutputError.of(weight, gram)
        pruned = _cheapest_removed(objective, prune_ratio, granularity)
        rounded = [bits for (bits, _), count in zip(choices, sharing, strict=True) if not count]
        shared = [(bits, count) for (bits, _), count in zip(choices, sharing, strict=True) if count]
        uniform = iter(quantize_obs(objective, pruned, rounded))
        codebook = iter(share_obs(objective, pruned, cluster_obs(objective, pruned, _counts(sharing)), shared))
        return [next(codebook if count else uniform) for count in sharing]


METHODS: Mapping[str, Method] = {
    "magnitude": compress_magnitude,
    "obs": compress_obs,
    "published": compress_published,
}
CALIBRATED = frozenset({"obs"})
"""Methods that use the Gram matrices of the layers' inputs."""
