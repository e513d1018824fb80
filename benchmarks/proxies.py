"""Search problems without a network whose exact front is known.

Every layer has a true loss for each of its choices, which a search does not see: it is told sensitivities that are off
by a log-normal factor each, as probing a layer alone tells them. Errors are measured by a formula, so a search takes
seconds, and the exact front is found by dynamic programming, layer after layer. "additive" adds up the layers' losses;
in "coupled" neighbouring layers also amplify or cancel each other's loss, which no sensitivity tells; "three" has
prune ratios beside bit-widths, and energy as a third objective. "plain" is a milder problem, after a published
description: a layer's loss falls by 4 with every bit, and all losses are too small to saturate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import moocore
import numpy as np
from numpy.typing import NDArray

from emomc import CompressionProblem, Constraint, Gene, SearchSpace, hypervolume
from emomc.genome import BIT_WIDTH, DATAFLOW, PRUNE_RATIO, SHARED_VALUES
from emomc.problems import CostTables, load_objective
from emomc.search import SearchTask
from emomc.search.infill import pick_gain

Doubles = NDArray[np.float64]
Genomes = NDArray[np.integer]

DENSE_ERROR = 0.08
CHANCE = 0.9  # error of a network that has broken down
MAX_LOSS = 0.1  # of "three"
RESOLUTION = 1e-4  # errors are exact, so that small losses can be told apart
NOISE = 0.5  # standard deviation of the logarithm of told over true loss


@dataclass(frozen=True, eq=False)
class Proxy:
    """A problem whose true error is known for every genome.

    Attributes:
        name: how results call it.
        loss: true loss of each layer's choices, shape ``(L, P, Q)``; a network's loss is a sum, in units in which 1
            is half-way between the dense error and chance.
        coupling: shape ``(L - 1,)``; neighbours with losses a and b add ``coupling * sqrt(a * b)``. From -1 on, no
            network has a negative loss.
        costs: per metric the cost of each layer's choices, in whole units, shape ``(L, P, Q)``.
    """

    name: str
    space: SearchSpace
    loss: Doubles
    coupling: Doubles
    costs: dict[str, Doubles]
    max_loss: float = CHANCE  # networks that lose more error than this are infeasible
    resolution: float = RESOLUTION
    corner: float = 1.0  # of the box in which quality is taken; 1 is the worst on the exact front

    def losses(self, genomes: Genomes) -> Doubles:
        """True losses of genomes ``(n, n_var)``, shape ``(n,)``."""
        parts = self.space.split(genomes)
        own = self.loss[np.arange(self.space.n_layers), parts[:, :, 0], parts[:, :, 1]]
        return np.asarray(own.sum(axis=1) + (self.coupling * np.sqrt(own[:, 1:] * own[:, :-1])).sum(axis=1))

    def errors(self, genomes: Genomes) -> Doubles:
        """True errors of genomes ``(n, n_var)``, shape ``(n,)``."""
        return to_error(self.losses(genomes))

    def problem(self, errors: Callable[[Genomes], Doubles] | None = None) -> CompressionProblem:
        """The problem, with the limit of the loss as its constraint where there is one."""
        tables = {name: table[..., None, None] for name, table in self.costs.items()}
        costs = CostTables(self.space, (), tables, {})
        limit = [Constraint(load_objective("error"), DENSE_ERROR + self.max_loss)] if self.max_loss < CHANCE else []
        return CompressionProblem(costs, errors or self.errors, ("error", *self.costs), limit)

    def task(self, seed: int, noise: float = NOISE) -> SearchTask:
        """What a search is given: exact costs, and sensitivities that are off by a factor each."""
        factor = np.exp(noise * np.random.default_rng(seed).normal(size=self.loss.shape))
        told = np.maximum.accumulate(np.maximum.accumulate(self.loss * factor, axis=1), axis=2)
        return SearchTask(self.problem(), told[..., None, None], DENSE_ERROR, resolution=self.resolution)

    @cached_property
    def exact_front(self) -> Doubles:
        """Objectives of every network that no other one dominates, shape ``(n, objectives)``.

        Of two parts of a network that end in the same choice, one that is dominated stays dominated in every network
        that goes on alike. So a front is kept for each choice of the last layer, or a single one where layers are
        independent.
        """
        tables = np.stack([self.loss, *self.costs.values()], axis=-1)
        choices = tables.reshape(self.space.n_layers, -1, tables.shape[-1])
        # With nothing but additions losses only grow, so what loses too much already is left out.
        limit = from_error(DENSE_ERROR + self.max_loss)
        most = np.inf if self.coupling.any() else limit
        fronts = [(0.0, np.zeros((1, tables.shape[-1])))]  # loss of the last layer, and what is reached with it
        for coupling, options in zip([0.0, *self.coupling], choices, strict=True):
            reached = []
            for option in options:
                pairs = [option[0] + coupling * np.sqrt(last * option[0]) for last, _ in fronts]
                steps = [np.concatenate([[loss], option[1:]]) for loss in pairs]
                merged = [front + step for step, (_, front) in zip(steps, fronts, strict=True)]
                reached.append((float(option[0]), _nondominated(merged, most)))
            fronts = reached if self.coupling.any() else [(0.0, _nondominated([front for _, front in reached], most))]
        front = _nondominated([front for _, front in fronts], limit)
        return np.concatenate([to_error(front[:, :1]), front[:, 1:]], axis=1)

    def quality(self, values: Doubles) -> float:
        """Hypervolume of objectives ``(n, objectives)`` over that of the exact front.

        It is taken in the logarithm of the lost error and in plain costs, in the box between the best and the worst of
        each on the exact front, or somewhat beyond the worst.
        """
        return self._volume(values) / self._exact_volume

    @cached_property
    def _exact_volume(self) -> float:
        return self._volume(self.exact_front)

    def best_of_front(self, count: int) -> float:
        """Quality of a few networks of the exact front, picked for hypervolume one after the other.

        About the most that so many evaluations can find, whatever is known before.
        """
        scaled = self._scaled(self.exact_front)
        picks = pick_gain(scaled[None], scaled, scaled[:0], np.full(scaled.shape[1], self.corner), count)
        return self.quality(self.exact_front[picks])

    def _volume(self, values: Doubles) -> float:
        scaled = self._scaled(values)
        return hypervolume(scaled, np.full(scaled.shape[1], self.corner))

    def _scaled(self, values: Doubles) -> Doubles:
        scaled, exact = (
            np.concatenate([np.log(v[:, :1] - DENSE_ERROR), v[:, 1:]], axis=1) for v in (values, self.exact_front)
        )
        low, high = exact.min(axis=0), exact.max(axis=0)
        return np.asarray((scaled - low) / (high - low))


def _nondominated(fronts: list[Doubles], most_loss: float) -> Doubles:
    points = np.concatenate(fronts)
    points = points[points[:, 0] <= most_loss]
    return np.asarray(points[moocore.is_nondominated(points, keep_weakly=False)])


def additive(seed: int, n_layers: int = 20) -> Proxy:
    """Twenty layers with eight bit-widths each; error and size."""
    rng = np.random.default_rng(seed)
    widths = tuple(range(9, 1, -1))
    loss = _sensitivity(rng, n_layers) * _wear(rng, 4.0 ** -np.array(widths, dtype=float), n_layers)
    weights = np.round(10 ** rng.uniform(1, 3, n_layers))
    size = (weights[:, None] * np.array(widths))[:, None, :].astype(float)
    return Proxy(
        "additive", _space(n_layers, (0.0,), widths), 4.0 * loss[:, None, :], np.zeros(n_layers - 1), {"size": size}
    )


def coupled(seed: int, n_layers: int = 20) -> Proxy:
    """The additive problem, its neighbouring layers amplifying or cancelling each other's loss."""
    plain = additive(seed, n_layers)
    coupling = np.random.default_rng(seed + 1000).uniform(-0.8, 1.6, n_layers - 1)
    return replace(plain, name="coupled", coupling=coupling)


