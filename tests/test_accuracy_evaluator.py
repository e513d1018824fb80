"""Measuring: what is measured is the decoded file, paired with the dense network, and nothing else is touched."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from emomc.accuracy import Measurement, Settings, Split, Splits
from emomc.accuracy.divergence import distance, divergence
from emomc.accuracy.evaluator import DENSE, Evaluator
from emomc.coding import decode_tensor, read_network
from emomc.compression import Bank, load_network
from emomc.genome import BIT_WIDTH, PRUNE_RATIO, SHARED_VALUES, Gene, SearchSpace
from emomc.network import Network, trace

GENES = (Gene(PRUNE_RATIO, (0.0, 0.5, 0.8)), Gene(BIT_WIDTH, (16, 4, 2)), Gene(SHARED_VALUES, (0, 4)))
HEADER = {"input_shape": [1, 3, 8, 8]}
CONFIGURATIONS = ((0, 0, 0), (1, 1, 0), (0, 1, 1), (2, 0, 0), (2, 2, 0))


class Normed(nn.Module):
    """Convolutions with batch norms, one of them depthwise, one reused; a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
        self.second_norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 16, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(inputs)))
        x = torch.relu(self.second_norm(self.depthwise(x)) + x)
        return self.head(nn.functional.avg_pool2d(x, 2).flatten(1))


