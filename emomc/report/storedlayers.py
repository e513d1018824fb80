"""A layer of a compressed file as an accelerator runs it: what it holds decides what it costs."""

from __future__ import annotations

import numpy as np

from emomc.coding import NetworkFile
from emomc.network.layers import Layer
from emomc.report.costs import LayerChoice


def stored_layer(
    file: NetworkFile, layer: Layer, activation_bits: int | None, narrow: bool = True
) -> tuple[Layer, LayerChoice]:
    """A layer and what it costs by, with zeros, width and coded bits as they are in the file, and no dataflow.

    A file does not tell whether weights are shared, and no accelerator that comes with the package asks.

    Args:
        file: that holds the layer.
        layer: of the traced network, as wide as the file has it.
        activation_bits: of its input; None where it is not quantized.
        narrow: leave out input channels that the layer does not read.

    Raises:
        EmomcError: the layer is damaged or of another shape.
    """
    tensor = file.tensor(layer.name, layer.weight_shape)
    nonzero = tensor.integers != 0
    read = np.count_nonzero(nonzero.any(axis=(0, *range(2, nonzero.ndim))))
    running = layer.with_inputs(max(int(read), 1)) if narrow else layer
    zeros = 1 - int(np.count_nonzero(nonzero)) / running.weight_count
    coded = 8.0 * len(file.blobs[layer.name])
    return running, LayerChoice(zeros, tensor.bit_width, coded_bits=coded, activation_bits=activation_bits)
