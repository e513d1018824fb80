"""What holds for the front of every search on digits, whatever was trained in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import emomc
from emomc.accuracy import Evaluator
from emomc.report import read_run


def check_measured(run: Path) -> None:
    """Errors, losses and sizes are those of the decoded files beside the task's dense network, on the test split."""
    found, task = read_run(run), emomc.load_task("digits")
    network = emomc.trace(task.module, task.example_input)
    evaluator = Evaluator(task.module, network, task.splits, None, task.error)
    assert found.points
    for point in found.points:
        measured = evaluator.measure_module(emomc.load(run / point.file), "test")
        assert (point.error, point.loss) == (measured.error, measured.difference)
        assert point.costs["size_bytes"] == (run / point.file).stat().st_size


def check_unbeaten(run: Path) -> None:
    """No point beats another both in measured and in estimated error."""
    points = read_run(run).points
    fronts = (
        emomc.front_of(np.array([[error, *point.costs.values()] for error, point in zip(errors, points, strict=True)]))
        for errors in ([each.selection_error for each in points], [each.estimated_error for each in points])
    )
    assert {row for front in fronts for row in front} == set(range(len(points)))
