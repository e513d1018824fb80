"""A task: a network, its weights, its data splits and its error, under a name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from emomc.accuracy.splits import Split, Splits
from emomc.compression.networkfile import INPUT_SHAPE
from emomc.errors import EmomcError
from emomc.network.graphnetwork import GraphNetwork
from emomc.network.portable import portable
from emomc.problems.tasks.behaviour import behaviour
from emomc.training.recipe import Recipe

ErrorFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Logits (n, classes) and targets (n,) to the error of each sample, (n,) float."""


def top1_error(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1.0 where the largest logit is not the target's, else 0.0.

    Args:
        logits: (n, classes).
        targets: (n,) int64.

    Returns:
        (n,) float32, whose mean is the top-1 error. A row with NaN counts as wrong.
    """
    wrong = logits.argmax(1) != targets
    return (wrong | logits.isnan().any(1)).to(torch.float32)


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What a network of a task can be trained on.

    Attributes:
        load: the images, none of which is in a split; called when a training starts.
        recipe: that reaches the usual error from untrained weights.
        epochs: that the recipe is made for.
    """

    load: Callable[[], Split]
    recipe: Recipe = field(default_factory=Recipe)
    epochs: float = 100


@dataclass(frozen=True, eq=False)
class Task:
    """What is compressed, and on what its error is measured.

    Attributes:
        name: for tables and folders.
        module: the dense network, in eval mode, on the CPU.
        splits: the four disjoint sets of images.
        factory: ``module:function`` or ``path/to/file.py:function`` that builds the network with untrained weights, for
            files that are decoded without the task. Without one, ``module`` is replaced by a copy that its traced graph
            defines, and files hold that graph: they are a few kilobytes larger, and read by `emomc.load` alone.
        factory_arguments: keyword arguments of the factory; JSON values.
        error: of each sample; its mean is the error that the search minimizes. That of the dense network must be a
            fraction, at least 0 and below 1: an error in a unit of its own, such as a squared distance, is divided by
            what a useless network has.
        description: one line.
        training: what the network can be trained on; None where there is nothing. No part of the fingerprint.
    """

    name: str
    module: torch.nn.Module
    splits: Splits
    factory: str | None = None
    factory_arguments: Mapping[str, object] = field(default_factory=dict)
    error: ErrorFunction = top1_error
    description: str = ""
    training: TrainingData | None = None

    @property
    def example_input(self) -> torch.Tensor:
        """(1, C, H, W) float32: the first calibration image."""
        inputs, _ = next(self.splits.calibration.batches(1))
        return inputs

    def __post_init__(self) -> None:
        """Make a network without a factory portable.

        Raises:
            EmomcError: the network or the splits are something else, or the network cannot be made portable.
        """
        module: object = self.module
        fixed = isinstance(module, torch.jit.ScriptModule) or hasattr(module, "_orig_mod")  # of torch.compile
        if not isinstance(module, torch.nn.Module) or fixed:
            raise EmomcError(
                f"task {self.name!r}: its network is a {type(module).__name__}; expected a torch.nn.Module, neither "
                "scripted nor compiled. Build the network and load the weights into it."
            )
        if not isinstance(self.splits, Splits):
            raise EmomcError(f"task {self.name!r}: splits are a {type(self.splits).__name__}, not an emomc.Splits.")
        if self.factory is None and not isinstance(self.module, GraphNetwork):
            try:
                copy = portable(self.module, self.example_input)
            except EmomcError as error:
                raise EmomcError(f"task {self.name!r}: {error}") from None
            object.__setattr__(self, "module", copy)

    @cached_property
    def header(self) -> dict[str, Any]:
        """Header of the files of this task; the same for every network, so that it adds a constant to the size."""
        facts: dict[str, Any] = {"task": self.name, INPUT_SHAPE: list(self.example_input.shape)}
        if isinstance(self.module, GraphNetwork):
            return facts | {"graph": self.module.description}
        return facts | {"factory": self.factory, "factory_arguments": dict(self.factory_arguments)}

    @property
    def dense_bytes(self) -> int:
        """Bytes of the network in 32-bit floats; a weight that several layers share counts once, as in files."""
        state: dict[str, torch.Tensor] = self.module.state_dict(keep_vars=True)
        tensors = {id(tensor): tensor for tensor in state.values()}
        return 4 * sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point())

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over network, splits and what the error does; equal where measurements may be exchanged."""
        digest = hashlib.sha256(network_fingerprint(self.module).encode())
        digest.update(f"{self.factory} {json.dumps(dict(self.factory_arguments), sort_keys=True)}".encode())
        for name, split in self.splits.named().items():
            digest.update(f"{name} {split.fingerprint}".encode())
        digest.update(behaviour(self.error).encode())
        return digest.hexdigest()


def network_fingerprint(module: torch.nn.Module) -> str:
    """sha256 over the architecture as torch prints it and the bytes of all parameters and buffers."""
    digest = hashlib.sha256(str(module).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
