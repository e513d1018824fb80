"""Strategies on tabulated surfaces whose exact front is known: no torch, no files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.util.ref_dirs import get_reference_directions

from emomc.accuracy.predictor import rank_correlation
from emomc.genome import BIT_WIDTH, PRUNE_RATIO, SHARED_VALUES, SearchSpace
from emomc.problems import CompressionProblem, CostTables, Objective, parse_constraint
from emomc.search import STRATEGIES, Ledger, SearchTask, front_of, hypervolume
from emomc.search.ledger import Request
from emomc.search.two_stage import Schedule, two_stage
from tests.conftest import ROOT
from tests.toys import DENSE_ERROR, Toy, toy

Doubles = NDArray[np.float64]
Genomes = NDArray[np.int64]
strategies = pytest.mark.parametrize("strategy", sorted(STRATEGIES))


def quality(surface: Toy, genomes: Genomes, errors: Doubles) -> float:
    """Part of the exact front's hypervolume that measured networks reach."""
    values = surface.problem().values(genomes, errors)[0]
    return hypervolume(values, surface.reference) / hypervolume(surface.exact_front, surface.reference)


class Measurements:
    """Measures by table, and keeps what was asked."""

    def __init__(self, errors: Callable[[Genomes], Doubles]) -> None:
        self._errors = errors
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Doubles:
        self.requests.append(request)
        return self._errors(request.genomes)

    @property
    def genomes(self) -> Genomes:
        return np.concatenate([request.genomes for request in self.requests])


def search(
    strategy: str = "two-stage", budget: int = 60, seed: int = 0, n_layers: int = 6, toy_seed: int = 0
) -> tuple[Ledger, Measurements]:
    """A finished search of a toy, made once for all tests that look at it."""
    return searched(strategy, budget, seed, n_layers, toy_seed)


@cache
def searched(strategy: str, budget: int, seed: int, n_layers: int, toy_seed: int) -> tuple[Ledger, Measurements]:
    surface = toy(n_layers, toy_seed)
    measurements = Measurements(surface.errors)
    task = surface.task()
    ledger = Ledger(task, budget, measurements)
    STRATEGIES[strategy](task, ledger, seed)
    return ledger, measurements


# Finding the front


@pytest.mark.parametrize(("n_layers", "seed"), [(6, 0), (7, 1), (8, 2)])
def test_sixty_measurements_reach_nine_tenths_of_the_exact_front(n_layers: int, seed: int) -> None:
    """With sensitivities that are off by a factor of 1.5, one standard deviation."""
    surface = toy(n_layers, seed)
    ledger, _ = search(seed=seed, n_layers=n_layers, toy_seed=seed)
    found = quality(surface, ledger.genomes, ledger.errors)
    random = surface.space.random(60, np.random.default_rng(seed))
    assert 0.9 <= found <= 1 + 1e-12
    assert found > 1.2 * quality(surface, random, surface.errors(random))


def test_more_measurements_find_more() -> None:
    surface = toy()
    found = [quality(surface, ledger.genomes, ledger.errors) for ledger, _ in (search(budget=n) for n in (12, 30, 60))]
    assert found[0] < found[1] < found[2]
    assert found[2] > 0.95


def test_the_exact_front_is_that_of_full_enumeration() -> None:
    """The referee's own check, on two layers."""
    surface = toy(2)
    everything = surface.space.every()
    values = surface.problem().values(everything, surface.errors(everything))[0]
    expected = values[front_of(values)]
    expected = expected[expected[:, 0] < surface.reference[0]]
    found = surface.exact_front[surface.exact_front[:, 0] < surface.reference[0]]
    assert np.unique(found.round(9), axis=0) == pytest.approx(np.unique(expected.round(9), axis=0))


def test_predictions_are_made_before_measuring_and_rank_what_is_measured() -> None:
    surface = toy()
    _, measurements = search()
    predicted = np.concatenate([request.predicted for request in measurements.requests])
    assert np.all(np.isfinite(predicted))
    assert rank_correlation(predicted, surface.errors(measurements.genomes)) > 0.6


