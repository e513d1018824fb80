"""Rounding in the forward pass while the weights behind it keep moving (straight-through gradients)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from emomc.training.loss import Loss
from emomc.training.regime import KeepZeros, zero_masks
from emomc.training.swapped import backward_with, parameters_by_name

# Where a grid ends at first, as shares of the largest weight of the channel; wide grids need not be clipped.
_ENDS = {1: (0.6,), 3: (0.5, 1.0), 7: (0.6, 1.0)}
_SMALLEST = float(torch.finfo(torch.float16).smallest_normal)


def straight_through(weight: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """``value`` in the forward pass, with the gradient of ``weight``.

    Source: Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic neurons", 2013.
    """
    passed: torch.Tensor = _StraightThrough.apply(weight, value)
    return passed


class _StraightThrough(torch.autograd.Function):
    """The sum ``weight + (value - weight)`` would do as well, at two more passes over the weights."""

    @staticmethod
    def forward(_: Any, weight: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return value.clone() if value is weight else value

    @staticmethod
    def backward(_: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


@torch.no_grad()
def round_to_grid(weight: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest values of a symmetric grid per output channel whose step is fitted to the weights.

    Zeros stay zero, and steps are values that a file can hold. It is made for being called in every training step: a
    search over all clipping ranges loses a little less and takes several times as long.

    Args:
        weight: output channels first.
        level: largest integer of the grid, as of `emomc.compression.quantization.largest_level`.

    Returns:
        Whole numbers in the weight's shape, and the step of each output channel, ``(K,)``.
    """
    inner = tuple(range(1, weight.dim()))
    largest = weight.abs().amax(inner, keepdim=True) / level
    if level not in _ENDS:
        step = _storable(largest)
        return (weight / step).round_().clamp_(-level, level), step.flatten()
    best, most = largest, torch.full_like(largest, -torch.inf)
    for end in _ENDS[level]:
        # The best step for given integers is <w, q> / <q, q>; the squared error is then <w, w> - <w, q>^2 / <q, q>.
        integers = (weight / (end * largest).clamp_min(_SMALLEST)).round_().clamp_(-level, level)
        along = (weight * integers).sum(inner, keepdim=True)
        squares = integers.square_().sum(inner, keepdim=True).clamp_min(1)
        gain = along.square() / squares
        best = torch.where(gain > most, along / squares, best)
        most = torch.maximum(gain, most)
    step = _storable(best)
    return (weight / step).round_().clamp_(-level, level), step.flatten()


def _storable(step: torch.Tensor) -> torch.Tensor:
    return step.half().to(step.dtype).clamp_min(_SMALLEST)


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
        parameters = parameters_by_name(module)
        weights = {
            name: straight_through(parameters[name], rounded(parameters[name], level))
            for name, level in self.levels.items()
        }
        return backward_with(module, weights, images, loss)
