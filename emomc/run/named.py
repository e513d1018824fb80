"""What the options of a run name, found and checked before its folder is touched."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from emomc.errors import EmomcError, unknown_name
from emomc.genome import (
    CHANNEL,
    DATAFLOW,
    GRANULARITY,
    WEIGHT,
    Gene,
    SearchSpace,
    all_genes,
    default_genes,
    pattern_of,
)
from emomc.hardware import METRICS, CostModel, check_dataflows, load_accelerator
from emomc.network import Network, trace
from emomc.problems.objectives import BUILT_IN, Constraint, Objective, load_objective, parse_constraint
from emomc.problems.tasks import Task, check_task, load_task
from emomc.run.options import Options
from emomc.run.outcome import COLUMNS, column_name
from emomc.search import STRATEGIES

_FEWEST_CHANNELS = 8  # of a layer that may lose whole input channels: with fewer, prune ratios cannot be met


@dataclass(frozen=True, eq=False)
class Named:
    """What options stand for.

    Attributes:
        task: the task.
        network: its layers and graph.
        accelerator: the cost model.
        space: the search space.
        objectives: what is minimized.
        constraints: upper bounds, that on the loss not among them.
    """

    task: Task
    network: Network
    accelerator: CostModel
    space: SearchSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]


def look_up(
    options: Options,
    task: Task | None = None,
    objectives: Sequence[str | Objective] = (),
    constraints: Sequence[str | Constraint] = (),
) -> Named:
    """Find what options name; what takes no time comes first.

    Args:
        options: of the run.
        task: a task object in place of the one that ``options.task`` names.
        objectives: objects in place of the names in ``options.objectives``.
        constraints: beside those of the options.

    Raises:
        EmomcError: a name is unknown, a text is not understood, or things do not fit together.
    """
    wanted = tuple(load_objective(each) for each in objectives or options.objectives)
    _check_columns(wanted)
    given = (*options.constraints, *constraints)
    bounds = tuple(parse_constraint(each) if isinstance(each, str) else each for each in given)
    if options.strategy not in STRATEGIES:
        raise unknown_name("strategy", options.strategy, STRATEGIES)
    accelerator = load_accelerator(options.accelerator)
    genes = _genes(options, accelerator)
    _check_offered(accelerator, (*wanted, *(each.objective for each in bounds)))
    if task is None:
        task = load_task(options.task, **options.task_options)
    else:
        check_task(task)
    network = trace(task.module, task.example_input)
    if not network.layers:
        raise EmomcError(f"task {task.name!r}: the network has no convolution or linear layer to compress.")
    return Named(task, network, accelerator, _space(genes, network), wanted, bounds)


def _check_offered(accelerator: CostModel, objectives: Sequence[Objective]) -> None:
    """Refuse a built-in objective that needs what an accelerator's model does not tell."""
    for each in objectives:
        metric = {"idle": "slots"}.get(each.name, each.name)
        if each.name in BUILT_IN and metric in METRICS and metric not in accelerator.metrics:
            raise EmomcError(
                f"accelerator {accelerator.name!r} does not tell {each.name!r}: it tells "
                f"{', '.join(accelerator.metrics)}. Take another one, such as generic-45nm."
            )


def _check_columns(objectives: Sequence[Objective]) -> None:
    """Refuse an objective of the user's that would replace another column of a run's files."""
    taken = COLUMNS | {column_name(each.name, each.unit) for each in BUILT_IN.values()}
    for each in objectives:
        column = column_name(each.name, each.unit)
        if each.name not in BUILT_IN and column in taken:
            raise EmomcError(
                f"objective {each.name!r} cannot be written: the files of a run have a column {column!r} already. "
                "Give it another name."
            )
        taken |= {column}
    twice = [name for name, count in Counter(each.name for each in objectives).items() if count > 1]
    if twice:
        raise EmomcError(f"objective {twice[0]!r} is given more than once: once is enough.")


def _space(genes: tuple[Gene, ...], network: Network) -> SearchSpace:
    """The space of a run. Layers with too few input channels for a pattern, or for losing channels, do without."""
    space = SearchSpace.full([layer.name for layer in network.layers], genes)
    if space.has(GRANULARITY):
        needed = {str(each): _channels_needed(str(each)) for each in space.genes[space.column(GRANULARITY)].choices}
        for layer in network.layers:
            fitting = [each for each, channels in needed.items() if layer.weight_shape[1] >= channels]
            space = space.restrict(GRANULARITY, fitting, glob.escape(layer.name))
    return space


def _channels_needed(granularity: str) -> int:
    """Input channels of a group below which a granularity makes no sense."""
    pattern = pattern_of(granularity)
    return pattern[1] if pattern else _FEWEST_CHANNELS if granularity == CHANNEL else 1


def _genes(options: Options, accelerator: CostModel) -> tuple[Gene, ...]:
    """The genes of a run: defaults, those asked for, the accelerator's dataflows, and the choices that are given."""
    dataflows = options.dataflows or accelerator.dataflows
    known = {gene.name: gene for gene in all_genes(dataflows)}
    given = dict(options.genes)
    check_dataflows(accelerator, [str(each) for each in given.get(DATAFLOW, dataflows)])
    if GRANULARITY in given:  # single weights are the mildest choice, and the only one that suits every layer
        given[GRANULARITY] = tuple(dict.fromkeys((WEIGHT, *given[GRANULARITY])))
    names = {gene.name for gene in default_genes(dataflows)} | set(given)
    return tuple(
        replace(gene, choices=given.get(gene.name, gene.choices)) for gene in known.values() if gene.name in names
    )
