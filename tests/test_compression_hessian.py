"""Gram matrices: they give the second moments of every layer's outputs, whatever the shape of the layer."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

import emomc
from emomc.compression import METHODS, Bank, Calibration, Setting, collect_grams, compress_in_order
from emomc.errors import EmomcError
from emomc.genome import Gene, SearchSpace
from emomc.network import trace

Floats = NDArray[np.float32]

LAYERS = {
    "plain": (nn.Conv2d(4, 6, 3, bias=False), (4, 9, 7)),
    "padded and strided": (nn.Conv2d(3, 5, (3, 5), stride=(2, 3), padding=(1, 2), bias=False), (3, 11, 14)),
    "input left over at the end": (nn.Conv2d(2, 3, 2, stride=3, bias=False), (2, 10, 9)),
    "dilated": (nn.Conv2d(2, 3, 3, dilation=(1, 3), padding=(0, 3), bias=False), (2, 8, 12)),
    "same, even kernel": (nn.Conv2d(2, 3, 4, padding="same", bias=False), (2, 7, 7)),
    "reflected": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", bias=False), (2, 6, 6)),
    "grouped": (nn.Conv2d(6, 9, 3, groups=3, padding=1, bias=False), (6, 6, 6)),
    "depthwise": (nn.Conv2d(5, 5, 3, groups=5, padding=1, bias=False), (5, 6, 6)),
    "pointwise": (nn.Conv2d(7, 4, 1, bias=False), (7, 5, 5)),
    "one-dimensional": (nn.Conv1d(3, 4, 5, stride=2, padding=2, bias=False), (3, 21)),
    "linear": (nn.Linear(10, 4, bias=False), (10,)),
    "linear over tokens": (nn.Linear(6, 4, bias=False), (5, 6)),
}


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def grams_of(module: nn.Module, inputs: torch.Tensor) -> dict[str, Floats]:
    return collect_grams(module, trace(module, inputs[:1]), inputs)


@pytest.mark.parametrize("name", LAYERS)
def test_gram_gives_the_second_moments_of_the_outputs(name: str) -> None:
    """For outputs y = W x the mean of y y^T is W H W^T, which needs every entry of H at its right place."""
    layer, shape = LAYERS[name]
    module = nn.Sequential(layer).eval()
    inputs = images(70, *shape)
    (gram,) = grams_of(module, inputs).values()
    groups, width = gram.shape[:2]
    with torch.no_grad():
        outputs = module(inputs)
    channels = 1 if outputs.dim() > 2 and not isinstance(layer, nn.Linear) else outputs.dim() - 1
    y = outputs.movedim(channels, 0).reshape(groups, layer.weight.shape[0] // groups, -1).double()
    measured = (y @ y.transpose(1, 2) / y.shape[2]).numpy()
    weight = layer.weight.detach().double().numpy().reshape(groups, -1, width)
    assert np.allclose(weight @ gram @ weight.transpose(0, 2, 1), measured, rtol=1e-4, atol=1e-5)
    assert np.array_equal(gram, gram.transpose(0, 2, 1))


def test_large_maps_are_sampled_and_give_nearly_the_same() -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 3, bias=False)).eval()
    inputs = functional.avg_pool2d(images(40, 2, 66, 66), 3, 1)
    (gram,) = grams_of(module, inputs).values()
    patches = functional.unfold(inputs, 3).transpose(0, 1).flatten(1).double()
    exact = (patches @ patches.T / patches.shape[1]).numpy()
    assert np.abs(gram[0] - exact).max() < 0.03 * exact.max()


class Shared(nn.Module):
    """One weight called twice, by a module and by a function, and one that is not called at all."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 4) to (n, 4)."""
        return functional.linear(torch.relu(self.inner(x)), self.inner.weight)


def test_all_calls_of_a_shared_weight_count() -> None:
    module, inputs = Shared().eval(), images(50, 4)
    (gram,) = grams_of(module, inputs).values()
    with torch.no_grad():
        inner = torch.relu(module.inner(inputs))
    both = torch.cat([inputs, inner]).double()
    assert np.allclose(gram[0], (both.T @ both / len(both)).numpy(), rtol=1e-5)


