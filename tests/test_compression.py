"""Compression of one layer: pruning, uniform quantization and weight sharing against exact referees."""

from __future__ import annotations

import itertools

import kmeans1d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from emomc.compression import (
    METHODS,
    Setting,
    cluster_nonzero,
    kmeans_1d,
    prune_magnitude,
    quantize_largest,
    quantize_uniform,
    share_values,
)
from emomc.compression.quantization import largest_level, storable_scale
from emomc.compression.sharing import MAX_POINTS, distinct_points
from emomc.errors import EmomcError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
WIDTHS = tuple(range(2, 17))


def weights(shape: tuple[int, ...] = (8, 50), seed: int = 0, spread: float = 0.1) -> Floats:
    return (spread * np.random.default_rng(seed).laplace(size=shape)).astype(np.float32)


def error(weight: Floats, approximation: Floats) -> float:
    return float(np.square(approximation.astype(np.float64) - weight).sum())


small_weights = arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 12)),
    elements=st.floats(-2, 2, width=16),  # many ties and zeros
)


# Pruning


@given(weight=small_weights, ratio=st.floats(0, 1))
def test_pruning_removes_exactly_the_smallest(weight: Floats, ratio: float) -> None:
    before = weight.copy()
    pruned = prune_magnitude(weight, ratio)
    assert np.array_equal(weight, before)
    removed = np.flatnonzero(pruned.ravel() != weight.ravel())
    kept = np.setdiff1d(np.arange(weight.size), removed)
    wanted = round(ratio * weight.size)
    assert np.array_equal(pruned.ravel()[kept], weight.ravel()[kept])
    assert np.count_nonzero(pruned == 0) == max(wanted, np.count_nonzero(weight == 0))
    smallest = np.sort(np.abs(weight), axis=None)
    assert np.array_equal(np.sort(np.abs(pruned), axis=None)[wanted:], smallest[wanted:])


