"""Training between the stages of a search: real prunings, trainings and searches of a few networks on digits."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import emomc
from emomc.report import read_run
from emomc.run import Recovery, Session, search_with_recovery
from tests.fronts import check_measured, check_unbeaten
from tests.test_cli import good, refused

GENES = {"prune_ratio": (0.0, 0.5, 0.8), "bit_width": (8, 4), "shared_values": (0,)}
OPTIONS = emomc.Options("digits", method="magnitude", genes=GENES, budget=16, recovery=Recovery(2, steps=30))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recovery") / "run"
    search_with_recovery(folder, OPTIONS, workers=1)
    return folder


def test_files_hold_what_was_pruned_trained_and_rounded(run: Path) -> None:
    found = read_run(run)
    assert found.points
    assert {path.name for path in (run / "points").iterdir()} == {Path(point.file).name for point in found.points}
    weights = [torch.load(path, weights_only=True)["state_dict"] for path in run.glob("recovered-*/trained.pt")]
    assert len(weights) == 2
    recovered = [point for point in found.points if "untrained" not in point.file]
    assert 0 < len(recovered) < len(found.points)
    for point in recovered:
        state = emomc.load(run / point.file).state_dict()
        names = [f"{layer}.weight" for layer in point.genes]
        zeros = {name: float((state[name] == 0).float().mean()) for name in names}
        for (layer, genes), share in zip(point.genes.items(), zeros.values(), strict=True):
            assert share >= float(genes["prune_ratio"]) - 0.06, layer
            assert genes["bit_width"] in ("8", "4")
        kept = [all(not bool(state[name][each[name] == 0].any()) for name in names) for each in weights]
        assert any(kept)  # the zeros of the network that was trained


def test_the_front_is_measured_against_the_dense_network(run: Path) -> None:
    check_measured(run)
    found = read_run(run)
    limit = found.dense_selection_error + OPTIONS.max_loss
    assert max(point.selection_error for point in found.points) <= limit


def test_no_point_beats_another_in_measured_and_in_estimated_error(run: Path) -> None:
    points = read_run(run).points
    check_unbeaten(run)
    errors = [[each.selection_error, each.estimated_error] for each in points]
    assert not np.allclose(*np.transpose(errors))  # estimates come from the searches of the rounded networks


def test_the_history_runs_through_all_parts(run: Path) -> None:
    history = read_run(run).history
    assert [each.number for each in history] == list(range(1, len(history) + 1))
    parts = {"prune": 2, "network 1": 5, "network 2": 5, "untrained": 4}
    assert Counter(each.stage for each in history) == parts
    volumes = [each.hypervolume for each in history]
    assert volumes == sorted(volumes)
    assert volumes[-1] > volumes[1]  # rounding adds to what pruning alone reaches


def test_the_budget_of_networks_that_are_not_there_goes_to_the_others(tmp_path: Path) -> None:
    only = {**GENES, "prune_ratio": (0.5,)}
    options = replace(OPTIONS, genes=only, budget=8)
    outcome = search_with_recovery(tmp_path, options, workers=1)
    assert [each.stage for each in outcome.evaluations] == ["prune"] + ["network 1"] * 5 + ["untrained"] * 2


def test_repeating_measures_nothing_and_a_killed_one_ends_alike(run: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    stores = {path: path.stat().st_size for path in run.glob("*/store.sqlite")}
    search_with_recovery(run, OPTIONS, workers=1)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert {path: path.stat().st_size for path in stores} == stores

    def interrupt(what: str, done: int, _: int) -> None:
        if what.startswith("training network 2") and done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_with_recovery(tmp_path, OPTIONS, workers=1, progress=interrupt)
    assert not (tmp_path / "front.csv").exists()
    search_with_recovery(tmp_path, OPTIONS, workers=1)
    for name in ("front.csv", "history.csv", "summary.json"):
        assert (tmp_path / name).read_bytes() == before[name]


def test_what_cannot_be_done_is_said(run: Path, tmp_path: Path) -> None:
    with pytest.raises(emomc.EmomcError, match="Recovery"):
        search_with_recovery(tmp_path, replace(OPTIONS, recovery=None))
    with pytest.raises(emomc.EmomcError, match="two networks at least"):
        search_with_recovery(tmp_path, replace(OPTIONS, budget=1))
    with pytest.raises(emomc.EmomcError, match="search_with_recovery"):
        Session(tmp_path, OPTIONS)
    with pytest.raises(emomc.EmomcError, match="holds a run with recovery"):
        Session(run, replace(OPTIONS, recovery=None), workers=1)
    for wrong in (Recovery(2), Recovery(2, steps=3, epochs=1.0)):
        with pytest.raises(emomc.EmomcError, match="exactly one"):
            search_with_recovery(tmp_path / "new", replace(OPTIONS, recovery=wrong))
    with pytest.raises(emomc.EmomcError, match="at least one network"):
        search_with_recovery(tmp_path / "new", replace(OPTIONS, recovery=Recovery(0, steps=3)))
    assert not (tmp_path / "new").exists()
    task = replace(emomc.load_task("digits"), training=None)
    with pytest.raises(emomc.EmomcError, match="no training images"):
        search_with_recovery(tmp_path, OPTIONS, task=task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"constraints": ("siez<=5kB",)}, "Did you mean 'size'"),
        ({"objectives": ("error", "enrgy")}, "Did you mean 'energy'"),
        ({"genes": {"bits": (4,)}}, "unknown gene 'bits'"),
        ({"accelerator": "publishd"}, "Did you mean 'published'"),
        ({"dataflows": ("X:YY",)}, "Did you mean 'X:Y'"),
    ],
)
def test_a_typo_is_refused_before_any_training_and_leaves_the_folder_free(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    told: list[str] = []
    with pytest.raises(emomc.EmomcError, match=message):
        search_with_recovery(
            tmp_path, replace(OPTIONS, **change), workers=1, progress=lambda what, *_: told.append(what)
        )
    assert not list(tmp_path.glob("**/run.json"))
    assert not any("training" in what for what in told)


def test_networks_that_stay_outside_the_limits_are_named(tmp_path: Path) -> None:
    told: list[str] = []
    pruned_hard = {**GENES, "prune_ratio": (0.95,)}
    options = replace(
        OPTIONS, genes=pruned_hard, max_loss=0.3, recovery=Recovery(1, steps=1), constraints=("size<=1kB",)
    )
    with pytest.raises(emomc.EmomcError, match="Train longer"):
        search_with_recovery(tmp_path, options, workers=1, notice=told.append)
    assert [each.split(" has")[0].split(":")[0] for each in told] == ["network 1 of 1", "untrained"]


def test_what_trained_networks_leave_goes_to_those_that_are_not_trained(tmp_path: Path) -> None:
    told: list[str] = []
    options = replace(OPTIONS, max_loss=0.05, recovery=Recovery(1, steps=1))
    outcome = search_with_recovery(tmp_path, options, workers=1, notice=told.append)
    assert "after training" in told[0]
    parts = Counter(each.stage for each in outcome.evaluations)
    assert set(parts) == {"prune", "untrained"}
    assert parts.total() == options.budget
    assert outcome.points


def test_pruning_that_nothing_survives_is_said(tmp_path: Path) -> None:
    options = replace(OPTIONS, genes={**GENES, "prune_ratio": (0.95,)}, max_loss=0.001)
    with pytest.raises(emomc.EmomcError, match="before training"):
        search_with_recovery(tmp_path, options, workers=1)


def test_on_the_command_line(tmp_path: Path) -> None:
    search = ["search", "digits", "--workers", "1", "--method", "magnitude", "--gene", "prune_ratio=0.5,0.8"]
    search += ["--gene", "bit_width=8,4", "--gene", "shared_values=0", "--run", tmp_path / "run"]
    told = good(*search, "--budget", "8", "--recover", "60steps", "--recover-networks", "1")
    assert "on the front of 8 measured" in told
    with (tmp_path / "run" / "front.csv").open() as stream:
        assert all(row["linear.prune_ratio"] in ("0.5", "0.8") for row in csv.DictReader(stream))
    assert "as reported" in good("verify", tmp_path / "run")
    assert "5epochs" in refused(*search, "--recover", "4")
    assert "5epochs" in refused(*search, "--recover", "1.5steps")
    assert "--recover" in refused(*search, "--recover-networks", "2")
