"""Bytes under the codecs: bit packing, variable-length integers and a reader that checks every length first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emomc.errors import EmomcError

MAX_VARINT = 2**32 - 1
BLOCK = 1 << 16  # values handled at a time, a multiple of 8: memory stays near that of the values themselves


def packed_length(count: int, width: int) -> int:
    """Bytes that ``count`` values of ``width`` bits take."""
    return (count * width + 7) // 8


def pack_bits(values: NDArray[np.integer], width: int) -> bytes:
    """Unsigned values below ``2**width`` (width 0 to 32), flat, as a bit string filled from each byte's low end."""
    if width == 0:
        return b""
    kind = _kind(width)
    blocks = []
    for start in range(0, values.size, BLOCK):
        octets = values[start : start + BLOCK].astype(kind).view(np.uint8).reshape(-1, kind.itemsize)
        bits = np.unpackbits(octets, axis=1, count=width, bitorder="little")
        blocks.append(np.packbits(bits, bitorder="little").tobytes())
    return b"".join(blocks)


def unpack_bits(data: bytes, count: int, width: int) -> NDArray[np.unsignedinteger]:
    """Inverse of ``pack_bits``: ``(count,)`` values from ``packed_length(count, width)`` bytes."""
    kind = _kind(width)
    values = np.zeros(count, kind)
    if width == 0:
        return values
    packed = np.frombuffer(data, np.uint8)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        chunk = packed[start * width // 8 :][: packed_length(size, width)]
        bits = np.unpackbits(chunk, count=size * width, bitorder="little").reshape(size, width)
        octets = np.zeros((size, kind.itemsize), np.uint8)
        octets[:, : (width + 7) // 8] = np.packbits(bits, axis=1, bitorder="little")
        values[start : start + size] = octets.view(kind)[:, 0]
    return values


def _kind(width: int) -> np.dtype[np.unsignedinteger]:
    return np.dtype("<u2" if width <= 16 else "<u4")


def varint(value: int) -> bytes:
    """Unsigned LEB128: 7 bits a byte, low bits first; values to ``MAX_VARINT``."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"a varint holds 0 to {MAX_VARINT}, got {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def zigzag(value: int) -> bytes:
    """Signed integer as the varint of 0, -1, 1, -2, ... -> 0, 1, 2, 3, ..."""
    return varint(2 * value if value >= 0 else -2 * value - 1)


class Reader:
    """Walks through a blob; every method raises ``EmomcError`` naming the field instead of reading past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return len(self._data) - self.position

    def take(self, length: int, field: str) -> bytes:
        """The next ``length`` bytes."""
        if length > self.left:
            raise damaged(field, f"{length} bytes", f"{self.left} left")
        taken = self._data[self.position : self.position + length]
        self.position += length
        return taken

    def rest(self) -> bytes:
        """Everything that has not been read."""
        return self.take(self.left, "rest")

    def byte(self, field: str, highest: int = 255) -> int:
        """One byte, at most ``highest``."""
        value = self.take(1, field)[0]
        return _at_most(value, highest, field)

    def nibbles(self, field: str) -> tuple[int, int]:
        """The low and the high half of one byte."""
        value = self.byte(field)
        return value & 15, value >> 4

    def varint(self, field: str, highest: int = MAX_VARINT) -> int:
        """One unsigned variable-length integer, at most ``highest``."""
        value = 0
        for shift in range(0, 35, 7):
            octet = self.byte(field)
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return _at_most(value, highest, field)
        raise damaged(field, "an integer of at most 5 bytes", "a longer one")

    def zigzag(self, field: str, highest: int) -> int:
        """One signed variable-length integer of magnitude at most ``highest``."""
        code = self.varint(field, 2 * highest)
        return -(code + 1) // 2 if code & 1 else code // 2

    def packed(self, count: int, width: int, field: str) -> NDArray[np.unsignedinteger]:
        """``count`` values of ``width`` bits; the length is checked before anything is allocated."""
        return unpack_bits(self.take(packed_length(count, width), field), count, width)

    def end(self, field: str) -> None:
        """Nothing may follow."""
        if self.left:
            raise damaged(field, "the end of the data", f"{self.left} more bytes")


def damaged(field: str, expected: str, found: str) -> EmomcError:
    """Error for bytes that no encoder wrote."""
    return EmomcError(f"damaged data: {field}: expected {expected}, found {found}; restore the file from its source.")


def _at_most(value: int, highest: int, field: str) -> int:
    if value > highest:
        raise damaged(field, f"at most {highest}", str(value))
    return value
