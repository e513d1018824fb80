"""Codecs: exact round trips, exact sizes, closed forms, and closeness to the order-0 entropy."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emomc.coding import CODECS, SHAPED, smallest
from emomc.coding.channelwise import Channelwise
from emomc.coding.huffman import _word_lengths
from emomc.coding.models import TOTAL, _shortest_path, apportion, fit_bell, odds_frequencies, quantize_counts
from emomc.coding.wire import Reader, pack_bits, packed_length, unpack_bits, varint, zigzag
from emomc.errors import EmomcError


def pruned_gaussian(n: int, bits: int, sparsity: float, seed: int = 0) -> np.ndarray:
    """Gaussian weights, the smallest magnitudes pruned, on a symmetric grid that reaches the largest."""
    weights = np.random.default_rng(seed).normal(size=n)
    weights[np.abs(weights) < np.quantile(np.abs(weights), sparsity)] = 0
    return np.rint(weights / np.abs(weights).max() * (2 ** (bits - 1) - 1)).astype(np.int16)


def order0_bits(values: np.ndarray) -> float:
    counts = np.bincount(np.asarray(values, np.int64).ravel() + 2**15)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / values.size)).sum())


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    """0 to 5,000 values, 2 to 16 bits, any sparsity, all values or a codebook of few."""
    n = draw(st.integers(0, 5000))
    limit = 2 ** (draw(st.integers(2, 16)) - 1) - 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from(["uniform", "gaussian", "codebook", "one-sided"]))
    if shape == "codebook":
        values = rng.choice(rng.integers(-limit, limit + 1, draw(st.integers(1, 16))), n)
    elif shape == "gaussian":
        values = np.clip(np.rint(rng.normal(size=n) * limit / 3), -limit, limit)
    else:
        values = rng.integers(0 if shape == "one-sided" else -limit, limit + 1, n)
    values = np.asarray(values, np.int16)
    values[rng.random(n) < draw(st.floats(0, 1))] = 0
    return values


@settings(max_examples=120, deadline=None)
@given(tensors())
@example(np.zeros(0, np.int16))
@example(np.array([32767, -32767], np.int16))
@example(np.full(5000, -3, np.int8))
@example(np.zeros(5000, np.int8))
def test_every_codec_is_bit_exact_and_knows_its_size(values: np.ndarray) -> None:
    sizes = {}
    for name, codec in CODECS.items():
        data = codec.encode(values)
        assert codec.bits(values) == 8 * len(data), name
        np.testing.assert_array_equal(codec.decode(data, values.size), values, err_msg=name)
        sizes[name] = len(data)
    assert CODECS["huffman"].least_bits(values) <= 8 * sizes["huffman"]  # type: ignore[attr-defined]
    winner, data = smallest(values)
    assert len(data) == min(size for name, size in sizes.items() if name not in SHAPED)
    np.testing.assert_array_equal(winner.decode(data, values.size), values)


@settings(deadline=None)
@given(st.integers(0, 32), st.integers(0, 3000), st.integers(0, 2**32))
def test_packing_takes_the_closed_form_and_returns(width: int, n: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 2**width, n)
    data = pack_bits(values, width)
    assert len(data) == packed_length(n, width) == -(-n * width // 8)
    as_number = sum(int(v) << (i * width) for i, v in enumerate(values))
    assert int.from_bytes(data, "little") == as_number
    np.testing.assert_array_equal(unpack_bits(data, n, width), values)


def test_packing_of_several_blocks() -> None:
    values = np.random.default_rng(0).integers(0, 2**11, 2**19 + 13)
    np.testing.assert_array_equal(unpack_bits(pack_bits(values, 11), values.size, 11), values)


@given(st.integers(0, 2**32 - 1), st.integers(-(2**31), 2**31 - 1))
def test_variable_length_integers(unsigned: int, signed: int) -> None:
    assert Reader(varint(unsigned)).varint("value") == unsigned
    assert Reader(zigzag(signed)).zigzag("value", 2**31) == signed
    assert len(varint(unsigned)) == max(1, -(-unsigned.bit_length() // 7))


# Measured with independent encoders: 256 x 784 Gaussian weights pruned by magnitude, then rounded. Bits per weight.
GOLDEN = [
    # bits, sparsity, order-0 entropy, static ANS, Huffman, bitmap, relative index of 4 bits, of 5 bits
    (3, 0.0, 2.098, 2.098, 2.205, 2.85, 4.3, 4.9),
    (4, 0.0, 3.275, 3.275, 3.319, 4.32, 6.6, 7.5),
    (4, 0.7, 1.754, 1.754, 1.875, 2.20, 2.41, 2.70),
    (4, 0.9, 0.736, 0.736, 1.272, 1.40, 0.98, 0.93),
    (8, 0.0, 6.928, 6.929, 6.963, 8.89, 11.8, 12.8),
    (8, 0.7, 2.763, 2.763, 2.892, 3.40, 3.61, 3.90),
    (8, 0.9, 1.062, 1.062, 1.595, 1.80, 1.47, 1.35),
]


def golden_tensor(bits: int, sparsity: float, entropy: float) -> np.ndarray:
    """The clipping, in standard deviations, that comes nearest to the order-0 entropy of the measured tensor."""
    weights = np.random.default_rng(0).normal(size=256 * 784)
    weights[np.abs(weights) < np.quantile(np.abs(weights), sparsity)] = 0
    limit = 2 ** (bits - 1) - 1
    tensors = (np.clip(np.rint(weights * limit / clip), -limit, limit) for clip in np.linspace(1.8, 5, 80))
    return min((values.astype(np.int16) for values in tensors), key=lambda v: abs(order0_bits(v) / v.size - entropy))


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row[0]} bits, {row[1]}")
def test_published_bits_per_weight(row: tuple[float, ...]) -> None:
    bits, sparsity, entropy, ans, huffman, bitmap, relative4, relative5 = row
    values = golden_tensor(int(bits), sparsity, entropy)
    n, kept = values.size, int((values != 0).sum())
    assert order0_bits(values) / n == pytest.approx(entropy, abs=0.006)
    assert CODECS["entropy"].bits(values) / n == pytest.approx(ans, abs=0.009)
    assert CODECS["huffman"].bits(values) / n == pytest.approx(huffman, abs=0.03)
    assert (n + kept * bits) / n == pytest.approx(bitmap, rel=0.03)
    assert CODECS["bitmap"].bits(values) <= n + kept * bits + 8 * 8  # less where the kept values are few
    fillers = [int((np.diff(np.flatnonzero(values), prepend=-1) - 1 >> width).sum()) for width in (4, 5)]
    published = [relative4, relative5]
    for width, filler, expected in zip((4, 5), fillers, published, strict=True):
        assert (kept + filler) * (bits + width) / n == pytest.approx(expected, rel=0.02)
    best = min((kept + filler) * (bits + width) for width, filler in zip((4, 5), fillers, strict=True))
    assert CODECS["relative-index"].bits(values) <= best + 8 * 10


@pytest.mark.parametrize(("n", "kept"), [(36_864, 3686), (36_864, 50), (9_216, 4608)])
def test_sparse_closed_forms(n: int, kept: int) -> None:
    """Values of 8 bits on every kept weight, and: an index each; a column each and a count for each row."""
    rng = np.random.default_rng(n + kept)
    values = np.zeros(n, np.int16)
    positions = np.sort(rng.choice(n, kept, replace=False))
    values[positions] = np.resize(np.concatenate([np.arange(-127, 0), np.arange(1, 128)]), kept)
    listed = CODECS["dense"].bits(values[positions]) // 8
    assert CODECS["coo"].bits(values) == 8 * (2 - (kept < 128) + -(-kept * math.ceil(math.log2(n)) // 8) + listed)
    per_width = [
        -(-kept * w // 8) + -(-math.ceil(n / 2**w) * int(np.bincount(positions // 2**w).max()).bit_length() // 8)
        for w in range(1, 17)
    ]
    assert CODECS["csr"].bits(values) == 8 * (2 + min(per_width) + listed)


@pytest.mark.parametrize("depth", [2, 10, 40])
def test_huffman_words_are_optimal_or_as_long_as_allowed(depth: int) -> None:
    """Fibonacci counts give the longest words: one bit more for every rarer symbol, until 31 bits are reached."""
    counts = [1, 1]
    while len(counts) < depth:
        counts.append(counts[-1] + counts[-2])
    lengths = _word_lengths(np.array(counts))
    assert sum(Fraction(1, 2**length) for length in lengths.tolist()) == 1
    if depth <= 32:
        assert sorted(lengths.tolist()) == [*range(1, depth - 1), depth - 1, depth - 1]
    else:
        assert lengths.max() <= 31


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12])
def test_dense_and_bitmap_closed_forms(bits: int) -> None:
    """n*b and n + nnz*b, in whole bytes, plus the alphabet: 3 bytes here, 4 when the count or the first needs two."""
    limit = 2 ** (bits - 1) - 1
    values = np.resize(np.concatenate([np.arange(-limit, limit + 1), np.zeros(3000, int)]), 9000).astype(np.int16)
    alphabet = 2 + len(zigzag(-limit)) + len(varint(2 * limit)) - 1
    assert CODECS["dense"].bits(values) == 8 * (9000 * bits // 8 + alphabet)
    kept = int((values != 0).sum())
    if bits > 2:  # at 2 bits the non-zeros are -1 and 1, a codebook of two
        assert CODECS["bitmap"].bits(values) == 8 * (9000 // 8 + -(-kept * bits // 8) + alphabet)


def test_dense_uses_a_codebook_when_values_are_few() -> None:
    values = np.resize(np.array([-30000, -11, 0, 25000], np.int16), 8000)
    # zigzag of -30000: 3 bytes; number of followers: 1; gap width: 1; three 15-bit gaps: 6; 2 bits a value.
    assert CODECS["dense"].bits(values) == 8 * (3 + 1 + 1 + 6 + 2000)


@pytest.mark.parametrize("n", [10_000, 36_864, 200_000])
@pytest.mark.parametrize(
    ("bits", "sparsity"), [(2, 0.5), (2, 0.9), (3, 0), (4, 0), (4, 0.7), (4, 0.9), (8, 0), (8, 0.9)]
)
def test_entropy_codec_is_within_one_percent_of_the_order0_entropy(n: int, bits: int, sparsity: float) -> None:
    """1 % over entropy plus side information: 10 bytes, and half a log2(n) for each free parameter of a histogram.

    The second assertion leaves no side information out, where the tensor has more than a few hundred bytes.
    """
    values = pruned_gaussian(n, bits, sparsity)
    side = 8 * 10 + (np.unique(values).size - 1) / 2 * np.log2(n)
    assert CODECS["entropy"].bits(values) <= 1.01 * order0_bits(values) + side
    if n > 30_000 and bits > 2:
        assert CODECS["entropy"].bits(values) <= 1.01 * order0_bits(values)


def test_large_alphabets_need_no_table() -> None:
    """16-bit Gaussian: near the differential entropy of the density, though most values occur once."""
    values = pruned_gaussian(36_864, 16, 0)
    ideal = values.size * 0.5 * np.log2(2 * np.pi * np.e * values.astype(float).var())
    assert CODECS["entropy"].bits(values) < 1.001 * ideal + 8 * 16


@pytest.mark.parametrize(("n", "bits", "sparsity"), [(144, 4, 0.8), (144, 8, 0.9), (432, 2, 0.5), (864, 8, 0.7)])
def test_small_tensors_pay_little_for_their_model(n: int, bits: int, sparsity: float) -> None:
    values = pruned_gaussian(n, bits, sparsity)
    ideal = n * (-(1 - sparsity) * np.log2(1 - sparsity) - sparsity * np.log2(sparsity))  # positions
    kept = values[values != 0].astype(float)
    ideal += kept.size * min(bits, 1 + np.log2(np.e * max(np.abs(kept).mean() - np.abs(kept).min(), 0.4)))
    coded = CODECS["entropy"].bits(values)
    assert coded < min(CODECS["dense"].bits(values), CODECS["bitmap"].bits(values))
    assert coded < 1.1 * ideal + 8 * 12


def test_shared_weights_cost_entropy_plus_a_small_codebook() -> None:
    rng = np.random.default_rng(1)
    codebook = np.array([-97, -41, -13, 0, 5, 33, 71, 120], np.int16)
    values = codebook[rng.choice(8, 20_000, p=[0.05, 0.1, 0.1, 0.5, 0.1, 0.05, 0.05, 0.05])]
    assert CODECS["entropy"].bits(values) < order0_bits(values) + 8 * 30


def test_a_lopsided_tensor_does_not_pay_for_the_other_sign() -> None:
    values = np.abs(pruned_gaussian(20_000, 5, 0.3))
    assert CODECS["entropy"].bits(values) < 1.01 * order0_bits(values)


def test_each_codec_wins_somewhere() -> None:
    rng = np.random.default_rng(2)

    def nonzero(n: int) -> np.ndarray:
        return rng.integers(1, 128, n).astype(np.int16) * rng.choice([-1, 1], n).astype(np.int16)

    few = np.zeros(50_000, np.int16)
    few[rng.choice(few.size, 3)] = [5, -7, 5]
    block = np.zeros(5000, np.int16)
    block[:400] = nonzero(400)
    rows = np.zeros((512, 16), np.int16)  # one of 16 kept
    rows[np.arange(512), rng.integers(0, 16, 512)] = np.abs(nonzero(512))
    tensors = {
        "dense": rng.integers(-127, 128, 500).astype(np.int16),
        "bitmap": np.where(rng.random(40) < 0.2, nonzero(40), 0).astype(np.int16),
        "entropy": pruned_gaussian(9216, 4, 0.8),
        "relative-index": block,
        "csr": rows.ravel(),
        "coo": few,
        "huffman": np.resize(np.array([-90, -90, -90, -90, 7, 7, 31, 120], np.int16), 100),
        "structured": pruned_gaussian(9216, 4, 0.0).reshape(32, 32, 9) * (np.arange(32) % 3 > 0)[:, None],
        "channelwise": uneven(64, 32, 9)[0],
    }
    assert {name: smallest(values)[0].name for name, values in tensors.items()} == {name: name for name in CODECS}


def uneven(outputs: int, inputs: int, window: int) -> tuple[np.ndarray, float]:
    """Weights whose zeros follow the odds of their channels, and the bits that one takes who knows all odds.

    Values other than zero are -3 to 3, all alike often.
    """
    rng = np.random.default_rng(outputs)
    odds = 2.0 ** (rng.normal(size=(outputs, 1)) + rng.normal(size=inputs) * 1.5)
    share = odds / (1 + odds)
    kept = rng.random((outputs, inputs, window)) < share[:, :, None]
    values = np.where(kept, rng.choice([-3, -2, -1, 1, 2, 3], kept.shape), 0).astype(np.int8)
    codes = np.where(kept, -np.log2(share)[:, :, None], -np.log2(1 - share)[:, :, None])
    return values, float(codes.sum()) + math.log2(6) * int(kept.sum())


@st.composite
def structured(draw: st.DrawFn) -> np.ndarray:
    """Weights of any shape with some input channels gone, and N of every M neighbours left, for any N and M."""
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 21)), *draw(st.sampled_from([(), (1, 1), (3, 3), (5,)])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.integers(-7, 8, shape).astype(np.int8)
    m = draw(st.sampled_from([1, 2, 4, 8, 16]))
    n = draw(st.integers(0, m))
    for start in range(0, shape[1], m):
        group = values[:, start : start + m]
        group *= rng.random(group.shape).argsort(axis=1).argsort(axis=1) < n
    values[:, rng.random(shape[1]) < draw(st.floats(0, 1))] = 0
    return values


@settings(max_examples=200, deadline=None)
@given(structured())
def test_structured_zeros_return_and_cost_no_more_than_unstructured_ones(values: np.ndarray) -> None:
    codec = CODECS["structured"]
    data = codec.encode(values)
    np.testing.assert_array_equal(codec.decode(data, values.size), values.ravel())
    assert codec.bits(values) == 8 * len(data)
    winner, best = smallest(values)
    flat = [len(other.encode(values.ravel())) for name, other in CODECS.items() if name not in SHAPED]
    assert best == winner.encode(values if winner.name in SHAPED else values.ravel())
    assert len(best) <= min([*flat, len(data)] if len(values) > 1 else flat)  # one output alone has no structure
    np.testing.assert_array_equal(winner.decode(best, values.size), values.ravel())


@pytest.mark.parametrize(("keep", "of", "limit"), [(2, 4, math.log2(6)), (1, 4, 2.0), (2, 8, math.log2(28))])
def test_a_pattern_costs_the_logarithm_of_the_number_of_patterns(keep: int, of: int, limit: float) -> None:
    """Bits of the positions in every group of neighbours; unstructured zeros would cost the entropy of their share."""
    rng = np.random.default_rng(0)
    kept = rng.random((64, 64 // of, of, 9)).argsort(axis=2).argsort(axis=2) < keep
    values = np.where(kept.reshape(64, 64, 9), rng.choice([-3, -2, -1, 1, 2, 3], (64, 64, 9)), 0).astype(np.int8)
    name, data = smallest(values)[0].name, smallest(values)[1]
    groups = values.size / of
    positions = 8 * len(data) - math.log2(6) * np.count_nonzero(values)
    assert name == "structured"
    assert limit - 0.01 < positions / groups < limit + 0.1
    plain = CODECS["entropy"].bits(values.ravel()) - math.log2(6) * np.count_nonzero(values)
    assert plain / groups > 1.2 * limit


def test_channels_that_are_gone_are_nearly_free() -> None:
    values = np.random.default_rng(0).choice([-3, -2, -1, 1, 2, 3], (64, 64, 9)).astype(np.int8)
    values[:, ::2] = 0
    assert 8 * len(smallest(values)[1]) < math.log2(6) * values.size / 2 + 64 + 8 * 24


def test_zeros_of_uneven_channels_cost_little_more_than_to_one_who_knows_their_odds() -> None:
    values, ideal = uneven(128, 96, 9)
    coded = 8 * len(CODECS["channelwise"].encode(values))
    levels = (128 + 96) * 3  # bits: half a log2 of what a channel's share of zeros is known to
    assert ideal < coded < 1.005 * ideal + levels + 8 * 16
    assert coded < 0.95 * CODECS["entropy"].bits(values.ravel())


def test_sizes_of_uneven_channels_cost_little_more_than_to_one_who_knows_their_laws() -> None:
    """No zeros at all; magnitudes 1 to 100 fall by a factor for each step, whose log is a sum over both channels."""
    rng = np.random.default_rng(0)
    rates = 2 * rng.normal(size=(96, 1, 1)) + 2 * rng.normal(size=(1, 64, 1)) - 2.5
    law = np.exp(rates * np.arange(100) / 99)
    law /= law.sum(-1, keepdims=True)
    chosen = (rng.random((96, 64, 9, 1)) > law.cumsum(-1)[:, :, None]).sum(-1)
    values = ((1 + np.minimum(chosen, 99)) * rng.choice([-1, 1], chosen.shape)).astype(np.int8)
    ideal = values.size - np.log2(np.take_along_axis(law, np.minimum(chosen, 99), -1)).sum()
    coded = 8 * len(CODECS["channelwise"].encode(values))
    assert ideal < coded < 1.006 * ideal + (96 + 64) * 3 + 8 * 60  # of which 60 bytes are the table
    assert coded < 0.98 * order0_bits(values.ravel())


def test_channels_alike_are_left_to_the_entropy_codec() -> None:
    assert Channelwise().attempt(pruned_gaussian(36_864, 4, 0.7).reshape(64, 64, 9)) is None


@settings(max_examples=100, deadline=None)
@given(structured(), st.floats(0, 1), st.integers(0, 2**32))
def test_uneven_weights_of_any_shape_return(values: np.ndarray, wild: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (values.astype(np.int16) * np.where(rng.random(values.shape) < wild, 4681, 1)).astype(np.int16)
    codec = CODECS["channelwise"]
    data = codec.encode(values)
    np.testing.assert_array_equal(codec.decode(data, values.size), values.ravel())
    assert codec.bits(values) == 8 * len(data)


@pytest.mark.parametrize("lean", [-400, -333, -16, -1, 0, 1, 16, 50, 333, 400])
def test_odds_are_the_power_of_two_that_they_say(lean: int) -> None:
    zero, other = odds_frequencies(lean).tolist()
    assert zero + other == TOTAL
    assert zero == pytest.approx(TOTAL * 2 ** (lean / 16) / (1 + 2 ** (lean / 16)), abs=3, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 25), min_size=2, max_size=4).filter(any), st.floats(0.1, 4))
def test_the_path_of_levels_is_the_cheapest_of_all(counts: list[int], rate: float) -> None:
    given_ = np.array(counts)
    start = np.maximum(np.rint(np.sqrt(given_ / 1.5)).astype(np.int64), given_ > 0)
    norm = given_.sum() / (np.log(2) * (start**2).sum())

    def cost(levels: tuple[int, ...]) -> float:
        tried = np.array(levels, float)
        logs = np.log2(np.maximum(tried, 1e-9))
        return float((norm * tried**2 - 2 * given_ * logs).sum() + rate * np.abs(np.diff(tried)).sum())

    best = min(map(cost, itertools.product(range(int(start.max()) + 2), repeat=len(counts))))
    assert cost(tuple(_shortest_path(given_, start, rate).tolist())) == pytest.approx(best)


@given(st.lists(st.integers(0, 2**31), min_size=1, max_size=300), st.integers(400, TOTAL))
def test_apportion_is_proportional_to_rounding(weights: list[int], total: int) -> None:
    shares = apportion(np.array(weights), total)
    assert shares.sum() == total and shares.min() >= 1
    exact = np.array(weights) / max(sum(weights), 1) * (total - len(weights)) + 1
    rest = np.delete(np.arange(len(weights)), np.argmax(weights))
    if any(weights):
        assert np.all(np.abs(shares - exact)[rest] <= 1 + 1e-6 * total)


@pytest.mark.parametrize(("bits", "sparsity"), [(4, 0.0), (4, 0.8), (6, 0.5), (8, 0.0), (8, 0.9)])
def test_bell_fit_is_within_a_byte_of_the_best_of_all_parameters(bits: int, sparsity: float) -> None:
    magnitudes = np.bincount(np.abs(pruned_gaussian(5000, bits, sparsity)))[1:]
    counts = magnitudes[np.flatnonzero(magnitudes)[0] :]
    x = np.arange(counts.size) / (counts.size - 1)
    squares = np.arange(256)[:, None] ** 2 / 1024

    def code_bits(octaves: np.ndarray) -> np.ndarray:
        return octaves @ counts + counts.sum() * np.log2(np.exp2(-octaves).sum(-1))

    best = min(code_bits(slope**2 / 1024 * x + squares * x**2).min() for slope in range(256))
    slope, curve = fit_bell(counts)
    assert code_bits(slope**2 / 1024 * x + curve**2 / 1024 * x**2) <= best + 8


def test_table_levels_keep_every_symbol() -> None:
    assert quantize_counts(np.array([0, 1, 3, 12, 300])).tolist() == [0, 1, 1, 2, 10]


@pytest.mark.parametrize("name", list(CODECS))
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_damaged_payloads_decode_or_raise(name: str, data: st.DataObject) -> None:
    """Never anything but ``EmomcError``. (That nothing was lost is the business of the file's checksum.)"""
    codec = CODECS[name]
    values = data.draw(tensors())
    payload = bytearray(codec.encode(values))
    cut = data.draw(st.integers(0, len(payload) - 1))
    position, flip = data.draw(st.integers(0, len(payload) - 1)), data.draw(st.integers(1, 255))
    truncated = bytes(payload[:cut])
    payload[position] ^= flip
    for damaged in (truncated, bytes(payload)):
        try:
            decoded = codec.decode(damaged, values.size)
        except EmomcError:
            continue
        assert name in {"entropy", "huffman", "structured", "channelwise"} or damaged is not truncated
        assert decoded.shape == values.shape and decoded.dtype == np.int16
