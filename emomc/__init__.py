"""Evolutionary multi-objective compression of PyTorch CNNs for described accelerators.

Give it a trained network, data and a description of an accelerator; it returns a measured Pareto front of compressed
networks, each point a file that decodes and runs. Public names are loaded when they are first used, so that importing
the package stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emomc.accuracy import Measurement, Settings, Split, Splits
    from emomc.coding import NetworkFile, read_network
    from emomc.errors import EmomcError
    from emomc.export import (
        CompressedFile,
        Compressor,
        compress,
        configuration_names,
        load,
        load_configuration,
        measure_file,
    )
    from emomc.genome import Configuration, Gene, SearchSpace
    from emomc.hardware import CostModel, accelerators, load_accelerator
    from emomc.network import Network, trace
    from emomc.operators import genome_operators, lagrangian_seeds, uniform_ladder
    from emomc.problems import Batch, CompressionProblem, Constraint, Objective, objective, parse_constraint
    from emomc.problems.tasks import Task, TrainingData, load_task, task_names
    from emomc.run import Options, Outcome, Session, run_search
    from emomc.search import front_of, hypervolume
    from emomc.training import Augmentation, Budget, KeepZeros, Recipe, fit, zero_masks

_HOMES = {
    "emomc.accuracy": ("Measurement", "Settings", "Split", "Splits"),
    "emomc.coding": ("NetworkFile", "read_network"),
    "emomc.errors": ("EmomcError",),
    "emomc.export": (
        "CompressedFile",
        "Compressor",
        "compress",
        "load",
        "load_configuration",
        "measure_file",
        "configuration_names",
    ),
    "emomc.genome": ("Configuration", "Gene", "SearchSpace"),
    "emomc.hardware": ("CostModel", "accelerators", "load_accelerator"),
    "emomc.network": ("Network", "trace"),
    "emomc.operators": ("genome_operators", "lagrangian_seeds", "uniform_ladder"),
    "emomc.problems": ("Batch", "CompressionProblem", "Constraint", "Objective", "objective", "parse_constraint"),
    "emomc.problems.tasks": ("Task", "TrainingData", "load_task", "task_names"),
    "emomc.run": ("Options", "Outcome", "Session", "run_search"),
    "emomc.search": ("front_of", "hypervolume"),
    "emomc.training": ("Augmentation", "Budget", "KeepZeros", "Recipe", "fit", "zero_masks"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Augmentation",
    "Batch",
    "Budget",
    "CompressedFile",
    "CompressionProblem",
    "Compressor",
    "Configuration",
    "Constraint",
    "CostModel",
    "EmomcError",
    "Gene",
    "KeepZeros",
    "Measurement",
    "Network",
    "NetworkFile",
    "Objective",
    "Options",
    "Outcome",
    "Recipe",
    "SearchSpace",
    "Session",
    "Settings",
    "Split",
    "Splits",
    "Task",
    "TrainingData",
    "accelerators",
    "compress",
    "configuration_names",
    "fit",
    "front_of",
    "genome_operators",
    "hypervolume",
    "lagrangian_seeds",
    "load",
    "load_accelerator",
    "load_configuration",
    "load_task",
    "measure_file",
    "objective",
    "parse_constraint",
    "read_network",
    "run_search",
    "task_names",
    "trace",
    "uniform_ladder",
    "zero_masks",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'emomc' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
