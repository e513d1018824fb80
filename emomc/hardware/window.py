"""How many input words the array asks for along one image axis, padding left out and overlaps counted exactly.

Along an axis, output index o and tap f read input ``stride * o + dilation * f - padding``. Both loops may be unrolled,
and a PE's registers may hold all its taps. The words that a step must load factorise over the two axes, so that
sums over a whole loop nest need only sums over each axis, made here for every way in which the axis' loops can move
from one step to the next:

    SAME     the loop is outside the one that moves: every value, unchanged
    MOVED    the loop itself moves on by one: every value but the first
    WRAPPED  the loop is inside the one that moves: from its last value back to its first
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SAME, MOVED, WRAPPED = 0, 1, 2


@dataclass(frozen=True)
class Axis:
    """One image axis of a layer on the array: extents, unrolled widths, and whether registers hold all taps."""

    outputs: int
    taps: int
    inputs: int
    stride: int
    padding: int
    dilation: int
    output_width: int
    tap_width: int
    taps_held: bool


@dataclass(frozen=True, eq=False)
class _Loop:
    """A loop along the axis: ``index[step, pe, held]`` in units of the axis, -1 where the PE idles."""

    index: NDArray[np.int64]

    def moves(self, pattern: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices wanted at each step of a pattern, and those that each PE wanted in the step before."""
        if pattern == SAME:
            return self.index, self.index
        if pattern == MOVED:
            return self.index[1:], self.index[:-1]
        return self.index[:1], self.index[-1:]


def _loop(extent: int, width: int, all_held: bool) -> _Loop:
    steps = -(-extent // width)
    index = np.arange(steps)[:, None] * width + np.arange(width)
    index = np.where(index < extent, index, -1)
    return _Loop(index.T[None] if all_held else index[:, :, None])


def _addresses(axis: Axis, output: NDArray[np.int64], tap: NDArray[np.int64]) -> NDArray[np.int64]:
    """Input index for (output step, tap step, output PE, tap PE, held tap); -1 where idle or in the padding."""
    o = output[:, None, :, None, :]
    f = tap[None, :, None, :, :]
    address = axis.stride * o + axis.dilation * f - axis.padding
    return np.where((o >= 0) & (f >= 0) & (address >= 0) & (address < axis.inputs), address, -1)


def _count(axis: Axis, now: NDArray[np.int64], before: NDArray[np.int64]) -> tuple[int, int, int, int]:
    steps = now.shape[0] * now.shape[1]
    flat = now.reshape(steps, -1)
    wanted = flat >= 0
    holds = (now[..., :, None] == before[..., None, :]).any(-1).reshape(steps, -1) & wanted
    cell = flat + axis.inputs * np.arange(steps)[:, None]
    wanting = np.bincount(cell[wanted], minlength=steps * axis.inputs)
    holding = np.bincount(cell[holds], minlength=steps * axis.inputs)
    kept = np.count_nonzero((wanting > 0) & (wanting == holding))
    return int(np.count_nonzero(wanting)), int(kept), int(wanted.sum()), int(holds.sum())


@lru_cache(maxsize=4096)
def window_sums(axis: Axis) -> NDArray[np.int64]:
    """Sums over all steps of an axis, (4, 3, 3): what is counted, how the output loop moves, how the tap loop moves.

    Counted are

    * distinct input words that the step's PEs want;
    * those of them that every PE that wants them already holds;
    * words that the step's PEs want, counted for each PE;
    * those of them that the PE already holds.
    """
    outputs = _loop(axis.outputs, axis.output_width, False)
    taps = _loop(axis.taps, axis.tap_width, axis.taps_held)
    sums = np.zeros((4, 3, 3), np.int64)
    for o_pattern in range(3):
        for f_pattern in range(3):
            (o_now, o_before), (f_now, f_before) = outputs.moves(o_pattern), taps.moves(f_pattern)
            if len(o_now) and len(f_now):
                now, before = _addresses(axis, o_now, f_now), _addresses(axis, o_before, f_before)
                sums[:, o_pattern, f_pattern] = _count(axis, now, before)
    sums.flags.writeable = False  # shared by all callers
    return sums
