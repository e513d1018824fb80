"""The searches that a run is put together of, each in a folder of its own, and the front of them all."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from emomc.accuracy.evaluator import Evaluator, Measurement, Settings
from emomc.errors import EmomcError, UnattainableError
from emomc.genome import Configuration
from emomc.problems.tasks import Task
from emomc.run.lock import FolderLock
from emomc.run.named import look_up
from emomc.run.options import Options, check_same_run
from emomc.run.outcome import Evaluation, write_front, write_history, write_summary
from emomc.run.search import POINTS, Outcome, Search, agreement, front_points, growth, lowered
from emomc.run.session import Progress, Session
from emomc.run.workers import Job
from emomc.search import Ledger
from emomc.search.reported import thinned, unbeaten
from emomc.training import Budget, Recipe, Regime, fit

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """A network that one of the searches ends with.

    Attributes:
        values: its objectives as measured on the selection split.
        believed: its objectives with the error as it is estimated to be.
        error: on the selection split.
        estimate: of that error, chance taken out.
        file: in the folder of the search.
        name: of its file in the folder of the run.
        columns: every objective but the error, by column name.
        configuration: its choices, the pruning of the network that was trained among them.
    """

    values: Doubles
    believed: Doubles
    error: float
    estimate: float
    file: Path
    name: str
    columns: Mapping[str, float]
    configuration: Configuration


@dataclass(frozen=True)
class _Part:
    """What one of the searches has measured."""

    stage: str
    evaluations: tuple[Evaluation, ...]
    counted: Doubles
    failures: Counter[str]


@contextmanager
def locked_folder(folder: str | Path, options: Options, task: Task | None) -> Iterator[tuple[Path, Task]]:
    """The folder of a run that trains, and its task. A typo shows now: its parts look up what they need one by one.

    Raises:
        EmomcError: options that do not fit, a task without training images, or the folder of another run.
    """
    path = Path(folder).absolute()
    task = look_up(options, task).task
    if task.training is None:
        raise EmomcError(f"task {task.name!r} offers no training images: give it `training`, an emomc TrainingData.")
    path.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(path)
    try:
        check_same_run(path, options, task.fingerprint)
        yield path, task
    finally:
        lock.release()


def selection_error(session: Session, module: nn.Module) -> float:
    """Of a network as it is, on the selection split."""
    task = session.task
    evaluator = Evaluator(task.module, session.network, task.splits, None, task.error, session.settings)
    return evaluator.measure_module(module, "selection").error


class Parts:
    """The searches of one run, one after the other, and the training between them.

    Args:
        folder: of the run; each search has its own in it.
        options: of the run.
        progress: told of long work.
        notice: told in words of searches that find nothing.
        engine: ``settings``, ``workers``, ``time_limit`` and ``scheduler`` of `Session`.
    """

    def __init__(
        self,
        folder: Path,
        options: Options,
        progress: Progress,
        notice: Callable[[str], None],
        engine: Mapping[str, Any],
    ) -> None:
        self._folder, self._options = folder, options
        self._progress, self._notice, self._engine = progress, notice, engine
        self._settings: Settings = engine.get("settings") or Settings()
        self._parts: list[_Part] = []

    @property
    def measured(self) -> int:
        """Networks that the searches have measured so far."""
        return sum(len(part.evaluations) for part in self._parts)

    @contextmanager
    def session(self, name: str, options: Options, task: Task) -> Iterator[Session]:
        """A session in a folder of the run's; its search counts on from what the parts before it have measured."""
        before = self.measured

        def tell(what: str, done: int, total: int) -> None:
            searching = what == "searching"
            self._progress(what, done + before * searching, self._options.budget if searching else total)

        with Session(self._folder / name, options, task=task, progress=tell, **self._engine) as session:
            yield session

    def keep(self, stage: str, search: Search, session: Session) -> None:
        """Remember what a search has measured."""
        failures = Counter(session.failures.values())
        self._parts.append(_Part(stage, search.evaluations(), search.counted(), failures))

    def search(self, name: str, stage: str, options: Options, task: Task) -> list[Candidate]:
        """A search in a folder of the run's; its front is written to files."""
        try:
            with self.session(name, options, task) as session:
                search = Search(session)
                ledger = search.explore()
                self.keep(stage, search, session)
                found = self.written(stage, session, search, ledger)
        except UnattainableError as error:
            self._notice(f"{stage}: the constraints cannot be met. {error}")
            return []
        if not found:
            self._notice(f"{stage}: nothing that was measured met the limits.")
        return found

    def written(self, stage: str, session: Session, search: Search, ledger: Ledger) -> list[Candidate]:
        """The front of a search, in files."""
        front = search.front(ledger)
        genomes, errors, estimates = ledger.genomes[front], ledger.errors[front], ledger.estimated_errors()[front]
        paths, _ = search.write(genomes, "selection", "writing the front")
        values, believed = (session.problem.values(genomes, each)[0] for each in (errors, estimates))
        columns = search.columns(genomes, errors)
        return [
            Candidate(
                values[row],
                believed[row],
                float(errors[row]),
                float(estimates[row]),
                paths[row],
                f"{stage.replace(' ', '-')}-{paths[row].name}",
                columns[row],
                session.space.decode(genomes[row]),
            )
            for row in range(len(genomes))
        ]

    def train(
        self, task: Task, start: nn.Module, recipe: Recipe, budget: Budget, regime: Regime, path: Path, what: str
    ) -> tuple[nn.Module, dict[str, Any]]:
        """A network trained on a task's images and taught by its dense network, and how long.

        Args:
            task: with training images.
            start: not changed.
            recipe: with the seed of the run in place of its own.
            budget: of training.
            regime: what differs around a step.
            path: of the checkpoint.
            what: as progress calls it.
        """
        assert task.training is not None
        found = fit(
            start,
            task.training.load(),
            replace(recipe, seed=self._options.seed),
            budget,
            regime=regime,
            teacher=task.module,
            path=path,
            device=self._settings.device,
            tell=lambda _, done, total: self._progress(what, done, total),
            notice=self._notice,
        )
        return found.module, {"steps": found.progress.steps, "images": found.progress.seen}

    def finish(
        self,
        session: Session,
        search: Search,
        limit: float,
        candidates: list[Candidate],
        facts: Mapping[str, Any],
    ) -> Outcome:
        """Put the fronts together, and measure what no other beats against the dense network.

        Args:
            session: of the dense network, open.
            search: in that session.
            limit: largest error.
            candidates: of all searches, one or more.
            facts: what the summary says besides.
        """
        kept = self._best(search, candidates)
        (self._folder / POINTS).mkdir(exist_ok=True)
        for each in kept:
            shutil.copyfile(each.file, self._folder / POINTS / each.name)
        jobs = [_measuring(self._folder.resolve() / POINTS / each.name) for each in kept]
        dense = session.run_jobs([Job("measure_dense", ("test",))], "measuring the front")[0]
        measured = session.run_jobs(jobs, "measuring the front")
        points = front_points(
            [each.name for each in kept],
            measured,
            [each.error for each in kept],
            [each.estimate for each in kept],
            [each.columns for each in kept],
            [each.configuration for each in kept],
        )
        failed = Counter(each["failed"] for each in measured if "failed" in each)
        ideal, reference = search.corners(limit)
        counted = np.concatenate([part.counted for part in self._parts])
        evaluations = self._history(growth(counted, ideal, reference))
        outcome = Outcome(points, evaluations, Measurement(**dense), agreement(evaluations))
        write_history(self._folder, evaluations)
        write_front(self._folder, points)
        joined = {
            "hypervolume_ideal": lowered(ideal, counted).tolist(),
            "hypervolume_reference": reference.tolist(),
            "failures": dict(sum((part.failures for part in self._parts), failed)),
            "genes": list(next(iter(kept[0].configuration.layers.values()))),
        }
        write_summary(self._folder, {**search.summary(outcome), **joined, **facts})
        return outcome

    def _best(self, search: Search, candidates: list[Candidate]) -> list[Candidate]:
        """What a search would report of all of them, by ascending error: see `emomc.search.reported`."""
        candidates = sorted(candidates, key=lambda each: each.error)
        believed = np.array([each.believed for each in candidates])
        front = unbeaten(np.array([each.values for each in candidates]), believed)
        coordinates = search.coordinates.spanning(believed[front])  # rounding went beyond what pruning alone offers
        front = front[thinned(coordinates, believed[front], self._options.points)]
        return [candidates[row] for row in front.tolist()]

    def _history(self, volumes: Sequence[float]) -> tuple[Evaluation, ...]:
        rows = [(part.stage, each) for part in self._parts for each in part.evaluations]
        return tuple(
            replace(each, number=row + 1, stage=stage, hypervolume=volumes[row])
            for row, (stage, each) in enumerate(rows)
        )


def _measuring(path: Path) -> Job:
    """A file measured on the test split; the result is the file's, whatever it is called."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    return Job("measure_file", (path, "test"), stored_as=(content, "test"), makes=path)
