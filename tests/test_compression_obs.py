"""Compensated compression against exact least squares, exhaustive search and the uncompensated methods."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emomc.compression import (
    METHODS,
    OutputError,
    Setting,
    cluster_nonzero,
    cluster_obs,
    prune_magnitude,
    prune_n_m,
    prune_obs,
    quantize_obs,
    quantize_uniform,
    relative_error,
    share_obs,
    share_values,
)
from emomc.compression.obs import revisit, round_in_order, solve_kept
from emomc.genome import CHANNEL, WEIGHT

Floats = NDArray[np.float32]
SHAPES = {"conv": (8, 4, 3, 3), "linear": (6, 50), "grouped": (8, 3, 3, 3), "depthwise": (6, 1, 3, 3)}
GROUPS = {"conv": 1, "linear": 1, "grouped": 2, "depthwise": 6}


def a_layer(kind: str = "conv", seed: int = 0, samples: int = 400) -> tuple[Floats, Floats]:
    """A weight, and the Gram matrix of inputs that are correlated and of unequal size, as those of networks are."""
    rng = np.random.default_rng(seed)
    weight = 0.1 * rng.laplace(size=SHAPES[kind])
    width = int(np.prod(SHAPES[kind][1:]))
    mixing = rng.normal(size=(GROUPS[kind], width, width)) * np.geomspace(1, 0.05, width) + np.eye(width)
    inputs = np.maximum(mixing @ rng.normal(size=(GROUPS[kind], width, samples)), 0)
    return weight.astype(np.float32), (inputs @ inputs.transpose(0, 2, 1) / samples).astype(np.float32)


def white(kind: str = "conv") -> Floats:
    """The Gram matrix of inputs that know nothing of each other."""
    return np.tile(np.eye(int(np.prod(SHAPES[kind][1:])), dtype=np.float32), (GROUPS[kind], 1, 1))


def damped(objective: OutputError, weight: Floats) -> float:
    """The error that is minimised, of a weight in the layer's shape."""
    return float(objective(objective.columns(weight)).sum())


@pytest.mark.parametrize("kind", SHAPES)
def test_objective_is_the_output_error(kind: str) -> None:
    weight, gram = a_layer(kind)
    objective = OutputError.of(weight, gram)
    other = weight + a_layer(kind, seed=1)[0]
    assert np.array_equal(objective.weight(objective.columns(other)), other)
    difference = (other - weight).reshape(len(gram), -1, gram.shape[1]).astype(np.float64)
    damping = 0.02 * np.einsum("gii->g", gram)[:, None, None] / gram.shape[1] * np.eye(gram.shape[1])
    expected = np.einsum("gki,gij,gkj->", difference, gram + damping, difference)
    assert damped(objective, other) == pytest.approx(expected, rel=1e-4)
    undamped = np.einsum("gki,gij,gkj->", difference, gram, difference)
    rows = weight.reshape(difference.shape)
    assert relative_error(weight, other, gram) == pytest.approx(
        undamped / np.einsum("gki,gij,gkj->", rows, gram, rows), rel=1e-4
    )


@pytest.mark.parametrize("kind", SHAPES)
def test_factor_is_of_the_inverse(kind: str) -> None:
    objective = OutputError.of(*a_layer(kind))
    U = objective.factor.double()
    assert torch.equal(U, U.triu())
    product = U.transpose(1, 2) @ U @ objective.gram.double()
    assert torch.allclose(product, torch.eye(U.shape[1], dtype=U.dtype).expand_as(product), atol=1e-3)
    assert bool((objective.diagonal.diff(dim=1) <= 0).all())


@pytest.mark.parametrize("kind", SHAPES)
def test_solving_is_least_squares_of_every_row(kind: str) -> None:
    objective = OutputError.of(*a_layer(kind))
    kept = torch.from_numpy(np.random.default_rng(2).random(objective.target.shape) < 0.4).float()
    solved = solve_kept(objective, objective.target, kept, 2 * objective.gram.shape[1])
    for g, r in itertools.product(range(kept.shape[0]), range(kept.shape[2])):
        on = kept[g, :, r] > 0
        H = objective.gram[g].double()
        exact = torch.linalg.solve(H[on][:, on], H[on] @ objective.target[g, :, r].double())
        assert torch.allclose(solved[g, on, r].double(), exact, atol=1e-3)
        assert not solved[g, ~on, r].any()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("ratio", [0.0, 0.013, 0.5, 0.87, 1.0])
