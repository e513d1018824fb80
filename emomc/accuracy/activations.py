"""How many zeros layers are fed with: what an accelerator that gates or skips zero operands saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from emomc.compression.threads import torch_threads
from emomc.errors import EmomcError
from emomc.network.layers import Network

ZERO_IMAGES = 64
"""Images that are enough: the fraction of zeros in a map hardly differs between batches."""


def input_sparsity(module: nn.Module, network: Network, inputs: torch.Tensor) -> NDArray[np.float64]:
    """Fraction of zeros in each layer's input map, padding not counted, over all of its calls.

    Runs one forward pass of all inputs on one thread, so that the result does not depend on the machine's load.

    Args:
        module: in eval mode; not changed.
        network: its trace.
        inputs: network inputs, shape ``(n, ...)``.

    Returns:
        ``(L,)``, in the order of ``network.layers``.

    Raises:
        EmomcError: a layer is not called on these inputs.
    """
    state = module.state_dict()
    layers = {
        state[key].data_ptr(): position
        for position, layer in enumerate(network.layers)
        for key in (layer.weight, *layer.aliases)
    }
    counter = _ZeroCounter(layers)
    with torch.no_grad(), torch_threads(1), counter:
        module(inputs)
    for layer, words in zip(network.layers, counter.words, strict=True):
        if words == 0:
            raise EmomcError(f"layer {layer.name!r} is not called on the calibration inputs, as it was when traced.")
    return counter.zeros / counter.words


class _ZeroCounter(TorchFunctionMode):
    """While active, counts words and zeros of what layers are fed with, whichever module or function calls them."""

    def __init__(self, layers: Mapping[int, int]) -> None:
        """Layers' positions by the addresses of their weights."""
        super().__init__()
        self._layers = layers
        self.zeros, self.words = np.zeros((2, len(set(layers.values()))))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call, and count where the weight is a known one."""
        given = kwargs or {}
        if func in (functional.linear, functional.conv1d, functional.conv2d):
            call = dict(zip(("input", "weight"), args, strict=False)) | given
            fed, position = call["input"], self._layers.get(call["weight"].data_ptr())
            if position is not None:
                self.words[position] += fed.numel()
                self.zeros[position] += fed.numel() - int(torch.count_nonzero(fed))
        return func(*args, **given)
