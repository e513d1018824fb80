"""Workers of a Dask scheduler, on this machine or on others.

The run folder and the cache folder must be visible to all of them under the same paths. Dask's messages are pickles:
whoever reaches the scheduler can run any code on the workers, so it belongs in a trusted network only.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emomc.errors import EmomcError
from emomc.run.workers import ENDED, LATE, Failure, Job, keep, load, mark, work

if TYPE_CHECKING:
    from emomc.accuracy.evaluator import Evaluator

_PATIENCE = 30  # seconds until a scheduler and a first worker must have answered
_BUNDLE = 0.2  # seconds of work that go out together: each message takes the scheduler and this process milliseconds
_TURNS = 4  # bundles that each worker gets at least, so that none waits long for the last
_Bundle = Sequence[tuple[int, Job]]


class DaskWorkers:
    """Runs jobs on the workers of a scheduler, which load the evaluator once. Integers travel, short jobs together."""

    def __init__(self, evaluator: Evaluator, address: str, folder: Path, seconds: float | None = None) -> None:
        """Connect.

        Args:
            evaluator: what jobs are methods of.
            address: of the scheduler, ``tcp://host:port``.
            folder: of the run.
            seconds: time that a job may take.

        Raises:
            EmomcError: the library is not installed, or no scheduler or no worker answers.
        """
        try:
            self._dask = import_module("distributed")
        except ImportError:
            raise EmomcError("a scheduler needs Dask, which is not installed: pip install 'emomc[dask]'.") from None
        self._seconds = seconds
        try:
            self._client = self._dask.Client(address, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError) as error:
            raise EmomcError(
                f"no Dask scheduler answers at {address!r}: {error}. Start one with `dask scheduler`, and give the "
                "address that it prints."
            ) from None
        try:
            self._client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            self._client.close()
            raise EmomcError(
                f"the Dask scheduler at {address} has no workers. Start some with "
                f"`dask worker {address} --nworkers 2 --nthreads 1`."
            ) from None
        self._folder = Path(tempfile.mkdtemp(prefix=".workers-", dir=folder.resolve()))
        self._path = keep(evaluator, self._folder)
        self._jobs = 0
        self._pace = math.inf  # seconds that the last jobs took each

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """As `emomc.run.workers.Engine.run`; a job whose workers end several times has failed."""
        first, self._jobs = self._jobs, self._jobs + len(jobs)
        futures = {self._submit(bundle): bundle for bundle in self._bundles(list(enumerate(jobs, start=first)))}
        ready = self._dask.as_completed(list(futures), loop=self._client.loop)
        spent = 0.0
        try:
            for future in ready:
                bundle = futures.pop(future)
                try:
                    seconds, results = future.result()
                except self._dask.scheduler.KilledWorker:
                    results = [(number, self._blame(number)) for number, _ in bundle]
                else:
                    spent += seconds
                for (number, job), (_, result) in zip(bundle, results, strict=True):
                    if result is None:
                        again = self._submit([(number, job)])
                        futures[again] = [(number, job)]
                        ready.add(again)
                    else:
                        yield number - first, result
            self._pace = spent / len(jobs) if jobs else self._pace
        finally:
            self._client.cancel(list(futures))

    def _bundles(self, jobs: _Bundle) -> list[_Bundle]:
        """Jobs in parts that are long enough to send and short enough to share out, going by the jobs before them."""
        turns = _TURNS * max(1, sum(self._client.nthreads().values()))
        size = max(1, min(math.ceil(_BUNDLE / max(self._pace, 1e-6)), len(jobs) // turns))
        return [jobs[start : start + size] for start in range(0, len(jobs), size)]

    def _submit(self, bundle: _Bundle) -> Any:
        return self._client.submit(_work_all, self._path, bundle, self._seconds, pure=False)

    def _blame(self, number: int) -> Failure | None:
        """Why a job failed that was lost with its workers; None where it was only waiting in them."""
        if mark(self._path, number, "late").exists():
            return Failure(LATE, self._seconds)
        return Failure(ENDED) if mark(self._path, number, "begun").exists() else None

    def close(self) -> None:
        """As `emomc.run.workers.Engine.close`; scheduler and workers go on, for others."""
        self._client.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _work_all(path: str, bundle: _Bundle, seconds: float | None) -> tuple[float, list[tuple[int, Any]]]:
    """Do jobs in this process one by one; the time that took, without loading the evaluator, and their results."""
    load(path)
    start = time.monotonic()
    results = [work(path, number, job, seconds) for number, job in bundle]
    return time.monotonic() - start, results
