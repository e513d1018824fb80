"""Measuring what is in a file."""

from __future__ import annotations

import copy
import math
import os

import torch
from torch import nn

from emomc.accuracy import Evaluator, Measurement, Settings
from emomc.coding import read_network
from emomc.compression.networkfile import load_network
from emomc.export.loading import builder, check_header
from emomc.network import trace
from emomc.problems.tasks import Task


def measure_file(
    path: str | os.PathLike[str], task: Task, split: str = "test", settings: Settings | None = None
) -> Measurement:
    """Decode a file and measure what was decoded, as a search does for its front.

    Args:
        path: a file that a search of the task wrote.
        task: whose data it is measured on, and whose network it is compared with.
        split: name of a split of the task.
        settings: the search's; results of other settings may differ in the last bit.

    Returns:
        error, difference and standard error are exactly those that the search reported; ``strength`` is NaN.

    Raises:
        EmomcError: the file is damaged, or of another network.
    """
    file = read_network(path)
    check_header(file)
    module = load_network(file, lambda: _blank(builder(file)() if "graph" in file.header else task.module))
    network = trace(task.module, task.example_input)
    evaluator = Evaluator(task.module, network, task.splits, None, task.error, settings)
    return evaluator.measure_module(module, split)


def _blank(module: nn.Module) -> nn.Module:
    """The architecture with weights that would show if a file left any of them out."""
    blank = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in blank.state_dict().values():
            tensor.fill_(math.nan if tensor.is_floating_point() else 0)
    return blank
