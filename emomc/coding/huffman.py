"""Canonical Huffman codes: the usual yardstick among entropy codes, with its floor of one bit a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np
from bitarray import bitarray
from bitarray.util import canonical_decode, canonical_huffman, int2ba
from numpy.typing import NDArray

from emomc.coding.alphabet import alphabet_length, histogram, read_alphabet, write_alphabet
from emomc.coding.dense import Decoded, Integers
from emomc.coding.wire import BLOCK, Reader, damaged, pack_bits, packed_length

_LONGEST = 31  # bits of a code word; five bits hold its length
_LENGTH_WIDTH = 5


class Huffman:
    """A canonical prefix code: an alphabet, the length of each symbol's code word, and the code words."""

    name = "huffman"
    tag = 6

    def encode(self, values: Integers) -> bytes:
        code = _Code.of(values)
        width = int(code.lengths.max()).bit_length()
        bits = bitarray(endian="little")
        if width:
            bits.encode(_words(code.symbols, code.lengths), values.tolist())
        return write_alphabet(code.symbols) + bytes([width]) + pack_bits(code.lengths, width) + bits.tobytes()

    def decode(self, data: bytes, count: int) -> Decoded:
        reader = Reader(data)
        symbols = read_alphabet(reader)
        width = reader.byte("width of the code lengths", _LENGTH_WIDTH)
        lengths = reader.packed(symbols.size, width, "code lengths").astype(np.int64)
        if symbols.size == 1:
            reader.end("code words")
            return np.full(count, symbols[0], np.int16)
        if int((1 << (_LONGEST - lengths[lengths > 0])).sum()) != 1 << _LONGEST:
            raise damaged("code lengths", "those of a complete prefix code", "others")
        return _read_words(reader.rest(), symbols.astype(np.int16), lengths, count)

    def bits(self, values: Integers) -> int:
        return 8 * _Code.of(values).stored

    def least_bits(self, values: Integers) -> float:
        """A bound below `bits` that is quick to compute.

        The most frequent symbol has a whole number ``l`` of bits, and the others share ``1 - 2**-l`` of all words; the
        lengths of all words are stored, the longest of which is at least ``log2`` of their number.
        """
        counts = histogram(values)[1]
        seen = np.sort(counts[counts > 0])
        if seen.size < 2:
            return 0.0
        *_, most = seen.tolist()
        others, rest = seen[:-1], int(seen[:-1].sum())
        ideal = float(others @ np.log2(rest / others))
        words: float = min(most * n + ideal - rest * math.log2(1 - 2.0**-n) for n in range(1, _LONGEST + 1))
        width = (seen.size - 1).bit_length().bit_length()
        return words + seen.size * width


@dataclass(frozen=True)
class _Code:
    """Alphabet, length of each symbol's word (0: it does not occur, or is the only one), and bytes of everything."""

    symbols: NDArray[np.int64]
    lengths: NDArray[np.int64]
    stored: int

    @classmethod
    def of(cls, values: Integers) -> _Code:
        contiguous, counts = histogram(values)
        seen = np.flatnonzero(counts) if values.size else np.zeros(1, np.intp)
        lengths = np.zeros(contiguous.size, np.int64)
        lengths[seen] = _word_lengths(counts[seen])
        coded = (int(counts @ lengths) + 7) // 8
        width = int(lengths.max()).bit_length()
        choices = [(contiguous, lengths), (contiguous[seen], lengths[seen])]
        sizes = [alphabet_length(each) + 1 + packed_length(each.size, width) + coded for each, _ in choices]
        best = int(np.argmin(sizes))
        return cls(*choices[best], sizes[best])


def _word_lengths(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of an optimal code; counts are made less unequal until every word fits into `_LONGEST` bits."""
    lengths = np.zeros(counts.size, np.int64)
    while counts.size > 1:
        _, tally, order = canonical_huffman(dict(enumerate(counts.tolist())))
        if len(tally) <= _LONGEST + 1:
            lengths[order] = np.repeat(np.arange(len(tally)), tally)
            break
        counts = (counts + 1) // 2
    return lengths


def _canonical(lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many words have each length, and the positions of the symbols in the order of their words."""
    tally = np.bincount(lengths)
    order = np.argsort(lengths, kind="stable")[tally[0] :]
    tally[0] = 0
    return tally, order


def _words(symbols: NDArray[np.int64], lengths: NDArray[np.int64]) -> dict[int, bitarray]:
    """Consecutive numbers, a bit appended wherever the length grows; the first bit is the highest."""
    words = {}
    word = last = 0
    for position in _canonical(lengths)[1].tolist():
        length = int(lengths[position])
        word <<= length - last
        words[int(symbols[position])] = int2ba(word, length, endian="big")
        word, last = word + 1, length
    return words


def _read_words(data: bytes, symbols: Decoded, lengths: NDArray[np.int64], count: int) -> Decoded:
    """``(count,)`` values, and nothing after them but zeros up to the end of a byte."""
    bits = bitarray(endian="little")
    bits.frombytes(data)
    tally, order = _canonical(lengths)
    words = canonical_decode(bits, tally.tolist(), order.tolist())
    values, end = np.empty(count, np.int16), 0
    for start in range(0, count, BLOCK):
        block = values[start : start + BLOCK]
        try:
            index = np.fromiter(islice(words, block.size), np.int32, block.size)
        except ValueError:
            raise damaged("code words", f"{count} values", "fewer") from None
        block[:] = symbols[index]
        end += int(lengths[index].sum())
    if len(bits) - end >= 8 or bits[end:].any():
        raise damaged("code words", f"the end after {count} values", "more")
    return values
