"""Statistics correction: the dense network stays as it is, affine changes are undone, amplification is bounded."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from emomc.accuracy.correction import (
    MAX_VARIANCE_RATIO,
    Statistics,
    collect_statistics,
    correct_statistics,
    load_statistics,
    movable_biases,
    running_statistics,
)
from emomc.network import trace
from emomc.problems.tasks.networks import resnet

INPUTS = torch.randn(64, 3, 9, 9, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    """Two convolutions with batch norms whose running statistics are not those of `INPUTS`."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.BatchNorm2d(5),
        nn.Flatten(),
        nn.Linear(125, 4),
    )
    for norm in (module[1], module[4]):
        norm.eps = 1e-12  # an affine change of the inputs is undone up to eps
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    module.train()
    with torch.no_grad():
        for _ in range(20):
            module(0.8 * torch.randn(50, 3, 9, 9) + 0.3)
    return module.eval().requires_grad_(False)


DENSE = network()
STATISTICS, OUTPUT = collect_statistics(DENSE, INPUTS)


def same_state(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def affine(scale: torch.Tensor | float, shift: torch.Tensor | float) -> nn.Module:
    """The dense network with the first convolution's output scaled and shifted, channel by channel."""
    module = copy.deepcopy(DENSE)
    module[0].weight.mul_(torch.as_tensor(scale).reshape(-1, 1, 1, 1))
    module[0].bias.mul_(scale).add_(shift)
    return module


def test_collecting_gives_the_moments_of_the_inputs_and_changes_nothing() -> None:
    module = copy.deepcopy(DENSE)
    statistics, output = collect_statistics(module, INPUTS)
    seen = module[0](INPUTS).double().numpy()
    assert statistics["1"][0].numpy() == pytest.approx(seen.mean(axis=(0, 2, 3)), rel=1e-4, abs=1e-6)
    assert statistics["1"][1].numpy() == pytest.approx(seen.var(axis=(0, 2, 3)), rel=1e-4)
    assert list(statistics) == ["1", "4"]
    assert torch.equal(output, module(INPUTS)) and same_state(module, DENSE)
    assert not any(child._forward_pre_hooks for child in module.modules())


@given(st.floats(0, 2))
def test_the_dense_network_is_unchanged_to_the_last_bit_at_any_strength(strength: float) -> None:
    module = copy.deepcopy(DENSE)
    output = correct_statistics(module, INPUTS, STATISTICS, strength)
    assert same_state(module, DENSE)
    assert torch.equal(output, OUTPUT)


@given(
    scale=st.lists(st.floats(0.6, 1.6), min_size=6, max_size=6),
    shift=st.lists(st.floats(-1, 1), min_size=6, max_size=6),
)
def test_an_affine_change_of_a_batch_norms_input_is_undone_at_full_strength(
    scale: list[float], shift: list[float]
) -> None:
    """For any inputs, not only those that were corrected on, and although the running statistics are others."""
    module = affine(torch.tensor(scale), torch.tensor(shift))
    output = correct_statistics(module, INPUTS, STATISTICS, 1.0)
    torch.testing.assert_close(output, OUTPUT, rtol=1e-3, atol=1e-3)
    others = 3 * torch.randn(20, 3, 9, 9, generator=torch.Generator().manual_seed(2)) - 1
    torch.testing.assert_close(module(others), DENSE(others), rtol=1e-3, atol=5e-3)


def test_a_later_batch_norm_sees_the_earlier_ones_corrected() -> None:
    """What the first one undoes does not reach the second, whose statistics therefore stay."""
    module = affine(1.4, 0.7)
    correct_statistics(module, INPUTS, STATISTICS, 1.0)
    assert not torch.allclose(module[1].running_mean, DENSE[1].running_mean, atol=0.1)
    torch.testing.assert_close(module[4].running_mean, DENSE[4].running_mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(module[4].running_var, DENSE[4].running_var, rtol=1e-3, atol=1e-4)


def test_strength_zero_changes_nothing_and_half_a_shift_is_half_undone() -> None:
    module = affine(1.0, 0.5)
    kept = copy.deepcopy(module)
    correct_statistics(module, INPUTS, STATISTICS, 0.0)
    assert same_state(module, kept)
    correct_statistics(module, INPUTS, STATISTICS, 0.5)
    torch.testing.assert_close(module[1].running_mean, DENSE[1].running_mean + 0.25)
    torch.testing.assert_close(module[1].running_var, DENSE[1].running_var, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("scale", "factor"), [(100.0, MAX_VARIANCE_RATIO), (1e-3, 1 / MAX_VARIANCE_RATIO), (0.0, 1 / MAX_VARIANCE_RATIO)]
)
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_amplification_is_bounded(scale: float, factor: float, strength: float) -> None:
    """A channel that compression silenced is not blown up to its former variance: that would be noise."""
    module = affine(scale, 0.0)
    correct_statistics(module, INPUTS, STATISTICS, strength)
    torch.testing.assert_close(module[1].running_var, DENSE[1].running_var * factor**strength)
    assert bool(torch.isfinite(module[1].running_mean).all())


def test_statistics_can_be_put_back() -> None:
    module = affine(1.3, 0.2)
    before = running_statistics(module)
    correct_statistics(module, INPUTS, STATISTICS, 1.0)
    after = running_statistics(module)
    load_statistics(module, before)
    assert torch.equal(module[1].running_mean, DENSE[1].running_mean)
    load_statistics(module, after)
    assert not torch.equal(module[1].running_mean, DENSE[1].running_mean)
    module[1].running_mean.zero_()
    assert after["1"][0].any()  # copies, not the buffers themselves


class Unusual(nn.Module):
    """One batch norm used twice, one without running statistics, one without an affine part, one on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.twice = nn.BatchNorm2d(3)
        self.batchwise = nn.BatchNorm2d(3, track_running_stats=False)
        self.plain = nn.BatchNorm2d(3, affine=False)
        self.vector = nn.BatchNorm1d(3)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.conv(inputs))
        x = self.batchwise(self.twice(self.conv(x)) * 2)
        return self.vector(self.plain(x).mean(dim=(2, 3)))


def test_unusual_batch_norms_are_corrected_where_they_hold_statistics() -> None:
    torch.manual_seed(0)
    dense = Unusual().eval().requires_grad_(False)
    statistics, output = collect_statistics(dense, INPUTS)
    assert sorted(statistics) == ["plain", "twice", "vector"]
    unchanged = copy.deepcopy(dense)
    assert torch.equal(correct_statistics(unchanged, INPUTS, statistics, 1.0), output) and same_state(unchanged, dense)
    shifted = copy.deepcopy(dense)
    shifted.conv.bias.add_(0.5)
    correct_statistics(shifted, INPUTS, statistics, 1.0)
    torch.testing.assert_close(shifted.twice.running_mean, dense.twice.running_mean + 0.5)  # once, by its first call


def test_hooks_are_removed_when_the_network_fails() -> None:
    module = copy.deepcopy(DENSE)
    wrong = torch.zeros(2, 3, 20, 20)
    actions = (lambda: collect_statistics(module, wrong), lambda: correct_statistics(module, wrong, STATISTICS, 1.0))
    for action in actions:
        with pytest.raises(RuntimeError):
            action()
        assert not any(child._forward_pre_hooks for child in module.modules())


def test_correction_brings_a_quantized_network_closer_to_the_dense_one() -> None:
    module = copy.deepcopy(DENSE)
    for layer in (module[0], module[3]):
        step = layer.weight.abs().max() / 2
        layer.weight.copy_((layer.weight / step).round() * step)

    def distance(strength: float) -> float:
        copied = copy.deepcopy(module)
        return float((correct_statistics(copied, INPUTS, STATISTICS, strength) - OUTPUT).square().mean())

    assert distance(1.0) < 0.9 * distance(0.0)


def test_the_given_statistics_are_not_modified() -> None:
    kept: Statistics = {name: (mean.clone(), variance.clone()) for name, (mean, variance) in STATISTICS.items()}
    correct_statistics(affine(1.2, 0.3), INPUTS, STATISTICS, 1.0)
    for name, pair in kept.items():
        assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in zip(pair, STATISTICS[name], strict=True))


def folded_resnet20() -> tuple[nn.Module, torch.Tensor]:
    """ResNet-20 as deployment tools leave it: every batch norm folded into the convolution before it."""
    torch.manual_seed(0)
    module = resnet(20)
    inputs = torch.randn(16, 3, 16, 16)
    with torch.no_grad():
        for _ in range(15):
            module(inputs)
    module.eval().requires_grad_(False)
    for part in list(module.modules()):
        for number in (1, 2):
            if hasattr(part, f"bn{number}"):
                pair = getattr(part, f"conv{number}"), getattr(part, f"bn{number}")
                setattr(part, f"conv{number}", fuse_conv_bn_eval(*pair).requires_grad_(False))
                setattr(part, f"bn{number}", nn.Identity())
    return module, inputs


class Grouped(nn.Module):
    """Group norms behind convolutions without bias, and an instance norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, bias=False)
        self.group = nn.GroupNorm(2, 8)
        self.two = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.instance = nn.InstanceNorm2d(8, affine=True)
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.group(self.one(inputs)))
        return self.head(torch.relu(self.instance(self.two(x))).mean((2, 3)))


