"""EMOMC's analytic energy model, restated from its publication and its authors' released program.

Source: Z. Wang, T. Luo, M. Li, J. T. Zhou, R. S. M. Goh, L. Zhen, "Evolutionary Multi-Objective Model Compression for
Deep Neural Networks", IEEE Computational Intelligence Magazine 16(3), 2021. With N multiply-accumulates, keep
fraction p and b-bit weights, in picojoules:

    mac            1.02 N p (b + 1)
    memory weight  7.28 Nw (b + 1) / 16         reads; zeros are read too
    memory input   7.28 Ni phi_i                reads of 16-bit feature maps
    memory output  4.47 No phi_o                writes
    memory psum    7.28 No phi_o                reads, except X:Y and linear layers, which write each output once

Maps of fewer than 16 bits are an extension: their words shrink in proportion, those of partial sums do not, and a
multiplier for m-bit maps takes m / 2 * (b + 1) look-up tables, the published one being that of 10 bits, the significand
of 16-bit floats.

phi is the probability that one of the PEs that share a datum holds a nonzero weight. The model is kept as published,
with its known simplifications: one memory level, an array as large as the unrolled loops, no halo in X:FX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from operator import add
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from emomc.errors import EmomcError, unknown_name
from emomc.hardware.interface import Array, CostAxes, CostModel, check_dataflows, check_kinds, total
from emomc.network.layers import Layer, LoopBounds

PICOJOULE = 1e-12
WORD_BITS = 16
_MULTIPLIER = 10  # bits of the feature map's side: the publication counts 10 x 8 bits for fp16 by int8
ITEMS = ("mac", "memory weight", "memory input", "memory output", "memory psum")
EXACT_SHARING = 24  # beyond so many sharing PEs the released program takes phi as 1


@dataclass(frozen=True)
class Energies:
    """The model's three constants in picojoules, with the published values."""

    mac: float = 1.02  # per multiply-accumulate and (bits + 1)
    read: float = 7.28  # per 16-bit word
    write: float = 4.47  # per 16-bit word


@dataclass(frozen=True)
class Accesses:
    """Words of 16 bits that one call moves if dense, and how many PEs share each datum (0: phi is 1)."""

    weights: float
    inputs: float
    outputs: float
    psums: float
    input_sharing: int
    output_sharing: int


@dataclass(frozen=True)
class Arithmetic:
    """Energy factors of a number format, as scalars or (Q, 1): of a MAC, a weight read, a word of maps and of sums."""

    mac: float | Array  # in place of (bits + 1)
    weight: float | Array  # in place of (bits + 1) / 16
    activation: float = 1.0
    psum: float = 1.0


def fixed_point(bit_width: Sequence[int] | NDArray[np.int64], activation_bits: int = WORD_BITS) -> Arithmetic:
    """Fixed-point weights of (Q,) bit-widths, with feature maps of at most 16 bits."""
    bits = np.asarray(bit_width, float)[:, None]
    multiplier = min(activation_bits, _MULTIPLIER) / _MULTIPLIER
    return Arithmetic((bits + 1) * multiplier, (bits + 1) / WORD_BITS, activation_bits / WORD_BITS)


# The publication compares with 32-bit floats without stating their cost. Inferred: the 23x23-bit multiplier takes
# 23/2 * 24 look-up tables where 5 (b + 1) are charged for a b-bit weight, feature maps have 32 bits, and weights
# 24/16; this meets the published uncompressed energies of VGG-16 to 4 %.
FLOAT32 = Arithmetic(mac=23 / 2 * 24 / 5, weight=24 / 16, activation=2.0, psum=2.0)


def _pixels(call: LoopBounds) -> Accesses:
    n = call.macs
    outputs = n / (call.FX * call.FY * call.C)
    return Accesses(n / (call.OX * call.OY), n, outputs, 0, 1, 0)


def _channels(call: LoopBounds) -> Accesses:
    n = call.macs
    shared_by = [size if size <= EXACT_SHARING else 0 for size in (call.K, call.C)]
    return Accesses(n, n / call.K, n / call.C, n / call.C, *shared_by)


def _window(call: LoopBounds) -> Accesses:
    n, window = call.macs, call.FX * call.FY
    return Accesses(n / (call.OX * call.OY), n, n / window, n / window, 1, window)


def _row(call: LoopBounds) -> Accesses:
    n = call.macs
    return Accesses(n / math.sqrt(call.OX * call.OY), n / call.FX, n / call.FX, n / call.FX, call.FX, call.FX)


