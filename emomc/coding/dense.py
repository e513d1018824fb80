"""Codecs of equal width: every value, or a bit for every weight and the non-zero values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emomc.coding.alphabet import alphabet_length, histogram, indices, read_alphabet, write_alphabet
from emomc.coding.wire import BLOCK, Reader, damaged, pack_bits, packed_length

Integers = NDArray[np.signedinteger]
Decoded = NDArray[np.int16]
Positions = NDArray[np.int64]


class Dense:
    """Every value as an index of equal width: into all integers of the range, or a codebook where that is smaller."""

    name = "dense"
    tag = 0

    def encode(self, values: Integers) -> bytes:
        symbols = Widths.of(values).best(values.size).symbols
        width = _index_width(symbols)
        blocks = (values[start : start + BLOCK] for start in range(0, values.size, BLOCK))
        return write_alphabet(symbols) + b"".join(pack_bits(indices(block, symbols), width) for block in blocks)

    def decode(self, data: bytes, count: int) -> Decoded:
        reader = Reader(data)
        symbols = read_alphabet(reader)
        index = reader.packed(count, _index_width(symbols), "values")
        reader.end("values")
        if count and int(index.max()) >= symbols.size:
            raise damaged("values", f"indices below {symbols.size}", str(index.max()))
        narrow, values = symbols.astype(np.int16), index.view(np.int16)
        for start in range(0, count, BLOCK):  # in place
            values[start : start + BLOCK] = narrow[index[start : start + BLOCK]]
        return values

    def bits(self, values: Integers) -> int:
        return 8 * Widths.of(values).length(values.size)


@dataclass(frozen=True)
class _Alphabet:
    symbols: NDArray[np.int64]
    stored: int  # bytes
    width: int  # bits of an index

    def length(self, count: int) -> int:
        return self.stored + packed_length(count, self.width)


@dataclass(frozen=True)
class Widths:
    """What `Dense` takes for any number of values out of one set: all integers of its range, or those that occur."""

    alphabets: tuple[_Alphabet, ...]

    @classmethod
    def of(cls, values: Integers) -> Widths:
        """The choices that ``values`` leave; none occur: as for zeros."""
        contiguous, counts = histogram(values)
        choices = [contiguous]
        if values.size and not counts.all():
            choices.append(contiguous[counts > 0])
        return cls(tuple(_Alphabet(each, alphabet_length(each), _index_width(each)) for each in choices))

    def with_zero(self) -> Widths:
        """The choices if zeros are among the values too."""
        return Widths.of(np.append(self.alphabets[-1].symbols, 0))

    def best(self, count: int) -> _Alphabet:
        """The one with the fewest bytes for ``count`` values."""
        return min(self.alphabets, key=lambda alphabet: alphabet.length(count))

    def length(self, count: int) -> int:
        """Bytes of ``count`` values."""
        return self.best(count).length(count)


class Bitmap:
    """One bit a value tells zero from non-zero; the non-zeros follow densely."""

    name = "bitmap"
    tag = 1

    def encode(self, values: Integers) -> bytes:
        mask = values != 0
        return pack_bits(mask, 1) + Dense().encode(values[mask])

    def decode(self, data: bytes, count: int) -> Decoded:
        reader = Reader(data)
        mask = reader.packed(count, 1, "mask").astype(bool)
        values = np.zeros(count, np.int16)
        values[mask] = Dense().decode(reader.rest(), int(np.count_nonzero(mask)))
        return values

    def bits(self, values: Integers) -> int:
        return self.listed_bits(values.size, *kept(values))

    def listed_bits(self, count: int, positions: Positions, widths: Widths) -> int:
        return 8 * (packed_length(count, 1) + widths.length(positions.size))


def kept(values: Integers) -> tuple[Positions, Widths]:
    """Where ``values`` are not zero, and what storing those takes: all that decides the size of a codec of them."""
    positions = np.flatnonzero(values)
    return positions, Widths.of(values[positions])


def _index_width(symbols: NDArray[np.int64]) -> int:
    return int(symbols.size - 1).bit_length()