class FirstNorm(nn.LayerNorm):
    """A layer norm over channels that come first, as in ConvNeXt's stem."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Next(nn.Module):
    """A ConvNeXt block behind a stem: layer norms over channels first and last, linear layers on maps, a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, bias=False)
        self.first = FirstNorm(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.LayerNorm(8)
        self.wide = nn.Linear(8, 16)
        self.narrow = nn.Linear(16, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = self.first(self.stem(inputs))
        y = self.last(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.narrow(nn.functional.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return self.head((x + y).mean((2, 3)))


def seeded(kind: type[nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return kind().eval().requires_grad_(False), INPUTS


BIASED = {"folded": folded_resnet20, "grouped": lambda: seeded(Grouped), "next": lambda: seeded(Next)}
EXPECTED = {
    "grouped": {"group", "instance", "head"},
    "next": {"first", "depthwise", "last", "wide", "narrow", "head"},
}


def roughened(module: nn.Module) -> nn.Module:
    """The weights of every layer rounded to five values; biases and norms as they were."""
    rough = copy.deepcopy(module)
    for child in rough.modules():
        if isinstance(child, nn.Conv2d | nn.Linear):
            step = child.weight.abs().max() / 2
            child.weight.copy_((child.weight / step).round() * step)
    return rough


@pytest.mark.parametrize("kind", BIASED)
def test_bias_correction_leaves_the_dense_network_and_restores_the_means_of_a_rough_one(kind: str) -> None:
    dense, inputs = BIASED[kind]()
    biased = movable_biases(dense, trace(dense, inputs[:1]))
    assert set(biased) == EXPECTED.get(
        kind, {name for name, child in dense.named_modules() if isinstance(child, nn.Conv2d | nn.Linear)}
    )
    statistics, output = collect_statistics(dense, inputs, biased)
    assert set(statistics) == set(biased)
    unchanged = copy.deepcopy(dense)
    for strength in (0.5, 1.0):
        assert torch.equal(correct_statistics(unchanged, inputs, statistics, strength), output)
        assert same_state(unchanged, dense)

    rough = roughened(dense)
    before, kept = collect_statistics(rough, inputs, biased)[0], running_statistics(rough, biased)
    returned = correct_statistics(rough, inputs, statistics, 1.0)
    after, found = collect_statistics(rough, inputs, biased)
    torch.testing.assert_close(returned, found, rtol=1e-4, atol=1e-4)  # what it returns is what is left
    moved = 0
    for name, (mean,) in statistics.items():
        torch.testing.assert_close(after[name][0], mean, rtol=1e-3, atol=1e-4)
        moved += bool((before[name][0] - mean).abs().max() > 1e-3)
    assert moved > len(biased) / 2  # an instance norm keeps its means by itself
    load_statistics(rough, kept)
    assert same_state(rough, roughened(dense))


def test_biases_before_a_batch_norm_are_left_to_it() -> None:
    module = network()
    assert movable_biases(module, trace(module, INPUTS[:1])) == ("6",)
