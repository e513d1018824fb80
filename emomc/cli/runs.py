"""Commands that read a run folder: show, plot, pick, salvage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from emomc.cli.values import amount, loss, quantity
from emomc.errors import unknown_name

if TYPE_CHECKING:
    from emomc.report import RunData

FOLDER = click.Path(path_type=Path)


@click.command(short_help="Print the front of a run.")
@click.argument("run", type=FOLDER)
def show(run: Path) -> None:
    """Print the front that a search left in the folder RUN.

    Every row is a file whose bytes are its size. Its error is measured on the test split, which the search does not
    see. The loss is the error above the dense network's, in percentage points, with its standard error; "less" is how
    many times less energy or size than the dense network in 32-bit floats.

    \b
    Example:
      emomc show runs/digits
    """  # noqa: D301 - click's mark
    from emomc.cli.output import print_run
    from emomc.report import read_run

    print_run(read_run(run))


@click.command(short_help="Draw the figures of a run.")
@click.argument("run", type=FOLDER)
@click.option("--out", type=FOLDER, help="Folder for the figures.  [default: RUN/figures]")
def plot(run: Path, out: Path | None) -> None:
    """Draw the front, the choices along it, the search's progress and its predictions.

    \b
    front.png        error against energy and against size, with standard errors and the dense network
    choices.png      what each layer of each point got: prune ratio, bit-width, shared values, dataflow
    hypervolume.png  how the measured front grew with the evaluations
    predictions.png  errors predicted before they were measured, and the measured ones

    \b
    Example:
      emomc plot runs/digits --out figures
    """  # noqa: D301 - click's mark
    from emomc.report import plot_run, read_run

    for path in plot_run(read_run(run), out):
        click.echo(path)


@click.command(short_help="Choose one point: the knee, or the best within budgets.")
@click.argument("run", type=FOLDER)
@click.option("--max-loss", metavar="LOSS", callback=loss, help="Most error above the dense network's, e.g. 0.5%.")
@click.option(
    "--max-energy", metavar="ENERGY", callback=quantity("J", "20uJ"), help="Most energy of one inference, e.g. 20uJ."
)
@click.option("--max-size", metavar="SIZE", callback=quantity("B", "100kB"), help="Largest file, e.g. 100kB.")
@click.option(
    "--max",
    "most",
    multiple=True,
    metavar="OBJECTIVE=VALUE",
    help="Most of another objective of the search, e.g. latency=2ms; repeatable.",
)
def pick(
    run: Path, max_loss: float | None, max_energy: float | None, max_size: float | None, most: tuple[str, ...]
) -> None:
    """Choose one point of a front.

    Without options this is the knee: the point nearest to the best of everything. With budgets it is the point within
    them that is best in the remaining objectives.

    The choice and --max-loss go by errors on the selection split, freed of chance as far as the search could tell: the
    cheapest network within a limit is often one that was lucky there. The error printed is measured on the test split
    and has had no part in the choice, so the loss it shows may be somewhat above the budget.

    \b
    Examples:
      emomc pick runs/digits
      emomc pick runs/digits --max-loss 0.5%
      emomc pick runs/digits --max-size 100kB --max-energy 20uJ
      emomc pick runs/fast --max latency=2ms --max-loss 1%
    """  # noqa: D301 - click's mark
    from emomc.report import ENERGY, LOSS, SIZE, best_within, point_lines, read_run

    data = read_run(run)
    limits = {**_limits(data, most), LOSS: max_loss, ENERGY: max_energy, SIZE: max_size}
    point = best_within(data, {name: limit for name, limit in limits.items() if limit is not None})
    for line in point_lines(data, point):
        click.echo(line)


def _limits(run: RunData, texts: tuple[str, ...]) -> dict[str, float | None]:
    """Limits by cost column of texts such as ``latency=2ms``."""
    columns = {run.name_and_unit(column)[0]: column for column in run.cost_columns}
    limits: dict[str, float | None] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in columns:
            raise unknown_name("objective", name, columns)
        unit = run.name_and_unit(columns[name])[1]
        limits[columns[name]] = amount(
            value, unit, f"{name}=2{'k' if unit == 'B' else 'm'}{unit}" if unit else f"{name}=10%"
        )
    return limits


@click.command(short_help="Save what can be read of a damaged store.")
@click.argument("run", type=FOLDER)
def salvage(run: Path) -> None:
    """Move the readable measurements of a damaged store into a new one.

    A search whose store is damaged stops and says so; nothing is changed. This keeps the damaged file beside the new
    store. Repeat the search's command afterwards: only what was lost is measured again.

    \b
    Example:
      emomc salvage runs/digits
    """  # noqa: D301 - click's mark
    from emomc.run import salvage as save

    count, damaged = save(run / "store.sqlite")
    click.echo(f"{count} measurements saved. The damaged file is {damaged}. Repeat the search's command to continue.")
