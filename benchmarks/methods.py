"""Ways to spend evaluations, each with the signature of our own search strategies, and what they leave behind.

All of them pay for each network once, are given the same objectives and constraints, and see nothing that the others
do not see but for the seeds and sensitivities, which only "emomc" and "seeded NSGA-II" use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling

from emomc import front_of, genome_operators, lagrangian_seeds, uniform_ladder
from emomc.accuracy.predictor import AdditivePredictor
from emomc.search import STRATEGIES, Ledger, SearchTask, Strategy
from emomc.search.coordinates import Coordinates
from emomc.search.front import pick_spread
from emomc.search.ledger import Readings, Request
from emomc.search.reported import reported_front

Doubles = NDArray[np.float64]
Genomes = NDArray[np.int64]

_POPULATION = 40
_PATIENCE = 50  # rounds without a new network after which a method counts as finished


@dataclass(frozen=True)
class Trace:
    """What a method measured, in order.

    Attributes:
        genomes: shape ``(n, n_var)``.
        errors: measured, ``(n,)``.
        predicted: errors predicted before measuring, ``(n,)``; NaN where nothing was predicted.
        reported: genomes of the front that a session would report, shape ``(k, n_var)``.
        estimated: what a session would choose among them by, ``(k,)``.
    """

    genomes: Genomes
    errors: Doubles
    predicted: Doubles
    reported: Genomes
    estimated: Doubles


def spend(
    method: str, task: SearchTask, measure: Callable[[Genomes], Doubles | Readings], budget: int, seed: int
) -> Trace:
    """Let a method spend a budget of evaluations.

    Args:
        method: name in `METHODS`.
        task: the problem.
        measure: from genomes ``(n, n_var)`` to errors ``(n,)``, or to readings.
        budget: networks that may be measured.
        seed: of the method.
    """
    requests: list[Request] = []
    errors: list[Doubles] = []

    def record(request: Request) -> Doubles | Readings:
        found = measure(request.genomes)
        requests.append(request)
        errors.append(found.errors if isinstance(found, Readings) else found)
        return found

    ledger = Ledger(task, budget, record)
    METHODS[method](task, ledger, seed)
    front = reported_front(task, ledger)
    return Trace(
        np.concatenate([request.genomes for request in requests]),
        np.concatenate(errors),
        np.concatenate([request.predicted for request in requests]),
        ledger.genomes[front],
        ledger.estimated_errors()[front],
    )


def random_search(task: SearchTask, ledger: Ledger, seed: int) -> None:
    """Uniform random genomes."""
    rng = np.random.default_rng(seed)
    _until_spent(ledger, lambda: ledger.measure(task.problem.space.random(1, rng), "random"))


def ladder(task: SearchTask, ledger: Ledger, seed: int) -> None:
    """Networks that treat all layers alike, in random order; there may be fewer of them than evaluations."""
    rungs = uniform_ladder(task.problem.space)
    ledger.measure(rungs[np.random.default_rng(seed).permutation(len(rungs))], "ladder")


def unseeded_nsga2(task: SearchTask, ledger: Ledger, seed: int) -> None:
    """Pymoo's NSGA-II for whole numbers, started at random, every individual measured."""
    operators = {
        "sampling": IntegerRandomSampling(),
        "crossover": SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
        "mutation": PM(eta=20, vtype=float, repair=RoundingRepair()),
        "eliminate_duplicates": True,
    }
    _evolve(task, ledger, seed, operators)


def seeded_nsga2(task: SearchTask, ledger: Ledger, seed: int) -> None:
    """NSGA-II with our operators, started from trade-offs of the sensitivities, every individual measured."""
    problem, space = task.problem, task.problem.space
    costs = [problem.costs.tables[each.name] for each in problem.objectives if each.name in problem.costs.tables]

    seeds = lagrangian_seeds(space, task.sensitivities, costs)
    predicted = AdditivePredictor(space, task.sensitivities, task.dense_error).predict(seeds)[0]
    values, violations = problem.values(seeds, predicted)
    front = front_of(values, violations)
    coordinates = Coordinates.of(task)(values[front])
    spread = seeds[front[pick_spread(coordinates, coordinates[:0], _POPULATION)]]
    _evolve(task, ledger, seed, {"sampling": spread, **genome_operators(space)})


def _evolve(task: SearchTask, ledger: Ledger, seed: int, operators: dict[str, Any]) -> None:
    problem = task.problem.with_errors(lambda genomes: ledger.measure(genomes.astype(np.int64), "evolve"))
    algorithm = NSGA2(pop_size=_POPULATION, **operators)
    algorithm.setup(problem, seed=seed, termination=("n_gen", 1_000_000))
    _until_spent(ledger, algorithm.next)


def optuna_nsga2(task: SearchTask, ledger: Ledger, seed: int) -> None:
    """Optuna's NSGA-II with its own settings but for the population."""
    sampler = _optuna().samplers.NSGAIISampler(population_size=_POPULATION, seed=seed)
    _optimize(task, ledger, sampler)


def optuna_tpe(task: SearchTask, ledger: Ledger, seed: int) -> None:
    """Optuna's tree-structured Parzen estimator with its own settings."""
    _optimize(task, ledger, _optuna().samplers.TPESampler(seed=seed))


def _optuna() -> Any:
    """The library, which is not among what the package needs: ``pip install emomc[optuna]``."""
    return import_module("optuna")


def _optimize(task: SearchTask, ledger: Ledger, sampler: Any) -> None:
    """Ask Optuna for one genome after the other; its whole numbers are the ranks of the allowed choices."""
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = task.problem.space
    study = optuna.create_study(directions=["minimize"] * task.problem.n_obj, sampler=sampler)
    ordinal = [gene.ordinal for gene in space.genes] * space.n_layers
    distributions = {
        str(position): optuna.distributions.IntDistribution(0, count - 1)
        if ordinal[position]
        else optuna.distributions.CategoricalDistribution(list(range(count)))
        for position, count in enumerate(space.counts.tolist())
        if count > 1
    }

    def step() -> None:
        trial = study.ask(distributions)
        ranks = np.array([trial.params.get(str(position), 0) for position in range(space.n_var)])
        genome = space.canonical(space.at_ranks(ranks[None]))
        values, violations = task.problem.values(genome, ledger.measure(genome, "ask"))
        for constraint, violation in enumerate(violations[0].tolist()):
            trial.set_constraint(str(constraint), violation)
        study.tell(trial, values[0].tolist())

    _until_spent(ledger, step)


def _until_spent(ledger: Ledger, step: Callable[[], object]) -> None:
    fruitless = 0
    while ledger.remaining and fruitless < _PATIENCE:
        before = ledger.remaining
        step()
        fruitless = fruitless + 1 if ledger.remaining == before else 0


METHODS: Mapping[str, Strategy] = {
    "emomc": STRATEGIES["two-stage"],
    "seeded NSGA-II": seeded_nsga2,
    "unseeded NSGA-II": unseeded_nsga2,
    "Optuna NSGA-II": optuna_nsga2,
    "Optuna TPE": optuna_tpe,
    "random": random_search,
    "uniform ladder": ladder,
}
