"""`emomc train` as a user meets it: real trainings of a few steps on digits."""

from __future__ import annotations

from pathlib import Path

import torch

from emomc.problems.tasks import load_task
from tests.test_cli import good, refused


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


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    out = tmp_path / "out.pt"
    assert "leave out --prune" in refused("train", "digits", "--elastic", "--prune", "0.5", "--out", out)
    assert "untrained weights" in refused("train", "digits", "--scratch", "--prune", "0.5", "--out", out)
    assert "exactly one" in refused("train", "digits", "--steps", "2", "--epochs", "1", "--out", out)
    good("train", "digits", "--steps", "1", "--out", out)
    assert "of another training" in refused("train", "digits", "--steps", "2", "--out", out)
    assert "no checkpoint" in refused(
        "train", "digits", "--steps", "2", "--teacher", tmp_path / "none.pt", "--out", out
    )
    assert not list(tmp_path.glob("*.part"))
