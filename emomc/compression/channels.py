"""Structured pruning of a layer: whole input channels removed, the weights of all others making up for them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from emomc.compression.obs import POLISHING, STEP, OutputError, solve_kept
from emomc.compression.pruning import kept_channels

Floats = NDArray[np.float32]


def prune_channels(objective: OutputError, prune_ratio: float) -> Floats:
    """Input channels of least saliency removed step by step, the weights of the others solved for each time.

    A channel is a block S of ``FY * FX`` columns, the same for all output channels. Removing it costs
    ``tr(W_S^T [H^-1]_SS^-1 W_S)`` once all other weights have made up for it: optimal brain surgeon for blocks
    (Kurtic et al. 2022, "The Optimal BERT Surgeon", eq. 5 and 6). In a grouped layer, channel c of every group goes.
    Weights that are zero in the dense layer stay zero.

    Args:
        objective: of the layer.
        prune_ratio: fraction of the input channels to remove, 0 to 1; one is left at least.

    Returns:
        The pruned weight, in the layer's shape.
    """
    groups, channels = len(objective.gram), objective.shape[1]
    keep = kept_channels(channels, prune_ratio)
    weights, inverse = _in_channel_order(objective)
    window = weights.shape[1] // channels
    live = torch.arange(channels)
    while len(live) > keep:
        order = _saliency(weights, inverse, len(live)).argsort(stable=True)
        count = min(len(live) - keep, max(1, int(len(live) * (1 - STEP))))
        gone, left = order[:count].sort().values, order[count:].sort().values
        weights, inverse = _removed(weights, inverse, *(_columns(part, window) for part in (gone, left)))
        live = live[left]
    pruned = torch.zeros(groups, channels, window, weights.shape[2])
    pruned[:, live] = weights.float().view(groups, len(live), window, -1)
    weight: Floats = pruned.flatten(1, 2).transpose(1, 2).reshape(objective.shape).numpy()
    if bool(objective.nonzero.all()):
        return weight
    columns = objective.columns(weight)
    return objective.weight(solve_kept(objective, columns, (columns != 0) * objective.nonzero, POLISHING))


def _in_channel_order(objective: OutputError) -> tuple[torch.Tensor, torch.Tensor]:
    """Dense weights ``(G, d, R)`` and inverse of H ``(G, d, d)``, a channel's columns side by side, in double."""
    natural = objective.order.argsort(dim=1)
    weights = objective.target.gather(1, natural[:, :, None].expand_as(objective.target))
    rows = objective.gram.gather(1, natural[:, :, None].expand_as(objective.gram))
    gram = rows.gather(2, natural[:, None, :].expand_as(rows)).double()
    return weights.double(), torch.cholesky_inverse(torch.linalg.cholesky(gram))


def _saliency(weights: torch.Tensor, inverse: torch.Tensor, channels: int) -> torch.Tensor:
    """What removing each channel alone costs, ``(channels,)``."""
    groups, window = len(weights), weights.shape[1] // channels
    own = inverse.view(groups, channels, window, channels, window).diagonal(dim1=1, dim2=3).movedim(3, 1)
    blocks = weights.view(groups, channels, window, -1)
    cost: torch.Tensor = (blocks * torch.linalg.solve(own, blocks)).sum((0, 2, 3))
    return cost


def _removed(
    weights: torch.Tensor, inverse: torch.Tensor, gone: torch.Tensor, left: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Best weights of the columns that are left, and the inverse of their part of H."""
    across = inverse[:, left][:, :, gone]
    both = torch.cat([weights[:, gone], across.transpose(1, 2)], dim=2)
    solved = torch.linalg.solve(inverse[:, gone][:, :, gone], both)
    changes = across @ solved
    outputs = weights.shape[2]
    return weights[:, left] - changes[:, :, :outputs], inverse[:, left][:, :, left] - changes[:, :, outputs:]


def _columns(channels: torch.Tensor, window: int) -> torch.Tensor:
    return (channels[:, None] * window + torch.arange(window)).flatten()