def test_the_network_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    grams_of(module, images(5, 2, 8, 8))
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert not module.training


def test_layers_too_wide_are_left_out() -> None:
    module = nn.Sequential(nn.Linear(8200, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    assert list(grams_of(module, images(2, 8200))) == ["2"]


def test_inputs_that_are_not_finite_name_the_layer() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)).eval()
    inputs = images(4, 3)
    inputs[2, 1] = float("nan")
    data = Calibration(module, trace(module, inputs[:1]), inputs)
    with pytest.raises(EmomcError, match=r"layer '0' meets NaN"):
        data.grams()
    with pytest.raises(EmomcError, match=r"layer '0' meets NaN"):
        compress_in_order(data, {"0": (0.5, 8, 0)})


def calibration(seed: int = 0) -> Calibration:
    torch.manual_seed(7)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    module = nn.Sequential(*layers).eval()
    inputs = images(24, 3, 8, 8, seed=seed)
    return Calibration(module, trace(module, inputs[:1]), inputs)


GENES = (
    Gene("prune_ratio", (0.0, 0.5, 0.8)),
    Gene("bit_width", (16, 4, 2)),
    Gene("shared_values", (0, 4)),
    Gene("dataflow", ("X:Y",), ordinal=False),
)


def open_bank(
    folder: Path, data: Calibration | None, seen: list[tuple[int, int]] | None = None, workers: int = 1
) -> Bank:
    network, state = calibration().network, calibration().module.state_dict()
    space = SearchSpace.full([layer.name for layer in network.layers], GENES)
    weights = {layer.name: state[layer.weight].numpy() for layer in network.layers}
    tell = None if seen is None else lambda done, total: seen.append((done, total))
    return Bank.open(folder, weights, space, "obs", workers, tell, data)


def test_key_follows_inputs_and_weights() -> None:
    first, again, other = calibration(), calibration(), calibration(seed=1)
    assert first.key == again.key != other.key
    changed = calibration()
    with torch.no_grad():
        changed.module[0].weight[1, 0, 2, 2] += 1e-3
    assert changed.key != first.key


def test_a_calibrated_bank_is_the_same_for_any_workers_and_is_found_again(tmp_path: Path) -> None:
    first = open_bank(tmp_path / "one", calibration())
    second = open_bank(tmp_path / "two", calibration(), workers=2)
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert files[0] == files[1]
    assert first.key == second.key
    seen: list[tuple[int, int]] = []
    assert open_bank(tmp_path / "one", calibration(), seen).key == first.key
    assert seen == []
    assert open_bank(tmp_path / "one", calibration(seed=1), seen).key != first.key
    assert seen[-1] == (3, 3)


def test_distortions_of_a_calibrated_bank_grow_with_compression(tmp_path: Path) -> None:
    bank = open_bank(tmp_path, calibration())
    assert np.all(np.diff(bank.distortions[:, :, 0, 0], axis=1) > 0)
    assert np.all(np.diff(bank.distortions[:, 0, :, 0], axis=1) > 0)
    assert np.all(bank.distortions[:, 0, 0, 0] < 1e-6)
    assert np.all(bank.distortions < 1)  # an output of zeros would be an error of 1


def test_a_calibrated_method_asks_for_calibration(tmp_path: Path) -> None:
    with pytest.raises(EmomcError, match="'obs' needs calibration"):
        open_bank(tmp_path, None)


def with_weights(data: Calibration, weights: dict[str, Floats]) -> torch.Tensor:
    """Outputs of the network with other weights in its layers."""
    module = copy.deepcopy(data.module)
    with torch.no_grad():
        for layer in data.network.layers:
            module.state_dict()[layer.weight].copy_(torch.from_numpy(weights[layer.name]))
        return module(data.inputs)


