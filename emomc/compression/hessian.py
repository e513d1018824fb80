"""Second moments of layer inputs: what tells how much an error of a weight matters to the layer's output.

The mean squared output error of a layer is ``tr(E H E^T)`` for a weight error E, one row per output channel, where H
is the Gram matrix of the layer's inputs: half the Hessian of that error, and the same for every output channel
(Hassibi and Stork 1993; Frantar and Alistarh 2022, section 3).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from emomc.errors import EmomcError
from emomc.network.bounds import conv_bounds
from emomc.network.layers import LoopBounds, Network

Floats = NDArray[np.float32]

# The matrix of a wider layer takes more than half a gigabyte; such layers are left out.
MAX_WIDTH = 8192
_POSITIONS = 256  # output positions looked at per image: neighbours say the same
_BATCH = 32  # images per forward pass
_PATCH_ELEMENTS = 2**24  # input patches unfolded at a time: 64 MB
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_GEOMETRY = ("stride", "padding", "dilation", "groups")


@dataclass(frozen=True, eq=False)
class Calibration:
    """Inputs that compression is calibrated on, and the dense network that they go through.

    Attributes:
        module: in eval mode; not changed.
        network: its trace.
        inputs: network inputs, shape ``(n, ...)``, float32.
    """

    module: nn.Module
    network: Network
    inputs: torch.Tensor

    @cached_property
    def key(self) -> str:
        """Content hash of network, inputs and settings: where it is equal, so are the Gram matrices."""
        digest = hashlib.sha256(repr((_POSITIONS, MAX_WIDTH, _BATCH, self.network)).encode())
        for name, tensor in [*self.module.state_dict().items(), ("inputs", self.inputs)]:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def grams(self) -> dict[str, Floats]:
        """`collect_grams` of network and inputs."""
        return collect_grams(self.module, self.network, self.inputs)


def collect_grams(module: nn.Module, network: Network, inputs: torch.Tensor) -> dict[str, Floats]:
    """Gram matrices of the inputs of every layer, averaged over images, positions and calls.

    Args:
        module: in eval mode; not changed.
        network: its trace.
        inputs: network inputs, shape ``(n, ...)``.

    Returns:
        For each layer name the mean of ``x x^T``, shape ``(G, d, d)``, float32: one matrix per group, d = C * FY * FX
        in the order of the weight's axes. Layers wider than `MAX_WIDTH` are missing.

    Raises:
        EmomcError: a layer's inputs are not finite, or it is never called.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, patches: torch.Tensor) -> None:
        product = torch.bmm(patches, patches.transpose(1, 2)).double()
        sums[name] = sums[name].add_(product) if name in sums else product
        counts[name] = counts.get(name, 0) + patches.shape[2]

    weights = weight_addresses(module, network)
    with torch.no_grad(), InputTap(weights, add):
        for batch in torch.split(inputs, _BATCH):
            module(batch)
    grams = {}
    for name in dict.fromkeys(weights.values()):
        check_seen(name, sums.get(name))
        mean = sums.pop(name) / counts[name]
        grams[name] = ((mean + mean.transpose(1, 2)) / 2).float().cpu().numpy()  # products are not always symmetric
    tell_few({name: (counts[name], gram.shape[1]) for name, gram in grams.items()})
    return grams


def check_seen(name: str, moments: torch.Tensor | None) -> None:
    """Raise EmomcError for a layer whose inputs' moments are not there or not finite."""
    if moments is None or not bool(torch.isfinite(moments).all()):
        what = "is not called on" if moments is None else "meets NaN or infinity in"
        raise EmomcError(f"layer {name!r} {what} the calibration inputs: check that the network runs on them.")


def tell_few(seen_and_width: Mapping[str, tuple[int, int]]) -> None:
    """Warn of layers that saw fewer inputs than they are wide, so that their matrix is singular."""
    few = [name for name, (seen, width) in seen_and_width.items() if seen < width]
    if few:
        seen, width = seen_and_width[few[0]]
        warnings.warn(
            f"{len(few)} of {len(seen_and_width)} layers see fewer calibration inputs than they have weights per "
            f"output ({few[0]!r}: {seen} of {width}). Damping keeps their compensation sane, but it fits these inputs "
            "rather than the data: give more calibration images.",
            stacklevel=3,
        )


