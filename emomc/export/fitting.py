"""Which of the values that training has changed a file of the same size can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emomc import coding
from emomc.accuracy import Split
from emomc.accuracy.divergence import is_classification
from emomc.coding import CodedTensor
from emomc.compression.activations import InputQuantizer
from emomc.compression.whole import choose_ratios
from emomc.training.loss import image_losses

_BATCH = 64
_LEAST_BITS = 1e-3  # a move to another value saves at least so much, or is none
_SHARES = np.concatenate([[0.0], np.geomspace(0.001, 1.0, 24)])  # of the moves of a layer that are made
Doubles = NDArray[np.float64]
Levels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Trained:
    """The weight of one layer before and after training, on one grid.

    Attributes:
        old: before.
        blob: the code of ``old``.
        new: after.
        slope: of the loss at ``new``, by weight and in the shape of both.
        curvature: second derivative there of the distance from what ``new`` gives.
    """

    old: CodedTensor
    blob: bytes
    new: CodedTensor
    slope: Doubles
    curvature: Doubles

    def options(self) -> tuple[list[bytes], Doubles]:
        """Codes that get shorter, the first with all that was trained, the last that of before, and the harm of each.

        A weight may move to the next value that its layer has, back to what it was, or to zero, if that is met more
        often and so costs fewer bits; those that do least harm for the bits that they save move first. Zeros stay
        zeros, and a layer with a codebook gets no more values than it had.
        """
        at, level, harm, bits = self._moves()
        order = np.argsort(harm / bits, kind="stable")
        at, level, harm = at[order], level[order], np.concatenate([[0.0], harm[order].cumsum()])
        counts = np.unique(np.rint(len(at) * _SHARES).astype(np.int64))
        codes = [self._moved(at[:count], level[:count]) for count in counts]
        undone = self._harm(np.arange(self.old.integers.size), self.old.integers.ravel().astype(np.int64)).sum()
        return [*codes, self.blob], np.append(harm[counts], undone)

    def _moves(self) -> tuple[NDArray[np.intp], Levels, Doubles, Doubles]:
        """The best move of each weight that has one: where, to which value, at what harm, for how many bits."""
        new = self.new.integers.ravel().astype(np.int64)
        at = np.flatnonzero(new)
        levels, place, counts = np.unique(new[at], return_inverse=True, return_counts=True)
        nearby = [levels[np.maximum(place - 1, 0)], levels[np.minimum(place + 1, len(levels) - 1)]]
        if self.old.scale.size > 1:  # with one scale it may be a codebook, whose old values are gone
            nearby.append(self.old.integers.ravel()[at].astype(np.int64))
        nearby.append(np.zeros_like(new[at]))
        found = np.searchsorted(levels, nearby).clip(max=len(levels) - 1)
        met = np.where(levels[found] == nearby, counts[found], 0)
        met[-1] = len(new) - len(at)
        bits = np.log2((met + 1) / (counts[place] + 1))
        harm = np.stack([self._harm(at, level) for level in nearby])
        price = np.where(bits > _LEAST_BITS, harm / np.maximum(bits, _LEAST_BITS), np.inf)
        best = price.argmin(0), np.arange(len(at))
        useful = np.isfinite(price[best])
        return at[useful], np.stack(nearby)[best][useful], harm[best][useful], bits[best][useful]

    def _harm(self, at: NDArray[np.intp], level: Levels) -> Doubles:
        """What is added to the loss when weights take these values, each on its own, to second order.

        What a slope promises to gain is not counted: one weight's gain uses up the others'.
        """
        each = self.new.integers[0].size
        scale = self.new.scale.ravel().astype(np.float64)
        step = scale[at // each] if scale.size > 1 else scale
        change = (level - self.new.integers.ravel()[at]) * step
        slope, curvature = self.slope.ravel()[at], self.curvature.ravel()[at]
        harm: Doubles = np.maximum(slope * change, 0) + curvature * change**2 / 2
        return harm

    def _moved(self, at: NDArray[np.intp], level: Levels) -> bytes:
        integers = self.new.integers.copy().ravel()
        integers[at] = level
        shaped = integers.reshape(self.new.integers.shape)
        return coding.encode_tensor(CodedTensor(shaped, self.new.scale, self.new.bit_width))


def fit_size(layers: Mapping[str, Trained]) -> dict[str, bytes]:
    """Codes by layer that together are not longer than before training.

    Other values on the same grid may need a few bytes more. Then weights move to values that cost less, those that
    together do least harm, in whichever layers they are.
    """
    allowed = sum(len(layer.blob) for layer in layers.values())
    options = [layer.options() for layer in layers.values()]
    most = max(len(blobs) for blobs, _ in options)
    # All layers get as many options as the one with most: their last again.
    codes = [blobs + blobs[-1:] * (most - len(blobs)) for blobs, _ in options]
    harm = np.stack([np.pad(harms, (0, most - len(harms)), mode="edge") for _, harms in options])
    lengths = np.array([[len(blob) for blob in blobs] for blobs in codes], dtype=np.float64)
    least = lengths.min(1, keepdims=True)
    spare = allowed - float(least.sum())
    chosen = choose_ratios(harm, lengths - least, spare) if spare > 0 else lengths.argmin(1)
    return {name: blobs[choice] for name, blobs, choice in zip(layers, codes, chosen.tolist(), strict=True)}


def derivatives(module: nn.Module, names: Sequence[str], images: Split) -> dict[str, tuple[Doubles, Doubles]]:
    """How the mean loss changes with each weight, and how far the outputs go.

    The second derivative is that of the distance from the network's own outputs: of predicted values the squared error,
    of class scores the divergence in the limit of a high temperature, half their mean squared change (Hinton, Vinyals
    and Dean, "Distilling the knowledge in a neural network", 2015). That of the loss itself vanishes on images whose
    class the network knows by heart. Outputs are weighed with random signs, so that one gradient a batch does: the
    expectation of its square is the sum over images and outputs.

    Args:
        module: in eval mode.
        names: of parameters.
        images: that the loss is of.

    Returns:
        Loss per unit and per squared unit of the weight, by parameter name, in the shapes of the parameters.
    """
    parameters = [module.get_parameter(name).requires_grad_(True) for name in names]
    mean = [torch.zeros_like(each) for each in parameters]
    squares = [torch.zeros_like(each) for each in parameters]
    generator = torch.Generator().manual_seed(0)
    quantizers = [part.train() for part in module.modules() if isinstance(part, InputQuantizer)]  # gradients pass
    for inputs, targets in images.batches(_BATCH):
        outputs = module(inputs)
        slopes = torch.autograd.grad(image_losses(outputs, targets).mean(), parameters, retain_graph=True)
        signs = torch.randint(0, 2, outputs.shape, generator=generator) * 2.0 - 1.0
        changes = torch.autograd.grad((_told(outputs, targets) * signs).sum(), parameters)
        for first, second, slope, change in zip(mean, squares, slopes, changes, strict=True):
            first.add_(slope, alpha=len(targets) / len(images))
            second.addcmul_(change, change, value=1 / (len(images) * outputs[0].numel()))
    for part in quantizers:
        part.eval()
    return {
        name: (first.double().numpy(), second.double().numpy())
        for name, first, second in zip(names, mean, squares, strict=True)
    }


def _told(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Outputs so that half their mean squared change is the distance that they have moved."""
    if is_classification(targets):
        return outputs - outputs.mean(1, keepdim=True)  # what all classes have in common makes no difference
    return outputs * math.sqrt(2)
