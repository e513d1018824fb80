"""A second decoder, written from docs/format.md with plain Python integers only, reads what the codecs write."""

from __future__ import annotations

import bisect
import itertools
import math
import struct
import zlib
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emomc.coding import CODECS, CodedTensor, describe_tensor, encode_tensor, write_network
from emomc.coding.models import _FRACTIONS

TOTAL = 1 << 24
ROOTS = [int(root) for root in _FRACTIONS]  # checked exactly below


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, n: int) -> bytes:
        assert n <= len(self.data)
        head, self.data = self.data[:n], self.data[n:]
        return head

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = shift = 0
        while True:
            octet = self.byte()
            value |= (octet & 127) << shift
            shift += 7
            if octet < 128:
                return value

    def zigzag(self) -> int:
        code = self.varint()
        return -(code + 1) // 2 if code % 2 else code // 2

    def packed(self, n: int, w: int) -> list[int]:
        number = int.from_bytes(self.take((n * w + 7) // 8), "little")
        return [number >> (i * w) & ((1 << w) - 1) for i in range(n)]


def alphabet(data: Bytes) -> list[int]:
    symbols = [data.zigzag()]
    n, w = data.varint(), data.byte()
    for gap in data.packed(n, w):
        symbols.append(symbols[-1] + gap + 1)
    return symbols


def dense(data: Bytes, n: int) -> list[int]:
    symbols = alphabet(data)
    return [symbols[i] for i in data.packed(n, (len(symbols) - 1).bit_length())]


def bitmap(data: Bytes, n: int) -> list[int]:
    mask = data.packed(n, 1)
    kept = iter(dense(data, sum(mask)))
    return [next(kept) if bit else 0 for bit in mask]


def apportion(weights: list[int], total: int) -> list[int]:
    if not any(weights):
        weights = [1] * len(weights)
    shares = [1 + w * (total - len(weights)) // sum(weights) for w in weights]
    shares[weights.index(max(weights))] += total - sum(shares)
    return shares


def halvings(y: int) -> int:
    return ROOTS[y % 256] >> (y // 256)


class Stream:
    def __init__(self, data: bytes) -> None:
        data += bytes(-len(data) % 4)
        self.words = [word for (word,) in struct.iter_unpack("<I", data)]
        self.state = 0
        for _ in range(min(2, len(self.words))):
            self.state = self.state << 32 | self.words.pop()

    def symbols(self, frequencies: list[int], n: int) -> list[int]:
        if len(frequencies) == 1:
            return [0] * n
        assert sum(frequencies) == TOTAL
        starts = list(itertools.accumulate(frequencies, initial=0))
        return [self.symbol(frequencies, starts) for _ in range(n)]

    def symbol(self, frequencies: list[int], starts: list[int]) -> int:
        q = self.state % TOTAL
        index = bisect.bisect_right(starts, q) - 1
        self.state = frequencies[index] * (self.state // TOTAL) + q - starts[index]
        if self.state < 2**32 and self.words:
            self.state = self.state << 32 | self.words.pop()
        return index


def table(data: Bytes, n: int) -> tuple[list[int], Stream]:
    level, widest = data.varint(), data.varint()
    if widest == 0:
        return [level] * n, Stream(data.data)
    rate = data.byte()
    stream = Stream(data.data)
    decay = apportion([halvings(16 * rate * abs(d)) for d in range(-widest, widest + 1)], TOTAL)
    levels = [level]
    for index in stream.symbols(decay, n - 1):
        levels.append(levels[-1] + index - widest)
    return levels, stream


def entropy(data: Bytes, n: int) -> list[int]:
    symbols, frequencies, stream = model(data, n)
    values = [symbols[i] for i in stream.symbols(frequencies, n)]
    assert stream.state == 0 and not stream.words
    return values


def model(data: Bytes, n: int) -> tuple[list[int], list[int], Stream]:
    form = data.byte()
    if form == 0:
        zeros, first, last = data.varint(), data.varint(), data.varint()
        slope, curve = (data.byte(), data.byte()) if last > first else (0, 0)
        stream = Stream(data.data)
        span = max(last - first, 1)
        side = [halvings((slope**2 * d * span + curve**2 * d * d) // (4 * span**2)) for d in range(last - first + 1)]
        centre = min(max(TOTAL * zeros // max(n, 1), 1), TOTAL - 2 * len(side))
        shares = apportion(side[::-1] + side, TOTAL - centre)
        frequencies = [*shares[: len(side)], centre, *shares[len(side) :]]
        symbols = [*range(-last, -first + 1), 0, *range(first, last + 1)]
    elif form == 1:
        last = data.varint()
        levels, stream = table(data, last + 1)
        symbols = list(range(-last, last + 1))
        frequencies = apportion([levels[abs(v)] ** 2 * (1 if v else 2) for v in symbols], TOTAL)
    else:
        symbols = alphabet(data)
        levels, stream = table(data, len(symbols))
        frequencies = apportion([level**2 for level in levels], TOTAL)
    return symbols, frequencies, stream


def scatter(n: int, positions: list[int], entries: list[int]) -> list[int]:
    values = [0] * n
    for position, entry in zip(positions, entries, strict=True):
        values[position] = entry
    return values


def relative_index(data: Bytes, n: int) -> list[int]:
    m, w = data.varint(), data.byte()
    positions, position = [], -1
    for zeros in data.packed(m, w):
        position += zeros + 1
        positions.append(position)
    return scatter(n, positions, dense(data, m))


def csr(data: Bytes, n: int) -> list[int]:
    w, r = data.byte(), data.byte()
    filled = data.packed(-(-n // 2**w), r)
    rows = [row for row, entries in enumerate(filled) for _ in range(entries)]
    columns = data.packed(len(rows), w)
    positions = [row * 2**w + column for row, column in zip(rows, columns, strict=True)]
    return scatter(n, positions, dense(data, len(rows)))


def coo(data: Bytes, n: int) -> list[int]:
    m = data.varint()
    return scatter(n, data.packed(m, (n - 1).bit_length()), dense(data, m))


def huffman(data: Bytes, n: int) -> list[int]:
    symbols = alphabet(data)
    lengths = data.packed(len(symbols), data.byte())
    if len(symbols) == 1:
        return symbols * n
    words, word, last = {}, 0, 0
    for length, symbol in sorted((length, symbol) for length, symbol in zip(lengths, symbols, strict=True) if length):
        word <<= length - last
        words[f"{word:0{length}b}"] = symbol
        word, last = word + 1, length
    bits = "".join(f"{byte:08b}"[::-1] for byte in data.data)
    values, word_read, used = [], "", 0
    while len(values) < n:
        word_read += bits[used]
        used += 1
        if word_read in words:
            values.append(words[word_read])
            word_read = ""
    assert len(bits) - used < 8 and "1" not in bits[used:]
    return values


def structured(data: Bytes, n: int) -> list[int]:
    channels, window = data.varint(), data.varint()
    form = data.byte()
    live = data.packed(channels, 1) if form & 128 else [1] * channels
    left, size = [c for c in range(channels) if live[c]], form & 127
    places = [(k, c, i) for k in range(n // (channels * window)) for c in left for i in range(window)]
    if size:
        places.sort(key=lambda place: (place[0], place[2], place[1]))
        groups = -(-len(left) // size)
        length = data.varint()
        patterns = entropy(Bytes(data.take(length)), n // channels * groups)
        spots = [
            (k, g * size + b, i)
            for k in range(n // (channels * window))
            for i in range(window)
            for g in range(groups)
            for b in range(size)
        ]
        bits = [pattern >> b & 1 for pattern in patterns for b in range(size)]
        places = [(k, left[c], i) for (k, c, i), bit in zip(spots, bits, strict=True) if bit]
    positions = [(k * channels + c) * window + i for k, c, i in places]
    return scatter(n, positions, entropy(data, len(positions)))


def channelwise(data: Bytes, n: int) -> list[int]:
    channels, window = data.varint(), data.varint()
    outputs = n // (channels * window)
    zero_step, zero_offset, tilt_step = data.byte(), data.zigzag(), data.byte()
    sizes = [
        outputs * (zero_step > 0),
        channels * (zero_step > 0),
        outputs * (tilt_step > 0),
        channels * (tilt_step > 0),
    ]
    levels = entropy(Bytes(data.take(data.varint())), sum(sizes)) if sum(sizes) else []
    a, b, r, s = (levels[sum(sizes[:i]) :][: sizes[i]] or [0] * max(outputs, channels) for i in range(4))
    symbols, frequencies, stream = model(data, 0)
    values, rows = [0] * n, max(1, 2**16 // (channels * window))

    def halved(y: int) -> int:
        return halvings(y) if y < 31 * 256 else 0

    for start in range(0, outputs, rows):
        pairs = [(k, c) for k in range(start, min(start + rows, outputs)) for c in range(channels)]
        kept = []
        for k, c in sorted(pairs, key=lambda pair: a[pair[0]] + b[pair[1]]):
            y = (a[k] + b[c]) * zero_step + zero_offset
            odds = [2**30, halved(16 * y)] if y > 0 else [halved(-16 * y), 2**30]
            kept += [(k, c, i) for i, left in enumerate(stream.symbols(apportion(odds, TOTAL), window)) if left]
        largest, tables = max(1, *map(abs, symbols)), {}
        for k, c, i in sorted(sorted(kept), key=lambda place: r[place[0]] + s[place[1]]):
            level = r[k] + s[c]
            if level not in tables:
                tilt = [16 * tilt_step * level * abs(v) // largest for v in symbols]
                tilted = [f * (halved(max(tilt) - e) >> 17) for f, e in zip(frequencies, tilt, strict=True)]
                tables[level] = apportion(tilted, TOTAL) if tilt_step else frequencies
            values[(k * channels + c) * window + i] = symbols[stream.symbols(tables[level], 1)[0]]
    assert stream.state == 0 and not stream.words
    return values


DECODERS = (dense, bitmap, entropy, relative_index, csr, coo, huffman, structured, channelwise)


def blob(raw: bytes) -> tuple[int, list[int], list[float], list[int]]:
    data = Bytes(raw)
    codec, form = data.byte(), data.byte()
    shape = [data.varint() for _ in range(codec >> 4)]
    scales = shape[0] if form & 128 else 1
    if data.byte() == 0:
        patterns = [int.from_bytes(data.take(2), "little") for _ in range(scales)]
    else:
        w, low = data.byte(), int.from_bytes(data.take(2), "little")
        patterns = [low + distance for distance in data.packed(scales, w)]
    floats = [struct.unpack("<e", p.to_bytes(2, "little"))[0] for p in patterns]
    return form & 127, shape, floats, DECODERS[codec & 15](data, math.prod(shape))


def test_the_roots_of_two_are_exactly_rounded() -> None:
    """r is 2**(30 - i/256) rounded iff (2r - 1)**256 < 2**(256*31 - i) < (2r + 1)**256, in exact integers."""
    for i, root in enumerate(ROOTS):
        assert (2 * root - 1) ** 256 < 2 ** (256 * 31 - i) < (2 * root + 1) ** 256


def laplace(n: int, size: float, limit: int) -> np.ndarray:
    return np.clip(np.rint(np.random.default_rng(n).laplace(size=n) * size), -limit, limit)


def uneven(outputs: int, inputs: int, window: int, most: int, keep: float) -> np.ndarray:
    """Weights whose zeros and sizes differ from channel to channel."""
    rng = np.random.default_rng(outputs)
    factor = np.exp(rng.normal(size=(outputs, 1, 1)) + rng.normal(size=(1, inputs, 1)))
    values = np.clip(np.rint(rng.laplace(size=(outputs, inputs, window)) * factor * most / 9), -most, most)
    return values * (rng.random(values.shape) < keep * factor / (1 + factor))


CASES = {
    "all zero": (np.zeros(12), 2),
    "one weight": (np.array([-300.0]), 16),
    "dense": (np.random.default_rng(0).integers(-127, 128, 90), 8),
    "bitmap": (np.where(np.arange(64) % 9, 0, np.arange(64) * 3 - 90), 8),
    "bell": (laplace(600, 3, 127), 8),
    "bell of ternary": (np.clip(laplace(500, 0.6, 1), -1, 1), 2),
    "mirrored table": (np.where(np.abs(laplace(9000, 4, 7)) < 3, 0, laplace(9000, 4, 7)), 4),
    "lopsided table": (np.abs(laplace(4000, 3, 31)), 6),
    "codebook table": (np.array([-90, -7, 0, 50])[np.minimum(np.abs(laplace(3000, 1, 3)), 3).astype(int)], 8),
    "equal counts": (np.tile([-2, 5], 500), 4),
    "wide": (laplace(400, 3000, 32767), 16),
    "block": (np.where(np.arange(3000) < 250, laplace(3000, 40, 127), 0), 8),
    "one in sixteen": (np.where(np.arange(8192) % 16 == np.arange(8192) // 16 % 7, 1 + np.arange(8192) % 127, 0), 8),
    "few": (np.where(np.isin(np.arange(5000), [70, 3141, 4999]), 9, 0), 5),
    "few values": (np.resize(np.array([-90, -90, -90, -90, 7, 7, 31, 120]), 96), 8),
    "channels gone": (laplace(3240, 4, 7).reshape(6, 60, 3, 3) * (np.arange(60) % 3 > 0)[:, None, None], 4),
    "one of four": (
        np.where(np.arange(42) % 4 == np.arange(60)[:, None] % 4, laplace(2520, 4, 7).reshape(60, 42), 0),
        4,
    ),
    "uneven": (uneven(30, 20, 9, 7, 0.9), 4),
    "uneven bytes in blocks": (uneven(40, 450, 4, 127, 0.1), 8),
    "uneven zeros": (np.sign(uneven(30, 40, 3, 50, 0.7)), 2),
    "uneven sizes alone": (uneven(30, 40, 3, 50, 1e9) + 60, 8),
}


@pytest.mark.parametrize("case", list(CASES))
def test_plain_python_decodes_every_form(case: str) -> None:
    values, bits = CASES[case]
    channels = 2 if values.size % 2 == 0 else 1
    integers = values.astype(np.int16) if values.ndim > 1 else values.astype(np.int16).reshape(channels, -1)
    channels = len(integers)
    scale = np.resize(np.array([0.0123, 0.0119], np.float16), channels)
    bit_width, shape, floats, decoded = blob(encode_tensor(CodedTensor(integers, scale, bits)))
    assert (bit_width, tuple(shape)) == (bits, integers.shape)
    assert floats == scale.astype(float).tolist()
    assert decoded == integers.ravel().tolist()


@pytest.mark.parametrize("name", list(CODECS))
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-300, 300) | st.just(0), min_size=1, max_size=120))
def test_plain_python_decodes_every_codec(name: str, values: list[int]) -> None:
    codec = CODECS[name]
    assert DECODERS[codec.tag](Bytes(codec.encode(np.array(values, np.int16))), len(values)) == values


def test_the_cases_cover_every_codec_and_form() -> None:
    seen = set()
    for values, bits in CASES.values():
        integers = values.astype(np.int16) if values.ndim > 1 else values.astype(np.int16).reshape(1, -1)
        data = encode_tensor(CodedTensor(integers, np.ones(1, np.float16), bits))
        info = describe_tensor(data)
        seen.add((info.codec, data[-info.payload_bytes] if info.codec == "entropy" else None))
    others = {(name, None) for name in CODECS if name != "entropy"}
    assert seen == others | {("entropy", form) for form in (0, 1, 2)}


def test_the_documented_example() -> None:
    tensor = CodedTensor(np.array([[0, 1, -1], [0, 0, 1]], np.int8), np.array([0.5], np.float16), 2)
    text = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
    assert encode_tensor(tensor).hex(" ") in text.split("## Example")[1]


def test_the_documented_container(tmp_path: Path) -> None:
    bias = np.array([[1.5, -2], [0, 3]], np.float32).T
    write_network(tmp_path / "net", {"task": "digits"}, {"conv": b"abc"}, {"bias": bias, "n": np.int64(7).reshape(())})
    data = (tmp_path / "net").read_bytes()
    assert data[:6] == b"EMOMC\0" and data[6:8] == b"\2\0"
    assert int.from_bytes(data[8:12], "little") == zlib.crc32(data[12:])
    index, blobs, arrays = msgpack.unpackb(data[12:])
    header, layers, specs = msgpack.unpackb(zlib.decompress(index))
    assert (header, layers, blobs) == ({"task": "digits"}, ["conv"], [b"abc"])
    assert specs == [["bias", "<f4", [2, 2]], ["n", "<i8", []]]
    assert arrays == [struct.pack("<4f", 1.5, 0, -2, 3), struct.pack("<q", 7)]
