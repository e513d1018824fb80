"""Published ways of counting a network's size, so that a paper's figures can be compared with ours.

They are formulas, not encoders: no file of that size need exist, and none counts scales, biases or batch norm. For a
size that is real use the length of the blobs.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emomc.errors import unknown_name

Bits = NDArray[np.float64]


class SizeFormula(Protocol):
    """Bits of layers; all arguments broadcast."""

    def __call__(self, weights: ArrayLike, keep: ArrayLike, bit_width: ArrayLike, shared: ArrayLike = 0, /) -> Bits:
        """Bits.

        Args:
            weights: of each layer.
            keep: ``1 - prune_ratio``.
            bit_width: of a stored value; of a codebook entry where values are shared.
            shared: shared values, the codebook; 0 where there is none.
        """


@dataclass(frozen=True)
class SizeConvention:
    """One formula.

    Attributes:
        name: how it is selected.
        bits: ``(weights, keep, bit_width, shared=0) -> bits``.
        counts: what it counts, in a few words.
        decodable_from: keep fraction from which on the figure is not below ``entropy_bound``, hence could be decoded.
        source: where it was published.
    """

    name: str
    bits: SizeFormula
    counts: str
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


# The released code of EMOMC knows no sharing: its formulas take the width of a stored value alone.


def _normal(weights: ArrayLike, keep: ArrayLike, bit_width: ArrayLike, shared: ArrayLike = 0, /) -> Bits:
    n, p, b, k = _floats(weights, keep, bit_width, shared)
    return np.asarray(n * b + 0 * p + 0 * k, np.float64)


def _csr(weights: ArrayLike, keep: ArrayLike, bit_width: ArrayLike, shared: ArrayLike = 0, /) -> Bits:
    n, p, b, k = _floats(weights, keep, bit_width, shared)
    return np.asarray(n * p * (b + 3) + 0 * k, np.float64)


def _coo(weights: ArrayLike, keep: ArrayLike, bit_width: ArrayLike, shared: ArrayLike = 0, /) -> Bits:
    n, p, b, k = _floats(weights, keep, bit_width, shared)
    return np.asarray(n * p * np.round(b + np.log2(n)) + 0 * k, np.float64)


def _dupuis(weights: ArrayLike, keep: ArrayLike, bit_width: ArrayLike, shared: ArrayLike = 0, /) -> Bits:
    """``n ceil(log2 K) + K B``; zeros are one of the K."""
    n, p, b, k = _floats(weights, keep, bit_width, shared)
    return np.asarray(n * _index_bits(b, k) + k * b + 0 * p, np.float64)


def _haq(weights: ArrayLike, keep: ArrayLike, bit_width: ArrayLike, shared: ArrayLike = 0, /) -> Bits:
    """``n p ceil(log2 K)``: no codebook, and nothing that says which weights are kept."""
    n, p, b, k = _floats(weights, keep, bit_width, shared)
    return np.asarray(n * p * _index_bits(b, k), np.float64)


def _index_bits(bit_width: Bits, shared: Bits) -> Bits:
    return np.where(shared > 0, np.ceil(np.log2(np.maximum(shared, 1))), bit_width)


def _floats(*values: ArrayLike) -> tuple[Bits, ...]:
    return tuple(np.asarray(value, np.float64) for value in values)


_EMOMC = "EMOMC, evaluation code released with the paper"

CONVENTIONS: MappingProxyType[str, SizeConvention] = MappingProxyType(
    {
        convention.name: convention
        for convention in (
            SizeConvention("emomc-normal", _normal, "every weight, pruned or not", 0.0, _EMOMC),
            # Three index bits cannot tell where the kept weights are: 3 p < H(p) below this keep fraction.
            SizeConvention("emomc-csr", _csr, "kept weights and 3 bits each", 0.28925, _EMOMC),
            SizeConvention("emomc-coo", _coo, "kept weights and log2 n bits each", 0.0, _EMOMC),
            SizeConvention(
                "dupuis",
                _dupuis,
                "an index for every weight, and the codebook",
                0.0,
                "Dupuis et al., ASP-DAC 2022, released code; its codebooks have 32-bit entries",
            ),
            # Which weights are kept is not counted at all, so that only dense layers could be decoded.
            SizeConvention(
                "haq",
                _haq,
                "kept weights alone, no codebook and no positions",
                1.0,
                "Wang et al., CVPR 2019 (HAQ), released code",
            ),
        )
    }
)
