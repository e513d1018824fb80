"""Splits: drawing without replacement class by class, normalisation of bytes, fingerprints, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from emomc.accuracy.splits import Normalisation, Split, Splits, SplitSizes, draw_splits, stratified_order
from emomc.errors import EmomcError

SIZES = SplitSizes(calibration=20, selection=50, validation=30)
NORMALISATION = Normalisation(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))


def numbered(n: int, first: int = 0) -> NDArray[np.float32]:
    """Images that carry their own number, so that a drawn one can be traced."""
    return np.arange(first, first + n, dtype=np.float32).reshape(n, 1, 1, 1).repeat(4, axis=2)


def draw(n: int = 200, sizes: SplitSizes = SIZES, seed: int = 0, classes: int = 10) -> Splits:
    targets = np.arange(n) % classes
    return draw_splits(numbered(n), targets, numbered(40, n), np.arange(40) % classes, sizes, seed)


def numbers(split: Split) -> list[int]:
    return split.inputs[:, 0, 0, 0].int().tolist()


def test_drawn_splits_have_their_sizes_their_labels_and_no_image_twice() -> None:
    splits = draw()
    assert [len(split) for split in splits.named().values()] == [20, 50, 30, 40]
    drawn = [number for split in splits.named().values() for number in numbers(split)]
    assert len(set(drawn)) == len(drawn) == 140
    assert numbers(splits.test) == list(range(200, 240))
    for split in (splits.calibration, splits.selection, splits.validation):
        assert split.targets.tolist() == [number % 10 for number in numbers(split)]


def test_equal_classes_are_drawn_equally_often() -> None:
    splits = draw()
    for split, each in ((splits.calibration, 2), (splits.selection, 5), (splits.validation, 3)):
        assert torch.bincount(split.targets).tolist() == [each] * 10


def test_same_seed_same_splits_other_seed_others() -> None:
    prints = [[split.fingerprint for split in draw(seed=seed).named().values()] for seed in (0, 0, 1)]
    assert prints[0] == prints[1]
    assert [a != b for a, b in zip(prints[0], prints[2], strict=True)] == [True, True, True, False]


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    seed=st.integers(0, 2**32),
    cut=st.floats(0, 1),
)
def test_every_prefix_holds_the_classes_in_proportion(counts: list[int], seed: int, cut: float) -> None:
    targets = np.repeat(np.arange(len(counts)), counts)
    order = stratified_order(targets, seed)
    assert sorted(order.tolist()) == list(range(len(targets)))
    n = len(targets)
    length = round(cut * n)
    held = np.bincount(targets[order[:length]], minlength=len(counts))
    # Each class alone is within 1/2 of its share at a common quantile; that quantile is within C / 2n of length / n.
    bound = 1 + 0.5 * len(counts) * np.array(counts) / n
    assert np.all(np.abs(held - length * np.array(counts) / n) <= bound)


def test_order_inside_a_class_is_random() -> None:
    targets = np.zeros(500, dtype=np.int64)
    first, second = stratified_order(targets, 0), stratified_order(targets, 1)
    assert np.sum(first == np.arange(500)) < 20
    assert np.sum(first == second) < 20


def test_bytes_are_normalised_channel_by_channel() -> None:
    pixels = torch.tensor([[0, 51], [255, 102], [204, 0]], dtype=torch.uint8).reshape(1, 3, 1, 2)
    split = Split(pixels, torch.tensor([1]), NORMALISATION)
    expected = [[-1.0, -0.6], [3.0, 0.6], [0.4, 0.0]]
    assert split.inputs.dtype == torch.float32
    torch.testing.assert_close(split.inputs[0, :, 0], torch.tensor(expected))


def test_bytes_stay_bytes_when_drawn() -> None:
    images = np.random.default_rng(0).integers(0, 256, (120, 3, 4, 4), dtype=np.uint8)
    labels = np.arange(120) % 10
    splits = draw_splits(images, labels, images[:20], labels[:20], SIZES, 0, NORMALISATION)
    assert all(split.stored.dtype == torch.uint8 for split in splits.named().values())


@pytest.mark.parametrize("size", [1, 7, 20, 50])
def test_batches_are_the_inputs_in_order(size: int) -> None:
    pixels = torch.arange(20 * 3 * 2 * 2, dtype=torch.uint8).reshape(20, 3, 2, 2)
    split = Split(pixels, torch.arange(20), NORMALISATION)
    batches = list(split.batches(size))
    assert {len(targets) for _, targets in batches[:-1]} <= {size}
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), split.inputs)
    assert torch.equal(torch.cat([targets for _, targets in batches]), split.targets)


def test_fingerprint_sees_pixels_labels_shape_and_normalisation() -> None:
    pixels = torch.arange(48, dtype=torch.uint8).reshape(4, 3, 2, 2)
    labels = torch.tensor([0, 1, 2, 3])
    other_pixel, other_label = pixels.clone(), labels.clone()
    other_pixel[3, 2, 1, 1] += 1
    other_label[0] = 1
    variants = [
        Split(pixels, labels, NORMALISATION),
        Split(other_pixel, labels, NORMALISATION),
        Split(pixels, other_label, NORMALISATION),
        Split(pixels.reshape(4, 3, 4, 1), labels, NORMALISATION),
        Split(pixels, labels, Normalisation((0.5, 0.25, 0.1), (0.5, 0.25, 2.0))),
        Split(NORMALISATION(pixels), labels),
    ]
    assert len({split.fingerprint for split in variants}) == len(variants)
    assert Split(pixels.clone(), labels.clone(), NORMALISATION).fingerprint == variants[0].fingerprint


def test_fingerprint_does_not_depend_on_memory_layout() -> None:
    inputs = torch.randn(4, 3, 5, 5)
    transposed = inputs.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    labels = torch.zeros(4, dtype=torch.int64)
    assert Split(inputs, labels).fingerprint == Split(transposed, labels).fingerprint


def test_shared_images_are_found() -> None:
    splits = draw()
    splits.check_disjoint()
    leaking = Splits(splits.calibration, splits.selection, splits.validation, test=splits.selection)
    with pytest.raises(EmomcError, match="selection and test splits share 50 of 50"):
        leaking.check_disjoint()


def test_a_few_duplicates_are_tolerated() -> None:
    inputs = torch.from_numpy(numbered(600))
    labels = torch.zeros(600, dtype=torch.int64)
    first, second, third = Split(inputs[:200], labels[:200]), Split(inputs[199:400], labels[199:400]), inputs[400:]
    last = Split(third[:100], labels[:100])
    splits = Splits(first, second, last, Split(third[100:], labels[:100]))
    splits.check_disjoint()
    with pytest.raises(EmomcError, match="share 1 of 200"):
        splits.check_disjoint(tolerance=0)


LABELS = torch.zeros(4, dtype=torch.int64)
IMAGES = torch.zeros(4, 1, 2, 2)


@pytest.mark.parametrize(
    ("inputs", "targets", "normalisation", "message"),
    [
        (IMAGES[:0], LABELS[:0], None, "at least one image"),
        (IMAGES, LABELS[:3], None, "4 inputs but 3 targets"),
        (IMAGES.double(), LABELS, None, "torch.float64; expected torch.float32"),
        (IMAGES.byte(), LABELS, None, "torch.uint8"),
        (IMAGES, LABELS, Normalisation((0.0,), (1.0,)), "torch.float32"),
        (IMAGES.byte(), LABELS, NORMALISATION, "does not fit inputs of 1 channels"),
        (IMAGES.byte(), LABELS, Normalisation((0.0,), (0.0,)), "positive standard deviation"),
        (IMAGES.index_fill(0, torch.tensor(2), torch.nan), LABELS, None, "NaN or infinity, first in image 2"),
        (IMAGES, LABELS - 1, None, "label is -1"),
        (IMAGES, LABELS.double(), None, "targets are torch.float64"),
        (IMAGES, LABELS / torch.tensor([1.0, 1.0, 0.0, 1.0]), None, "targets hold NaN or infinity"),
        (IMAGES, LABELS.reshape(4, 1), None, r"shape \(4, 1\)"),
    ],
)
def test_a_split_of_unsound_arrays_is_refused(
    inputs: torch.Tensor, targets: torch.Tensor, normalisation: Normalisation | None, message: str
) -> None:
    with pytest.raises(EmomcError, match=message):
        Split(inputs, targets, normalisation)


def test_arrays_lists_and_data_sets_are_refused_with_what_to_make_of_them() -> None:
    images, labels = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(EmomcError, match=r"inputs are a ndarray; expected a tensor .* torch\.as_tensor"):
        Split(images.numpy(), labels)  # type: ignore[arg-type]
    with pytest.raises(EmomcError, match="targets are a list; expected a tensor"):
        Split(images, labels.tolist())
    with pytest.raises(EmomcError, match=r"test is a TensorDataset; expected an emomc\.Split"):
        Splits(*[Split(images, labels)] * 3, torch.utils.data.TensorDataset(images, labels))  # type: ignore[arg-type]
    with pytest.raises(EmomcError, match=r"class for each pixel, with \.float\(\)"):
        Split(images, torch.zeros(2, 4, 4, dtype=torch.int64))


def test_splits_of_different_shapes_are_refused() -> None:
    small, large = Split(IMAGES, LABELS), Split(torch.zeros(4, 1, 3, 3), LABELS)
    with pytest.raises(EmomcError, match="different shapes"):
        Splits(small, small, small, large)


def test_more_images_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(EmomcError, match=r"100 images are wanted.*training set has 99"):
        draw(n=99)
    assert sum(len(split) for split in draw(n=100).named().values()) == 140


def test_empty_splits_cannot_be_drawn() -> None:
    with pytest.raises(EmomcError, match="at least one image"):
        draw(sizes=SplitSizes(10, 0, 10))


def test_test_labels_unknown_to_training_are_refused() -> None:
    images = numbered(200)
    with pytest.raises(EmomcError, match=r"\[10\] do not occur in the training set"):
        draw_splits(images, np.arange(200) % 10, images, np.arange(200) % 10 + 1, SIZES, 0)


def test_labels_that_are_not_integers_are_refused() -> None:
    images = numbered(200)
    with pytest.raises(EmomcError, match="float64; expected integers"):
        draw_splits(images, np.zeros(200), images, np.zeros(200), SIZES, 0)  # type: ignore[arg-type]
