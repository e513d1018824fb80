"""By how much the values of each output and each input channel lean one way: fitting levels that a file can hold.

A statistic of the values (whether they are zero, how large they are) has under every pair of channels the distribution
of all, tilted by ``exp(theta x)``, with ``theta = middle + output + input`` (for zeros this is Rasch's model). Levels
are multiples of a step: that with the shortest code of values and levels together. Where channels are many, those of
like level are taken together while the others are fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST = 127  # largest level
UNIT = np.log(2) / 16  # levels count sixteenths of octaves
_STEEPEST = 24 * np.log(2)
_ROUNDS = 3
_GROUPS = 64  # of channels that are taken together
_LEAST_VARIANCE = 1e-4
_OVERHEAD = 48  # bits that the levels take beside their entropy


@dataclass(frozen=True)
class Statistic:
    """What leans: ``log_sum(theta)`` is the log of the mean of ``exp(theta x)``, ``moments`` its two derivatives."""

    log_sum: Callable[[Floats], Floats]
    moments: Callable[[Floats], tuple[Floats, Floats]]


@dataclass(frozen=True)
class Lean:
    """Levels of the channels.

    Attributes:
        step: sixteenths of octaves that a level is worth.
        offset: what is added, in sixteenths of octaves.
        outputs: ``(K,)``.
        inputs: ``(C,)``.
        gain: bits that the values are coded shorter than without, less what the levels are expected to take.
    """

    step: int
    offset: int
    outputs: NDArray[np.int64]
    inputs: NDArray[np.int64]
    gain: float


def fit_lean(sums: Floats, counts: Floats, statistic: Statistic, middle: float, steps: tuple[int, ...]) -> Lean:
    """The step of the largest gain and its levels.

    Args:
        sums: ``(K, C)``, of the statistic over the values of each pair of channels.
        counts: ``(K, C)``, how many values.
        statistic: its law at ``theta``.
        middle: ``theta`` of all values together.
        steps: to choose from.
    """
    leans = [np.zeros(size) for size in sums.shape]
    spread, centre = [1.0, 1.0], middle
    for _ in range(_ROUNDS):
        for axis in (0, 1):
            members = _members(leans[1 - axis])
            some, many = (each @ members if axis == 0 else each.T @ members for each in (sums, counts))
            theta = centre + leans[axis][:, None] + _means(leans[1 - axis], members)
            pull, weight = _pull(some, many, statistic, theta)
            centre += float(_newton(pull.sum(), weight.sum()))
            certain = weight.sum(1) + 1 / spread[axis]
            leans[axis] += _newton(pull.sum(1) - leans[axis] / spread[axis], certain)  # drawn to 0 as spread tells
            leans[axis] -= leans[axis].mean()
            spread[axis] = max(float((leans[axis] ** 2 + 1 / certain).mean()), _LEAST_VARIANCE)
    rows, columns = map(_members, leans)
    some, many = (rows.T @ each @ columns for each in (sums, counts))
    plain = _bits(some, many, statistic, np.full_like(some, middle))

    def rounded(step: int) -> Lean:
        levels = [np.clip(np.rint(each / UNIT / step), -MOST, MOST).astype(np.int64) for each in leans]
        theta = step * UNIT * (_means(levels[0], rows)[:, None] + _means(levels[1], columns))
        pull, weight = _pull(some, many, statistic, centre + theta)
        offset = int(np.rint((centre + _newton(pull.sum(), weight.sum())) / UNIT))
        occurrences = np.unique(np.concatenate(levels), return_counts=True)[1]
        side = float(occurrences @ np.log2(occurrences.sum() / occurrences)) + _OVERHEAD
        gain = plain - _bits(some, many, statistic, theta + offset * UNIT) - side
        return Lean(step, offset, levels[0], levels[1], gain)

    return max(map(rounded, steps), key=lambda lean: lean.gain)


def _members(lean: Floats) -> Floats:
    """``(n, groups)``: 1 where a channel belongs to a group of channels of like lean; each is its own where few."""
    groups = min(lean.size, _GROUPS)
    rank = np.empty(lean.size, np.int64)
    rank[np.argsort(lean, kind="stable")] = np.arange(lean.size)
    return np.eye(groups)[rank * groups // lean.size]


def _means(lean: Floats | NDArray[np.int64], members: Floats) -> Floats:
    return np.asarray(lean @ members / members.sum(0))


def _bits(sums: Floats, counts: Floats, statistic: Statistic, theta: Floats) -> float:
    """Code length, but for what does not depend on ``theta``."""
    theta = np.clip(theta, -_STEEPEST, _STEEPEST)
    return float((counts * statistic.log_sum(theta) - sums * theta).sum() / np.log(2))


def _pull(sums: Floats, counts: Floats, statistic: Statistic, theta: Floats) -> tuple[Floats, Floats]:
    """By how much the sums exceed what is expected, and their variance, ``(K, C)`` each."""
    mean, variance = statistic.moments(np.clip(theta, -_STEEPEST, _STEEPEST))
    return sums - counts * mean, counts * variance


def _newton(pull: Floats | np.float64, weight: Floats | np.float64) -> Floats:
    """A step towards no pull, not further than the law can be taken for a parabola."""
    return np.asarray(np.clip(pull / np.maximum(weight, 1e-9), -2, 2))


def zero_or_not() -> Statistic:
    """``x`` is 1 where a value is zero; ``theta`` is the log of the odds."""

    def moments(theta: Floats) -> tuple[Floats, Floats]:
        share = 1 / (1 + np.exp(-theta))
        return share, share * (1 - share)

    return Statistic(lambda theta: np.logaddexp(0, theta), moments)


def distributed(values: Floats, counts: NDArray[np.int64]) -> Statistic:
    """``x`` takes ``values`` (0 to 1) as often as ``counts`` tell; tabulated over ``theta`` and interpolated."""
    grid = np.linspace(-_STEEPEST, _STEEPEST, 257)
    weights = np.exp(np.outer(grid, values) - np.maximum(grid, 0)[:, None]) * counts
    total = weights.sum(1)
    mean = weights @ values / total
    variance = np.maximum(weights @ values**2 / total - mean**2, 1e-12)
    log_sum = np.log(total / counts.sum()) + np.maximum(grid, 0)

    def moments(theta: Floats) -> tuple[Floats, Floats]:
        return np.interp(theta, grid, mean), np.interp(theta, grid, variance)

    return Statistic(lambda theta: np.asarray(np.interp(theta, grid, log_sum)), moments)
