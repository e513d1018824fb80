"""A run folder as plain values, for tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emomc.errors import EmomcError, unknown_name
from emomc.run import read_options, read_rows, read_summary

ENERGY = "energy_joule"
SIZE = "size_bytes"
_UNITS = {"joule": "J", "bytes": "B", "second": "s"}
_REQUIRED = ("point", "error", "standard_error", "difference", "selection_error", "file", ENERGY, SIZE)
_ESTIMATED = "estimated_error"  # runs of earlier versions have none


@dataclass(frozen=True)
class Point:
    """A network of the front, as ``front.csv`` holds it.

    Attributes:
        name: as printed, e.g. ``"p03"``.
        file: relative to the run folder.
        error: on the test split.
        loss: error less the dense network's, on the test split.
        standard_error: of the loss.
        selection_error: on the selection split.
        estimated_error: on the selection split, freed of chance as far as the search could tell.
        costs: every objective but the error, by column, in SI units.
        genes: choices as text, ``genes[layer][gene]``.
    """

    name: str
    file: str
    error: float
    loss: float
    standard_error: float
    selection_error: float
    estimated_error: float
    costs: Mapping[str, float]
    genes: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Evaluation:
    """A network that the search measured, as ``history.csv`` holds it; NaN where nothing was predicted."""

    number: int
    stage: str
    predicted_error: float
    error: float
    hypervolume: float


@dataclass(frozen=True)
class RunData:
    """What a finished search left in its folder.

    Attributes:
        folder: the run folder.
        options: those of the search.
        summary: the dense network, references and what the search did.
        points: the front, by ascending error on the selection split.
        history: every measured network, in the order of the search.
    """

    folder: Path
    options: Mapping[str, Any]
    summary: Mapping[str, Any]
    points: tuple[Point, ...]
    history: tuple[Evaluation, ...]

    @property
    def dense_error(self) -> float:
        """Error of the uncompressed network on the test split."""
        return float(self.summary["dense_test"]["error"])

    @property
    def dense_selection_error(self) -> float:
        """Error of the uncompressed network on the selection split."""
        return float(self.summary["dense_selection"]["error"])

    @property
    def cost_columns(self) -> tuple[str, ...]:
        """Columns of every objective but the error, energy and size first."""
        return tuple(self.points[0].costs) if self.points else (ENERGY, SIZE)

    def name_and_unit(self, column: str) -> tuple[str, str]:
        """Objective and unit symbol of a cost column: ``"size_bytes"`` is ``("size", "B")``."""
        names = {*self.summary["objectives"], "energy", "size"}
        for name in sorted(names, key=len, reverse=True):  # size_ratio may be an objective too, not a size in ratios
            if column == name or column.startswith(f"{name}_"):
                unit = column[len(name) + 1 :]
                return name, _UNITS.get(unit, unit)
        return column, ""

    def reference(self, column: str) -> float | None:
        """Cost of the uncompressed 32-bit network, where the run knows it."""
        return dict(self.summary["reference"]).get(self.name_and_unit(column)[0])

    def point(self, name: str) -> Point:
        """A point by name.

        Raises:
            EmomcError: the front has no such point.
        """
        for point in self.points:
            if point.name == name:
                return point
        raise unknown_name("point", name, [point.name for point in self.points])


def read_run(folder: Path) -> RunData:
    """Read what a finished search left.

    Raises:
        EmomcError: the folder holds no run, the search has not finished, or a file is damaged.
    """
    options, summary = read_options(folder), read_summary(folder)
    front, history = read_rows(folder, "front.csv"), read_rows(folder, "history.csv")
    try:
        layers, genes = list(summary["layers"]), list(summary["genes"])
        points = tuple(_point(row, layers, genes) for row in front)
        evaluations = tuple(_evaluation(row) for row in history)
        if len(points) != summary.get("points", len(points)):  # runs of earlier versions do not say how many
            raise ValueError(f"{len(points)} points in front.csv, expected {summary['points']}")
        data = RunData(folder, options, summary, points, evaluations)
        if not (data.dense_error >= 0 and data.dense_selection_error >= 0):
            raise ValueError(f"dense errors {data.dense_error} and {data.dense_selection_error}, expected fractions")
    except (KeyError, TypeError, ValueError) as error:
        raise EmomcError(
            f"{folder}: front.csv, history.csv and summary.json do not fit together ({error!r}). "
            "Repeat the search's command to write them anew; nothing is measured twice."
        ) from None
    return data


def _point(row: Mapping[str, str], layers: list[str], genes: list[str]) -> Point:
    others = {f"{layer}.{gene}" for layer in layers for gene in genes} | {*_REQUIRED, _ESTIMATED}
    costs = {name: float(row[name]) for name in (ENERGY, SIZE)}
    costs |= {name: float(value) for name, value in row.items() if name not in others}
    return Point(
        row["point"],
        row["file"],
        float(row["error"]),
        float(row["difference"]),
        float(row["standard_error"]),
        float(row["selection_error"]),
        float(row.get(_ESTIMATED, row["selection_error"])),
        costs,
        {layer: {gene: row[f"{layer}.{gene}"] for gene in genes} for layer in layers},
    )


def _evaluation(row: Mapping[str, str]) -> Evaluation:
    return Evaluation(
        int(row["evaluation"]),
        row["stage"],
        float(row["predicted_error"]),
        float(row["error"]),
        float(row["hypervolume"]),
    )
