"""A small real network of whose whole space every configuration was measured: how much of the true front is found.

Four layers on handwritten digits with 16 choices each are 65,536 networks. Networks that begin alike share the outputs
of their first layers, so that measuring all of them takes a minute; some are measured by a session again, to compare.
The table of errors is stored, so that methods are compared without the network.

    python -m benchmarks.search_enumerated                # all methods on the stored table
    python -m benchmarks.search_enumerated --table NAME --enumerate    # train, measure everything, store another table
    python -m benchmarks.search_enumerated --table NAME                # all methods on that one

Results go to benchmarks/results/NAME.npz and .json. The table "search_enumerated" is of pruning in the steps of its
time; "search_enumerated_again" is of the same network as layers are compressed today.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

import emomc
from emomc import coding
from emomc.accuracy.divergence import distance
from emomc.benchmarks.curves import best_of_front, box_quality, curve, in_order, known_curves, table
from emomc.benchmarks.environment import RESULTS, write_results
from emomc.benchmarks.methods import METHODS, spend
from emomc.compression.glue import make_storable
from emomc.problems import CostTables, load_objective
from emomc.search import SearchTask
from emomc.search.ledger import Readings

Doubles = NDArray[np.float64]
Genomes = NDArray[np.integer]

NAME = "search_enumerated"
GENES = {"prune_ratio": (0.0, 0.4, 0.6, 0.8), "bit_width": (8, 4, 3, 2), "shared_values": (0,)}
OPTIONS = emomc.Options("enumerated", genes=GENES, dataflows=("X:Y",), method="obs")
SETTINGS = emomc.Settings(strengths=(0.0,))  # correction looks at whole networks, so first layers could not be shared
SIZES = {"calibration": 100, "selection": 600, "validation": 100, "test": 200}  # the other 797 images train
BUDGET = 150
SHOWN = (40, 100, 150)
CHECKED = 100  # networks that a session measures too


class SmallNet(nn.Module):
    """Three convolutions and a linear layer for 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.linear = nn.Linear(64, 10)

    def steps(self) -> list[tuple[nn.Module, Callable[[torch.Tensor], torch.Tensor]]]:
        """Each layer, and what its output goes through before the next one."""
        return [
            (self.conv1, lambda x: functional.max_pool2d(functional.relu(x), 2)),
            (self.conv2, functional.relu),
            (self.conv3, lambda x: torch.flatten(functional.max_pool2d(functional.relu(x), 2), 1)),
            (self.linear, lambda x: x),
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, 8, 8) to logits (n, 10)."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.relu(self.conv2(x))
        x = functional.max_pool2d(functional.relu(self.conv3(x)), 2)
        return self.linear(torch.flatten(x, 1))  # type: ignore[no-any-return]


def build() -> nn.Module:
    """The network, untrained."""
    return SmallNet()


def make_task() -> emomc.Task:
    """Digits, and the network trained on those that are in no split."""
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(targets))
    inputs = torch.from_numpy(images[order].reshape(-1, 1, 8, 8).astype(np.float32) / 8 - 1)
    labels = torch.from_numpy(targets[order].astype(np.int64))
    ends = np.cumsum(list(SIZES.values())).tolist()
    pieces = [slice(start, end) for start, end in itertools.pairwise([0, *ends])]
    splits = emomc.Splits(*(emomc.Split(inputs[piece], labels[piece]) for piece in pieces))
    module = _trained(inputs[ends[-1] :], labels[ends[-1] :])
    return emomc.Task("enumerated", module, splits, factory="emomc.benchmarks.search_enumerated:build")


