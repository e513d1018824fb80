"""One-shot compression, every layer alike and nothing retrained: output-keeping compression against magnitude.

Every layer is compressed alone, from the dense network, at the same setting; sizes are bytes of coded weights;
accuracy is measured on the test split, image by image against the dense network.

    python -m benchmarks.one_shot cifar10-resnet20 --data FOLDER

Results go to benchmarks/results/one_shot_TASK.csv, and what they were measured on beside it, as .json.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

from emomc.accuracy import Evaluator, Settings
from emomc.benchmarks.environment import RESULTS, write_results
from emomc.compression import METHODS, Bank, Calibration
from emomc.genome import BIT_WIDTH, PRUNE_RATIO, SHARED_VALUES, Gene, SearchSpace
from emomc.network import trace
from emomc.problems.tasks import Task, load_task

PRUNE_RATIOS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
BIT_WIDTHS = (16, 8, 4, 3, 2)
SHARED = (0, 16, 8, 4)
# (prune ratio, bit-width, shared values) of every layer
SETTINGS = (
    *((ratio, 16, 0) for ratio in PRUNE_RATIOS[1:]),
    *((0.0, bits, 0) for bits in BIT_WIDTHS[1:]),
    *((0.0, 8, shared) for shared in SHARED[1:]),
    *((ratio, 4, 0) for ratio in (0.5, 0.6, 0.7)),
    *((ratio, 8, 8) for ratio in (0.5, 0.7)),
)
CORRECTIONS = {"corrected": Settings().strengths, "uncorrected": (0.0,)}


def open_bank(task: Task, method: str, folder: Path, workers: int) -> tuple[Bank, float]:
    """The bank of one method, and the seconds that building it took."""
    network, state = trace(task.module, task.example_input), task.module.state_dict()
    genes = (
        Gene(PRUNE_RATIO, PRUNE_RATIOS),
        Gene(BIT_WIDTH, BIT_WIDTHS),
        Gene(SHARED_VALUES, SHARED if method != "published" else (0,)),
        Gene("dataflow", ("X:Y",), ordinal=False),
    )
    space = SearchSpace.full([layer.name for layer in network.layers], genes)
    weights = {layer.name: state[layer.weight].numpy() for layer in network.layers}
    calibration = Calibration(task.module, network, task.splits.calibration.inputs)
    start = time.perf_counter()
    bank = Bank.open(folder, weights, space, method, workers, calibration=calibration)
    return bank, time.perf_counter() - start


def measure(task: Task, method: str, bank: Bank, split: str) -> list[dict[str, Any]]:
    """One row per setting and correction."""
    network = trace(task.module, task.example_input)
    rows = []
    for name, strengths in CORRECTIONS.items():
        evaluator = Evaluator(task.module, network, task.splits, bank, task.error, Settings(strengths))
        for ratio, bits, shared in SETTINGS:
            if shared and method == "published":
                continue
            choices = (ratio, bits, shared)
            indices = [bank.space.genes[gene].index_of(choice) for gene, choice in enumerate(choices)]
            entry = (indices[0], indices[1], indices[2])
            variants = [bank.variant(layer, entry) for layer in range(len(network.layers))]
            found = evaluator.measure(variants, split)
            rows.append(
                {
                    "method": method,
                    "correction": name,
                    "prune_ratio": ratio,
                    "bit_width": bits,
                    "shared_values": shared,
                    "loss_points": round(100 * found.difference, 2),
                    "standard_error": round(100 * found.standard_error, 2),
                    "divergence": round(found.divergence, 4),
                    "strength": found.strength,
                    "images": found.samples,
                    "weight_bytes": int(bank.sizes[(slice(None), *entry)].sum()),
                }
            )
            print(*rows[-1].values(), flush=True)
    return rows


def main() -> None:
    """Measure all methods and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="cifar10-resnet20")
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--split", default="test")
    parser.add_argument("--bank", type=Path, default=Path("runs") / "one_shot", help="folder of compressed layers")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    task = load_task(arguments.task, **({"data": arguments.data} if arguments.data else {}))
    rows, seconds = [], {}
    for method in METHODS:
        bank, seconds[method] = open_bank(task, method, arguments.bank, arguments.workers)
        rows += measure(task, method, bank, arguments.split)
    RESULTS.mkdir(exist_ok=True)
    name = f"one_shot_{arguments.task}"
    with (RESULTS / f"{name}.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, rows[0])
        table.writeheader()
        table.writerows(rows)
    print(write_results(name, {"split": arguments.split, "seconds_building_bank": seconds}))


if __name__ == "__main__":
    main()
