"""Problems: costs equal a plain loop, objectives and constraints are checked, and pymoo's algorithms run on them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3
from pymoo.algorithms.moo.sms import SMSEMOA
from pymoo.optimize import minimize
from pymoo.util.ref_dirs import get_reference_directions

import emomc
from emomc.errors import EmomcError
from emomc.operators import genome_operators
from emomc.problems import (
    Batch,
    CompressionProblem,
    Constraint,
    CostTables,
    Objective,
    load_objective,
    objective,
    objective_names,
    parse_constraint,
)
from emomc.problems.objectives import BUILT_IN
from emomc.search import front_of, hypervolume
from tests.toys import Toy, toy

Doubles = NDArray[np.float64]
Genomes = NDArray[np.int64]


@pytest.fixture(scope="module")
def surface() -> Toy:
    return toy()


def genomes(surface: Toy, n: int = 40, seed: int = 0) -> Genomes:
    return surface.space.random(n, np.random.default_rng(seed))


@objective("bit_operations", unit="bit")
def bit_operations(batch: Batch) -> Doubles:
    return np.asarray((batch.macs * batch.values("bit_width") * (1 - batch.values("prune_ratio"))).sum(axis=1))


NOT_AN_OBJECTIVE = 3


# Cost tables


@given(n=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_costs_equal_a_loop_over_layers(surface: Toy, n: int, seed: int) -> None:
    """Full tables, tables that broadcast along an axis, sums, maxima and constants."""
    rng = np.random.default_rng(seed)
    space = surface.space
    full = rng.random((space.n_layers, *space.shape))
    thin = rng.random((space.n_layers, space.shape[0], 1, 1, space.shape[3]))
    tables = {"energy": full, "traffic": thin, "peak_memory": full, "latency": np.array(0.25)}
    constants = {"energy": 5.0, "peak_memory": 2.0}
    costs = CostTables(space, surface.costs.layers, tables, constants, frozenset({"peak_memory"}))
    rows = genomes(surface, n, seed)
    found = costs.evaluate(rows, list(tables))
    for i, row in enumerate(space.split(rows).tolist()):
        entries = [full[(layer, *part)] for layer, part in enumerate(row)]
        assert found["energy"][i] == pytest.approx(5 + sum(entries))
        assert found["peak_memory"][i] == pytest.approx(2 + max(entries))
        assert found["traffic"][i] == pytest.approx(sum(thin[k, p[0], 0, 0, p[3]] for k, p in enumerate(row)))
        assert found["latency"][i] == pytest.approx(0.25 * space.n_layers)


def test_a_population_may_have_any_size_and_memory_layout(surface: Toy) -> None:
    rows = genomes(surface, 10_000)
    whole = surface.costs.evaluate(rows, ["energy"])["energy"]
    parts = [surface.costs.evaluate(part, ["energy"])["energy"] for part in np.split(rows, [1, 4095, 4097, 8192, 8192])]
    assert np.array_equal(whole, np.concatenate(parts))
    for layout in (np.asfortranarray(rows), rows.astype(np.int32), np.repeat(rows, 2, axis=1)[:, ::2]):
        assert np.array_equal(surface.costs.evaluate(layout, ["energy"])["energy"], whole)


def test_a_metric_that_the_accelerator_does_not_tell_is_named(surface: Toy) -> None:
    with pytest.raises(EmomcError, match=r"'latency'.*energy, size"):
        surface.problem(("error", "emomc.problems.objectives:latency")).evaluate(genomes(surface, 3))


# Objectives


def test_a_function_becomes_an_objective(surface: Toy) -> None:
    problem = surface.problem(("error", bit_operations))
    rows = genomes(surface, 7)
    expected = []
    for row in rows:
        choices = surface.space.decode(row).layers
        expected.append(
            sum(
                layer.macs * float(choices[layer.name]["bit_width"]) * (1 - float(choices[layer.name]["prune_ratio"]))
                for layer in surface.costs.layers
            )
        )
    assert problem.values(rows, np.zeros(7))[0][:, 1] == pytest.approx(expected)
    assert (bit_operations.name, bit_operations.unit, bit_operations.measured) == ("bit_operations", "bit", False)
    assert load_objective("tests.test_problems:bit_operations").unit == "bit"
    weights = Batch(rows, surface.costs).weights
    assert weights.tolist() == [layer.weight_count for layer in surface.costs.layers]


def test_built_in_objectives_are_registered_like_a_users(surface: Toy) -> None:
    assert {"error", "energy", "size"} <= set(objective_names())
    rows = genomes(surface, 5)
    values, _ = surface.problem().values(rows, np.linspace(0.1, 0.5, 5))
    costs = surface.costs.evaluate(rows, ["energy", "size"])
    assert np.array_equal(values, np.stack([np.linspace(0.1, 0.5, 5), costs["energy"], costs["size"]], axis=1))
    assert [load_objective(name).measured for name in ("error", "energy", "size")] == [True, False, False]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (lambda n: np.zeros((n, 2)), r"shape \(4, 2\) for 4 networks; expected \(4,\)"),
        (lambda n: np.zeros(n + 1), r"shape \(5,\)"),
        (lambda n: 1.0, r"shape \(\)"),
        (lambda n: None, "'mine'"),
        (lambda n: ["much"] * n, "returned list; expected 4 numbers"),
        (lambda n: [[1], [1, 2], [], []], "returned list"),
        (lambda n: np.array([1.0, np.nan, 2.0, 3.0]), r'returned nan for the configuration \{"layer0"'),
        (lambda n: np.array([1.0, 1.0, -np.inf, 3.0]), "returned -inf"),
    ],
)
@pytest.mark.parametrize("measured", [False, True])
def test_an_objective_that_fails_is_told_how(surface: Toy, result: Any, words: str, measured: bool) -> None:
    mine = Objective("mine", "", lambda batch: result(len(batch.genomes)), measured)
    with pytest.raises(EmomcError, match=words):
        surface.problem(("error", mine)).values(genomes(surface, 4), np.full(4, 0.1))


def test_the_configuration_of_the_error_is_the_one_that_failed(surface: Toy) -> None:
    rows = genomes(surface, 6)
    broken = Objective("mine", "", lambda batch: np.where(np.arange(6) == 4, np.nan, 1.0))
    with pytest.raises(EmomcError) as caught:
        broken(Batch(rows, surface.costs))
    assert surface.space.decode(rows[4]).to_json() in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eror", "Did you mean 'error'"),
        ("no.such.module:thing", "cannot be imported"),
        ("tests.test_problems:nothing", "cannot be imported"),
        ("tests.test_problems:NOT_AN_OBJECTIVE", "decorate the function"),
    ],
)
def test_an_unknown_objective_is_named(name: str, words: str) -> None:
    with pytest.raises(EmomcError, match=words):
        load_objective(name)


@pytest.mark.parametrize("name", ["size", "error", "idle", "slots"])
def test_a_name_that_stands_for_something_else_is_refused(surface: Toy, name: str) -> None:
    mine = objective(name, unit="MB")(lambda batch: batch.cost("size") / 1e6)
    with pytest.raises(EmomcError, match=f"'own_{name}'"):
        load_objective(mine)
    with pytest.raises(EmomcError, match=f"'own_{name}'"):
        surface.problem(("error", mine))
    with pytest.raises(EmomcError, match=f"'own_{name}'"):
        Constraint(mine, 1.0)


def test_built_in_objectives_are_those_that_are_registered() -> None:
    assert {name: load_objective(name) for name in objective_names()} == BUILT_IN


# Constraints


@pytest.mark.parametrize(
    ("text", "name", "limit"),
    [
        ("size <= 100kB", "size", 1e5),
        ("size<1.5MB", "size", 1.5e6),
        ("size<=2e3", "size", 2e3),
        ("energy<=2uJ", "energy", 2e-6),
        ("energy <= 3.5e-7 J", "energy", 3.5e-7),
        ("energy<=40nJ", "energy", 4e-8),
        ("error<=10%", "error", 0.1),
        ("error<=.25", "error", 0.25),
        (" tests.test_problems:bit_operations <= 5G ", "bit_operations", 5e9),
    ],
)
def test_constraints_are_read_with_their_units(text: str, name: str, limit: float) -> None:
    constraint = parse_constraint(text)
    assert constraint.objective.name == name and constraint.limit == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size", "OBJECTIVE<=NUMBER"),
        ("size >= 3kB", "OBJECTIVE<=NUMBER"),
        ("size<=kB", "OBJECTIVE<=NUMBER"),
        ("size<=1e999", "OBJECTIVE<=NUMBER"),
        ("size<=1-2", "OBJECTIVE<=NUMBER"),
        ("size<=3kb", "OBJECTIVE<=NUMBER"),
        ("size<=3uJ", "size is in B, not in J"),
        ("size<=10%", "size is in B, not in %"),
        ("error<=3kB", "error is in no unit, not in B"),
        ("sizes<=3kB", "Did you mean 'size'"),
    ],
)
def test_a_constraint_that_makes_no_sense_is_refused(text: str, words: str) -> None:
    with pytest.raises(EmomcError, match=words):
        parse_constraint(text)


def test_violations_are_relative_and_tell_the_feasible(surface: Toy) -> None:
    rows = genomes(surface, 50)
    sizes = surface.costs.evaluate(rows, ["size"])["size"]
    limit = float(np.sort(sizes)[25])
    constraints = (Constraint(load_objective("size"), limit), Constraint(load_objective("error"), 0.0))
    errors = np.linspace(0, 1, 50)
    _, violations = surface.problem(constraints=constraints).values(rows, errors)
    assert violations.shape == (50, 2)
    assert np.array_equal(violations[:, 0] <= 0, sizes <= limit)
    assert violations[:, 0] == pytest.approx((sizes - limit) / limit)
    assert violations[:, 1] == pytest.approx(errors)  # a limit of nought has no relative excess
    assert surface.problem(constraints=()).values(rows, errors)[1].shape == (50, 0)


# The problem


def test_what_pymoo_sees_is_the_values_of_the_canonical_genomes(surface: Toy) -> None:
    raw = np.random.default_rng(0).integers(0, surface.space.upper + 1, size=(60, surface.space.n_var))
    canonical = surface.space.canonical(raw)
    assert not np.array_equal(raw, canonical)
    problem = surface.problem()
    out = problem.evaluate(raw, return_as_dictionary=True)
    values, violations = problem.values(canonical, surface.errors(canonical))
    assert np.array_equal(out["F"], values) and np.array_equal(out["G"], violations)
    assert np.array_equal(problem.xl, np.zeros(surface.space.n_var))
    assert problem.xu.tolist() == [4, 5, 2, 2] * 6


def test_errors_may_come_from_elsewhere_and_failed_measurements_count_as_wrong(surface: Toy) -> None:
    rows = genomes(surface, 4)
    problem = surface.problem()
    other = problem.with_errors(lambda genomes: np.array([0.1, np.nan, np.inf, 0.2]))
    assert other.evaluate(rows, return_values_of=["F"])[:, 0].tolist() == [0.1, 1.0, 1.0, 0.2]
    assert problem.evaluate(rows, return_values_of=["F"])[:, 0] == pytest.approx(surface.errors(rows))
    assert (other.costs, other.objectives, other.constraints) == (
        problem.costs,
        problem.objectives,
        problem.constraints,
    )


def test_nothing_is_measured_where_no_objective_needs_it(surface: Toy) -> None:
    def never(genomes: Genomes) -> Doubles:
        raise AssertionError("measured")

    rows = genomes(surface, 4)
    exact = surface.problem(("energy", "size"), constraints=(), errors=never)
    assert exact.evaluate(rows, return_values_of=["F"]).shape == (4, 2)
    with pytest.raises(AssertionError, match="measured"):
        surface.problem(("energy", "size"), errors=never).evaluate(rows)  # the constraint needs the error


def test_a_copy_is_the_problem_itself(surface: Toy) -> None:
    """A history keeps a copy of the algorithm, and with it of its problem, for every generation."""
    problem = surface.problem()
    algorithm = NSGA2(pop_size=20, **genome_operators(surface.space))
    result = minimize(problem, algorithm, ("n_gen", 3), seed=1, save_history=True)
    assert copy.deepcopy(problem) is problem
    assert [entry.problem for entry in result.history] == [problem] * 3


def directions(problem: CompressionProblem) -> Any:
    return get_reference_directions("das-dennis", problem.n_obj, n_partitions=8 if problem.n_obj == 3 else 40)


ALGORITHMS = {
    "NSGA2": lambda problem, start, operators: NSGA2(pop_size=40, sampling=start, **operators),
    "NSGA3": lambda problem, start, operators: NSGA3(directions(problem), sampling=start, **operators),
    "SMSEMOA": lambda problem, start, operators: SMSEMOA(pop_size=30, sampling=start, **operators),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_any_pymoo_algorithm_runs(surface: Toy, name: str) -> None:
    """From the same random start it finds more than as many random genomes do, and what it returns is true."""
    problem = surface.problem()
    start = genomes(surface, 45)
    algorithm = ALGORITHMS[name](problem, start, genome_operators(surface.space))
    result = minimize(problem, algorithm, ("n_eval", 900), seed=3)
    assert result.X.dtype == np.int64
    assert np.array_equal(surface.space.canonical(result.X), result.X)
    values, violations = problem.values(result.X, surface.errors(result.X))
    assert result.F == pytest.approx(values) and np.all(violations <= 0)
    assert len(front_of(values)) == len(np.unique(values, axis=0))
    random = genomes(surface, 900, 1)
    random_values = problem.values(random, surface.errors(random))[0]
    assert hypervolume(values, surface.reference) > 1.05 * hypervolume(random_values, surface.reference)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_constant_objective_and_one_of_the_users_do_no_harm(surface: Toy, name: str) -> None:
    constant = Objective("constant", "", lambda batch: np.full(len(batch.genomes), 7.0))
    problem = surface.problem(("error", constant, bit_operations), constraints=(parse_constraint("size<=120"),))
    algorithm = ALGORITHMS[name](problem, genomes(surface, 45), genome_operators(surface.space))
    result = minimize(problem, algorithm, ("n_eval", 400), seed=3)
    assert np.all(result.F[:, 1] == 7.0) and np.all(np.isfinite(result.F))
    assert np.all(surface.costs.evaluate(result.X, ["size"])["size"] <= 120)
    assert result.F[:, 0].min() < np.median(surface.errors(genomes(surface, 300)))


def test_the_same_seed_gives_the_same_result(surface: Toy) -> None:
    problem = surface.problem()
    fronts = []
    for seed in (1, 1, 2):
        algorithm = NSGA2(pop_size=30, **genome_operators(surface.space))
        fronts.append(minimize(problem, algorithm, ("n_gen", 8), seed=seed).pop.get("X"))
    assert np.array_equal(fronts[0], fronts[1]) and not np.array_equal(fronts[0], fronts[2])


def test_public_names_are_these() -> None:
    assert emomc.objective is objective and emomc.CompressionProblem is CompressionProblem