class Plain(nn.Module):
    """No batch norms, and two layers that hold one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.one = nn.Conv2d(6, 6, 1)
        self.two = nn.Conv2d(6, 6, 1)
        self.two.weight = self.one.weight
        self.head = nn.Linear(6 * 16, 4)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(inputs))
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))).flatten(1))


def top1(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) != targets).float()


@dataclass(frozen=True)
class Setting:
    """A small network that gets about a third of its samples wrong, and all that an evaluator needs."""

    module: nn.Module
    network: Network
    splits: Splits
    bank: Bank

    def evaluator(self, **settings: object) -> Evaluator:
        return Evaluator(self.module, self.network, self.splits, self.bank, top1, Settings(**settings))  # type: ignore[arg-type]

    def variants(self, *indices: int) -> list[int]:
        return [self.bank.variant(layer, indices) for layer in range(len(self.network.layers))]  # type: ignore[arg-type]


def make(module: nn.Module, folder: Path) -> Setting:
    with torch.no_grad():
        module.head.weight.mul_(8)  # so that the outputs depend on the inputs more than on the bias
        module.train()
        for _ in range(10):
            module(torch.randn(64, 3, 8, 8))
    module.eval()

    def split(n: int) -> Split:
        inputs = torch.randn(n, 3, 8, 8)
        with torch.no_grad():
            targets = module(inputs).argmax(1)
        return Split(inputs, torch.where(torch.rand(n) < 0.35, torch.randint(4, (n,)), targets))

    splits = Splits(split(40), split(157), split(30), split(61))
    network = trace(module, torch.zeros(HEADER["input_shape"]))
    space = SearchSpace.full([layer.name for layer in network.layers], GENES)
    state = module.state_dict()
    weights = {layer.name: state[layer.weight].numpy() for layer in network.layers}
    return Setting(module, network, splits, Bank.open(folder, weights, space))


@pytest.fixture(scope="module", params=[Normed, Plain])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    torch.manual_seed(5)
    return make(request.param(), tmp_path_factory.mktemp("bank"))


@pytest.fixture(scope="module")
def normed(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    torch.manual_seed(5)
    return make(Normed(), tmp_path_factory.mktemp("bank"))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def equal(first: Measurement, second: Measurement) -> bool:
    return repr(first) == repr(second)  # bit for bit, NaN equal to NaN


@pytest.mark.parametrize("indices", CONFIGURATIONS)
def test_a_measurement_is_that_of_the_decoded_file(setting: Setting, indices: tuple[int, ...], tmp_path: Path) -> None:
    evaluator, variants = setting.evaluator(batch_size=32), setting.variants(*indices)
    path = tmp_path / "network.emomc"
    measured = evaluator.measure(variants, "test")
    finished = evaluator.finish(variants, path, HEADER, "test")
    assert equal(measured, finished)
    decoded = load_network(read_network(path), type(setting.module))
    fresh = setting.evaluator(batch_size=32).measure_module(decoded, "test")
    assert (fresh.error, fresh.loss, fresh.difference) == (measured.error, measured.loss, measured.difference)


@pytest.mark.parametrize("indices", CONFIGURATIONS[1:])
def test_errors_and_their_paired_difference_are_those_of_a_plain_loop(
    setting: Setting, indices: tuple[int, ...], tmp_path: Path
) -> None:
    path = tmp_path / "network.emomc"
    measured = setting.evaluator(batch_size=32).finish(setting.variants(*indices), path, HEADER, "selection")
    decoded = load_network(read_network(path), type(setting.module))
    errors, differences, losses = [], [], []
    with torch.no_grad():
        for image, label in zip(
            setting.splits.selection.inputs, setting.splits.selection.targets.tolist(), strict=True
        ):
            output = decoded(image[None])[0].double()
            wrong = int(output.argmax()) != label
            dense_wrong = int(setting.module(image[None])[0].argmax()) != label
            errors.append(float(wrong))
            differences.append(float(wrong) - float(dense_wrong))
            losses.append(math.log(float(output.exp().sum())) - float(output[label]))
    n = len(errors)
    assert measured.samples == n == 157
    assert measured.error == pytest.approx(statistics.fmean(errors), abs=1e-12)
    assert measured.difference == pytest.approx(statistics.fmean(differences), abs=1e-12)
    assert measured.standard_error == pytest.approx(statistics.stdev(differences) / math.sqrt(n), abs=1e-12)
    assert measured.loss == pytest.approx(statistics.fmean(losses), rel=1e-4)
    assert measured.standard_error > 0  # the loop compared something


def test_the_callers_module_and_the_thread_count_are_left_as_they_were(setting: Setting, tmp_path: Path) -> None:
    module = setting.module
    before = copy.deepcopy(module.state_dict())
    flags = [parameter.requires_grad for parameter in module.parameters()]
    torch.set_num_threads(2)
    evaluator = setting.evaluator(threads=1)
    evaluator.measure(setting.variants(2, 2, 0), "selection")
    evaluator.probe_layers(setting.variants(1, 1, 0))
    evaluator.finish(setting.variants(1, 1, 0), tmp_path / "network.emomc", HEADER, "test")
    evaluator.measure_dense("validation")
    with pytest.raises(AttributeError):
        evaluator.measure(setting.variants(1, 1, 0), "no such split")
    assert torch.get_num_threads() == 2
    assert all(torch.equal(before[key], tensor) for key, tensor in module.state_dict().items())
    assert [parameter.requires_grad for parameter in module.parameters()] == flags and not module.training
    assert not any(child._forward_pre_hooks for child in module.modules())


def test_measurements_do_not_depend_on_what_was_measured_before(setting: Setting, tmp_path: Path) -> None:
    rows = [setting.variants(*indices) for indices in CONFIGURATIONS]
    alone = [setting.evaluator().measure(row, "selection") for row in rows]
    evaluator = setting.evaluator()
    for row in reversed(rows):
        evaluator.probe_layers(row)
        evaluator.finish(row, tmp_path / "network.emomc", HEADER, "test")
    for row, expected in reversed(list(zip(rows, alone, strict=True))):
        assert equal(evaluator.measure(row, "selection"), expected)


def test_dense_layers_are_the_dense_network(setting: Setting) -> None:
    """Nothing diverges; the file's half precision of what is not a layer is all that a measurement sees."""
    evaluator = setting.evaluator()
    everywhere = [DENSE] * len(setting.network.layers)
    assert evaluator.probe_layers(everywhere).distance == pytest.approx(0, abs=1e-9)
    dense, stitched = evaluator.measure_dense("selection"), evaluator.measure(everywhere, "selection")
    assert dense.difference == dense.standard_error == 0
    assert stitched.loss == pytest.approx(dense.loss, rel=1e-2)
    assert abs(stitched.difference) <= 2 / dense.samples
    with torch.no_grad():
        outputs = setting.module(setting.splits.selection.inputs)
    assert dense.error == pytest.approx(float(top1(outputs, setting.splits.selection.targets).mean()))


