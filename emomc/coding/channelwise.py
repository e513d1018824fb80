"""Zeros and magnitudes that differ from channel to channel: every output and input channel leans by a level of its own.

Whether a value is zero is coded at odds that are the product of its two channels' factors, and a value that is not zero
under the table of all, tilted towards large or small magnitudes by the product of two more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emomc.coding import leaning, models
from emomc.coding.alphabet import histogram, indices
from emomc.coding.ans import check_finished, new_coder, pop, push
from emomc.coding.dense import Decoded, Integers
from emomc.coding.entropy import decode_entropy, encode_entropy, plan_model, read_model, written
from emomc.coding.wire import BLOCK, Reader, damaged, varint, zigzag

_ZERO_STEPS = (2, 4, 8, 16, 32)
_TILT_STEPS = (8, 16, 32, 64)
_MOST_TILTED = 1 << 10  # symbols of a table that is tilted
_FARTHEST = 1 << 12  # offset of the odds, far beyond what 24 bits can tell

Levels = NDArray[np.int64]


@dataclass(frozen=True)
class _Leans:
    """Step, offset and levels of the zeros; step and levels of the tilt. A step of 0 stands for no levels."""

    zero_step: int
    zero_offset: int
    zeros: tuple[Levels, Levels]
    tilt_step: int
    tilts: tuple[Levels, Levels]


class Channelwise:
    """Zeros at rates, and values at tilts, of output and input channels.

    Values come in the shape of the weight, outputs and inputs first; flat ones are outputs of one value.
    """

    name = "channelwise"
    tag = 8

    def encode(self, values: Integers) -> bytes:
        cube = _cube(values)
        return _encode(cube, _fit(cube)[0])

    def decode(self, data: bytes, count: int) -> Decoded:
        reader = Reader(data)
        channels, window = reader.varint("channels", max(count, 1)), reader.varint("window", max(count, 1))
        row = channels * window
        if count and (row == 0 or count % row or row > max(BLOCK, count // 4)):
            raise damaged("channels and window", f"a divisor of {count}, at most {max(BLOCK, count // 4)}", str(row))
        leans = _read_leans(reader, count // max(row, 1), channels)
        symbols, frequencies, coder = read_model(reader, 0)
        if leans.tilt_step and symbols.size > _MOST_TILTED:
            raise damaged("symbols of a tilted table", f"at most {_MOST_TILTED}", str(symbols.size))
        narrow, cube = symbols.astype(np.int16), np.zeros((count // max(row, 1), channels, window), np.int16)
        for start, block in _blocks(cube):
            left = np.empty(block.shape, bool).reshape(-1, window)
            for places, odds in _zero_classes(leans, start, block):
                left[places] = pop(coder, odds, places.size * window).reshape(-1, window)
            kept = left.reshape(block.shape)
            coded = np.empty(np.count_nonzero(kept), np.int16)
            for places, tilted in _tilt_classes(leans, start, kept, symbols, frequencies):
                coded[places] = narrow[pop(coder, tilted, places.size)]
            block[kept] = coded
        check_finished(coder, count)
        return cube.ravel()

    def bits(self, values: Integers) -> int:
        return 8 * len(self.encode(values))

    def attempt(self, values: Integers) -> bytes | None:
        """The coded values, or nothing where the levels would take more than they save."""
        cube = _cube(values)
        leans, gain = _fit(cube)
        return _encode(cube, leans) if gain > 0 else None


def _cube(values: Integers) -> Integers:
    """Outputs, input channels, window."""
    if values.ndim > 1:
        cube = values.reshape(*values.shape[:2], -1)
        if cube[0].size <= max(BLOCK, values.size // 4):
            return cube
    return values.reshape(-1, 1, 1)


def _encode(cube: Integers, leans: _Leans) -> bytes:
    _, channels, window = cube.shape
    plan, coder = plan_model(cube[cube != 0]), new_coder()
    for start, block in reversed(list(_blocks(cube))):  # the coder is a stack: what comes first is pushed last
        kept = block != 0
        index = indices(block[kept], plan.symbols)
        for places, tilted in reversed(list(_tilt_classes(leans, start, kept, plan.symbols, plan.frequencies))):
            push(coder, index[places], tilted)
        left = kept.reshape(-1, window)
        for places, odds in reversed(list(_zero_classes(leans, start, block))):
            push(coder, left[places].ravel().astype(np.int32), odds)
    levels = np.concatenate([*leans.zeros, *leans.tilts])
    front = varint(channels) + varint(window) + bytes([leans.zero_step]) + zigzag(leans.zero_offset)
    front += bytes([leans.tilt_step])
    if levels.size:
        coded = encode_entropy(levels)
        front += varint(len(coded)) + coded
    return front + written(plan, coder)


def _read_leans(reader: Reader, rows: int, channels: int) -> _Leans:
    zero_step = reader.byte("step of the zeros")
    offset = reader.zigzag("offset of the zeros", _FARTHEST)
    tilt_step = reader.byte("step of the tilts")
    sizes = [size for step in (zero_step, tilt_step) for size in ((rows, channels) if step else (0, 0))]
    levels = np.zeros(0, np.int64)
    if any(sizes):
        length = reader.varint("length of the levels", reader.left)
        levels = decode_entropy(reader.take(length, "levels"), sum(sizes)).astype(np.int64)
        if int(np.abs(levels).max(initial=0)) > leaning.MOST:
            raise damaged("levels", f"magnitudes of at most {leaning.MOST}", str(np.abs(levels).max()))
    parts = np.split(levels, np.cumsum(sizes)[:-1])
    return _Leans(zero_step, offset, (parts[0], parts[1]), tilt_step, (parts[2], parts[3]))


def _blocks(cube: Integers) -> Iterator[tuple[int, Integers]]:
    """Whole outputs, about as many values as `BLOCK`, with the number of the first."""
    size = max(1, BLOCK // max(cube[0].size if len(cube) else 1, 1))
    for start in range(0, len(cube), size):
        yield start, cube[start : start + size]


def _classes(levels: NDArray[np.int16]) -> Iterator[tuple[NDArray[np.intp], int]]:
    """Positions of each level, levels ascending."""
    order = np.argsort(levels, kind="stable")
    ends = np.flatnonzero(np.diff(levels[order])) + 1
    for places in np.split(order, ends) if order.size else []:
        yield places, int(levels[places[0]])


def _zero_classes(leans: _Leans, start: int, block: Integers) -> Iterator[tuple[NDArray[np.intp], models.Frequencies]]:
    """Windows that share their odds of zero, by position in the block, and the odds."""
    rows, channels, _ = block.shape
    levels = np.zeros((rows, channels), np.int16)
    if leans.zero_step:
        levels += (leans.zeros[0][start : start + rows, None] + leans.zeros[1]).astype(np.int16)
    for places, level in _classes(levels.ravel()):
        yield places, models.odds_frequencies(level * leans.zero_step + leans.zero_offset)


def _tilt_classes(
    leans: _Leans, start: int, kept: NDArray[np.bool_], symbols: Levels, frequencies: models.Frequencies
) -> Iterator[tuple[NDArray[np.intp], models.Frequencies]]:
    """Values other than zero that share a table, by position among those of the block, and the table."""
    if not leans.tilt_step:
        yield np.arange(np.count_nonzero(kept)), frequencies
        return
    rows = kept.shape[0]
    pairs = (leans.tilts[0][start : start + rows, None] + leans.tilts[1]).astype(np.int16)
    sizes = np.abs(symbols)
    largest = max(int(sizes.max()), 1)
    for places, level in _classes(np.broadcast_to(pairs[:, :, None], kept.shape)[kept]):
        yield places, models.tilted_frequencies(frequencies, 16 * leans.tilt_step * level * sizes // largest)


def _fit(cube: Integers) -> tuple[_Leans, float]:
    """The leans that pay, and the bits that they are expected to save."""
    rows, channels, window = cube.shape
    none = np.zeros(0, np.int64)
    kept = np.count_nonzero(cube, axis=2).astype(np.float64)
    zeros = cube.size - int(kept.sum())
    share = zeros / max(cube.size, 1)
    offset = _sixteenths(share) if cube.size else 0
    if cube.size < 4 * (rows + channels) or kept.sum() == 0:
        return _Leans(0, offset, (none, none), 0, (none, none)), 0.0
    gain, zero_step, leaning_zeros = 0.0, 0, (none, none)
    if 0 < share:
        counts = np.full_like(kept, window)
        middle = float(np.log(share / (1 - share)))
        lean = leaning.fit_lean(window - kept, counts, leaning.zero_or_not(), middle, _ZERO_STEPS)
        if lean.gain > 0:
            gain, zero_step, offset, leaning_zeros = lean.gain, lean.step, lean.offset, (lean.outputs, lean.inputs)
    tilt_step, tilts = 0, (none, none)
    values, occur = histogram(np.abs(cube[cube != 0]))
    if values[-1] > values[0] and 2 * values[-1] < _MOST_TILTED:
        sums = np.abs(cube).sum(2, dtype=np.float64) / values[-1]
        statistic = leaning.distributed(values / values[-1], occur)
        lean = leaning.fit_lean(sums, kept, statistic, 0.0, _TILT_STEPS)
        if lean.gain > 0:
            gain, tilt_step, tilts = gain + lean.gain, lean.step, (lean.outputs, lean.inputs)
    return _Leans(zero_step, offset, leaning_zeros, tilt_step, tilts), gain


def _sixteenths(share: float) -> int:
    """Of octaves: the log of the odds of a share, within what 24 bits can tell."""
    odds = max(share, 2.0**-24) / max(1 - share, 2.0**-24)
    return round(float(np.log2(odds)) * 16)
