"""How a flat array of integers becomes bytes: the codec protocol, its members, and the choice among them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emomc.coding.dense import Bitmap, Dense, Integers, kept
from emomc.coding.entropy import Entropy
from emomc.coding.huffman import Huffman
from emomc.coding.sparse import CompressedRows, Coordinates, RelativeIndex


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


_LISTING = (Bitmap(), RelativeIndex(), CompressedRows(), Coordinates())  # of values that are not zero
_DENSE, _ENTROPY, _HUFFMAN = Dense(), Entropy(), Huffman()

_BY_TAG: dict[int, Codec] = {codec.tag: codec for codec in (_DENSE, *_LISTING, _ENTROPY, _HUFFMAN)}

CODECS: MappingProxyType[str, Codec] = MappingProxyType({_BY_TAG[tag].name: _BY_TAG[tag] for tag in sorted(_BY_TAG)})


def smallest(values: Integers) -> tuple[Codec, bytes]:
    """The codec that stores flat ``values`` in the fewest bytes, and those bytes; the lower tag wins a tie."""
    coded = _ENTROPY.encode(values)  # the usual winner, and its size is only known once it is written
    sizes = {_DENSE.tag: _DENSE.bits(values), _ENTROPY.tag: 8 * len(coded)}
    positions, widths = kept(values)
    sizes |= {codec.tag: codec.listed_bits(values.size, positions, widths) for codec in _LISTING}
    if _HUFFMAN.least_bits(values) < min(sizes.values()):
        sizes[_HUFFMAN.tag] = _HUFFMAN.bits(values)
    best = _BY_TAG[min(sizes, key=lambda tag: (sizes[tag], tag))]
    return best, coded if best is _ENTROPY else best.encode(values)
