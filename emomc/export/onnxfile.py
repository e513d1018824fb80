"""Compressed networks as ONNX: codebooks as Gather, quantized weights and activations as quantize-dequantize pairs."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from emomc.coding import read_network
from emomc.coding.tensor import CodedTensor
from emomc.compression.activations import ActivationGrid, InputQuantizer
from emomc.compression.networkfile import INPUT_SHAPE, load_network
from emomc.errors import EmomcError
from emomc.export.loading import builder, check_header
from emomc.files import atomic_write
from emomc.network import trace

OPSET = 21  # the first with 4-bit integers
_MOST_SHARED = 64  # more distinct values than this are a grid rather than a codebook
_BATCH = 2  # of the example; one image would be taken for a constant


def export_onnx(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    build: Callable[[], nn.Module] | None = None,
    weights: Literal["coded", "dense"] = "coded",
) -> int:
    """Decode a file into an ONNX model with a free batch size.

    Coded weights are integers of 4, 8 or 16 bits with a DequantizeLinear, or, where few values are shared, indices of 4
    or 8 bits into a codebook with a Gather. Quantized activations are QuantizeLinear and DequantizeLinear pairs.

    Args:
        path: a file that a search wrote.
        out: replaced if it exists.
        build: as for `load`.
        weights: ``"coded"``, or ``"dense"`` for 32-bit floats.

    Returns:
        Bytes written.

    Raises:
        EmomcError: as for `load`; the packages are not installed; or the network cannot be expressed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  # torch's exporter needs it
    except ImportError as error:
        raise EmomcError(f"ONNX needs further packages ({error}): pip install 'emomc[onnx]'.") from None
    file = read_network(path)
    check_header(file)
    module = load_network(file, build or builder(file))
    shape = [_BATCH, *file.header[INPUT_SHAPE][1:]]
    model = _dense_model(module, torch.zeros(shape, dtype=torch.float32), str(file.header.get("task", "network")))
    if weights == "coded":
        for layer in trace(module, torch.zeros(file.header[INPUT_SHAPE], dtype=torch.float32)).layers:
            for key in (layer.weight, *layer.aliases):
                _encode(model.graph, key, file.tensor(layer.name, layer.weight_shape))
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    with atomic_write(Path(out)) as stream:
        stream.write(data)
    return len(data)


class _QuantizePair(nn.Module):
    """What `InputQuantizer` does, in ONNX's operators; narrower grids than 8 bits are clipped before."""

    def __init__(self, grid: ActivationGrid) -> None:
        super().__init__()
        self._low, self._high = grid.lowest * grid.scale, grid.highest * grid.scale
        self.register_buffer("scale", torch.tensor(grid.scale), persistent=False)
        self.register_buffer("zero_point", torch.tensor(grid.zero_point, dtype=torch.uint8), persistent=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        clipped = inputs.clamp(self._low, self._high)
        constants = tuple(self.buffers())  # scale, zero point
        levels = torch.onnx.ops.symbolic(
            "QuantizeLinear", (clipped, *constants), dtype=torch.uint8, shape=inputs.shape, version=OPSET
        )
        return torch.onnx.ops.symbolic(
            "DequantizeLinear", (levels, *constants), dtype=torch.float32, shape=inputs.shape, version=OPSET
        )


def _dense_model(module: nn.Module, example: torch.Tensor, name: str) -> Any:
    """The network with weights in 32-bit floats, under the names of its state."""
    module = copy.deepcopy(module)
    for owner in list(module.modules()):
        for child, part in list(owner.named_children()):
            if isinstance(part, InputQuantizer):
                setattr(owner, child, _QuantizePair(part.grid))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about itself
            program = torch.onnx.export(
                module,
                (example,),
                input_names=["input"],
                output_names=["output"],
                opset_version=OPSET,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises many kinds, with long texts
        reason = str(error).strip().splitlines()[0][:300]
        raise EmomcError(f"{name} cannot be written as ONNX: {reason}") from error
    assert program is not None
    model = program.model_proto
    model.producer_name = "emomc"
    graph = model.graph
    del graph.value_info[:]
    for part in (*graph.node, *graph.input, *graph.output, graph, model):
        del part.metadata_props[:]  # where in the source each step was: more bytes than small weights
    return model


def _encode(graph: Any, key: str, tensor: CodedTensor) -> None:
    """Replace the floats of a weight, in place, by integers and the steps that turn them into the same floats."""
    from onnx import helper, numpy_helper

    initializer = next((each for each in graph.initializer if each.name == key), None)
    if initializer is None:  # the exporter keeps one name of a shared tensor
        return
    graph.initializer.remove(initializer)
    integers, scale = tensor.integers, tensor.scale.astype(np.float32)
    values, positions = np.unique(integers, return_inverse=True)
    nodes, stored, source = [], [], f"{key}.integers"
    if _is_codebook(values):
        stored.append(
            numpy_helper.from_array(_unsigned(positions.reshape(integers.shape), len(values)), f"{key}.indices")
        )
        stored.append(numpy_helper.from_array(values, f"{key}.codebook"))
        nodes.append(helper.make_node("Cast", [f"{key}.indices"], [f"{key}.positions"], to=6))  # to 32-bit integers
        nodes.append(helper.make_node("Gather", [f"{key}.codebook", f"{key}.positions"], [source], axis=0))
    else:
        stored.append(numpy_helper.from_array(_narrow(integers), source))
    stored.append(numpy_helper.from_array(scale if scale.size > 1 else scale.reshape(()), f"{key}.scale"))
    nodes.append(helper.make_node("DequantizeLinear", [source, f"{key}.scale"], [key], axis=0))
    graph.initializer.extend(stored)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _is_codebook(values: np.ndarray[Any, Any]) -> bool:
    """Whether indices are no wider than the integers themselves, and their values few."""
    index_bits = 4 if len(values) <= 16 else 8
    return len(values) <= _MOST_SHARED and not _fits_4_bits(values) and index_bits <= 8 * values.itemsize


def _fits_4_bits(values: np.ndarray[Any, Any]) -> bool:
    return bool(values.min(initial=0) >= -8 and values.max(initial=0) <= 7)


def _narrow(integers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import ml_dtypes

    return integers.astype(ml_dtypes.int4) if _fits_4_bits(integers) else integers


def _unsigned(positions: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    import ml_dtypes

    return positions.astype(ml_dtypes.uint4 if count <= 16 else np.uint8)
