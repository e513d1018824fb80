"""The levels of one run folder: each written to a file, decoded and measured."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emomc import coding
from emomc.accuracy import Evaluator
from emomc.benchmarks.headline.costs import RATIOS, Costs, choose, presets
from emomc.benchmarks.headline.layers import paths, rounded_in_one_go, sensitivities
from emomc.coding.tensor import CodedTensor
from emomc.compression.glue import make_storable
from emomc.compression.networkfile import load_network, save_network
from emomc.compression.quantization import largest_level
from emomc.export import finetune
from emomc.network import Network, trace
from emomc.problems.tasks import Task
from emomc.training import Budget, Recipe, RoundWeights, fit, recovery_recipe
from emomc.training.checkpoint import Progress
from emomc.training.fakequant import round_to_grid

TRAIN, POLISH, FURTHER = 64, 128, 64  # images a step, of a pruned network and where a file is trained on
DECAY = 5e-4  # of the weights of a pruned network; those of a file stay on their grids


def recipe(task: Task, batch: int, seed: int, decay: float = 0.0) -> Recipe:
    """How a level is trained: as a network is recovered."""
    assert task.training is not None
    return replace(recovery_recipe(task.training.recipe), weight_decay=decay, batch=batch, seed=seed)


class Levels:
    """All levels of one run folder; Gram matrices, paths and probes are made or read when they are first needed."""

    def __init__(self, task: Task, folder: Path, minutes: float, polish: int, seed: int) -> None:
        """Levels whose training has this seed and takes so many minutes, and whose polish so many steps."""
        self.task, self.folder, self.minutes, self.polish, self.seed = task, folder, minutes, polish, seed
        self.network = trace(task.module, task.example_input)
        self.costs = Costs(task, self.network)
        self.trained: nn.Module | None = None

    @cached_property
    def pruned(self) -> dict[str, Any]:
        """Every layer along its path."""
        return paths(self.task, self.network, self.folder)

    @cached_property
    def losses(self) -> NDArray[np.float64]:
        """What each layer loses alone at every ratio."""
        return sensitivities(self.task, self.network, self.folder, self.pruned)

    def level(self, level: float, kind: str) -> dict[str, Any]:
        """One level, one-shot, trained or polished: written, decoded and measured on validation images, or read."""
        planned = {"kind": kind, "level": level, **({} if kind == "one-shot" else self._seeded)}
        path = self._path(planned)
        done = path.with_suffix(".json")
        make = {"one-shot": self._one_shot, "trained": self._train, "polished": self._polish}[kind]
        extra = make(level, path)
        if not done.exists():
            self._measure({**planned, **extra}, path)
        return json.loads(done.read_text())  # type: ignore[no-any-return]

    def further(self, point: Mapping[str, Any], file: Path) -> dict[str, Any]:
        """A level of earlier results whose file is trained on at its size, measured on validation images, or read."""
        planned = {"kind": "further", "level": point["level"], "of": point["sha256"], **self._seeded}
        path = self._path(planned)
        done = path.with_suffix(".json")
        if not done.exists():
            spent = self._finetune(file, path, Budget(minutes=self.minutes), recipe(self.task, FURTHER, self.seed))
            self._measure({**planned, **spent}, path)
        return json.loads(done.read_text())  # type: ignore[no-any-return]

    def _measure(self, known: Mapping[str, Any], path: Path) -> None:
        measured = {"validation": measure(self.task, self.network, path, "validation")}
        found = {**known, **measured, **facts(self.network, self.costs, path)}
        path.with_suffix(".json").write_text(json.dumps(found))
        print(path.stem, measured, found["ratios"], flush=True)

    def test(self, point: dict[str, Any]) -> dict[str, Any]:
        """A level with its test images measured, once."""
        path = self._path(point)
        if "test" not in point:
            point = {**point, "test": measure(self.task, self.network, path, "test")}
            path.with_suffix(".json").write_text(json.dumps(point))
        return point

    def _path(self, point: Mapping[str, Any]) -> Path:
        """Where the file of a point is; what goes on from another file has part of that one's hash in its name."""
        of = f"-of-{point['of'][:8]}" if "of" in point else ""
        seed = f"-seed-{point['seed']}" if "seed" in point else ""
        return self.folder / f"{point['kind']}-{point['level']:g}{of}{seed}.emomc"

    @property
    def _seeded(self) -> dict[str, int]:
        """What tells a trained point from those of other seeds; the first seed goes without saying."""
        return {"seed": self.seed} if self.seed else {}

    def _chosen(self, level: float) -> list[int]:
        return choose(self.losses, self.costs, level).tolist()  # type: ignore[no-any-return]

    def _one_shot(self, level: float, path: Path) -> dict[str, Any]:
        if not path.exists():
            bits, chosen = self.costs.bits, self._chosen(level)
            blobs = rounded_in_one_go(self.task, self.network, self.folder, self.pruned, chosen, bits)
            coded = Coded([blobs[layer.name] for layer in self.network.layers])
            evaluator = Evaluator(self.task.module, self.network, self.task.splits, coded, self.task.error)
            evaluator.finish([0] * len(coded.blobs), path, self.task.header, "calibration")
        return {}

    def _train(self, level: float, path: Path) -> dict[str, Any]:
        assert self.task.training is not None
        layers, chosen = self.network.layers, self._chosen(level)
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
        training = recipe(self.task, TRAIN, self.seed, DECAY)
        trained = fit(
            start,
            self.task.training.load(),
            training,
            Budget(minutes=self.minutes),
            regime=RoundWeights.keeping_zeros(start, levels),
            teacher=self.task.module,
            path=path.with_suffix(".pt"),
            tell=_print_progress,
            notice=print,
        )
        self.trained = trained.module
        if not path.exists():
            blobs = rounded_in_training(trained.module, self.network, self.costs.bits)
            write(self.task, self.network, trained.module, blobs, path)
        return _spent(training, trained.progress)

    def _polish(self, level: float, path: Path) -> dict[str, Any]:
        """Done once: repeating `finetune` would write and measure anew, as its checkpoint is of the training alone."""
        if path.with_suffix(".json").exists():
            return {}
        source = self._path({"kind": "trained", "level": level, **self._seeded})
        return self._finetune(source, path, Budget(steps=self.polish), recipe(self.task, POLISH, self.seed))

    def _finetune(self, source: Path, path: Path, budget: Budget, training: Recipe) -> dict[str, Any]:
        tuning = {"recipe": training, "checkpoint": path.with_suffix(".pt"), "tell": _print_progress, "notice": print}
        found = finetune(source, path, self.task, budget, **tuning)  # type: ignore[arg-type]
        return {**_spent(training, found.progress), "training_loss": found.training_loss}


def _spent(training: Recipe, progress: Progress) -> dict[str, Any]:
    spent = {"minutes": progress.seconds / 60, "steps": progress.steps, "images": progress.seen}
    return {"recipe": repr(training), **spent}


def prune_further(module: nn.Module, network: Network, ratios: Mapping[str, float]) -> None:
    """More zeros by magnitude, in place; zeros that are there stay."""
    state = module.state_dict()
    for layer in network.layers:
        weight = state[layer.weight]
        order = weight.abs().flatten().argsort(stable=True)[: round(ratios[layer.name] * weight.numel())]
        kept = torch.ones(weight.numel())
        kept[order] = 0
        weight.mul_(kept.reshape(weight.shape))


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
    decoded = load_network(coding.read_network(path), lambda: copy.deepcopy(task.module))
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


_told = [0.0]


def _print_progress(what: str, done: int, total: int) -> None:
    if time.monotonic() - _told[0] > 30:
        _told[0] = time.monotonic()
        print(f"  {what}: {done} of {total}", flush=True)
