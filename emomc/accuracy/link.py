"""The link between scores and errors: ``error = e0 + (1 - e0) * (1 - exp(-exp(u)))``.

``u`` grows like the logarithm of the loss while it is small, and the error saturates at 1. Whatever predicts errors
predicts ``u``, in which effects are about additive and noise about even.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_LOWEST = 1e-7  # excess of a network that loses nothing


def to_link(errors: Doubles, dense: float, samples: int | None = None) -> tuple[Doubles, Doubles]:
    """Link of measured errors and the variance that sampling gives it, each ``(n,)``.

    The variance of a loss d that is measured on m samples, paired with the dense network, is about d / m, as most
    samples that change become wrong. Losses below one sample count as one sample.

    Args:
        errors: shape ``(n,)``, finite.
        dense: error of the uncompressed network, below 1.
        samples: samples that the errors were measured on; None where they are exact.
    """
    loss = np.asarray(errors - dense) / (1 - dense)
    least = _LOWEST if samples is None else 1 / samples
    excess = np.clip(loss, least, 1 - 1e-6)
    # Derivative of u by the excess, so that a variance of the loss becomes one of u.
    rate = 1 / (-np.log1p(-excess) * (1 - excess))
    variance = np.zeros_like(excess) if samples is None else np.minimum((excess + least) / samples * rate**2, 4.0)
    return np.log(-np.log1p(-excess)), variance


def from_link(link: Doubles, dense: float) -> Doubles:
    """Error of a link, between the dense error and 1."""
    return np.asarray(dense + (1 - dense) * -np.expm1(-np.exp(np.minimum(link, 10.0))))
