"""Problems with a known front: the front by dynamic programming against every network, and what a search is told."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emomc.benchmarks.proxies import CHANCE, DENSE_ERROR, PROXIES
from emomc.search import front_of, hypervolume
from tests.referees import fronts


@pytest.mark.parametrize(("name", "n_layers"), [("plain", 3), ("additive", 3), ("coupled", 3), ("three", 2)])
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_front_is_that_of_all_networks(name: str, n_layers: int, seed: int) -> None:
    proxy = PROXIES[name](seed, n_layers)
    problem = proxy.problem()
    genomes = np.array(list(fronts.every_genome(proxy.space.shape, n_layers)))
    values, violations = problem.values(genomes, proxy.errors(genomes))
    feasible = values[(violations <= 0).all(axis=1)]
    expected = fronts.front(np.round(feasible, 10).tolist())
    found = {tuple(row) for row in np.round(proxy.exact_front, 10).tolist()}
    assert found == expected


@given(seed=st.integers(0, 2**31), name=st.sampled_from(sorted(PROXIES)))
@settings(max_examples=20, deadline=None)
def test_a_loss_is_the_formula_layer_by_layer(name: str, seed: int) -> None:
    proxy = PROXIES[name](seed, 5)
    genome = proxy.space.random(1, np.random.default_rng(seed))
    own = [proxy.loss[layer, p, q] for layer, (p, q, _, _) in enumerate(proxy.space.split(genome)[0].tolist())]
    loss = sum(own) + sum(c * math.sqrt(a * b) for c, a, b in zip(proxy.coupling, own, own[1:], strict=False))
    assert 0 <= loss
    expected = DENSE_ERROR + (CHANCE - DENSE_ERROR) * loss / (1 + loss)
    assert proxy.errors(genome)[0] == pytest.approx(expected, rel=1e-12)


def test_no_network_beats_the_front_and_the_told_sensitivities_are_not_the_losses() -> None:
    for name, make in PROXIES.items():
        proxy = make(3)
        task = proxy.task(seed=3)
        genomes = proxy.space.random(2000, np.random.default_rng(0))
        values, violations = task.problem.values(genomes, proxy.errors(genomes))
        best = values[front_of(values, violations)]
        together = np.concatenate([proxy.exact_front, best])
        assert set(front_of(together)) <= set(range(len(proxy.exact_front))), name
        assert proxy.exact_front[:, 0].max() <= DENSE_ERROR + proxy.max_loss
        ratio = np.log(task.sensitivities[..., 0, 0] / proxy.loss)
        assert 0.2 < ratio.std() < 0.8
        assert (np.diff(task.sensitivities, axis=2) >= 0).all()


@pytest.mark.parametrize("name", sorted(PROXIES))
def test_quality_is_one_for_the_front_and_grows_with_what_is_known_of_it(name: str) -> None:
    proxy = PROXIES[name](1, 6)
    front = np.random.default_rng(0).permutation(proxy.exact_front)
    qualities = [proxy.quality(front[:n]) for n in (1, 5, 20, 60)]
    assert all(0 <= low < high < 1 for low, high in itertools.pairwise(qualities))
    assert proxy.quality(front) == pytest.approx(1)
    worse = front[:20] + np.concatenate([[0.01], 0.05 * np.ptp(front[:, 1:], axis=0)])
    assert proxy.quality(worse) < qualities[2]
    assert proxy.quality(np.concatenate([front[:20], worse])) == pytest.approx(qualities[2])


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=6), st.tuples(*[st.integers(1, 6)] * 3))
def test_hypervolume_is_the_volume_cut_into_cells(points: list[tuple[int, ...]], reference: tuple[int, ...]) -> None:
    found = hypervolume(np.array(points, dtype=float), np.array(reference, dtype=float))
    inside = [point for point in points if all(v < r for v, r in zip(point, reference, strict=True))]
    assert found * math.prod(reference) == pytest.approx(fronts.covered(inside, reference), abs=1e-9)
