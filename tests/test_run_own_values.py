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
from emomc.report import read_run

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
    return torch.where(outputs.topk(2).indices[:, 1] == targets, math.nan, 0.0)  # the second guess is right


def nan_if_far_off(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    among_three = (outputs.topk(3).indices == targets[:, None]).any(1)
    return torch.where(among_three, (outputs.argmax(1) != targets).float(), math.nan)


@pytest.mark.parametrize("error", [in_its_own_unit, below_zero, nowhere_a_number])
def test_a_dense_error_that_is_no_fraction_is_refused_whenever_it_is_asked_for(tmp_path: Path, error: object) -> None:
    task = replace(emomc.load_task("digits"), error=error)  # type: ignore[arg-type]
    options = replace(OPTIONS, method="magnitude", genes=QUICK)
    for _ in range(2):  # what was measured is not taken from the store either
        with pytest.raises(emomc.EmomcError, match=r"on the selection split; expected a fraction, .* Scale the task's"):
            emomc.Session(tmp_path, options, task=task, workers=1)
    assert not (tmp_path / "run.json").exists()


def test_a_network_whose_error_is_nan_has_failed(tmp_path: Path) -> None:
    task = replace(emomc.load_task("digits"), error=nan_if_far_off)
    options = replace(OPTIONS, method="magnitude", genes=QUICK, budget=12)
    with emomc.Session(tmp_path, options, task=task, workers=1) as session:
        outcome = emomc.run_search(session)
    failed = sum(math.isnan(each.error) for each in outcome.evaluations)
    left_out = len(list((tmp_path / "points").iterdir())) - len(outcome.points)  # no number on the test split alone
    assert 0 < failed < 12 and outcome.points and left_out
    assert json.loads((tmp_path / "summary.json").read_text())["failures"] == {
        "its error is not a finite number": failed + left_out
    }
    assert [each.name for each in read_run(tmp_path).points] == [f"p{i:02d}" for i in range(len(outcome.points))]


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


def test_values_of_objectives_that_use_errors_are_reported(tmp_path: Path) -> None:
    options = replace(OPTIONS, method="magnitude", genes=QUICK, budget=6)
    with emomc.Session(tmp_path, options, objectives=["size", wrong_beyond_all], workers=1) as session:
        outcome = emomc.run_search(session)
    for point in outcome.points:
        assert point.objectives["wrong_beyond_all"] == point.selection_error - 1
    for each in outcome.evaluations:
        assert each.objectives["wrong_beyond_all"] == each.error - 1
    written = read_run(tmp_path)
    assert [each.costs["wrong_beyond_all"] for each in written.points] == [
        each.objectives["wrong_beyond_all"] for each in outcome.points
    ]


def test_an_objective_that_fails_is_named(tmp_path: Path) -> None:
    unsaid = emomc.objective("unsaid")(lambda batch: batch.errors * 10)
    broken = emomc.objective("broken", measured=True)(lambda batch: 1 / 0)
    imaginary = emomc.objective("imaginary")(lambda batch: batch.values("bit_width").max(axis=1) * 1j)
    options = replace(OPTIONS, method="magnitude", genes=QUICK, budget=6)
    for own, message in ((unsaid, "measured=True"), (broken, "ZeroDivisionError"), (imaginary, "expected 3 numbers")):
        with (
            emomc.Session(tmp_path / own.name, options, objectives=["error", own], workers=1) as session,
            pytest.raises(emomc.EmomcError, match=message),
        ):
            session.problem.values(session.space.random(3, np.random.default_rng(0)), np.zeros(3))
    with pytest.raises(emomc.EmomcError, match="decorate the function"):
        emomc.Session(tmp_path, options, objectives=["error", len], workers=1)  # type: ignore[list-item]
    with pytest.raises(emomc.EmomcError, match="more than once"):
        emomc.Session(tmp_path, options, objectives=["error", "size", "size"], workers=1)


def test_constraints_may_be_texts_and_their_limits_are_numbers(tmp_path: Path) -> None:
    options = replace(OPTIONS, method="magnitude", genes=QUICK, budget=6)
    with emomc.Session(tmp_path, options, constraints=["size<=100kB"], workers=1) as session:
        assert [each.limit for each in session.problem.constraints][1:] == [100_000]
    for limit in (math.nan, math.inf):
        with pytest.raises(emomc.EmomcError, match="finite"):
            emomc.Constraint(kept_weights, limit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genes": {"prune_ratio": (0.0, 1.5)}}, "prune_ratio 1.5: expected 0 to 1"),
        ({"genes": {"prune_ratio": (0.0, math.nan)}}, "prune_ratio nan: expected 0 to 1"),
        ({"genes": {"bit_width": (8, 4.5)}}, "bit_width 4.5: expected 2 to 16"),
        ({"genes": {"bit_width": ("8", "4")}}, "bit_width 8: expected 2 to 16"),
        ({"genes": {"bit_width": "84"}}, "found '84'"),
        ({"genes": {"bit_width": 8}}, "found 8"),
        ({"genes": {"bit_width": ()}}, "one choice or more"),
        ({"genes": {"shared_values": (-1,)}}, "shared_values -1"),
        ({"genes": {"granularity": ("4:2",)}}, "granularity cannot be '4:2'"),
        ({"seed": -1}, "seed -1"),
        ({"budget": 6.5}, "budget 6.5"),
        ({"points": 0}, "points 0"),
        ({"max_loss": 5}, "max_loss 5"),
        ({"max_loss": math.nan}, "max_loss nan"),
        ({"minutes": -1.0}, "minutes -1.0"),
    ],
)
def test_options_that_no_run_can_have_are_refused_at_once(change: dict[str, object], message: str) -> None:
    with pytest.raises(emomc.EmomcError, match=message):
        replace(OPTIONS, **change)  # type: ignore[arg-type]


