"""Training with other weights than the parameters, however many names those have."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.func import functional_call

from emomc.training.loss import Loss


def parameters_by_name(module: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter under each of its names: those of shared modules and tied weights have several."""
    return dict(module.named_parameters(remove_duplicate=False))


def backward_with(
    module: nn.Module, weights: Mapping[str, torch.Tensor], images: torch.Tensor, loss: Loss
) -> torch.Tensor:
    """Add gradients of a batch that runs with these weights, which are made of the parameters.

    Args:
        module: runs with its own parameters where no weight is given.
        weights: each by one name of the parameter that it stands in for.
        images: inputs of the batch.
        loss: of its outputs.

    Returns:
        The loss, detached.
    """
    parameters = parameters_by_name(module)
    given = {parameters[name]: weight for name, weight in weights.items()}
    # Torch's own handling of ties swaps a shared module's weight once for each of its names, and then puts the swapped
    # one back. Here each module comes once, and each of its places that a parameter has.
    places = {
        f"{path}.{name}".removeprefix("."): given[parameter]
        for path, part in module.named_modules()
        for name, parameter in part.named_parameters(recurse=False, remove_duplicate=False)
        if parameter in given
    }
    value = loss(functional_call(module, places, (images,), tie_weights=False))
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach()
