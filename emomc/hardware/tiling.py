"""Words that cross the chip's border when a layer is cut into tiles that fit the shared buffer.

Tiles cut output channels (K), input channels (C) and the output image (OY, OX). Three loops run over them, in any
order: ``s`` over images and image tiles, ``m`` over tiles of K, ``n`` over tiles of C; groups are outermost. An
operand's tile stays in the buffer until another one is due. Tiles of the input are boxes cut to the map, so that
neighbours share a halo that is fetched for each. Partial sums that must make room are written off chip and read back.

Source: the access-volume model of tiled convolution as in SmartShuttle (DATE 2018) and SuperSlash (TCAD 2020), with
exact halos and ragged tiles; the project's tests compare it with tiles that are moved one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from emomc.hardware.accesses import splits
from emomc.network.layers import LoopBounds

Words = NDArray[np.int64]

ORDERS = tuple("".join(order) for order in permutations("smn"))
"""Orders of the loops over tiles, outermost first."""

SCHEMES = MappingProxyType({"smn": "output reuse", "mns": "weight reuse", "snm": "input reuse"})
"""The three orders that have a name: what stays in the buffer longest."""


@dataclass(frozen=True)
class Tile:
    """Extents of a full tile."""

    K: int
    C: int
    OY: int
    OX: int


@dataclass(frozen=True, eq=False)
class Tilings:
    """Ways to cut a layer, every array (m,): extents of a full tile."""

    K: Words
    C: Words
    OY: Words
    OX: Words

    def __getitem__(self, row: int) -> Tile:
        return Tile(int(self.K[row]), int(self.C[row]), int(self.OY[row]), int(self.OX[row]))

    @staticmethod
    def of(tiles: Sequence[Tile]) -> Tilings:
        """The given tilings as arrays."""
        return Tilings(*(np.array([getattr(tile, loop) for tile in tiles]) for loop in ("K", "C", "OY", "OX")))


@dataclass(frozen=True, eq=False)
class Transfers:
    """Words moved off chip by m tilings, every array (m,). Spilled partial sums are written and read back."""

    inputs: Words
    weights: Words
    spills: Words
    outputs: Words


@dataclass(frozen=True, eq=False)
class Footprints:
    """Words of the largest tile of each operand, every array (m,)."""

    inputs: Words
    weights: Words
    outputs: Words


def spans(call: LoopBounds, image: str, size: int) -> list[tuple[int, int, int]]:
    """Tiles of ``size`` outputs along an image axis: outputs, first input row (in padding if < 0), rows in the map."""
    side = "YX".index(image)
    outputs, taps = getattr(call, f"O{image}"), getattr(call, f"F{image}")
    inputs, stride, padding = getattr(call, f"I{image}"), call.stride[side], call.padding[side]
    reach = call.dilation[side] * (taps - 1)
    tiles = []
    for start in range(0, outputs, size):
        length = min(size, outputs - start)
        first = start * stride - padding
        last = first + (length - 1) * stride + reach
        tiles.append((length, first, max(0, min(last, inputs - 1) - max(first, 0) + 1)))
    return tiles


def _rows(call: LoopBounds, image: str, sizes: Words) -> tuple[Words, Words]:
    """For each tile size: input rows of all tiles together, and of the largest."""
    total, largest = np.zeros((2, int(sizes.max()) + 1), np.int64)
    for size in np.flatnonzero(np.bincount(sizes)).tolist():
        rows = [inside for _, _, inside in spans(call, image, size)]
        total[size], largest[size] = sum(rows), max(rows)
    return total[sizes], largest[sizes]


def all_tilings(call: LoopBounds) -> Tilings:
    """Every way to cut the four loops into even parts."""
    extents = (splits(getattr(call, loop), getattr(call, loop)) for loop in ("K", "C", "OY", "OX"))
    grid = np.meshgrid(*(np.array(sizes) for sizes in extents), indexing="ij")
    return Tilings(*(axis.ravel() for axis in grid))


def footprints(call: LoopBounds, tilings: Tilings) -> Footprints:
    """Words that each operand's largest tile takes in the buffer."""
    _, tall = _rows(call, "Y", tilings.OY)
    _, wide = _rows(call, "X", tilings.OX)
    return Footprints(
        tilings.C * tall * wide, tilings.K * tilings.C * call.FY * call.FX, tilings.K * tilings.OY * tilings.OX
    )


