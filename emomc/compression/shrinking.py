"""Shrinking a network for real: channels that no layer reads are removed, filters, batch norms and all.

A layer that was pruned by input channels has whole columns of zeros. Where all layers that read a channel have such
columns, what makes it can go: the filters of its producers, coupled through additions, concatenations and depthwise
layers, its entries in batch norms, and the readers' columns. What is coupled is told by torch-pruning's dependency
graph (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning").
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emomc.errors import EmomcError

Integers = NDArray[np.int64]

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Linear)
# Operations, by the names that autograd has for them, that pass every channel on by itself.
_PASSING = frozenset(
    {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Neg",
        "Pow",
        "Sqrt",
        "Exp",
        "Mean",
        "Relu",
        "Prelu",
        "LeakyRelu",
        "Elu",
        "Hardtanh",
        "Hardswish",
        "Hardsigmoid",
        "Silu",
        "Gelu",
        "Mish",
        "Sigmoid",
        "Tanh",
        "Softplus",
        "Clamp",
        "Dropout",
        "NativeDropout",
        "Clone",
        "T",
        "Squeeze",
        "Unsqueeze",
        "Upsample",
        "MaxPool1D",
        "MaxPool2D",
        "MaxPool2DWithIndices",
        "AvgPool1D",
        "AvgPool2D",
        "AdaptiveAvgPool1D",
        "AdaptiveAvgPool2D",
        "MkldnnAdaptiveAvgPool2D",
        "AdaptiveMaxPool2D",
    }
)
_TOLERANCE = 1e-4  # of the largest output: sums of fewer terms are rounded in another order


@dataclass(frozen=True)
class Kept:
    """What is left of a layer: its output channels, and its input channels (of a group), as indices into the old."""

    outputs: Integers
    inputs: Integers


@dataclass(frozen=True)
class Shrunk:
    """A network without the channels that nothing reads.

    Attributes:
        module: a new, smaller module in eval mode, on the CPU; its outputs are those of the network that was given.
        kept: what is left of each convolution and linear module, by module path.
    """

    module: nn.Module
    kept: Mapping[str, Kept]


def shrink(module: nn.Module, example_input: torch.Tensor) -> Shrunk:
    """Remove every channel that no layer reads, and what makes it.

    Channels stay where the network does more with them than pass each on by itself: behind normalizations over
    channels, between grouped convolutions, and along shortcuts that pad or slice channels, as those of CIFAR's
    ResNets with option A do. One channel is left everywhere.

    Args:
        module: not changed; its layers' weights have columns of zeros where they do not read.
        example_input: of the shape that the network takes, batch first; its values are not read.

    Raises:
        EmomcError: the dependencies of the network cannot be followed, or torch-pruning is not installed.
    """
    if find_spec("torch_pruning") is None:
        raise EmomcError("shrinking a network needs torch-pruning: pip install 'emomc[shrink]'")
    small = copy.deepcopy(module).cpu().eval()
    names = {id(each): name for name, each in small.named_modules()}
    kept = {
        name: Kept(np.arange(each.weight.shape[0]), np.arange(each.weight.shape[1]))
        for name, each in small.named_modules()
        if isinstance(each, _LAYERS)
    }
    inputs = torch.randn(example_input.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = copy.deepcopy(module).cpu().eval()(inputs)
    small.requires_grad_(True)  # dependencies are read off the graph of gradients
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while _remove_unread(small, inputs, names, kept):  # a layer that lost outputs may read less than before
                pass
        small.requires_grad_(False)
        after = small(inputs)
    except Exception as error:  # anyone's forward, and a library that follows it
        raise EmomcError(
            f"{type(module).__name__} cannot be shrunk: its channels' dependencies cannot be followed ({error}). "
            "Use the network as it is; its file and energy count zeros anyway."
        ) from error
    if before.shape != after.shape or float((before - after).abs().max()) > _TOLERANCE * float(before.abs().max()):
        raise EmomcError(
            f"{type(module).__name__} cannot be shrunk: without its unread channels it computes something else, so "
            "channels depend on each other in a way that is not seen. Use the network as it is."
        )
    return Shrunk(small, kept)


def _remove_unread(module: nn.Module, inputs: torch.Tensor, names: Mapping[int, str], kept: dict[str, Kept]) -> bool:
    """One round over all groups of coupled channels; whether anything was removed."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph().build_dependency(module, example_inputs=inputs)
    changed = False
    for group in graph.get_all_groups(root_module_types=list(_LAYERS)):
        unread = _unread(graph, group)
        if not unread.any():
            continue
        changed = True
        root = group[0].dep
        smaller = graph.get_pruning_group(root.target.module, root.handler, np.flatnonzero(unread).tolist())
        for item in smaller.items:
            layer = item.dep.target.module
            name = names.get(id(layer), "")
            if name in kept:
                old, gone = kept[name], list(item.idxs)
                if graph.is_in_channel_pruning_fn(item.dep.handler) and getattr(layer, "groups", 1) == 1:
                    kept[name] = Kept(old.outputs, np.delete(old.inputs, gone))
                else:
                    kept[name] = Kept(np.delete(old.outputs, gone), old.inputs)
        smaller.prune()
    return changed


def _unread(graph: Any, group: Any) -> NDArray[np.bool_]:
    """Which channels of a group of coupled layers nothing reads, ``(channels of the first,)``; one is left at least."""
    unread, readers = np.ones(len(group[0].idxs), dtype=bool), 0
    for item in group.items:
        target, module = item.dep.target, item.dep.target.module
        if isinstance(module, _LAYERS):
            groups = getattr(module, "groups", 1)
            if groups > 1 and groups != module.weight.shape[0]:
                return np.zeros_like(unread)
            if groups == 1 and graph.is_in_channel_pruning_fn(item.dep.handler):
                readers += 1
                used = (module.weight.detach().transpose(0, 1).flatten(1) != 0).any(1).numpy()
                unread[np.array(item.root_idxs)[used[np.array(item.idxs)]]] = False
        elif not _passes_channels(target):
            return np.zeros_like(unread)
    if unread.all():
        unread[0] = False
    return unread if readers else np.zeros_like(unread)


def _passes_channels(target: Any) -> bool:
    """Whether a step of the network passes every channel on by itself."""
    from torch_pruning.ops import OPTYPE

    if target.type == OPTYPE.ELEMENTWISE:
        operation = str(target.name).rpartition("(")[2].rstrip(")0123456789").removesuffix("Backward")
        return operation in _PASSING
    return target.type in (OPTYPE.BN, OPTYPE.CONCAT, OPTYPE.RESHAPE, OPTYPE.SPLIT, OPTYPE.PRELU)
