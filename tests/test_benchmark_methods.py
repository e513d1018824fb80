"""Methods that benchmarks compare: equal rules for all of them, and curves that say what was found when."""

from __future__ import annotations

import itertools
from importlib.util import find_spec

import numpy as np
import pytest

from emomc.benchmarks.curves import STEPS, at, curve, table
from emomc.benchmarks.methods import METHODS, Trace, spend
from emomc.benchmarks.proxies import additive, three

methods = pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.skipif(find_spec("optuna") is None, reason="needs the extra 'optuna'"))
        if "Optuna" in name
        else name
        for name in METHODS
    ],
)


@methods
def test_every_method_pays_for_its_budget_once_and_is_deterministic(method: str) -> None:
    proxy = three(0, 5)
    task = proxy.task(0)
    trace = spend(method, task, proxy.errors, 25, seed=3)
    assert len(trace.errors) == 25
    assert len(np.unique(trace.genomes, axis=0)) == 25
    assert np.array_equal(trace.errors, proxy.errors(trace.genomes))
    assert np.isfinite(trace.predicted).all() == (method == "emomc")
    if method != "emomc":  # tests of the strategies do this
        assert np.array_equal(trace.genomes, spend(method, task, proxy.errors, 25, seed=3).genomes)
    if method not in ("emomc", "seeded NSGA-II"):  # these start from what the sensitivities say
        assert not np.array_equal(trace.genomes, spend(method, task, proxy.errors, 25, seed=4).genomes)


def test_a_method_that_has_nothing_left_ends() -> None:
    proxy = additive(0, 5)
    task = proxy.task(0)
    assert len(spend("uniform ladder", task, proxy.errors, 50, seed=0).errors) == 8
    small = additive(0, 1)
    assert len(spend("random", small.task(0), small.errors, 50, seed=0).errors) == 8


def test_a_curve_is_the_quality_of_what_was_measured_until_then() -> None:
    proxy = three(1, 5)
    task = proxy.task(1)
    trace = spend("random", task, proxy.errors, 40, seed=0)
    found = curve(task.problem, trace, 7, proxy.quality, budget=60)
    assert (found["seed"], found["evaluations"], len(found["quality"])) == (7, 40, STEPS.index(60) + 1)
    assert all(low <= high for low, high in itertools.pairwise(found["quality"]))
    values, violations = task.problem.values(trace.genomes, trace.errors)
    feasible = violations[:, 0] <= 0
    assert 0 < feasible.sum() < 40
    assert found["quality"][STEPS.index(20)] == pytest.approx(proxy.quality(values[:20][feasible[:20]]), abs=1e-5)
    assert found["quality"][-1] == found["quality"][STEPS.index(40)]
    nothing = Trace(
        trace.genomes[~feasible], trace.errors[~feasible], trace.predicted[~feasible], trace.reported, trace.estimated
    )
    assert set(curve(task.problem, nothing, 0, proxy.quality, budget=20)["quality"]) == {0.0}
    rows = table({"a": [found, {**found, "quality": found["quality"][:3]}]}, (10, 40))
    assert rows[-1].count("|") == 4 and "-" in rows[-1]
    assert len(at([found], 100)) == 0
