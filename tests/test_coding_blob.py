"""Tensor blobs: bit-exact, self-contained, small when there is little to say, and safe to read when damaged."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from emomc.coding import (
    CODECS,
    SHAPED,
    CodedTensor,
    decode_floats,
    decode_tensor,
    describe_tensor,
    encode_floats,
    encode_tensor,
)
from emomc.errors import EmomcError


@st.composite
def coded_tensors(draw: st.DrawFn) -> CodedTensor:
    bits = draw(st.integers(2, 16))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    limit = 2 ** (bits - 1) - 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    integers = rng.integers(-limit, limit + 1, shape) * (rng.random(shape) > draw(st.floats(0, 1)))
    dtype = np.int8 if np.abs(integers).max() < 128 else np.int16
    patterns = draw(arrays(np.uint16, draw(st.sampled_from([1, shape[0]]))))  # infinities and NaN among them
    return CodedTensor(integers.astype(dtype), patterns.view(np.float16), bits)


@settings(max_examples=100, deadline=None)
@given(coded_tensors())
def test_round_trip_restores_every_bit_and_type(tensor: CodedTensor) -> None:
    data = encode_tensor(tensor)
    back = decode_tensor(data)
    assert back.bit_width == tensor.bit_width
    assert back.integers.dtype == tensor.integers.dtype and back.scale.dtype == np.float16
    assert back.scale.shape == tensor.scale.shape
    np.testing.assert_array_equal(back.integers, tensor.integers)
    np.testing.assert_array_equal(back.scale.view(np.uint16), tensor.scale.view(np.uint16))
    assert encode_tensor(back) == data


def test_length_does_not_depend_on_the_memory_layout() -> None:
    integers = np.random.default_rng(0).integers(-7, 8, (4, 3, 5)).astype(np.int8)
    turned = np.asfortranarray(integers)
    scale = np.ones(4, np.float16)
    assert encode_tensor(CodedTensor(turned, scale, 4)) == encode_tensor(
        CodedTensor(integers.astype(np.int16), scale, 4)
    )


def test_an_empty_layer_takes_a_few_bytes() -> None:
    zeros = np.zeros((64, 64, 3, 3), np.int8)
    assert len(encode_tensor(CodedTensor(zeros, np.ones(1, np.float16), 8))) == 12
    assert len(encode_tensor(CodedTensor(zeros, np.ones(64, np.float16), 8))) == 13


def test_fifteen_million_weights_encode_in_ten_seconds_and_decode_in_three() -> None:
    """The limits are those promised for two cores, here of one processor's time, whatever else runs."""
    integers = np.clip(np.rint(np.random.default_rng(0).laplace(size=(300, 10_000)) * 2), -127, 127).astype(np.int8)
    tensor = CodedTensor(integers, np.ones(300, np.float16), 8)
    start = time.process_time()
    blobs = [encode_tensor(tensor) for _ in range(5)]
    encoded = time.process_time()
    for blob in blobs:
        decode_tensor(blob, integers.shape)
    assert encoded - start < 10 and time.process_time() - encoded < 3


def test_scales_are_counted() -> None:
    """64 scales between two powers of two: 11 bits each instead of 16, plus form, width and the smallest."""
    scales = np.linspace(0.01, 0.0399, 64).astype(np.float16)
    assert len(encode_floats(scales)) == 4 + 64 * 11 // 8
    np.testing.assert_array_equal(decode_floats(encode_floats(scales), 64), scales)


