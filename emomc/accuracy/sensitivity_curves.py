"""Curves behind a table of sensitivities: what its choices share, and where it departs from them.

What a layer loses is about a sum over its genes, of curves along their choices: pruning loses what it loses, rounding
adds what it adds. So choices that share a gene's value are wrong together, as far as that gene's part of the loss goes.
Curves of different layers resemble each other, as the same grid halves everywhere and the same ratio is pruned. A
sensitivity that stands out from curves that all others follow was either probed with noise, or belongs to a layer that
really is different. The table alone cannot tell which; measured networks can, and `predictor_corrected` learns from
them how much of the unevenness to believe.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax

Doubles = NDArray[np.float64]

_NOTHING = 1e-11  # sensitivities up to here stand for no loss at all, and follow no curve
_HOLD = 1e-4  # weight of the square of a parameter's way from where it started


@dataclass(frozen=True, eq=False)
class SensitivityCurves:
    """What smooth curves say of a table of sensitivities.

    A layer's own curve is the shared one to a power; the shared curves differ between layers by a factor alone.

    Attributes:
        roughness: how far the logarithm of the table is above its layer's own curves, and how far these are above the
            shared ones, shape ``(2, L, choices)``; zero where nothing is lost.
        parts: what each point of the curves, which lie end to end, is of each choice's loss, shape
            ``(L, choices, points)``; they add up to 1.
    """

    roughness: Doubles
    parts: Doubles

    @classmethod
    def of(cls, table: Doubles) -> SensitivityCurves:
        """Fit curves to sensitivities of shape ``(L, ...)``, with an axis for each gene."""
        lost = table > _NOTHING
        choices = tuple(length for length in table.shape[1:] if length > 1) or (1,)
        known = lost.reshape(len(table), -1)
        targets = np.log(np.where(lost, table, 1.0)).reshape(known.shape)
        shared = _Curves.typical(targets, known, choices).fitted(targets, known, powers=False)
        own = shared.fitted(targets, known, powers=True)
        smooth, common = own.values(), shared.values()
        roughness = np.stack([np.where(known, targets - smooth, 0.0), np.where(known, smooth - common, 0.0)])
        return cls(roughness, own.parts())


@dataclass(frozen=True, eq=False)
class _Curves:
    """Sums of curves: every layer has a level and a power for each axis, all share the curves along the axes.

    Attributes:
        levels: shape ``(L, axes)``.
        powers: shape ``(L, axes)``.
        shared: the curves of all axes end to end.
        positions: where each choice of the flat table is on them, shape ``(choices, axes)``.
    """

    levels: Doubles
    powers: Doubles
    shared: Doubles
    positions: NDArray[np.intp]

    @classmethod
    def typical(cls, targets: Doubles, known: NDArray[np.bool_], choices: tuple[int, ...]) -> _Curves:
        """Medians over layers, each axis along the mildest choices of the others."""
        level = np.where(known, targets, 0.0).sum(axis=1, keepdims=True) / np.maximum(known.sum(axis=1), 1)[:, None]
        typical = np.median(np.where(known, targets - level, 0.0), axis=0).reshape(choices)
        mildest = np.stack(np.unravel_index(np.argmin(typical), choices))
        axes = range(len(choices))
        along = [np.moveaxis(typical, axis, -1)[tuple(np.delete(mildest, axis))] for axis in axes]
        grid = np.stack(np.unravel_index(np.arange(typical.size), choices), axis=1)
        levels = np.repeat(level - np.log(len(choices)), len(choices), axis=1)
        return cls(levels, np.ones_like(levels), np.concatenate(along), grid + np.cumsum((0, *choices[:-1])))

    def values(self) -> Doubles:
        """Logarithm of the sums, shape ``(L, choices)``."""
        return np.asarray(np.logaddexp.reduce(self._terms(), axis=2))

    def parts(self) -> Doubles:
        """What each point of the curves is of the sums, shape ``(L, choices, points)``."""
        return self._along(softmax(self._terms(), axis=2))

    def fitted(self, targets: Doubles, known: NDArray[np.bool_], powers: bool) -> _Curves:
        """Least squares from here; without powers these stay as they are."""

        def off(step: Doubles) -> Doubles:
            return np.where(known, self._moved(step).values() - targets, 0.0)

        def square(step: Doubles) -> float:
            return float((off(step) ** 2).sum() + (_HOLD * step**2).sum()) / 2

        def slope(step: Doubles) -> Doubles:
            slopes = self._moved(step)._slopes(known, powers)
            pulls = np.einsum("lcp,lc->lp", slopes, off(step))
            own = 2 * self.levels.shape[1]
            return np.concatenate([pulls[:, :own].ravel(), pulls[:, own:].sum(axis=0)]) + _HOLD * step

        def bend(step: Doubles) -> Doubles:
            return _joined(self._moved(step)._slopes(known, powers), 2 * self.levels.shape[1])

        start = np.zeros(2 * self.levels.size + self.shared.size)
        return self._moved(minimize(square, start, jac=slope, hess=bend, method="trust-exact").x)

    def _terms(self) -> Doubles:
        """Logarithm of what each axis adds, shape ``(L, choices, axes)``."""
        return self.levels[:, None] + self.powers[:, None] * self.shared[self.positions]

    def _moved(self, step: Doubles) -> _Curves:
        """With a step added: of each layer's levels and powers, layer by layer, then of the curves."""
        own = step[: 2 * self.levels.size].reshape(len(self.levels), 2, -1)
        shared = self.shared + step[2 * self.levels.size :]
        return replace(self, levels=self.levels + own[:, 0], powers=self.powers + own[:, 1], shared=shared)

    def _slopes(self, known: NDArray[np.bool_], powers: bool) -> Doubles:
        """Derivatives of the values by the layer's levels and powers and by the curves, ``(L, choices, ...)``."""
        share = softmax(self._terms(), axis=2) * known[:, :, None]
        along = self._along(share * self.powers[:, None])
        return np.concatenate([share, share * self.shared[self.positions] * powers, along], axis=2)

    def _along(self, values: Doubles) -> Doubles:
        """Values ``(L, choices, axes)`` at their points of the curves, shape ``(L, choices, points)``."""
        along = np.zeros((*values.shape[:2], self.shared.size))
        along[:, np.arange(len(self.positions))[:, None], self.positions] = values
        return along


def _joined(slopes: Doubles, own: int) -> Doubles:
    """Matrix of the Gauss-Newton step, of slopes that are ``own`` for each layer and shared after that."""
    blocks = np.matmul(slopes.transpose(0, 2, 1), slopes)
    layers, size = len(slopes), len(slopes) * own
    shared = slopes.shape[2] - own
    matrix = np.zeros((layers, own, layers, own))
    matrix[np.arange(layers), :, np.arange(layers)] = blocks[:, :own, :own]
    across = blocks[:, :own, own:].reshape(size, shared)
    joined = np.block([[matrix.reshape(size, size), across], [across.T, blocks[:, own:, own:].sum(axis=0)]])
    return np.asarray(joined + _HOLD * np.eye(size + shared))
