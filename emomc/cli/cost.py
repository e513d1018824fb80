"""`emomc cost`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emomc.cli.files import task_of_file
from emomc.cli.runs import FOLDER
from emomc.cli.search import default_folder, task_options
from emomc.errors import EmomcError

if TYPE_CHECKING:
    from torch import nn

    from emomc.network import Network
    from emomc.network.layers import Layer
    from emomc.problems.tasks import Task
    from emomc.report.costs import LayerChoice, NetworkCost

_DPI = 150


@click.command(short_help="Energy by layer, level and dataflow.")
@click.argument("source")
@click.option("--accelerator", multiple=True, help="What the network runs on; repeatable.  [published, or the run's]")
@click.option("--bits", type=click.IntRange(2, 16), help="Of the dense network's weights.  [16]")
@click.option(
    "--activation-bits", type=click.IntRange(1), default=16, show_default=True, help="Of a feature map's element."
)
@click.option("--dataflow", metavar="NAME", help="Run all layers on it.  [each layer's best, or the point's]")
@click.option("--point", help="Cost of this point of a run in place of the dense network.")
@click.option("--run", type=FOLDER, help="Folder of the run.  [default: runs/TASK]")
@click.option("--task", help="Of a file: what zeros are measured on, where that is a function of your own.")
@click.option("--plot", type=FOLDER, metavar="FILE.png", help="Draw energy by layer and level into this file.")
@click.option("--data", type=click.Path(), help="Data folder, for tasks that take one.")
@click.option("--checkpoint", type=click.Path(), help="Weights file, for tasks that take one.")
@click.option("--download", is_flag=True, help="Let the task download its data.")
def cost(
    source: str,
    accelerator: tuple[str, ...],
    bits: int | None,
    activation_bits: int,
    dataflow: str | None,
    point: str | None,
    run: Path | None,
    task: str | None,
    plot: Path | None,
    **given: Any,
) -> None:
    """Energy of one inference of SOURCE, a task or a compressed file, by layer, level and dataflow.

    With one accelerator: every layer on each dataflow, then by level of the memory hierarchy on the dataflow that it
    runs on, and traffic, time and memory where the accelerator's model tells them. With several: side by side.

    Zeros in feature maps are measured on calibration images. A point runs on its own dataflows on the run's
    accelerator, and on each layer's best one elsewhere.

    A file costs what it holds: widths, zeros, coded bytes and quantized maps of its layers, each on the input channels
    that it reads, and zeros in its own feature maps.

    \b
    Examples:
      emomc cost digits
      emomc cost digits --accelerator generic-45nm --bits 8 --activation-bits 8
      emomc cost digits --accelerator eyeriss-65nm --accelerator npu-coded --bits 8 --plot cost.png
      emomc cost digits --point p03 --run runs/digits
      emomc cost digits.emomc --accelerator edge-systolic
    """  # noqa: D301 - click's mark
    from emomc.cli.output import console
    from emomc.hardware import load_accelerator
    from emomc.problems.tasks import task_names
    from emomc.report.costs import network_cost
    from emomc.report.costtables import comparison_tables, cost_tables
    from emomc.units import si

    if Path(source).is_file() and source not in task_names():
        if bits or point or run:
            raise EmomcError(f"{source} is a file, which has its own bits: --bits, --point and --run go with a task.")
        subject = _of_file(Path(source), task, task_options(**given))
    elif point and bits:
        raise EmomcError("--bits is of a dense network: a point has bits of its own.")
    elif run and not point:
        raise EmomcError(f"--run goes with --point: name one of {run}, such as --point p03.")
    elif task:
        raise EmomcError("--task goes with a file. Name the task itself: emomc cost TASK.")
    elif point:
        subject = _of_point(source, task_options(**given), run or default_folder(source), point)
    else:
        subject = _of_dense(source, task_options(**given), bits or 16)
    names = accelerator or (subject.home or "published",)
    models = [load_accelerator(name) for name in names]
    costs = []
    for name, model in zip(names, models, strict=True):
        chosen = _running(subject.choices, dataflow, keep=name == subject.home)
        costs.append(network_cost(model, subject.layers, chosen, activation_bits, subject.zeros, subject.dense))
    out = console()
    tables = cost_tables(costs[0], subject.what) if len(costs) == 1 else comparison_tables(costs, subject.what)
    for table in tables:
        out.print(table)
    for each in costs:
        out.print(f"The dense network in 32-bit floats on {each.accelerator}: {si(each.floats, 'J')}")
    if subject.zeros is None:
        out.print("Feature maps count as full: their zeros are measured where --task names the task.")
    if plot:
        _draw(costs, subject.what, plot)
        out.print(f"Figure: {plot}")


@dataclass(frozen=True)
class _Subject:
    """What costs: ``(L,)`` layers as they run, their choices, zeros in their inputs, and the dense network's layers."""

    what: str
    layers: Sequence[Layer]
    choices: Sequence[LayerChoice]
    zeros: list[float] | None
    dense: Sequence[Layer]
    home: str | None = None  # accelerator that the choices' dataflows are of