def transfers(call: LoopBounds, tilings: Tilings, order: str) -> Transfers:
    """Words moved off chip under an order of the loops over tiles, one of `ORDERS`."""
    trips = {
        "s": call.B * -(-call.OY // tilings.OY) * -(-call.OX // tilings.OX),
        "m": -(-call.K // tilings.K),
        "n": -(-call.C // tilings.C),
    }

    def fetches(missing: str) -> Words:
        """How often an operand comes that depends on all loops but one: again only if it changed in between."""
        inside = order[order.index(missing) + 1 :]
        changes = np.any([trips[loop] > 1 for loop in inside], axis=0) if inside else False
        return np.where(changes, trips[missing], 1)

    high, _ = _rows(call, "Y", tilings.OY)
    across, _ = _rows(call, "X", tilings.OX)
    return Transfers(
        call.G * call.B * call.C * high * across * fetches("m"),
        call.weights * fetches("s"),
        call.outputs * (fetches("n") - 1),
        np.full(len(tilings.K), call.outputs),
    )


def compulsory_words(call: LoopBounds) -> tuple[int, int, int]:
    """Words of inputs, weights and outputs that must cross the chip's border whatever the buffer."""
    touched = 1
    for image, side in (("Y", 0), ("X", 1)):
        outputs, taps = np.arange(getattr(call, f"O{image}")), np.arange(getattr(call, f"F{image}"))
        index = call.stride[side] * outputs[:, None] + call.dilation[side] * taps - call.padding[side]
        inside = (index >= 0) & (index < getattr(call, f"I{image}"))
        touched *= len(np.unique(index[inside]))
    return call.G * call.B * call.C * touched, call.weights, call.outputs


@dataclass(frozen=True)
class Buffer:
    """The shared buffer: bits, bits of a word of each feature map, and whether two tiles of each operand must fit."""

    bits: int
    activation_bits: int
    psum_bits: int
    double_buffered: bool

    @property
    def tile_bits(self) -> int:
        """Bits that one set of tiles may take."""
        return self.bits // 2 if self.double_buffered else self.bits


def least_buffer_bits(call: LoopBounds, buffer: Buffer, weight_bits: int) -> int:
    """Bits that a buffer needs for the smallest tile: one output, and the inputs and weights of one channel for it."""
    held = footprints(call, Tilings.of([Tile(1, 1, 1, 1)]))
    maps = int(held.inputs[0]) * buffer.activation_bits + int(held.outputs[0]) * buffer.psum_bits
    return (maps + int(held.weights[0]) * weight_bits) * (2 if buffer.double_buffered else 1)


@dataclass(frozen=True)
class Schedule:
    """A tiling, the order of the loops over its tiles, and what they move off chip, in words.

    ``map_bits`` and ``weight_words`` are what the tiles of the maps and of the weights take in the buffer.
    """

    tile: Tile
    order: str
    inputs: int
    weights: int
    spills: int
    outputs: int
    map_bits: int
    weight_words: int

    @property
    def scheme(self) -> str:
        """The order's name in the literature, or the order itself where it has none."""
        return SCHEMES.get(self.order, self.order)

    def fits(self, buffer: Buffer, weight_bits: int) -> bool:
        """Whether the tiles fit when a weight takes so many bits."""
        return self.map_bits + self.weight_words * weight_bits <= buffer.tile_bits


@lru_cache(maxsize=4096)
def best_schedules(call: LoopBounds, buffer: Buffer, weight_widths: tuple[int, ...]) -> tuple[Schedule, ...]:
    """The schedules of least off-chip bits for each of the weight widths, whatever a coded weight takes off chip.

    Every even cut of the four loops and every order is tried. Traffic is a line in the bits of a coded weight, so that
    the lower hull of (map bits, weight words) holds the best for all of them; of equals, that with the fewest tiles.
    Empty where not even single words fit.
    """
    tilings = all_tilings(call)
    held = footprints(call, tilings)
    moved = [transfers(call, tilings, order) for order in ORDERS]
    maps = np.concatenate([m.inputs * buffer.activation_bits + 2 * m.spills * buffer.psum_bits for m in moved])
    fetches, by_fetches, starts = _grouped(np.concatenate([m.weights for m in moved]) // call.weights)
    map_bits = held.inputs * buffer.activation_bits + held.outputs * buffer.psum_bits
    chosen: dict[int, None] = {}
    for width in weight_widths:
        fits = np.tile(map_bits + held.weights * width <= buffer.tile_bits, len(ORDERS))
        fitting = np.where(fits, maps, _TOO_LARGE)[by_fetches]
        least = np.minimum.reduceat(fitting, starts)
        for group in _lower_hull(fetches, least).tolist():
            end = starts[group + 1] if group + 1 < len(starts) else len(fitting)
            equal = by_fetches[starts[group] : end][fitting[starts[group] : end] == least[group]]
            chosen[int(equal[np.argmax(_volume(tilings, equal % len(map_bits)))])] = None
    schedules = []
    for row in chosen:
        order, tiling = divmod(row, len(map_bits))
        m = moved[order]
        words = (int(m.inputs[tiling]), int(m.weights[tiling]), int(m.spills[tiling]), call.outputs)
        schedules.append(
            Schedule(tilings[tiling], ORDERS[order], *words, int(map_bits[tiling]), int(held.weights[tiling]))
        )
    return tuple(schedules)


_TOO_LARGE = np.iinfo(np.int64).max


def _grouped(values: Words) -> tuple[Words, Words, Words]:
    """Small whole numbers in groups: the different values, positions sorted by value, and where each value starts."""
    counts = np.bincount(values)
    different = np.flatnonzero(counts)
    rank = np.zeros(len(counts), np.min_scalar_type(len(different)))
    rank[different] = np.arange(len(different))
    by_value = np.argsort(rank[values], kind="stable")
    return different, by_value, np.concatenate([[0], np.cumsum(counts[different])[:-1]])


def _volume(tilings: Tilings, rows: Words) -> Words:
    volume: Words = tilings.K[rows] * tilings.C[rows] * tilings.OY[rows] * tilings.OX[rows]
    return volume


def _lower_hull(x: Words, y: Words) -> Words:
    """Positions of the falling part of the lower convex hull of points sorted by x; those of `_TOO_LARGE` are none."""
    before = np.concatenate([[_TOO_LARGE], np.minimum.accumulate(y)[:-1]])
    hull: list[int] = []
    for point in np.flatnonzero(y < before).tolist():
        while len(hull) > 1 and _above(x, y, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return np.array(hull, np.int64)


def _above(x: Words, y: Words, left: int, middle: int, right: int) -> bool:
    """Whether the middle point lies on or above the line between its neighbours; exact, in whole numbers."""
    across, up = int(x[right] - x[left]), int(y[right] - y[left])
    return int(y[middle] - y[left]) * across >= up * int(x[middle] - x[left])
