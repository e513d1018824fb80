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
    except Exception as error:  # forward is anyone's code
        reason = f"{type(error).__name__}: {error}{_advice(module, inputs)}"
        raise EmomcError(f"the network does not run on one tensor of shape {tuple(inputs.shape)}: {reason}") from error
    if not isinstance(output, torch.Tensor):
        raise EmomcError(
            f"the network returns a {type(output).__name__}; expected one tensor. Wrap it in a module that returns "
            "one, such as the output whose error is measured."
        )
    return output


def _advice(module: nn.Module, inputs: torch.Tensor) -> str:
    """What to do about weights of another type than the inputs'."""
    types = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()} - {inputs.dtype}
    return f". Its weights are {types.pop()}, the inputs {inputs.dtype}: call module.float()" if types else ""
