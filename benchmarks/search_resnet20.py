"""ResNet-20 on CIFAR-10 with compensated compression: hypervolume against evaluations, all methods on one problem.

    python -m benchmarks.search_resnet20 --data FOLDER

So that 2,000 evaluations fit into half an hour of one core, a network is measured on 256 selection images, with one
strength of statistics correction on 64 images. All methods share one session, so that no network is measured twice.
Of thousands of networks measured on few images, the luckiest look best. So the front that a session would report of
each method is measured again on 1,000 validation images that no method has seen. So are all networks that emomc
measured with the first seed: they tell how well predictions, distances and the counts on 256 images themselves rank
networks.

    python -m benchmarks.search_resnet20 --full --methods emomc --seeds 0 1 2 3 4 --data FOLDER

measures as searches do where nobody is in a hurry: on all 2,000 selection images, with three strengths of correction on
256. It tells how much of what predictions miss is the noise of few images.

Killing it and repeating the command continues it. Results go to benchmarks/results/search_resnet20.json and
search_resnet20_full.json; methods that are not run again stay there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import emomc
from emomc.accuracy.predictor import rank_correlation
from emomc.benchmarks.curves import curve, in_order, known_curves, table
from emomc.benchmarks.environment import known, write_results
from emomc.benchmarks.methods import METHODS, Trace, spend
from emomc.search import SearchTask, front_of
from emomc.search.ledger import Readings

Doubles = NDArray[np.float64]

NAME = "search_resnet20"
TASK = "cifar10-resnet20"
IMAGES = 256
UNSEEN = 1000
LIMITS = (0.005, 0.01, 0.02)  # of the loss, within which a network is chosen
SETTINGS = emomc.Settings(strengths=(1.0,), calibration=64)
BUDGET = 100
SHOWN = (40, 100, 500, 1000, 2000)
LEARNT = 20  # networks after which predictions have learnt from measurements
LONG = 2000  # of the unseeded search that ours is compared with


def open_session(folder: Path, data: str | None, full: bool) -> emomc.Session:
    """The problem, and one store for all methods."""
    options = emomc.Options(TASK, {"data": data} if data else {}, dataflows=("X:Y",), method="obs")
    task = emomc.load_task(TASK, **options.task_options)
    few = {"validation": first(task.splits.validation, UNSEEN)}
    if not full:
        few["selection"] = first(task.splits.selection, IMAGES)
    task = replace(task, splits=replace(task.splits, **few))
    settings = emomc.Settings() if full else SETTINGS
    return emomc.Session(folder, options, task=task, settings=settings, workers=1)


def first(split: emomc.Split, count: int) -> emomc.Split:
    """The first images of a split."""
    return emomc.Split(split.stored[:count], split.targets[:count], split.normalisation)


def measured(session: emomc.Session, task: SearchTask, method: str, budget: int, seed: int) -> Trace:
    """What one method measures; what the store holds already is not measured again."""
    start, done = time.perf_counter(), 0

    def measure(genomes: NDArray[np.int64]) -> Readings:
        nonlocal done
        found = session.measure(genomes)
        before, done = done, done + len(genomes)
        if before // 50 != done // 50:
            print(f"  {method}, seed {seed}: {done} of {budget}, {time.perf_counter() - start:.0f} s", flush=True)
        return Readings(np.array([each.error for each in found]), np.array([each.distance for each in found]))

    return spend(method, task, measure, budget, seed)


def qualities(session: emomc.Session, dense_error: float) -> dict[str, Callable[[Doubles], float]]:
    """Ways to say how good objectives ``(n, 3)`` are; the worst of interest is the dense network in 32-bit floats.

    "plain" is the hypervolume that runs report. In it everything below a tenth of the dense network's costs is a
    tenth of the box. "ratios" counts costs by their logarithm, down to a hundredth, so that twice as small is as good
    anywhere.
    """
    most = dense_error + session.options.max_loss
    worst = np.array([most, session.reference["energy"], session.reference["size"]])

    def ratios(values: Doubles) -> float:
        costs = 1 + np.log(values[:, 1:] / worst[1:]) / np.log(100)
        loss = (values[:, :1] - dense_error) / session.options.max_loss
        return emomc.hypervolume(np.maximum(np.concatenate([loss, costs], axis=1), 0), np.ones(3))

    return {"plain": lambda values: emomc.hypervolume(values, worst), "ratios": ratios}


def on_unseen_images(session: emomc.Session, trace: Trace) -> dict[str, float | int]:
    """A method's front as a session reports it, and how good it is as measured and on validation images.

    "alone" are its networks that no other beats in measured error, without those that are believed to be as good.
    """
    errors = np.array([each.error for each in session.measure(trace.reported)])
    values, violations = session.problem.values(trace.reported, errors)
    alone = front_of(values, violations)
    losses = [each.difference for each in session.measure(trace.reported, "validation")]
    unseen = values.copy()
    unseen[:, 0] = np.maximum(losses, 0.0)
    found: dict[str, float | int] = {"networks": len(values), "networks alone": len(alone)}
    for name, quality in qualities(session, session.dense.error).items():
        found[f"{name}, as measured"] = quality(values)
    for name, quality in qualities(session, dense_error=0.0).items():
        found[f"{name}, on unseen images"] = quality(unseen)
        found[f"{name}, alone, on unseen images"] = quality(unseen[alone])
    return found


def picked(session: emomc.Session, trace: Trace) -> list[dict[str, float | str]]:
    """The network of least energy within each limit of the loss, by measured and by estimated error.

    Of what is chosen: the loss on validation images, and how many times less energy than the dense network it takes.
    """
    errors = np.array([each.error for each in session.measure(trace.reported)])
    losses = np.array([each.difference for each in session.measure(trace.reported, "validation")])
    energies = session.problem.values(trace.reported, errors)[0][:, 1]
    found: list[dict[str, float | str]] = []
    for limit in LIMITS:
        for by, told in (("measured", errors), ("estimated", trace.estimated)):
            within = np.flatnonzero(told - session.dense.error <= limit)
            if len(within):
                pick = within[energies[within].argmin()]
                ratio = float(session.reference["energy"] / energies[pick])
                found.append({"limit": limit, "by": by, "unseen_loss": float(losses[pick]), "energy_ratio": ratio})
    return found


def ranks(trace: Trace, dense_error: float) -> dict[str, float | int]:
    """Kendall's tau of errors predicted before they were measured: over all, and within 3 points of the dense error.

    The first predictions are made while nothing was measured; without them tau is a third figure.
    """
    near = trace.errors <= dense_error + 0.03
    return {
        "all": rank_correlation(trace.predicted, trace.errors),
        f"after {LEARNT}": rank_correlation(trace.predicted[LEARNT:], trace.errors[LEARNT:]),
        "near": rank_correlation(trace.predicted[near], trace.errors[near]),
        "networks_near": int(near.sum()),
    }


def ranks_on_unseen_images(session: emomc.Session, trace: Trace) -> dict[str, dict[str, float | int]]:
    """Kendall's tau with the error on validation images: of predictions, of measured distances and measured errors.

    The last is what a predictor of the errors on few images can reach at most by being right about the network.
    """
    found = session.measure(trace.genomes)
    unseen = np.array([each.difference for each in session.measure(trace.genomes, "validation")])
    told = {
        "predicted error": trace.predicted,
        "measured distance": np.array([each.distance for each in found]),
        "measured divergence": np.array([each.divergence for each in found]),
        "measured error": trace.errors,
    }
    return {name: ranks(replace(trace, errors=unseen, predicted=values), 0.0) for name, values in told.items()}


def main() -> None:
    """Run the methods over the seeds and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--run", type=Path, default=Path("runs") / NAME, help="folder of the measurements")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--full", action="store_true", help="measure on all selection images, with default settings")
    parser.add_argument("--long", type=int, default=LONG, help="evaluations of the unseeded NSGA-II")
    arguments = parser.parse_args()
    name = f"{NAME}_full" if arguments.full else NAME
    with open_session(arguments.run, arguments.data, arguments.full) as session:
        task = SearchTask(session.problem, session.sensitivities, session.dense.error, session.dense.samples)
        print(f"opened; dense error {session.dense.error}", flush=True)
        for method in arguments.methods:
            budget = arguments.long if method == "unseeded NSGA-II" else BUDGET
            traces = {seed: measured(session, task, method, budget, seed) for seed in arguments.seeds}
            store(name, session, method, budget, traces)


