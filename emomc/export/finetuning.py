"""Training a compressed network on, in the form that its file has: the last polish of a chosen point."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from emomc import coding
from emomc.accuracy import Evaluator, Measurement, Settings, Split
from emomc.coding import CodedTensor, NetworkFile, read_network
from emomc.compression.glue import make_storable
from emomc.compression.networkfile import load_network, read_grids, save_network
from emomc.errors import EmomcError
from emomc.export.fitting import Trained, derivatives, fit_size
from emomc.export.loading import builder, check_header
from emomc.network import Network, trace
from emomc.problems.tasks import Task
from emomc.training import Budget, KeepCoded, Recipe, fit
from emomc.training.checkpoint import Progress
from emomc.training.loss import image_losses

Tell = Callable[[str, int, int], None]
"""``tell(what, done, total)``: called as work gets done."""

_COMPARED = 2000  # training images on which the network must not have become worse


@dataclass(frozen=True)
class Finetuned:
    """A compressed network before and after it was trained on.

    Attributes:
        path: the new file.
        before: of the given file, on the selection split.
        after: of the new file, decoded, on the selection split.
        size_before: bytes of the given file.
        size_after: bytes of the new file, not more.
        training_loss: mean of `emomc.training.loss.image_losses` on training images, before and after.
        progress: how far the training went.
    """

    path: Path
    before: Measurement
    after: Measurement
    size_before: int
    size_after: int
    training_loss: tuple[float, float]
    progress: Progress


def finetune_recipe(task: Task) -> Recipe:
    """How a compressed network of a task is trained on unless told otherwise: gently, half taught by the dense one.

    Raises:
        EmomcError: the task offers no training images.
    """
    if task.training is None:
        raise EmomcError(f"task {task.name!r} offers no training images: give it `training`, an emomc TrainingData.")
    return replace(
        task.training.recipe,
        optimizer="sgd",
        learning_rate=0.005,
        weight_decay=0.0,
        warmup=0.05,
        label_smoothing=0.0,
        distillation=0.5,
    )


def _silent(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


def _unheard(message: str) -> None:
    """A notice that nobody hears."""


def finetune(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    task: Task,
    budget: Budget,
    *,
    recipe: Recipe | None = None,
    checkpoint: Path | None = None,
    settings: Settings | None = None,
    tell: Tell = _silent,
    notice: Callable[[str], None] = _unheard,
) -> Finetuned:
    """Train the network of a file on, taught by the task's dense network, and write what comes out as a new file.

    Zeros, bit-widths, scales and codebook sizes stay as they are; what moves is the value of each weight on its grid,
    the entries of codebooks, biases and batch norms. The new file is not larger than the given one: where it would be,
    more weights become zero. The test split is not touched.

    Args:
        source: a compressed file of the task.
        out: file to write; replaced if it exists.
        task: with training images.
        budget: how long to train.
        recipe: how; `finetune_recipe` unless given.
        checkpoint: kept while training, so that an interrupted call goes on when it is repeated.
        settings: how networks are measured, and the device.
        tell: told of progress.
        notice: told in words of what goes wrong and what is done about it.

    Raises:
        EmomcError: the file is damaged or of another network, the task offers no training images, or training made the
            network worse on them; nothing is written then.

    Example:
        >>> found = emomc.finetune("small.emomc", "tuned.emomc", task, emomc.Budget(epochs=3))
        >>> found.before.error, found.after.error, found.size_after - found.size_before
    """
    recipe = recipe or finetune_recipe(task)
    assert task.training is not None
    file = read_network(source)
    check_header(file)
    start = load_network(file, _builder(file, task))
    network = trace(start, task.example_input)
    stored = {layer.weight: file.tensor(layer.name, layer.weight_shape) for layer in network.layers}
    regime, images = KeepCoded(stored), task.training.load()
    settings = settings or Settings()
    few = Split(images.stored[:_COMPARED], images.targets[:_COMPARED], images.normalisation)
    before = _loss(start, few)
    trained = fit(
        start,
        images,
        recipe,
        budget,
        regime=regime,
        teacher=task.module,
        path=checkpoint,
        device=settings.device,
        tell=tell,
        notice=notice,
    )
    tell("writing", 0, 1)
    module, blobs, after = _at_its_size(trained.module, regime.coded(trained.module), network, file, few, before)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_network(path, module, network, blobs, file.header, read_grids(file, network))
    tell("measuring", 0, 1)
    evaluator = Evaluator(task.module, trace(task.module, task.example_input), task.splits, None, task.error, settings)
    return Finetuned(
        path,
        evaluator.measure_module(start, "selection"),
        evaluator.measure_module(load_network(read_network(path), _builder(file, task)), "selection"),
        file.length,
        path.stat().st_size,
        (before, after),
        trained.progress,
    )


def _builder(file: NetworkFile, task: Task) -> Callable[[], nn.Module]:
    return builder(file) if "graph" in file.header else lambda: copy.deepcopy(task.module)


def _at_its_size(
    module: nn.Module,
    coded: Mapping[str, CodedTensor],
    network: Network,
    file: NetworkFile,
    images: Split,
    before: float,
) -> tuple[nn.Module, dict[str, bytes], float]:
    """The network that a file not larger than the given one holds, its coded weights by layer name, and its loss.

    Args:
        module: trained.
        coded: its weights, by parameter name.
        network: its trace.
        file: that it came from.
        images: that losses are of.
        before: loss that must not be exceeded.
    """
    moved = {layer.name: coded[layer.weight] for layer in network.layers}
    module = _as_stored(module, network, moved)
    _refuse_worse(before, _loss(module, images))
    blobs = _fitting(network, file, module, moved, images)
    shapes = {layer.name: layer.weight_shape for layer in network.layers}
    module = _as_stored(module, network, {name: coding.decode_tensor(blobs[name], shapes[name]) for name in shapes})
    after = _loss(module, images)
    _refuse_worse(before, after)
    return module, blobs, after


def _refuse_worse(before: float, after: float) -> None:
    if not after <= before:  # NaN is worse, too
        raise EmomcError(
            f"training made the network worse on training images: its loss was {before:.4f} before, {after:.4f} after. "
            "Nothing was written. Train longer, or with a lower learning rate."
        )


def _fitting(
    network: Network, file: NetworkFile, module: nn.Module, moved: Mapping[str, CodedTensor], images: Split
) -> dict[str, bytes]:
    """Coded weights by layer name, together not longer than those of the file; the network has those that moved."""
    found = derivatives(module, [layer.weight for layer in network.layers], images)
    return fit_size(
        {
            layer.name: Trained(
                file.tensor(layer.name, layer.weight_shape),
                file.blobs[layer.name],
                moved[layer.name],
                *found[layer.weight],
            )
            for layer in network.layers
        }
    )


@torch.no_grad()
def _as_stored(module: nn.Module, network: Network, weights: Mapping[str, CodedTensor]) -> nn.Module:
    """The network that a file with these weights, by layer name, decodes to."""
    module = copy.deepcopy(module).requires_grad_(False)
    state = module.state_dict()
    for layer in network.layers:
        weight = torch.from_numpy(weights[layer.name].dequantize())
        for key in (layer.weight, *layer.aliases):
            state[key].copy_(weight)
    make_storable(module, network)
    return module


def _loss(module: nn.Module, images: Split) -> float:
    """Mean loss on the targets."""
    with torch.inference_mode():
        losses = [image_losses(module(inputs), targets) for inputs, targets in images.batches(128)]
    return float(torch.cat(losses).mean())
