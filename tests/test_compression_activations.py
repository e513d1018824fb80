"""Quantized activations: the grid's rounding, its choice from data, quantizers in networks and in files."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from emomc.coding import encode_tensor, read_network
from emomc.compression import (
    ActivationGrid,
    InputDistribution,
    InputQuantizer,
    attach_quantizers,
    collect_inputs,
    file_overhead,
    fit_grid,
    load_network,
    quantize_uniform,
    save_network,
)
from emomc.compression.activations import WIDTHS, grids_from_array, grids_to_array
from emomc.compression.glue import make_storable
from emomc.compression.networkfile import QUANTIZERS
from emomc.compression.ranges import FEWEST_SAMPLES, RANGES, squared_error
from emomc.errors import EmomcError
from emomc.network import trace

SHAPE = [1, 3, 8, 8]
INPUTS = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
HEADER = {"input_shape": SHAPE}


class Small(nn.Module):
    """A network that calls one layer twice and has signed, unsigned and pooled inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.first(x))
        x = functional.relu(self.again(self.again(x)))
        return self.head(self.norm(x).mean((2, 3)))


NETWORK = trace(Small(), INPUTS[:1])


@pytest.fixture(scope="module")
def small() -> Small:
    torch.manual_seed(0)
    return Small().eval().requires_grad_(False)


def distribution(values: torch.Tensor) -> InputDistribution:
    """Of one layer that sees exactly these values."""
    layer = nn.Linear(values.shape[1], 2)
    (found,) = collect_inputs(layer, trace(layer, values[:1]), values).values()
    return found


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30),
    bits=st.sampled_from(WIDTHS),
    scale=st.floats(0.01, 10).map(lambda x: float(np.float16(x))),
    zero=st.floats(0, 1),
)
def test_rounding_gives_the_nearest_value_of_the_grid(
    values: list[float], bits: int, scale: float, zero: float
) -> None:
    """Against all values of the grid, one by one."""
    grid = ActivationGrid(bits, scale, round(zero * (2**bits - 1)))
    points = (np.arange(2**bits) - grid.zero_point) * scale
    inputs = np.array(values, np.float32)
    found = InputQuantizer(grid)(torch.from_numpy(inputs)).numpy().astype(np.float64)
    nearest = np.abs(inputs[:, None] - points).min(axis=1)
    assert np.abs(found[:, None] - points).min(axis=1) == pytest.approx(0, abs=1e-4)
    assert np.abs(found - inputs) == pytest.approx(nearest, abs=1e-3 * scale + 1e-5)


def test_rounding_is_that_of_torch_and_keeps_zero_and_nan() -> None:
    x = torch.randn(5, 6, 7, 7, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
    grid = ActivationGrid(5, 0.125, 11)
    expected = torch.fake_quantize_per_tensor_affine(x, grid.scale, grid.zero_point, 0, 31)
    found = InputQuantizer(grid)(x)
    assert torch.equal(found, expected) and found.is_contiguous(memory_format=torch.channels_last)
    special = InputQuantizer(grid)(torch.tensor([0.0, math.nan, math.inf, -math.inf]))
    assert special[0] == 0 and special[1].isnan() and special[2:].tolist() == [20 * 0.125, -11 * 0.125]


def test_the_distribution_counts_what_each_layer_is_fed_with_over_all_calls(small: Small) -> None:
    network = NETWORK
    before = copy.deepcopy(small.state_dict())
    found = collect_inputs(small, network, INPUTS)
    with torch.no_grad():
        once = functional.relu(small.first(INPUTS))
        twice = small.again(once)
    both = torch.cat([once, twice]).numpy()
    assert (found["again"].low, found["again"].high) == (both.min(), both.max())
    assert found["again"].counts.sum() + found["again"].zeros == both.size
    assert found["again"].zeros == (both == 0).sum() > 100
    expected, _ = np.histogram(both[both != 0], 2048, (both.min(), both.max()))
    assert np.abs(np.cumsum(expected) - np.cumsum(found["again"].counts)).max() <= 3  # values on the edges of bins
    assert all(torch.equal(before[key], tensor) for key, tensor in small.state_dict().items())
    assert not any(child._forward_pre_hooks for child in small.modules())


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from(WIDTHS), st.sampled_from(["relu", "normal", "heavy", "negative"]))
def test_ranges_suit_their_purpose(seed: int, bits: int, kind: str) -> None:
    """Unsigned where nothing is negative; min-max clips nothing; no other choice has a smaller error than mse."""
    rng = np.random.default_rng(seed)
    values = rng.standard_t(3, (64, 64)) if kind == "heavy" else rng.normal(0, 1, (64, 64))
    values = {"relu": np.maximum(values, 0), "negative": -np.abs(values)}.get(kind, values)
    inputs = distribution(torch.from_numpy(values).float())
    grids = {method: fit_grid(inputs, bits, method) for method in RANGES}
    for grid in grids.values():
        assert grid.scale == float(np.float16(grid.scale)) > 0 and 0 <= grid.zero_point < 2**bits
        assert kind != "relu" or grid.zero_point == 0
        assert kind != "negative" or grid.zero_point == 2**bits - 1
    errors = {method: squared_error(inputs, grid) for method, grid in grids.items()}
    assert errors["mse"] == min(errors["mse"], errors["minmax"] * 1.0001, errors["percentile"] * 1.05)
    widest = grids["minmax"]
    reach = (widest.lowest * widest.scale, widest.highest * widest.scale)
    assert reach[0] <= inputs.low + widest.scale / 2 + 1e-9 and reach[1] >= inputs.high - widest.scale / 2 - 1e-9


