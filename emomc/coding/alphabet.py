"""The distinct values of a tensor: counting them, storing them, and turning values into indices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emomc.coding.wire import BLOCK, Reader, damaged, pack_bits, packed_length, varint, zigzag

MAX_VALUE = 2**15 - 1  # largest magnitude of a coded integer (16 bits, symmetric)


def histogram(values: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every integer from the smallest to the largest of ``values`` and how often it occurs; ``([0], [0])`` if empty."""
    if values.size == 0:
        return np.zeros(1, np.int64), np.zeros(1, np.int64)
    low, high = int(values.min()), int(values.max())
    flat, counts = values.ravel(), np.zeros(high - low + 1, np.int64)
    for start in range(0, flat.size, BLOCK):
        counts += np.bincount(flat[start : start + BLOCK].astype(np.intp) - low, minlength=counts.size)
    return np.arange(low, high + 1, dtype=np.int64), counts


def indices(values: NDArray[np.integer], symbols: NDArray[np.int64]) -> NDArray[np.int32]:
    """Position of every value in the ascending ``symbols``, which must contain them all."""
    low = int(symbols[0])
    table = np.zeros(int(symbols[-1]) - low + 1, np.int32)
    table[symbols - low] = np.arange(symbols.size, dtype=np.int32)
    return table[values.astype(np.int32) - low]


def write_alphabet(symbols: NDArray[np.int64]) -> bytes:
    """Ascending distinct integers: the first, how many follow, and the packed gaps (0 bits each when contiguous)."""
    gaps = np.diff(symbols) - 1
    width = _gap_width(symbols)
    return zigzag(int(symbols[0])) + varint(symbols.size - 1) + bytes([width]) + pack_bits(gaps, width)


def alphabet_length(symbols: NDArray[np.int64]) -> int:
    """``len(write_alphabet(symbols))`` without writing it."""
    fixed = len(zigzag(int(symbols[0]))) + len(varint(symbols.size - 1)) + 1
    return fixed + packed_length(symbols.size - 1, _gap_width(symbols))


def read_alphabet(reader: Reader) -> NDArray[np.int64]:
    """Inverse of ``write_alphabet``.

    Raises:
        EmomcError: truncated, or values outside the 16-bit range.
    """
    first = reader.zigzag("first value", MAX_VALUE)
    following = reader.varint("number of values", 2 * MAX_VALUE)
    width = reader.byte("gap width", 16)
    gaps = reader.packed(following, width, "gaps between values").astype(np.int64) + 1
    symbols = np.concatenate([[first], first + np.cumsum(gaps)])
    if symbols[-1] > MAX_VALUE:
        raise damaged("largest value", f"at most {MAX_VALUE}", str(symbols[-1]))
    return symbols


def _gap_width(symbols: NDArray[np.int64]) -> int:
    return int(np.diff(symbols).max() - 1).bit_length() if symbols.size > 1 else 0
