"""What every cost model offers: tables over the choices of a genome, and the items that one entry is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from emomc.errors import EmomcError, unknown_name
from emomc.network.layers import Layer

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A column that a cost model can tabulate: its SI unit, and how layers combine into a network's value."""

    unit: str
    combine: Literal["sum", "max"] = "sum"


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "energy": Metric("joule"),
        "traffic": Metric("byte"),
        "latency": Metric("second"),
        "peak_memory": Metric("byte", "max"),
        "slots": Metric("multiply-accumulate"),
        "filled_slots": Metric("multiply-accumulate"),
    }
)


@dataclass(frozen=True, eq=False)
class CostAxes:
    """The choices that a cost table enumerates, in the order of the genome's columns.

    Attributes:
        prune_ratio: (P,) fractions of weights set to zero, in [0, 1].
        bit_width: (Q,) bits of a stored weight value, at least 1.
        shared_values: (S,) numbers of shared values, 0 for none.
        dataflow: (D,) names of dataflows.
        coded_bits: (L, P, Q, S) exact bits of each coded layer, for models that charge coded weights;
            None means that weights are stored at ``bit_width`` bits each.
        density: (L, P, Q, S) exact fraction of weights that are not zero; None means ``1 - prune_ratio``.
        activation_bits: bits of a feature map's element.
        input_sparsity: (L,) fraction of zeros in each layer's input map; None means no zeros.
    """

    prune_ratio: Sequence[float] | Array
    bit_width: Sequence[int] | NDArray[np.int64]
    shared_values: Sequence[int] | NDArray[np.int64]
    dataflow: tuple[str, ...]
    coded_bits: NDArray[np.number] | None = None
    activation_bits: int = 16
    input_sparsity: Sequence[float] | Array | None = None
    density: Array | None = None

    def __post_init__(self) -> None:
        ratio, bits = np.asarray(self.prune_ratio, float), np.asarray(self.bit_width)
        if ratio.size == 0 or not np.all((ratio >= 0) & (ratio <= 1)):
            raise EmomcError(f"prune_ratio: expected fractions between 0 and 1, got {ratio.tolist()}.")
        if bits.size == 0 or not np.all((bits >= 1) & (bits == np.round(bits))):
            raise EmomcError(f"bit_width: expected whole numbers of at least 1, got {bits.tolist()}.")
        if len(self.shared_values) == 0 or len(self.dataflow) == 0:
            raise EmomcError("shared_values and dataflow: expected at least one choice each.")
        if self.activation_bits < 1:
            raise EmomcError(f"activation_bits: expected at least 1, got {self.activation_bits}.")

    def keep(self, layers: Sequence[int]) -> Array:
        """Fraction of nonzero weights of these layers, (n, P, Q, S); axes of length 1 where only the ratio is known."""
        if self.density is not None:
            return self.density[list(layers)]
        return (1 - np.asarray(self.prune_ratio, float))[None, :, None, None]

    def check_layers(self, count: int) -> None:
        """Raise EmomcError where a per-layer array does not have one row for each of ``count`` layers."""
        choices = (len(self.prune_ratio), len(self.bit_width), len(self.shared_values))
        if self.coded_bits is not None and self.coded_bits.shape != (count, *choices):
            raise EmomcError(f"coded_bits: expected shape {(count, *choices)}, got {self.coded_bits.shape}.")
        if self.coded_bits is not None and not np.all((self.coded_bits >= 0) & (self.coded_bits < np.inf)):
            raise EmomcError("coded_bits: expected finite numbers of at least 0.")
        if self.density is not None:
            if self.density.shape != (count, *choices):
                raise EmomcError(f"density: expected shape {(count, *choices)}, got {self.density.shape}.")
            if not np.all((self.density >= 0) & (self.density <= 1)):
                raise EmomcError("density: expected fractions between 0 and 1.")
        if self.input_sparsity is not None:
            zeros = np.asarray(self.input_sparsity, float)
            if zeros.shape != (count,) or not np.all((zeros >= 0) & (zeros <= 1)):
                raise EmomcError(f"input_sparsity: expected {count} fractions between 0 and 1, got {zeros.tolist()}.")


@runtime_checkable
class CostModel(Protocol):
    """An accelerator, seen from the search: what running each layer costs under each choice.

    A model that inherits from this class gets `breakdown` from its `itemize`.
    """

    @property
    def name(self) -> str:
        """What the accelerator is called in reports."""

    @property
    def dataflows(self) -> tuple[str, ...]:
        """Names accepted on the dataflow axis."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Keys of `tables`, each a key of `METRICS`."""

    def itemize(self, layers: Sequence[Layer], axes: CostAxes) -> dict[str, Array]:
        """Energy by item, in joules: arrays that broadcast to (L, P, Q, S, D) and add up to the energy table."""

    def tables(self, layers: Sequence[Layer], axes: CostAxes) -> dict[str, Array]:
        """One array (L, P, Q, S, D) for each metric, in SI units; an axis without influence may have length 1."""

    def breakdown(
        self,
        layer: Layer,
        prune_ratio: float,
        bit_width: int,
        shared_values: int,
        dataflow: str,
        *,
        coded_bits: float | None = None,
        activation_bits: int = 16,
        input_sparsity: float = 0.0,
    ) -> dict[str, float]:
        """Items, in joules, whose sum is exactly the energy table's entry for these choices."""
        axes = CostAxes(
            [prune_ratio],
            [bit_width],
            [shared_values],
            (dataflow,),
            None if coded_bits is None else np.full((1, 1, 1, 1), float(coded_bits)),
            activation_bits,
            [input_sparsity],
        )
        return {item: float(energy.item()) for item, energy in self.itemize([layer], axes).items()}

    def reference(self, layers: Sequence[Layer], dataflow: str, precision: str = "fp32") -> dict[str, float]:
        """Each metric of the uncompressed network at ``"fp32"`` or ``"int8"``: what ratios are stated against."""


def total(items: Mapping[str, Array]) -> Array:
    """Sum of itemised arrays in their order, so that adding the items of one entry gives the same bits."""
    return reduce(add, items.values())


def by_level(items: Mapping[str, float]) -> dict[str, float]:
    """Energy of each level of an itemised entry: the first word of an item names its level."""
    levels: dict[str, float] = {}
    for item, energy in items.items():
        level = item.split(maxsplit=1)[0]
        levels[level] = levels.get(level, 0.0) + energy
    return levels


def combine_layers(metric: str, values: Array) -> float:
    """A network's value of a metric from its layers' values: their sum, or their maximum for a peak."""
    return float(values.max() if METRICS[metric].combine == "max" else values.sum())


def check_dataflows(model: CostModel, names: Sequence[str]) -> None:
    """Raise EmomcError for a dataflow that the model does not know."""
    for name in names:
        if name not in model.dataflows:
            raise unknown_name(f"dataflow of accelerator {model.name}", name, model.dataflows)


COUNTED = ("conv", "linear")
"""Kinds of layers whose work every model counts."""


def check_kinds(layers: Sequence[Layer]) -> None:
    """Raise EmomcError for a layer of a kind that no model counts."""
    for layer in layers:
        if layer.kind not in COUNTED:
            raise EmomcError(
                f"layer {layer.name!r}: kind {layer.kind!r} cannot be counted; expected {' or '.join(COUNTED)}."
            )
