"""Folders of images as data: one folder a class, as torchvision's ``ImageFolder`` reads them.

Only the images that a split holds are decoded, once, into a memory map in the cache, so that memory stays bounded
whatever the number and size of the images.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emomc.accuracy.splits import Normalisation, Split, Splits, stratified_order
from emomc.errors import EmomcError
from emomc.problems.tasks.cache import cache_folder
from emomc.problems.tasks.task import Task, TrainingData
from emomc.training.recipe import Augmentation, Recipe

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_SIZES = (256, 1000, 1000, 5000)  # of calibration, selection, validation and test, at most
_MOST_TRAINING = 10_000  # images that are decoded for a training
_SEED = 0
_RECIPE = Recipe(learning_rate=0.05, batch=64, weight_decay=1e-4, augmentation=Augmentation(shift=8, flip=True))


@dataclass(frozen=True)
class View:
    """How an image becomes an input: its short side is resized, then the middle is cut out.

    Attributes:
        resize: length of the short side in pixels.
        crop: height and width of the input.
        normalisation: of the three channels.
    """

    resize: int = 256
    crop: int = 224
    normalisation: Normalisation = IMAGENET


class MappedSplit(Split):
    """A split whose images are in a file; what travels to a worker process is the file's name."""

    def __init__(self, file: Path, targets: torch.Tensor, normalisation: Normalisation) -> None:
        """Images of an ``.npy`` file, uint8."""
        super().__init__(torch.from_numpy(np.load(file, mmap_mode="c")), targets, normalisation)
        object.__setattr__(self, "_arguments", (file, targets, normalisation))

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedSplit, self._arguments  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class _Listed:
    """Paths of images, their labels (n,) int64 and the names of the classes in order."""

    paths: NDArray[np.str_]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def image_folder_task(
    name: str,
    module: nn.Module,
    data: str | Path | None,
    *,
    view: View | None = None,
    sizes: Sequence[int] = _SIZES,
    description: str = "",
) -> Task:
    """A network with a folder of images as data.

    The folder holds ``train`` and ``val`` (or ``test``), each with one folder a class, or the folders of the classes
    themselves. Classes are numbered in the order of their sorted names. The test split is drawn from ``val`` where
    there is one; all other splits, and the images to train on, come from the rest. The same files give the same splits.

    Args:
        name: of the task.
        module: the network, in eval mode, with one output a class.
        data: the folder.
        view: how images become inputs.
        sizes: images of calibration, selection, validation and test; fewer where the folder has fewer.
        description: one line.

    Raises:
        EmomcError: the folder is missing, has no images, has one class, has other classes in ``val`` than in
            ``train``, or too few images; an image is damaged.
    """
    view = view or View()
    if not data:
        raise EmomcError(f"task {name!r} needs a folder of images: give it as the option data.")
    folder = Path(data).expanduser()
    held_out = next((folder / each for each in ("val", "test") if (folder / each).is_dir()), None)
    train = _listed(_train_folder(folder))
    if held_out is None:
        counts = _shrunk(sizes, len(train.labels), folder)
        *drawn, rest = _pieces(train.labels, counts)
        parts = [(train, rows) for rows in drawn]
    else:
        test = _listed(held_out)
        if test.classes != train.classes:
            odd = sorted(set(test.classes) ^ set(train.classes))
            raise EmomcError(f"{str(folder)!r}: the classes of train and {held_out.name} differ, first in {odd[0]!r}.")
        *drawn, rest = _pieces(train.labels, _shrunk(sizes[:3], len(train.labels), folder))
        parts = [(train, rows) for rows in drawn]
        parts.append((test, _pieces(test.labels, (min(sizes[3], len(test.labels)),))[0]))
    splits = Splits(*(_decoded(listed, rows, view) for listed, rows in parts))
    load = partial(_decoded, train, rest[:_MOST_TRAINING], view)
    training = TrainingData(load, _RECIPE, epochs=90) if len(rest) else None
    title = description or f"{name}: {len(train.classes)} classes of images in a folder"
    return Task(name, module.eval(), splits, description=title, training=training)