@given(weight=small_weights, ratios=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_more_pruning_removes_a_superset(weight: Floats, ratios: tuple[float, float]) -> None:
    less, more = (prune_magnitude(weight, ratio) for ratio in sorted(ratios))
    assert not np.any((less == 0) & (more != 0))


def test_ties_fall_in_memory_order() -> None:
    assert prune_magnitude(np.full((2, 3), -0.5, np.float32), 0.5).tolist() == [[0, 0, 0], [-0.5, -0.5, -0.5]]


# Uniform quantization


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("quantize", [quantize_uniform, quantize_largest])
def test_values_lie_on_the_grid_and_zeros_stay(quantize: type, bits: int) -> None:
    weight = prune_magnitude(weights((6, 4, 3, 3)), 0.4)
    tensor = quantize(weight, bits)
    assert tensor.integers.shape == weight.shape and tensor.bit_width == bits
    assert tensor.integers.dtype == (np.int8 if bits <= 8 else np.int16)
    assert np.abs(tensor.integers).max() <= 2 ** (bits - 1) - 1
    assert not tensor.integers[weight == 0].any()
    assert tensor.scale.shape == ((6,) if quantize is quantize_uniform else (1,))
    assert np.array_equal(np.sign(tensor.integers) * np.sign(weight) < 0, np.zeros(weight.shape, bool))


@given(weight=small_weights, bits=st.integers(2, 9))
def test_clipping_is_never_worse_than_the_whole_range(weight: Floats, bits: int) -> None:
    clipped = quantize_uniform(weight, bits).dequantize()
    for channel, row in enumerate(weight):
        scale = storable_scale(np.array([np.abs(row).max() / largest_level(bits)]))[0].astype(np.float32)
        whole = np.rint(row / scale) * scale
        assert error(row, clipped[channel]) <= error(row, whole) * (1 + 1e-5) + 1e-12


@given(weight=small_weights, bits=st.integers(2, 16))
def test_a_weight_inside_the_grid_moves_by_half_a_step_at_most(weight: Floats, bits: int) -> None:
    tensor = quantize_uniform(weight, bits)
    step = tensor.scale.astype(np.float64)[:, None]
    reach = step * largest_level(bits)
    moved = np.abs(tensor.dequantize().astype(np.float64) - np.clip(weight, -reach, reach))
    assert np.all(moved <= step / 2 * (1 + 1e-5))
    if bits > 9:
        assert np.all(np.abs(weight) <= reach)  # where clipping is not searched, nothing is clipped


@pytest.mark.parametrize("spread", [1e-4, 1e-3, 0.02, 0.1, 1.0, 100.0])
def test_sixteen_bits_are_nearly_lossless(spread: float) -> None:
    """Half a step, a step being a 32,767th of the largest weight, rounded up to the next number of half precision."""
    weight = weights(spread=spread)
    moved = np.abs(quantize_uniform(weight, 16).dequantize() - weight).max()
    assert moved <= (np.abs(weight).max() / 32767 * (1 + 2.0**-10) + 2.0**-24) / 2 * (1 + 1e-4)


def test_more_bits_lose_less() -> None:
    weight = weights((16, 200))
    losses = [error(weight, quantize_uniform(weight, bits).dequantize()) for bits in WIDTHS[:9]]
    assert all(fewer > 2.5 * more for fewer, more in itertools.pairwise(losses))  # a bit quarters a uniform error


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_published_quantization_is_its_formula(bits: int) -> None:
    """Step = max|w| / (2**(b-1) - 1), levels to the nearest; the largest weight makes the step a power of two."""
    level = 2 ** (bits - 1) - 1
    weight = weights()
    weight *= level * 2.0**-10 / np.abs(weight).max()
    weight.ravel()[np.abs(weight).argmax()] = level * 2.0**-10
    step = np.abs(weight).max() / level
    tensor = quantize_largest(weight, bits)
    assert float(tensor.scale[0]) == step == 2.0**-10
    assert np.array_equal(tensor.dequantize(), np.round(weight / step) * step)


@given(small_weights)
def test_the_published_step_is_off_by_less_than_half_precision(weight: Floats) -> None:
    largest = float(np.abs(weight).max())
    step = float(quantize_largest(weight, 4).scale[0])
    assert largest / 7 <= step <= max(largest / 7 * (1 + 2.0**-10), largest / 7 + 2.0**-24)


@given(arrays(np.float64, 10, elements=st.floats(0, 1e9)))
def test_a_stored_scale_is_the_next_half_precision_number(scale: Doubles) -> None:
    stored = storable_scale(scale)
    assert stored.dtype == np.float16 and np.all(stored > 0) and np.all(np.isfinite(stored))
    inside = (scale > 2.0**-24) & (scale < 65504)
    below = np.nextafter(stored, np.float16(0)).astype(np.float64)
    assert np.all(stored[inside].astype(np.float64) >= scale[inside])
    assert np.all(below[inside] < scale[inside])


# Weight sharing


def kmeans_cost(points: Doubles, weight: Doubles, centroids: Doubles) -> float:
    return float((weight * np.square(points[:, None] - centroids[None]).min(axis=1)).sum())


def brute_force_cost(points: Doubles, weight: Doubles, count: int) -> float:
    """Least cost over all ways to cut sorted points into ``count`` runs; optimal clusters in one dimension are runs."""
    best = np.inf
    for cuts in itertools.combinations(range(1, len(points)), count - 1):
        runs = np.split(np.arange(len(points)), cuts)
        means = [np.average(points[run], weights=weight[run]) for run in runs]
        best = min(
            best, sum(float((weight[run] * (points[run] - m) ** 2).sum()) for run, m in zip(runs, means, strict=True))
        )
    return best


@given(
    points=st.lists(st.integers(-50, 50), min_size=1, max_size=9, unique=True),
    seed=st.integers(0, 2**32),
    offset=st.sampled_from([0.0, 1e4]),
)
def test_clusters_of_few_points_are_optimal(points: list[int], seed: int, offset: float) -> None:
    x = np.sort(np.array(points, dtype=np.float64)) / 7 + offset
    weight = np.random.default_rng(seed).integers(1, 20, len(x)).astype(np.float64)
    found = kmeans_1d(x, weight, list(range(1, len(x) + 3)))
    for count, centroids in found.items():
        runs = min(count, len(x))
        assert len(centroids) == runs and np.all(np.diff(centroids) > 0)
        assert kmeans_cost(x, weight, centroids) == pytest.approx(brute_force_cost(x, weight, runs), rel=1e-9, abs=1e-9)


@settings(max_examples=25)
@given(n=st.integers(2, 1500), seed=st.integers(0, 2**32), heavy=st.booleans())
def test_clusters_of_many_points_cost_what_the_library_finds(n: int, seed: int, heavy: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.laplace(size=n) if heavy else np.round(rng.normal(size=n), 1)
    points, weight = distinct_points(values)
    for count, centroids in kmeans_1d(points, weight, (2, 4, 8, 16, 32)).items():
        if count <= len(points):
            optimum = np.array(kmeans1d.cluster(values.tolist(), count).centroids)
            expected = kmeans_cost(points, weight, optimum)
            assert kmeans_cost(points, weight, centroids) <= expected * (1 + 1e-9) + 1e-9


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(-1, 1, width=16)))
def test_few_points_are_not_merged(values: Doubles) -> None:
    points, counts = distinct_points(values)
    assert np.array_equal(np.repeat(points, counts.astype(int)), np.sort(values))


