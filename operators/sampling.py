"""Seeds: genomes to start a search from."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emomc.genome import SearchSpace

Doubles = NDArray[np.float64]
Genomes = NDArray[np.int64]

_STEPS = 24  # exchange rates per cost
_COMBINATIONS = 700  # of exchange rates, at most; with more costs there are fewer rates of each


def uniform_ladder(space: SearchSpace) -> Genomes:
    """Genomes that treat every layer alike: every combination of one choice per gene, canonical, without repeats."""
    rungs = np.array(list(itertools.product(*map(range, space.shape))), dtype=np.int64)
    return np.unique(space.canonical(np.tile(rungs, (1, space.n_layers))), axis=0)


def lagrangian_seeds(space: SearchSpace, loss: Doubles, costs: Sequence[Doubles], steps: int = _STEPS) -> Genomes:
    """Best trade-offs of an additive loss against additive costs, one per combination of exchange rates.

    For fixed rates the best choice of each layer is independent of all others, so each genome is an exact optimum of
    ``loss + sum(rate * cost)``; the sweep over rates walks along the convex part of the exact front, up to rates of 30
    times the largest loss for the largest cost of a choice.

    Args:
        space: where choices may come from.
        loss: loss of every layer's choices, shape ``(L, *space.shape)`` or with axes of length 1.
        costs: tables of the same shape, each summed over layers by its objective.
        steps: exchange rates per cost; fewer where their combinations would be too many.

    Returns:
        Canonical genomes without repeats, mildest first.
    """
    shape = (space.n_layers, *space.shape)
    allowed = _allowed_mask(space)
    flat_loss = np.broadcast_to(loss, shape).reshape(space.n_layers, -1)
    flat_costs = [np.broadcast_to(cost, shape).reshape(space.n_layers, -1) for cost in costs]
    scale = float(np.max(np.where(allowed, flat_loss, 0.0))) or 1.0
    steps = min(steps, max(2, int(_COMBINATIONS ** (1 / max(len(costs), 1))) - 1))
    relative = np.concatenate([[0.0], np.logspace(-7, 1.5, steps)])
    sweeps = [relative * scale / float(cost.max() or 1.0) for cost in flat_costs]
    genomes = []
    for rates in itertools.product(*sweeps):
        total = np.where(allowed, flat_loss, np.inf)
        for rate, cost in zip(rates, flat_costs, strict=True):
            total = total + rate * cost
        best = np.unravel_index(total.argmin(axis=1), space.shape)
        genomes.append(np.stack(best, axis=1).ravel())
    canonical = space.canonical(np.array(genomes))
    _, first = np.unique(canonical, axis=0, return_index=True)
    return canonical[np.sort(first)]


def _allowed_mask(space: SearchSpace) -> NDArray[np.bool_]:
    """Whether each flat choice of each layer is allowed, shape ``(L, prod(space.shape))``."""
    mask = np.zeros((space.n_layers, *space.shape), dtype=bool)
    for allowed, row in zip(mask, space.allowed, strict=True):
        allowed[np.ix_(*row)] = True
    return mask.reshape(space.n_layers, -1)