def test_exactly_the_share_is_removed(kind: str, ratio: float) -> None:
    weight, gram = a_layer(kind)
    pruned = prune_obs(OutputError.of(weight, gram), [ratio])[0]
    assert pruned.shape == weight.shape
    assert np.count_nonzero(pruned == 0) == round(ratio * weight.size)
    if ratio == 0:
        assert np.array_equal(pruned, weight)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_on_independent_inputs_it_is_magnitude_pruning(kind: str) -> None:
    weight = a_layer(kind)[0]
    pruned = prune_obs(OutputError.of(weight, white(kind)), [0.6])[0]
    assert np.allclose(pruned, prune_magnitude(weight, 0.6), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_pruning_is_close_to_the_best_of_all_subsets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(9, 9)) @ rng.normal(size=(9, 200))
    weight, gram = rng.normal(size=(1, 9)).astype(np.float32), (inputs @ inputs.T / 200).astype(np.float32)[None]
    objective = OutputError.of(weight, gram)
    H, target = objective.gram[0].double().numpy(), objective.target[0, :, 0].double().numpy()
    best, naive = np.inf, damped(objective, prune_magnitude(weight, 5 / 9))
    for subset in map(list, itertools.combinations(range(9), 4)):
        difference = -target
        difference[subset] += np.linalg.solve(H[np.ix_(subset, subset)], H[subset] @ target)
        best = min(best, float(difference @ H @ difference))
    found = damped(objective, prune_obs(objective, [5 / 9])[0])
    assert best * (1 - 1e-4) <= found <= 1.6 * best
    assert found < naive


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("ratio", [0.3, 0.6, 0.8])
def test_pruning_beats_magnitude_even_if_that_is_compensated(kind: str, ratio: float) -> None:
    weight, gram = a_layer(kind)
    objective = OutputError.of(weight, gram)
    magnitude = prune_magnitude(weight, ratio)
    kept = (objective.columns(magnitude) != 0).float()
    compensated = objective.weight(solve_kept(objective, objective.target, kept, 60))
    errors = [damped(objective, result) for result in (prune_obs(objective, [ratio])[0], compensated, magnitude)]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize(("keep", "of"), [(2, 4), (1, 4), (3, 5), (4, 4)])
@pytest.mark.parametrize("shape", [(8, 12, 3, 3), (6, 50)])
def test_n_of_m_neighbours_remain(keep: int, of: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    weight = rng.laplace(size=shape).astype(np.float32)
    width = weight[0].size
    inputs = np.maximum(rng.normal(size=(width, width)) @ rng.normal(size=(width, 300)), 0)
    gram = (inputs @ inputs.T / 300).astype(np.float32)[None]
    pruned = prune_n_m(OutputError.of(weight, gram), keep, of)
    for start in range(0, shape[1], of):
        group = pruned[:, start : start + of]
        assert np.all(np.count_nonzero(group, axis=1) == min(keep, group.shape[1]))
    largest = np.zeros_like(weight)
    for start in range(0, shape[1], of):
        group = weight[:, start : start + of]
        rank = np.argsort(np.argsort(-np.abs(group), axis=1), axis=1)
        largest[:, start : start + of] = np.where(rank < keep, group, 0)
    if keep < of:
        assert relative_error(weight, pruned, gram) < 0.8 * relative_error(weight, largest, gram)
    else:
        assert np.array_equal(pruned, weight)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_rounding_beats_rounding_to_nearest(kind: str, bits: int) -> None:
    weight, gram = a_layer(kind)
    compensated = next(quantize_obs(OutputError.of(weight, gram), [(weight, bits)]))
    assert compensated.bit_width == bits
    assert np.abs(compensated.integers).max() <= 2 ** (bits - 1) - 1
    nearest = quantize_uniform(weight, bits).dequantize()
    assert relative_error(weight, compensated.dequantize(), gram) < relative_error(weight, nearest, gram)


@pytest.mark.parametrize("bits", [2, 4, 16])
def test_on_independent_inputs_every_weight_is_rounded_to_nearest(bits: int) -> None:
    weight = a_layer()[0]
    coded = next(quantize_obs(OutputError.of(weight, white()), [(weight, bits)]))
    steps = weight / coded.scale.astype(np.float32).reshape(-1, 1, 1, 1)
    level = 2 ** (bits - 1) - 1
    assert np.abs(coded.integers - np.clip(steps, -level, level)).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("count", "bits"), [(16, 8), (4, 8), (4, 4), (1, 8)])
def test_sharing_beats_clustering_that_ignores_the_inputs(kind: str, count: int, bits: int) -> None:
    weight, gram = a_layer(kind)
    pruned = prune_obs(OutputError.of(weight, gram), [0.4])[0]
    objective = OutputError.of(weight, gram)
    coded = next(share_obs(objective, [(pruned, cluster_obs(objective, pruned, [count]), bits, count)]))
    assert np.array_equal(coded.integers[pruned == 0], np.zeros(np.count_nonzero(pruned == 0)))
    assert len(np.unique(coded.integers[pruned != 0])) <= count
    plain = share_values(pruned, cluster_nonzero(pruned, [count]), count, bits).dequantize()
    ours, theirs = (relative_error(weight, result, gram) for result in (coded.dequantize(), plain))
    assert ours < theirs if count > 1 else ours < 1.5 * theirs  # with one value there is nothing to choose


