"""Worker processes that keep model and data resident; what travels to them is integers.

A job that ends its process, takes longer than it may, or runs out of memory yields a `Failure` in place of a result.
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import cloudpickle
import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool

from emomc.errors import EmomcError
from emomc.run.allocation import keep_freed_memory

if TYPE_CHECKING:
    from emomc.accuracy.evaluator import Evaluator

ENDED = "its process ended"
LATE = "it took too long"
MEMORY = "it ran out of memory"
# A pool that has compressed layers takes the evaluator, which its processes load then, for a leak of memory: it starts
# them anew once, which loses no job.
warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor", UserWarning)


@dataclass(frozen=True)
class Job:
    """A call of a method of `Evaluator`, with arguments that are small.

    Attributes:
        method: name of the method.
        arguments: its arguments.
        stored_as: what decides the result, where that is less than the arguments.
        makes: a file that the job writes; without it, a stored result does not count.
    """

    method: str
    arguments: tuple[Any, ...]
    stored_as: tuple[Any, ...] | None = None
    makes: Path | None = None


@dataclass(frozen=True)
class Failure:
    """What stands for the result of a job that has none.

    Attributes:
        failed: why, as part of a sentence.
        seconds: time that it had, where that was too short.
    """

    failed: str
    seconds: float | None = None


class Engine(Protocol):
    """Something that runs jobs on copies of one evaluator; results do not depend on which."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Results as (position of the job, result or `Failure`), in the order in which they are ready."""

    def close(self) -> None:
        """Forget the evaluator and remove its copy from the disk."""


def keep(evaluator: Evaluator, folder: Path) -> str:
    """Write an evaluator where processes find it; networks and errors that no module holds travel with their code.

    Returns:
        The path of the file, for `load` and `work`.

    Raises:
        EmomcError: the network or the error holds what no other process can be given.
    """
    path = folder / "evaluator.pickle"
    with path.open("wb") as stream:
        try:
            cloudpickle.dump(evaluator, stream)
        except (TypeError, pickle.PicklingError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise EmomcError(
                f"the task cannot be sent to worker processes: {error}. Expected a network and an error that hold "
                "plain data; open files, connections and the like inside the function that uses them."
            ) from error
    return str(path)


@lru_cache(maxsize=1)
def _resident(path: str) -> Evaluator:
    """The evaluator of this process, loaded once."""
    keep_freed_memory()
    with Path(path).open("rb") as stream:
        evaluator: Evaluator = cloudpickle.load(stream)
    return evaluator


_one_at_a_time = threading.Lock()  # an evaluator changes its copy of the network in place


def load(path: str) -> None:
    """Load the evaluator into this process, unless it is there."""
    with _one_at_a_time:
        _resident(path)


def work(path: str, number: int, job: Job, seconds: float | None = None) -> tuple[int, Any]:
    """Do a job in this process, which ends where the job takes longer than it may.

    Two files beside the evaluator tell those who wait: one that the job has begun, and one that it took too long. A
    job that is given out again after it took too long is not begun again.

    Args:
        path: of the evaluator.
        number: of the job, returned with the result.
        job: what to do.
        seconds: time that it may take; loading the evaluator does not count.
    """
    late = mark(path, number, "late")
    if late.exists():
        return number, Failure(LATE, seconds)
    with _one_at_a_time:
        evaluator = _resident(path)
        begun = mark(path, number, "begun")
        begun.touch()
        try:
            with _time_limit(late, seconds):
                return number, attempt(evaluator, job)
        finally:
            begun.unlink(missing_ok=True)


def attempt(evaluator: Evaluator, job: Job) -> Any:
    """The result of a job, or the failure that it is to find no memory."""
    try:
        return getattr(evaluator, job.method)(*job.arguments)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return Failure(MEMORY)


def mark(path: str, number: int, what: str) -> Path:
    """File that tells about a job: ``what`` is ``begun`` or ``late``."""
    return Path(path).with_name(f"{number}.{what}")


@contextmanager
def _time_limit(late: Path, seconds: float | None) -> Iterator[None]:
    """End this process after some time: what hangs in native code cannot be stopped in another way."""

    def end() -> None:
        late.touch()
        os._exit(1)

    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, torch's allocator or a GPU had no memory left; torch has no type of its own for the second."""
    name = type(error).__name__
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or "allocate memory" in str(error)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes that start meanwhile ignore Ctrl-C: the terminal sends it to them too, and ending them is our part."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may change this
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_IN_FLIGHT = 2  # networks on one GPU: while one waits for the host, the other computes


def default_workers(device: str) -> int:
    """One worker per processor that this process may use; where a GPU does the work, networks that it has at once."""
    if device != "cpu":
        return _IN_FLIGHT
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Runs jobs in processes of this machine.

    With one worker and no time limit they run in this process, where a job that ends its process ends the search.
    """

    def __init__(self, evaluator: Evaluator, count: int, seconds: float | None = None) -> None:
        """Keep the evaluator where the processes find it.

        Args:
            evaluator: what jobs are methods of.
            count: processes.
            seconds: time that a job may take.
        """
        self.count = count
        self._seconds = seconds
        self._folder = Path(tempfile.mkdtemp(prefix="emomc-workers-"))
        self._path = keep(evaluator, self._folder)
        self._jobs = 0

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """As `Engine.run`.

        When a process ends, all others of the pool end with it. What had begun then is done again one by one, so that
        the job that is to blame is known; the others go on in a new pool.
        """
        first, self._jobs = self._jobs, self._jobs + len(jobs)
        waiting = dict(enumerate(jobs, start=first))
        fruitless = 0
        while waiting:
            for number, result in self._pooled(waiting, min(self.count, len(waiting))):
                fruitless = 0
                del waiting[number]
                yield number - first, result
            begun = [number for number in waiting if mark(self._path, number, "begun").exists()]
            fruitless = 0 if begun else fruitless + 1
            if waiting and fruitless > 1:
                raise EmomcError(
                    "worker processes end before they have begun to work, for lack of memory perhaps. Give fewer of "
                    "them with --workers."
                )
            for number in begun:
                yield number - first, self._alone(number, waiting.pop(number))

    def _pooled(self, jobs: Mapping[int, Job], count: int) -> Iterator[tuple[int, Any]]:
        """Results until all are there, or a process has ended."""
        # joblib does the jobs of a single process in this one, which a time limit would end
        apart = self._seconds is not None and count == 1
        parallel = joblib.Parallel(
            n_jobs=2 if apart else count, return_as="generator_unordered", pre_dispatch=1 if apart else "all"
        )
        with _interrupts_ignored():
            results = parallel(joblib.delayed(work)(self._path, *entry, self._seconds) for entry in list(jobs.items()))
        with suppress(BrokenProcessPool):
            yield from results

    def _alone(self, number: int, job: Job) -> Any:
        late = mark(self._path, number, "late")
        if not late.exists():
            for _, result in self._pooled({number: job}, 2):
                return result
        return Failure(LATE, self._seconds) if late.exists() else Failure(ENDED)

    def close(self) -> None:
        """As `Engine.close`."""
        _resident.cache_clear()
        shutil.rmtree(self._folder, ignore_errors=True)
