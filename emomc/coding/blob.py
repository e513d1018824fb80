"""One tensor as a self-contained blob: codec, shape, bit-width, scales and integers, in as few bytes as possible."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emomc.coding.alphabet import MAX_VALUE
from emomc.coding.codecs import CODECS, smallest
from emomc.coding.tensor import CodedTensor
from emomc.coding.wire import Reader, damaged, pack_bits, packed_length, varint
from emomc.errors import EmomcError

MAX_WEIGHTS = 2**28  # of a tensor: 2.6 times the largest layer of VGG-16 on ImageNet
MAX_AXES = 15
_CODECS = {codec.tag: codec for codec in CODECS.values()}
_PER_CHANNEL = 0x80
_RAW, _OFFSET = range(2)


@dataclass(frozen=True)
class BlobInfo:
    """What the front of a blob says; the parts sum to the length of the blob.

    Attributes:
        codec: name in `CODECS`.
        shape: of the weight.
        bit_width: of its values.
        scale_count: 1, or the output channels.
        head_bytes: codec, shape and bit-width.
        scale_bytes: the scales.
        payload_bytes: what the codec wrote, its tables and codebooks included.
    """

    codec: str
    shape: tuple[int, ...]
    bit_width: int
    scale_count: int
    head_bytes: int
    scale_bytes: int
    payload_bytes: int

    @property
    def weights(self) -> int:
        """How many integers it holds."""
        return math.prod(self.shape)


def encode_tensor(tensor: CodedTensor) -> bytes:
    """``tensor`` as a blob, stored by the smallest codec; its length depends on nothing but ``tensor``.

    Raises:
        EmomcError: bit-width, integers or scale break the rules of ``CodedTensor``.
    """
    _check(tensor)
    shape = tensor.integers.shape
    per_channel = tensor.scale.size == shape[0] > 1
    codec, payload = smallest(tensor.integers)
    form = bytes([codec.tag | len(shape) << 4, tensor.bit_width | (_PER_CHANNEL if per_channel else 0)])
    return form + b"".join(map(varint, shape)) + encode_floats(tensor.scale) + payload


def decode_tensor(data: bytes, shape: tuple[int, ...] | None = None) -> CodedTensor:
    """Inverse of ``encode_tensor``, bit-exact.

    Integers come back as int8 where every value fits, else as int16.

    Args:
        data: the blob.
        shape: what the weight must be shaped like; checked before anything is decoded.

    Raises:
        EmomcError: naming the field that is damaged, or that does not fit ``shape``.
    """
    info, scale = _read_front(Reader(data), shape)
    payload = data[info.head_bytes + info.scale_bytes :]
    values = CODECS[info.codec].decode(payload, info.weights)
    largest = _magnitude(values)
    if largest >= 2 ** (info.bit_width - 1):
        raise damaged("integers", f"{info.bit_width}-bit values", str(largest))
    integers = values.astype(np.int8) if largest < 2**7 else values
    return CodedTensor(integers.reshape(info.shape), scale, info.bit_width)


def describe_tensor(data: bytes) -> BlobInfo:
    """What a blob holds, without decoding its integers; raises ``EmomcError`` where its front is damaged."""
    return _read_front(Reader(data), None)[0]


def _read_front(reader: Reader, expected: tuple[int, ...] | None) -> tuple[BlobInfo, NDArray[np.float16]]:
    tag, axes = reader.nibbles("codec")
    if tag not in _CODECS:
        raise damaged("codec", f"one of {sorted(_CODECS)} (newer ones need a newer emomc)", str(tag))
    form = reader.byte("bit-width")
    bit_width = form & ~_PER_CHANNEL
    if not 2 <= bit_width <= 16:
        raise damaged("bit-width", "2 to 16", str(bit_width))
    shape = tuple(reader.varint("shape", MAX_WEIGHTS) for _ in range(axes))
    if not shape or not 1 <= math.prod(shape) <= MAX_WEIGHTS:
        raise damaged("shape", f"1 to {MAX_AXES} sizes whose product is 1 to {MAX_WEIGHTS}", str(shape))
    if expected is not None and shape != expected:
        raise damaged("shape", str(expected), str(shape))
    head = reader.position
    count = shape[0] if form & _PER_CHANNEL else 1
    scale = _read_floats(reader, count)
    parts = (head, reader.position - head, reader.left)
    return BlobInfo(_CODECS[tag].name, shape, bit_width, count, *parts), scale


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
    fits = 1 <= integers.ndim <= MAX_AXES and 1 <= integers.size <= MAX_WEIGHTS
    if not fits or integers.dtype.kind != "i":
        raise EmomcError(
            f"integers of shape {integers.shape}, {integers.dtype}: expected signed integers, 1 to {MAX_AXES} axes, "
            f"and 1 to {MAX_WEIGHTS} weights."
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
