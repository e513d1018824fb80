"""Whether a file holds what it should: every layer decoded, encoded again and decoded once more."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from emomc import coding
from emomc.compression.networkfile import INPUT_SHAPE, load_network
from emomc.export.loading import builder, check_header
from emomc.network import trace


@dataclass(frozen=True)
class FileCheck:
    """What a file holds.

    Attributes:
        header: its header.
        size_bytes: of the file.
        layers: coded layers.
        weights: of all layers.
        weight_bytes: bytes of all coded layers, as they are in the file.
        encoded_bytes: the same, encoded anew; another version of the coder may take others.
        different: layers whose integers or scales are others after encoding and decoding once more; normally none.
    """

    header: dict[str, Any]
    size_bytes: int
    layers: int
    weights: int
    weight_bytes: int
    encoded_bytes: int
    different: tuple[str, ...]


def check_file(path: str | os.PathLike[str], build: Callable[[], nn.Module] | None = None) -> FileCheck:
    """Decode a file into its network, encode every layer again, and compare what that decodes to, bit by bit.

    Args:
        path: a network file.
        build: as for `emomc.load`.

    Raises:
        EmomcError: the file is damaged or of another network, or ``build`` is needed.
    """
    file = coding.read_network(path)
    check_header(file)
    module = load_network(file, build or builder(file))
    network = trace(module, torch.zeros(file.header[INPUT_SHAPE], dtype=torch.float32))
    encoded, different = 0, []
    tensors = list(file.tensors({layer.name: layer.weight_shape for layer in network.layers}))
    for layer, tensor, blob in zip(network.layers, tensors, coding.encode_tensors(tensors), strict=True):
        again = coding.decode_tensor(blob, layer.weight_shape)
        encoded += len(blob)
        same = np.array_equal(again.integers, tensor.integers) and np.array_equal(again.scale, tensor.scale)
        if not same or again.bit_width != tensor.bit_width:
            different.append(layer.name)
    return FileCheck(
        file.header,
        file.path.stat().st_size,
        len(network.layers),
        network.weight_count,
        sum(map(len, file.blobs.values())),
        encoded,
        tuple(different),
    )