def _linear(call: LoopBounds) -> Accesses:
    return Accesses(call.macs, call.macs, call.outputs, 0, 1, 0)


DATAFLOWS: Mapping[str, Callable[[LoopBounds], Accesses]] = MappingProxyType(
    {"X:Y": _pixels, "CI:CO": _channels, "FX:FY": _window, "X:FX": _row}
)


def _touched(keep: Array, sharing: int) -> Array:
    """Probability that at least one of ``sharing`` weights is kept."""
    if sharing == 0:
        return np.ones_like(keep)
    return keep if sharing == 1 else 1 - (1 - keep) ** sharing


def _call_items(energies: Energies, access: Accesses, macs: int, keep: Array, arithmetic: Arithmetic) -> Array:
    """Items of one call, (item, P, Q, S) in joules; ``keep`` is (P, Q, S), or has axes of length 1."""
    used_in = _touched(keep, access.input_sharing) * arithmetic.activation
    used_out = _touched(keep, access.output_sharing)
    items = (
        energies.mac * macs * keep * arithmetic.mac,
        energies.read * access.weights * arithmetic.weight,
        energies.read * access.inputs * used_in,
        energies.write * access.outputs * used_out * arithmetic.activation,
        energies.read * access.psums * used_out * arithmetic.psum,
    )
    return PICOJOULE * np.stack(np.broadcast_arrays(*items))


def _layer_items(
    energies: Energies, layers: Sequence[Layer], dataflows: Sequence[str], keep: Array, arithmetic: Arithmetic
) -> dict[str, Array]:
    """Items (L, P, Q, S, D) of every layer for ``keep`` (L, P, Q, S), either with axes of length 1: calls add up."""

    @cache
    def call_items(call: LoopBounds, linear: bool, row: int) -> Array:
        accesses = [(_linear if linear else DATAFLOWS[name])(call) for name in dataflows]
        return np.stack(
            [_call_items(energies, access, call.macs, keep[row], arithmetic) for access in accesses], axis=-1
        )

    rows = [
        reduce(add, (call_items(call, layer.kind == "linear", min(number, len(keep) - 1)) for call in layer.calls))
        for number, layer in enumerate(layers)
    ]
    return dict(zip(ITEMS, np.stack(rows, axis=1), strict=True))


@dataclass(frozen=True)
class PublishedModel(CostModel):
    """EMOMC's energy model: metric ``energy``, dataflows X:Y, CI:CO, FX:FY and X:FX.

    Energy does not depend on coding, on shared values or on zeros in feature maps, which have 16 bits, or fewer as an
    extension.
    """

    name: str = "published"
    energies: Energies = Energies()
    dataflows: tuple[str, ...] = tuple(DATAFLOWS)
    metrics: tuple[str, ...] = ("energy",)

    def itemize(self, layers: Sequence[Layer], axes: CostAxes) -> dict[str, Array]:
        """Energy by item, each (L, P, Q, S, D) in joules; S has length 1 unless exact densities are given.

        Raises:
            EmomcError: for an unknown dataflow or feature maps of more than 16 bits.
        """
        check_dataflows(self, axes.dataflow)
        axes.check_layers(len(layers))
        check_kinds(layers)
        if axes.activation_bits > WORD_BITS:
            raise EmomcError(
                f"activation_bits: the published model has feature maps of at most {WORD_BITS} bits, got "
                f"{axes.activation_bits}. Choose another accelerator for wider ones."
            )
        keep = axes.keep(range(len(layers)))
        return _layer_items(
            self.energies, layers, axes.dataflow, keep, fixed_point(axes.bit_width, axes.activation_bits)
        )

    def tables(self, layers: Sequence[Layer], axes: CostAxes) -> dict[str, Array]:
        """``{"energy": (L, P, Q, S, D)}`` in joules, as `itemize`. Raises EmomcError as `itemize` does."""
        return {"energy": total(self.itemize(layers, axes))}

    def reference(self, layers: Sequence[Layer], dataflow: str, precision: str = "fp32") -> dict[str, float]:
        """``{"energy": joules}`` of the dense network with 32-bit floats (inferred), or with 8-bit weights."""
        check_dataflows(self, [dataflow])
        formats = {"fp32": FLOAT32, "int8": fixed_point([8])}
        if precision not in formats:
            raise unknown_name("reference precision", precision, formats)
        return {
            "energy": float(
                total(_layer_items(self.energies, layers, [dataflow], np.ones((1, 1, 1, 1)), formats[precision])).sum()
            )
        }
