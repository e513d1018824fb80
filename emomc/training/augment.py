"""Random shifts and mirrorings of a whole batch of images at once."""

from __future__ import annotations

import torch
from torch.nn import functional

from emomc.training.recipe import Augmentation


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
