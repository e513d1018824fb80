"""What a network costs on an accelerator, layer by layer: the values behind `emomc cost`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from emomc.errors import unknown_name
from emomc.hardware import METRICS, CostAxes, CostModel, PhysicalModel, by_level
from emomc.network.layers import Layer


@dataclass(frozen=True)
class LayerChoice:
    """How one layer is stored and run; without a dataflow it runs on the one of least energy.

    Its maps have ``activation_bits``, or those of the whole network where there are none.
    """

    prune_ratio: float = 0.0
    bit_width: int = 16
    shared_values: int = 0
    dataflow: str | None = None
    coded_bits: float | None = None
    activation_bits: int | None = None


@dataclass(frozen=True)
class LayerCost:
    """One layer under its choice.

    Attributes:
        energies: joules on each dataflow.
        dataflow: the one that it runs on.
        items: joules by item on that dataflow; they add up to ``metrics["energy"]``, exactly.
        metrics: each metric of the model, SI units.
        utilization: filled fraction of the array's slots; None where the model does not tell.
    """

    layer: Layer
    energies: dict[str, float]
    dataflow: str
    items: dict[str, float]
    metrics: dict[str, float]
    utilization: float | None

    @cached_property
    def levels(self) -> dict[str, float]:
        """Joules by level."""
        return by_level(self.items)


@dataclass(frozen=True)
class NetworkCost:
    """A network on an accelerator, and ``floats``: joules of the dense network in 32-bit floats."""

    accelerator: str
    layers: tuple[LayerCost, ...]
    floats: float

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Each metric of the network: the sum of its layers', or their maximum for a peak."""
        columns = {name: [layer.metrics[name] for layer in self.layers] for name in self.layers[0].metrics}
        return {name: max(of) if METRICS[name].combine == "max" else sum(of) for name, of in columns.items()}

    @property
    def utilization(self) -> float | None:
        """Filled fraction of the slots that the array offers over all layers; None where the model does not tell."""
        slots = self.metrics.get("slots")
        return None if slots is None else sum(row.layer.macs for row in self.layers) / slots

    @cached_property
    def items(self) -> dict[str, float]:
        """Joules by item of all layers; items that cost nothing are left out."""
        sums = {name: sum(layer.items[name] for layer in self.layers) for name in self.layers[0].items}
        return {name: energy for name, energy in sums.items() if energy}

    @cached_property
    def levels(self) -> dict[str, float]:
        """Joules by level of all layers; levels that cost nothing are left out."""
        return by_level(self.items)


def network_cost(
    model: CostModel,
    layers: Sequence[Layer],
    choices: Sequence[LayerChoice],
    activation_bits: int = 16,
    input_sparsity: Sequence[float] | None = None,
    dense: Sequence[Layer] | None = None,
) -> NetworkCost:
    """Costs of every layer under its choice.

    Args:
        model: the accelerator.
        layers: at least one.
        choices: (L,) one for each layer.
        activation_bits: bits of a feature map's element, of layers whose choice has none of its own.
        input_sparsity: (L,) fraction of zeros in each layer's input; None means no zeros.
        dense: (L,) the layers of the dense network, where those that run are narrower.

    Raises:
        EmomcError: for dataflows and widths that the model does not offer.
    """
    zeros = [0.0] * len(layers) if input_sparsity is None else input_sparsity
    costs = [_layer_cost(model, *each, activation_bits) for each in zip(layers, choices, zeros, strict=True)]
    flows = [[choice.dataflow] if choice.dataflow else model.dataflows for choice in choices]
    floats = (
        min(model.reference([layer], flow)["energy"] for flow in allowed)
        for layer, allowed in zip(layers if dense is None else dense, flows, strict=True)
    )
    return NetworkCost(model.name, tuple(costs), sum(floats))


def _layer_cost(model: CostModel, layer: Layer, choice: LayerChoice, zeros: float, activation_bits: int) -> LayerCost:
    axes = CostAxes(
        [choice.prune_ratio],
        [choice.bit_width],
        [choice.shared_values],
        model.dataflows,
        None if choice.coded_bits is None else np.full((1, 1, 1, 1), choice.coded_bits),
        choice.activation_bits or activation_bits,
        [zeros],
    )
    count = len(model.dataflows)
    tables = {name: _by_dataflow(table, count) for name, table in model.tables([layer], axes).items()}
    items = {name: _by_dataflow(item, count) for name, item in model.itemize([layer], axes).items()}
    energies = dict(zip(model.dataflows, tables["energy"], strict=True))
    dataflow = choice.dataflow or min(energies, key=lambda name: energies[name])
    if dataflow not in energies:
        raise unknown_name(f"dataflow of accelerator {model.name}", dataflow, model.dataflows)
    at = model.dataflows.index(dataflow)
    return LayerCost(
        layer,
        energies,
        dataflow,
        {name: values[at] for name, values in items.items()},
        {name: values[at] for name, values in tables.items()},
        model.utilization(layer, dataflow) if isinstance(model, PhysicalModel) else None,
    )


def _by_dataflow(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], count: int) -> list[float]:
    """Entries (1, 1, 1, 1, D) of a single layer and choice."""
    return [float(value) for value in np.broadcast_to(values, (1, 1, 1, 1, count)).ravel()]
