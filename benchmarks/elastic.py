"""What elastic training does to the networks that compression makes, beside training each of them on alone.

Ten configurations along the one-shot front of ResNet-20, each compressed with error compensation (method obs): of the
original network, and of those that elastic training has made of it, in full and in brief. The fronts are compared with
the original dense network: loss in points, and bytes of files. Their quality is the hypervolume in the box from no loss
to `WORST` points and from the smallest to the largest file of the original network, sizes by ratio; the gain is the
share of what the original front leaves of the box that training adds to it. For comparison `emomc.finetune` trains each
of the ten files on alone; the brief elastic training is set beside that.

    python -m benchmarks.elastic --run runs/elastic

Everything is kept in the run folder, and repeating the command goes on. Choices were made on the validation split; the
test split is looked at once, at the end. What is compared is processor time, as other work on the machine then does not
decide. Results go to benchmarks/results/elastic.json and elastic.png.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import emomc
from emomc.accuracy import Evaluator
from emomc.benchmarks.environment import RESULTS, write_results
from emomc.compression import Setting
from emomc.training.elastic import FRONT

TASK = "cifar10-resnet20"
WORST = 30.0  # points of loss at which the box ends
SETTINGS = {
    "p60w4": (0.6, 4, 0),
    "p70w4": (0.7, 4, 0),
    "p70w3": (0.7, 3, 0),
    "p80w4": (0.8, 4, 0),
    "p80w3": (0.8, 3, 0),
    "p80w2": (0.8, 2, 0),
    "p85w3": (0.85, 3, 0),
    "p90w4": (0.9, 4, 0),
    "p90w4s16": (0.9, 4, 16),
    "p90w3": (0.9, 3, 0),
}
CONFIGURATIONS = {
    key: {"*": {"prune_ratio": ratio, "bit_width": bits, "shared_values": shared}}
    for key, (ratio, bits, shared) in SETTINGS.items()
}
ELASTIC = ("elastic", "brief")
LABELS = {
    "original": "compressed in one go",
    "finetuned": "each trained on alone",
    "brief": "after brief elastic training",
    "elastic": "after elastic training",
}
FINETUNING = 60  # steps of each point
Points = Sequence[Mapping[str, float]]
"""``bytes`` and ``loss``, in points, of each configuration."""
Configurations = Mapping[str, emomc.Configuration | Mapping[str, Mapping[str, float]]]
"""What is compressed, by name, as ``emomc.compress`` takes it."""


class Facts:
    """What is known so far, in a file of the run folder."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def __call__(self, key: str, find: Callable[[], Any]) -> Any:
        """The fact of this name, found now if it is not there, with the processor time that took."""
        if key not in self.known:
            start = time.process_time()
            found = find()
            self.known[key] = {"found": found, "seconds": round(time.process_time() - start, 1)}
            self.save()
            print(key, self.known[key], flush=True)
        return self.known[key]["found"]

    def save(self) -> None:
        """Write the file."""
        self._path.write_text(json.dumps(self.known, indent=1))


class Comparison:
    """Networks, files and measurements of one run folder."""

    def __init__(self, folder: Path, task: emomc.Task, configurations: Configurations) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.task, self.facts = folder, task, Facts(folder / "facts.json")
        self.configurations = configurations
        self.network = emomc.trace(task.module, task.example_input)
        self._evaluator = Evaluator(task.module, self.network, task.splits, None, task.error)

    def compressed(self, name: str, module: torch.nn.Module) -> None:
        """Files of a network at all configurations."""
        compressor = emomc.Compressor(replace(self.task, module=module))
        for key, wanted in self.configurations.items():
            path = self._file(name, key)
            if not path.exists():
                compressor.compress(wanted, path, method="obs", split="calibration")

    def points(self, name: str, split: str) -> list[dict[str, float]]:
        """Bytes and losses of the files of a network, against the original dense one."""
        return [
            self.facts(f"{split} {name} {key}", lambda key=key: self._measured(self._file(name, key), split))  # type: ignore[misc]
            for key in self.configurations
        ]

    def dense(self, module: torch.nn.Module, split: str) -> float:
        """Error of an uncompressed network, percent."""
        return round(100 * self._evaluator.measure_module(module, split).error, 2)

    def finetune(self) -> None:
        """Each file of the original network trained on alone."""
        for key in self.configurations:
            self.facts(f"train {key}", lambda key=key: self._finetune(key))  # type: ignore[misc]

    def _finetune(self, key: str) -> str:
        source, out = self._file("original", key), self._file("finetuned", key)
        try:
            emomc.finetune(source, out, self.task, emomc.Budget(steps=FINETUNING))
        except emomc.EmomcError as error:  # it became worse: the point stays as it was
            out.parent.mkdir(exist_ok=True)
            out.write_bytes(source.read_bytes())
            return str(error).split(":", maxsplit=1)[0]
        return "better"

    def _measured(self, path: Path, split: str) -> dict[str, float]:
        found = self._evaluator.measure_module(emomc.load(path), split)
        return {
            "bytes": path.stat().st_size,
            "loss": round(100 * found.difference, 2),
            "standard_error": round(100 * found.standard_error, 2),
        }

    def _file(self, name: str, key: str) -> Path:
        return self.folder / name / f"{key}.emomc"