@given(arrays(np.uint16, st.integers(0, 200)))
def test_floats_never_take_more_than_raw_and_a_byte(patterns: np.ndarray) -> None:
    values = patterns.view(np.float16)
    data = encode_floats(values)
    assert len(data) <= 1 + 2 * values.size
    np.testing.assert_array_equal(decode_floats(data, values.size).view(np.uint16), patterns)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (CodedTensor(np.full((2, 2), 8, np.int8), np.ones(1, np.float16), 4), "4 bits hold -7 to 7"),
        (CodedTensor(np.full((2, 2), -(2**15), np.int16), np.ones(1, np.float16), 16), "reach 32768"),
        (CodedTensor(np.zeros((2, 2), np.int8), np.ones(1, np.float16), 17), "expected 2 to 16"),
        (CodedTensor(np.zeros((2, 2), np.int8), np.ones(3, np.float16), 4), "scale of shape"),
        (CodedTensor(np.zeros((2, 2), np.int8), np.ones(1, np.float32), 4), "float32"),  # type: ignore[arg-type]
        (CodedTensor(np.zeros((0, 2), np.int8), np.ones(1, np.float16), 4), "1 to"),
        (CodedTensor(np.zeros((2, 2)), np.ones(1, np.float16), 4), "float64"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_coded_is_refused(tensor: CodedTensor, message: str) -> None:
    with pytest.raises(EmomcError, match=message):
        encode_tensor(tensor)


HEAD = b"\x20\x04\x02\x02"  # dense, two axes, 4 bits, 2 x 2
SCALED = HEAD + b"\x00\x00\x3c"


def as_codec(tag: int) -> bytes:
    return bytes([0x20 | tag]) + SCALED[1:]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        (b"", "codec"),
        (b"\x2f\x04", "codec"),
        (b"\x20\x01", "bit-width"),
        (b"\x20\x04\x02", "shape"),
        (b"\x00\x04\x00", "shape"),
        (b"\x20\x04\x02\x00\x00", "shape"),
        (b"\x20\x04\x80\x80\x80\x40\x03\x00", "shape"),
        (b"\x20\x04\xff\xff\xff\xff\x0f\x01\x00", "shape"),
        (b"\x20\x04\x02\x03\x00\x00\x3c\x00\x00\x00", "shape"),
        (HEAD + b"\x00\x00", "scales"),
        (HEAD + b"\x02", "form of the scales"),
        (b"\x20\x84\x02\x02\x01\x01\xff\xff\x03\x00\x00\x00", "scales"),
        (SCALED + b"\x00\x00\x00\x00", "values"),
        (SCALED + b"\x00\xff\xff\xff\xff\x0f\x10", "number of values"),
        (SCALED + b"\x00\x64\x10", "gaps between values"),
        (b"\x20\x02\x02\x02\x00\x00\x3c\x0e\x00\x00", "integers"),
        (as_codec(2) + b"\x00\x05\x01\x01", "number of zeros"),
        (as_codec(2) + b"\x00\x00\x02\x01", "magnitudes"),
        (as_codec(2) + b"\x00\x00\x01\x01\x01\x00", "coded stream"),
        (as_codec(2) + b"\x00\x00\x01\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff", "coded stream"),
        (as_codec(3) + b"\x05\x00", "number of entries"),
        (as_codec(3) + b"\x02\x11", "index width"),
        (as_codec(3) + b"\x02\x02\x0f\x02\x00\x00", "positions"),
        (as_codec(4) + b"\x11\x00", "column width"),
        (as_codec(4) + b"\x01\x12", "row width"),
        (as_codec(4) + b"\x01\x02\x0b\x00\x00\x00", "rows"),
        (as_codec(4) + b"\x01\x02\x02\x00\x02\x00\x00", "positions"),
        (as_codec(5) + b"\x05", "number of values"),
        (as_codec(5) + b"\x02\x05\x02\x00\x00", "positions"),
        (as_codec(6) + b"\x00\x01\x00\x06", "width of the code lengths"),
        (as_codec(6) + b"\x00\x01\x00\x02\x09", "code lengths"),
        (as_codec(6) + b"\x00\x01\x00\x01\x03", "code words"),
        (as_codec(6) + b"\x00\x01\x00\x01\x03\x1f", "code words"),
        (as_codec(6) + b"\x00\x00\x00\x00\x00", "code words"),
    ],
)
def test_damage_names_its_field(data: bytes, field: str) -> None:
    with pytest.raises(EmomcError, match=f"damaged data: {field}:"):
        decode_tensor(data, (2, 2))


def test_another_shape_than_the_network_has_is_refused() -> None:
    data = encode_tensor(CodedTensor(np.zeros((2, 3), np.int8), np.ones(1, np.float16), 4))
    with pytest.raises(EmomcError, match=r"shape: expected \(3, 2\), found \(2, 3\)"):
        decode_tensor(data, (3, 2))


@given(coded_tensors())
def test_what_a_blob_says_without_being_decoded(tensor: CodedTensor) -> None:
    data = encode_tensor(tensor)
    info = describe_tensor(data)
    assert info.head_bytes + info.scale_bytes + info.payload_bytes == len(data)
    assert (info.shape, info.bit_width) == (tensor.integers.shape, tensor.bit_width)
    assert info.scale_count == tensor.scale.size
    shaped = tensor.integers if info.codec in SHAPED else tensor.integers.ravel()
    assert 8 * info.payload_bytes == CODECS[info.codec].bits(shaped)


@settings(max_examples=150, deadline=None)
@given(coded_tensors(), st.data())
def test_flipped_bytes_decode_or_raise(tensor: CodedTensor, data: st.DataObject) -> None:
    raw = bytearray(encode_tensor(tensor))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(raw), encode_tensor(tensor)[: data.draw(st.integers(0, len(raw) - 1))]):
        try:
            back = decode_tensor(damaged, tensor.integers.shape)
        except EmomcError:
            continue
        assert back.integers.shape == tensor.integers.shape


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(0, 6), st.booleans())
def test_noise_decodes_or_raises(noise: bytes, shape: list[int], tag: int, fronted: bool) -> None:
    front = bytes([tag | len(shape) << 4, 8, *shape]) if fronted else b""
    try:
        decoded = decode_tensor(front + noise, tuple(shape))
    except EmomcError:
        return
    assert decoded.integers.shape == tuple(shape)