def test_both_stages_are_told_apart_and_the_first_only_prunes() -> None:
    surface = toy()
    _, measurements = search()
    order = ["prune", "quantize", "polish"]
    stages = [order.index(request.stage) for request in measurements.requests]
    assert stages == sorted(stages) and set(stages) == {0, 1, 2}
    pruning = np.concatenate([r.genomes for r in measurements.requests if r.stage == "prune"])
    assert len(pruning) == 3  # a twentieth
    for gene in (BIT_WIDTH, SHARED_VALUES):
        assert not surface.space.split(pruning)[:, :, surface.space.column(gene)].any()
    pruned = {surface.space.values(row, PRUNE_RATIO).tobytes() for row in pruning}
    later = np.concatenate([r.genomes for r in measurements.requests if r.stage == "quantize"])
    assert {surface.space.values(row, PRUNE_RATIO).tobytes() for row in later} <= pruned


# Any strategy


@strategies
@pytest.mark.parametrize("budget", [0, 1, 2, 3, 5, 17, 60])
def test_the_budget_is_spent_and_never_exceeded(strategy: str, budget: int) -> None:
    ledger, measurements = search(strategy, budget)
    measured = sum(len(request.genomes) for request in measurements.requests)
    assert measured == budget and ledger.remaining == 0
    assert len(ledger.errors) == len(ledger.genomes) >= budget


@strategies
def test_no_network_is_measured_twice_and_all_requests_are_canonical(strategy: str) -> None:
    surface = toy()
    _, measurements = search(strategy, 60)
    asked = measurements.genomes
    assert np.array_equal(surface.space.canonical(asked), asked)
    assert len(np.unique(surface.space.network_part(asked), axis=0)) == len(asked) == 60


@strategies
def test_the_same_seed_asks_for_the_same_networks(strategy: str) -> None:
    sequences = [search(strategy, 24)[1], *(searched.__wrapped__(strategy, 24, seed, 6, 0)[1] for seed in (0, 5))]
    first, second, other = (m.genomes for m in sequences)
    assert np.array_equal(first, second) and not np.array_equal(first, other)
    assert [len(r.genomes) for r in sequences[0].requests] == [len(r.genomes) for r in sequences[1].requests]


PROGRAM = """
import hashlib
from emomc.search import STRATEGIES, Ledger
from tests.toys import toy
surface = toy()
for name in sorted(STRATEGIES):
    task = surface.task()
    ledger = Ledger(task, 24, lambda request: surface.errors(request.genomes))
    STRATEGIES[name](task, ledger, 0)
    print(hashlib.sha256(ledger.genomes.tobytes()).hexdigest())
"""


