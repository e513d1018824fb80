"""A compressed network's file without the channels that nothing reads."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from emomc import coding
from emomc.coding.tensor import CodedTensor
from emomc.compression.networkfile import INPUT_SHAPE, QUANTIZERS, read_grids, save_network
from emomc.compression.shrinking import Kept, shrink
from emomc.export.loading import load_file
from emomc.network import trace


def shrink_file(
    source: str | os.PathLike[str], out: str | os.PathLike[str], build: Callable[[], nn.Module] | None = None
) -> int:
    """Write a file of the same network with its unread channels removed, and return its length in bytes.

    It decodes like any other: the network is built as large as it was and cut down to what the file holds. Its
    outputs are those of the source up to the order of sums.

    Args:
        source: a compressed network.
        out: file to write; replaced if it exists.
        build: makes the network, as for `emomc.load`.

    Raises:
        EmomcError: as `emomc.load` and `emomc.shrink`.
    """
    file = coding.read_network(source)
    plain = replace(file, arrays={key: array for key, array in file.arrays.items() if key != QUANTIZERS})
    module = load_file(plain, build)
    example = torch.zeros(file.header[INPUT_SHAPE], dtype=torch.float32)
    network = trace(module, example)
    grids = read_grids(file, network)
    shrunk = shrink(module, example)
    left = trace(shrunk.module, example)
    blobs = {}
    for layer in network.layers:
        kept = shrunk.kept[layer.weight.removesuffix(".weight")]
        blobs[layer.name] = coding.encode_tensor(_part(file.tensor(layer.name), kept))
    return save_network(Path(out), shrunk.module, left, blobs, file.header, grids)


def _part(tensor: CodedTensor, kept: Kept) -> CodedTensor:
    """What is left of a stored layer."""
    integers = np.ascontiguousarray(tensor.integers[kept.outputs][:, kept.inputs])
    scale = tensor.scale[kept.outputs] if len(tensor.scale) == tensor.integers.shape[0] else tensor.scale
    return CodedTensor(integers, scale, tensor.bit_width)
