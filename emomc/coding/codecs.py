"""How an array of integers becomes bytes: the codec protocol, its members, and the choice among them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from emomc.coding.channelwise import Channelwise
from emomc.coding.dense import Bitmap, Dense, Integers, kept
from emomc.coding.entropy import Entropy
from emomc.coding.huffman import Huffman
from emomc.coding.sparse import CompressedRows, Coordinates, RelativeIndex
from emomc.coding.structured import Structured


class Codec(Protocol):
    """One way to store integers of magnitude up to 32,767. ``tag`` names it in a blob and never changes."""

    name: str
    tag: int

    def encode(self, values: Integers) -> bytes:
        """``values`` as bytes, in memory order; only a codec that looks for structure minds their shape."""

    def decode(self, data: bytes, count: int) -> NDArray[np.int16]:
        """The ``(count,)`` values back; raises ``EmomcError`` on bytes that ``encode`` cannot have written."""

    def bits(self, values: Integers) -> int:
        """``8 * len(encode(values))``."""


_LISTING = (Bitmap(), RelativeIndex(), CompressedRows(), Coordinates())  # of values that are not zero
_DENSE, _ENTROPY, _HUFFMAN, _STRUCTURED, _CHANNELWISE = Dense(), Entropy(), Huffman(), Structured(), Channelwise()

_BY_TAG: dict[int, Codec] = {
    codec.tag: codec for codec in (_DENSE, *_LISTING, _ENTROPY, _HUFFMAN, _STRUCTURED, _CHANNELWISE)
}

CODECS: MappingProxyType[str, Codec] = MappingProxyType({_BY_TAG[tag].name: _BY_TAG[tag] for tag in sorted(_BY_TAG)})

SHAPED = frozenset({_STRUCTURED.name, _CHANNELWISE.name})
"""Codecs that mind the shape of the weight; to all others it is flat."""


def smallest(values: Integers) -> tuple[Codec, bytes]:
    """The codec that stores ``values`` in the fewest bytes, and those bytes; the lower tag wins a tie.

    Args:
        values: in the shape of the weight, output channels first, or flat.
    """
    flat = values.ravel()
    coded = {_ENTROPY.tag: _ENTROPY.encode(flat)}  # the usual winner, and its size is only known once it is written
    if _STRUCTURED.pays(values):
        coded[_STRUCTURED.tag] = _STRUCTURED.encode(values)
    leaning = _CHANNELWISE.attempt(values)
    if leaning is not None:
        coded[_CHANNELWISE.tag] = leaning
    sizes = {_DENSE.tag: _DENSE.bits(flat)} | {tag: 8 * len(data) for tag, data in coded.items()}
    positions, widths = kept(flat)
    sizes |= {codec.tag: codec.listed_bits(flat.size, positions, widths) for codec in _LISTING}
    if _HUFFMAN.least_bits(flat) < min(sizes.values()):
        sizes[_HUFFMAN.tag] = _HUFFMAN.bits(flat)
    best = _BY_TAG[min(sizes, key=lambda tag: (sizes[tag], tag))]
    return best, coded[best.tag] if best.tag in coded else best.encode(flat)
