"""A session: a task, an accelerator and a run folder brought together into a problem that can be searched."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emomc.accuracy.activations import ZERO_IMAGES, input_sparsity
from emomc.accuracy.evaluator import DENSE, FAILED, Evaluator, Measurement, Settings
from emomc.accuracy.sensitivity import (
    activation_table,
    loss_per_distance,
    plan_activation_probes,
    plan_probes,
    sensitivity_table,
)
from emomc.coding import is_whole
from emomc.compression import CALIBRATED, Calibration
from emomc.compression.bank import Bank
from emomc.compression.networkfile import file_overhead
from emomc.errors import EmomcError
from emomc.genome import ACTIVATION_BITS, DATAFLOW, UNQUANTIZED
from emomc.hardware import METRICS
from emomc.problems.compression import CompressionProblem, check_attainable
from emomc.problems.objectives import Constraint, Objective, load_objective
from emomc.problems.tasks import Task
from emomc.problems.tasks.cache import cache_folder
from emomc.run.inflight import Flights
from emomc.run.lock import FolderLock
from emomc.run.named import look_up
from emomc.run.options import Options, check_same_run, write_options
from emomc.run.startcache import read_start, write_start
from emomc.run.store import Store
from emomc.run.tables import cost_tables
from emomc.run.workers import Engine, Failure, Job, Workers, default_workers
from emomc.search import Genomes

Doubles = NDArray[np.float64]

_VERSION = 4  # raise when a change to measuring makes stored measurements stale
_MAY_FAIL = ("measure", "probe_layers")  # a search goes on without some of these
_NO_NUMBER = "its error is not a finite number"
Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``: called as work gets done."""


