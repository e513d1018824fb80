"""Throughput of the training loop beside a plain torch loop at the same settings.

Both train the same network on the same random images with the same batches, augmentation, optimizer and schedule, in
32-bit floats; the plain loop saves nothing, checks nothing and clips nothing, and it shifts and mirrors a whole batch
alike, which is cheaper than image by image. Beside them stands our loop in the precision that it chooses by itself,
which is bfloat16 where the processor multiplies it. They take turns, and what counts is processor time on one thread,
so that other work on the machine does not decide; each turn gives one ratio.

    python -m benchmarks.training

Results go to benchmarks/results/training.json.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from emomc import Augmentation, Budget, Recipe, Split, fit
from emomc.accuracy.splits import Normalisation
from emomc.benchmarks.environment import write_results
from emomc.problems.tasks.networks import mobilenet_v1, resnet, vgg16

RECIPE = Recipe(learning_rate=0.05, batch=64, precision="float32", augmentation=Augmentation(shift=4, flip=True))
NETWORKS = {"resnet20": lambda: resnet(20), "vgg16": vgg16, "mobilenetv1": mobilenet_v1}


def images(count: int) -> Split:
    """Random images with labels."""
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(0, 256, (count, 3, 32, 32), generator=generator).to(torch.uint8)
    return Split(stored, torch.arange(count) % 10, Normalisation((0.5,) * 3, (0.25,) * 3))


def plain(module: nn.Module, split: Split, steps: int) -> None:
    """What one would write for a single use."""
    module = copy.deepcopy(module).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.randperm(len(split))
    assert split.normalisation is not None
    for step in range(steps):
        rows = order[torch.arange(step * RECIPE.batch, (step + 1) * RECIPE.batch) % len(split)]
        padded = functional.pad(split.stored[rows], (4, 4, 4, 4))
        y, x = torch.randint(0, 9, (2,)).tolist()
        shifted = padded[:, :, y : y + 32, x : x + 32]
        mirrored = shifted.flip(3) if step % 2 else shifted
        inputs = split.normalisation(mirrored).contiguous(memory_format=torch.channels_last)
        loss = functional.cross_entropy(module(inputs), split.targets[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


def seconds(work: Callable[[], object]) -> float:
    """Processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compared(module: nn.Module, split: Split, turns: int, target: float) -> dict[str, Any]:
    """Both loops in turn, each for about so many seconds a turn."""
    steps = max(2, math.ceil(target / seconds(lambda: plain(module, split, 1))))
    own = {"emomc": RECIPE, "emomc, its own precision": replace(RECIPE, precision="auto")}
    spent: dict[str, list[float]] = {"plain": [], **{name: [] for name in own}}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns):
            loops: dict[str, Callable[[], object]] = {"plain": partial(plain, module, split, steps)}
            for name, recipe in own.items():
                path = Path(folder) / f"{recipe.precision}-{turn}.pt"
                loops[name] = partial(fit, module, split, recipe, Budget(steps=steps), path=path)
            for name in loops if turn % 2 else reversed(loops):
                spent[name].append(seconds(loops[name]))
    found: dict[str, Any] = {"steps_a_turn": steps}
    for name, each in spent.items():
        ratios = [beside / time_taken for time_taken, beside in zip(each, spent["plain"], strict=True)]
        speed = turns * steps * RECIPE.batch / sum(each)
        found[name] = {"images_per_second": speed, "ratio_median": statistics.median(ratios), "ratios": ratios}
    return found


def main() -> None:
    """Time both loops in turn and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=16.0, help="of each loop in a turn, about")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    split, found = images(512), {}
    for name in arguments.networks:
        found[name] = compared(NETWORKS[name](), split, arguments.turns, arguments.seconds)
        print(name, found[name], flush=True)
    print(write_results("training", {"batch": RECIPE.batch, "networks": found}))


if __name__ == "__main__":
    main()