@pytest.mark.parametrize("choice", [(0.6, 16, 0), (0.0, 3, 0), (0.3, 8, 4)])
def test_layers_compressed_in_order_make_up_for_those_before_them(choice: tuple[float, int, int]) -> None:
    torch.manual_seed(3)
    layers = [nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 4)]
    module, inputs = nn.Sequential(*layers).eval(), images(1500, 6)
    data = Calibration(module, trace(module, inputs[:1]), inputs)
    grams, state = data.grams(), module.state_dict()
    alone = {
        layer.name: next(METHODS["obs"](state[layer.weight].numpy(), [Setting(*choice)], grams[layer.name]))
        for layer in data.network.layers
    }
    in_order = compress_in_order(data, dict.fromkeys(alone, choice))
    assert list(in_order) == list(alone)
    assert np.array_equal(in_order["0"].integers, alone["0"].integers)  # the first layer has nothing before it
    errors = [
        torch.nn.functional.mse_loss(
            with_weights(data, {name: tensor.dequantize() for name, tensor in coded.items()}), module(inputs)
        )
        for coded in (in_order, alone)
    ]
    assert errors[0] < errors[1]


def test_in_order_weights_that_are_zero_already_stay_zero() -> None:
    data = calibration()
    state, rng = data.module.state_dict(), np.random.default_rng(0)
    zeros = {}
    with torch.no_grad():
        for layer in data.network.layers:
            zeros[layer.name] = rng.random(layer.weight_shape) < 0.5
            state[layer.weight][torch.from_numpy(zeros[layer.name])] = 0
    for choice in ((0.0, 4, 0), (0.3, 8, 4), (0.8, 8, 0)):
        for name, tensor in compress_in_order(data, dict.fromkeys(zeros, choice)).items():
            assert not tensor.integers[zeros[name]].any()


def test_in_order_layers_without_a_choice_stay_dense_and_unknown_ones_are_named() -> None:
    data = calibration()
    names = [layer.name for layer in data.network.layers]
    assert list(compress_in_order(data, {names[2]: (0.5, 8, 0)})) == names[2:]
    with pytest.raises(EmomcError, match="unknown layer 'conv9'"):
        compress_in_order(data, {"conv9": (0.5, 8, 0)})


# 70 % sparsity; 3 bits; 70 % sparsity with 4 shared values
CELLS = ((1, 0, 0), (0, 1, 0), (1, 0, 1))


def divergences(folder: Path, method: str) -> list[float]:
    """How far the digits network comes from the dense one with every layer at each of `CELLS`.

    A few hundred images do not tell errors apart that differ by less than a percent, as those of 3 bits do.
    """
    genes = {"prune_ratio": (0.0, 0.7), "bit_width": (16, 3), "shared_values": (0, 4)}
    with emomc.Session(folder / method, emomc.Options("digits", method=method, genes=genes), workers=1) as session:
        genomes = np.zeros((len(CELLS), session.space.n_layers, session.space.n_genes), dtype=np.int64)
        genomes[:, :, :3] = np.array(CELLS)[:, None]
        found = session.measure(session.space.canonical(genomes.reshape(len(CELLS), -1)))
        return [measurement.divergence for measurement in found]


def test_in_a_session_calibrated_compression_stays_closer_than_magnitude(tmp_path: Path) -> None:
    ours, theirs = (divergences(tmp_path, method) for method in ("obs", "magnitude"))
    assert all(a < b for a, b in zip(ours, theirs, strict=True)), (ours, theirs)


def test_too_few_inputs_are_told_and_still_give_usable_weights() -> None:
    torch.manual_seed(0)
    module, inputs = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5)).eval(), images(12, 40)
    with pytest.warns(UserWarning, match=r"2 of 2 layers .*'0': 12 of 40.*more calibration images"):
        grams = grams_of(module, inputs)
    for name, gram in grams.items():
        weight = module.state_dict()[f"{name}.weight"].numpy()
        assert np.linalg.matrix_rank(gram[0]) <= 12
        for tensor in METHODS["obs"](weight, [Setting(0.5, 8, 0), Setting(0.5, 3, 0), Setting(0.5, 8, 4)], gram):
            result = tensor.dequantize()
            assert np.isfinite(result).all() and np.abs(result).max() < 10 * np.abs(weight).max()
            assert np.count_nonzero(result == 0) >= weight.size // 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grams_of(module, images(50, 40))
