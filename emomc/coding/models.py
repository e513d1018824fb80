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
_FINE = 1.5  # as 3 in `quantize_counts`, for levels that are smoothed afterwards
_LONGEST_PATH = 1 << 10  # symbols and levels of a table that is smoothed: time is their product

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


def choose_levels(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Levels of a table for which the values' code and the table's together are near the shortest.

    Finer than ``quantize_counts``, and smooth where that costs the values less than it saves in the table. The
    shortest path over the levels is exact for a given sum of squares and rate of the differences: those of fine levels.
    """
    levels = np.maximum(np.rint(np.sqrt(counts / _FINE)).astype(np.int64), counts > 0)
    if counts.size > _LONGEST_PATH or levels.max() > _LONGEST_PATH:
        return quantize_counts(counts)
    differences = np.diff(levels)
    widest = int(np.abs(differences).max(initial=0))
    return _shortest_path(counts, levels, fit_decay(differences, widest) / 16) if widest else levels


def _shortest_path(counts: NDArray[np.int64], levels: NDArray[np.int64], rate: float) -> NDArray[np.int64]:
    """Levels of least cost: ``-2 count log2(level)``, the linearized normalization, and ``rate`` a unit of change."""
    grid = np.arange(int(levels.max()) + 2, dtype=np.float64)
    norm = counts.sum() / (np.log(2) * (levels**2).sum()) * grid**2
    gain = 2 * np.log2(np.maximum(grid, 1e-9))  # level 0 is for what does not occur
    slope = rate * grid
    ways, best = [], np.zeros_like(grid)
    for count in counts.tolist():
        below = np.minimum.accumulate(best - slope) + slope
        above = np.minimum.accumulate((best + slope)[::-1])[::-1] - slope
        best = np.minimum(below, above) + norm - count * gain
        ways.append(best)
    path, at = np.empty(counts.size, np.int64), int(np.argmin(ways[-1]))
    for position in range(counts.size - 1, -1, -1):
        if position < counts.size - 1:
            at = int(np.argmin(ways[position] + rate * np.abs(grid - at)))
        path[position] = at
    return path


def odds_frequencies(lean: int) -> Frequencies:
    """Frequencies of two symbols of odds ``2**(lean / 16)``, the first to the second."""
    other, one = int(halvings(np.array(16 * abs(lean)))), 1 << 30
    return apportion(np.array([one, other] if lean > 0 else [other, one], np.int64), TOTAL)


def tilted_frequencies(frequencies: Frequencies, octaves: NDArray[np.int64]) -> Frequencies:
    """``frequencies`` times ``2**(octaves/256)``, one for each symbol, shared out again."""
    falls = halvings(octaves.max() - octaves) >> 17
    return apportion(frequencies * falls, TOTAL)


def decay_frequencies(last: int, rate: int) -> Frequencies:
    """Frequencies of ``-last..last`` that fall by ``rate / 16`` octaves a step: the model of a table's differences."""
    steps = np.abs(np.arange(-last, last + 1, dtype=np.int64))
    return apportion(halvings(16 * rate * steps), TOTAL)


def fit_decay(differences: NDArray[np.int64], last: int) -> int:
    """The ``rate`` (a byte) with the shortest code for ``differences`` of magnitude up to ``last``."""
    total = 1 + 2 * _RATIOS * (1 - _RATIOS**last) / (1 - _RATIOS)
    octaves = differences.size * np.log2(np.concatenate([[2 * last + 1], total]))
    return int(np.argmin(octaves + np.abs(differences).sum() / 16 * np.arange(256)))
