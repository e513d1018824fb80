"""The form in which every compressed weight tensor is stored: integers times a scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class CodedTensor:
    """A compressed weight tensor: ``weight = integers * scale``.

    A pruned weight is integer 0. Weight sharing needs no second form: its integers simply take few distinct values,
    the codebook, on the grid of the bit-width.

    Attributes:
        integers: shape of the weight, output channels first; int8 where every value fits, else int16.
        scale: float16, shape ``(1,)`` for one scale per tensor or ``(channels,)`` for one per output channel.
        bit_width: bits of a stored value, 2 to 16; integers lie in ``[-(2**(b-1)-1), 2**(b-1)-1]``.
    """

    integers: NDArray[np.signedinteger]
    scale: NDArray[np.float16]
    bit_width: int

    def dequantize(self) -> NDArray[np.float32]:
        """Weights as float32, in the shape of ``integers``."""
        trailing = (1,) * (self.integers.ndim - 1)
        return self.integers.astype(np.float32) * self.scale.astype(np.float32).reshape(-1, *trailing)
