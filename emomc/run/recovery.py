"""A search with training between its stages: prune, train chosen pruned networks, quantize what they have become."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from emomc import coding
from emomc.compression.networkfile import with_weights
from emomc.errors import EmomcError
from emomc.genome import BIT_WIDTH, GRANULARITY, PRUNE_RATIO, PRUNING, SHARED_VALUES, Choice, Configuration
from emomc.problems.tasks import Task
from emomc.run.options import Options, Recovery, write_options
from emomc.run.parts import Candidate, Parts, locked_folder, selection_error
from emomc.run.search import Outcome, Search, content_name
from emomc.run.session import Progress, Session, silent
from emomc.run.workers import Job
from emomc.search.coordinates import Coordinates
from emomc.training import Budget, KeepZeros, recovery_recipe, zero_masks

Genomes = NDArray[np.int64]

_PRUNING_SHARE = 0.1  # of the evaluations: enough to choose networks that are trained
_UNTRAINED_SHARE = 0.25  # of the evaluations: where little is lost, training has little to bring back
_BEARABLE = 3.0  # times the limit on the loss: what a network may lose before it is trained
_UNROUNDED = {BIT_WIDTH: (16,), SHARED_VALUES: (0,)}


def search_with_recovery(
    folder: str | Path,
    options: Options,
    *,
    task: Task | None = None,
    progress: Progress = silent,
    notice: Callable[[str], None] = lambda _: None,
    **engine: Any,
) -> Outcome:
    """Search as the options say, with training between the stages.

    A tenth of the budget goes into pruning alone. Of its front, networks that are evenly spread in cost are trained
    with fixed zeros, taught by the dense network. Most of the budget goes into rounding and sharing them, each alone. A
    quarter, and what they leave, goes into a search that trains nothing: where little is lost, training has little to
    bring back. What no other beats in the end is measured against the dense network on the test split. Every part has
    its own folder in the run's, and repeating the call after an interruption goes on where it stopped.

    Args:
        folder: of the run.
        options: with `Options.recovery`. Constraints count after training.
        task: a task object in place of the one that ``options.task`` names.
        progress: told of long work.
        notice: told in words of networks that training does not bring within the limits.
        engine: ``settings``, ``workers``, ``time_limit`` and ``scheduler`` of `Session`.

    Raises:
        EmomcError: options that do not fit, a task without training images, a budget below two, or no network that
            came within the limits.
    """
    recovery = options.recovery
    if recovery is None:
        raise EmomcError("options.recovery is None: say how long networks are trained, such as Recovery(minutes=10).")
    if options.budget < 2:
        raise EmomcError("a search with training between its stages measures two networks at least: raise the budget.")
    if recovery.networks < 1:
        raise EmomcError(f"{recovery}: at least one network is trained.")
    _budget(recovery)
    with locked_folder(folder, options, task) as (path, found):
        return _Recovering(path, options, recovery, found, progress, notice, engine).run()


class _Recovering:
    def __init__(
        self,
        folder: Path,
        options: Options,
        recovery: Recovery,
        task: Task,
        progress: Progress,
        notice: Callable[[str], None],
        engine: Mapping[str, Any],
    ) -> None:
        self._folder, self._options, self._task = folder, options, task
        self._notice, self._recovery = notice, recovery
        self._pruning = max(1, round(options.budget * _PRUNING_SHARE))
        self._untrained = min(round(options.budget * _UNTRAINED_SHARE), options.budget - self._pruning - 1)
        self._networks = min(recovery.networks, options.budget - self._pruning - self._untrained)
        self._parts = Parts(folder, options, progress, notice, engine)
        self._trained: list[dict[str, Any]] = []

    def run(self) -> Outcome:
        with self._parts.session("pruned", self._pruning_options(), self._task) as session:
            write_options(self._folder, self._options, self._task.fingerprint)
            search = Search(session)
            ledger = search.explore()
            self._parts.keep("prune", search, session)
            if not self._parts.measured:
                raise EmomcError("no network was measured in the time: repeat the call with more minutes.")
            limit = session.dense.error + self._options.max_loss
            front = ledger.genomes[search.front(ledger)]
            if not len(front):
                most = 100 * session.problem.constraints[0].limit
                raise EmomcError(
                    f"no pruned network was within an error of {most:.1f} % before training. "
                    "Raise max_loss, or offer smaller prune ratios, in another folder."
                )
            candidates = []
            chosen = _spread(session, search.coordinates, front, self._networks)
            self._networks = len(chosen)  # fewer than planned where the front is small
            for number, genome in enumerate(chosen):
                candidates += self._recovered(number, session, genome, limit)
            candidates += self._never_trained()
            if not candidates:
                raise EmomcError(
                    "no network came within the limits after training. Train longer, raise max_loss, or relax "
                    "constraints, in another folder."
                )
            return self._parts.finish(session, search, limit, candidates, {"recovered": self._trained})

    def _pruning_options(self) -> Options:
        own = {name: choices for name, choices in self._options.genes.items() if name in PRUNING}
        return replace(
            self._options,
            genes={**own, **_UNROUNDED},
            constraints=(),
            max_loss=min(1.0, self._options.max_loss * _BEARABLE),
            budget=self._pruning,
            minutes=self._minutes(self._pruning / self._options.budget),
            recovery=None,
        )

    def _rounding_options(self, number: int, max_loss: float) -> Options:
        own = {name: choices for name, choices in self._options.genes.items() if name not in PRUNING}
        left = self._options.budget - self._parts.measured - self._untrained
        share = 1 - (self._pruning + self._untrained) / self._options.budget
        return replace(
            self._options,
            genes={**own, PRUNE_RATIO: (0.0,)},
            max_loss=min(1.0, max_loss),  # where all losses are allowed, a network that gained has more than all
            budget=math.ceil(left / (self._networks - number)),
            minutes=self._minutes(share / self._networks),
            recovery=None,
        )

    def _untrained_options(self) -> Options:
        """What is left of the budget; more than planned where a trained network could not use its part."""
        return replace(
            self._options,
            budget=self._options.budget - self._parts.measured,
            minutes=self._minutes(self._untrained / self._options.budget),
            recovery=None,
        )

    def _minutes(self, share: float) -> float | None:
        minutes = self._options.minutes
        return None if minutes is None else minutes * share

    def _recovered(self, number: int, session: Session, genome: Genomes, limit: float) -> list[Candidate]:
        """A pruned network trained, and then rounded and shared in a search of its own."""
        (variants, widths), *_ = session.networks(genome[None])
        name = f"recovered-{content_name(variants, widths)}"
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        start = self._start(session, folder / "pruned.emomc", variants, widths)
        trained, facts = self._train(number, start, folder / "trained.pt")
        before, after = (selection_error(session, module) for module in (start, trained))
        pruning = session.space.decode(genome).layers
        facts = {"network": name, "error_pruned": before, "error": after, **facts}
        self._trained.append(facts)
        if after >= limit:
            self._notice(
                f"network {number + 1} of {self._networks} has an error of {100 * after:.1f} % after training, "
                f"{100 * limit:.1f} % are allowed: it is not rounded. More training would help, or a larger max_loss."
            )
            return []
        options, own = self._rounding_options(number, limit - after), replace(self._task, module=trained)
        found = self._parts.search(name, f"network {number + 1}", options, own)
        return [replace(each, configuration=_with(pruning, each.configuration)) for each in found]

    def _never_trained(self) -> list[Candidate]:
        """The front of a search that trains nothing."""
        options = self._untrained_options()
        return self._parts.search("untrained", "untrained", options, self._task) if options.budget else []

    def _start(
        self, session: Session, path: Path, variants: tuple[int, ...], widths: tuple[int, ...] | None
    ) -> nn.Module:
        """The dense network with the pruned weights in it."""
        arguments = (variants, path.resolve(), self._task.header, "calibration", widths)
        session.run_jobs(
            [Job("finish", arguments, stored_as=(variants, "calibration", widths), makes=path)], "pruning a network"
        )
        return with_weights(self._task.module, session.network, coding.read_network(path))

    def _train(self, number: int, start: nn.Module, path: Path) -> tuple[nn.Module, dict[str, Any]]:
        assert self._task.training is not None
        recipe, regime = recovery_recipe(self._task.training.recipe), KeepZeros(zero_masks(start))
        what = f"training network {number + 1} of {self._networks}"
        return self._parts.train(self._task, start, recipe, _budget(self._recovery), regime, path, what)


def _budget(recovery: Recovery) -> Budget:
    """How long each network is trained; refused where not exactly one limit is given."""
    return Budget(**{name: value for name, value in asdict(recovery).items() if name != "networks"})


def _with(pruning: Mapping[str, Mapping[str, Choice]], found: Configuration) -> Configuration:
    """The choices of a network that was pruned before it was trained, and rounded after."""
    own = (PRUNE_RATIO, GRANULARITY)
    return Configuration(
        {
            layer: {gene: pruning[layer][gene] for gene in own if gene in pruning[layer]}
            | {gene: choice for gene, choice in choices.items() if gene not in own}
            for layer, choices in found.layers.items()
        }
    )


def _spread(session: Session, coordinates: Coordinates, front: Genomes, count: int) -> Genomes:
    """Genomes of a front that are evenly spread in cost, dearest first."""
    values = session.problem.values(front, np.zeros(len(front)))[0]
    is_cost = [not each.measured for each in session.problem.objectives]
    costs = coordinates(values)[:, is_cost].mean(axis=1)
    wanted = costs.max() + (np.arange(count) + 0.5) / count * (costs.min() - costs.max())
    rows = dict.fromkeys(np.abs(costs[None] - wanted[:, None]).argmin(axis=1).tolist())
    return front[list(rows)]