def kullback_leibler(dense: torch.Tensor, output: torch.Tensor) -> float:
    p, q = (np.exp(x.double().numpy()) for x in (dense, output))
    p, q = (x / x.sum(axis=1, keepdims=True) for x in (p, q))
    return float((p * np.log(p / q)).sum(axis=1).mean())


def centred(scores: torch.Tensor) -> torch.Tensor:
    return scores - scores.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("layer", range(3))
def test_a_probe_compresses_its_layer_and_no_other(setting: Setting, layer: int) -> None:
    row = [DENSE] * 3
    row[layer] = setting.variants(0, 2, 0)[layer]
    probed = setting.evaluator(strengths=(0.0,)).probe_layers(row)
    module, target = copy.deepcopy(setting.module), setting.network.layers[layer]
    weight = decode_tensor(setting.bank.blob(layer, row[layer]), target.weight_shape).dequantize()
    with torch.no_grad():
        module.state_dict()[target.weight].copy_(torch.from_numpy(weight))
        outputs = [network(setting.splits.calibration.inputs) for network in (setting.module, module)]
    assert probed.distance == pytest.approx(relative_squares(*map(centred, outputs)), rel=1e-3)
    assert probed.distance > 1e-4
    dense, compressed = (top1(each, setting.splits.calibration.targets).mean() for each in outputs)
    assert probed.loss == pytest.approx(float(compressed - dense))


def test_divergence_of_broken_outputs_is_infinite() -> None:
    dense = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    other = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert divergence(dense, other) == pytest.approx(kullback_leibler(dense, other), rel=1e-5)
    assert divergence(dense, torch.full((5, 4), math.nan)) == math.inf
    assert divergence(dense, other.index_fill(0, torch.tensor([2]), math.inf)) == math.inf
    assert distance(dense, torch.full((5, 4), math.nan)) == math.inf


def test_the_distance_is_of_what_tells_classes_apart() -> None:
    dense = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    other = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert distance(dense, other) == pytest.approx(relative_squares(centred(dense), centred(other)), rel=1e-5)
    common = torch.arange(5.0)[:, None]
    assert distance(dense, dense + common) == pytest.approx(0, abs=1e-9)
    assert distance(dense, dense + common, classes=False) > 1
    assert distance(10 * dense, 10 * other) == pytest.approx(distance(dense, other), rel=1e-5)


def test_the_kept_strength_is_the_one_of_least_divergence(normed: Setting) -> None:
    strengths = (0.0, 0.5, 1.0)
    chosen = set()
    for indices in CONFIGURATIONS[1:]:
        row = normed.variants(*indices)
        alone = {
            strength: normed.evaluator(strengths=(strength,)).measure(row, "validation").divergence
            for strength in strengths
        }
        measured = normed.evaluator(strengths=strengths).measure(row, "validation")
        assert measured.divergence == min(alone.values())
        assert alone[measured.strength] == measured.divergence
        only = normed.evaluator(strengths=(measured.strength,)).measure(row, "validation")
        assert equal(only, measured)
        chosen.add(measured.strength)
    assert chosen - {0.0}


class Bare(Plain):
    """Nothing that a correction could move."""

    def __init__(self) -> None:
        super().__init__()
        for layer in (self.first, self.one, self.two, self.head):
            layer.bias = None


