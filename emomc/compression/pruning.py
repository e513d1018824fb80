"""Which weights of a layer are removed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def prune_magnitude(weight: Floats, prune_ratio: float) -> Floats:
    """Copy of a weight tensor with its smallest magnitudes set to zero.

    Exactly ``round(prune_ratio * n)`` weights are removed; ties fall in memory order, so that the result is the same
    on every machine and a larger ratio always removes a superset.

    Args:
        weight: any shape, n weights.
        prune_ratio: fraction of the weights to remove, 0 to 1.
    """
    pruned = weight.copy()
    order = np.argsort(np.abs(weight), axis=None, kind="stable")
    pruned.reshape(-1)[order[: round(prune_ratio * weight.size)]] = 0.0
    return pruned
