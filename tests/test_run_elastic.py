"""Elastic training between two searches: real searches of a few networks, and real training, on digits."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import emomc
from emomc.cli.compress import of_point
from emomc.report import read_run
from emomc.run import ElasticTraining, Recovery, Session, search_with_elastic_training
from tests.fronts import check_measured, check_unbeaten
from tests.test_cli import good, refused

GENES = {"prune_ratio": (0.0, 0.5, 0.8), "bit_width": (8, 4, 2), "shared_values": (0,)}
OPTIONS = emomc.Options(
    "digits", method="magnitude", genes=GENES, budget=13, max_loss=0.5, elastic=ElasticTraining(steps=30)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elastic") / "run"
    search_with_elastic_training(folder, OPTIONS, workers=1)
    return folder


def test_the_second_search_is_of_the_trained_network(run: Path, tmp_path: Path) -> None:
    task = emomc.load_task("digits")
    (checkpoint,) = run.glob("elastic-*/trained.pt")
    trained = copy.deepcopy(task.module)
    trained.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    tasks = {"first": task, "second": replace(task, module=trained)}
    seen = set()
    for point in read_run(run).points:
        file = run / point.file
        part = file.name.partition("-")[0]
        again = emomc.compress(tasks[part], of_point(run, point.name), tmp_path / "again.emomc", method="magnitude")
        assert again.path.read_bytes() == file.read_bytes()
        seen.add(part)
    assert seen == {"first", "second"}


def test_losses_count_from_the_network_before_training(run: Path) -> None:
    check_measured(run)
    found = read_run(run)
    trained = found.summary["elastic"]
    assert (trained["steps"], trained["error_before"]) == (30, found.dense_selection_error)


def test_both_searches_have_half_of_the_budget_and_one_history(run: Path) -> None:
    history = read_run(run).history
    assert Counter(each.stage for each in history) == {"first": 7, "second": 6}
    assert [each.number for each in history] == list(range(1, 14))
    volumes = [each.hypervolume for each in history]
    assert volumes == sorted(volumes)


def test_of_both_fronts_what_no_other_beats_is_kept(run: Path) -> None:
    check_unbeaten(run)


def test_repeating_changes_nothing_and_an_interrupted_one_ends_alike(run: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    search_with_elastic_training(run, OPTIONS, workers=1)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before

    def interrupt(what: str, done: int, _: int) -> None:
        if what == "elastic training" and done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_with_elastic_training(tmp_path, OPTIONS, workers=1, progress=interrupt)
    assert not (tmp_path / "front.csv").exists()
    search_with_elastic_training(tmp_path, OPTIONS, workers=1)
    for name in ("front.csv", "history.csv", "summary.json"):
        assert (tmp_path / name).read_bytes() == before[name]


def test_a_larger_budget_goes_on_and_trains_for_the_new_front(tmp_path: Path) -> None:
    search_with_elastic_training(tmp_path, replace(OPTIONS, budget=4), workers=1)
    outcome = search_with_elastic_training(tmp_path, replace(OPTIONS, budget=16), workers=1)
    assert len(outcome.evaluations) == 16
    assert len(list(tmp_path.glob("elastic-*/trained.pt"))) == 2


def test_a_network_that_training_spoils_is_not_searched(tmp_path: Path) -> None:
    """Images that are noise spoil any network."""
    task, told = emomc.load_task("digits"), list[str]()
    assert task.training is not None
    shape = task.training.load().inputs.shape
    noise = emomc.Split(100 * torch.randn(shape, generator=torch.Generator().manual_seed(0)), torch.zeros(shape[0]))
    spoiled = replace(task, training=replace(task.training, load=lambda: noise))
    options = replace(OPTIONS, budget=6, max_loss=0.02)
    outcome = search_with_elastic_training(tmp_path, options, task=spoiled, workers=1, notice=told.append)
    assert "not searched" in told[0]
    assert {each.stage for each in outcome.evaluations} == {"first"}
    assert outcome.points


def test_what_cannot_be_done_is_said(run: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    for change, message in (
        ({"elastic": None}, "ElasticTraining"),
        ({"budget": 1}, "two networks at least"),
        ({"elastic": ElasticTraining()}, "exactly one"),
        ({"elastic": ElasticTraining(steps=3, epochs=1.0)}, "exactly one"),
        ({"objectives": ("error", "enrgy")}, "Did you mean 'energy'"),
    ):
        with pytest.raises(emomc.EmomcError, match=message):
            search_with_elastic_training(new, replace(OPTIONS, **change))
    assert not new.exists()
    with pytest.raises(emomc.EmomcError, match="give one of them"):
        replace(OPTIONS, recovery=Recovery(1, steps=3))
    with pytest.raises(emomc.EmomcError, match="search_with_elastic_training"):
        Session(tmp_path, OPTIONS)
    with pytest.raises(emomc.EmomcError, match="holds a run with elastic"):
        Session(run, replace(OPTIONS, elastic=None), workers=1)
    task = replace(emomc.load_task("digits"), training=None)
    with pytest.raises(emomc.EmomcError, match="no training images"):
        search_with_elastic_training(new, OPTIONS, task=task)
    hard = replace(OPTIONS, genes={"prune_ratio": (0.8,), "bit_width": (2,), "shared_values": (0,)}, max_loss=0.0)
    with pytest.raises(emomc.EmomcError, match="before training"):
        search_with_elastic_training(new, hard, workers=1)


def test_on_the_command_line(tmp_path: Path) -> None:
    search = ["search", "digits", "--workers", "1", "--method", "magnitude", "--gene", "prune_ratio=0.5,0.8"]
    search += ["--gene", "bit_width=8,4", "--gene", "shared_values=0", "--run", tmp_path / "run"]
    told = good(*search, "--budget", "8", "--elastic", "30steps")
    assert "on the front of 8 measured" in told
    assert "as reported" in good("verify", tmp_path / "run")
    assert "5epochs" in refused(*search, "--elastic", "4")
    assert "give one of them" in refused(*search, "--elastic", "30steps", "--recover", "30steps")
