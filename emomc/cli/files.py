"""Commands about compressed files: export, verify."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from emomc.cli.faults import Different
from emomc.cli.runs import FOLDER
from emomc.cli.search import settings_for, task_options
from emomc.errors import EmomcError
from emomc.files import atomic_write

if TYPE_CHECKING:
    from emomc.accuracy import Measurement, Settings
    from emomc.coding import NetworkFile
    from emomc.problems.tasks import Task
    from emomc.report import Point, RunData

_ELSEWHERE = 0.001  # by which errors may differ where another device than the search's rounds sums otherwise


@click.command(short_help="Copy a point's file, or write it as ONNX or plain weights.")
@click.argument("source", type=FOLDER)
@click.argument("point", required=False)
@click.option("--out", type=FOLDER, required=True, help="File to write.")
@click.option(
    "--to",
    "kind",
    type=click.Choice(["emomc", "onnx", "state-dict"]),
    default="emomc",
    show_default=True,
    help="emomc: the compressed file; onnx: a model that onnxruntime runs; state-dict: plain torch weights.",
)
@click.option(
    "--weights",
    type=click.Choice(["coded", "dense"]),
    default="coded",
    show_default=True,
    help="In ONNX: integers and codebooks, or 32-bit floats.",
)
@click.option("--shrink", is_flag=True, help="Remove channels that no layer reads, for good; emomc files only.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def export(
    source: Path, point: str | None, out: Path, kind: str, weights: Literal["coded", "dense"], shrink: bool, force: bool
) -> None:
    """Write SOURCE to a file of its own: POINT of the folder of a run, or a compressed file.

    ONNX needs further packages: pip install 'emomc[onnx]'. Its weights are integers of 4, 8 or 16 bits with their
    scales, or indices into codebooks; state-dict is as large as the uncompressed network.

    \b
    Examples:
      emomc export runs/digits p03 --out digits.emomc
      emomc export runs/digits p03 --out digits.emomc --shrink
      emomc export runs/digits p03 --out digits.onnx --to onnx
      emomc export digits.emomc --out digits.pt --to state-dict

    In Python:
      module = emomc.load("digits.emomc")               a torch module, decoded
      state = torch.load("digits.pt", weights_only=True)
    """  # noqa: D301 - click's mark
    path = file_of(source, point)
    if out.exists() and out.samefile(path):
        raise EmomcError(f"{out} is what is exported. Choose another name.")
    if out.exists() and (not force or out.is_dir()):
        raise EmomcError(f"{out} exists. Choose another name, or replace it with --force.")
    if weights != "coded" and kind != "onnx":
        raise EmomcError("--weights goes with --to onnx.")
    if shrink and kind != "emomc":
        raise EmomcError("--shrink goes with --to emomc; what it writes can be exported again.")
    out.parent.mkdir(parents=True, exist_ok=True)
    from emomc.coding import read_network

    if shrink:
        from emomc.export import shrink_file

        shrink_file(path, out)
    elif kind == "emomc":
        read_network(path)  # a damaged file is refused, not copied
        with atomic_write(out) as stream:
            stream.write(path.read_bytes())
    else:
        from emomc.export import export_onnx, export_state_dict

        _ = export_onnx(path, out, weights=weights) if kind == "onnx" else export_state_dict(path, out)
    click.echo(f"{out}: {out.stat().st_size} bytes, {f'{point} of {source}' if point else source}")


def file_of(source: Path, point: str | None) -> Path:
    """The compressed file that is meant."""
    if source.is_file():
        if point is not None:
            raise EmomcError(f"{source} is a file, not the folder of a run: it has no point {point!r}.")
        return source
    from emomc.report import knee, read_run

    run = read_run(source)
    if point is None:
        raise EmomcError(f"name a point of {source}, such as {knee(run).name}: `emomc show {source}` lists them.")
    path = source / run.point(point).file
    if not path.is_file():
        raise EmomcError(f"{path} is missing. Repeat the search's command to write it anew; nothing is searched again.")
    return path


@click.command(short_help="Decode a file, or points of a run, and measure them.")
@click.argument("source", type=FOLDER)
@click.argument("names", metavar="[POINT]...", nargs=-1)
@click.option("--file", type=FOLDER, help="Check this file in place of the point's own, e.g. an exported one.")
@click.option("--task", help="What it is measured on, where that is a function of your own.")
@click.option("--data", type=click.Path(), help="Data folder, for tasks that take one; of a run, its own is used.")
@click.option("--checkpoint", type=click.Path(), help="Weights file, likewise.")
@click.option("--download", is_flag=True, help="Let the task download its data.")
@click.option("--device", help="cpu, cuda, cuda:1, ...  [default: the run's; of a file, cuda if present]")
def verify(
    source: Path, names: tuple[str, ...], file: Path | None, task: str | None, device: str | None, **given: Any
) -> None:
    """Check a compressed file, or the files of the points of a run, and measure them on the test split.

    Of a file, every layer is decoded, encoded and decoded again, which must give the same bits, and the network is
    measured. Of a run, error and size must moreover be what the search reported, to the last digit; on another device
    than the search's, where sums are rounded otherwise, the error to 0.1 points. The exit code is 1 if anything
    differs. Without POINT every point of the front is checked.

    \b
    Examples:
      emomc verify digits.emomc
      emomc verify runs/digits
      emomc verify runs/digits p03 --file digits.emomc
    """  # noqa: D301 - click's mark
    if source.is_file():
        if names or file:
            raise EmomcError(f"{source} is a file, not the folder of a run: POINT and --file go with a run.")
        _verify_file(source, task, task_options(**given), settings_for(device or "auto"))
        return
    from emomc.report import read_run

    data = read_run(source)
    points = [data.point(name) for name in names] or list(data.points)
    if file is not None and len(points) != 1:
        raise EmomcError("--file goes with exactly one POINT.")
    loaded, own = load_run_task(data, task), str(data.summary.get("device", "cpu"))
    settings = settings_for(device or own)
    tolerance = 0.0 if settings.device.split(":")[0] == own.split(":", maxsplit=1)[0] else _ELSEWHERE

    def agrees(point: Point) -> bool:
        return _agrees(point, _measured(point, file, source / point.file, loaded, settings), tolerance)

    different = [point.name for point in points if not agrees(point)]
    if different:
        raise Different(f"{', '.join(different)} of {len(points)} checked differ from the report.")


def _verify_file(path: Path, given: str | None, options: Mapping[str, Any], settings: Settings) -> None:
    from emomc.coding import read_network
    from emomc.export import check_file, measure_file
    from emomc.units import percent, points

    name, task = task_of_file(read_network(path), given, options)
    found = check_file(path, None if task is None else lambda: copy.deepcopy(task.module))
    click.echo(f"{path}: {found.size_bytes} bytes, task {found.header.get('task')}")
    click.echo(f"{found.layers} layers of {found.weights} weights in {found.weight_bytes} bytes")
    if found.different:
        raise Different(f"{path}: {', '.join(found.different)}: other values after encoding and decoding once more.")
    click.echo(f"encoded again: the same values in {found.encoded_bytes} bytes")
    if task is None:
        click.echo(f"not measured: {name!r} is no installed task. Name your own with --task.")
        return
    result = measure_file(path, task, settings=settings)
    loss = points(result.difference, result.standard_error)
    click.echo(f"error {percent(result.error)} ({result.error!r}) on {result.samples} test samples, loss {loss} points")
    if not options.get("checkpoint"):
        click.echo(
            "The loss is against the task's own weights: --checkpoint names those that were compressed, if others."
        )


def task_of_file(file: NetworkFile, given: str | None, options: Mapping[str, Any]) -> tuple[str, Task | None]:
    """The name of a file's task, and the task; none where it is a function of one's own that the user did not name."""
    from emomc.problems.tasks import load_task, task_names

    name = given or str(file.header.get("task"))
    return name, load_task(name, **options) if given or name in task_names() else None


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
        raise EmomcError(f"{data.folder} was made with other weights, data or error than task {name!r} has now.")
    return task


def _measured(
    point: Point, given: Path | None, own: Path, task: Task, settings: Settings
) -> tuple[Measurement, int] | None:
    """Measurement and bytes of a point's own file, or of one that is given in its place; None, and told, if damaged."""
    from emomc.export import measure_file

    path = given or own
    try:
        return measure_file(path, task, settings=settings), path.stat().st_size
    except EmomcError as error:
        advice = "" if given else " Repeating the search's command writes the file anew."
        click.echo(f"{point.name}  {error}{advice}")
        return None


def _agrees(point: Point, measured: tuple[Measurement, int] | None, tolerance: float) -> bool:
    """Whether a file is what the run reported; it is told."""
    from emomc.report import SIZE, percent

    if measured is None:
        return False
    found, size = measured
    apart = max(abs(found.error - point.error), abs(found.standard_error - point.standard_error))
    same = apart <= tolerance and size == point.costs[SIZE]
    verdict = "as reported" if same else f"reported: {point.error!r}, {point.costs[SIZE]:.0f} bytes"
    click.echo(f"{point.name}  error {percent(found.error)} ({found.error!r}), {size} bytes: {verdict}")
    return same
