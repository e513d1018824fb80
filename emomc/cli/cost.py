"""`emomc cost`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emomc.cli.runs import FOLDER
from emomc.cli.search import default_folder, task_options
from emomc.errors import EmomcError

if TYPE_CHECKING:
    from rich.table import Table

    from emomc.hardware import CostModel
    from emomc.network.layers import Layer


@dataclass(frozen=True)
class _Choice:
    """How one layer is stored and run."""

    prune_ratio: float
    bit_width: int
    shared_values: int
    dataflow: str
    coded_bits: float | None

    def items(self, model: CostModel, layer: Layer, dataflow: str | None = None) -> dict[str, float]:
        """Energy by item, joules."""
        return model.breakdown(
            layer,
            self.prune_ratio,
            self.bit_width,
            self.shared_values,
            dataflow or self.dataflow,
            coded_bits=self.coded_bits,
        )


@click.command(short_help="Energy by layer and dataflow.")
@click.argument("task")
@click.option("--accelerator", help="What the network runs on.  [published, or the run's]")
@click.option(
    "--bits", type=click.IntRange(2, 16), default=16, show_default=True, help="Of the dense network's weights."
)
@click.option("--point", help="Cost of this point of a run in place of the dense network.")
@click.option("--run", type=FOLDER, help="Folder of the run.  [default: runs/TASK]")
@click.option("--data", type=click.Path(), help="Data folder, for tasks that take one.")
@click.option("--checkpoint", type=click.Path(), help="Weights file, for tasks that take one.")
@click.option("--download", is_flag=True, help="Let the task download its data.")
def cost(task: str, accelerator: str | None, bits: int, point: str | None, run: Path | None, **given: Any) -> None:
    """Energy of one inference of TASK by layer and dataflow, and what it is made of.

    The first table has the energy of every layer on each dataflow; the second itemises it on the dataflow that the
    layer runs on: the best for the dense network, the chosen one for a point. Items add up to the totals.

    \b
    Examples:
      emomc cost digits
      emomc cost digits --bits 8
      emomc cost digits --point p03 --run runs/digits
    """  # noqa: D301 - click's mark
    from emomc.cli.output import console
    from emomc.hardware import load_accelerator
    from emomc.network import trace
    from emomc.problems.tasks import load_task
    from emomc.report import si

    folder = run or default_folder(task)
    stored = _stored(folder) if point else {}
    model = load_accelerator(accelerator or stored.get("accelerator", "published"))
    options = {**stored.get("task_options", {}), **task_options(**given)}
    loaded = load_task(task, **options)
    layers = trace(loaded.module, loaded.example_input).layers
    choices = _of_point(folder, point, layers) if point else _of_dense(model, layers, bits)
    what = f"point {point} of {folder}" if point else f"dense network with {bits}-bit weights"
    out = console()
    out.print(_by_dataflow(f"{loaded.name} on {model.name}: {what}", model, layers, choices))
    out.print(_by_item("What it is made of", model, layers, choices))
    floats = sum(min(model.reference([layer], name)["energy"] for name in model.dataflows) for layer in layers)
    out.print(f"The dense network in 32-bit floats, which ratios are against: {si(floats, 'J')}")


def _stored(folder: Path) -> Mapping[str, Any]:
    from emomc.run import read_options

    return read_options(folder)


def _of_dense(model: CostModel, layers: Sequence[Layer], bits: int) -> list[_Choice]:
    """Every layer uncompressed, on its best dataflow."""
    choices = [_Choice(0.0, bits, 0, dataflow, None) for dataflow in model.dataflows]
    energies = [[sum(choice.items(model, layer).values()) for choice in choices] for layer in layers]
    return [choices[row.index(min(row))] for row in energies]


def _of_point(folder: Path, name: str, layers: Sequence[Layer]) -> list[_Choice]:
    """The choices of a point, with the coded bits that its file holds."""
    from emomc import coding
    from emomc.report import read_run

    data = read_run(folder)
    found = data.point(name)
    if set(found.genes) != {layer.name for layer in layers}:
        raise EmomcError(f"{folder} is a run of task {data.options['task']!r}; its layers are not those of this task.")
    blobs = coding.read_network(folder / found.file).blobs
    return [
        _Choice(
            float(genes["prune_ratio"]),
            int(genes["bit_width"]),
            int(genes["shared_values"]),
            genes["dataflow"],
            8.0 * len(blobs[layer.name]),
        )
        for layer, genes in ((layer, found.genes[layer.name]) for layer in layers)
    ]


def _by_dataflow(title: str, model: CostModel, layers: Sequence[Layer], choices: Sequence[_Choice]) -> Table:
    from rich.table import Table

    from emomc.report import si

    table = Table(title=title)
    table.add_column("layer", no_wrap=True)
    for name in ("MACs", "weights", *model.dataflows, "runs on", "energy"):
        table.add_column(name, justify="left" if name == "runs on" else "right", no_wrap=True)
    sums = dict.fromkeys(model.dataflows, 0.0)
    total = 0.0
    for layer, choice in zip(layers, choices, strict=True):
        row = {name: sum(choice.items(model, layer, name).values()) for name in model.dataflows}
        sums = {name: sums[name] + row[name] for name in row}
        total += row[choice.dataflow]
        cells = [si(value, "J") for value in row.values()]
        counts = [si(layer.macs, ""), si(layer.weight_count, "")]
        table.add_row(layer.name, *counts, *cells, choice.dataflow, si(row[choice.dataflow], "J"))
    table.add_section()
    counts = [si(sum(layer.macs for layer in layers), ""), si(sum(layer.weight_count for layer in layers), "")]
    table.add_row("all", *counts, *(si(value, "J") for value in sums.values()), "", si(total, "J"), style="bold")
    return table


def _by_item(title: str, model: CostModel, layers: Sequence[Layer], choices: Sequence[_Choice]) -> Table:
    from rich.table import Table

    from emomc.report import si

    rows = [choice.items(model, layer) for layer, choice in zip(layers, choices, strict=True)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title)
    table.add_column("layer", no_wrap=True)
    for name in (*names, "sum"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer, row in zip(layers, rows, strict=True):
        table.add_row(layer.name, *(si(row.get(name, 0.0), "J") for name in names), si(sum(row.values()), "J"))
    table.add_section()
    sums = [sum(row.get(name, 0.0) for row in rows) for name in names]
    table.add_row("all", *(si(value, "J") for value in (*sums, sum(sums))), style="bold")
    return table
