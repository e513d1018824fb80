"""What happens around a step of the optimizer: nothing, fixed zeros, or zeros that grow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from emomc.errors import EmomcError
from emomc.training.loss import Loss


class Regime(Protocol):
    """How one training differs from another. It holds nothing that a resumed training could not find again.

    What follows neither from its settings nor from progress and network is its `state`, which checkpoints hold.
    """

    @property
    def key(self) -> str:
        """Name and settings, equal where two regimes do the same."""

    def before(self, module: nn.Module, fraction: float) -> None:
        """Called before a step, at this fraction of the budget."""

    def backward(self, module: nn.Module, images: torch.Tensor, loss: Loss) -> torch.Tensor:
        """Add gradients of a batch to the parameters; the loss, detached."""

    def after(self, module: nn.Module) -> None:
        """Called after the optimizer has moved the parameters."""

    def state(self) -> Mapping[str, torch.Tensor]:
        """What a resumed training needs beside the network, by name."""

    def restore(self, module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Called before the first step: begin anew, or take over what `state` gave when ``module`` was as it is."""


class Plain:
    """Every parameter is free."""

    @property
    def key(self) -> str:
        return type(self).__name__

    def before(self, module: nn.Module, fraction: float) -> None:
        """Nothing."""

    def backward(self, module: nn.Module, images: torch.Tensor, loss: Loss) -> torch.Tensor:
        value = loss(module(images))
        value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def after(self, module: nn.Module) -> None:
        """Nothing."""

    def state(self) -> Mapping[str, torch.Tensor]:
        """Nothing."""
        return {}

    def restore(self, module: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
        """Nothing."""


def keep_statistics(module: nn.Module) -> None:
    """Batch norms normalize by the statistics that they have, in training too; their scales and shifts may move."""
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()


class KeepZeros(Plain):
    """Weights that are zero stay zero, so that what was pruned stays pruned.

    Where there are such weights, batch norms keep their statistics. Pruning with compensation leaves outputs that are
    nearest to the dense network's in squares, hence smaller; norms that follow would enlarge what is wrong in them.
    """

    def __init__(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Masks by parameter name: 1 where a weight may differ from zero; from `zero_masks`."""
        self.masks = dict(masks)

    def before(self, module: nn.Module, fraction: float) -> None:
        if self.masks:
            keep_statistics(module)

    @torch.no_grad()
    def after(self, module: nn.Module) -> None:
        for name, mask in self.masks.items():
            weight = module.get_parameter(name)
            weight.mul_(mask.to(weight.device))


class GrowZeros(KeepZeros):
    """Gradual magnitude pruning: zeros grow in steps along a cubic curve, then stay. Batch norms follow what changes.

    Source of the curve: Zhu and Gupta, "To prune, or not to prune", 2017, equation 1.
    """

    def __init__(self, ratios: Mapping[str, float], stages: int = 10, until: float = 0.5) -> None:
        """Zeros grow from those that are there to the given ratios.

        Args:
            ratios: fraction of each parameter that is zero in the end, by parameter name.
            stages: number of times that weights are removed.
            until: share of the budget after which no more are removed.
        """
        for name, ratio in ratios.items():
            if not 0 <= ratio < 1:
                raise EmomcError(f"{name}: prune ratio {ratio}; expected at least 0 and below 1.")
        super().__init__({})
        self.ratios, self.stages, self.until = dict(ratios), stages, until

    @property
    def key(self) -> str:
        return f"GrowZeros {self.ratios} {self.stages} {self.until}"

    @torch.no_grad()
    def before(self, module: nn.Module, fraction: float) -> None:
        # Stage k lasts from (k - 1) / stages to k / stages; only numbers that a checkpoint holds decide.
        stage = min(self.stages, int(fraction / self.until * self.stages) + 1)
        share = 1 - (1 - stage / self.stages) ** 3
        for name, ratio in self.ratios.items():
            weight = module.get_parameter(name)
            count = round(share * ratio * weight.numel())
            if int((weight == 0).sum()) < count:
                kept = torch.ones(weight.numel(), device=weight.device, dtype=weight.dtype)
                kept[weight.abs().flatten().argsort(stable=True)[:count]] = 0
                weight.mul_(kept.reshape(weight.shape))
            self.masks[name] = (weight != 0).to(weight.dtype)


def zero_masks(module: nn.Module, share: float = 0.01) -> dict[str, torch.Tensor]:
    """Masks of the parameters with two or more axes of which more than a share is exactly zero."""
    masks = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1 and float((parameter == 0).float().mean()) > share:
            masks[name] = (parameter != 0).to(parameter.dtype).detach()
    return masks
