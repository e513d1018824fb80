"""Pruning a whole network at once: paths of layers, and the ratios that lose least together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from emomc.compression import Calibration
from emomc.compression.hessian import collect_grams
from emomc.compression.obs import relative_error
from emomc.compression.pruning import prune_magnitude
from emomc.compression.whole import PATH, choose_ratios, prune_network, prune_path
from emomc.errors import EmomcError
from emomc.network import trace

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(12, 5, 3, 3)).astype(np.float32)


def gram() -> np.ndarray:
    inputs = RNG.normal(size=(45, 300)) * np.linspace(0.2, 2, 45)[:, None]
    inputs += inputs[::-1]  # columns that can make up for each other
    return (inputs @ inputs.T / 300).astype(np.float32)[None]


def test_a_path_has_the_zeros_asked_for_nested_and_better_than_magnitude() -> None:
    H = gram()
    path = prune_path(WEIGHT, H)
    assert path.ratios == PATH
    before = np.zeros(WEIGHT.shape, bool)
    for ratio, weight in zip(path.ratios, path.weights, strict=True):
        assert np.count_nonzero(weight == 0) == round(ratio * WEIGHT.size)
        assert not np.any(before & (weight != 0))
        before = weight == 0
        assert relative_error(WEIGHT, weight, H) < relative_error(WEIGHT, prune_magnitude(WEIGHT, ratio), H)
    assert np.all(np.diff(path.errors) > 0)
    # The reported error is that of the weights, up to the damping of the Gram matrix.
    assert path.errors[3] == pytest.approx(relative_error(WEIGHT, path.weights[3], H), rel=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (4, 4)])
def test_a_path_of_a_small_layer_ends_where_nothing_is_left(shape: tuple[int, int]) -> None:
    weight, inputs = RNG.normal(size=shape).astype(np.float32), RNG.normal(size=(shape[1], 50))
    path = prune_path(weight, (inputs @ inputs.T / 50).astype(np.float32)[None])
    zeros = [int((each == 0).sum()) for each in path.weights]
    assert zeros == [round(ratio * weight.size) for ratio in PATH]
    assert zeros[-2:] == [weight.size] * 2
    assert path.errors[-2:] == pytest.approx(1)


def test_without_inputs_a_path_goes_by_magnitude() -> None:
    path = prune_path(WEIGHT, None, (0.5, 0.9))
    assert np.array_equal(path.weights[1], prune_magnitude(WEIGHT, 0.9))
    assert path.errors[1] == pytest.approx(np.square(WEIGHT - path.weights[1]).sum() / np.square(WEIGHT).sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
def test_chosen_ratios_are_the_best_of_all(layers: int, choices: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses, costs = rng.random((2, layers, choices))
    limit = rng.uniform(1.05 * costs.min(1).sum(), costs.max(1).sum() + 0.2)
    rows = np.arange(layers)
    chosen = choose_ratios(losses, costs, limit)
    assert costs[rows, chosen].sum() <= limit + 1e-9
    slack = limit * (1 - (layers + 1) / 4000)  # costs are rounded up to a 4000th of the limit
    best = min(
        losses[rows, list(each)].sum()
        for each in itertools.product(range(choices), repeat=layers)
        if costs[rows, list(each)].sum() <= slack
    )
    assert losses[rows, chosen].sum() <= best + 1e-9


def test_a_limit_that_nothing_meets_is_an_error() -> None:
    with pytest.raises(EmomcError, match="cost 3, too much for a limit of 2"):
        choose_ratios(np.zeros((3, 1)), np.ones((3, 1)), 2.0)


def test_a_network_pruned_as_a_whole_saves_what_was_asked_and_loses_less_than_layers_alike() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 5)
    ).eval()
    x = torch.randn(64, 3, 4, 4)
    network = trace(module, x[:1])
    pruned, ratios = prune_network(Calibration(module, network, x), 0.7)
    layers = network.layers
    work = [layer.macs / network.macs for layer in layers]
    weights = [layer.weight_count / network.weight_count for layer in layers]
    zeros = [float((pruned.state_dict()[layer.weight] == 0).float().mean()) for layer in layers]
    assert zeros == pytest.approx([ratios[layer.name] for layer in layers], abs=0.01)
    assert sum((w + n) / 2 * z for w, n, z in zip(work, weights, zeros, strict=True)) >= 0.69
    grams = collect_grams(module, network, x)
    lost = sum(
        relative_error(
            module.state_dict()[layer.weight].numpy(), pruned.state_dict()[layer.weight].numpy(), grams[layer.name]
        )
        for layer in layers
    )
    alike = sum(
        float(prune_path(module.state_dict()[layer.weight].numpy(), grams[layer.name], (0.7,)).errors[0])
        for layer in layers
    )
    assert lost < alike
    with pytest.raises(EmomcError, match="below 1"):
        prune_network(Calibration(module, network, x), 1.0)