def _trained(inputs: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=40 * (len(labels) // 32))
    for _ in range(40):
        for rows in torch.randperm(len(labels))[: len(labels) // 32 * 32].reshape(-1, 32):
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return module.eval()


@dataclass(frozen=True, eq=False)
class Table:
    """Every network of the space, measured, and what else a search is told.

    Attributes:
        space: the search space.
        wrong: images that each network gets wrong, by the variants of its layers, shape ``(choices, ...)``.
        distances: from the dense network's output on the calibration images, same shape.
        options: number of each variant in the genome's choices, shape ``(L, *space.shape)``.
        energy: joules, shape ``(L, *space.shape)``.
        size: bytes, same shape.
        overhead: bytes that every file has.
        sensitivities: error that each choice of each layer causes alone, about, same shape.
        dense_wrong: images that the uncompressed network gets wrong.
        images: images in all.
        reference: worst error, energy and size of interest.
    """

    space: emomc.SearchSpace
    wrong: NDArray[np.uint16]
    distances: NDArray[np.float32]
    options: NDArray[np.uint8]
    energy: Doubles
    size: Doubles
    overhead: float
    sensitivities: Doubles
    dense_wrong: int
    images: int
    reference: Doubles

    def errors(self, genomes: Genomes) -> Doubles:
        """Measured errors, ``(n,)``."""
        return np.asarray(self.wrong[self._position(genomes)] / np.float64(self.images))

    def readings(self, genomes: Genomes) -> Readings:
        """All that measuring tells a search."""
        return Readings(self.errors(genomes), self.distances[self._position(genomes)].astype(np.float64))

    def _position(self, genomes: Genomes) -> tuple[NDArray[np.uint8], ...]:
        parts = np.moveaxis(self.space.split(genomes), 2, 0)
        return tuple(self.options[(np.arange(self.space.n_layers), *parts)].T)

    def task(self) -> SearchTask:
        """What a search is given."""
        tables = {"energy": self.energy, "size": self.size}
        costs = CostTables(self.space, (), tables, {"size": self.overhead})
        dense = self.dense_wrong / self.images
        limit = emomc.Constraint(load_objective("error"), dense + OPTIONS.max_loss)
        problem = emomc.CompressionProblem(costs, self.errors, OPTIONS.objectives, [limit])
        return SearchTask(problem, self.sensitivities, dense, self.images)

    @cached_property
    def exact_front(self) -> Doubles:
        """Error, energy and size of every network that no other one dominates."""
        everything = self.space.every()
        values, violations = self.task().problem.values(everything, self.errors(everything))
        return np.asarray(values[emomc.front_of(values, violations)])

    def save(self, path: Path) -> None:
        """Write to an ``npz`` file."""
        arrays = {name: value for name, value in vars(self).items() if name not in ("space", "exact_front")}
        np.savez_compressed(path, space=np.array(json.dumps(self.space.to_dict())), **arrays)

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name != "space"}
            numbers = {name: arrays.pop(name).item() for name in ("overhead", "dense_wrong", "images")}
            space = emomc.SearchSpace.from_dict(json.loads(str(stored["space"])))
        return cls(space, **arrays, **numbers)


@torch.inference_mode()
def measure_everything(session: emomc.Session) -> Table:
    """Run every network of the session's space on the selection images, and on the calibration images.

    Weights are decoded from the bank and all else is rounded as files hold it, as in any evaluation.
    """
    module, space = session.task.module, session.space
    rows = session.bank.variants_of(space.every())
    numbers = [np.unique(rows[:, layer]) for layer in range(space.n_layers)]
    splits = session.task.splits
    dense_output = module(splits.calibration.inputs)
    make_storable(module, session.network)
    weights = [[_weight(session, layer, int(number)) for number in numbers[layer]] for layer in range(space.n_layers)]
    assert isinstance(module, SmallNet)
    targets = splits.selection.targets
    wrong = _below(
        module.steps(), weights, splits.selection.inputs, lambda output: int((output.argmax(1) != targets).sum())
    )
    distances = _below(
        module.steps(), weights, splits.calibration.inputs, lambda output: distance(dense_output, output)
    )
    full = (space.n_layers, *space.shape)
    choices = np.stack(np.unravel_index(np.arange(np.prod(space.shape)), space.shape), axis=1)
    per_choice = session.bank.variants_of(space.canonical(np.tile(choices, (1, space.n_layers))))
    options = np.stack([np.searchsorted(numbers[layer], per_choice[:, layer]) for layer in range(space.n_layers)])
    tables = session.costs.tables
    dense = session.dense
    return Table(
        space,
        np.array(wrong, dtype=np.uint16).reshape([len(each) for each in numbers]),
        np.array(distances, dtype=np.float32).reshape([len(each) for each in numbers]),
        options.reshape(full).astype(np.uint8),
        np.broadcast_to(tables["energy"], full).copy(),
        np.broadcast_to(tables["size"], full).copy(),
        float(session.costs.constants["size"]),
        np.broadcast_to(session.sensitivities, full).copy(),
        round(dense.error * dense.samples),
        dense.samples,
        np.array([dense.error + OPTIONS.max_loss, session.reference["energy"], session.reference["size"]]),
    )


def _below(
    steps: list[Any], weights: list[list[torch.Tensor]], x: torch.Tensor, read: Callable[[torch.Tensor], float]
) -> list[float]:
    """What is read from the outputs of all networks that end in these layers, the last one's variants fastest."""
    (layer, function), *rest = steps
    found: list[float] = []
    for weight in weights[0]:
        layer.weight.copy_(weight)
        output = function(layer(x))
        found += _below(rest, weights[1:], output, read) if rest else [read(output)]
    return found


def _weight(session: emomc.Session, layer: int, number: int) -> torch.Tensor:
    blob = session.bank.blob(layer, number)
    return torch.from_numpy(coding.decode_tensor(blob, session.network.layers[layer].weight_shape).dequantize())


def enumerate_space(path: Path) -> None:
    """Train, measure everything, compare some with a session's measurements, and store the table.

    Raises:
        SystemExit: a measurement differs.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        emomc.Session(folder, OPTIONS, task=make_task(), settings=SETTINGS, workers=1) as session,
    ):
        print(f"dense error {session.dense.error:.4f}, {session.space.size} networks", flush=True)
        start = time.perf_counter()
        found = measure_everything(session)
        print(f"measured in {time.perf_counter() - start:.0f} s", flush=True)
        genomes = session.space.random(CHECKED, np.random.default_rng(0))
        measured, told = session.measure(genomes), found.readings(genomes)
        difference = np.rint(np.abs(told.errors - [each.error for each in measured]) * found.images)
        print(f"{int((difference > 0).sum())} of {CHECKED} differ from a session's, by {difference.max():.0f} images")
        apart = np.abs(told.distances / [each.distance for each in measured] - 1).max()
        print(f"distances differ from a session's by {apart:.1e} at most")
        if difference.max() > 1 or apart > 1e-3:  # batches of another size may round a tie in another way
            raise SystemExit("not the networks that a session measures")
    found.save(path)
    print(f"{path}: {path.stat().st_size} bytes")


def main() -> None:
    """Enumerate the space, or run the methods over the seeds and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", default=NAME, metavar="NAME", help="the table and its results")
    parser.add_argument("--enumerate", action="store_true", help="train, measure everything and store the table")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments = parser.parse_args()
    path = RESULTS / f"{arguments.table}.npz"
    if arguments.enumerate:
        enumerate_space(path)
        return
    stored = Table.load(path)
    front = stored.exact_front
    for method in arguments.methods:
        found = []
        for seed in arguments.seeds:
            trace = spend(method, stored.task(), stored.readings, BUDGET, seed)
            found.append(curve(stored.task().problem, trace, seed, box_quality(front), BUDGET))
        curves = in_order({**known_curves(arguments.table), method: found})
        results = {
            "networks": int(stored.space.size),
            "images": stored.images,
            "dense_error": stored.dense_wrong / stored.images,
            "exact_front_points": len(front),
            "best_of_front": {str(count): best_of_front(front, count) for count in SHOWN[:2]},
            "table": table(curves, SHOWN),
            "curves": curves,
        }
        print(write_results(arguments.table, results), table({method: found}, SHOWN)[-1], flush=True)


if __name__ == "__main__":
    main()
