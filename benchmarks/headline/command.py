"""The command of a headline benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emomc.benchmarks.headline.levels import Levels
from emomc.benchmarks.headline.results import Results
from emomc.problems.tasks import load_task, network_fingerprint

LEVELS = (0.4, 0.55, 0.7, 0.85, 1.0)  # shares of the targets
LIMIT = 0.003  # of the loss, as published


def run(task_name: str, name: str, paper: Mapping[str, float], description: str | None) -> None:
    """Run the levels of a task and write results.

    Args:
        task_name: the network and its data.
        name: of the results.
        paper: published ratios, by target.
        description: what ``--help`` says.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--checkpoint", help="of the dense network; else the one of the task")
    parser.add_argument("--runs", type=Path, default=Path("runs") / name, help="folder of the run")
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS, help="shares of the targets")
    parser.add_argument("--minutes", type=float, default=0.0, help="of training for each level that is trained")
    parser.add_argument("--train", type=float, nargs="+", metavar="LEVEL", help="train these levels alone")
    parser.add_argument(
        "--polish", type=int, default=0, metavar="STEPS", help="of training the file of the last trained level on"
    )
    parser.add_argument("--further", type=Path, metavar="FILE", help="train this file of earlier results on instead")
    parser.add_argument("--seed", type=int, default=0, help="of training; what other seeds made stays")
    arguments = parser.parse_args()
    if (arguments.polish or arguments.further) and not arguments.minutes:
        parser.error("--polish and --further go on from a trained level: say with --minutes how long it is trained.")
    arguments.runs.mkdir(parents=True, exist_ok=True)
    given = {"data": arguments.data, "checkpoint": arguments.checkpoint}
    task = load_task(task_name, **{option: path for option, path in given.items() if path})
    levels = Levels(task, arguments.runs, arguments.minutes, arguments.polish, arguments.seed)
    results = Results(name, network_fingerprint(task.module), paper)
    if arguments.further:
        results.add([levels.test(levels.further(results.source(arguments.further), arguments.further))])
        return
    trained = (arguments.train or arguments.levels) if arguments.minutes else []
    wanted = {"one-shot": arguments.levels, "trained": trained, "polished": trained[-1:] if arguments.polish else []}
    for kind, shares in wanted.items():
        found = [levels.level(level, kind) for level in shares]
        results.add([levels.test(point) if i == tested(kind, found) else point for i, point in enumerate(found)])


def tested(kind: str, points: list[dict[str, Any]]) -> int:
    """Which level sees the test images, or -1.

    Of the levels made in one go the last that validation images cannot tell from the limit, by a standard error. Of the
    trained ones the last, whatever validation says: some dense checkpoints have memorised the validation images, so
    that a loss there is too large, and a rule that is fixed beforehand selects nothing.
    """
    if kind != "one-shot":
        return len(points) - 1
    within = [each["loss"] - each["standard_error"] <= LIMIT for each in (point["validation"] for point in points)]
    return max((i for i, good in enumerate(within) if good), default=-1)
