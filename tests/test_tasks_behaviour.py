"""What an error does: another one once it is edited, the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from emomc.problems.tasks import top1_error
from emomc.problems.tasks.behaviour import behaviour
from emomc.problems.tasks.locate import locate_function
from tests.conftest import ROOT

ERRORS = """
import functools

import torch

K = 2
NAMES = {"one", "two", "three", "four"}


def helper(value, factor=5):
    return factor * value if value in NAMES else [(lambda part: part + 7)(part) for part in value]


def plain(logits, targets):
    'Recursive, with a constant whose order differs between processes.'
    return helper(logits) + K if targets in {"five", "six", "seven", "eight"} else plain(targets, logits)


def closure(bound):
    return lambda logits, targets: (logits - targets).clamp_max(bound)


class Weighted:
    scale = 11

    def __init__(self, weights):
        self.weights, self.me = torch.tensor(weights), self

    @property
    def doubled(self):
        return 2 * self.weights

    def __call__(self, logits, targets):
        return self.scale * self.doubled * (logits - targets)

    @staticmethod
    def method(logits, targets):
        return logits - 19 * targets


decorated = torch.no_grad()(plain)
three, partial = closure(3), functools.update_wrapper(functools.partial(plain, targets=13), plain)
weighted, method, cached = Weighted([17.0]), Weighted.method, functools.lru_cache(helper)
"""
NAMED = ("plain", "decorated", "three", "partial", "weighted", "method", "cached")


def behaviours(folder: Path, source: str) -> dict[str, str]:
    path = folder / "errors.py"
    path.write_text(source)
    return {name: behaviour(locate_function(f"{path}:{name}")) for name in NAMED}


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("K = 2", "K = 3", {"plain", "decorated", "partial"}),
        ("factor=5", "factor=6", {"plain", "decorated", "partial", "cached"}),
        ("part + 7", "part + 8", {"plain", "decorated", "partial", "cached"}),
        ("part + 7", "part - 7", {"plain", "decorated", "partial", "cached"}),
        ('"eight"', '"nine"', {"plain", "decorated", "partial"}),
        ('"four"', '"fourth"', {"plain", "decorated", "partial", "cached"}),
        ("targets=13", "targets=14", {"partial"}),
        ("closure(3)", "closure(4)", {"three"}),
        ("clamp_max", "clamp_min", {"three"}),
        ("scale = 11", "scale = 12", {"weighted"}),
        ("2 * self", "3 * self", {"weighted"}),
        ("17.0", "18.0", {"weighted"}),
        ("19", "20", {"weighted", "method"}),
        ("K = 2", "# another line\nK = 2\nUNUSED = 1", set()),
    ],
)
def test_an_edited_error_is_another_one(tmp_path: Path, before: str, after: str, changed: set[str]) -> None:
    found, edited = behaviours(tmp_path, ERRORS), behaviours(tmp_path, ERRORS.replace(before, after))
    assert len(set(found.values())) == len(NAMED)
    assert {name for name in NAMED if found[name] != edited[name]} == changed


def test_an_error_is_the_same_in_every_process_and_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.test_tasks_behaviour import ERRORS, behaviours; "
        "print(behaviours(Path(sys.argv[1]), ERRORS))"
    )
    (tmp_path / "other").mkdir()
    command = [sys.executable, "-c", program, str(tmp_path / "other")]
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert done.stdout.strip() == str(behaviours(tmp_path, ERRORS))


def test_errors_of_the_package_and_of_libraries_are_known_by_name() -> None:
    assert behaviour(top1_error) == "emomc.problems.tasks.task.top1_error"
    named = [torch.sub, torch.Tensor.sub, nn.L1Loss(reduction="none"), nn.MSELoss(reduction="none"), partial(torch.sub)]
    assert len({behaviour(error) for error in named}) == len(named)