@given(seed=st.integers(0, 10_000), bits=st.integers(2, 5), kind=st.sampled_from(sorted(SHAPES)))
@settings(max_examples=30)
def test_revisiting_never_raises_the_error_and_ends_where_no_single_change_helps(
    seed: int, bits: int, kind: str
) -> None:
    objective = OutputError.of(*a_layer(kind, seed % 50))
    level, step = 2 ** (bits - 1) - 1, 0.15
    kept = torch.from_numpy(np.random.default_rng(seed).random(objective.target.shape) < 0.7).float()

    def snap(column: torch.Tensor) -> torch.Tensor:
        return (column / step).round().clamp(-level, level) * step

    columns = round_in_order(objective, objective.target, kept, snap)
    assert torch.equal(columns, snap(columns) * kept)
    for _ in range(60):
        after = revisit(objective, columns, kept, snap)
        assert bool((objective(after) <= objective(columns) * (1 + 1e-4) + 1e-6).all())
        if torch.equal(after, columns):
            break
        columns = after
    error = objective(columns)
    for j, value in itertools.product(range(columns.shape[1]), range(-level, level + 1)):
        changed = columns.clone()
        changed[:, j] = value * step * kept[:, j]
        assert bool((objective(changed) >= error * (1 - 1e-3) - 1e-5).all())


@pytest.mark.parametrize("kind", SHAPES)
def test_errors_of_pruning_and_of_rounding_what_is_left_add_up(kind: str) -> None:
    """What least squares leaves is orthogonal to every change of the kept weights."""
    weight, gram = a_layer(kind)
    objective = OutputError.of(weight, gram)
    pruned = prune_obs(objective, [0.5])[0]
    rounded = next(quantize_obs(objective, [(pruned, 4)])).dequantize()
    between = damped(OutputError.of(pruned, gram), rounded)
    assert damped(objective, rounded) == pytest.approx(damped(objective, pruned) + between, rel=0.02)
    assert np.all(rounded[pruned == 0] == 0)


@pytest.mark.parametrize("kind", SHAPES)
def test_degenerate_layers_give_finite_results(kind: str) -> None:
    weight, gram = a_layer(kind, samples=3)  # fewer inputs than weights
    dead = gram.copy()
    dead[:, :2], dead[:, :, :2] = 0, 0  # inputs that are always zero
    silent = gram.copy()
    silent[0] = 0  # a group, such as a channel of a depthwise layer, that never sees anything
    tiny = weight.copy()
    tiny[0] *= 1e-12  # an output channel that weight decay has removed
    for w, h in (
        (weight, gram),
        (weight, dead),
        (weight, silent),
        (weight, 0 * gram),
        (0 * weight, gram),
        (tiny, gram),
    ):
        wanted = [Setting(0.5, *choice) for choice in [(16, 0), (4, 0), (2, 0), (8, 4), (4, 4)]]
        for tensor in METHODS["obs"](w, wanted, h):
            result = tensor.dequantize()
            assert np.isfinite(result).all()
            assert np.count_nonzero(result == 0) >= round(0.5 * weight.size)
            assert np.abs(result).max() < 100 * np.abs(weight).max()


def test_without_a_gram_matrix_it_is_the_magnitude_method() -> None:
    weight = a_layer()[0]
    wanted = [Setting(0.4, 8, 0), Setting(0.4, 3, 0), Setting(0.4, 8, 16)]
    pairs = zip(METHODS["obs"](weight, wanted), METHODS["magnitude"](weight, wanted), strict=True)
    assert all(np.array_equal(ours.dequantize(), theirs.dequantize()) for ours, theirs in pairs)


@pytest.mark.parametrize("method", METHODS)
def test_settings_worked_on_together_are_those_worked_on_alone(method: str) -> None:
    weight, gram = a_layer("grouped")
    choices = [(8, 0), (8, 16), (4, 0), (6, 4), (3, 4), (2, 0), (16, 32)]
    prunings = [(0.3, WEIGHT), (0.0, WEIGHT), (0.9, WEIGHT), (0.3, CHANNEL), (0.5, "1:2")]
    wanted = [
        Setting(ratio, bits, 0 if method == "published" else shared, granularity)
        for ratio, granularity in prunings
        for bits, shared in choices
    ]
    together = METHODS[method](weight, wanted, gram)
    for setting, tensor in zip(wanted, together, strict=True):
        (alone,) = METHODS[method](weight, [setting], gram)
        assert tensor.bit_width == alone.bit_width == setting.bit_width
        assert np.allclose(tensor.dequantize(), alone.dequantize(), atol=1e-6)


@pytest.mark.parametrize("kind", SHAPES)
def test_weights_that_are_zero_stay_zero_at_every_ratio(kind: str) -> None:
    weight, gram = a_layer(kind)
    weight = prune_magnitude(weight, 0.5)
    ratios = [0.9, 0.2, 0.5, 0.6]
    for ratio, pruned in zip(ratios, prune_obs(OutputError.of(weight, gram), ratios), strict=True):
        assert np.count_nonzero(pruned == 0) == max(round(ratio * weight.size), np.count_nonzero(weight == 0))
        assert not pruned[weight == 0].any()
