"""`emomc search`."""

from __future__ import annotations

import re
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emomc.cli.faults import Interrupted
from emomc.cli.values import activation_bits, genes, loss, training
from emomc.errors import EmomcError

if TYPE_CHECKING:
    from emomc.accuracy import Settings
    from emomc.run import Options

_OWN = ("data", "checkpoint", "download")  # options that are handed to the task
_ENGINE = ("workers", "time_limit", "scheduler")  # what measures; the result does not depend on it


@click.command(short_help="Search a task and measure the front.")
@click.argument("task")
@click.option("--run", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/TASK]")
@click.option("--budget", type=click.IntRange(1), default=200, show_default=True, help="Networks to measure.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Start no further round after this time.")
@click.option("--points", type=click.IntRange(1), default=40, show_default=True, help="Points of the front, at most.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of all random choices.")
@click.option("--strategy", default="two-stage", show_default=True, help="two-stage, or published: Wang et al. 2021.")
@click.option(
    "--method",
    default="obs",
    show_default=True,
    help="How layers are compressed: obs, which keeps their outputs; magnitude; or published.",
)
@click.option("--accelerator", default="published", show_default=True, help="What the network is to run on.")
@click.option("--dataflow", multiple=True, metavar="NAME", help="Allow this dataflow, e.g. X:Y; repeatable.  [all]")
@click.option(
    "--objective",
    multiple=True,
    metavar="NAME",
    help="Minimize this: a name, or module:attribute; repeatable.  [error, energy, size]",
)
@click.option("--constraint", multiple=True, metavar="TEXT", help="Such as 'size<=100kB'; repeatable.")
@click.option(
    "--max-loss",
    metavar="LOSS",
    callback=loss,
    default="10%",
    show_default=True,
    help="Most error above the dense network's.",
)
@click.option(
    "--gene",
    "genes",
    metavar="GENE=CHOICES",
    callback=genes,
    multiple=True,
    help="Such as bit_width=8,4,2, or granularity=weight,2:4,channel; repeatable.",
)
@click.option(
    "--activation-bits",
    metavar="BITS",
    callback=activation_bits,
    help="Quantize every layer's input to 2 to 8 bits; of several, such as 16,8,6,4, each layer has its own.  [16]",
)
@click.option(
    "--recover",
    metavar="BUDGET",
    callback=training,
    help="Train chosen pruned networks before they are quantized, each for 10min, 5epochs or 300steps.",
)
@click.option(
    "--recover-networks",
    type=click.IntRange(1),
    metavar="N",
    help="How many, evenly spread in cost.  [3]",
)
@click.option(
    "--elastic",
    metavar="BUDGET",
    callback=training,
    help="After half of the networks, train for those on the front: 10min, 5epochs or 300steps; then search again.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes, or networks in flight on a GPU; the result does not depend on it.  [one per CPU, 2 on a GPU]",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="A network that takes longer failed.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Measure on the workers of a Dask scheduler: tcp://host:port.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto takes cuda if present.")
@click.option("--data", type=click.Path(), help="Data folder, for tasks that take one.")
@click.option("--checkpoint", type=click.Path(), help="Weights file, for tasks that take one.")
@click.option("--download", is_flag=True, help="Let the task download its data.")
def search(task: str, run: Path | None, device: str, **given: Any) -> None:
    """Search for compressed networks of TASK that no other beats, and measure them.

    TASK is a name that `emomc tasks` lists, or a function of your own as module:function or file.py:function.

    Everything is kept in the run folder. Ctrl-C is safe at any moment: every measurement is on disk when it is made,
    and repeating the command goes on where it stopped. A larger --budget uses what is already measured.

    \b
    Examples:
      emomc search digits
      emomc search digits --budget 60 --max-loss 5% --run runs/quick
      emomc search cifar10-resnet20 --data ~/data --constraint 'size<=60kB'
      emomc search digits --objective error --objective mymodule:bit_operations
      emomc search digits --activation-bits 8
      emomc search digits --gene bit_width=8,4,2 --dataflow X:Y --dataflow CI:CO
      emomc search digits --recover 20epochs
      emomc search digits --elastic 300steps
    """  # noqa: D301 - click's mark
    if given["recover_networks"] and not given["recover"]:
        raise click.UsageError("--recover-networks says how many networks are trained: say how long with --recover.")
    if given["elastic"] and given["recover"]:
        raise click.UsageError("--recover and --elastic are two ways to train in a search: give one of them.")
    folder = run or default_folder(task)
    options = _options(task, given)
    started = time.monotonic()
    threading.excepthook = _quiet_pool
    try:
        evaluations = _run(folder, options, device, {name: given[name] for name in _ENGINE})
        _report(folder, evaluations, time.monotonic() - started)
    except KeyboardInterrupt:
        raise Interrupted(_kept(folder)) from None