def weight_addresses(module: nn.Module, network: Network) -> dict[int, str]:
    """Layer names by the addresses of their weights, for `InputTap`; layers wider than `MAX_WIDTH` are left out."""
    state = module.state_dict()
    return {
        state[key].data_ptr(): layer.name
        for layer in network.layers
        for key in (layer.weight, *layer.aliases)
        if layer.weight_count <= MAX_WIDTH * layer.weight_shape[0]
    }


class InputTap(TorchFunctionMode):
    """While active, sees the inputs of every convolution and linear operator, whichever module or function calls it.

    ``see(layer name, patches)`` is called with patches ``(G, d, n)``, once or more for a call. Only layers whose weight
    lies at one of the given addresses are shown; the same call on equal inputs always shows the same positions.
    """

    def __init__(self, weights: Mapping[int, str], see: Callable[[str, torch.Tensor], None]) -> None:
        super().__init__()
        self._weights, self._see = weights, see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call, and show the input patches of a known weight."""
        output = func(*args, **(kwargs or {}))
        if func in (functional.linear, functional.conv1d, functional.conv2d):
            call = dict(zip(_ARGUMENTS, args, strict=False)) | (kwargs or {})
            name = self._weights.get(call["weight"].data_ptr())
            if name is not None:
                parts = [_vectors(call["input"])] if func is functional.linear else _patches(call, output.shape)
                for part in parts:
                    self._see(name, part)
        return output


def _vectors(inputs: torch.Tensor) -> torch.Tensor:
    """Inputs of a linear operator as columns, shape ``(1, C, vectors)``."""
    return inputs.reshape(-1, inputs.shape[-1]).T[None]


def _patches(call: Mapping[str, Any], output_shape: torch.Size) -> Iterator[torch.Tensor]:
    """Inputs of a convolution as columns, shape ``(G, C * FY * FX, patches)``, some images at a time."""
    inputs, weight = call["input"], call["weight"]
    options = {name: call[name] for name in _GEOMETRY if name in call}
    bounds = conv_bounds(inputs.shape, weight.shape, output_shape, **options)
    inputs = inputs.reshape(bounds.B, -1, bounds.IY, bounds.IX)
    inputs = functional.pad(inputs, (*_border(bounds, 1), *_border(bounds, 0)))
    positions = bounds.OY * bounds.OX
    chosen = torch.randperm(positions, generator=torch.Generator().manual_seed(0))[:_POSITIONS]
    addresses = _addresses(bounds, chosen, inputs.shape[-1]).to(inputs.device)
    per_image = bounds.G * bounds.C * addresses.numel()
    for part in torch.split(inputs, max(1, _PATCH_ELEMENTS // per_image)):
        patches = part.transpose(0, 1).flatten(2)[:, :, addresses]  # (G C, images, windows, positions)
        yield patches.transpose(1, 2).reshape(bounds.G, -1, len(part) * len(chosen))


def _addresses(bounds: LoopBounds, positions: torch.Tensor, width: int) -> torch.Tensor:
    """Where the windows at output positions lie in a flat map of a width, ``(FY * FX, positions)``."""
    rows, columns = positions // bounds.OX * bounds.stride[0], positions % bounds.OX * bounds.stride[1]
    down, right = torch.arange(bounds.FY) * bounds.dilation[0], torch.arange(bounds.FX) * bounds.dilation[1]
    within = (down[:, None] * width + right).flatten()
    return within[:, None] + rows * width + columns


def _border(bounds: LoopBounds, axis: int) -> tuple[int, int]:
    """Rows that the windows along an axis need before and after the input; negative where they leave some out."""
    extent, kernel, outputs = ((bounds.IY, bounds.FY, bounds.OY), (bounds.IX, bounds.FX, bounds.OX))[axis]
    reach = (outputs - 1) * bounds.stride[axis] + bounds.dilation[axis] * (kernel - 1) + 1
    return bounds.padding[axis], reach - extent - bounds.padding[axis]
