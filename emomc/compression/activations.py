"""Quantized activations: a layer's input is rounded to a few levels before the layer sees it.

The grid is affine, with zero on it, so that padding and what a ReLU cut off stay exact; inputs that are never negative
get an unsigned one (Jacob et al. 2018, section 2.1). Quantizers are modules beside the weights that they belong to and
add nothing to a network's ``state_dict``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emomc.errors import EmomcError
from emomc.genome import ACTIVATION_WIDTHS, UNQUANTIZED
from emomc.network.layers import Network

WIDTHS = tuple(sorted(set(ACTIVATION_WIDTHS) - {UNQUANTIZED}))
"""Widths that inputs can be quantized to."""
_CHILD = "input_quantizer"
_MODULES = (nn.Conv1d, nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class ActivationGrid:
    """The values that a layer's input may take: ``scale * (q - zero_point)`` for ``q`` from 0 to ``2**bit_width - 1``.

    Attributes:
        bit_width: 2 to 8.
        scale: a float16 number above 0.
        zero_point: the ``q`` of zero, 0 for an unsigned grid.
    """

    bit_width: int
    scale: float
    zero_point: int

    @property
    def lowest(self) -> int:
        """Lowest level, counted from zero's."""
        return -self.zero_point

    @property
    def highest(self) -> int:
        """Highest level, counted from zero's."""
        return int(2**self.bit_width - 1 - self.zero_point)


class InputQuantizer(nn.Module):
    """Rounds a tensor to the nearest values of a grid, ties to even, as QuantizeLinear and DequantizeLinear do.

    In training mode gradients pass as if nothing were rounded, but not where the grid ends.
    """

    def __init__(self, grid: ActivationGrid) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs of any shape, rounded; NaN stays NaN."""
        if self.training:
            ends = self.grid.lowest * self.grid.scale, self.grid.highest * self.grid.scale
            clamped = inputs.clamp(*ends)
            return clamped + (self._rounded(inputs.detach()) - clamped.detach())
        return self._rounded(inputs)

    def _rounded(self, inputs: torch.Tensor) -> torch.Tensor:
        levels = (inputs / self.grid.scale).round_()  # several times faster than torch.fake_quantize on processors
        return levels.clamp_(self.grid.lowest, self.grid.highest).mul_(self.grid.scale)

    def extra_repr(self) -> str:
        """The grid, for printing."""
        return f"bit_width={self.grid.bit_width}, scale={self.grid.scale:g}, zero_point={self.grid.zero_point}"


def _quantize_input(layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    quantizer: InputQuantizer = getattr(layer, _CHILD)
    return (quantizer(arguments[0]), *arguments[1:])


def layer_modules(module: nn.Module, network: Network) -> dict[str, tuple[nn.Module, ...]]:
    """The modules that call each layer of a network, by layer name: where its input can be seen and quantized.

    Raises:
        EmomcError: a layer is called as a function rather than as a module.
    """
    children = dict(module.named_modules())
    found: dict[str, dict[str, nn.Module]] = {layer.name: {} for layer in network.layers}
    keys = {layer.name: {layer.weight, *layer.aliases} for layer in network.layers}
    for node in network.nodes:
        if node.layer is None:
            continue
        child = children.get(node.module)
        if not isinstance(child, _MODULES) or f"{node.module}.weight".lstrip(".") not in keys[node.layer]:
            raise EmomcError(
                f"layer {node.layer!r} is called as a function, {node.operator}; inputs are quantized for modules "
                "only. Make it a torch.nn.Conv2d, Conv1d or Linear, or leave activation_bits at 16."
            )
        found[node.layer][node.module] = child
    return {name: tuple(modules.values()) for name, modules in found.items()}


def attach_quantizers(module: nn.Module, network: Network, grids: Mapping[str, ActivationGrid]) -> None:
    """Give layers input quantizers, in place, and take away those that other layers have.

    Args:
        module: the network.
        network: its trace.
        grids: by layer name; layers without any take their inputs as they are.

    Raises:
        EmomcError: one of these layers is called as a function.
    """
    detach_quantizers(module)
    if not grids:
        return
    for name, modules in layer_modules(module, network).items():
        if name in grids:
            for layer in modules:
                layer.add_module(_CHILD, InputQuantizer(grids[name]).train(layer.training))
                layer.register_forward_pre_hook(_quantize_input)


def detach_quantizers(module: nn.Module) -> None:
    """Take away every input quantizer, in place."""
    for layer in list(module.modules()):
        if isinstance(getattr(layer, _CHILD, None), InputQuantizer):
            delattr(layer, _CHILD)
            hooks = layer._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if hook is _quantize_input]:
                del hooks[key]


def grids_to_array(network: Network, grids: Mapping[str, ActivationGrid]) -> NDArray[np.float16]:
    """As a file holds them: (scale, ``2**bit_width + zero_point``) of each layer, or (0, 0), shape ``(L, 2)``.

    Both numbers are exact in half precision, and the length is the same for all networks of a search.
    """
    rows = np.zeros((len(network.layers), 2), np.float16)
    for name, grid in grids.items():
        rows[network.index[name]] = grid.scale, 2**grid.bit_width + grid.zero_point
    return rows


def grids_from_array(network: Network, rows: NDArray[Any]) -> dict[str, ActivationGrid]:
    """The inverse of `grids_to_array`.

    Raises:
        EmomcError: the array is not one that `grids_to_array` makes for this network.
    """
    numbers = np.asarray(rows, np.float64)
    if numbers.shape != (len(network.layers), 2):
        raise EmomcError(f"input quantizers: expected shape {(len(network.layers), 2)}, found {numbers.shape}.")
    grids = {}
    for layer, (scale, code) in zip(network.layers, numbers.tolist(), strict=True):
        if (scale, code) == (0, 0):
            continue
        if not (0 < scale < np.inf and 2 ** WIDTHS[0] <= code < 2 ** (WIDTHS[-1] + 1) and code == int(code)):
            raise EmomcError(
                f"input quantizer of layer {layer.name!r}: expected a positive scale and 2**bits + zero point, found "
                f"{scale:g} and {code:g}."
            )
        width = int(code).bit_length() - 1
        grids[layer.name] = ActivationGrid(width, scale, int(code) - 2**width)
    return grids
