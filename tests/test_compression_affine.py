"""Affine grids for weights, and symmetric ones per tensor: nearest values, best clipping, never worse by scope."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emomc.compression import quantize_affine, quantize_largest, quantize_uniform

BITS = st.integers(2, 8)


def weights(seed: int, channels: int = 6) -> NDArray[np.float32]:
    """Channels of different spread and offset, a few zeros, one channel without negative weights."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(rng.normal(0, 0.3, (channels, 1)), rng.uniform(0.1, 2, (channels, 1)), (channels, 40))
    rows[0] = np.abs(rows[0])
    rows[:, :5] = 0
    return rows.astype(np.float32).reshape(channels, 4, 10)


def squared(weight: NDArray[np.float32], result: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.square(result - weight, dtype=np.float64).reshape(len(weight), -1).sum(axis=1)


@settings(max_examples=40)
@given(st.integers(0, 1000), BITS, st.booleans())
def test_every_weight_takes_the_nearest_value_of_its_grid_and_zero_stays_zero(
    seed: int, bits: int, per_channel: bool
) -> None:
    weight = weights(seed)
    tensor = quantize_affine(weight, bits, per_channel)
    assert tensor.levels.min() >= 0 and tensor.levels.max() < 2**bits and tensor.scale.dtype == np.float16
    assert len(tensor.scale) == len(tensor.zero_point) == (len(weight) if per_channel else 1)
    result, levels = tensor.dequantize(), np.arange(2**bits)
    for channel in range(len(weight)):
        at = channel if per_channel else 0
        grid = (levels - float(tensor.zero_point[at])) * float(tensor.scale[at])
        nearest = np.abs(weight[channel][..., None] - grid).min(axis=-1)
        assert np.abs(result[channel] - weight[channel]) == pytest.approx(nearest, abs=1e-5)
    assert not result[weight == 0].any()


@pytest.mark.parametrize("bits", [2, 3])
def test_the_grid_is_nearly_the_best_of_a_dense_search(bits: int) -> None:
    weight = weights(7)
    found = squared(weight, quantize_affine(weight, bits).dequantize())
    for channel, error in enumerate(found):
        row = weight[channel].ravel()
        top = 2**bits - 1
        span = row.max() - row.min()
        best = min(
            np.square(np.clip(np.rint(row / scale), -zero, top - zero) * scale - row).sum()
            for scale in np.linspace(0.1, 1.2, 111) * span / top
            for zero in range(top + 1)
        )
        assert error <= 1.2 * best


@given(st.integers(0, 1000), BITS)
def test_more_levels_and_more_grids_lose_less(seed: int, bits: int) -> None:
    """A grid per channel against one for all, a level more against the symmetric grid, clipping against none."""
    weight = weights(seed)
    affine, shared = quantize_affine(weight, bits), quantize_affine(weight, bits, per_channel=False)
    symmetric, whole = quantize_uniform(weight, bits), quantize_uniform(weight, bits, per_channel=False)
    total = {
        name: squared(weight, tensor.dequantize()).sum()
        for name, tensor in {"affine": affine, "shared": shared, "symmetric": symmetric, "whole": whole}.items()
    }
    assert total["affine"] <= total["shared"] * 1.1 and total["symmetric"] <= total["whole"] * 1.1
    assert total["whole"] <= squared(weight, quantize_largest(weight, bits).dequantize()).sum() * 1.0001
    assert squared(weight, affine.dequantize())[0] < squared(weight, symmetric.dequantize())[0]  # nothing negative
    assert whole.scale.shape == (1,) and not symmetric.dequantize()[weight == 0].any()


@pytest.mark.parametrize("value", [0.0, 0.5, -0.5])
def test_constant_weights_are_kept(value: float) -> None:
    weight = np.full((2, 3, 3), value, np.float32)
    for per_channel in (True, False):
        assert quantize_affine(weight, 3, per_channel).dequantize() == pytest.approx(weight, rel=1e-3)
