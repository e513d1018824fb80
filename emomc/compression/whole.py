"""Pruning a whole network in one go: each layer along its own path, and the ratios that together cost least.

A layer is pruned step by step as in `emomc.compression.obs`; the networks on the way are kept, so that one path gives
every ratio. What a ratio loses is the layer's relative output error. Ratios are then chosen so that the sum of these
errors is least among all choices that save as much.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emomc.compression.hessian import Calibration
from emomc.compression.obs import OutputError, remove_cheapest
from emomc.compression.pruning import prune_magnitude
from emomc.compression.threads import torch_threads
from emomc.errors import EmomcError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

PATH = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.985)
_UNITS = 4000  # that a limit is counted in
_STEP = 0.7  # share of the weights that a step keeps
_SOLVING, _POLISHING = 3, 5  # iterations of the solver after a step, and at a ratio that is kept


@dataclass(frozen=True, eq=False)
class PrunePath:
    """One layer at several prune ratios, mildest first.

    Attributes:
        ratios: (P,).
        weights: of each ratio, in the layer's shape.
        errors: (P,) squared output error over squared output; squared weight error over squared weights where the
            layer is too wide for a Gram matrix.
    """

    ratios: tuple[float, ...]
    weights: tuple[Floats, ...]
    errors: Doubles


def prune_path(weight: Floats, gram: Floats | None, ratios: Sequence[float] = PATH) -> PrunePath:
    """Prune a layer to ascending ratios, each from the one before.

    Args:
        weight: output channels first.
        gram: of the layer's inputs; without one, weights are pruned by magnitude.
        ratios: ascending, each below 1.
    """
    if gram is None:
        pruned = tuple(prune_magnitude(weight, ratio) for ratio in ratios)
        total = float(np.square(weight, dtype=np.float64).sum()) or 1.0
        lost = [float(np.square(weight - each, dtype=np.float64).sum()) / total for each in pruned]
        return PrunePath(tuple(ratios), pruned, np.array(lost))
    with torch_threads(1):
        objective = OutputError.of(weight, gram)
        columns, kept = objective.target, torch.ones_like(objective.target)
        total = float((columns * (objective.gram @ columns)).sum()) or 1.0
        weights, errors, left = [], [], columns.numel()
        for ratio in ratios:
            goal = columns.numel() - round(ratio * columns.numel())
            steps = max(1, math.ceil(math.log(max(goal, 1) / left) / math.log(_STEP)))
            for step in range(1, steps + 1):
                keep = round(left * (goal / left) ** (step / steps))
                iterations = _POLISHING if step == steps else _SOLVING
                columns, kept = remove_cheapest(objective, columns, kept, keep, iterations)
            left = max(goal, 1)  # of a small layer nothing may be left, and then nothing goes
            weights.append(objective.weight(columns))
            errors.append(float(objective(columns).double().sum()) / total)
    return PrunePath(tuple(ratios), tuple(weights), np.array(errors))


def choose_ratios(losses: Doubles, costs: Doubles, limit: float) -> NDArray[np.int64]:
    """One choice for each layer so that the sum of losses is least while the sum of costs is within a limit.

    A knapsack by dynamic programming over the cost that is spent, which is rounded up to a 4000th of the limit.

    Args:
        losses: (L, P).
        costs: (L, P), not negative.
        limit: of the sum of costs, above 0.

    Raises:
        EmomcError: even the cheapest choices cost more.
    """
    spent = np.ceil(costs / limit * _UNITS - 1e-9).astype(np.int64)
    best, choices = np.zeros(_UNITS + 1), []
    for loss, cost in zip(losses, spent, strict=True):
        options = np.full((len(loss), _UNITS + 1), np.inf)
        for choice, units in enumerate(cost.tolist()):
            if units <= _UNITS:
                options[choice, units:] = best[: _UNITS + 1 - units] + loss[choice]
        choices.append(options.argmin(0))
        best = options.min(0)
    if not np.isfinite(best[-1]):
        least = costs.min(1).sum()
        raise EmomcError(f"the cheapest choices together cost {least:.3g}, too much for a limit of {limit:.3g}.")
    left, chosen = _UNITS, []
    for cost, choice in zip(spent[::-1], choices[::-1], strict=True):
        chosen.append(int(choice[left]))
        left -= int(cost[chosen[-1]])
    return np.array(chosen[::-1], dtype=np.int64)


def prune_network(
    calibration: Calibration,
    ratio: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[nn.Module, Mapping[str, float]]:
    """A network pruned in one go, each layer as much as it bears.

    Args:
        calibration: the network, its trace and inputs; the more inputs, the better.
        ratio: fraction of the multiply-accumulates and of the weights that goes, whichever binds: the mean of the two.
        progress: called with (layers done, layers in all).

    Returns:
        A pruned copy and the prune ratio of each layer.

    Raises:
        EmomcError: no choice of ratios saves as much.
    """
    if not 0 <= ratio < 1:
        raise EmomcError(f"prune ratio {ratio}; expected at least 0 and below 1.")
    module, layers = copy.deepcopy(calibration.module), calibration.network.layers
    state, grams, paths = module.state_dict(), calibration.grams(), []
    for done, layer in enumerate(layers, start=1):
        weight = state[layer.weight].detach().cpu().contiguous().numpy()
        paths.append(prune_path(weight, grams.get(layer.name)))
        if progress is not None:
            progress(done, len(layers))
    ratios = np.array([0.0, *PATH])
    losses = np.array([[0.0, *path.errors] for path in paths])
    work = np.array([sum(call.macs for call in layer.calls) for layer in layers], float)
    weights = np.array([math.prod(layer.weight_shape) for layer in layers], float)
    share = (work / work.sum() + weights / weights.sum()) / 2
    chosen = choose_ratios(losses, share[:, None] * (1 - ratios), 1 - ratio)
    with torch.no_grad():
        for layer, path, index in zip(layers, paths, chosen.tolist(), strict=True):
            if index:
                state[layer.weight].copy_(torch.from_numpy(path.weights[index - 1]))
    return module, {layer.name: float(ratios[index]) for layer, index in zip(layers, chosen.tolist(), strict=True)}
