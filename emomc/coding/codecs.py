"""How a flat array of integers becomes bytes: the codec protocol, its closed-form members, and the choice among all."""

from __future__ import annotations

from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emomc.coding.alphabet import alphabet_length, histogram, indices, read_alphabet, write_alphabet
from emomc.coding.entropy import decode_entropy, encode_entropy
from emomc.coding.wire import Reader, damaged, pack_bits, packed_length

Integers = NDArray[np.signedinteger]


class Codec(Protocol):
    """One way to store integers of magnitude up to 32,767. ``tag`` names it in a blob and never changes."""

    name: str
    tag: int

    def encode(self, values: Integers) -> bytes:
        """Flat ``values`` as bytes."""

    def decode(self, data: bytes, count: int) -> NDArray[np.int16]:
        """The ``(count,)`` values back; raises ``EmomcError`` on bytes that ``encode`` cannot have written."""

    def bits(self, values: Integers) -> int:
        """``8 * len(encode(values))``."""


class Dense:
    """Every value as an index of equal width: into all integers of the range, or a codebook where that is smaller."""

    name = "dense"
    tag = 0

    def encode(self, values: Integers) -> bytes:
        symbols, _ = self._plan(values)
        return write_alphabet(symbols) + pack_bits(indices(values, symbols), _index_width(symbols))

    def decode(self, data: bytes, count: int) -> NDArray[np.int16]:
        reader = Reader(data)
        symbols = read_alphabet(reader)
        index = reader.packed(count, _index_width(symbols), "values")
        reader.end("values")
        if count and int(index.max()) >= symbols.size:
            raise damaged("values", f"indices below {symbols.size}", str(index.max()))
        return symbols.astype(np.int16)[index]

    def bits(self, values: Integers) -> int:
        return 8 * self._plan(values)[1]

    def _plan(self, values: Integers) -> tuple[NDArray[np.int64], int]:
        """The smaller alphabet of the two, and the bytes that it leads to."""
        contiguous, counts = histogram(values)
        codebook = contiguous[counts > 0] if values.size else contiguous
        sizes = [
            alphabet_length(symbols) + packed_length(values.size, _index_width(symbols))
            for symbols in (contiguous, codebook)
        ]
        return (contiguous, sizes[0]) if sizes[0] <= sizes[1] else (codebook, sizes[1])


class Bitmap:
    """One bit a value tells zero from non-zero; the non-zeros follow densely."""

    name = "bitmap"
    tag = 1

    def encode(self, values: Integers) -> bytes:
        mask = values != 0
        return pack_bits(mask, 1) + Dense().encode(values[mask])

    def decode(self, data: bytes, count: int) -> NDArray[np.int16]:
        reader = Reader(data)
        mask = reader.packed(count, 1, "mask").astype(bool)
        values = np.zeros(count, np.int16)
        values[mask] = Dense().decode(reader.rest(), int(mask.sum()))
        return values

    def bits(self, values: Integers) -> int:
        return 8 * packed_length(values.size, 1) + Dense().bits(values[values != 0])


class Entropy:
    """Asymmetric numeral system under a compactly stored model of the values; see ``entropy`` and ``models``."""

    name = "entropy"
    tag = 2

    def encode(self, values: Integers) -> bytes:
        return encode_entropy(values)

    def decode(self, data: bytes, count: int) -> NDArray[np.int16]:
        return decode_entropy(data, count)

    def bits(self, values: Integers) -> int:
        return 8 * len(encode_entropy(values))


CODECS: MappingProxyType[str, Codec] = MappingProxyType({c.name: c for c in (Dense(), Bitmap(), Entropy())})


def smallest(values: Integers) -> tuple[Codec, bytes]:
    """The codec that stores flat ``values`` in the fewest bytes, and those bytes; the lower tag wins a tie."""
    entropy = CODECS["entropy"]
    coded = entropy.encode(values)  # the usual winner, and its size is only known once it is written
    others = [codec for codec in CODECS.values() if codec is not entropy]
    best = min(others, key=lambda codec: codec.bits(values))
    return (entropy, coded) if 8 * len(coded) < best.bits(values) else (best, best.encode(values))


def _index_width(symbols: NDArray[np.int64]) -> int:
    return int(symbols.size - 1).bit_length()
