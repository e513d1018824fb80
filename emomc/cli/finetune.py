"""`emomc finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emomc.cli.faults import Interrupted
from emomc.cli.files import file_of, load_run_task
from emomc.cli.runs import FOLDER
from emomc.cli.search import settings_for, task_options
from emomc.errors import EmomcError

if TYPE_CHECKING:
    from emomc.problems.tasks import Task

_MINUTES = 5.0  # where no budget is given


@click.command(short_help="Train a compressed network on, at the same size.")
@click.argument("source", type=FOLDER)
@click.argument("point", required=False)
@click.option("--out", type=FOLDER, help="File to write.  [default: RUN/finetuned/POINT.emomc]")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Budget.  [5, unless another is given]")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Budget in passes over the images.")
@click.option("--steps", type=click.IntRange(1), help="Budget in optimizer steps.")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate.  [0.005]")
@click.option("--batch", type=click.IntRange(2), help="Images a step.  [recipe's]")
@click.option("--distill", type=click.FloatRange(0, 1), help="Share of the dense network's output in the loss.  [0.5]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of order and augmentation.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto takes cuda if present.")
@click.option("--task", help="What it is trained on, where that is a function of your own.")
@click.option("--data", type=click.Path(), help="Data folder, for tasks that take one; of a run, its own is used.")
@click.option("--checkpoint", type=click.Path(), help="Weights file of the dense network, likewise.")
@click.option("--download", is_flag=True, help="Let the task download its data.")
def finetune(source: Path, point: str | None, out: Path | None, task: str | None, **given: Any) -> None:
    """Train SOURCE on: POINT of the folder of a run, or a compressed file.

    Zeros, bit-widths and codebook sizes stay as they are, and the new file is not larger: where it would be, more
    weights become zero. The weights move on their grids, codebooks with the mean gradient of their weights; the dense
    network teaches. It trains on images that are in none of the task's splits and measures the decoded file on the
    selection split; `emomc verify FILE` measures it on the test split.

    Ctrl-C saves the training beside the file; repeating the command goes on where it stopped.

    \b
    Examples:
      emomc finetune runs/digits p03 --epochs 5
      emomc finetune runs/digits p03 --minutes 10 --out tuned.emomc
      emomc finetune w4.emomc --out tuned.emomc
    """  # noqa: D301 - click's mark
    path = file_of(source, point)
    if out is None:
        if point is None:
            raise EmomcError("name the file to write: --out FILE.")
        out = source / "finetuned" / f"{point}.emomc"
    saved = out.with_suffix(".training.pt")
    if out.exists() and not saved.exists():
        raise EmomcError(f"{out} exists. Choose another name with --out.")
    try:
        _finetune(source, path, out, saved, task, given)
    except KeyboardInterrupt:
        kept = (
            f"{saved} holds what was trained. Repeat the command to go on." if saved.exists() else "nothing was kept."
        )
        raise Interrupted(kept) from None


def _load(source: Path, path: Path, name: str | None, given: dict[str, Any]) -> Task:
    from emomc.coding import read_network
    from emomc.problems.tasks import load_task
    from emomc.report import read_run

    if source.is_dir():
        return load_run_task(read_run(source), name)
    return load_task(
        name or str(read_network(path).header.get("task")),
        **task_options(given["data"], given["checkpoint"], given["download"]),
    )


def _finetune(source: Path, path: Path, out: Path, saved: Path, name: str | None, given: dict[str, Any]) -> None:
    from dataclasses import replace

    from emomc.cli.progress import duration, shown_progress

    with shown_progress(1) as tell:
        tell("starting", 0, 1)
        from emomc.export import finetune as train_on
        from emomc.export import finetune_recipe
        from emomc.training import Budget
        from emomc.units import percent, points

        settings = settings_for(given["device"])
        task = _load(source, path, name, given)
        chosen = {"learning_rate": given["rate"], "batch": given["batch"], "distillation": given["distill"]}
        chosen = {key: value for key, value in chosen.items() if value is not None}
        recipe = replace(finetune_recipe(task), seed=given["seed"], **chosen)
        budget = {key: given[key] for key in ("steps", "epochs", "minutes") if given[key] is not None}
        found = train_on(
            path,
            out,
            task,
            Budget(**(budget or {"minutes": _MINUTES})),
            recipe=recipe,
            checkpoint=saved,
            settings=settings,
            tell=tell,
            notice=click.echo,
        )
    progress, (before, after) = found.progress, found.training_loss
    click.echo(f"{out}: {progress.steps} steps in {duration(progress.seconds)}; {progress.stopped}.")
    click.echo(
        f"size   {found.size_after} bytes, {found.size_after - found.size_before:+d} ({path}: {found.size_before})"
    )
    click.echo(f"loss on training images  {before:.4f} before, {after:.4f} after")
    for what, measured in (("before", found.before), ("after", found.after)):
        click.echo(
            f"{what:6} error {percent(measured.error)} on {measured.samples} selection images, "
            f"loss {points(measured.difference, measured.standard_error)} points, measured"
        )
    click.echo(f"Next: emomc verify {out}   (measures it on the test split)")
