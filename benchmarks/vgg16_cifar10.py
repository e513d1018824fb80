"""VGG-16 on CIFAR-10, from a trained checkpoint to a table: pruned and rounded in one go, then trained for minutes.

Every layer is pruned along one path with compensation of its output error, on training images; the ratios are those
that together lose least while all four dataflows of the published energy model, and the published size conventions,
save a given share of the targets: a level. What remains is rounded with compensation. With ``--minutes`` the pruned
network is also trained, with fixed zeros and rounded weights, taught by the dense network, each level going on from the
one before. Every level is written to a file, decoded and measured on validation images; the largest level within the
limit there, of each kind, if there is any, is measured on the 10,000 test images, once.

    python -m benchmarks.vgg16_cifar10 --data FOLDER
    python -m benchmarks.vgg16_cifar10 --data FOLDER --minutes 12

Killing it and repeating the command continues it. Results go to benchmarks/results/vgg16_cifar10.json and .png.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emomc import coding
from emomc.accuracy import Evaluator
from emomc.accuracy.divergence import divergence
from emomc.benchmarks.environment import RESULTS, write_results
from emomc.coding.conventions import CONVENTIONS
from emomc.coding.tensor import CodedTensor
from emomc.compression import collect_grams
from emomc.compression.glue import make_storable
from emomc.compression.networkfile import load_network, save_network
from emomc.compression.obs import OutputError, quantize_obs
from emomc.compression.quantization import largest_level
from emomc.compression.whole import choose_ratios, prune_path
from emomc.files import atomic_write
from emomc.hardware import CostAxes, accelerators, load_accelerator
from emomc.network import Layer, Network, trace
from emomc.problems.tasks import Task, load_task
from emomc.problems.tasks.networks import vgg16
from emomc.training import Augmentation, Budget, Recipe, RoundWeights, fit
from emomc.training.fakequant import round_to_grid

NAME = "vgg16_cifar10"
# How many times less than the dense network in 32-bit floats.
TARGETS = {"X:Y": 45.0, "CI:CO": 22.0, "FX:FY": 30.0, "X:FX": 25.0}
SIZES = {"emomc-normal": 10.0, "csr with fillers": 30.0, "emomc-coo": 10.0, "file": 50.0}
PAPER = {
    "X:Y": 14.0,
    "CI:CO": 12.2,
    "FX:FY": 10.4,
    "X:FX": 8.9,
    "emomc-normal": 6.1,
    "emomc-csr": 7.4,
    "emomc-coo": 2.4,
}
LEVELS = (0.4, 0.55, 0.7, 0.85, 1.0)  # shares of the targets
LIMIT = 0.003  # of the loss, as published
CALIBRATION, MORE = 512, 2048  # training images for Gram matrices
PROBING = 128  # calibration images for sensitivities
PATH = (0.5, 0.7, 0.8, 0.9, 0.95)  # prune ratios of every layer
RATIOS = np.array([0.0, *PATH])
GAP = 8  # what a 3-bit index reaches


def bit_width(index: int, count: int, weights: int) -> int:
    """Bits of a layer: 8 for the first and the last, which are small; 4 below a million weights, else 3."""
    return 8 if index in (0, count - 1) else 4 if weights < 1_000_000 else 3


def grams(task: Task, network: Network, folder: Path) -> dict[str, Any]:
    """Gram matrices of every layer's inputs, read from the folder when they are there.

    Layers with small maps see few input patches an image, so that they get more images.
    """
    files = {layer.name: folder / f"gram-{layer.name}.npy" for layer in network.layers}
    missing = [layer for layer in network.layers if not files[layer.name].exists()]
    if missing:
        assert task.training is not None
        images = task.training.load()
        module = copy.deepcopy(task.module).to(memory_format=torch.channels_last)
        for count, layers in ((CALIBRATION, missing), (MORE, [layer for layer in missing if small(layer)])):
            print(f"Gram matrices of {len(layers)} layers from {count} images", flush=True)
            inputs, _ = next(images.batches(count))
            inputs = inputs.contiguous(memory_format=torch.channels_last)
            for name, gram in collect_grams(module, replace(network, layers=tuple(layers)), inputs).items():
                np.save(files[name], gram)
    return {name: np.load(file, mmap_mode="r") for name, file in files.items()}


def small(layer: Layer) -> bool:
    """Whether a layer sees fewer patches than it has inputs."""
    call = layer.calls[0]
    return call.OX * call.OY * CALIBRATION < layer.weight_count // layer.weight_shape[0]


def paths(task: Task, network: Network, folder: Path) -> dict[str, Any]:
    """Every layer at every ratio: arrays ``errors`` and ``w0``, ``w1``, ... by layer."""
    known, state = grams(task, network, folder), task.module.state_dict()
    for done, layer in enumerate(network.layers, start=1):
        file = folder / f"path-{layer.name}.npz"
        if not file.exists():
            path = prune_path(state[layer.weight].contiguous().numpy(), np.array(known[layer.name]), PATH)
            with atomic_write(file) as stream:
                weights: dict[str, Any] = {f"w{i}": weight.astype(np.float16) for i, weight in enumerate(path.weights)}
                np.savez(stream, **weights, errors=path.errors)
            print(f"pruned {layer.name}: {done} of {len(network.layers)}", flush=True)
    return {layer.name: np.load(folder / f"path-{layer.name}.npz") for layer in network.layers}


def sensitivities(task: Task, network: Network, folder: Path, pruned: Mapping[str, Any]) -> NDArray[np.float64]:
    """Divergence that each layer causes alone at every ratio, ``(L, P)``."""
    file = folder / "probes.json"
    if not file.exists():
        file.write_text(json.dumps(_probe(task, network, pruned)))
    scale = json.loads(file.read_text())
    return np.array([[0.0, *(scale[layer.name] * pruned[layer.name]["errors"])] for layer in network.layers])


@torch.no_grad()
def _probe(task: Task, network: Network, pruned: Mapping[str, Any]) -> dict[str, float]:
    """Divergence per relative output error, layer by layer, at the ratio whose error is nearest to 5 %."""
    module = copy.deepcopy(task.module).to(memory_format=torch.channels_last)
    inputs, _ = next(task.splits.calibration.batches(PROBING))
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    dense, state, found = module(inputs), module.state_dict(), {}
    for layer in network.layers:
        errors = pruned[layer.name]["errors"]
        at = int(np.abs(np.log(errors) - math.log(0.05)).argmin())
        before = state[layer.weight].clone()
        state[layer.weight].copy_(torch.from_numpy(pruned[layer.name][f"w{at}"].astype(np.float32)))
        found[layer.name] = divergence(dense, module(inputs), True) / float(errors[at])
        state[layer.weight].copy_(before)
        print(f"probed {layer.name}: {found[layer.name]:.3g} nats per relative error", flush=True)
    return found


class Costs:
    """Energies and sizes of networks that are given as a prune ratio and a bit-width per layer."""

    def __init__(self, task: Task, network: Network) -> None:
        self.network, self.model = network, load_accelerator("published")
        self.bits = [bit_width(i, len(network.layers), layer.weight_count) for i, layer in enumerate(network.layers)]
        self.float_bytes = 4.0 * sum(t.numel() for t in task.module.state_dict().values() if t.is_floating_point())
        self.weight_bits = 32.0 * network.weight_count
        self.reference = {flow: self.model.reference(network.layers, flow)["energy"] for flow in TARGETS}

    def energy(self, flow: str, ratios: NDArray[np.float64]) -> NDArray[np.float64]:
        """Joules of every layer at every ratio, ``(L, P)``."""
        rows = []
        for layer, bits in zip(self.network.layers, self.bits, strict=True):
            tables = self.model.tables([layer], CostAxes(ratios, [bits], [0], (flow,)))
            rows.append(tables["energy"][0, :, 0, 0, 0])
        return np.array(rows)

    def shares(self) -> dict[str, NDArray[np.float64]]:
        """Cost of every layer and ratio over what the target allows for the whole network, by target; ``(L, P)``."""
        shares = {flow: self.energy(flow, RATIOS) * target / self.reference[flow] for flow, target in TARGETS.items()}
        shares["csr with fillers"] = np.array(
            [
                [csr_bits(layer.weight_count, 1 - ratio, bits) for ratio in RATIOS]
                for layer, bits in zip(self.network.layers, self.bits, strict=True)
            ]
        ) * (SIZES["csr with fillers"] / self.weight_bits)
        return shares

    def ratios(self, keep: Sequence[float]) -> dict[str, float]:
        """Measured zeros to energy ratios and to ratios of the published size conventions."""
        zeros = 1 - np.asarray(keep)
        found = {}
        for flow in TARGETS:
            spent = sum(
                sum(self.model.breakdown(layer, z, b, 0, flow).values())
                for layer, z, b in zip(self.network.layers, zeros.tolist(), self.bits, strict=True)
            )
            found[flow] = self.reference[flow] / spent
        counts = np.array([layer.weight_count for layer in self.network.layers])
        for name, convention in CONVENTIONS.items():
            found[name] = self.weight_bits / float(convention.bits(counts, np.asarray(keep), np.array(self.bits)).sum())
        found["csr with fillers"] = self.weight_bits / sum(
            csr_bits(int(n), k, b) for n, k, b in zip(counts, keep, self.bits, strict=True)
        )
        return found


def csr_bits(count: int, keep: float, bits: int) -> float:
    """Expected bits of 3-bit gaps with a stored zero wherever a gap is longer than 8, positions being random."""
    none = (1 - keep) ** GAP
    fillers = none / (1 - none) if keep > 0 else 0.0
    return count * keep * (1 + fillers) * (bits + 3)


def choose(losses: NDArray[np.float64], costs: Costs, level: float) -> NDArray[np.int64]:
    """Ratio of each layer: least loss with every target's share met.

    The targets are weighed into one cost; those that are missed weigh more in the next round, and all rounds save a
    little more until one misses none.
    """
    shares, allowed, rows = np.stack(list(costs.shares().values())), 1 / level, np.arange(len(losses))
    weights = np.full(len(shares), 1 / len(shares))
    for limit in allowed * 0.99 ** np.repeat(np.arange(60), 5):
        chosen = choose_ratios(losses, np.tensordot(weights, shares, 1), limit)
        totals = shares[:, rows, chosen].sum(1)
        if totals.max() <= allowed:
            return chosen
        weights *= totals / allowed
        weights /= weights.sum()
    raise SystemExit(f"no ratios meet {level:g} of the targets")


def prune_further(module: nn.Module, network: Network, ratios: Mapping[str, float]) -> None:
    """More zeros by magnitude, in place; zeros that are there stay."""
    state = module.state_dict()
    for layer in network.layers:
        weight = state[layer.weight]
        order = weight.abs().flatten().argsort(stable=True)[: round(ratios[layer.name] * weight.numel())]
        kept = torch.ones(weight.numel())
        kept[order] = 0
        weight.mul_(kept.reshape(weight.shape))


def rounded_in_one_go(
    task: Task, network: Network, folder: Path, pruned: Mapping[str, Any], chosen: Sequence[int], bits: Sequence[int]
) -> dict[str, bytes]:
    """Coded layers, the pruned weights rounded with compensation; each is kept, as levels share layers."""
    known, state, blobs = grams(task, network, folder), task.module.state_dict(), {}
    for layer, index, width in zip(network.layers, chosen, bits, strict=True):
        file = folder / f"blob-{layer.name}-{RATIOS[index]:g}-{width}"
        if not file.exists():
            dense = state[layer.weight].contiguous().numpy()
            weight = pruned[layer.name][f"w{index - 1}"].astype(np.float32) if index else dense
            objective = OutputError.of(dense, np.array(known[layer.name]))
            (coded,) = quantize_obs(objective, weight, [width])
            with atomic_write(file) as stream:
                stream.write(coding.encode_tensor(coded))
            print(f"rounded {layer.name}", flush=True)
        blobs[layer.name] = file.read_bytes()
    return blobs


def rounded_in_training(module: nn.Module, network: Network, bits: Sequence[int]) -> dict[str, bytes]:
    """Coded layers, as training rounded them."""
    state, blobs = module.state_dict(), {}
    for layer, width in zip(network.layers, bits, strict=True):
        integers, step = round_to_grid(state[layer.weight], largest_level(width))
        tensor = CodedTensor(integers.numpy().astype(np.int8), step.half().numpy(), width)
        blobs[layer.name] = coding.encode_tensor(tensor)
    return blobs


class Coded:
    """The layers of one network, for an evaluator."""

    def __init__(self, blobs: Sequence[bytes]) -> None:
        self.blobs = blobs

    def blob(self, layer: int, variant: int, /) -> bytes:
        """The only variant of a layer."""
        return self.blobs[layer]


def write(task: Task, network: Network, module: nn.Module, blobs: Mapping[str, bytes], path: Path) -> None:
    """Write a trained network to a file."""
    stored = copy.deepcopy(module).eval()
    make_storable(stored, network)
    save_network(path, stored, network, blobs, task.header)


def measure(task: Task, network: Network, path: Path, split: str) -> dict[str, float]:
    """The decoded file on a split, beside the dense network."""
    evaluator = Evaluator(task.module, network, task.splits, None, task.error)
    decoded = load_network(coding.read_network(path), vgg16)
    found = evaluator.measure_module(decoded, split)
    return {"error": found.error, "loss": found.difference, "standard_error": found.standard_error}


def facts(network: Network, costs: Costs, path: Path) -> dict[str, Any]:
    """Everything that is counted on a file."""
    file = coding.read_network(path)
    zeros = [float((file.tensor(layer.name, layer.weight_shape).integers == 0).mean()) for layer in network.layers]
    keep, names = [1 - share for share in zeros], [layer.name for layer in network.layers]
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "bytes": path.stat().st_size,
        "keep": dict(zip(names, keep, strict=True)),
        "bits": dict(zip(names, costs.bits, strict=True)),
        "ratios": {**costs.ratios(keep), "file": costs.float_bytes / path.stat().st_size},
        "presets": presets(network, keep, costs.bits, {name: 8.0 * len(file.blobs[name]) for name in names}),
    }


def presets(
    network: Network, keep: Sequence[float], bits: Sequence[int], coded: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Energy under every accelerator of the package, each layer on its best dataflow, against fp32 and int8."""
    table = {}
    for name in accelerators():
        model = load_accelerator(name)
        spent = sum(
            min(
                sum(model.breakdown(layer, 1 - k, b, 0, flow, coded_bits=coded[layer.name]).values())
                for flow in model.dataflows
            )
            for layer, k, b in zip(network.layers, keep, bits, strict=True)
        )
        table[name] = {"joule": spent}
        for precision in ("fp32", "int8"):
            dense = sum(
                min(model.reference([layer], flow, precision)["energy"] for flow in model.dataflows)
                for layer in network.layers
            )
            table[name][precision] = dense / spent
    return table


