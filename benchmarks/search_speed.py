"""What a search costs beside its evaluations, and what further workers bring, as ratios within one run.

    python -m benchmarks.search_speed [--data FOLDER]

Engines take turns on the same networks, so that all see the same machine; the median of the paired ratios counts.
Beside them two searches of one worker each, in processes that know nothing of each other, do half of the networks each:
what the machine itself gives a second process. Networks for handwritten digits take a few hundredths of a second each,
which shows what an engine costs; with the data of CIFAR-10, ResNet-20 shows what further workers bring where it
matters. Dask is measured where it is installed (``pip install emomc[dask]``). Results go to
benchmarks/results/search_speed.json.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2

import emomc
from emomc.accuracy.predictor import AdditivePredictor
from emomc.benchmarks.environment import write_results
from emomc.benchmarks.proxies import PROXIES

POPULATION = 200
GENERATIONS = 20
NETWORKS = {"digits": 100, "cifar10-resnet20": 12}  # measured by every engine in every round
Genomes = NDArray[np.int64]
GENES = {"prune_ratio": (0.0, 0.3, 0.5), "bit_width": (4, 3), "shared_values": (0,)}


def generation_processor_seconds() -> dict[str, float]:
    """One generation of NSGA-II on predicted errors and exact costs, with the front and hypervolume of what it has.

    Processor time, which other programs on the machine lengthen less than wall time.
    """
    found = {}
    for name, make in PROXIES.items():
        proxy = make(0)
        task = proxy.task(0)
        predictor = AdditivePredictor(proxy.space, task.sensitivities, task.dense_error)
        known = proxy.space.random(100, np.random.default_rng(0))
        predictor.fit(known, proxy.errors(known))
        problem = task.problem.with_errors(lambda genomes, own=predictor: own.predict(genomes)[0])  # type: ignore[misc]
        initial = proxy.space.random(POPULATION, np.random.default_rng(1))
        algorithm = NSGA2(pop_size=POPULATION, sampling=initial, **emomc.genome_operators(proxy.space))
        algorithm.setup(problem, seed=0, termination=("n_gen", GENERATIONS + 1))
        algorithm.next()
        seconds = []
        while algorithm.has_next():
            start = time.process_time()
            algorithm.next()
            values = algorithm.pop.get("F")
            emomc.hypervolume(values[emomc.front_of(values)], values.max(axis=0) + 1)
            seconds.append(time.process_time() - start)
        found[name] = statistics.median(seconds)
    return found


@contextmanager
def dask_cluster(folder: Path) -> Iterator[str]:
    """Address of a scheduler with two worker processes on this machine, started as a user starts them."""
    from importlib import import_module

    file = str(folder / "scheduler.json")
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    dask = [sys.executable, "-m", "dask"]
    scheduler = subprocess.Popen([*dask, "scheduler", "--port", "0", "--scheduler-file", file], **quiet)
    worker = subprocess.Popen(
        [*dask, "worker", "--scheduler-file", file, "--nworkers", "2", "--nthreads", "1"], **quiet
    )
    try:
        client = import_module("distributed").Client(scheduler_file=file, timeout=60, set_as_default=False)
        client.wait_for_workers(2, timeout=60)
        yield client.scheduler.address
        client.close()
    finally:
        for process in (worker, scheduler):
            process.terminate()
            process.wait(30)


class Apart:
    """Two searches of one worker each, in processes of their own."""

    def __init__(self, folder: Path, options: emomc.Options) -> None:
        spawn = get_context("spawn")
        self._pools = [
            ProcessPoolExecutor(1, spawn, _open, (folder / f"apart-{number}", options)) for number in range(2)
        ]

    def measure(self, genomes: Genomes) -> None:
        """Half of the networks each."""
        halves = np.array_split(genomes, 2)
        for each in [pool.submit(_measure, half) for pool, half in zip(self._pools, halves, strict=True)]:
            each.result()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.submit(_close).result()
            pool.shutdown()


_session: list[emomc.Session] = []  # of this process


def _open(folder: Path, options: emomc.Options) -> None:
    _session.append(emomc.Session(folder, options, workers=1))


def _measure(genomes: Genomes) -> None:
    _session[0].measure(genomes)


def _close() -> None:
    _session.pop().close()


Seconds = dict[str, list[float]]


def engine_seconds(options: emomc.Options, rounds: int) -> Seconds:
    """Wall time of a round of evaluations by one worker, by two, and by two processes apart, in turns."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines: dict[str, Any] = {
            name: stack.enter_context(emomc.Session(folder / name, options, workers=workers))
            for name, workers in (("one", 1), ("two", 2))
        }
        engines["apart"] = stack.enter_context(Apart(folder, options))
        return _in_turns(engines, engines["one"].space, options.task, rounds)


def dask_seconds(options: emomc.Options, rounds: int) -> Seconds:
    """Wall time of a round by two workers, and by two of Dask, in turns.

    A cluster takes a twentieth of a core while it waits, so it is not there when other engines are compared.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(dask_cluster(folder))
        two = stack.enter_context(emomc.Session(folder / "two", options, workers=2))
        dask = stack.enter_context(emomc.Session(folder / "dask", options, scheduler=cluster))
        engines = {"two": two, "dask": dask}
        return _in_turns(engines, two.space, options.task, rounds)


def _in_turns(engines: Mapping[str, Any], space: emomc.SearchSpace, task: str, rounds: int) -> Seconds:
    seconds: Seconds = {name: [] for name in engines}
    rng = np.random.default_rng(0)
    for number in range(rounds + 1):
        genomes = space.random(NETWORKS[task], rng)  # new ones: a session measures nothing twice
        for name, engine in engines.items():
            elapsed = _seconds(lambda engine=engine, genomes=genomes: engine.measure(genomes))  # type: ignore[misc]
            if number:  # in the first round workers load network and data
                seconds[name].append(elapsed)
    return seconds


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def engine_ratios(options: emomc.Options, rounds: int) -> dict[str, Any]:
    """How much faster one engine is than another, round by round."""
    seconds = engine_seconds(options, rounds)
    found: dict[str, Any] = {
        "networks_per_round": NETWORKS[options.task],
        "two_over_one": _ratios(seconds["one"], seconds["two"]),
        "apart_over_one": _ratios(seconds["one"], seconds["apart"]),
    }
    if find_spec("distributed") is not None:
        seconds = dask_seconds(options, rounds)
        found["dask_over_two"] = _ratios(seconds["two"], seconds["dask"])
    return found


def _ratios(slow: list[float], fast: list[float]) -> dict[str, Any]:
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "rounds": ratios}


def main() -> None:
    """Measure and write results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", help="folder with cifar10/ and checkpoints/, to measure ResNet-20 as well")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"generation_processor_seconds": generation_processor_seconds()}
    print(results, flush=True)
    tasks = [emomc.Options("digits")]
    if arguments.data:
        tasks.append(emomc.Options("cifar10-resnet20", {"data": arguments.data}, genes=GENES))
    for options in tasks:
        results[options.task] = engine_ratios(options, arguments.rounds)
        print(options.task, results[options.task], flush=True)
    print(write_results("search_speed", results))


if __name__ == "__main__":
    main()
