"""Workers that end, hang or run out of memory: real processes, and a search that goes on."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import emomc
from emomc.problems.tasks.locate import locate_function
from emomc.run.inflight import Flights
from emomc.run.workers import ENDED, LATE, MEMORY, Failure, Job, Workers
from tests.workers_toy import Toy


def results(jobs: list[Job], count: int = 2, seconds: float | None = None) -> list[Any]:
    workers = Workers(Toy(), count, seconds)  # type: ignore[arg-type]
    try:
        found = dict(workers.run(jobs))
        again = dict(workers.run([Job("square", (7,))]))
    finally:
        workers.close()
    assert again == {0: 49}, "the workers are usable afterwards"
    assert sorted(found) == list(range(len(jobs)))
    return [found[number] for number in range(len(jobs))]


def squares(n: int) -> list[Job]:
    return [Job("square", (number,)) for number in range(n)]


def test_a_job_that_ends_its_process_has_failed_and_no_other_job_is_lost() -> None:
    jobs = squares(12)
    jobs[3] = Job("die", ())
    jobs[8] = Job("die", ())
    found = results(jobs)
    assert found == [Failure(ENDED) if number in (3, 8) else number**2 for number in range(12)]


def test_a_process_that_was_ended_from_outside_costs_nothing(tmp_path: Path) -> None:
    """It ends once only, as when somebody kills it: the job is done again."""
    jobs = squares(6)
    jobs[2] = Job("die_once", (tmp_path / "mark",))
    assert results(jobs) == [1 if number == 2 else number**2 for number in range(6)]


@pytest.mark.parametrize("count", [1, 2])
def test_a_job_that_hangs_is_ended_after_its_time(count: int) -> None:
    jobs = squares(5)
    jobs[1] = Job("hang", (600.0,))
    start = time.monotonic()
    assert results(jobs, count, seconds=1.0) == [
        Failure(LATE, 1.0) if number == 1 else number**2 for number in range(5)
    ]
    assert time.monotonic() - start < 120


def test_a_job_within_its_time_is_not_ended() -> None:
    assert results([Job("hang", (0.2,)), *squares(2)], seconds=30.0) == [1, 0, 1]


@pytest.mark.parametrize(("count", "job"), [(1, "hoard"), (2, "hoard"), (1, "hoard_list")])
def test_a_job_that_finds_no_memory_has_failed(count: int, job: str) -> None:
    assert results([Job(job, ()), *squares(3)], count) == [Failure(MEMORY), 0, 1, 4]


OWN = """
FACTOR = 3


class Own:
    def __init__(self):
        self.error = lambda value: FACTOR * value

    def measure(self, value):
        return self.error(value), isinstance(self, Own)
"""


@pytest.mark.parametrize("count", [1, 2])
def test_classes_and_functions_of_a_users_file_reach_the_workers(tmp_path: Path, count: int) -> None:
    """Also when the file was named several times, as a task's factory names it again."""
    path = tmp_path / "own.py"
    path.write_text(OWN)
    own = locate_function(f"{path}:Own")()
    locate_function(f"{path}:Own")
    workers = Workers(own, count)
    try:
        jobs = [Job("measure", (number,)) for number in range(3)]
        assert dict(workers.run(jobs)) == {number: (3 * number, True) for number in range(3)}
    finally:
        workers.close()


class Pair(Toy):
    """Waits for others of its kind."""

    settings = emomc.Settings(device="cpu:0")
    barrier = threading.Barrier(3)

    def twin(self) -> Pair:
        return Pair()

    def meet(self) -> int:
        return int(self.barrier.wait(60) >= 0)


def test_as_many_networks_are_in_flight_as_wanted_and_failures_are_told() -> None:
    flights = Flights(Pair(), 3)  # type: ignore[arg-type]
    assert dict(flights.run([Job("meet", ())] * 6)) == dict.fromkeys(range(6), 1)
    assert dict(flights.run([*squares(2), Job("hoard_list", ())])) == {0: 0, 1: 1, 2: Failure(MEMORY)}
    with pytest.raises(RuntimeError, match="a mistake"):
        list(flights.run([*squares(2), Job("fail", ()), *squares(2)]))
    assert dict(flights.run(squares(3))) == {0: 0, 1: 1, 2: 4}
    flights.close()


def test_a_search_with_networks_in_flight_leaves_the_same_files(tmp_path: Path) -> None:
    """The code for GPUs, on a device that is the CPU under another name."""
    options = emomc.Options("digits", budget=4, seed=1, points=3)
    for name, given in (("plain", {}), ("flights", {"settings": Pair.settings})):
        with emomc.Session(tmp_path / name, options, workers=2 if given else 1, **given) as session:
            assert isinstance(session._workers, Flights if given else Workers)
            emomc.run_search(session)
    for file in ("front.csv", "history.csv"):
        assert (tmp_path / "flights" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_mistakes_are_not_taken_for_failures() -> None:
    workers = Workers(Toy(), 1)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="a mistake"):
        list(workers.run([Job("fail", ())]))
    workers.close()


def test_a_search_goes_on_without_what_failed_and_does_not_measure_it_again(tmp_path: Path) -> None:
    """Nothing can be measured in a thousandth of a millisecond: every evaluation fails, is recorded, and costs once."""
    options = emomc.Options("digits", budget=1, seed=1, points=2)
    with emomc.Session(tmp_path, options, workers=1) as session:  # the dense network and the probes
        session.run_jobs([Job("measure_dense", ("test",))], "")
        assert len(session._store) > 20
    for _ in range(2):
        with emomc.Session(tmp_path, options, workers=2, time_limit=1e-6) as session:
            outcome = emomc.run_search(session)
            assert set(session.failures.values()) == {LATE}
            assert len(session.failures) == 1
            stored = len(session._store)
        assert [math.isnan(each.error) for each in outcome.evaluations] == [True]
        assert outcome.points == ()
        assert "nan" in (tmp_path / "history.csv").read_text()
    with emomc.Session(tmp_path, options, workers=1) as session:  # with more time they are measured after all
        outcome = emomc.run_search(session)
        assert not session.failures
        assert all(0 <= each.error <= 1 for each in outcome.evaluations)
        assert outcome.points
        assert len(session._store) >= stored


def test_a_dense_network_that_cannot_be_measured_is_told(tmp_path: Path) -> None:
    options = emomc.Options("digits", budget=6)
    unseen = emomc.Settings(calibration=100)  # what other runs have measured would be taken over
    with pytest.raises(emomc.EmomcError, match=f"measuring the network: {LATE}.*repeat the command"):
        emomc.Session(tmp_path, options, settings=unseen, workers=1, time_limit=1e-6)
    with emomc.Session(tmp_path, replace(options, budget=1), settings=unseen, workers=1) as session:
        assert session.dense.samples == 300
