"""Rounding in the forward pass while the weights behind it keep moving (straight-through gradients)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.func import functional_call

from emomc.training.loss import Loss
from emomc.training.regime import KeepZeros, zero_masks

# Shares of the largest weight of an output channel that are tried as the end of its grid.
_CLIPPING = (1.0, 0.85, 0.7, 0.55, 0.45)
_SMALLEST = float(torch.finfo(torch.float16).smallest_normal)


def straight_through(weight: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value`` in the forward pass, with the gradient of ``weight``.

    Source: Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic neurons", 2013.
    """
    return weight + (value - weight).detach()


@torch.no_grad()
def round_to_grid(weight: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest values of a symmetric grid per output channel, clipped where the squared error is least.

    Zeros stay zero, and steps are values that a file can hold.

    Args:
        weight: output channels first.
        level: largest integer of the grid, as of `emomc.compression.quantization.largest_level`.

    Returns:
        Whole numbers in the weight's shape, and the step of each output channel, ``(K,)``.
    """
    rows = weight.detach().flatten(1)
    largest = rows.abs().amax(1, keepdim=True) / level
    best, least = (torch.zeros_like(rows), largest), torch.full_like(largest, torch.inf)
    for share in _CLIPPING:
        step = (largest * share).half().to(rows.dtype).clamp_min(_SMALLEST)
        integers = (rows / step).round_().clamp_(-level, level)
        error = (integers * step - rows).square_().sum(1, keepdim=True)
        better = error < least
        best = torch.where(better, integers, best[0]), torch.where(better, step, best[1])
        least = torch.minimum(error, least)
    return best[0].reshape(weight.shape), best[1][:, 0]


def rounded(weight: torch.Tensor, level: int) -> torch.Tensor:
    """Integers of `round_to_grid` times their steps."""
    integers, step = round_to_grid(weight, level)
    return integers * step.reshape(-1, *[1] * (weight.dim() - 1))


class RoundWeights(KeepZeros):
    """Weights are rounded in every forward pass, so that training makes up for it; zeros stay zero.

    The network that comes out has its full-precision weights; rounding those is what it was trained for.
    """

    def __init__(self, levels: Mapping[str, int], masks: Mapping[str, torch.Tensor] | None = None) -> None:
        """Largest integers of the grids by parameter name; masks as of `KeepZeros`."""
        super().__init__(masks or {})
        self.levels = dict(levels)

    @classmethod
    def keeping_zeros(cls, module: nn.Module, levels: Mapping[str, int]) -> RoundWeights:
        """With the zeros that a network has."""
        return cls(levels, zero_masks(module))

    @property
    def key(self) -> str:
        return f"RoundWeights {self.levels}"

    def backward(self, module: nn.Module, images: torch.Tensor, loss: Loss) -> torch.Tensor:
        parameters = dict(module.named_parameters())
        weights = {
            name: straight_through(parameters[name], rounded(parameters[name], level))
            for name, level in self.levels.items()
        }
        value = loss(functional_call(module, weights, (images,)))
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()
