"""Running a strategy in a session, and measuring the front it leaves."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emomc.accuracy.evaluator import Measurement
from emomc.accuracy.predictor import rank_correlation
from emomc.genome import Configuration
from emomc.operators import uniform_ladder
from emomc.problems.objectives import BUILT_IN, Batch
from emomc.run.outcome import Evaluation, FrontPoint, column_name, write_front, write_history, write_summary
from emomc.run.session import Session
from emomc.run.workers import Job
from emomc.search import STRATEGIES, Ledger, SearchTask, Strategy, hypervolume
from emomc.search.coordinates import Coordinates
from emomc.search.ledger import Readings, Request
from emomc.search.reported import reported_front

Doubles = NDArray[np.float64]

POINTS = "points"
"""Folder of the front's files in that of the run."""


class _OutOfTimeError(Exception):
    """The minutes are spent; what was measured stands."""


@dataclass(frozen=True)
class Outcome:
    """A finished search.

    Attributes:
        points: the front, measured on the test split.
        evaluations: every measured network, in order.
        dense: the uncompressed network on the test split.
        rank_correlation: Kendall's tau of errors predicted before measuring and then measured; NaN if undefined.
    """

    points: tuple[FrontPoint, ...]
    evaluations: tuple[Evaluation, ...]
    dense: Measurement
    rank_correlation: float


def run_search(session: Session, strategy: Strategy | None = None) -> Outcome:
    """Search, then write and measure the front. Repeating it after an interruption goes on where it stopped.

    Args:
        session: an open run folder.
        strategy: in place of the one that the options name, such as `emomc.search.two_stage` with another schedule.
            The folder does not tell strategies of your own apart: give each a folder.

    Raises:
        EmomcError: an objective that fails.
        KeyboardInterrupt: as it came, after the history has been written.
    """
    search = Search(session)
    ledger = search.explore(strategy)
    return search.finish(ledger)


