"""The bank: how long compressing every layer in every way takes, what it needs, and what stitching from it costs.

ResNet-20 over 10 prune ratios, 7 bit-widths and 6 codebook sizes, with error compensation, two processes:

    python -m benchmarks.bank --data FOLDER

Untrained torchvision networks at ImageNet's resolution, the whole path from tracing to decoding a file, random images:

    python -m benchmarks.bank --network mobilenet_v2

Results go to benchmarks/results/bank.json, one entry per network.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

import emomc
from emomc.accuracy import Evaluator, Settings, Split, Splits
from emomc.benchmarks.environment import RESULTS, environment
from emomc.coding import decode_tensor, read_network
from emomc.compression import Bank, Calibration, load_network
from emomc.genome import BIT_WIDTH, PRUNE_RATIO, SHARED_VALUES, Gene, SearchSpace
from emomc.problems.tasks.task import top1_error

RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
WIDTHS = (8, 7, 6, 5, 4, 3, 2)
SHARED = (0, 64, 32, 16, 8, 4)
SMALL = ((0.0, 0.5), (8, 4), (0, 16))  # what the ImageNet-sized networks are compressed at
NETWORKS = ("mobilenet_v2", "resnet18", "googlenet", "efficientnet_b0", "squeezenet1_1")
IMAGES = 32  # random images of ImageNet's size


class Watch:
    """Memory and processor time of this process and its children during a block, sampled twice a second.

    Attributes:
        peak_bytes: largest memory held by all of them together; pages that processes share count once.
        processor_seconds: of all of them.
    """

    def __init__(self) -> None:
        self.peak_bytes, self.processor_seconds = 0, 0.0

    def __enter__(self) -> Watch:
        self._stop, self._before = threading.Event(), self._sample()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            self._sample()

    def _sample(self) -> float:
        resident, seconds = usage(os.getpid())
        self.peak_bytes = max(self.peak_bytes, resident)
        self.processor_seconds = max(self.processor_seconds, seconds - getattr(self, "_before", seconds))
        return seconds


def usage(pid: int) -> tuple[int, float]:
    """Proportional resident bytes and processor seconds of a process and of all that it started, as Linux tells."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        ticks = sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0, 0.0  # it has just ended
    below = [usage(int(child)) for child in children]
    held = next((1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    resident = held + sum(each[0] for each in below)
    return resident, ticks / os.sysconf("SC_CLK_TCK") + sum(each[1] for each in below)


def space_of(network: emomc.Network, choices: tuple[tuple[Any, ...], ...]) -> SearchSpace:
    """All layers at these prune ratios, bit-widths and codebook sizes."""
    genes = [Gene(name, values) for name, values in zip((PRUNE_RATIO, BIT_WIDTH, SHARED_VALUES), choices, strict=True)]
    return SearchSpace.full([layer.name for layer in network.layers], genes)


def build(
    module: nn.Module, calibration: torch.Tensor, choices: tuple[tuple[Any, ...], ...], folder: Path, workers: int
) -> tuple[emomc.Network, Bank, dict[str, float]]:
    """The bank of a network, with its time and memory."""
    with Watch() as watch:
        start = time.perf_counter()
        network = emomc.trace(module, calibration[:1])
        state = module.state_dict()
        weights = {layer.name: state[layer.weight].numpy() for layer in network.layers}
        inputs = Calibration(module, network, calibration)
        bank = Bank.open(folder, weights, space_of(network, choices), "obs", workers, calibration=inputs)
        seconds = time.perf_counter() - start
    kinds = len(SearchSpace.full(("layer",), bank.space.genes).every())
    variants = kinds * len(network.layers)
    used = {"processor_seconds": watch.processor_seconds, "peak_bytes": watch.peak_bytes}
    return network, bank, {"variants": variants, "seconds": seconds, **used}


def stitching(module: nn.Module, network: emomc.Network, splits: Splits, bank: Bank, count: int) -> dict[str, float]:
    """Seconds that one evaluation takes, and the part of it in which weights are read, decoded and put in place."""
    torch.set_num_threads(1)
    evaluator = Evaluator(module, network, splits, bank, top1_error, Settings())
    rows = bank.variants_of(bank.space.random(count + 1, np.random.default_rng(0)))
    evaluator.measure(rows[0].tolist(), "selection")
    targets = [module.state_dict()[layer.weight].clone() for layer in network.layers]
    whole, parts = [], []
    for row in rows[1:].tolist():
        start = time.perf_counter()
        evaluator.measure(row, "selection")
        whole.append(time.perf_counter() - start)
        start = time.perf_counter()
        for number, (layer, variant) in enumerate(zip(network.layers, row, strict=True)):
            weight = decode_tensor(bank.blob(number, variant), layer.weight_shape).dequantize()
            targets[number].copy_(torch.from_numpy(weight))
        parts.append(time.perf_counter() - start)
    shares = np.array(parts) / np.array(whole)
    return {"evaluation_seconds": float(np.median(whole)), "stitching_share": float(np.median(shares))}


def resnet20(data: str | None, workers: int) -> dict[str, Any]:
    """The bank of ResNet-20 in every way, and what stitching from it costs."""
    given: dict[str, Any] = {"data": data} if data else {}
    task = emomc.load_task("cifar10-resnet20", **given)
    choices = (RATIOS, WIDTHS, SHARED)
    with tempfile.TemporaryDirectory() as folder:
        calibration = task.splits.calibration.inputs
        network, bank, found = build(task.module, calibration, choices, Path(folder), workers)
        kilobytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) // 1000
        stitched = stitching(task.module, network, task.splits, bank, 10)
    return {**found, "calibration_images": len(calibration), "kilobytes_on_disk": kilobytes, **stitched}


def whole_path(name: str, workers: int) -> dict[str, Any]:
    """Trace, compress, stitch, measure, write, decode and measure again: an untrained network, random images."""
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    module = getattr(torchvision.models, name)(weights=None, **options).eval()
    images = torch.randn(4 * IMAGES, 3, 224, 224)
    parts = (Split(part, torch.zeros(IMAGES, dtype=torch.long)) for part in torch.split(images, IMAGES))
    splits = Splits(*parts)
    with tempfile.TemporaryDirectory() as folder, Watch() as watch:
        network, bank, found = build(module, splits.calibration.inputs, SMALL, Path(folder) / "bank", workers)
        settings = Settings(calibration=IMAGES, batch_size=16)
        evaluator = Evaluator(module, network, splits, bank, top1_error, settings)
        row = bank.variants_of(bank.space.random(1, np.random.default_rng(0)))[0].tolist()
        start = time.perf_counter()
        stitched = evaluator.measure(row, "test")
        seconds = time.perf_counter() - start
        path = Path(folder) / "network.emomc"
        header = {"input_shape": [1, 3, 224, 224]}
        decoded = evaluator.finish(row, path, header, "test")
        assert (decoded.error, decoded.loss) == (stitched.error, stitched.loss), "the file is not what was measured"
        load_network(read_network(path), lambda: getattr(torchvision.models, name)(weights=None, **options))
        size = path.stat().st_size
    path_peak = {"evaluation_seconds": seconds, "file_bytes": size, "float_bytes": 4 * network.weight_count}
    return {**found, **path_peak, "peak_bytes": watch.peak_bytes}


def main() -> None:
    """Measure one network and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=("resnet20", *NETWORKS), default="resnet20")
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.network == "resnet20":
        found = resnet20(arguments.data, arguments.workers)
    else:
        found = whole_path(arguments.network, arguments.workers)
    for name, value in found.items():
        print(f"{name}: {value}")
    path = RESULTS / "bank.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results[arguments.network] = {"environment": environment(), "workers": arguments.workers, **found}
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
