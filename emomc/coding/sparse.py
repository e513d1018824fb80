"""Codecs that list the non-zero values and say where each lies: relative index, compressed rows, coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emomc.coding.dense import Decoded, Dense, Integers, Positions, Widths, kept
from emomc.coding.wire import BLOCK, Reader, damaged, pack_bits, packed_length, varint

_WIDEST_INDEX = 16  # bits of a relative index, and of a column


class RelativeIndex:
    """Before every non-zero value the number of zeros, in ``w`` bits; a longer run takes filler zeros.

    The sparse form of Deep Compression (Han et al., ICLR 2016), with the ``w`` that is best for the tensor. What
    follows the last non-zero value is not stored.
    """

    name = "relative-index"
    tag = 3

    def encode(self, values: Integers) -> bytes:
        positions, widths = kept(values)
        width, _ = self._plan(positions, widths)
        runs = _runs(positions)
        ends = np.cumsum((runs >> width) + 1) - 1  # where the non-zero values stand among the entries
        entries = int(ends[-1]) + 1 if ends.size else 0
        index = np.full(entries, (1 << width) - 1, np.int64)
        index[ends] = runs & ((1 << width) - 1)
        listed = np.zeros(entries, np.int16)
        listed[ends] = values[positions]
        return varint(entries) + bytes([width]) + pack_bits(index, width) + Dense().encode(listed)

    def decode(self, data: bytes, count: int) -> Decoded:
        reader = Reader(data)
        entries = reader.varint("number of entries", count)
        width = reader.byte("index width", _WIDEST_INDEX)
        runs = reader.packed(entries, width, "indices")
        positions = np.add(runs, 1, dtype=np.int32)
        del runs
        np.cumsum(positions, out=positions)
        positions -= 1
        return _scatter(positions, Dense().decode(reader.rest(), entries), count)

    def bits(self, values: Integers) -> int:
        return self.listed_bits(values.size, *kept(values))

    def listed_bits(self, count: int, positions: Positions, widths: Widths) -> int:
        return 8 * self._plan(positions, widths)[1]

    @staticmethod
    def _plan(positions: Positions, plain: Widths) -> tuple[int, int]:
        """The index width with the fewest bytes, and these."""
        runs, filled = _runs(positions), plain.with_zero()
        plans = []
        for width in range(min(int(runs.max(initial=0)).bit_length(), _WIDEST_INDEX) + 1):
            fillers = int((runs >> width).sum())
            entries = positions.size + fillers
            listed = (filled if fillers else plain).length(entries)
            plans.append((width, len(varint(entries)) + 1 + packed_length(entries, width) + listed))
        return min(plans, key=lambda plan: plan[1])


class CompressedRows:
    """The columns of the non-zero values, row by row, and how many each row has: compressed sparse rows (CSR).

    A row is ``2**w`` weights in storage order, with the ``w`` that is best for the tensor. Row pointers are stored as
    their differences, in as many bits as the fullest row needs.
    """

    name = "csr"
    tag = 4

    def encode(self, values: Integers) -> bytes:
        positions, widths = kept(values)
        width, _ = self._plan(values.size, positions, widths)
        filled = np.bincount(positions >> width, minlength=_rows(values.size, width))
        pointer_width = int(filled.max(initial=0)).bit_length()
        head = bytes([width, pointer_width]) + pack_bits(filled, pointer_width)
        return head + pack_bits(positions & ((1 << width) - 1), width) + Dense().encode(values[positions])

    def decode(self, data: bytes, count: int) -> Decoded:
        reader = Reader(data)
        width = reader.byte("column width", _WIDEST_INDEX)
        pointer_width = reader.byte("row width", _WIDEST_INDEX + 1)
        filled = reader.packed(_rows(count, width), pointer_width, "rows")
        entries = int(filled.sum(dtype=np.int64))
        if entries > count:
            raise damaged("rows", f"at most {count} values", str(entries))
        columns = reader.packed(entries, width, "columns")
        positions, end = np.empty(entries, np.int32), 0
        for start in range(0, filled.size, BLOCK):
            block = filled[start : start + BLOCK]
            rows = np.repeat(np.arange(start, start + block.size, dtype=np.int32), block)
            positions[end : end + rows.size] = rows << width
            end += rows.size
        positions += columns
        del columns
        return _scatter(positions, Dense().decode(reader.rest(), entries), count)

    def bits(self, values: Integers) -> int:
        return self.listed_bits(values.size, *kept(values))

    def listed_bits(self, count: int, positions: Positions, widths: Widths) -> int:
        return 8 * self._plan(count, positions, widths)[1]

    @staticmethod
    def _plan(count: int, positions: Positions, widths: Widths) -> tuple[int, int]:
        """The column width with the fewest bytes, and these."""
        listed = widths.length(positions.size)
        plans = []
        for width in range(1, min(max(count - 1, 1).bit_length(), _WIDEST_INDEX) + 1):
            rows = _rows(count, width)
            fullest = int(np.bincount(positions >> width, minlength=1).max())
            pointers = packed_length(rows, fullest.bit_length())
            plans.append((width, 2 + pointers + packed_length(positions.size, width) + listed))
        return min(plans, key=lambda plan: plan[1])


class Coordinates:
    """The position of every non-zero value in ``ceil(log2 count)`` bits, then the values (COO)."""

    name = "coo"
    tag = 5

    def encode(self, values: Integers) -> bytes:
        positions = np.flatnonzero(values)
        listed = pack_bits(positions, _position_width(values.size))
        return varint(positions.size) + listed + Dense().encode(values[positions])

    def decode(self, data: bytes, count: int) -> Decoded:
        reader = Reader(data)
        entries = reader.varint("number of values", count)
        positions = reader.packed(entries, _position_width(count), "positions")
        return _scatter(positions, Dense().decode(reader.rest(), entries), count)

    def bits(self, values: Integers) -> int:
        return self.listed_bits(values.size, *kept(values))

    def listed_bits(self, count: int, positions: Positions, widths: Widths) -> int:
        listed = packed_length(positions.size, _position_width(count)) + widths.length(positions.size)
        return 8 * (len(varint(positions.size)) + listed)


def _runs(positions: Positions) -> Positions:
    """Zeros before each non-zero value."""
    return np.diff(positions, prepend=-1) - 1


def _rows(count: int, width: int) -> int:
    return -(-count >> width)


def _position_width(count: int) -> int:
    return max(count - 1, 0).bit_length()


def _scatter(positions: NDArray[np.integer], listed: Decoded, count: int) -> Decoded:
    """Values at ascending positions, zeros elsewhere."""
    if positions.size and (positions[-1] >= count or np.any(positions[1:] <= positions[:-1])):
        raise damaged("positions", f"ascending numbers below {count}", "others")
    values = np.zeros(count, np.int16)
    for start in range(0, positions.size, BLOCK):
        values[positions[start : start + BLOCK]] = listed[start : start + BLOCK]
    return values
