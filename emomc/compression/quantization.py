"""Uniform quantization of a weight tensor: symmetric, which files hold, and affine, which they do not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emomc.coding.tensor import CodedTensor

Floats = NDArray[np.float32]

# Clipping below a quarter of the largest weight never won on trained layers; finer steps change the distortion by
# less than 0.1 %.
_CLIPPING = np.linspace(0.25, 1.0, 31)
_SMALLEST_SCALE, _LARGEST_SCALE = np.finfo(np.float16).smallest_subnormal, np.finfo(np.float16).max
_SEARCHED_WIDTHS = 9  # at 10 bits and more, clipping only loses


def largest_level(bit_width: int) -> int:
    """Largest integer of the symmetric grid: ``2**(b-1) - 1``."""
    return int(2 ** (bit_width - 1) - 1)


def storable_scale(scale: NDArray[np.floating]) -> NDArray[np.float16]:
    """Scales as they are stored: rounded up, so that a grid still reaches the largest weight; never zero or infinite.

    At 16 bits the scales of ordinary weights are subnormal and far apart; rounded to the nearest, they would clip the
    largest weights by percents.
    """
    inside = np.clip(scale, _SMALLEST_SCALE, _LARGEST_SCALE)
    stored = inside.astype(np.float16)
    return np.asarray(np.where(stored < inside, np.nextafter(stored, _LARGEST_SCALE), stored))


def to_integers(levels: NDArray[np.floating], bit_width: int) -> NDArray[np.signedinteger]:
    """Whole levels in the smallest integer type that holds the grid."""
    return levels.astype(np.int8) if bit_width <= 8 else levels.astype(np.int16)


def to_grid(rows: Floats, scale: NDArray[np.float16], bit_width: int) -> Floats:
    """Nearest integer levels, as floats, of rows ``(channels, m)`` for scales ``(channels,)`` or ``(1,)``."""
    level = largest_level(bit_width)
    return np.asarray(np.clip(np.rint(rows / scale.astype(np.float32)[:, None]), -level, level))


def quantize_uniform(weight: Floats, bit_width: int, per_channel: bool = True) -> CodedTensor:
    """Round to a symmetric grid, clipped where that lowers the squared error.

    Zeros stay zero.

    Args:
        weight: output channels first.
        bit_width: 2 to 16.
        per_channel: one scale per output channel rather than one for the tensor.
    """
    rows = weight.reshape(weight.shape[0] if per_channel else 1, -1)
    largest = np.abs(rows).max(axis=1) / largest_level(bit_width)
    best_scale = storable_scale(largest)
    if bit_width <= _SEARCHED_WIDTHS:
        best_error = np.full(len(rows), np.inf)
        for fraction in _CLIPPING:
            scale = storable_scale(largest * fraction)
            residual = to_grid(rows, scale, bit_width) * scale.astype(np.float32)[:, None] - rows
            error = np.einsum("ij,ij->i", residual, residual)
            best_scale = np.where(error < best_error, scale, best_scale)
            best_error = np.minimum(error, best_error)
    levels = to_grid(rows, best_scale, bit_width).reshape(weight.shape)
    return CodedTensor(to_integers(levels, bit_width), best_scale, bit_width)


def quantize_largest(weight: Floats, bit_width: int) -> CodedTensor:
    """Round to a symmetric grid with one scale per tensor, set by the largest weight.

    The linear quantization of Wang et al. 2021 (released code): step = max|w| / (2**(b-1) - 1).
    """
    scale = storable_scale(np.array([np.abs(weight).max() / largest_level(bit_width)]))
    levels = to_grid(weight.reshape(1, -1), scale, bit_width).reshape(weight.shape)
    return CodedTensor(to_integers(levels, bit_width), scale, bit_width)


@dataclass(frozen=True, eq=False)
class AffineTensor:
    """Weights on a grid that need not be symmetric: ``scale * (level - zero_point)``.

    Attributes:
        levels: 0 to ``2**bit_width - 1``, in the shape of the weight.
        scale: one per output channel, or one, float16.
        zero_point: the level of zero, as many as scales.
        bit_width: 2 to 8.
    """

    levels: NDArray[np.uint8]
    scale: NDArray[np.float16]
    zero_point: NDArray[np.uint8]
    bit_width: int

    def dequantize(self) -> Floats:
        """The weights, float32."""
        rows = self.levels.reshape(len(self.scale), -1).astype(np.float32) - self.zero_point[:, None]
        return np.asarray((rows * self.scale.astype(np.float32)[:, None]).reshape(self.levels.shape))


def quantize_affine(weight: Floats, bit_width: int, per_channel: bool = True) -> AffineTensor:
    """Round to a grid between the smallest and the largest weight, clipped where that lowers the squared error.

    Zero is on the grid, so that pruned weights stay zero. No method of the bank uses it and no file holds it:
    docs/activations.md compares it with the symmetric grid of `quantize_uniform`.

    Args:
        weight: output channels first.
        bit_width: 2 to 8.
        per_channel: one grid per output channel rather than one for the tensor.
    """
    rows = weight.reshape(weight.shape[0] if per_channel else 1, -1)
    low, high = np.minimum(rows.min(axis=1), 0), np.maximum(rows.max(axis=1), 0)
    top = 2**bit_width - 1
    best_error, best_scale, best_zero = np.full(len(rows), np.inf), storable_scale(high - low), np.zeros(len(rows))
    for fraction in _CLIPPING:
        scale = storable_scale((high - low) * fraction / top)
        step = scale.astype(np.float32)[:, None]
        for rounded in (np.floor, np.ceil):  # a zero point between two levels is best moved to either
            zero = np.clip(rounded(-low * fraction / step[:, 0]), 0, top)
            residual = np.clip(np.rint(rows / step), -zero[:, None], top - zero[:, None]) * step - rows
            error = np.einsum("ij,ij->i", residual, residual)
            better = error < best_error
            best_scale, best_zero = np.where(better, scale, best_scale), np.where(better, zero, best_zero)
            best_error = np.minimum(error, best_error)
    levels = np.clip(np.rint(rows / best_scale.astype(np.float32)[:, None]) + best_zero[:, None], 0, top)
    return AffineTensor(
        levels.astype(np.uint8).reshape(weight.shape), best_scale, best_zero.astype(np.uint8), bit_width
    )
