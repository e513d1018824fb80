"""Figures of a run, as matplotlib figures without global state."""

from emomc.report.figures.choices import choices_figure
from emomc.report.figures.front import front_figure
from emomc.report.figures.progress import hypervolume_figure, predictions_figure

__all__ = ["choices_figure", "front_figure", "hypervolume_figure", "predictions_figure"]
