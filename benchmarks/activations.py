"""Quantized activations and correction without batch norms, on ResNet-20, nothing retrained.

    python -m benchmarks.activations --data FOLDER

Three tables. Losses against the dense network with quantized activations and weights, on the test split. What
correction gains where every batch norm is folded into the convolution before it, on the test split. And how the range
of activations is chosen, on the validation split. Results go to benchmarks/results/activations.json, row by row.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from emomc.accuracy import Evaluator, Settings
from emomc.benchmarks.environment import RESULTS, write_results
from emomc.compression import Bank, Calibration
from emomc.compression.ranges import RANGES
from emomc.genome import BIT_WIDTH, PRUNE_RATIO, SHARED_VALUES, UNQUANTIZED, Gene, SearchSpace
from emomc.network import trace
from emomc.problems.tasks import Task, load_task

TASK = "cifar10-resnet20"
WIDTHS = (8, 4, 3)
ACTIVATIONS = (16, 8, 6, 4)


def folded(task: Task) -> Task:
    """The task with every batch norm folded into the convolution before it."""
    module = copy.deepcopy(task.module)
    for part in list(module.modules()):
        for number in (1, 2):
            if hasattr(part, f"bn{number}"):
                pair = getattr(part, f"conv{number}"), getattr(part, f"bn{number}")
                setattr(part, f"conv{number}", fuse_conv_bn_eval(*pair))
                setattr(part, f"bn{number}", nn.Identity())
    return replace(task, module=module)


class Alike:
    """Networks whose layers are all compressed alike, without pruning and sharing."""

    def __init__(self, task: Task, method: str, folder: Path) -> None:
        """Compress the layers of a task."""
        self._evaluators: dict[Settings, Evaluator] = {}
        self.task, self.network = task, trace(task.module, task.example_input)
        genes = (Gene(PRUNE_RATIO, (0.0,)), Gene(BIT_WIDTH, WIDTHS), Gene(SHARED_VALUES, (0,)))
        space = SearchSpace.full([layer.name for layer in self.network.layers], genes)
        state = task.module.state_dict()
        weights = {layer.name: state[layer.weight].detach().numpy() for layer in self.network.layers}
        calibration = Calibration(task.module, self.network, task.splits.calibration.inputs)
        self.bank = Bank.open(folder, weights, space, method, calibration=calibration)

    def measure(self, bits: int, activation_bits: int, split: str, settings: Settings) -> dict[str, Any]:
        """One row: the loss of a network in points, and what it was measured with."""
        if settings not in self._evaluators:
            given = (self.task.module, self.network, self.task.splits, self.bank, self.task.error, settings)
            self._evaluators[settings] = Evaluator(*given)
        layers = range(len(self.network.layers))
        variants = [self.bank.variant(layer, (0, WIDTHS.index(bits), 0)) for layer in layers]
        found = self._evaluators[settings].measure(variants, split, [activation_bits for _ in layers])
        return {
            "accuracy": round(1 - found.error, 4),
            "loss_points": round(100 * found.difference, 2),
            "standard_error": round(100 * found.standard_error, 2),
            "divergence": round(found.divergence, 4),
            "strength": found.strength,
        }


def rows(normed: Alike, plain: Alike) -> Iterator[tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Table, what tells a row from others, and what measures it."""
    facts: dict[str, Any]
    for bits in (8, 4):
        for width in ACTIVATIONS:
            facts = {"weight_bits": bits, "activation_bits": width}
            yield "activations", facts, partial(normed.measure, bits, width, "test", Settings())
    for bits in WIDTHS[1:]:
        for name, strengths in (("none", (0.0,)), ("chosen", Settings().strengths)):
            facts = {"network": "folded", "correction": name, "weight_bits": bits}
            yield "correction", facts, partial(plain.measure, bits, UNQUANTIZED, "test", Settings(strengths))
    for width in ACTIVATIONS[:0:-1]:
        for name in RANGES:
            facts = {"range": name, "weight_bits": 8, "activation_bits": width}
            settings = Settings(activation_range=name)
            yield "ranges", facts, partial(normed.measure, 8, width, "validation", settings)


def main() -> None:
    """Measure and write results, row by row; repeating the command goes on where it stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--bank", type=Path, default=Path("runs") / "activations", help="folder of compressed layers")
    parser.add_argument("--rows", type=int, default=1000, help="measure at most so many rows")
    arguments = parser.parse_args()
    task = load_task(TASK, **({"data": arguments.data} if arguments.data else {}))
    normed, plain = Alike(task, "obs", arguments.bank), Alike(folded(task), "obs", arguments.bank)
    path = RESULTS / "activations.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"task": TASK, "method": "obs"}
    results.pop("environment", None)
    for table, facts, measure in rows(normed, plain):
        known = results.setdefault(table, [])
        if any(facts.items() <= row.items() for row in known) or not arguments.rows:
            continue
        arguments.rows -= 1
        known.append(facts | measure())
        print(table, *known[-1].values(), flush=True)
        write_results("activations", results)


if __name__ == "__main__":
    main()
