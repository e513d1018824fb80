"""Giving a module the narrower layers that a file holds of it, after channels were removed for good."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from emomc.errors import EmomcError


def narrow(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Cut tensors of a module down to these shapes, in place, and its layers' channel counts with them.

    Args:
        module: its values are of no interest.
        shapes: by key of its state.

    Returns:
        Whether anything was cut.

    Raises:
        EmomcError: a shape has other axes than the module's tensor, or is larger somewhere.
    """
    state = module.state_dict()
    changed = {key: shape for key, shape in shapes.items() if key in state and tuple(state[key].shape) != shape}
    for key, shape in changed.items():
        old = tuple(state[key].shape)
        if len(shape) != len(old) or any(size > most or size < 1 for size, most in zip(shape, old, strict=True)):
            raise EmomcError(
                f"{key!r} has shape {shape} in the file and {old} in the network: the file is of another architecture."
            )
        path, _, name = key.rpartition(".")
        owner = module.get_submodule(path)
        if name == "weight":
            _set_channels(owner, shape)
        cut = torch.zeros(shape, dtype=state[key].dtype)
        setattr(owner, name, nn.Parameter(cut, requires_grad=False) if name in owner._parameters else cut)
    return bool(changed)


def _set_channels(owner: nn.Module, shape: tuple[int, ...]) -> None:
    """Channel counts of a layer whose weight gets another shape; the statistics of a batch norm go along."""
    if isinstance(owner, nn.Conv1d | nn.Conv2d):
        if owner.groups > 1:
            owner.groups = shape[0] // (owner.out_channels // owner.groups)
        owner.out_channels, owner.in_channels = shape[0], shape[1] * owner.groups
    elif isinstance(owner, nn.Linear):
        owner.out_features, owner.in_features = shape
    elif isinstance(owner, _BatchNorm):
        owner.num_features = shape[0]
        if owner.running_mean is not None:
            owner.running_mean, owner.running_var = torch.zeros(shape), torch.ones(shape)