class Search:
    """One search in one session: explored first, then its front is written and measured.

    Attributes:
        ideal: best corner of the box that hypervolumes are parts of, one value an objective; see `corners`.
        reference: its worst corner.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._problem = session.problem
        dense = session.dense
        self._task = SearchTask(session.problem, session.sensitivities, dense.error, dense.samples)
        self.ideal, self.reference = self.corners(dense.error + session.options.max_loss)
        self._genomes: list[NDArray[np.int64]] = []
        self._log: list[tuple[str, int, float, Measurement]] = []  # stage, round, predicted error, measured
        options = session.options
        self._deadline = None if options.minutes is None else time.monotonic() + 60 * options.minutes

    def explore(self, strategy: Strategy | None = None) -> Ledger:
        """Spend the budget; the history is written however it ends."""
        options = self._session.options
        ledger = Ledger(self._task, options.budget, self._measure)
        try:
            (strategy or STRATEGIES[options.strategy])(self._task, ledger, options.seed)
        except _OutOfTimeError:
            pass  # the budget in minutes is spent: what was measured is the result
        finally:
            write_history(self._session.folder, self.evaluations())
        return ledger

    def _measure(self, request: Request) -> Readings:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise _OutOfTimeError
        measured = self._session.measure(request.genomes)
        errors = np.array([each.error for each in measured])
        number = self._log[-1][1] + 1 if self._log else 1
        self._genomes += list(request.genomes)
        pairs = zip(request.predicted.tolist(), measured, strict=True)
        self._log += [(request.stage, number, predicted, each) for predicted, each in pairs]
        self._session.advance("searching", len(self._log), self._session.options.budget)
        return Readings(errors, np.array([each.distance for each in measured]))

    def corners(self, limit: float) -> tuple[Doubles, Doubles]:
        """Best and worst point of interest, each ``(objectives,)``, where errors up to a limit are.

        Of built-in objectives these are 0 and the limit, or the costs of the uncompressed 32-bit network. Those of the
        user's may be negative, or lowest where nothing is compressed: networks that treat all layers alike tell their
        range.
        """
        session, objectives = self._session, self._problem.objectives
        mildest = session.space.canonical(np.zeros((1, session.space.n_var), dtype=np.int64))
        own = self._problem.values(mildest, np.array([limit]))[0][0]
        named = {"error": limit, **session.reference}
        known = np.array([named.get(each.name, own[i]) for i, each in enumerate(objectives)])
        built_in = np.array([each.name in BUILT_IN for each in objectives])
        if built_in.all():
            return np.zeros(len(known)), known
        ladder = uniform_ladder(session.space)
        ends = [self._problem.values(ladder, np.full(len(ladder), each))[0] for each in (session.dense.error, limit)]
        low, high = np.min(ends, axis=(0, 1)), np.max(ends, axis=(0, 1))
        return np.where(built_in, 0.0, np.minimum(low, 0.0)), np.where(built_in, known, high)

    def columns(self, genomes: NDArray[np.int64], errors: Doubles) -> list[dict[str, float]]:
        """Every objective but the error of each genome, by column name; energy and size always among them.

        Args:
            genomes: canonical, ``(n, n_var)``.
            errors: measured on the selection split, ``(n,)``, which own objectives may work with.
        """
        batch = Batch(genomes, self._session.costs, errors)
        columns = {"energy_joule": batch.cost("energy"), "size_bytes": batch.cost("size")}
        for each in self._problem.objectives:
            if each.name != "error":
                columns[column_name(each.name, each.unit)] = each(batch)
        return [{name: float(values[row]) for name, values in columns.items()} for row in range(len(genomes))]

    def counted(self) -> Doubles:
        """Objectives of every measured network in order, ``(n, objectives)``; infinite where it is not feasible."""
        return self._judged()[0]

    def _judged(self) -> tuple[Doubles, Doubles]:
        """What `counted` gives, and the largest violation of every measured network, ``(n,)``."""
        if not self._log:
            return np.zeros((0, len(self._problem.objectives))), np.zeros(0)
        errors = np.array([measured.error for *_, measured in self._log])
        values, violations = self._problem.values(np.array(self._genomes), errors)
        return np.where((violations <= 0).all(axis=1, keepdims=True), values, np.inf), violations.max(axis=1)

    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every measured network, in order."""
        if not self._log:
            return ()
        genomes, (counted, worst) = np.array(self._genomes), self._judged()
        volumes = growth(counted, self.ideal, self.reference)
        columns = self.columns(genomes, np.array([measured.error for *_, measured in self._log]))
        return tuple(
            Evaluation(
                number=row + 1,
                stage=stage,
                round=number,
                predicted_error=predicted,
                error=measured.error,
                standard_error=measured.standard_error,
                distance=measured.distance,
                objectives=columns[row],
                violation=float(worst[row]),
                hypervolume=volumes[row],
                genome=tuple(genomes[row].tolist()),
            )
            for row, (stage, number, predicted, measured) in enumerate(self._log)
        )

    def finish(self, ledger: Ledger) -> Outcome:
        """Write every point of the front to a file and measure the decoded file on the test split."""
        session, evaluations = self._session, self.evaluations()
        front = self.front(ledger)
        genomes, errors = ledger.genomes[front], ledger.errors[front]
        estimates = ledger.estimated_errors()[front].tolist()
        dense = session.run_jobs([Job("measure_dense", ("test",))], "measuring the front")[0]
        paths, measured = self.write(genomes, "test", "measuring the front")
        columns = self.columns(genomes, errors)
        names, configurations = [path.name for path in paths], [session.space.decode(genome) for genome in genomes]
        points = front_points(names, measured, errors.tolist(), estimates, columns, configurations)
        outcome = Outcome(points, evaluations, Measurement(**dense), agreement(evaluations))
        write_front(session.folder, points)
        unmet = {} if points else {"unmet": self._unmet(ledger)}
        write_summary(session.folder, {**self.summary(outcome), **ledger.notes, **unmet})
        return outcome

    def write(self, genomes: NDArray[np.int64], split: str, what: str) -> tuple[list[Path], list[dict[str, Any]]]:
        """Networks in files of the folder, and what their decoded files were measured to be; told as ``what``."""
        session = self._session
        folder = session.folder.resolve() / POINTS
        folder.mkdir(exist_ok=True)
        jobs, paths = [], []
        for variants, widths in session.networks(genomes):
            path = folder / f"{content_name(variants, widths)}.emomc"
            arguments = (variants, path, session.task.header, split, widths)
            jobs.append(Job("finish", arguments, stored_as=(variants, split, widths), makes=path))
            paths.append(path)
        return paths, session.run_jobs(jobs, what)

    @property
    def coordinates(self) -> Coordinates:
        """In which gains of hypervolume are counted here."""
        return Coordinates.of(self._task)

    def front(self, ledger: Ledger) -> NDArray[np.int64]:
        """Rows of the ledger, by ascending error: see `emomc.search.reported`."""
        return reported_front(self._task, ledger, self._session.options.points)

    def _unmet(self, ledger: Ledger) -> list[dict[str, Any]]:
        """Constraints that the network closest to meeting all of them breaks: name, unit, limit and its value."""
        kept = np.isfinite(ledger.errors)
        if not kept.any():
            return []
        _, violations = self._problem.values(ledger.genomes[kept], ledger.errors[kept])
        closest = violations[np.maximum(violations, 0).sum(axis=1).argmin()]
        return [
            {
                "constraint": each.objective.name,
                "unit": each.objective.unit,
                "limit": each.limit,
                "value": each.limit + float(excess) * (abs(each.limit) or 1.0),
            }
            for each, excess in zip(self._problem.constraints, closest, strict=True)
            if excess > 0
        ]

    def summary(self, outcome: Outcome) -> dict[str, Any]:
        """What the run was, for ``summary.json``."""
        session = self._session
        return {
            "task": session.task.name,
            "accelerator": session.accelerator.name,
            "device": session.settings.device,
            "dense_test": asdict(outcome.dense),
            "dense_selection": asdict(session.dense),
            "reference": session.reference,
            "hypervolume_ideal": lowered(self.ideal, self.counted()).tolist(),
            "hypervolume_reference": self.reference.tolist(),
            "objectives": [each.name for each in self._problem.objectives],
            "rank_correlation": outcome.rank_correlation,
            "evaluations": len(outcome.evaluations),
            "points": len(outcome.points),
            "failures": dict(Counter(session.failures.values())),
            "layers": list(session.space.layers),
            "genes": [gene.name for gene in session.space.genes],
        }