def test_the_least_squares_range_is_that_of_a_dense_search() -> None:
    """Brute force over both ends on the values themselves, not on their histogram."""
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(0, 1, 6000), rng.normal(4, 1, 2000)]).astype(np.float32)
    grid = fit_grid(distribution(torch.from_numpy(values.reshape(80, 100))), 3)

    def error(scale: float, zero: int) -> float:
        return float(np.mean((np.clip(np.rint(values / scale), -zero, 7 - zero) * scale - values) ** 2))

    best = min(error(scale, zero) for scale in np.linspace(0.2, 1.6, 141) for zero in range(8))
    assert error(grid.scale, grid.zero_point) < 1.03 * best


def test_percentiles_leave_outliers_out() -> None:
    values = torch.rand(100, 1000, generator=torch.Generator().manual_seed(0))
    values[0, :3] = 1000.0
    inputs = distribution(values)
    assert fit_grid(inputs, 8, "minmax").highest * fit_grid(inputs, 8, "minmax").scale == pytest.approx(1000, rel=0.01)
    assert fit_grid(inputs, 8, "percentile").highest * fit_grid(inputs, 8, "percentile").scale < 2


@pytest.mark.parametrize("value", [0.0, 3.5, -0.25, 1e-9, 6e4])
@pytest.mark.parametrize("method", RANGES)
def test_constant_inputs_are_kept(value: float, method: str) -> None:
    values = torch.full((20, 5), value)
    rounded = InputQuantizer(fit_grid(distribution(values), 4, method))(values)
    assert rounded == pytest.approx(values, rel=0.02, abs=1e-7)


@given(st.data())
def test_grids_survive_their_array(data: st.DataObject) -> None:
    network, grids = NETWORK, {}
    for layer in network.layers:
        if data.draw(st.booleans()):
            bits = data.draw(st.sampled_from(WIDTHS))
            scale = float(np.float16(data.draw(st.floats(1e-6, 6e4))))
            grids[layer.name] = ActivationGrid(bits, scale, data.draw(st.integers(0, 2**bits - 1)))
    assert grids_from_array(network, grids_to_array(network, grids)) == grids


@pytest.mark.parametrize("row", [(1.0, 3.0), (1.0, 512.0), (1.0, 4.5), (0.0, 16.0), (-1.0, 16.0), (np.nan, 16.0)])
def test_damaged_grids_are_refused(row: tuple[float, float]) -> None:
    network = NETWORK
    rows = np.zeros((3, 2), np.float16)
    rows[1] = row
    with pytest.raises(EmomcError, match="layer 'again'"):
        grids_from_array(network, rows)
    with pytest.raises(EmomcError, match="expected shape"):
        grids_from_array(network, rows[:2])


