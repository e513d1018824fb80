"""What augmentation does to images, and that it is for images alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from emomc.accuracy.splits import Split
from emomc.errors import EmomcError
from emomc.training import (
    Augmentation,
    Budget,
    Recipe,
    fit,
)
from emomc.training.augment import augment, cut_mix


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 3), st.booleans(), st.integers(3, 6), st.integers(2, 5), st.integers(0, 99))
def test_augmentation_shows_every_image_shifted_or_mirrored(
    n: int, shift: int, flip: bool, height: int, width: int, seed: int
) -> None:
    original = torch.randint(1, 255, (n, 2, height, width), generator=torch.Generator().manual_seed(seed))
    result = augment(original, Augmentation(shift, flip), torch.Generator().manual_seed(seed))
    assert result.shape == original.shape
    for before, after in zip(original, result, strict=True):
        candidates = []
        for dy in range(-shift, shift + 1):
            for dx in range(-shift, shift + 1):
                moved = torch.zeros_like(before)
                for y in range(height):
                    for x in range(width):
                        if 0 <= y + dy < height and 0 <= x + dx < width:
                            moved[:, y, x] = before[:, y + dy, x + dx]
                candidates += [moved, moved.flip(2)] if flip else [moved]
        assert any(torch.equal(after, candidate) for candidate in candidates)


def test_augmentation_uses_every_shift_and_both_directions() -> None:
    picture = torch.arange(1, 10).reshape(1, 1, 3, 3).repeat(400, 1, 1, 1)
    found = augment(picture, Augmentation(1, True), torch.Generator().manual_seed(0))
    assert len({tuple(image.flatten().tolist()) for image in found}) == 18


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7), st.floats(0, 1), st.integers(0, 99))
def test_cutmix_pastes_rectangles_of_the_partner(n: int, height: int, width: int, share: float, seed: int) -> None:
    original = torch.arange(n * 2 * height * width).reshape(n, 2, height, width)
    mixed, partners, areas = cut_mix(original, share, torch.Generator().manual_seed(seed))
    assert sorted(partners.tolist()) == list(range(n))
    for image, before, partner, area in zip(mixed, original, original[partners], areas.tolist(), strict=True):
        pasted = image[0] == partner[0]
        assert torch.equal(image, torch.where(pasted, partner, before))
        if not torch.equal(before, partner):
            assert area == pytest.approx(float(pasted.float().mean()))
            rows, columns = pasted.any(1), pasted.any(0)
            assert torch.equal(pasted, rows[:, None] & columns[None, :])
            assert all(int(line.diff().abs().sum()) <= 2 for line in (rows.int(), columns.int()))


def test_cutmix_reaches_the_share_of_images_that_is_asked_for() -> None:
    pictures = torch.zeros(4000, 1, 16, 16, dtype=torch.uint8)
    areas = cut_mix(pictures, 0.25, torch.Generator().manual_seed(0))[2]
    assert 0.22 < float((areas > 0).float().mean()) < 0.26  # the smallest rectangles are below a pixel
    assert float(areas.max()) > 0.8
    assert not cut_mix(pictures, 0.0, torch.Generator().manual_seed(0))[2].any()


@pytest.mark.parametrize("change", [{"shift": 1}, {"flip": True}, {"cutmix": 0.5}])
def test_only_images_are_augmented(change: dict[str, Any]) -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(20, 4))
    sequences, steps = Split(torch.rand(16, 2, 10), torch.arange(16) % 4), Budget(steps=2)
    assert fit(module, sequences, Recipe(batch=16), steps).progress.steps == 2
    with pytest.raises(EmomcError, match=r"shape \(16, 2, 10\).*shift, flip and cutmix need images of 4 axes"):
        fit(module, sequences, Recipe(batch=16, augmentation=Augmentation(**change)), steps)
