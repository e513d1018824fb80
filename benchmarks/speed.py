"""Speed and memory: what a search costs beside the forward passes of the networks it measures.

    python -m benchmarks.speed --data FOLDER

Ratios are taken within one run. Results go to benchmarks/results/speed.json.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import emomc
from emomc.benchmarks.environment import write_results

TASK = "cifar10-resnet20"


def median_seconds(function: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time of a call, after one warm-up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def import_seconds() -> float:
    """Median time of ``import emomc`` beyond that of an empty interpreter."""

    def start(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    return median_seconds(start("import emomc")) - median_seconds(start("pass"))


def population(session: emomc.Session) -> dict[str, float]:
    """Genomes per second on one core, energy and size of each."""
    genomes = session.space.random(200_000, np.random.default_rng(0)).astype(np.int8)
    seconds = median_seconds(lambda: session.costs.evaluate(genomes, ["energy", "size"]))
    return {"energy_and_size_genomes_per_second": len(genomes) / seconds}


def evaluation(session: emomc.Session) -> dict[str, float]:
    """Images per second of evaluations, correction included, over those of plain forward passes, on one thread."""
    import torch

    torch.set_num_threads(1)
    settings = emomc.Settings()
    images = session.task.splits.selection
    calibration = settings.calibration * len(settings.strengths)
    genomes = session.space.random(12, np.random.default_rng(1))
    module = session.task.module.to(memory_format=torch.channels_last)

    def forward() -> None:
        with torch.inference_mode():
            for inputs, _ in images.batches(settings.batch_size):
                module(inputs.contiguous(memory_format=torch.channels_last))

    session.measure(genomes[:2])
    ratios = []
    for genome in genomes[2:]:  # in turn, so that both see the same machine
        start = time.perf_counter()
        session.measure(genome[None])
        evaluated = (len(images) + calibration) / (time.perf_counter() - start)
        start = time.perf_counter()
        forward()
        ratios.append(evaluated / (len(images) / (time.perf_counter() - start)))
    return {"evaluation_over_forward_images_per_second": float(np.median(ratios))}


def demo() -> dict[str, float]:
    """Wall time and largest memory of the README's demo, the network trained anew and nothing cached."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(Path(sys.executable).with_name("emomc")), "search", "digits", "--run", f"{folder}/run"]
        environment = {**os.environ, "EMOMC_CACHE": f"{folder}/cache"}
        start = time.perf_counter()
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"seconds": seconds, "largest_process_bytes": float(peak)}


def main() -> None:
    """Measure and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"import_seconds": import_seconds()}
    print(results)
    with tempfile.TemporaryDirectory() as folder:
        chosen = emomc.Options(TASK, {"data": arguments.data} if arguments.data else {}, budget=1)
        with emomc.Session(Path(folder), chosen, workers=1) as session:
            results |= population(session) | evaluation(session)
    results["demo"] = demo()
    for name, value in results.items():
        print(f"{name}: {value}")
    print(write_results("speed", results))


if __name__ == "__main__":
    main()
