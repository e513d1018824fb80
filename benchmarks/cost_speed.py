"""Speed of the cost models: tables of whole networks, populations of genomes, and another model beside ours.

    python -m benchmarks.cost_speed

ZigZag (``pip install emomc[zigzag]``) evaluates the same layer under the same mapping in the same run. Results go
to benchmarks/results/cost_speed.json.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import emomc
from emomc.benchmarks.environment import write_results

ACCELERATOR = "generic-45nm"
DATAFLOWS = ("X:Y", "CI:CO", "FX:FY", "X:FX")
RATIOS = tuple(round(0.05 * step, 2) for step in range(20))
WIDTHS = tuple(range(16, 1, -1))
METRICS = ("energy", "size", "traffic")
GENOMES = 200_000
CORES = 2


def seconds(function: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What a call returns, its wall time, and the processor time of all threads."""
    wall, processor = time.perf_counter(), time.process_time()
    value = function()
    return value, {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}


def network_tables(model: emomc.PhysicalModel, module: nn.Module) -> tuple[emomc.CostTables, dict[str, float]]:
    """Every table of a network, nothing known before; and the time that it takes on one core."""
    layers = emomc.trace(module.eval(), torch.zeros(1, 3, 32, 32)).layers
    axes = emomc.CostAxes(RATIOS, WIDTHS, [0], DATAFLOWS)
    tables, times = seconds(lambda: model.tables(layers, axes))
    genes = (
        emomc.Gene("prune_ratio", RATIOS),
        emomc.Gene("bit_width", WIDTHS),
        emomc.Gene("shared_values", (0,)),
        emomc.Gene("dataflow", DATAFLOWS, ordinal=False),
    )
    space = emomc.SearchSpace.full([layer.name for layer in layers], genes)
    counts = np.array([layer.weight_count for layer in layers])[:, None, None]
    size = counts * (1 - np.array(RATIOS)[:, None]) * np.array(WIDTHS) / 8
    return emomc.CostTables(space, layers, {**tables, "size": size[..., None, None]}, {}), times


def evaluate_many(costs: emomc.CostTables, seed: int) -> tuple[float, float]:
    """When the evaluation of `GENOMES` genomes began and ended."""
    genomes = costs.space.random(GENOMES, np.random.default_rng(seed)).astype(np.int8)
    costs.evaluate(genomes[:10], METRICS)
    start = time.time()
    costs.evaluate(genomes, METRICS)
    return start, time.time()


def population(costs: emomc.CostTables) -> dict[str, float]:
    """Genomes per second: of one process, and of two at work at the same time."""
    genomes = costs.space.random(GENOMES, np.random.default_rng(0)).astype(np.int8)
    costs.evaluate(genomes[:10], METRICS)
    runs = [seconds(lambda: costs.evaluate(genomes, METRICS))[1] for _ in range(5)]
    best = {name: GENOMES / min(run[name] for run in runs) for name in ("seconds", "processor_seconds")}
    with ProcessPoolExecutor(CORES) as pool:
        rounds = [list(pool.map(evaluate_many, [costs] * CORES, range(CORES))) for _ in range(3)]
    walls = [max(end for _, end in spans) - min(start for start, _ in spans) for spans in rounds]
    return {
        "genomes_per_second": best["seconds"],
        "genomes_per_processor_second": best["processor_seconds"],
        f"genomes_per_second_on_{CORES}_cores": CORES * GENOMES / min(walls),
    }


def beside_zigzag(model: emomc.PhysicalModel, module: nn.Module) -> list[dict[str, Any]]:
    """One row per dataflow of VGG-16's features.17: times and energies of both, on the same mapping.

    Both models see registers of a single word, a buffer that holds the whole layer, and what ZigZag has no number for
    costs nothing: interconnect, leakage, indices of zeros. Ours searches the mapping; ZigZag evaluates what was found.
    The first row's time includes the search for tiles, which the others share.
    """
    zigzag = import_module("zigzag.api")  # an optional extra

    base = model.accelerator
    device = replace(
        base,
        registers=replace(base.registers, weight=1, input=1, psum=1),
        buffer_bits=8 * 10**8,
        weight_widths=(8,),
        activation_widths=(8,),
        hop=0.0,
        leakage=0.0,
        decode=None,
        index_bits=0.0,
    )
    dense = emomc.PhysicalModel(device)
    network = emomc.trace(module.eval(), torch.zeros(1, 3, 32, 32))
    layer = network.layers[network.index["features.17"]]
    rows = []
    for flow in DATAFLOWS:
        choice: tuple[float, int, int, str] = (0.0, 8, 0, flow)
        items, ours = seconds(lambda choice=choice: dense.breakdown(layer, *choice, activation_bits=8))  # type: ignore[misc]
        (plan,) = dense.plan(layer, *choice, activation_bits=8)
        inputs = emomc.to_zigzag(layer, device, flow, plan.mapping)
        with tempfile.TemporaryDirectory() as folder:
            paths = inputs.write(Path(folder))
            files = [str(paths[name]) for name in ("workload", "accelerator", "mapping")]
            options = {"dump_folder": f"{folder}/out", "lpf_limit": 6, "loma_show_progress_bar": False}
            (energy, _, _), theirs = seconds(
                lambda files=files, options=options: zigzag.get_hardware_performance_zigzag(
                    *files, opt="energy", **options
                )  # type: ignore[misc]
            )
        joules = sum(items.values())
        rows.append(
            {
                "layer": layer.name,
                "dataflow": flow,
                "seconds": ours["seconds"],
                "zigzag_seconds": theirs["seconds"],
                "time_ratio": theirs["seconds"] / ours["seconds"],
                "joules": joules,
                "zigzag_joules": float(energy) * 1e-12,
                "energy_ratio": float(energy) * 1e-12 / joules,
            }
        )
    return rows


def main() -> None:
    """Measure and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if find_spec("zigzag") is None:
        parser.error("ZigZag's figures stand beside ours in the results: pip install emomc[zigzag]")
    model = emomc.load_accelerator(ACCELERATOR)
    assert isinstance(model, emomc.PhysicalModel)
    if hasattr(os, "sched_setaffinity"):
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
    results: dict[str, Any] = {"accelerator": ACCELERATOR, "choices": [len(RATIOS), len(WIDTHS), 1, len(DATAFLOWS)]}
    costs, results["vgg16_tables"] = network_tables(model, emomc.vgg16())
    _, results["resnet110_tables"] = network_tables(model, emomc.resnet(110))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    results["vgg16_population"] = population(costs)
    logging.disable(logging.CRITICAL)
    results["zigzag"] = beside_zigzag(model, emomc.vgg16())
    for name, value in results.items():
        print(f"{name}: {value}")
    print(write_results("cost_speed", results))


if __name__ == "__main__":
    main()