def class_count(data: str | Path | None) -> int:
    """Number of classes of a folder of images.

    Raises:
        EmomcError: the folder is missing or has no images.
    """
    if not data:
        raise EmomcError("a folder of images is needed: give it as the option data.")
    return len(_listed(_train_folder(Path(data).expanduser())).classes)


def _train_folder(folder: Path) -> Path:
    """Where the images of all splits but the test split are."""
    split = any((folder / each).is_dir() for each in ("train", "val", "test"))
    return folder / "train" if split else folder


def _listed(folder: Path) -> _Listed:
    from torchvision.datasets import ImageFolder

    expected = "Expected one folder for each class with its images (.jpg, .png, .webp and others) in it."
    if not folder.is_dir():
        raise EmomcError(f"there is no folder {str(folder)!r}. {expected}")
    try:
        found: Any = ImageFolder(str(folder))
    except (FileNotFoundError, OSError) as error:
        raise EmomcError(f"{str(folder)!r} is no folder of images: {str(error).splitlines()[0]} {expected}") from None
    hidden = next((name for name in found.classes if name.startswith(".")), None)
    if hidden is not None:
        raise EmomcError(f"{str(folder / hidden)!r} would count as a class, as it holds images. Move or remove it.")
    if len(found.classes) == 1:
        raise EmomcError(
            f"{str(folder)!r} has one class, {found.classes[0]!r}, so no network could be wrong. {expected} "
            "If they lie deeper, give the folder that holds them."
        )
    paths, labels = zip(*found.samples, strict=True)
    return _Listed(np.array(paths), np.array(labels, np.int64), tuple(found.classes))


def _shrunk(sizes: Sequence[int], available: int, folder: Path) -> tuple[int, ...]:
    """Sizes of the splits; where a folder has few images, half of them are left to train on."""
    share = min(1.0, available / (2 * sum(sizes)))
    counts = tuple(int(share * size) for size in sizes)
    if min(counts) < 1:
        needed = math.ceil(2 * sum(sizes) / min(sizes))
        raise EmomcError(
            f"{str(folder)!r}: {available} images are too few for splits in the proportions {tuple(sizes)}; at least "
            f"{needed} are needed. Add images, or take other sizes in a task of your own, with image_folder_task."
        )
    return counts


def _pieces(labels: NDArray[np.int64], counts: Sequence[int]) -> list[NDArray[np.int64]]:
    """Rows of each split, and the rest; disjoint, and with the classes in about their overall proportions."""
    return np.split(stratified_order(labels, _SEED), np.cumsum(counts))


def _decoded(listed: _Listed, rows: NDArray[np.int64], view: View) -> Split:
    """The images of some rows as a memory map in the cache, decoded unless that was done before."""
    paths, labels = listed.paths[rows].tolist(), listed.labels[rows]
    digest = hashlib.sha256(f"{view.resize} {view.crop}".encode())
    for path in paths:
        facts = Path(path).stat()
        digest.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    file = cache_folder() / f"images-{digest.hexdigest()[:24]}.npy"
    if not file.exists():
        _decode(paths, view, file)
    return MappedSplit(file, torch.from_numpy(labels), view.normalisation)


def _decode(paths: Sequence[str], view: View, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(f".{os.getpid()}.part")
    shape = (len(paths), 3, view.crop, view.crop)
    try:
        images = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        for row, path in enumerate(paths):
            images[row] = _read(path, view)
        images.flush()
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: str, view: View) -> NDArray[np.uint8]:
    """(3, crop, crop), RGB."""
    from PIL import Image
    from torchvision.transforms.functional import center_crop, resize

    try:
        with Image.open(path) as image:
            seen = center_crop(resize(image.convert("RGB"), view.resize), [view.crop, view.crop])
    except Exception as error:  # a damaged image raises almost any type
        raise EmomcError(f"cannot read {path!r} as an image: {error}. Copy it again, or remove it.") from error
    return np.asarray(seen).transpose(2, 0, 1)