@pytest.mark.parametrize("count", [4, 32])
def test_merging_many_points_costs_no_more_than_its_bound(count: int) -> None:
    """A merged value stands within a cell of width w, so its cells cost n w**2 / 4 at most, and by the triangle
    inequality the clusters found cost at most (sqrt(optimum) + sqrt(cells))**2 + cells."""
    values = np.random.default_rng(0).laplace(size=20_000)
    points, weight = distinct_points(values)
    assert len(points) <= MAX_POINTS and weight.sum() == len(values)
    assert (weight * points).sum() == pytest.approx(values.sum())
    found = kmeans_cost(values, np.ones(len(values)), kmeans_1d(points, weight, [count])[count])
    optimum = np.array(kmeans1d.cluster(values.tolist(), count).centroids)
    least = kmeans_cost(values, np.ones(len(values)), optimum)
    cells = len(values) * (np.ptp(values) / MAX_POINTS) ** 2 / 4
    assert least * (1 - 1e-9) <= found <= (np.sqrt(least) + np.sqrt(cells)) ** 2 + cells
    assert found < least * 1.001


@given(weight=small_weights, count=st.integers(1, 9), bits=st.integers(2, 16))
def test_sharing_leaves_few_values_and_all_zeros(weight: Floats, count: int, bits: int) -> None:
    tensor = share_values(weight, cluster_nonzero(weight, [count]), count, bits)
    assert np.abs(tensor.integers).max() <= largest_level(bits) and tensor.scale.shape == (1,)
    assert len(np.unique(tensor.integers[tensor.integers != 0])) <= count
    assert not tensor.integers[weight == 0].any()
    if weight.any():
        entries = np.unique(tensor.integers[weight != 0]).astype(np.float64) * float(tensor.scale[0])
        nearest = np.abs(weight[weight != 0][:, None] - entries[None]).min(axis=1)
        moved = np.abs(tensor.dequantize() - weight)[weight != 0]
        assert np.all(moved <= nearest + 1e-6)


@pytest.mark.parametrize("count", [4, 16, 32])
def test_a_fine_codebook_costs_what_exact_clusters_cost(count: int) -> None:
    weight = prune_magnitude(weights((8, 4, 3, 3)), 0.5)
    shared = share_values(weight, cluster_nonzero(weight, [count]), count, 16).dequantize()
    kept = weight[weight != 0].astype(np.float64)
    optimum = kmeans_cost(kept, np.ones(len(kept)), np.array(kmeans1d.cluster(kept.tolist(), count).centroids))
    assert optimum * (1 - 1e-6) <= error(weight, shared) <= optimum * 1.001


