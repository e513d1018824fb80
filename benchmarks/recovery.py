"""What training brings back of what pruning lost, by what teaches and by what batch norms do.

Every layer of ResNet-20 is pruned to 80 % with error compensation, and the network is trained on with fixed zeros: as
`emomc.training.recovery_recipe` has it, and with one part after the other as it is usually done. Losses are those of
the whole network beside the dense one, on validation images, which the dense network knows by heart, and on the test
images. Choices were made on other images than those of the test split.

    python -m benchmarks.recovery --data FOLDER

Networks are kept in the run folder, and repeating the command goes on. Results go to benchmarks/results/recovery.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import emomc
from emomc.accuracy import Evaluator
from emomc.benchmarks.environment import write_results
from emomc.training import Recipe, recovery_recipe

TASK = "cifar10-resnet20"
PRUNED = {"*": {"prune_ratio": 0.8, "bit_width": 16, "shared_values": 0}}
STEPS = 600


class EstimatedStatistics(emomc.KeepZeros):
    """Fixed zeros, with batch norms that estimate their statistics anew, as networks are usually trained."""

    def before(self, module: nn.Module, fraction: float) -> None:
        """Nothing is kept."""


def recipes(task: emomc.Task) -> dict[str, tuple[Recipe, Callable[..., emomc.KeepZeros]]]:
    """Recipe and regime by name, each with one part more as recovery has it."""
    assert task.training is not None
    whole = recovery_recipe(task.training.recipe)
    taught = replace(whole, augmentation=task.training.recipe.augmentation)
    usual = replace(taught, distillation=0.5, temperature=2.0)
    return {
        "usual": (usual, EstimatedStatistics),
        "statistics kept": (usual, emomc.KeepZeros),
        "taught by the dense network alone, temperature 4": (taught, emomc.KeepZeros),
        "images put together of two": (whole, emomc.KeepZeros),
    }


def main() -> None:
    """Prune, train in every way, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs") / "recovery", help="folder of what is kept")
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    task = emomc.load_task(TASK, **({"data": arguments.data} if arguments.data else {}))
    assert task.training is not None
    file = arguments.run / "pruned.emomc"
    if not file.exists():
        emomc.compress(task, PRUNED, file, method="obs", split="calibration")
    pruned, images = emomc.load(file), task.training.load()
    evaluator = Evaluator(task.module, emomc.trace(task.module, task.example_input), task.splits, None, task.error)

    def losses(module: nn.Module) -> dict[str, dict[str, float]]:
        found = {split: evaluator.measure_module(module, split) for split in ("validation", "test")}
        return {
            split: {"loss": round(100 * each.difference, 2), "standard_error": round(100 * each.standard_error, 2)}
            for split, each in found.items()
        }

    results: dict[str, Any] = {"pruned": losses(pruned)}
    for number, (name, (recipe, regime)) in enumerate(recipes(task).items()):
        trained = emomc.fit(
            pruned,
            images,
            recipe,
            emomc.Budget(steps=STEPS),
            regime=regime(emomc.zero_masks(pruned)),
            teacher=task.module,
            path=arguments.run / f"{number}.pt",
        )
        results[name] = {**losses(trained.module), "recipe": repr(recipe)}
        print(name, results[name], flush=True)
    print(write_results("recovery", {"task": TASK, "pruned to": PRUNED, "steps": STEPS, "losses": results}))


if __name__ == "__main__":
    main()
