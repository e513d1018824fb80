"""`emomc cost`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emomc.cli.runs import FOLDER
from emomc.cli.search import default_folder, task_options
from emomc.errors import EmomcError

if TYPE_CHECKING:
    from emomc.network.layers import Layer
    from emomc.report.costs import LayerChoice, NetworkCost

_DPI = 150


@click.command(short_help="Energy by layer, level and dataflow.")
@click.argument("task")
@click.option("--accelerator", multiple=True, help="What the network runs on; repeatable.  [published, or the run's]")
@click.option(
    "--bits", type=click.IntRange(2, 16), default=16, show_default=True, help="Of the dense network's weights."
)
@click.option(
    "--activation-bits", type=click.IntRange(1), default=16, show_default=True, help="Of a feature map's element."
)
@click.option("--dataflow", metavar="NAME", help="Run all layers on it.  [each layer's best, or the point's]")
@click.option("--point", help="Cost of this point of a run in place of the dense network.")
@click.option("--run", type=FOLDER, help="Folder of the run.  [default: runs/TASK]")
@click.option("--plot", type=FOLDER, metavar="FILE.png", help="Draw energy by layer and level into this file.")
@click.option("--data", type=click.Path(), help="Data folder, for tasks that take one.")
@click.option("--checkpoint", type=click.Path(), help="Weights file, for tasks that take one.")
@click.option("--download", is_flag=True, help="Let the task download its data.")
def cost(
    task: str,
    accelerator: tuple[str, ...],
    bits: int,
    activation_bits: int,
    dataflow: str | None,
    point: str | None,
    run: Path | None,
    plot: Path | None,
    **given: Any,
) -> None:
    """Energy of one inference of TASK by layer, level and dataflow.

    With one accelerator: every layer on each dataflow, then by level of the memory hierarchy on the dataflow that it
    runs on, and traffic, time and memory where the accelerator's model tells them. With several: side by side.

    Zeros in feature maps are measured on calibration images. A point runs on its own dataflows on the run's
    accelerator, and on each layer's best one elsewhere.

    \b
    Examples:
      emomc cost digits
      emomc cost digits --accelerator generic-45nm --bits 8 --activation-bits 8
      emomc cost digits --accelerator eyeriss-65nm --accelerator npu-coded --bits 8 --plot cost.png
      emomc cost digits --point p03 --run runs/digits
    """  # noqa: D301 - click's mark
    from emomc.accuracy import ZERO_IMAGES, input_sparsity
    from emomc.cli.output import console
    from emomc.hardware import load_accelerator
    from emomc.network import trace
    from emomc.problems.tasks import load_task
    from emomc.report.costs import network_cost
    from emomc.report.costtables import comparison_tables, cost_tables
    from emomc.report.units import si

    folder = run or default_folder(task)
    stored = _stored(folder) if point else {}
    home = str(stored.get("accelerator", "published"))
    names = accelerator or (home,)
    models = [load_accelerator(name) for name in names]
    loaded = load_task(task, **{**stored.get("task_options", {}), **task_options(**given)})
    network = trace(loaded.module, loaded.example_input)
    images, _ = next(loaded.splits.calibration.batches(ZERO_IMAGES))
    zeros = input_sparsity(loaded.module, network, images).tolist()
    layers, choices = _of_point(folder, point, network.layers) if point else _of_dense(network.layers, bits)
    costs = []
    for name, model in zip(names, models, strict=True):
        chosen = _running(choices, dataflow, keep=name == home)
        costs.append(network_cost(model, layers, chosen, activation_bits, zeros))
    what = f"{loaded.name}, " + (f"point {point} of {folder}" if point else f"dense with {bits}-bit weights")
    out = console()
    for table in cost_tables(costs[0], what) if len(costs) == 1 else comparison_tables(costs, what):
        out.print(table)
    for each in costs:
        out.print(f"The dense network in 32-bit floats on {each.accelerator}: {si(each.floats, 'J')}")
    if plot:
        _draw(costs, what, plot)
        out.print(f"Figure: {plot}")


def _stored(folder: Path) -> Mapping[str, Any]:
    from emomc.run import read_options

    return read_options(folder)


def _of_dense(layers: Sequence[Layer], bits: int) -> tuple[Sequence[Layer], list[LayerChoice]]:
    from emomc.report.costs import LayerChoice

    return layers, [LayerChoice(bit_width=bits)] * len(layers)


def _of_point(folder: Path, name: str, layers: Sequence[Layer]) -> tuple[Sequence[Layer], list[LayerChoice]]:
    """The layers of a point, without pruned input channels, and their choices, with zeros and bits as in its file."""
    from emomc import coding
    from emomc.genome import ACTIVATION_BITS, CHANNEL, GRANULARITY
    from emomc.report import read_run
    from emomc.report.costs import LayerChoice

    data = read_run(folder)
    found = data.point(name)
    if set(found.genes) != {layer.name for layer in layers}:
        raise EmomcError(f"{folder} is a run of task {data.options['task']!r}; its layers are not those of this task.")
    file = coding.read_network(folder / found.file)
    running, choices = [], []
    for whole in layers:
        genes, nonzero = found.genes[whole.name], file.tensor(whole.name, whole.weight_shape).integers != 0
        live = int(nonzero.any(axis=(0, *range(2, nonzero.ndim))).sum())
        layer = whole.with_inputs(max(live, 1)) if genes.get(GRANULARITY) == CHANNEL else whole
        zeros = 1 - int(nonzero.sum()) / layer.weight_count
        bits, shared, coded = int(genes["bit_width"]), int(genes["shared_values"]), 8.0 * len(file.blobs[layer.name])
        running.append(layer)
        maps = int(genes[ACTIVATION_BITS]) if ACTIVATION_BITS in genes else None
        choices.append(LayerChoice(zeros, bits, shared, genes["dataflow"], coded, maps))
    return running, choices


def _running(choices: Sequence[LayerChoice], dataflow: str | None, keep: bool) -> list[LayerChoice]:
    """The choices on one dataflow, or on their own where these are of the same accelerator."""
    from dataclasses import replace

    return [replace(each, dataflow=dataflow or (each.dataflow if keep else None)) for each in choices]


def _draw(costs: Sequence[NetworkCost], title: str, path: Path) -> None:
    from emomc.files import atomic_write
    from emomc.report.figures.cost import cost_figure

    figure = cost_figure(costs, title)
    with atomic_write(path) as stream:
        figure.savefig(stream, format="png", dpi=_DPI)
