"""`emomc train`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from emomc.cli.compress import of_point
from emomc.cli.faults import Interrupted
from emomc.cli.runs import FOLDER
from emomc.cli.search import settings_for, task_options
from emomc.errors import EmomcError

if TYPE_CHECKING:
    from emomc.cli.progress import Tell
    from emomc.genome import Configuration
    from emomc.problems.tasks import Task
    from emomc.training import Budget, Recipe, Regime

_MINUTES = 10.0  # where no budget is given


@click.command(short_help="Train a task's network, from scratch or on from its weights.")
@click.argument("task")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Checkpoint to write.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Budget.  [10, unless another is given]")
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Budget in passes over the images.")
@click.option("--steps", type=click.IntRange(1), help="Budget in optimizer steps.")
@click.option("--scratch", is_flag=True, help="Start from untrained weights, with the task's own recipe.")
@click.option(
    "--prune",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="RATIO",
    help="Prune first: this share of work and weights, each layer as much as it bears; zeros then stay.",
)
@click.option(
    "--prune-as",
    type=(FOLDER, str),
    metavar="RUN POINT",
    help="Prune first: every layer to its prune ratio in this point of a run; zeros then stay.",
)
@click.option("--bits", type=click.IntRange(2, 16), help="Round all layers to this width in every forward pass.")
@click.option("--elastic", is_flag=True, help="Train so that compressing loses less; best with --front.")
@click.option(
    "--front",
    type=FOLDER,
    metavar="RUN",
    help="With --elastic: train for the networks on this run's front.  [five that treat all layers alike]",
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Highest learning rate.  [0.01; recipe's]")
@click.option("--batch", type=click.IntRange(2), help="Images a step.  [recipe's]")
@click.option(
    "--distill",
    type=click.FloatRange(0, 1),
    help="Share of the teacher's output in the loss.  [1; 0.5 where nothing is lost; 0 from scratch]",
)
@click.option("--teacher", type=click.Path(), help="Weights of the teacher.  [those that the task starts from]")
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Of order, augmentation, sampling, new weights.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...; auto takes cuda if present.")
@click.option("--data", type=click.Path(), help="Data folder, for tasks that take one.")
@click.option("--checkpoint", type=click.Path(), help="Weights to start from, for tasks that take them.")
@click.option("--download", is_flag=True, help="Let the task download its data.")
def train(task: str, out: Path, prune: float | None, bits: int | None, elastic: bool, **given: Any) -> None:
    """Train the network of TASK on images that are in none of its splits, and write a checkpoint.

    Without --scratch it goes on from the task's weights, taught by the network as it was. What is zero stays zero, so
    that a pruned network can be trained on. The checkpoint is written every minute; Ctrl-C writes it too, and
    repeating the command goes on where it stopped. Give it to a search as --checkpoint.

    \b
    Examples:
      emomc train digits --prune 0.8 --epochs 10 --out pruned.pt
      emomc train digits --prune-as runs/digits p03 --epochs 10 --out pruned.pt
      emomc search digits --checkpoint pruned.pt --gene prune_ratio=0 --run runs/recovered
      emomc train cifar10-vgg16 --prune 0.9 --minutes 10 --out pruned.pt
      emomc train cifar10-vgg16 --checkpoint pruned.pt --teacher vgg.pt --bits 3 --out rounded.pt
      emomc train cifar10-resnet20 --elastic --minutes 30 --out elastic.pt
      emomc train cifar10-resnet20 --elastic --front runs/first --minutes 30 --out elastic.pt
      emomc train cifar10-mobilenetv1 --scratch --epochs 200 --out mobilenet.pt
    """  # noqa: D301 - click's mark
    prunes = [option for option, value in (("--prune", prune), ("--prune-as", given["prune_as"])) if value is not None]
    if len(prunes) > 1:
        raise click.UsageError("give one of --prune and --prune-as.")
    if elastic and (prunes or bits is not None):
        raise click.UsageError(f"--elastic draws its own prune ratios and widths: leave out {(*prunes, '--bits')[0]}.")
    if given["scratch"] and (prunes or given["checkpoint"]):
        raise click.UsageError(f"--scratch starts from untrained weights: leave out {(*prunes, '--checkpoint')[0]}.")
    if given["front"] and not elastic:
        raise click.UsageError("--front names the networks that --elastic trains for: give both.")
    try:
        _train(task, out, prune, bits, elastic, given)
    except KeyboardInterrupt:
        kept = f"{out} holds what was trained. Repeat the command to go on." if out.exists() else "nothing was kept."
        raise Interrupted(kept) from None


def _train(name: str, out: Path, prune: float | None, bits: int | None, elastic: bool, given: dict[str, Any]) -> None:
    from emomc.cli.progress import duration, shown_progress

    with shown_progress(1) as tell:
        tell("starting", 0, 1)
        from emomc.accuracy import Evaluator
        from emomc.network import trace
        from emomc.problems.tasks import load_task
        from emomc.training import fit

        settings = settings_for(given["device"])
        options: dict[str, Any] = task_options(given["data"], given["checkpoint"], given["download"])
        fresh = {"untrained": True, "weights_seed": given["seed"]} if given["scratch"] else {}
        task = load_task(name, **options, **fresh)
        if task.training is None:
            raise EmomcError(
                f"task {task.name!r} offers no training images: give it `training`, an emomc TrainingData."
            )
        lost = any(each is not None for each in (prune, given["prune_as"], bits, given["teacher"]))
        recipe, budget = _recipe(task, elastic, lost, given), _budget(task, given)
        images = task.training.load()
        start = _start(task, prune, given["prune_as"], out, tell)
        trained = fit(
            start,
            images,
            recipe,
            budget,
            regime=_regime(task, start, bits, elastic, given["front"]),
            teacher=_teacher(task, given["teacher"]),
            path=out,
            device=settings.device,
            tell=tell,
            notice=click.echo,
        )
        tell("measuring", 0, 1)
        network = trace(task.module, task.example_input)
        evaluator = Evaluator(task.module, network, task.splits, None, task.error, settings)
        found = evaluator.measure_module(trained.module, "validation")
    progress = trained.progress
    before = found.error - found.difference
    click.echo(
        f"{out}: {progress.steps} steps, {progress.seen / len(images):.2f} passes over {len(images)} images in "
        f"{duration(progress.seconds)}; {progress.stopped}."
    )
    click.echo(
        f"Error on {found.samples} validation images: {100 * found.error:.2f} % "
        f"(task's weights: {100 * before:.2f} %), measured."
    )
    click.echo(f"Next: emomc search {name} --checkpoint {out}")


def _teacher(task: Task, path: str | None) -> Any:
    import copy

    from emomc.problems.tasks.checkpoint import load_checkpoint

    if path is None:
        return task.module
    teacher = copy.deepcopy(task.module)
    load_checkpoint(teacher, Path(path).expanduser())
    return teacher


def _recipe(task: Task, elastic: bool, lost: bool, given: dict[str, Any]) -> Recipe:
    """How to train; ``lost`` tells whether the teacher knows what the network has lost."""
    from dataclasses import replace

    from emomc.training import elastic_recipe, recovery_recipe

    assert task.training is not None
    recipe = task.training.recipe
    if not given["scratch"]:
        if elastic:
            recipe = elastic_recipe(recipe)
        elif lost:
            recipe = recovery_recipe(recipe)
        else:  # it is its own teacher: what is new to it are the labels
            own = recipe.augmentation
            recipe = replace(recovery_recipe(recipe), distillation=0.5, temperature=2.0, augmentation=own)
    chosen = {"learning_rate": given["rate"], "batch": given["batch"], "distillation": given["distill"]}
    return replace(recipe, seed=given["seed"], **{key: value for key, value in chosen.items() if value is not None})


def _budget(task: Task, given: dict[str, Any]) -> Budget:
    from emomc.training import Budget

    assert task.training is not None
    budget = {key: given[key] for key in ("steps", "epochs", "minutes") if given[key] is not None}
    default = {"epochs": task.training.epochs} if given["scratch"] else {"minutes": _MINUTES}
    return Budget(**(budget or default))


def _start(task: Task, ratio: float | None, point: tuple[Path, str] | None, out: Path, tell: Tell) -> Any:
    """The network to train; a pruned one is kept beside the checkpoint, so that going on does not prune again."""
    import copy

    import torch

    from emomc.files import atomic_write
    from emomc.problems.tasks import network_fingerprint
    from emomc.problems.tasks.checkpoint import load_checkpoint

    if not ratio and point is None:
        return task.module
    ratios = None if point is None else _ratios(*point)
    what = f"{ratio:g}" if ratios is None else hashlib.sha256(repr(sorted(ratios.items())).encode()).hexdigest()[:8]
    path = out.with_name(f"{out.stem}-start-{network_fingerprint(task.module)[:8]}-{what}.pt")
    if path.is_file():
        module = copy.deepcopy(task.module)
        load_checkpoint(module, path)
        return module
    module = _pruned_alike(task, float(ratio or 0), tell) if ratios is None else _pruned_as(task, ratios, tell)
    with atomic_write(path) as stream:
        torch.save(module.state_dict(), stream)
    return module


def _ratios(run: Path, name: str) -> dict[str, dict[str, Any]]:
    """What a point of a run prunes, layer by layer."""
    chosen = of_point(run, name)
    return {layer: {gene: genes[gene] for gene in ("prune_ratio", "granularity")} for layer, genes in chosen.items()}


def _pruned_alike(task: Task, ratio: float, tell: Tell) -> Any:
    from emomc.compression import Calibration
    from emomc.compression.whole import prune_network
    from emomc.network import trace

    network = trace(task.module, task.example_input)
    calibration = Calibration(task.module, network, task.splits.calibration.inputs)
    module, _ = prune_network(calibration, ratio, lambda done, total: tell("pruning layers", done, total))
    return module


def _pruned_as(task: Task, ratios: dict[str, dict[str, Any]], tell: Tell) -> Any:
    """Zeros as `emomc compress` chooses them, with error compensation, in weights of 16 bits; all else is as given."""
    import tempfile

    from emomc.coding import read_network
    from emomc.compression.networkfile import with_weights
    from emomc.export import Compressor
    from emomc.network import trace

    with tempfile.TemporaryDirectory() as folder:
        made = Compressor(task).compress(ratios, Path(folder) / "pruned.emomc", split="calibration", progress=tell)
        return with_weights(task.module, trace(task.module, task.example_input), read_network(made.path))


def _front(run: Path) -> list[Configuration]:
    """The networks on a run's front, mildest first."""
    from emomc.genome import Configuration
    from emomc.report import read_run

    points = sorted(read_run(run).points, key=lambda point: point.estimated_error)
    if not points:
        raise EmomcError(f"the front of {run} holds no network: see `emomc show {run}`.")
    return [Configuration(of_point(run, point.name)) for point in points]


def _regime(task: Task, start: Any, bits: int | None, elastic: bool, front: Path | None) -> Regime:
    from emomc.compression.quantization import largest_level
    from emomc.network import trace
    from emomc.training import Elastic, KeepZeros, RoundWeights, zero_masks
    from emomc.training.elastic import FRONT

    network = trace(task.module, task.example_input)
    if elastic:
        return Elastic(network, task.splits.calibration.inputs, FRONT if front is None else _front(front))
    if bits is not None:
        levels = dict.fromkeys([layer.weight for layer in network.layers], largest_level(bits))
        return RoundWeights.keeping_zeros(start, levels)
    return KeepZeros(zero_masks(start))
