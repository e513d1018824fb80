"""The entropy codec: the cheapest of three models, then an asymmetric numeral system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from emomc.coding import models
from emomc.coding.alphabet import MAX_VALUE, histogram, indices, read_alphabet, write_alphabet
from emomc.coding.ans import Coder, check_finished, coded_bytes, new_coder, open_coder, pop, push
from emomc.coding.wire import BLOCK, Reader, damaged, varint

BELL, MIRRORED, TABLE = range(3)
_SPARSEST = 8  # a table over a whole range is not tried where fewer than one in so many integers occur
_MAX_LEVEL = 1 << 15  # level = sqrt(count / 3), of at most 2**31 values

Symbols = NDArray[np.int64]
Choose: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.int64]]  # levels of a table, from counts
Tabulate: TypeAlias = "Callable[[Symbols, NDArray[np.int64], Choose], Plan]"


@dataclass(frozen=True)
class Plan:
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
    plan, coder = plan_model(values), new_coder()
    for start in reversed(range(0, values.size, BLOCK)):  # the coder is a stack: what comes first is pushed last
        push(coder, indices(values[start : start + BLOCK], plan.symbols), plan.frequencies)
    return written(plan, coder)


def plan_model(values: NDArray[np.signedinteger]) -> Plan:
    """The model under which flat ``values`` and the model itself take the fewest bits."""
    symbols, counts = histogram(values)
    seen = np.flatnonzero(counts) if values.size else np.zeros(1, np.intp)
    tables: list[tuple[Tabulate, Symbols, NDArray[np.int64]]] = []
    if symbols.size <= _SPARSEST * seen.size:
        tables.append((_table, symbols, counts))
        if symbols.size > 1:
            tables.append((_mirrored, symbols, counts))
    if seen.size < symbols.size:
        tables.append((_table, symbols[seen], counts[seen]))
    plans = [tabulate(values_, counts_, models.quantize_counts) for tabulate, values_, counts_ in tables]
    best = min([*plans, *([_bell(symbols, counts)] if symbols.size > 1 else [])], key=lambda plan: plan.bits)
    for plan, (tabulate, values_, counts_) in zip(plans, tables, strict=True):
        if plan is best:  # levels that take long to find, for the winner alone
            best = min(best, tabulate(values_, counts_, models.choose_levels), key=lambda plan: plan.bits)
    return best


def written(plan: Plan, coder: Coder) -> bytes:
    """The model's parameters, and what was pushed under it, its table in front."""
    push(coder, plan.differences.astype(np.int32), plan.difference_frequencies)
    return plan.parameters + coded_bytes(coder)


def decode_entropy(data: bytes, count: int) -> NDArray[np.int16]:
    """Inverse of ``encode_entropy``: ``(count,)`` values.

    Raises:
        EmomcError: the bytes are truncated, or do not decode to exactly ``count`` values.
    """
    symbols, frequencies, coder = read_model(Reader(data), count)
    narrow, values = symbols.astype(np.int16), np.empty(count, np.int16)
    for start in range(0, count, BLOCK):
        block = values[start : start + BLOCK]
        block[:] = narrow[pop(coder, frequencies, block.size)]
    check_finished(coder, count)
    return values


def read_model(reader: Reader, count: int) -> tuple[Symbols, models.Frequencies, Coder]:
    """Inverse of ``written``: symbols, their frequencies, and the coder with the values still to come."""
    form = reader.byte("model form", TABLE)
    if form == BELL:
        return _read_bell(reader, count)
    return _read_mirrored(reader) if form == MIRRORED else _read_table(reader)


def _bell(symbols: Symbols, counts: NDArray[np.int64]) -> Plan:
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
    return Plan(parameters, coded, frequencies, *_NO_TABLE, bits + 8 * len(parameters))


def _read_bell(reader: Reader, count: int) -> tuple[Symbols, models.Frequencies, Coder]:
    zeros = reader.varint("number of zeros", count)
    first = reader.varint("smallest magnitude", MAX_VALUE)
    last = reader.varint("largest magnitude", MAX_VALUE)
    if not 1 <= first <= last:
        raise damaged("magnitudes", "1 <= smallest <= largest", f"{first} and {last}")
    slope, curve = (reader.byte("slope"), reader.byte("curve")) if last > first else (0, 0)
    frequencies = models.bell_frequencies(count, zeros, first, last, slope, curve)
    return _bell_symbols(first, last), frequencies, open_coder(reader.rest())


def _bell_symbols(first: int, last: int) -> Symbols:
    sides = np.arange(first, last + 1, dtype=np.int64)
    return np.concatenate([-sides[::-1], [0], sides])


def _mirrored(symbols: Symbols, counts: NDArray[np.int64], choose: Choose) -> Plan:
    """A table over magnitudes, the sign taken as even: half a table for a nearly symmetric tensor."""
    magnitudes = _fold(symbols, counts)
    levels = choose(magnitudes)
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


def _table(symbols: Symbols, counts: NDArray[np.int64], choose: Choose) -> Plan:
    """A table over any alphabet: large or lopsided tensors, and codebooks of shared weights."""
    levels = choose(counts)
    frequencies = models.apportion(levels**2, models.TOTAL)
    head = bytes([TABLE]) + write_alphabet(symbols)
    return _with_table(head, levels, symbols, frequencies, models.cost_bits(counts, frequencies))


def _read_table(reader: Reader) -> tuple[Symbols, models.Frequencies, Coder]:
    symbols = read_alphabet(reader)
    levels, coder = _read_levels(reader, symbols.size)
    return symbols, models.apportion(levels**2, models.TOTAL), coder


def _with_table(
    head: bytes, levels: NDArray[np.int64], symbols: Symbols, frequencies: models.Frequencies, value_bits: float
) -> Plan:
    """Add the table: its first level, then the differences, coded under a decaying model of one fitted byte."""
    differences = np.diff(levels)
    widest = int(np.abs(differences).max(initial=0))
    parameters = head + varint(int(levels[0])) + varint(widest)
    if not widest:
        return Plan(parameters, symbols, frequencies, *_NO_TABLE, value_bits + 8 * len(parameters))
    rate = models.fit_decay(differences, widest)
    decay = models.decay_frequencies(widest, rate)
    parameters += bytes([rate])
    table_bits = float((models.PRECISION - np.log2(decay[differences + widest])).sum())
    bits = value_bits + table_bits + 8 * len(parameters)
    return Plan(parameters, symbols, frequencies, differences + widest, decay, bits)


def _read_levels(reader: Reader, count: int) -> tuple[NDArray[np.int64], Coder]:
    """The ``(count,)`` levels of a table, and the coder with the values still to come."""
    start = reader.varint("first table level", _MAX_LEVEL)
    widest = reader.varint("widest table difference", _MAX_LEVEL)
    if not widest:
        return np.full(count, start, np.int64), open_coder(reader.rest())
    decay = models.decay_frequencies(widest, reader.byte("table rate"))
    coder = open_coder(reader.rest())
    differences = pop(coder, decay, count - 1).astype(np.int64) - widest
    levels = start + np.concatenate([[0], np.cumsum(differences)])
    if levels.min() < 0 or levels.max() > _MAX_LEVEL:
        raise damaged("table levels", f"0 to {_MAX_LEVEL}", f"{levels.min()} to {levels.max()}")
    return levels, coder


def _fold(symbols: Symbols, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each magnitude from 0 up occurs."""
    return np.bincount(np.abs(symbols), weights=counts).astype(np.int64)


_NO_TABLE = (np.zeros(0, np.int64), np.ones(1, np.int64))
