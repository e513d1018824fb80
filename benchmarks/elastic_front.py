"""Elastic training that follows the front of a search, beside training that treats all layers alike.

ResNet-20 is searched once without training. Then it is trained elastically twice: for the networks of that search's
front, layer by layer as they are there, and for five networks whose layers are all treated alike. Networks along the
front are then compressed from the original weights and from both trained ones, with the same error compensation, and
each trained network is searched again as the first was. Losses count against the original dense network.

    python -m benchmarks.elastic_front --run runs/elastic-front

Everything is kept in the run folder, and repeating the command goes on. The test split is looked at once, at the end of
each search and of the comparison. Results go to benchmarks/results/elastic_front.json and elastic_front.png; what other
commands with the same budget and steps have measured stays there.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import emomc
from emomc.benchmarks.elastic import TASK, Comparison, Points, gain, quality, trained
from emomc.benchmarks.environment import RESULTS, known, with_earlier, write_results
from emomc.benchmarks.resnet20_cifar10 import LIMITS, best_ratio, cell, print_progress
from emomc.compression import Setting
from emomc.training.elastic import FRONT

NAME = "elastic_front"
NETWORKS = 12  # along the front
BOXES = (2.0, 5.0, 20.0)  # points of loss at which a box ends
TICKS = (20, 30, 40, 60, 80, 100)  # kB
ORIGINAL, ALIKE, FOLLOWING = "original", "alike", "following"
LABELS = {ORIGINAL: "not trained", ALIKE: "trained for layers alike", FOLLOWING: "trained for the front"}


def search(
    folder: Path, budget: int, seed: int, options: Mapping[str, Any]
) -> tuple[emomc.Outcome, Mapping[str, float]]:
    """One search without training, resumed if its folder exists; energy and size of the network in 32-bit floats."""
    chosen = emomc.Options(task=TASK, task_options=options, dataflows=("X:Y",), budget=budget, seed=seed)
    with emomc.Session(folder, chosen, progress=print_progress) as session:
        return emomc.run_search(session), session.reference


def along(points: Sequence[emomc.run.FrontPoint]) -> dict[str, emomc.Configuration]:
    """Configurations that are evenly spread over a front, mildest first."""
    ordered = sorted(points, key=lambda point: point.estimated_error)
    chosen = np.linspace(0, len(ordered) - 1, min(NETWORKS, len(ordered))).round().astype(int)
    return {ordered[index].name: ordered[index].configuration for index in chosen}


def searched(outcome: emomc.Outcome, reference: Mapping[str, float], dense: float) -> list[dict[str, float]]:
    """The front of a search on the test split; losses in points above the original dense network's error."""
    return [
        {
            "loss": round(100 * (point.measurement.error - dense), 2),
            "bytes": point.objectives["size_bytes"],
            "energy_ratio": reference["energy"] / point.objectives["energy_joule"],
            "size_ratio": reference["size"] / point.objectives["size_bytes"],
        }
        for point in outcome.points
    ]


def compared(fronts: Mapping[str, Points]) -> dict[str, Any]:
    """Points of each front, and its hypervolume and gain in each box."""
    original = fronts[ORIGINAL]
    return {
        name: {
            "hypervolume": {f"{box:g}": round(quality(points, original, box), 4) for box in BOXES},
            "gain": {f"{box:g}": round(gain(points, original, box), 4) for box in BOXES},
            "points": points,
        }
        for name, points in fronts.items()
    }


def table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: energy and size ratio of the fronts that were searched, within limits of the loss."""
    rows = [f"| | {' | '.join(f'<= {100 * limit:g} points' for limit in LIMITS)} |", "|---" * (len(LIMITS) + 1) + "|"]
    for ratio in ("energy_ratio", "size_ratio"):
        for name, label in LABELS.items():
            fronts = [run["searched"][name]["points"] for run in runs]
            best = [np.array([best_ratio(front, 100 * limit, ratio) for front in fronts]) for limit in LIMITS]
            cells = " | ".join(map(cell, best))
            rows.append(f"| {ratio.split('_')[0]}, {label}, seeds: {len(fronts)} | {cells} |")
    return rows


def figure(found: Mapping[str, Any], path: Path) -> None:
    """Loss over bytes: networks of the first front, and the front of each search."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 4), layout="constrained")
    titles = {"kept": "the same networks of the first front", "searched": "the front of each search"}
    for axes, (part, title) in zip(canvas.subplots(1, 2, sharex=True, sharey=True), titles.items(), strict=True):
        for (name, label), marker in zip(LABELS.items(), "os^", strict=True):
            points = sorted(found[part][name]["points"], key=lambda each: each["bytes"])
            axes.plot([p["bytes"] / 1000 for p in points], [p["loss"] for p in points], f"{marker}-", ms=4, label=label)
        axes.set(xscale="log", xlabel="file, kB", title=title, ylim=(-0.5, 8))
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    canvas.axes[0].set_ylabel("error above the original network's, points")
    canvas.axes[0].legend()
    canvas.savefig(path, dpi=120)


def run(folder: Path, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Search, train, compress, search again, measure; what is in the folder is not done again."""
    data = {"data": arguments.data} if arguments.data else {}
    task = emomc.load_task(TASK, **data)
    first, reference = search(folder / "search-original", arguments.budget, seed, data)
    found = [point.configuration for point in first.points]
    fronts: dict[str, Sequence[Setting | emomc.Configuration]] = {ALIKE: FRONT, FOLLOWING: found}
    files, modules, outcomes = Comparison(folder, task, along(first.points)), {ORIGINAL: task.module}, {ORIGINAL: first}
    for name, front in fronts.items():
        modules[name] = trained(files, name, arguments.steps, arguments.threads, front, seed)
        weights = {"checkpoint": str((folder / f"{name}.pt").resolve())}
        outcomes[name], _ = search(folder / f"search-{name}", arguments.budget, seed, data | weights)
    for name, module in modules.items():
        files.compressed(name, module)
    return {
        "seed": seed,
        "networks": list(files.configurations),
        "training": {name: files.facts.known[f"training {name}"] for name in fronts},
        "dense_error": {name: files.dense(module, "test") for name, module in modules.items()},
        "kept": compared({name: files.points(name, "test") for name in modules}),
        "searched": compared({name: searched(each, reference, first.dense.error) for name, each in outcomes.items()}),
    }


def main() -> None:
    """Run the seeds and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs") / NAME, help="folder of what is kept")
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budget", type=int, default=100, help="networks that each search measures")
    parser.add_argument("--steps", type=int, default=2400, help="of each elastic training")
    parser.add_argument("--threads", type=int, default=2, help="of each elastic training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in arguments.seeds:
        found = run(arguments.run / f"seed-{seed}", seed, arguments)
        common = {"task": TASK, "budget": arguments.budget, "steps": arguments.steps}
        before = known(NAME)
        others = before["runs"] if {key: before.get(key) for key in common} == common else []
        runs = sorted(with_earlier([found], others, lambda each: each["seed"]), key=lambda each: each["seed"])
        figure(runs[0], RESULTS / f"{NAME}.png")
        print(write_results(NAME, {**common, "table": table(runs), "runs": runs}), flush=True)


if __name__ == "__main__":
    main()
