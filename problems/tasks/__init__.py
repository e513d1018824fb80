"""Named tasks: a network, its weights, its data splits and its error."""

from __future__ import annotations

from emomc.problems.tasks.checks import check_task
from emomc.problems.tasks.registry import load_task, task_names
from emomc.problems.tasks.task import ErrorFunction, Task, TrainingData, network_fingerprint, top1_error

__all__ = [
    "ErrorFunction",
    "Task",
    "TrainingData",
    "check_task",
    "load_task",
    "network_fingerprint",
    "task_names",
    "top1_error",
]