def _options(task: str, given: Mapping[str, Any]) -> Options:
    from emomc.run import ElasticTraining, Options, Recovery

    trained = {"networks": given["recover_networks"] or Recovery.networks, **given["recover"]}
    return Options(
        task=task,
        task_options=task_options(**{name: given[name] for name in _OWN}),
        accelerator=given["accelerator"],
        dataflows=given["dataflow"],
        objectives=given["objective"] or ("error", "energy", "size"),
        constraints=given["constraint"],
        max_loss=given["max_loss"],
        strategy=given["strategy"],
        method=given["method"],
        genes=given["genes"] | given["activation_bits"],
        seed=given["seed"],
        budget=given["budget"],
        minutes=given["minutes"],
        points=given["points"],
        recovery=Recovery(**trained) if given["recover"] else None,
        elastic=ElasticTraining(**given["elastic"]) if given["elastic"] else None,
    )


def task_options(data: str | None, checkpoint: str | None, download: bool) -> dict[str, Any]:
    """Options of a task that were given; paths are absolute, so that a run can be used from any folder."""
    paths = {"data": data, "checkpoint": checkpoint}
    options: dict[str, Any] = {
        name: str(Path(path).expanduser().resolve()) for name, path in paths.items() if path is not None
    }
    return options | ({"download": True} if download else {})


def settings_for(device: str) -> Settings:
    """How networks are evaluated on a device.

    Raises:
        EmomcError: there is no such device.
    """
    import torch

    from emomc.accuracy import Settings

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise EmomcError(f"device {device!r} cannot be used: {reason}. Choose --device cpu, or auto.") from None
    return Settings(device=device)


def _run(folder: Path, options: Options, device: str, engine: Mapping[str, Any]) -> int:
    """Search; the number of evaluations."""
    from emomc.cli.progress import shown_progress

    with shown_progress(options.budget) as tell:
        tell("starting", 0, 1)
        from emomc.run import Session, run_search, search_with_elastic_training, search_with_recovery

        settings = settings_for(device)
        if options.recovery or options.elastic:
            trained = search_with_recovery if options.recovery else search_with_elastic_training
            found = trained(folder, options, settings=settings, progress=tell, notice=click.echo, **engine)
            return len(found.evaluations)
        with Session(folder, options, settings=settings, progress=tell, **engine) as session:
            return len(run_search(session).evaluations)


def _report(folder: Path, evaluations: int, seconds: float) -> None:
    from emomc.cli.output import console, print_run
    from emomc.cli.progress import duration
    from emomc.report import knee, plot_run, read_run
    from emomc.units import percent, si

    def shown(value: float, unit: str) -> str:
        return si(value, unit) if unit else percent(value)

    run, out = read_run(folder), console()
    print_run(run)
    out.print(f"This command took {duration(seconds)} for {evaluations} evaluations, those already measured included.")
    for reason, count in run.summary.get("failures", {}).items():
        out.print(f"{count} could not be measured: {reason}.")
    if not evaluations:
        out.print("No network was measured in the time: repeat the command with more --minutes.")
        return
    if not run.points:
        out.print("No network met the limits: raise --max-loss or relax constraints, with another --run folder.")
        for each in run.summary.get("unmet", ()):
            value, limit = (shown(each[key], each["unit"]) for key in ("value", "limit"))
            out.print(f"The one that comes closest has {each['constraint']} {value}; at most {limit} was asked for.")
        return
    out.print("Figures: " + ", ".join(str(path) for path in plot_run(run)))
    place, name = shlex.quote(str(folder)), default_folder(str(run.options["task"])).name
    out.print(f"Next: emomc pick {place} --max-loss 1%")
    out.print(f"      emomc export {place} {knee(run).name} --out {name}.emomc")


def _quiet_pool(problem: threading.ExceptHookArgs) -> None:
    """Report what fails in a thread, but not that the thread of a worker pool was ended by Ctrl-C in mid-stride."""
    name = problem.thread.name if problem.thread else ""
    if not (name.startswith("ExecutorManagerThread") and issubclass(problem.exc_type, KeyError)):
        threading.__excepthook__(problem)


def _kept(folder: Path) -> str:
    """What an interrupted search leaves."""
    stores = sorted(folder.glob("**/store.sqlite"))  # of a search with training between its stages every part has one
    if "emomc.run.store" not in sys.modules or not stores:
        return "nothing had been measured yet."
    from emomc.run.store import Store

    count = 0
    for path in stores:
        store = Store(path)
        try:
            count += len(store)
        finally:
            store.close()
    kept = "1 measurement is" if count == 1 else f"{count} measurements are"
    return f"{kept} kept in {folder}. Repeat the command to continue where it stopped."


def default_folder(task: str) -> Path:
    """Where a task's run is kept unless told otherwise; of ``path/to/file.py:function`` the function names it."""
    return Path("runs") / re.sub(r"[^\w.-]+", "-", task.rpartition(":")[2])
