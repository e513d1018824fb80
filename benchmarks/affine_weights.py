"""Symmetric against affine grids for weights, per tensor and per output channel, rounded to the nearest.

    python -m benchmarks.affine_weights --data FOLDER

An affine grid has 2**bits levels and a zero point, a symmetric one has 2**bits - 1 levels. Bytes are counted alike for
both: the order-0 entropy of a layer's levels, two bytes a scale and one byte a zero point. Statistics are corrected at
full strength; the divergence is that on the calibration split, the loss that on the validation split. Results go to
benchmarks/results/affine_weights.json.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emomc.accuracy import Evaluator, Settings
from emomc.accuracy.correction import collect_statistics, correct_statistics, movable_biases
from emomc.benchmarks.environment import write_results
from emomc.compression import quantize_affine, quantize_uniform
from emomc.network import trace
from emomc.problems.tasks import Task, load_task

TASKS = ("cifar10-resnet20", "cifar10-resnet56")
WIDTHS = (4, 3, 2)


def entropy_bytes(levels: NDArray[np.integer[Any]]) -> float:
    """Bytes of a layer's levels, coded one by one at their entropy."""
    _, counts = np.unique(levels, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def rounded(
    weight: NDArray[np.float32], bits: int, affine: bool, per_channel: bool
) -> tuple[NDArray[np.float32], float]:
    """A weight on its grid, and the bytes that it takes."""
    if affine:
        tensor = quantize_affine(weight, bits, per_channel)
        return tensor.dequantize(), entropy_bytes(tensor.levels) + 3 * len(tensor.scale)
    coded = quantize_uniform(weight, bits, per_channel)
    return coded.dequantize(), entropy_bytes(coded.integers) + 2 * len(coded.scale)


def measure(task: Task, evaluator: Evaluator, bits: int, affine: bool, per_channel: bool) -> dict[str, Any]:
    """One row: a network whose layers are all rounded alike."""
    network, module = trace(task.module, task.example_input), copy.deepcopy(task.module)
    inputs = task.splits.calibration.inputs[: Settings().calibration]
    dense, _ = collect_statistics(module, inputs, movable_biases(module, network))
    state, size = module.state_dict(), 0.0
    for layer in network.layers:
        weight, count = rounded(state[layer.weight].numpy(), bits, affine, per_channel)
        state[layer.weight].copy_(torch.from_numpy(weight))
        size += count
    correct_statistics(module, inputs, dense, 1.0)
    found = evaluator.measure_module(module, "validation")
    row = {
        "task": task.name,
        "bits": bits,
        "grid": "affine" if affine else "symmetric",
        "scope": "channel" if per_channel else "tensor",
        "bytes": round(size),
        "divergence": round(found.divergence, 4),
        "loss_points": round(100 * found.difference, 2),
        "standard_error": round(100 * found.standard_error, 2),
    }
    print(*row.values(), flush=True)
    return row


def main() -> None:
    """Measure and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    arguments = parser.parse_args()
    rows = []
    for name in TASKS:
        task = load_task(name, **({"data": arguments.data} if arguments.data else {}))
        task.module.requires_grad_(False)
        network = trace(task.module, task.example_input)
        evaluator = Evaluator(task.module, network, task.splits, None, task.error)
        scopes = (True, False) if name == TASKS[0] else (True,)
        rows += [
            measure(task, evaluator, bits, affine, scope)
            for bits in WIDTHS
            for scope in scopes
            for affine in (False, True)
        ]
    print(write_results("affine_weights", {"rows": rows}))


if __name__ == "__main__":
    main()
