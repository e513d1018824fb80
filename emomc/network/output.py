"""Running a network, which must return one tensor."""

from __future__ import annotations

import torch
from torch import nn

from emomc.errors import EmomcError


def single_output(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """What a network returns, without gradients.

    Raises:
        EmomcError: the network does not run on these inputs, or returns something else than one tensor.
    """
    try:
        with torch.no_grad():
            output = module(inputs)
    except (RuntimeError, ValueError) as error:
        raise EmomcError(f"the network does not run on inputs of shape {tuple(inputs.shape)}: {error}") from error
    if not isinstance(output, torch.Tensor):
        raise EmomcError(
            f"the network returns a {type(output).__name__}; expected one tensor. Wrap it in a module that returns "
            "one, such as the output whose error is measured."
        )
    return output
