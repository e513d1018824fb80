"""What is pruned together: patterns and channels against exhaustive referees, and zeros that stay."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from emomc.compression import (
    METHODS,
    OutputError,
    Setting,
    prune_channels,
    prune_channels_magnitude,
    prune_n_m,
    prune_n_m_magnitude,
    prune_obs,
    relative_error,
)
from emomc.genome import CHANNEL, WEIGHT
from tests.test_compression_obs import a_layer

Floats = NDArray[np.float32]
CHOICES = [(16, 0), (4, 0), (2, 0), (8, 16), (8, 4)]


def conv(channels: int, seed: int = 0, groups: int = 1, outputs: int = 6) -> tuple[Floats, Floats]:
    """A convolution with 1x2 windows, and the Gram matrix of correlated inputs."""
    rng = np.random.default_rng(seed)
    width = 2 * channels
    inputs = np.maximum(rng.normal(size=(groups, width, width)) @ rng.normal(size=(groups, width, 500)), 0)
    weight = rng.laplace(size=(outputs * groups, channels, 1, 2)).astype(np.float32)
    return weight, (inputs @ inputs.transpose(0, 2, 1) / 500).astype(np.float32)


def best_without(gone: set[int], weight: Floats, H: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Least error, and its weights ``(G, R, C, window)``, where the channels that are gone have none."""
    groups, width = H.shape[:2]
    channels = weight.shape[1]
    rows = weight.astype(np.float64).reshape(groups, -1, width)
    kept = [c * (width // channels) + i for c in range(channels) if c not in gone for i in range(width // channels)]
    best, error = np.zeros_like(rows), 0.0
    for g in range(groups):
        best[g][:, kept] = np.linalg.solve(H[g][np.ix_(kept, kept)], H[g][kept] @ rows[g].T).T
        error += float(np.einsum("ri,ij,rj->", best[g] - rows[g], H[g], best[g] - rows[g]))
    return error, best.reshape(weight.shape)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_channels_go_one_by_one_where_least_squares_loses_least(groups: int, ratio: float) -> None:
    weight, gram = conv(10, groups=groups)
    objective = OutputError.of(weight, gram)
    damping = 0.02 * np.einsum("gii->g", gram)[:, None, None] / gram.shape[1]
    H = gram.astype(np.float64) + damping * np.eye(gram.shape[1])
    gone: set[int] = set()
    while len(gone) < round(ratio * 10):
        gone.add(min(set(range(10)) - gone, key=lambda c: best_without(gone | {c}, weight, H)[0]))
    pruned = prune_channels(objective, ratio)
    assert {c for c in range(10) if not pruned[:, c].any()} == gone
    assert np.allclose(pruned, best_without(gone, weight, H)[1], atol=1e-4)


def test_many_channels_go_together_and_it_still_beats_the_norm() -> None:
    weight, gram = conv(60)
    for ratio in (0.3, 0.7):
        pruned, smallest = prune_channels(OutputError.of(weight, gram), ratio), prune_channels_magnitude(weight, ratio)
        for result in (pruned, smallest):
            live = result.any(axis=(0, 2, 3))
            assert live.sum() == 60 - round(ratio * 60)
            assert np.all(result[:, live] != 0)
        norms = np.square(weight).sum(axis=(0, 2, 3))
        assert norms[~smallest.any(axis=(0, 2, 3))].max() <= norms[smallest.any(axis=(0, 2, 3))].min()
        assert relative_error(weight, pruned, gram) < 0.7 * relative_error(weight, smallest, gram)


def test_one_channel_is_left_at_least_and_a_linear_layer_has_channels_too() -> None:
    weight, gram = a_layer("linear")
    for result in (prune_channels(OutputError.of(weight, gram), 1.0), prune_channels_magnitude(weight, 1.0)):
        assert result.any(axis=0).sum() == 1
    assert np.array_equal(prune_channels(OutputError.of(weight, gram), 0.0), weight)


@pytest.mark.parametrize(("keep", "of"), [(2, 4), (1, 4), (3, 5)])
def test_patterns_by_magnitude_keep_the_largest(keep: int, of: int) -> None:
    weight = np.random.default_rng(0).laplace(size=(5, 11, 2, 2)).astype(np.float32)
    pruned = prune_n_m_magnitude(weight, keep, of)
    for k, y, x in np.ndindex(5, 2, 2):
        for start in range(0, 11, of):
            group, left = weight[k, start : start + of, y, x], pruned[k, start : start + of, y, x]
            largest = sorted(range(len(group)), key=lambda i: -abs(group[i]))[:keep]
            assert left.tolist() == [value if i in largest else 0 for i, value in enumerate(group.tolist())]


@pytest.mark.parametrize("method", ["magnitude", "obs"])
@pytest.mark.parametrize(
    ("granularity", "ratio"), [(WEIGHT, 0.0), (WEIGHT, 0.3), (WEIGHT, 0.8), ("2:4", 0.5), (CHANNEL, 0.5)]
)
def test_weights_that_are_zero_already_stay_zero_and_count(method: str, granularity: str, ratio: float) -> None:
    weight, gram = conv(20)
    already = np.random.default_rng(1).random(weight.shape) < 0.6
    already[:, :5] = True
    weight[already] = 0
    zeros = np.count_nonzero(weight == 0)
    settings = [Setting(ratio, *choice, granularity) for choice in CHOICES]
    for tensor in METHODS[method](weight, settings, gram):
        assert not tensor.integers[already].any()
    pruned = next(METHODS[method](weight, settings, gram)).integers != 0
    if granularity == WEIGHT:
        assert weight.size - pruned.sum() == max(round(ratio * weight.size), zeros)
    elif granularity == CHANNEL:
        live = pruned.any(axis=(0, 2, 3))
        assert live.sum() == 10 and not live[:5].any(), "channels that are gone already are the first to go"
    else:
        assert pruned.reshape(6, 5, 4, 1, 2).sum(axis=2).max() <= 2


def test_what_is_kept_makes_up_for_what_was_zero_already_only_where_it_helps() -> None:
    """With nothing left to remove, a sparse layer comes out as it went in."""
    weight, gram = a_layer("conv")
    weight[np.random.default_rng(0).random(weight.shape) < 0.5] = 0
    objective = OutputError.of(weight, gram)
    assert np.array_equal(prune_obs(objective, [0.3])[0], weight)
    sparse = prune_n_m_magnitude(weight, 2, 4)
    assert np.allclose(prune_n_m(OutputError.of(sparse, gram), 2, 4), sparse, atol=1e-5)


@pytest.mark.parametrize("granularity", ["2:4", "1:4", CHANNEL])
def test_degenerate_layers_give_finite_results(granularity: str) -> None:
    weight, gram = a_layer("conv", samples=3)  # fewer inputs than weights
    dead = gram.copy()
    dead[:, :2], dead[:, :, :2] = 0, 0  # inputs that are always zero
    for w, h in ((weight, gram), (weight, dead), (weight, 0 * gram), (0 * weight, gram)):
        for tensor in METHODS["obs"](w, [Setting(0.5, *choice, granularity) for choice in CHOICES], h):
            result = tensor.dequantize()
            assert np.isfinite(result).all()
            assert np.abs(result).max() < 100 * max(np.abs(weight).max(), 1e-6)