def front_points(
    names: Sequence[str],
    measured: Sequence[Mapping[str, Any]],
    errors: Sequence[float],
    estimates: Sequence[float],
    columns: Sequence[Mapping[str, float]],
    configurations: Sequence[Configuration],
) -> tuple[FrontPoint, ...]:
    """Points of a front in their order, of files by name; those that failed on the test split are left out.

    A point whose error is no number there has failed, as one measured while searching has.
    """
    sound = [row for row, each in enumerate(measured) if "failed" not in each]
    return tuple(
        FrontPoint(
            f"p{number:02d}",
            f"{POINTS}/{names[row]}",
            Measurement(**measured[row]),
            errors[row],
            estimates[row],
            columns[row],
            configurations[row],
        )
        for number, row in enumerate(sound)
    )


def growth(counted: Doubles, ideal: Doubles, reference: Doubles) -> list[float]:
    """Hypervolume of the first network, of the first two, and so on; objectives ``(n, objectives)``."""
    ideal = lowered(ideal, counted)
    return [hypervolume(counted[: row + 1], reference, ideal) for row in range(len(counted))]


def lowered(ideal: Doubles, counted: Doubles) -> Doubles:
    """An ideal that none of the networks beats: what networks that treat all layers alike tell may not be all."""
    return np.asarray(np.minimum(ideal, np.where(np.isfinite(counted), counted, 0.0).min(axis=0, initial=0.0)))


def agreement(evaluations: Sequence[Evaluation]) -> float:
    """Kendall's tau of predicted and measured errors; NaN where nothing was predicted."""
    predicted = [(each.predicted_error, each.error) for each in evaluations if np.isfinite(each.predicted_error)]
    return rank_correlation(*np.array(predicted).T) if predicted else float("nan")


def content_name(variants: tuple[int, ...], activation_bits: tuple[int, ...] | None) -> str:
    """A name that tells networks of one session apart."""
    numbers = np.array((*variants, *(activation_bits or ())), "<i8")
    return hashlib.sha256(numbers.tobytes()).hexdigest()[:12]
