"""Commands about the files of points: export, verify."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emomc.cli.faults import Different
from emomc.cli.runs import FOLDER
from emomc.errors import EmomcError

if TYPE_CHECKING:
    from emomc.problems.tasks import Task
    from emomc.report import Point, RunData


@click.command(short_help="Copy a point's file, or decode it to plain weights.")
@click.argument("run", type=FOLDER)
@click.argument("point")
@click.option("--out", type=FOLDER, required=True, help="File to write.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["emomc", "state-dict"]),
    default="emomc",
    show_default=True,
    help="emomc: the compressed file; state-dict: plain torch weights, as large as uncompressed.",
)
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def export(run: Path, point: str, out: Path, kind: str, force: bool) -> None:
    """Write POINT of the folder RUN to a file of its own.

    \b
    Examples:
      emomc export runs/digits p03 --out digits.emomc
      emomc export runs/digits p03 --out digits.pt --format state-dict

    In Python:
      module = emomc.load("digits.emomc")               a torch module, decoded
      state = torch.load("digits.pt", weights_only=True)
    """  # noqa: D301 - click's mark
    from emomc.report import read_run

    source = run / read_run(run).point(point).file
    if not source.is_file():
        raise EmomcError(
            f"{source} is missing. Repeat the search's command to write it anew; nothing is searched again."
        )
    if out.exists() and (not force or out.is_dir() or out.samefile(source)):
        raise EmomcError(f"{out} exists. Choose another name, or replace it with --force.")
    if kind == "emomc":
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out)
    else:
        from emomc.export import export_state_dict

        export_state_dict(source, out)
    click.echo(f"{out}: {out.stat().st_size} bytes, {point} of {run}")


@click.command(short_help="Decode points again and measure them.")
@click.argument("run", type=FOLDER)
@click.argument("names", metavar="[POINT]...", nargs=-1)
@click.option("--file", type=FOLDER, help="Check this file in place of the point's own, e.g. an exported one.")
@click.option("--task", help="The run's task, where it is a function of your own.")
def verify(run: Path, names: tuple[str, ...], file: Path | None, task: str | None) -> None:
    """Decode the files of a run, measure them on the test split and compare with what the search reported.

    Error and size must be equal to the last digit. The exit code is 1 if any differs. Without POINT every point of the
    front is checked.

    \b
    Examples:
      emomc verify runs/digits
      emomc verify runs/digits p03 --file digits.emomc
    """  # noqa: D301 - click's mark
    from emomc.report import read_run

    data = read_run(run)
    points = [data.point(name) for name in names] or list(data.points)
    if file is not None and len(points) != 1:
        raise EmomcError("--file goes with exactly one POINT.")
    loaded = load_run_task(data, task)
    different = [point.name for point in points if not _agrees(point, file or run / point.file, loaded)]
    if different:
        raise Different(f"{', '.join(different)} of {len(points)} checked differ from the report.")


def load_run_task(data: RunData, given: str | None) -> Task:
    """The task that a run was made with. Functions of one's own are only called when the user names them.

    Raises:
        EmomcError: the run's task is a function of one's own and was not named, or is another one now.
    """
    from emomc.problems.tasks import load_task, task_names

    name = given or str(data.options["task"])
    if given is None and name not in task_names():
        raise EmomcError(f"the task of {data.folder} is {name!r}, which is not installed. Name it with --task {name}")
    task = load_task(name, **data.options.get("task_options", {}))
    if task.fingerprint != data.options.get("fingerprint"):
        raise EmomcError(f"{data.folder} was made with other weights or data than task {name!r} has now.")
    return task


def _agrees(point: Point, path: Path, task: Task) -> bool:
    from emomc.export import measure_file
    from emomc.report import SIZE, percent

    found, size = measure_file(path, task), path.stat().st_size
    same = (found.error, found.standard_error) == (point.error, point.standard_error) and size == point.costs[SIZE]
    verdict = "as reported" if same else f"reported: {point.error!r}, {point.costs[SIZE]:.0f} bytes"
    click.echo(f"{point.name}  error {percent(found.error)} ({found.error!r}), {size} bytes: {verdict}")
    return same
