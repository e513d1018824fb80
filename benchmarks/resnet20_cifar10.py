"""ResNet-20 on CIFAR-10: the published search against ours, at equal evaluations.

All spend the same number of evaluations on the same selection images and are measured on the 10,000 test images; the
energy model (X:Y dataflow) and the size (bytes of the file) are the same. The published variant prunes all layers
alike, rounds with one scale per layer, starts at random and does not correct statistics. Ours is run with layers
compressed by magnitude and rounding ("magnitude") and with error compensation from calibration images ("obs"). These
train nothing; "recovered" is "obs" with five pruned networks trained for three epochs each between the stages,
"elastic" is "obs" with one network trained for the front of the first half, in 2,400 steps of 64 images.

    python -m benchmarks.resnet20_cifar10 --data FOLDER

Killing it and repeating the command continues it. Results go to benchmarks/results/resnet20_cifar10.json and .png; what
other commands with the same budget have measured stays there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import emomc
from emomc.benchmarks.environment import RESULTS, known, with_earlier, write_results
from emomc.report import read_run

NAME = "resnet20_cifar10"
TASK = "cifar10-resnet20"
DATAFLOW = "X:Y"
VARIANTS = ("published", "magnitude", "obs", "recovered", "elastic")
RECOVERY = emomc.Recovery(networks=5, epochs=3)
ELASTIC = emomc.ElasticTraining(steps=2400)
LIMITS = (0.003, 0.005, 0.01, 0.02)
PUBLISHED_GENES = {
    "prune_ratio": tuple(round(0.01 * percent, 2) for percent in range(20, 81)),
    "bit_width": tuple(range(12, 1, -1)),
    "shared_values": (0,),
}


def options(variant: str, seed: int, budget: int, data: str | None) -> emomc.Options:
    """Options of one run."""
    common: dict[str, Any] = {
        "task": TASK,
        "task_options": {"data": data} if data else {},
        "dataflows": (DATAFLOW,),
        "seed": seed,
        "budget": budget,
    }
    if variant == "published":
        common |= {"strategy": "published", "genes": PUBLISHED_GENES}
    if variant == "recovered":
        common |= {"recovery": RECOVERY}
    if variant == "elastic":
        common |= {"elastic": ELASTIC}
    common |= {"method": "obs" if variant in ("recovered", "elastic") else variant}
    return emomc.Options(**common)


def run(variant: str, seed: int, budget: int, data: str | None, folder: Path) -> dict[str, Any]:
    """One search, resumed if its folder exists; its front and how long it took."""
    settings = emomc.Settings(strengths=(0.0,)) if variant == "published" else emomc.Settings()
    start = time.perf_counter()
    path, chosen = folder / f"{variant}-{seed}", options(variant, seed, budget, data)
    if chosen.recovery or chosen.elastic:
        trained = emomc.search_with_recovery if chosen.recovery else emomc.search_with_elastic_training
        outcome = trained(path, chosen, settings=settings, progress=print_progress, notice=print)
    else:
        with emomc.Session(path, chosen, settings=settings, progress=print_progress) as session:
            outcome = emomc.run_search(session)
    reference = read_run(path).summary["reference"]
    return {
        "variant": variant,
        "seed": seed,
        "dense_test_error": outcome.dense.error,
        "rank_correlation": outcome.rank_correlation,
        "hypervolume": outcome.evaluations[-1].hypervolume,
        "seconds": time.perf_counter() - start,
        "points": [
            {
                "loss": point.measurement.difference,
                "standard_error": point.measurement.standard_error,
                "energy_ratio": reference["energy"] / point.objectives["energy_joule"],
                "size_ratio": reference["size"] / point.objectives["size_bytes"],
                "energy_joule": point.objectives["energy_joule"],
                "size_bytes": point.objectives["size_bytes"],
            }
            for point in outcome.points
        ],
    }


def print_progress(what: str, done: int, total: int) -> None:
    """A line for each part of a run that has ended."""
    if what and done == total:
        print(f"  {what}: {done}", flush=True)


def best_ratio(points: Sequence[dict[str, float]], limit: float, ratio: str) -> float:
    """Largest ratio among the points that lose at most ``limit`` on the test split; NaN if there is none."""
    return max((point[ratio] for point in points if point["loss"] <= limit), default=float("nan"))


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown: energy and size ratio at each loss limit, mean and range over the seeds that ran."""
    head = " | ".join(f"<= {100 * limit:g} points" for limit in LIMITS)
    rows = [f"| | {head} |", "|---" * (len(LIMITS) + 1) + "|"]
    for ratio in ("energy_ratio", "size_ratio"):
        for variant in dict.fromkeys(each["variant"] for each in runs):
            fronts = [each["points"] for each in runs if each["variant"] == variant]
            cells = [cell(np.array([best_ratio(front, limit, ratio) for front in fronts])) for limit in LIMITS]
            rows.append(f"| {ratio.split('_')[0]}, {variant}, seeds: {len(fronts)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def cell(found: np.ndarray[Any, Any]) -> str:
    """Mean and range of what the seeds that found something have."""
    finite = found[np.isfinite(found)]
    if not len(finite):
        return "none"
    spread = f" ({finite.min():.1f}-{finite.max():.1f})" if len(finite) > 1 else ""
    share = f" in {len(finite)} of {len(found)} seeds" if len(finite) < len(found) else ""
    return f"{finite.mean():.1f}x{share}{spread}"


def with_others(runs: Sequence[dict[str, Any]], before: dict[str, Any], budget: int) -> list[dict[str, Any]]:
    """These runs and those of earlier results that they do not stand for, in the order of variants and seeds."""
    others = before["runs"] if before.get("budget") == budget else []
    found = with_earlier(runs, others, lambda each: (each["variant"], each["seed"]))
    return sorted(found, key=lambda each: (VARIANTS.index(each["variant"]), each["seed"]))


def figure(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Loss against energy and size ratio, of the first seed."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(10, 4), layout="constrained")
    for axes, ratio in zip(canvas.subplots(1, 2, sharey=True), ("energy_ratio", "size_ratio"), strict=True):
        for variant, marker in zip(VARIANTS, "so^vD", strict=True):
            points = next((each["points"] for each in runs if each["variant"] == variant), ())
            loss = [100 * point["loss"] for point in points]
            errors = [100 * point["standard_error"] for point in points]
            axes.errorbar([point[ratio] for point in points], loss, errors, fmt=marker, ms=4, lw=0.7, label=variant)
        axes.set(xscale="log", ylim=(-0.5, 10), xlabel=f"{ratio.split('_')[0]} ratio against 32-bit floating point")
        ticks = (4, 6, 8, 10, 15, 20, 30, 40, 60)
        axes.set_xticks(ticks, [f"{tick}x" for tick in ticks])
        axes.xaxis.set_minor_formatter("")
        axes.axhline(0, color="0.6", lw=0.8)
        axes.grid(alpha=0.3)
    canvas.axes[0].set_ylabel("measured loss on 10,000 test images (points)")
    canvas.axes[0].legend()
    canvas.savefig(path, dpi=120)


def main() -> None:
    """Run the variants over the seeds and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs") / NAME, help="folder of the runs")
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    runs = []
    for variant in arguments.variants:
        for seed in arguments.seeds:
            print(f"{variant}, seed {seed}", flush=True)
            runs.append(run(variant, seed, arguments.budget, arguments.data, arguments.runs))
    runs = with_others(runs, known(NAME), arguments.budget)
    path = write_results(NAME, {"budget": arguments.budget, "table": table(runs).splitlines(), "runs": runs})
    figure(runs, RESULTS / f"{NAME}.png")
    print(table(runs))
    print(path)


if __name__ == "__main__":
    main()
