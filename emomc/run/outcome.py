"""What a search leaves in its folder: the history of measurements and the front, as CSV files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emomc.errors import EmomcError
from emomc.files import atomic_write
from emomc.genome import Configuration

if TYPE_CHECKING:
    from emomc.accuracy.evaluator import Measurement

FRONT = "front.csv"
HISTORY = "history.csv"
SUMMARY = "summary.json"
COLUMNS = frozenset(
    [
        "point",
        "error",
        "standard_error",
        "energy_joule",
        "size_bytes",
        "file",
        "difference",
        "selection_error",
        "estimated_error",
        "evaluation",
        "stage",
        "round",
        "predicted_error",
        "distance",
        "violation",
        "hypervolume",
        "genome",
    ]
)
"""Columns of both CSV files that objectives of the user's may not have."""
_UNIT_NAMES = {"J": "joule", "B": "bytes", "s": "second"}


@dataclass(frozen=True)
class FrontPoint:
    """One network of the front.

    Attributes:
        name: position on the front, ``"p00"`` has the smallest measured selection error.
        file: the compressed network, relative to the run folder.
        measurement: of the decoded file, on the test split.
        selection_error: on the selection split.
        estimated_error: on the selection split, freed of chance as far as the search can tell: measured and predicted,
            each by its certainty, or measured alone. Points are chosen by it, which leaves the test split out of it.
        objectives: value of every objective but the error, by column name, in SI units; of those of the user's that use
            errors, by the selection error.
        configuration: its choices.
    """

    name: str
    file: str
    measurement: Measurement
    selection_error: float
    estimated_error: float
    objectives: Mapping[str, float]
    configuration: Configuration


@dataclass(frozen=True)
class Evaluation:
    """One measured network of the search.

    Attributes:
        number: from 1, in the order of the search.
        stage: part of the strategy's schedule.
        round: networks of the same round were predicted and measured together.
        predicted_error: predicted before it was measured; NaN where nothing was predicted.
        error: measured on the selection split; NaN where measuring failed.
        standard_error: of its difference from the dense network's error.
        distance: from the dense network's output, on the calibration split.
        objectives: every objective but the error, by column name.
        violation: largest relative excess over a constraint; feasible where it is not positive. A network whose
            measuring failed counts as wrong on all samples.
        hypervolume: of all feasible networks up to this one, as a fraction of the reference box.
        genome: index of every choice, layer after layer; ``session.space.decode`` tells the configuration.
    """

    number: int
    stage: str
    round: int
    predicted_error: float
    error: float
    standard_error: float
    distance: float
    objectives: Mapping[str, float]
    violation: float
    hypervolume: float
    genome: tuple[int, ...]


def column_name(objective: str, unit: str) -> str:
    """CSV column of an objective, e.g. ``energy_joule``."""
    return f"{objective}_{_UNIT_NAMES.get(unit, unit)}" if unit else objective


def write_front(folder: Path, points: Sequence[FrontPoint]) -> None:
    """Write ``front.csv``: one row a point, one column a gene of each layer."""
    rows: list[dict[str, Any]] = []
    for point in points:
        exact = dict(point.objectives)
        row: dict[str, Any] = {
            "point": point.name,
            "error": point.measurement.error,
            "standard_error": point.measurement.standard_error,
        }
        for column in ("energy_joule", "size_bytes"):
            if column in exact:
                row[column] = exact.pop(column)
        row["file"] = point.file
        row |= {
            "difference": point.measurement.difference,
            "selection_error": point.selection_error,
            "estimated_error": point.estimated_error,
            **exact,
        }
        for layer, choices in point.configuration.layers.items():
            row |= {f"{layer}.{gene}": choice for gene, choice in choices.items()}
        rows.append(row)
    _write_rows(folder / FRONT, rows)


def write_history(folder: Path, evaluations: Sequence[Evaluation]) -> None:
    """Write ``history.csv``: one row a measured network, in the order of the search."""
    _write_rows(
        folder / HISTORY,
        [
            {
                "evaluation": each.number,
                "stage": each.stage,
                "round": each.round,
                "predicted_error": each.predicted_error,
                "error": each.error,
                "standard_error": each.standard_error,
                "distance": each.distance,
                **each.objectives,
                "violation": each.violation,
                "hypervolume": each.hypervolume,
                "genome": " ".join(map(str, each.genome)),
            }
            for each in evaluations
        ],
    )


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``: the dense network, references and what the search did."""
    with atomic_write(folder / SUMMARY) as stream:
        stream.write(json.dumps(dict(summary), indent=2).encode())


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode())


def read_rows(folder: Path, name: str) -> list[dict[str, str]]:
    """Rows of a CSV file of a run folder, as text.

    Raises:
        EmomcError: the run has not got that far.
    """
    try:
        with (folder / name).open(newline="") as stream:
            return list(csv.DictReader(stream))
    except FileNotFoundError:
        raise EmomcError(
            f"{folder / name} does not exist: the search has not finished. Repeat its command to continue it."
        ) from None


def read_summary(folder: Path) -> dict[str, Any]:
    """What `write_summary` wrote.

    Raises:
        EmomcError: the run has not got that far, or the file is damaged.
    """
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text())
    except FileNotFoundError:
        raise EmomcError(
            f"{folder / SUMMARY} does not exist: the search has not finished. Repeat its command to continue it."
        ) from None
    except ValueError as error:
        raise EmomcError(
            f"{folder / SUMMARY} is damaged: {error}. Repeat the search's command to write it anew."
        ) from None
    return summary
