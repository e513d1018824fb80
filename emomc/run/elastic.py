"""A search, elastic training for the networks on its front, and a second search of what the network has become."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from emomc.errors import EmomcError
from emomc.problems.tasks import Task
from emomc.run.options import Options, write_options
from emomc.run.parts import Candidate, Parts, locked_folder, selection_error
from emomc.run.search import Outcome, Search
from emomc.run.session import Progress, Session, silent
from emomc.training import Budget, Elastic, elastic_recipe


def search_with_elastic_training(
    folder: str | Path,
    options: Options,
    *,
    task: Task | None = None,
    progress: Progress = silent,
    notice: Callable[[str], None] = lambda _: None,
    **engine: Any,
) -> Outcome:
    """Search twice as the options say, with elastic training between.

    Half of the budget goes into a search that trains nothing. The network is then trained so that the networks on its
    front lose less, as `emomc.Elastic` does, and the other half searches what it has become. What no other beats of
    both fronts is measured against the original dense network on the test split. Each search has its own folder in the
    run's, and repeating the call after an interruption goes on where it stopped.

    Args:
        folder: of the run.
        options: with `Options.elastic`.
        task: a task object in place of the one that ``options.task`` names.
        progress: told of long work.
        notice: told in words where the second search finds nothing.
        engine: ``settings``, ``workers``, ``time_limit`` and ``scheduler`` of `Session`.

    Raises:
        EmomcError: options that do not fit, a task without training images, a budget below two, or a first search that
            ends without a front.
    """
    if options.elastic is None:
        raise EmomcError("options.elastic is None: say how long to train, such as ElasticTraining(minutes=10).")
    if options.budget < 2:
        raise EmomcError("a search with elastic training measures two networks at least: raise the budget.")
    budget = Budget(**asdict(options.elastic))
    with locked_folder(folder, options, task) as (path, found):
        parts = Parts(path, options, progress, notice, engine)
        with parts.session("first", _half(options, math.ceil(options.budget / 2)), found) as session:
            write_options(path, options, found.fingerprint)
            search = Search(session)
            ledger = search.explore()
            parts.keep("first", search, session)
            candidates = parts.written("first", session, search, ledger)
            if not candidates:
                raise EmomcError(
                    "no network was measured in the time, or none met the limits, before training: repeat the call "
                    "with more minutes, or raise max_loss or relax constraints in another folder."
                )
            limit = session.dense.error + options.max_loss
            trained, facts = _trained(path, parts, session, budget, candidates)
            error = facts["error"]
            if error < limit:
                again = _half(options, options.budget - parts.measured)
                again = replace(again, max_loss=min(1.0, limit - error))
                candidates += parts.search(facts["network"], "second", again, replace(found, module=trained))
            else:
                notice(
                    f"the network has an error of {100 * error:.1f} % after training, {100 * limit:.1f} % are allowed: "
                    "it is not searched. More training would help, or a larger max_loss."
                )
            return parts.finish(session, search, limit, candidates, {"elastic": facts})


def _trained(
    folder: Path, parts: Parts, session: Session, budget: Budget, front: Sequence[Candidate]
) -> tuple[nn.Module, dict[str, Any]]:
    """The network of a session trained for a front, and what training did."""
    task = session.task
    assert task.training is not None
    wanted = [each.configuration for each in sorted(front, key=lambda each: each.estimate)]
    regime = Elastic(session.network, task.splits.calibration.inputs, wanted)
    name = f"elastic-{hashlib.sha256(regime.key.encode()).hexdigest()[:12]}"  # a larger budget has another front
    (folder / name).mkdir(exist_ok=True)
    recipe, path = elastic_recipe(task.training.recipe), folder / name / "trained.pt"
    trained, spent = parts.train(task, task.module, recipe, budget, regime, path, "elastic training")
    errors = {"error_before": session.dense.error, "error": selection_error(session, trained)}
    return trained, {"network": name, **errors, **spent}


def _half(options: Options, budget: int) -> Options:
    """One of the two searches."""
    minutes = None if options.minutes is None else options.minutes / 2
    return replace(options, budget=budget, minutes=minutes, elastic=None)