@given(seed=st.integers(0, 10_000), magnitudes=st.integers(0, 30), counts=st.sets(st.integers(1, 20), min_size=1))
def test_weights_of_any_importance_are_clustered(seed: int, magnitudes: int, counts: set[int]) -> None:
    rng = np.random.default_rng(seed)
    weight = weights((6, 50), seed)
    importance = (10 ** rng.uniform(-magnitudes, 0, weight.shape) * (rng.random(weight.shape) < 0.8)).astype(np.float32)
    clusters = cluster_nonzero(weight, sorted(counts), importance)
    for count in counts:
        centroids = clusters.centroids[count]
        assert len(centroids) == count
        assert np.isfinite(centroids).all() and (np.diff(centroids) > 0).all()
        assert weight.min() <= centroids[0] and centroids[-1] <= weight.max()


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_a_codebook_is_never_worse_than_on_the_whole_range(bits: int) -> None:
    weight = weights((4, 100), seed=3)
    clusters = cluster_nonzero(weight, [4])
    scale = float(storable_scale(np.array([np.abs(clusters.centroids[4]).max() / largest_level(bits)]))[0])
    whole = np.rint(clusters.centroids[4] / scale) * scale
    by_value = whole[np.abs(weight.ravel()[:, None] - clusters.centroids[4][None]).argmin(axis=1)].reshape(weight.shape)
    shared = share_values(weight, clusters, 4, bits).dequantize()
    assert error(weight, shared) <= error(weight, by_value.astype(np.float32)) * (1 + 1e-6)


# Edge cases, for every method

CHOICES = ((16, 0), (8, 32), (4, 4), (3, 4), (2, 0), (2, 4), (16, 4))


@pytest.mark.parametrize("prune_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "weight",
    [
        np.zeros((3, 4), np.float32),
        np.full((1, 1), -0.25, np.float32),
        np.full((4, 2, 3, 3), 0.3, np.float32),
        np.array([[1.0, -1.0], [0.0, 0.0]], np.float32),
        np.array([[5e-8, 0.5], [-1e-20, 1e-30]], np.float32),  # a channel that has died
        np.array([[1e5, -3e6], [2e6, 1.0]], np.float32),  # scales beyond half precision at few bits
        weights((2, 3)) * np.float32(1e-9),
    ],
    ids=["zeros", "one weight", "constant", "signs", "dead channel", "huge", "tiny"],
)
def test_extreme_layers_give_finite_weights_and_keep_zeros(weight: Floats, prune_ratio: float) -> None:
    wanted = [Setting(prune_ratio, *choice) for choice in CHOICES]
    for tensor, (bits, shared) in zip(METHODS["magnitude"](weight, wanted), CHOICES, strict=True):
        result = tensor.dequantize()
        assert np.all(np.isfinite(result)) and tensor.bit_width == bits
        assert not result[prune_magnitude(weight, prune_ratio) == 0].any()
        assert error(weight, result) <= error(weight, np.zeros_like(weight)) * (1 + 1e-6) or shared
    for tensor in METHODS["published"](weight, [Setting(prune_ratio, 8, 0), Setting(prune_ratio, 2, 0)]):
        assert np.all(np.isfinite(tensor.dequantize()))


@pytest.mark.parametrize("bits", [2, 3, 8, 16])
@pytest.mark.parametrize("shared", [0, 4])
def test_a_constant_layer_is_kept(bits: int, shared: int) -> None:
    """One value needs one level of any grid; what remains is the rounding of a scale to half precision."""
    weight = np.full((4, 9), -0.3, np.float32)
    result = next(METHODS["magnitude"](weight, [Setting(0.0, bits, shared)])).dequantize()
    assert np.abs(result - weight).max() <= 0.3 * 2.0**-10 if bits < 16 else 2e-5
    assert len(np.unique(result)) == 1


def test_more_shared_values_than_distinct_weights_keep_every_weight() -> None:
    weight = np.array([[0.5, 0.25, -0.5, 0.0]], np.float32)
    result = next(METHODS["magnitude"](weight, [Setting(0.0, 8, 32)])).dequantize()
    assert np.abs(result - weight).max() < 0.5 / 127 / 2
    assert result[0, 3] == 0


def test_a_codebook_with_room_for_the_whole_grid_shares_nothing() -> None:
    weight = weights()
    for bits, shared in ((2, 2), (2, 32), (3, 6), (4, 14)):
        plain, full = METHODS["magnitude"](weight, [Setting(0.3, bits, 0), Setting(0.3, bits, shared)])
        assert np.array_equal(plain.integers, full.integers) and np.array_equal(plain.scale, full.scale)


def test_the_published_method_refuses_sharing() -> None:
    with pytest.raises(EmomcError, match="fix shared_values to 0"):
        METHODS["published"](weights(), [Setting(0.5, 8, 4)])
