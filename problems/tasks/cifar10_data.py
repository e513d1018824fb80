"""CIFAR-10 and CIFAR-100 as byte arrays, from any of the layouts they are found in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emomc.errors import EmomcError

DATA_VARIABLE = "EMOMC_DATA"

_TORCHVISION = {10: ("CIFAR10", "cifar-10-batches-py"), 100: ("CIFAR100", "cifar-100-python")}


def _three_ways(classes: int) -> str:
    name = f"cifar{classes}"
    return (
        f"Give the data folder as the option data, in the environment variable {DATA_VARIABLE}, or ask for "
        f"torchvision's download with the option download. The folder, or its subfolder {name}, holds either "
        f"{name}_train.npz (or train/*.webp strips with train_labels.npy) and {name}_test.npz, or "
        f"{_TORCHVISION[classes][1]}."
    )


@dataclass(frozen=True, eq=False)
class ByteImages:
    """Images (n, 3, 32, 32) uint8, RGB, and labels (n,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def data_folder(data: str | Path | None) -> Path | None:
    """The folder given as an option, else by EMOMC_DATA, else None.

    Raises:
        EmomcError: when the folder does not exist.
    """
    given = data or os.environ.get(DATA_VARIABLE)
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise EmomcError(
            f"there is no data folder {str(folder)!r}. Give an existing one as the option data or in the environment "
            f"variable {DATA_VARIABLE}, or ask for torchvision's download with the option download."
        )
    return folder


def load_cifar(
    classes: int, folder: Path | None, download: bool, download_folder: Path
) -> tuple[ByteImages, ByteImages]:
    """The training set and the test set, in the official order.

    Args:
        classes: 10 or 100.
        folder: that of the option ``data``, or None.
        download: fetch what is missing with torchvision, into ``folder`` or, without one, into ``download_folder``.
        download_folder: used only for a download.

    Raises:
        EmomcError: when the data is not there, with the ways to give it, or is damaged.
    """
    name = f"cifar{classes}"
    for place in () if folder is None else (folder / name, folder):
        if (place / f"{name}_test.npz").is_file():
            return _read_train(place, classes), _read_npz(place / f"{name}_test.npz")
        if (place / _TORCHVISION[classes][1]).is_dir():
            return _torchvision(classes, place, download)
    if download:
        return _torchvision(classes, folder or download_folder, download)
    where = "no data folder is given" if folder is None else f"there is no CIFAR-{classes} in {str(folder)!r}"
    raise EmomcError(f"{where}. {_three_ways(classes)}")


def _read_train(place: Path, classes: int) -> ByteImages:
    file = place / f"cifar{classes}_train.npz"
    if file.is_file():
        return _read_npz(file)
    strips = sorted((place / "train").glob("*.webp"))
    if not strips:
        raise EmomcError(
            f"{str(place)!r} holds the test images of CIFAR-{classes} but not the training images. "
            f"{_three_ways(classes)}"
        )
    labels_path = place / "train_labels.npy"
    try:
        labels = np.load(labels_path, allow_pickle=False)
    except Exception as error:  # a damaged array raises almost any type
        raise EmomcError(f"cannot read {str(labels_path)!r}: {error}. Expected the labels of train/*.webp.") from error
    return _checked(place / "train", np.concatenate([_read_strip(path) for path in strips]), labels)


def _read_strip(path: Path) -> NDArray[np.uint8]:
    """(n, 32, 32, 3) from a strip of n images below each other."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # a damaged image raises almost any type
        raise EmomcError(f"cannot read {str(path)!r} as an image: {error}. Copy the file again.") from error
    if pixels.shape[1] != 32 or pixels.shape[0] % 32:
        size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise EmomcError(f"{str(path)!r} is {size} pixels; expected 32 wide and a multiple of 32 tall.")
    return pixels.reshape(-1, 32, 32, 3)


def _read_npz(path: Path) -> ByteImages:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images, labels = arrays["x"], arrays["y"]
    except Exception as error:  # a damaged archive raises almost any type
        raise EmomcError(f"cannot read {str(path)!r}: {error}. Expected an .npz file with arrays x and y.") from error
    return _checked(path, images, labels)


def _torchvision(classes: int, root: Path, download: bool) -> tuple[ByteImages, ByteImages]:
    import torchvision

    dataset = getattr(torchvision.datasets, _TORCHVISION[classes][0])
    try:
        # It compares checksums before it unpickles anything.
        train, test = (dataset(root, train=train, download=download) for train in (True, False))
    except (OSError, RuntimeError) as error:
        raise EmomcError(f"CIFAR-{classes} in {str(root)!r}: {error}. {_three_ways(classes)}") from error
    return _checked(root, train.data, np.asarray(train.targets)), _checked(root, test.data, np.asarray(test.targets))


def _checked(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> ByteImages:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3):
        raise EmomcError(f"{str(path)!r} holds {images.dtype} of shape {images.shape}; expected uint8 (n, 32, 32, 3).")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise EmomcError(
            f"{str(path)!r} has {len(images)} images and labels {labels.dtype} of shape {labels.shape}; "
            "expected one integer label an image."
        )
    return ByteImages(images.transpose(0, 3, 1, 2), labels.astype(np.int64))
