"""Random changes of a whole batch of images at once: shifts, mirrorings, and rectangles of other images."""

from __future__ import annotations

import torch
from torch.nn import functional

from emomc.errors import EmomcError
from emomc.training.recipe import Augmentation


def check_augmentable(images: torch.Tensor, augmentation: Augmentation) -> None:
    """See that inputs can be changed as is asked for.

    Raises:
        EmomcError: they are to be changed, and are no images (n, C, H, W).
    """
    if augmentation != Augmentation() and images.dim() != 4:
        raise EmomcError(
            f"training inputs have shape {tuple(images.shape)}, and {augmentation} is asked for: shift, flip and "
            "cutmix need images of 4 axes, (n, C, H, W). Leave augmentation out of the recipe."
        )


def augment(images: torch.Tensor, augmentation: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Each image shifted and mirrored at random.

    Args:
        images: (n, C, H, W), any type.
        augmentation: what may happen.
        generator: on the CPU.

    Returns:
        (n, C, H, W) of the same type: pixel (y, x) is that of (y + dy, x + dx), zero beyond the border; in half of the
        images columns are in reverse order where mirroring is on.
    """
    if not augmentation.shift and not augmentation.flip:
        return images
    n, _, height, width = images.shape
    reach = augmentation.shift
    shifts = torch.randint(0, 2 * reach + 1, (2, n, 1), generator=generator)
    rows = shifts[0] + torch.arange(height)
    columns = shifts[1] + torch.arange(width)
    if augmentation.flip:
        mirrored = torch.rand((n, 1), generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = functional.pad(images, (reach, reach, reach, reach))
    # Rows of all channels move together, so that a gather handles whole pixels.
    pixels = padded.permute(0, 2, 3, 1).flatten(1, 2)
    picked = (rows[:, :, None] * (width + 2 * reach) + columns[:, None, :]).flatten(1).to(images.device)
    moved = pixels[torch.arange(n, device=images.device)[:, None], picked]
    return moved.reshape(n, height, width, -1).permute(0, 3, 1, 2)


def cut_mix(
    images: torch.Tensor, share: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Some images with a rectangle of another image of the batch in its place.

    The area that the rectangle is meant to have is uniform from nothing to all of the image, its centre anywhere, what
    lies beyond the border is cut off. Unlike at its source, every image has a rectangle of its own.

    Args:
        images: (n, C, H, W), any type.
        share: of the images that get a rectangle.
        generator: on the CPU.

    Returns:
        The images; the number of the image that each rectangle is of, (n,); and its share of the area, (n,), 0 for
        images that stay as they are.

    Source: Yun et al., "CutMix: regularization strategy to train strong classifiers with localizable features", 2019.
    """
    n, _, height, width = images.shape
    partners = torch.randperm(n, generator=generator)
    drawn = torch.rand((n, 4), generator=generator)
    side = torch.where(drawn[:, 0] < share, drawn[:, 1].sqrt(), 0.0)
    rows = _covered(drawn[:, 2] * height, side * height, height)
    columns = _covered(drawn[:, 3] * width, side * width, width)
    inside = rows[:, :, None] & columns[:, None, :]
    mixed = torch.where(inside[:, None].to(images.device), images[partners.to(images.device)], images)
    return mixed, partners, inside.float().mean((1, 2))


def _covered(centre: torch.Tensor, length: torch.Tensor, size: int) -> torch.Tensor:
    """Which of so many pixels in a row lie in intervals of these centres and lengths, (n, size)."""
    middle = torch.arange(size) + 0.5
    return (middle - centre[:, None]).abs() < length[:, None] / 2
