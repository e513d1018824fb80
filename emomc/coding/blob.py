"""One tensor as a self-contained blob: codec, bit-width, scales and integers, in as few bytes as the codecs allow."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from emomc.coding.alphabet import MAX_VALUE
from emomc.coding.codecs import CODECS, smallest
from emomc.coding.tensor import CodedTensor
from emomc.coding.wire import Reader, damaged, pack_bits, packed_length
from emomc.errors import EmomcError

MAX_WEIGHTS = 2**31 - 1
_PER_CHANNEL = 0x80
_RAW, _OFFSET = range(2)


def encode_tensor(tensor: CodedTensor) -> bytes:
    """``tensor`` as a blob, stored by the smallest codec; its length depends on nothing but ``tensor``.

    Raises:
        EmomcError: bit-width, integers or scale break the rules of ``CodedTensor``.
    """
    _check(tensor)
    channels = tensor.integers.shape[0]
    per_channel = tensor.scale.size == channels > 1
    codec, payload = smallest(tensor.integers.ravel())
    head = bytes([codec.tag, tensor.bit_width | (_PER_CHANNEL if per_channel else 0)])
    return head + encode_floats(tensor.scale) + payload


def decode_tensor(data: bytes, shape: tuple[int, ...]) -> CodedTensor:
    """Inverse of ``encode_tensor``, bit-exact; ``shape`` is that of the weight.

    Integers come back as int8 where every value fits, else as int16.

    Raises:
        EmomcError: naming the field that is damaged, or that does not fit ``shape``.
    """
    reader = Reader(data)
    codecs = {codec.tag: codec for codec in CODECS.values()}
    tag, form = reader.byte("codec"), reader.byte("bit-width")
    if tag not in codecs:
        raise damaged("codec", f"one of {sorted(codecs)}", str(tag))
    bit_width = form & ~_PER_CHANNEL
    if not 2 <= bit_width <= 16:
        raise damaged("bit-width", "2 to 16", str(bit_width))
    scale = _read_floats(reader, shape[0] if form & _PER_CHANNEL else 1)
    values = codecs[tag].decode(reader.rest(), math.prod(shape))
    largest = _magnitude(values)
    if largest >= 2 ** (bit_width - 1):
        raise damaged("integers", f"{bit_width}-bit values", str(largest))
    integers = values.astype(np.int8) if largest < 2**7 else values
    return CodedTensor(integers.reshape(shape), scale, bit_width)


def encode_floats(values: NDArray[np.float16]) -> bytes:
    """One-dimensional float16 ``values``, bit-exact: raw, or as packed distances from the smallest bit pattern.

    Positive floats are ordered like their bit patterns, so that scales of like size share their leading bits.
    """
    patterns = values.astype("<f2").view("<u2").astype(np.int64)
    low = int(patterns.min(initial=0xFFFF))
    width = int(patterns.max(initial=low) - low).bit_length()
    if 3 + packed_length(values.size, width) >= 2 * values.size:
        return bytes([_RAW]) + patterns.astype("<u2").tobytes()
    return bytes([_OFFSET, width]) + low.to_bytes(2, "little") + pack_bits(patterns - low, width)


def decode_floats(data: bytes, count: int) -> NDArray[np.float16]:
    """Inverse of ``encode_floats``: ``(count,)`` values; raises ``EmomcError`` on damaged data."""
    reader = Reader(data)
    values = _read_floats(reader, count)
    reader.end("scales")
    return values


def _read_floats(reader: Reader, count: int) -> NDArray[np.float16]:
    if reader.byte("form of the scales", _OFFSET) == _RAW:
        return np.frombuffer(reader.take(2 * count, "scales"), "<f2").astype(np.float16)
    width = reader.byte("width of the scales", 16)
    low = int.from_bytes(reader.take(2, "smallest scale"), "little")
    patterns = low + reader.packed(count, width, "scales").astype(np.int64)
    if patterns.max(initial=0) > 0xFFFF:
        raise damaged("scales", "16-bit patterns", str(patterns.max()))
    return patterns.astype(np.uint16).view(np.float16)


def _check(tensor: CodedTensor) -> None:
    integers, scale = tensor.integers, tensor.scale
    if not 2 <= tensor.bit_width <= 16:
        raise EmomcError(f"bit_width {tensor.bit_width}: expected 2 to 16.")
    if integers.ndim == 0 or not 1 <= integers.size <= MAX_WEIGHTS or integers.dtype.kind != "i":
        raise EmomcError(
            f"integers of shape {integers.shape}, {integers.dtype}: expected signed integers, at least one axis, and "
            f"1 to {MAX_WEIGHTS} weights."
        )
    limit = min(2 ** (tensor.bit_width - 1) - 1, MAX_VALUE)
    if _magnitude(integers) > limit:
        raise EmomcError(f"integers reach {_magnitude(integers)}: {tensor.bit_width} bits hold -{limit} to {limit}.")
    if scale.dtype != np.float16 or scale.shape not in {(1,), integers.shape[:1]}:
        raise EmomcError(
            f"scale of shape {scale.shape}, {scale.dtype}: expected float16 of shape (1,) or {integers.shape[:1]}."
        )


def _magnitude(integers: NDArray[np.signedinteger]) -> int:
    return max(int(integers.max(initial=0)), -int(integers.min(initial=0)))
