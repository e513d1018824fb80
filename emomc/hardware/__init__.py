"""What running a network costs: cost models, dataflows, cost tables."""

from __future__ import annotations

from emomc.hardware.accelerator import Accelerator, Sparsity
from emomc.hardware.accesses import array_accesses
from emomc.hardware.dataflow import DATAFLOWS
from emomc.hardware.fusion import FusionPlan, fuse
from emomc.hardware.interface import (
    METRICS,
    CostAxes,
    CostModel,
    Metric,
    by_level,
    check_dataflows,
    combine_layers,
    total,
)
from emomc.hardware.memory import peak_memory
from emomc.hardware.physical import PhysicalModel
from emomc.hardware.published import PublishedModel
from emomc.hardware.registry import accelerators, load_accelerator
from emomc.hardware.tiling import compulsory_words
from emomc.hardware.zigzag import from_zigzag, to_zigzag

__all__ = [
    "DATAFLOWS",
    "METRICS",
    "Accelerator",
    "CostAxes",
    "CostModel",
    "FusionPlan",
    "Metric",
    "PhysicalModel",
    "PublishedModel",
    "Sparsity",
    "accelerators",
    "array_accesses",
    "by_level",
    "check_dataflows",
    "combine_layers",
    "compulsory_words",
    "from_zigzag",
    "fuse",
    "load_accelerator",
    "peak_memory",
    "to_zigzag",
    "total",
]
