"""Published ways of counting a network's size, so that a paper's figures can be compared with ours.

They are formulas, not encoders: no file of that size need exist, and none counts scales, biases or batch norm. For a
size that is real use the length of the blobs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emomc.errors import unknown_name

Bits = NDArray[np.float64]


@dataclass(frozen=True)
class SizeConvention:
    """One formula.

    Attributes:
        name: how it is selected.
        bits: ``(weights, keep, bit_width) -> bits``, with broadcasting; ``keep`` is ``1 - prune_ratio``.
        decodable_from: keep fraction from which on the figure is not below ``entropy_bound``, hence could be decoded.
        source: where it was published.
    """

    name: str
    bits: Callable[[ArrayLike, ArrayLike, ArrayLike], Bits]
    decodable_from: float
    source: str

    @property
    def below_entropy(self) -> bool:
        """Whether some keep fractions give fewer bits than any decodable code needs."""
        return self.decodable_from > 0


def entropy_bound(weights: ArrayLike, keep: ArrayLike, bits: ArrayLike) -> Bits:
    """``n (H(p) + p b)``: bits to say which of ``n`` weights are kept, and ``b`` bits of information in each kept one.

    No code does better on average when positions and values are independent and uniform. Broadcasts.
    """
    n, p, b = _floats(weights, keep, bits)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(q > 0, -q * np.log2(q), 0.0) for q in (p, 1 - p)]
    return np.asarray(n * (terms[0] + terms[1] + p * b), np.float64)


def size_convention(name: str) -> SizeConvention:
    """The convention called ``name``; raises ``EmomcError`` suggesting the nearest when there is none."""
    if name not in CONVENTIONS:
        raise unknown_name("size convention", name, CONVENTIONS)
    return CONVENTIONS[name]


def _normal(weights: ArrayLike, keep: ArrayLike, bit_width: ArrayLike) -> Bits:
    n, p, b = _floats(weights, keep, bit_width)
    return np.asarray(n * b + 0 * p, np.float64)  # every weight is stored, pruned or not


def _csr(weights: ArrayLike, keep: ArrayLike, bit_width: ArrayLike) -> Bits:
    n, p, b = _floats(weights, keep, bit_width)
    return np.asarray(n * p * (b + 3), np.float64)


def _coo(weights: ArrayLike, keep: ArrayLike, bit_width: ArrayLike) -> Bits:
    n, p, b = _floats(weights, keep, bit_width)
    return np.asarray(n * p * np.round(b + np.log2(n)), np.float64)


def _floats(*values: ArrayLike) -> tuple[Bits, ...]:
    return tuple(np.asarray(value, np.float64) for value in values)


_EMOMC = "EMOMC, evaluation code released with the paper"

CONVENTIONS: MappingProxyType[str, SizeConvention] = MappingProxyType(
    {
        convention.name: convention
        for convention in (
            SizeConvention("emomc-normal", _normal, 0.0, _EMOMC),
            # Three index bits cannot tell where the kept weights are: 3 p < H(p) below this keep fraction.
            SizeConvention("emomc-csr", _csr, 0.28925, _EMOMC),
            SizeConvention("emomc-coo", _coo, 0.0, _EMOMC),
        )
    }
)
