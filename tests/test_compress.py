"""One configuration without a search: where it comes from, what the file holds, and what is said of mistakes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import emomc
from emomc import coding
from emomc.accuracy import Evaluator
from emomc.cli import main
from emomc.errors import EmomcError
from emomc.export.configurations import UNCOMPRESSED, parse_configuration

LAYERS = ("stem", "layer1.conv1", "layer1.conv2", "head")


@pytest.fixture(scope="module")
def task() -> emomc.Task:
    return emomc.load_task("digits")


@pytest.fixture(scope="module")
def compressor(task) -> emomc.Compressor:
    return emomc.Compressor(task)


def command(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


# --- configurations ---


def test_later_patterns_win_choice_by_choice():
    text = {"*": {"prune_ratio": 0.6, "bit_width": 4}, "layer1.*": {"bit_width": 8}, "head": {"shared_values": 16}}
    found = parse_configuration(text, LAYERS).layers
    assert found["stem"] == {**UNCOMPRESSED, "prune_ratio": 0.6, "bit_width": 4}
    assert found["layer1.conv2"] == {**UNCOMPRESSED, "prune_ratio": 0.6, "bit_width": 8}
    assert found["head"] == {**UNCOMPRESSED, "prune_ratio": 0.6, "bit_width": 4, "shared_values": 16}
    assert parse_configuration({"head": {"bit_width": 2}}, LAYERS).layers["stem"] == UNCOMPRESSED
    sparse = parse_configuration({"*": {"granularity": "1:4"}, "head": {"prune_ratio": 0.0}}, LAYERS).layers
    assert (sparse["stem"]["prune_ratio"], sparse["head"]["prune_ratio"]) == (0.75, 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"*": {prune_ratio: 1.5}', ["mine.yaml", "*.prune_ratio", "1.5", "less than or equal to 1"]),
        ('"*": {activation_bits: 9}', ["*.activation_bits", "got 9", "8 or 16"]),
        ('"*": {bit_width: 4.5}', ["*.bit_width", "4.5", "integer"]),
        ('"*": {bit_width: 1}', ["*.bit_width", "got 1", "greater than or equal to 2"]),
        ('"*": {prune_ratio: .nan}', ["*.prune_ratio", "nan", "finite"]),
        ('"*": {granularity: "5:4"}', ["*.granularity", "5:4"]),
        ('"*": {bits: 4}', ["*.bits", "bit_width"]),
        ('"layer9.*": {bit_width: 4}', ["layer9.*", "layer1.conv1"]),
        ('"*": 4', ["*", "got 4"]),
        ("- 4", ["expected patterns", "[4]"]),
        ("", ["expected patterns"]),
        ("a: &x {bit_width: 4}\nb: *x", ["not valid YAML", "aliases"]),
        ('"*": {prune_ratio: 0.5}\n"*": {bit_width: 4}', ["'*' is given twice, again in line 2"]),
        ("a: {", ["not valid YAML"]),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, text, expected):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(EmomcError) as caught:
        emomc.load_configuration(path, LAYERS)
    assert all(part in str(caught.value) for part in expected), str(caught.value)


def test_shipped_configurations_suit_every_network():
    assert "w4" in emomc.configuration_names()
    for name in emomc.configuration_names():
        assert set(emomc.load_configuration(name, LAYERS).layers) == set(LAYERS)
    with pytest.raises(EmomcError, match=r"'w44'.*Did you mean 'w4'.*mine\.yaml"):
        emomc.load_configuration("w44", LAYERS)


# --- what is made ---


@pytest.mark.parametrize("method", ["in-order", "magnitude", "obs"])
def test_the_file_holds_what_was_asked(compressor, tmp_path, method):
    wanted = {"*": {"prune_ratio": 0.5, "bit_width": 4}, "linear": {"prune_ratio": 0.0, "bit_width": 8}}
    wanted["head.0"] = {"bit_width": 8, "shared_values": 4}
    wanted["residual1.0"] = {"granularity": "1:4", "prune_ratio": 0.75}
    made = compressor.compress(wanted, tmp_path / "digits.emomc", method=method, split="validation")
    file = coding.read_network(made.path)
    assert made.size_bytes == made.path.stat().st_size
    assert made.weight_bytes == sum(map(len, file.blobs.values()))
    for layer in compressor.network.layers:
        tensor = file.tensor(layer.name, layer.weight_shape)
        zeros = int(np.count_nonzero(tensor.integers == 0))
        if layer.name == "linear":
            assert tensor.bit_width == 8 and zeros < 0.1 * layer.weight_count
        else:
            assert zeros >= round(0.5 * layer.weight_count)
            assert tensor.bit_width == (8 if layer.name == "head.0" else 4)
        if layer.name == "residual1.0":
            groups = tensor.integers.reshape(layer.weight_shape[0], -1, 4, *layer.weight_shape[2:])
            assert np.count_nonzero(groups, axis=2).max() == 1
        if layer.name == "head.0":
            assert len(set(tensor.integers.ravel().tolist()) - {0}) <= 4
    again = emomc.measure_file(made.path, compressor.task, "validation")
    assert (again.error, again.difference) == (made.measurement.error, made.measurement.difference)
    evaluator = Evaluator(
        compressor.task.module, compressor.network, compressor.task.splits, None, compressor.task.error
    )
    assert made.dense_error == pytest.approx(evaluator.measure_dense("validation").error)


def test_activations_are_quantized_where_a_pattern_says_so(compressor, tmp_path):
    wanted = {"*": {"bit_width": 8}, "stem*": {"activation_bits": 8}, "linear": {"activation_bits": 3}}
    made = compressor.compress(wanted, tmp_path / "digits.emomc", method="magnitude", split="validation")
    assert {choices["activation_bits"] for choices in made.configuration.layers.values()} == {16, 8, 3}
    network = emomc.load(made.path)
    assert network.linear.input_quantizer.grid.bit_width == 3
    quantized = [name for name, child in network.named_modules() if name.endswith("input_quantizer")]
    assert len(quantized) == sum(name.startswith("stem") for name in compressor.network.index) + 1
    again = emomc.measure_file(made.path, compressor.task, "validation")
    assert (again.error, again.difference) == (made.measurement.error, made.measurement.difference)
    repeated = compressor.compress(made.configuration, tmp_path / "b.emomc", method="magnitude", split="validation")
    assert repeated.measurement == made.measurement


def test_a_network_that_its_graph_defines_quantizes_its_activations_too(task, compressor, tmp_path):
    wanted = {"*": {"bit_width": 8, "activation_bits": 4}}
    graph = emomc.Compressor(replace(task, factory=None))
    inputs = task.splits.validation.inputs[:20]
    outputs = [
        emomc.load(each.compress(wanted, tmp_path / name, method="magnitude", split="validation").path)(inputs)
        for name, each in {"factory.emomc": compressor, "graph.emomc": graph}.items()
    ]
    assert torch.equal(*outputs) and not torch.equal(outputs[0], task.module(inputs))


def test_a_file_of_one_configuration_does_not_depend_on_those_before_it(task, compressor, tmp_path):
    compressor.compress("w8", tmp_path / "first.emomc", split="validation")
    second = compressor.compress("p50w4", tmp_path / "second.emomc", split="validation")
    alone = emomc.compress(task, "p50w4", tmp_path / "alone.emomc", split="validation")
    assert second.path.read_bytes() == alone.path.read_bytes()
    assert second.measurement == alone.measurement


def test_layers_in_order_lose_less_than_layers_by_magnitude(compressor, tmp_path):
    wanted = {"*": {"prune_ratio": 0.7, "bit_width": 3}}
    ours, theirs = (
        compressor.compress(wanted, tmp_path / "x.emomc", method=method, split="selection").measurement
        for method in ("in-order", "magnitude")
    )
    assert ours.divergence < theirs.divergence
    assert ours.difference < theirs.difference


def changed(task: emomc.Task, layer: str, value: float) -> emomc.Task:
    """The task with all weights of a layer set to a value, NaN in one place alone."""
    module = copy.deepcopy(task.module)
    with torch.no_grad():
        weight = module.get_parameter(f"{layer}.weight")
        (weight if np.isfinite(value) else weight.view(-1)[:1]).fill_(value)
    return replace(task, module=module)


@pytest.mark.parametrize("method", ["in-order", "obs", "magnitude", "published"])
def test_a_layer_of_zeros_goes_through_and_one_with_nan_is_named(task, tmp_path, method):
    wanted = {"*": {"prune_ratio": 0.5, "bit_width": 4}}
    if method != "published":
        wanted["residual2.0"] = {"shared_values": 4}
    for layer in ("stem.0", "residual2.0"):
        silent = changed(task, layer, 0.0)
        made = emomc.compress(silent, wanted, tmp_path / "zeros.emomc", method=method, split="validation")
        assert not emomc.read_network(made.path).tensor(layer).integers.any()
        outputs = emomc.load(made.path)(task.splits.validation.inputs)
        assert torch.isfinite(outputs).all() and np.isfinite(made.measurement.error)
        with pytest.raises(EmomcError, match=f"'{layer}.weight' holds NaN or infinity"):
            emomc.compress(changed(task, layer, np.nan), wanted, tmp_path / "nan.emomc", method=method)
    assert not (tmp_path / "nan.emomc").exists()


def test_too_few_calibration_images_are_told_and_give_a_usable_network(task, tmp_path):
    """Two images, 128 inputs for layers of 288 weights an output: what they do not tell, the dense weights do."""
    images, labels = next(task.splits.calibration.batches(2))
    few = emomc.Splits(emomc.Split(images, labels), *list(task.splits.named().values())[1:])
    wanted = {"*": {"prune_ratio": 0.3, "bit_width": 4}}
    for method in ("in-order", "obs"):
        with pytest.warns(UserWarning, match="give more calibration images"):
            made = emomc.compress(replace(task, splits=few), wanted, tmp_path / "few.emomc", method=method)
        assert made.measurement.error < 0.2


# Every layer alike: pruned and 16 bits; only rounded; both; shared.
ALIKE = [
    {"prune_ratio": 0.5, "bit_width": 16},
    {"prune_ratio": 0.8, "bit_width": 16},
    {"bit_width": 4},
    {"bit_width": 3},
    {"bit_width": 2},
    {"prune_ratio": 0.6, "bit_width": 4},
    {"prune_ratio": 0.8, "bit_width": 3},
]


@pytest.mark.parametrize("choices", ALIKE, ids=str)
def test_compensated_layers_are_never_worse_than_the_published_baseline(compressor, tmp_path, choices):
    def divergence(method: str) -> float:
        made = compressor.compress({"*": choices}, tmp_path / "x.emomc", method=method, split="selection")
        return made.measurement.divergence

    baseline = divergence("published")
    assert divergence("obs") < baseline and divergence("in-order") < baseline


def test_a_configuration_of_another_network_is_refused(compressor, tmp_path):
    odd = emomc.Configuration({"conv9": {"prune_ratio": 0.5, "bit_width": 4, "shared_values": 0}})
    with pytest.raises(EmomcError, match="unknown layer 'conv9'"):
        compressor.compress(odd, tmp_path / "x.emomc")
    with pytest.raises(EmomcError, match=r"unknown compression method 'obz'.*'obs'"):
        compressor.compress("w4", tmp_path / "x.emomc", method="obz")
    assert not (tmp_path / "x.emomc").exists()


# --- the command ---


def test_the_command_measures_what_it_wrote(task, tmp_path):
    out = tmp_path / "digits.emomc"
    code, text, _ = command("compress", "digits", "--prune-ratio", "0.6", "--bit-width", "4", "--out", out)
    assert code == 0
    found = emomc.measure_file(out, task)
    assert f"error  {100 * found.error:.2f} %" in text
    assert f"{100 * found.difference:+.2f} ± {100 * found.standard_error:.2f}" in text
    assert f"size   {out.stat().st_size} bytes, {4 * 21226 / out.stat().st_size:.1f} x less" in text


def test_shrinking_at_once_or_on_export_gives_the_same_file_of_the_same_network(task, tmp_path):
    pytest.importorskip("torch_pruning", reason="shrinking is an extra")
    (tmp_path / "half.yaml").write_text('"*": {granularity: channel, prune_ratio: 0.5, bit_width: 4}')
    large, small, exported = (tmp_path / f"{name}.emomc" for name in ("large", "small", "exported"))
    making = ("compress", "digits", "--config", tmp_path / "half.yaml", "--method", "magnitude", "--out")
    assert command(*making, large)[0] == 0
    code, text, _ = command(*making, small, "--shrink")
    assert code == 0 and f"size   {small.stat().st_size} bytes" in text
    weight_bytes = sum(map(len, coding.read_network(small).blobs.values()))
    assert f"{weight_bytes} bytes of them are coded weights" in text
    assert command("export", large, "--out", exported, "--shrink")[0] == 0
    assert exported.read_bytes() == small.read_bytes() and small.stat().st_size < 0.8 * large.stat().st_size
    networks, inputs = [emomc.load(path) for path in (large, small)], task.splits.test.inputs
    weights = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert weights[1] < 0.8 * weights[0]
    expected, found = (network(inputs) for network in networks)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    code, text, _ = command("verify", small)
    assert code == 0 and f"({emomc.measure_file(large, task).error!r})" in text
    code, _, message = command("export", large, "--out", tmp_path / "x.onnx", "--to", "onnx", "--shrink")
    assert code == 2 and "--shrink goes with --to emomc" in message


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "expected one configuration"),
        (["--config", "w4", "--bit-width", "4"], "expected one configuration"),
        (["--config", "w44"], "Did you mean 'w4'"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--bit-width", "4", "--method", "obz"], "Did you mean 'obs'"),
        (["--point", "p00"], "holds no run"),
    ],
)
def test_mistakes_are_answered(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, message = command("compress", "digits", "--out", tmp_path / "x.emomc", *arguments)
    assert code == 2 and expected in message
    assert not Path(tmp_path / "x.emomc").exists()


def test_an_existing_file_is_kept(tmp_path):
    out = tmp_path / "kept.emomc"
    out.write_text("precious")
    code, _, message = command("compress", "digits", "--config", "w4", "--out", out)
    assert code == 2 and "--force" in message and out.read_text() == "precious"
