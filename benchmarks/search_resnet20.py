"""ResNet-20 on CIFAR-10 with compensated compression: hypervolume against evaluations, all methods on one problem.

    python -m benchmarks.search_resnet20 --data FOLDER

So that 2,000 evaluations fit into half an hour of one core, a network is measured on 256 selection images, with one
strength of statistics correction on 64 images. All methods share one session, so that no network is measured twice.
Killing it and repeating the command continues it. Results go to benchmarks/results/search_resnet20.json.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import emomc
from emomc.benchmarks.methods import METHODS, Trace, spend
from emomc.search import SearchTask

NAME = "search_resnet20"
TASK = "cifar10-resnet20"
IMAGES = 256
SETTINGS = emomc.Settings(strengths=(1.0,), calibration=64)
BUDGET = 100
LONG = 2000  # of the unseeded search that ours is compared with


def open_session(folder: Path, data: str | None) -> emomc.Session:
    """The problem, and one store for all methods."""
    options = emomc.Options(TASK, {"data": data} if data else {}, dataflows=("X:Y",), method="obs")
    task = emomc.load_task(TASK, **options.task_options)
    selection = task.splits.selection
    few = emomc.Split(selection.stored[:IMAGES], selection.targets[:IMAGES], selection.normalisation)
    task = replace(task, splits=replace(task.splits, selection=few))
    return emomc.Session(folder, options, task=task, settings=SETTINGS, workers=1)


def measured(session: emomc.Session, method: str, budget: int, seed: int) -> Trace:
    """What one method measures; what the store holds already is not measured again."""
    task = SearchTask(session.problem, session.sensitivities, session.dense.error, session.dense.samples)
    start, done = time.perf_counter(), 0

    def measure(genomes: Any) -> Any:
        nonlocal done
        errors = session.errors(genomes)
        before, done = done, done + len(genomes)
        if before // 50 != done // 50:
            print(f"  {method}, seed {seed}: {done} of {budget}, {time.perf_counter() - start:.0f} s", flush=True)
        return errors

    return spend(method, task, measure, budget, seed)


def main() -> None:
    """Run the methods over the seeds and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--run", type=Path, default=Path("runs") / NAME, help="folder of the measurements")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--long-seeds", type=int, nargs="*", default=[0])
    arguments = parser.parse_args()
    with open_session(arguments.run, arguments.data) as session:
        print(f"opened; dense error {session.dense.error}", flush=True)
        for method in arguments.methods:
            for seed in arguments.seeds:
                long = method == "unseeded NSGA-II" and seed in arguments.long_seeds
                measured(session, method, LONG if long else BUDGET, seed)


if __name__ == "__main__":
    main()
