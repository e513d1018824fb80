"""Where the zeros are structured: input channels that are gone take a bit each, N:M patterns a symbol a group."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emomc.coding.dense import Decoded, Integers
from emomc.coding.entropy import decode_entropy, encode_entropy
from emomc.coding.wire import Reader, damaged, pack_bits, varint

_GROUPS = (4, 8)  # neighbouring channels whose pattern of non-zeros is one symbol
_DROPPED = 0x80
_GLANCE = 16


class Structured:
    """The channels that are left, under the entropy codec; in groups, their patterns and then their non-zeros.

    Values come in the shape of the weight, outputs and inputs first; flat ones are one output of that many inputs.
    """

    name = "structured"
    tag = 7

    def encode(self, values: Integers) -> bytes:
        cube = _cube(values)
        _, channels, window = cube.shape
        live = np.asarray(cube.any(axis=(0, 2)))
        left = cube[:, live]
        dropped = not live.all()
        front = varint(channels) + varint(window)
        mask = pack_bits(live.astype(np.uint8), 1) if dropped else b""
        forms = [bytes([_DROPPED * dropped]) + mask + encode_entropy(left.ravel())]
        for size in _GROUPS:
            groups = _groups(left, size)
            if _has_pattern(groups):
                patterns = np.packbits(groups != 0, axis=1, bitorder="little")[:, 0]
                coded = encode_entropy(patterns.astype(np.int16))
                kept = encode_entropy(groups[groups != 0])
                forms.append(bytes([size | _DROPPED * dropped]) + mask + varint(len(coded)) + coded + kept)
        return front + min(forms, key=len)

    def decode(self, data: bytes, count: int) -> Decoded:
        reader = Reader(data)
        channels, window = reader.varint("channels", count), reader.varint("window", max(count, 1))
        if channels * window == 0 if count else channels:
            raise damaged("channels and window", "at least 1", f"{channels} and {window}")
        if count % max(channels * window, 1):
            raise damaged("channels and window", f"a divisor of {count}", f"{channels} times {window}")
        rows = count // max(channels * window, 1)
        form = reader.byte("form")
        live = np.ones(channels, bool)
        if form & _DROPPED:
            live = reader.packed(channels, 1, "channels that are left").astype(bool)
        left, size = int(live.sum()), form & ~_DROPPED
        cube = np.zeros((rows, channels, window), np.int16)
        if size == 0:
            cube[:, live] = decode_entropy(reader.rest(), rows * left * window).reshape(rows, left, window)
        elif size in _GROUPS:
            cube[:, live] = _read_groups(reader, size, rows, left, window)
        else:
            raise damaged("group size", f"0 or one of {_GROUPS}", str(size))
        return cube.ravel()

    def bits(self, values: Integers) -> int:
        return 8 * len(self.encode(values))

    def pays(self, values: Integers) -> bool:
        """Whether several outputs share a structure; without it, this is the entropy codec and a few bytes."""
        cube = _cube(values)
        if len(cube) == 1:
            return False
        few = cube[:_GLANCE]  # most tensors have no structure, and the first outputs tell
        dropped = not few.any(axis=(0, 2)).all() and not cube.any(axis=(0, 2)).all()
        return dropped or any(_has_pattern(_groups(few, n)) and _has_pattern(_groups(cube, n)) for n in _GROUPS)


def _cube(values: Integers) -> Integers:
    """Outputs, input channels, window."""
    if values.ndim < 2:
        return values.reshape(1, -1, 1)
    return values.reshape(*values.shape[:2], -1)


def _groups(cube: Integers, size: int) -> Integers:
    """Values of neighbouring channels side by side, ``(groups, size)``; zeros fill up the last group of a row."""
    rows = np.pad(cube.transpose(0, 2, 1), [(0, 0), (0, 0), (0, -cube.shape[1] % size)])
    return rows.reshape(-1, size)


def _has_pattern(groups: Integers) -> bool:
    """Whether no group is more than half full."""
    half = groups.shape[1] // 2
    return groups.size > 0 and int(np.count_nonzero(groups, axis=1).max()) <= half


def _read_groups(reader: Reader, size: int, rows: int, left: int, window: int) -> NDArray[np.int16]:
    per_row = -(-left // size)
    length = reader.varint("length of the patterns", reader.left)
    patterns = decode_entropy(reader.take(length, "patterns"), rows * window * per_row)
    if patterns.size and not 0 <= int(patterns.min()) <= int(patterns.max()) < 1 << size:
        raise damaged("patterns", f"0 to {(1 << size) - 1}", f"{patterns.min()} to {patterns.max()}")
    bits = np.unpackbits(patterns.astype(np.uint8)[:, None], axis=1, count=size, bitorder="little")
    kept = bits.astype(bool).reshape(rows, window, per_row * size)
    if kept[:, :, left:].any():
        raise damaged("patterns", f"nothing beyond {left} channels", "more")
    groups = np.zeros(kept.shape, np.int16)
    groups[kept] = decode_entropy(reader.rest(), int(kept.sum()))
    return groups[:, :, :left].transpose(0, 2, 1)
