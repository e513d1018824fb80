"""How far a network's outputs are from the dense network's, without labels."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import kl_div, log_softmax


def is_classification(targets: torch.Tensor) -> bool:
    """Whether targets are class labels: outputs are then scores of classes along axis 1."""
    return not targets.is_floating_point()


def divergence(dense: torch.Tensor, output: torch.Tensor, classes: bool = True) -> float:
    """Mean divergence of outputs from the dense network's; infinite where they are not finite.

    Args:
        dense: outputs ``(n, ...)`` of the dense network.
        output: same shape.
        classes: whether axis 1 holds scores of classes. With at least two of them it is the Kullback-Leibler divergence
            in nats, averaged over samples and further axes; otherwise the squared difference over the variance of the
            dense outputs, of all values together, so that it has no unit either.
    """
    if classes and dense.dim() > 1 and dense.shape[1] > 1:
        pointwise = kl_div(log_softmax(output, 1), log_softmax(dense, 1), reduction="none", log_target=True)
        value = pointwise.sum(1).mean()
    else:
        value = (output - dense).square().mean() / dense.var(correction=0).clamp_min(torch.finfo(dense.dtype).tiny)
    return float(value) if torch.isfinite(value) else math.inf
