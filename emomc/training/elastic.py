"""Elastic training: one network trained under randomly drawn configurations, so that all of them lose less.

Each step is a sandwich: the network as it is, its most aggressive configuration and random ones between, the last two
learning the outputs of the first (Yu and Huang, "Universally slimmable networks", 2019; Cai et al., "Once for all",
2020). The search that follows needs no training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from emomc.compression.quantization import largest_level
from emomc.errors import EmomcError
from emomc.training.fakequant import rounded, straight_through
from emomc.training.loss import Loss
from emomc.training.regime import Plain


@dataclass(frozen=True)
class ElasticRange:
    """What configurations are drawn from, mildest first.

    Attributes:
        prune_ratios: fractions of a layer's weights that are zero.
        bit_widths: bits of a weight; 16 and more leave it as it is.
        shared_values: numbers of non-zero values a layer may have, 0 for any. In training they are a coarser grid.
    """

    prune_ratios: tuple[float, ...] = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8)
    bit_widths: tuple[int, ...] = (16, 8, 4, 3)
    shared_values: tuple[int, ...] = (0, 16, 8)

    def __post_init__(self) -> None:
        if not (self.prune_ratios and self.bit_widths and self.shared_values):
            raise EmomcError(f"{self}: give at least one choice of each kind.")
        if not all(0 <= ratio < 1 for ratio in self.prune_ratios) or min(self.bit_widths) < 2:
            raise EmomcError(f"{self}: prune ratios lie from 0 to below 1, and bit-widths are at least 2.")


class Elastic(Plain):
    """The sandwich around every step."""

    def __init__(self, names: Sequence[str], choices: ElasticRange | None = None, samples: int = 1) -> None:
        """An elastic training.

        Args:
            names: parameters that are compressed: the weights of layers.
            choices: what is drawn from.
            samples: random configurations a step.
        """
        self.names, self.choices, self.samples = tuple(names), choices or ElasticRange(), samples

    @property
    def key(self) -> str:
        return f"Elastic {self.names} {self.choices} {self.samples}"

    def backward(self, module: nn.Module, images: torch.Tensor, loss: Loss) -> torch.Tensor:
        logits = module(images)
        value = loss(logits)
        value.backward()  # type: ignore[no-untyped-call]
        taught = logits.detach()
        configurations = [[1.0] * len(self.names)] + [self._draw() for _ in range(self.samples)]
        with _kept_statistics(module):
            for depths in configurations:
                parameters = dict(module.named_parameters())
                weights = {
                    name: compressed(parameters[name], *self._choice(depth))
                    for name, depth in zip(self.names, depths, strict=True)
                }
                apart = loss.towards(functional_call(module, weights, (images,)), taught)
                (apart / len(configurations)).backward()  # type: ignore[no-untyped-call]
        return value.detach()

    def _draw(self) -> list[float]:
        """How aggressively each layer is compressed, 0 to 1: around one depth for the network.

        Fronts hold networks whose layers are about equally far along their own curves; independent layers would all
        give networks in the middle.
        """
        depth = torch.rand(())
        return (depth + 0.25 * torch.randn(len(self.names))).clamp(0, 1).tolist()

    def _choice(self, depth: float) -> tuple[float, int, int]:
        """Prune ratio, bit-width and shared values, each jittered on its own unless the depth is that of an end."""

        def pick(count: int) -> int:
            jitter = 0.0 if depth in (0.0, 1.0) else float(torch.rand(())) - 0.5
            return min(count - 1, max(0, round(depth * (count - 1) + jitter)))

        c = self.choices
        return (
            c.prune_ratios[pick(len(c.prune_ratios))],
            c.bit_widths[pick(len(c.bit_widths))],
            c.shared_values[pick(len(c.shared_values))],
        )


def compressed(weight: torch.Tensor, prune_ratio: float, bit_width: int, shared_values: int) -> torch.Tensor:
    """A weight as compression by magnitude makes it, with the gradient of the weight where it is not pruned.

    Args:
        weight: output channels first.
        prune_ratio: fraction of the weights that become zero.
        bit_width: of the grid; 16 and more round nothing.
        shared_values: of non-zero values, 0 for any.
    """
    kept = weight
    if prune_ratio > 0:
        count = round(prune_ratio * weight.numel())
        threshold = weight.detach().abs().flatten().kthvalue(count).values if count else -1.0
        kept = weight * (weight.detach().abs() > threshold)
    level = largest_level(min(bit_width, 16))
    if shared_values:
        level = min(level, -(-shared_values // 2))
    return kept if level >= largest_level(16) else straight_through(kept, rounded(kept, level))


@contextmanager
def _kept_statistics(module: nn.Module) -> Iterator[None]:
    """Running statistics of batch norms as they are: those of the network that is not compressed."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    counted = [norm.num_batches_tracked.clone() for norm in norms if norm.num_batches_tracked is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
        tracking = [norm for norm in norms if norm.num_batches_tracked is not None]
        for norm, count in zip(tracking, counted, strict=True):
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
