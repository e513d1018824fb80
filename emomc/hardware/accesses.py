"""Words that the PE array exchanges with the shared buffer, for every order of the loops.

A PE holds one block of each operand in registers. At every step each busy PE needs the block of its loop indices:

* weights and inputs that a PE lacks are read from the buffer, each distinct word once for all PEs that lack it
  (multicast); zeros of the padding are made in the array and never read;
* partial sums leave when another block of outputs is due: PEs that work on the same output are summed on the way
  (spatial reduction), the sum is written, and read back if the same outputs return. The first visit reads nothing.

A PE that idles in the last step of a loop that its side of the array does not divide keeps the operands that the loop
does not index, and holds nothing of the others. The counts are exact for every layer shape, unrolling, register block
and loop order; the project's tests compare them with a loop nest that is executed step by step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from emomc.errors import EmomcError
from emomc.hardware.dataflow import TEMPORAL, Unrolling
from emomc.hardware.window import MOVED, SAME, Axis, window_sums
from emomc.network.layers import LoopBounds

Counts = NDArray[np.int64]
Order = tuple[str, ...]
"""Loops that take more than one step, innermost first."""

_POSITION = {loop: position for position, loop in enumerate(TEMPORAL)}
_WEIGHT_LOOPS = ("K", "C", "FY", "FX")
_OUTPUT_LOOPS = ("B", "K", "OY", "OX")


@dataclass(frozen=True)
class Registers:
    """Words that each PE can hold of each operand."""

    weight: int = 1
    input: int = 1
    psum: int = 1


@dataclass(frozen=True)
class Block:
    """What a PE holds at once, in steps of its loops: output channels, input channels, and all taps or one."""

    K: int = 1
    C: int = 1
    FY_held: bool = False
    FX_held: bool = False

    def length(self, unrolling: Unrolling, loop: str) -> int:
        """Steps of a loop that one block covers."""
        if loop in ("FY", "FX"):
            held = self.FY_held if loop == "FY" else self.FX_held
            return unrolling.steps(loop) if held else 1
        return {"K": self.K, "C": self.C}.get(loop, 1)

    def steps(self, unrolling: Unrolling, loop: str) -> int:
        """Blocks that the loop is cut into."""
        return -(-unrolling.steps(loop) // self.length(unrolling, loop))


@dataclass(frozen=True, eq=False)
class Accesses:
    """Words moved by each of m mappings, every array (m,).

    ``*_reads`` and ``psum_writes`` count words at the buffer. ``*_deliveries`` count words at the PEs: how many PE
    registers are written with weights and inputs, and how many PE partial sums leave.
    """

    weight_reads: Counts
    input_reads: Counts
    psum_writes: Counts
    psum_reads: Counts
    weight_deliveries: Counts
    input_deliveries: Counts
    psum_deliveries: Counts

    def take(self, rows: NDArray[np.int64]) -> Accesses:
        """The mappings in the given rows."""
        return Accesses(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Mapping:
    """How a layer call runs on the array: the registers' block and the order of the loops around it."""

    block: Block
    order: Order


def loop_orders(unrolling: Unrolling, block: Block) -> list[Order]:
    """Every order of the loops that take more than one step."""
    return list(permutations(loop for loop in TEMPORAL if block.steps(unrolling, loop) > 1))


@dataclass(frozen=True, eq=False)
class _Nest:
    """m mappings of a layer call, arrays (m, loop) with the loops as in `TEMPORAL`.

    Attributes:
        unrolling: the call on its array.
        ranks: position of each loop in its order, innermost 0; -1 for a loop of one step, which never moves.
        length: steps of a loop that one block covers.
        steps: blocks that a loop is cut into.
        busy: PEs along a loop that are busy, summed over its blocks.
        held: (m, 2) whether all taps along Y and X are held.
    """

    unrolling: Unrolling
    ranks: NDArray[np.int64]
    length: NDArray[np.int64]
    steps: NDArray[np.int64]
    busy: NDArray[np.int64]
    held: NDArray[np.int64]


def ranks_of(mappings: Sequence[Mapping]) -> NDArray[np.int64]:
    """Position of each loop in each mapping's order: (m, loop), -1 where it is not in the order."""
    ranks = np.full((len(mappings), len(TEMPORAL)), -1)
    for row, mapping in enumerate(mappings):
        ranks[row, [_POSITION[loop] for loop in mapping.order]] = range(len(mapping.order))
    return ranks


