"""CIFAR-10 classifiers from public checkpoints (Krizhevsky 2009; He et al. 2016; Simonyan and Zisserman 2015).

The checkpoints were trained on all 50,000 training images, so errors on the calibration, selection and validation
splits, which are drawn from those, are optimistic. A search compares differences from the dense network; the test split
is independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from emomc.accuracy.splits import Normalisation, Split, Splits, SplitSizes, draw_splits, stratified_order
from emomc.errors import EmomcError
from emomc.problems.tasks.cache import cache_folder
from emomc.problems.tasks.checkpoint import load_checkpoint
from emomc.problems.tasks.cifar10_data import DATA_VARIABLE, data_folder, load_cifar
from emomc.problems.tasks.networks import resnet, vgg16
from emomc.problems.tasks.task import Task, TrainingData
from emomc.training.recipe import Augmentation, Recipe

SIZES = SplitSizes(calibration=512, selection=2000, validation=2000)
SPLIT_SEED = 0
# He et al. 2016, section 4.2, with more weight decay, and half a cosine in place of steps.
RECIPE = Recipe(learning_rate=0.1, batch=128, weight_decay=5e-4, augmentation=Augmentation(shift=4, flip=True))
EPOCHS = 200

# Those of the trainings that made the checkpoints.
_IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CIFAR = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
NETWORKS = "emomc.problems.tasks.networks"


@dataclass(frozen=True)
class Source:
    """What a checkpoint needs around it: its usual file name, normalisation, network, data set and training."""

    file: str
    normalisation: Normalisation
    factory: str
    arguments: dict[str, object]
    description: str
    classes: int = 10
    recipe: Recipe = RECIPE
    epochs: float = EPOCHS


def resnet20_task(
    data: str | Path | None = None,
    checkpoint: str | Path | None = None,
    download: bool = False,
    untrained: bool = False,
) -> Task:
    """ResNet-20 on CIFAR-10, 0.27 million weights; needs data and a checkpoint.

    The checkpoint of github.com/akamaster/pytorch_resnet_cifar10 reaches 91.73 % on the test split.

    Args:
        data: folder with CIFAR-10, also in a subfolder ``cifar10``; otherwise the environment variable EMOMC_DATA.
        checkpoint: weights file; otherwise ``checkpoints/resnet20-12fca82f.th`` in the data folder.
        download: let torchvision download CIFAR-10 when it is not in the data folder.
        untrained: with the weights that a training starts from; no checkpoint is needed.

    Raises:
        EmomcError: when data or checkpoint are missing, damaged or do not fit.
    """
    source = _resnet_source(20, "resnet20-12fca82f.th")
    return cifar_task("cifar10-resnet20", resnet(20), source, data, checkpoint, download, untrained)


def resnet56_task(
    data: str | Path | None = None,
    checkpoint: str | Path | None = None,
    download: bool = False,
    untrained: bool = False,
) -> Task:
    """ResNet-56 on CIFAR-10, 0.86 million weights; needs data and a checkpoint.

    The checkpoint of github.com/akamaster/pytorch_resnet_cifar10 reaches 93.39 %. Arguments as for `resnet20_task`.
    """
    source = _resnet_source(56, "resnet56-4bfd9763.th")
    return cifar_task("cifar10-resnet56", resnet(56), source, data, checkpoint, download, untrained)


def vgg16_task(
    data: str | Path | None = None,
    checkpoint: str | Path | None = None,
    download: bool = False,
    untrained: bool = False,
) -> Task:
    """VGG-16 with batch normalisation on CIFAR-10, 15 million weights; needs data and a checkpoint.

    Arguments as for `resnet20_task`.
    """
    source = Source(
        "vgg16_bn_cifar10_fp16.pt", CIFAR, f"{NETWORKS}:vgg16", {}, "VGG-16-BN on CIFAR-10, 15 million weights"
    )
    return cifar_task("cifar10-vgg16", vgg16(), source, data, checkpoint, download, untrained)


def _resnet_source(depth: int, file: str) -> Source:
    description = f"ResNet-{depth} (option A shortcuts) on CIFAR-10"
    return Source(file, _IMAGENET, f"{NETWORKS}:resnet", {"depth": depth}, description)


def cifar_task(
    name: str,
    module: nn.Module,
    source: Source,
    data: str | Path | None,
    checkpoint: str | Path | None,
    download: bool,
    untrained: bool,
) -> Task:
    """A network with CIFAR data and, unless it is to be untrained, the weights of a checkpoint.

    Raises:
        EmomcError: when data or checkpoint are missing, damaged or do not fit.
    """
    folder = data_folder(data)
    if not untrained:
        load_checkpoint(module, _checkpoint_path(folder, checkpoint, source.file))
    splits = _splits(folder, download, source)
    training = TrainingData(partial(_training_images, folder, download, source), source.recipe, source.epochs)
    return Task(
        name,
        module.eval(),
        splits,
        source.factory,
        source.arguments,
        description=source.description,
        training=training,
    )


def _checkpoint_path(folder: Path | None, checkpoint: str | Path | None, file: str) -> Path:
    if checkpoint:
        return Path(checkpoint).expanduser()
    path = None if folder is None else folder / "checkpoints" / file
    if path is None or not path.is_file():
        where = "no data folder is given" if path is None else f"there is no {str(path)!r}"
        raise EmomcError(
            f"no checkpoint: {where}. Give the file as the option checkpoint, or as checkpoints/{file} "
            f"in the folder of the option data or of the environment variable {DATA_VARIABLE}."
        )
    return path


def _training_images(folder: Path | None, download: bool, source: Source) -> Split:
    """The training images that are in none of the splits; read again, so that they take no memory until then."""
    train, _ = load_cifar(source.classes, folder, download, cache_folder())
    rest = stratified_order(train.labels, SPLIT_SEED)[sum(SIZES) :]
    return Split(torch.from_numpy(train.images[rest]), torch.from_numpy(train.labels[rest]), source.normalisation)


def _splits(folder: Path | None, download: bool, source: Source) -> Splits:
    train, test = load_cifar(source.classes, folder, download, cache_folder())
    return draw_splits(train.images, train.labels, test.images, test.labels, SIZES, SPLIT_SEED, source.normalisation)
