"""Operators: integers in, canonical integers out, reproducible; seeds that are exact optima of an additive model."""

from __future__ import annotations

import itertools
from typing import Any

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.optimize import minimize

from emomc.errors import EmomcError
from emomc.genome import BIT_WIDTH, DATAFLOW, PRUNE_RATIO, SHARED_VALUES, Gene, SearchSpace
from emomc.operators import (
    CanonicalRepair,
    LayerwiseCrossover,
    OrdinalMutation,
    genome_operators,
    lagrangian_seeds,
    uniform_ladder,
)
from tests.toys import GENES, canonical_table, toy

Doubles = NDArray[np.float64]
Genomes = NDArray[np.int64]
LAYERS = ("a", "b", "c", "d")
FULL = SearchSpace.full(LAYERS, GENES)
SPACES = (
    FULL,
    FULL.restrict(PRUNE_RATIO, (0.0, 0.9)).restrict(BIT_WIDTH, (16, 4), "b").restrict(DATAFLOW, ("X:Y",), "c"),
    FULL.mildest(BIT_WIDTH).mildest(SHARED_VALUES),
)
spaces = st.sampled_from(SPACES)


def bare(space: SearchSpace) -> Problem:
    return Problem(n_var=space.n_var, n_obj=1, xl=0, xu=space.upper, vtype=int)


def is_allowed(space: SearchSpace, genomes: Genomes) -> bool:
    columns = [set(indices) for row in space.allowed for indices in row]
    return all(index in column for genome in genomes.tolist() for index, column in zip(genome, columns, strict=True))


def vary(operator: Any, space: SearchSpace, seed: int, n: int = 40) -> tuple[Genomes, Genomes]:
    """Parents and what an operator makes of them, ``(n, n_var)`` each."""
    parents = space.random(n, np.random.default_rng(seed))
    rng = np.random.default_rng(seed + 1)
    if isinstance(operator, LayerwiseCrossover):
        pairs = np.arange(n).reshape(-1, 2)
        children = operator.do(bare(space), Population.new("X", parents), pairs, random_state=rng).get("X")
        both = parents[pairs]  # children come as all first ones, then all second ones
        return both.transpose(1, 0, 2).reshape(n, -1), children
    return parents, operator.do(bare(space), Population.new("X", parents), random_state=rng).get("X")


@settings(max_examples=30)
@given(space=spaces, seed=st.integers(0, 2**31), kind=st.sampled_from([LayerwiseCrossover, OrdinalMutation]))
def test_children_are_allowed_canonical_integers_and_reproducible(space: SearchSpace, seed: int, kind: Any) -> None:
    parents, children = vary(kind(space), space, seed)
    assert children.dtype == np.int64 and children.shape == parents.shape
    assert is_allowed(space, children)
    assert np.array_equal(space.canonical(children), children)
    assert np.array_equal(vary(kind(space), space, seed)[1], children)
    assert not np.array_equal(children, parents)


@settings(max_examples=30)
@given(space=spaces, seed=st.integers(0, 2**31))
def test_crossover_passes_on_whole_layers(space: SearchSpace, seed: int) -> None:
    parents, children = (space.split(x) for x in vary(LayerwiseCrossover(space), space, seed))
    first, second = parents[:20], parents[20:]
    for one, other, a, b in zip(children[:20], children[20:], first, second, strict=True):
        for layer in range(space.n_layers):
            pair = {one[layer].tobytes(), other[layer].tobytes()}
            assert pair == {a[layer].tobytes(), b[layer].tobytes()}


@settings(max_examples=30)
@given(space=spaces, seed=st.integers(0, 2**31), inherited=st.sampled_from([(PRUNE_RATIO,), (PRUNE_RATIO, DATAFLOW)]))
def test_inherited_genes_come_whole_from_one_parent(space: SearchSpace, seed: int, inherited: tuple[str, ...]) -> None:
    columns = [space.column(gene) for gene in inherited]
    parents, children = (space.split(x) for x in vary(LayerwiseCrossover(space, inherited), space, seed))
    assert np.array_equal(children[:, :, columns], parents[:, :, columns])
    parents, children = (space.split(x) for x in vary(OrdinalMutation(space, inherited), space, seed))
    assert np.array_equal(children[:, :, columns], parents[:, :, columns])


