"""Every CIFAR network as a task, on CIFAR-10 and CIFAR-100: what `emomc train` can make from scratch.

There is no public checkpoint for these; each takes the one that ``emomc train NAME --scratch`` writes. The recipes are
those of the networks' publications, with half a cosine in place of steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from emomc.problems.tasks.cifar10 import CIFAR, NETWORKS, RECIPE, Source, cifar_task
from emomc.problems.tasks.locate import locate_function
from emomc.problems.tasks.task import Task
from emomc.training.recipe import Recipe


@dataclass(frozen=True)
class _Network:
    """A network, and how it is trained."""

    title: str
    factory: str
    arguments: dict[str, object] = field(default_factory=dict)
    recipe: Recipe = RECIPE
    epochs: float = 200


_SOFT = replace(RECIPE, learning_rate=0.05, label_smoothing=0.1)
_NETWORKS = {
    "resnet20": _Network("ResNet-20", "resnet", {"depth": 20}),
    "resnet56": _Network("ResNet-56", "resnet", {"depth": 56}),
    "resnet110": _Network("ResNet-110", "resnet", {"depth": 110}, replace(RECIPE, warmup=0.1)),
    "vgg16": _Network("VGG-16-BN", "vgg16", recipe=_SOFT),
    "mobilenetv1": _Network("MobileNetV1", "mobilenet_v1", recipe=_SOFT),
    "mobilenetv2": _Network("MobileNetV2", "mobilenet_v2", recipe=_SOFT),
    "densenet": _Network(
        "DenseNet-BC-100-12", "densenet_bc", recipe=replace(RECIPE, batch=64, weight_decay=1e-4), epochs=300
    ),
}


def _offer(network: str, classes: int) -> Callable[..., Task]:
    """The function of a task."""
    chosen, name = _NETWORKS[network], f"cifar{classes}-{network}"
    arguments = {**chosen.arguments, "classes": classes}
    title = f"{chosen.title} on CIFAR-{classes}"

    def task(
        data: str | Path | None = None,
        checkpoint: str | Path | None = None,
        download: bool = False,
        untrained: bool = False,
    ) -> Task:
        factory = f"{NETWORKS}:{chosen.factory}"
        module = locate_function(factory)(**arguments)
        source = Source(f"{name}.pt", CIFAR, factory, arguments, title, classes, chosen.recipe, chosen.epochs)
        return cifar_task(name, module, source, data, checkpoint, download, untrained)

    task.__doc__ = f"{title}; needs data and a checkpoint, which emomc train {name} --scratch makes."
    return task


cifar10_resnet110 = _offer("resnet110", 10)
cifar10_mobilenetv1 = _offer("mobilenetv1", 10)
cifar10_mobilenetv2 = _offer("mobilenetv2", 10)
cifar10_densenet = _offer("densenet", 10)
cifar100_resnet20 = _offer("resnet20", 100)
cifar100_resnet56 = _offer("resnet56", 100)
cifar100_resnet110 = _offer("resnet110", 100)
cifar100_vgg16 = _offer("vgg16", 100)
cifar100_mobilenetv1 = _offer("mobilenetv1", 100)
cifar100_mobilenetv2 = _offer("mobilenetv2", 100)
cifar100_densenet = _offer("densenet", 100)
