"""The file of a training: weights that a task can load, and all that is needed to go on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emomc.errors import EmomcError
from emomc.files import atomic_write

_VERSION = 2


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        seen: images that went through the network.
        steps: optimizer steps made.
        seconds: spent on them.
        batch: images a step; fewer than the recipe's after a GPU ran out of memory.
        loss: running mean of the training loss.
        stopped: why the training ended; empty while it has not.
    """

    seen: int = 0
    steps: int = 0
    seconds: float = 0.0
    batch: int = 0
    loss: float = 0.0
    stopped: str = ""


def training_key(module: nn.Module, *settings: object) -> str:
    """Content hash of the network that a training starts from, and of its settings."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class State:
    """All that a training goes on from.

    Attributes:
        network: tensors of the network by name.
        progress: where the training stands.
        optimizer: its state; None when the training is over.
        regime: its state, by name; empty when the training is over.
    """

    network: Mapping[str, torch.Tensor]
    progress: Progress
    optimizer: Mapping[str, Any] | None
    regime: Mapping[str, torch.Tensor]


def save_training(path: Path, key: str, state: State) -> None:
    """Write the file, whole or not at all."""
    content = {
        "state_dict": {name: tensor.detach().cpu() for name, tensor in state.network.items()},
        "training": {"version": _VERSION, "key": key, **asdict(state.progress)},
        "optimizer": state.optimizer,
        "regime": dict(state.regime),
    }
    with atomic_write(path) as stream:
        torch.save(content, stream)


def load_training(path: Path, key: str, module: nn.Module) -> State | None:
    """State of a training; None where there is no file.

    Raises:
        EmomcError: the file cannot be read, is of another architecture or of another training.
    """
    if not path.exists():
        return None
    elsewhere = "Choose another file, or remove this one to train anew."
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        facts = dict(content["training"])
        found = (facts.pop("version"), facts.pop("key"))
        state = State(dict(content["state_dict"]), Progress(**facts), content["optimizer"], content.get("regime", {}))
    except Exception as error:  # a damaged or foreign file raises almost any type
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EmomcError(f"{path} is no training that can be continued ({reason}). {elsewhere}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in state.network.items()}
    differing = sorted(name for name, _ in expected.items() ^ there.items())
    if differing:
        raise EmomcError(f"{path} holds another architecture: {differing[0]!r} differs. {elsewhere}")
    if found != (_VERSION, key):
        raise EmomcError(
            f"{path} is of another training: it started from other weights, or with other settings or images. "
            f"{elsewhere}"
        )
    return state
