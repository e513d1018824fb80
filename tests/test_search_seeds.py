"""Exact fronts of additive objectives against enumeration, and the seeds that searches start from."""

from __future__ import annotations

import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emomc.genome import Gene, SearchSpace
from emomc.operators import additive_front, lagrangian_seeds
from emomc.search.seeds import starting_seeds
from tests.toys import toy

SPACE = SearchSpace.full(
    ["a", "b", "c"], [Gene("prune_ratio", (0.0, 0.5, 0.9)), Gene("dataflow", ("X:Y", "CI:CO"), False)]
)


def tables(seed: int, count: int, space: SearchSpace = SPACE) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 9, (count, space.n_layers, *space.shape)).astype(float))


def totals(space: SearchSpace, given_tables: list[np.ndarray], genomes: np.ndarray) -> np.ndarray:
    layer = np.arange(space.n_layers)[None, :]
    parts = np.moveaxis(space.split(genomes), 2, 0)
    return np.stack([table[(layer, *parts)].sum(axis=1) for table in given_tables], axis=1)


@given(seed=st.integers(0, 2**32), objectives=st.integers(2, 3))
def test_merged_layers_give_the_front_of_full_enumeration(seed: int, objectives: int) -> None:
    space = SPACE.restrict("prune_ratio", (0.0, 0.9), "b")
    own = tables(seed, objectives, space)
    everything = totals(space, own, space.every())
    expected = everything[moocore.is_nondominated(everything, keep_weakly=False)]
    front = additive_front(space, own)
    assert front.factor == 1.0
    assert np.unique(front.values, axis=0).tolist() == np.unique(expected, axis=0).tolist()
    assert np.array_equal(totals(space, own, front.genomes), front.values)
    assert np.array_equal(space.canonical(front.genomes), front.genomes)


@given(seed=st.integers(0, 2**32), limit=st.integers(2, 6))
def test_a_thinned_front_meets_every_network_within_its_factor(seed: int, limit: int) -> None:
    own = tables(seed, 2)
    front = additive_front(SPACE, own, limit)
    assert len(front.values) <= limit
    everything = totals(SPACE, own, SPACE.every())
    slack = 1e-6 * sum(table.reshape(SPACE.n_layers, -1).max(axis=1).sum() for table in own)
    ratios = (front.values[None] <= everything[:, None] * front.factor + slack * front.factor).all(axis=2)
    assert ratios.any(axis=1).all()


def test_networks_beyond_a_bound_are_left_out() -> None:
    own = tables(3, 2)
    front, everything = additive_front(SPACE, own), totals(SPACE, own, SPACE.every())
    bound = float(np.median(front.values[:, 1]))
    bounded = additive_front(SPACE, own, most=(np.inf, bound))
    assert bounded.values.tolist() == [row for row in front.values.tolist() if row[1] <= bound]
    assert not len(additive_front(SPACE, own, most=(everything[:, 0].min() - 1, np.inf)).values)


def test_sweeps_over_many_costs_stay_small() -> None:
    """Every further cost would multiply the combinations of exchange rates by 25."""
    space = toy(8).space
    own = list(np.random.default_rng(0).random((6, space.n_layers, *space.shape)))
    assert 10 < len(lagrangian_seeds(space, own[0], own[1:3])) <= 625
    assert 2 <= len(lagrangian_seeds(space, own[0], own[1:])) <= 700


@pytest.mark.parametrize("objectives", [("error", "size"), ("error", "energy", "size")])
def test_seeds_hold_the_exact_front_of_what_is_believed(objectives: tuple[str, ...]) -> None:
    surface = toy(2)
    task = surface.task(objectives=objectives)
    seeds = starting_seeds(task.problem, surface.space, task.sensitivities)
    own = [np.broadcast_to(task.sensitivities, (2, *surface.space.shape))]
    own += [np.broadcast_to(surface.costs.tables[name], own[0].shape) for name in objectives[1:]]
    everything = totals(surface.space, own, surface.space.every())
    front = {tuple(row) for row in everything[moocore.is_nondominated(everything, keep_weakly=False)].round(9)}
    assert front <= {tuple(row) for row in totals(surface.space, own, seeds).round(9)}
