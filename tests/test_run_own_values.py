"""Objectives and errors of the user's whose values are unusual: negative, in a unit of their own, not numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import emomc

OPTIONS = emomc.Options("digits", budget=20, seed=3, points=6)
QUICK = {"prune_ratio": (0.0, 0.9, 0.95), "bit_width": (8, 2), "shared_values": (0,)}


@emomc.objective("kept_weights")
def kept_weights(batch: emomc.Batch) -> np.ndarray:
    """Minus the share of pruned weights: 0 for the mildest network, negative for all others."""
    return -batch.values("prune_ratio").mean(axis=1)


@emomc.objective("wrong_beyond_all", measured=True)
def wrong_beyond_all(batch: emomc.Batch) -> np.ndarray:
    return batch.errors - 1


@emomc.objective("unevenness")
def unevenness(batch: emomc.Batch) -> np.ndarray:
    """0 for all networks whose layers are treated alike."""
    return -np.ptp(batch.values("prune_ratio"), axis=1)


def test_networks_that_beat_all_that_treat_layers_alike_count(tmp_path: Path) -> None:
    options = replace(OPTIONS, method="magnitude", genes=QUICK, budget=6)
    with emomc.Session(tmp_path, options, objectives=["error", unevenness], workers=1) as session:
        outcome = emomc.run_search(session)
    assert 0 < outcome.evaluations[-1].hypervolume <= 1


def test_the_hypervolume_of_an_objective_that_is_maximized_grows(tmp_path: Path) -> None:
    options = replace(OPTIONS, method="magnitude", genes=QUICK, budget=6)
    objectives = ["size", kept_weights, wrong_beyond_all]
    with emomc.Session(tmp_path, options, objectives=objectives, workers=1) as session:
        outcome = emomc.run_search(session)
        reference, worst = session.reference["size"], session.dense.error + options.max_loss - 1
        best = session.dense.error - 1
    volumes = [each.hypervolume for each in outcome.evaluations]
    assert volumes == sorted(volumes) and 0 < volumes[-1] <= 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["hypervolume_ideal"] == pytest.approx([0.0, -0.95, best])
    assert summary["hypervolume_reference"] == pytest.approx([reference, 0.0, worst])


@pytest.mark.parametrize("objectives", [("file",), ("energy_joule",), ("genome",), ("mine", "mine")])
def test_an_objective_does_not_replace_a_column(tmp_path: Path, objectives: tuple[str, ...]) -> None:
    own = [emomc.objective(name)(lambda batch: batch.values("bit_width").max(axis=1)) for name in objectives]
    with pytest.raises(emomc.EmomcError, match=f"have a column '{objectives[0]}' already"):
        emomc.Session(tmp_path, OPTIONS, objectives=["error", *own], workers=1)


def in_its_own_unit(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 1.0 + (outputs.argmax(1) != targets).float()


def below_zero(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -(outputs.argmax(1) == targets).float()


def nowhere_a_number(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.where(targets == 3, math.nan, 0.0)


def nan_if_often_wrong(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    wrong = (outputs.argmax(1) != targets).float()
    return wrong if wrong.mean() < 0.2 else wrong * math.nan


@pytest.mark.parametrize("error", [in_its_own_unit, below_zero, nowhere_a_number])
def test_a_dense_error_that_is_no_fraction_is_refused_whenever_it_is_asked_for(tmp_path: Path, error: object) -> None:
    task = replace(emomc.load_task("digits"), error=error)  # type: ignore[arg-type]
    options = replace(OPTIONS, method="magnitude", genes=QUICK)
    for _ in range(2):  # what was measured is not taken from the store either
        with pytest.raises(emomc.EmomcError, match=r"on the selection split; expected a fraction, .* Scale the task's"):
            emomc.Session(tmp_path, options, task=task, workers=1)
    assert not (tmp_path / "run.json").exists()


def test_a_network_whose_error_is_nan_has_failed(tmp_path: Path) -> None:
    task = replace(emomc.load_task("digits"), error=nan_if_often_wrong)
    options = replace(OPTIONS, method="magnitude", genes=QUICK, budget=12)
    with emomc.Session(tmp_path, options, task=task, workers=1) as session:
        outcome = emomc.run_search(session)
    failed = sum(math.isnan(each.error) for each in outcome.evaluations)
    assert 0 < failed < 12 and outcome.points
    assert json.loads((tmp_path / "summary.json").read_text())["failures"] == {
        "its error is not a finite number": failed
    }


def a_quarter_of_it(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return 0.25 * (outputs.argmax(1) != targets).float()


def test_sensitivities_are_in_the_unit_of_the_error(tmp_path: Path) -> None:
    """Predictions before anything is measured are about as far off as the probes say, whatever the error is."""
    task, tables = emomc.load_task("digits"), []
    for number, error in enumerate((task.error, a_quarter_of_it)):
        options = replace(OPTIONS, method="magnitude", genes=QUICK)
        with emomc.Session(tmp_path / str(number), options, task=replace(task, error=error), workers=1) as session:
            tables.append(session.sensitivities)
    ratio = tables[1] / np.maximum(tables[0], 1e-12)
    assert ratio[tables[0] > 0] == pytest.approx(ratio.max())  # one factor for all layers
    assert 0.25 < ratio.max() < 0.75  # a quarter, drawn towards what distances usually cost


def test_an_error_that_holds_an_open_file_is_refused_in_words(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w") as log:

        def logged(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            print("measured", file=log)
            return (outputs.argmax(1) != targets).float()

        task = replace(emomc.load_task("digits"), error=logged)
        with pytest.raises(emomc.EmomcError, match=r"cannot be sent to worker processes: .*open files"):
            emomc.Session(tmp_path / "run", replace(OPTIONS, genes=QUICK), task=task, workers=1)
