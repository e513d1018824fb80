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

from emomc.hardware.dataflow import TEMPORAL, Unrolling
from emomc.hardware.window import MOVED, SAME, Axis, window_sums

Counts = NDArray[np.int64]
Order = tuple[str, ...]
"""Loops that take more than one step, innermost first."""

_POSITION = {loop: position for position, loop in enumerate(TEMPORAL)}
_WEIGHT_LOOPS = frozenset({"K", "C", "FY", "FX"})
_OUTPUT_LOOPS = frozenset({"B", "K", "OY", "OX"})


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


def count_accesses(unrolling: Unrolling, block: Block, orders: Sequence[Order]) -> Accesses:
    """Words moved under each of the given orders.

    Args:
        unrolling: the layer call on its array.
        block: what a PE holds.
        orders: as made by `loop_orders`.
    """
    ranks = np.full((len(orders), len(TEMPORAL)), -1)  # a loop of one step never moves
    for row, order in enumerate(orders):
        for rank, loop in enumerate(order):
            ranks[row, _POSITION[loop]] = rank
    call = unrolling.call
    psum_writes, psum_deliveries = _stationary(unrolling, block, ranks, _OUTPUT_LOOPS)
    weight_reads, weight_deliveries = _stationary(unrolling, block, ranks, _WEIGHT_LOOPS)
    input_reads, input_deliveries = _inputs(unrolling, block, ranks)
    groups = call.G
    return Accesses(
        groups * weight_reads,
        groups * input_reads,
        groups * psum_writes,
        groups * psum_writes - call.outputs,
        groups * weight_deliveries,
        groups * input_deliveries,
        groups * psum_deliveries,
    )


def _busy(unrolling: Unrolling, block: Block, loop: str) -> int:
    """PEs along a loop that are busy, summed over the loop's blocks."""
    width, full = unrolling.width[loop], block.steps(unrolling, loop) - 1
    return full * width + min(width, unrolling.extent(loop) - full * block.length(unrolling, loop) * width)


def _stationary(
    unrolling: Unrolling, block: Block, ranks: NDArray[np.int64], relevant: frozenset[str]
) -> tuple[Counts, Counts]:
    """Words and deliveries of an operand whose every word has one index in each relevant loop.

    A block stays while only irrelevant loops move; it comes again for every step of an irrelevant loop that
    encloses a relevant one.
    """
    columns = [_POSITION[loop] for loop in TEMPORAL if loop in relevant]
    moving = np.where(ranks[:, columns] < 0, len(TEMPORAL), ranks[:, columns])
    innermost = moving.min(axis=1)
    words = np.full(len(ranks), math.prod(unrolling.extent(loop) for loop in TEMPORAL if loop in relevant))
    deliveries = words.copy()
    for loop in TEMPORAL:
        if loop not in relevant and unrolling.extent(loop) > 1:
            repeats = ranks[:, _POSITION[loop]] > innermost
            words *= np.where(repeats, block.steps(unrolling, loop), 1)
            deliveries *= np.where(repeats, _busy(unrolling, block, loop), unrolling.width[loop])
    return words, deliveries


def _axis(unrolling: Unrolling, block: Block, image: str) -> Axis:
    call, side = unrolling.call, "YX".index(image)
    outputs, taps = f"O{image}", f"F{image}"
    return Axis(
        unrolling.extent(outputs),
        unrolling.extent(taps),
        unrolling.call.IY if image == "Y" else unrolling.call.IX,
        call.stride[side],
        call.padding[side],
        call.dilation[side],
        unrolling.width[outputs],
        unrolling.width[taps],
        block.FY_held if image == "Y" else block.FX_held,
    )


def _moves(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """How each loop moves in the step where each loop advances: (order, advancing rank, loop).

    The last rank stands for the very first step, in which all loops are at their beginning.
    """
    levels = ranks.max(initial=-1) + 2
    advancing = np.arange(levels)[None, :, None]
    moves = np.sign(advancing - ranks[:, None, :]) + MOVED  # SAME, MOVED, WRAPPED are 0, 1, 2
    moves[:, :-1] *= ranks[:, None, :] >= 0
    return moves


def _per_move(total: int, first: int) -> Counts:
    """A sum over a loop's steps for SAME, MOVED and WRAPPED, from that over all of them and that of the first."""
    return np.array([total, total - first, first])


def _inputs(unrolling: Unrolling, block: Block, ranks: NDArray[np.int64]) -> tuple[Counts, Counts]:
    """Words and deliveries of inputs: what each step wants less what is still held from the step before."""
    every = _moves(ranks)
    moves = {loop: every[:, :, position] for loop, position in _POSITION.items()}
    batch = _per_move(unrolling.call.B, 1)[moves["B"]]
    channels = unrolling.extent("C")
    first_block = min(channels, block.C * unrolling.width["C"])
    outer = batch * _per_move(channels, first_block)[moves["C"]]
    same = (moves["B"] == SAME) & (moves["C"] == SAME)
    y, x = (window_sums(_axis(unrolling, block, image)) for image in "YX")
    at_y, at_x = (moves["OY"], moves["FY"]), (moves["OX"], moves["FX"])
    wanted = y.wanted[at_y] * x.wanted[at_x] - same * (y.kept[at_y] * x.kept[at_x])
    delivered = y.deliveries[at_y] * x.deliveries[at_x] - same * (y.held[at_y] * x.held[at_x])
    filters = _per_move(block.steps(unrolling, "K"), 1)[moves["K"]]
    copies = _per_move(_busy(unrolling, block, "K"), unrolling.width["K"])[moves["K"]]
    return (outer * filters * wanted).sum(axis=1), (outer * copies * delivered).sum(axis=1)


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
        orders = loop_orders(unrolling, block)
        counts = count_accesses(unrolling, block, orders)
        rows = pareto_rows(_traffic(counts))
        mappings += [Mapping(block, orders[row]) for row in rows]
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
