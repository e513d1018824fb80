"""One-shot compression, every layer alike and nothing retrained: output-keeping compression against magnitude.

Every row is a file: written, decoded, and measured on the test split image by image against the dense network. Its
bytes are those of the file, header, batch norms and all.

    python -m benchmarks.one_shot cifar10-resnet20 --data FOLDER

Rows go to benchmarks/results/one_shot_TASK.csv as they are made, and what they were measured on beside it, as .json. A
row that is there is not measured again, so an interrupted benchmark goes on where it stopped; two processes may share
the work with --variant. --table prints what there is.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emomc
from emomc.benchmarks.environment import RESULTS, write_results

# (prune ratio, bit-width, shared values) of every layer
SPARSITIES = tuple((ratio, 16, 0) for ratio in (0.5, 0.6, 0.7, 0.8))
WIDTHS = tuple((0.0, bits, 0) for bits in (4, 3, 2))
PAIRS = ((0.6, 4, 0), (0.7, 4, 0), (0.8, 3, 0))
SETTINGS = (*SPARSITIES, *WIDTHS, *PAIRS)
# method, and whether statistics are corrected
VARIANTS = {
    "in-order": ("in-order", True),
    "obs": ("obs", True),
    "magnitude": ("magnitude", True),
    "uncorrected": ("magnitude", False),
}
KEY = ("method", "corrected", "prune_ratio", "bit_width", "shared_values")
FOUND = ("error", "loss_points", "standard_error", "divergence", "strength", "images")
COLUMNS = (*KEY, *FOUND, "weight_bytes", "file_bytes", "file", "seconds")


def file_name(task: str, variant: str, setting: tuple[float, int, int]) -> str:
    """Such as ``cifar10-resnet20_in-order_p60w4.emomc``."""
    ratio, bits, shared = setting
    return f"{task}_{variant}_p{round(100 * ratio)}w{bits}{f's{shared}' if shared else ''}.emomc"


def rows_of(path: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """The rows that are there, by key."""
    if not path.exists():
        return {}
    with path.open(newline="") as stream:
        return {tuple(row[name] for name in KEY): row for row in csv.DictReader(stream)}


def key_of(variant: str, setting: tuple[float, int, int]) -> tuple[str, ...]:
    """Key of a row, as text."""
    return tuple(map(str, (*VARIANTS[variant], *setting)))


def markdown(path: Path) -> str:
    """Losses in points, and kB of coded weights, by variant and setting."""
    rows = rows_of(path)
    named = [", ".join([f"{round(100 * p)} %"] * (p > 0) + [f"{b} bits"] * (b < 16)) for p, b, _ in SETTINGS]
    lines = [" | ".join(["loss in points", *named]), "|".join(["---"] * (len(named) + 1))]
    for variant in VARIANTS:
        found = [rows.get(key_of(variant, setting)) for setting in SETTINGS]
        if any(found):
            losses = [f"{row['loss_points']} ± {row['standard_error']}" if row else "" for row in found]
            sizes = [f"{int(row['weight_bytes']) / 1000:.1f}" if row else "" for row in found]
            lines += [" | ".join([variant, *losses]), " | ".join(["kB of weights", *sizes])]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def missing(path: Path, variants: list[str]) -> Iterator[tuple[str, tuple[float, int, int]]]:
    """What is still to be measured, looked up anew each time, as another process may be at work."""
    for variant in variants:
        for setting in SETTINGS:
            if key_of(variant, setting) not in rows_of(path):
                yield variant, setting


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a row, in one write."""
    new = not path.exists()
    with path.open("a", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if new:
            table.writeheader()
        table.writerow(row)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="cifar10-resnet20")
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="only this one; repeatable")
    parser.add_argument("--files", type=Path, default=Path("runs") / "one_shot", help="folder of the files")
    parser.add_argument("--table", action="store_true", help="print the rows that are there, and measure none")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no row after this time")
    arguments = parser.parse_args()
    table, start = RESULTS / f"one_shot_{arguments.task}.csv", time.monotonic()
    if arguments.table:
        print(markdown(table))
        return
    task = emomc.load_task(arguments.task, **({"data": arguments.data} if arguments.data else {}))
    RESULTS.mkdir(exist_ok=True)
    compressors = {
        True: emomc.Compressor(task),
        False: emomc.Compressor(task, emomc.Settings(strengths=(0.0,))),
    }
    for variant, setting in missing(table, arguments.variant or list(VARIANTS)):
        if time.monotonic() - start > 60 * arguments.minutes:
            sys.exit("The time is spent; repeat the command to go on.")
        method, corrected = VARIANTS[variant]
        ratio, bits, shared = setting
        wanted = {"*": {"prune_ratio": ratio, "bit_width": bits, "shared_values": shared}}
        path = arguments.files / file_name(arguments.task, variant, setting)
        began = time.monotonic()
        made = compressors[corrected].compress(wanted, path, method=method)
        found = made.measurement
        values: tuple[float, ...] = (
            found.error,
            round(100 * found.difference, 2),
            round(100 * found.standard_error, 2),
        )
        values += (round(found.divergence, 4), found.strength, found.samples)
        made_of = (made.weight_bytes, path.stat().st_size, path.name, round(time.monotonic() - began))
        row = dict(zip(COLUMNS, (method, corrected, *setting, *values, *made_of), strict=True))
        append(table, row)
        print(*row.values(), flush=True)
    rows = list(rows_of(table).values())
    dense = round(float(rows[-1]["error"]) - float(rows[-1]["loss_points"]) / 100, 4)
    facts = {"split": "test", "calibration_images": len(task.splits.calibration), "dense_error": dense}
    print(write_results(f"one_shot_{arguments.task}", facts))


if __name__ == "__main__":
    main()