def test_the_same_seed_asks_for_the_same_networks_in_another_process() -> None:
    """No order of a set or of hashes decides anything."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    own = [hashlib.sha256(search(name, 24)[0].genomes.tobytes()).hexdigest() for name in sorted(STRATEGIES)]
    assert done.stdout.split() == own


class InterruptedSearchError(Exception):
    pass


@strategies
@pytest.mark.parametrize("after", [0, 9, 20])
def test_an_interrupted_search_ends_as_if_it_had_not_been(strategy: str, after: int) -> None:
    """What was measured is kept by network; asking again replays it and goes on to the identical ledger."""
    surface = toy()
    expected, _ = search(strategy, 24)
    store: dict[bytes, float] = {}
    fresh = 0

    def measure(request: Request) -> Doubles:
        nonlocal fresh
        errors = []
        for genome in request.genomes:
            key = surface.space.network_part(genome).tobytes()
            if key not in store:
                if fresh == after:
                    fresh += 1
                    raise InterruptedSearchError
                fresh += 1
                store[key] = float(surface.errors(genome[None])[0])
            errors.append(store[key])
        return np.array(errors)

    task = surface.task()
    with pytest.raises(InterruptedSearchError):
        STRATEGIES[strategy](task, Ledger(task, 24, measure), 0)
    assert len(store) == after
    again = Ledger(task, 24, measure)
    STRATEGIES[strategy](task, again, 0)
    assert np.array_equal(again.genomes, expected.genomes) and np.array_equal(again.errors, expected.errors)
    assert len(store) == 24 and fresh == 25


@strategies
def test_failed_measurements_and_constraints_that_nothing_meets_do_not_end_a_search(strategy: str) -> None:
    surface = toy()
    rng = np.random.default_rng(0)

    def flaky(genomes: Genomes) -> Doubles:
        return np.where(rng.random(len(genomes)) < 0.5, np.nan, surface.errors(genomes))

    for errors, constraints, budget in (
        (flaky, None, 30),
        (lambda g: np.full(len(g), np.nan), None, 16),
        (surface.errors, ("size<=1B",), 16),
    ):
        given = {} if constraints is None else {"constraints": tuple(map(parse_constraint, constraints))}
        task = surface.task(**given)
        measurements = Measurements(errors)
        STRATEGIES[strategy](task, Ledger(task, budget, measurements), 0)
        assert len(measurements.genomes) == budget


@strategies
def test_a_space_smaller_than_the_budget_is_measured_once(strategy: str) -> None:
    surface = toy(2)
    space = surface.space.restrict(BIT_WIDTH, (16, 8)).restrict(SHARED_VALUES, (0,)).restrict(PRUNE_RATIO, (0.0, 0.5))
    costs = CostTables(space, surface.costs.layers, surface.costs.tables, surface.costs.constants)
    task = SearchTask(CompressionProblem(costs, surface.errors), surface.task().sensitivities, DENSE_ERROR)
    measurements = Measurements(surface.errors)
    STRATEGIES[strategy](task, Ledger(task, 1000, measurements), 0)
    networks = np.unique(space.network_part(measurements.genomes), axis=0)
    assert len(networks) == len(measurements.genomes)
    assert len(networks) == {"published": 8, "two-stage": 16}[strategy]  # the published one prunes both layers alike
    assert np.array_equal(space.canonical(measurements.genomes), measurements.genomes)


@pytest.mark.parametrize("objectives", [("error", "size"), ("error", "energy", "size", "mine"), ("energy", "size")])
def test_any_objectives_can_be_searched(objectives: tuple[str, ...]) -> None:
    surface = toy()
    largest = Objective("mine", "", lambda batch: -batch.values(PRUNE_RATIO).max(axis=1))
    task = surface.task(objectives=tuple(largest if name == "mine" else name for name in objectives))
    measurements = Measurements(surface.errors)
    two_stage(task, Ledger(task, 20, measurements), 0)
    assert len(measurements.genomes) == 20


CONSTANT = Objective("constant", "", lambda batch: np.full(len(batch.genomes), 3.0))
DOUBLED = Objective("doubled", "B", lambda batch: 2 * batch.cost("size"))


@pytest.mark.parametrize("further", [CONSTANT, DOUBLED], ids=lambda objective: str(objective.name))
def test_an_objective_that_adds_nothing_does_little_harm(further: Objective) -> None:
    """One that is the same for all networks, and one that follows from another: the front of the others is found."""
    surface = toy()
    task = surface.task(objectives=("error", "energy", "size", further))
    ledger, without = Ledger(task, 60, Measurements(surface.errors)), search()[0]
    two_stage(task, ledger, 0)
    found = quality(surface, ledger.genomes, ledger.errors)
    assert found > 0.95 * quality(surface, without.genomes, without.errors)


@pytest.mark.parametrize("error", [DENSE_ERROR, DENSE_ERROR + 0.05, 0.9], ids=["none", "alike", "ruined"])
def test_errors_that_are_the_same_for_all_networks_leave_the_cheapest(error: float) -> None:
    """Nothing can be learned from them; the search goes on to where costs are least."""
    surface = toy()
    task = surface.task()
    measurements = Measurements(lambda genomes: np.full(len(genomes), error))
    ledger = Ledger(task, 30, measurements)
    two_stage(task, ledger, 0)
    assert len(measurements.genomes) == 30
    assert np.isfinite(task.problem.values(ledger.genomes, ledger.errors)[0]).all()
    if error < 0.5:
        size = surface.costs.evaluate(ledger.genomes, ["size"])["size"]
        least = surface.costs.evaluate(surface.space.random(3000, np.random.default_rng(0)), ["size"])["size"].min()
        assert size.min() <= least


# Other algorithms, and the published search


@pytest.mark.parametrize(
    "algorithm",
    [
        lambda start, operators: NSGA3(
            get_reference_directions("das-dennis", 3, n_partitions=8), sampling=start, **operators
        ),
        lambda start, operators: SMSEMOA(pop_size=40, sampling=start, **operators),
    ],
    ids=["NSGA3", "SMSEMOA"],
)
def test_another_pymoo_algorithm_can_take_the_place_of_nsga2(algorithm: Callable[..., object]) -> None:
    surface = toy()
    task = surface.task()
    measurements = Measurements(surface.errors)
    ledger = Ledger(task, 60, measurements)
    two_stage(task, ledger, 0, Schedule(algorithm=algorithm))  # type: ignore[arg-type]
    assert len(measurements.genomes) == 60
    assert quality(surface, ledger.genomes, ledger.errors) > 0.9
    default = search()[1].genomes
    assert not np.array_equal(default, measurements.genomes)


def test_a_schedule_says_how_the_budget_is_spent() -> None:
    surface = toy()
    task = surface.task()
    measurements = Measurements(surface.errors)
    two_stage(task, Ledger(task, 25, measurements), 0, Schedule(prune=0.4, polish=0.2, batch=5, generations=3, bases=2))
    sizes = [(request.stage, len(request.genomes)) for request in measurements.requests]
    assert sizes == [("prune", 5)] * 2 + [("quantize", 5)] * 2 + [("polish", 5)]
    later = np.concatenate([r.genomes for r in measurements.requests if r.stage == "quantize"])
    ratios = surface.space.split(later)[:, :, surface.space.column(PRUNE_RATIO)]
    assert len(np.unique(ratios, axis=0)) <= 2


def test_the_published_search_prunes_all_layers_alike_and_shares_nothing() -> None:
    surface = toy()
    ledger, measurements = search("published", 140)
    parts = surface.space.split(measurements.genomes)
    ratios, bits = (parts[:, :, surface.space.column(gene)] for gene in (PRUNE_RATIO, BIT_WIDTH))
    assert np.all(ratios == ratios[:, :1]) and len(np.unique(ratios[:, 0])) == 5
    assert not np.all(bits == bits[:, :1])
    assert not parts[:, :, surface.space.column(SHARED_VALUES)].any()
    assert all(request.stage == "evolve" for request in measurements.requests)
    assert len(measurements.requests[0].genomes) == 40  # the survivors of the paper
    assert max(len(request.genomes) for request in measurements.requests[1:]) <= 20  # its offspring
    ours, _ = search(budget=60)
    assert quality(surface, ledger.genomes, ledger.errors) < quality(surface, ours.genomes, ours.errors)


def test_the_space_of_the_published_search_may_be_restricted() -> None:
    surface = toy()
    space: SearchSpace = surface.space.restrict(PRUNE_RATIO, (0.0, 0.7)).restrict(BIT_WIDTH, (8, 4), "layer1")
    costs = CostTables(space, surface.costs.layers, surface.costs.tables, surface.costs.constants)
    task = SearchTask(CompressionProblem(costs, surface.errors), surface.task().sensitivities, DENSE_ERROR)
    measurements = Measurements(surface.errors)
    STRATEGIES["published"](task, Ledger(task, 60, measurements), 0)
    assert np.array_equal(space.canonical(measurements.genomes), measurements.genomes)
    assert set(np.unique(space.values(measurements.genomes, PRUNE_RATIO))) == {0.0, 0.7}


# The ledger


def test_a_network_is_paid_for_once_whatever_its_dataflow() -> None:
    surface = toy(3)
    task, measurements = surface.task(), Measurements(surface.errors)
    ledger = Ledger(task, 3, measurements)
    first = surface.space.random(1, np.random.default_rng(0))
    other = surface.space.split(first.copy())
    other[:, 0, 3] = (other[:, 0, 3] + 1) % 3
    twin = other.reshape(1, -1)
    errors = ledger.measure(np.concatenate([first, twin, first]), "any")
    assert errors == pytest.approx(np.repeat(surface.errors(first), 3))
    assert len(measurements.genomes) == 1 and ledger.remaining == 2
    assert np.array_equal(ledger.genomes, np.concatenate([first, twin]))
    stranger = np.zeros_like(first)
    assert ledger.is_known(np.concatenate([twin, stranger, first])).tolist() == [True, False, True]
    many = surface.space.random(5, np.random.default_rng(1))
    errors = ledger.measure(many, "any")
    assert np.isfinite(errors).tolist() == [True, True, False, False, False] and ledger.remaining == 0
    assert errors[:2] == pytest.approx(surface.errors(many[:2]))
    assert len(ledger.genomes) == 4


def test_a_ledger_hands_over_the_canonical_form() -> None:
    surface = toy(3)
    measurements = Measurements(surface.errors)
    ledger = Ledger(surface.task(), 10, measurements)
    raw = np.full((1, surface.space.n_var), 50)
    ledger.measure(raw, "any", np.array([0.25]))
    assert np.array_equal(measurements.genomes, surface.space.canonical(raw))
    assert measurements.requests[0].predicted.tolist() == [0.25]
