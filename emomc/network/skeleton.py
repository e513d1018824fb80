"""A copy of a module that has its structure and the shapes of its tensors, but no data."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

from emomc.errors import EmomcError

Module = TypeVar("Module", bound=nn.Module)

_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))


def skeleton(module: Module) -> Module:
    """Copy a module in evaluation mode with every tensor on the meta device and without hooks.

    Tensors that are one in the module are one in the copy. The copy takes no memory for data, and running it can touch
    neither the module's weights and buffers nor what its hooks refer to.

    Raises:
        EmomcError: the module cannot be copied, e.g. because lazy layers have no shape yet.
    """
    memo: dict[int, Any] = {}
    try:
        for part in module.modules():
            memo.update((id(hooks), type(hooks)()) for hooks in map(vars(part).get, _HOOKS) if hooks is not None)
            for tensors in (part._parameters, part._buffers, vars(part)):
                for value in tensors.values():
                    if isinstance(value, torch.Tensor) and id(value) not in memo:
                        memo[id(value)] = _hollow(value)
        return copy.deepcopy(module, memo).eval()
    except Exception as error:  # __deepcopy__ and the shapes of lazy parameters are anyone's code
        raise EmomcError(
            f"cannot copy the structure of {type(module).__name__}: {error}. "
            "Pass a module that copy.deepcopy accepts; run lazy layers once before tracing."
        ) from error


def _hollow(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