def manual(module: Small, grids: dict[str, ActivationGrid], x: torch.Tensor) -> torch.Tensor:
    """The quantized network, written out."""

    def rounded(name: str, value: torch.Tensor) -> torch.Tensor:
        grid = grids.get(name)
        if grid is None:
            return value
        return torch.fake_quantize_per_tensor_affine(value, grid.scale, grid.zero_point, 0, 2**grid.bit_width - 1)

    x = functional.relu(module.first(rounded("first", x)))
    x = functional.relu(module.again(rounded("again", module.again(rounded("again", x)))))
    return module.head(rounded("head", module.norm(x).mean((2, 3))))  # type: ignore[no-any-return]


def test_attached_quantizers_round_inputs_and_can_be_taken_away(small: Small) -> None:
    network = NETWORK
    inputs = collect_inputs(small, network, INPUTS)
    module = copy.deepcopy(small)
    keys = list(module.state_dict())
    grids = {name: fit_grid(each, 3) for name, each in inputs.items() if name != "first"}
    attach_quantizers(module, network, grids)
    expected = manual(small, grids, INPUTS)
    torch.testing.assert_close(module(INPUTS), expected)
    assert (expected - small(INPUTS)).abs().max() > 1e-3
    assert list(module.state_dict()) == keys and "bit_width=3" in repr(module)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):  # noqa: S301 - our own bytes
        assert torch.equal(copied(INPUTS), module(INPUTS))
    assert trace(module, INPUTS[:1]) == network
    attach_quantizers(module, network, {"first": fit_grid(inputs["first"], 8)})
    torch.testing.assert_close(module(INPUTS), manual(small, {"first": fit_grid(inputs["first"], 8)}, INPUTS))
    attach_quantizers(module, network, {})
    assert torch.equal(module(INPUTS), small(INPUTS)) and "Quantizer" not in repr(module)
    assert not any(child._forward_pre_hooks for child in module.modules())


@pytest.mark.parametrize("quantized", [None, (), ("again",), ("first", "again", "head")])
def test_files_hold_quantizers_and_their_length_is_known(
    small: Small, tmp_path: Path, quantized: tuple[str, ...] | None
) -> None:
    network = NETWORK
    inputs = collect_inputs(small, network, INPUTS)
    grids = None if quantized is None else {name: fit_grid(inputs[name], 4) for name in quantized}
    module = copy.deepcopy(small)
    make_storable(module, network)
    tensors = {
        layer.name: quantize_uniform(small.get_submodule(layer.name).weight.numpy(), 8) for layer in network.layers
    }
    for name, tensor in tensors.items():
        module.get_submodule(name).weight.copy_(torch.from_numpy(tensor.dequantize()))
    blobs = {name: encode_tensor(tensor) for name, tensor in tensors.items()}
    path = tmp_path / "small.emomc"
    length = save_network(path, module, network, blobs, HEADER, grids)
    plain = save_network(tmp_path / "plain.emomc", module, network, blobs, HEADER)
    constant = file_overhead(module, network, HEADER, quantized=grids is not None)
    assert length == path.stat().st_size
    assert length - plain == constant - file_overhead(module, network, HEADER)
    assert (length > plain) == (grids is not None)
    decoded = load_network(read_network(path), Small)
    torch.testing.assert_close(decoded(INPUTS), manual(module, grids or {}, INPUTS))
    assert (QUANTIZERS in read_network(path).arrays) == (grids is not None)


def test_networks_that_cannot_be_calibrated_say_why(small: Small) -> None:
    network = NETWORK
    with pytest.raises(EmomcError, match=f"has 7 samples; .* at least {FEWEST_SAMPLES}"):
        collect_inputs(small, network, INPUTS[:7])
    broken = copy.deepcopy(small)
    broken.first.bias[2] = math.nan
    with pytest.raises(EmomcError, match="layer 'again' meets NaN"):
        collect_inputs(broken, network, INPUTS)
    with pytest.raises(EmomcError, match="cannot be 9"):
        fit_grid(collect_inputs(small, network, INPUTS)["head"], 9)
    with pytest.raises(EmomcError, match=r"range of activations 'mes'.*'mse'"):
        fit_grid(collect_inputs(small, network, INPUTS)["head"], 8, "mes")


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight)


def test_layers_that_are_functions_are_named() -> None:
    module = Functional()
    network = trace(module, torch.zeros(1, 4))
    with pytest.raises(EmomcError, match="called as a function"):
        collect_inputs(module, network, torch.randn(10, 4))
    attach_quantizers(module, network, {})  # nothing to do, nothing to complain of
