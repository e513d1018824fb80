"""How far a network's outputs are from the dense network's, without labels.

The divergence weighs what a class score does to the probabilities, so it chooses what a network loses least by. The
distance weighs all samples and classes alike. It depends less on the few samples that a small calibration split has
near a border between classes, so it tells better how many of other samples change sides.
"""

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
            in nats, averaged over samples and further axes; otherwise it is the `distance`.
    """
    if _has_classes(dense, classes):
        pointwise = kl_div(log_softmax(output, 1), log_softmax(dense, 1), reduction="none", log_target=True)
        return _finite(pointwise.sum(1).mean())
    return distance(dense, output, classes)


def distance(dense: torch.Tensor, output: torch.Tensor, classes: bool = True) -> float:
    """Mean squared difference of outputs over the variance of the dense ones; infinite where they are not finite.

    Args:
        dense: outputs ``(n, ...)`` of the dense network.
        output: same shape.
        classes: whether axis 1 holds scores of classes. With at least two of them, what they all have in common is left
            out of both, as it changes no probability.
    """
    if _has_classes(dense, classes):
        dense, output = (each - each.mean(1, keepdim=True) for each in (dense, output))
    return _finite((output - dense).square().mean() / dense.var(correction=0).clamp_min(torch.finfo(dense.dtype).tiny))


def _has_classes(dense: torch.Tensor, classes: bool) -> bool:
    return classes and dense.dim() > 1 and dense.shape[1] > 1


def _finite(value: torch.Tensor) -> float:
    return float(value) if torch.isfinite(value) else math.inf