def quality(points: Points, original: Points, worst: float = WORST) -> float:
    """Hypervolume in the box of the original front that ends at a loss of ``worst`` points, 0 to 1."""
    sizes = [math.log(each["bytes"]) for each in original]
    low, high = min(sizes), max(sizes)
    values = [[(math.log(each["bytes"]) - low) / (high - low), each["loss"] / worst] for each in points]
    return emomc.hypervolume(np.array(values).clip(0.0), np.ones(2))


def gain(points: Points, original: Points, worst: float = WORST) -> float:
    """Share of what the original front leaves of the box that other points add to it."""
    before = quality(original, original, worst)
    return (quality(points, original, worst) - before) / (1 - before)


def trained(
    run: Comparison,
    name: str,
    steps: int,
    threads: int,
    front: Sequence[Setting | emomc.Configuration] = FRONT,
    seed: int = 0,
) -> torch.nn.Module:
    """A network trained elastically for a front; the time of every piece of an interrupted training counts."""
    task = run.task
    assert task.training is not None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    start, wall = time.process_time(), time.monotonic()
    nothing = {"steps": steps, "threads": threads, "processor_seconds": 0.0, "seconds": 0.0}
    spent = run.facts.known.setdefault(f"training {name}", nothing)

    def tell(_: str, done: int, total: int) -> None:
        if done % 6400 == 0 or done == total:
            print(f"{name}: {done} of {total} images, {time.process_time() - start:.0f} processor seconds", flush=True)

    try:
        found = emomc.fit(
            task.module,
            task.training.load(),
            replace(emomc.elastic_recipe(task.training.recipe), seed=seed),
            emomc.Budget(steps=steps),
            regime=emomc.Elastic(run.network, task.splits.calibration.inputs, front),
            teacher=task.module,
            path=run.folder / f"{name}.pt",
            tell=tell,
        )
    finally:
        torch.set_num_threads(before)
        spent["processor_seconds"] += round(time.process_time() - start, 1)
        spent["seconds"] += round(time.monotonic() - wall, 1)
        run.facts.save()
    return found.module


def fronts(run: Comparison, split: str) -> dict[str, Any]:
    """Points, quality and gain of each front."""
    original = run.points("original", split)
    found = {}
    for name in LABELS:
        points = run.points(name, split)
        found[name] = {
            "hypervolume": round(quality(points, original), 4),
            "gain": round(gain(points, original), 4),
            "points": dict(zip(run.configurations, points, strict=True)),
        }
    return found


def figure(found: Mapping[str, Any], path: Path) -> None:
    """Loss over bytes of each front."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = canvas.add_subplot()
    for name, label in LABELS.items():
        points = sorted(found[name]["points"].values(), key=lambda each: each["bytes"])
        sizes = [each["bytes"] / 1000 for each in points]
        losses, errors = [p["loss"] for p in points], [p["standard_error"] for p in points]
        axes.errorbar(sizes, losses, errors, fmt="o-", ms=4, label=label)
    axes.set(xscale="log", xlabel="file, kB", ylabel="error above the dense network's, points", ylim=(-1, None))
    ticks = [25, 30, 40, 50, 60, 80]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    canvas.savefig(path, dpi=120)


def store(run: Comparison, dense: Mapping[str, torch.nn.Module]) -> None:
    """Measure what is not measured, and write results and figure."""
    assert run.task.training is not None
    known, splits = run.facts.known, ("validation", "test")
    result: dict[str, Any] = {
        "task": TASK,
        "box": {"loss_points": WORST, "bytes": "from the smallest to the largest file of the original network"},
        "recipe": repr(emomc.elastic_recipe(run.task.training.recipe)),
        "dense_error": {split: {name: run.dense(module, split) for name, module in dense.items()} for split in splits},
        **{name: known[f"training {name}"] for name in ELASTIC},
        "finetuned": {
            "steps": FINETUNING,
            "processor_seconds": round(sum(known[f"train {key}"]["seconds"] for key in CONFIGURATIONS), 1),
            "outcome": {key: known[f"train {key}"]["found"] for key in CONFIGURATIONS},
        },
        **{split: fronts(run, split) for split in splits},
    }
    figure(result["test"], RESULTS / "elastic.png")
    print(write_results("elastic", result))


def main() -> None:
    """Train, compress, measure; what is in the run folder is not done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs") / "elastic", help="folder of what is kept")
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--steps", type=int, default=2400, help="of elastic training")
    parser.add_argument("--brief-steps", type=int, default=200, help="of the brief elastic training")
    parser.add_argument("--threads", type=int, default=2, help="of elastic training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = emomc.load_task(TASK, **({"data": arguments.data} if arguments.data else {}))
    run, dense = Comparison(arguments.run, task, CONFIGURATIONS), {"original": task.module}
    run.compressed("original", task.module)
    for name, steps in zip(ELASTIC, (arguments.steps, arguments.brief_steps), strict=True):
        dense[name] = trained(run, name, steps, arguments.threads)
        run.compressed(name, dense[name])
    run.finetune()
    for name in LABELS:
        reached = gain(run.points(name, "validation"), run.points("original", "validation"))
        print(f"{name}: gain {100 * reached:.1f} % on the validation split", flush=True)
    store(run, dense)


if __name__ == "__main__":
    main()
