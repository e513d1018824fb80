"""The networks that `emomc train TASK --scratch` makes: how many test images they get wrong, and how long it takes.

    python -m benchmarks.recipes --tasks cifar10-resnet20 --epochs 75 --data FOLDER

Each task's own recipe runs for its own number of epochs, or for fewer: the schedule of the learning rate then runs over
the fewer. The test images are measured once, after training. The networks are kept in the run folder, and repeating the
command goes on with what was begun. Results go to benchmarks/results/recipes.json; tasks that are not run again stay
there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import emomc
from emomc.accuracy import Evaluator
from emomc.benchmarks.environment import known, write_results
from emomc.cli.progress import shown_progress

NAME = "recipes"


def trained(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train one task's network and measure it."""
    options = {"data": arguments.data} if arguments.data else {}
    seed, device = arguments.seed, arguments.device
    task = emomc.load_task(name, **options, untrained=True, weights_seed=seed)
    assert task.training is not None
    images, epochs = task.training.load(), arguments.epochs or task.training.epochs
    with shown_progress(1) as tell:
        found = emomc.fit(
            task.module,
            images,
            task.training.recipe,
            emomc.Budget(epochs=epochs),
            path=arguments.run / f"{name}-{epochs:g}-{seed}.pt",
            device=device,
            tell=tell,
            notice=print,
        )
    settings = emomc.Settings(device=device)
    network = emomc.trace(task.module, task.example_input)
    evaluator = Evaluator(task.module, network, task.splits, None, task.error, settings)
    errors = {}
    for split in ("validation", "test"):
        measured = evaluator.measure_module(found.module, split)
        errors[split] = {"percent": round(100 * measured.error, 2), "images": measured.samples}
    return {
        "epochs": epochs,
        "seed": seed,
        "images": len(images),
        "minutes": round(found.progress.seconds / 60, 1),
        "device": device,
        "threads": torch.get_num_threads() if device == "cpu" else None,
        "errors": errors,
        "recipe": repr(task.training.recipe),
    }


def main() -> None:
    """Train, measure, store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["cifar10-resnet20"], help="as in emomc tasks")
    parser.add_argument("--epochs", type=float, help="else those of the task's recipe")
    parser.add_argument("--seed", type=int, default=0, help="of the untrained weights")
    parser.add_argument("--device", default="cpu", help="cpu or a CUDA device")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--run", type=Path, default=Path("runs") / NAME, help="folder of the networks")
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    for name in arguments.tasks:
        row = trained(name, arguments)
        networks = {**known(NAME).get("networks", {}), name: row}
        print(name, row, write_results(NAME, {"networks": networks}), sep="\n", flush=True)


if __name__ == "__main__":
    main()