def _of_dense(name: str, options: Mapping[str, Any], bits: int) -> _Subject:
    from emomc.network import trace
    from emomc.problems.tasks import load_task
    from emomc.report.costs import LayerChoice

    task = load_task(name, **options)
    network = trace(task.module, task.example_input)
    choices = [LayerChoice(bit_width=bits)] * len(network.layers)
    zeros = _zeros(task, task.module, network)
    return _Subject(f"{task.name}, dense with {bits}-bit weights", network.layers, choices, zeros, network.layers)


def _of_point(task_name: str, options: Mapping[str, Any], folder: Path, name: str) -> _Subject:
    """A point of a run: as in its file, without pruned input channels, on the dataflows that the search chose."""
    from emomc.coding import read_network
    from emomc.genome import ACTIVATION_BITS, CHANNEL, GRANULARITY
    from emomc.network import trace
    from emomc.problems.tasks import load_task
    from emomc.report import read_run
    from emomc.report.storedlayers import stored_layer
    from emomc.run import read_options

    stored = read_options(folder)
    task = load_task(task_name, **{**stored.get("task_options", {}), **options})
    network = trace(task.module, task.example_input)
    found = read_run(folder).point(name)
    if set(found.genes) != set(network.index):
        raise EmomcError(f"{folder} is a run of task {stored.get('task')!r}; its layers are not those of this task.")
    file, running, choices = read_network(folder / found.file), [], []
    for whole in network.layers:
        genes = found.genes[whole.name]
        maps = int(genes[ACTIVATION_BITS]) if ACTIVATION_BITS in genes else None
        layer, choice = stored_layer(file, whole, maps, narrow=genes.get(GRANULARITY) == CHANNEL)
        running.append(layer)
        choices.append(replace(choice, shared_values=int(genes["shared_values"]), dataflow=genes["dataflow"]))
    what, home = f"{task.name}, point {name} of {folder}", str(stored.get("accelerator", "published"))
    return _Subject(what, running, choices, _zeros(task, task.module, network), network.layers, home)


def _of_file(path: Path, task_name: str | None, options: Mapping[str, Any]) -> _Subject:
    """A file as it is, its layers on the input channels that they read."""
    import torch

    from emomc.coding import read_network
    from emomc.compression.networkfile import INPUT_SHAPE, read_grids
    from emomc.export.loading import builder, load_file
    from emomc.network import trace
    from emomc.report.storedlayers import stored_layer

    file = read_network(path)
    _, task = task_of_file(file, task_name, options)
    build = builder(file) if task is None else lambda: copy.deepcopy(task.module)
    module = load_file(file, build)
    example = torch.zeros(file.header[INPUT_SHAPE], dtype=torch.float32)
    network = trace(module, example)
    grids = read_grids(file, network) or {}
    maps = {name: grid.bit_width for name, grid in grids.items()}
    stored = [stored_layer(file, layer, maps.get(layer.name)) for layer in network.layers]
    zeros = None if task is None else _zeros(task, module, network)
    layers, choices = zip(*stored, strict=True)
    return _Subject(str(path), layers, choices, zeros, trace(build(), example).layers)


def _zeros(task: Task, module: nn.Module, network: Network) -> list[float]:
    """Fraction of zeros in the inputs of each layer of a network, on calibration images."""
    from emomc.accuracy import ZERO_IMAGES, input_sparsity

    images, _ = next(task.splits.calibration.batches(ZERO_IMAGES))
    zeros: list[float] = input_sparsity(module, network, images).tolist()
    return zeros


def _running(choices: Sequence[LayerChoice], dataflow: str | None, keep: bool) -> list[LayerChoice]:
    """The choices on one dataflow, or on their own where these are of the same accelerator."""
    return [replace(each, dataflow=dataflow or (each.dataflow if keep else None)) for each in choices]


def _draw(costs: Sequence[NetworkCost], title: str, path: Path) -> None:
    from emomc.files import atomic_write
    from emomc.report.figures.cost import cost_figure

    figure = cost_figure(costs, title)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=_DPI)
