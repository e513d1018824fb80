"""What running a network costs: cost models, dataflows, cost tables."""

from __future__ import annotations

from emomc.hardware.interface import METRICS, CostAxes, CostModel, Metric, combine_layers, total
from emomc.hardware.published import PublishedModel
from emomc.hardware.registry import accelerators, load_accelerator

__all__ = [
    "METRICS",
    "CostAxes",
    "CostModel",
    "Metric",
    "PublishedModel",
    "accelerators",
    "combine_layers",
    "load_accelerator",
    "total",
]
