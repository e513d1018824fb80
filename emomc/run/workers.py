"""Worker processes that keep model and data resident; what travels to them is integers."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import joblib

from emomc.accuracy.evaluator import Evaluator


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


@lru_cache(maxsize=1)
def _resident(path: str) -> Evaluator:
    """The evaluator of this process, loaded once."""
    evaluator: Evaluator = joblib.load(path)
    return evaluator


def _work(path: str, number: int, job: Job) -> tuple[int, Any]:
    return number, getattr(_resident(path), job.method)(*job.arguments)


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


def default_workers(device: str) -> int:
    """One worker per processor that this process may use; a single one where a GPU does the work."""
    if device != "cpu":
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Runs jobs on copies of one evaluator. With one worker they run in this process; results do not depend on it."""

    def __init__(self, evaluator: Evaluator, count: int) -> None:
        self.count = count
        self._folder = Path(tempfile.mkdtemp(prefix="emomc-workers-"))
        self._path = str(self._folder / "evaluator.joblib")
        joblib.dump(evaluator, self._path)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Results as (position of the job, result), in the order in which they are ready."""
        count = min(self.count, len(jobs))
        parallel = joblib.Parallel(n_jobs=count, return_as="generator_unordered", pre_dispatch="all")
        with _interrupts_ignored():
            results = parallel(joblib.delayed(_work)(self._path, number, job) for number, job in enumerate(jobs))
        yield from results

    def close(self) -> None:
        """Forget the evaluator and remove its copy from the disk."""
        _resident.cache_clear()
        shutil.rmtree(self._folder, ignore_errors=True)