def silent(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


class Session:
    """Everything that one run needs, opened together; use it as a context manager.

    Attributes:
        settings: how networks are evaluated.
        task: the task.
        network: its layers and graph.
        space: the search space.
        problem: the pymoo problem; its errors are measured on the selection split.
        sensitivities: error that each layer's variants cause alone, as far as their distances tell; broadcasts to
            ``(L, *space.shape)``.
        dense: the uncompressed network on the selection split.
        failures: why measuring failed, by the key of what was to be measured.
        reference: energy (J) and size (B) of the uncompressed network in 32-bit floating point.
    """

    def __init__(
        self,
        folder: str | Path,
        options: Options,
        *,
        task: Task | None = None,
        objectives: Sequence[str | Objective] | None = None,
        constraints: Sequence[str | Constraint] = (),
        settings: Settings | None = None,
        workers: int | None = None,
        time_limit: float | None = None,
        scheduler: str | None = None,
        progress: Progress = silent,
    ) -> None:
        """Open a run folder, or create it.

        Args:
            folder: where everything is kept.
            options: what to search.
            task: a task object in place of the one that ``options.task`` names.
            objectives: objects in place of the names in ``options.objectives``.
            constraints: further constraints, as texts or objects.
            settings: how networks are evaluated.
            workers: processes; if not given, one per processor. On a GPU, threads of this process, each with a network
                in flight, or processes if there is a time limit; two if not given. Results do not depend on it.
            time_limit: seconds that the measuring of one network may take; what takes longer counts as failed.
            scheduler: address of a Dask scheduler whose workers measure in place of processes of this machine.
            progress: told of long work.

        Raises:
            EmomcError: something does not fit together; the message says what to do.
        """
        chosen = objectives or options.objectives
        if options.recovery is not None:
            raise EmomcError("options.recovery: training between the stages is done by emomc.search_with_recovery.")
        if options.elastic is not None:
            raise EmomcError("options.elastic: elastic training is done by emomc.search_with_elastic_training.")
        names = tuple(each if isinstance(each, str) else load_objective(each).name for each in chosen)
        options = replace(options, objectives=names)
        self.folder, self.options, self._progress = Path(folder).absolute(), options, progress
        self.failures: dict[str, str] = {}
        self.settings = settings or Settings()
        self._time_limit, self._scheduler = time_limit, scheduler
        count = workers or default_workers(self.settings.device)
        progress("loading", 0, 1)
        named = look_up(options, task, chosen, constraints)
        self.task, self.network, self.accelerator = named.task, named.network, named.accelerator
        self.space = named.space
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.folder)
        self._workers: Engine | None = None
        self._store: Store | None = None
        try:
            check_same_run(self.folder, options, self.task.fingerprint)
            self._store = Store(self.folder / "store.sqlite")
            self._open(count, named.objectives, named.constraints)
            write_options(self.folder, options, self.task.fingerprint)
        except BaseException:
            self.close()
            raise

    def _open(self, workers: int, objectives: Sequence[Objective], constraints: Sequence[Constraint]) -> None:
        """The slow part: compress every layer alone, start workers, measure the dense network, probe the layers."""
        state = self.task.module.state_dict()
        weights = {layer.name: state[layer.weight].detach().cpu().numpy() for layer in self.network.layers}
        self.bank = Bank.open(
            cache_folder() / "bank",
            weights,
            self.space,
            self.options.method,
            workers,
            lambda done, total: self._progress("compressing layers", done, total),
            self._calibration() if self.options.method in CALIBRATED else None,
        )
        quantized = self.space.has(ACTIVATION_BITS)
        overhead = float(file_overhead(self.task.module, self.network, self.task.header, quantized))
        self.costs = cost_tables(self.bank, self.network.layers, self.accelerator, overhead, self._input_sparsity())
        check_attainable(self.costs, constraints)
        self._progress("starting workers", 0, 1)
        evaluator = Evaluator(
            self.task.module, self.network, self.task.splits, self.bank, self.task.error, self.settings
        )
        self._workers = self._engine(evaluator, workers)
        self.dense, self.sensitivities = self._start()
        limit = Constraint(load_objective("error"), self.dense.error + self.options.max_loss)
        self.problem = CompressionProblem(self.costs, self.errors, objectives, [limit, *constraints])

    def _engine(self, evaluator: Evaluator, workers: int) -> Engine:
        if self._scheduler is not None:
            from emomc.run.dask_workers import DaskWorkers

            return DaskWorkers(evaluator, self._scheduler, self.folder, self._time_limit)
        if self.settings.device == "cpu" or self._time_limit is not None:
            return Workers(evaluator, workers, self._time_limit)
        return Flights(evaluator, workers)

    def _calibration(self) -> Calibration:
        return Calibration(self.task.module, self.network, self.task.splits.calibration.inputs)

    def _input_sparsity(self) -> Doubles:
        """Zeros in each layer's input on calibration images, of the dense network."""
        images, _ = next(self.task.splits.calibration.batches(ZERO_IMAGES))
        return input_sparsity(self.task.module, self.network, images)

    @property
    def reference(self) -> dict[str, float]:
        """The uncompressed network in 32-bit floating point: every metric on each layer's best dataflow, and bytes."""
        position = self.space.column(DATAFLOW)
        names = self.space.genes[position].choices
        totals: dict[str, float] = {}
        for layer, row in zip(self.network.layers, self.space.allowed, strict=True):
            found = [self.accelerator.reference([layer], str(names[index])) for index in row[position]]
            for metric in found[0]:
                best = min(entry[metric] for entry in found)
                peak = METRICS[metric].combine == "max"
                totals[metric] = max(totals.get(metric, 0.0), best) if peak else totals.get(metric, 0.0) + best
        return {**totals, "size": float(self.task.dense_bytes)}

    def errors(self, genomes: NDArray[np.integer[Any]]) -> Doubles:
        """Measured errors of canonical genomes on the selection split, ``(n,)``."""
        return np.array([measurement.error for measurement in self.measure(np.asarray(genomes, dtype=np.int64))])

    def measure(self, genomes: Genomes, split: str = "selection") -> list[Measurement]:
        """Measurements of canonical genomes; those in the store are not measured again.

        A network whose measuring failed has an error of NaN, and is not measured again either.

        Args:
            genomes: shape ``(n, n_var)``.
            split: ``"selection"`` while searching; the test split is measured by writing the front.
        """
        jobs = [Job("measure", (variants, split, widths)) for variants, widths in self.networks(genomes)]
        results = self.run_jobs(jobs, "")
        return [FAILED if "failed" in result else Measurement(**result) for result in results]

    def networks(self, genomes: Genomes) -> list[tuple[tuple[int, ...], tuple[int, ...] | None]]:
        """What canonical genomes are to the evaluator: variants of the layers, and bits of their inputs or None."""
        variants = [tuple(row) for row in self.bank.variants_of(genomes).tolist()]
        if not self.space.has(ACTIVATION_BITS):
            return [(row, None) for row in variants]
        widths = self.space.values(genomes, ACTIVATION_BITS).tolist()
        return [(row, tuple(bits)) for row, bits in zip(variants, widths, strict=True)]

    def advance(self, what: str, done: int, total: int) -> None:
        """Tell how far the work is."""
        self._progress(what, done, total)

    def _start(self) -> tuple[Measurement, Doubles]:
        """The dense network and the sensitivities: the same for all runs that start from here, so kept for others."""
        probes = plan_probes(self.bank)
        rows = np.full((len(probes), self.space.n_layers), DENSE)
        rows[np.arange(len(probes)), [probe.layer for probe in probes]] = [probe.variant for probe in probes]
        inputs = plan_activation_probes(self.space)
        widths = np.full((len(inputs), self.space.n_layers), UNQUANTIZED)
        widths[np.arange(len(inputs)), [layer for layer, _ in inputs]] = [bits for _, bits in inputs]
        dense = (DENSE,) * self.space.n_layers
        jobs = [Job("probe_layers", (tuple(row),)) for row in rows.tolist()]
        jobs += [Job("probe_layers", (dense, tuple(row))) for row in widths.tolist()]
        whole = Job("measure_dense", ("selection",))
        keys = [self._key(job) for job in (whole, *jobs)]
        assert self._store is not None
        known = read_start(cache_folder() / "starts", keys)
        self._store.adopt(known, "measured by another run")
        measured = self.run_jobs([whole], "measuring the network")
        results = self.run_jobs(jobs, "probing layers")
        if not known and not any("failed" in result for result in results):
            write_start(cache_folder() / "starts", keys, dict(zip(keys, measured + results, strict=True)))
        far = [result.get("distance", math.inf) for result in results]
        table = sensitivity_table(self.bank, probes, far[: len(probes)])
        if inputs:
            table = table + activation_table(self.space, inputs, far[len(probes) :])
        samples = min(self.settings.calibration, len(self.task.splits.calibration))
        cost = loss_per_distance(far, [result.get("loss", math.inf) for result in results], samples)
        return Measurement(**measured[0]), table * cost

    def run_jobs(self, jobs: Sequence[Job], what: str) -> list[dict[str, Any]]:
        """Results of jobs in their order, each stored as soon as it is made and taken from the store if it is there."""
        assert self._workers is not None
        assert self._store is not None
        keys = [self._key(job) for job in jobs]
        results: dict[str, dict[str, Any]] = {}
        for key, job in zip(keys, jobs, strict=True):
            stored = self._store.get(key)
            if stored is not None and self._counts(job, stored) and (job.makes is None or is_whole(job.makes)):
                results[key] = stored
        missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in results}
        done = len(jobs) - len(missing)
        self._progress(what, done, len(jobs))
        names = list(missing)
        for number, found in self._workers.run(list(missing.values())) if missing else ():
            result = self._checked(missing[names[number]], found)
            if isinstance(result, Failure) and not _may_fail(missing[names[number]], result):
                raise EmomcError(
                    f"{what}: {result.failed}. What was measured is kept; repeat the command to try again."
                )
            value = asdict(result)
            self._store.put(names[number], value, f"{missing[names[number]].method} {missing[names[number]].arguments}")
            results[names[number]] = value
            done += 1
            self._progress(what, done, len(jobs))
        self.failures |= {key: result["failed"] for key, result in results.items() if "failed" in result}
        return [results[key] for key in keys]

    def _counts(self, job: Job, stored: dict[str, Any]) -> bool:
        """Whether a stored result stands.

        What took too long is tried again when it is given more time, and the dense network is measured again, and
        refused, where its error is one that no search can go by.
        """
        if job.method == "measure_dense":
            return _is_fraction(stored["error"])
        seconds = stored.get("seconds")
        return seconds is None or (self._time_limit is not None and self._time_limit <= seconds)

    def _checked(self, job: Job, result: Any) -> Any:
        """A result before it is stored; a network whose error is NaN or infinite has failed.

        Raises:
            EmomcError: the error of the dense network is no fraction.
        """
        if not isinstance(result, Measurement):
            return result
        if job.method == "measure_dense" and not _is_fraction(result.error):
            raise EmomcError(
                f"task {self.task.name!r}: the uncompressed network has an error of {result.error:g} on the "
                f"{job.arguments[0]} split; expected a fraction, from 0 to below 1. Scale the task's error function so "
                "that 0 is a perfect network and 1 a useless one, and let it return a number for every sample."
            )
        return result if math.isfinite(result.error) else Failure(_NO_NUMBER)

    def _key(self, job: Job) -> str:
        """Content key of a job: the task's weights and data, the bank, the settings and the job itself."""
        decisive = job.arguments if job.stored_as is None else job.stored_as
        facts = [_VERSION, self.task.fingerprint, self.bank.key, asdict(self.settings), job.method, decisive]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def close(self) -> None:
        """End the workers and close the store; everything measured is on disk already."""
        if self._workers is not None:
            self._workers.close()
        if self._store is not None:
            self._store.close()
        self._lock.release()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _may_fail(job: Job, failure: Failure) -> bool:
    """Whether the search goes on: without a network or probe, or without a point whose error is none on other samples.

    That a point's error is no number will not change, so that trying again would never lead to a front.
    """
    return job.method in _MAY_FAIL or failure.failed == _NO_NUMBER


def _is_fraction(error: float) -> bool:
    """Whether a search can go by the error of a dense network: predictions are of what is left of it up to 1."""
    return 0 <= error < 1
