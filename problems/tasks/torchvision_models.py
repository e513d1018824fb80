"""torchvision's classifiers as tasks: on ImageNet with its weights, and on any folder of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emomc.errors import EmomcError
from emomc.problems.tasks.checkpoint import load_checkpoint
from emomc.problems.tasks.image_folder import View, class_count, image_folder_task
from emomc.problems.tasks.task import Task


def _model(network: str, classes: int) -> nn.Module:
    from torchvision.models import get_model

    module: nn.Module = get_model(network, weights=None, num_classes=classes)
    return module


def _load_published(module: nn.Module, network: str, download: bool) -> None:
    """Torchvision's own weights, from where it keeps its downloads.

    Raises:
        EmomcError: they are not there and must not be downloaded, or cannot be.
    """
    weights = _published(network)
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    if file.is_file():
        load_checkpoint(module, file)
    elif download:
        try:
            module.load_state_dict(weights.get_state_dict(progress=False, check_hash=True))
        except (OSError, RuntimeError) as error:
            raise EmomcError(f"torchvision's weights of {network} cannot be downloaded: {error}.") from error
    else:
        raise EmomcError(
            f"no weights for {network}: there is no {str(file)!r}. Give a file as the option checkpoint, or let "
            "torchvision download its own with the option download."
        )


def _published(network: str) -> Any:
    from torchvision.models import get_model_weights

    return get_model_weights(network).DEFAULT


def _view(network: str) -> View:
    """How torchvision evaluates a network with its weights."""
    from emomc.accuracy.splits import Normalisation

    seen = _published(network).transforms()
    return View(seen.resize_size[0], seen.crop_size[0], Normalisation(tuple(seen.mean), tuple(seen.std)))


def _offer_imagenet(network: str) -> Callable[..., Task]:
    def task(
        data: str | Path | None = None,
        checkpoint: str | Path | None = None,
        download: bool = False,
        untrained: bool = False,
    ) -> Task:
        name = f"imagenet-{network.replace('_', '')}"
        if (found := class_count(data)) != 1000:
            other = name.replace("imagenet", "folder")
            raise EmomcError(
                f"task {name!r}: {str(data)!r} has {found} classes; ImageNet has 1000. See task {other!r}."
            )
        module = _model(network, 1000)
        if checkpoint:
            load_checkpoint(module, Path(checkpoint).expanduser())
        elif not untrained:
            _load_published(module, network, download)
        return image_folder_task(
            name, module, data, view=_view(network), description=f"torchvision's {network} on ImageNet"
        )

    task.__doc__ = f"torchvision's {network} on a folder of ImageNet's images, with train and val; its own weights."
    return task


def _offer_folder(network: str) -> Callable[..., Task]:
    def task(data: str | Path | None = None, checkpoint: str | Path | None = None, untrained: bool = False) -> Task:
        name = f"folder-{network.replace('_', '')}"
        module = _model(network, class_count(data))
        if checkpoint:
            load_checkpoint(module, Path(checkpoint).expanduser())
        elif not untrained:
            raise EmomcError(f"task {name!r} needs weights: give a file as the option checkpoint.")
        return image_folder_task(
            name, module, data, view=_view(network), description=f"torchvision's {network} on a folder of images"
        )

    task.__doc__ = f"torchvision's {network} on any folder of images, one output a class; needs a checkpoint."
    return task


imagenet_resnet18 = _offer_imagenet("resnet18")
imagenet_resnet50 = _offer_imagenet("resnet50")
imagenet_mobilenetv2 = _offer_imagenet("mobilenet_v2")
imagenet_vgg16bn = _offer_imagenet("vgg16_bn")
imagenet_densenet121 = _offer_imagenet("densenet121")
folder_resnet18 = _offer_folder("resnet18")
folder_resnet50 = _offer_folder("resnet50")
folder_mobilenetv2 = _offer_folder("mobilenet_v2")
folder_vgg16bn = _offer_folder("vgg16_bn")
folder_densenet121 = _offer_folder("densenet121")