def test_without_batch_norms_biases_are_corrected_and_without_biases_nothing(tmp_path: Path) -> None:
    torch.manual_seed(5)
    plain, bare = make(Plain(), tmp_path), make(Bare(), tmp_path)
    row = plain.variants(1, 1, 0)
    corrected, as_it_is = (plain.evaluator(strengths=s).measure(row, "selection") for s in ((0.0, 1.0), (0.0,)))
    assert corrected.strength == 1.0 and corrected.divergence < as_it_is.divergence
    row = bare.variants(1, 1, 0)
    measured = bare.evaluator().measure(row, "selection")
    assert measured.strength == 0.0
    assert equal(measured, bare.evaluator(strengths=(0.0,)).measure(row, "selection"))


def test_the_batch_size_does_not_change_which_samples_are_wrong(setting: Setting) -> None:
    row = setting.variants(1, 1, 0)
    whole, small = (setting.evaluator(batch_size=size).measure(row, "selection") for size in (1000, 7))
    assert whole.error == small.error and whole.difference == small.difference
    assert whole.loss == pytest.approx(small.loss, rel=1e-5)


def test_layers_beyond_the_cache_are_decoded_again(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer may be larger than the whole cache."""
    rows = [setting.variants(*indices) for indices in CONFIGURATIONS]
    expected = [setting.evaluator().measure(row, "selection") for row in rows]
    monkeypatch.setattr("emomc.accuracy.evaluator._CACHED_WEIGHTS", 10)
    evaluator = setting.evaluator()
    assert all(equal(evaluator.measure(row, "selection"), e) for row, e in zip(rows, expected, strict=True))


def test_losses_of_other_outputs_are_undefined_and_their_errors_are_not(normed: Setting) -> None:
    """A regression: the error is the user's own, the cross-entropy has no meaning."""
    splits = Splits(*(Split(s.inputs, s.targets) for s in normed.splits.named().values()))

    def distance(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs[:, 0] - targets).abs().clamp(max=1)

    evaluator = Evaluator(normed.module, normed.network, splits, normed.bank, distance)
    measured = evaluator.measure(normed.variants(1, 1, 0), "selection")
    assert 0 < measured.error < 1
    assert abs(measured.difference - (measured.error - evaluator.measure_dense("selection").error)) < 1e-6


def inputs_of(setting: Setting, bits: list[int]) -> list[int]:
    return [bits[layer % len(bits)] for layer in range(len(setting.network.layers))]


@pytest.mark.parametrize("bits", [[16], [4], [16, 3]])
def test_quantized_activations_are_measured_as_the_decoded_file_quantizes_them(
    setting: Setting, bits: list[int], tmp_path: Path
) -> None:
    evaluator, variants, widths = setting.evaluator(batch_size=32), setting.variants(1, 1, 0), inputs_of(setting, bits)
    path, plain = tmp_path / "network.emomc", tmp_path / "plain.emomc"
    measured = evaluator.measure(variants, "test", widths)
    assert equal(measured, evaluator.finish(variants, path, HEADER, "test", widths))
    assert evaluator.probe_layers(variants, widths).distance == measured.distance
    decoded = load_network(read_network(path), type(setting.module))
    assert repr(decoded).count("InputQuantizer") == len(
        [
            child
            for layer, width in zip(setting.network.layers, widths, strict=True)
            if width < 16
            for child in {layer.weight, *layer.aliases}
        ]
    )
    fresh = setting.evaluator(batch_size=32).measure_module(decoded, "test")
    assert (fresh.error, fresh.loss, fresh.difference) == (measured.error, measured.loss, measured.difference)
    evaluator.finish(variants, plain, HEADER, "test")
    assert path.stat().st_size - plain.stat().st_size < 40 + 4 * len(widths)
    as_they_are = evaluator.measure(variants, "test")
    assert equal(as_they_are, setting.evaluator(batch_size=32).measure(variants, "test"))  # nothing is left behind
    assert equal(as_they_are, measured) == (bits == [16])
    assert evaluator.measure_dense("validation").difference == 0


def test_copies_of_an_evaluator_quantize_alike(setting: Setting) -> None:
    """What workers get is a copy that has not met the calibration inputs yet."""
    variants, widths = setting.variants(1, 1, 0), inputs_of(setting, [5, 3])
    fresh, used = setting.evaluator(), setting.evaluator()
    expected = used.measure(variants, "selection", widths)
    for evaluator in (fresh, used):
        copied = cloudpickle.loads(cloudpickle.dumps(evaluator))
        assert equal(copied.measure(variants, "selection", widths), expected)


def test_more_bits_of_activations_are_closer_to_the_dense_network(setting: Setting) -> None:
    row = [DENSE] * len(setting.network.layers)
    evaluator = setting.evaluator()
    found = [evaluator.probe_layers(row, inputs_of(setting, [bits])).distance for bits in (2, 4, 6, 8)]
    assert found == sorted(found, reverse=True) and found[0] > 20 * found[-1] > 0


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_the_range_of_activations_is_a_setting(normed: Setting, method: str) -> None:
    row = normed.variants(0, 0, 0)
    found = [normed.evaluator(activation_range=each).probe_layers(row, [3, 3, 3]).distance for each in (method, "mse")]
    assert found[0] != found[1] and math.isfinite(found[0])


def relative_squares(dense: torch.Tensor, output: torch.Tensor) -> float:
    return float(np.square((output - dense).numpy()).mean() / np.var(dense.numpy()))


def test_a_regression_diverges_by_squares_relative_to_the_variance(normed: Setting) -> None:
    """The correction of a regression is then chosen by something that knows more than equal and not equal."""

    def targets(split: Split) -> torch.Tensor:
        with torch.no_grad():
            return normed.module(split.inputs) + 0.1 * torch.randn(len(split), 4)

    splits = Splits(*(Split(split.inputs, targets(split)) for split in normed.splits.named().values()))
    evaluator = Evaluator(
        normed.module, normed.network, splits, normed.bank, lambda y, t: (y - t).square().mean(1), Settings((0.0,))
    )
    row = [DENSE, normed.variants(0, 2, 0)[1], DENSE]
    module, layer = copy.deepcopy(normed.module), normed.network.layers[1]
    weight = decode_tensor(normed.bank.blob(1, row[1]), layer.weight_shape).dequantize()
    with torch.no_grad():
        module.state_dict()[layer.weight].copy_(torch.from_numpy(weight))
        outputs = [network(splits.calibration.inputs) for network in (normed.module, module)]
    assert evaluator.probe_layers(row).distance == pytest.approx(relative_squares(*outputs), rel=1e-3)
    assert evaluator.probe_layers(row).distance > 1e-3 and evaluator.probe_layers([DENSE] * 3).distance == 0
    measured = evaluator.measure(row, "selection")
    assert math.isnan(measured.loss) and measured.difference > 0


def test_divergence_fits_the_kind_of_output() -> None:
    dense = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    other = dense + torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(1))
    pixels = [kullback_leibler(dense[:, :, at], other[:, :, at]) for at in range(3)]
    assert divergence(dense, other) == pytest.approx(statistics.fmean(pixels), rel=1e-5)
    assert divergence(dense, other, classes=False) == pytest.approx(relative_squares(dense, other), rel=1e-5)
    assert divergence(dense[:, :1, 0], other[:, :1, 0]) == pytest.approx(
        relative_squares(dense[:, :1, 0], other[:, :1, 0]), rel=1e-5
    )  # one score is no choice of classes
    constant = torch.ones(5, 1)
    assert divergence(constant, constant) == 0 and divergence(constant, constant + 1) > 1e30
    assert divergence(dense, torch.full_like(dense, math.nan), classes=False) == math.inf
