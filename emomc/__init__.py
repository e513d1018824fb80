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
    from emomc.compression import Shrunk, shrink
    from emomc.errors import EmomcError
    from emomc.export import (
        CompressedFile,
        Compressor,
        Finetuned,
        compress,
        configuration_names,
        export_onnx,
        finetune,
        load,
        load_configuration,
        measure_file,
    )
    from emomc.genome import Configuration, Gene, SearchSpace
    from emomc.hardware import (
        CostAxes,
        CostModel,
        PhysicalModel,
        Sparsity,
        accelerators,
        array_accesses,
        from_zigzag,
        fuse,
        load_accelerator,
        peak_memory,
        to_zigzag,
    )
    from emomc.network import Layer, LoopBounds, Network, trace
    from emomc.operators import genome_operators, lagrangian_seeds, uniform_ladder
    from emomc.problems import Batch, CompressionProblem, Constraint, CostTables, Objective, objective, parse_constraint
    from emomc.problems.tasks import Task, TrainingData, load_task, task_names
    from emomc.problems.tasks.image_folder import View, image_folder_task
    from emomc.problems.tasks.networks import mobilenet_v1, resnet, vgg16
    from emomc.run import (
        ElasticTraining,
        Options,
        Outcome,
        Recovery,
        Session,
        run_search,
        search_with_elastic_training,
        search_with_recovery,
    )
    from emomc.search import front_of, hypervolume
    from emomc.training import Augmentation, Budget, Elastic, KeepZeros, Recipe, elastic_recipe, fit, zero_masks

_HOMES = {
    "emomc.accuracy": (
        "Measurement",
        "Settings",
        "Split",
        "Splits",
    ),
    "emomc.coding": (
        "NetworkFile",
        "read_network",
    ),
    "emomc.compression": ("Shrunk", "shrink"),
    "emomc.errors": ("EmomcError",),
    "emomc.export": (
        "CompressedFile",
        "Compressor",
        "Finetuned",
        "compress",
        "export_onnx",
        "configuration_names",
        "finetune",
        "load",
        "load_configuration",
        "measure_file",
    ),
    "emomc.genome": (
        "Configuration",
        "Gene",
        "SearchSpace",
    ),
    "emomc.hardware": (
        "CostAxes",
        "CostModel",
        "PhysicalModel",
        "Sparsity",
        "accelerators",
        "array_accesses",
        "from_zigzag",
        "fuse",
        "load_accelerator",
        "peak_memory",
        "to_zigzag",
    ),
    "emomc.network": (
        "Layer",
        "LoopBounds",
        "Network",
        "trace",
    ),
    "emomc.operators": (
        "genome_operators",
        "lagrangian_seeds",
        "uniform_ladder",
    ),
    "emomc.problems": (
        "Batch",
        "CompressionProblem",
        "Constraint",
        "CostTables",
        "Objective",
        "objective",
        "parse_constraint",
    ),
    "emomc.problems.tasks": (
        "Task",
        "TrainingData",
        "load_task",
        "task_names",
    ),
    "emomc.problems.tasks.image_folder": ("View", "image_folder_task"),
    "emomc.problems.tasks.networks": (
        "mobilenet_v1",
        "resnet",
        "vgg16",
    ),
    "emomc.run": (
        "ElasticTraining",
        "Options",
        "Outcome",
        "Recovery",
        "Session",
        "run_search",
        "search_with_elastic_training",
        "search_with_recovery",
    ),
    "emomc.search": (
        "front_of",
        "hypervolume",
    ),
    "emomc.training": (
        "Augmentation",
        "Budget",
        "Elastic",
        "KeepZeros",
        "Recipe",
        "elastic_recipe",
        "fit",
        "zero_masks",
    ),
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
    "CostAxes",
    "CostModel",
    "CostTables",
    "Elastic",
    "ElasticTraining",
    "EmomcError",
    "Finetuned",
    "Gene",
    "KeepZeros",
    "Layer",
    "LoopBounds",
    "Measurement",
    "Network",
    "NetworkFile",
    "Objective",
    "Options",
    "Outcome",
    "PhysicalModel",
    "Recipe",
    "Recovery",
    "SearchSpace",
    "Session",
    "Settings",
    "Shrunk",
    "Sparsity",
    "Split",
    "Splits",
    "Task",
    "TrainingData",
    "View",
    "accelerators",
    "array_accesses",
    "compress",
    "configuration_names",
    "elastic_recipe",
    "export_onnx",
    "finetune",
    "fit",
    "from_zigzag",
    "front_of",
    "fuse",
    "genome_operators",
    "hypervolume",
    "image_folder_task",
    "lagrangian_seeds",
    "load",
    "load_accelerator",
    "load_configuration",
    "load_task",
    "measure_file",
    "mobilenet_v1",
    "objective",
    "parse_constraint",
    "peak_memory",
    "read_network",
    "resnet",
    "run_search",
    "search_with_elastic_training",
    "search_with_recovery",
    "shrink",
    "task_names",
    "to_zigzag",
    "trace",
    "uniform_ladder",
    "vgg16",
    "zero_masks",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'emomc' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