def store(name: str, session: emomc.Session, method: str, budget: int, traces: Mapping[int, Trace]) -> None:
    """Add a method to the results of this name."""
    before = known(name)
    results: dict[str, Any] = {
        "images": session.dense.samples,
        "dense_error": session.dense.error,
        "rank_correlation": before.get("rank_correlation", []),
        "unseen": before.get("unseen", {}),
        "picked": before.get("picked", []),
        "rank_correlation_unseen": before.get("rank_correlation_unseen", {}),
    }
    results["unseen"][method] = [{"seed": seed, **on_unseen_images(session, trace)} for seed, trace in traces.items()]
    for measure, quality in qualities(session, session.dense.error).items():
        found = [curve(session.problem, trace, seed, quality, budget) for seed, trace in traces.items()]
        curves = in_order({**known_curves(name, measure), method: found})
        results[measure] = {"table": table(curves, SHOWN), "curves": curves}
    if method == "emomc":
        results["rank_correlation"] = [{"seed": s, **ranks(t, session.dense.error)} for s, t in traces.items()]
        results["picked"] = [{"seed": s, **each} for s, t in traces.items() for each in picked(session, t)]
        first, trace = next(iter(traces.items()))
        results["rank_correlation_unseen"] = {"seed": first, **ranks_on_unseen_images(session, trace)}
    print(write_results(name, results), *results["ratios"]["table"], *results["unseen"][method], sep="\n", flush=True)


if __name__ == "__main__":
    main()
