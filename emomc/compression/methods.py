"""Ways to compress one layer, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from emomc.coding.tensor import CodedTensor
from emomc.compression.pruning import prune_magnitude
from emomc.compression.quantization import quantize_largest, quantize_uniform
from emomc.compression.sharing import cluster_nonzero, share_values
from emomc.errors import EmomcError
from emomc.genome import nonzero_levels

Floats = NDArray[np.float32]
Method = Callable[[Floats, float, Sequence[tuple[int, int]]], list[CodedTensor]]
"""``method(weight, prune_ratio, [(bit_width, shared_values), ...])``: one tensor per pair; 0 shares nothing."""


def compress_magnitude(weight: Floats, prune_ratio: float, choices: Sequence[tuple[int, int]]) -> list[CodedTensor]:
    """Magnitude pruning, then rounding per output channel with a clipping search, or exact k-means sharing.

    A codebook with room for all values of the bit-width's grid shares nothing, as in the canonical form of genomes.
    """
    pruned = prune_magnitude(weight, prune_ratio)
    sharing = [0 if shared >= nonzero_levels(bits) else shared for bits, shared in choices]
    clusters = cluster_nonzero(pruned, sorted({count for count in sharing if count}) or [1])
    return [
        share_values(pruned, clusters, count, bits) if count else quantize_uniform(pruned, bits)
        for (bits, _), count in zip(choices, sharing, strict=True)
    ]


def compress_published(weight: Floats, prune_ratio: float, choices: Sequence[tuple[int, int]]) -> list[CodedTensor]:
    """Magnitude pruning and linear quantization per tensor as in Wang et al. 2021; it has no weight sharing."""
    if any(shared for _, shared in choices):
        raise EmomcError("method 'published' has no weight sharing: fix shared_values to 0.")
    pruned = prune_magnitude(weight, prune_ratio)
    return [quantize_largest(pruned, bits) for bits, _ in choices]


METHODS: Mapping[str, Method] = {"magnitude": compress_magnitude, "published": compress_published}
