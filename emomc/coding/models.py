"""Probability models that cost few bytes: what the entropy coder believes about a tensor's values.

Every model ends in integer frequencies that sum to ``TOTAL``, computed in integer arithmetic alone, so that a file
decodes to the same integers on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PRECISION = 24
TOTAL = 1 << PRECISION
# 2**(30 - i/256): the fractional part of a power of two, in steps of 1/256 octave.
_FRACTIONS = np.array([round(2.0 ** (30 - i / 256)) for i in range(256)], np.int64)
_RATIOS = np.exp2(-np.arange(1, 256) / 16)  # of neighbouring frequencies of a decaying model, by rate from 1

Frequencies = NDArray[np.int64]


def apportion(weights: NDArray[np.int64], total: int) -> Frequencies:
    """Split ``total`` in proportion to ``weights`` (each below 2**38), at least 1 to each.

    What rounding down leaves over goes to the (first) largest weight. All-zero weights count as equal.
    """
    if not weights.any():
        weights = np.ones_like(weights)
    shares = np.asarray(1 + weights * (total - weights.size) // weights.sum(), np.int64)
    shares[np.argmax(weights)] += total - shares.sum()
    return shares


def cost_bits(counts: NDArray[np.int64], frequencies: Frequencies) -> float:
    """Ideal code length in bits of symbols that occur ``counts`` times, under ``frequencies`` of ``TOTAL``."""
    seen = counts > 0
    return float(counts[seen] @ (PRECISION - np.log2(frequencies[seen])))


def halvings(octaves: NDArray[np.int64]) -> NDArray[np.int64]:
    """``2**30 * 2**(-octaves/256)`` for non-negative integers, rounded, to 0 far out."""
    return np.asarray(_FRACTIONS[octaves & 255] >> np.minimum(octaves >> 8, 31), np.int64)


def bell_weights(last: int, slope: int, curve: int) -> NDArray[np.int64]:
    """Decaying weights of steps ``0..last``: ``exp(-a d - b d^2)``, the log-quadratic family.

    It holds the Laplacian (curve 0), the Gaussian, and the Gaussian cut open by magnitude pruning (both). ``slope``
    and ``curve`` are bytes; at ``d = last`` each alone has fallen by ``parameter**2 / 1024`` octaves.
    """
    steps = np.arange(last + 1, dtype=np.int64)
    span = max(last, 1)
    return halvings((slope**2 * steps * span + curve**2 * steps**2) // (4 * span**2))


def two_sided(weights: NDArray[np.int64], centre: Frequencies) -> Frequencies:
    """Frequencies of ``-last..-first, (centre), first..last``: both signs share evenly what ``centre`` leaves."""
    sides = apportion(np.concatenate([weights[::-1], weights]), TOTAL - int(centre.sum()))
    return np.concatenate([sides[: weights.size], centre, sides[weights.size :]])


def bell_frequencies(count: int, zeros: int, first: int, last: int, slope: int, curve: int) -> Frequencies:
    """Frequencies of ``-last..last`` without magnitudes ``1..first-1``: zero-inflated two-sided bell."""
    weights = bell_weights(last - first, slope, curve)
    share = (zeros << PRECISION) // max(count, 1)
    centre = min(max(share, 1), TOTAL - 2 * weights.size)
    return two_sided(weights, np.array([centre], np.int64))


def fit_bell(counts: NDArray[np.int64]) -> tuple[int, int]:
    """Maximum-likelihood ``(slope, curve)`` for how often steps ``0..last`` occur; coarse to fine on the byte grid.

    Spans above 128 steps are sampled at 128 points when normalising: the family is smooth.
    """
    last = max(counts.size - 1, 1)
    x = np.arange(counts.size) / last
    n, m1, m2 = counts.sum(), counts @ x, counts @ x**2
    nodes = x if x.size <= 128 else (np.arange(128) + 0.5) / 128
    slope, curve = 128, 128
    for step, reach in ((16, 8), (4, 4), (1, 4)):
        grid = step * np.arange(-reach, reach + 1)
        a, b = np.clip(slope + grid, 0, 255), np.clip(curve + grid, 0, 255)
        octaves_a, octaves_b = a**2 / 1024, b**2 / 1024
        total = np.exp2(-np.outer(octaves_a, nodes)) @ np.exp2(-np.outer(octaves_b, nodes**2)).T
        bits = n * np.log2(total) + (octaves_a * m1)[:, None] + octaves_b * m2
        i, j = np.unravel_index(int(np.argmin(bits)), bits.shape)
        slope, curve = int(a[i]), int(b[j])
    return slope, curve


def quantize_counts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Levels ``round(sqrt(count / 3))``, at least 1 where a symbol occurs; a level's square is its weight.

    The square root makes the noise of a count independent of its size. In units of the square root of a count, a step
    ``s`` costs about ``s^2 / (6 ln 2)`` bits a symbol in longer codes and saves ``log2 s`` bits in the table:
    ``s^2 = 3`` is the best.
    """
    levels = np.rint(np.sqrt(counts / 3)).astype(np.int64)
    return np.maximum(levels, counts > 0)


def decay_frequencies(last: int, rate: int) -> Frequencies:
    """Frequencies of ``-last..last`` that fall by ``rate / 16`` octaves a step: the model of a table's differences."""
    steps = np.abs(np.arange(-last, last + 1, dtype=np.int64))
    return apportion(halvings(16 * rate * steps), TOTAL)


def fit_decay(differences: NDArray[np.int64], last: int) -> int:
    """The ``rate`` (a byte) with the shortest code for ``differences`` of magnitude up to ``last``."""
    total = 1 + 2 * _RATIOS * (1 - _RATIOS**last) / (1 - _RATIOS)
    octaves = differences.size * np.log2(np.concatenate([[2 * last + 1], total]))
    return int(np.argmin(octaves + np.abs(differences).sum() / 16 * np.arange(256)))