def three(seed: int, n_layers: int = 10) -> Proxy:
    """Ten layers with prune ratios and bit-widths; error, energy and size."""
    rng = np.random.default_rng(seed)
    ratios, widths = (0.0, 0.3, 0.5, 0.7, 0.9), (8, 6, 5, 4, 3, 2)
    kept = 1 - np.array(ratios)
    pruning = _sensitivity(rng, n_layers) * _wear(rng, np.array(ratios) ** 3, n_layers) * 0.05
    rounding = _sensitivity(rng, n_layers) * _wear(rng, 4.0 ** -np.array(widths, dtype=float), n_layers)
    loss = pruning[:, :, None] + rounding[:, None, :]
    weights, macs = rng.integers(2, 12, n_layers), rng.integers(2, 12, n_layers)
    size = np.ceil(weights[:, None, None] * (kept[:, None] * np.array(widths) + 1) / 4)
    energy = np.ceil(macs[:, None, None] * (kept[:, None] * (np.array(widths) + 4)) / 4)
    costs = {"energy": energy, "size": size}
    return Proxy("three", _space(n_layers, ratios, widths), loss, np.zeros(n_layers - 1), costs, MAX_LOSS)


def plain(seed: int, n_layers: int = 20) -> Proxy:
    """Twenty layers with 1 to 8 bits, whose losses add up to 0.1 at most; error and size."""
    rng = np.random.default_rng(seed)
    widths = tuple(range(8, 0, -1))
    sensitivity = np.exp(1.5 * rng.normal(size=(n_layers, 1)))
    loss = sensitivity * 4.0 ** -np.array(widths, dtype=float)
    loss *= 0.1 / loss[:, -1].sum()
    weights = np.round(10 ** rng.uniform(1, 2.7, n_layers))
    size = (weights[:, None] * np.array(widths))[:, None, :].astype(float)
    space = _space(n_layers, (0.0,), widths)
    return Proxy("plain", space, loss[:, None, :], np.zeros(n_layers - 1), {"size": size}, resolution=1e-6, corner=1.1)


