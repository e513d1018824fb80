"""The entropy codec: the cheapest of three models, then an asymmetric numeral system (constriction's ``AnsCoder``).

The coder has 32-bit words, a 64-bit state that starts at 0, and 24-bit integer frequencies. Integers are passed to
``Categorical`` as ``frequency - 1``: it gives 1 to every symbol and splits the rest in proportion, here exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from constriction import stream
from numpy.typing import NDArray

from emomc.coding import models
from emomc.coding.alphabet import MAX_VALUE, histogram, indices, read_alphabet, write_alphabet
from emomc.coding.wire import BLOCK, Reader, damaged, varint

BELL, MIRRORED, TABLE = range(3)
_SPARSEST = 8  # a table over a whole range is not tried where fewer than one in so many integers occur
_MAX_LEVEL = 1 << 15  # level = sqrt(count / 3), of at most 2**31 values

Symbols = NDArray[np.int64]
Coder: TypeAlias = Any  # constriction has no type stubs


@dataclass(frozen=True)
class _Plan:
    """A model ready to be written: its parameters, what it codes, and the table differences that come first if any."""

    parameters: bytes
    symbols: Symbols
    frequencies: models.Frequencies
    differences: NDArray[np.int64]
    difference_frequencies: models.Frequencies
    bits: float


class Entropy:
    """Asymmetric numeral system under a compactly stored model of the values."""

    name = "entropy"
    tag = 2

    def encode(self, values: NDArray[np.signedinteger]) -> bytes:
        return encode_entropy(values)

    def decode(self, data: bytes, count: int) -> NDArray[np.int16]:
        return decode_entropy(data, count)

    def bits(self, values: NDArray[np.signedinteger]) -> int:
        return 8 * len(encode_entropy(values))


def encode_entropy(values: NDArray[np.signedinteger]) -> bytes:
    """Flat ``values`` as: form byte, model parameters, coded stream; the form with the fewest bits."""
    symbols, counts = histogram(values)
    seen = np.flatnonzero(counts) if values.size else np.zeros(1, np.intp)
    plans = []
    if symbols.size <= _SPARSEST * seen.size:
        plans.append(_table(symbols, counts))
        if symbols.size > 1:
            plans.append(_mirrored(symbols, counts))
    if seen.size < symbols.size:
        plans.append(_table(symbols[seen], counts[seen]))
    if symbols.size > 1:
        plans.append(_bell(symbols, counts))
    plan = min(plans, key=lambda plan: plan.bits)
    coder = stream.stack.AnsCoder()
    for start in reversed(range(0, values.size, BLOCK)):  # the coder is a stack: what comes first is pushed last
        _push(coder, indices(values[start : start + BLOCK], plan.symbols), plan.frequencies)
    _push(coder, plan.differences.astype(np.int32), plan.difference_frequencies)
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    return plan.parameters + words.rstrip(b"\0")  # the top word is never 0, so that the length tells what was cut


def decode_entropy(data: bytes, count: int) -> NDArray[np.int16]:
    """Inverse of ``encode_entropy``: ``(count,)`` values.

    Raises:
        EmomcError: the bytes are truncated, or do not decode to exactly ``count`` values.
    """
    reader = Reader(data)
    form = reader.byte("model form", TABLE)
    if form == BELL:
        symbols, frequencies, coder = _read_bell(reader, count)
    elif form == MIRRORED:
        symbols, frequencies, coder = _read_mirrored(reader)
    else:
        symbols, frequencies, coder = _read_table(reader)
    narrow, values = symbols.astype(np.int16), np.empty(count, np.int16)
    for start in range(0, count, BLOCK):
        block = values[start : start + BLOCK]
        block[:] = narrow[_pop(coder, frequencies, block.size)]
    if not coder.is_empty():
        raise damaged("coded stream", f"the end after {count} values", "more")
    return values


def _bell(symbols: Symbols, counts: NDArray[np.int64]) -> _Plan:
    """Zeros counted exactly, magnitudes ``first..last`` along a fitted bell: 5 to 12 bytes of parameters."""
    magnitudes = _fold(symbols, counts)
    first, last = int(np.flatnonzero(magnitudes[1:])[0]) + 1, magnitudes.size - 1
    zeros, count = int(magnitudes[0]), int(counts.sum())
    slope, curve = models.fit_bell(magnitudes[first:]) if last > first else (0, 0)
    frequencies = models.bell_frequencies(count, zeros, first, last, slope, curve)
    coded = _bell_symbols(first, last)
    parameters = bytes([BELL]) + varint(zeros) + varint(first) + varint(last)
    if last > first:
        parameters += bytes([slope, curve])
    seen = counts > 0
    bits = models.cost_bits(counts[seen], frequencies[indices(symbols[seen], coded)])
    return _Plan(parameters, coded, frequencies, *_NO_TABLE, bits + 8 * len(parameters))


def _read_bell(reader: Reader, count: int) -> tuple[Symbols, models.Frequencies, Coder]:
    zeros = reader.varint("number of zeros", count)
    first = reader.varint("smallest magnitude", MAX_VALUE)
    last = reader.varint("largest magnitude", MAX_VALUE)
    if not 1 <= first <= last:
        raise damaged("magnitudes", "1 <= smallest <= largest", f"{first} and {last}")
    slope, curve = (reader.byte("slope"), reader.byte("curve")) if last > first else (0, 0)
    frequencies = models.bell_frequencies(count, zeros, first, last, slope, curve)
    return _bell_symbols(first, last), frequencies, _coder(reader.rest())


def _bell_symbols(first: int, last: int) -> Symbols:
    sides = np.arange(first, last + 1, dtype=np.int64)
    return np.concatenate([-sides[::-1], [0], sides])


def _mirrored(symbols: Symbols, counts: NDArray[np.int64]) -> _Plan:
    """A table over magnitudes, the sign taken as even: half a table for a nearly symmetric tensor."""
    magnitudes = _fold(symbols, counts)
    levels = models.quantize_counts(magnitudes)
    last = magnitudes.size - 1
    frequencies = _mirror(levels)
    head = bytes([MIRRORED]) + varint(last)
    value_bits = models.cost_bits(counts, frequencies[symbols + last])
    return _with_table(head, levels, np.arange(-last, last + 1), frequencies, value_bits)


def _read_mirrored(reader: Reader) -> tuple[Symbols, models.Frequencies, Coder]:
    last = reader.varint("largest magnitude", MAX_VALUE)
    levels, coder = _read_levels(reader, last + 1)
    return np.arange(-last, last + 1), _mirror(levels), coder


def _mirror(levels: NDArray[np.int64]) -> models.Frequencies:
    sides = levels[1:] ** 2
    return models.apportion(np.concatenate([sides[::-1], 2 * levels[:1] ** 2, sides]), models.TOTAL)


def _table(symbols: Symbols, counts: NDArray[np.int64]) -> _Plan:
    """A table over any alphabet: large or lopsided tensors, and codebooks of shared weights."""
    levels = models.quantize_counts(counts)
    frequencies = models.apportion(levels**2, models.TOTAL)
    head = bytes([TABLE]) + write_alphabet(symbols)
    return _with_table(head, levels, symbols, frequencies, models.cost_bits(counts, frequencies))


def _read_table(reader: Reader) -> tuple[Symbols, models.Frequencies, Coder]:
    symbols = read_alphabet(reader)
    levels, coder = _read_levels(reader, symbols.size)
    return symbols, models.apportion(levels**2, models.TOTAL), coder


def _with_table(
    head: bytes, levels: NDArray[np.int64], symbols: Symbols, frequencies: models.Frequencies, value_bits: float
) -> _Plan:
    """Add the table: its first level, then the differences, coded under a decaying model of one fitted byte."""
    differences = np.diff(levels)
    widest = int(np.abs(differences).max(initial=0))
    parameters = head + varint(int(levels[0])) + varint(widest)
    if not widest:
        return _Plan(parameters, symbols, frequencies, *_NO_TABLE, value_bits + 8 * len(parameters))
    rate = models.fit_decay(differences, widest)
    decay = models.decay_frequencies(widest, rate)
    parameters += bytes([rate])
    table_bits = float((models.PRECISION - np.log2(decay[differences + widest])).sum())
    bits = value_bits + table_bits + 8 * len(parameters)
    return _Plan(parameters, symbols, frequencies, differences + widest, decay, bits)


def _read_levels(reader: Reader, count: int) -> tuple[NDArray[np.int64], Coder]:
    """The ``(count,)`` levels of a table, and the coder with the values still to come."""
    start = reader.varint("first table level", _MAX_LEVEL)
    widest = reader.varint("widest table difference", _MAX_LEVEL)
    if not widest:
        return np.full(count, start, np.int64), _coder(reader.rest())
    decay = models.decay_frequencies(widest, reader.byte("table rate"))
    coder = _coder(reader.rest())
    differences = _pop(coder, decay, count - 1).astype(np.int64) - widest
    levels = start + np.concatenate([[0], np.cumsum(differences)])
    if levels.min() < 0 or levels.max() > _MAX_LEVEL:
        raise damaged("table levels", f"0 to {_MAX_LEVEL}", f"{levels.min()} to {levels.max()}")
    return levels, coder


def _fold(symbols: Symbols, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each magnitude from 0 up occurs."""
    return np.bincount(np.abs(symbols), weights=counts).astype(np.int64)


def _push(coder: Coder, index: NDArray[np.int32], frequencies: models.Frequencies) -> None:
    if frequencies.size > 1:  # a single symbol takes no bits
        coder.encode_reverse(index, _categorical(frequencies))


def _pop(coder: Coder, frequencies: models.Frequencies, count: int) -> NDArray[np.int32]:
    if frequencies.size == 1:
        return np.zeros(count, np.int32)
    return np.asarray(coder.decode(_categorical(frequencies), count), np.int32)


def _categorical(frequencies: models.Frequencies) -> Any:
    return stream.model.Categorical((frequencies - 1).astype(np.float64), perfect=False)


def _coder(coded: bytes) -> Coder:
    if coded.endswith(b"\0"):
        raise damaged("coded stream", "a last byte other than 0", "0")
    words = np.frombuffer(coded + bytes(-len(coded) % 4), "<u4").astype(np.uint32)
    return stream.stack.AnsCoder(words) if words.size else stream.stack.AnsCoder()


_NO_TABLE = (np.zeros(0, np.int64), np.ones(1, np.int64))
