"""Compressing one given configuration layer after layer, each making up for what those before it lost.

Compressing every layer alone, as the bank does, assumes that a layer sees the inputs of the dense network. Here the
inputs are those that the compressed layers before it give, and the outputs to keep are still the dense network's, as
in GPFQ (Lybrand and Saab 2021) and in the asymmetric reconstruction of Zhang et al. (2016).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emomc.coding.tensor import CodedTensor
from emomc.compression.hessian import Calibration, InputTap, weight_addresses
from emomc.compression.methods import METHODS
from emomc.errors import unknown_name
from emomc.network.layers import Layer

Floats = NDArray[np.float32]
_BATCH = 32  # images per forward pass
_DAMPING = 0.02  # share of the mean diagonal, as when a layer is compressed alone


def compress_in_order(
    calibration: Calibration,
    choices: Mapping[str, tuple[float, int, int]],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, CodedTensor]:
    """Compress a network at one setting per layer, in the order of the first calls.

    It takes two passes over the calibration inputs per layer. The gain over layers compressed alone grows with the
    number of inputs; with too few of them the layers fit those rather than the data.

    Args:
        calibration: the dense network and its inputs.
        choices: (prune ratio, bit-width, shared values) by layer name; layers without any stay dense.
        progress: called with (layers done, layers in all).

    Raises:
        EmomcError: ``choices`` names a layer that the network does not have.
    """
    for name in choices:
        if name not in calibration.network.index:
            raise unknown_name("layer", name, calibration.network.index)
    compressed = copy.deepcopy(calibration.module).requires_grad_(False)
    state, coded = compressed.state_dict(), {}
    narrow = set(weight_addresses(compressed, calibration.network).values())
    for done, layer in enumerate(calibration.network.layers, start=1):
        if layer.name in choices:
            ratio, bits, shared = choices[layer.name]
            dense = state[layer.weight].cpu().numpy().copy()
            moments = _moments(calibration, compressed, layer) if layer.name in narrow else None
            target = dense if moments is None else _target(dense, *moments)
            gram = None if moments is None else moments[0].float().numpy()
            (coded[layer.name],) = METHODS["obs"](target, ratio, [(bits, shared)], gram)
            with torch.no_grad():
                state[layer.weight].copy_(torch.from_numpy(coded[layer.name].dequantize()))
        if progress is not None:
            progress(done, len(calibration.network.layers))
    return coded


def _target(weight: Floats, gram: torch.Tensor, cross: torch.Tensor) -> Floats:
    """The weight that gives the dense outputs best on the inputs at hand, by ridge regression around the dense one."""
    groups, width = gram.shape[:2]
    rows = torch.from_numpy(weight).double().reshape(groups, -1, width)
    damping = _DAMPING * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    damped = gram + damping[:, None, None] * torch.eye(width, dtype=gram.dtype)
    change = torch.linalg.solve(damped, (rows @ (cross - gram)).transpose(1, 2)).transpose(1, 2)
    return np.asarray((rows + change).float().reshape(weight.shape).numpy())


def _moments(calibration: Calibration, compressed: nn.Module, layer: Layer) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of x x^T and of z x^T, ``(G, d, d)``: x inputs in the compressed network, z in the dense one."""
    gram, cross, count = torch.zeros(()), torch.zeros(()), 0
    for batch in torch.split(calibration.inputs, _BATCH):
        z, x = (_inputs(module, calibration, layer, batch) for module in (calibration.module, compressed))
        gram = gram + (x @ x.transpose(1, 2)).double()
        cross = cross + (z @ x.transpose(1, 2)).double()
        count += x.shape[2]
    return (gram / count).cpu(), (cross / count).cpu()


def _inputs(module: nn.Module, calibration: Calibration, layer: Layer, batch: torch.Tensor) -> torch.Tensor:
    """Input patches of all calls of a layer, ``(G, d, n)``."""
    seen: list[torch.Tensor] = []
    weights = weight_addresses(module, calibration.network)
    own = {address: name for address, name in weights.items() if name == layer.name}
    with torch.no_grad(), InputTap(own, lambda _, patches: seen.append(patches)):
        module(batch)
    return torch.cat(seen, dim=2)
