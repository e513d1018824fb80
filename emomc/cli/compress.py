"""`emomc compress`."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emomc.cli.runs import FOLDER
from emomc.cli.search import default_folder, settings_for, task_options
from emomc.errors import EmomcError

if TYPE_CHECKING:
    from emomc.accuracy import Settings
    from emomc.export import CompressedFile
    from emomc.problems.tasks import Task


@click.command(short_help="Compress a task at one configuration, without a search.")
@click.argument("task")
@click.option("--config", help="A YAML file, or a name.")
@click.option("--prune-ratio", type=click.FloatRange(0, 1), help="Of every layer: fraction of weights set to zero.")
@click.option("--bit-width", type=click.IntRange(2, 16), help="Of every layer's stored weights.")
@click.option("--shared-values", type=click.IntRange(0, 65536), help="Of every layer: distinct non-zero weights.")
@click.option("--point", help="Take the configuration of this point of a run.")
@click.option("--run", type=FOLDER, help="Folder of the run.  [default: runs/TASK]")
@click.option("--out", type=FOLDER, required=True, help="File to write.")
@click.option("--shrink", is_flag=True, help="Remove channels that no layer reads, for good.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
@click.option(
    "--method",
    default="in-order",
    show_default=True,
    help="in-order: each layer makes up for those before it; or layers alone: obs, magnitude, published.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto takes cuda if present.")
@click.option("--data", type=click.Path(), help="Data folder, for tasks that take one.")
@click.option("--checkpoint", type=click.Path(), help="Weights file, for tasks that take one.")
@click.option("--download", is_flag=True, help="Let the task download its data.")
def compress(
    task: str,
    config: str | None,
    prune_ratio: float | None,
    bit_width: int | None,
    shared_values: int | None,
    point: str | None,
    run: Path | None,
    out: Path,
    shrink: bool,
    force: bool,
    method: str,
    device: str,
    **given: Any,
) -> None:
    """Compress TASK at one given configuration and measure the file on the test split.

    A configuration file gives patterns of layer names what they get. Later patterns win, choice by choice; a layer
    that nothing matches keeps all its weights in 16 bits:

    \b
      "*":        {prune_ratio: 0.6, bit_width: 4}
      "layer1.*": {bit_width: 8, shared_values: 16}
      "layer2.*": {granularity: "2:4", bit_width: 8}

    Names that come with the package: 2-4w8, p50w4, p70w4, w4, w8, w8s16.

    \b
    Examples:
      emomc compress digits --config w4 --out digits.emomc
      emomc compress digits --prune-ratio 0.6 --bit-width 4 --out digits.emomc
      emomc compress digits --config mine.yaml --out digits.emomc
      emomc compress digits --point p03 --run runs/digits --out digits.emomc
    """  # noqa: D301 - click's mark
    alike = {"prune_ratio": prune_ratio, "bit_width": bit_width, "shared_values": shared_values}
    alike = {name: choice for name, choice in alike.items() if choice is not None}
    if sum(map(bool, (config, alike, point))) != 1:
        raise EmomcError(
            "expected one configuration: --config FILE, or --prune-ratio, --bit-width and --shared-values for all "
            "layers alike, or --point of a run."
        )
    if run and not point:
        raise EmomcError("--run goes with --point, whose configuration is taken.")
    if out.exists() and (not force or out.is_dir()):
        raise EmomcError(f"{out} exists. Choose another name, or replace it with --force.")
    from emomc.cli.progress import shown_progress

    with shown_progress(1) as tell:
        tell("loading", 0, 1)
        from emomc.export import Compressor
        from emomc.problems.tasks import load_task

        settings = settings_for(device)
        loaded = load_task(task, **task_options(**given))
        configuration = config or ({"*": alike} if alike else of_point(run or default_folder(task), str(point)))
        made = Compressor(loaded, settings).compress(configuration, out, method=method, progress=tell)
        if shrink:
            tell("shrinking", 0, 1)
            made = shrunk(made, loaded, settings)
    for line in facts(made):
        click.echo(line)


def shrunk(made: CompressedFile, task: Task, settings: Settings) -> CompressedFile:
    """The same without the channels that no layer reads, measured anew: its sums are added up in another order."""
    from emomc.coding import read_network
    from emomc.export import measure_file, shrink_file

    size = shrink_file(made.path, made.path, lambda: copy.deepcopy(task.module))
    weights = sum(map(len, read_network(made.path).blobs.values()))
    found = measure_file(made.path, task, settings=settings)
    return replace(made, measurement=found, size_bytes=size, weight_bytes=weights)


def of_point(folder: Path, name: str) -> dict[str, dict[str, float | int | str]]:
    """The choices of a point that decide its network."""
    from emomc.report import read_run

    genes = read_run(folder).point(name).genes
    return {
        layer: {
            "prune_ratio": float(choices["prune_ratio"]),
            "granularity": choices.get("granularity", "weight"),
            "bit_width": int(choices["bit_width"]),
            "shared_values": int(choices["shared_values"]),
            **({"activation_bits": int(choices["activation_bits"])} if "activation_bits" in choices else {}),
        }
        for layer, choices in genes.items()
    }


def facts(made: CompressedFile) -> list[str]:
    """What was made, a fact a line."""
    from emomc.units import percent, points, si

    found, ratio = made.measurement, made.dense_bytes / made.size_bytes
    return [
        f"file   {made.path}",
        f"error  {percent(found.error)} on {found.samples} test samples, dense {percent(made.dense_error)}",
        f"loss   {points(found.difference, found.standard_error)} points",
        f"size   {made.size_bytes} bytes, {ratio:.1f} x less than {si(made.dense_bytes, 'B')} in 32-bit floats",
        f"       {made.weight_bytes} bytes of them are coded weights",
    ]
