"""Several networks in flight on one GPU: threads of this process, each with an evaluator and a stream of its own.

A small network leaves most of a GPU idle, and the host waits for every kernel; further threads fill the gaps without
another copy of the CUDA context and of the images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from queue import SimpleQueue
from typing import Any

import torch

from emomc.accuracy.evaluator import Evaluator
from emomc.compression.threads import torch_threads
from emomc.run.workers import Job, attempt


class Flights:
    """Runs jobs in threads; an `emomc.run.workers.Engine`.

    A job that ends its process ends the search, and none has a time limit: what hangs in a thread cannot be ended.
    """

    def __init__(self, evaluator: Evaluator, count: int) -> None:
        """Make an evaluator for each thread.

        Args:
            evaluator: what jobs are methods of.
            count: threads.
        """
        self.count = count
        self._threads = evaluator.settings.threads
        device = torch.device(evaluator.settings.device)
        self._free: SimpleQueue[tuple[Evaluator, torch.cuda.Stream | None]] = SimpleQueue()
        for each in (evaluator, *(evaluator.twin() for _ in range(count - 1))):
            own = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
            self._free.put((each, own))
        if device.type == "cuda":  # what the evaluators hold was copied on another stream
            torch.cuda.synchronize(device)

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """As `emomc.run.workers.Engine.run`."""
        with torch_threads(self._threads), ThreadPoolExecutor(self.count) as pool:
            futures = [pool.submit(self._do, number, job) for number, job in enumerate(jobs)]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _do(self, number: int, job: Job) -> tuple[int, Any]:
        evaluator, stream = self._free.get()
        own: AbstractContextManager[Any] = nullcontext() if stream is None else torch.cuda.stream(stream)
        try:
            with own:
                return number, attempt(evaluator, job)
        finally:
            self._free.put((evaluator, stream))

    def close(self) -> None:
        """As `emomc.run.workers.Engine.close`."""
        while not self._free.empty():
            self._free.get()
