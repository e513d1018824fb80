"""Everything of a network that is not a layer's weight: batch norms, biases and other parameters, and how it is stored.

A file stores batch norms as one scale and one shift per channel and all glue in half precision. The network that is
measured is brought into that form first, so that it is exactly the network that a file decodes to.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from emomc.errors import EmomcError
from emomc.network.layers import Network

_HALF_MAX = 65504.0


def batch_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    """Batch norms that normalise with running statistics, by module path."""
    return {
        name: child
        for name, child in module.named_modules()
        if isinstance(child, _BatchNorm) and child.running_mean is not None
    }


def _half(tensor: torch.Tensor) -> torch.Tensor:
    """Values rounded to half precision, largest values clipped rather than infinite."""
    return tensor.clamp(-_HALF_MAX, _HALF_MAX).half().to(tensor.dtype)


@torch.no_grad()
def make_storable(module: nn.Module, network: Network) -> None:
    """Bring a module's glue, in place, into the form that a file holds.

    Batch norms with an affine part become ``y = scale * x + shift``: mean 0 and variance ``1 - eps``. All floating
    glue is rounded to half precision.
    """
    for norm in batch_norms(module).values():
        assert norm.running_mean is not None and norm.running_var is not None
        if norm.affine:
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            norm.bias.sub_(norm.running_mean * scale)
            norm.weight.copy_(scale)
            norm.running_mean.zero_()
            norm.running_var.fill_(1.0 - norm.eps)
    state = module.state_dict()
    for key in stored_keys(module, network):
        if state[key].is_floating_point():
            state[key].copy_(_half(state[key]))


def stored_keys(module: nn.Module, network: Network) -> tuple[str, ...]:
    """Keys of the module's state that a file stores as arrays, in state order.

    Not stored: weights of layers, which are coded; statistics of affine batch norms, which their scale and shift
    carry; and counters of batches.
    """
    coded = {key for layer in network.layers for key in (layer.weight, *layer.aliases)}
    implied = {f"{name}.num_batches_tracked" for name in batch_norms(module)}
    for name, norm in batch_norms(module).items():
        if norm.affine:
            implied |= {f"{name}.running_mean", f"{name}.running_var"}
    return tuple(key for key in module.state_dict() if key not in coded and key not in implied)


def stored_arrays(module: nn.Module, network: Network) -> dict[str, NDArray[np.generic]]:
    """Glue of a storable module as arrays: float16 for floating tensors, their own type for others."""
    state = module.state_dict()
    arrays = {}
    for key in stored_keys(module, network):
        tensor = state[key].detach().cpu()
        arrays[key] = (tensor.half() if tensor.is_floating_point() else tensor).numpy()
    return arrays


@torch.no_grad()
def load_arrays(module: nn.Module, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Put stored glue into a module, in place.

    Raises:
        EmomcError: a key or a shape does not fit the module.
    """
    for norm in batch_norms(module).values():
        assert norm.running_mean is not None and norm.running_var is not None
        if norm.affine:
            norm.running_mean.zero_()
            norm.running_var.fill_(1.0 - norm.eps)
    state = module.state_dict()
    for key, array in arrays.items():
        load_tensor(state, key, array)


@torch.no_grad()
def load_tensor(state: Mapping[str, torch.Tensor], key: str, array: NDArray[np.generic]) -> None:
    """Copy an array into the tensor of a state, in place.

    Raises:
        EmomcError: the state has no such key, or the shapes differ.
    """
    if key not in state:
        raise EmomcError(f"the file holds {key!r}, which the network does not have: it is of another architecture.")
    if tuple(state[key].shape) != array.shape:
        raise EmomcError(
            f"{key!r} has shape {array.shape} in the file and {tuple(state[key].shape)} in the network: "
            "the file is of another architecture."
        )
    state[key].copy_(torch.from_numpy(np.ascontiguousarray(array)))
