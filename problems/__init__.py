"""pymoo problems of network compression: objectives, constraints, exact cost tables and named tasks."""

from emomc.problems.compression import CompressionProblem
from emomc.problems.objectives import (
    DEFAULT_OBJECTIVES,
    Batch,
    Constraint,
    Objective,
    load_objective,
    objective,
    objective_names,
    parse_constraint,
)
from emomc.problems.tables import CostTables

__all__ = [
    "DEFAULT_OBJECTIVES",
    "Batch",
    "CompressionProblem",
    "Constraint",
    "CostTables",
    "Objective",
    "load_objective",
    "objective",
    "objective_names",
    "parse_constraint",
]