class Benchmark:
    """All levels of one run folder."""

    def __init__(self, task: Task, folder: Path, minutes: float) -> None:
        self.task, self.folder, self.minutes = task, folder, minutes
        self.network = trace(task.module, task.example_input)
        self.costs = Costs(task, self.network)
        self.pruned = paths(task, self.network, folder)
        self.losses = sensitivities(task, self.network, folder, self.pruned)
        self.trained: nn.Module | None = None

    def level(self, level: float, kind: str) -> dict[str, Any]:
        """One level, one-shot or trained: written, decoded and measured on validation images, or read."""
        name = f"{kind}-{level:g}"
        path, done = self.folder / f"{name}.emomc", self.folder / f"{name}.json"
        chosen = choose(self.losses, self.costs, level).tolist()
        extra = self._one_shot(chosen, path) if kind == "one-shot" else self._train(level, chosen, path)
        if not done.exists():
            measured = {"validation": measure(self.task, self.network, path, "validation")}
            found = {"kind": kind, "level": level, **extra, **measured, **facts(self.network, self.costs, path)}
            done.write_text(json.dumps(found))
            print(name, measured, found["ratios"], flush=True)
        return json.loads(done.read_text())  # type: ignore[no-any-return]

    def test(self, point: dict[str, Any]) -> dict[str, Any]:
        """A level with its test images measured, once."""
        name = f"{point['kind']}-{point['level']:g}"
        if "test" not in point:
            point = {**point, "test": measure(self.task, self.network, self.folder / f"{name}.emomc", "test")}
            (self.folder / f"{name}.json").write_text(json.dumps(point))
        return point

    def _one_shot(self, chosen: Sequence[int], path: Path) -> dict[str, Any]:
        if not path.exists():
            bits = self.costs.bits
            blobs = rounded_in_one_go(self.task, self.network, self.folder, self.pruned, chosen, bits)
            coded = Coded([blobs[layer.name] for layer in self.network.layers])
            evaluator = Evaluator(self.task.module, self.network, self.task.splits, coded, self.task.error)
            evaluator.finish([0] * len(coded.blobs), path, self.task.header, "calibration")
        return {}

    def _train(self, level: float, chosen: Sequence[int], path: Path) -> dict[str, Any]:
        assert self.task.training is not None
        layers = self.network.layers
        start = copy.deepcopy(self.trained or self.task.module)
        if self.trained is None:
            state = start.state_dict()
            for layer, index in zip(layers, chosen, strict=True):
                if index:
                    weight = self.pruned[layer.name][f"w{index - 1}"].astype(np.float32)
                    state[layer.weight].copy_(torch.from_numpy(weight))
        else:
            names = [layer.name for layer in layers]
            prune_further(start, self.network, dict(zip(names, RATIOS[chosen].tolist(), strict=True)))
        levels = {layer.weight: largest_level(bits) for layer, bits in zip(layers, self.costs.bits, strict=True)}
        trained = fit(
            start,
            self.task.training.load(),
            RECIPE,
            Budget(minutes=self.minutes),
            regime=RoundWeights.keeping_zeros(start, levels),
            teacher=self.task.module,
            path=self.folder / f"trained-{level:g}.pt",
            tell=_print_progress,
            notice=print,
        )
        self.trained = trained.module
        if not path.exists():
            blobs = rounded_in_training(trained.module, self.network, self.costs.bits)
            write(self.task, self.network, trained.module, blobs, path)
        progress = trained.progress
        return {"minutes": progress.seconds / 60, "steps": progress.steps, "images": progress.seen}


