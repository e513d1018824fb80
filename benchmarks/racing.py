"""What racing would save: measuring networks on a quarter of the images first, and on the rest only if it may matter.

    python -m benchmarks.racing --data FOLDER

A search measures networks on all selection images, and each of them again on the first quarter. A race would have left
a network there if its loss on the quarter, less some standard errors, were above the limit, or above the loss of a
network measured in an earlier round that costs no more in anything, and its distance above such a network's, too.
Statistics are corrected before, on calibration images, whatever comes after. Results: benchmarks/results/racing.json.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import emomc
from emomc.benchmarks.environment import write_results
from emomc.search import STRATEGIES, Ledger, SearchTask
from emomc.search.ledger import Readings, Request

SHARE = 4  # the first of so many parts is measured first
STEPS = (0.0, 1.0, 2.0)  # standard errors by which a network must be worse
IMAGES = {"digits": None, "cifar10-resnet20": 1000}  # selection images; None for all that the task has
BUDGET = 100
SETTINGS = emomc.Settings()


def race(task_name: str, data: str | None, seed: int) -> dict[str, Any]:
    """Search once, measure what was measured again on the quarter, and tell what races would have done."""
    options = emomc.Options(task_name, {"data": data} if data and task_name != "digits" else {}, budget=BUDGET)
    task = emomc.load_task(task_name, **options.task_options)
    full = _first(task, IMAGES[task_name] or len(task.splits.selection))
    few = _first(task, len(full.splits.selection) // SHARE)
    rounds: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        with emomc.Session(Path(folder) / "full", options, task=full, settings=SETTINGS, workers=1) as session:
            searched = SearchTask(session.problem, session.sensitivities, session.dense.error, session.dense.samples)

            def measure(request: Request) -> Readings:
                found = session.measure(request.genomes)
                rounds.extend([rounds[-1] + 1 if rounds else 0] * len(found))
                print(f"{task_name}, seed {seed}: {len(rounds)} of {BUDGET}", flush=True)
                return Readings(np.array([each.error for each in found]), np.array([each.distance for each in found]))

            ledger = Ledger(searched, BUDGET, measure)
            STRATEGIES["two-stage"](searched, ledger, seed)
            _, rows = np.unique(session.space.network_part(ledger.genomes), axis=0, return_index=True)
            genomes = ledger.genomes[np.sort(rows)]  # one of each network, in the order of measuring
            long = session.measure(genomes)
            values = session.problem.values(genomes, np.array([each.error for each in long]))[0]
            limit = session.options.max_loss
            worst = [session.dense.error + limit, session.reference["energy"], session.reference["size"]]
        with emomc.Session(Path(folder) / "few", options, task=few, settings=SETTINGS, workers=1) as session:
            short = session.measure(genomes)
    result: dict[str, Any] = {"seed": seed, "images": long[0].samples, "first": short[0].samples}
    passes = long[0].samples + SETTINGS.calibration * len(SETTINGS.strengths)
    on_front = np.zeros(len(genomes), dtype=bool)
    on_front[emomc.front_of(values)] = True
    for steps in STEPS:
        left = _left(long, short, values, np.array(rounds), limit, steps)
        kept = values[~left]
        result[f"{steps:g} standard errors"] = {
            "networks_left": int(left.sum()),
            "of_the_front": int((left & on_front).sum()),
            "passes_saved": float(left.sum() * (long[0].samples - short[0].samples) / (len(genomes) * passes)),
            "hypervolume_kept": emomc.hypervolume(kept, np.array(worst)) / emomc.hypervolume(values, np.array(worst)),
        }
    return result


def _first(task: emomc.Task, count: int) -> emomc.Task:
    selection = task.splits.selection
    part = emomc.Split(selection.stored[:count], selection.targets[:count], selection.normalisation)
    return replace(task, splits=replace(task.splits, selection=part))


def _left(
    long: list[emomc.Measurement],
    short: list[emomc.Measurement],
    values: NDArray[np.float64],
    rounds: NDArray[np.int64],
    limit: float,
    steps: float,
) -> NDArray[np.bool_]:
    """Networks that a race would have left after the first part, ``(n,)``; they are no standard for later ones."""
    left = np.zeros(len(long), dtype=bool)
    for row, own in enumerate(short):
        cheaper = (rounds < rounds[row]) & ~left & (values[:, 1:] <= values[row, 1:]).all(axis=1)
        best = min([limit, *(long[other].difference for other in np.flatnonzero(cheaper))])
        closest = min([long[other].distance for other in np.flatnonzero(cheaper)], default=np.inf)
        sure = own.difference - steps * own.standard_error
        left[row] = sure > limit or (sure > best and own.distance > closest)
    return left


def main() -> None:
    """Race on every task and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tasks", nargs="+", choices=IMAGES, default=list(IMAGES))
    arguments = parser.parse_args()
    results = {name: [race(name, arguments.data, seed) for seed in arguments.seeds] for name in arguments.tasks}
    print(results)
    print(write_results("racing", {"budget": BUDGET, "tasks": results}))


if __name__ == "__main__":
    main()
