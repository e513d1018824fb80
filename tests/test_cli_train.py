"""`emomc train` as a user meets it: real trainings of a few steps on digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import emomc
from emomc.problems.tasks import load_task
from emomc.report import read_run
from emomc.run import read_options
from tests.test_cli import good, refused

QUICK = ["search", "digits", "--workers", "1", "--points", "3", "--method", "magnitude"]
QUICK += ["--gene", "bit_width=8,4", "--gene", "shared_values=0"]


def zeros(path: Path) -> dict[str, float]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name: float((tensor == 0).float().mean()) for name, tensor in state.items() if tensor.dim() > 1}


def test_pruning_then_rounding_gives_checkpoints_that_the_task_takes(tmp_path: Path) -> None:
    pruned, rounded = tmp_path / "pruned.pt", tmp_path / "rounded.pt"
    told = good("train", "digits", "--prune", "0.6", "--steps", "4", "--batch", "16", "--out", pruned)
    assert "4 steps, 0.09 passes over 697 images" in told
    assert "budget spent" in told
    assert "validation images" in told
    before = zeros(pruned)
    assert max(before.values()) > 0.6
    told = good("train", "digits", "--checkpoint", pruned, "--bits", "3", "--steps", "2", "--out", rounded)
    assert zeros(rounded) == before
    task = load_task("digits", checkpoint=rounded)
    stored = torch.load(rounded, weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, stored[name]) for name, tensor in task.module.state_dict().items())
    again = good("train", "digits", "--checkpoint", pruned, "--bits", "3", "--steps", "2", "--out", rounded)
    assert again == told  # finished: read, not trained again


def test_training_from_scratch_and_elastic(tmp_path: Path) -> None:
    told = good("train", "digits", "--scratch", "--epochs", "0.2", "--out", tmp_path / "scratch.pt")
    assert "(task's weights: 9" in told  # nine of ten digits wrong
    told = good("train", "digits", "--elastic", "--steps", "2", "--out", tmp_path / "elastic.pt")
    assert "2 steps" in told


def test_a_point_of_a_run_is_recovered_and_searched_on(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "pruned.pt"
    search = QUICK
    good(*search, "--budget", "12", "--gene", "prune_ratio=0.5,0.8", "--run", run)
    point = read_run(run).points[-1]
    good("train", "digits", "--prune-as", run, point.name, "--steps", "4", "--out", out)
    found = zeros(out)
    for layer, genes in point.genes.items():
        assert found[f"{layer}.weight"] == pytest.approx(float(genes["prune_ratio"]), abs=0.06)
    good(*search, "--budget", "8", "--checkpoint", out, "--gene", "prune_ratio=0", "--run", tmp_path / "on")
    for each in read_run(tmp_path / "on").points:  # zeros of the recovered network stay through rounding and sharing
        state = emomc.load(tmp_path / "on" / each.file).state_dict()
        recovered = torch.load(out, weights_only=True)["state_dict"]
        assert all(not bool(state[name][recovered[name] == 0].any()) for name in found)


def test_elastic_weights_are_searched_from(tmp_path: Path) -> None:
    out = tmp_path / "elastic.pt"
    assert f"emomc search digits --checkpoint {out}" in good(
        "train", "digits", "--elastic", "--steps", "3", "--out", out
    )
    good(*QUICK, "--budget", "8", "--checkpoint", out, "--run", tmp_path)
    task = load_task("digits", checkpoint=out)
    assert read_options(tmp_path)["fingerprint"] == task.fingerprint != load_task("digits").fingerprint
    assert "as reported" in good("verify", tmp_path)


def test_elastic_training_follows_the_front_of_a_run(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "elastic.pt"
    good(*QUICK, "--budget", "12", "--run", run)
    assert "2 steps" in good("train", "digits", "--elastic", "--front", run, "--steps", "2", "--out", out)
    on = ("train", "digits", "--elastic", "--steps", "2", "--out", out)
    assert "of another training" in refused(*on)  # the same without the front
    assert "holds no run" in refused(*on, "--front", tmp_path)
    assert "give both" in refused("train", "digits", "--front", run, "--out", out)


def test_new_weights_follow_the_seed(tmp_path: Path) -> None:
    for seed in (0, 1):
        good(
            "train",
            "digits",
            "--scratch",
            "--steps",
            "1",
            "--rate",
            "1e-30",
            "--seed",
            seed,
            "--out",
            tmp_path / f"{seed}.pt",
        )
    first, second = (torch.load(tmp_path / f"{seed}.pt", weights_only=True)["state_dict"] for seed in (0, 1))
    assert not torch.equal(first["linear.weight"], second["linear.weight"])
    expected = load_task("digits", untrained=True, weights_seed=1).module.state_dict()
    assert torch.equal(second["linear.weight"], expected["linear.weight"])


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    assert "leave out --prune" in refused("train", "digits", "--elastic", "--prune", "0.5", "--out", out)
    both = ("--prune-as", tmp_path, "p00", "--out", out)
    assert "leave out --prune-as" in refused("train", "digits", "--scratch", *both)
    assert "one of --prune and --prune-as" in refused("train", "digits", "--prune", "0.5", *both)
    assert "untrained weights" in refused("train", "digits", "--scratch", "--prune", "0.5", "--out", out)
    assert "exactly one" in refused("train", "digits", "--steps", "2", "--epochs", "1", "--out", out)
    good("train", "digits", "--steps", "1", "--out", out)
    assert "of another training" in refused("train", "digits", "--steps", "2", "--out", out)
    assert "no checkpoint" in refused(
        "train", "digits", "--steps", "2", "--teacher", tmp_path / "none.pt", "--out", out
    )
    assert not list(tmp_path.glob("*.part"))
