"""Tables and figures of a run, and choosing a point of its front."""

from __future__ import annotations

from emomc.report.choosing import LOSS, best_within, knee
from emomc.report.plotting import plot_run
from emomc.report.rundata import ENERGY, SIZE, Evaluation, Point, RunData, read_run
from emomc.report.table import front_table, point_lines, search_facts
from emomc.units import percent, points, si

__all__ = [
    "ENERGY",
    "LOSS",
    "SIZE",
    "Evaluation",
    "Point",
    "RunData",
    "best_within",
    "front_table",
    "knee",
    "percent",
    "plot_run",
    "point_lines",
    "points",
    "read_run",
    "search_facts",
    "si",
]
