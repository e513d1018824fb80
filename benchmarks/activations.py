"""Quantized activations and correction without batch norms, on ResNet-20, nothing retrained.

    python -m benchmarks.activations --data FOLDER

Three tables. Losses against the dense network with quantized activations and weights, on the test split. How the range
of activations is chosen, on the validation split. And what correction gains with batch norms and with every batch norm
folded into the convolution before it, on the test split. Results go to benchmarks/results/activations.json.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from emomc.accuracy import Evaluator, Settings
from emomc.benchmarks.environment import write_results
from emomc.compression import Bank, Calibration
from emomc.compression.ranges import RANGES
from emomc.genome import BIT_WIDTH, PRUNE_RATIO, SHARED_VALUES, Gene, SearchSpace
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
        self.task, self.network = task, trace(task.module, task.example_input)
        genes = (Gene(PRUNE_RATIO, (0.0,)), Gene(BIT_WIDTH, WIDTHS), Gene(SHARED_VALUES, (0,)))
        space = SearchSpace.full([layer.name for layer in self.network.layers], genes)
        state = task.module.state_dict()
        weights = {layer.name: state[layer.weight].detach().numpy() for layer in self.network.layers}
        calibration = Calibration(task.module, self.network, task.splits.calibration.inputs)
        self.bank = Bank.open(folder, weights, space, method, calibration=calibration)

    def measure(self, bits: int, activation_bits: int, split: str, settings: Settings) -> dict[str, Any]:
        """One row: the loss of a network in points, and what it was measured with."""
        evaluator = Evaluator(self.task.module, self.network, self.task.splits, self.bank, self.task.error, settings)
        layers = range(len(self.network.layers))
        variants = [self.bank.variant(layer, (0, WIDTHS.index(bits), 0)) for layer in layers]
        found = evaluator.measure(variants, split, [activation_bits for _ in layers])
        row = {
            "weight_bits": bits,
            "activation_bits": activation_bits,
            "accuracy": round(1 - found.error, 4),
            "loss_points": round(100 * found.difference, 2),
            "standard_error": round(100 * found.standard_error, 2),
            "divergence": round(found.divergence, 4),
            "strength": found.strength,
        }
        print(*row.values(), flush=True)
        return row


def main() -> None:
    """Measure and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--bank", type=Path, default=Path("runs") / "activations", help="folder of compressed layers")
    arguments = parser.parse_args()
    task = load_task(TASK, **({"data": arguments.data} if arguments.data else {}))
    normed, plain = Alike(task, "obs", arguments.bank), Alike(folded(task), "obs", arguments.bank)
    results: dict[str, Any] = {"task": TASK, "method": "obs"}
    results["activations"] = [
        normed.measure(bits, width, "test", Settings()) for bits in (8, 4) for width in ACTIVATIONS
    ]
    results["ranges"] = [
        {"range": name, **normed.measure(8, width, "validation", Settings(activation_range=name))}
        for width in ACTIVATIONS[1:]
        for name in RANGES
    ]
    results["correction"] = [
        {"network": name, "corrected": strengths != (0.0,), **alike.measure(bits, 16, "test", Settings(strengths))}
        for name, alike in (("batch norms", normed), ("folded", plain))
        for bits in WIDTHS[1:]
        for strengths in ((0.0,), Settings().strengths)
    ]
    print(write_results("activations", results))


if __name__ == "__main__":
    main()
