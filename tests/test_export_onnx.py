"""ONNX models against the decoded network: onnxruntime's predictions on real inputs, and how weights are stored."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import emomc
from emomc import coding
from emomc.compression import save_network
from emomc.compression.activations import ActivationGrid

onnx = pytest.importorskip("onnx", reason="install emomc[onnx]")
pytest.importorskip("onnxscript", reason="install emomc[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="install emomc[onnx]")

# 4-bit grid, 16 shared values of 8 bits (4-bit indices), 32 of 8 bits, 8-bit grid, 12-bit grid
WANTED = {
    "*": {"prune_ratio": 0.3, "bit_width": 4},
    "stem.0": {"bit_width": 8, "shared_values": 8},
    "residual1.0": {"bit_width": 8, "shared_values": 32},
    "residual2.0": {"bit_width": 8},
    "linear": {"bit_width": 12},
}


@pytest.fixture(scope="module")
def task() -> emomc.Task:
    return emomc.load_task("digits")


@pytest.fixture(scope="module")
def made(task, tmp_path_factory) -> emomc.CompressedFile:
    out = tmp_path_factory.mktemp("onnx") / "digits.emomc"
    return emomc.compress(task, WANTED, out, method="magnitude", split="validation")


def scores(path: Path, inputs: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": inputs.numpy()})[0]


def agree(path: Path, module: torch.nn.Module, inputs: torch.Tensor) -> None:
    with torch.no_grad():
        expected = module(inputs).numpy()
    found = scores(path, inputs)
    assert np.array_equal(found.argmax(1), expected.argmax(1))
    assert np.allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("weights", ["coded", "dense"])
def test_onnxruntime_predicts_what_the_decoded_network_does(task, made, tmp_path, weights):
    out = tmp_path / "digits.onnx"
    size = emomc.export_onnx(made.path, out, weights=weights)
    assert size == out.stat().st_size
    inputs = task.splits.test.inputs
    agree(out, emomc.load(made.path), inputs)
    agree(out, emomc.load(made.path), inputs[:1])  # any batch size
    floats = 4 * sum(parameter.numel() for parameter in task.module.parameters())
    assert size > floats if weights == "dense" else size < floats


def test_weights_are_stored_as_narrow_as_they_are(made, tmp_path):
    emomc.export_onnx(made.path, tmp_path / "digits.onnx")
    model = onnx.load(tmp_path / "digits.onnx")
    stored = {each.name: each for each in model.graph.initializer}
    kinds = {name: onnx.TensorProto.DataType.Name(each.data_type) for name, each in stored.items()}
    assert kinds["pointwise.0.weight.integers"] == "INT4"
    assert kinds["stem.0.weight.indices"] == "UINT4" and kinds["stem.0.weight.codebook"] == "INT8"
    assert kinds["residual1.0.weight.indices"] == "UINT8"
    assert kinds["residual2.0.weight.integers"] == "INT8"
    assert kinds["linear.weight.integers"] == "INT16"
    assert not any(f"{layer}.weight" in stored for layer in coding.read_network(made.path).blobs)
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Gather") == 2 and operators.count("DequantizeLinear") == 7


def test_quantized_activations_are_pairs_of_quantize_and_dequantize(task, made, tmp_path):
    file, module = coding.read_network(made.path), emomc.load(made.path)
    network = emomc.trace(module, task.example_input)
    widths = (8, 8, 6, 5, 8, 7, 8)
    grids = {
        layer.name: ActivationGrid(bits, 4.0 / 2**bits, 0 if number % 2 else 2 ** (bits - 1))
        for number, (layer, bits) in enumerate(zip(network.layers, widths, strict=True))
    }
    save_network(tmp_path / "quantized.emomc", module, network, file.blobs, file.header, grids)
    emomc.export_onnx(tmp_path / "quantized.emomc", tmp_path / "quantized.onnx")
    operators = [node.op_type for node in onnx.load(tmp_path / "quantized.onnx").graph.node]
    assert operators.count("QuantizeLinear") == 7
    quantized = emomc.load(tmp_path / "quantized.emomc")
    assert not torch.equal(quantized(task.example_input), module(task.example_input))
    agree(tmp_path / "quantized.onnx", quantized, task.splits.test.inputs)


@pytest.mark.slow
def test_resnet20_predicts_the_same(shared_data, tmp_path):
    task = emomc.load_task("cifar10-resnet20", data=shared_data)
    path = emomc.compress(task, "w4", tmp_path / "r20.emomc", method="magnitude", split="calibration").path
    emomc.export_onnx(path, tmp_path / "r20.onnx")
    inputs, _ = next(task.splits.test.batches(200))
    agree(tmp_path / "r20.onnx", emomc.load(path), inputs)


def test_a_missing_package_is_named(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(emomc.EmomcError, match=r"emomc\[onnx\]"):
        emomc.export_onnx(made.path, tmp_path / "x.onnx")
