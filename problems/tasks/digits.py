"""Handwritten digits of 8 x 8 pixels and a small network, trained on first use: a task that needs no files.

The images are scikit-learn's ``load_digits`` (the test part of Alpaydin and Kaynak, "Optical Recognition of Handwritten
Digits", UCI, 1998). The network is trained on images that are in none of the splits.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from emomc.accuracy.splits import Split, Splits, stratified_order
from emomc.errors import EmomcError
from emomc.files import atomic_write
from emomc.problems.tasks.cache import cache_folder
from emomc.problems.tasks.checkpoint import load_checkpoint
from emomc.problems.tasks.task import Task, TrainingData
from emomc.training.recipe import Recipe

# Images a split; the rest, 697 images, trains the network.
_SIZES = {"calibration": 200, "selection": 300, "validation": 200, "test": 400}


_RECIPE = Recipe("adamw", learning_rate=0.02, batch=32, weight_decay=0.1, warmup=0.3)


@dataclass(frozen=True)
class Training:
    """How the network is trained; another value makes another network and another cached file."""

    epochs: int = 30
    batch: int = 32
    learning_rate: float = 0.02
    weight_decay: float = 0.1
    seed: int = 0


class DigitsNet(nn.Module):
    """Seven layers with a depthwise convolution and a residual sum; 20,000 weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(1, 16)
        self.depthwise = _convolution(16, 16, groups=16)
        self.pointwise = _convolution(16, 32, kernel=1)
        self.residual1 = _convolution(32, 32)
        self.residual2 = _convolution(32, 32)
        self.head = _convolution(32, 32, kernel=1)
        self.linear = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 8, 8) to logits (n, 10)."""
        x = functional.relu(self.stem(x))
        x = functional.relu(self.depthwise(x))
        x = functional.max_pool2d(functional.relu(self.pointwise(x)), 2)
        y = functional.relu(self.residual1(x))
        x = functional.relu(self.residual2(y) + x)
        x = functional.relu(self.head(x))
        x = functional.adaptive_avg_pool2d(x, 1)
        return self.linear(torch.flatten(x, 1))  # type: ignore[no-any-return]


def build() -> nn.Module:
    """The network, untrained."""
    return DigitsNet()


def task(checkpoint: str | Path | None = None, untrained: bool = False) -> Task:
    """Handwritten digits, a network of 20,000 weights that is trained in seconds on first use; needs no files.

    Args:
        checkpoint: weights to use in place of those.
        untrained: with the weights that a training starts from.

    Raises:
        EmomcError: the checkpoint is damaged or does not fit.
    """
    splits, fit = load_splits()
    if checkpoint or untrained:
        module = build().eval()
        if checkpoint:
            load_checkpoint(module, Path(checkpoint).expanduser())
    else:
        module = trained(fit, Training(), cache_folder())
    return Task(
        name="digits",
        module=module,
        splits=splits,
        factory="emomc.problems.tasks.digits:build",
        description="scikit-learn's digits, 8 x 8 pixels, and a small residual network with a depthwise layer",
        training=TrainingData(lambda: fit, _RECIPE, epochs=30),
    )


def train(fit: Split, training: Training) -> nn.Module:
    """A network trained on ``fit``, in eval mode.

    The same on every run on one machine; torch's seed and number of threads stay as they were.
    """
    shuffle = torch.Generator().manual_seed(training.seed)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        module = build().train()
        optimizer = torch.optim.AdamW(module.parameters(), weight_decay=training.weight_decay)
        steps = len(fit) // training.batch
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, training.learning_rate, epochs=training.epochs, steps_per_epoch=steps
        )
        for _ in range(training.epochs):
            order = torch.randperm(len(fit), generator=shuffle)
            for rows in order[: steps * training.batch].reshape(steps, training.batch):
                loss = functional.cross_entropy(module(fit.inputs[rows]), fit.targets[rows])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return module.eval()


def load_splits() -> tuple[Splits, Split]:
    """The four splits, and the images that the network is trained on."""
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images.reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1)  # pixels are 0 to 16
    labels = torch.from_numpy(targets.astype(np.int64))
    ends = np.cumsum(list(_SIZES.values()))
    pieces = np.split(stratified_order(targets, seed=0), ends)
    *drawn, fit = (Split(inputs[piece], labels[piece]) for piece in map(torch.from_numpy, pieces))
    return Splits(**dict(zip(_SIZES, drawn, strict=True))), fit


def trained(fit: Split, training: Training, folder: Path) -> nn.Module:
    """The trained network, from the cache when a sound file of the same data, network and training is there."""
    key = hashlib.sha256(f"{training} {build()} {fit.fingerprint}".encode()).hexdigest()[:16]
    path = folder / f"digits-{key}.pt"
    module = build()
    try:
        load_checkpoint(module, path)
    except EmomcError:  # not there yet, or damaged: both mean training
        module = train(fit, training)
        _save(module, path)
    return module


def _convolution(channels_in: int, channels: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def _save(module: nn.Module, path: Path) -> None:
    try:
        with atomic_write(path) as stream:
            torch.save(module.state_dict(), stream)
    except EmomcError as error:
        warnings.warn(f"the trained network is not kept, so it is trained again next time: {error}", stacklevel=2)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine's number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
