"""Compressed networks as files, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emomc import coding
from emomc.compression.glue import load_arrays, load_tensor, stored_arrays, stored_keys
from emomc.errors import EmomcError
from emomc.network import Network, trace

INPUT_SHAPE = "input_shape"


def file_overhead(module: nn.Module, network: Network, header: Mapping[str, Any]) -> int:
    """Bytes of a compressed network's file besides its blobs, exact, whatever the values of the glue."""
    names = [layer.name for layer in network.layers]
    return coding.container_overhead(header, names, stored_arrays(module, network))


def save_network(
    path: Path, module: nn.Module, network: Network, blobs: Mapping[str, bytes], header: Mapping[str, Any]
) -> int:
    """Write a compressed network and return the length of its file in bytes.

    Args:
        path: replaced if it exists.
        module: holds the glue, already brought into the stored form by `make_storable`.
        network: the traced module.
        blobs: coded weight of every layer, by layer name.
        header: JSON values; ``input_shape`` is the shape of the input that the network was traced with.
    """
    ordered = {layer.name: blobs[layer.name] for layer in network.layers}
    return coding.write_network(path, header, ordered, stored_arrays(module, network))


def load_network(file: coding.NetworkFile, build: Callable[[], nn.Module]) -> nn.Module:
    """Decode a compressed network into a new module in eval mode.

    Args:
        file: from `emomc.coding.read_network`.
        build: makes the architecture; its weights are overwritten.

    Raises:
        EmomcError: the file is of another architecture.
    """
    module = build().eval().requires_grad_(False)
    network = trace(module, torch.zeros(file.header[INPUT_SHAPE]))
    _check_names("layers", {layer.name for layer in network.layers}, set(file.blobs), file.path)
    _check_names("arrays", set(stored_keys(module, network)), set(file.arrays), file.path)
    load_arrays(module, file.arrays)
    state = module.state_dict()
    for layer in network.layers:
        weight = file.tensor(layer.name, layer.weight_shape).dequantize()
        for key in (layer.weight, *layer.aliases):
            load_tensor(state, key, weight)
    return module


def _check_names(what: str, expected: set[str], found: set[str], path: Path) -> None:
    if expected != found:
        odd = sorted(expected ^ found)
        raise EmomcError(
            f"{path}: its {what} are not those of the network (first difference: {odd[0]!r}): "
            "the file is of another architecture."
        )