def test_crossover_mixes_layers_half_and_half() -> None:
    parents, children = (FULL.split(x) for x in vary(LayerwiseCrossover(FULL), FULL, 0, 4000))
    taken = (children[:2000] == parents[2000:]).all(axis=2) & ~(children[:2000] == parents[:2000]).all(axis=2)
    assert np.all(np.abs(taken.mean(axis=0) - 0.5) < 0.06)


def test_mutation_changes_about_as_many_genes_as_told() -> None:
    """Among those that have a choice; a step over the end and a redraw of the same dataflow change nothing."""
    for space, rate in itertools.product((FULL, SPACES[2]), (1, 3)):
        parents, children = vary(OrdinalMutation(space, rate=rate), space, 0, 3000)
        changed = (parents != children).sum(axis=1).mean()
        assert 0.5 * rate < changed < 1.05 * rate


def test_mutation_moves_ordinal_genes_by_two_choices_at_most_and_redraws_the_others() -> None:
    parents, children = vary(OrdinalMutation(FULL), FULL, 3, 3000)
    ratio, bits, dataflow = (np.arange(4) * 4 + FULL.column(gene) for gene in (PRUNE_RATIO, BIT_WIDTH, DATAFLOW))
    moved = np.abs(parents - children)
    assert moved[:, ratio].max() == 2 and moved[:, bits].max() == 2
    pairs = {(a, b) for a, b in zip(parents[:, dataflow].ravel(), children[:, dataflow].ravel(), strict=True)}
    assert pairs == set(itertools.product(range(3), range(3)))


def test_mutation_reaches_every_allowed_genome_however_far_apart_its_choices_are() -> None:
    space = FULL.restrict(PRUNE_RATIO, (0.0, 0.9)).restrict(BIT_WIDTH, (16, 4, 2)).restrict(DATAFLOW, ("X:Y", "CI:CO"))
    rng, mutation = np.random.default_rng(0), OrdinalMutation(space)
    genomes = np.zeros((400, space.n_var), np.int64)
    for _ in range(60):
        genomes = mutation.do(bare(space), Population.new("X", genomes), random_state=rng).get("X")
    for position, indices in enumerate(indices for row in space.allowed for indices in row):
        assert set(genomes[:, position].tolist()) == set(indices)


def test_repair_and_sampling_give_canonical_integers_also_from_floats() -> None:
    class Count(Problem):
        def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            assert x.dtype == np.int64 and np.array_equal(FULL.canonical(x), x)
            out["F"] = x.sum(axis=1)

    problem = Count(n_var=FULL.n_var, n_obj=1, xl=0, xu=FULL.upper, vtype=int)
    results = [minimize(problem, NSGA2(pop_size=30, **genome_operators(FULL)), ("n_gen", 6), seed=1) for _ in range(2)]
    first, second = (result.pop.get("X") for result in results)
    assert first.dtype == np.int64 and np.array_equal(first, second)
    assert len(np.unique(first, axis=0)) == 30
    assert CanonicalRepair(FULL)._do(problem, np.full((1, FULL.n_var), 1.9)).tolist() == [[2, 2, 2, 2] * 4]


def test_a_gene_that_does_not_exist_cannot_be_inherited() -> None:
    with pytest.raises(EmomcError, match="Did you mean 'prune_ratio'"):
        genome_operators(FULL, ("prune_ration",))


# Seeds

SMALL = (
    Gene(PRUNE_RATIO, (0.0, 0.5, 0.8)),
    Gene(BIT_WIDTH, (8, 4, 2)),
    Gene(SHARED_VALUES, (0, 4)),
    Gene(DATAFLOW, ("X:Y", "CI:CO"), ordinal=False),
)


def enumerated(space: SearchSpace) -> Genomes:
    columns = [indices for row in space.allowed for indices in row]
    return np.unique(space.canonical(np.array(list(itertools.product(*columns)))), axis=0)


def totals(space: SearchSpace, genomes: Genomes, tables: list[Doubles]) -> Doubles:
    """Loss and costs of genomes, ``(n, tables)``, one genome after the other."""
    rows = space.split(genomes).tolist()
    return np.array([[sum(t[(i, *part)] for i, part in enumerate(row)) for t in tables] for row in rows])


def surface(seed: int, n_costs: int, space: SearchSpace) -> list[Doubles]:
    rng = np.random.default_rng(seed)
    shape = (space.n_layers, *space.shape)
    return [canonical_table(space, np.exp(rng.normal(size=shape))) for _ in range(1 + n_costs)]


