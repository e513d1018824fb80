"""The pymoo problem: genomes in, objectives and constraint violations out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.core.problem import Problem

from emomc.errors import UnattainableError
from emomc.problems.objectives import DEFAULT_OBJECTIVES, Batch, Constraint, Objective, evaluate_all, load_objective
from emomc.problems.tables import CostTables

Doubles = NDArray[np.float64]
Integers = NDArray[np.integer]
Errors = Callable[[Integers], Doubles]

WORST_ERROR = 1.0  # stands for a network whose measurement failed


def check_attainable(costs: CostTables, constraints: Sequence[Constraint]) -> None:
    """Raise UnattainableError where a limit on a cost is below what any network of the space has.

    Costs are exact, so this is known before anything is measured.
    """
    for constraint in constraints:
        name, unit = constraint.objective.name, constraint.objective.unit
        if name in costs.tables and costs.least(name) > constraint.limit:
            raise UnattainableError(
                f"{name}<={constraint.limit:g}{unit} cannot be met: the least that any network of this space has is "
                f"{costs.least(name):.4g}{unit}. Raise the limit, or allow larger prune ratios or fewer bits."
            )


class CompressionProblem(Problem):
    """Minimize objectives of compressed networks over genomes.

    It holds integers, tables and a function that tells errors, never a network, so that pymoo may copy what it
    likes. Any pymoo algorithm runs on it; `genome_operators` gives it operators that fit.
    """

    def __init__(
        self,
        costs: CostTables,
        errors: Errors,
        objectives: Sequence[str | Objective] = DEFAULT_OBJECTIVES,
        constraints: Sequence[Constraint] = (),
    ) -> None:
        """Put objectives and constraints on a space.

        Args:
            costs: exact cost tables; their space is the search space.
            errors: from canonical genomes ``(n, n_var)`` to errors ``(n,)``: measured, or predicted.
            objectives: names or objects.
            constraints: upper bounds.
        """
        self.costs = costs
        self.space = costs.space
        self.errors = errors
        self.objectives = tuple(load_objective(each) for each in objectives)
        self.constraints = tuple(constraints)
        super().__init__(
            n_var=self.space.n_var,
            n_obj=len(self.objectives),
            n_ieq_constr=len(self.constraints),
            xl=np.zeros(self.space.n_var, dtype=np.int64),
            xu=self.space.upper,
            vtype=int,
        )

    def with_errors(self, errors: Errors) -> CompressionProblem:
        """The same problem with another source of errors, e.g. a predictor."""
        return CompressionProblem(self.costs, errors, self.objectives, self.constraints)

    def values(self, genomes: Integers, errors: Doubles) -> tuple[Doubles, Doubles]:
        """Objectives ``(n, n_obj)`` and constraint violations ``(n, constraints)`` for known errors ``(n,)``."""
        batch = Batch(genomes, self.costs, np.where(np.isfinite(errors), errors, WORST_ERROR))
        violations = [constraint.violation(batch) for constraint in self.constraints]
        stacked = np.stack(violations, axis=1) if violations else np.zeros((len(genomes), 0))
        return evaluate_all(self.objectives, batch), stacked

    def _evaluate(self, x: NDArray[Any], out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        genomes = self.space.canonical(x)
        needs_errors = any(each.measured for each in (*self.objectives, *(c.objective for c in self.constraints)))
        errors = self.errors(genomes) if needs_errors else np.zeros(len(genomes))
        out["F"], violations = self.values(genomes, errors)
        if self.constraints:
            out["G"] = violations

    def __deepcopy__(self, memo: dict[int, Any]) -> CompressionProblem:
        """Itself: nothing in it changes, and pymoo copies the problem with every algorithm of a history."""
        return self
