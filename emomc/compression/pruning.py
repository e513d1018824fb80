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


def prune_n_m_magnitude(weight: Floats, keep: int, of: int) -> Floats:
    """Copy of a weight with at most ``keep`` non-zero values, the largest, among ``of`` neighbouring input channels.

    Args:
        weight: output channels first, input channels second.
        keep: non-zero weights of a group, 1 to ``of``.
        of: input channels of a group; a last group with fewer channels keeps as many.
    """
    return np.asarray(weight * keep_largest(np.abs(weight), keep, of))


def keep_largest(cost: Floats, keep: int, of: int) -> Floats:
    """1 for the ``keep`` largest entries of every ``of`` along axis 1, the first of equal ones, else 0."""
    channels = cost.shape[1]
    rows = np.moveaxis(cost, 1, -1)
    padded = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, -channels % of)], constant_values=-np.inf)
    groups = padded.reshape(*padded.shape[:-1], -1, of)
    rank = np.argsort(np.argsort(-groups, axis=-1, kind="stable"), axis=-1)
    largest = (rank < keep).reshape(padded.shape)[..., :channels]
    return np.moveaxis(largest, -1, 1).astype(np.float32)


def kept_channels(channels: int, prune_ratio: float) -> int:
    """Input channels that remain of ``channels`` at a prune ratio: at least one, as a layer without inputs is none."""
    return max(channels - round(prune_ratio * channels), 1)


def prune_channels_magnitude(weight: Floats, prune_ratio: float) -> Floats:
    """Copy of a weight with the input channels of smallest norm set to zero, ties in memory order.

    Args:
        weight: output channels first, input channels second; in a grouped layer those of every group.
        prune_ratio: fraction of the input channels to remove, 0 to 1.
    """
    channels = weight.shape[1]
    energy = np.square(np.moveaxis(weight, 1, 0).reshape(channels, -1), dtype=np.float64).sum(axis=1)
    pruned = weight.copy()
    pruned[:, np.argsort(energy, kind="stable")[: channels - kept_channels(channels, prune_ratio)]] = 0.0
    return pruned