PROXIES = {"plain": plain, "additive": additive, "coupled": coupled, "three": three}


def _space(n_layers: int, ratios: tuple[float, ...], widths: tuple[int, ...]) -> SearchSpace:
    genes = (
        Gene(PRUNE_RATIO, ratios),
        Gene(BIT_WIDTH, widths),
        Gene(SHARED_VALUES, (0,)),
        Gene(DATAFLOW, ("X:Y",), ordinal=False),
    )
    return SearchSpace.full([f"layer{i}" for i in range(n_layers)], genes)


def _sensitivity(rng: np.random.Generator, n_layers: int) -> Doubles:
    return np.exp(rng.normal(size=(n_layers, 1)))


def _wear(rng: np.random.Generator, curve: Doubles, n_layers: int) -> Doubles:
    """The curve with another exponent-like jitter in every layer, growing still, shape ``(L, choices)``."""
    jitter = np.exp(0.3 * rng.normal(size=(n_layers, len(curve))))
    return np.maximum.accumulate(curve * jitter, axis=1)


def to_error(loss: Doubles) -> Doubles:
    """Error of a loss: dense at none, half-way to chance at 1, chance in the end."""
    return DENSE_ERROR + (CHANCE - DENSE_ERROR) * loss / (1 + loss)


def from_error(error: float) -> float:
    """The loss behind an error."""
    part = (error - DENSE_ERROR) / (CHANCE - DENSE_ERROR)
    return part / (1 - part) if part < 1 else np.inf