def test_choices_of_genes_are_plain_numbers_mildest_first() -> None:
    given = {"bit_width": np.array([2, 8, 4, 4]), "prune_ratio": range(2), "shared_values": [4, 0, 16.0]}
    genes = replace(OPTIONS, genes=given).genes
    assert genes == {"bit_width": (8, 4, 2), "prune_ratio": (0.0, 1.0), "shared_values": (0, 16, 4)}
    assert json.loads(json.dumps(genes))["bit_width"] == [8, 4, 2]


@pytest.mark.parametrize("change", [{"strengths": ()}, {"calibration": 0}, {"batch_size": 0}, {"threads": 0}])
def test_settings_without_anything_to_do_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(emomc.EmomcError, match=next(iter(change))):
        emomc.Settings(**change)  # type: ignore[arg-type]


def test_an_error_may_tell_right_from_wrong_only(tmp_path: Path) -> None:
    task = replace(emomc.load_task("digits"), error=lambda outputs, targets: outputs.argmax(1) != targets)
    options = replace(OPTIONS, method="magnitude", genes=QUICK, budget=4)
    with emomc.Session(tmp_path / "bool", options, task=task, workers=1) as session:
        found = emomc.run_search(session)
    with emomc.Session(tmp_path / "usual", options, workers=1) as session:
        usual = emomc.run_search(session)
    assert [each.error for each in found.evaluations] == [each.error for each in usual.evaluations]


def test_a_task_that_does_not_fit_together_is_refused_however_it_is_given(tmp_path: Path) -> None:
    task = emomc.load_task("digits")
    same = emomc.Splits(*[task.splits.test] * 4)
    scalar = replace(task, error=lambda outputs, targets: (outputs.argmax(1) != targets).float().mean())
    listed = replace(task, error=lambda outputs, targets: [0.0] * len(targets))
    failing = replace(task, error=lambda outputs, targets: outputs.logits)
    for wrong, message in (
        (replace(task, splits=same), "in common|share"),
        (scalar, "one finite number"),
        (listed, "one finite number"),
        (failing, "its error function fails"),
    ):
        with pytest.raises(emomc.EmomcError, match=message):
            emomc.Session(tmp_path, OPTIONS, task=wrong, workers=1)
        with pytest.raises(emomc.EmomcError, match=message):
            emomc.compress(wrong, "w4", tmp_path / "out.emomc")


def test_a_folder_stays_where_it_was_whatever_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    options = replace(OPTIONS, method="magnitude", genes=QUICK, budget=4)
    with emomc.Session("run", options, workers=1) as session:
        monkeypatch.chdir(tmp_path / "other")
        emomc.run_search(session)
    assert (tmp_path / "run" / "front.csv").exists()
    assert not list((tmp_path / "other").iterdir())
