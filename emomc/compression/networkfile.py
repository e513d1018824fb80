"""Compressed networks as files, and back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from emomc import coding
from emomc.compression.glue import load_arrays, load_tensor, stored_arrays, stored_keys
from emomc.errors import EmomcError
from emomc.network.layers import Network


def save_network(
    path: Path, module: nn.Module, network: Network, blobs: Mapping[str, bytes], header: Mapping[str, object]
) -> None:
    """Write a compressed network.

    Args:
        path: replaced if it exists.
        module: holds the glue, already brought into the stored form by `make_storable`.
        network: the traced module.
        blobs: coded weight of every layer, by layer name.
        header: what a reader needs to know: plain JSON values.
    """
    keys = {layer.name: layer for layer in network.layers}
    described = {
        **header,
        "weights": {name: [keys[name].weight, *keys[name].aliases] for name in blobs},
        "shapes": {name: list(keys[name].weight_shape) for name in blobs},
    }
    coding.write_network(path, described, dict(blobs), stored_arrays(module, network))