@settings(max_examples=12)
@given(seed=st.integers(0, 2**31), n_costs=st.integers(1, 2), restricted=st.booleans())
def test_every_seed_is_an_exact_trade_off(seed: int, n_costs: int, restricted: bool) -> None:
    """No genome of the whole space is better in everything than a seed."""
    full = SearchSpace.full(("a", "b"), SMALL)
    space = full.restrict(PRUNE_RATIO, (0.0, 0.8)).restrict(SHARED_VALUES, (4,), "b") if restricted else full
    tables = surface(seed, n_costs, full)
    everything = totals(space, enumerated(space), tables)
    seeds = lagrangian_seeds(space, tables[0], tables[1:])
    assert is_allowed(space, seeds) and np.array_equal(space.canonical(seeds), seeds)
    assert len(np.unique(seeds, axis=0)) == len(seeds)
    for value in totals(space, seeds, tables):
        assert not np.any(np.all(everything < value - 1e-12, axis=1))


def hull_vertices(points: Doubles) -> Doubles:
    """Lower left hull of (cost, loss), ascending in cost, by Andrew's monotone chain."""
    hull: list[Doubles] = []
    for point in points[np.lexsort(points.T[::-1])]:
        while len(hull) > 1 and np.linalg.det(np.stack([hull[-1] - hull[-2], point - hull[-2]])) <= 0:
            hull.pop()
        if not hull or point[1] < hull[-1][1]:
            hull.append(point)
    return np.array(hull)


@pytest.mark.parametrize("seed", range(5))
def test_a_fine_sweep_finds_every_vertex_of_the_convex_hull(seed: int) -> None:
    """Every one that is an optimum at some rate of the sweep."""
    space = SearchSpace.full(("a", "b"), SMALL)
    slope, noise = surface(seed, 1, space)
    loss, cost = slope, noise**0.3 / slope
    vertices = hull_vertices(totals(space, enumerated(space), [cost, loss]))
    rates = np.append(-np.diff(vertices[:, 1]) / np.diff(vertices[:, 0]), 0.0)  # from which on each is an optimum
    swept = vertices[rates < 30 * loss.max() / cost.max()]
    seeds = totals(space, lagrangian_seeds(space, loss, [cost], steps=20_000), [cost, loss])
    assert len(swept) > 5
    for vertex in swept:
        assert np.abs(seeds - vertex).max(axis=1).min() < 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_seeds_of_a_restricted_space_lie_on_the_hull_of_what_it_allows(seed: int) -> None:
    full = SearchSpace.full(("a", "b"), SMALL)
    space = full.restrict(PRUNE_RATIO, (0.0, 0.8)).restrict(BIT_WIDTH, (4,), "b")
    slope, noise = surface(seed, 1, full)
    loss, cost = slope, noise**0.3 / slope
    vertices = hull_vertices(totals(space, enumerated(space), [cost, loss]))
    seeds = totals(space, lagrangian_seeds(space, loss, [cost]), [cost, loss])
    assert len(seeds) > 3
    assert seeds[:, 1] == pytest.approx(np.interp(seeds[:, 0], *vertices.T), rel=1e-9)


def test_the_default_sweep_covers_the_front() -> None:
    """On six layers: the hypervolume of the seeds is most of that of the exact front."""
    surface = toy()
    loss, tables = surface.loss, [surface.costs.tables[name] for name in ("energy", "size")]
    seeds = lagrangian_seeds(surface.space, loss, tables)
    values = surface.problem().values(seeds, surface.errors(seeds))[0]
    volumes = [
        moocore.hypervolume(points[(points < surface.reference).all(axis=1)] / surface.reference, ref=np.ones(3))
        for points in (values, surface.exact_front)
    ]
    assert 0.9 < volumes[0] / volumes[1] <= 1 + 1e-12


def test_seeds_start_with_the_mildest_and_tables_may_broadcast() -> None:
    surface = toy()
    seeds = lagrangian_seeds(surface.space, surface.loss[..., :1], [surface.costs.tables["size"][..., :1]])
    parts = surface.space.split(seeds)
    assert not parts[0, :, :3].any()
    assert not parts[:, :, 3].any()  # of equal choices the first is taken


def test_the_ladder_is_every_uniform_genome_once() -> None:
    for space in SPACES:
        ladder = uniform_ladder(space)
        rungs = list(itertools.product(*map(range, space.shape)))
        expected = np.unique(space.canonical(np.array([rung * 4 for rung in rungs])), axis=0)
        assert np.array_equal(ladder, expected)
    uniform = FULL.split(uniform_ladder(FULL))
    assert np.all(uniform == uniform[:, :1])