def _nest(unrolling: Unrolling, mappings: Sequence[Mapping], ranks: NDArray[np.int64]) -> _Nest:
    blocks = np.array([(b.K, b.C, b.FY_held, b.FX_held) for b in (mapping.block for mapping in mappings)])
    held = blocks[:, 2:]
    width = np.array([unrolling.width[loop] for loop in TEMPORAL])
    extent = np.array([unrolling.extent(loop) for loop in TEMPORAL])
    unblocked = -(-extent // width)
    length = np.ones_like(ranks)
    length[:, 1:3] = blocks[:, :2]
    length[:, 5:] = np.where(held, unblocked[5:], 1)
    steps = -(-unblocked // length)
    busy = (steps - 1) * width + np.minimum(width, extent - (steps - 1) * length * width)
    return _Nest(unrolling, np.where(steps > 1, ranks, -1), length, steps, busy, held)


def count_accesses(
    unrolling: Unrolling, mappings: Sequence[Mapping], ranks: NDArray[np.int64] | None = None
) -> Accesses:
    """Words moved by each of m mappings.

    Args:
        unrolling: the layer call on its array.
        mappings: with every loop that takes more than one step in its order; loops of one step are passed over.
        ranks: `ranks_of` the mappings, where they are already known.
    """
    nest = _nest(unrolling, mappings, ranks_of(mappings) if ranks is None else ranks)
    call = unrolling.call
    psum_writes, psum_deliveries = _stationary(nest, _OUTPUT_LOOPS)
    weight_reads, weight_deliveries = _stationary(nest, _WEIGHT_LOOPS)
    input_reads, input_deliveries = _inputs(nest)
    return Accesses(
        call.G * weight_reads,
        call.G * input_reads,
        call.G * psum_writes,
        call.G * psum_writes - call.outputs,
        call.G * weight_deliveries,
        call.G * input_deliveries,
        call.G * psum_deliveries,
    )


def array_accesses(call: LoopBounds, dataflow: str, rows: int, columns: int, order: Order) -> dict[str, int]:
    """Words between the shared buffer and an array of PEs with one register for each operand.

    Args:
        call: extents of the loops.
        dataflow: the two loops that the array unrolls, such as ``"X:Y"``.
        rows: PEs along the first.
        columns: PEs along the second.
        order: loops that take more than one step, innermost first, such as ``("FX", "FY", "C", "K")``; others are
            passed over.

    Returns:
        ``weight_reads``, ``input_reads``, ``psum_reads`` and ``psum_writes``.

    Raises:
        EmomcError: for an unknown dataflow, or an order that lacks a loop.
    """
    unrolling, block = Unrolling(call, dataflow, rows, columns), Block()
    lacking = [loop for loop in TEMPORAL if unrolling.steps(loop) > 1 and loop not in order]
    if lacking:
        raise EmomcError(f"order {order}: {', '.join(lacking)} take more than one step and must be in it.")
    counts = count_accesses(unrolling, [Mapping(block, tuple(loop for loop in order if unrolling.steps(loop) > 1))])
    names = ("weight_reads", "input_reads", "psum_reads", "psum_writes")
    return {name: int(getattr(counts, name)[0]) for name in names}


def _stationary(nest: _Nest, relevant: tuple[str, ...]) -> tuple[Counts, Counts]:
    """Words and deliveries of an operand whose every word has one index in each relevant loop.

    A block stays while only irrelevant loops move; it comes again for every step of an irrelevant loop that
    encloses a relevant one.
    """
    inside = [_POSITION[loop] for loop in relevant]
    outside = [position for position in range(len(TEMPORAL)) if position not in inside]
    ranks = np.where(nest.ranks < 0, len(TEMPORAL), nest.ranks)
    innermost = ranks[:, inside].min(axis=1, keepdims=True)
    repeats = nest.ranks[:, outside] > innermost
    words = math.prod(nest.unrolling.extent(loop) for loop in relevant)
    width = np.array([nest.unrolling.width[TEMPORAL[position]] for position in outside])
    reads: Counts = words * np.where(repeats, nest.steps[:, outside], 1).prod(axis=1)
    deliveries: Counts = words * np.where(repeats, nest.busy[:, outside], width).prod(axis=1)
    return reads, deliveries


def _axis(unrolling: Unrolling, image: str, held: bool) -> Axis:
    call, side = unrolling.call, "YX".index(image)
    outputs, taps = f"O{image}", f"F{image}"
    return Axis(
        unrolling.extent(outputs),
        unrolling.extent(taps),
        call.IY if image == "Y" else call.IX,
        call.stride[side],
        call.padding[side],
        call.dilation[side],
        unrolling.width[outputs],
        unrolling.width[taps],
        held,
    )


def _window(nest: _Nest, side: int, outputs: NDArray[np.int64], taps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums along an image axis for the moves of its two loops: (wanted, kept, deliveries, held), m, step."""
    held = nest.held[:, side]
    sums = {kind: window_sums(_axis(nest.unrolling, "YX"[side], bool(kind))) for kind in set(held.tolist())}
    table = np.stack([sums.get(kind, next(iter(sums.values()))) for kind in (0, 1)])
    picked: NDArray[np.int64] = table[held[:, None], :, outputs, taps]
    return np.moveaxis(picked, -1, 0)


def _moves(ranks: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """How each loop moves in the step where each rank's loop advances: (m, advancing rank, loop); and which exist.

    The last rank stands for the very first step, in which all loops are at their beginning.
    """
    levels = ranks.max(initial=-1) + 2
    advancing = np.arange(levels)[None, :, None]
    moves = np.sign(advancing - ranks[:, None, :]) + MOVED  # SAME, MOVED, WRAPPED are 0, 1, 2
    moves[:, :-1] *= ranks[:, None, :] >= 0
    exists = (moves == MOVED).any(axis=2)
    exists[:, -1] = True
    return moves, exists


def _per_move(total: Counts, first: Counts, moves: NDArray[np.int64]) -> NDArray[np.int64]:
    """A sum over a loop's steps as it moves, (m, step), from that over all steps and that of the first, each (m,)."""
    table = np.stack([total, total - first, first], axis=1)
    return np.take_along_axis(table, moves, axis=1)


def _inputs(nest: _Nest) -> tuple[Counts, Counts]:
    """Words and deliveries of inputs: what each step wants less what is still held from the step before."""
    moves, exists = _moves(nest.ranks)
    b, k, c, oy, ox, fy, fx = np.moveaxis(moves, -1, 0)
    ones = np.ones(len(nest.ranks), np.int64)
    channels, width = nest.unrolling.extent("C"), nest.unrolling.width
    first_block = np.minimum(channels, nest.length[:, _POSITION["C"]] * width["C"])
    outer = exists * _per_move(ones * nest.unrolling.call.B, ones, b) * _per_move(ones * channels, first_block, c)
    same = (b == SAME) & (c == SAME)
    along_y, along_x = _window(nest, 0, oy, fy), _window(nest, 1, ox, fx)
    wanted, kept, delivered, held = along_y * along_x
    filters = _per_move(nest.steps[:, _POSITION["K"]], ones, k)
    copies = _per_move(nest.busy[:, _POSITION["K"]], ones * width["K"], k)
    reads: Counts = (outer * filters * (wanted - same * kept)).sum(axis=1)
    deliveries: Counts = (outer * copies * (delivered - same * held)).sum(axis=1)
    return reads, deliveries


def register_blocks(unrolling: Unrolling, registers: Registers) -> list[Block]:
    """Blocks that fit a PE's registers: for every holding of taps and every split of C, the most of K."""
    blocks = []
    for held_y, held_x in product((False, True), repeat=2):
        bare = Block(1, 1, held_y, held_x)
        taps = bare.length(unrolling, "FY") * bare.length(unrolling, "FX")
        most = min(registers.input, registers.weight) // taps
        redundant = (held_y and unrolling.steps("FY") == 1) or (held_x and unrolling.steps("FX") == 1)
        if redundant:
            continue
        for c in splits(unrolling.steps("C"), most):
            k = min(registers.psum, registers.weight // (taps * c))
            blocks.append(Block(splits(unrolling.steps("K"), k)[-1], c, held_y, held_x))
    return blocks


def splits(extent: int, most: int) -> list[int]:
    """Sizes of even parts of an extent, ascending, none above ``most``."""
    return sorted({-(-extent // parts) for parts in range(1, extent + 1) if -(-extent // parts) <= most})


@lru_cache(maxsize=4096)
def best_mappings(unrolling: Unrolling, registers: Registers) -> tuple[tuple[Mapping, ...], Accesses]:
    """Mappings that no other beats in weight reads, input reads and psum writes at once, of all blocks and orders."""
    mappings: list[Mapping] = []
    parts: list[Accesses] = []
    for block in register_blocks(unrolling, registers):
        here = [Mapping(block, order) for order in loop_orders(unrolling, block)]
        counts = count_accesses(unrolling, here)
        rows = pareto_rows(_traffic(counts))
        mappings += [here[row] for row in rows]
        parts.append(counts.take(rows))
    merged = Accesses(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Accesses)))
    rows = pareto_rows(_traffic(merged))
    return tuple(mappings[row] for row in rows), merged.take(rows)


def _traffic(counts: Accesses) -> NDArray[np.int64]:
    return np.stack([counts.weight_reads, counts.input_reads, counts.psum_writes], axis=1)


def pareto_rows(points: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of (n, m) points that no other row equals or beats in every column; of equal rows the first."""
    points, rows = np.unique(points, axis=0, return_index=True)
    keep = []
    alive = np.arange(len(points))
    while len(alive):  # ascending by column, so that no later row beats the first
        keep.append(alive[0])
        alive = alive[1:][~(points[alive[1:]] >= points[alive[0]]).all(axis=1)]
    chosen: NDArray[np.int64] = rows[np.array(keep)]
    return chosen