RECIPE = Recipe(
    learning_rate=0.01,
    batch=64,
    distillation=0.5,
    warmup=0.05,
    augmentation=Augmentation(shift=4, flip=True),
)
_told = [0.0]


def _print_progress(what: str, done: int, total: int) -> None:
    if time.monotonic() - _told[0] > 30:
        _told[0] = time.monotonic()
        print(f"  {what}: {done} of {total}", flush=True)


def label(point: Mapping[str, Any]) -> str:
    """Such as ``one-shot, level 0.7``."""
    minutes = f" {point['minutes']:.0f} min" if "minutes" in point else ""
    return f"{point['kind']}{minutes}, level {point['level']:g}"


def _loss(point: Mapping[str, Any], split: str) -> str:
    if split not in point:
        return ""
    return f"{100 * point[split]['loss']:.2f} +- {100 * point[split]['standard_error']:.2f}"


def table(points: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: every ratio of the paper, its target, and ours."""
    rows = ["| | paper | target | " + " | ".join(map(label, points)) + " |", "|---" * (3 + len(points)) + "|"]
    for split in ("validation", "test"):
        limit = "0.3" if split == "test" else ""
        losses = " | ".join(_loss(point, split) for point in points)
        rows.append(f"| loss on {split} images, points | {limit} | {limit} | {losses} |")
    for name in (*TARGETS, "emomc-normal", "emomc-csr", "csr with fillers", "emomc-coo", "file"):
        paper = f"{PAPER[name]:g}x" if name in PAPER else ""
        target = {**TARGETS, **SIZES}.get(name)
        ours = [f"{point['ratios'][name]:.1f}x" for point in points]
        rows.append(f"| {name} | {paper} | {'' if target is None else f'{target:g}x'} | {' | '.join(ours)} |")
    return "\n".join(rows)


def figure(points: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Ratios of every level beside the paper's, and the measured loss."""
    from matplotlib.figure import Figure

    names = [*TARGETS, "emomc-normal", "csr with fillers", "emomc-coo", "file"]
    canvas = Figure(figsize=(10, 4), layout="constrained")
    axes = canvas.subplots()
    width = 0.8 / (len(points) + 1)
    paper = [PAPER.get("emomc-csr" if name == "csr with fillers" else name, math.nan) for name in names]
    series = [("EMOMC as published, loss 0.3 points (csr without fillers)", paper)]
    for point in points:
        where = "test" if "test" in point else "validation"
        series.append(
            (f"{label(point)}, loss {_loss(point, where)} ({where})", [point["ratios"][name] for name in names])
        )
    for number, (name, values) in enumerate(series):
        axes.bar(np.arange(len(names)) + (number - len(points) / 2) * width, values, width, label=name)
    targets = [{**TARGETS, **SIZES}[name] for name in names]
    axes.hlines(targets, np.arange(len(names)) - 0.45, np.arange(len(names)) + 0.45, "k", lw=1, label="target")
    axes.set_xticks(np.arange(len(names)), names)
    axes.set(yscale="log", ylabel="times less than 32-bit floats")
    axes.grid(axis="y", which="both", alpha=0.3)
    ticks = (2, 5, 10, 20, 30, 50)
    axes.set_yticks(ticks, [f"{tick}x" for tick in ticks])
    axes.yaxis.set_minor_formatter("")
    canvas.legend(loc="outside lower center", ncols=2, fontsize=8)
    canvas.savefig(path, dpi=120)


def main() -> None:
    """Run the levels and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/; else EMOMC_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs") / NAME, help="folder of the run")
    parser.add_argument("--minutes", type=float, default=0.0, help="of training for each level")
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS, help="shares of the targets")
    arguments = parser.parse_args()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    task = load_task("cifar10-vgg16", **({"data": arguments.data} if arguments.data else {}))
    benchmark = Benchmark(task, arguments.runs, arguments.minutes)
    points = []
    for kind in ("one-shot", "trained") if arguments.minutes else ("one-shot",):
        found = [benchmark.level(level, kind) for level in arguments.levels]
        within = [point["validation"]["loss"] <= LIMIT for point in found]
        last = max((i for i, good in enumerate(within) if good), default=-1)
        points += [benchmark.test(point) if i == last else point for i, point in enumerate(found)]
        path = write_results(NAME, {"recipe": repr(RECIPE), "table": table(points).splitlines(), "points": points})
        figure(points, RESULTS / f"{NAME}.png")
        print(table(points), flush=True)
    print(path)


if __name__ == "__main__":
    main()
