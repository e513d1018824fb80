"""Writing the figures of a run."""

from __future__ import annotations

from pathlib import Path

from emomc.files import atomic_write
from emomc.report.rundata import RunData

_DPI = 150


def plot_run(run: RunData, folder: Path | None = None) -> list[Path]:
    """Write every figure of a run as PNG and return their paths.

    Args:
        run: a finished run.
        folder: created if missing; ``figures`` in the run folder if not given.
    """
    from emomc.report.figures import choices_figure, front_figure, hypervolume_figure, predictions_figure

    figures = {
        "front": front_figure(run),
        "choices": choices_figure(run) if run.points else None,
        "hypervolume": hypervolume_figure(run) if run.history else None,
        "predictions": predictions_figure(run),
    }
    folder = folder or run.folder / "figures"
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            paths.append(folder / f"{name}.png")
            with atomic_write(paths[-1]) as stream:
                figure.savefig(stream, format="png", dpi=_DPI)
    return paths
