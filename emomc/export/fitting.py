"""Which of the values that training has changed a file of the same size can hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from emomc import coding
from emomc.accuracy import Split
from emomc.coding import CodedTensor
from emomc.compression.whole import choose_ratios

_BATCH = 64
_LEAST_BITS = 1e-3  # of a change that is worth taking back
_SHARES = np.concatenate([[0.0], np.geomspace(0.003, 1.0, 24)])  # of the changes of a layer that go back
Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Trained:
    """The weight of one layer before and after training, on one grid.

    Attributes:
        old: before.
        blob: the code of ``old``.
        new: after.
        harm: what going back to ``old`` adds to the loss, weight by weight, in the shape of both.
    """

    old: CodedTensor
    blob: bytes
    new: CodedTensor
    harm: Doubles

    def options(self) -> tuple[list[bytes], Doubles]:
        """Codes with fewer and fewer of the changes, the first with all, and the harm of those that went back.

        What goes back first does little harm for the bits that it saves. Weights that share the entries of a codebook
        go back together or not at all.
        """
        order = self._order()
        harm = np.concatenate([[0.0], np.maximum(self.harm, 0).ravel()[order].cumsum()])
        shares = self.old.scale.size == 1
        counts = np.array([0, len(order)]) if shares else np.rint(len(order) * _SHARES).astype(np.int64)
        counts = np.unique(counts)
        return [self._without(order[:count]) for count in counts[:-1]] + [self.blob], harm[counts]

    def _order(self) -> NDArray[np.intp]:
        """Positions of changes in the flat tensor, in the order in which they go back."""
        at = np.flatnonzero(self.old.integers != self.new.integers)
        bits, harm = self._bits().ravel()[at], np.maximum(self.harm, 0).ravel()[at]
        # Those that cost no bits come last: they go back only where nothing else helps.
        return at[np.lexsort([harm / np.maximum(bits, _LEAST_BITS), bits <= _LEAST_BITS])]

    def _bits(self) -> Doubles:
        """What each change costs, by how often old and new value occur after training."""
        old, new = (each.integers.astype(np.int64) for each in (self.old, self.new))
        lowest = min(old.min(), new.min())
        counts = np.bincount((new - lowest).ravel(), minlength=int(old.max() - lowest) + 1) + 1
        bits: Doubles = np.log2(counts[old - lowest] / counts[new - lowest])
        return bits

    def _without(self, back: NDArray[np.intp]) -> bytes:
        integers = self.new.integers.copy().ravel()
        integers[back] = self.old.integers.ravel()[back]
        shaped = integers.reshape(self.new.integers.shape)
        return coding.encode_tensor(CodedTensor(shaped, self.new.scale, self.new.bit_width))


def fit_size(layers: Mapping[str, Trained]) -> dict[str, bytes]:
    """Codes by layer that together are not longer than before training.

    Other values on the same grid may need a few bytes more. Then changes go back, those that together do least harm,
    in whichever layers they are.
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


def harm_of_going_back(module: nn.Module, changes: Mapping[str, torch.Tensor], images: Split) -> dict[str, Doubles]:
    """What each weight's change adds to the mean loss on its own, to second order, weight by weight.

    The second derivative is taken from the squared gradients of batches (the empirical Fisher information).

    Args:
        module: in eval mode; its parameters are those that the changes start from.
        changes: what would be added, by parameter name.
        images: that the loss is of.

    Returns:
        Nats by parameter name, in the shapes of the changes.
    """
    parameters = {name: module.get_parameter(name).requires_grad_(True) for name in changes}
    mean = {name: torch.zeros_like(change) for name, change in changes.items()}
    squares = {name: torch.zeros_like(change) for name, change in changes.items()}
    for inputs, targets in images.batches(_BATCH):
        share = len(targets) / len(images)
        loss = cross_entropy(module(inputs), targets)
        for name, gradient in zip(changes, torch.autograd.grad(loss, list(parameters.values())), strict=True):
            mean[name] += share * gradient
            squares[name] += share * len(targets) * gradient.square()
    return {
        name: (mean[name] * change + squares[name] * change.square() / 2).double().numpy()
        for name, change in changes.items()
    }
