"""The four disjoint sets of images that a search works on, and how they are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from emomc.errors import EmomcError

__all__ = ["Normalisation", "Split", "SplitSizes", "Splits", "draw_splits", "stratified_order"]


@dataclass(frozen=True)
class Normalisation:
    """How bytes become network inputs: ``(byte / 255 - mean) / std``, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, stored: torch.Tensor) -> torch.Tensor:
        """Bytes of shape (n, C, ...) as normalised float32 of the same shape."""
        per_channel = (1, -1, *[1] * (stored.ndim - 2))
        mean, std = (
            torch.tensor(values, device=stored.device).reshape(per_channel) for values in (self.mean, self.std)
        )
        return stored.to(torch.float32).div_(255).sub_(mean).div_(std)


@dataclass(frozen=True, init=False, eq=False)
class Split:
    """Inputs with their labels.

    Images may be kept as bytes, a quarter of the memory, together with the normalisation that turns them into inputs.

    Attributes:
        stored: (n, C, H, W) float32 inputs, or uint8 when there is a normalisation.
        targets: (n,) int64 class labels, from 0; or (n, ...) float32 values that a regression predicts.
        normalisation: applied to ``stored`` when the inputs are used; None when they are float32 already.
    """

    stored: torch.Tensor
    targets: torch.Tensor
    normalisation: Normalisation | None

    def __init__(self, inputs: torch.Tensor, targets: torch.Tensor, normalisation: Normalisation | None = None) -> None:
        """Check and keep the arrays.

        Raises:
            EmomcError: when the arrays are empty, differ in length, hold NaN or infinity, or have another type.
        """
        for name, given in (("inputs", inputs), ("targets", targets)):
            if not isinstance(given, torch.Tensor):
                raise EmomcError(
                    f"{name} are a {type(given).__name__}; expected a tensor of all samples, as torch.as_tensor makes "
                    "of an array or a list of numbers, and torch.stack of the samples of a data set."
                )
        inputs, targets = inputs.detach(), targets.detach()
        _check_inputs(inputs, normalisation)
        _check_targets(targets, len(inputs))
        object.__setattr__(self, "stored", inputs)
        object.__setattr__(self, "targets", targets)
        object.__setattr__(self, "normalisation", normalisation)

    def __len__(self) -> int:
        return len(self.targets)

    @cached_property
    def inputs(self) -> torch.Tensor:
        """(n, C, H, W) float32, normalised; made on first use and kept."""
        return self._normalised(slice(None))

    def batches(self, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Inputs (b, C, H, W) float32 and targets (b, ...) in order, b = ``size`` but for the last; nothing is kept."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            yield self._normalised(part), self.targets[part]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the stored inputs, the targets and the normalisation."""
        digest = hashlib.sha256(repr(self.normalisation).encode())
        for tensor in (self.stored, self.targets):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def _normalised(self, part: slice) -> torch.Tensor:
        stored = self.stored[part]
        return stored if self.normalisation is None else self.normalisation(stored)


@dataclass(frozen=True, eq=False)
class Splits:
    """The four sets of a task; no image belongs to two of them.

    Attributes:
        calibration: statistics, Hessians, correction strengths, probes of single layers (which count errors, too).
        selection: what the search sees.
        validation: predictor checks, choosing between runs.
        test: touched once, for the final front.
    """

    calibration: Split
    selection: Split
    validation: Split
    test: Split

    def __post_init__(self) -> None:
        for name, split in self.named().items():
            if not isinstance(split, Split):
                raise EmomcError(f"{name} is a {type(split).__name__}; expected an emomc.Split(inputs, targets).")
        shapes = {name: tuple(split.stored.shape[1:]) for name, split in self.named().items()}
        if len(set(shapes.values())) > 1:
            raise EmomcError(f"the splits hold inputs of different shapes: {shapes}. Give every split the same shape.")

    def named(self) -> dict[str, Split]:
        """The splits under their names, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def check_disjoint(self, tolerance: float = 0.01) -> None:
        """Compare the splits image by image.

        Args:
            tolerance: allowed share of the smaller split, because real data sets hold a few duplicates.

        Raises:
            EmomcError: when two splits have more images than that in common.
        """
        seen = {name: _image_digests(split) for name, split in self.named().items()}
        names = list(seen)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                smaller = min(len(seen[first]), len(seen[second]))
                common = len(seen[first] & seen[second])
                if common > tolerance * smaller:
                    raise EmomcError(
                        f"the {first} and {second} splits share {common} of {smaller} different images, so what one "
                        "measures is optimistic. Draw them without replacement, for example with draw_splits."
                    )


class SplitSizes(NamedTuple):
    """Number of images of each split that is drawn from the training set."""

    calibration: int
    selection: int
    validation: int


def draw_splits(
    train_inputs: NDArray[np.uint8] | NDArray[np.float32],
    train_targets: NDArray[np.int64],
    test_inputs: NDArray[np.uint8] | NDArray[np.float32],
    test_targets: NDArray[np.int64],
    sizes: SplitSizes,
    seed: int,
    normalisation: Normalisation | None = None,
) -> Splits:
    """Draw calibration, selection and validation from the training set, without replacement and class by class.

    Args:
        train_inputs: (n, C, H, W), uint8 with a normalisation or float32 without.
        train_targets: (n,) class labels from 0.
        test_inputs: (m, C, H, W), all of them used, in their order.
        test_targets: (m,).
        sizes: images a split.
        seed: of ``Generator(PCG64(seed))``; the same arguments give the same splits.
        normalisation: kept with every split.

    Raises:
        EmomcError: when a split would be empty, the training set is too small, or the arrays do not belong together.
    """
    if min(sizes) < 1:
        raise EmomcError(f"split sizes are {sizes}; every split needs at least one image.")
    if sum(sizes) > len(train_targets):
        raise EmomcError(
            f"{sum(sizes)} images are wanted for {sizes} but the training set has {len(train_targets)}. "
            "Ask for smaller splits or give more data."
        )
    train = Split(torch.from_numpy(train_inputs), _as_labels(train_targets), normalisation)
    test = Split(torch.from_numpy(np.ascontiguousarray(test_inputs)), _as_labels(test_targets), normalisation)
    foreign = np.setdiff1d(test_targets, train_targets)
    if foreign.size:
        raise EmomcError(
            f"the test labels {foreign[:5].tolist()} do not occur in the training set, so one of the two is "
            "mislabelled. Use the same numbering of the classes, from 0, in both."
        )
    ends = np.cumsum(sizes)
    pieces = np.split(stratified_order(train_targets, seed)[: ends[-1]], ends[:-1])
    calibration, selection, validation = (
        Split(train.stored[piece], train.targets[piece], normalisation) for piece in map(torch.from_numpy, pieces)
    )
    return Splits(calibration, selection, validation, test)


def stratified_order(targets: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A random order of the indices in which every stretch holds the classes in about their overall proportions.

    Image number r of the n_c of class c, in random order, stands at the quantile (r + 1/2) / n_c; sorting by quantile
    interleaves the classes evenly. Consecutive stretches are therefore stratified splits without replacement, and with
    equal classes a stretch of whole rounds holds each class exactly equally often.

    Args:
        targets: (n,) class labels.
        seed: of ``Generator(PCG64(seed))``.

    Returns:
        (n,) int64, a permutation.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    quantile = np.empty(len(targets))
    for label in np.unique(targets):
        members = rng.permutation(np.flatnonzero(targets == label))
        quantile[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.lexsort((targets, quantile)).astype(np.int64)


def _as_labels(targets: NDArray[np.int64]) -> torch.Tensor:
    if not np.issubdtype(targets.dtype, np.integer):
        raise EmomcError(f"class labels are {targets.dtype}; expected integers from 0.")
    return torch.from_numpy(targets.astype(np.int64))


def _check_inputs(inputs: torch.Tensor, normalisation: Normalisation | None) -> None:
    expected = torch.float32 if normalisation is None else torch.uint8
    if inputs.dtype != expected:
        raise EmomcError(
            f"inputs are {inputs.dtype}; expected torch.float32, already normalised, "
            "or torch.uint8 together with a normalisation."
        )
    if inputs.ndim < 2 or inputs.numel() == 0:
        raise EmomcError(f"inputs have shape {tuple(inputs.shape)}; expected (n, C, H, W) with at least one image.")
    if normalisation is None and not bool(torch.isfinite(inputs).all()):
        row = int(torch.nonzero(~torch.isfinite(inputs.flatten(1)).all(1))[0])
        raise EmomcError(f"inputs hold NaN or infinity, first in image {row}. Remove such images or mend them.")
    if normalisation is not None:
        _check_normalisation(normalisation, inputs.shape[1])


def _check_normalisation(normalisation: Normalisation, channels: int) -> None:
    if not len(normalisation.mean) == len(normalisation.std) == channels or min(normalisation.std) <= 0:
        raise EmomcError(
            f"{normalisation} does not fit inputs of {channels} channels; expected one mean and one positive standard "
            "deviation a channel. Are the inputs in the order (n, C, H, W)?"
        )


def _check_targets(targets: torch.Tensor, length: int) -> None:
    labels = targets.dtype == torch.int64 and targets.ndim == 1
    if not labels and (targets.dtype != torch.float32 or targets.ndim < 1):
        raise EmomcError(
            f"targets are {targets.dtype} of shape {tuple(targets.shape)}; expected int64 class labels of shape (n,), "
            "or float32 values of shape (n, ...) to be predicted. Convert labels with .long(); all else, such as a "
            "class for each pixel, with .float(), and back in the error function."
        )
    if len(targets) != length:
        raise EmomcError(f"there are {length} inputs but {len(targets)} targets. Give one target an input.")
    if not labels and not bool(torch.isfinite(targets).all()):
        raise EmomcError("targets hold NaN or infinity. Remove such samples or mend them.")
    if labels and int(targets.min()) < 0:
        raise EmomcError(f"a class label is {int(targets.min())}; labels count from 0.")


def _image_digests(split: Split) -> set[bytes]:
    images = split.stored.contiguous().numpy()
    return {hashlib.blake2b(image.data, digest_size=16).digest() for image in images}
