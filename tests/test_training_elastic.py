"""Rounding and random configurations in the forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emomc.coding.tensor import CodedTensor
from emomc.compression.quantization import largest_level
from emomc.errors import EmomcError
from emomc.training import Budget, Elastic, ElasticRange, RoundWeights, fit
from emomc.training.elastic import compressed
from emomc.training.fakequant import round_to_grid, rounded
from tests.test_training import RECIPE, STEPS, error, images, network, pruned, same

NAMES = ("conv.weight", "linear.weight")


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(0, 99), st.floats(1e-3, 1e3))
def test_rounding_is_storable_and_keeps_zeros(bits: int, seed: int, size: float) -> None:
    weight = size * torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    weight[weight.abs() < 0.3 * size] = 0
    level = largest_level(bits)
    integers, step = round_to_grid(weight, level)
    assert float(integers.abs().max()) <= level
    assert torch.equal(integers, integers.round())
    coded = CodedTensor(integers.numpy().astype(np.int8), step.half().numpy(), bits)
    assert np.array_equal(coded.dequantize(), rounded(weight, level).numpy())
    assert not bool(integers[weight == 0].any())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("zeros", [0.0, 0.8, 0.95])
def test_rounding_is_near_the_best_step(bits: int, zeros: float) -> None:
    weight = torch.randn(8, 3000, generator=torch.Generator().manual_seed(0))
    weight[weight.abs() < weight.abs().flatten().quantile(zeros)] = 0
    level = largest_level(bits)
    ends = weight.abs().amax(1, keepdim=True) * torch.linspace(0.2, 1, 81)[:, None, None] / level
    best = (((weight / ends).round().clamp(-level, level) * ends - weight) ** 2).sum(2).amin(0)
    found = ((rounded(weight, level) - weight) ** 2).sum(1)
    assert float(found.sum() / best.sum()) < 1.6


def test_a_layer_of_zeros_stays_one() -> None:
    assert not bool(rounded(torch.zeros(2, 3), 3).any())


def test_training_with_rounded_weights_beats_rounding_afterwards() -> None:
    levels = dict.fromkeys(NAMES, largest_level(2))

    def loss_when_rounded(module: torch.nn.Module) -> float:
        state = module.state_dict()
        for name in NAMES:
            state[name].copy_(rounded(state[name], levels[name]))
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(module(images().inputs), images().targets))

    budget = Budget(epochs=6)
    plain = fit(network(), images(), RECIPE, budget)
    aware = fit(network(), images(), RECIPE, budget, regime=RoundWeights(levels))
    assert loss_when_rounded(aware.module) < loss_when_rounded(plain.module)


def test_rounding_keeps_zeros_while_training() -> None:
    start = pruned()
    regime = RoundWeights.keeping_zeros(start, dict.fromkeys(NAMES, 3))
    after = fit(start, images(), RECIPE, STEPS, regime=regime).module.get_parameter("conv.weight")
    assert torch.equal(after == 0, start.get_parameter("conv.weight") == 0)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 0.95), st.sampled_from([16, 8, 4, 3, 2]), st.sampled_from([0, 16, 8, 4, 3]), st.integers(0, 99))
def test_a_compressed_weight_has_the_zeros_and_values_asked_for(
    ratio: float, bits: int, shared: int, seed: int
) -> None:
    weight = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    value = compressed(weight, ratio, bits, shared)
    count = round(ratio * weight.numel())
    smallest = weight.detach().abs().flatten().argsort()[:count]
    assert not bool(value.flatten()[smallest].any())
    value.sum().backward()
    assert weight.grad is not None
    gradient = weight.grad.flatten()
    assert int((gradient == 0).sum()) == count  # pruned weights have no gradient, the others have it whole
    assert set(gradient.tolist()) <= {0.0, 1.0}
    if bits < 16 or shared:
        most = 2 * min(largest_level(bits), -(-shared // 2) if shared else 1 << 20)
        for row in value.detach().flatten(1):
            assert len(set(row[row != 0].tolist())) <= most


def test_elastic_training_improves_compressed_networks_and_repeats() -> None:
    budget, choices = Budget(epochs=8), ElasticRange((0.0, 0.5, 0.75), (16, 4, 3), (0, 4))

    def loss_when_compressed(module: torch.nn.Module) -> float:
        state = module.state_dict()
        for name in NAMES:
            state[name].copy_(compressed(state[name], 0.75, 3, 4))
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(module(images().inputs), images().targets))

    plain = fit(network(), images(), RECIPE, budget)
    elastic = fit(network(), images(), RECIPE, budget, regime=Elastic(NAMES, choices))
    assert same(elastic.module, fit(network(), images(), RECIPE, budget, regime=Elastic(NAMES, choices)).module)
    assert error(elastic.module, images()) < 0.1
    assert loss_when_compressed(elastic.module) < loss_when_compressed(plain.module)


def test_statistics_are_those_of_the_network_that_is_not_compressed() -> None:
    # With a rate so small that weights stay, running statistics must be those of plain training.
    still = type(RECIPE)(**{**vars(RECIPE), "learning_rate": 1e-30})
    plain = fit(network(), images(), still, STEPS).module.state_dict()
    elastic = fit(network(), images(), still, STEPS, regime=Elastic(NAMES)).module.state_dict()
    for name in ("norm.running_mean", "norm.running_var", "norm.num_batches_tracked"):
        assert torch.equal(plain[name], elastic[name])


def test_choices_that_make_no_sense_are_refused() -> None:
    with pytest.raises(EmomcError, match="at least one choice"):
        ElasticRange(prune_ratios=())
    with pytest.raises(EmomcError, match="below 1"):
        ElasticRange(prune_ratios=(0.0, 1.0))
