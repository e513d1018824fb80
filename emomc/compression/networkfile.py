"""Compressed networks as files, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emomc import coding
from emomc.compression.activations import ActivationGrid, attach_quantizers, grids_from_array, grids_to_array
from emomc.compression.glue import load_arrays, load_tensor, stored_arrays, stored_keys
from emomc.compression.narrow import narrow
from emomc.errors import EmomcError
from emomc.network import Network, trace

INPUT_SHAPE = "input_shape"
QUANTIZERS = "input_quantizers."  # no parameter can have a name that ends with a dot
Grids = Mapping[str, ActivationGrid]


def file_overhead(module: nn.Module, network: Network, header: Mapping[str, Any], quantized: bool = False) -> int:
    """Bytes of a compressed network's file besides its blobs, exact, whatever the values of glue and quantizers.

    Args:
        module: the network.
        network: its trace.
        header: of the file.
        quantized: whether the file holds input quantizers.
    """
    names = [layer.name for layer in network.layers]
    return coding.container_overhead(header, names, _arrays(module, network, {} if quantized else None))


def _arrays(module: nn.Module, network: Network, grids: Grids | None) -> dict[str, NDArray[np.generic]]:
    own = {} if grids is None else {QUANTIZERS: grids_to_array(network, grids)}
    return {**stored_arrays(module, network), **own}


def save_network(
    path: Path,
    module: nn.Module,
    network: Network,
    blobs: Mapping[str, bytes],
    header: Mapping[str, Any],
    grids: Grids | None = None,
) -> int:
    """Write a compressed network and return the length of its file in bytes.

    Args:
        path: replaced if it exists.
        module: holds the glue, already brought into the stored form by `make_storable`.
        network: the traced module.
        blobs: coded weight of every layer, by layer name.
        header: JSON values; ``input_shape`` is the shape of the input that the network was traced with.
        grids: of quantized layer inputs, by layer name; None for a file without quantizers, which is shorter.
    """
    ordered = {layer.name: blobs[layer.name] for layer in network.layers}
    return coding.write_network(path, header, ordered, _arrays(module, network, grids))


def with_weights(module: nn.Module, network: Network, file: coding.NetworkFile) -> nn.Module:
    """A copy of a network with the layers' weights of a file; all else is as in the module."""
    module = copy.deepcopy(module)
    state = module.state_dict()
    for layer in network.layers:
        state[layer.weight].copy_(torch.from_numpy(file.tensor(layer.name, layer.weight_shape).dequantize()))
    return module


def load_network(file: coding.NetworkFile, build: Callable[[], nn.Module], workers: int | None = None) -> nn.Module:
    """Decode a compressed network into a new module in eval mode, which quantizes its activations as the file says.

    Args:
        file: from `emomc.coding.read_network`.
        build: makes the architecture; its weights are overwritten.
        workers: processes that decode; None for as many as are worthwhile.

    Raises:
        EmomcError: the file is of another architecture.
    """
    module = _single_precision(build).eval().requires_grad_(False)
    example = torch.zeros(file.header[INPUT_SHAPE], dtype=torch.float32)
    network = trace(module, example)
    _check_names("layers", {layer.name for layer in network.layers}, set(file.blobs), file.path)
    arrays = {key: array for key, array in file.arrays.items() if key != QUANTIZERS}
    _check_names("arrays", set(stored_keys(module, network)), set(arrays), file.path)
    if _narrow(module, network, file):
        network = trace(module, example)
    load_arrays(module, arrays)
    attach_quantizers(module, network, read_grids(file, network) or {})
    state = module.state_dict()
    tensors = file.tensors({layer.name: layer.weight_shape for layer in network.layers}, workers)
    for layer, tensor in zip(network.layers, tensors, strict=True):
        weight = tensor.dequantize()
        for key in (layer.weight, *layer.aliases):
            load_tensor(state, key, weight)
    return module


def _single_precision(build: Callable[[], nn.Module]) -> nn.Module:
    """What is built where torch makes float32 tensors, as those of files are, whatever it is told to make elsewhere."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        return build()
    finally:
        torch.set_default_dtype(before)


def read_grids(file: coding.NetworkFile, network: Network) -> Grids | None:
    """The grids of a file's input quantizers, by layer name; None for a file without quantizers.

    Raises:
        EmomcError: they are damaged.
    """
    if QUANTIZERS not in file.arrays:
        return None
    try:
        return grids_from_array(network, file.arrays[QUANTIZERS])
    except EmomcError as error:
        raise EmomcError(f"{file.path}: damaged network file: {error}") from None


def _narrow(module: nn.Module, network: Network, file: coding.NetworkFile) -> bool:
    """Cut a module down to a file whose unread channels were removed; whether there was anything to cut."""
    shapes = {key: array.shape for key, array in file.arrays.items()}
    try:
        for layer in network.layers:
            shape = coding.describe_tensor(file.blobs[layer.name]).shape
            shapes |= dict.fromkeys((layer.weight, *layer.aliases), shape)
        return narrow(module, shapes)
    except EmomcError as error:
        raise EmomcError(f"{file.path}: {error}") from None


def _check_names(what: str, expected: set[str], found: set[str], path: Path) -> None:
    if expected != found:
        odd = sorted(expected ^ found)
        raise EmomcError(
            f"{path}: its {what} are not those of the network (first difference: {odd[0]!r}): "
            "the file is of another architecture."
        )
